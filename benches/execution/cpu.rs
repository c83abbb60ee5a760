//! CPU time of a job beyond that of its program.
//!
//! The engine runs in a separate process, so that the clients' usage does not count. Figures are
//! differences of `/proc/PID/stat`, taken while no job runs: its ticks of 10 ms are spread over all
//! jobs of a round.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::raw;
use crate::wire::process::Started;
use crate::wire::stats::Spread;
use crate::wire::{Wire, post};

const ROUNDS: usize = 7;
const JOBS: usize = 400;
const CLIENTS: [usize; 2] = [1, 8];
/// The unit of times in `/proc`; the same on all architectures that the engine runs on.
const TICK_MS: f64 = 10.0;

/// A program, and what prints the path of the interpreter that jobs get.
struct Program {
    language: &'static str,
    code: &'static str,
    path_code: &'static str,
}

const PROGRAMS: [Program; 2] = [
    Program {
        language: "bash",
        code: ":",
        path_code: "echo $BASH",
    },
    Program {
        language: "python",
        code: "print(42)",
        path_code: "import sys; print(sys.executable)",
    },
];

/// Prints the CPU time of jobs, and how many there are in a second.
pub async fn report() {
    let mut engines = vec![EngineProcess::start(
        "engine",
        env!("CARGO_BIN_EXE_session-adapter"),
    )];
    if let Ok(other) = std::env::var("EXECUTION_OTHER") {
        engines.push(EngineProcess::start("other engine", &other));
    }
    let mut wire = Wire::new("");
    println!(
        "CPU ms a job, beyond that of the program run bare: median (lowest–highest) of {ROUNDS} \
         rounds of {JOBS} jobs, in turns"
    );
    for program in &PROGRAMS {
        let interpreter = engines[0]
            .stdout_of(program.language, program.path_code)
            .await;
        for clients in CLIENTS {
            let mut bare = Vec::new();
            let mut jobs: Vec<Vec<Round>> = engines.iter().map(|_| Vec::new()).collect();
            for _ in 0..ROUNDS {
                bare.push(run_bare(&interpreter, program.code, clients));
                for (engine, rounds) in engines.iter().zip(&mut jobs) {
                    rounds.push(engine.run(&mut wire, program, clients));
                }
            }
            let clients = match clients {
                1 => "1 client".to_owned(),
                several => format!("{several} clients"),
            };
            println!("{interpreter}, {}, {clients}:", program.code);
            let of_bare = |figure: fn(&Bare) -> f64| Spread::of(bare.iter().map(figure));
            println!("  bare: {:.2}", of_bare(|round| round.cpu));
            for (engine, rounds) in engines.iter().zip(&jobs) {
                let both = || rounds.iter().zip(&bare);
                let spread = |figure: fn(&Usage) -> f64| {
                    Spread::of(rounds.iter().map(|round| figure(&round.cpu)))
                };
                let rest = both().map(|(round, bare)| round.cpu.rest - bare.cpu);
                let all = both().map(|(round, bare)| round.cpu.all() - bare.cpu);
                let ratio = both().map(|(round, bare)| round.rate / bare.rate);
                println!(
                    "  {}: {:.2}; its process {:.2}, spawner {:.2}, keepers, inits and programs {:.2}",
                    engine.name,
                    Spread::of(all),
                    spread(|cpu| cpu.engine),
                    spread(|cpu| cpu.spawner),
                    Spread::of(rest),
                );
                println!(
                    "    jobs a second {:.0}, ratio to bare {:.2}",
                    Spread::of(rounds.iter().map(|round| round.rate)),
                    Spread::of(ratio),
                );
            }
            println!("  bare, a second: {:.0}", of_bare(|round| round.rate));
            if let [own, other] = jobs.as_slice() {
                // Round by round, as what else the machine does changes from one to the next.
                let saved = own.iter().zip(other);
                let saved = saved.map(|(own, other)| other.cpu.all() - own.cpu.all());
                println!("  less than the other engine: {:.2}", Spread::of(saved));
            }
        }
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load of the machine: {}", load.trim());
}

/// A round of the program without an engine.
struct Bare {
    /// Milliseconds a run.
    cpu: f64,
    rate: f64,
}

/// Runs the program itself from so many threads. The standard library uses `posix_spawn`.
fn run_bare(interpreter: &str, code: &str, clients: usize) -> Bare {
    let run = || {
        let output = Command::new(interpreter)
            .args(["-c", code])
            .stdin(Stdio::null())
            .output();
        assert!(output.expect("an interpreter").status.success());
    };
    let before = Stat::of(std::process::id()).expect("this process").reaped;
    let began = Instant::now();
    std::thread::scope(|threads| {
        for _ in 0..clients {
            threads.spawn(|| (0..JOBS / clients).for_each(|_| run()));
        }
    });
    let rate = JOBS as f64 / began.elapsed().as_secs_f64();
    let after = Stat::of(std::process::id()).expect("this process").reaped;
    Bare {
        cpu: (after - before) / JOBS as f64,
        rate,
    }
}

/// A round of jobs.
struct Round {
    /// Of one job.
    cpu: Usage,
    rate: f64,
}

/// CPU time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Usage {
    engine: f64,
    spawner: f64,
    /// Everything below the spawner: keepers, inits and programs.
    rest: f64,
}

impl Usage {
    fn all(&self) -> f64 {
        self.engine + self.spawner + self.rest
    }
}

struct EngineProcess {
    name: &'static str,
    process: Started,
    spawner: u32,
    addr: SocketAddr,
}

impl EngineProcess {
    /// Starts an engine that starts no interpreters ahead.
    fn start(name: &'static str, program: &str) -> Self {
        let mut child = Command::new(program)
            .args(["engine", "--piston-url", "http://127.0.0.1:0"])
            .args(["--log-format", "json", "--max-jobs", "8"])
            .args(["--warm", "0", "--kernel", "off"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut lines = BufReader::new(child.stderr.take().expect("a log")).lines();
        let started = lines
            .by_ref()
            .filter_map(|line| serde_json::from_str::<Value>(&line.ok()?).ok())
            .find(|line| line["message"] == "started")
            .unwrap_or_else(|| panic!("{program} does not start"));
        std::thread::spawn(move || lines.for_each(drop));
        let url = started["piston_url"].as_str().unwrap_or_default();
        let addr = url.trim_start_matches("http://").parse();
        let spawner = *children(child.id()).first().expect("a spawner");
        Self {
            name,
            process: Started(child),
            spawner,
            addr: addr.expect("an address"),
        }
    }

    /// What the code prints, without the end of the line.
    async fn stdout_of(&self, language: &str, code: &str) -> String {
        let response = raw::post(self.addr, "/api/v2/execute", &body(language, code)).await;
        let run = response.json();
        let stdout = run["run"]["stdout"].as_str().expect("a response");
        stdout.trim_end().to_owned()
    }

    fn run(&self, wire: &mut Wire, program: &Program, clients: usize) -> Round {
        let request: Arc<[u8]> = post("/api/v2/execute", &body(program.language, program.code));
        let before = self.usage();
        let drive = wire.drive(self.addr, &request, clients, JOBS);
        assert_eq!(drive.refused, 0, "some were refused");
        let after = self.usage();
        let per_job = |figure: fn(&Usage) -> f64| (figure(&after) - figure(&before)) / JOBS as f64;
        Round {
            cpu: Usage {
                engine: per_job(|usage| usage.engine),
                spawner: per_job(|usage| usage.spawner),
                rest: per_job(|usage| usage.rest),
            },
            rate: drive.rate(),
        }
    }

    /// The usage so far, once no process works any more: a job's keeper cleans up after the response.
    fn usage(&self) -> Usage {
        let mut usage = self.usage_now();
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let next = self.usage_now();
            if next == usage {
                return usage;
            }
            usage = next;
        }
    }

    fn usage_now(&self) -> Usage {
        let engine = Stat::of(self.process.0.id()).expect("the engine");
        let spawner = Stat::of(self.spawner).expect("the spawner");
        let mut below = children(self.spawner);
        let mut rest = spawner.reaped;
        while let Some(pid) = below.pop() {
            rest += Stat::of(pid).map_or(0.0, |stat| stat.own + stat.reaped);
            below.extend(children(pid));
        }
        Usage {
            engine: engine.own,
            spawner: spawner.own,
            rest,
        }
    }
}

fn body(language: &str, code: &str) -> String {
    json!({"language": language, "version": "*", "files": [{"content": code}]}).to_string()
}

/// CPU time of a process in milliseconds.
struct Stat {
    own: f64,
    /// That of children, and of their children, that it has waited for.
    reaped: f64,
}

impl Stat {
    /// `None` if the process has ended.
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let time = |at: usize| Some(fields.get(at)?.parse::<f64>().ok()? * TICK_MS);
        // `utime`, `stime`, `cutime` and `cstime` of proc_pid_stat(5), counted from the state.
        Some(Self {
            own: time(11)? + time(12)?,
            reaped: time(13)? + time(14)?,
        })
    }
}

/// The children of all threads of a process.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let lists = tasks.into_iter().flatten().flatten();
    let lists = lists.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<u32>>()
        })
        .collect()
}
