//! Settings from the environment, and what the program says of wrong and of misspelt ones.

use std::process::Output;

use crate::support::command::bounded_command;
use crate::support::folder::{open_folder, readable_file};
use crate::support::{Program, refused_url};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_session-adapter");

/// Runs the program to its end with these variables.
fn run_with(environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let folder = open_folder();
    let mut command = bounded_command(BINARY);
    command.args(arguments).env("TMPDIR", folder.path());
    command.envs(environment.iter().copied()).output().unwrap()
}

/// The warnings in the log of `runtimes`.
fn warnings(environment: &[(&str, &str)], arguments: &[&str]) -> Vec<Value> {
    let output = run_with(environment, &[&["runtimes"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let log = String::from_utf8(output.stderr).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let mut warnings: Vec<Value> = lines
        .filter(|line: &Value| line["level"] == "WARN")
        .collect();
    for warning in &mut warnings {
        let fields = warning.as_object_mut().unwrap();
        fields.remove("timestamp");
        fields.remove("level");
    }
    // That of a user without rights is another test's.
    warnings.retain(|line| !line["message"].to_string().contains("weak sandbox"));
    warnings
}

#[tokio::test]
async fn the_environment_gives_what_no_flag_does_and_empty_variables_nothing() {
    let variables = [
        "MAX_QUEUE=3",
        "RUN_TIMEOUT_SECONDS=7",
        "MAX_BODY_BYTES=' 2MiB '",
        "ALLOW_HOST='one.example, Two.example,'",
        "ALLOW_ORIGIN=https://a.example",
        "ALLOW_NETWORK=Yes",
        "METRICS=OFF",
        "MAX_JOBS=",
        "LOG_FORMAT=",
        "SESSION_ENGINE=",
        "PRELOAD_MODULES=",
        "ADOPT_DATA_DIR=",
        "PORT=",
    ];
    let export = format!("export {}", variables.join(" "));
    let flags = ["--run-timeout", "2.5", "--max-jobs", "2"];
    let program = Program::start_after(&export, &flags).await;
    for (field, value) in [
        ("queue", json!(3)),
        ("run_timeout_s", json!(2.5)),
        ("max_body", json!(2 << 20)),
        ("allow_host", json!("one.example,two.example")),
        ("allow_origin", json!("https://a.example")),
        ("allow_network", json!(true)),
        ("metrics", json!("off")),
        ("max_jobs", json!(2)),
        ("engine", json!("embedded")),
        ("preload", json!("")),
        ("adopt_data_dir", json!(false)),
    ] {
        assert_eq!(program.started[field], value, "{field}");
    }
}

#[test]
fn an_error_names_the_flag_or_the_variable_that_gave_the_value() {
    for (environment, arguments, message) in [
        (
            &[("MAX_JOBS", "0")][..],
            &[][..],
            "invalid value '0' for MAX_JOBS: expected a whole number from 1 to 1024",
        ),
        (
            &[("MAX_JOBS", "0")],
            &["serve", "--max-jobs", "1025"],
            "invalid value '1025' for --max-jobs: expected a whole number from 1 to 1024",
        ),
        (
            &[("ALLOW_NETWORK", "maybe")],
            &["engine"],
            "invalid value 'maybe' for ALLOW_NETWORK: expected true or false",
        ),
        (
            &[("SESSION_ENGINE", "docker"), ("MAX_JOBS", "")],
            &["runtimes"],
            "invalid value 'docker' for SESSION_ENGINE: expected embedded or piston",
        ),
        (
            &[
                ("RUN_TIMEOUT_SECONDS", "9"),
                ("MAX_RUN_TIMEOUT_SECONDS", "8"),
            ],
            &[],
            "invalid value '9' for RUN_TIMEOUT_SECONDS: expected at most 8, the value of \
             --max-run-timeout",
        ),
        (
            &[("PISTON_URL", "http://192.0.2.1:1")],
            &["engine"],
            "invalid value 'http://192.0.2.1:1' for PISTON_URL: expected a loopback address, on \
             which the embedded engine listens, such as http://127.0.0.1:2001",
        ),
        (
            &[("PORT", "http")],
            &["--listen", "localhost"],
            "invalid value 'http' for PORT: expected a port from 0 to 65535",
        ),
        (
            &[("PORT", "http")],
            &["healthcheck"],
            "invalid value 'http' for PORT: expected a port from 0 to 65535",
        ),
    ] {
        let output = run_with(environment, arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr, format!("session-adapter: {message}\n"));
        assert_eq!(output.status.code(), Some(64), "{message}");
    }
}

#[test]
fn settings_of_other_commands_are_neither_read_nor_taken() {
    let others = [("RUN_TIMEOUT_SECONDS", "soon"), ("METRICS", "9464")];
    assert_eq!(warnings(&others, &[]), Vec::<Value>::new());
    let output = run_with(&[], &["runtimes", "--metrics", "off"]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}

#[test]
fn a_misspelt_variable_is_named_with_what_was_meant_and_without_its_value() {
    let environment = [("MAX_JOB", "SECRET"), ("ALLOW_HOSTS", "*"), ("PORTS", "1")];
    let mut found = warnings(&environment, &[]);
    found.sort_by_key(|warning| warning["variable"].to_string());
    let message = "unknown environment variable: probably misspelt";
    assert_eq!(
        found,
        [
            json!({"message": message, "variable": "ALLOW_HOSTS", "meant": "ALLOW_HOST"}),
            json!({"message": message, "variable": "MAX_JOB", "meant": "MAX_JOBS"}),
        ]
    );
}

#[test]
fn mistakes_in_the_table_of_runtimes_are_named() {
    let folder = open_folder();
    let file = folder.path().join("runtimes.toml");
    readable_file(
        &file,
        r#"
        [[runtime]]
        language = "shell"
        programs = ["sh"]
        version = ["-c", "echo 1.0"]
        run = ["{program}", "{fiel}", "${HOME}"]

        [[runtime]]
        language = "nothing"
        programs = ["no-such-program", "/no/such/program"]
        run = ["{program}", "{file}"]
        "#,
    );
    assert_eq!(
        warnings(&[], &["--runtimes", file.to_str().unwrap()]),
        [
            json!({
                "message": "unknown placeholder in the table of runtimes",
                "language": "shell", "placeholder": "{fiel}",
                "known": "{program}, {file}, {files}, {standard}, {memory_mib}",
            }),
            json!({
                "message": "program in the table of runtimes is not installed",
                "language": "nothing", "programs": "no-such-program, /no/such/program",
            }),
        ]
    );
}

#[tokio::test]
async fn an_engine_that_cannot_be_reached_is_named_by_its_url() {
    let url = refused_url().await;
    let arguments = ["--engine", "piston", "--piston-url", &url];
    let output = run_with(&[], &[&["runtimes"][..], &arguments].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains(&format!("the engine at {url}: ")),
        "{stderr}"
    );
}
