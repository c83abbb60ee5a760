//! The embedded engine: a Piston API that needs no privileges.
//!
//! `POST /api/v2/execute`, `GET /api/v2/runtimes` and `GET /api/v2/packages` speak Piston's wire,
//! as recorded from Piston 3.1.1. A request becomes a job: a fresh directory with the request's
//! files, a compile stage where the language has one, a run stage, and Piston's words for how each
//! ended. What runs and contains the job is in [`sandbox`].
//!
//! Where it does otherwise than Piston, and why, is in `fixtures/README.md`. One member of a request
//! is its own: `"working_directory": "data"` makes the run stage start in the data directory instead
//! of the job's. `GET /` says what contains the jobs, and how many there are.

mod config;
mod discovery;
#[doc(hidden)]
pub mod fuzzing;
mod job;
mod json;
mod memory;
mod outcome;
mod output;
mod pool;
mod refill;
mod request;
mod runtimes;
#[allow(unsafe_code, reason = "what contains a job is made of system calls")]
pub mod sandbox;
mod server;
mod state;
mod stdio;

use std::future::Future;
use std::sync::Arc;

use rustix::process::DumpableBehavior;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use config::EngineConfig;
pub use runtimes::TableError;

use crate::data_dir::{DataDir, DataDirError};
use crate::limiter::ConcurrencyLimiter;
use crate::piston::Runtime;
use discovery::{Discovery, search_path};
use pool::Pool;
use runtimes::Installed;
use sandbox::{SandboxReport, SandboxStartError, SpawnerHandle};
use state::EngineState;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The table of runtimes.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The sandbox cannot be started.
    #[error("the engine's sandbox cannot be started: {0}")]
    Sandbox(#[from] SandboxStartError),
    /// Layers are missing without which hostile code is not contained.
    #[error(
        "jobs cannot be contained here, for want of: {missing}; --allow-weak-sandbox runs them all the same"
    )]
    WeakSandbox {
        /// The layers, in words.
        missing: String,
    },
    /// The process that starts the jobs is gone; its end in words.
    #[error("the engine's spawner ended unexpectedly: {0}")]
    SpawnerEnded(String),
}

/// A running engine. Clones are the same engine; when the last one is dropped every job ends.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<EngineState>,
}

impl Engine {
    /// Starts the spawner. Takes some milliseconds, and no runtime.
    ///
    /// # Errors
    /// Where the table of runtimes or the data directory cannot be used, or the sandbox cannot be
    /// started.
    pub fn start(mut config: EngineConfig) -> Result<Self, EngineError> {
        config.access.origins.clear();
        let table = runtimes::load(config.runtimes.as_deref())?;
        let data_dir = config.data_dir.as_deref();
        let data_dir = data_dir
            .map(|path| DataDir::open(path, config.adopt_data_dir))
            .transpose()?;
        let lock = data_dir.as_ref().map(DataDir::lock);
        let spawner = SpawnerHandle::start(&config.program, &config.setup(), lock)?;
        let missing = spawner.report.missing_required_layers();
        if !missing.is_empty() && !config.allow_weak_sandbox {
            return Err(EngineError::WeakSandbox {
                missing: missing.join(", "),
            });
        }
        let path = search_path(spawner.report.own_users);
        // Where jobs share a user, an earlier one could reach into what runs a later one, and how
        // many processes that may have could only be said when it is started.
        let warm = if spawner.report.own_users {
            config.warm
        } else {
            0
        };
        Ok(Self {
            inner: Arc::new(EngineState {
                limiter: ConcurrencyLimiter::new(config.max_jobs, config.queue),
                pool: Pool::new(warm),
                config,
                spawner,
                _data_dir: data_dir,
                runtimes: Discovery::new(table),
                path,
                stop: watch::Sender::new(false),
            }),
        })
    }

    /// Serves Piston's API until `shutdown` is done, and then until the requests under way are
    /// answered. Connections are accepted at once; what needs the runtimes waits until the
    /// programs have told their versions.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let asking = Arc::clone(&self.inner);
        tokio::spawn(async move {
            asking.installed().await;
            // Nothing may keep the engine when its last owner lets go.
            let filling = Arc::downgrade(&asking);
            drop(asking);
            refill::refill(filling).await;
        });
        server::serve(Arc::clone(&self.inner), listener, shutdown).await;
    }

    /// The runtimes that were found on this machine. The first call asks the programs.
    pub async fn runtimes(&self) -> Vec<Runtime> {
        let installed = self.inner.installed().await;
        installed.iter().map(Installed::to_wire).collect()
    }

    /// What contains the jobs on this machine.
    pub fn sandbox(&self) -> &SandboxReport {
        &self.inner.spawner.report
    }

    /// The folder with the jobs' directories, empty when no job is there.
    pub fn work_dir(&self) -> &std::path::Path {
        &self.inner.spawner.work
    }

    /// The folder that all jobs may read and write: the one that was chosen, else one that goes
    /// with the engine.
    pub fn data_dir(&self) -> &std::path::Path {
        &self.inner.spawner.data_dir
    }

    /// Gives up root for good, where jobs have users of their own: this process becomes the user
    /// that can read and write what jobs leave in the data directory. To be called once, after the
    /// ports are bound. Returns the user's id; `None` where there is nothing to give up, but also then
    /// other processes of its user cannot look into this one any more.
    ///
    /// # Errors
    /// Where the change is refused; the process must not go on then.
    pub fn drop_privileges(&self) -> std::io::Result<Option<u32>> {
        if let Some(id) = self.inner.spawner.service {
            sandbox::become_service(id)?;
        }
        // Jobs that share this process's user must not look into it either.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        Ok(self.inner.spawner.service)
    }

    /// Waits until no job can be started any more, and says why. Jobs that run may still end by
    /// themselves.
    pub async fn failed(&self) -> EngineError {
        EngineError::SpawnerEnded(self.inner.spawner.ended().await)
    }

    /// Ends every job that runs now or is started later; each request is answered as if a signal
    /// had ended its program.
    pub fn kill_all(&self) {
        self.inner.stop.send_replace(true);
    }
}

/// The runtimes that an engine with this configuration finds on this machine.
///
/// # Errors
/// As [`Engine::start`].
pub async fn discover(config: EngineConfig) -> Result<Vec<Runtime>, EngineError> {
    Ok(Engine::start(config)?.runtimes().await)
}
