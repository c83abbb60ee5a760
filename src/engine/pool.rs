//! The pool of interpreters that are started before their jobs: how many, for what, for how long.
//!
//! A job that could use one asks the pool first and gets a keeper with an idle interpreter, or else
//! opens a fresh keeper; from then on both take the same path. The keeper decides whether the idle
//! interpreter is what the stage needs and starts another if it is not, so nothing depends on the
//! pool's guesses being right.
//!
//! The pool guesses the next job's [`PoolKey`]. At first these are the keys that the table of runtimes
//! names, then those that were used recently and more than once. Each of them gets one interpreter, up
//! to the limit, and the rest go to the key used last. An interpreter runs one job. Dead and old ones
//! are replaced, one start at a time so that jobs keep the CPU. While memory is short, none is kept.
//!
//! This module only keeps the books. [`refill`](super::refill) starts the interpreters.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::runtimes::Installed;
use super::sandbox::{JobLink, JobUser};
use super::stdio::Streams;
use crate::piston::WorkingDirectory;

/// Age at which an idle interpreter is replaced.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// How many keys are remembered.
const MAX_KEYS: usize = 16;
/// How often a key must have been used before an interpreter is started for its next use.
const MIN_USES: u32 = 2;
/// How many starts in a row may fail before no more are tried for a key.
const MAX_START_FAILURES: u32 = 3;
/// The longest source, in bytes, that is sent to an idle interpreter. It must fit into a pipe.
pub(super) const MAX_SOURCE_BYTES: usize = 60_000;

/// What an interpreter is started for.
#[derive(Debug, Clone)]
pub(super) struct PoolKey {
    pub(super) runtime: Installed,
    /// The name of the main file.
    pub(super) file: String,
    pub(super) working_directory: Option<WorkingDirectory>,
    pub(super) user: JobUser,
}

/// A borrowed [`PoolKey`], for lookups.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolKeyRef<'a> {
    pub(super) runtime: &'a Installed,
    pub(super) file: &'a str,
    pub(super) working_directory: Option<WorkingDirectory>,
    pub(super) user: JobUser,
}

impl PoolKeyRef<'_> {
    fn matches(&self, key: &PoolKey) -> bool {
        self.file == key.file
            && self.working_directory == key.working_directory
            && self.user == key.user
            && self.runtime.program == key.runtime.program
            && self.runtime.entry.language == key.runtime.entry.language
    }

    fn to_key(self) -> PoolKey {
        PoolKey {
            runtime: self.runtime.clone(),
            file: self.file.to_owned(),
            working_directory: self.working_directory,
            user: self.user,
        }
    }
}

/// An interpreter that waits for its source, and this side's ends of its standard streams.
#[derive(Debug)]
pub(super) struct Prestarted {
    pub(super) link: JobLink,
    pub(super) streams: Streams,
    /// Modules that it should have imported and could not.
    pub(super) failed_imports: Vec<String>,
}

#[derive(Debug)]
struct IdleInterpreter {
    prestarted: Prestarted,
    key_id: u64,
    since: Instant,
}

/// A key with its history.
#[derive(Debug)]
struct TrackedKey {
    id: u64,
    key: PoolKey,
    uses: u32,
    /// Failed starts since the last one that succeeded.
    start_failures: u32,
}

/// The idle interpreters, and what is known of the jobs that may need one.
#[derive(Debug)]
pub(super) struct Pool {
    limit: usize,
    state: Mutex<PoolState>,
    /// Wakes the task that refills the pool. The task ends when the pool is dropped.
    wake: mpsc::Sender<()>,
    wakeups: Mutex<Option<mpsc::Receiver<()>>>,
}

#[derive(Debug, Default)]
struct PoolState {
    /// The key that was used last comes first.
    keys: VecDeque<TrackedKey>,
    idle: Vec<IdleInterpreter>,
    next_id: u64,
    used: u64,
    missed: u64,
}

/// The pool's part of `GET /`.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(super) struct PoolStats {
    /// How many interpreters may be idle.
    limit: usize,
    /// How many are idle.
    waiting: usize,
    /// How many jobs got one so far.
    used: u64,
    /// How many jobs could have used one so far, but there was none.
    missed: u64,
}

impl Pool {
    /// Holds up to `limit` interpreters.
    pub(super) fn new(limit: usize) -> Self {
        let (wake, wakeups) = mpsc::channel(1);
        Self {
            limit,
            state: Mutex::default(),
            wake,
            wakeups: Mutex::new(Some(wakeups)),
        }
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> PoolStats {
        let state = self.state();
        PoolStats {
            limit: self.limit,
            waiting: state.idle.len(),
            used: state.used,
            missed: state.missed,
        }
    }

    /// Records that a job of this key arrived, and takes an interpreter for it if one is idle.
    pub(super) fn take(&self, key: PoolKeyRef<'_>) -> Option<Prestarted> {
        if self.limit == 0 {
            return None;
        }
        let mut state = self.state();
        state.missed += 1;
        let id = state.record_use(key);
        while let Some(at) = state.idle.iter().position(|idle| idle.key_id == id) {
            let IdleInterpreter { prestarted, .. } = state.idle.remove(at);
            // It may have died since it was started.
            if prestarted.link.is_idle() {
                state.missed -= 1;
                state.used += 1;
                return Some(prestarted);
            }
        }
        None
    }

    /// Expects jobs of the keys that the table of runtimes names. Those of the language `first` are
    /// preferred.
    pub(super) fn expect_usual(&self, installed: &[Installed], first: Option<&str>) {
        let mut state = self.state();
        for runtime in installed.iter().rev() {
            for file in runtime.entry.warm.iter().rev() {
                for _ in 0..MIN_USES {
                    state.record_use(PoolKeyRef {
                        runtime,
                        file,
                        working_directory: Some(WorkingDirectory::Data),
                        user: JobUser::Session,
                    });
                }
            }
        }
        let preferred = state
            .keys
            .iter()
            .position(|tracked| Some(tracked.key.runtime.entry.language.as_str()) == first);
        if let Some(tracked) = preferred.and_then(|at| state.keys.remove(at)) {
            state.keys.push_front(tracked);
        }
    }

    /// The receiver of requests to refill the pool. `None` on the second call, and for a pool that
    /// holds nothing.
    pub(super) fn wakeups(&self) -> Option<mpsc::Receiver<()>> {
        let mut wakeups = self.wakeups.lock().unwrap_or_else(PoisonError::into_inner);
        wakeups.take().filter(|_| self.limit > 0)
    }

    /// Ends all idle interpreters.
    pub(super) fn clear(&self) {
        self.state().idle.clear();
    }

    pub(super) fn request_refill(&self) {
        // Fails if a request is pending already, which is as good.
        let _ = self.wake.try_send(());
    }

    /// The key for which an interpreter should be started next, and its id.
    pub(super) fn next_start(&self) -> Option<(u64, PoolKey)> {
        let mut state = self.state();
        state.evict_stale(self.limit);
        let id = state.key_to_start(self.limit)?;
        if state.idle.len() >= self.limit {
            state.evict_surplus(self.limit)?;
        }
        let tracked = state.keys.iter().find(|tracked| tracked.id == id)?;
        Some((id, tracked.key.clone()))
    }

    /// Adds the interpreter that was started for a key, or records that the start failed.
    pub(super) fn finish_start(&self, id: u64, started: Option<Prestarted>) {
        let mut state = self.state();
        let tracked = state.keys.iter_mut().find(|tracked| tracked.id == id);
        let Some(tracked) = tracked else { return };
        match started {
            Some(prestarted) => {
                tracked.start_failures = 0;
                state.idle.push(IdleInterpreter {
                    prestarted,
                    key_id: id,
                    since: Instant::now(),
                });
            }
            None => tracked.start_failures += 1,
        }
    }
}

impl PoolState {
    /// Moves a key to the front, and returns its id.
    fn record_use(&mut self, key: PoolKeyRef<'_>) -> u64 {
        let known = self
            .keys
            .iter()
            .position(|tracked| key.matches(&tracked.key));
        let mut tracked = match known.and_then(|at| self.keys.remove(at)) {
            Some(tracked) => tracked,
            None => {
                self.next_id += 1;
                TrackedKey {
                    id: self.next_id,
                    key: key.to_key(),
                    uses: 0,
                    start_failures: 0,
                }
            }
        };
        tracked.uses = tracked.uses.saturating_add(1);
        let id = tracked.id;
        self.keys.push_front(tracked);
        self.keys.truncate(MAX_KEYS);
        id
    }

    /// The ids of the keys that get interpreters, best first.
    fn eligible(&self, limit: usize) -> impl Iterator<Item = u64> {
        self.keys
            .iter()
            .filter(|tracked| {
                tracked.uses >= MIN_USES && tracked.start_failures < MAX_START_FAILURES
            })
            .map(|tracked| tracked.id)
            .take(limit)
    }

    fn idle_count(&self, id: u64) -> usize {
        self.idle.iter().filter(|idle| idle.key_id == id).count()
    }

    /// Ends interpreters that are dead, old, or of a key that no longer gets any.
    fn evict_stale(&mut self, limit: usize) {
        let eligible: Vec<u64> = self.eligible(limit).collect();
        self.idle.retain(|idle| {
            eligible.contains(&idle.key_id)
                && idle.since.elapsed() < MAX_AGE
                && idle.prestarted.link.is_idle()
        });
    }

    /// The key that should get the next interpreter: one that has none, else the one used last.
    fn key_to_start(&self, limit: usize) -> Option<u64> {
        let without = self.eligible(limit).find(|id| self.idle_count(*id) == 0);
        let full = self.idle.len() >= limit;
        without.or_else(|| self.eligible(limit).next().filter(|_| !full))
    }

    /// Ends one interpreter of the key that has most of them.
    fn evict_surplus(&mut self, limit: usize) -> Option<()> {
        let richest = self.eligible(limit).max_by_key(|id| self.idle_count(*id))?;
        let at = self.idle.iter().position(|idle| idle.key_id == richest)?;
        self.idle.remove(at);
        Some(())
    }
}
