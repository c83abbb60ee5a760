//! Reads a request's body within bounds of size and time.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use crate::adapter::error::ApiError;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a body that is too large is read and thrown away, so that its sender gets to read
/// the answer instead of a reset connection.
const DISCARD_BYTES: usize = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(3);

/// Whether a body declares itself as JSON, or as nothing.
///
/// # Errors
/// [`ApiError::MediaType`].
pub fn check_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let text = String::from_utf8_lossy(given.as_bytes());
    let mut parts = text.split(';').map(|part| part.trim().to_ascii_lowercase());
    let media = parts.next().unwrap_or_default();
    let is_json = media == "application/json"
        || media == "text/json"
        || (media.starts_with("application/") && media.ends_with("+json"));
    let is_utf8 = parts
        .filter_map(|part| {
            part.strip_prefix("charset=")
                .map(|c| c.trim_matches('"').to_owned())
        })
        .all(|charset| matches!(charset.as_str(), "utf-8" | "utf8" | "us-ascii"));
    if is_json && is_utf8 {
        return Ok(());
    }
    Err(ApiError::MediaType {
        given: text.chars().take(64).collect(),
    })
}

/// Reads the body whole, unless it is larger than `limit` bytes or slower than allowed.
///
/// # Errors
/// [`ApiError::BodyTooLarge`], [`ApiError::BodyTimeout`], [`ApiError::BodyIncomplete`].
pub async fn read(mut body: Incoming, limit: usize, expects: bool) -> Result<Bytes, ApiError> {
    if body.size_hint().lower() > limit as u64 {
        // A client that waits for `100 Continue` has sent nothing yet and need not.
        if !expects {
            discard(&mut body).await;
        }
        return Err(ApiError::BodyTooLarge { limit });
    }
    let collected = timeout(BODY_TIMEOUT, Limited::new(&mut body, limit).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            discard(&mut body).await;
            Err(ApiError::BodyTooLarge { limit })
        }
        Ok(Err(_)) => Err(ApiError::BodyIncomplete),
        Err(_elapsed) => Err(ApiError::BodyTimeout {
            seconds: BODY_TIMEOUT.as_secs(),
        }),
    }
}

async fn discard(body: &mut Incoming) {
    let read_on = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > DISCARD_BYTES {
                break;
            }
        }
    };
    let _ = timeout(DISCARD_TIME, read_on).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content_type: &str) -> Result<(), ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        check_json(&headers)
    }

    #[test]
    fn json_in_utf8_is_taken_and_nothing_else() {
        assert!(check_json(&HeaderMap::new()).is_ok());
        for good in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
            "application/problem+json",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "text/plain",
            "application/json; charset=latin1",
            "multipart/form-data",
            "",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
