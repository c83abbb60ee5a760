//! The answer of `POST /executions` (2024-10-02-preview and later) and of shell executions.
//!
//! Source: `SessionCodeExecutionResource` in the published OpenAPI documents and their examples.

use serde::Serialize;

use crate::adapter::translate::Outcome;

use super::Value;
use super::query::Identifier;

/// Which execution of which session an answer is about.
#[derive(Clone, Copy)]
pub struct Resource<'a> {
    pub id: &'a str,
    pub identifier: Option<&'a Identifier>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer<'a> {
    id: &'a str,
    identifier: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_type: Option<&'static str>,
    status: String,
    result: ExecutionResult<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecutionResult<'a> {
    stdout: &'a str,
    stderr: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_result: Option<Value<'a>>,
    execution_time_in_milliseconds: u64,
}

impl<'a> Resource<'a> {
    pub fn of_code(self, outcome: &'a Outcome, value: Value<'a>) -> Answer<'a> {
        let succeeded = outcome.exit_code == 0;
        Answer {
            execution_type: Some("Synchronous"),
            result: ExecutionResult {
                execution_result: Some(value),
                ..ExecutionResult::new(outcome)
            },
            ..self.answer(
                if succeeded { "Succeeded" } else { "Failed" }.to_owned(),
                outcome,
            )
        }
    }

    /// Shell pools tell the exit code in place of a status, and -1 for a time-out, which took
    /// as long as its limit.
    pub fn of_shell(self, outcome: &'a Outcome) -> Answer<'a> {
        match outcome.timed_out_after {
            None => self.answer(outcome.exit_code.to_string(), outcome),
            Some(limit) => Answer {
                result: ExecutionResult {
                    execution_time_in_milliseconds: limit.as_millis() as u64,
                    ..ExecutionResult::new(outcome)
                },
                ..self.answer("-1".to_owned(), outcome)
            },
        }
    }

    fn answer(self, status: String, outcome: &'a Outcome) -> Answer<'a> {
        Answer {
            id: self.id,
            identifier: self.identifier.map_or("", Identifier::as_str),
            execution_type: None,
            status,
            result: ExecutionResult::new(outcome),
        }
    }
}

impl<'a> ExecutionResult<'a> {
    fn new(outcome: &'a Outcome) -> Self {
        Self {
            stdout: outcome.stdout(),
            stderr: outcome.stderr(),
            execution_result: None,
            execution_time_in_milliseconds: outcome.time_ms,
        }
    }
}
