//! Folders below the data directory, opened name by name.
//!
//! Programs of the session may put anything there and move it at any time. Each step opens one
//! plain name in a folder that is held by a descriptor, and follows no link, so that no step leads
//! out, whatever the kernel and the container's seccomp profile offer.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, RawDir, Stat, fchmod, fstat, mkdirat, openat, statat};
use rustix::io::Errno;

use crate::adapter::files::error::FileError;
use crate::adapter::files::name::{FilePath, FolderPath};
use crate::tree::OPEN_DIR;

/// Rights of a folder: the programs of the session share it through their group.
const FOLDER: Mode = Mode::RWXU
    .union(Mode::RWXG)
    .union(Mode::ROTH)
    .union(Mode::XOTH);

/// Opens a folder.
///
/// # Errors
/// [`FileError::NotFound`] where there is none, or something else in its place.
pub fn open(root: &OwnedFd, path: &FolderPath) -> Result<OwnedFd, FileError> {
    let mut here = openat(root, c".", OPEN_DIR, Mode::empty())?;
    for name in path.names() {
        here = openat(&here, name.as_str(), OPEN_DIR, Mode::empty())?;
    }
    Ok(here)
}

/// Opens a folder, and makes those that are missing.
///
/// # Errors
/// [`FileError::Conflict`] where something else is in the place of one.
pub fn make(root: &OwnedFd, path: &FolderPath) -> Result<OwnedFd, FileError> {
    let mut here = openat(root, c".", OPEN_DIR, Mode::empty())?;
    for name in path.names() {
        let is_new = match mkdirat(&here, name.as_str(), FOLDER) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(FileError::of_write(error)),
        };
        here =
            openat(&here, name.as_str(), OPEN_DIR, Mode::empty()).map_err(FileError::of_write)?;
        if is_new {
            // Whatever the umask is; the bit that hands on the group stays.
            let mode = Mode::from_raw_mode(fstat(&here)?.st_mode);
            fchmod(&here, mode | FOLDER)?;
        }
    }
    Ok(here)
}

/// What is known of a file, be it what it may; links are not followed.
///
/// # Errors
/// [`FileError::NotFound`].
pub fn look_up(root: &OwnedFd, path: &FilePath) -> Result<(OwnedFd, Stat), FileError> {
    let folder = open(root, &path.folder)?;
    let found = statat(&folder, path.name.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((folder, found))
}

/// Whether a folder has no entry but those that do not count.
///
/// # Errors
/// Where it cannot be read.
pub fn is_empty(folder: &OwnedFd, is_ignored: impl Fn(&CStr) -> bool) -> Result<bool, FileError> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 1024];
    let mut entries = RawDir::new(folder, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") && !is_ignored(name) {
            return Ok(false);
        }
    }
    Ok(true)
}
