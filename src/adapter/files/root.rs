//! The data directory as the store holds it: by a descriptor, with its limits.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::Stat;

use crate::adapter::files::error::FileError;
use crate::adapter::files::folder;
use crate::adapter::files::name::FolderPath;
use crate::data_dir;

/// What the data directory may hold.
#[derive(Debug, Clone, Copy)]
pub struct FileLimits {
    /// Bytes of all files.
    pub bytes: u64,
    pub entries: u64,
}

#[derive(Debug)]
pub(super) struct DataRoot {
    pub(super) root: OwnedFd,
    /// Whether the file system's own `lost+found` is in it.
    pub(super) has_lost_and_found: bool,
    pub(super) limits: FileLimits,
    /// Programs cannot make links to files that are not theirs to read and write.
    pub(super) links_are_own: bool,
    /// As of when it is known to be empty.
    pub(super) empty: Mutex<Option<Changed>>,
}

/// When a folder was last changed, in seconds and nanoseconds; programs cannot choose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Changed(i64, i64);

impl Changed {
    /// File systems tell times no finer than this.
    const COARSEST: i64 = 3;

    pub(super) fn of(found: &Stat) -> Self {
        Self(found.st_ctime, found.st_ctime_nsec as i64)
    }

    /// Whether a change from now on is certain to be of a later time.
    pub(super) fn is_settled(self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.ok().and_then(|now| i64::try_from(now.as_secs()).ok());
        now.is_some_and(|now| now > self.0 + Self::COARSEST)
    }
}

impl DataRoot {
    pub(super) fn found_empty(&self) -> Option<Changed> {
        *self.empty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remember_empty(&self, changed: Changed) {
        *self.empty.lock().unwrap_or_else(PoisonError::into_inner) = Some(changed);
    }

    /// The data directory, with the rights to it that a program may have taken away.
    pub(super) fn folder(&self) -> &OwnedFd {
        // Where it fails, what is done next says why.
        let _ = data_dir::restore_own_modes(&self.root);
        &self.root
    }

    /// Another descriptor of the data directory.
    pub(super) fn root(&self) -> Result<OwnedFd, FileError> {
        folder::open(self.folder(), &FolderPath::default())
    }

    /// Bytes that may still be added, along with so many entries.
    pub(super) fn room_for(&self, entries: u64) -> Result<u64, FileError> {
        let used = data_dir::used_space(self.root()?).space;
        if used.entries.saturating_add(entries) > self.limits.entries {
            return Err(FileError::Full);
        }
        let left = self.limits.bytes.checked_sub(used.bytes);
        left.ok_or(FileError::Full)
    }
}
