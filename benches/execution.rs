//! What an execution costs: `cargo bench --bench execution`.
//!
//! A program that prints 42 goes through the adapter and through the engine, and is run by bare
//! `python3`, in turns, so that a noisy machine disturbs all alike. Then the same with 500 MB in
//! this process, which is the engine's own: the jobs are started by another process, that must not
//! cost more.

#![allow(clippy::expect_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use session_adapter::engine::{Engine, EngineConfig};
use support::Adapter;
use support::raw::{self, Connection};
use tokio::net::TcpListener;
use tokio::process::Command;

const ROUNDS: usize = 200;
const BALLAST: usize = 500 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo test --benches` only wants to know that this builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let engine = start_engine().await;
    let adapter = Adapter::start(Adapter::config(format!("http://{engine}"))).await;
    adapter.ready().await;
    let python = python_of(engine).await;
    println!("python3 is {python}; {ROUNDS} rounds; median, and ratio to bare python3");

    let light = round_trip(engine, adapter.addr, &python).await;
    light.print("with little memory");
    let ballast = vec![1_u8; BALLAST];
    let heavy = round_trip(engine, adapter.addr, &python).await;
    heavy.print("with 500 MB");
    println!(
        "engine with 500 MB : engine with little = {:.2}, each as a ratio to bare python3",
        heavy.engine_ratio() / light.engine_ratio()
    );
    drop(ballast);
    throughput(adapter.addr).await;
}

async fn start_engine() -> SocketAddr {
    let engine = Engine::start(EngineConfig {
        program: env!("CARGO_BIN_EXE_session-adapter").into(),
        max_jobs: 8,
        ..EngineConfig::default()
    })
    .expect("an engine");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move { engine.serve(listener, std::future::pending()).await });
    addr
}

/// The interpreter that jobs get, so that the same one is measured bare.
async fn python_of(engine: SocketAddr) -> String {
    let body = json!({
        "language": "python", "version": "*",
        "files": [{"content": "import sys; print(sys.executable)"}],
    });
    let answer = raw::post(engine, "/api/v2/execute", &body.to_string()).await;
    let json = answer.json();
    json["run"]["stdout"]
        .as_str()
        .expect("a path")
        .trim()
        .to_owned()
}

struct Times {
    bare: Vec<Duration>,
    engine: Vec<Duration>,
    adapter: Vec<Duration>,
}

impl Times {
    fn engine_ratio(&self) -> f64 {
        median(&self.engine) / median(&self.bare)
    }

    fn print(&self, title: &str) {
        println!("{title}:");
        for (name, times) in [
            ("bare python3 -c", &self.bare),
            ("engine, port 2001", &self.engine),
            ("adapter, port 2000", &self.adapter),
        ] {
            println!(
                "  {name:<20} {:6.2} ms  {:.2}",
                median(times),
                median(times) / median(&self.bare)
            );
        }
    }
}

fn median(times: &[Duration]) -> f64 {
    let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

async fn round_trip(engine: SocketAddr, adapter: SocketAddr, python: &str) -> Times {
    let piston = json!({
        "language": "python", "version": "*",
        "files": [{"name": "main.py", "content": "print(42)"}],
    });
    let headers = [("Content-Type", "application/json")];
    let to_engine = raw::request("POST", "/api/v2/execute", &headers, &piston.to_string());
    let to_adapter = raw::request(
        "POST",
        "/python/execute",
        &headers,
        r#"{"code":"print(42)"}"#,
    );
    let mut engine = Connection::to(engine).await;
    let mut adapter = Connection::to(adapter).await;
    let mut times = Times {
        bare: Vec::new(),
        engine: Vec::new(),
        adapter: Vec::new(),
    };
    for _ in 0..ROUNDS {
        times.bare.push(bare(python).await);
        times.engine.push(time(&mut engine, &to_engine).await);
        times.adapter.push(time(&mut adapter, &to_adapter).await);
    }
    times
}

async fn bare(python: &str) -> Duration {
    let began = Instant::now();
    let output = Command::new(python)
        .args(["-c", "print(42)"])
        .stdin(Stdio::null())
        .output()
        .await
        .expect("python3");
    let took = began.elapsed();
    assert_eq!(output.stdout, b"42\n");
    took
}

async fn time(connection: &mut Connection, request: &[u8]) -> Duration {
    let began = Instant::now();
    connection.send(request).await;
    let answer = connection.answer().await;
    let took = began.elapsed();
    assert_eq!(answer.json()["run"]["stdout"], "42\n");
    took
}

/// Executions a second with eight clients.
async fn throughput(adapter: SocketAddr) {
    let began = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        clients.spawn(async move {
            let headers = [("Content-Type", "application/json")];
            let body = r#"{"code":"print(42)"}"#;
            let request = raw::request("POST", "/python/execute", &headers, body);
            let mut connection = Connection::to(adapter).await;
            for _ in 0..ROUNDS / 4 {
                time(&mut connection, &request).await;
            }
        });
    }
    while clients.join_next().await.is_some() {}
    let count = (8 * (ROUNDS / 4)) as f64;
    println!(
        "8 clients: {:.0} executions a second",
        count / began.elapsed().as_secs_f64()
    );
}
