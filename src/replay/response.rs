//! What came back from an adapter.

use bytes::Bytes;
use http::HeaderMap;

/// An adapter's response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}
