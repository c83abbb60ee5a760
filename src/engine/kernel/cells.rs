//! Runs cells in kernels, and looks after kernels that nobody uses.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::super::memory;
use super::super::runtimes::{Installed, choose};
use super::super::state::EngineState;
use super::process::{Cell, CellOutcome, KernelProcess, StartError};
use super::table::{KernelError, KernelState, LANGUAGE, RunningKernel};
use crate::limiter::QueueFull;
use crate::piston::{ExecuteResponse, KernelLoss, KernelReport};

/// Time between two looks at kernels that nobody uses.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the first kernel waits to be started ahead, so that the first execution has the CPU for itself.
const FIRST_EXECUTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Memory in bytes that must be available besides what one job may use for a kernel to be started ahead.
const SPARE_MEMORY: u64 = 64 << 20;

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
pub(in crate::engine) async fn execute(
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
        mut client: oneshot::Sender<()>,
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
        let outcome = running
            .process
            .run(&cell, &engine.job_context(), killed, &mut client)
            .await;
        let generation = self.generation;
        // A client that has gone does not learn of it.
        let restarted = self.loss.take_if(|_| !client.is_closed());
        let CellOutcome { stage, loss, value } = outcome;
        if let Some(loss) = loss {
            self.lose(loss).await;
            if !client.is_closed() {
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
        let started =
            KernelProcess::start(&self.job_context(), runtime, &self.kernels.settings).await?;
        // What is true of the first one is true of all, and said once.
        if self.kernels.ipython.set(started.ipython.clone()).is_ok() {
            for module in &started.failed_imports {
                tracing::warn!(
                    module,
                    language = LANGUAGE,
                    "module of --preload cannot be imported"
                );
            }
        }
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
            Ok(kernel) => *self.kernels.spare() = Some(kernel),
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
pub(in crate::engine) async fn maintain(engine: Weak<EngineState>) {
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
