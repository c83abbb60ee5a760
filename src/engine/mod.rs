//! The embedded engine: a server of Piston's API that needs no privileges.
//!
//! `POST /api/v2/execute`, `GET /api/v2/runtimes` and `GET /api/v2/packages` behave as recorded from
//! Piston 3.1.1. A request becomes a job: a fresh directory with the request's files, a compile stage
//! if the language has one, and a run stage. Each stage's end is reported in Piston's terms. The
//! [`sandbox`] runs and contains the job.
//!
//! `fixtures/README.md` lists the deviations from Piston and the reasons for them. The extensions of
//! requests are the optional members of [`ExecuteRequest`](crate::piston::ExecuteRequest) that it says
//! Piston ignores. `GET /` reports the sandbox's layers and the number of jobs.
//!
//! The engine must not know Azure's API or the adapter, which talks to it over HTTP as to any Piston.

mod config;
mod discovery;
#[doc(hidden)]
pub mod fuzzing;
mod job;
mod json;
mod kernel;
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
use tokio::sync::{Semaphore, watch};

pub use config::{EngineConfig, KernelSettings};
pub use runtimes::TableError;

use crate::data_dir::{DataDir, DataDirError, ReservedFor};
use crate::limiter::ConcurrencyLimiter;
use crate::piston::Runtime;
use discovery::{Discovery, search_path};
use kernel::table::Kernels;
use pool::Pool;
use sandbox::{SandboxReport, SandboxStartError, SpawnerHandle};
use state::EngineState;

/// Why an engine could not be started or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The table of runtimes cannot be used.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The sandbox cannot be started.
    #[error("the engine's sandbox cannot be started: {0}")]
    Sandbox(#[from] SandboxStartError),
    /// Layers are missing without which hostile code is not contained, and
    /// [`EngineConfig::allow_weak_sandbox`] is not set.
    #[error(
        "jobs cannot be contained here, for want of: {missing}{hint}; --allow-weak-sandbox runs them all \
         the same, for code that you would run yourself"
    )]
    WeakSandbox {
        /// The missing layers, as text.
        missing: String,
        /// What else can be done, as text.
        hint: String,
    },
    /// The process that starts the jobs has ended. The text is its exit status.
    #[error("the engine's spawner ended unexpectedly: {0}")]
    SpawnerEnded(String),
}

/// A running engine. Clones share it; dropping the last one ends every job.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<EngineState>,
}

impl Engine {
    /// Starts the spawner, blocking for some milliseconds. Needs no async runtime.
    ///
    /// # Errors
    /// If the table of runtimes or the data directory cannot be used, or the sandbox cannot be started
    /// or is too weak.
    pub fn start(mut config: EngineConfig) -> Result<Self, EngineError> {
        config.access.origins.clear();
        let table = runtimes::load(config.runtimes.as_deref())?;
        let data_dir = config.data_dir.as_deref();
        let data_dir = data_dir
            .map(|path| DataDir::open(path, config.adopt_data_dir))
            .transpose()?;
        let lock = data_dir.as_ref().map(DataDir::lock);
        let spawner = SpawnerHandle::start(&config.program, &config.setup(), lock)?;
        let missing = &spawner.report.missing;
        if !missing.is_empty() && !config.allow_weak_sandbox {
            return Err(EngineError::WeakSandbox {
                missing: missing.join(", "),
                hint: spawner
                    .report
                    .hint()
                    .map_or_else(String::new, |hint| format!("; {hint}")),
            });
        }
        if let Some(data_dir) = &data_dir {
            let server = spawner.service.map(|ids| ReservedFor {
                uid: ids.service,
                gid: ids.session,
            });
            data_dir.mark(server)?;
        }
        let path = search_path(spawner.report.own_users);
        // If jobs were not kept apart, an earlier job could tamper with the interpreter of a later one, and the
        // limit on processes would depend on how many the user has when a program is started.
        let warm = if spawner.report.separates_jobs() {
            config.warm
        } else {
            0
        };
        Ok(Self {
            inner: Arc::new(EngineState {
                limiter: ConcurrencyLimiter::new(config.max_jobs, config.queue),
                pool: Pool::new(warm),
                session_turn: Arc::new(Semaphore::new(1)),
                kernels: Kernels::new(config.kernels.clone()),
                config,
                spawner,
                _data_dir: data_dir,
                runtimes: Discovery::new(table),
                path,
                stop: watch::Sender::new(false),
            }),
        })
    }

    /// Serves Piston's API until `shutdown` resolves, then finishes the requests in flight. Connections
    /// are accepted at once; requests that need the runtimes wait until these have been probed.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let engine = Arc::clone(&self.inner);
        tokio::spawn(async move {
            engine.installed().await;
            // The task must not keep the engine alive when its last owner drops it.
            let weak = Arc::downgrade(&engine);
            drop(engine);
            tokio::join!(refill::refill(weak.clone()), kernel::cells::maintain(weak));
        });
        server::serve(Arc::clone(&self.inner), listener, shutdown).await;
    }

    /// The runtimes that were found on this machine. The first call probes them.
    pub async fn runtimes(&self) -> Vec<Runtime> {
        self.inner.runtimes().await
    }

    /// The layers that contain jobs on this machine.
    pub fn sandbox(&self) -> &SandboxReport {
        &self.inner.spawner.report
    }

    /// The parent of the jobs' directories. It is empty while there are no jobs.
    pub fn work_dir(&self) -> &std::path::Path {
        &self.inner.spawner.work
    }

    /// The directory that all jobs may read and write: the configured one, or else a temporary one that
    /// is deleted with the engine.
    pub fn data_dir(&self) -> &std::path::Path {
        &self.inner.spawner.data_dir
    }

    /// Gives up root for good if jobs have users of their own: this process changes to a user that no job
    /// has, and accesses files as the session's user, who owns what jobs leave in the data directory. To be
    /// called once, after the ports are bound and before any other thread accesses files. Returns that user's id, or `None` if there was nothing to give up. In both cases other
    /// processes of its user can no longer inspect this one.
    ///
    /// # Errors
    /// If the kernel refuses the change. The process must not go on then.
    pub fn drop_privileges(&self) -> std::io::Result<Option<u32>> {
        if let Some(ids) = self.inner.spawner.service
            && !sandbox::become_service(ids)?
        {
            tracing::warn!(
                "this kernel cannot access files as another user: uploads are not the session's user's"
            );
        }
        // Jobs that share this process's user must not be able to trace it.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        Ok(self.inner.spawner.service.map(|ids| ids.service))
    }

    /// Waits until no more jobs can be started, and returns the reason. Running jobs may still end by
    /// themselves.
    pub async fn failed(&self) -> EngineError {
        EngineError::SpawnerEnded(self.inner.spawner.ended().await)
    }

    /// Ends every job that runs now or is started later. Each is reported as if SIGKILL had ended its
    /// program.
    pub fn kill_all(&self) {
        self.inner.stop.send_replace(true);
    }
}

/// Deletes the directories for jobs that engines of this user left when they were killed. Starting an
/// engine does so, too.
pub fn delete_abandoned() {
    // What cannot be read now may be at the next start.
    let _ = crate::tree::delete_abandoned(&crate::tree::temp_dir(), sandbox::WORK_PREFIX);
}

/// The runtimes that an engine with this configuration finds on this machine.
///
/// # Errors
/// As [`Engine::start`].
pub async fn discover(config: EngineConfig) -> Result<Vec<Runtime>, EngineError> {
    Ok(Engine::start(config)?.runtimes().await)
}
