//! Given an engine that has given up root, when a job leaves files in the data directory, then the
//! engine's process can list, read, replace and delete them, whatever mode the job gave them.
use std::path::Path;

use crate::support::command::bounded_command;
use crate::support::conditional::{Tests, tests};
use crate::support::engine::{config, serve};
use crate::support::folder::{open_folder, subfolder};
use session_adapter::engine::EngineConfig;

/// What makes this program the process of its own that a test starts, before the data directory.
const IN_A_PROCESS_OF_ITS_OWN: &str = "--in-a-process-of-its-own";

/// Giving up root is for good, so that it happens in a process of its own.
async fn files_of_jobs_can_be_used_after_giving_up_root() {
    let place = open_folder();
    let output = bounded_command(std::env::current_exe().unwrap())
        .arg(IN_A_PROCESS_OF_ITS_OWN)
        .arg(subfolder(place.path(), "data"))
        .env("TMPDIR", place.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}

pub fn tests() -> Tests {
    tests![
        OwnUsers => [files_of_jobs_can_be_used_after_giving_up_root],
    ]
}

/// Whether this process is the one that the test started: then it has done its part.
pub fn is_process_of_its_own() -> bool {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, first, data] = arguments.as_slice() else {
        return false;
    };
    if first != IN_A_PROCESS_OF_ITS_OWN {
        return false;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(give_up_root(Path::new(data)));
    true
}

async fn give_up_root(data: &Path) {
    let served = serve(EngineConfig {
        data_dir: Some(data.to_owned()),
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
