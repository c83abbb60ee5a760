//! An upload that becomes a file all at once, or never.
//!
//! The bytes go to a file in the reserved directory, which is renamed to its own name in the end. A
//! client that reads the old file meanwhile keeps reading the old bytes.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, fstat, openat, renameat, unlinkat};
use rustix::io::Errno;
use uuid::Uuid;

use crate::adapter::files::error::FileError;
use crate::adapter::files::folder;
use crate::adapter::files::listing::Entry;
use crate::adapter::files::name::FilePath;
use crate::adapter::files::root::DataRoot;
use crate::data_dir::open_reserved;

/// Rights of a file: the programs of the session may change it through their group.
const FILE: Mode = Mode::RUSR
    .union(Mode::WUSR)
    .union(Mode::RGRP)
    .union(Mode::WGRP)
    .union(Mode::ROTH);

/// A file that is being written. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct PendingUpload {
    temporary: TemporaryFile,
    file: File,
    path: FilePath,
    /// Bytes that the data directory still takes.
    room: u64,
}

/// A file that is written and not yet there. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct StagedFile {
    temporary: TemporaryFile,
    entry: Entry,
    path: FilePath,
}

/// The file of an upload until it is complete.
#[derive(Debug)]
struct TemporaryFile {
    shared: Arc<DataRoot>,
    /// The reserved directory, wherever a program may move it meanwhile.
    folder: OwnedFd,
    name: String,
    is_there: bool,
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if self.is_there {
            // Where it fails a program of the session was faster.
            let _ = unlinkat(&self.folder, self.name.as_str(), AtFlags::empty());
        }
    }
}

impl PendingUpload {
    pub(super) fn new(shared: Arc<DataRoot>, path: FilePath) -> Result<Self, FileError> {
        let room = shared.room_for(1)?;
        let folder = open_reserved(shared.folder()).map_err(FileError::of_io)?;
        let name = format!("upload-{}", Uuid::new_v4().simple());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = openat(&folder, name.as_str(), flags | OFlags::CLOEXEC, FILE)
            .map_err(FileError::of_write)?;
        let temporary = TemporaryFile {
            shared,
            folder,
            name,
            is_there: true,
        };
        // Whatever the umask is.
        fchmod(&file, FILE)?;
        Ok(Self {
            temporary,
            file: file.into(),
            path,
            room,
        })
    }

    /// Adds bytes. Blocks on the disk.
    ///
    /// # Errors
    /// [`FileError::Full`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let left = self.room.checked_sub(bytes.len() as u64);
        self.room = left.ok_or(FileError::Full)?;
        self.file.write_all(bytes).map_err(FileError::of_io)
    }

    /// The bytes are complete.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn stage(self) -> Result<StagedFile, FileError> {
        let entry = Entry::new(self.path.name.as_str(), "", &fstat(&self.file)?);
        Ok(StagedFile {
            temporary: self.temporary,
            entry,
            path: self.path,
        })
    }
}

impl StagedFile {
    /// Whether the file can be put in its place, as things are now.
    ///
    /// # Errors
    /// [`FileError::Conflict`] where a folder is in its place.
    pub fn check(&self) -> Result<(), FileError> {
        match folder::look_up(self.temporary.shared.folder(), &self.path) {
            Ok((_, found)) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                Err(FileError::Conflict)
            }
            _ => Ok(()),
        }
    }

    /// Puts the file in its place, where it replaces another, and makes the folders that are
    /// missing above it.
    ///
    /// # Errors
    /// [`FileError::Conflict`] where a folder is in its place, [`FileError::Full`] where others
    /// have used the room meanwhile.
    pub fn commit(mut self) -> Result<Entry, FileError> {
        let shared = &self.temporary.shared;
        shared.room_for(0)?;
        let into: OwnedFd = folder::make(shared.folder(), &self.path.folder)?;
        let (temporary, name) = (self.temporary.name.as_str(), self.path.name.as_str());
        renameat(&self.temporary.folder, temporary, &into, name).map_err(|error| match error {
            // Nobody else takes it away.
            Errno::NOENT => FileError::Deleted,
            error => FileError::of_write(error),
        })?;
        self.temporary.is_there = false;
        Ok(self.entry)
    }
}
