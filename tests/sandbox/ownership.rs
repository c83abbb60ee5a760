//! Whose the files of a session are: programs that run one after the other, kernels, shell commands and
//! uploads find each other's; programs that run at the same time stay apart.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::{Value, json};
use session_adapter::engine::sandbox::Layer::{Landlock, Namespaces};
use session_adapter::engine::{EngineConfig, KernelSettings};

use crate::support::conditional::{Tests, tests};
use crate::support::engine::{Served, config, serve};
use crate::support::eventually::eventually;
use crate::support::{Program, form, raw, run_python};

pub fn tests() -> Tests {
    tests! {
        OwnUsers => [
            an_uploaded_script_can_be_made_executable,
            a_program_does_what_it_likes_with_what_an_earlier_one_left,
            every_dialect_owns_what_the_others_left,
            programs_that_run_at_the_same_time_write_to_one_file,
            what_a_program_keeps_to_itself_is_its_own_until_it_ends,
            programs_that_run_at_the_same_time_have_users_of_their_own,
            private_files_of_a_kernel_are_the_clients_too,
            a_kernel_outlives_the_processes_that_a_program_leaves,
            a_session_goes_on_after_a_program_that_forks_without_end,
            jobs_of_the_sessions_user_do_not_reach_each_other,
            an_upload_survives_a_program_that_deletes_everything,
            rights_that_a_list_takes_away_come_back,
        ],
    }
}

async fn shell(program: &Program, command: &str) -> Value {
    let body = json!({ "shellCommand": command }).to_string();
    let response = raw::post(program.addr, "/shellExecute", &body).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

/// Runs a cell in the session's kernel.
async fn cell(program: &Program, code: &str) -> Value {
    let body = json!({"properties": {"code": code, "codeInputType": "inline", "executionType": "synchronous"}});
    let response = raw::post(program.addr, "/code/execute", &body.to_string()).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

async fn upload(program: &Program, name: &str, bytes: &[u8]) {
    let response = form::upload(program.addr, "/files", name, bytes).await;
    assert_eq!(response.status, 200, "{}", response.text());
}

async fn an_uploaded_script_can_be_made_executable() {
    let program = Program::start(&[]).await;
    upload(&program, "run.sh", b"#!/bin/sh\necho ran\n").await;
    let ran = shell(&program, "chmod +x run.sh && ./run.sh").await;
    assert!(ran.to_string().contains("ran\\n"), "{ran}");
}

async fn a_program_does_what_it_likes_with_what_an_earlier_one_left() {
    const PROGRAM: &str = "
import os, shutil, sqlite3, subprocess, tarfile, tempfile
name = tempfile.mktemp()
open(name, 'w').write('1')
shutil.copy(name, 'copy.txt')
os.utime('copy.txt', (1, 1))
os.chmod('copy.txt', 0o600)
os.replace(shutil.copy(name, 'next'), 'replaced')
with sqlite3.connect('data.db') as db:
    db.execute('create table if not exists t (x)')
    db.execute('insert into t values (1)')
os.makedirs('tree/inner', exist_ok=True)
with tarfile.open('all.tar', 'w') as tar: tar.add('tree'); tar.add('copy.txt')
subprocess.run(['tar', 'xpf', 'all.tar'], check=True)
print('ok')
";
    let program = Program::start(&[]).await;
    for _ in 0..3 {
        let ran = run_python(&program, PROGRAM).await;
        assert_eq!(ran["stdout"], "ok\n", "{ran}");
    }
}

async fn every_dialect_owns_what_the_others_left() {
    let program = Program::start(&[]).await;
    upload(&program, "upload", b"1").await;
    cell(&program, "open('cell', 'w').write('1')").await;
    run_python(&program, "open('program', 'w').write('1')").await;
    shell(&program, "echo 1 >shell").await;
    let names = "upload cell program shell";
    let change = format!(
        "import os\nfor name in '{names}'.split(): os.chmod(name, 0o700); os.utime(name, (1, 1))\nprint('done')"
    );
    let changed = run_python(&program, &change).await;
    assert_eq!(changed["stdout"], "done\n", "{changed}");
    let changed = cell(&program, &change).await;
    assert!(changed.to_string().contains("done\\n"), "{changed}");
    let changed = shell(
        &program,
        &format!("chmod 600 {names} && touch -t 200001010000 {names} && echo done"),
    )
    .await;
    assert!(changed.to_string().contains("done\\n"), "{changed}");
}

async fn programs_that_run_at_the_same_time_write_to_one_file() {
    const PROGRAM: &str = "
import os, time
for n in range(5):
    open('lines.txt', 'a').write('x\\n')
    os.makedirs('made/by/all', exist_ok=True)
    open(f'made/by/all/{os.getpid()}-{n}', 'w')
    time.sleep(0.1)
print('ok')
";
    let program = Program::start(&["--max-jobs", "3"]).await;
    let (a, b, c) = tokio::join!(
        run_python(&program, PROGRAM),
        run_python(&program, PROGRAM),
        run_python(&program, PROGRAM)
    );
    for ran in [a, b, c] {
        assert_eq!(ran["stdout"], "ok\n", "{ran}");
    }
    let lines = run_python(&program, "print(open('lines.txt').read().count('x'))").await;
    assert_eq!(lines["stdout"], "15\n", "{lines}");
}

fn small() -> EngineConfig {
    EngineConfig {
        max_jobs: 4,
        kernels: KernelSettings {
            max_kernels: 2,
            ..KernelSettings::default()
        },
        ..config()
    }
}

fn body(code: &str) -> Value {
    json!({
        "language": "python", "version": "*", "files": [{"content": code}],
        "working_directory": "data",
    })
}

async fn run(served: &Served, body: &Value) -> Value {
    let response = served.execute(body).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()["run"].take()
}

/// A program that runs until the file `stop` is there, and has done this before the file `began` is.
fn waiting(act: &str, began: &str) -> String {
    format!(
        "import os, time\n{act}\nopen('{began}', 'w')\nwhile not os.path.exists('stop'): time.sleep(0.01)\nprint(os.getuid())"
    )
}

async fn what_a_program_keeps_to_itself_is_its_own_until_it_ends() {
    let served = serve(small()).await;
    let data = served.engine.data_dir().to_path_buf();
    let read = body("print(open('own').read())");
    for first in [None, Some("own")] {
        let keep = waiting("os.umask(0o077); open('own', 'w').write('x')", "began");
        let mut keep = body(&keep);
        keep["user"] = json!(first);
        let running = run(&served, &keep);
        let other = async {
            eventually("it began", async || data.join("began").exists()).await;
            let mut read = read.clone();
            read["user"] = json!("own");
            let refused = run(&served, &read).await;
            std::fs::write(data.join("stop"), "").unwrap();
            refused
        };
        let (ended, refused) = tokio::join!(running, other);
        assert_eq!(ended["code"], 0, "{ended}");
        assert!(
            refused["stderr"]
                .as_str()
                .unwrap()
                .contains("PermissionError"),
            "{refused}"
        );
        for user in [json!("own"), Value::Null] {
            let mut read = read.clone();
            read["user"] = user;
            let ran = run(&served, &read).await;
            assert_eq!(ran["stdout"], "x\n", "{ran}");
        }
        for name in ["own", "began", "stop"] {
            std::fs::remove_file(data.join(name)).unwrap();
        }
    }
}

async fn programs_that_run_at_the_same_time_have_users_of_their_own() {
    let served = serve(small()).await;
    let data = served.engine.data_dir().to_path_buf();
    let who = body("import os\nprint(os.getuid())");
    let session = run(&served, &who).await["stdout"].clone();
    assert_eq!(run(&served, &who).await["stdout"], session);
    assert_eq!(
        served.run_cell("k", "import os\nprint(os.getuid())").await["stdout"],
        session
    );
    let (first, second) = (body(&waiting("", "began")), body(&waiting("", "too")));
    let others = async {
        eventually("it began", async || data.join("began").exists()).await;
        let meanwhile = run(&served, &who).await["stdout"].clone();
        let mut shell = who.clone();
        shell["user"] = json!("session");
        let shell = run(&served, &shell).await["stdout"].clone();
        let cell = served.run_cell("k", "print(os.getuid())").await["stdout"].clone();
        let second = run(&served, &second);
        let stop = async {
            eventually("both began", async || data.join("too").exists()).await;
            std::fs::write(data.join("stop"), "").unwrap();
        };
        let (second, ()) = tokio::join!(second, stop);
        (meanwhile, shell, cell, second["stdout"].clone())
    };
    let (first, (meanwhile, shell, cell, second)) = tokio::join!(run(&served, &first), others);
    assert_eq!(
        (&first["stdout"], &shell, &cell),
        (&session, &session, &session)
    );
    assert_ne!(meanwhile, session);
    assert_ne!(second, session);
    // What they left is the session's.
    let owner = |name: &str| {
        std::fs::metadata(data.join(name))
            .unwrap()
            .uid()
            .to_string()
    };
    assert_eq!(format!("{}\n", owner("too")), session.as_str().unwrap());
}

async fn private_files_of_a_kernel_are_the_clients_too() {
    let program = Program::start(&[]).await;
    let made = cell(
        &program,
        "import os\nos.umask(0o077)\nos.mkdir('private')\nopen('private/file', 'w').write('mine')\nprint('done')",
    )
    .await;
    assert!(made.to_string().contains("done"), "{made}");
    let list = raw::get(program.addr, "/files?path=private").await;
    assert_eq!(list.status, 200, "{}", list.text());
    let read = raw::get(program.addr, "/files/file/content?path=private").await;
    assert_eq!((read.status, read.text().as_str()), (200, "mine"));
    let path = "/files/file?path=private";
    let deleted = raw::exchange(program.addr, raw::request("DELETE", path, &[], "")).await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    // It stays as private as it is for programs of others.
    let mode = cell(&program, "print(oct(os.stat('private').st_mode & 0o777))").await;
    assert!(mode.to_string().contains("0o700"), "{mode}");
}

async fn a_kernel_outlives_the_processes_that_a_program_leaves() {
    let served = serve(small()).await;
    served
        .run_cell(
            "k",
            "x = 1\nimport os, subprocess\nsubprocess.Popen(['sleep', '600'])",
        )
        .await;
    let left = "
import os, time
for n in range(20):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(600)
        os._exit(0)
print('left')
";
    for _ in 0..3 {
        let ran = run(&served, &body(left)).await;
        assert_eq!(ran["stdout"], "left\n", "{ran}");
    }
    assert_eq!(served.run_cell("k", "print(x)").await["stdout"], "1\n");
    let sleeping = "import subprocess\nprint(subprocess.run(['ps', '-eo', 'uid,args'], capture_output=True, text=True).stdout.count('%s sleep 600' % os.getuid()))";
    assert_eq!(served.run_cell("k", sleeping).await["stdout"], "1\n");
}

/// Each process forks the next and ends, which is the hardest to catch. If there is no other way, the kernel
/// ends, too.
async fn a_session_goes_on_after_a_program_that_forks_without_end() {
    let served = serve(small()).await;
    served.run_cell("k", "x = 1").await;
    let bomb = "
import os
for n in range(100):
    if os.fork() == 0:
        while True: os.fork()
";
    let chain = "
import os
if os.fork() == 0:
    while True:
        if os.fork() > 0: os._exit(0)
        os.setsid()
";
    // Many that fork without end start and end processes faster than anybody can reap them.
    let chains = "
import os
for n in range(40):
    if os.fork() == 0:
        while True:
            if os.fork() > 0: os._exit(0)
            os.setsid()
";
    for code in [bomb, chain, chains] {
        let mut body = body(code);
        body["run_timeout"] = json!(2000);
        run(&served, &body).await;
        eventually("no process of it is left", async || {
            served.number("/jobs/running").await == 0
        })
        .await;
    }
    let after = served.run_cell("k", "print(x)").await;
    assert!(
        after["stdout"] == "1\n" || after["stderr"].as_str().unwrap().contains("NameError"),
        "{after}"
    );
    assert_eq!(run(&served, &body("print(1)")).await["stdout"], "1\n");
}

/// Even without Landlock: each has a group of its own.
async fn jobs_of_the_sessions_user_do_not_reach_each_other() {
    const WAYS: [(&str, &str); 6] = [
        ("memory", "open(f'/proc/{pid}/mem', 'rb')"),
        ("environment", "open(f'/proc/{pid}/environ', 'rb').read()"),
        ("descriptors", "os.readlink(f'/proc/{pid}/fd/0')"),
        ("working directory", "os.listdir(f'/proc/{pid}/cwd')"),
        ("files", "open(there + '/main.py').read()"),
        ("modes", "os.chmod(there, 0o777)"),
    ];
    let served = serve(EngineConfig {
        // In namespaces they do not see each other.
        without: vec![Namespaces, Landlock],
        allow_weak_sandbox: true,
        ..small()
    })
    .await;
    let data = served.engine.data_dir().to_path_buf();
    let mut victim = body(&waiting(
        "open('at', 'w').write(f'{os.getpid()} {os.path.dirname(os.path.abspath(__file__))}')",
        "began",
    ));
    victim["files"][0]["name"] = json!("main.py");
    let attacks = async {
        eventually("it began", async || data.join("began").exists()).await;
        let mut results = Vec::new();
        for (name, way) in WAYS {
            let code = format!(
                "import os\npid, there = open('at').read().split()\nassert os.stat('/proc/' + pid).st_uid == os.getuid()\n{way}\nprint('done')"
            );
            let mut shell = body(&code);
            shell["user"] = json!("session");
            results.push((name, run(&served, &shell).await));
            results.push((name, served.run_cell("k", &code).await));
        }
        std::fs::write(data.join("stop"), "").unwrap();
        results
    };
    let (victim, results) = tokio::join!(run(&served, &victim), attacks);
    assert_eq!(victim["code"], 0, "{victim}");
    for (name, result) in results {
        let stderr = result["stderr"].as_str().unwrap();
        assert!(stderr.contains("PermissionError"), "{name}: {result}");
    }
}

async fn an_upload_survives_a_program_that_deletes_everything() {
    let program = Program::start(&[]).await;
    let delete = "
import os, shutil
for n in range(200):
    for name in os.listdir('.'): shutil.rmtree(name, ignore_errors=True)
print('deleted')
";
    let uploads = async {
        for n in 0..20 {
            upload(&program, &format!("upload-{n}"), &[1; 300_000]).await;
        }
    };
    let (ran, ()) = tokio::join!(run_python(&program, delete), uploads);
    assert_eq!(ran["stdout"], "deleted\n", "{ran}");
}

/// An access control list holds whatever the mode is.
async fn rights_that_a_list_takes_away_come_back() {
    let served = serve(small()).await;
    let data = served.engine.data_dir().to_path_buf();
    // Version 2: the owner may do everything, the group and others nothing, whatever the mask lets through.
    let lock = "
import os, struct
entries = [(0x01, 7, -1), (0x04, 0, -1), (0x10, 7, -1), (0x20, 0, -1)]
acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHi', *entry) for entry in entries)
os.mkdir('folder')
open('folder/file', 'w').write('x')
for name in ['folder/file', 'folder']: os.setxattr(name, 'system.posix_acl_access', acl)
os.setxattr('folder', 'system.posix_acl_default', acl)
print('locked')
";
    for user in [json!("own"), Value::Null] {
        let mut locking = body(lock);
        locking["user"] = user;
        let ran = run(&served, &locking).await;
        if ran["stderr"]
            .as_str()
            .unwrap()
            .contains("Operation not supported")
        {
            eprintln!("SKIPPED: access control lists, for the file system has none");
            return;
        }
        assert_eq!(ran["stdout"], "locked\n", "{ran}");
        let mut using = body("print(open('folder/file', 'r+').read()); open('folder/new', 'w')");
        using["user"] = json!("own");
        let ran = run(&served, &using).await;
        assert_eq!(ran["stdout"], "x\n", "{ran}");
        remove(&data.join("folder"));
    }
}

fn remove(folder: &Path) {
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}
