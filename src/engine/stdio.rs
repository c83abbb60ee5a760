//! The engine's ends of a program's standard streams.

use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

/// This side's ends of a program's standard streams.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) stdin: pipe::Sender,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
}

impl Streams {
    /// A pipe for each; returns the program's ends, too.
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

/// 0 at the end; a pipe that cannot be read has ended.
pub(super) async fn read(from: &mut Option<pipe::Receiver>, buffer: &mut [u8]) -> usize {
    match from {
        Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
        None => 0,
    }
}

/// 0 where the program has closed its standard input.
pub(super) async fn write(to: &mut Option<pipe::Sender>, bytes: &[u8]) -> usize {
    match to {
        Some(pipe) => pipe.write(bytes).await.unwrap_or(0),
        None => 0,
    }
}
