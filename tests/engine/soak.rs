//! Given many jobs at full concurrency, a tenth of them hostile, when they are all over, then
//! nothing is left of them: no process, no file, no descriptor, no memory.
//!
//! `SOAK_JOBS` says how many (200 unless set); with `--nocapture` the times are shown.
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::command::bounded_command;
use crate::support::engine::{Served, config, serve};
use crate::support::eventually::{PATIENCE, eventually};
use crate::support::processes::children_of;
use serde_json::json;
use session_adapter::engine::EngineConfig;
use tokio::task::{JoinSet, LocalSet};

const HOSTILE: [&str; 6] = [
    "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        while True: pass",
    "x = []\nwhile True: x.append(bytearray(10_000_000))",
    "while True: print('x' * 10_000)",
    "import os\nfor n in range(500):\n    os.makedirs(f'/dev/shm/{n}', exist_ok=True) if os.path.isdir('/dev/shm') else None\n    open(f'{n}', 'w')\nos.kill(os.getppid(), 9)",
    "import os, signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nos.kill(0, 19)",
];

#[tokio::test]
async fn many_jobs_leave_nothing() {
    let _alone = crate::MANY_JOBS.lock().await;
    let jobs: usize = std::env::var("SOAK_JOBS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(200);
    let served = Arc::new(
        serve(EngineConfig {
            run_timeout: PATIENCE,
            memory_limit: 64 << 20,
            max_processes: 32,
            output_limit: 64 << 10,
            queue: jobs,
            ..config()
        })
        .await,
    );
    assert_eq!(served.run("python", "print(42)").await["stdout"], "42\n");
    settled(&served).await;
    let usual = median_of_prints(&served).await;
    settled(&served).await;
    let users = users_of(&served).await;
    settled(&served).await;
    let before = State::now(&served, &users);
    let begun = Instant::now();
    LocalSet::new()
        .run_until(async {
            let mut running = JoinSet::new();
            for n in 0..jobs {
                let served = Arc::clone(&served);
                running.spawn_local(async move {
                    if n % 10 == 0 {
                        let hostile = json!({
                            "language": "python", "version": "*", "run_timeout": 1000,
                            "files": [{"content": HOSTILE[n / 10 % HOSTILE.len()]}],
                        });
                        let response = served.execute(&hostile).await;
                        assert_eq!(response.status, 200, "{}", response.body);
                    } else {
                        let run = served.run("python", &format!("print({n})")).await;
                        assert_eq!(run["stdout"], format!("{n}\n"), "{run}");
                    }
                });
                // As many at once as run and wait; more would only measure this test's own sockets.
                if running.len() >= 16 {
                    running.join_next().await.unwrap().unwrap();
                }
            }
            running.join_all().await;
        })
        .await;
    let took = begun.elapsed();
    settled(&served).await;
    let after = State::now(&served, &users);
    println!("{jobs} jobs in {took:?}; before {before:?}, after {after:?}");
    println!(
        "print(42) and bare: medians {usual:?} before, {:?} after",
        median_of_prints(&served).await
    );
    assert_eq!(before.processes, after.processes);
    assert_eq!(before.shared, after.shared);
    assert_eq!(before.descriptors, after.descriptors);
    assert!(
        after.spawner_kib <= before.spawner_kib + 512,
        "{before:?} {after:?}"
    );
    assert!(
        after.engine_kib <= before.engine_kib + (8 << 10),
        "{before:?} {after:?}"
    );
}

#[derive(Debug)]
struct State {
    /// Processes of the engine's users and below its spawner.
    processes: usize,
    /// Files of this engine's users in shared folders.
    shared: usize,
    /// Descriptors of this process.
    descriptors: usize,
    /// Memory of the spawner.
    spawner_kib: u64,
    /// Memory of this process, which is the engine's HTTP side and its clients.
    engine_kib: u64,
}

impl State {
    fn now(served: &Served, users: &Range<u32>) -> Self {
        let spawner = spawner_of(served);
        let is_ours = |path: &Path| {
            std::fs::symlink_metadata(path).is_ok_and(|found| users.contains(&found.uid()))
        };
        let entries = |folder: &str| {
            std::fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
        };
        Self {
            processes: children_of(spawner).len(),
            shared: ["/tmp", "/var/tmp", "/dev/shm"]
                .into_iter()
                .map(|folder| entries(folder).filter(|path| is_ours(path)).count())
                .sum(),
            descriptors: entries("/proc/self/fd").count(),
            spawner_kib: memory_of(spawner),
            engine_kib: memory_of(std::process::id()),
        }
    }
}

/// The users of this engine's jobs: a block of 512 ids, of which no other engine has any. None where
/// jobs have no users of their own.
async fn users_of(served: &Served) -> Range<u32> {
    const FIRST: u32 = 30_720;
    const BLOCK: u32 = 512;
    let run = served.run("python", "import os; print(os.getuid())").await;
    let user: u32 = run["stdout"].as_str().unwrap().trim().parse().unwrap();
    match user.checked_sub(FIRST) {
        Some(offset) => {
            let start = FIRST + offset / BLOCK * BLOCK;
            start..start + BLOCK
        }
        None => 0..0,
    }
}

/// Resident memory in KiB.
fn memory_of(pid: u32) -> u64 {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.parse().ok())
        .unwrap()
}

/// The one child of this process that is a spawner.
fn spawner_of(_served: &Served) -> u32 {
    children_of(std::process::id())
        .into_iter()
        .find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains(session_adapter::engine::sandbox::SPAWNER_ARGUMENT))
        })
        .unwrap()
}

/// Waits until every job has been cleaned up after, and its keeper collected.
async fn settled(served: &Served) {
    let spawner = spawner_of(served);
    served.settled().await;
    eventually("every keeper is collected", async || {
        children_of(spawner).len() as u64 == served.number("/warm/waiting").await
    })
    .await;
}

/// Medians of `print(42)` through the engine and as a bare program, taken in turns so that both
/// see the same machine.
async fn median_of_prints(served: &Served) -> (Duration, Duration) {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..50 {
        let begun = Instant::now();
        assert_eq!(served.run("python", "print(42)").await["stdout"], "42\n");
        times[0].push(begun.elapsed());
        let begun = Instant::now();
        bounded_command("python3")
            .args(["-c", "print(42)"])
            .output()
            .unwrap();
        times[1].push(begun.elapsed());
    }
    let [through, bare] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    (through, bare)
}
