//! The answer of `POST /{language}/execute` and `POST /execute`, whose fields stand there twice.
//!
//! `run` and `compile` have Piston's own words for existing back ends.

use serde::Serialize;

use crate::adapter::translate::{Outcome, StageOutput};

use super::{Value, success_or_failure};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fields<'a> {
    status: &'static str,
    stdout: &'a str,
    stderr: &'a str,
    result: Value<'a>,
    execution_result: Value<'a>,
    exit_code: i32,
    return_code: i32,
    execution_time_in_milliseconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    compile: Option<&'a StageOutput>,
    run: &'a StageOutput,
}

impl<'a> Fields<'a> {
    pub fn new(outcome: &'a Outcome) -> Self {
        Self {
            status: success_or_failure(outcome),
            stdout: outcome.stdout(),
            stderr: outcome.stderr(),
            result: Value::of(outcome),
            execution_result: Value::of(outcome),
            exit_code: outcome.exit_code,
            return_code: outcome.exit_code,
            execution_time_in_milliseconds: outcome.time_ms,
            compile: outcome.compile.as_ref(),
            run: &outcome.run,
        }
    }
}
