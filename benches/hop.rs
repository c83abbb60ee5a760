//! What the adapter adds: `cargo bench --bench hop`.
//!
//! One client on one connection asks a stand-in Piston directly and through the adapter, in turns,
//! so that a noisy machine disturbs both alike. Start-up and memory are measured on the way.

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::raw::{self, Connection};
use support::{Answer, StandIn};
use tokio::net::TcpStream;

const ROUNDS: usize = 40;
const REQUESTS_A_ROUND: usize = 250;
const STARTS: usize = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo test --benches` only wants to know that this builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    for engine in ["piston", "embedded"] {
        start_up(engine).await;
    }
    hop().await;
}

async fn start_up(engine: &str) {
    let mut starts = Vec::new();
    let mut memory = Vec::new();
    for _ in 0..STARTS {
        let began = Instant::now();
        let (mut child, addr) = start(engine, "http://127.0.0.1:0");
        while TcpStream::connect(addr).await.is_err() {}
        assert_eq!(raw::get(addr, "/health").await.status, 200);
        starts.push(began.elapsed());
        tokio::time::sleep(Duration::from_secs(1)).await;
        memory.push(resident_kib(child.id()));
        stop(&mut child);
    }
    starts.sort();
    memory.sort();
    println!(
        "--engine {engine}: first 200 after {:.1} ms (median of {STARTS}, highest {:.1}); \
         {:.1} MB resident when idle",
        millis(starts[STARTS / 2]),
        millis(starts[STARTS - 1]),
        memory[STARTS / 2] as f64 / 1024.0,
    );
}

async fn hop() {
    let piston = StandIn::script()
        .always(Answer::stdout("42\n"))
        .start()
        .await;
    let (mut child, addr) = start("piston", &piston.url());
    while TcpStream::connect(addr).await.is_err() {}
    let asked = serde_json::json!({
        "language": "python", "version": "*", "stdin": "",
        "files": [{"name": "main.py", "content": "print(42)"}],
    });
    let direct = raw::request("POST", "/api/v2/execute", &[JSON], &asked.to_string());
    let through = raw::request(
        "POST",
        "/python/execute",
        &[JSON],
        r#"{"code":"print(42)"}"#,
    );
    let mut to_piston = Connection::to(piston.addr).await;
    let mut to_adapter = Connection::to(addr).await;
    let (mut direct_times, mut through_times) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let direct_round = time(&mut to_piston, &direct).await;
        let through_round = time(&mut to_adapter, &through).await;
        // The first round warms up.
        if round > 0 {
            direct_times.extend(direct_round);
            through_times.extend(through_round);
        }
    }
    direct_times.sort();
    through_times.sort();
    let at = |times: &[Duration], share: f64| times[(times.len() as f64 * share) as usize];
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (direct, through) = (at(&direct_times, share), at(&through_times, share));
        println!(
            "{name}: {:.0} µs directly, {:.0} µs through the adapter: {:.0} µs added",
            micros(direct),
            micros(through),
            micros(through) - micros(direct),
        );
    }
    println!(
        "{:.1} MB resident after {} requests",
        resident_kib(child.id()) as f64 / 1024.0,
        through_times.len(),
    );
    stop(&mut child);
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

async fn time(connection: &mut Connection, request: &[u8]) -> Vec<Duration> {
    let mut times = Vec::with_capacity(REQUESTS_A_ROUND);
    for _ in 0..REQUESTS_A_ROUND {
        let began = Instant::now();
        connection.send(request).await;
        let answer = connection.answer().await;
        times.push(began.elapsed());
        assert_eq!(answer.status, 200);
    }
    times
}

fn start(engine: &str, piston: &str) -> (Child, SocketAddr) {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port");
    let child = Command::new(env!("CARGO_BIN_EXE_session-adapter"))
        .args(["--engine", engine, "--piston-url", piston])
        .args(["--listen", &port.to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("the adapter");
    (child, port)
}

fn stop(child: &mut Child) {
    let pid = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let _ = child.wait();
}

/// The resident memory of a process and those below it.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let own = status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .trim()
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let children =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let below = children
        .split_whitespace()
        .filter_map(|child| child.parse().ok());
    own + below.map(resident_kib).sum::<u64>()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
