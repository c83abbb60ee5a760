//! `multipart/form-data` as clients send it, and requests with bodies of any bytes.

use std::net::SocketAddr;

use super::raw::{self, Response};

/// The boundary of [`form`].
pub const BOUNDARY: &str = "d74496d66958873e";

/// The content type of [`form`].
pub fn content_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

/// A form of parts, each with its `Content-Disposition` and its bytes.
pub fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (disposition, bytes) in parts {
        body.extend(format!("--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n").bytes());
        body.extend(b"Content-Type: application/octet-stream\r\n\r\n");
        body.extend(*bytes);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{BOUNDARY}--\r\n").bytes());
    body
}

/// The head of a `POST` with a body of this length.
pub fn post_head(path: &str, content_type: &str, length: usize) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n\
         Content-Length: {length}\r\n\r\n"
    )
    .into_bytes()
}

/// Posts bytes.
pub async fn post_bytes(addr: SocketAddr, path: &str, content_type: &str, body: &[u8]) -> Response {
    let head = post_head(path, content_type, body.len());
    raw::exchange(addr, [&head, body].concat()).await
}

/// Posts a form with one file.
pub async fn upload(addr: SocketAddr, path: &str, filename: &str, bytes: &[u8]) -> Response {
    let disposition = format!("form-data; name=\"file\"; filename=\"{filename}\"");
    let body = form(&[(&disposition, bytes)]);
    post_bytes(addr, path, &content_type(), &body).await
}
