//! Comparing what was got with what a fixture expects.

use std::fmt;

use http::HeaderMap;
use serde_json::Value;
use uuid::Uuid;

use super::fixture::{AzureResponse, Headers, PistonRequest};
use super::response::Response;

/// What an error response must never say: it would tell a client how the engine is built.
const INTERNALS: [&str; 5] = ["/piston", "/box/", "node_modules", "isolate", "    at "];

/// How much of a value a [`Difference`] shows, in characters.
const SHOWN: usize = 300;

/// The first place where an answer is not what a fixture expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where: `status`, `header operation-id`, or the JSON path from `$`.
    pub path: String,
    /// What the fixture expects there.
    pub expected: String,
    /// The value in the response, as text.
    pub actual: String,
}

impl Difference {
    fn new(
        path: impl Into<String>,
        expected: impl Into<String>,
        actual: impl Into<String>,
    ) -> Self {
        Self {
            path: path.into(),
            expected: expected.into(),
            actual: actual.into(),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: expected {}, got {}",
            self.path,
            Shortened(&self.expected),
            Shortened(&self.actual)
        )
    }
}

struct Shortened<'a>(&'a str);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(SHOWN) {
            Some((end, _)) => write!(f, "{}… ({} bytes)", &self.0[..end], self.0.len()),
            None => f.write_str(self.0),
        }
    }
}

/// A string of a fixture that stands for more than itself.
enum Pattern<'a> {
    Uuid,
    Integer,
    Text,
    TextContaining(&'a str),
}

impl<'a> Pattern<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let inner = text.strip_prefix("{{")?.strip_suffix("}}")?;
        match inner {
            "uuid" => Some(Self::Uuid),
            "integer" => Some(Self::Integer),
            "text" => Some(Self::Text),
            _ => inner
                .strip_prefix("text containing ")
                .map(Self::TextContaining),
        }
    }

    fn matches(&self, actual: &Value) -> bool {
        match (self, actual) {
            (Self::Integer, Value::Number(number)) => number.is_u64(),
            (Self::Integer, _) | (_, Value::Null | Value::Bool(_) | Value::Number(_)) => false,
            (_, Value::Array(_) | Value::Object(_)) => false,
            (pattern, Value::String(text)) => pattern.matches_text(text),
        }
    }

    fn matches_text(&self, text: &str) -> bool {
        match self {
            // The form is fixed: 36 characters, and no braces or `urn:uuid:` before them.
            Self::Uuid => text.len() == 36 && Uuid::try_parse(text).is_ok(),
            Self::Integer => !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()),
            Self::Text => !text.is_empty(),
            Self::TextContaining(part) => text.contains(part),
        }
    }
}

/// The first difference between an expected JSON value, which may hold patterns, and an actual one.
///
/// A member that one has and the other has not is a difference.
#[must_use]
pub fn json_difference(expected: &Value, actual: &Value) -> Option<Difference> {
    difference_at("$", expected, actual)
}

fn difference_at(path: &str, expected: &Value, actual: &Value) -> Option<Difference> {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => {
            // Plain members first: `$.stdout` tells more than a copy of it further down.
            let (nested, plain): (Vec<_>, Vec<_>) = expected
                .iter()
                .partition(|(_, value)| value.is_object() || value.is_array());
            for (key, value) in plain.into_iter().chain(nested) {
                let path = format!("{path}.{key}");
                let found = match actual.get(key) {
                    Some(actual) => difference_at(&path, value, actual),
                    None => Some(Difference::new(path, value.to_string(), "nothing")),
                };
                if found.is_some() {
                    return found;
                }
            }
            actual
                .iter()
                .find(|(key, _)| !expected.contains_key(*key))
                .map(|(key, value)| {
                    Difference::new(format!("{path}.{key}"), "nothing", value.to_string())
                })
        }
        (Value::Array(expected), Value::Array(actual)) => {
            let inner = expected
                .iter()
                .zip(actual)
                .enumerate()
                .find_map(|(i, (e, a))| difference_at(&format!("{path}[{i}]"), e, a));
            inner.or_else(|| {
                (expected.len() != actual.len()).then(|| {
                    Difference::new(
                        format!("{path}.length"),
                        expected.len().to_string(),
                        actual.len().to_string(),
                    )
                })
            })
        }
        (Value::String(text), _) if let Some(pattern) = Pattern::parse(text) => {
            (!pattern.matches(actual)).then(|| Difference::new(path, text, actual.to_string()))
        }
        _ => (expected != actual)
            .then(|| Difference::new(path, expected.to_string(), actual.to_string())),
    }
}

/// The first header that is absent or has another value than expected.
#[must_use]
pub fn header_difference(expected: &Headers, actual: &HeaderMap) -> Option<Difference> {
    expected.iter().find_map(|(name, value)| {
        let path = format!("header {name}");
        let Some(found) = actual.get(name) else {
            return Some(Difference::new(path, value, "nothing"));
        };
        let found = String::from_utf8_lossy(found.as_bytes());
        let matches = match Pattern::parse(value) {
            Some(pattern) => pattern.matches_text(&found),
            None => found == *value,
        };
        (!matches).then(|| Difference::new(path, value, found))
    })
}

fn body_difference(json: Option<&Value>, text: Option<&str>, actual: &[u8]) -> Option<Difference> {
    if let Some(expected) = json {
        return match serde_json::from_slice(actual) {
            Ok(actual) => json_difference(expected, &actual),
            Err(error) => Some(Difference::new(
                "body",
                expected.to_string(),
                format!("no JSON ({error}): {}", String::from_utf8_lossy(actual)),
            )),
        };
    }
    let expected = text.unwrap_or_default();
    (expected.as_bytes() != actual)
        .then(|| Difference::new("body", expected, String::from_utf8_lossy(actual)))
}

/// The first difference between the response that a fixture expects and the one that came.
///
/// An error in the adapter's own words must not tell how the engine is built, whatever else the
/// fixture says of it.
#[must_use]
pub fn response_difference(expected: &AzureResponse, actual: &Response) -> Option<Difference> {
    if expected.status != actual.status {
        let got = format!(
            "{} {}",
            actual.status,
            String::from_utf8_lossy(&actual.body)
        );
        return Some(Difference::new("status", expected.status.to_string(), got));
    }
    header_difference(&expected.headers, &actual.headers)
        .or_else(|| {
            body_difference(
                expected.body.as_ref(),
                expected.body_text.as_deref(),
                &actual.body,
            )
        })
        .or_else(|| {
            if actual.status < 400 || expected.body.is_none() {
                return None;
            }
            let body = String::from_utf8_lossy(&actual.body);
            let word = INTERNALS.iter().find(|word| body.contains(*word))?;
            Some(Difference::new(
                "body",
                format!("no {word:?} in an error"),
                body,
            ))
        })
}

/// The first difference between what Piston must be asked and what it was asked.
#[must_use]
pub fn request_difference(
    expected: &PistonRequest,
    method: &str,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Option<Difference> {
    if expected.method != method {
        return Some(Difference::new("method", &expected.method, method));
    }
    if expected.path != path {
        return Some(Difference::new("path", &expected.path, path));
    }
    header_difference(&expected.headers, headers)
        .or_else(|| body_difference(expected.body.as_ref(), expected.body_text.as_deref(), body))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path(expected: &Value, actual: &Value) -> Option<String> {
        json_difference(expected, actual).map(|difference| difference.path)
    }

    #[test]
    fn equal_values_do_not_differ_in_whatever_order() {
        let expected = json!({"a": [1, null, "x"], "b": {"c": true}});
        let actual: Value = serde_json::from_str(r#"{"b":{"c":true},"a":[1,null,"x"]}"#).unwrap();
        assert_eq!(path(&expected, &actual), None);
    }

    #[test]
    fn the_first_difference_is_named_by_its_path() {
        let expected = json!({"a": {"b": [1, {"c": "x"}]}});
        for (actual, place) in [
            (json!({"a": {"b": [1, {"c": "y"}]}}), "$.a.b[1].c"),
            (json!({"a": {"b": [1, {}]}}), "$.a.b[1].c"),
            (json!({"a": {"b": [1]}}), "$.a.b.length"),
            (json!({"a": {"b": [1, {"c": "x"}], "d": null}}), "$.a.d"),
            (json!({"a": []}), "$.a"),
            (json!(null), "$"),
        ] {
            assert_eq!(path(&expected, &actual).as_deref(), Some(place), "{actual}");
        }
    }

    #[test]
    fn a_pattern_matches_its_kind_only() {
        let uuid = json!("7d444840-9dc0-11d1-b245-5ffdce74fad2");
        for (pattern, yes, no) in [
            (
                "{{uuid}}",
                vec![uuid.clone()],
                vec![json!("7d444840"), json!(1), json!(null)],
            ),
            (
                "{{integer}}",
                vec![json!(0), json!(1500)],
                vec![json!(1.5), json!(-1), json!("1")],
            ),
            (
                "{{text}}",
                vec![json!("x"), uuid],
                vec![json!(""), json!(5), json!(["x"])],
            ),
            (
                "{{text containing b c}}",
                vec![json!("ab cd")],
                vec![json!("bc"), json!({"b c": 1})],
            ),
            ("{{nothing}}", vec![json!("{{nothing}}")], vec![json!("x")]),
        ] {
            for value in yes {
                assert_eq!(path(&json!(pattern), &value), None, "{pattern} {value}");
            }
            for value in no {
                assert_eq!(
                    path(&json!(pattern), &value).as_deref(),
                    Some("$"),
                    "{pattern} {value}"
                );
            }
        }
    }

    #[test]
    fn a_number_in_a_header_is_text() {
        let expected = Headers::from([("retry-after".to_owned(), "{{integer}}".to_owned())]);
        let mut actual = HeaderMap::new();
        assert!(header_difference(&expected, &actual).is_some());
        actual.insert("retry-after", "soon".parse().unwrap());
        assert!(header_difference(&expected, &actual).is_some());
        actual.insert("retry-after", "1".parse().unwrap());
        assert_eq!(header_difference(&expected, &actual), None);
    }

    #[test]
    fn an_error_that_tells_of_the_engine_differs_whatever_its_message_matches() {
        let expected = AzureResponse {
            status: 502,
            headers: Headers::new(),
            body: Some(json!({"error": {"message": "{{text}}"}})),
            body_text: None,
        };
        let response = |message: &str| Response {
            status: 502,
            headers: HeaderMap::new(),
            body: json!({"error": {"message": message}}).to_string().into(),
        };
        assert_eq!(
            response_difference(&expected, &response("the engine failed")),
            None
        );
        assert!(
            response_difference(&expected, &response("x (/piston_api/src/job.js:1)")).is_some()
        );
    }

    #[test]
    fn long_values_are_shortened() {
        let difference = Difference::new("$", "é".repeat(1000), "x");
        let shown = difference.to_string();
        assert!(
            shown.len() < 1000 && shown.contains("… (2000 bytes)"),
            "{shown}"
        );
    }
}
