//! What stands between the clients and the stand-in, one after the other.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use std::io::{Read, Write};

use crate::wire::post;
use crate::wire::process::Started;

/// A way to the stand-in.
pub struct Rival {
    pub name: String,
    /// Where it listens, or the stand-in itself.
    pub addr: SocketAddr,
    /// What it is asked.
    pub request: Arc<[u8]>,
    /// The process, where there is one.
    pub process: Option<Started>,
}

/// How a rival is started.
pub struct Recipe {
    pub name: String,
    pub speaks_azure: bool,
    command: Box<dyn Fn(SocketAddr, SocketAddr) -> Command>,
}

/// As Azure's custom containers are asked.
fn azure() -> Arc<[u8]> {
    post(
        "/python/execute?identifier=demo-1&api-version=2025-10-02-preview",
        r#"{"properties":{"codeInputType":"inline","executionType":"synchronous","code":"print(42)"}}"#,
    )
}

/// The same for Piston.
pub fn piston() -> Arc<[u8]> {
    post(
        "/api/v2/execute",
        r#"{"language":"python","version":"*","files":[{"name":"main.py","content":"print(42)"}],"stdin":"","run_timeout":60000,"run_memory_limit":536870912}"#,
    )
}

impl Recipe {
    /// This build's adapter, or another one.
    pub fn adapter(name: &str, program: &str, engine: &'static str, scratch: &Path) -> Self {
        let program = program.to_owned();
        let log = scratch.join(format!("{name}.log"));
        // Empty: files would go along with each execution.
        let data = scratch.join(format!("{name}.data"));
        fs::create_dir(&data).expect("a data directory");
        Self {
            name: name.to_owned(),
            speaks_azure: true,
            command: Box::new(move |listen, piston| {
                let mut command = Command::new(&program);
                let piston = match engine {
                    "embedded" => "http://127.0.0.1:0".to_owned(),
                    _ => format!("http://{piston}"),
                };
                command
                    .args(["--engine", engine, "--listen", &listen.to_string()])
                    .args(["--piston-url", &piston, "--log-format", "json"])
                    // What bounds the engine is not what is measured.
                    .args(["--max-jobs", "1024", "--queue", "1024"])
                    .arg("--data-dir")
                    .arg(&data)
                    .stderr(fs::File::create(&log).expect("a log"));
                command
            }),
        }
    }

    /// nginx as a plain proxy: one worker, connections kept on both sides, no access log.
    pub fn nginx(scratch: &Path) -> Self {
        let scratch = scratch.to_owned();
        Self {
            name: "nginx".to_owned(),
            speaks_azure: false,
            command: Box::new(move |listen, piston| {
                let config = include_str!("nginx.conf")
                    .replace("LISTEN", &listen.to_string())
                    .replace("PISTON", &piston.to_string());
                fs::write(scratch.join("nginx.conf"), config).expect("a configuration");
                let mut command = Command::new("nginx");
                command.arg("-p").arg(&scratch).args(["-c", "nginx.conf"]);
                command.args(["-e", "nginx.log"]);
                command
            }),
        }
    }

    /// A small adapter for Node.
    pub fn node() -> Self {
        Self {
            name: "node".to_owned(),
            speaks_azure: true,
            command: Box::new(|listen, piston| {
                let mut command = Command::new("node");
                command
                    .arg(concat!(
                        env!("CARGO_MANIFEST_DIR"),
                        "/benches/load/proxy.mjs"
                    ))
                    .args([listen.port().to_string(), piston.port().to_string()]);
                command
            }),
        }
    }

    /// Starts it, and waits for its first 200 on `/health`; also says how long that took.
    pub fn start(&self, piston: SocketAddr) -> (Rival, Duration) {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let addr = free.expect("a free port");
        let mut command = (self.command)(addr, piston);
        let began = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let process = Some(Started(child));
        while !is_healthy(addr) {
            assert!(began.elapsed() < Duration::from_secs(20), "{}", self.name);
        }
        let took = began.elapsed();
        let rival = Rival {
            name: self.name.clone(),
            addr,
            request: if self.speaks_azure {
                azure()
            } else {
                self::piston()
            },
            process,
        };
        (rival, took)
    }
}

fn is_healthy(addr: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(addr) else {
        return false;
    };
    let mut response = [0; 12];
    let asked = stream.write_all(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    asked.is_ok() && stream.read_exact(&mut response).is_ok() && &response == b"HTTP/1.1 200"
}
