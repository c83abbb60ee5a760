//! Rewrites hyper's built-in 400, 414 and 431 responses to carry an Azure error body.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::adapter::azure::Rendered;
use crate::adapter::azure::error::ApiError;
use crate::adapter::http::connections::ConnectionGuard;
use crate::adapter::http::head::{MAX_HEADER_BYTES, MAX_TARGET_BYTES};

/// How much is drained from a client that keeps sending while it is refused. A connection that is
/// closed with unread bytes is reset, and the response may be lost with it.
const MAX_UNREAD_BYTES: usize = 1 << 20;

/// A connection on which hyper's error responses get a body.
#[derive(Debug)]
pub struct ErrorBodyRewriter<S> {
    stream: S,
    /// Counts what is read.
    guard: Arc<ConnectionGuard>,
    /// The part of a rewritten response that is not written yet.
    unwritten: Bytes,
    /// How many unread bytes may still be drained; 0 unless a request was refused.
    left: usize,
}

impl<S> ErrorBodyRewriter<S> {
    /// Rewrites the error responses on `stream`.
    pub fn new(stream: S, guard: Arc<ConnectionGuard>) -> Self {
        Self {
            stream,
            guard,
            unwritten: Bytes::new(),
            left: 0,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ErrorBodyRewriter<S> {
    fn poll_unwritten(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unwritten.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(context, &self.unwritten);
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.unwritten.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what has arrived already; waits for nothing.
    fn drain_unread(&mut self, context: &mut Context<'_>) {
        let mut scratch = [0; 8 << 10];
        while self.left > 0 {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.left = self.left.saturating_sub(buffer.filled().len());
                }
                _ => return,
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ErrorBodyRewriter<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.guard.read(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ErrorBodyRewriter<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_unwritten(context))?;
        let Some(response) = rewrite_builtin_error(bytes) else {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        };
        self.unwritten = response;
        self.left = MAX_UNREAD_BYTES;
        // The rest goes out before what is flushed or written next.
        if let Poll::Ready(Err(error)) = self.poll_unwritten(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices {
            return self.poll_write(context, only);
        }
        ready!(self.poll_unwritten(context))?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unwritten(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unwritten(context))?;
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        self.drain_unread(context);
        Poll::Ready(Ok(()))
    }
}

/// The response with Azure's body, if it is one of hyper's own. These have no header but three; each of
/// the adapter's says what type its body is of, or, where that is the engine's to say, has
/// [`SESSION_GUID`].
///
/// [`SESSION_GUID`]: super::response::SESSION_GUID
fn rewrite_builtin_error(response: &[u8]) -> Option<Bytes> {
    let error = match response.get(8..13)? {
        b" 400 " => ApiError::Malformed,
        b" 414 " => ApiError::TargetTooLong {
            limit: MAX_TARGET_BYTES,
        },
        b" 431 " => ApiError::HeadersTooLarge {
            limit: MAX_HEADER_BYTES,
        },
        _ => return None,
    };
    const LENGTH: &[u8] = b"content-length: 0\r\n";
    let head = response.strip_suffix(b"\r\n")?;
    let at = memmem::find(head, LENGTH)?;
    let is_bare = head.starts_with(b"HTTP/1.")
        && memmem::find(head, b"\r\n\r\n").is_none()
        && memmem::find(head, b"connection: close\r\n").is_some()
        && lines(head).skip(1).all(is_of_hyper);
    if !is_bare {
        return None;
    }
    let meta = error.metadata();
    let code = meta.code;
    let body = Rendered::error(meta).body;
    let own = format!(
        "content-type: application/json; charset=utf-8\r\nx-ms-error-code: {code}\r\n\
         content-length: {}\r\n",
        body.len()
    );
    let parts = [
        &head[..at],
        own.as_bytes(),
        &head[at + LENGTH.len()..],
        b"\r\n",
        &body,
    ];
    Some(Bytes::from(parts.concat()))
}

fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
}

/// Whether a header is one that hyper sets by itself.
fn is_of_hyper(header: &[u8]) -> bool {
    [&b"connection:"[..], b"content-length:", b"date:"]
        .iter()
        .any(|name| header.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_hyper_answers_by_itself_is_explained() {
        let bare = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\
                    date: Sat, 21 Nov 2026 00:00:00 GMT\r\n\r\n";
        let response = rewrite_builtin_error(bare.as_bytes()).unwrap();
        let text = std::str::from_utf8(&response).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("x-ms-error-code: MalformedRequest\r\n"),
            "{head}"
        );
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{head}"
        );
        assert!(head.ends_with("GMT"), "{head}");
        assert!(body.contains("\"MalformedRequest\""), "{body}");
        for other in [
            "",
            "HTTP/1.1 400 Bad Request\r\n",
            &bare.replace("400 Bad Request", "200 OK"),
            &bare.replace("connection: close", "connection: keep-alive"),
            &bare.replace("date:", "content-type: text/plain\r\ndate:"),
            &bare.replace("date:", "x-ms-session-guid: 1\r\ndate:"),
            &format!("{bare}{bare}"),
        ] {
            assert!(rewrite_builtin_error(other.as_bytes()).is_none(), "{other}");
        }
    }
}
