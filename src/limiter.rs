//! Limits how many executions run at a time and how many more may queue.
//!
//! The adapter and the embedded engine each have a limiter of their own. It knows nothing of what a
//! permit is spent on: whoever holds one decides when the work is over. Queued executions get their
//! permits in the order in which they came, which relies on tokio's semaphore being fair.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Gives out permits for executions, and queues those that have to wait for one.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimiter {
    permits: Arc<Semaphore>,
    max_running: usize,
    queued: Arc<AtomicUsize>,
    max_queued: usize,
}

/// The right to run one execution. Dropping it lets the next one start.
#[derive(Debug)]
pub struct Permit {
    _permit: OwnedSemaphorePermit,
}

/// Neither a permit nor a slot in the queue is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{running} executions are running and {waiting} are waiting")]
pub struct QueueFull {
    /// How many may run at a time.
    pub running: usize,
    /// How many may wait.
    pub waiting: usize,
}

/// A slot in the queue, which may have its permit already. Dropping it gives up both.
#[derive(Debug)]
pub struct QueueSlot {
    permits: Arc<Semaphore>,
    state: SlotState,
}

#[derive(Debug)]
enum SlotState {
    Acquired(Permit),
    Queued(QueueTicket),
}

impl ConcurrencyLimiter {
    /// Allows `max_running` executions at a time and `max_queued` more that wait.
    pub fn new(max_running: usize, max_queued: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(max_running)),
            max_running,
            queued: Arc::default(),
            max_queued,
        }
    }

    /// Takes a permit if one is free, else a slot in the queue.
    ///
    /// The slot is counted from here on, before anybody waits for its permit, so that a caller can
    /// reject an execution at once and still wait for the permit in another task.
    ///
    /// # Errors
    /// [`QueueFull`] where as many wait as may.
    pub fn enqueue(&self) -> Result<QueueSlot, QueueFull> {
        let state = match self.try_acquire() {
            Some(permit) => SlotState::Acquired(permit),
            None => SlotState::Queued(self.ticket()?),
        };
        Ok(QueueSlot {
            permits: Arc::clone(&self.permits),
            state,
        })
    }

    /// Takes a slot in the queue even if a permit is free, for whoever has to wait for something else
    /// first.
    ///
    /// # Errors
    /// [`QueueFull`] where as many wait as may.
    pub fn enqueue_behind(&self) -> Result<QueueSlot, QueueFull> {
        Ok(QueueSlot {
            permits: Arc::clone(&self.permits),
            state: SlotState::Queued(self.ticket()?),
        })
    }

    fn ticket(&self) -> Result<QueueTicket, QueueFull> {
        QueueTicket::take(&self.queued, self.max_queued).ok_or(QueueFull {
            running: self.max_running,
            waiting: self.max_queued,
        })
    }

    /// Waits for a permit. Dropping the future gives up the slot in the queue.
    ///
    /// # Errors
    /// [`QueueFull`] where as many wait as may.
    pub async fn acquire(&self) -> Result<Permit, QueueFull> {
        Ok(self.enqueue()?.acquire().await)
    }

    /// A permit, if one is free now and nobody waits for it.
    pub fn try_acquire(&self) -> Option<Permit> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(Permit { _permit: permit })
    }

    /// How many permits are held.
    pub fn running(&self) -> usize {
        self.max_running - self.permits.available_permits()
    }

    /// How many executions are queued.
    pub fn waiting(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }
}

impl QueueSlot {
    /// Whether the slot has its permit already.
    pub fn has_permit(&self) -> bool {
        matches!(self.state, SlotState::Acquired(_))
    }

    /// Waits for the slot's permit.
    pub async fn acquire(self) -> Permit {
        // Held until the permit is there: a queued execution stays counted while it waits.
        let _ticket = match self.state {
            SlotState::Acquired(permit) => return permit,
            SlotState::Queued(ticket) => ticket,
        };
        match self.permits.acquire_owned().await {
            Ok(permit) => Permit { _permit: permit },
            Err(_closed) => unreachable!("the semaphore is never closed"),
        }
    }
}

/// Counts one queued execution until it is dropped.
#[derive(Debug)]
struct QueueTicket(Arc<AtomicUsize>);

impl QueueTicket {
    fn take(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < limit).then_some(n + 1)
            })
            .ok()
            .map(|_| Self(Arc::clone(count)))
    }
}

impl Drop for QueueTicket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        future
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[tokio::test]
    async fn executions_over_the_queue_limit_are_rejected() {
        let limiter = ConcurrencyLimiter::new(1, 1);
        let running = limiter.acquire().await.unwrap();
        let mut waiter = pin!(limiter.acquire());
        assert!(!poll_once(waiter.as_mut()));
        assert_eq!((limiter.running(), limiter.waiting()), (1, 1));
        assert_eq!(
            limiter.acquire().await.unwrap_err(),
            QueueFull {
                running: 1,
                waiting: 1
            }
        );
        drop(running);
        waiter.await.unwrap();
    }

    #[tokio::test]
    async fn a_dropped_waiter_frees_its_slot() {
        let limiter = ConcurrencyLimiter::new(1, 1);
        let _running = limiter.acquire().await.unwrap();
        {
            let mut waiter = pin!(limiter.acquire());
            assert!(!poll_once(waiter.as_mut()));
        }
        assert_eq!(limiter.waiting(), 0);
        let mut next = pin!(limiter.acquire());
        assert!(!poll_once(next.as_mut()));
    }

    #[tokio::test]
    async fn a_slot_is_counted_before_anybody_waits_for_it() {
        let limiter = ConcurrencyLimiter::new(1, 1);
        let running = limiter.enqueue().unwrap();
        let queued = limiter.enqueue().unwrap();
        assert!(running.has_permit() && !queued.has_permit());
        assert_eq!((limiter.running(), limiter.waiting()), (1, 1));
        assert!(limiter.enqueue().is_err());
        drop(running);
        let _permit = queued.acquire().await;
        assert_eq!((limiter.running(), limiter.waiting()), (1, 0));
    }
}
