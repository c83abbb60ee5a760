//! Given a machine that is set up for something else, when the tests run there, then the processes
//! that they start see nothing of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::command::{PATH, bounded_command};
use crate::support::{Program, eventually, raw, run_python};

/// What would change how a program starts, or where it keeps its files, or would stop it.
const HOSTILE: [(&str, &str); 20] = [
    ("PORT", "80"),
    ("ADAPTER_LISTEN", "192.0.2.1:80"),
    ("SESSION_ENGINE", "bogus"),
    ("PISTON_URL", "bogus"),
    ("SESSION_DATA_DIR", "/nonexistent"),
    ("RUN_TIMEOUT_SECONDS", "bogus"),
    ("MAX_BODY_BYTES", "1"),
    ("MAX_JOBS", "bogus"),
    ("MAX_QUEUE", "-1"),
    ("METRICS", "off"),
    ("LOG_FORMAT", "text"),
    ("SESSION_RUNTIMES", "/nonexistent"),
    ("WARM_INTERPRETERS", "bogus"),
    ("JOB_MEMORY_BYTES", "1"),
    ("ALLOW_NETWORK", "bogus"),
    ("HTTP_PROXY", "http://192.0.2.1:1"),
    ("LD_PRELOAD_OF_NOBODY", "/nonexistent"),
    ("PYTHONHOME", "/nonexistent"),
    ("NODE_OPTIONS", "--bogus"),
    ("BASH_ENV", "/nonexistent"),
];

/// A program, and the environment that it was started with. A shell tells it, for only root may look
/// into the program itself.
async fn started() -> (Program, BTreeMap<String, String>) {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("environment");
    let tell = format!("cat /proc/$$/environ > {}", told.display());
    let program = Program::start_after(&tell, &[]).await;
    (program, variables(&std::fs::read(told).unwrap()))
}

fn variables(bytes: &[u8]) -> BTreeMap<String, String> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.split_terminator('\0')
        .map(|variable| variable.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[tokio::test]
async fn a_program_has_an_environment_and_folders_of_its_own() {
    let ((program, own), (other, others)) = (started().await, started().await);
    let names: Vec<_> = own.keys().collect();
    assert_eq!(names, ["PATH", "TMPDIR"]);
    assert_eq!(own["PATH"], PATH);
    assert_ne!(own["TMPDIR"], others["TMPDIR"]);
    let data = Path::new(program.started["data_dir"].as_str().unwrap());
    assert!(data.starts_with(&own["TMPDIR"]), "{}", data.display());
    assert_ne!(program.started["data_dir"], other.started["data_dir"]);
    assert_ne!(program.addr, other.addr);

    // And none of it outlives the test.
    let folder = PathBuf::from(&own["TMPDIR"]);
    assert!(folder.exists());
    drop(program);
    eventually("the folder is gone", async || !folder.exists()).await;
}

#[test]
fn a_process_has_an_environment_of_its_own() {
    let output = bounded_command("cat").arg("/proc/self/environ").output();
    let own = variables(&output.unwrap().stdout);
    assert_eq!(own, BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]));
}

#[tokio::test]
async fn a_program_starts_with_the_documented_defaults_and_works() {
    let program = Program::start(&[]).await;
    assert_eq!(program.started["engine"], "embedded");
    assert_eq!(program.started["max_body"], 16 << 20);
    assert_eq!(program.started["queue"], 64);
    assert_eq!(program.started["metrics"], "on");
    assert_eq!(run_python(&program, "print(42)").await["stdout"], "42\n");
    assert_eq!(raw::get(program.addr, "/metrics").await.status, 200);
}

/// The tests above once more, in an environment that would stop the program.
#[test]
fn the_environment_of_the_tests_does_not_matter() {
    let output = bounded_command(std::env::current_exe().unwrap())
        .envs(HOSTILE)
        .args([
            "--exact",
            "hermetic::a_process_has_an_environment_of_its_own",
        ])
        .arg("hermetic::a_program_has_an_environment_and_folders_of_its_own")
        .arg("hermetic::a_program_starts_with_the_documented_defaults_and_works")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("3 passed; 0 failed"), "{stdout}");
}

/// Every process is started by `support::command`, which clears the environment.
#[test]
fn no_test_starts_a_process_in_another_way() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            if text.contains(concat!("Command::", "new(")) {
                found.push(path.file_name().unwrap().to_owned());
            }
        }
    }
    assert_eq!(found, ["command.rs"]);
}
