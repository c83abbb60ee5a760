//! Parts that the bodies of all dialects share.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::adapter::azure::error::ErrorMeta;
use crate::adapter::model::outcome::Outcome;

/// A rendered answer: status and JSON.
#[derive(Debug)]
pub struct Rendered {
    pub status: StatusCode,
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
    pub fn at_both_levels(fields: &impl Serialize, top: Option<&impl Serialize>) -> Self {
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
    pub fn error(meta: ErrorMeta) -> Self {
        Self {
            status: meta.status,
            ..Self::ok(&ErrorResponse::new(meta))
        }
    }
}

/// Azure's error body.
///
/// Source: `Azure.Core.Foundations.ErrorResponse` in the published OpenAPI documents.
#[derive(Serialize)]
pub struct ErrorResponse {
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
    /// The body for an error.
    pub fn new(meta: ErrorMeta) -> Self {
        Self {
            error: ErrorBody {
                code: meta.code,
                message: meta.message,
                target: meta.target,
            },
        }
    }
}

/// An object with a number, as Azure's older dialects have them.
#[derive(Serialize)]
pub struct Numbered<F> {
    #[serde(rename = "$id")]
    pub number: &'static str,
    #[serde(flatten)]
    pub fields: F,
}

/// The value of a last expression, as `result` and `executionResult` have it.
#[derive(Clone, Serialize)]
#[serde(untagged)]
pub enum Value<'a> {
    Json(&'a RawValue),
    /// As text; empty where there is no value.
    Text(Cow<'a, str>),
}

impl<'a> Value<'a> {
    /// As JSON, whatever it is.
    pub fn of(outcome: &'a Outcome) -> Self {
        match &outcome.value {
            Some(value) => Self::Json(value),
            None => Self::Text(Cow::Borrowed("")),
        }
    }

    /// Text is what a string holds, and the JSON of anything else.
    pub fn text_of(outcome: &'a Outcome) -> Self {
        let value = outcome.value.as_deref().map_or("\"\"", RawValue::get);
        Self::Text(match serde_json::from_str::<String>(value) {
            Ok(text) => Cow::Owned(text),
            Err(_) => Cow::Borrowed(value),
        })
    }
}

/// Azure's word for an outcome on `*/execute`. AutoGen takes any other for success.
pub fn success_or_failure(outcome: &Outcome) -> &'static str {
    if outcome.exit_code == 0 {
        "Success"
    } else {
        "Failure"
    }
}

/// The members of an object of JSON: what stands between its braces.
fn members(object: &str) -> &str {
    let inner = object.strip_prefix('{');
    let inner = inner.and_then(|inner| inner.strip_suffix('}'));
    inner.unwrap_or_default()
}
