//! Framing of messages, passing of descriptors, and the keepers' blocking end of a job's socket.
//!
//! It knows the format of a message and not what is in it; see [`protocol`](super::protocol).

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

/// Descriptors in one message.
const MAX_FDS: usize = 4;

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("a message is longer than {MAX_MESSAGE} bytes")]
    MessageTooLong,
    #[error("more than {MAX_FDS} descriptors in one message")]
    TooManyDescriptors,
    #[error("a message is not what was expected: {0}")]
    Json(#[from] serde_json::Error),
}

/// The length of the JSON that follows a message's header.
///
/// # Errors
/// If it is over the limit.
pub(super) fn message_length(header: [u8; 4]) -> Result<usize, WireError> {
    usize::try_from(u32::from_le_bytes(header))
        .ok()
        .filter(|length| *length <= MAX_MESSAGE)
        .ok_or(WireError::MessageTooLong)
}

/// Encodes a message as its length followed by JSON.
///
/// # Errors
/// If the message is too long.
pub(super) fn frame(message: &impl Serialize) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).map_err(|_| WireError::MessageTooLong)?;
    message_length(length.to_le_bytes())?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Sends `bytes` with descriptors attached, and returns how many bytes the kernel accepted.
///
/// The error stays an [`io::Error`], because callers on tokio's side look for `WouldBlock`.
///
/// # Errors
/// Those of `sendmsg`.
pub(in crate::engine) fn send_with_fds(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        let error = WireError::TooManyDescriptors;
        return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
    }
    Ok(sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        flags | SendFlags::NOSIGNAL,
    )?)
}

/// Receives bytes and appends the attached descriptors to `fds`.
///
/// # Errors
/// Those of `recvmsg`.
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

/// The keeper's end of a job's socket, which blocks.
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

    /// The next message, or `None` if the engine has hung up.
    ///
    /// # Errors
    /// If reading fails or the bytes are not such a message.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let mut header = [0; 4];
        if !self.fill(&mut header)? {
            return Ok(None);
        }
        let mut bytes = vec![0; message_length(header)?];
        if !self.fill(&mut bytes)? {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&bytes)?))
    }

    /// Fills all of `bytes`, or returns false if the engine hung up first.
    ///
    /// # Errors
    /// If reading fails.
    pub(super) fn fill(&mut self, mut bytes: &mut [u8]) -> Result<bool, WireError> {
        while !bytes.is_empty() {
            match receive_with_fds(&self.socket, bytes, &mut self.fds)? {
                0 => return Ok(false),
                n => bytes = bytes.get_mut(n..).unwrap_or_default(),
            }
        }
        Ok(true)
    }

    /// The descriptors that were attached to the messages received so far.
    pub(super) fn take_fds(&mut self) -> VecDeque<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// Sends one message.
    ///
    /// # Errors
    /// If the engine has hung up.
    pub(super) fn send(&self, message: &impl Serialize) -> Result<(), WireError> {
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
