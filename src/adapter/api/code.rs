//! The answer of `POST /code/execute` (2024-02-02-preview, 2024-08-02-preview).

use serde::Serialize;

use crate::adapter::translate::Outcome;

use super::{Value, success_or_failure};

#[derive(Serialize)]
pub struct Answer<'a> {
    #[serde(rename = "$id")]
    id: &'static str,
    properties: Properties<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties<'a> {
    #[serde(rename = "$id")]
    id: &'static str,
    status: &'static str,
    stdout: &'a str,
    stderr: &'a str,
    result: Value<'a>,
    execution_result: Value<'a>,
    execution_time_in_milliseconds: u64,
}

impl<'a> Answer<'a> {
    pub fn new(outcome: &'a Outcome) -> Self {
        Self {
            id: "1",
            properties: Properties {
                id: "2",
                status: success_or_failure(outcome),
                stdout: outcome.stdout(),
                stderr: outcome.stderr(),
                result: Value::of(outcome),
                execution_result: Value::of(outcome),
                execution_time_in_milliseconds: outcome.time_ms,
            },
        }
    }
}
