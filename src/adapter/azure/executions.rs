//! The execution resource: the response of `POST /executions` and `GET /executions/{id}`
//! (2024-10-02-preview and later) and of shell executions.
//!
//! Source: `SessionCodeExecutionResource` in the published OpenAPI documents and their examples.

use serde::Serialize;

use crate::adapter::azure::body::{ErrorResponse, Value};
use crate::adapter::azure::dialect::ResponseForm;
use crate::adapter::azure::error::ErrorMeta;
use crate::adapter::model::identifier::Identifier;
use crate::adapter::model::outcome::Outcome;
use crate::adapter::session::error::SessionError;
use crate::adapter::session::registry::{ExecutionHandle, State};
use crate::piston::{Json, Verdict};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource<'a> {
    id: &'a str,
    identifier: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_type: Option<&'static str>,
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<ExecutionResult<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorResponse>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecutionResult<'a> {
    stdout: &'a str,
    stderr: &'a str,
    #[serde(rename = "stdoutBase64", skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<&'a str>,
    #[serde(rename = "stderrBase64", skip_serializing_if = "Option::is_none")]
    stderr_base64: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_result: Option<Value<'a>>,
    outcome: Verdict,
    execution_time_in_milliseconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_time_in_milliseconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_in_bytes: Option<u64>,
    #[serde(skip_serializing_if = "<[Json]>::is_empty")]
    outputs: &'a [Json],
}

impl<'a> ExecutionResult<'a> {
    fn new(outcome: &'a Outcome, value: Option<Value<'a>>, time_ms: u64) -> Self {
        Self {
            stdout: outcome.stdout(),
            stderr: outcome.stderr(),
            stdout_base64: outcome.stdout_base64(),
            stderr_base64: outcome.stderr_base64(),
            execution_result: value,
            outcome: outcome.verdict,
            execution_time_in_milliseconds: time_ms,
            cpu_time_in_milliseconds: outcome.cpu_time_ms,
            memory_in_bytes: outcome.memory_bytes,
            outputs: &outcome.outputs,
        }
    }
}

impl<'a> Resource<'a> {
    /// The execution as it stands.
    pub fn new(handle: &'a ExecutionHandle, state: &'a State, form: ResponseForm) -> Self {
        match state {
            State::NotStarted => Self::without_result(handle, "NotStarted"),
            State::Running => Self::without_result(handle, "Running"),
            State::Ended(result) => match &**result {
                Ok(outcome) => Self::with_result(handle, outcome, form),
                Err(SessionError::Canceled) => Self::without_result(handle, "Canceled"),
                Err(error) => Self {
                    error: Some(ErrorResponse::new(ErrorMeta::of_session(error))),
                    ..Self::without_result(handle, "Failed")
                },
            },
        }
    }

    fn without_result(handle: &'a ExecutionHandle, status: &str) -> Self {
        Self {
            id: handle.id.as_str(),
            identifier: identifier(handle),
            execution_type: (!handle.is_shell).then_some(execution_type(handle)),
            status: status.to_owned(),
            result: None,
            error: None,
        }
    }

    /// Shell pools tell the exit code in place of a status, and -1 for a time-out, which took
    /// as long as its limit.
    fn with_result(handle: &'a ExecutionHandle, outcome: &'a Outcome, form: ResponseForm) -> Self {
        let (status, value, time_ms) = if form.is_shell() {
            match outcome.timed_out_after {
                None => (outcome.exit_code.to_string(), None, outcome.time_ms),
                Some(limit) => ("-1".to_owned(), None, limit.as_millis() as u64),
            }
        } else {
            let value = match form {
                ResponseForm::ExecutionsWithText => Value::text_of(outcome),
                _ => Value::of(outcome),
            };
            (status(outcome).to_owned(), Some(value), outcome.time_ms)
        };
        Self {
            result: Some(ExecutionResult::new(outcome, value, time_ms)),
            status,
            ..Self::without_result(handle, "")
        }
    }
}

/// The response of `POST /shellExecute`, as Microsoft's sample container has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShellExecuted<'a> {
    status: &'static str,
    /// The limit that stopped the command, in the words of `outcome`.
    error_name: &'static str,
    error_message: &'a str,
    exit_code: i32,
    identifier: &'a str,
    result: ExecutionResult<'a>,
}

impl<'a> ShellExecuted<'a> {
    pub fn new(handle: &'a ExecutionHandle, outcome: &'a Outcome) -> Self {
        let limit = outcome.verdict.limit().map(|_| outcome.verdict.as_str());
        let last_line = outcome.stderr().trim_end().lines().next_back();
        Self {
            status: status(outcome),
            error_name: limit.unwrap_or_default(),
            error_message: limit.and(last_line).unwrap_or_default(),
            exit_code: outcome.exit_code,
            identifier: identifier(handle),
            result: ExecutionResult::new(outcome, None, outcome.time_ms),
        }
    }
}

fn status(outcome: &Outcome) -> &'static str {
    if outcome.exit_code == 0 {
        "Succeeded"
    } else {
        "Failed"
    }
}

fn identifier(handle: &ExecutionHandle) -> &str {
    handle.identifier.as_ref().map_or("", Identifier::as_str)
}

/// Azure's word for whether the client waits.
fn execution_type(handle: &ExecutionHandle) -> &'static str {
    if handle.is_asynchronous {
        "Asynchronous"
    } else {
        "Synchronous"
    }
}

/// The response of a `*/execute` whose execution has not ended: the execution resource in that
/// dialect's shape, with empty output.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending<'a> {
    id: &'a str,
    execution_type: &'static str,
    status: &'static str,
    stdout: &'static str,
    stderr: &'static str,
    result: &'static str,
    execution_result: &'static str,
    execution_time_in_milliseconds: u64,
}

impl<'a> Pending<'a> {
    pub fn new(handle: &'a ExecutionHandle, status: &'static str) -> Self {
        Self {
            id: handle.id.as_str(),
            execution_type: execution_type(handle),
            status,
            stdout: "",
            stderr: "",
            result: "",
            execution_result: "",
            execution_time_in_milliseconds: 0,
        }
    }
}
