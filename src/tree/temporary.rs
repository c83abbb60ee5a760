//! Temporary directories that live as long as a process. A lock marks them as in use, so that the next
//! process can delete those of processes that were killed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, flock, openat};

use super::{OPEN_DIR, delete_tree};

/// The parent for temporary directories: `TMPDIR`, or `/tmp` if that is not an absolute path.
pub fn temp_dir() -> PathBuf {
    let temp = std::env::temp_dir();
    if temp.is_absolute() {
        temp
    } else {
        PathBuf::from("/tmp")
    }
}

/// Creates a locked directory in `parent` that only this user can access. Also deletes those of the same
/// prefix that killed processes of this user left.
///
/// # Errors
/// If `parent` cannot be read or written.
pub fn temporary_folder(parent: &Path, prefix: &str) -> io::Result<(PathBuf, OwnedFd)> {
    delete_abandoned(parent, prefix)?;
    loop {
        let path = parent.join(format!("{prefix}{}", random_name()?));
        rustix::fs::mkdir(&path, Mode::RWXU)?;
        // Until it is locked, another process that starts now may take it for an abandoned one.
        match lock_folder(&path) {
            Ok(Some(lock)) if path.exists() => return Ok((path, lock)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
}

/// Deletes the directories in `parent` of this prefix whose processes have died.
///
/// # Errors
/// Where `parent` cannot be read.
pub fn delete_abandoned(parent: &Path, prefix: &str) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let me = rustix::process::geteuid().as_raw();
    for entry in std::fs::read_dir(parent)?.flatten() {
        let name = entry.file_name();
        // Other users' directories and names that only look similar must not be deleted.
        let is_ours = name.to_str().is_some_and(|name| is_name(name, prefix))
            && entry
                .metadata()
                .is_ok_and(|found| found.is_dir() && found.uid() == me);
        let path = entry.path();
        if is_ours && lock_folder(&path).is_ok_and(|lock| lock.is_some()) {
            // What cannot be deleted now is tried again at the next start.
            let _ = delete_tree(&path);
        }
    }
    Ok(())
}

fn is_name(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|random| {
        random.len() == RANDOM_DIGITS && random.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

/// Locks a directory for as long as the descriptor lives. `None` if another process holds the lock.
///
/// # Errors
/// If the directory cannot be opened, or its file system does not support locks.
fn lock_folder(path: &Path) -> io::Result<Option<OwnedFd>> {
    let folder = openat(CWD, path, OPEN_DIR, Mode::empty())?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(folder)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

const RANDOM_DIGITS: usize = 16;

/// An unguessable name of 16 hexadecimal digits.
///
/// # Errors
/// If the kernel cannot provide random numbers.
pub fn random_name() -> io::Result<String> {
    let mut bytes = [0_u8; RANDOM_DIGITS / 2];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abandoned_folders_are_deleted_and_others_are_not() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        for name in [
            "jobs-0123456789abcdef",
            "jobs-backup",
            "other-0123456789abcdef",
        ] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("file"), "x").unwrap();
        }
        let (running, _lock) = temporary_folder(temp.path(), "jobs-").unwrap();
        let (second, _second_lock) = temporary_folder(temp.path(), "jobs-").unwrap();
        assert!(!at("jobs-0123456789abcdef").exists());
        assert!(running.exists() && second.exists());
        assert!(at("jobs-backup/file").exists());
        assert!(at("other-0123456789abcdef/file").exists());
    }
}
