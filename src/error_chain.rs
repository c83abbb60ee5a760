//! Formats an error and its sources as one line.

use std::error::Error;

/// The error's message followed by those of its sources, separated by `: `.
///
/// Many errors of this crate and of others put their source's message into their own. A source whose
/// message is already part of the text is therefore left out.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("outer: {0}")]
    struct Repeating(#[source] std::io::Error);

    #[test]
    fn each_source_is_named_once() {
        let inner = || std::io::Error::new(std::io::ErrorKind::NotFound, "inner");
        assert_eq!(error_chain(&Outer(inner())), "outer: inner");
        assert_eq!(error_chain(&Repeating(inner())), "outer: inner");
        assert_eq!(error_chain(&inner()), "inner");
    }
}
