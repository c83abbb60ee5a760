//! Reads JSON as JavaScript does, where serde is stricter. A lone surrogate becomes U+FFFD, as it does
//! when Piston writes the string to a file. Of several members with one name the last one counts.
//! Nesting has no limit, because values that are not asked for are skipped without recursion.
//!
//! It knows JSON only, not what a request means.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::lossy::LossyString;

/// A JSON value, which is syntactically valid and not yet parsed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Json<'a>(&'a str);

/// The type of a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueKind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl<'a> Json<'a> {
    /// Checks that `text` is JSON.
    ///
    /// # Errors
    /// If it is not.
    pub(super) fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        let raw: &RawValue = serde_json::from_str(text)?;
        Ok(Self(raw.get()))
    }

    pub(super) fn kind(self) -> ValueKind {
        match self.0.as_bytes().first() {
            Some(b'n') | None => ValueKind::Null,
            Some(b't' | b'f') => ValueKind::Bool,
            Some(b'"') => ValueKind::String,
            Some(b'[') => ValueKind::Array,
            Some(b'{') => ValueKind::Object,
            Some(_) => ValueKind::Number,
        }
    }

    /// Whether the value is truthy in JavaScript.
    pub(super) fn is_truthy(self) -> bool {
        match self.kind() {
            ValueKind::Null => false,
            ValueKind::Bool => self.0 == "true",
            ValueKind::Number => self.number().is_some_and(|n| n != 0.0),
            ValueKind::String => self.0 != "\"\"",
            ValueKind::Array | ValueKind::Object => true,
        }
    }

    /// The number, if it is one.
    pub(super) fn number(self) -> Option<f64> {
        (self.kind() == ValueKind::Number)
            .then(|| serde_json::from_str(self.0).ok())
            .flatten()
    }

    /// The string, if it is one.
    pub(super) fn string(self) -> Option<String> {
        if self.kind() != ValueKind::String {
            return None;
        }
        serde_json::from_str::<LossyString>(self.0)
            .ok()
            .map(|text| text.0)
    }

    /// The elements, if it is an array.
    pub(super) fn elements(self) -> Option<Vec<Self>> {
        if self.kind() != ValueKind::Array {
            return None;
        }
        let raw: Vec<&'a RawValue> = serde_json::from_str(self.0).ok()?;
        Some(raw.into_iter().map(|raw| Self(raw.get())).collect())
    }

    /// The members, if it is an object.
    pub(super) fn members(self) -> Option<Members<'a>> {
        if self.kind() != ValueKind::Object {
            return None;
        }
        serde_json::from_str(self.0).ok()
    }

    /// The result of JavaScript's `String()` for it.
    pub(super) fn to_js_string(self) -> String {
        match self.kind() {
            ValueKind::String => self.string().unwrap_or_default(),
            ValueKind::Number => self.number().map(number_text).unwrap_or_default(),
            ValueKind::Null | ValueKind::Bool => self.0.to_owned(),
            // JavaScript joins nested arrays recursively. No client relies on that, and not doing so
            // bounds the recursion.
            ValueKind::Array => self
                .elements()
                .unwrap_or_default()
                .into_iter()
                .map(|element| match element.kind() {
                    ValueKind::Null => String::new(),
                    ValueKind::Array => "[object Array]".to_owned(),
                    _ => element.to_js_string(),
                })
                .collect::<Vec<_>>()
                .join(","),
            ValueKind::Object => "[object Object]".to_owned(),
        }
    }
}

/// A number in JavaScript's notation, in which integers have no decimal point.
pub(super) fn number_text(number: f64) -> String {
    format!("{number}")
}

/// The members of an object.
#[derive(Debug, Default)]
pub(super) struct Members<'a>(Vec<(String, Json<'a>)>);

impl<'a> Members<'a> {
    /// The value of a member. `None` is JavaScript's `undefined`.
    pub(super) fn get(&self, name: &str) -> Option<Json<'a>> {
        self.0
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| *value)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(key) = map.next_key::<LossyString>()? {
                    let raw = map.next_value::<&'de RawValue>()?;
                    members.push((key.0, Json(raw.get())));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_surrogate_becomes_one_replacement_character() {
        for (text, read) in [
            (r#""a\ud83db""#, "a\u{fffd}b"),
            (r#""\ud83d\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\ude00\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\u0000""#, "\0"),
        ] {
            assert_eq!(Json::parse(text).unwrap().string().unwrap(), read, "{text}");
        }
    }

    #[test]
    fn the_last_of_two_members_counts() {
        let json = Json::parse(r#"{"a":1,"\ud800":0,"a":2}"#).unwrap();
        let members = json.members().unwrap();
        assert_eq!(members.get("a").unwrap().number(), Some(2.0));
        assert!(members.get("b").is_none());
    }

    #[test]
    fn deep_nesting_is_skipped_without_recursion() {
        let deep = format!(
            r#"{{"x":{}{},"y":1}}"#,
            "[".repeat(200_000),
            "]".repeat(200_000)
        );
        let members = Json::parse(&deep).unwrap().members().unwrap();
        assert_eq!(members.get("y").unwrap().number(), Some(1.0));
        assert!(Json::parse(&"[".repeat(200_000)).is_err());
    }

    #[test]
    fn values_are_turned_to_text_as_javascript_does() {
        for (json, text) in [
            ("1", "1"),
            ("1.0", "1"),
            ("-0.5", "-0.5"),
            ("true", "true"),
            ("null", "null"),
            (r#"["a",1,null]"#, "a,1,"),
            ("{}", "[object Object]"),
        ] {
            assert_eq!(Json::parse(json).unwrap().to_js_string(), text);
        }
    }
}
