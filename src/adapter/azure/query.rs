//! What stands in the query of a request, and in the identifier wherever it stands.

use std::borrow::Cow;

use crate::adapter::azure::error::ApiError;

/// The API versions whose dialects are spoken, oldest first.
pub const API_VERSIONS: [&str; 6] = [
    "2024-02-02-preview",
    "2024-08-02-preview",
    "2024-09-01-preview",
    "2024-10-02-preview",
    "2025-02-02-preview",
    "2025-10-02-preview",
];

const NEWEST: &str = API_VERSIONS[API_VERSIONS.len() - 1];

/// Those whose `executionResult` is text.
const VALUE_IS_TEXT: [&str; 2] = ["2024-10-02-preview", "2025-02-02-preview"];

/// A session's identifier: 4 to 128 characters by the pattern of Azure's OpenAPI documents.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identifier(String);

impl Identifier {
    /// Judges an identifier.
    ///
    /// # Errors
    /// [`ApiError::Identifier`] where it is not of Azure's form.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let allowed = |b: u8| b.is_ascii_graphic() && b != b'\\';
        if (4..=128).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ApiError::Identifier)
        }
    }

    /// The identifier as the client wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

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
                "identifier" => parsed.identifier = Some(Identifier::parse(&value)?),
                "api-version" => parsed.api_version = api_version(&value)?,
                "skip" => parsed.skip = number("skip", &value)?,
                "version" => parsed.version = given(value),
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// The version that the answer is of.
    pub fn version_or_newest(&self) -> &'static str {
        self.api_version.unwrap_or(NEWEST)
    }

    /// Whether this version's `executionResult` is text.
    pub fn value_is_text(&self) -> bool {
        self.api_version
            .is_some_and(|version| VALUE_IS_TEXT.contains(&version))
    }
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

/// The suffix `-preview` may be left out; no `api-version` at all means the newest.
pub(super) fn api_version(given: &str) -> Result<Option<&'static str>, ApiError> {
    if given.is_empty() {
        return Ok(None);
    }
    let known = API_VERSIONS.into_iter().find(|version| {
        given.eq_ignore_ascii_case(version)
            || version
                .strip_suffix("-preview")
                .is_some_and(|date| given == date)
    });
    known.map(Some).ok_or_else(|| ApiError::ApiVersion {
        given: given.chars().take(64).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn every_known_api_version_is_accepted_and_others_are_told_which() {
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

    #[test]
    fn identifiers_follow_the_published_pattern() {
        for good in ["demo", "a.b:c-d_e", "{[<|>]}?~`", &"x".repeat(128)] {
            assert!(Identifier::parse(good).is_ok(), "{good}");
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
            assert!(Identifier::parse(bad).is_err(), "{bad}");
        }
    }
}
