//! The engine's ends of the pipes to a program's standard streams.
//!
//! A failed read or write counts as the end of the stream: all it can mean is that the program is gone
//! or has closed its end, and how the program ended is the sandbox's to report.

use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

/// The engine's ends of the pipes.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) stdin: pipe::Sender,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
}

impl Streams {
    /// Opens a pipe for each stream. Also returns the program's ends.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub(super) fn open() -> std::io::Result<(Self, [OwnedFd; 3])> {
        let (in_read, in_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (out_read, out_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err_read, err_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let ours = Self {
            stdin: pipe::Sender::from_owned_fd(in_write)?,
            stdout: pipe::Receiver::from_owned_fd(out_read)?,
            stderr: pipe::Receiver::from_owned_fd(err_read)?,
        };
        Ok((ours, [in_read, out_write, err_write]))
    }
}

/// Reads some bytes. Returns 0 at the end of the stream.
pub(super) async fn read(from: &mut Option<pipe::Receiver>, buffer: &mut [u8]) -> usize {
    match from {
        Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
        None => 0,
    }
}

/// Writes some bytes. Returns 0 if the program has closed its standard input.
pub(super) async fn write(to: &mut Option<pipe::Sender>, bytes: &[u8]) -> usize {
    match to {
        Some(pipe) => pipe.write(bytes).await.unwrap_or(0),
        None => 0,
    }
}
