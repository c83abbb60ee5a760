//! What the process owns, whatever becomes of the session: settings, engine, limits, shutdown phase.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, RwLockReadGuard, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use crate::adapter::backend::Backend;
use crate::adapter::backend::translate::RunLimits;
use crate::adapter::config::AdapterConfig;
use crate::adapter::files::FileStore;
use crate::adapter::model::identifier::Identifier;
use crate::adapter::model::outcome::Outcome;
use crate::adapter::session::error::{SessionError, outcome_label};
use crate::adapter::session::packages::Packages;
use crate::adapter::session::readiness::Readiness;
use crate::adapter::session::registry::ExecutionHandle;
use crate::adapter::session::runtimes::Runtimes;
use crate::adapter::session::state::Session;
use crate::adapter::telemetry::metrics::Metrics;
use crate::limiter::{ConcurrencyLimiter, Permit, QueueSlot};
use crate::piston::Verdict;

/// What a response may take on top of the highest run time. With the default of 220 s that is 235 s,
/// and Azure's ingress gives up after 240 s.
const RESPONSE_RESERVE: Duration = Duration::from_secs(15);
/// The part of it that a run keeps for starting, compiling and responding.
const RUN_RESERVE: Duration = Duration::from_secs(10);
/// The bodies of all requests together may take this many times the size of the largest.
const MAX_BODIES_OF_LARGEST_SIZE: usize = 4;

/// What every request shares.
#[derive(Debug)]
pub struct App {
    pub config: AdapterConfig,
    /// The engine that runs executions.
    pub backend: Backend,
    /// The languages that the engine has.
    pub runtimes: Runtimes,
    /// The Python packages that programs can import.
    pub packages: Packages,
    /// Bounds the executions that run and wait.
    pub limiter: ConcurrencyLimiter,
    pub readiness: Readiness,
    pub metrics: Arc<Metrics>,
    pub session: Session,
    /// The bytes that the bodies of all requests may take together.
    pub body_bytes: Arc<Semaphore>,
    phase: watch::Sender<Phase>,
    in_flight: Arc<InFlight>,
}

/// The phases of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// Running executions may finish; new ones are refused.
    Draining,
    /// Running executions are killed.
    Killing,
}

/// The right to run one execution. While it is held, the session is not deleted.
#[derive(Debug)]
pub struct Admission<'a> {
    _permit: Permit,
    _reset_lock: RwLockReadGuard<'a, ()>,
}

impl App {
    /// The state at the start.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(config: AdapterConfig, files: FileStore) -> Result<Self, reqwest::Error> {
        Ok(Self {
            backend: Backend::new(
                config.engine,
                &config.piston_url,
                config.output_limit,
                config.kernels,
            )?,
            runtimes: Runtimes::default(),
            packages: Packages::default(),
            limiter: ConcurrencyLimiter::new(config.max_jobs, config.queue),
            readiness: Readiness::new(config.piston_url.clone()),
            metrics: Arc::default(),
            session: Session::new(files),
            body_bytes: Arc::new(Semaphore::new(MAX_BODIES_OF_LARGEST_SIZE * config.max_body)),
            phase: watch::Sender::new(Phase::Serving),
            in_flight: Arc::default(),
            config,
        })
    }

    /// The limits of every execution.
    pub fn run_limits(&self) -> RunLimits {
        RunLimits {
            run_timeout: self.config.run_timeout,
            max_run_timeout: self.config.max_run_timeout,
            memory: self.config.memory_limit,
        }
    }

    /// The longest time from a request's arrival to its response.
    pub fn response_timeout(&self) -> Duration {
        self.config.max_run_timeout + RESPONSE_RESERVE
    }

    /// Takes a slot in the queue for an execution.
    ///
    /// # Errors
    /// [`SessionError::ShuttingDown`], [`SessionError::QueueFull`].
    pub fn enqueue(&self) -> Result<QueueSlot, SessionError> {
        self.check_serving()?;
        Ok(self.limiter.enqueue()?)
    }

    /// As [`enqueue`](Self::enqueue), behind the other cells of a kernel: without a permit, which others
    /// could use meanwhile.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub fn enqueue_behind(&self) -> Result<QueueSlot, SessionError> {
        self.check_serving()?;
        Ok(self.limiter.enqueue_behind()?)
    }

    fn check_serving(&self) -> Result<(), SessionError> {
        match self.phase() {
            Phase::Serving => Ok(()),
            Phase::Draining | Phase::Killing => Err(SessionError::ShuttingDown),
        }
    }

    /// Waits until an execution may run. With a `response_deadline` it waits only as long as a run of
    /// `timeout` could still be answered.
    ///
    /// # Errors
    /// [`SessionError::QueueTimeout`].
    pub async fn admit(
        &self,
        slot: QueueSlot,
        identifier: Option<&Identifier>,
        response_deadline: Option<Instant>,
        timeout: Duration,
    ) -> Result<Admission<'_>, SessionError> {
        let reset_lock = self.session.reset_lock.read().await;
        // Again, for the session may have been deleted since the request arrived.
        self.session.identifiers.touch(identifier);
        Ok(Admission {
            _permit: self.acquire(slot, response_deadline, timeout).await?,
            _reset_lock: reset_lock,
        })
    }

    /// Waits for a permit of the limiter, as [`admit`](Self::admit) does, for a job that is none of the
    /// session's.
    ///
    /// # Errors
    /// [`SessionError::QueueTimeout`].
    pub async fn acquire(
        &self,
        slot: QueueSlot,
        response_deadline: Option<Instant>,
        timeout: Duration,
    ) -> Result<Permit, SessionError> {
        in_time(slot.acquire(), response_deadline, timeout).await
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Enters `phase`.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Resolves when `phase` is reached.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives as long as `self`, so that the wait cannot fail.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Counts a request, or an execution, as in flight until the guard is dropped.
    pub fn in_flight(&self) -> InFlightGuard {
        self.in_flight.count.fetch_add(1, Ordering::AcqRel);
        InFlightGuard(Arc::clone(&self.in_flight))
    }

    /// Resolves when no request and no execution is in flight.
    pub async fn idle(&self) {
        loop {
            let mut none = pin!(self.in_flight.none.notified());
            // Enabled before the count is read, so that no notification is missed.
            none.as_mut().enable();
            if self.in_flight.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }

    /// Counts an execution that has ended, and the limit that ended it.
    pub fn count_execution(
        &self,
        handle: &ExecutionHandle,
        result: &Result<Outcome, SessionError>,
    ) {
        let outcome = result.as_ref().ok();
        if let Some(loss) = outcome.and_then(|outcome| outcome.kernel?.lost) {
            self.metrics.kernel_loss(loss.as_str());
        }
        let verdict = outcome.map(|outcome| outcome.verdict);
        if let Some(limit) = verdict.and_then(Verdict::limit) {
            self.metrics.limit(limit);
        }
        let outcome = outcome_label(result);
        self.metrics
            .execution(&handle.timings(), outcome, |name| self.runtimes.has(name));
    }
}

/// Waits as long as a run of `timeout` could still be answered by `response_deadline`, if there is one.
///
/// # Errors
/// [`SessionError::QueueTimeout`].
pub async fn in_time<T>(
    waiting: impl Future<Output = T>,
    response_deadline: Option<Instant>,
    timeout: Duration,
) -> Result<T, SessionError> {
    let Some(response_deadline) = response_deadline else {
        return Ok(waiting.await);
    };
    let now = Instant::now();
    let left = response_deadline.saturating_duration_since(now);
    let latest_start = now + left.saturating_sub(timeout + RUN_RESERVE);
    timeout_at(latest_start, waiting)
        .await
        .map_err(|_elapsed| SessionError::QueueTimeout)
}

/// The requests and executions in flight.
#[derive(Debug, Default)]
struct InFlight {
    count: AtomicUsize,
    none: Notify,
}

/// A request or an execution in flight.
#[derive(Debug)]
pub struct InFlightGuard(Arc<InFlight>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}
