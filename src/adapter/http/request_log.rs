//! One log line per request, also if its client disconnected.
//!
//! It never holds code, input, output or headers.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::Instant;

use crate::adapter::model::identifier::Identifier;
use crate::adapter::model::timings::{Arrival, Timings, millis};
use crate::adapter::model::trace::TraceContext;
use crate::adapter::session::registry::ExecutionHandle;
use crate::adapter::telemetry::metrics::{self, Metrics};

/// What is known of a request so far. Dropping it writes the line.
#[derive(Debug)]
pub struct RequestLog {
    metrics: Arc<Metrics>,
    trace: Option<TraceContext>,
    route: &'static str,
    operation_id: Option<String>,
    identifier: Option<String>,
    status: Option<StatusCode>,
    outcome: Option<&'static str>,
    error: Option<&'static str>,
    cause: Option<String>,
    bytes_in: usize,
    bytes_out: usize,
    timings: Timings,
    execution: Option<Arc<ExecutionHandle>>,
}

impl RequestLog {
    /// Begins a line, to be counted there.
    pub fn start(metrics: &Arc<Metrics>, trace: Option<TraceContext>) -> Self {
        Self {
            metrics: Arc::clone(metrics),
            trace,
            route: "none",
            operation_id: None,
            identifier: None,
            status: None,
            outcome: None,
            error: None,
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

    /// When the request came, and as part of what.
    pub fn arrival(&self) -> Arrival {
        Arrival {
            at: self.timings.arrived(),
            trace: self.trace,
        }
    }

    /// The request is about this execution, whose times are told.
    pub fn execution(&mut self, handle: &Arc<ExecutionHandle>) {
        self.execution = Some(Arc::clone(handle));
    }

    /// The fixed name of the route.
    pub fn route(&mut self, label: &'static str) {
        self.route = label;
    }

    /// The id that the response carries.
    pub fn operation_id(&mut self, id: &str) {
        self.operation_id = Some(id.to_owned());
    }

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

    /// The response is the error of this code, perhaps for a limit that was reached.
    pub fn failed(&mut self, code: &'static str, limit: Option<&'static str>) {
        self.outcome = Some(code);
        self.error = Some(code);
        if let Some(limit) = limit {
            self.metrics.limit(limit);
        }
    }

    /// Why there is an error, for the operator.
    pub fn cause(&mut self, cause: String) {
        self.cause = Some(cause);
    }

    /// The response is ready.
    pub fn answered(&mut self, status: StatusCode, bytes_out: usize) {
        self.status = Some(status);
        self.bytes_out = bytes_out;
    }
}

impl RequestLog {
    /// The body of the response is over, with so many bytes of it sent.
    pub fn sent(&mut self, bytes: u64, of: u64) {
        self.bytes_out = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes < of {
            self.outcome.get_or_insert("client_gone");
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let handle = self.execution.as_ref().map(|execution| execution.timings());
        let timings = handle.as_deref().unwrap_or(&self.timings);
        let outcome = match (self.outcome, self.status) {
            (_, None) => "client_gone",
            (Some(outcome), Some(_)) => outcome,
            (None, Some(_)) => "ok",
        };
        self.metrics.request(&metrics::RequestSample {
            route: self.route,
            status: self.status.map(|status| status.as_u16()),
            error: self.error,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        });
        tracing::info!(
            trace_id = self.trace.map(|trace| display(trace.trace_id)),
            parent_id = self.trace.map(|trace| display(trace.parent_id)),
            operation_id = self.operation_id,
            identifier = self.identifier,
            route = self.route,
            language = timings.named_language(),
            status = self.status.map(|s| s.as_u16()),
            outcome,
            cause = self.cause,
            queue_ms = timings.in_queue().map(millis),
            engine_ms = timings.in_engine().map(millis),
            total_ms = millis(self.timings.arrived().elapsed()),
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            "request"
        );
    }
}
