//! Checks a request's head before anything else: limits that hyper does not enforce exactly, and
//! what it leaves to its users.

use http::header::{CONTENT_ENCODING, EXPECT, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use crate::adapter::azure::error::ApiError;

/// Longest method. No registered one has more than 20.
pub const MAX_METHOD_BYTES: usize = 128;
/// Longest path with its query.
pub const MAX_TARGET_BYTES: usize = 16 << 10;
/// Names and values of all headers together.
pub const MAX_HEADER_BYTES: usize = 64 << 10;

/// Judges a head. After an error the connection must not be used further: where its next request
/// begins can be a matter of opinion.
///
/// # Errors
/// [`ApiError::Malformed`], [`ApiError::TargetTooLong`], [`ApiError::HeadersTooLarge`], [`ApiError::HostInvalid`],
/// [`ApiError::TransferEncodingInvalid`], [`ApiError::ExpectationFailed`],
/// [`ApiError::ContentEncoding`].
pub fn check_head(head: &Parts) -> Result<(), ApiError> {
    check_size(head)?;
    check_host(head)?;
    let headers = &head.headers;
    // Hyper goes by the last coding of the last line; others on the way may not.
    if !all(headers, &TRANSFER_ENCODING, b"chunked") || count(headers, &TRANSFER_ENCODING) > 1 {
        return Err(ApiError::TransferEncodingInvalid);
    }
    if !all(headers, &EXPECT, b"100-continue") {
        return Err(ApiError::ExpectationFailed);
    }
    if !all(headers, &CONTENT_ENCODING, b"identity") {
        return Err(ApiError::ContentEncoding);
    }
    Ok(())
}

fn check_size(head: &Parts) -> Result<(), ApiError> {
    if head.method.as_str().len() > MAX_METHOD_BYTES {
        return Err(ApiError::Malformed);
    }
    let target = head.uri.path_and_query();
    if target.map_or(0, |target| target.as_str().len()) > MAX_TARGET_BYTES {
        return Err(ApiError::TargetTooLong {
            limit: MAX_TARGET_BYTES,
        });
    }
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    if head.headers.iter().map(field).sum::<usize>() > MAX_HEADER_BYTES {
        return Err(ApiError::HeadersTooLarge {
            limit: MAX_HEADER_BYTES,
        });
    }
    Ok(())
}

/// RFC 9112, 3.2: one `Host`, which only HTTP/1.0 may lack, with a host and perhaps a port.
fn check_host(head: &Parts) -> Result<(), ApiError> {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if head.version < Version::HTTP_11 => Ok(()),
        (Some(host), None) if is_host(host) => Ok(()),
        _ => Err(ApiError::HostInvalid),
    }
}

fn is_host(value: &HeaderValue) -> bool {
    let Ok(authority) = Authority::try_from(value.as_bytes()) else {
        return false;
    };
    let port = authority.as_str().strip_prefix(authority.host());
    !authority.host().is_empty()
        && match port {
            Some("" | ":") => true,
            Some(_) => authority.port_u16().is_some(),
            // User information stands ahead of the host.
            None => false,
        }
}

fn count(headers: &HeaderMap, name: &HeaderName) -> usize {
    headers.get_all(name).iter().count()
}

/// Whether every value of a header is this word, in any case.
fn all(headers: &HeaderMap, name: &HeaderName, word: &[u8]) -> bool {
    let mut values = headers.get_all(name).iter();
    values.all(|value| value.as_bytes().eq_ignore_ascii_case(word))
}
