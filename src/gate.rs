//! Bounds how many jobs run and how many wait for their turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Lets `jobs` in at a time and `queue` wait, in the order in which they came.
#[derive(Debug, Clone)]
pub struct Gate {
    slots: Arc<Semaphore>,
    jobs: usize,
    waiting: Arc<AtomicUsize>,
    queue: usize,
}

/// A place inside; leaving is dropping it.
#[derive(Debug)]
pub struct Pass {
    _permit: OwnedSemaphorePermit,
}

/// As many wait as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{running} executions are running and {waiting} are waiting")]
pub struct Full {
    /// How many may run at a time.
    pub running: usize,
    /// How many may wait.
    pub waiting: usize,
}

/// A place in the queue, or inside already; leaving is dropping it.
#[derive(Debug)]
pub struct Place {
    slots: Arc<Semaphore>,
    standing: Standing,
}

#[derive(Debug)]
enum Standing {
    Inside(Pass),
    InTheQueue(Waiting),
}

impl Gate {
    /// A gate for `jobs` at a time and `queue` behind them.
    pub fn new(jobs: usize, queue: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(jobs)),
            jobs,
            waiting: Arc::default(),
            queue,
        }
    }

    /// Takes a place, inside if one is free now.
    ///
    /// # Errors
    /// [`Full`] where the queue is as long as it may be.
    pub fn join(&self) -> Result<Place, Full> {
        let standing = match self.try_enter() {
            Some(pass) => Standing::Inside(pass),
            None => Standing::InTheQueue(Waiting::join(&self.waiting, self.queue).ok_or(Full {
                running: self.jobs,
                waiting: self.queue,
            })?),
        };
        Ok(Place {
            slots: Arc::clone(&self.slots),
            standing,
        })
    }

    /// Waits for a place inside. Dropping the future gives up the place in the queue.
    ///
    /// # Errors
    /// [`Full`] where the queue is as long as it may be.
    pub async fn enter(&self) -> Result<Pass, Full> {
        Ok(self.join()?.admitted().await)
    }

    /// A place, if one is free now and nobody waits for it.
    pub fn try_enter(&self) -> Option<Pass> {
        let permit = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        Some(Pass { _permit: permit })
    }

    /// How many are inside.
    pub fn running(&self) -> usize {
        self.jobs - self.slots.available_permits()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Place {
    /// Whether its turn has come.
    pub fn is_inside(&self) -> bool {
        matches!(self.standing, Standing::Inside(_))
    }

    /// Waits for its turn.
    pub async fn admitted(self) -> Pass {
        let _waiting = match self.standing {
            Standing::Inside(pass) => return pass,
            Standing::InTheQueue(waiting) => waiting,
        };
        match self.slots.acquire_owned().await {
            Ok(permit) => Pass { _permit: permit },
            Err(_closed) => unreachable!("the semaphore is never closed"),
        }
    }
}

/// One of those that wait.
#[derive(Debug)]
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn join(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < most).then_some(n + 1)
            })
            .ok()
            .map(|_| Self(Arc::clone(count)))
    }
}

impl Drop for Waiting {
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
    async fn more_than_the_queue_holds_are_turned_away() {
        let gate = Gate::new(1, 1);
        let inside = gate.enter().await.unwrap();
        let mut waiter = pin!(gate.enter());
        assert!(!poll_once(waiter.as_mut()));
        assert_eq!((gate.running(), gate.waiting()), (1, 1));
        assert_eq!(
            gate.enter().await.unwrap_err(),
            Full {
                running: 1,
                waiting: 1
            }
        );
        drop(inside);
        waiter.await.unwrap();
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_leaves_its_place_to_another() {
        let gate = Gate::new(1, 1);
        let _inside = gate.enter().await.unwrap();
        {
            let mut waiter = pin!(gate.enter());
            assert!(!poll_once(waiter.as_mut()));
        }
        assert_eq!(gate.waiting(), 0);
        let mut next = pin!(gate.enter());
        assert!(!poll_once(next.as_mut()));
    }

    #[tokio::test]
    async fn a_place_is_counted_before_anybody_waits_for_it() {
        let gate = Gate::new(1, 1);
        let inside = gate.join().unwrap();
        let queued = gate.join().unwrap();
        assert!(inside.is_inside() && !queued.is_inside());
        assert_eq!((gate.running(), gate.waiting()), (1, 1));
        assert!(gate.join().is_err());
        drop(inside);
        let _pass = queued.admitted().await;
        assert_eq!((gate.running(), gate.waiting()), (1, 0));
    }
}
