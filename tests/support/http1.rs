//! As much of HTTP/1.1 as both ends of a test need: one message off a stream.

use std::io::{self, ErrorKind};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt};

/// One request or one response.
#[derive(Debug, Clone)]
pub struct Message {
    /// The request line or the status line.
    pub start: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, without its chunks' framing.
    pub body: Vec<u8>,
}

/// What has been read of a stream and not yet used.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    async fn more(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        self.bytes.reserve(64 * 1024);
        stream.read_buf(&mut self.bytes).await
    }

    async fn fill(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        match self.more(stream).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Waits until the other end has closed or reset the stream, keeping what it still sends.
    pub async fn ended(&mut self, stream: &mut (impl AsyncRead + Unpin)) {
        while matches!(self.more(stream).await, Ok(1..)) {}
    }

    async fn line(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
        loop {
            if let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(end + 2);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill(stream).await?;
        }
    }

    async fn exactly(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        count: usize,
    ) -> io::Result<Vec<u8>> {
        while self.bytes.len() < count {
            self.fill(stream).await?;
        }
        Ok(self.take(count))
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.bytes.split_off(count);
        std::mem::replace(&mut self.bytes, rest)
    }

    /// The next request, or `None` when the client has closed between two.
    pub async fn request(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<Message>> {
        if self.bytes.is_empty() && self.more(stream).await? == 0 {
            return Ok(None);
        }
        let (start, headers) = self.head(stream).await?;
        let body = self.framed(stream, &headers).await?.unwrap_or_default();
        Ok(Some(Message {
            start,
            headers,
            body,
        }))
    }

    /// The next response; without a length its body goes on to the end of the stream.
    pub async fn response(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Message> {
        let (start, headers) = self.head(stream).await?;
        let status = start.split(' ').nth(1).unwrap_or_default();
        let body = match self.framed(stream, &headers).await? {
            _ if status.starts_with('1') || status == "204" || status == "304" => Vec::new(),
            Some(body) => body,
            None => {
                while self.more(stream).await? > 0 {}
                self.take(self.bytes.len())
            }
        };
        Ok(Message {
            start,
            headers,
            body,
        })
    }

    async fn head(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<(String, HeaderMap)> {
        let start = self.line(stream).await?;
        let mut headers = HeaderMap::new();
        loop {
            let line = self.line(stream).await?;
            if line.is_empty() {
                return Ok((start, headers));
            }
            let bad = || io::Error::new(ErrorKind::InvalidData, format!("header {line:?}"));
            let (name, value) = line.split_once(':').ok_or_else(bad)?;
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?,
                HeaderValue::from_str(value.trim()).map_err(|_| bad())?,
            );
        }
    }

    async fn framed(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        headers: &HeaderMap,
    ) -> io::Result<Option<Vec<u8>>> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if text("transfer-encoding").is_some() {
            let mut body = Vec::new();
            loop {
                let size = self.line(stream).await?;
                let size = size.split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(size.trim(), 16)
                    .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
                body.extend(self.exactly(stream, size).await?);
                self.line(stream).await?;
                if size == 0 {
                    return Ok(Some(body));
                }
            }
        }
        match text("content-length") {
            Some(length) => {
                let length = length
                    .parse()
                    .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
                Ok(Some(self.exactly(stream, length).await?))
            }
            None => Ok(None),
        }
    }
}
