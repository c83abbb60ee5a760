//! The engine's end of the socket to a kernel: messages of JSON after their length (four bytes,
//! little-endian), with descriptors attached to those that carry a cell.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::super::sandbox::send_with_fds;
use crate::piston::CellValue;

/// Longest message from a kernel in bytes: its limit on rich output, and the text of a value.
const MAX_MESSAGE: usize = 80 << 20;

/// A cell, as the kernel gets it.
#[derive(Debug, Serialize)]
pub(super) struct CellRequest<'a> {
    /// Its number, which the kernel repeats.
    pub(super) cell: u64,
    pub(super) code: &'a str,
}

/// What a kernel says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum KernelMessage {
    /// It waits for its first cell.
    Ready(Ready),
    /// This cell takes back what it has printed so far.
    Clear(u64),
    /// A cell has ended.
    Done(Done),
}

/// What a kernel says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct Ready {
    /// IPython's version, if it was found.
    pub(super) ipython: Option<String>,
    /// Modules that could not be imported.
    pub(super) failed_imports: Vec<String>,
}

/// How a cell ended.
#[derive(Debug, Deserialize)]
pub(super) struct Done {
    pub(super) cell: u64,
    /// As the exit code of a program.
    pub(super) code: i32,
    pub(super) value: CellValue,
}

/// Why a kernel cannot be talked to any longer.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum SocketError {
    #[error("the socket to the kernel failed: {0}")]
    Io(#[from] io::Error),
    #[error("the kernel has closed its socket")]
    Closed,
    #[error("the kernel sent a message of {0} bytes")]
    TooLong(usize),
    #[error("the kernel sent a message that cannot be read")]
    Malformed,
}

/// The socket to one kernel.
#[derive(Debug)]
pub(super) struct KernelSocket {
    stream: UnixStream,
    received: Vec<u8>,
    unsent: Vec<u8>,
    /// They go with the first byte that is not sent yet.
    descriptors: Vec<OwnedFd>,
}

impl KernelSocket {
    /// A pair: this end, and the kernel's.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let stream = std::os::unix::net::UnixStream::from(ours);
        stream.set_nonblocking(true)?;
        let socket = Self {
            stream: UnixStream::from_std(stream)?,
            received: Vec::new(),
            unsent: Vec::new(),
            descriptors: Vec::new(),
        };
        Ok((socket, theirs))
    }

    /// Puts a message with these descriptors in line, to be sent while [`receive`](Self::receive) waits: a
    /// kernel that does not read must not keep the engine from anything else.
    ///
    /// # Errors
    /// If it is too long.
    pub(super) fn queue(
        &mut self,
        message: &impl Serialize,
        descriptors: impl IntoIterator<Item = OwnedFd>,
    ) -> Result<(), SocketError> {
        let start = self.unsent.len();
        self.unsent.extend([0; 4]);
        serde_json::to_writer(&mut self.unsent, message).map_err(|_| SocketError::Malformed)?;
        let length = self.unsent.len() - start - 4;
        let header = u32::try_from(length).map_err(|_| SocketError::TooLong(length))?;
        self.unsent[start..start + 4].copy_from_slice(&header.to_le_bytes());
        self.descriptors.extend(descriptors);
        Ok(())
    }

    /// Whether the kernel has taken all that was queued.
    pub(super) fn is_flushed(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Sends what the kernel takes now.
    fn flush(&mut self) -> io::Result<()> {
        let fds: Vec<_> = self.descriptors.iter().map(OwnedFd::as_fd).collect();
        let sent = self.stream.try_io(Interest::WRITABLE, || {
            send_with_fds(&self.stream, &self.unsent, &fds, SendFlags::DONTWAIT)
        });
        match sent {
            Ok(sent) => {
                drop(fds);
                self.descriptors.clear();
                self.unsent.drain(..sent);
                self.unsent.shrink_to(64 << 10);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next message; meanwhile, what is queued is sent. Cancel-safe: bytes are kept in `self`.
    ///
    /// # Errors
    /// If there is none, or it is none that a kernel sends.
    pub(super) async fn receive(&mut self) -> Result<KernelMessage, SocketError> {
        loop {
            if let Some(header) = self.received.first_chunk::<4>() {
                let length = u32::from_le_bytes(*header) as usize;
                if length > MAX_MESSAGE {
                    return Err(SocketError::TooLong(length));
                }
                if let Some(message) = self.received.get(4..4 + length) {
                    let message = serde_json::from_slice(message);
                    self.received.drain(..4 + length);
                    // A large message should not be paid for until the kernel ends.
                    self.received.shrink_to(64 << 10);
                    return message.map_err(|_| SocketError::Malformed);
                }
            }
            let interest = match self.is_flushed() {
                true => Interest::READABLE,
                false => Interest::READABLE | Interest::WRITABLE,
            };
            let ready = self.stream.ready(interest).await?;
            if ready.is_writable() && !self.is_flushed() {
                self.flush()?;
            }
            if !ready.is_readable() {
                continue;
            }
            self.received.reserve(64 << 10);
            match self.stream.try_read_buf(&mut self.received) {
                Ok(0) => return Err(SocketError::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
