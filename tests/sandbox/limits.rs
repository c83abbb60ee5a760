//! Limits that bind: space on disk, memory that is in no figure of a process, terminals; and shared folders
//! that are as empty after a job as before.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use session_adapter::engine::sandbox::Layer;
use session_adapter::engine::{EngineConfig, KernelSettings};

use crate::support::conditional::{Tests, tests};
use crate::support::engine::{Served, config, serve};
use crate::support::eventually::{PATIENCE, eventually};
use crate::support::{Program, form, raw, run_python};

pub fn tests() -> Tests {
    tests! {
        Nothing => [
            short_programs_cannot_pass_the_limit_of_the_data_directory_one_after_the_other,
            a_session_over_its_limit_takes_no_upload_and_can_be_cleared,
            a_cell_that_passes_the_limit_is_told_and_keeps_its_variables,
            page_tables_count_as_memory,
            memory_that_processes_share_counts_once,
            buffers_of_sockets_count_as_memory,
            connections_that_nobody_accepts_count_as_memory,
            files_in_memory_count_as_memory,
            the_number_of_terminals_is_bounded,
        ],
        OwnUsers => [
            what_is_moved_or_linked_out_of_the_data_directory_is_counted_and_swept,
            folders_within_folders_that_others_may_write_to_are_swept,
            nobody_elses_files_in_shared_folders_are_touched,
            what_a_program_has_moved_there_of_others_is_left_alone,
            memory_counts_where_the_main_thread_has_ended,
            slots_survive_a_program_that_moves_folders_into_what_is_being_deleted,
        ],
        ImmutableFiles => [a_slot_that_could_not_be_cleaned_is_used_again_once_it_can],
    }
}

fn small() -> EngineConfig {
    EngineConfig {
        run_timeout: PATIENCE,
        allow_weak_sandbox: true,
        memory_limit: 256 << 20,
        max_jobs: 3,
        kernels: KernelSettings {
            max_kernels: 2,
            memory_limit: 256 << 20,
            ..KernelSettings::default()
        },
        ..config()
    }
}

/// Where shared folders are those of the machine.
fn without_namespaces() -> EngineConfig {
    EngineConfig {
        without: vec![Layer::Namespaces],
        ..small()
    }
}

fn without_kernels() -> EngineConfig {
    EngineConfig {
        kernels: KernelSettings {
            max_kernels: 0,
            ..KernelSettings::default()
        },
        ..small()
    }
}

async fn run(served: &Served, code: &str) -> Value {
    let body = json!({
        "language": "python", "version": "*", "files": [{"content": code}],
        "working_directory": "data",
    });
    let response = served.execute(&body).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()["run"].take()
}

/// The same in a kernel.
async fn run_cell(served: &Served, code: &str) -> Value {
    served.run_cell("k", code).await
}

/// 40 MiB in one call: faster than anything could look.
fn large_file(name: &str) -> String {
    format!("open('{name}', 'wb').write(bytes(40 << 20)); print('done')")
}

async fn short_programs_cannot_pass_the_limit_of_the_data_directory_one_after_the_other() {
    let served = serve(EngineConfig {
        max_data_bytes: 32 << 20,
        ..small()
    })
    .await;
    for n in 0..6 {
        let ran = run(&served, &large_file(&n.to_string())).await;
        assert_eq!(ran["outcome"], "disk_limit", "{n}: {ran}");
    }
    // A program that adds nothing is fine, and so is one that makes room.
    let ran = run(
        &served,
        "import os\nfor name in os.listdir(): os.remove(name)\nprint('done')",
    )
    .await;
    assert_eq!(ran["outcome"], "success", "{ran}");
    assert_eq!(run(&served, "open('x', 'w')").await["outcome"], "success");
}

async fn a_session_over_its_limit_takes_no_upload_and_can_be_cleared() {
    let program = Program::start(&["--data-limit", "32MiB", "--allow-weak-sandbox"]).await;
    let ran = run_python(&program, &large_file("large")).await;
    assert_eq!(ran["outcome"], "disk_limit", "{ran}");
    let refused = form::upload(program.addr, "/files", "new", b"bytes").await;
    assert_eq!(refused.status, 507, "{}", refused.text());
    let deleted = raw::exchange(
        program.addr,
        raw::request("DELETE", "/files/large", &[], ""),
    )
    .await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    let taken = form::upload(program.addr, "/files", "new", b"bytes").await;
    assert_eq!(taken.status, 200, "{}", taken.text());
}

async fn a_cell_that_passes_the_limit_is_told_and_keeps_its_variables() {
    let served = serve(EngineConfig {
        max_data_bytes: 32 << 20,
        ..small()
    })
    .await;
    run_cell(&served, "x = 1").await;
    for n in 0..3 {
        let ran = run_cell(&served, &large_file(&n.to_string())).await;
        assert_eq!(ran["outcome"], "disk_limit", "{n}: {ran}");
    }
    // Longer than an idle kernel is left unmeasured.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(run_cell(&served, "print(x)").await["stdout"], "1\n");
}

/// Runs this in a fresh process and in a kernel: both end at the memory limit.
async fn exceeds_memory(code: &str) {
    let served = serve(small()).await;
    let ran = run(&served, code).await;
    assert_eq!(ran["outcome"], "memory_limit", "{ran}");
    if can_inspect_kernels(&served) {
        let ran = run_cell(&served, code).await;
        assert_eq!(ran["outcome"], "memory_limit", "{ran}");
    }
}

/// Whether what kernels hold by descriptors can be looked at: those that share their group with other jobs are
/// not dumpable.
fn can_inspect_kernels(served: &Served) -> bool {
    let can_inspect = served.engine.sandbox().separates_jobs();
    if !can_inspect {
        eprintln!("SKIPPED: kernels, which cannot be inspected here");
    }
    can_inspect
}

/// Children that were forked have their parent's memory, as long as they do not change it.
async fn memory_that_processes_share_counts_once() {
    let served = serve(small()).await;
    let forks = "import os, time
data = bytearray(100 << 20)
for n in range(6):
    if os.fork() == 0:
        CHANGE
        time.sleep(2); os._exit(0)
for n in range(6): os.wait()
print('done')";
    let shared = forks.replace("CHANGE", "pass");
    let changed = forks.replace("CHANGE", "data[:] = b'x' * len(data)");
    let ran = run(&served, &shared).await;
    assert_eq!(ran["stdout"], "done\n", "{ran}");
    // Once they have been found to share, too.
    let later = "time.sleep(1); data[:] = b'x' * len(data)";
    let changed_later = forks.replace("CHANGE", later);
    for code in [changed, changed_later] {
        let ran = run(&served, &code).await;
        assert_eq!(ran["outcome"], "memory_limit", "{ran}");
    }
    if can_inspect_kernels(&served) {
        let ran = run_cell(&served, &shared).await;
        assert_eq!(ran["stdout"], "done\n", "{ran}");
    }
}

/// One page in every 2 MiB, which is the same empty page each time, takes a page of tables.
async fn page_tables_count_as_memory() {
    exceeds_memory(
        "
import mmap, time
m = mmap.mmap(-1, 256 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
m.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, 256 << 30, 2 << 20): m[at]
time.sleep(60)
print('done')
",
    )
    .await;
}

async fn buffers_of_sockets_count_as_memory() {
    exceeds_memory(
        "
import os, socket, time
for n in range(10):
    if os.fork() == 0:
        held = []
        for n in range(200):
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            for one in pair:
                one.setblocking(False)
                try:
                    while one.send(bytes(65536)): pass
                except BlockingIOError: pass
            held.append(pair)
        time.sleep(60)
        os._exit(0)
time.sleep(60)
print('done')
",
    )
    .await;
}

/// What they hold has no descriptor.
async fn connections_that_nobody_accepts_count_as_memory() {
    let served = serve(small()).await;
    if !served.engine.sandbox().namespaces {
        eprintln!("SKIPPED: there are no namespaces here");
        return;
    }
    for family in ["AF_INET", "AF_UNIX"] {
        let code = format!(
            "import socket, time
family = socket.{family}
listener = socket.socket(family)
listener.bind(('127.0.0.1', 0) if family == socket.AF_INET else 'socket')
listener.listen(4096)
for n in range(2000):
    client = socket.socket(family)
    client.setblocking(False)
    try:
        client.connect(listener.getsockname())
        while True: client.send(bytes(4096))
    except BlockingIOError: pass
    client.close()
time.sleep(60)"
        );
        let ran = run(&served, &code).await;
        assert_eq!(ran["outcome"], "memory_limit", "{family}: {ran}");
    }
}

async fn files_in_memory_count_as_memory() {
    exceeds_memory(
        "
import os, time
files = [os.memfd_create(str(n)) for n in range(4)]
for file in files:
    for n in range(100): os.write(file, bytes(1 << 20))
time.sleep(60)
print('done')
",
    )
    .await;
}

async fn the_number_of_terminals_is_bounded() {
    let code = "
import os, time
held = []
for n in range(NUMBER): held.append(os.open('/dev/ptmx', os.O_RDWR))
time.sleep(WAIT)
print('done')
";
    let served = serve(small()).await;
    if !served.engine.sandbox().separates_jobs() {
        eprintln!("SKIPPED: jobs have no terminals here");
        return;
    }
    let few = code.replace("NUMBER", "20").replace("WAIT", "0.5");
    let ran = run(&served, &few).await;
    assert_eq!(ran["stdout"], "done\n", "{ran}");
    let many = code.replace("NUMBER", "200").replace("WAIT", "60");
    let ran = run(&served, &many).await;
    assert_eq!(ran["outcome"], "signal", "{ran}");
    if can_inspect_kernels(&served) {
        let ran = run_cell(&served, &many).await;
        assert_eq!(ran["outcome"], "signal", "{ran}");
    }
}

fn unique(folder: &str) -> PathBuf {
    let name = format!(
        "session-adapter-test-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    );
    Path::new(folder).join(name.replace(['(', ')'], ""))
}

async fn what_is_moved_or_linked_out_of_the_data_directory_is_counted_and_swept() {
    // Where the shared folders are another file system, nothing can be moved there.
    let place = unique("/var/tmp");
    let data = place.join("data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::set_permissions(&place, PermissionsExt::from_mode(0o755)).unwrap();
    let served = serve(EngineConfig {
        data_dir: Some(data.clone()),
        max_job_bytes: 32 << 20,
        ..without_namespaces()
    })
    .await;
    let to = unique("/var/tmp").with_extension("moved");
    for act in ["os.rename", "os.link"] {
        for owner in ["other", "own"] {
            let make = "open('file', 'wb').write(bytes(1 << 20))";
            let code = if owner == "other" {
                run(&served, make).await;
                format!(
                    "import os\n{act}('file', '{}')\nprint('done')",
                    to.display()
                )
            } else {
                format!(
                    "import os\n{make}\n{act}('file', '{}')\nprint('done')",
                    to.display()
                )
            };
            let ran = run(&served, &code).await;
            assert_eq!(ran["stdout"], "done\n", "{act} {owner}: {ran}");
            served_is_idle(&served).await;
            eventually("it is swept", async || !to.exists()).await;
            let _ = std::fs::remove_file(data.join("file"));
        }
    }
    // Counted: more than a job may have outside the data directory.
    let code = format!(
        "import os, time\nos.mkdir('d')\nfor n in range(5): open(f'd/{{n}}', 'wb').write(bytes(10 << 20))\nos.rename('d', '{}')\ntime.sleep(60)",
        to.display()
    );
    let ran = run(&served, &code).await;
    assert_eq!(ran["outcome"], "disk_limit", "{ran}");
    served_is_idle(&served).await;
    eventually("it is swept", async || !to.exists()).await;
    drop(served);
    std::fs::remove_dir_all(&place).unwrap();
}

/// No job runs any more; what it left may still be being deleted.
async fn served_is_idle(served: &Served) {
    eventually("no job runs", async || {
        served.number("/jobs/running").await == 0
    })
    .await;
}

async fn folders_within_folders_that_others_may_write_to_are_swept() {
    let place = unique("/tmp");
    let open = place.join("closed/open");
    std::fs::create_dir_all(&open).unwrap();
    for (folder, mode) in [
        (&place, 0o755),
        (&place.join("closed"), 0o755),
        (&open, 0o777),
    ] {
        std::fs::set_permissions(folder, PermissionsExt::from_mode(mode)).unwrap();
    }
    let served = serve(without_namespaces()).await;
    let code = format!(
        "import os\nos.makedirs('{0}/a/b'); open('{0}/a/b/c', 'w'); os.chmod('{0}/a', 0)\nprint('done')",
        open.display()
    );
    let ran = run(&served, &code).await;
    assert_eq!(ran["stdout"], "done\n", "{ran}");
    eventually("it is swept", async || !open.join("a").exists()).await;
    assert!(open.exists());
    drop(served);
    std::fs::remove_dir_all(&place).unwrap();
}

/// What an earlier engine's session owns is not a leftover, though a job now has its user.
async fn nobody_elses_files_in_shared_folders_are_touched() {
    let place = unique("/tmp");
    let data = place.join("data");
    std::fs::create_dir_all(&data).unwrap();
    for folder in [&place, &data] {
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let served = serve(EngineConfig {
        data_dir: Some(data.clone()),
        ..without_namespaces()
    })
    .await;
    let ran = run(&served, "open('kept', 'w').write('kept'); print('done')").await;
    assert_eq!(ran["stdout"], "done\n", "{ran}");
    symlink("/etc/passwd", data.join("link")).unwrap();
    drop(served);
    // The next engine has the same users, and another directory.
    let mine = unique("/tmp").with_extension("mine");
    let served = serve(without_namespaces()).await;
    for _ in 0..20 {
        run(&served, &format!("open('{}', 'w')", mine.display())).await;
    }
    eventually("it is swept", async || !mine.exists()).await;
    assert_eq!(std::fs::read_to_string(data.join("kept")).unwrap(), "kept");
    assert!(data.join("link").symlink_metadata().is_ok());
    drop(served);
    std::fs::remove_dir_all(&place).unwrap();
}

/// Where others have a folder that is not sticky, a program can move what is theirs.
async fn what_a_program_has_moved_there_of_others_is_left_alone() {
    let place = unique("/tmp");
    let mine = unique("/tmp").with_extension("mine");
    let theirs = place.join("theirs");
    std::fs::create_dir_all(theirs.join("private")).unwrap();
    std::fs::write(theirs.join("private/secret"), "kept").unwrap();
    for (folder, mode) in [(&place, 0o777), (&theirs, 0o777)] {
        std::fs::set_permissions(folder, PermissionsExt::from_mode(mode)).unwrap();
    }
    for folder in [&theirs, &theirs.join("private")] {
        std::os::unix::fs::chown(folder, Some(1500), Some(1500)).unwrap();
    }
    let served = serve(EngineConfig {
        without: vec![Layer::Namespaces],
        ..without_kernels()
    })
    .await;
    let code = format!(
        "import os\nos.mkdir('{0}')\nopen('{0}/own', 'w')\nos.rename('{1}', '{0}/theirs')\nprint('done')",
        mine.display(),
        theirs.display()
    );
    let ran = run(&served, &code).await;
    assert_eq!(ran["stdout"], "done\n", "{ran}");
    eventually("the program's own file is gone", async || {
        !mine.join("own").exists()
    })
    .await;
    served.settled().await;
    let secret = std::fs::read_to_string(mine.join("theirs/private/secret"));
    assert_eq!(secret.unwrap(), "kept");
    drop(served);
    for folder in [place, mine] {
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// The kernel says of such a process that it is a zombie.
async fn memory_counts_where_the_main_thread_has_ended() {
    exceeds_memory(
        "
import ctypes, os, threading, time
def hold():
    held = bytearray(100 << 20)
    time.sleep(60)
for n in range(4):
    if os.fork() == 0:
        threading.Thread(target=hold).start()
        ctypes.CDLL(None).syscall(60, 0)
time.sleep(60)
print('done')
",
    )
    .await;
}

async fn slots_survive_a_program_that_moves_folders_into_what_is_being_deleted() {
    let served = serve(EngineConfig {
        max_jobs: 2,
        without: vec![Layer::Namespaces],
        ..without_kernels()
    })
    .await;
    let place = unique("/tmp");
    let attacker = format!(
        "
import os, time
until = time.time() + 8
os.makedirs('{0}-spare', exist_ok=True)
n = 0
while time.time() < until:
    n += 1
    try:
        os.chdir('{0}')
        while time.time() < until:
            n += 1
            os.mkdir(f'{0}-spare/{{n}}')
            os.rename(f'{0}-spare/{{n}}', f'x{{n}}')
    except OSError:
        pass
print('done')
",
        place.display()
    );
    let victim = format!(
        "import os\nos.mkdir('{0}')\nos.chmod('{0}', 0o777)\nfor n in range(300): os.makedirs(f'{0}/{{n}}/a'); os.chmod(f'{0}/{{n}}', 0o777)\nprint('done')",
        place.display()
    );
    let attack = async {
        let mut body =
            json!({"language": "python", "version": "*", "files": [{"content": attacker}]});
        body["user"] = json!("own");
        served.execute(&body).await.json()["run"].take()
    };
    let victims = async {
        for _ in 0..12 {
            let ran = run(&served, &victim).await;
            assert!(
                ran["stdout"] == "done\n" || ran["stderr"].as_str().unwrap().contains("FileExists"),
                "{ran}"
            );
            let gone = || !place.exists();
            eventually("it is swept", async || gone()).await;
        }
    };
    let (attacked, ()) = tokio::join!(attack, victims);
    assert_eq!(attacked["stdout"], "done\n", "{attacked}");
    served.settled().await;
    assert!(!place.exists());
}

async fn a_slot_that_could_not_be_cleaned_is_used_again_once_it_can() {
    use rustix::fs::{IFlags, ioctl_setflags};
    let served = serve(EngineConfig {
        max_jobs: 1,
        without: vec![Layer::Namespaces],
        ..without_kernels()
    })
    .await;
    let place = unique("/tmp");
    let code = format!(
        "import os, time\nopen('{0}', 'w')\nwhile not os.path.exists('stop'): time.sleep(0.01)",
        place.display()
    );
    let data = served.engine.data_dir().to_path_buf();
    let make_immutable = async {
        eventually("the file is there", async || place.exists()).await;
        let file = std::fs::File::open(&place).unwrap();
        ioctl_setflags(&file, IFlags::IMMUTABLE).unwrap();
        std::fs::write(data.join("stop"), "").unwrap();
        file
    };
    let (ran, file) = tokio::join!(run(&served, &code), make_immutable);
    assert_eq!(ran["code"], 0, "{ran}");
    let left = || std::fs::read_dir(served.engine.work_dir()).unwrap().count();
    // The engine goes on without that slot.
    assert_eq!(run(&served, "print(1)").await["stdout"], "1\n");
    assert!(place.exists());
    ioctl_setflags(&file, IFlags::empty()).unwrap();
    eventually("the slot is clean", async || !place.exists() && left() == 0).await;
}
