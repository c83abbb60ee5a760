//! Readiness: whether a real execution works.
//!
//! A list of runtimes proves nothing: real Piston lists them where every execution then fails
//! (recording `unprivileged_container_execute_500`). So a small program is run, again and again in
//! the background, and every execution of a client counts as well.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::adapter::model::outcome::Outcome;
use crate::piston::ClientError;

/// How long a proof is good for.
const READY_TTL: Duration = Duration::from_secs(30);
/// How soon a failed check is repeated.
pub const RETRY: Duration = Duration::from_millis(500);
/// Whether a real execution works, as far as it is known.
#[derive(Debug)]
pub struct Readiness {
    /// Where the engine is, for the log.
    piston_url: String,
    state: Mutex<ReadinessState>,
    recheck: Notify,
}

#[derive(Debug)]
struct ReadinessState {
    /// Why not, in words for a client.
    works: Result<(), String>,
    /// When the next check is due.
    due: Instant,
}

impl Readiness {
    /// Of the engine at `piston_url`, of which nothing is known yet.
    pub fn new(piston_url: String) -> Self {
        Self {
            piston_url,
            state: Mutex::new(ReadinessState {
                works: Err("no execution has been tried yet".to_owned()),
                due: Instant::now(),
            }),
            recheck: Notify::new(),
        }
    }

    /// Whether an execution has worked.
    ///
    /// # Errors
    /// Why not, in words for a client.
    pub fn check(&self) -> Result<(), String> {
        self.state().works.clone()
    }

    /// Counts an execution of a client that succeeded as a proof, and takes a fault of the engine
    /// as a reason to check again. A program that failed says nothing, nor does a kernel that still runs: it
    /// may be the last one that could be started.
    pub fn observe(&self, outcome: &Result<Outcome, ClientError>) {
        match outcome {
            Ok(outcome) if outcome.exit_code == 0 && outcome.kernel.is_none() => self.set(Ok(())),
            Ok(_) | Err(ClientError::Refused(_) | ClientError::Busy) => {}
            Err(_) => {
                self.state().due = Instant::now();
                self.recheck.notify_one();
            }
        }
    }

    /// Notes the result of a check, and logs what changes.
    pub fn set(&self, works: Result<(), String>) {
        let mut state = self.state();
        if state.works != works {
            match &works {
                Ok(()) => tracing::info!("ready: an execution has worked"),
                Err(cause) => tracing::warn!(cause, piston_url = self.piston_url, "not ready"),
            }
        }
        let wait = if works.is_ok() { READY_TTL } else { RETRY };
        *state = ReadinessState {
            works,
            due: Instant::now() + wait,
        };
    }

    fn state(&self) -> MutexGuard<'_, ReadinessState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a check is due. Executions of clients move the time on, or call it forward.
    pub async fn due(&self) {
        loop {
            let due = self.state().due;
            if due <= Instant::now() {
                return;
            }
            let _ = timeout_at(due, self.recheck.notified()).await;
        }
    }
}
