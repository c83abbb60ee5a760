//! The adapter in this process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use session_adapter::access::AccessPolicy;
use session_adapter::adapter::{AdapterConfig, AdapterError, EngineKind, serve};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::eventually::{PATIENCE, eventually};
use super::{StandIn, raw};

/// An adapter on a free port of loopback, with a data directory of its own. Dropped, it is gone at
/// once.
#[derive(Debug)]
pub struct Adapter {
    /// Where it listens.
    pub addr: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), AdapterError>>,
    _data_dir: Option<TempDir>,
}

impl Adapter {
    /// One with the default settings in front of a stand-in, ready to execute.
    pub async fn in_front_of(piston: &StandIn) -> Self {
        Self::with(piston, |_| ()).await
    }

    /// One with other settings in front of a stand-in, ready to execute.
    pub async fn with(piston: &StandIn, change: impl FnOnce(&mut AdapterConfig)) -> Self {
        let mut config = Self::config(piston.url());
        change(&mut config);
        let adapter = Self::start(config).await;
        adapter.ready().await;
        adapter
    }

    /// The default settings with a Piston at `url`. Where they keep the name of no data directory, the
    /// adapter gets one that goes with it.
    pub fn config(url: impl Into<String>) -> AdapterConfig {
        AdapterConfig {
            kernels: false,
            engine: EngineKind::Piston,
            access: AccessPolicy::default(),
            piston_url: url.into(),
            run_timeout: Duration::from_secs(60),
            max_run_timeout: Duration::from_secs(220),
            compile_timeout: Duration::from_secs(20),
            max_body: 16 << 20,
            data_dir: PathBuf::new(),
            max_upload: 128 << 20,
            data_bytes: 2 << 30,
            data_files: 50_000,
            output_limit: 1 << 20,
            memory_limit: 512 << 20,
            max_jobs: 4,
            queue: 64,
            metrics_path: true,
            drain_timeout: Duration::from_secs(25),
        }
    }

    /// One with these settings, whether its engine is there or not.
    pub async fn start(mut config: AdapterConfig) -> Self {
        let mut data_dir = None;
        if config.data_dir.as_os_str().is_empty() {
            let folder = tempfile::tempdir().unwrap();
            config.data_dir = folder.path().to_owned();
            data_dir = Some(folder);
        }
        raise_descriptors();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (shutdown, told) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, config, async {
            // An adapter that is dropped is aborted: only the word itself ends it.
            if told.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        Self {
            addr,
            shutdown: Some(shutdown),
            task,
            _data_dir: data_dir,
        }
    }

    /// The URL of the adapter.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Waits until the adapter says that it is ready.
    pub async fn ready(&self) {
        eventually("the adapter is ready", async || {
            raw::get(self.addr, "/ready").await.status == 200
        })
        .await;
    }

    /// Tells the adapter to stop; it may still have requests to finish.
    pub fn shut_down(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            let _ = shutdown.send(());
        }
    }

    /// Waits until the adapter has ended.
    pub async fn ended(mut self) -> Result<(), AdapterError> {
        let ending = timeout(PATIENCE, &mut self.task);
        ending.await.expect("an adapter that ends").unwrap()
    }
}

/// Lets this process have as many descriptors as it may: it holds both ends of each connection.
fn raise_descriptors() {
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limits.maximum,
        ..limits
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

impl Drop for Adapter {
    fn drop(&mut self) {
        self.task.abort();
    }
}
