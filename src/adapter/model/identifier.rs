//! The name by which a pool calls a session.

/// A session's identifier: 4 to 128 characters by the pattern of Azure's OpenAPI documents.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identifier(String);

impl Identifier {
    /// Reads an identifier; `None` where it is not of Azure's form.
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_graphic() && b != b'\\';
        let is_fine = (4..=128).contains(&text.len()) && text.bytes().all(allowed);
        is_fine.then(|| Self(text.to_owned()))
    }

    /// The identifier as the client wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_the_published_pattern() {
        for good in ["demo", "a.b:c-d_e", "{[<|>]}?~`", &"x".repeat(128)] {
            assert!(Identifier::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "abc",
            "a b c",
            r"a\bcd",
            "größe",
            "tab\tbed",
            &"x".repeat(129),
        ] {
            assert!(Identifier::parse(bad).is_none(), "{bad}");
        }
    }
}
