//! What came back from an adapter.

use bytes::Bytes;
use http::HeaderMap;

#[derive(Debug, Clone)]
/// A response of an adapter, whole.
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}
