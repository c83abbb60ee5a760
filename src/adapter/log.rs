//! One log line a request, also for those whose client went away.
//!
//! It never holds code, input, output or headers.

use std::time::Instant;

use http::StatusCode;

use super::api::Identifier;

/// What is known of a request so far. Dropping it writes the line.
#[derive(Debug)]
pub struct RequestLog {
    started: Instant,
    route: &'static str,
    operation_id: Option<String>,
    identifier: Option<String>,
    status: Option<StatusCode>,
    outcome: &'static str,
    cause: Option<String>,
    bytes_in: usize,
    bytes_out: usize,
    /// Where the time went.
    pub timings: Timings,
}

/// When an execution reached which step, and in which language.
#[derive(Debug, Default)]
pub struct Timings {
    language: Option<String>,
    entered: Option<Instant>,
    ran: Option<Instant>,
}

impl Timings {
    /// The language, cut to a length that a log can bear: it may be anything.
    pub fn language(&mut self, language: &str) {
        self.language = Some(language.chars().take(32).collect());
    }

    /// The execution got its place.
    pub fn queued(&mut self) {
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
            started: Instant::now(),
            route: "none",
            operation_id: None,
            identifier: None,
            status: None,
            outcome: "client_gone",
            cause: None,
            bytes_in: 0,
            bytes_out: 0,
            timings: Timings::default(),
        }
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
        self.outcome = outcome;
    }

    /// Why there is an error, for the operator.
    pub fn cause(&mut self, cause: String) {
        self.cause = Some(cause);
    }

    /// The answer is ready.
    pub fn answered(&mut self, status: StatusCode, bytes_out: usize) {
        self.status = Some(status);
        self.bytes_out = bytes_out;
        if self.outcome == "client_gone" {
            self.outcome = "ok";
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let total = self.started.elapsed();
        let entered = self.timings.entered;
        let queue = entered.map(|entered| entered - self.started);
        let engine = entered
            .zip(self.timings.ran)
            .map(|(entered, ran)| ran - entered);
        let ms = |time: std::time::Duration| (time.as_secs_f64() * 1e5).round() / 1e2;
        tracing::info!(
            operation_id = self.operation_id,
            identifier = self.identifier,
            route = self.route,
            language = self.timings.language,
            status = self.status.map(|s| s.as_u16()),
            outcome = self.outcome,
            cause = self.cause,
            queue_ms = queue.map(ms),
            engine_ms = engine.map(ms),
            total_ms = ms(total),
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            "request"
        );
    }
}
