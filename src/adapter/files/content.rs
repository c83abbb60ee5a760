//! The bytes of files.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use bytes::{Bytes, BytesMut};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat};

use crate::adapter::files::error::FileError;
use crate::adapter::files::folder;
use crate::adapter::files::listing::Entry;
use crate::adapter::files::name::FilePath;
use crate::adapter::files::root::DataRoot;

/// What is read of a file at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// A file that is being read: as many bytes as it had when it was opened.
#[derive(Debug)]
pub struct Content {
    file: File,
    length: u64,
    left: u64,
}

impl Content {
    pub(super) fn open(shared: &DataRoot, path: &FilePath) -> Result<Self, FileError> {
        let (folder, found) = folder::look_up(shared.folder(), path)?;
        // Opening a FIFO would wait, and opening a device may do anything.
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(FileError::NotFound);
        }
        let (file, found) = open_regular(&folder, path.name.as_str())?;
        if found.st_nlink > 1 && !shared.links_are_own {
            return Err(FileError::Denied);
        }
        let length = u64::try_from(found.st_size).unwrap_or(0);
        Ok(Self {
            file,
            length,
            left: length,
        })
    }

    /// Bytes of the whole file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes that are still to be read.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next bytes, none at the end. Blocks on the disk.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where the file has become shorter.
    pub fn read(&mut self) -> io::Result<Bytes> {
        let max_bytes =
            usize::try_from(self.left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        if max_bytes == 0 {
            return Ok(Bytes::new());
        }
        let mut bytes = BytesMut::zeroed(max_bytes);
        let count = self.file.read(&mut bytes)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(count);
        self.left -= count as u64;
        Ok(bytes.freeze())
    }
}

/// All bytes of a file, none where it has changed its kind or may not be read.
///
/// # Errors
/// [`FileError::InUse`]: unlike the others, this file can be had a moment later.
pub(super) fn read_all(
    shared: &DataRoot,
    folder: &OwnedFd,
    entry: &Entry,
) -> Result<Option<Vec<u8>>, FileError> {
    let (file, found) = match open_regular(folder, &entry.name) {
        Err(FileError::InUse) => return Err(FileError::InUse),
        Err(_) => return Ok(None),
        Ok(opened) => opened,
    };
    if found.st_nlink > 1 && !shared.links_are_own {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = file.take(entry.size).read_to_end(&mut bytes);
    Ok(read.is_ok().then_some(bytes))
}

/// Opens what is a regular file now, and cannot wait for anything else that it has become.
fn open_regular(folder: &OwnedFd, name: &str) -> Result<(File, Stat), FileError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = openat(folder, name, flags | OFlags::CLOEXEC, Mode::empty())?;
    let found = fstat(&file)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(FileError::NotFound);
    }
    Ok((file.into(), found))
}
