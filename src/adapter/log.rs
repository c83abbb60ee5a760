//! One log line a request, also for those whose client went away.
//!
//! It never holds code, input, output or headers.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::causes::causes;

use super::api::Identifier;
use super::error::ApiError;
use super::executions::Tracked;
use super::translate::Outcome;

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
    execution: Option<Arc<Tracked>>,
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

    fn in_queue(&self) -> Option<f64> {
        between(self.queued, self.entered)
    }

    fn in_engine(&self) -> Option<f64> {
        between(self.entered, self.ran)
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
            timings: Timings::since(Instant::now()),
            execution: None,
        }
    }

    /// Where the time goes.
    pub fn timings(&mut self) -> &mut Timings {
        &mut self.timings
    }

    /// The request is about this execution, whose times are told.
    pub fn execution(&mut self, tracked: &Arc<Tracked>) {
        self.execution = Some(Arc::clone(tracked));
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
        let timings = match &self.execution {
            Some(execution) => execution.timings().clone(),
            None => self.timings.clone(),
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
            language = timings.language,
            status = self.status.map(|s| s.as_u16()),
            outcome,
            cause = self.cause,
            queue_ms = timings.in_queue(),
            engine_ms = timings.in_engine(),
            total_ms = millis(self.timings.arrived.elapsed()),
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            "request"
        );
    }
}

/// Writes the line of an execution that ends while no request waits for it.
pub fn ended_alone(tracked: &Tracked, result: &Result<Outcome, ApiError>) {
    let timings = tracked.timings().clone();
    tracing::info!(
        operation_id = tracked.id.as_str(),
        identifier = tracked.identifier.as_ref().map(Identifier::as_str),
        language = timings.language,
        outcome = match result {
            Ok(outcome) => outcome.ended_by,
            Err(error) => error.told().code,
        },
        cause = match result {
            Err(ApiError::Engine(cause)) => Some(causes(cause)),
            _ => None,
        },
        queue_ms = timings.in_queue(),
        engine_ms = timings.in_engine(),
        total_ms = millis(timings.arrived.elapsed()),
        "execution"
    );
}

fn between(from: Option<Instant>, to: Option<Instant>) -> Option<f64> {
    from.zip(to).map(|(from, to)| millis(to - from))
}

/// Milliseconds with two places.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}
