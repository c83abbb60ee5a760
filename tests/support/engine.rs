//! A real engine on a free port, and a client that shows every byte.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::eventually::{PATIENCE, eventually};
use super::folder::open_folder;
use serde_json::Value;
use session_adapter::engine::sandbox::Layer;
use session_adapter::engine::{Engine, EngineConfig, KernelSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// The defaults, with this project's own program as the spawner, and as many interpreters that are
/// started ahead as `WARM` says: none unless set. Every test must hold with them and without, and without
/// namespaces, which `WITHOUT_NAMESPACES` leaves out.
pub fn config() -> EngineConfig {
    let warm = std::env::var("WARM").ok().and_then(|n| n.parse().ok());
    EngineConfig {
        program: PathBuf::from(env!("CARGO_BIN_EXE_session-adapter")),
        warm: warm.unwrap_or(0),
        without: match std::env::var("WITHOUT_NAMESPACES") {
            Ok(_) => vec![Layer::Namespaces],
            Err(_) => Vec::new(),
        },
        // Not everybody may have namespaces. What they stop is tested where they are.
        allow_weak_sandbox: !rustix::process::geteuid().is_root(),
        kernels: KernelSettings {
            max_kernels: 0,
            ..KernelSettings::default()
        },
        ..EngineConfig::default()
    }
}

/// A client of an engine.
pub struct Client {
    pub address: SocketAddr,
}

/// An engine that serves until it is dropped, and its client.
pub struct Served {
    pub engine: Engine,
    client: Client,
    _stop: oneshot::Sender<()>,
}

/// Starts an engine on a free port. It works in a folder of its own, which goes with it, unless the
/// settings name another one.
pub async fn serve(mut config: EngineConfig) -> Served {
    let mut folder = None;
    if config.work_dir.is_none() {
        let own = OwnFolder(open_folder().keep());
        config.work_dir = Some(own.0.clone());
        folder = Some(own);
    }
    let engine = Engine::start(config).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = Serving {
        engine: engine.clone(),
        folder,
    };
    tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        serving.engine.serve(listener, stopped).await;
        let Serving { engine, folder } = serving;
        drop(engine);
        let deadline = Instant::now() + PATIENCE;
        while folder.as_ref().is_some_and(|folder| !folder.is_empty()) && Instant::now() < deadline
        {
            sleep(Duration::from_millis(5)).await;
        }
    });
    Served {
        engine,
        client: Client { address },
        _stop: stop,
    }
}

impl Deref for Served {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// What is dropped in this order: the folder is deleted once the engine's spawner has emptied it.
struct Serving {
    engine: Engine,
    folder: Option<OwnFolder>,
}

struct OwnFolder(PathBuf);

impl OwnFolder {
    fn is_empty(&self) -> bool {
        let mut entries = std::fs::read_dir(&self.0).into_iter().flatten();
        entries.next().is_none()
    }
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        // A client that is still connected keeps the engine for a moment.
        let deadline = Instant::now() + Duration::from_secs(2);
        while !self.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A response as it came.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

impl Client {
    /// Sends a request and reads its response.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let mut stream = self.begin(method, path, headers, body).await;
        let mut bytes = Vec::new();
        let reading = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
        reading.expect("a response in time").unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Response {
            status: head.split(' ').nth(1).unwrap_or("0").parse().unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    /// Sends a request and leaves its response to the caller.
    pub async fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> TcpStream {
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        for (name, value) in headers {
            if !name.eq_ignore_ascii_case("content-length") {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        stream
    }

    /// Executes a request.
    pub async fn execute(&self, body: &Value) -> Response {
        let json = [("Content-Type", "application/json")];
        self.send(
            "POST",
            "/api/v2/execute",
            &json,
            body.to_string().as_bytes(),
        )
        .await
    }

    /// A number that `GET /` says.
    pub async fn number(&self, path: &str) -> u64 {
        let about = self.send("GET", "/", &[], b"").await.json();
        about.pointer(path).and_then(Value::as_u64).unwrap()
    }

    /// Waits until so many interpreters wait for a job.
    pub async fn until_warm(&self, count: u64) {
        eventually("interpreters are ready", async || {
            self.number("/warm/waiting").await == count
        })
        .await;
    }

    /// Runs a cell in the kernel of this name and returns the run stage.
    pub async fn run_cell(&self, kernel: &str, code: &str) -> Value {
        let body = serde_json::json!({
            "language": "python", "version": "*", "files": [{"content": code}], "kernel": kernel,
            "working_directory": "data",
        });
        let response = self.execute(&body).await;
        assert_eq!(response.status, 200, "{}", response.body);
        let mut response = response.json();
        assert!(response["kernel"].is_object(), "{response}");
        response["run"].take()
    }

    /// Runs a program of one file and returns the run stage. Where interpreters are started ahead, it
    /// gets one, if not the first time.
    pub async fn run(&self, language: &str, code: &str) -> Value {
        if self.number("/warm/limit").await > 0 {
            self.until_warm(self.number("/warm/limit").await).await;
        }
        let body = serde_json::json!({
            "language": language, "version": "*", "files": [{"content": code}],
        });
        let response = self.execute(&body).await;
        assert_eq!(response.status, 200, "{}", response.body);
        response.json()["run"].take()
    }
}

impl Served {
    /// The parent of the jobs' directories, as jobs see it.
    pub fn jobs_dir(&self) -> String {
        match self.engine.sandbox().namespaces {
            true => "/jobs".to_owned(),
            false => self.engine.work_dir().to_str().unwrap().to_owned(),
        }
    }

    /// The languages of this machine. Those of the README's requirements must be there.
    pub async fn languages(&self) -> BTreeSet<String> {
        let runtimes = self.engine.runtimes().await;
        let found: BTreeSet<_> = runtimes.into_iter().map(|one| one.language).collect();
        for required in ["bash", "c", "python"] {
            assert!(found.contains(required), "no {required}: {found:?}");
        }
        found
    }

    /// Waits until no job runs, every job has been cleaned up after, and as many interpreters wait for
    /// the next ones as may.
    pub async fn settled(&self) {
        eventually("jobs are cleaned up after", async || {
            let about = self.send("GET", "/", &[], b"").await.json();
            let jobs = std::fs::read_dir(self.engine.work_dir()).unwrap().count();
            let waiting = about["warm"]["waiting"].as_u64().unwrap();
            about["jobs"]["running"] == 0
                && jobs as u64 == waiting
                && about["warm"]["limit"] == waiting
        })
        .await;
    }
}
