//! The keepers' side of a job's socket: whole messages and descriptors from a blocking stream.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::protocol::MAX_MESSAGE;

/// Most descriptors in one message.
const MAX_FDS: usize = 4;

/// A message as it goes over a stream: its length, then JSON.
///
/// # Errors
/// Where the message is too long.
pub(super) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > MAX_MESSAGE {
        return Err(io::Error::other("a message for the sandbox is too long"));
    }
    let length = u32::try_from(length).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Sends `bytes` with descriptors; returns how many bytes were taken.
///
/// # Errors
/// What `sendmsg` says.
pub(super) fn send_with_fds(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    Ok(sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        flags | SendFlags::NOSIGNAL,
    )?)
}

/// Receives bytes and adds the descriptors that came along to `fds`.
///
/// # Errors
/// What `recvmsg` says.
pub(super) fn receive_with_fds(
    socket: impl AsFd,
    bytes: &mut [u8],
    fds: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    loop {
        let received = recvmsg(
            &socket,
            &mut [IoSliceMut::new(bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        match received {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(message) => {
                for ancillary in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(received) = ancillary {
                        fds.extend(received);
                    }
                }
                return Ok(message.bytes);
            }
        }
    }
}

/// A job's socket.
pub(super) struct Wire {
    socket: OwnedFd,
    fds: VecDeque<OwnedFd>,
}

impl Wire {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            fds: VecDeque::new(),
        }
    }

    /// The next message; `None` where the engine has hung up.
    ///
    /// # Errors
    /// Where reading fails or the bytes are no message.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut length = [0; 4];
        if !self.fill(&mut length)? {
            return Ok(None);
        }
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
        if length > MAX_MESSAGE {
            return Err(io::Error::other("a message from the engine is too long"));
        }
        let mut bytes = vec![0; length];
        if !self.fill(&mut bytes)? {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&bytes)?))
    }

    /// Fills all of `bytes`; false where the engine hung up before.
    ///
    /// # Errors
    /// Where reading fails.
    pub(super) fn fill(&mut self, mut bytes: &mut [u8]) -> io::Result<bool> {
        while !bytes.is_empty() {
            match receive_with_fds(&self.socket, bytes, &mut self.fds)? {
                0 => return Ok(false),
                n => bytes = bytes.get_mut(n..).unwrap_or_default(),
            }
        }
        Ok(true)
    }

    /// The descriptors that came with the last messages.
    pub(super) fn take_fds(&mut self) -> VecDeque<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// Sends one message.
    ///
    /// # Errors
    /// Where the engine has hung up.
    pub(super) fn send(&self, message: &impl Serialize) -> io::Result<()> {
        let bytes = frame(message)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let sent = send_with_fds(&self.socket, rest, &[], SendFlags::empty())?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
