//! The id of an execution.

use uuid::Uuid;

/// What an execution is called: the client's own word for it, or one of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OperationId {
    text: String,
    /// Whether the client has chosen it, and may come back with it.
    pub is_given: bool,
}

impl OperationId {
    pub fn random() -> Self {
        Self {
            text: Uuid::new_v4().to_string(),
            is_given: false,
        }
    }

    /// The id that a client has chosen.
    ///
    /// `None` where it does not have 1 to 128 letters, digits, `.`, `_` and `-`, or only dots, which
    /// mean another place in a URL.
    pub fn given(text: &[u8]) -> Option<Self> {
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
        let is_fine = (1..=128).contains(&text.len())
            && text.iter().all(allowed)
            && text.iter().any(|b| *b != b'.');
        match std::str::from_utf8(text) {
            Ok(text) if is_fine => Some(Self {
                text: text.to_owned(),
                is_given: true,
            }),
            _ => None,
        }
    }

    /// The id as headers and bodies have it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_judged() {
        for good in ["a", "test-1_2.3", &"x".repeat(128)] {
            assert_eq!(OperationId::given(good.as_bytes()).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a b", "ü", "a/b", &"x".repeat(129)] {
            assert!(OperationId::given(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
