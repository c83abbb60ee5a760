//! What an execution costs: `cargo bench --bench execution`.
//!
//! A program that prints 42 goes through the adapter and through the engine, with an interpreter
//! that was started ahead and with one that was not, and is run by the bare interpreter, in turns,
//! so that a noisy machine disturbs all alike. One client asks when interpreters wait again, eight
//! ask without a pause. Then there are 500 MB more in this process, which is the engine's own: the
//! jobs are started by another process, that must not cost more.
//!
//! `EXECUTION_PRELOAD=numpy,pandas` names modules to be imported: by each program, and ahead of it
//! by the interpreters that wait.
//!
//! `EXECUTION_PISTON=127.0.0.1:2000` names a real Piston with Python, which is asked for the same.
//!
//! First comes the CPU time of jobs, which `cargo bench --bench execution -- cpu` reports alone;
//! `EXECUTION_OTHER` names another build of the adapter to compare with.

#![allow(clippy::expect_used)]

mod cpu;

#[path = "../../tests/support/mod.rs"]
mod support;
#[path = "../wire/mod.rs"]
mod wire;

use std::net::SocketAddr;
use std::process::Stdio;
use std::task::Poll;
use std::time::{Duration, Instant};

use serde_json::json;
use session_adapter::engine::{Engine, EngineConfig};
use support::Adapter;
use support::raw::{self, Connection};
use tokio::net::TcpListener;
use tokio::process::Command;

const ROUNDS: usize = 200;
/// Imports take long.
const IMPORT_ROUNDS: usize = 20;
const CLIENTS: usize = 8;
const WARM: usize = 4;
const BALLAST: usize = 500 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo test --benches` only wants to know that this builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    cpu::report().await;
    if std::env::args().any(|argument| argument == "cpu") {
        return;
    }
    let (cold, warm) = (Side::start(0, "").await, Side::start(WARM, "").await);
    println!(
        "{ROUNDS} rounds in turns; ms: 10th percentile, median, 90th; ratio of medians to bare"
    );
    for (language, code, path) in [
        ("python", "print(42)", "/python/execute"),
        ("javascript", "console.log(42)", "/javascript/execute"),
    ] {
        let work = Work::of(&cold, language, code, path).await;
        println!("{language}, {}, one client:", work.program);
        let light = work.one_client(&cold, &warm, ROUNDS).await;
        light.print();
        if language == "python" {
            let ballast = vec![1_u8; BALLAST];
            println!("{language}, one client, with 500 MB more in the engine's process:");
            work.one_client(&cold, &warm, ROUNDS).await.print();
            drop(ballast);
        }
        println!("{language}, {CLIENTS} clients:");
        work.many_clients(&cold, &warm).await;
    }
    if let Ok(piston) = std::env::var("EXECUTION_PISTON") {
        let piston = piston.parse().expect("ADDRESS:PORT of a Piston");
        let work = Work::of(&cold, "python", "print(42)", "/python/execute").await;
        println!("python, the Piston at {piston}; one client, then {CLIENTS}:");
        work.elsewhere(piston).await;
    }
    if let Ok(modules) = std::env::var("EXECUTION_PRELOAD") {
        let warm = Side::start(WARM, &modules).await;
        let code = format!("import {modules}\nprint(42)");
        let work = Work::of(&cold, "python", &code, "/python/execute").await;
        println!("python that imports {modules}, one client:");
        work.one_client(&cold, &warm, IMPORT_ROUNDS).await.print();
    }
}

/// An engine and an adapter in front of it.
struct Side {
    engine: SocketAddr,
    adapter: SocketAddr,
    warm: usize,
    _adapter: Adapter,
}

impl Side {
    async fn start(warm: usize, preload: &str) -> Self {
        let engine = Engine::start(EngineConfig {
            program: env!("CARGO_BIN_EXE_session-adapter").into(),
            max_jobs: CLIENTS,
            warm,
            preload: preload
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            ..EngineConfig::default()
        })
        .expect("an engine");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        tokio::spawn(async move { engine.serve(listener, std::future::pending()).await });
        let adapter = Adapter::start(Adapter::config(format!("http://{addr}"))).await;
        adapter.ready().await;
        Self {
            engine: addr,
            adapter: adapter.addr,
            warm,
            _adapter: adapter,
        }
    }

    /// Waits until as many interpreters wait as there can be.
    async fn full(&self) {
        loop {
            let about = raw::get(self.engine, "/").await.json();
            if about["warm"]["waiting"] == self.warm && about["jobs"]["running"] == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A program, and the requests that run it.
struct Work {
    /// The interpreter that jobs get, so that the same one is measured bare.
    program: String,
    flag: &'static str,
    code: String,
    to_engine: Vec<u8>,
    to_adapter: Vec<u8>,
}

impl Work {
    async fn of(side: &Side, language: &str, code: &str, path: &str) -> Self {
        let (file, flag, which) = match language {
            "python" => ("main.py", "-c", "import sys; print(sys.executable)"),
            _ => ("main.js", "-e", "console.log(process.execPath)"),
        };
        let headers = [("Content-Type", "application/json")];
        let body = |code: &str| {
            let file = json!({"name": file, "content": code});
            json!({"language": language, "version": "*", "files": [file]}).to_string()
        };
        let asked = raw::post(side.engine, "/api/v2/execute", &body(which)).await;
        let program = asked.json()["run"]["stdout"]
            .as_str()
            .map(str::trim)
            .map(str::to_owned);
        let code_body = json!({ "code": code }).to_string();
        Self {
            program: program.expect("a path"),
            flag,
            code: code.to_owned(),
            to_engine: raw::request("POST", "/api/v2/execute", &headers, &body(code)),
            to_adapter: raw::request("POST", path, &headers, &code_body),
        }
    }

    async fn one_client(&self, cold: &Side, warm: &Side, rounds: usize) -> Times {
        let mut connections = Vec::new();
        for (side, request) in self.ways(cold, warm) {
            connections.push((Connection::to(side).await, request));
        }
        // What is asked for often is what interpreters are started for.
        for (connection, request) in &mut connections {
            for _ in 0..3 {
                time(connection, request).await;
            }
        }
        let mut times = Times::default();
        for _ in 0..rounds {
            let [bare, ways @ ..] = &mut times.0;
            warm.full().await;
            bare.push(self.bare().await);
            for ((connection, request), times) in connections.iter_mut().zip(ways) {
                warm.full().await;
                times.push(time(connection, request).await);
            }
        }
        times
    }

    /// The ways of [`Times`], but for the first.
    fn ways(&self, cold: &Side, warm: &Side) -> [(SocketAddr, &Vec<u8>); 4] {
        [
            (cold.engine, &self.to_engine),
            (warm.engine, &self.to_engine),
            (cold.adapter, &self.to_adapter),
            (warm.adapter, &self.to_adapter),
        ]
    }

    async fn bare(&self) -> Duration {
        let began = Instant::now();
        let output = Command::new(&self.program)
            .args([self.flag, &self.code])
            .stdin(Stdio::null())
            .output()
            .await
            .expect("an interpreter");
        let took = began.elapsed();
        assert_eq!(output.stdout, b"42\n");
        took
    }

    /// The same by another engine.
    async fn elsewhere(&self, engine: SocketAddr) {
        let lane = |rounds| async move {
            let mut connection = Connection::to(engine).await;
            let mut times = Vec::new();
            for _ in 0..rounds {
                times.push(time(&mut connection, &self.to_engine).await);
            }
            times
        };
        for clients in [1, CLIENTS] {
            let began = Instant::now();
            let times = all((0..clients).map(|_| lane(ROUNDS / clients))).await;
            println!(
                "  {:7.2} {:7.2} {:7.2}  {:.0} a second",
                percentile(&times, 10),
                percentile(&times, 50),
                percentile(&times, 90),
                times.len() as f64 / began.elapsed().as_secs_f64()
            );
        }
    }

    async fn many_clients(&self, cold: &Side, warm: &Side) {
        let mut times = Times::default();
        let mut rates = [0.0; 5];
        for _ in 0..2 {
            warm.full().await;
            let [bare, ways @ ..] = &mut times.0;
            let began = Instant::now();
            let lanes = (0..CLIENTS).map(|_| async {
                let mut times = Vec::new();
                for _ in 0..ROUNDS / CLIENTS {
                    times.push(self.bare().await);
                }
                times
            });
            bare.extend(all(lanes).await);
            let mut took = vec![began.elapsed()];
            for ((side, request), times) in self.ways(cold, warm).into_iter().zip(ways) {
                warm.full().await;
                let began = Instant::now();
                let lanes = (0..CLIENTS).map(|_| async move {
                    let mut connection = Connection::to(side).await;
                    let mut times = Vec::new();
                    for _ in 0..ROUNDS / CLIENTS {
                        times.push(time(&mut connection, request).await);
                    }
                    times
                });
                times.extend(all(lanes).await);
                took.push(began.elapsed());
            }
            for (rate, took) in rates.iter_mut().zip(took) {
                *rate += (ROUNDS / CLIENTS * CLIENTS) as f64 / took.as_secs_f64() / 2.0;
            }
        }
        times.print();
        let rates: Vec<String> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
        println!("  executions a second, in this order: {}", rates.join(", "));
    }
}

/// What all of these come to, side by side.
async fn all(lanes: impl Iterator<Item = impl Future<Output = Vec<Duration>>>) -> Vec<Duration> {
    let mut lanes: Vec<_> = lanes.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        lanes.retain_mut(|lane| match lane.as_mut().poll(context) {
            Poll::Ready(times) => {
                done.extend(times);
                false
            }
            Poll::Pending => true,
        });
        if lanes.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    done
}

const WAYS: [&str; 5] = [
    "bare interpreter",
    "engine, cold",
    "engine, warm",
    "adapter, cold",
    "adapter, warm",
];

#[derive(Default)]
struct Times([Vec<Duration>; 5]);

impl Times {
    fn print(&self) {
        let [bare, ..] = &self.0;
        for (name, times) in WAYS.iter().zip(&self.0) {
            println!(
                "  {name:<18} {:7.2} {:7.2} {:7.2}  {:.2}",
                percentile(times, 10),
                percentile(times, 50),
                percentile(times, 90),
                percentile(times, 50) / percentile(bare, 50)
            );
        }
    }
}

fn percentile(times: &[Duration], percent: usize) -> f64 {
    let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    times[(times.len() - 1) * percent / 100]
}

async fn time(connection: &mut Connection, request: &[u8]) -> Duration {
    let began = Instant::now();
    connection.send(request).await;
    let response = connection.read_response().await;
    let took = began.elapsed();
    assert_eq!(response.json()["run"]["stdout"], "42\n");
    took
}
