//! How the adapter's time grows: `cargo bench --bench growth`.
//!
//! With the size of a source, of its output, with the session's files, with the clients at a time,
//! and with the executions that the session has seen. The stand-in for Piston answers at once, so
//! that what grows is the adapter. Growth is linear or slower where the last column stays or falls.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../wire/mod.rs"]
mod wire;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use wire::process::Started;
use wire::stats::quantile;
use wire::{Wire, post};

/// Largest body and output in bytes that the adapter is told to allow.
const MOST: usize = 128 << 20;

/// Points of one kind: what grew, and the time in microseconds.
struct Series {
    /// What grew, with its unit.
    name: &'static str,
    /// The points, the smallest first.
    points: Vec<(f64, f64)>,
}

fn main() {
    // `cargo test --benches` only wants to know that this builds.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let series = [sources(), outputs(), files(), clients(), age()];
    for series in &series {
        print(series);
    }
}

fn print(series: &Series) {
    println!(
        "\n{:<28}{:>12}{:>16}",
        series.name, "median µs", "µs for each"
    );
    for (grown, time) in &series.points {
        println!("{grown:<28}{time:>12.0}{:>16.4}", time / grown);
    }
}

/// An adapter of its own for each kind of growth.
struct Bench {
    wire: Wire,
    addr: SocketAddr,
    process: Started,
    data: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let mut wire = Wire::new("42\n");
        let data = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = free.local_addr().unwrap();
        drop(free);
        let child = Command::new(env!("CARGO_BIN_EXE_session-adapter"))
            .args(["--engine", "piston", "--listen", &addr.to_string()])
            .args(["--piston-url", &format!("http://{}", wire.piston)])
            .args([
                "--max-body",
                &MOST.to_string(),
                "--output-limit",
                &MOST.to_string(),
            ])
            .args(["--max-jobs", "1024", "--queue", "1024"])
            .arg("--data-dir")
            .arg(data.path())
            .stderr(Stdio::null())
            .spawn()
            .expect("the adapter");
        let process = Started(child);
        let began = Instant::now();
        while TcpStream::connect(addr).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "no adapter");
        }
        wire.serve(Duration::from_millis(500));
        let mut bench = Self {
            wire,
            addr,
            process,
            data,
        };
        bench.time(&program("print(42)"), 1, 100);
        bench
    }

    /// The median of so many requests, in microseconds.
    fn time(&mut self, request: &Arc<[u8]>, connections: usize, requests: usize) -> f64 {
        let mut drive = self.wire.drive(self.addr, request, connections, requests);
        assert_eq!(drive.refused, 0, "some were refused");
        quantile(&mut drive.times, 0.5)
    }
}

fn program(code: &str) -> Arc<[u8]> {
    post("/code/execute", &json!({"code": code}).to_string())
}

/// Fewer of what takes long.
fn times(bytes: usize) -> usize {
    (20_000_000 / bytes.max(1)).clamp(7, 200)
}

fn sources() -> Series {
    let mut bench = Bench::new();
    let sizes = [1_000, 10_000, 100_000, 1_000_000, 10_000_000];
    let point = |bytes: usize| {
        let line = "x = 'a line of the program'\n";
        let request = program(&line.repeat(bytes.div_ceil(line.len())));
        (bytes as f64, bench.time(&request, 1, times(bytes)))
    };
    Series {
        name: "bytes of source",
        points: sizes.map(point).to_vec(),
    }
}

fn outputs() -> Series {
    let mut bench = Bench::new();
    let sizes = [1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
    let point = |bytes: usize| {
        let line = "a line of the output\n";
        bench.wire.prints(&line.repeat(bytes.div_ceil(line.len())));
        let time = bench.time(&program("print(42)"), 1, times(bytes));
        (bytes as f64, time)
    };
    let points = sizes.map(point).to_vec();
    println!(
        "after 100 MB of output: {:.0} MB resident",
        bench.process.resident()
    );
    Series {
        name: "bytes of output",
        points,
    }
}

/// Files of 1 kB, which go along with each execution on an engine that does not share them.
fn files() -> Series {
    let mut bench = Bench::new();
    let mut there = 0;
    let point = |count: usize| {
        while there < count {
            write(bench.data.path(), there);
            there += 1;
        }
        let time = bench.time(&program("print(42)"), 1, times(count * 10_000));
        (count as f64, time)
    };
    Series {
        name: "files",
        points: [1, 10, 100, 1_000].map(point).to_vec(),
    }
}

fn write(folder: &Path, number: usize) {
    fs::write(folder.join(format!("file-{number}")), [b'x'; 1000]).unwrap();
}

/// The time between two answers, with so many clients at a time.
fn clients() -> Series {
    let mut bench = Bench::new();
    let point = |clients: usize| {
        let request = program("print(42)");
        let rate = |_| bench.wire.drive(bench.addr, &request, clients, 2048).rate();
        let mut rates: Vec<f64> = (0..5).map(rate).collect();
        rates.sort_by(f64::total_cmp);
        (clients as f64, clients as f64 * 1e6 / rates[2])
    };
    Series {
        name: "clients at a time",
        points: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].map(point).to_vec(),
    }
}

fn age() -> Series {
    let mut bench = Bench::new();
    let point = |thousand: usize| {
        let time = bench.time(&program("print(42)"), 1, 1000);
        ((thousand * 1000) as f64, time)
    };
    let points = (1..=10).map(point).collect();
    println!(
        "after 10 000 executions: {:.1} MB resident",
        bench.process.resident()
    );
    Series {
        name: "executions before",
        points,
    }
}
