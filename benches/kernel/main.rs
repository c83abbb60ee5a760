//! Cells in kernels, beside Jupyter Kernel Gateway with ipykernel: `cargo bench --bench kernel`.
//!
//! `KERNEL_PATH` names the directory of a python3 with IPython, pandas and jupyter_kernel_gateway, which all
//! users can read. Without it the system's Python runs the cells, and what it lacks is left out.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const CELLS: usize = 500;
const LONG_RUN: usize = 10_000;
const FIRST_CELLS: usize = 20;

/// A running adapter with the embedded engine.
struct Adapter {
    child: Child,
    addr: String,
}

impl Drop for Adapter {
    fn drop(&mut self) {
        // SIGTERM, so that it ends its kernels.
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

impl Adapter {
    fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_session-adapter"));
        command
            .args([
                "--listen",
                "127.0.0.1:0",
                "--piston-url",
                "http://127.0.0.1:0",
            ])
            .args(["--log-format", "json", "--max-kernels", "64"])
            .args(flags)
            .env("PATH", path())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let started = lines
            .by_ref()
            .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
            .find(|line| line["message"] == "started")
            .expect("a start");
        std::thread::spawn(move || lines.for_each(drop));
        let addr = started["listen"].as_str().unwrap().to_owned();
        Self { child, addr }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_nodelay(true).unwrap();
        Client {
            stream: BufReader::new(stream),
        }
    }

    fn about(&self) -> Value {
        self.connect().exchange("GET", "/", "")
    }

    /// Waits until a kernel has been started ahead.
    fn until_spare(&self) {
        while self.about()["kernels"]["spare"] != 1 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn path() -> String {
    let system = std::env::var("PATH").unwrap_or_default();
    match std::env::var("KERNEL_PATH") {
        Ok(first) => format!("{first}:{system}"),
        Err(_) => system,
    }
}

struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn exchange(&mut self, method: &str, path: &str, body: &str) -> Value {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(head.as_bytes()).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    fn cell(&mut self, identifier: &str, code: &str) -> Duration {
        let begun = Instant::now();
        let path = format!("/execute?identifier={identifier}");
        let response = self.exchange("POST", &path, &json!({"code": code}).to_string());
        assert_eq!(response["status"], "Success", "{response}");
        begun.elapsed()
    }
}

fn main() {
    // `cargo test --benches` only wants to know that this builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let adapter = Adapter::start(&[]);
    let mut client = adapter.connect();
    client.cell("first", "x = 0");
    let ipython = adapter.about()["kernels"]["ipython"].clone();
    println!("IPython: {ipython}");
    report("x += 1", times(CELLS, || client.cell("first", "x += 1")));
    report("x", times(CELLS, || client.cell("first", "x")));
    report(
        "print(42)",
        times(CELLS, || client.cell("first", "print(42)")),
    );
    let fresh = r#"{"code":"print(42)"}"#;
    report(
        "fresh process, print(42)",
        times(100, || {
            let begun = Instant::now();
            client.exchange("POST", "/python/execute", fresh);
            begun.elapsed()
        }),
    );
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for identifier in ["one-1", "two-2", "three", "four-4"] {
            let mut client = adapter.connect();
            scope.spawn(move || {
                client.cell(identifier, "x = 0");
                for _ in 0..CELLS {
                    client.cell(identifier, "x += 1");
                }
            });
        }
    });
    let rate = (4 * CELLS) as f64 / begun.elapsed().as_secs_f64();
    println!("cells a second over four identifiers: {rate:.0}");
    let mut number = 0;
    report(
        "first cell of an identifier, with a kernel waiting",
        times(FIRST_CELLS, || {
            adapter.until_spare();
            number += 1;
            client.cell(&format!("new-{number}"), "x = 1")
        }),
    );
    let has_pandas = {
        let body = json!({"code": "import pandas, numpy"}).to_string();
        client.exchange("POST", "/execute?identifier=first", &body)["status"] == "Success"
    };
    if has_pandas {
        let frame = "df = pandas.DataFrame({c: numpy.arange(1000.0) for c in 'abcd'})";
        client.cell("first", frame);
        report(
            "df.describe()",
            times(100, || client.cell("first", "df.describe()")),
        );
    }
    drop(adapter);
    long_run();
    gateway();
}

/// Memory, descriptors and processes before and after many cells.
fn long_run() {
    let adapter = Adapter::start(&["--warm", "0"]);
    let mut client = adapter.connect();
    let figures = "import os\nprint([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmRSS')][0], \
                   len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task')))";
    let mut measure = || {
        let body = json!({"code": figures}).to_string();
        let response = client.exchange("POST", "/execute?identifier=long", &body);
        response["stdout"].as_str().unwrap().trim().to_owned()
    };
    measure();
    let before = measure();
    let adapter_before = resident(adapter.child.id());
    let mut runner = adapter.connect();
    for _ in 0..LONG_RUN {
        runner.cell("long", "x = 1");
    }
    println!(
        "{LONG_RUN} cells: the kernel's RSS in kB, descriptors, threads: {before} before, {} after; \
         the adapter's RSS in kB: {adapter_before} before, {} after",
        measure(),
        resident(adapter.child.id())
    );
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The same cells by Jupyter Kernel Gateway, which a script drives.
fn gateway() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/kernel/gateway.py");
    let status = Command::new("python3")
        .args([script, &CELLS.to_string()])
        .env("PATH", path())
        .status()
        .unwrap();
    if !status.success() {
        println!("Jupyter Kernel Gateway: not measured");
    }
}

fn times(count: usize, mut run: impl FnMut() -> Duration) -> Vec<Duration> {
    run();
    let mut times: Vec<Duration> = (0..count).map(|_| run()).collect();
    times.sort();
    times
}

fn report(what: &str, times: Vec<Duration>) {
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!("{what}: p50 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.99));
}
