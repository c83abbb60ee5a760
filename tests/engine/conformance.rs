//! Given a recorded exchange with Piston, when the embedded engine gets the same request, then it
//! answers the same: HTTP status, exit code, signal, status word, message and standard output.
//! What differs on purpose is listed here with its reason.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::support::engine::{Response, Served, config, serve};
use serde_json::{Value, json};
use session_adapter::engine::EngineConfig;
use tokio::task::JoinSet;

/// What a response must be, where it is not the recorded one.
enum Instead {
    /// A refusal with this message.
    Refused(&'static str),
    /// The recorded outcome, but this standard output.
    Stdout(&'static str),
    /// The recorded outcome; the standard output is the recorded one or this.
    OrStdout(&'static str),
    /// The recorded outcome; the standard output depends on the machine.
    AnyStdout,
    /// Another outcome: code, status word, standard output.
    Outcome(Option<i32>, Option<&'static str>, &'static str),
    /// Whatever comes: the program tries what depends on the machine.
    Anything,
    /// The recorded refusal, with a message of the engine's own.
    OtherWords,
}
use Instead::{AnyStdout, Anything, OrStdout, OtherWords, Outcome, Refused, Stdout};

/// Exchange, what is expected instead, and why.
const DEVIATIONS: &[(&str, Instead, &str)] = &[
    // Piston at fault.
    (
        "body_102401",
        Outcome(Some(0), None, "ok\n"),
        "bodies may be longer",
    ),
    ("invalid_json", OtherWords, "no stack"),
    ("json_null_body", OtherWords, "no stack"),
    ("json_string_body", OtherWords, "no stack"),
    ("content_type_charset_latin1", OtherWords, "no stack"),
    ("files_null_element", OtherWords, "not an empty object"),
    ("stdin_number", OtherWords, "not an empty object"),
    (
        "file_name_absolute",
        Refused("files[0].name must be relative"),
        "the file sent must run",
    ),
    (
        "file_name_dot",
        Refused("files[0].name must name a file"),
        "not a failure of the engine",
    ),
    (
        "file_name_escaping",
        Refused("files[0].name must stay in the job's directory"),
        "not a failure of the engine",
    ),
    (
        "file_name_escaping_second",
        Refused("files[1].name must stay in the job's directory"),
        "not a failure of the engine",
    ),
    (
        "file_name_nul",
        Refused("files[0].name must not contain a NUL"),
        "not a failure of the engine",
    ),
    (
        "file_name_number",
        Refused("If specified, files[0].name must be a string"),
        "not a failure of the engine",
    ),
    (
        "file_name_too_long",
        Refused("files[0].name is too long"),
        "not a failure of the engine",
    ),
    (
        "run_timeout_zero_is_unlimited",
        Outcome(None, Some("TO"), ""),
        "nothing runs without end",
    ),
    (
        "run_timeout_fraction_is_unlimited",
        Outcome(None, Some("TO"), ""),
        "nothing runs without end",
    ),
    (
        "stdout_overflow_runaway",
        AnyStdout,
        "output is kept up to the limit",
    ),
    (
        "stdout_overflow_small_writes",
        AnyStdout,
        "output is kept up to the limit",
    ),
    (
        "stdout_overflow_then_would_exit_0",
        AnyStdout,
        "output is kept up to the limit",
    ),
    (
        "stdout_1026_bytes_multibyte",
        AnyStdout,
        "output is kept up to the limit",
    ),
    (
        "stdout_split_char_slow",
        Stdout("😀\n"),
        "a character stays whole",
    ),
    (
        "cpp_header_file_is_renamed",
        Outcome(Some(9), Some("RE"), ""),
        "headers can be included",
    ),
    // The machine.
    ("alias_js", AnyStdout, "prints the version of node"),
    (
        "version_range_star",
        AnyStdout,
        "prints the version of python",
    ),
    ("get_runtimes", AnyStdout, "depends on what is installed"),
    (
        "read_etc_passwd",
        AnyStdout,
        "prints user id, directory and what is in /",
    ),
    (
        "sandbox_processes",
        Anything,
        "prints the machine's process ids, perhaps more than the output limit",
    ),
    (
        "network_attempt",
        Anything,
        "resolves names by the machine's files, and asks for interfaces, which may be refused",
    ),
    (
        "network_loopback_to_piston",
        AnyStdout,
        "sockets are refused where Piston has no network",
    ),
    // An overshoot of 64 KiB fits; which of the two ends the fork bomb is a race in Piston, too.
    (
        "fork_bomb_bash",
        AnyStdout,
        "how far a fork bomb gets is chance",
    ),
    (
        "run_cpu_time_over_but_finished",
        OrStdout("done\n"),
        "on a busy machine it prints before it is stopped, 0.15 s over its limit",
    ),
];

/// Where jobs share a user with others, how many processes fit is not exact.
const COUNTED_BY_USER: [&str; 2] = ["fork_bomb_python", "threads_100"];

/// What jobs do as in Piston where they have a loopback interface of their own.
const NEEDS_LOOPBACK: &str = "network_loopback_to_piston";

/// What needs shared folders, or lists `/`, which jobs may not where they have neither users nor namespaces of
/// their own.
const NEEDS_SHARED_FOLDERS: [&str; 2] = ["write_tmp_1", "read_etc_passwd"];

/// Where jobs run as root, which the engine refuses by itself, no limit on processes binds them:
/// these take every process that the container has, and the jobs beside them cannot start.
const UNLIMITED_FOR_ROOT: [&str; 3] = ["fork_bomb_bash", "fork_bomb_python", "threads_100"];

/// Exact versions in requests are those of the recording machine.
const RECORDED_VERSIONS: [&str; 2] = ["3.11.2", "12.2.0"];

fn as_recorded() -> EngineConfig {
    EngineConfig {
        run_timeout: Duration::from_secs(3),
        compile_timeout: Duration::from_secs(10),
        output_limit: 1024,
        max_processes: 64,
        max_open_files: 2048,
        max_file_size: 10_240_000,
        memory_limit: 8 << 30,
        max_jobs: 4,
        // Answers are compared here, not what contains the jobs.
        allow_weak_sandbox: true,
        queue: 1000,
        ..config()
    }
}

/// A busy machine must not let the wall-clock limit come ahead of the CPU limit.
fn as_recorded_with_patience() -> EngineConfig {
    EngineConfig {
        run_timeout: Duration::from_secs(60),
        run_cpu_time: Some(Duration::from_secs(3)),
        ..as_recorded()
    }
}

/// Recordings of programs that use up their CPU time.
const SPINNING: [&str; 2] = ["run_cpu_time_1000_spin", "run_cpu_time_over_but_finished"];

/// Whether the recorded program was not stopped: then it must not be on a slow machine either. Limits
/// that a request names are tried as they are.
fn ended_by_itself(recording: &Value) -> bool {
    let run = &recording["response"]["json"]["run"];
    let body = recording["request"]["body"].as_str().unwrap_or_default();
    run.is_object() && run["status"] != "TO" && !body.contains("run_timeout")
}

/// The recordings of Java were made with these limits.
fn as_recorded_for_java() -> EngineConfig {
    EngineConfig {
        run_timeout: Duration::from_secs(30),
        run_cpu_time: Some(Duration::from_secs(60)),
        ..as_recorded()
    }
}

#[tokio::test]
async fn every_recorded_exchange_is_answered_as_piston_did() {
    let _alone = crate::MANY_JOBS.lock().await;
    let served = Arc::new(serve(as_recorded()).await);
    let for_java = Arc::new(serve(as_recorded_for_java()).await);
    let patient = Arc::new(serve(as_recorded_with_patience()).await);
    let languages: Arc<BTreeSet<String>> = Arc::new(
        served
            .engine
            .runtimes()
            .await
            .into_iter()
            .flat_map(|runtime| runtime.aliases.into_iter().chain([runtime.language]))
            .collect(),
    );
    let mut replays = JoinSet::new();
    let recordings = recordings();
    let count = recordings.len();
    assert!(count > 100, "only {count} recordings are there");
    for path in recordings {
        let (served, for_java) = (Arc::clone(&served), Arc::clone(&for_java));
        let patient = Arc::clone(&patient);
        let languages = Arc::clone(&languages);
        replays.spawn(async move {
            let recording: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            let name = recording["name"].as_str().unwrap().to_owned();
            let engine = if name.starts_with("java") {
                &for_java
            } else if SPINNING.contains(&name.as_str()) || ended_by_itself(&recording) {
                &patient
            } else {
                &served
            };
            let alone = [recording.clone()];
            let exchanges = recording["exchanges"]
                .as_array()
                .map_or(&alone[..], Vec::as_slice);
            let mut problems = Vec::new();
            for exchange in exchanges {
                problems.extend(replay(&name, exchange, engine, &languages).await);
            }
            problems
        });
    }
    let problems = replays.join_all().await.concat();
    assert!(
        problems.is_empty(),
        "{} of {count}:\n{}",
        problems.len(),
        problems.join("\n")
    );
}

#[test]
fn every_deviation_is_of_a_recording_that_is_there() {
    let names: BTreeSet<_> = recordings()
        .iter()
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    for (name, ..) in DEVIATIONS {
        assert!(names.contains(*name), "no recording {name}");
    }
}

#[tokio::test]
async fn a_string_that_fetch_was_given_no_type_for_is_read_as_json() {
    let served = serve(EngineConfig {
        allow_weak_sandbox: true,
        ..config()
    })
    .await;
    let body = br#"{"language":"python","version":"*","files":[{"content":"print(1)"}]}"#;
    let sent_with = async |headers: &[(&str, &str)]| {
        let response = served.send("POST", "/api/v2/execute", headers, body).await;
        response.status
    };
    let untyped = ("Content-Type", "text/plain;charset=UTF-8");
    assert_eq!(sent_with(&[untyped]).await, 200);
    assert_eq!(sent_with(&[("Content-Type", "text/plain")]).await, 415);
    let own_page = [untyped, ("Origin", "http://localhost")];
    assert_eq!(sent_with(&own_page).await, 415);
    let foreign_page = [untyped, ("Origin", "https://example.org")];
    assert_eq!(sent_with(&foreign_page).await, 403);
}

fn recordings() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/piston");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

async fn replay(
    name: &str,
    exchange: &Value,
    engine: &Served,
    languages: &BTreeSet<String>,
) -> Option<String> {
    let request = &exchange["request"];
    let recorded = &exchange["response"];
    let mut body = request["body"].as_str().unwrap_or_default().to_owned();
    for version in RECORDED_VERSIONS {
        body = body
            .replace(&format!(r#""version": "{version}""#), r#""version": "*""#)
            .replace(&format!(r#""version":"{version}""#), r#""version":"*""#);
    }
    // The machine's own folder for temporary files is shared.
    body = body.replace(
        "/tmp/lab.txt",
        &format!("/tmp/lab-{}.txt", std::process::id()),
    );
    // These programs are stopped before they have slept; on a slow machine not within so short a time.
    for (recorded, patient) in [
        ("(sleep 2; echo late) &", "(sleep 60; echo late) &"),
        (
            "time.sleep(5)\\nprint('slept 5 s')",
            "time.sleep(60)\\nprint('slept 5 s')",
        ),
        (
            "time.sleep(1)\\nprint('still here'",
            "time.sleep(60)\\nprint('still here'",
        ),
    ] {
        body = body.replace(recorded, patient);
    }
    let language = serde_json::from_str::<Value>(&body)
        .ok()
        .and_then(|body| Some(body["language"].as_str()?.to_owned()));
    let missing = language.filter(|language| !languages.contains(language));
    if let Some(language) = missing.filter(|_| recorded["json"]["run"].is_object()) {
        eprintln!("SKIPPED: {name}, for there is no {language} on this machine");
        return None;
    }
    if engine.engine.sandbox().as_root && UNLIMITED_FOR_ROOT.contains(&name) {
        eprintln!("SKIPPED: {name}, for no limit on processes binds root");
        return None;
    }
    let separates_jobs = engine.engine.sandbox().separates_jobs();
    if !separates_jobs && NEEDS_SHARED_FOLDERS.contains(&name) {
        eprintln!("SKIPPED: {name}, for jobs do not reach shared folders");
        return None;
    }
    let headers: Vec<(&str, &str)> = request["headers"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
        .collect();
    let (method, path) = (request["method"].as_str()?, request["path"].as_str()?);
    let response = engine.send(method, path, &headers, body.as_bytes()).await;
    let exact = separates_jobs || !COUNTED_BY_USER.contains(&name);
    let has_loopback = engine.engine.sandbox().namespaces && name == NEEDS_LOOPBACK;
    let instead = DEVIATIONS
        .iter()
        .find(|(of, ..)| *of == name && !has_loopback)
        .map(|(_, instead, _)| instead)
        .or((!exact).then_some(&AnyStdout));
    let expected = expectation(recorded, instead);
    let work = engine.jobs_dir();
    let found = observation(&response, instead, &expected, &work);
    (expected != found).then(|| {
        format!(
            "{name}:\n  expected {expected}\n  found    {found}\n  {}",
            response.body
        )
    })
}

/// What of a response is compared.
fn summary(status: u64, json: &Value) -> Value {
    if !json["run"].is_object() {
        return json!({"http": status, "message": json["message"]});
    }
    let stage = |stage: &Value| match stage {
        Value::Object(_) => json!({
            "code": stage["code"], "signal": stage["signal"], "status": stage["status"],
            "message": stage["message"], "stdout": stage["stdout"],
        }),
        _ => Value::Null,
    };
    json!({
        "http": status, "language": json["language"],
        "compile": stage(&json["compile"]), "run": stage(&json["run"]),
    })
}

fn expectation(recorded: &Value, instead: Option<&Instead>) -> Value {
    let mut expected = summary(recorded["status"].as_u64().unwrap(), &recorded["json"]);
    match instead {
        None | Some(OrStdout(_)) => {}
        Some(Refused(message)) => expected = json!({"http": 400, "message": message}),
        Some(Stdout(stdout)) => expected["run"]["stdout"] = json!(stdout),
        Some(AnyStdout) if expected["run"].is_object() => expected["run"]["stdout"] = Value::Null,
        Some(Anything | AnyStdout) => expected = json!({"http": 200}),
        Some(Outcome(code, status, stdout)) => {
            expected = json!({"code": code, "status": status, "stdout": stdout});
        }
        Some(OtherWords) => expected = json!({"http": 400, "has a message": true}),
    }
    expected
}

fn observation(
    response: &Response,
    instead: Option<&Instead>,
    expected: &Value,
    work: &str,
) -> Value {
    let json = response.json();
    let mut found = summary(response.status.into(), &json);
    match instead {
        Some(AnyStdout) if expected["run"].is_object() => found["run"]["stdout"] = Value::Null,
        Some(Anything | AnyStdout) => found = json!({"http": response.status}),
        Some(OrStdout(other)) if found["run"]["stdout"] == *other => {
            found["run"]["stdout"] = expected["run"]["stdout"].clone();
        }
        Some(Outcome(..)) => {
            let run = &json["run"];
            found = json!({"code": run["code"], "status": run["status"], "stdout": run["stdout"]});
        }
        Some(OtherWords) => {
            let message = json["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty());
            found = json!({"http": response.status, "has a message": message});
        }
        _ => {}
    }
    // The job's directory has a name of its own.
    if let Some(stdout) = found["run"]["stdout"].as_str() {
        found["run"]["stdout"] = json!(as_in_piston(stdout, work));
    }
    found
}

fn as_in_piston(stdout: &str, work: &str) -> String {
    let Some((before, rest)) = stdout.split_once(work) else {
        return stdout.to_owned();
    };
    let (_, behind) = rest.split_once("/box").unwrap_or_default();
    format!("{before}/box/submission{behind}")
}
