//! The query of a request.

use std::borrow::Cow;

use crate::adapter::azure::error::ApiError;
use crate::adapter::azure::version::{NEWEST, VALUE_IS_TEXT, api_version};
use crate::adapter::model::identifier::Identifier;

/// The parts of the query that mean something here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// `identifier`: the session.
    pub identifier: Option<Identifier>,
    /// `version`: of the runtime.
    pub version: Option<String>,
    /// `api-version`, where there is one.
    pub api_version: Option<&'static str>,
    /// `skip`: how many entries of a list are left out.
    pub skip: usize,
}

impl Query {
    /// Reads a query string. Names that are not known are ignored; the last of a repeated one
    /// counts.
    ///
    /// # Errors
    /// [`ApiError::ApiVersion`], [`ApiError::Identifier`], [`ApiError::Property`].
    pub fn parse(query: &str) -> Result<Self, ApiError> {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "identifier" if value.is_empty() => {}
                "identifier" => parsed.identifier = Some(identifier(&value)?),
                "api-version" => parsed.api_version = api_version(&value)?,
                "skip" => parsed.skip = number("skip", &value)?,
                "version" => parsed.version = given(value),
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// The version that the response is of.
    pub fn version_or_newest(&self) -> &'static str {
        self.api_version.unwrap_or(NEWEST)
    }

    /// Whether this version's `executionResult` is text.
    pub fn value_is_text(&self) -> bool {
        self.api_version
            .is_some_and(|version| VALUE_IS_TEXT.contains(&version))
    }
}

/// Reads a session's identifier, wherever it stands.
///
/// # Errors
/// [`ApiError::Identifier`].
pub fn identifier(text: &str) -> Result<Identifier, ApiError> {
    Identifier::parse(text).ok_or(ApiError::Identifier)
}

/// Reads what the documents call an `int32`, which is not negative here.
fn number(field: &'static str, text: &str) -> Result<usize, ApiError> {
    let number = text.parse::<i32>().ok();
    let number = number.and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| ApiError::Property {
        field,
        problem: format!(
            "must be a whole number from 0 to {}, not '{}'",
            i32::MAX,
            text.chars().take(32).collect::<String>()
        ),
    })
}

fn given(value: Cow<'_, str>) -> Option<String> {
    (!value.is_empty()).then(|| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::azure::version::API_VERSIONS;

    #[test]
    fn the_query_of_a_session_pool_is_read() {
        let query =
            Query::parse("identifier=demo-1&api-version=2025-10-02-preview&version=%3E%3D3")
                .unwrap();
        assert_eq!(query.identifier.unwrap().as_str(), "demo-1");
        assert_eq!(query.version.as_deref(), Some(">=3"));
        assert_eq!(Query::parse("").unwrap(), Query::default());
    }

    #[test]
    fn what_is_skipped_is_a_number_that_the_documents_allow() {
        assert_eq!(Query::parse("skip=2147483647").unwrap().skip, 2_147_483_647);
        for wrong in ["2147483648", "-1", "1.5", "", "one"] {
            Query::parse(&format!("skip={wrong}")).unwrap_err();
        }
    }

    #[test]
    fn every_published_api_version_is_accepted_and_what_is_none_is_refused() {
        for version in API_VERSIONS {
            Query::parse(&format!("api-version={version}")).unwrap();
        }
        Query::parse("api-version=2024-09-01").unwrap();
        let error = Query::parse("api-version=1999-01-01")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("'1999-01-01'") && error.contains("2025-10-02-preview"),
            "{error}"
        );
    }
}
