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
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, Stat, fchmod, flock, fstat, mkdirat,
    openat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::tree::{
    Measurement, OPEN_DIR, Space, Undeleted, delete_contents, delete_tree, temp_dir,
    temporary_folder,
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
#[allow(missing_docs)] // Of fields: the messages name them.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It holds what was not put there by this program.
    #[error(
        "the data directory {} is not empty and was not used by session-adapter before (it holds \
         {}): give it an empty directory, or --adopt-data-dir if the session may change and delete \
         everything in it", path.display(), examples(names, *count)
    )]
    NotEmpty {
        /// The directory that was given.
        path: PathBuf,
        /// Names of some of its entries.
        names: Vec<String>,
        /// How many there are.
        count: usize,
    },
    /// Another process has locked it.
    #[error("the data directory {} is in use by another session-adapter", .0.display())]
    InUse(PathBuf),
    /// The file system refused an operation on the directory.
    #[error("the data directory {} cannot be used: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

fn examples(names: &[String], count: usize) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    match count - names.len() {
        0 => quoted.join(", "),
        more => format!("{} and {more} more", quoted.join(", ")),
    }
}

/// Owner and group of the reserved directory. Programs may run as the user with whose rights the server accesses
/// files, so the server gets access by a group that no program is in.
#[derive(Debug, Clone, Copy)]
pub struct ReservedFor {
    /// The owner.
    pub uid: u32,
    /// A supplementary group of the server.
    pub gid: u32,
}

/// A data directory that this process has locked.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: OwnedFd,
    is_temporary: bool,
    is_marked: AtomicBool,
}

impl DataDir {
    /// Locks the directory that an operator has given, and checks that it may be used. It is to be
    /// [marked](Self::mark) once the start has succeeded.
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
        Ok(Self {
            path: path.to_owned(),
            lock: folder,
            is_temporary: false,
            is_marked: AtomicBool::new(false),
        })
    }

    /// Marks the directory as the session's, and deletes uploads that an earlier adapter did not
    /// complete. To be called when nothing else can stop the start: a directory that was adopted in vain
    /// is not the session's. `server` is who serves from now on, where it is not this user.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn mark(&self, server: Option<ReservedFor>) -> Result<(), DataDirError> {
        let marked = open_reserved(&self.lock).and_then(|reserved| {
            if let Some(server) = server {
                give_reserved(&reserved, server)?;
            }
            self.is_marked.store(true, Ordering::Relaxed);
            Ok(delete_uploads(reserved)?)
        });
        marked.map_err(|source| DataDirError::Io {
            path: self.path.clone(),
            source,
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
            is_marked: AtomicBool::new(false),
        })
    }

    /// The absolute path of the directory.
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
        // What is left is deleted at the next start, and what a program has made of the mark is for an
        // operator to judge where it cannot be mended.
        if self.is_temporary {
            let _ = delete_tree(&self.path);
        } else if self.is_marked.load(Ordering::Relaxed) {
            let _ = open_reserved(&self.lock);
        }
    }
}

/// Deletes the temporary data directories that adapters of this user left when they were killed.
pub fn delete_abandoned() {
    // What cannot be read now may be at the next start.
    let _ = crate::tree::delete_abandoned(&temp_dir(), TEMPORARY_PREFIX);
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
    open_own(folder.as_fd(), RESERVED).is_ok_and(|reserved| has_mark(&reserved))
}

fn has_mark(reserved: &OwnedFd) -> bool {
    statat(reserved, MARK, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|found| is_mark(&found))
}

/// A mark holds nothing but its text: it is no place to keep something in.
fn is_mark(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
        && found.st_size == MARK_TEXT.len() as i64
        && found.st_nlink == 1
}

/// Opens a directory; one of this user's own also where a program has taken its modes away.
fn open_own(parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let opened = match openat(parent, name, OPEN_DIR, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let handle = openat(parent, name, OPEN_DIR | OFlags::PATH, Mode::empty())?;
            let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
            rustix::fs::chmod(path, Mode::RWXU).map_err(|_not_mine| Errno::ACCESS)?;
            openat(parent, name, OPEN_DIR, Mode::empty())?
        }
        other => other?,
    };
    restore_own_modes(&opened)?;
    Ok(opened)
}

/// Gives this user back the rights to a directory of its own. Where jobs share the user, they can take
/// them away.
///
/// # Errors
/// What the kernel says.
pub fn restore_own_modes(folder: &OwnedFd) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(fstat(folder)?.st_mode);
    if mode.contains(Mode::RWXU) {
        return Ok(());
    }
    match fchmod(folder, mode | Mode::RWXU) {
        // It is another user's.
        Err(Errno::PERM) => Ok(()),
        done => done,
    }
}

/// Whether this is what the root of an ext file system has, and not a directory that somebody gave
/// its name: no job and no ordinary user makes one of root's.
pub fn is_lost_and_found(folder: &OwnedFd) -> bool {
    statat(folder, LOST_AND_FOUND, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|found| {
        found.st_uid == 0 && FileType::from_raw_mode(found.st_mode) == FileType::Directory
    })
}

/// Some names of what is in the directory, and how much there is.
fn foreign_entries(folder: &OwnedFd) -> io::Result<(Vec<String>, usize)> {
    let has_lost_and_found = is_lost_and_found(folder);
    let mut names = Vec::new();
    let mut count = 0;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || (has_lost_and_found && name == LOST_AND_FOUND.as_bytes())
        {
            continue;
        }
        count += 1;
        if names.len() < 3 {
            names.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok((names, count))
}

/// Puts the mark in its place, whatever a program has made of it.
fn mark(reserved: &OwnedFd) -> io::Result<()> {
    if has_mark(reserved) {
        return Ok(());
    }
    let own = openat(reserved, c".", OPEN_DIR, Mode::empty())?;
    delete_contents(own, |name| name.to_bytes() != MARK.as_bytes())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(reserved, MARK, flags, Mode::RUSR | Mode::WUSR)?;
    File::from(file).write_all(MARK_TEXT.as_bytes())
}

/// Deletes the uploads under way, and whatever else a program has put beside the mark.
///
/// # Errors
/// Names what is left.
pub fn delete_uploads(reserved: OwnedFd) -> Result<(), Undeleted> {
    let keeps_mark = has_mark(&reserved);
    delete_contents(reserved, |name| {
        keeps_mark && name.to_bytes() == MARK.as_bytes()
    })
}

/// Opens the reserved directory of a data directory. Makes it where it is missing, and marks it where
/// the mark is.
///
/// Programs of the session can rename what is in the data directory, and put something else in its
/// place. What is open to others, or to the group that shares the data directory, is deleted.
///
/// # Errors
/// Where it can neither be opened nor made.
pub fn open_reserved(data_dir: impl AsFd) -> io::Result<OwnedFd> {
    // Uploads begin in several threads. Where the directory is missing, one must not delete what
    // another has just made.
    static OPENING: Mutex<()> = Mutex::new(());
    let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    let data_dir = data_dir.as_fd();
    match open_own(data_dir, RESERVED) {
        Ok(reserved) => {
            if is_private(&reserved, data_dir)? {
                mark(&reserved)?;
                return Ok(reserved);
            }
            delete_contents(reserved, |_| false)?;
        }
        // Another user's, and not to be got rid of.
        Err(Errno::ACCESS) => return Err(Errno::ACCESS.into()),
        // It is missing, or not a directory.
        Err(_) => {}
    }
    for flags in [AtFlags::empty(), AtFlags::REMOVEDIR] {
        // Whether anything was in its place shows next.
        let _ = unlinkat(data_dir, RESERVED, flags);
    }
    mkdirat(data_dir, RESERVED, Mode::RWXU)?;
    let reserved = openat(data_dir, RESERVED, OPEN_DIR, Mode::empty())?;
    mark(&reserved)?;
    Ok(reserved)
}

/// Whether the group that shares the data directory, and others, are kept out.
fn is_private(reserved: &OwnedFd, data_dir: BorrowedFd<'_>) -> io::Result<bool> {
    let (found, shared) = (fstat(reserved)?, fstat(data_dir)?);
    let is_open_to_group = found.st_mode & 0o070 != 0 && found.st_gid == shared.st_gid;
    Ok(found.st_mode & 0o007 == 0 && !is_open_to_group)
}

/// Whether an entry of a data directory itself is this program's and not the session's.
pub fn is_reserved(name: &CStr) -> bool {
    name.to_bytes() == RESERVED.as_bytes()
}

/// What the session keeps in its data directory, uploads under way included; without what is always
/// there.
pub fn used_space(data_dir: OwnedFd) -> Measurement {
    let mut in_reserved = false;
    Space::of_some(data_dir, |name, found, depth| {
        if depth == 0 {
            in_reserved = is_reserved(name);
        }
        let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        let is_mark = name.to_bytes() == MARK.as_bytes() && is_mark(found);
        !in_reserved || (depth == 0 && !is_directory) || (depth > 0 && !is_mark)
    })
}

/// The same for a path.
pub fn used_space_at(data_dir: &Path) -> Measurement {
    Measurement::at(data_dir, used_space)
}

fn give_reserved(reserved: &OwnedFd, server: ReservedFor) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(server.uid), Gid::from_raw(server.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(reserved, MARK, Some(uid), Some(gid), flags)?;
    rustix::fs::fchown(reserved, Some(uid), Some(gid))?;
    // Nothing in it is to get the group of the data directory's programs.
    Ok(fchmod(reserved, Mode::RWXU | Mode::RWXG)?)
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

    fn open_and_mark(path: &Path, adopt: bool) {
        DataDir::open(path, adopt).unwrap().mark(None).unwrap();
    }

    #[test]
    fn a_directory_that_was_adopted_in_vain_is_not_marked() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("document"), "mine").unwrap();
        let before = snapshot(temp.path());
        drop(DataDir::open(temp.path(), true).unwrap());
        assert_eq!(snapshot(temp.path()), before);
        assert!(DataDir::open(temp.path(), false).is_err());
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
        open_and_mark(temp.path(), true);
        // Adopted once, it is the session's.
        DataDir::open(temp.path(), false).unwrap();
    }

    #[test]
    fn an_empty_directory_is_marked_and_may_be_used_again() {
        let temp = tempfile::tempdir().unwrap();
        open_and_mark(temp.path(), false);
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
            assert!(has_mark(&reserved));
            std::fs::remove_dir_all(&place).unwrap();
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
        open_and_mark(temp.path(), false);
        assert_eq!(used_space_at(temp.path()).space, Space::default());
        std::fs::write(temp.path().join(RESERVED).join("upload"), [1; 10_000]).unwrap();
        std::fs::write(temp.path().join("file"), [1; 10_000]).unwrap();
        let used = used_space_at(temp.path()).space;
        assert_eq!(used.entries, 2);
        assert!(used.bytes >= 20_000);
        // Not a place to hide something in.
        std::fs::write(temp.path().join(RESERVED).join(MARK), [1; 10_000]).unwrap();
        assert_eq!(used_space_at(temp.path()).space.entries, 3);
    }

    #[test]
    fn only_roots_lost_and_found_is_the_file_systems() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join(LOST_AND_FOUND)).unwrap();
        let opened = DataDir::open(temp.path(), false);
        assert_eq!(opened.is_ok(), rustix::process::geteuid().is_root());
    }

    #[test]
    fn the_mark_holds_its_text_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let place = temp.path().join(RESERVED).join(MARK);
        let folder = openat(CWD, temp.path(), OPEN_DIR, Mode::empty()).unwrap();
        open_reserved(&folder).unwrap();
        let spoil: [&dyn Fn(); 4] = [
            &|| std::fs::write(&place, "hidden").unwrap(),
            &|| std::fs::create_dir_all(place.join("a")).unwrap(),
            &|| symlink("/etc/passwd", &place).unwrap(),
            &|| std::fs::hard_link(temp.path().join("outside"), &place).unwrap(),
        ];
        std::fs::write(temp.path().join("outside"), MARK_TEXT).unwrap();
        for spoil in spoil {
            std::fs::remove_file(&place).unwrap();
            spoil();
            assert!(!is_marked(&folder));
            let reserved = open_reserved(&folder).unwrap();
            assert!(has_mark(&reserved));
            delete_uploads(reserved).unwrap();
            assert_eq!(std::fs::read_to_string(&place).unwrap(), MARK_TEXT);
        }
    }

    #[test]
    fn modes_that_a_program_took_away_are_given_back() {
        let temp = tempfile::tempdir().unwrap();
        let folder = openat(CWD, temp.path(), OPEN_DIR, Mode::empty()).unwrap();
        open_reserved(&folder).unwrap();
        for mode in [0o000, 0o500] {
            let place = temp.path().join(RESERVED);
            std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(is_marked(&folder));
            let reserved = open_reserved(&folder).unwrap();
            assert_eq!(fstat(&reserved).unwrap().st_mode & 0o777, 0o700);
        }
    }

    #[test]
    fn uploads_that_begin_at_once_find_one_reserved_directory() {
        for _ in 0..50 {
            let temp = tempfile::tempdir().unwrap();
            let folder = openat(CWD, temp.path(), OPEN_DIR, Mode::empty()).unwrap();
            let begin = |number: usize| {
                let reserved = open_reserved(&folder).unwrap();
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                openat(&reserved, number.to_string(), flags, Mode::RUSR).unwrap();
            };
            std::thread::scope(|scope| {
                for number in 0..8 {
                    scope.spawn({
                        let begin = &begin;
                        move || begin(number)
                    });
                }
            });
            let reserved = temp.path().join(RESERVED);
            assert_eq!(std::fs::read_dir(reserved).unwrap().count(), 8 + 1);
        }
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
