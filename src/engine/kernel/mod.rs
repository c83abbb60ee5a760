//! Kernels: Python processes that live as long as their sessions.
//!
//! A request to `POST /api/v2/execute` that names a kernel runs as a *cell* in that kernel's process
//! instead of a process of its own. Cells of one kernel run one after the other in the order in which
//! they came. A kernel starts with its first cell; one is started ahead, while memory allows, so that a new
//! session's first cell need not wait. There are at most [`KernelSettings::max_kernels`]: the one that has
//! been idle for longest ends for a new one.
//!
//! Whenever a kernel ends its variables are lost, and the response to the cell says so, or to the next
//! one where the kernel ended between two cells. The number of a kernel's `generation` counts its starts.
//!
//! [`process`] is one kernel's process, [`socket`] the socket to it, and this module decides which cell
//! runs where. A kernel is the session's own code: nothing that it sends is trusted beyond its session.

mod process;
mod socket;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::memory;
use super::runtimes::{Installed, choose};
use super::sandbox::LinkError;
use super::state::EngineState;
use crate::limiter::QueueFull;
use crate::piston::{ExecuteResponse, KernelLoss, KernelReport, KernelsStatus};
use process::{CellOutcome, KernelProcess, StartError};

pub(super) use process::Cell;

/// The language whose cells run in kernels.
pub(super) const LANGUAGE: &str = "python";
/// Kernels whose names are remembered, whether they run or not.
const MAX_NAMES: usize = 10_000;
/// Time between two looks at kernels that nobody uses.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the first kernel waits to be started ahead, so that the first execution has the CPU for itself.
const FIRST_EXECUTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Memory in bytes that must be available besides what one job may use for a kernel to be started ahead.
const SPARE_MEMORY: u64 = 64 << 20;

/// The settings of all kernels.
#[derive(Debug, Clone)]
pub struct KernelSettings {
    /// How many kernels there may be. 0 means that there are none, and every request has a fresh process.
    pub max_kernels: usize,
    /// Memory of all processes of a kernel in bytes.
    pub memory_limit: u64,
    /// How long a cell may take to end after it was interrupted, before its kernel is killed.
    pub interrupt_grace: Duration,
    /// How long a kernel may be idle before it ends. For ever if `None`.
    pub idle_timeout: Option<Duration>,
}

impl Default for KernelSettings {
    fn default() -> Self {
        Self {
            max_kernels: 8,
            memory_limit: 512 << 20,
            interrupt_grace: Duration::from_secs(2),
            idle_timeout: None,
        }
    }
}

/// Why a cell was not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum KernelError {
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
struct Kernel {
    /// Taken by one cell at a time; tokio's mutex gives it to those who wait in their order.
    state: Arc<AsyncMutex<KernelState>>,
    waiting: AtomicUsize,
    /// Changes when the running cell is to be killed.
    killed: watch::Sender<()>,
}

#[derive(Debug)]
struct KernelState {
    running: Option<RunningKernel>,
    generation: u64,
    /// Why variables were lost, until a response has said so.
    loss: Option<KernelLoss>,
    used_at: Instant,
}

#[derive(Debug)]
struct RunningKernel {
    process: KernelProcess,
    _permit: OwnedSemaphorePermit,
}

/// The kernels of an engine.
#[derive(Debug)]
pub(super) struct Kernels {
    settings: KernelSettings,
    named: Mutex<HashMap<String, Arc<Kernel>>>,
    free: Arc<Semaphore>,
    /// The kernel that was started ahead.
    spare: Mutex<Option<KernelProcess>>,
    spare_wanted: Notify,
    /// IPython's version, known since the first kernel started.
    ipython: OnceLock<Option<String>>,
}

impl Kernels {
    pub(super) fn new(settings: KernelSettings) -> Self {
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
    pub(super) fn status(&self) -> Option<KernelsStatus> {
        let limit = self.settings.max_kernels;
        (limit > 0).then(|| KernelsStatus {
            limit,
            running: limit - self.free.available_permits(),
            spare: usize::from(self.spare().is_some()),
            ipython: self.ipython.get().cloned().flatten(),
        })
    }

    /// Whether cells of this runtime run in kernels.
    pub(super) fn serve(&self, installed: &[Installed], runtime: &Installed) -> bool {
        self.settings.max_kernels > 0
            && choose(installed, LANGUAGE, "*")
                .is_some_and(|python| python.program == runtime.program)
    }

    fn named(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Kernel>>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Option<KernelProcess>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kernel(&self, name: &str) -> Arc<Kernel> {
        let mut named = self.named();
        if named.len() >= MAX_NAMES && !named.contains_key(name) {
            named.retain(|_, kernel| {
                let state = kernel.state.try_lock();
                state.map_or(true, |state| state.running.is_some())
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
    pub(super) async fn delete_all(&self) {
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
    async fn evict(&self) -> bool {
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
    async fn lose(&mut self, loss: KernelLoss) {
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
    async fn check(&mut self) {
        if let Some(running) = &mut self.running
            && let Some(loss) = running.process.loss_while_idle().await
        {
            self.lose(loss).await;
        }
    }
}

/// Counts a cell that waits for its kernel.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a cell in the kernel of this name. Dropping the future takes a cell that waits out of the queue,
/// and interrupts one that runs.
///
/// # Errors
/// If nothing was run.
pub(super) async fn execute(
    engine: &Arc<EngineState>,
    name: &str,
    runtime: &Installed,
    cell: Cell,
) -> Result<ExecuteResponse, KernelError> {
    let kernel = engine.kernels.kernel(name);
    let queue = engine.config.queue.saturating_add(engine.config.max_jobs);
    if kernel.waiting.fetch_add(1, Ordering::Relaxed) >= queue {
        kernel.waiting.fetch_sub(1, Ordering::Relaxed);
        let (running, waiting) = (1, queue);
        return Err(QueueFull { running, waiting }.into());
    }
    let counted = Waiting(&kernel.waiting);
    let mut killed = kernel.killed.subscribe();
    let mut state = Arc::clone(&kernel.state).lock_owned().await;
    drop(counted);
    if killed.has_changed().unwrap_or(true) {
        return Err(KernelError::Deleted);
    }
    let permit = engine.limiter.acquire().await?;
    // The cell runs in its own task, so that it is ended properly when its client goes away.
    let (client, gone) = oneshot::channel();
    let (engine, runtime) = (Arc::clone(engine), runtime.clone());
    let task = tokio::spawn(async move {
        let response = tokio::select! {
            response = state.run(&engine, &runtime, cell, &mut killed, client) => response,
            _ = stopped(&engine) => Err(KernelError::Deleted),
        };
        state.used_at = Instant::now();
        drop(permit);
        response
    });
    let response = task.await.unwrap_or(Err(KernelError::Deleted));
    drop(gone);
    response
}

/// Waits until the engine ends all jobs.
async fn stopped(engine: &EngineState) {
    // An error means that the engine has been dropped.
    drop(engine.stop.subscribe().wait_for(|stop| *stop).await);
}

impl KernelState {
    async fn run(
        &mut self,
        engine: &EngineState,
        runtime: &Installed,
        cell: Cell,
        killed: &mut watch::Receiver<()>,
        client: oneshot::Sender<()>,
    ) -> Result<ExecuteResponse, KernelError> {
        self.check().await;
        if self.running.is_none() {
            self.running = Some(RunningKernel {
                _permit: engine.kernel_permit().await?,
                process: engine.take_kernel(runtime).await?,
            });
            self.generation += 1;
        }
        let Some(running) = &mut self.running else {
            return Err(KernelError::Deleted);
        };
        let outcome = running.process.run(&cell, engine, killed, client).await;
        let generation = self.generation;
        let restarted = self.loss.take();
        let CellOutcome { stage, loss, value } = outcome;
        if let Some(loss) = loss {
            self.lose(loss).await;
            // A client that is still there learns it from this response.
            if loss != KernelLoss::Canceled {
                self.loss = None;
            }
        }
        Ok(ExecuteResponse {
            compile: None,
            run: stage,
            language: runtime.entry.language.clone(),
            version: runtime.version.to_string(),
            kernel: Some(KernelReport {
                generation,
                restarted,
                lost: loss,
                value,
            }),
        })
    }
}

impl EngineState {
    /// The right to one more kernel, for which another may have to end.
    async fn kernel_permit(&self) -> Result<OwnedSemaphorePermit, KernelError> {
        let kernels = &self.kernels;
        loop {
            if let Ok(permit) = Arc::clone(&kernels.free).try_acquire_owned() {
                return Ok(permit);
            }
            if !kernels.evict().await {
                return Err(KernelError::NoneFree(kernels.settings.max_kernels));
            }
        }
    }

    /// The kernel that was started ahead, or a new one.
    async fn take_kernel(&self, runtime: &Installed) -> Result<KernelProcess, StartError> {
        let spare = self.kernels.spare().take();
        self.kernels.spare_wanted.notify_one();
        if let Some(mut spare) = spare
            && spare.loss_while_idle().await.is_none()
        {
            return Ok(spare);
        }
        self.start_kernel(runtime).await
    }

    async fn start_kernel(&self, runtime: &Installed) -> Result<KernelProcess, StartError> {
        let started = KernelProcess::start(self, runtime, &self.kernels.settings).await?;
        self.kernels.ipython.get_or_init(|| started.ipython.clone());
        Ok(started)
    }

    async fn start_spare_kernel(&self) {
        let needed = self.config.memory_limit.saturating_add(SPARE_MEMORY);
        let is_short = memory::available().is_some_and(|available| available < needed);
        if is_short {
            let spare = self.kernels.spare().take();
            drop(spare);
            return;
        }
        if self.kernels.spare().is_some() || self.limiter.waiting() > 0 {
            return;
        }
        let installed = self.installed().await;
        let Some(python) = choose(&installed, LANGUAGE, "*") else {
            return;
        };
        match self.start_kernel(python).await {
            Ok(kernel) => {
                for module in &kernel.failed_imports {
                    tracing::warn!(
                        module,
                        language = LANGUAGE,
                        "module of --preload cannot be imported"
                    );
                }
                *self.kernels.spare() = Some(kernel);
            }
            Err(error) => tracing::warn!(%error, "failed to start a kernel ahead"),
        }
    }

    /// Ends kernels that have been idle for too long, and notices those that have ended by themselves.
    async fn check_kernels(&self) {
        let kernels: Vec<_> = self.kernels.named().values().cloned().collect();
        for kernel in kernels {
            let Ok(mut state) = kernel.state.try_lock() else {
                continue;
            };
            state.check().await;
            let idle_timeout = self.kernels.settings.idle_timeout;
            if idle_timeout.is_some_and(|timeout| state.used_at.elapsed() >= timeout) {
                state.lose(KernelLoss::IdleTimeout).await;
            }
        }
    }
}

/// Looks after the kernels of an engine until the engine is gone.
pub(super) async fn maintain(engine: Weak<EngineState>) {
    if engine
        .upgrade()
        .is_none_or(|engine| engine.kernels.settings.max_kernels == 0)
    {
        return;
    }
    sleep(FIRST_EXECUTION_TIMEOUT).await;
    while let Some(engine) = engine.upgrade() {
        engine.check_kernels().await;
        engine.start_spare_kernel().await;
        let wanted = engine.kernels.spare_wanted.notified();
        // The engine must not be kept alive for long by those who wait.
        let _ = timeout(CHECK_INTERVAL, wanted).await;
    }
}

impl From<LinkError> for KernelError {
    fn from(error: LinkError) -> Self {
        Self::Start(error.into())
    }
}
