//! The state that all requests to an engine share. It knows neither HTTP nor how a job is run.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use crate::data_dir::DataDir;
use crate::limiter::ConcurrencyLimiter;
use crate::piston::{Jobs, KernelsStatus, Runtime};

use super::config::EngineConfig;
use super::discovery::Discovery;
use super::job::JobContext;
use super::kernel::table::Kernels;
use super::pool::{Pool, PoolStats};
use super::runtimes::Installed;
use super::sandbox::{SandboxReport, SpawnerHandle};

/// The body of `GET /`.
#[derive(Debug, serde::Serialize)]
pub(super) struct EngineStatus<'a> {
    message: &'static str,
    sandbox: &'a SandboxReport,
    jobs: Jobs,
    warm: PoolStats,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernels: Option<KernelsStatus>,
}

#[derive(Debug)]
pub(super) struct EngineState {
    pub(super) config: EngineConfig,
    pub(super) limiter: ConcurrencyLimiter,
    /// Fields are dropped in this order: idle interpreters end before the spawner.
    pub(super) pool: Pool,
    /// One permit: of the programs that run at the same time, one is the session's user.
    pub(super) session_turn: Arc<Semaphore>,
    pub(super) kernels: Kernels,
    pub(super) spawner: SpawnerHandle,
    /// Holds the lock on a configured data directory.
    pub(super) _data_dir: Option<DataDir>,
    pub(super) runtimes: Discovery,
    pub(super) path: Vec<PathBuf>,
    pub(super) stop: watch::Sender<bool>,
}

impl EngineState {
    pub(super) fn about(&self) -> EngineStatus<'_> {
        EngineStatus {
            message: concat!(
                "session-adapter embedded engine v",
                env!("CARGO_PKG_VERSION")
            ),
            sandbox: &self.spawner.report,
            jobs: Jobs {
                running: self.limiter.running(),
                waiting: self.limiter.waiting(),
            },
            warm: self.pool.stats(),
            kernels: self.kernels.status(),
        }
    }

    /// The installed runtimes, as Piston lists them. The first call probes them.
    pub(super) async fn runtimes(&self) -> Vec<Runtime> {
        self.installed()
            .await
            .iter()
            .map(Installed::to_wire)
            .collect()
    }

    pub(super) async fn installed(&self) -> Arc<[Installed]> {
        self.runtimes.installed(&self.job_context()).await
    }

    pub(super) fn job_context(&self) -> JobContext<'_> {
        JobContext {
            config: &self.config,
            spawner: &self.spawner,
            pool: &self.pool,
            session_turn: &self.session_turn,
            path: &self.path,
            stop: self.stop.subscribe(),
        }
    }
}
