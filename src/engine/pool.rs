//! Interpreters that are started ahead of their jobs: how many, for what, and for how long.
//!
//! A job asks the spawner for a keeper, and gets one that waits with a fitting interpreter or a
//! fresh one; from then on its way is the same: its files, its stage, its report. Whether the
//! interpreter that waits is the one that the stage asks for is judged by the keeper, which starts
//! another if it is not, so that nothing depends on what is guessed here.
//!
//! What is guessed is the next job's [`PoolKey`]: those that the table of runtimes names at first, then
//! those that were asked for lately and more than once. There is one interpreter for each of these,
//! as far as the setting goes, and the rest are for the kind asked for last. Each runs one job.
//! Those that died or are old are replaced, one start at a time, so that jobs keep the processor;
//! a job that finds none starts cold. None is kept while memory is short.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::runtimes::Installed;
use super::sandbox::JobLink;
use super::stdio::Streams;
use crate::piston::WorkingDirectory;

/// How old an interpreter may get before it is replaced.
const OLD: Duration = Duration::from_secs(3600);
/// How many kinds of jobs are remembered.
const KINDS: usize = 16;
/// How often a kind must have been asked for until an interpreter is started for the next time.
const MIN_USES: u32 = 2;
/// How often in a row an interpreter may fail to start before its kind is left alone.
const FAILURES: u32 = 3;
/// The longest source that goes to an interpreter that waits, in bytes. A pipe holds it.
pub(super) const LONGEST_SOURCE: usize = 60_000;

/// What an interpreter is started for.
#[derive(Debug, Clone)]
pub(super) struct PoolKey {
    pub(super) runtime: Installed,
    /// The name of the main file.
    pub(super) file: String,
    pub(super) working_directory: Option<WorkingDirectory>,
}

/// A [`PoolKey`] by reference, to be looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolKeyRef<'a> {
    pub(super) runtime: &'a Installed,
    pub(super) file: &'a str,
    pub(super) working_directory: Option<WorkingDirectory>,
}

impl PoolKeyRef<'_> {
    fn is(&self, kind: &PoolKey) -> bool {
        self.file == kind.file
            && self.working_directory == kind.working_directory
            && self.runtime.program == kind.runtime.program
            && self.runtime.entry.language == kind.runtime.entry.language
    }

    fn to_kind(self) -> PoolKey {
        PoolKey {
            runtime: self.runtime.clone(),
            file: self.file.to_owned(),
            working_directory: self.working_directory,
        }
    }
}

/// An interpreter that waits, and the ends of its standard streams.
#[derive(Debug)]
pub(super) struct Warm {
    pub(super) link: JobLink,
    pub(super) streams: Streams,
}

/// One of them in the pool.
#[derive(Debug)]
struct IdleInterpreter {
    warm: Warm,
    /// Which kind, by its number.
    kind: u64,
    since: Instant,
}

/// A kind of job, and what became of it.
#[derive(Debug)]
struct Known {
    number: u64,
    kind: PoolKey,
    asked: u32,
    failed: u32,
}

/// The interpreters that wait.
#[derive(Debug)]
pub(super) struct Pool {
    most: usize,
    state: Mutex<State>,
    /// Wakes who fills up; that ends when this is gone.
    wake: mpsc::Sender<()>,
    woken: Mutex<Option<mpsc::Receiver<()>>>,
}

#[derive(Debug, Default)]
struct State {
    /// The one that was asked for last comes first.
    kinds: VecDeque<Known>,
    waiting: Vec<IdleInterpreter>,
    next_number: u64,
    used: u64,
    missed: u64,
}

/// What `GET /` says of the interpreters that are started ahead.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(super) struct Count {
    /// How many may wait.
    most: usize,
    /// Those that wait for a job.
    waiting: usize,
    /// Jobs that got one, so far.
    used: u64,
    /// Jobs that could have had one and found none, so far.
    missed: u64,
}

impl Pool {
    /// A pool of up to so many interpreters.
    pub(super) fn new(most: usize) -> Self {
        let (wake, woken) = mpsc::channel(1);
        Self {
            most,
            state: Mutex::default(),
            wake,
            woken: Mutex::new(Some(woken)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many interpreters wait, and what became of those that waited.
    pub(super) fn count(&self) -> Count {
        let state = self.state();
        Count {
            most: self.most,
            waiting: state.waiting.len(),
            used: state.used,
            missed: state.missed,
        }
    }

    /// Keeps in mind that there was a job of this kind, and finds an interpreter for it.
    pub(super) fn take(&self, wanted: PoolKeyRef<'_>) -> Option<Warm> {
        if self.most == 0 {
            return None;
        }
        let mut state = self.state();
        state.missed += 1;
        let number = state.ask(wanted);
        while let Some(at) = state.waiting.iter().position(|one| one.kind == number) {
            let IdleInterpreter { warm, .. } = state.waiting.remove(at);
            if warm.link.is_idle() {
                state.missed -= 1;
                state.used += 1;
                return Some(warm);
            }
        }
        None
    }

    /// Expects jobs of the keys that the table of runtimes names. Those of `first`, which is asked for
    /// more often than others, count as asked for last.
    pub(super) fn expect_usual(&self, installed: &[Installed], first: Option<&str>) {
        let mut state = self.state();
        for runtime in installed.iter().rev() {
            for file in runtime.entry.warm.iter().rev() {
                for _ in 0..MIN_USES {
                    state.ask(PoolKeyRef {
                        runtime,
                        file,
                        working_directory: Some(WorkingDirectory::Data),
                    });
                }
            }
        }
        let at = state
            .kinds
            .iter()
            .position(|known| Some(known.kind.runtime.entry.language.as_str()) == first);
        if let Some(known) = at.and_then(|at| state.kinds.remove(at)) {
            state.kinds.push_front(known);
        }
    }

    /// The receiver of requests to fill the pool up; `None` the second time, and where the pool holds
    /// nothing.
    pub(super) fn wakeups(&self) -> Option<mpsc::Receiver<()>> {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        woken.take().filter(|_| self.most > 0)
    }

    /// Ends all interpreters that wait.
    pub(super) fn clear(&self) {
        self.state().waiting.clear();
    }

    /// Has the pool filled up, if somebody does that.
    pub(super) fn fill_up(&self) {
        // If there is a word waiting already, that will do.
        let _ = self.wake.try_send(());
    }

    /// The kind for which an interpreter should be started now.
    pub(super) fn next(&self) -> Option<(u64, PoolKey)> {
        let mut state = self.state();
        state.tidy(self.most);
        let number = state.lacking(self.most)?;
        if state.waiting.len() >= self.most {
            state.make_room(self.most)?;
        }
        let known = state.kinds.iter().find(|known| known.number == number)?;
        Some((number, known.kind.clone()))
    }

    /// Adds an interpreter that was started for a key, or notes that none could be.
    pub(super) fn put(&self, number: u64, started: Option<Warm>) {
        let mut state = self.state();
        let known = state.kinds.iter_mut().find(|known| known.number == number);
        let Some(known) = known else { return };
        match started {
            Some(warm) => {
                known.failed = 0;
                state.waiting.push(IdleInterpreter {
                    warm,
                    kind: number,
                    since: Instant::now(),
                });
            }
            None => known.failed += 1,
        }
    }
}

impl State {
    /// Puts a kind in front; returns its number.
    fn ask(&mut self, wanted: PoolKeyRef<'_>) -> u64 {
        let found = self.kinds.iter().position(|known| wanted.is(&known.kind));
        let mut known = match found.and_then(|at| self.kinds.remove(at)) {
            Some(known) => known,
            None => {
                self.next_number += 1;
                Known {
                    number: self.next_number,
                    kind: wanted.to_kind(),
                    asked: 0,
                    failed: 0,
                }
            }
        };
        known.asked = known.asked.saturating_add(1);
        let number = known.number;
        self.kinds.push_front(known);
        self.kinds.truncate(KINDS);
        number
    }

    /// The kinds that get interpreters, best first.
    fn chosen(&self, most: usize) -> impl Iterator<Item = u64> {
        self.kinds
            .iter()
            .filter(|known| known.asked >= MIN_USES && known.failed < FAILURES)
            .map(|known| known.number)
            .take(most)
    }

    fn count(&self, number: u64) -> usize {
        self.waiting.iter().filter(|one| one.kind == number).count()
    }

    /// Gives up those that are dead, old, or of a kind that nobody remembers.
    fn tidy(&mut self, most: usize) {
        let chosen: Vec<u64> = self.chosen(most).collect();
        self.waiting.retain(|one| {
            chosen.contains(&one.kind) && one.since.elapsed() < OLD && one.warm.link.is_idle()
        });
    }

    /// The kind that has too few.
    fn lacking(&self, most: usize) -> Option<u64> {
        let without = self.chosen(most).find(|number| self.count(*number) == 0);
        let full = self.waiting.len() >= most;
        without.or_else(|| self.chosen(most).next().filter(|_| !full))
    }

    /// Gives up one of the kind that has most.
    fn make_room(&mut self, most: usize) -> Option<()> {
        let richest = self.chosen(most).max_by_key(|number| self.count(*number))?;
        let at = self.waiting.iter().position(|one| one.kind == richest)?;
        self.waiting.remove(at);
        Some(())
    }
}
