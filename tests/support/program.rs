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

const BINARY: &str = env!("CARGO_BIN_EXE_session-adapter");

fn command(arguments: &[&str]) -> Command {
    cleared(Command::new(BINARY), arguments)
}

fn cleared(mut command: Command, arguments: &[&str]) -> Command {
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
        Self::start_by(command(arguments), url).await
    }

    /// The same, by a shell that does this before it becomes the program.
    pub async fn start_after(shell: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{shell}\nexec \"$0\" \"$@\""), BINARY]);
        Self::start_by(cleared(command, arguments), "http://127.0.0.1:0").await
    }

    /// The same, with its temporary files in this folder.
    pub async fn start_within(folder: &Path, arguments: &[&str]) -> Self {
        let mut command = command(arguments);
        command.env("TMPDIR", folder);
        Self::start_by(command, "http://127.0.0.1:0").await
    }

    async fn start_by(mut command: Command, url: &str) -> Self {
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
        let started = next_line(&mut log, |line| line["message"] == "started").await;
        Self {
            addr: started["listen"].as_str().unwrap().parse().unwrap(),
            started,
            child,
            log,
        }
    }

    /// The next line of the log with this message.
    pub async fn logged(&mut self, message: &str) -> Value {
        next_line(&mut self.log, |line| line["message"] == message).await
    }

    /// The next line of the log with this message about this execution.
    pub async fn logged_of(&mut self, message: &str, operation_id: &str) -> Value {
        next_line(&mut self.log, |line| {
            line["message"] == message && line["operation_id"] == operation_id
        })
        .await
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

async fn next_line(
    log: &mut mpsc::UnboundedReceiver<String>,
    is_it: impl Fn(&Value) -> bool,
) -> Value {
    let mut seen = String::new();
    let reading = async {
        while let Some(line) = log.recv().await {
            let json: Value = serde_json::from_str(&line).unwrap_or_default();
            if is_it(&json) {
                return json;
            }
            seen += &line;
            seen += "\n";
        }
        panic!("the log ends without that line:\n{seen}");
    };
    timeout(PATIENCE, reading).await.expect("a line in time")
}
