//! Given 512 clients at once, a tenth of them hostile, and 2000 connections that send their heads byte
//! by byte, when the flood is over, then nobody well-behaved was told that the session failed, memory
//! stayed within its bound, nothing is left, and the session serves as before.
//!
//! `.ci/flood` runs it: for `FLOOD_SECONDS` (600 unless set), with a table of what was measured.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::Program;
use support::folder::{open_folder, subfolder};
use support::form::{content_type, form, post_head};
use support::http1::{Buffer, Message};
use support::processes::children_of;
use support::raw::request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const CLIENTS: usize = 512;
const HOSTILE: usize = CLIENTS / 10;
const SLOW: usize = 2000;
/// What the adapter, the engine and its spawner may have at their peak, jobs aside.
const MOST_MEMORY_MIB: u64 = 768;
/// An ordinary client that waits longer is stuck.
const PATIENCE: Duration = Duration::from_secs(120);
/// Clients that take the time of `print(42)`; few of their requests find a place.
const PROBES: usize = 8;
const PAUSE: Duration = Duration::from_millis(50);

const FORK_BOMB: &str = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass";
const OUTPUT: &str = "while True: print('\\x01' * 10000)";
const MEMORY: &str = "x = []\nwhile True: x.append(bytearray(1 << 24))";
const FILES: &str = "import os\nn = 0\nwhile True:\n    open(f'{os.getpid()}-{n}', 'wb').write(bytes(1 << 20))\n    n += 1";
const OWN_FILES: &str = "import os, tempfile\nos.chdir(tempfile.gettempdir())\nn = 0\nwhile True:\n    os.mkdir(str(n))\n    os.chdir(str(n))\n    open('x', 'w').write('x')\n    n += 1";
const LARGE_ANSWER: &str = "print('\\x01' * 500000)";

const ATTACKS: [&str; 15] = [
    "fork bomb",
    "output",
    "memory",
    "files in the data directory",
    "folders of the job",
    "half a request",
    "garbage",
    "hang-up",
    "slow body",
    "huge header",
    "slow reader",
    "upload",
    "large body",
    "asynchronous",
    "pipeline that is not read",
];

/// A connection that is opened where there is none.
struct Client {
    addr: SocketAddr,
    open: Option<(TcpStream, Buffer)>,
}

impl Client {
    fn of(addr: SocketAddr) -> Self {
        Self { addr, open: None }
    }

    /// Sends a request and reads its response.
    async fn ask(&mut self, bytes: &[u8]) -> io::Result<Message> {
        let (mut stream, mut buffer) = match self.open.take() {
            Some(open) => open,
            None => {
                let stream = TcpStream::connect(self.addr).await?;
                stream.set_nodelay(true)?;
                (stream, Buffer::default())
            }
        };
        stream.write_all(bytes).await?;
        let response = buffer.response(&mut stream).await?;
        let is_closed = response
            .headers
            .get("connection")
            .is_some_and(|word| word == "close");
        self.open = (!is_closed).then_some((stream, buffer));
        Ok(response)
    }
}

fn post(path: &str, body: &Value) -> Vec<u8> {
    request(
        "POST",
        path,
        &[("Content-Type", "application/json")],
        &body.to_string(),
    )
}

fn status(response: &Message) -> u16 {
    response
        .start
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or_default()
}

/// What clients have seen.
#[derive(Default)]
struct Tally {
    /// By kind of client and response.
    answers: BTreeMap<(&'static str, String), u64>,
    without_retry_after: u64,
    /// Ended because others had filled the data directory.
    ended_by_others: u64,
    /// Answers that a well-behaved client must not get.
    wrong: Vec<String>,
    times: BTreeMap<&'static str, Vec<Duration>>,
    /// By attack.
    longest: BTreeMap<&'static str, Duration>,
}

impl Tally {
    fn count(&mut self, who: &'static str, response: &io::Result<Message>) {
        let what = match response {
            Ok(response) => {
                let code = response.headers.get("x-ms-error-code");
                let code = code.and_then(|code| code.to_str().ok()).unwrap_or_default();
                if status(response) == 429 && !response.headers.contains_key("retry-after") {
                    self.without_retry_after += 1;
                }
                format!("{} {code}", status(response)).trim_end().to_owned()
            }
            Err(error) => format!("{:?}", error.kind()),
        };
        *self.answers.entry((who, what)).or_default() += 1;
    }
}

struct Flood {
    addr: SocketAddr,
    until: Instant,
    next: AtomicUsize,
    tally: Mutex<Tally>,
}

impl Flood {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    fn count(&self, who: &'static str, response: &io::Result<Message>) {
        self.tally.lock().unwrap().count(who, response);
    }

    /// Asks as a well-behaved client does: a response is 200, or 429 and tried again later. True where
    /// it was 200 and as expected.
    async fn ask_well(
        &self,
        who: &'static str,
        client: &mut Client,
        bytes: &[u8],
        expected: &str,
    ) -> bool {
        let response = timeout(PATIENCE, client.ask(bytes)).await;
        let response = response.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        self.count(who, &response);
        match &response {
            Ok(response) if status(response) == 200 => {
                let text = String::from_utf8_lossy(&response.body);
                if text.contains(expected) {
                    return true;
                }
                // Jobs share the data directory: what runs when it passes its limit may be ended.
                if text.contains(r#""outcome":"disk_limit""#) {
                    self.tally.lock().unwrap().ended_by_others += 1;
                    return false;
                }
                self.wrong(format!("{who}: no {expected} in {text}"));
            }
            Ok(response) if status(response) == 429 => sleep(Duration::from_secs(1)).await,
            Ok(response) => {
                let text = String::from_utf8_lossy(&response.body);
                self.wrong(format!("{who}: {} {text}", response.start));
            }
            Err(error) => self.wrong(format!("{who}: {error}")),
        }
        false
    }

    fn wrong(&self, what: String) {
        let wrong = &mut self.tally.lock().unwrap().wrong;
        if wrong.len() < 100 {
            wrong.push(what);
        }
    }

    /// Small programs by every path, again and again.
    async fn ordinary(&self) {
        let mut client = Client::of(self.addr);
        while self.goes_on() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let code = format!("print('it is {number}')");
            let plain = json!({ "code": code });
            let asked = match number % 6 {
                0 => post("/python/execute?identifier=ordinary", &plain),
                1 => post("/code/execute", &json!({ "properties": plain })),
                2 => post("/executions", &plain),
                3 => post(
                    "/shellExecute",
                    &json!({"shellCommand": format!("echo it is {number}")}),
                ),
                4 => post(
                    "/api/v2/execute",
                    &json!({"language": "python", "version": "*", "files": [{"content": code}]}),
                ),
                _ => request("GET", "/files", &[], ""),
            };
            let expected = match number % 6 {
                5 => "\"value\"".to_owned(),
                _ => format!("it is {number}"),
            };
            if self
                .ask_well("ordinary", &mut client, &asked, &expected)
                .await
            {
                sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Asks the same thing with pauses, and takes the time of what was answered with 200.
    async fn probe(&self, what: &'static str, asked: &[u8], expected: &str, most: usize) {
        let mut client = Client::of(self.addr);
        for _ in 0..most {
            if !self.goes_on() {
                return;
            }
            let begun = Instant::now();
            if self.ask_well(what, &mut client, asked, expected).await {
                let mut tally = self.tally.lock().unwrap();
                tally.times.entry(what).or_default().push(begun.elapsed());
            }
            sleep(PAUSE).await;
        }
    }

    async fn hostile(&self) {
        while self.goes_on() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            // What becomes of them is theirs; only that it is over matters.
            let begun = Instant::now();
            let response = timeout(PATIENCE, self.attack(number)).await;
            let kind = ATTACKS[number % ATTACKS.len()];
            let mut tally = self.tally.lock().unwrap();
            let longest = tally.longest.entry(kind).or_default();
            *longest = begun.elapsed().max(*longest);
            drop(tally);
            match response {
                Ok(Some(response)) => self.count("hostile", &response),
                Ok(None) => {}
                Err(_) => self.wrong(format!("{kind} was stuck")),
            }
        }
    }

    async fn attack(&self, number: usize) -> Option<io::Result<Message>> {
        let mut client = Client::of(self.addr);
        let run = |code: &str| {
            post(
                "/python/execute",
                &json!({"code": code, "timeoutInSeconds": 2}),
            )
        };
        match number % ATTACKS.len() {
            0 => Some(client.ask(&run(FORK_BOMB)).await),
            1 => Some(client.ask(&run(OUTPUT)).await),
            2 => Some(client.ask(&run(MEMORY)).await),
            3 => Some(client.ask(&run(FILES)).await),
            4 => Some(client.ask(&run(OWN_FILES)).await),
            5 => {
                let head = b"POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
                self.send_and_wait(head, Duration::from_secs(5)).await;
                None
            }
            6 => {
                let garbage: Vec<u8> = (0..64 << 10).map(|n| (n * 31 % 251) as u8).collect();
                Some(client.ask(&garbage).await)
            }
            7 => {
                self.send_and_wait(
                    &run("import time\ntime.sleep(9)"),
                    Duration::from_millis(30),
                )
                .await;
                None
            }
            8 => Some(self.slow_body().await),
            9 => {
                let header = "x".repeat(1 << 20);
                Some(
                    client
                        .ask(&request("GET", "/health", &[("X-Long", &header)], ""))
                        .await,
                )
            }
            10 => {
                let asked = run(LARGE_ANSWER);
                let _ = timeout(Duration::from_secs(10), self.slow_reader(&asked)).await;
                None
            }
            11 => {
                let name = format!("form-data; name=\"file\"; filename=\"up-{number}\"");
                let body = form(&[(&name, &vec![7; 4 << 20])]);
                let head = post_head("/files", &content_type(), body.len());
                Some(client.ask(&[head, body].concat()).await)
            }
            12 => Some(client.ask(&run(&"#".repeat(15 << 20))).await),
            13 => {
                let body = json!({"code": "print(1)", "executionType": "Asynchronous"});
                Some(client.ask(&post("/executions", &body)).await)
            }
            _ => {
                let asked = request("GET", "/", &[], "").repeat(500);
                self.send_and_wait(&asked, Duration::from_secs(2)).await;
                None
            }
        }
    }

    async fn send_and_wait(&self, bytes: &[u8], time: Duration) {
        if let Ok(mut stream) = TcpStream::connect(self.addr).await {
            let _ = timeout(time, stream.write_all(bytes)).await;
            sleep(time).await;
        }
    }

    async fn slow_body(&self) -> io::Result<Message> {
        let mut stream = TcpStream::connect(self.addr).await?;
        let body = r#"{"code": "print(1)"}"#;
        let head = request("POST", "/python/execute", &[], body);
        let (head, body) = head.split_at(head.len() - body.len());
        stream.write_all(head).await?;
        for byte in body {
            sleep(Duration::from_millis(200)).await;
            stream.write_all(&[*byte]).await?;
        }
        Buffer::default().response(&mut stream).await
    }

    async fn slow_reader(&self, asked: &[u8]) {
        let socket = TcpSocket::new_v4().unwrap();
        let _ = socket.set_recv_buffer_size(4096);
        if let Ok(mut stream) = socket.connect(self.addr).await {
            let _ = stream.write_all(asked).await;
            for _ in 0..50 {
                sleep(Duration::from_millis(200)).await;
                if !matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {
                    return;
                }
            }
        }
    }

    /// Holds connections open with heads that never end.
    async fn slow_head(&self, until: Instant) {
        while Instant::now() < until {
            let Ok(mut stream) = TcpStream::connect(self.addr).await else {
                sleep(PAUSE).await;
                continue;
            };
            let _ = stream
                .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ")
                .await;
            while Instant::now() < until {
                sleep(Duration::from_secs(5)).await;
                if stream.write_all(b"x").await.is_err() {
                    break;
                }
            }
        }
    }

    /// Deletes the session's files from time to time, as its owner would who finds it full.
    async fn janitor(&self) {
        let mut client = Client::of(self.addr);
        while self.goes_on() {
            sleep(Duration::from_secs(10)).await;
            let Ok(list) = client.ask(&request("GET", "/files", &[], "")).await else {
                continue;
            };
            let list: Value = serde_json::from_slice(&list.body).unwrap_or_default();
            for entry in list["value"].as_array().into_iter().flatten() {
                let name = entry["name"].as_str().unwrap_or_default();
                let _ = client
                    .ask(&request("DELETE", &format!("/files/{name}"), &[], ""))
                    .await;
            }
        }
    }
}

/// What there is of a program.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    processes: usize,
    descriptors: usize,
    files: usize,
}

/// A field of a process's status in MiB.
fn mebibytes(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_default().div_ceil(1 << 10)
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => 1 + files_below(&entry.path()),
            _ => 1,
        })
        .sum()
}

impl Left {
    fn of(program: u32, spawner: u32, jobs: &Path) -> Self {
        Self {
            processes: children_of(spawner).len(),
            descriptors: std::fs::read_dir(format!("/proc/{program}/fd"))
                .unwrap()
                .count(),
            files: files_below(jobs),
        }
    }

    /// What there is once no job and no connection but ours is there.
    async fn settled(program: u32, spawner: u32, jobs: &Path, expected: Option<&Self>) -> Self {
        let late = Instant::now() + Duration::from_secs(120);
        let mut last = Self::of(program, spawner, jobs);
        loop {
            sleep(Duration::from_secs(1)).await;
            let now = Self::of(program, spawner, jobs);
            let is_settled = expected.map_or(now == last, |expected| now == *expected);
            if is_settled || Instant::now() > late {
                return now;
            }
            last = now;
        }
    }
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    text.split(' ').next().unwrap().to_owned()
}

/// The share of times below which a part of them are.
fn quantile(times: &mut [Duration], part: f64) -> Duration {
    times.sort();
    let at = (times.len() as f64 * part) as usize;
    times
        .get(at.min(times.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

/// Lines of latency, unloaded and in the flood.
fn latencies(title: &str, before: &mut [Duration], during: &mut [Duration]) {
    for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
        let [unloaded, flooded] = [&mut *before, &mut *during].map(|times| quantile(times, part));
        let ratio = flooded.as_secs_f64() / unloaded.as_secs_f64();
        println!(
            "| {title}, {name} | {unloaded:.1?} unloaded, {flooded:.1?} in the flood: {ratio:.1} × |"
        );
    }
}

/// Times in the engine and beside queue and engine, of the lines that the probe's executions have in
/// the log, and counts of lines by level.
#[derive(Default)]
struct Log {
    in_queue: Vec<Duration>,
    in_engine: Vec<Duration>,
    beside: Vec<Duration>,
    levels: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
}

impl Log {
    fn read(&mut self, line: &str) {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        let level = line["level"].as_str().unwrap_or("none").to_owned();
        if level != "INFO" {
            let fault = format!("{} {}", line["message"], line["error"]);
            *self.faults.entry(fault).or_default() += 1;
        }
        *self.levels.entry(level).or_default() += 1;
        if line["identifier"] == "probe" && line["status"] == 200 {
            let time =
                |name: &str| Duration::from_secs_f64(line[name].as_f64().unwrap_or_default() / 1e3);
            let [queue, engine, total] = ["queue_ms", "engine_ms", "total_ms"].map(time);
            self.in_queue.push(queue);
            self.in_engine.push(engine);
            self.beside.push(total.saturating_sub(queue + engine));
        }
    }
}

#[tokio::test]
async fn a_flood_passes_and_leaves_nothing() {
    let seconds = std::env::var("FLOOD_SECONDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(600);
    let time = Duration::from_secs(seconds);
    let folder = open_folder();
    let [jobs, data] = ["jobs", "data"].map(|name| subfolder(folder.path(), name));
    let arguments = [
        ["--max-run-timeout", "5"],
        ["--data-limit", "64MiB"],
        ["--data-dir", data.to_str().unwrap()],
    ];
    let mut program = Program::start_within(&jobs, &arguments.concat()).await;
    let pid = program.pid().cast_unsigned();
    let spawner = children_of(pid)[0];
    let log = Arc::new(Mutex::new(Log::default()));
    let mut lines = program.take_log();
    let reading = tokio::spawn({
        let log = Arc::clone(&log);
        async move {
            while let Some(line) = lines.recv().await {
                log.lock().unwrap().read(&line);
            }
        }
    });
    let flood = |time| {
        Arc::new(Flood {
            addr: program.addr,
            until: Instant::now() + time,
            next: AtomicUsize::new(0),
            tally: Mutex::default(),
        })
    };
    let health = request("GET", "/health", &[], "");
    let print = post(
        "/python/execute?identifier=probe",
        &json!({"code": "print(42)"}),
    );
    let usual = async |probes: usize| {
        let quiet = flood(Duration::from_secs(120));
        quiet.probe("health", &health, "OK", probes).await;
        quiet.probe("print(42)", &print, "42", probes).await;
        let mut tally = quiet.tally.lock().unwrap();
        assert_eq!(tally.wrong, [""; 0]);
        std::mem::take(&mut tally.times)
    };

    usual(5).await;
    let before = Left::settled(pid, spawner, &jobs, None).await;
    *log.lock().unwrap() = Log::default();
    let load_before = load();
    let mut unloaded = usual(200).await;
    let mut unloaded_log = std::mem::take(&mut *log.lock().unwrap());

    let flood = flood(time);
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let flood = Arc::clone(&flood);
        clients.spawn(async move {
            match number < HOSTILE {
                true => flood.hostile().await,
                false => flood.ordinary().await,
            }
        });
    }
    for _ in 0..SLOW {
        let flood = Arc::clone(&flood);
        clients.spawn(async move {
            sleep(time / 3).await;
            flood.slow_head(begun + time * 2 / 3).await;
        });
    }
    let mut probes = vec![("health", health.clone(), "OK")];
    probes.extend(vec![("print(42)", print.clone(), "42"); PROBES]);
    for (what, asked, expected) in probes {
        let flood = Arc::clone(&flood);
        clients.spawn(async move { flood.probe(what, &asked, expected, usize::MAX).await });
    }
    clients.spawn({
        let flood = Arc::clone(&flood);
        async move { flood.janitor().await }
    });
    clients.join_all().await;
    let took = begun.elapsed();
    let load_during = load();

    let after = Left::settled(pid, spawner, &jobs, Some(&before)).await;
    let mut flooded_log = std::mem::take(&mut *log.lock().unwrap());
    let peak = mebibytes(pid, "VmHWM") + mebibytes(spawner, "VmHWM");
    let mut again = usual(200).await;
    let mut tally = std::mem::take(&mut *flood.tally.lock().unwrap());
    println!(
        "\n| {CLIENTS} clients, {HOSTILE} of them hostile, {SLOW} slow heads, {} s | |\n|---|---|",
        took.as_secs()
    );
    println!("| load before, at the end | {load_before}, {load_during} |");
    for ((who, what), count) in &tally.answers {
        println!("| {who}: {what} | {count} |");
    }
    println!(
        "| 429 without Retry-After | {} |",
        tally.without_retry_after
    );
    println!(
        "| of 200: ended as others filled the data directory | {} |",
        tally.ended_by_others
    );
    println!(
        "| memory at its peak: adapter with engine, spawner | {} MiB, {} MiB; adapter afterwards {} MiB |",
        mebibytes(pid, "VmHWM"),
        mebibytes(spawner, "VmHWM"),
        mebibytes(pid, "VmRSS")
    );
    for what in ["health", "print(42)"] {
        let title = format!("`{what}`");
        let during = tally.times.entry(what).or_default();
        latencies(&title, unloaded.get_mut(what).unwrap(), during);
    }
    latencies(
        "of it in the queue",
        &mut unloaded_log.in_queue,
        &mut flooded_log.in_queue,
    );
    latencies(
        "of it in the engine",
        &mut unloaded_log.in_engine,
        &mut flooded_log.in_engine,
    );
    latencies(
        "of it beside",
        &mut unloaded_log.beside,
        &mut flooded_log.beside,
    );
    for what in ["health", "print(42)"] {
        let times = again.get_mut(what).unwrap();
        println!(
            "| `{what}` afterwards, p50 and p99 | {:.1?}, {:.1?} |",
            quantile(times, 0.5),
            quantile(times, 0.99)
        );
    }
    println!("| longest attacks | {:.1?} |", tally.longest);
    println!("| lines of log | {:?} |", flooded_log.levels);
    for (fault, count) in &flooded_log.faults {
        println!("| log: {fault} | {count} |");
    }
    println!("| before | {before:?} |\n| afterwards | {after:?} |");

    program.signal(Signal::TERM);
    assert_eq!(program.ended().await, Some(0));
    reading.await.unwrap();
    assert_eq!(tally.wrong, [""; 0], "a well-behaved client was let down");
    assert_eq!(tally.without_retry_after, 0);
    assert!(peak <= MOST_MEMORY_MIB, "{peak} MiB");
    assert_eq!(after, before);
    assert_eq!(files_below(&jobs), 0);
    assert!(tally.answers.contains_key(&("ordinary", "200".to_owned())));
}
