//! The response of `POST /code/execute` (2024-02-02-preview, 2024-08-02-preview).

use serde::Serialize;

use crate::adapter::azure::body::{Numbered, Value, success_or_failure};
use crate::adapter::model::outcome::Outcome;
use crate::piston::Json;

#[derive(Serialize)]
pub struct CodeResponse<'a> {
    #[serde(rename = "$id")]
    number: &'static str,
    properties: Numbered<CodeProperties<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CodeProperties<'a> {
    status: &'static str,
    stdout: &'a str,
    stderr: &'a str,
    #[serde(rename = "stdoutBase64", skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<&'a str>,
    #[serde(rename = "stderrBase64", skip_serializing_if = "Option::is_none")]
    stderr_base64: Option<&'a str>,
    result: Value<'a>,
    execution_result: Value<'a>,
    execution_time_in_milliseconds: u64,
    #[serde(skip_serializing_if = "<[Json]>::is_empty")]
    outputs: &'a [Json],
}

impl<'a> CodeResponse<'a> {
    pub fn new(outcome: &'a Outcome) -> Self {
        let fields = CodeProperties {
            status: success_or_failure(outcome),
            stdout: outcome.stdout(),
            stderr: outcome.stderr(),
            stdout_base64: outcome.stdout_base64(),
            stderr_base64: outcome.stderr_base64(),
            result: Value::of(outcome),
            execution_result: Value::of(outcome),
            execution_time_in_milliseconds: outcome.time_ms,
            outputs: &outcome.outputs,
        };
        Self {
            number: "1",
            properties: Numbered {
                number: "2",
                fields,
            },
        }
    }
}
