//! The folder in which an engine's jobs have their directories.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, flock, openat};

use crate::tree::{OPEN_DIR, delete_tree};

/// What the names of the folders for jobs begin with.
const WORK_PREFIX: &str = "session-jobs-";

/// Makes a new folder for what goes with the spawner, locked, and deletes those of engines that were
/// killed: nobody holds the lock on them.
pub(super) fn work_folder(parent: &Path) -> io::Result<(PathBuf, OwnedFd)> {
    use std::os::unix::fs::MetadataExt;
    let me = rustix::process::geteuid().as_raw();
    for entry in std::fs::read_dir(parent)?.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(WORK_PREFIX)
            && entry
                .metadata()
                .is_ok_and(|found| found.is_dir() && found.uid() == me);
        let path = entry.path();
        if is_ours && lock_folder(&path).is_ok_and(|lock| lock.is_some()) {
            // What cannot be deleted now may be when the next engine starts.
            let _ = delete_tree(&path);
        }
    }
    loop {
        let work = parent.join(format!("{WORK_PREFIX}{}", random_name()?));
        rustix::fs::mkdir(&work, Mode::RWXU)?;
        // Another engine that starts now may have taken the new folder for an old one.
        match lock_folder(&work) {
            Ok(Some(lock)) if work.exists() => return Ok((work, lock)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
}

fn lock_folder(path: &Path) -> io::Result<Option<OwnedFd>> {
    let folder = openat(CWD, path, OPEN_DIR, Mode::empty())?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(folder)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A name that nobody can guess.
pub(super) fn random_name() -> io::Result<String> {
    let mut bytes = [0_u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
