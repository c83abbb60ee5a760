//! What the requests of an engine share.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::data_dir::DataDir;
use crate::limiter::ConcurrencyLimiter;
use crate::piston::Jobs;

use super::config::EngineConfig;
use super::discovery::Discovery;
use super::job::JobContext;
use super::pool::{self, Pool};
use super::runtimes::Installed;
use super::sandbox::{SandboxReport, SpawnerHandle};

/// The answer of `GET /`.
#[derive(Debug, serde::Serialize)]
pub(super) struct About<'a> {
    message: &'static str,
    sandbox: &'a SandboxReport,
    jobs: Jobs,
    warm: pool::Count,
}

/// What all requests share.
#[derive(Debug)]
pub(super) struct EngineState {
    pub(super) config: EngineConfig,
    pub(super) limiter: ConcurrencyLimiter,
    /// Dropped ahead of the spawner.
    pub(super) pool: Pool,
    pub(super) spawner: SpawnerHandle,
    /// Locked for as long as this process uses it, where it was given.
    pub(super) _data_dir: Option<DataDir>,
    pub(super) runtimes: Discovery,
    pub(super) path: Vec<PathBuf>,
    pub(super) stop: watch::Sender<bool>,
}

impl EngineState {
    /// What `GET /` says.
    pub(super) fn about(&self) -> About<'_> {
        About {
            message: concat!(
                "session-adapter embedded engine v",
                env!("CARGO_PKG_VERSION")
            ),
            sandbox: &self.spawner.report,
            jobs: Jobs {
                running: self.limiter.running(),
                waiting: self.limiter.waiting(),
            },
            warm: self.pool.count(),
        }
    }

    /// The runtimes of this machine, by name and version. The first call asks the programs.
    pub(super) async fn installed(&self) -> Arc<[Installed]> {
        self.runtimes.installed(&self.job_context()).await
    }

    pub(super) fn job_context(&self) -> JobContext<'_> {
        JobContext {
            config: &self.config,
            spawner: &self.spawner,
            pool: &self.pool,
            path: &self.path,
            stop: self.stop.subscribe(),
        }
    }
}
