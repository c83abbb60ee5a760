//! The program itself, as its user starts it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::command::command;
use super::eventually::PATIENCE;
use super::folder::{open_folder, subfolder};
use super::processes::{children_of, is_running};

/// A running `session-adapter serve` with the embedded engine on free ports, and with folders for
/// temporary files and for data of its own. Dropped, it is killed, and the folders are deleted.
#[derive(Debug)]
pub struct Program {
    /// Where the adapter listens.
    pub addr: SocketAddr,
    /// The line that it wrote at its start.
    pub started: Value,
    child: Child,
    /// The processes that it started: they end by themselves once it is gone.
    helpers: Vec<u32>,
    log: mpsc::UnboundedReceiver<String>,
    // Deleted last.
    _folder: TempDir,
}

const BINARY: &str = env!("CARGO_BIN_EXE_session-adapter");
const ANY_PORT: &str = "http://127.0.0.1:0";

/// Runs the program to its end.
pub async fn run(arguments: &[&str]) -> Output {
    let folder = open_folder();
    let mut command = Command::from(command(BINARY));
    command
        .args(arguments)
        .env("TMPDIR", folder.path())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await;
    output.expect("an end").unwrap()
}

/// Runs Python code by `python/execute`.
pub async fn run_python(program: &Program, code: &str) -> Value {
    let body = serde_json::json!({ "code": code }).to_string();
    let response = super::raw::post(program.addr, "/python/execute", &body).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

impl Program {
    /// Starts it with an empty data directory, and waits for the line that says that it has started.
    pub async fn start(arguments: &[&str]) -> Self {
        Self::start_with_engine(arguments, ANY_PORT).await
    }

    /// The same, with the engine at this URL.
    pub async fn start_with_engine(arguments: &[&str], url: &str) -> Self {
        let folder = open_folder();
        let command = with_data_dir(command(BINARY), &folder, arguments);
        Self::start_by(command, folder, url).await
    }

    /// The same, by a shell that does this before it becomes the program.
    pub async fn start_after(shell: &str, arguments: &[&str]) -> Self {
        let folder = open_folder();
        let mut sh = command("sh");
        sh.args(["-c", &format!("{shell}\nexec \"$0\" \"$@\""), BINARY]);
        let command = with_data_dir(sh, &folder, arguments);
        Self::start_by(command, folder, ANY_PORT).await
    }

    /// The same, with its temporary files in this folder.
    pub async fn start_within(temp: &Path, arguments: &[&str]) -> Self {
        let folder = open_folder();
        let mut command = with_data_dir(command(BINARY), &folder, arguments);
        command.env("TMPDIR", temp);
        Self::start_by(command, folder, ANY_PORT).await
    }

    /// Starts it without a data directory, with its temporary files in this folder.
    pub async fn start_without_data_dir(temp: &Path, arguments: &[&str]) -> Self {
        let mut command = command(BINARY);
        command.args(arguments).env("TMPDIR", temp);
        Self::start_by(command, open_folder(), ANY_PORT).await
    }

    /// Starts it without a data directory, in a mount namespace in which a shell did this before.
    pub async fn start_in_mount_namespace(shell: &str) -> Self {
        let folder = open_folder();
        let mut unshare = command("unshare");
        unshare
            .args(["--mount", "sh", "-c"])
            .args([&format!("{shell} && exec \"$0\" \"$@\""), BINARY])
            .env("TMPDIR", folder.path());
        Self::start_by(unshare, folder, ANY_PORT).await
    }

    async fn start_by(command: std::process::Command, folder: TempDir, url: &str) -> Self {
        let mut child = Command::from(command)
            .args(["--listen", "127.0.0.1:0", "--log-format", "json"])
            .args(["--piston-url", url])
            .stderr(Stdio::piped())
            .kill_on_drop(true)
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
            helpers: children_of(child.id().unwrap()),
            child,
            log,
            _folder: folder,
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

    /// The next line of the log of which this is true.
    pub async fn logged_where(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        next_line(&mut self.log, is_it).await
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

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        // They delete what is in the folder, which cannot be deleted at the same time.
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.helpers.iter().any(|pid| is_running(*pid)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Arguments for a program that keeps its files in a folder, the session's files included unless the
/// arguments say where those are.
fn with_data_dir(
    mut command: std::process::Command,
    folder: &TempDir,
    arguments: &[&str],
) -> std::process::Command {
    command.args(arguments).env("TMPDIR", folder.path());
    if !arguments.contains(&"--data-dir") {
        let data = subfolder(folder.path(), "data");
        command.arg("--data-dir").arg(data);
    }
    command
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
