//! The program itself, as its user starts it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running `session-adapter serve` with the embedded engine on free ports. Dropped, it is killed.
#[derive(Debug)]
pub struct Program {
    /// Where the adapter listens.
    pub addr: SocketAddr,
    /// The line that it wrote at its start.
    pub started: Value,
    child: Child,
    log: mpsc::UnboundedReceiver<String>,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_session-adapter"));
    // What the machine happens to set must not reach the program.
    for variable in [
        "PORT",
        "ADAPTER_LISTEN",
        "PISTON_URL",
        "SESSION_ENGINE",
        "LOG_FORMAT",
        "METRICS",
    ] {
        command.env_remove(variable);
    }
    command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs the program to its end.
pub async fn run(arguments: &[&str]) -> Output {
    let output = command(arguments).output();
    timeout(PATIENCE, output).await.expect("an end").unwrap()
}

/// Runs Python code by `python/execute`.
pub async fn run_python(program: &Program, code: &str) -> Value {
    let body = serde_json::json!({ "code": code }).to_string();
    let answer = super::raw::post(program.addr, "/python/execute", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

impl Program {
    /// Starts it and waits for the line that says so.
    pub async fn start(arguments: &[&str]) -> Self {
        Self::start_with_engine(arguments, "http://127.0.0.1:0").await
    }

    /// The same, with the engine at this URL.
    pub async fn start_with_engine(arguments: &[&str], url: &str) -> Self {
        Self::spawn(command(arguments), url).await
    }

    /// The same, with its temporary files in this folder.
    pub async fn start_within(folder: &Path, arguments: &[&str]) -> Self {
        let mut command = command(arguments);
        command.env("TMPDIR", folder);
        Self::spawn(command, "http://127.0.0.1:0").await
    }

    /// The same, with so many descriptors.
    pub async fn start_with_descriptors(most: usize, arguments: &[&str]) -> Self {
        let program = command(arguments);
        let mut limited = Command::new("/bin/sh");
        limited
            .args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &most.to_string()])
            .arg(program.as_std().get_program())
            .args(program.as_std().get_args());
        for (name, _) in program.as_std().get_envs() {
            limited.env_remove(name);
        }
        limited.stdin(Stdio::null()).kill_on_drop(true);
        Self::spawn(limited, "http://127.0.0.1:0").await
    }

    async fn spawn(mut command: Command, url: &str) -> Self {
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--log-format", "json"])
            .args(["--piston-url", url])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        // Read all the time: a program whose log nobody takes stands still.
        let (lines, mut log) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut log = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = log.next_line().await {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        let started = next_line(&mut log, "started").await;
        Self {
            addr: started["listen"].as_str().unwrap().parse().unwrap(),
            started,
            child,
            log,
        }
    }

    /// The next line of the log with this message.
    pub async fn logged(&mut self, message: &str) -> Value {
        next_line(&mut self.log, message).await
    }

    /// The lines of the log from now on, for somebody else to read.
    pub fn take_log(&mut self) -> mpsc::UnboundedReceiver<String> {
        std::mem::replace(&mut self.log, mpsc::unbounded_channel().1)
    }

    /// What else is in the log, up to the end of the program.
    pub async fn rest_of_log(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let reading = async {
            while let Some(line) = self.log.recv().await {
                lines.push(line);
            }
        };
        timeout(PATIENCE, reading).await.expect("an end of the log");
        lines
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.child.id().expect("a running program").cast_signed()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end and tells its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let status = timeout(PATIENCE, self.child.wait()).await;
        status.expect("an end").unwrap().code()
    }
}

async fn next_line(log: &mut mpsc::UnboundedReceiver<String>, message: &str) -> Value {
    let mut seen = String::new();
    let reading = async {
        while let Some(line) = log.recv().await {
            let json: Value = serde_json::from_str(&line).unwrap_or_default();
            if json["message"] == message {
                return json;
            }
            seen += &line;
        }
        panic!("no line '{message}' in the log: {seen}");
    };
    timeout(PATIENCE, reading).await.expect("a line in time")
}
