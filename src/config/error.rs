//! A setting that cannot be used.

/// A setting that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is '{value}': {allowed}")]
pub struct ConfigError {
    /// The flag or the environment variable, whichever gave the value.
    pub name: &'static str,
    /// The value that it gave.
    pub value: String,
    /// What would be right.
    pub allowed: String,
}
