//! Azure's dialects: what a request may look like, and what its answer looks like.

mod about;
mod code;
mod executions;
mod files;
mod language;
mod query;
mod request;

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::translate::Outcome;

pub use about::About;
pub use files::{FilesForm, FilesQuery, render_entry, render_list, render_uploaded};
pub use query::{API_VERSIONS, Identifier, Query};
pub use request::{AnswerForm, Execution, parse};

/// A rendered answer: status and JSON.
#[derive(Debug)]
pub struct Rendered {
    /// The HTTP status.
    pub status: StatusCode,
    /// JSON.
    pub body: Bytes,
}

/// Renders what became of an execution, in the form and for the session that were asked for.
pub fn render(
    form: AnswerForm,
    identifier: Option<&Identifier>,
    operation_id: &str,
    outcome: &Outcome,
) -> Rendered {
    let resource = executions::Resource {
        id: operation_id,
        identifier,
    };
    let body = match form {
        AnswerForm::Language => json(&language::Answer::new(outcome)),
        AnswerForm::Code => json(&code::Answer::new(outcome)),
        AnswerForm::Executions => json(&resource.of_code(outcome, Value::of(outcome))),
        AnswerForm::ExecutionsWithText => json(&resource.of_code(outcome, Value::text_of(outcome))),
        AnswerForm::Shell => json(&resource.of_shell(outcome)),
    };
    Rendered {
        status: StatusCode::OK,
        body,
    }
}

/// Azure's error body.
///
/// Source: `Azure.Core.Foundations.ErrorResponse` in the published OpenAPI documents.
#[derive(Serialize)]
struct ErrorResponse<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
}

/// Renders Azure's error body.
pub fn render_error(error: &ApiError) -> Rendered {
    let told = error.told();
    Rendered {
        status: told.status,
        body: json(&ErrorResponse {
            error: ErrorBody {
                code: told.code,
                message: error.to_string(),
                target: told.target,
            },
        }),
    }
}

/// Serialises one of our own types, which cannot fail: they hold no map with other keys than text.
pub fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// The value of a last expression, as `result` and `executionResult` have it.
#[derive(Clone, Serialize)]
#[serde(untagged)]
enum Value<'a> {
    /// As it is.
    Json(&'a RawValue),
    /// As text; empty where there is no value.
    Text(Cow<'a, str>),
}

impl<'a> Value<'a> {
    fn of(outcome: &'a Outcome) -> Self {
        match &outcome.value {
            Some(value) => Self::Json(value),
            None => Self::Text(Cow::Borrowed("")),
        }
    }

    /// Text is what a string holds, and the JSON of anything else.
    fn text_of(outcome: &'a Outcome) -> Self {
        let value = outcome.value.as_deref().map_or("\"\"", RawValue::get);
        Self::Text(match serde_json::from_str::<String>(value) {
            Ok(text) => Cow::Owned(text),
            Err(_) => Cow::Borrowed(value),
        })
    }
}

/// Azure's word for an outcome on `*/execute`. AutoGen takes any other for success.
fn success_or_failure(outcome: &Outcome) -> &'static str {
    if outcome.exit_code == 0 {
        "Success"
    } else {
        "Failure"
    }
}
