//! The data directory: where a session's files are.
//!
//! Everything in it belongs to the session: programs change it at will, and deleting the session
//! deletes it. So a directory is only used if it was given for that purpose: it must be empty, carry
//! the mark of an earlier run, or be adopted explicitly. It is locked for as long as an adapter, or
//! a job of its engine, may still write there.
//!
//! What this program keeps in it for itself is below one reserved directory, [`RESERVED`].

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, flock, fstat, mkdirat, openat,
    statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::tree::{
    OPEN_DIR, Space, Undeleted, delete_contents, delete_tree, temp_dir, temporary_folder,
};

/// The directory in a data directory that holds what is not the session's: the mark, and uploads
/// that are not complete yet.
pub const RESERVED: &str = ".session-adapter";
/// The file in [`RESERVED`] that says what the directory is used for.
pub const MARK: &str = "data-directory";
/// What the root of an ext file system has.
pub const LOST_AND_FOUND: &str = "lost+found";

const MARK_TEXT: &str = "This directory holds the files of a session of session-adapter. The session's programs may\n\
                         change everything in it, and deleting the session deletes everything in it.\n";
/// What the names of temporary data directories begin with.
const TEMPORARY_PREFIX: &str = "session-adapter-data-";
/// How long the last jobs of an adapter that was killed may keep its data directory.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Why a directory cannot hold a session's files. Nothing in it has been changed.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It holds what was not put there by this program.
    #[error(
        "the data directory {} is not empty and was not used by session-adapter before (it holds \
         {}): give it an empty directory, or --adopt-data-dir if the session may change and delete \
         everything in it", path.display(), examples(names, *count)
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// Names of some of its entries.
        names: Vec<String>,
        /// How many there are.
        count: usize,
    },
    /// Another process has locked it.
    #[error("the data directory {} is in use by another session-adapter", .0.display())]
    InUse(PathBuf),
    /// The file system.
    #[error("the data directory {} cannot be used: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
}

fn examples(names: &[String], count: usize) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    match count - names.len() {
        0 => quoted.join(", "),
        more => format!("{} and {more} more", quoted.join(", ")),
    }
}

/// A data directory that this process has locked.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: OwnedFd,
    is_temporary: bool,
}

impl DataDir {
    /// Locks the directory that an operator has given, checks that it may be used, and marks it.
    ///
    /// With `adopt` it may hold anything; what it holds becomes the session's.
    ///
    /// # Errors
    /// [`DataDirError`]; nothing has been changed then.
    pub fn open(path: &Path, adopt: bool) -> Result<Self, DataDirError> {
        let failed = |source: io::Error| DataDirError::Io {
            path: path.to_owned(),
            source,
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let folder = openat(CWD, path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        if !lock(&folder).map_err(failed)? {
            return Err(DataDirError::InUse(path.to_owned()));
        }
        if !adopt && !is_marked(&folder) {
            let (names, count) = foreign_entries(&folder).map_err(failed)?;
            if count > 0 {
                return Err(DataDirError::NotEmpty {
                    path: path.to_owned(),
                    names,
                    count,
                });
            }
        }
        let reserved = open_reserved(&folder).map_err(failed)?;
        mark(&reserved).map_err(failed)?;
        // Those that an adapter did not complete before it died.
        delete_uploads(reserved).map_err(|left| failed(left.into()))?;
        Ok(Self {
            path: path.to_owned(),
            lock: folder,
            is_temporary: false,
        })
    }

    /// Makes a directory that is deleted when the value is dropped, and deletes those that adapters
    /// left when they were killed.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn temporary() -> Result<Self, DataDirError> {
        let parent = temp_dir();
        let (path, lock) =
            temporary_folder(&parent, TEMPORARY_PREFIX).map_err(|source| DataDirError::Io {
                path: parent,
                source,
            })?;
        Ok(Self {
            path,
            lock,
            is_temporary: true,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is deleted with this value.
    pub fn is_temporary(&self) -> bool {
        self.is_temporary
    }

    /// The lock, for a process that may write there longer than this one.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.is_temporary {
            // What is left is deleted at the next start.
            let _ = delete_tree(&self.path);
        }
    }
}

/// Locks the directory, waiting a moment for the last jobs of an adapter that was killed. False where
/// another process keeps it.
fn lock(folder: &OwnedFd) -> io::Result<bool> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match flock(folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if Instant::now() >= deadline => return Ok(false),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether an earlier run has marked the directory.
fn is_marked(folder: &OwnedFd) -> bool {
    openat(folder, RESERVED, OPEN_DIR, Mode::empty())
        .and_then(|reserved| statat(&reserved, MARK, AtFlags::SYMLINK_NOFOLLOW))
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile)
}

/// Some names of what is in the directory, and how much there is.
fn foreign_entries(folder: &OwnedFd) -> io::Result<(Vec<String>, usize)> {
    let mut names = Vec::new();
    let mut count = 0;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || name == LOST_AND_FOUND.as_bytes() {
            continue;
        }
        count += 1;
        if names.len() < 3 {
            names.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok((names, count))
}

fn mark(reserved: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match openat(reserved, MARK, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file).write_all(MARK_TEXT.as_bytes()),
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Deletes what is in the reserved directory but the mark.
///
/// # Errors
/// Names what is left.
pub fn delete_uploads(reserved: OwnedFd) -> Result<(), Undeleted> {
    delete_contents(reserved, |name| name.to_bytes() == MARK.as_bytes())
}

/// Opens the reserved directory of a data directory, and makes it where it is missing.
///
/// Programs of the session can rename what is in the data directory, and put something else in its
/// place. What is not a directory of this user alone is deleted.
///
/// # Errors
/// Where it can neither be opened nor made.
pub fn open_reserved(data_dir: impl AsFd) -> io::Result<OwnedFd> {
    let data_dir = data_dir.as_fd();
    match openat(data_dir, RESERVED, OPEN_DIR, Mode::empty()) {
        Ok(reserved) => {
            let found = fstat(&reserved)?;
            let is_private = found.st_mode & 0o077 == 0;
            // Root is about to hand it over to the user that serves.
            let me = rustix::process::geteuid();
            if is_private && (found.st_uid == me.as_raw() || me.is_root()) {
                return Ok(reserved);
            }
            delete_contents(reserved, |_| false)?;
        }
        Err(error @ Errno::ACCESS) => {
            let kind = io::Error::from(error).kind();
            let message = format!("{RESERVED} in it belongs to another user");
            return Err(io::Error::new(kind, message));
        }
        // It is missing, or not a directory.
        Err(_) => {}
    }
    for flags in [AtFlags::empty(), AtFlags::REMOVEDIR] {
        // Whether anything was in its place shows next.
        let _ = unlinkat(data_dir, RESERVED, flags);
    }
    mkdirat(data_dir, RESERVED, Mode::RWXU)?;
    Ok(openat(data_dir, RESERVED, OPEN_DIR, Mode::empty())?)
}

/// Whether an entry of a data directory itself is this program's and not the session's.
pub fn is_reserved(name: &CStr) -> bool {
    name.to_bytes() == RESERVED.as_bytes()
}

/// What the session keeps in its data directory, uploads under way included; without what is always
/// there.
pub fn used_space(data_dir: OwnedFd) -> Space {
    let mut in_reserved = false;
    Space::of_some(data_dir, |name, found, depth| {
        if depth == 0 {
            in_reserved = is_reserved(name);
        }
        let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        let is_mark = name.to_bytes() == MARK.as_bytes() && found.st_size == MARK_TEXT.len() as i64;
        !in_reserved || (depth == 0 && !is_directory) || (depth > 0 && !is_mark)
    })
}

/// The same for a path; nothing where it cannot be opened.
pub fn used_space_at(data_dir: &Path) -> Space {
    openat(CWD, data_dir, OPEN_DIR, Mode::empty()).map_or_else(|_| Space::default(), used_space)
}

/// Gives the reserved directory, and what is in it, to the user who serves from now on.
///
/// # Errors
/// Where it cannot be opened, or is not this process's to give.
pub fn give_reserved(data_dir: &Path, user: u32) -> io::Result<()> {
    let folder = openat(CWD, data_dir, OPEN_DIR, Mode::empty())?;
    let Ok(reserved) = openat(&folder, RESERVED, OPEN_DIR, Mode::empty()) else {
        // A temporary directory has none before the first upload.
        return Ok(());
    };
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(&reserved, MARK, Some(uid), Some(gid), flags)?;
    rustix::fs::fchown(&reserved, Some(uid), Some(gid))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn snapshot(path: &Path) -> Vec<(PathBuf, u32, i64, i64)> {
        let mut all = vec![path.to_owned()];
        all.extend(std::fs::read_dir(path).unwrap().flatten().map(|e| e.path()));
        all.sort();
        let seen = |path: PathBuf| {
            let found = path.symlink_metadata().unwrap();
            (path, found.mode(), found.mtime_nsec(), found.ctime_nsec())
        };
        all.into_iter().map(seen).collect()
    }

    #[test]
    fn a_directory_with_foreign_files_is_refused_untouched_unless_adopted() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["report.docx", "b", "c", "d"] {
            std::fs::write(temp.path().join(name), "mine").unwrap();
        }
        let before = snapshot(temp.path());
        let refused = DataDir::open(temp.path(), false).unwrap_err().to_string();
        assert!(refused.contains("and 1 more"), "{refused}");
        assert!(refused.contains("--adopt-data-dir"), "{refused}");
        assert_eq!(snapshot(temp.path()), before);
        drop(DataDir::open(temp.path(), true).unwrap());
        // Adopted once, it is the session's.
        DataDir::open(temp.path(), false).unwrap();
    }

    #[test]
    fn an_empty_directory_is_marked_and_may_be_used_again() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join(LOST_AND_FOUND)).unwrap();
        drop(DataDir::open(temp.path(), false).unwrap());
        std::fs::write(temp.path().join("of the session"), "x").unwrap();
        DataDir::open(temp.path(), false).unwrap();
    }

    #[test]
    fn what_only_looks_like_a_mark_is_none() {
        let temp = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join(MARK), "x").unwrap();
        symlink(elsewhere.path(), temp.path().join(RESERVED)).unwrap();
        assert!(matches!(
            DataDir::open(temp.path(), false),
            Err(DataDirError::NotEmpty { count: 1, .. })
        ));
        assert!(elsewhere.path().join(MARK).exists());
    }

    #[test]
    fn a_second_adapter_is_refused_and_changes_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let first = DataDir::open(temp.path(), false).unwrap();
        let before = snapshot(temp.path());
        let second = DataDir::open(temp.path(), true);
        assert!(matches!(second, Err(DataDirError::InUse(_))));
        assert_eq!(snapshot(temp.path()), before);
        drop(first);
        DataDir::open(temp.path(), false).unwrap();
    }

    #[test]
    fn whatever_is_in_the_place_of_the_reserved_directory_gives_way() {
        let temp = tempfile::tempdir().unwrap();
        let place = temp.path().join(RESERVED);
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("kept"), "x").unwrap();
        let folder = openat(CWD, temp.path(), OPEN_DIR, Mode::empty()).unwrap();
        let opened = || {
            let reserved = open_reserved(&folder).unwrap();
            assert_eq!(fstat(&reserved).unwrap().st_mode & 0o777, 0o700);
            std::fs::remove_dir(&place).unwrap();
        };
        opened();
        std::fs::write(&place, "x").unwrap();
        opened();
        symlink(elsewhere.path(), &place).unwrap();
        opened();
        std::fs::create_dir_all(place.join("a/b")).unwrap();
        // Whatever the umask of this process is, this one is not private.
        std::fs::set_permissions(&place, PermissionsExt::from_mode(0o755)).unwrap();
        opened();
        assert!(elsewhere.path().join("kept").exists());
    }

    #[test]
    fn what_is_always_there_does_not_count() {
        let temp = tempfile::tempdir().unwrap();
        drop(DataDir::open(temp.path(), false).unwrap());
        assert_eq!(used_space_at(temp.path()), Space::default());
        std::fs::write(temp.path().join(RESERVED).join("upload"), [1; 10_000]).unwrap();
        std::fs::write(temp.path().join("file"), [1; 10_000]).unwrap();
        let used = used_space_at(temp.path());
        assert_eq!(used.entries, 2);
        assert!(used.bytes >= 20_000);
        // Not a place to hide something in.
        std::fs::write(temp.path().join(RESERVED).join(MARK), [1; 10_000]).unwrap();
        assert_eq!(used_space_at(temp.path()).entries, 3);
    }

    #[test]
    fn a_temporary_directory_goes_with_its_value() {
        let data = DataDir::temporary().unwrap();
        let path = data.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(data);
        assert!(!path.exists());
    }
}
