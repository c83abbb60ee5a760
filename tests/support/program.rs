//! The program itself, as its user starts it.

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
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
    log: Option<Lines<BufReader<ChildStderr>>>,
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

impl Program {
    /// Starts it and waits for the line that says so.
    pub async fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments)
            .args(["--listen", "127.0.0.1:0", "--log-format", "json"])
            .args(["--piston-url", "http://127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let mut log = BufReader::new(stderr).lines();
        let started = next_line(&mut log, "started").await;
        Self {
            addr: started["listen"].as_str().unwrap().parse().unwrap(),
            started,
            child,
            log: Some(log),
        }
    }

    /// The next line of the log with this message.
    pub async fn logged(&mut self, message: &str) -> Value {
        let log = self.log.as_mut().expect("a log that is not dropped");
        next_line(log, message).await
    }

    /// Reads the log from now on without a look at it, so that the pipe never fills.
    pub fn drop_log(&mut self) {
        if let Some(mut log) = self.log.take() {
            tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        }
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

async fn next_line(log: &mut Lines<BufReader<ChildStderr>>, message: &str) -> Value {
    let mut seen = String::new();
    let reading = async {
        while let Some(line) = log.next_line().await.unwrap() {
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
