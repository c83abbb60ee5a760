//! The state of the session that this container is: its engine, its limits, its phase of life.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, RwLock, Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::adapter::backend::translate::{ResolvedLanguage, Terms};
use crate::adapter::config::AdapterConfig;
use crate::adapter::files::{FileStore, Transfers};
use crate::adapter::model::outcome::Outcome;
use crate::adapter::session::error::{SessionError, outcome_label};
use crate::adapter::session::packages::Packages;
use crate::adapter::session::readiness::Readiness;
use crate::adapter::session::registry::{Executions, Tracked};
use crate::adapter::session::usage::Sessions;
use crate::adapter::telemetry::metrics::Metrics;
use crate::config::EngineKind;
use crate::limiter::{ConcurrencyLimiter, Permit, QueueSlot};
use crate::piston::{Client, ClientError, ClientLimits, Runtime, Verdict, WorkingDirectory};

/// What an answer may take on top of the highest run time. With the default of 220 s that is 235 s,
/// and Azure's ingress gives up after 240 s.
const ANSWER_RESERVE: Duration = Duration::from_secs(15);
/// What of it is left for the run itself to start, to compile and to answer.
const RUN_RESERVE: Duration = Duration::from_secs(10);
/// All bodies that are held at a time are as large as so many of the largest.
const LARGEST_BODIES: usize = 4;
/// A value of this length fits into the 1024 bytes that Piston keeps of stderr by default.
const LEAST_VALUE: usize = 512;
/// A list of runtimes that a name is missing from is asked for again, but not more often.
const RUNTIMES_AGE: Duration = Duration::from_secs(5);
const RUNTIMES_DEADLINE: Duration = Duration::from_secs(2);

/// What every request shares.
#[derive(Debug)]
pub struct Session {
    /// The settings.
    pub config: AdapterConfig,
    /// The engine.
    pub client: Client,
    /// The files.
    pub files: FileStore,
    /// Bounds what comes in and goes out of them.
    pub transfers: Transfers,
    /// Bounds the executions.
    pub gate: ConcurrencyLimiter,
    /// Whether a real execution works.
    pub readiness: Readiness,
    /// What runs and what has run.
    pub executions: Executions,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who uses the session.
    pub sessions: Sessions,
    /// What Python programs can import.
    pub packages: Packages,
    /// Executions hold it for reading; who deletes the session holds it for writing.
    pub life: RwLock<()>,
    /// This container, for the header `x-ms-session-guid`.
    pub guid: Uuid,
    /// When it began.
    pub created_at: SystemTime,
    runtimes: Mutex<Listed>,
    phase: watch::Sender<Phase>,
    requests: Arc<Requests>,
    cancellations: watch::Sender<()>,
    /// What the bodies of all requests may hold.
    pub body_bytes: Arc<Semaphore>,
    longest_value: AtomicUsize,
}

/// The phases of a session's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Taking requests.
    Serving,
    /// Letting what runs end; taking nothing new.
    Draining,
    /// Ending what runs.
    Killing,
}

#[derive(Debug, Default)]
struct Listed {
    runtimes: Arc<Vec<Runtime>>,
    asked: Option<Instant>,
}

impl Session {
    /// The state at the start.
    ///
    /// # Errors
    /// Where the HTTP client cannot be set up.
    pub fn new(config: AdapterConfig, files: FileStore) -> Result<Self, reqwest::Error> {
        let limits = ClientLimits {
            answer: largest_answer(config.output_limit),
        };
        Ok(Self {
            client: Client::new(&config.piston_url, limits)?,
            files,
            transfers: Transfers::default(),
            gate: ConcurrencyLimiter::new(config.max_jobs, config.queue),
            readiness: Readiness::new(config.piston_url.clone()),
            executions: Executions::default(),
            metrics: Arc::default(),
            sessions: Sessions::default(),
            packages: Packages::default(),
            life: RwLock::new(()),
            guid: Uuid::new_v4(),
            created_at: SystemTime::now(),
            runtimes: Mutex::default(),
            phase: watch::Sender::new(Phase::Serving),
            requests: Arc::default(),
            cancellations: watch::Sender::new(()),
            body_bytes: Arc::new(Semaphore::new(LARGEST_BODIES * config.max_body)),
            longest_value: AtomicUsize::new(config.output_limit / 2),
            config,
        })
    }

    /// What every execution gets. Real Piston has no directory but the job's.
    pub fn terms(&self) -> Terms {
        Terms {
            run_timeout: self.config.run_timeout,
            max_run_timeout: self.config.max_run_timeout,
            memory: self.config.memory_limit,
            working_directory: match self.config.engine {
                EngineKind::Embedded => Some(WorkingDirectory::Data),
                EngineKind::Piston => None,
            },
        }
    }

    /// How long after its arrival a request is answered at the latest.
    pub fn answer_within(&self) -> Duration {
        self.config.max_run_timeout + ANSWER_RESERVE
    }

    /// Most bytes of a value: it goes the way of standard error.
    pub fn longest_value(&self) -> usize {
        self.longest_value.load(Ordering::Relaxed)
    }

    /// There was no room for a value behind so many bytes of the program's own standard error.
    /// Where they are few, real Piston keeps less than was thought.
    pub fn value_overflowed(&self, own: usize) {
        if self.config.engine == EngineKind::Embedded || own > LEAST_VALUE {
            return;
        }
        let most = self.longest_value.fetch_min(LEAST_VALUE, Ordering::Relaxed);
        if most > LEAST_VALUE {
            tracing::warn!(
                most = LEAST_VALUE,
                "the engine keeps little of stderr: values are cut from now on"
            );
        }
    }

    /// Takes a place for an execution.
    ///
    /// # Errors
    /// [`SessionError::ShuttingDown`], [`SessionError::QueueFull`].
    pub fn join(&self) -> Result<QueueSlot, SessionError> {
        if self.phase() != Phase::Serving {
            return Err(SessionError::ShuttingDown);
        }
        Ok(self.gate.enqueue()?)
    }

    /// Waits for its turn; where there is a latest moment for the answer, only as long as a run of
    /// `timeout` could still be answered.
    ///
    /// # Errors
    /// [`SessionError::QueueTimeout`].
    pub async fn admit(
        &self,
        place: QueueSlot,
        latest_answer: Option<Instant>,
        timeout: Duration,
    ) -> Result<Permit, SessionError> {
        let Some(latest_answer) = latest_answer else {
            return Ok(place.acquire().await);
        };
        let now = Instant::now();
        let left = latest_answer.saturating_duration_since(now);
        let latest_start = now + left.saturating_sub(timeout + RUN_RESERVE);
        timeout_at(latest_start, place.acquire())
            .await
            .map_err(|_elapsed| SessionError::QueueTimeout)
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes on to `phase`.
    pub fn go_on_to(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Resolves when `phase` is reached.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives as long as `self`, so that the wait cannot fail.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Ends every execution that is under way.
    pub fn cancel_executions(&self) {
        self.executions.cancel_all();
        self.cancellations.send_replace(());
    }

    /// Resolves when executions are ended from now on.
    pub async fn canceled(&self) {
        // The sender lives as long as `self`, so that the wait cannot fail.
        let _ = self.cancellations.subscribe().changed().await;
    }

    /// Counts a request, or an execution, until the guard is dropped.
    pub fn count_request(&self) -> RequestGuard {
        self.requests.count.fetch_add(1, Ordering::AcqRel);
        RequestGuard(Arc::clone(&self.requests))
    }

    /// Counts an execution that is over, and the limit that ended it.
    pub fn count_execution(&self, tracked: &Tracked, result: &Result<Outcome, SessionError>) {
        let verdict = result.as_ref().ok().map(|outcome| outcome.verdict);
        if let Some(limit) = verdict.and_then(Verdict::limit) {
            self.metrics.limit(limit);
        }
        let is_listed = |name: &str| {
            self.known_runtimes()
                .iter()
                .any(|runtime| runtime.language == name)
        };
        let outcome = outcome_label(result);
        self.metrics
            .execution(&tracked.timings(), outcome, is_listed);
    }

    /// Resolves when no request and no execution is under way.
    pub async fn idle(&self) {
        loop {
            let mut none = pin!(self.requests.none.notified());
            // From here on none is missed.
            none.as_mut().enable();
            if self.requests.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }

    /// What the engine can run, as far as it is known by now.
    pub fn known_runtimes(&self) -> Arc<Vec<Runtime>> {
        Arc::clone(&self.listed().runtimes)
    }

    /// Asks the engine what it can run.
    ///
    /// # Errors
    /// [`ClientError`] where there is no list.
    pub async fn refresh_runtimes(&self) -> Result<Arc<Vec<Runtime>>, ClientError> {
        self.listed().asked = Some(Instant::now());
        let deadline = Instant::now() + RUNTIMES_DEADLINE;
        let runtimes = Arc::new(self.client.runtimes(deadline).await?);
        self.listed().runtimes = Arc::clone(&runtimes);
        Ok(runtimes)
    }

    /// Finds a language by its name or an alias, in any case. What is not listed is passed on in
    /// lower case, for the engine to judge.
    pub async fn resolve(&self, name: &str) -> ResolvedLanguage {
        let listed = find_language(&self.known_runtimes(), name);
        if let Some(found) = listed {
            return found;
        }
        let asked = self.listed().asked;
        if asked.is_none_or(|asked| asked.elapsed() >= RUNTIMES_AGE)
            && let Ok(runtimes) = self.refresh_runtimes().await
            && let Some(found) = find_language(&runtimes, name)
        {
            return found;
        }
        let name = name.to_lowercase();
        ResolvedLanguage {
            language: name.clone(),
            name,
        }
    }

    fn listed(&self) -> std::sync::MutexGuard<'_, Listed> {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many requests and executions are under way.
#[derive(Debug, Default)]
struct Requests {
    count: AtomicUsize,
    none: Notify,
}

/// A request or an execution under way.
#[derive(Debug)]
pub struct RequestGuard(Arc<Requests>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

/// The largest answer with output at its limit: two stages, each stream twice (`output` repeats
/// them), each byte at most six characters of JSON (`\u0000`), and room for the rest.
fn largest_answer(output_limit: usize) -> usize {
    (1 << 20) + output_limit.saturating_mul(2 * 2 * 2 * 6)
}

fn find_language(runtimes: &[Runtime], name: &str) -> Option<ResolvedLanguage> {
    let find = |same: fn(&str, &str) -> bool| {
        runtimes.iter().find_map(|runtime| {
            let names = std::iter::once(&runtime.language).chain(&runtime.aliases);
            let found = names.into_iter().find(|listed| same(listed, name))?;
            Some(ResolvedLanguage {
                name: found.clone(),
                language: runtime.language.clone(),
            })
        })
    };
    find(|listed, name| listed == name).or_else(|| find(str::eq_ignore_ascii_case))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_is_found_by_name_alias_and_in_any_case() {
        let runtimes: Vec<Runtime> = serde_json::from_str(
            r#"[{"language":"c++","version":"12.2.0","aliases":["cpp","g++"]},
                {"language":"python","version":"3.11.2","aliases":["py"]}]"#,
        )
        .unwrap();
        for (asked, name, language) in [
            ("python", "python", "python"),
            ("Python", "python", "python"),
            ("py", "py", "python"),
            ("CPP", "cpp", "c++"),
        ] {
            let found = find_language(&runtimes, asked).unwrap();
            assert_eq!(
                (found.name.as_str(), found.language.as_str()),
                (name, language)
            );
        }
        assert_eq!(find_language(&runtimes, "cobol"), None);
    }
}
