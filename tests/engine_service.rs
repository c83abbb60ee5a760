//! Given an engine that has given up root, when a job leaves files in the data directory, then the
//! engine's process can list, read, replace and delete them, whatever mode the job gave them.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod engine_support;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use engine_support::{config, serve};
use session_adapter::engine::EngineConfig;

/// Giving up root is for good, so that it happens in a process of its own.
#[test]
fn files_of_jobs_can_be_used_after_giving_up_root() {
    use rustix::thread::{CapabilitySet, capabilities};
    let rights = capabilities(None).unwrap().effective;
    if !rights.contains(CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::CHOWN) {
        eprintln!("TEST SKIPPED: there is no root to give up");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let data = place.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "in_a_process_of_its_own", "--ignored"])
        .env("TEST_DATA_DIR", &data)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}"
    );
}

#[tokio::test]
#[ignore = "run by the test above"]
async fn in_a_process_of_its_own() {
    let data = std::path::PathBuf::from(std::env::var_os("TEST_DATA_DIR").unwrap());
    let served = serve(EngineConfig {
        data_dir: Some(data.clone()),
        max_jobs: 1,
        ..config()
    })
    .await;
    let user = served.engine.drop_privileges().unwrap().unwrap();
    assert_eq!(rustix::process::geteuid().as_raw(), user);
    std::fs::write(data.join("upload"), "up").unwrap();
    let program = "import os
os.chdir('DATA')
print(open('upload').read())
open('upload', 'a').write('!')
os.mkdir('folder')
for name in ('kept', 'gone', 'folder/inner'):
    open(name, 'w').write(name)
    os.chmod(name, 0)
os.chmod('folder', 0)
"
    .replace("DATA", data.to_str().unwrap());
    let run = served.run("python", &program).await;
    assert_eq!(run["stdout"], "up\n", "{run}");
    assert_eq!(std::fs::read(data.join("upload")).unwrap(), b"up!");
    assert_eq!(std::fs::read(data.join("kept")).unwrap(), b"kept");
    std::fs::write(data.join("kept"), "replaced").unwrap();
    std::fs::remove_file(data.join("gone")).unwrap();
    assert_eq!(
        std::fs::read(data.join("folder/inner")).unwrap(),
        b"folder/inner"
    );
    std::fs::remove_dir_all(data.join("folder")).unwrap();
    let read = format!("print(open('{}/kept').read())", data.display());
    assert_eq!(served.run("python", &read).await["stdout"], "replaced\n");
}
