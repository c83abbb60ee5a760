//! The counters of a process.
//!
//! A session has some dozen counters, all on the one thread that serves, so that a lock around plain
//! maps is never waited for, and a page of text needs no dependency (`docs/DEPENDENCIES.md` weighs
//! them). A request with an execution costs some two hundred nanoseconds.
//!
//! Nothing that a client chooses becomes a label: routes, statuses, error codes and limits are words
//! of this program, and languages are those that the engine lists.
//!
//! Whoever may use the session can read the page, so that there is nothing secret in it: no
//! identifier, no path, no word of a program.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::adapter::model::timings::Timings;
use crate::adapter::telemetry::exposition::{Kind, Page};

/// Languages that are told apart; real Piston has about a hundred.
const MAX_LANGUAGES: usize = 128;
/// The language of what the engine does not list, and of requests that are passed on unread.
const OTHER: &str = "other";
/// Upper bounds of the times, in seconds: from a program that prints to the longest response.
const BOUNDS: [f64; 15] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 240.0,
];
/// The counters of a session.
#[derive(Debug)]
pub struct Metrics {
    began: Instant,
    began_at: SystemTime,
    connections: Arc<AtomicUsize>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// By route and status; 0 for those whose client went away.
    requests: BTreeMap<(&'static str, u16), u64>,
    errors: BTreeMap<&'static str, u64>,
    limits: BTreeMap<&'static str, u64>,
    kernel_losses: BTreeMap<&'static str, u64>,
    executions: BTreeMap<String, BTreeMap<&'static str, u64>>,
    bytes_in: u64,
    bytes_out: u64,
    total: Histogram,
    queue: Histogram,
    engine: Histogram,
}

#[derive(Debug, Default)]
struct Histogram {
    /// One for each bound, and one for what is above all.
    buckets: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Histogram {
    fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = BOUNDS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.sum += time;
    }
}

/// A request that is over.
#[derive(Debug)]
pub struct RequestSample {
    /// The fixed name of its route.
    pub route: &'static str,
    /// Its response, unless the client went away.
    pub status: Option<u16>,
    /// The code of its error.
    pub error: Option<&'static str>,
    /// Bytes of its body.
    pub bytes_in: usize,
    /// Bytes of its response's body.
    pub bytes_out: usize,
}

/// An open connection; closing is dropping it.
#[derive(Debug)]
pub struct Connected(Arc<AtomicUsize>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            began_at: SystemTime::now(),
            connections: Arc::default(),
            counts: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Counts a connection until the guard is dropped.
    pub fn connected(&self) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(&self.connections))
    }

    pub fn request(&self, request: &RequestSample) {
        let status = request.status.unwrap_or(0);
        let mut counts = self.counts();
        *counts.requests.entry((request.route, status)).or_default() += 1;
        if let Some(code) = request.error {
            *counts.errors.entry(code).or_default() += 1;
        }
        counts.bytes_in += request.bytes_in as u64;
        counts.bytes_out += request.bytes_out as u64;
    }

    /// Counts a limit of this session at which something ended.
    pub fn limit(&self, limit: &'static str) {
        *self.counts().limits.entry(limit).or_default() += 1;
    }

    /// Counts a kernel whose variables were lost.
    pub fn kernel_loss(&self, reason: &'static str) {
        *self.counts().kernel_losses.entry(reason).or_default() += 1;
    }

    /// Counts an execution that is over. `is_listed` is asked whether the engine lists its language,
    /// where that is not known yet.
    pub fn execution(
        &self,
        timings: &Timings,
        outcome: &'static str,
        is_listed: impl FnOnce(&str) -> bool,
    ) {
        let mut counts = self.counts();
        let language = match timings.named_language() {
            Some(name) if counts.executions.contains_key(name) => name,
            Some(name) if counts.executions.len() < MAX_LANGUAGES && is_listed(name) => name,
            _ => OTHER,
        };
        let by_outcome = match counts.executions.get_mut(language) {
            Some(known) => known,
            None => counts.executions.entry(language.to_owned()).or_default(),
        };
        *by_outcome.entry(outcome).or_default() += 1;
        counts.total.observe(timings.arrived().elapsed());
        if let Some(time) = timings.in_queue() {
            counts.queue.observe(time);
        }
        if let Some(time) = timings.in_engine() {
            counts.engine.observe(time);
        }
    }

    /// Adds what was counted to a page.
    pub fn write(&self, page: &mut Page) {
        self.counts().write(page);
    }

    /// Seconds since 1970 at which the session began.
    pub fn start_time(&self) -> f64 {
        let since_epoch = self.began_at.duration_since(UNIX_EPOCH);
        since_epoch.unwrap_or_default().as_secs_f64()
    }

    /// For how long the session has been there.
    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn write(&self, page: &mut Page) {
        page.family(
            "requests_total",
            Kind::Counter,
            "Requests by route and status; the status is none if the client disconnected.",
        );
        for ((route, status), count) in &self.requests {
            let status = match status {
                0 => "none".to_owned(),
                status => status.to_string(),
            };
            let labels = [("route", *route), ("status", &status)];
            page.sample("requests_total", &labels, count);
        }
        page.family("errors_total", Kind::Counter, "Error responses, by code.");
        for (code, count) in &self.errors {
            page.sample("errors_total", &[("code", code)], count);
        }
        page.family(
            "executions_total",
            Kind::Counter,
            "Executions that have ended, by language and outcome.",
        );
        for (language, outcomes) in &self.executions {
            for (outcome, count) in outcomes {
                let labels = [("language", language.as_str()), ("outcome", outcome)];
                page.sample("executions_total", &labels, count);
            }
        }
        page.family(
            "limits_hit_total",
            Kind::Counter,
            "How often something ended at a limit.",
        );
        for (limit, count) in &self.limits {
            page.sample("limits_hit_total", &[("limit", limit)], count);
        }
        page.family(
            "kernel_losses_total",
            Kind::Counter,
            "Kernels that have ended, so that their variables were lost, as executions were told.",
        );
        for (reason, count) in &self.kernel_losses {
            page.sample("kernel_losses_total", &[("reason", reason)], count);
        }
        page.single(
            "request_bytes_total",
            Kind::Counter,
            "Bytes of the bodies of requests that were taken.",
            self.bytes_in,
        );
        page.single(
            "response_bytes_total",
            Kind::Counter,
            "Bytes of the bodies of responses.",
            self.bytes_out,
        );
        for (name, help, times) in [
            (
                "execution_seconds",
                "From a request's head to the end of its execution.",
                &self.total,
            ),
            (
                "execution_queue_seconds",
                "What executions waited for their turn.",
                &self.queue,
            ),
            (
                "execution_engine_seconds",
                "What the engine took for executions.",
                &self.engine,
            ),
        ] {
            page.histogram(name, help, &BOUNDS, &times.buckets, times.sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(metrics: &Metrics, language: &str, is_listed: bool) {
        let mut timings = Timings::since(Instant::now());
        timings.language(language);
        metrics.execution(&timings, "success", |_| is_listed);
    }

    #[test]
    fn a_time_counts_up_to_its_bound() {
        let mut times = Histogram::default();
        for millis in [0, 5, 6, 240_000, 240_001] {
            times.observe(Duration::from_millis(millis));
        }
        assert_eq!(
            (times.buckets[0], times.buckets[1], times.buckets[14]),
            (2, 1, 1)
        );
        assert_eq!(times.buckets[15], 1);
        assert_eq!(times.sum, Duration::from_millis(480_012));
    }

    #[test]
    fn languages_are_those_that_are_listed_and_not_too_many() {
        let metrics = Metrics::default();
        ended(&metrics, "python", true);
        // Known from before.
        ended(&metrics, "python", false);
        ended(&metrics, "klingon", false);
        for number in 0..1000 {
            ended(&metrics, &format!("listed-{number}"), true);
        }
        let counts = metrics.counts();
        assert_eq!(counts.executions["python"]["success"], 2);
        assert!(counts.executions.len() <= MAX_LANGUAGES + 1);
        let all: u64 = counts.executions.values().flat_map(BTreeMap::values).sum();
        assert_eq!(all, 1003);
    }
}
