//! The body of a response: bytes in memory, or a file that is read at the pace of the client.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::adapter::files::Content;
use crate::adapter::http::connections::RequestGuard;
use crate::adapter::http::request_log::RequestLog;
use crate::adapter::session::InFlightGuard;

/// The body of a response.
#[derive(Debug)]
pub enum ResponseBody {
    Whole(Full<Bytes>),
    File(Box<FileBody>),
}

impl From<Full<Bytes>> for ResponseBody {
    fn from(body: Full<Bytes>) -> Self {
        Self::Whole(body)
    }
}

impl ResponseBody {
    /// The guard of its request ends with it.
    pub fn attach_guard(&mut self, guard: RequestGuard) {
        match self {
            Self::Whole(body) => {
                let bytes = std::mem::take(body).into_inner().unwrap_or_default();
                *body = Full::new(guard.response_bytes(bytes));
            }
            Self::File(file) => file._guard = Some(guard),
        }
    }
}

/// A file on its way to a client. One chunk is read at a time, and none while the client takes none.
#[derive(Debug)]
pub struct FileBody {
    state: ReadState,
    length: u64,
    sent: u64,
    log: Option<RequestLog>,
    _counted: Option<InFlightGuard>,
    _guard: Option<RequestGuard>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum ReadState {
    Open(Content),
    Reading(JoinHandle<(Content, io::Result<Bytes>)>),
    Over,
}

impl FileBody {
    /// The bytes of a file; `permit` is given up when they are sent.
    pub fn new(content: Content, permit: OwnedSemaphorePermit) -> Self {
        Self {
            length: content.length(),
            state: ReadState::Open(content),
            sent: 0,
            log: None,
            _counted: None,
            _guard: None,
            _permit: permit,
        }
    }

    /// The request is over, and its line is written, when the last byte is sent.
    pub fn log_on_completion(&mut self, log: RequestLog, counted: InFlightGuard) {
        self.log = Some(log);
        self._counted = Some(counted);
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match std::mem::replace(&mut self.state, ReadState::Over) {
                ReadState::Open(content) if content.left() == 0 => return Poll::Ready(None),
                ReadState::Open(mut content) => {
                    self.state = ReadState::Reading(spawn_blocking(move || {
                        let read = content.read();
                        (content, read)
                    }));
                }
                ReadState::Reading(mut reading) => {
                    let Poll::Ready(done) = Pin::new(&mut reading).poll(context) else {
                        self.state = ReadState::Reading(reading);
                        return Poll::Pending;
                    };
                    let read = done.map_err(io::Error::other).and_then(|(content, read)| {
                        self.state = ReadState::Open(content);
                        read
                    });
                    return Poll::Ready(Some(read));
                }
                ReadState::Over => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for FileBody {
    fn drop(&mut self) {
        if let Some(log) = &mut self.log {
            log.sent(self.sent, self.length);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let file = match self.get_mut() {
            Self::Whole(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                return Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})));
            }
            Self::File(file) => file,
        };
        let read = ready!(file.poll_read(context));
        Poll::Ready(read.map(|read| match read {
            Ok(bytes) => {
                file.sent += bytes.len() as u64;
                Ok(Frame::data(bytes))
            }
            // The length is promised: all that is left is to break the connection.
            Err(error) => {
                file.state = ReadState::Over;
                if let Some(log) = &mut file.log {
                    log.outcome("file_changed");
                    log.cause(error.to_string());
                }
                Err(error)
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::File(file) => file.sent == file.length,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::File(file) => SizeHint::with_exact(file.length - file.sent),
        }
    }
}
