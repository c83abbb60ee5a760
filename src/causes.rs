//! An error with what caused it, in one line.

use std::error::Error;

/// The error's own words, and those of its causes that it does not repeat itself.
pub fn causes(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_are_told_once() {
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(causes(&error), "outer: inner");
        assert_eq!(causes(&std::io::Error::other("inner")), "inner");
    }
}
