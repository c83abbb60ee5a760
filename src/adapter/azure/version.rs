//! Versions of Azure's API.
//!
//! The service answers every version that it advertises on every path, published documents or not.
//! So any date from 2023 on is a version here. It gets the shapes of the newest document dated no
//! later, or of the oldest document.

/// The versions with a published document, oldest first: shapes may differ between them.
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

/// The year of the first version that the service advertises, 2023-08-01-preview.
const FIRST_YEAR: u16 = 2023;

/// `api-version` is not a supported version.
#[derive(Debug, thiserror::Error)]
#[error(
    "api-version '{given}' is not supported. Supported is any date from {FIRST_YEAR} on, with or without \
     -preview, such as {NEWEST}."
)]
pub struct UnknownVersion {
    /// What the client asked for.
    given: String,
}

/// The document whose shapes a version gets; `None` for an empty one, which means the newest.
///
/// # Errors
/// [`UnknownVersion`] unless it is `YYYY-MM-DD` or `YYYY-MM-DD-preview`, from 2023 on.
pub fn api_version(given: &str) -> Result<Option<&'static str>, UnknownVersion> {
    if given.is_empty() {
        return Ok(None);
    }
    let date = date_of(given).ok_or_else(|| UnknownVersion {
        given: given.chars().take(64).collect(),
    })?;
    let not_younger = API_VERSIONS.iter().rev().find(|known| &known[..10] <= date);
    Ok(Some(not_younger.unwrap_or(&API_VERSIONS[0])))
}

/// The date of a version. Dates in this form are in order as text.
fn date_of(version: &str) -> Option<&str> {
    const PREVIEW: &str = "-preview";
    let (date, rest) = version.split_at_checked(10)?;
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = date.split('-').filter(|part| is_digits(part));
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let year: u16 = year.parse().ok().filter(|_| year.len() == 4)?;
    let month: u8 = month.parse().ok().filter(|_| month.len() == 2)?;
    let day: u8 = day.parse().ok().filter(|_| day.len() == 2)?;
    let days = match month {
        2 if year.is_multiple_of(4) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let is_date = year >= FIRST_YEAR && (1..=12).contains(&month) && (1..=days).contains(&day);
    (is_date && (rest.is_empty() || rest.eq_ignore_ascii_case(PREVIEW))).then_some(date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_gets_the_newest_document_that_is_not_younger() {
        for (given, shapes) in [
            ("2023-08-01-preview", "2024-02-02-preview"),
            ("2023-11-02-preview", "2024-02-02-preview"),
            ("2024-02-02", "2024-02-02-preview"),
            ("2024-08-01", "2024-02-02-preview"),
            ("2024-09-01-PREVIEW", "2024-09-01-preview"),
            ("2024-12-31-preview", "2024-10-02-preview"),
            ("2025-07-01", "2025-02-02-preview"),
            ("2026-01-01", "2025-10-02-preview"),
            ("2026-03-02-preview", "2025-10-02-preview"),
        ] {
            assert_eq!(api_version(given).unwrap(), Some(shapes), "{given}");
        }
        assert_eq!(api_version("").unwrap(), None);
    }

    #[test]
    fn what_is_no_date_since_2023_is_refused() {
        for given in [
            "latest",
            "2022-12-31",
            "1999-01-01",
            "2025-13-01",
            "2025-02-30",
            "2025-00-10",
            "2025-10-2",
            "2025-10-02preview",
            "2025-10-02-previe",
            "2025-10-02-preview-2",
            "20251-0-02",
            "2025_10_02",
            "+025-10-02",
            "é025-10-02",
            " 2025-10-02",
        ] {
            let error = api_version(given).unwrap_err().to_string();
            assert!(error.contains(given) && error.contains(NEWEST), "{error}");
        }
    }
}
