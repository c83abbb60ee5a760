//! The way of a request without the wires: routed, parsed, translated, its response read and rendered.

// Each benchmark is a program of its own that needs a part of this.
#![allow(dead_code)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Uri};
use serde_json::json;
use session_adapter::adapter::azure::dialect::{Dialect, ResponseForm};
use session_adapter::adapter::azure::{self, ExecutionRequest, Query};
use session_adapter::adapter::backend::translate::{self, ResolvedLanguage, RunLimits};
use session_adapter::adapter::http::route::{Action, route};
use session_adapter::adapter::model::execution::Execution;
use session_adapter::adapter::model::operation_id::OperationId;
use session_adapter::adapter::model::timings::Arrival;
use session_adapter::adapter::session::registry::{ExecutionHandle, ExecutionRegistry, State};
use session_adapter::piston::{ExecuteRequest, ExecuteResponse, WorkingDirectory};
use tokio::time::Instant;

/// A request, and what the engine answers.
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    uri: Uri,
    body: Vec<u8>,
    response: Vec<u8>,
    /// Whether it starts in the data directory, as with the embedded engine.
    is_embedded: bool,
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let large = "x = 'a line of the program'\n".repeat(4 << 10);
    let much = "a line of output\n".repeat(8 << 10);
    vec![
        Case::new(
            "print",
            "/python/execute",
            wrapped("print(42)"),
            run("42\n", "", 0),
            false,
        ),
        Case::new(
            "value",
            "/executions",
            json!({"code": "1 + 1"}),
            run("", "", 0),
            true,
        ),
        Case::new(
            "failure",
            "/code/execute",
            wrapped("1/0"),
            run(
                "",
                "Traceback (most recent call last):\n  File \"/box/submission/main.py\"\nZeroDivisionError: division by zero\n",
                1,
            ),
            false,
        ),
        Case::new(
            "source of 112 kB",
            "/execute",
            json!({"code": large}),
            run("", "", 0),
            false,
        ),
        Case::new(
            "output of 136 kB",
            "/python/execute",
            wrapped("loop()"),
            run(&much, "", 0),
            false,
        ),
    ]
}

fn wrapped(code: &str) -> serde_json::Value {
    json!({"properties": {
        "codeInputType": "inline", "executionType": "synchronous", "code": code,
    }})
}

fn run(stdout: &str, stderr: &str, code: i32) -> serde_json::Value {
    let status = (code != 0).then_some("RE");
    json!({
        "run": {
            "signal": null, "stdout": stdout, "stderr": stderr, "code": code,
            "output": format!("{stdout}{stderr}"), "memory": 9_000_000, "message": null,
            "status": status, "cpu_time": 9, "wall_time": 12,
        },
        "language": "python", "version": "3.12.0",
    })
}

impl Case {
    fn new(
        name: &'static str,
        path: &str,
        body: serde_json::Value,
        response: serde_json::Value,
        is_embedded: bool,
    ) -> Self {
        let uri = format!("{path}?identifier=demo-1&api-version=2025-10-02-preview");
        Self {
            name,
            uri: uri.parse().expect("a target"),
            body: body.to_string().into_bytes(),
            response: response.to_string().into_bytes(),
            is_embedded,
        }
    }

    /// The action that is meant, and the query.
    pub fn route(&self) -> (Dialect, Query) {
        let query = Query::parse(self.uri.query().unwrap_or_default()).expect("a query");
        match route(&Method::POST, &self.uri) {
            Ok(Action::Execute(dialect)) => (dialect, query),
            other => panic!("{other:?}"),
        }
    }

    /// What is to be run.
    pub fn parse(&self, dialect: &Dialect, query: Query) -> ExecutionRequest {
        azure::parse(dialect, query, None, &self.body).expect("an execution")
    }

    /// The engine's request, as it is sent.
    pub fn translate(&self, execution: Execution) -> (ExecuteRequest, Vec<u8>) {
        let language = ResolvedLanguage {
            name: "python".to_owned(),
            language: "python".to_owned(),
        };
        let limits = RunLimits {
            run_timeout: Duration::from_secs(60),
            max_run_timeout: Duration::from_secs(220),
            memory: 512 << 20,
        };
        let mut request = translate::piston_request(execution, language, limits);
        request.working_directory = self.is_embedded.then_some(WorkingDirectory::Data);
        let body = serde_json::to_vec(&request).expect("JSON");
        (request, body)
    }

    /// What became of it, by the engine's response.
    pub fn read(&self, request: &ExecuteRequest) -> State {
        let response: ExecuteResponse = serde_json::from_slice(&self.response).expect("a response");
        let outcome = translate::outcome(request, response, usize::MAX);
        State::Ended(Arc::new(Ok(outcome.expect("an outcome"))))
    }

    /// The execution as it is remembered.
    pub fn track(&self, execution: &Execution) -> ExecutionHandle {
        let id = OperationId::given(b"an-execution").expect("an id");
        let arrived = Arrival {
            at: Instant::now(),
            trace: None,
        };
        let digest = ExecutionRegistry::default().digest(execution);
        ExecutionHandle::new(id, execution, digest, arrived)
    }

    /// The response.
    pub fn render(&self, handle: &ExecutionHandle, form: ResponseForm, state: &State) -> Bytes {
        let rendered = azure::render(form, handle, state);
        rendered.expect("a response").body
    }

    /// All of it.
    pub fn all(&self) -> usize {
        let (dialect, query) = self.route();
        let ExecutionRequest {
            execution, form, ..
        } = self.parse(&dialect, query);
        let handle = self.track(&execution);
        let (request, body) = self.translate(execution);
        let state = self.read(&request);
        let rendered = azure::render(form, &handle, &state).expect("a response");
        body.len() + rendered.body.len()
    }
}
