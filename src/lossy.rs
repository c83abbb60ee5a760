//! Text from JSON that may hold half a surrogate pair.
//!
//! JavaScript writes such strings (`"\ud83d"`), Piston reads them as U+FFFD (recording
//! `unicode_lone_surrogate_in_source`), and `serde_json` refuses them for a `String`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A string in which each lone surrogate has become one U+FFFD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LossyString(pub String);

impl<'de> Deserialize<'de> for LossyString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde_json hands the bytes of a string over unchecked, lone surrogates as WTF-8.
        deserializer.deserialize_bytes(LossyVisitor).map(Self)
    }
}

struct LossyVisitor;

impl Visitor<'_> for LossyVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<String, E> {
        Ok(from_wtf8(bytes).into_owned())
    }
}

/// Decodes WTF-8; what is not even that becomes U+FFFD too.
fn from_wtf8(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut clean = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = surrogate(rest) {
        clean.extend_from_slice(&rest[..at]);
        clean.extend_from_slice(
            char::REPLACEMENT_CHARACTER
                .encode_utf8(&mut [0; 4])
                .as_bytes(),
        );
        rest = &rest[at + 3..];
    }
    clean.extend_from_slice(rest);
    Cow::Owned(String::from_utf8_lossy(&clean).into_owned())
}

/// Where the first surrogate begins: U+D800 to U+DFFF are `ED A0 80` to `ED BF BF`.
fn surrogate(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(3)
        .position(|w| w[0] == 0xED && w[1] >= 0xA0 && w[2] & 0xC0 == 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> String {
        serde_json::from_str::<LossyString>(json).unwrap().0
    }

    #[test]
    fn whole_pairs_stay_and_each_half_becomes_one_replacement_character() {
        assert_eq!(read(r#""a😀\ud83d\ude00é""#), "a😀😀é");
        assert_eq!(
            read(r#""x\ud83dy\ude00z\ud83d\ud83d""#),
            "x\u{FFFD}y\u{FFFD}z\u{FFFD}\u{FFFD}"
        );
        assert_eq!(read(r#""\uD7FF\uE000""#), "\u{D7FF}\u{E000}");
    }

    #[test]
    fn what_is_not_a_string_is_refused() {
        for json in ["5", "null", "[1]", "{}", "true"] {
            assert!(serde_json::from_str::<LossyString>(json).is_err(), "{json}");
        }
    }
}
