//! The probe: a small program that is run in the background to see whether executions work.

use std::time::Duration;

use tokio::time::Instant;

use crate::adapter::backend::translate;
use crate::adapter::session::app::App;
use crate::adapter::session::readiness::RETRY;
use crate::piston::{ClientError, ExecuteRequest, File, Runtime, User};

const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// Programs that print 42, best first: the language, the file, the source.
const CHECKS: [(&str, &str, &str); 8] = [
    ("python", "ready.py", "print(42)\n"),
    ("bash", "ready.sh", "echo 42\n"),
    ("javascript", "ready.js", "console.log(42)\n"),
    ("perl", "ready.pl", "print \"42\\n\";\n"),
    ("ruby", "ready.rb", "puts 42\n"),
    ("php", "ready.php", "<?php echo \"42\\n\";\n"),
    ("lua", "ready.lua", "print(42)\n"),
    (
        "c",
        "ready.c",
        "#include <stdio.h>\nint main(void) { puts(\"42\"); return 0; }\n",
    ),
];

/// Keeps the session's readiness true, for ever.
pub async fn watch(app: &App) {
    loop {
        app.readiness.due().await;
        match app.limiter.try_acquire() {
            Some(_permit) => app.readiness.set(check(app).await),
            // Where every place is taken, executions are under way, and they will tell.
            None => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn check(app: &App) -> Result<(), String> {
    let client = app.backend.client();
    let runtimes = app.runtimes.refresh(client).await.map_err(|e| cause(&e))?;
    let mut request = program(&runtimes)?;
    app.backend.start_in_data_dir(&mut request);
    let deadline = Instant::now() + CHECK_TIMEOUT + Duration::from_secs(5);
    let response = client.execute(&mut request, deadline).await;
    let outcome = response
        .and_then(|response| translate::outcome(&request, response, usize::MAX))
        .map_err(|e| cause(&e))?;
    if outcome.exit_code == 0 && outcome.stdout() == "42\n" {
        return Ok(());
    }
    Err(format!(
        "a {} program that prints 42 ended with exit code {} ({})",
        request.language,
        outcome.exit_code,
        outcome.verdict.as_str()
    ))
}

/// Words for a client: what the engine did, nothing that it said.
fn cause(error: &ClientError) -> String {
    match error {
        ClientError::Unreachable(_) => "the engine cannot be reached".to_owned(),
        ClientError::ConnectionLost(_) => "the engine closed the connection".to_owned(),
        ClientError::ResponseInvalid(_) => "the engine's answer cannot be read".to_owned(),
        ClientError::Refused(_) => "the engine refused a program that prints 42".to_owned(),
        ClientError::Timeout(_)
        | ClientError::ResponseTooLarge(_)
        | ClientError::Busy
        | ClientError::Unavailable
        | ClientError::NoSpace
        | ClientError::KernelNotStarted
        | ClientError::SandboxFailed
        | ClientError::Failed(_) => error.to_string(),
    }
}

fn program(runtimes: &[Runtime]) -> Result<ExecuteRequest, String> {
    let installed = |language: &str| runtimes.iter().any(|r| r.language == language);
    let (language, file, source) = CHECKS
        .into_iter()
        .find(|(language, ..)| installed(language))
        .ok_or_else(|| {
            let known: Vec<&str> = CHECKS.iter().map(|(language, ..)| *language).collect();
            format!("the engine has none of {}", known.join(", "))
        })?;
    Ok(ExecuteRequest {
        language: language.to_owned(),
        version: "*".to_owned(),
        files: vec![File::text(file, source)],
        run_timeout: Some(CHECK_TIMEOUT.as_millis() as u64),
        // The session's user is for the session's programs.
        user: Some(User::Own),
        ..ExecuteRequest::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtimes(languages: &[&str]) -> Vec<Runtime> {
        let runtime = |language: &&str| Runtime {
            language: (*language).to_owned(),
            version: "1.0.0".to_owned(),
            aliases: Vec::new(),
            runtime: None,
        };
        languages.iter().map(runtime).collect()
    }

    #[test]
    fn the_check_uses_a_language_that_is_there() {
        assert_eq!(program(&runtimes(&["c", "bash"])).unwrap().language, "bash");
        assert_eq!(program(&runtimes(&["c"])).unwrap().files[0].name, "ready.c");
        assert!(
            program(&runtimes(&["cobol"]))
                .unwrap_err()
                .contains("python")
        );
    }
}
