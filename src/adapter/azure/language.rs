//! The response of `POST /{language}/execute` and `POST /execute`.
//!
//! [`ResponseFields`] stand at the top and under `properties`, because clients read one or the other.
//! [`Stages`] have Piston's own words for existing back ends, which read them at the top; they repeat
//! the output, and so stand there alone.

use serde::Serialize;

use crate::adapter::azure::body::{Value, success_or_failure};
use crate::adapter::model::outcome::{Outcome, StageOutput};
use crate::piston::{Json, Verdict};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResponseFields<'a> {
    status: &'static str,
    outcome: Verdict,
    stdout: &'a str,
    stderr: &'a str,
    #[serde(rename = "stdoutBase64", skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<&'a str>,
    #[serde(rename = "stderrBase64", skip_serializing_if = "Option::is_none")]
    stderr_base64: Option<&'a str>,
    result: Value<'a>,
    execution_result: Value<'a>,
    exit_code: i32,
    return_code: i32,
    execution_time_in_milliseconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_time_in_milliseconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_in_bytes: Option<u64>,
    #[serde(skip_serializing_if = "<[Json]>::is_empty")]
    outputs: &'a [Json],
}

impl<'a> ResponseFields<'a> {
    pub fn new(outcome: &'a Outcome) -> Self {
        Self {
            status: success_or_failure(outcome),
            outcome: outcome.verdict,
            stdout: outcome.stdout(),
            stderr: outcome.stderr(),
            stdout_base64: outcome.stdout_base64(),
            stderr_base64: outcome.stderr_base64(),
            result: Value::of(outcome),
            execution_result: Value::of(outcome),
            exit_code: outcome.exit_code,
            return_code: outcome.exit_code,
            execution_time_in_milliseconds: outcome.time_ms,
            cpu_time_in_milliseconds: outcome.cpu_time_ms,
            memory_in_bytes: outcome.memory_bytes,
            outputs: &outcome.outputs,
        }
    }
}

#[derive(Serialize)]
pub struct Stages<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    compile: Option<&'a StageOutput>,
    run: &'a StageOutput,
}

impl<'a> Stages<'a> {
    pub fn new(outcome: &'a Outcome) -> Self {
        Self {
            compile: outcome.compile.as_ref(),
            run: &outcome.run,
        }
    }
}
