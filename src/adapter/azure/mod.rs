//! Azure's dialects: what a request may look like, and what its answer looks like.

mod about;
mod code;
pub mod dialect;
pub mod error;
mod executions;
mod files;
mod language;
mod query;
mod request;
mod sessions;
pub mod version;

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;

pub use crate::adapter::azure::about::About;
use crate::adapter::azure::dialect::ResponseForm;
use crate::adapter::azure::error::ApiError;
pub use crate::adapter::azure::files::{FilesQuery, render_entry, render_list, render_uploaded};
pub use crate::adapter::azure::query::Query;
pub use crate::adapter::azure::request::{ExecutionRequest, parse};
pub use crate::adapter::azure::sessions::{list, metadata, session, stopped};
use crate::adapter::model::outcome::Outcome;
use crate::adapter::session::registry::{State, Tracked};

/// A rendered answer: status and JSON.
#[derive(Debug)]
pub struct Rendered {
    /// The HTTP status.
    pub status: StatusCode,
    /// JSON.
    pub body: Bytes,
}

impl Rendered {
    /// A 200 with one of our own types, which cannot fail to become JSON: they hold no map with
    /// other keys than text.
    pub fn ok(value: &impl Serialize) -> Self {
        Self {
            status: StatusCode::OK,
            body: serde_json::to_vec(value).unwrap_or_default().into(),
        }
    }

    /// A 200 with `fields` both at the top and under `properties`, because clients of a custom
    /// container read one or the other, and with `top` at the top alone. They are made JSON once:
    /// output can be large.
    fn at_both_levels(fields: &impl Serialize, top: Option<&impl Serialize>) -> Self {
        let fields = serde_json::to_string(fields).unwrap_or_default();
        let fields = members(&fields);
        let top = top.map(|top| serde_json::to_string(top).unwrap_or_default());
        let (comma, top) = match &top {
            Some(top) => (",", members(top)),
            None => ("", ""),
        };
        let body = [
            r#"{"$id":"1","#,
            fields,
            comma,
            top,
            r#","properties":{"$id":"2","#,
            fields,
            "}}",
        ];
        Self {
            status: StatusCode::OK,
            body: body.concat().into(),
        }
    }

    /// Azure's error body, with its status.
    pub fn error(error: &ApiError) -> Self {
        Self {
            status: error.told().status,
            ..Self::ok(&ErrorResponse::new(error))
        }
    }
}

/// Renders how an execution stands, in the form that was asked for.
///
/// # Errors
/// The error in which the execution has ended, where the form has no place for one.
pub fn render<'a>(
    form: ResponseForm,
    tracked: &Tracked,
    state: &'a State,
) -> Result<Rendered, &'a ApiError> {
    Ok(match (form, state) {
        (ResponseForm::Language | ResponseForm::Code, State::NotStarted) => {
            pending(tracked, "NotStarted")
        }
        (ResponseForm::Language | ResponseForm::Code, State::Running) => {
            pending(tracked, "Running")
        }
        (_, State::Ended(result)) => {
            let outcome = (**result).as_ref()?;
            match form {
                ResponseForm::Language => Rendered::at_both_levels(
                    &language::Fields::new(outcome),
                    Some(&language::Stages::new(outcome)),
                ),
                ResponseForm::Code => Rendered::ok(&code::Answer::new(outcome)),
                _ => Rendered::ok(&executions::Resource::new(tracked, state, form)),
            }
        }
        _ => Rendered::ok(&executions::Resource::new(tracked, state, form)),
    })
}

fn pending(tracked: &Tracked, status: &'static str) -> Rendered {
    let fields = executions::Pending::new(tracked, status);
    Rendered::at_both_levels(&fields, None::<&()>)
}

/// The members of an object of JSON: what stands between its braces.
fn members(object: &str) -> &str {
    let inner = object.strip_prefix('{');
    let inner = inner.and_then(|inner| inner.strip_suffix('}'));
    inner.unwrap_or_default()
}

/// Renders `GET /executions/{id}`: an execution resource, whatever dialect it was asked for in.
pub fn render_resource(tracked: &Tracked, state: &State, query: &Query) -> Rendered {
    let form = ResponseForm::of_resource(tracked.is_shell, query.value_is_text());
    Rendered::ok(&executions::Resource::new(tracked, state, form))
}

/// Azure's error body.
///
/// Source: `Azure.Core.Foundations.ErrorResponse` in the published OpenAPI documents.
#[derive(Serialize)]
struct ErrorResponse {
    error: ErrorBody,
}

#[derive(Serialize)]
struct ErrorBody {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'static str>,
}

impl ErrorResponse {
    fn new(error: &ApiError) -> Self {
        let told = error.told();
        Self {
            error: ErrorBody {
                code: told.code,
                message: error.to_string(),
                target: told.target,
            },
        }
    }
}

/// An object with a number, as Azure's older dialects have them.
#[derive(Serialize)]
struct Numbered<F> {
    #[serde(rename = "$id")]
    number: &'static str,
    #[serde(flatten)]
    fields: F,
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
