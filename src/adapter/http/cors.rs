//! What a browser must read before it lets a page of an allowed origin see a response.
//!
//! Source: the Fetch standard, "HTTP extensions"; `Access-Control-Allow-Private-Network` is of the
//! Private Network Access draft.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

use crate::adapter::http::response::ApiResponse;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, DELETE");
/// Headers of responses that a page may read, besides those that every page may.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "operation-id, operation-location, x-ms-error-code, x-ms-session-guid, \
     kernel-generation, \
     api-supported-versions, retry-after, content-disposition",
);
/// How long a browser need not ask again, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
/// Longest list of headers that a page may ask to send.
const MAX_REQUESTED_BYTES: usize = 1024;
const REQUEST_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

/// Whether a browser asks if a page may send a request.
pub fn is_preflight(head: &Parts) -> bool {
    head.method == Method::OPTIONS && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Says yes to a preflight of an allowed origin: a page may send whatever headers it likes, since the
/// request itself is checked like any other.
pub fn preflight(head: &Parts) -> ApiResponse {
    let mut response = Response::new(Full::<Bytes>::default().into());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    if let Some(requested) = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS)
        && requested.len() <= MAX_REQUESTED_BYTES
    {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, requested.clone());
    }
    if head.headers.contains_key(REQUEST_PRIVATE_NETWORK) {
        headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    response
}

/// Lets a page of this origin read a response.
pub fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("Origin"));
}
