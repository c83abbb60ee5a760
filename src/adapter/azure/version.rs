//! Versions of Azure's API.

/// The API versions whose dialects are spoken, oldest first.
pub const API_VERSIONS: [&str; 6] = [
    "2024-02-02-preview",
    "2024-08-02-preview",
    "2024-09-01-preview",
    "2024-10-02-preview",
    "2025-02-02-preview",
    "2025-10-02-preview",
];

/// The version of a request that names none.
pub const NEWEST: &str = API_VERSIONS[API_VERSIONS.len() - 1];

/// Those whose `executionResult` is text.
pub const VALUE_IS_TEXT: [&str; 2] = ["2024-10-02-preview", "2025-02-02-preview"];

/// `api-version` is not one of Azure's.
#[derive(Debug, thiserror::Error)]
#[error("api-version '{given}' is not supported. Supported are {}.", API_VERSIONS.join(", "))]
pub struct UnknownVersion {
    /// What the client asked for.
    given: String,
}

/// The suffix `-preview` may be left out; no `api-version` at all means the newest.
pub fn api_version(given: &str) -> Result<Option<&'static str>, UnknownVersion> {
    if given.is_empty() {
        return Ok(None);
    }
    let known = API_VERSIONS.into_iter().find(|version| {
        given.eq_ignore_ascii_case(version)
            || version
                .strip_suffix("-preview")
                .is_some_and(|date| given == date)
    });
    known.map(Some).ok_or_else(|| UnknownVersion {
        given: given.chars().take(64).collect(),
    })
}
