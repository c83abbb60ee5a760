//! The books: which kernels there are, under which names, and why some have ended.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::super::config::KernelSettings;
use super::super::runtimes::{Installed, choose};
use super::process::{KernelProcess, StartError};
use crate::limiter::QueueFull;
use crate::piston::{KernelLoss, KernelsStatus};

/// The language whose cells run in kernels.
pub(super) const LANGUAGE: &str = "python";
/// Kernels whose names are remembered, whether they run or not.
const MAX_NAMES: usize = 10_000;

/// Why a cell was not run.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum KernelError {
    #[error(transparent)]
    QueueFull(#[from] QueueFull),
    #[error("{0} kernels run cells, and there can be no more")]
    NoneFree(usize),
    #[error("the kernel did not start: {0}")]
    Start(#[from] StartError),
    #[error("the kernel's session was deleted")]
    Deleted,
}

/// A kernel that clients know by its name.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Taken by one cell at a time; tokio's mutex gives it to those who wait in their order.
    pub(super) state: Arc<AsyncMutex<KernelState>>,
    pub(super) waiting: AtomicUsize,
    /// Changes when the running cell is to be killed.
    pub(super) killed: watch::Sender<()>,
}

#[derive(Debug)]
pub(super) struct KernelState {
    pub(super) running: Option<RunningKernel>,
    pub(super) generation: u64,
    /// Why variables were lost, until a response has said so.
    pub(super) loss: Option<KernelLoss>,
    pub(super) used_at: Instant,
}

#[derive(Debug)]
pub(super) struct RunningKernel {
    pub(super) process: KernelProcess,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// The kernels of an engine.
#[derive(Debug)]
pub(in crate::engine) struct Kernels {
    pub(super) settings: KernelSettings,
    named: Mutex<HashMap<String, Arc<Kernel>>>,
    pub(super) free: Arc<Semaphore>,
    /// The kernel that was started ahead.
    spare: Mutex<Option<KernelProcess>>,
    pub(super) spare_wanted: Notify,
    /// IPython's version, known since the first kernel started.
    pub(super) ipython: OnceLock<Option<String>>,
}

impl Kernels {
    pub(in crate::engine) fn new(settings: KernelSettings) -> Self {
        Self {
            named: Mutex::default(),
            free: Arc::new(Semaphore::new(settings.max_kernels)),
            spare: Mutex::default(),
            spare_wanted: Notify::new(),
            ipython: OnceLock::new(),
            settings,
        }
    }

    /// What `GET /` tells of them. `None` if there are none.
    pub(in crate::engine) fn status(&self) -> Option<KernelsStatus> {
        let limit = self.settings.max_kernels;
        (limit > 0).then(|| KernelsStatus {
            limit,
            running: limit - self.free.available_permits(),
            spare: usize::from(self.spare().is_some()),
            ipython: self.ipython.get().cloned().flatten(),
        })
    }

    /// Whether cells of this runtime run in kernels.
    pub(in crate::engine) fn serve(&self, installed: &[Installed], runtime: &Installed) -> bool {
        self.settings.max_kernels > 0
            && choose(installed, LANGUAGE, "*")
                .is_some_and(|python| python.program == runtime.program)
    }

    pub(super) fn named(&self) -> MutexGuard<'_, HashMap<String, Arc<Kernel>>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn spare(&self) -> MutexGuard<'_, Option<KernelProcess>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn kernel(&self, name: &str) -> Arc<Kernel> {
        let mut named = self.named();
        if named.len() >= MAX_NAMES && !named.contains_key(name) {
            named.retain(|_, kernel| {
                let state = kernel.state.try_lock();
                // What a kernel had, and why it was lost, is still to be told.
                state.map_or(true, |state| state.generation > 0)
            });
        }
        let kernel = named.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(Kernel {
                state: Arc::new(AsyncMutex::new(KernelState {
                    running: None,
                    generation: 0,
                    loss: None,
                    used_at: Instant::now(),
                })),
                waiting: AtomicUsize::new(0),
                killed: watch::Sender::new(()),
            })
        });
        Arc::clone(kernel)
    }

    /// Ends the kernels of deleted sessions, and returns once no process of theirs is left.
    pub(in crate::engine) async fn delete_all(&self) {
        let kernels: Vec<_> = self.named().drain().map(|(_, kernel)| kernel).collect();
        for kernel in &kernels {
            kernel.killed.send_replace(());
        }
        for kernel in kernels {
            let running = kernel.state.lock().await.running.take();
            if let Some(running) = running {
                running.process.end().await;
            }
        }
    }

    /// Ends the kernel that has been idle for longest. Returns false if every one runs a cell.
    pub(super) async fn evict(&self) -> bool {
        let kernels: Vec<_> = self.named().values().cloned().collect();
        let idle = kernels.iter().filter_map(|kernel| {
            let state = Arc::clone(&kernel.state).try_lock_owned().ok()?;
            state.running.is_some().then_some(state)
        });
        let Some(mut oldest) = idle.min_by_key(|state| state.used_at) else {
            return false;
        };
        oldest.lose(KernelLoss::Evicted).await;
        true
    }
}

impl KernelState {
    /// Ends the kernel, which the next response tells.
    pub(super) async fn lose(&mut self, loss: KernelLoss) {
        if let Some(running) = self.running.take() {
            tracing::warn!(
                reason = loss.as_str(),
                generation = self.generation,
                "a kernel has ended: its variables are lost"
            );
            self.loss = Some(loss);
            running.process.end().await;
        }
    }

    /// Notices that the kernel has ended between two cells.
    pub(super) async fn check(&mut self) {
        if let Some(running) = &mut self.running
            && let Some(loss) = running.process.loss_while_idle().await
        {
            self.lose(loss).await;
        }
    }
}
