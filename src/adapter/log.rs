//! One log line a request, also for those whose client went away.
//!
//! It never holds code, input, output or headers.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::api::Identifier;

/// What is known of a request so far. Dropping it writes the line.
#[derive(Debug)]
pub struct RequestLog {
    route: &'static str,
    operation_id: Option<String>,
    identifier: Option<String>,
    status: Option<StatusCode>,
    outcome: Option<&'static str>,
    cause: Option<String>,
    bytes_in: usize,
    bytes_out: usize,
    timings: Timings,
}

/// When an execution reached which step, and in which language.
#[derive(Debug)]
pub struct Timings {
    language: Option<String>,
    arrived: Instant,
    queued: Option<Instant>,
    entered: Option<Instant>,
    ran: Option<Instant>,
}

impl Timings {
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
}

impl RequestLog {
    /// Begins a line.
    pub fn start() -> Self {
        Self {
            route: "none",
            operation_id: None,
            identifier: None,
            status: None,
            outcome: None,
            cause: None,
            bytes_in: 0,
            bytes_out: 0,
            timings: Timings {
                language: None,
                arrived: Instant::now(),
                queued: None,
                entered: None,
                ran: None,
            },
        }
    }

    /// Where the time goes.
    pub fn timings(&mut self) -> &mut Timings {
        &mut self.timings
    }

    /// The fixed name of the route.
    pub fn route(&mut self, label: &'static str) {
        self.route = label;
    }

    /// The id that the answer carries.
    pub fn operation_id(&mut self, id: &str) {
        self.operation_id = Some(id.to_owned());
    }

    /// The session.
    pub fn identifier(&mut self, identifier: Option<&Identifier>) {
        self.identifier = identifier.map(|id| id.as_str().to_owned());
    }

    /// Bytes of the request's body.
    pub fn bytes_in(&mut self, bytes: usize) {
        self.bytes_in = bytes;
    }

    /// How an execution ended, in one word.
    pub fn outcome(&mut self, outcome: &'static str) {
        self.outcome = Some(outcome);
    }

    /// Why there is an error, for the operator.
    pub fn cause(&mut self, cause: String) {
        self.cause = Some(cause);
    }

    /// The answer is ready.
    pub fn answered(&mut self, status: StatusCode, bytes_out: usize) {
        self.status = Some(status);
        self.bytes_out = bytes_out;
    }
}

impl RequestLog {
    /// The body of the answer is over, with so many bytes of it sent.
    pub fn sent(&mut self, bytes: u64, of: u64) {
        self.bytes_out = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes < of {
            self.outcome.get_or_insert("client_gone");
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let Timings {
            arrived,
            queued,
            entered,
            ran,
            ..
        } = self.timings;
        let between = |from: Option<Instant>, to: Option<Instant>| {
            from.zip(to).map(|(from, to)| millis(to - from))
        };
        let outcome = match (self.outcome, self.status) {
            (_, None) => "client_gone",
            (Some(outcome), Some(_)) => outcome,
            (None, Some(_)) => "ok",
        };
        tracing::info!(
            operation_id = self.operation_id,
            identifier = self.identifier,
            route = self.route,
            language = self.timings.language,
            status = self.status.map(|s| s.as_u16()),
            outcome,
            cause = self.cause,
            queue_ms = between(queued, entered),
            engine_ms = between(entered, ran),
            total_ms = millis(arrived.elapsed()),
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            "request"
        );
    }
}

/// Milliseconds with two places.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}
