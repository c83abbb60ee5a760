//! Whose turn it is among the cells of one kernel.
//!
//! Cells wait here rather than for a permit, so that those of one session do not keep others from running.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// How many lines are kept before those in which nobody stands are forgotten.
const MAX_IDLE_LINES: usize = 1024;

/// The lines of all kernels, by the names that the engine knows them by.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<String, Weak<AsyncMutex<()>>>>);

/// A cell's turn, which is over when it is dropped.
#[derive(Debug)]
pub struct Turn {
    _guard: OwnedMutexGuard<()>,
}

/// One kernel's line. Turns are given in the order in which they were asked for.
#[derive(Debug, Clone)]
pub struct Line(Arc<AsyncMutex<()>>);

impl Turns {
    /// The line for the kernel of this name.
    pub fn line(&self, name: &str) -> Line {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(name).and_then(Weak::upgrade) {
            return Line(line);
        }
        if lines.len() >= MAX_IDLE_LINES {
            lines.retain(|_, line| line.strong_count() > 0);
        }
        let line = Arc::default();
        lines.insert(name.to_owned(), Arc::downgrade(&line));
        Line(line)
    }
}

/// A turn, or the line in which to wait for one.
#[derive(Debug)]
pub enum Place {
    Turn(Turn),
    Line(Line),
}

impl Place {
    /// The turn, as soon as it comes.
    pub async fn turn(self) -> Turn {
        match self {
            Self::Turn(turn) => turn,
            Self::Line(line) => line.turn().await,
        }
    }
}

impl Line {
    /// A turn, if nobody has it and nobody waits.
    pub fn try_turn(&self) -> Option<Turn> {
        let guard = Arc::clone(&self.0).try_lock_owned().ok()?;
        Some(Turn { _guard: guard })
    }

    /// Waits for a turn. Dropping the future leaves the line.
    pub async fn turn(self) -> Turn {
        let guard = self.0.lock_owned().await;
        Turn { _guard: guard }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_are_given_in_order_and_each_kernel_has_its_own_line() {
        let turns = Turns::default();
        let first = turns.line("a").try_turn().unwrap();
        assert!(turns.line("a").try_turn().is_none());
        assert!(turns.line("b").try_turn().is_some());
        let mut waiting = Box::pin(turns.line("a").turn());
        assert!(
            tokio::time::timeout(std::time::Duration::ZERO, &mut waiting)
                .await
                .is_err()
        );
        drop(first);
        // Whoever waits comes before whoever asks now.
        assert!(turns.line("a").try_turn().is_none());
        waiting.await;
        assert!(turns.line("a").try_turn().is_some());
    }
}
