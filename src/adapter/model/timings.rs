//! The time at which an execution reached each step.

use std::time::Duration;

use tokio::time::Instant;

use crate::adapter::model::trace::TraceContext;

/// When a request's head had been read, and which trace it is part of.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub at: Instant,
    /// The trace, where the request names one.
    pub trace: Option<TraceContext>,
}

/// When an execution reached which step, and in which language.
#[derive(Debug, Clone)]
pub struct Timings {
    language: Option<String>,
    arrived: Instant,
    queued: Option<Instant>,
    entered: Option<Instant>,
    ran: Option<Instant>,
}

impl Timings {
    /// Those of a request whose head had been read at `arrived`.
    pub fn since(arrived: Instant) -> Self {
        Self {
            language: None,
            arrived,
            queued: None,
            entered: None,
            ran: None,
        }
    }

    /// When the request's head had been read.
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The language, cut to a length that a log can bear: it may be anything.
    pub fn language(&mut self, language: &str) {
        self.language = Some(language.chars().take(32).collect());
    }

    /// The execution is ready to run.
    pub fn queued(&mut self) {
        self.queued = Some(Instant::now());
    }

    /// The execution got its place.
    pub fn entered(&mut self) {
        self.entered = Some(Instant::now());
    }

    /// The engine has answered.
    pub fn ran(&mut self) {
        self.ran = Some(Instant::now());
    }

    pub fn named_language(&self) -> Option<&str> {
        self.language.as_deref()
    }

    /// What it waited for its turn.
    pub fn in_queue(&self) -> Option<Duration> {
        between(self.queued, self.entered)
    }

    /// What the engine took.
    pub fn in_engine(&self) -> Option<Duration> {
        between(self.entered, self.ran)
    }
}

fn between(from: Option<Instant>, to: Option<Instant>) -> Option<Duration> {
    from.zip(to).map(|(from, to)| to - from)
}

/// Milliseconds with two places, for the log.
pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}
