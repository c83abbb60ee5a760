//! Deletes directories, whatever a program has put into them.
//!
//! A program may still be renaming entries meanwhile. Each step is therefore relative to an open
//! descriptor, follows no link, and treats an entry that has vanished as deleted.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, fchmod, fchown, fstat, openat, statat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::process::Uid;

use super::OPEN_DIR;

/// How many paths [`Undeleted`] lists.
const MAX_PATHS: usize = 10;
/// Length in bytes from which on only the end of a path is listed.
const MAX_PATH_BYTES: usize = 256;

/// The error of a deletion that left something. Everything else was deleted.
#[derive(Debug, thiserror::Error)]
#[error("{count} files or folders cannot be deleted: {source}")]
pub struct Undeleted {
    /// The first of them, relative to the directory that was to be emptied. A directory that is left
    /// only because of its contents is not listed.
    pub paths: Vec<String>,
    /// The number of files and directories left, except for directories as above.
    pub count: usize,
    /// Why the first one could not be deleted.
    #[source]
    pub source: io::Error,
}

impl From<Undeleted> for io::Error {
    fn from(undeleted: Undeleted) -> Self {
        Self::new(undeleted.source.kind(), undeleted)
    }
}

/// Why an entry cannot be deleted for a reason other than a failed system call.
#[derive(Debug, thiserror::Error)]
enum DeleteError {
    #[error("a folder was moved while it was being deleted")]
    Moved,
}

/// Collects what cannot be deleted.
#[derive(Default)]
struct Failures {
    undeleted: Option<Undeleted>,
}

impl Failures {
    fn add(&mut self, parents: &[Level], name: &CStr, error: impl Into<io::Error>) {
        let undeleted = self.undeleted.get_or_insert_with(|| Undeleted {
            paths: Vec::new(),
            count: 0,
            source: error.into(),
        });
        undeleted.count += 1;
        if undeleted.paths.len() < MAX_PATHS {
            undeleted.paths.push(display_path(parents, name));
        }
    }

    fn count(&self) -> usize {
        self.undeleted.as_ref().map_or(0, |failed| failed.count)
    }
}

/// A directory above the current one.
struct Level {
    /// Its device and inode.
    identity: (u64, u64),
    /// The name of the next directory on the path down.
    name: CString,
    /// The other directories in it that are still to be deleted.
    siblings: Vec<CString>,
    /// The number of failures before that next directory was entered.
    failed_before: usize,
}

/// A path of about [`MAX_PATH_BYTES`] at most. A program can nest directories tens of thousands deep.
fn display_path(parents: &[Level], name: &CStr) -> String {
    let mut path = name.to_string_lossy().into_owned();
    for level in parents.iter().rev() {
        if path.len() > MAX_PATH_BYTES {
            return format!("…/{path}");
        }
        path = format!("{}/{path}", level.name.to_string_lossy());
    }
    path
}

/// Deletes a directory and everything in it. Does nothing if it does not exist.
///
/// Since a job can nest directories tens of thousands deep, only the current one is held open. The way
/// back up is `..`, which is checked to be the directory that it came from: in a shared directory
/// somebody may move what is being deleted.
///
/// # Errors
/// If something could not be deleted. The rest is deleted as far as possible.
pub fn delete_tree(root: &Path) -> io::Result<()> {
    let folder = match open_to_delete(CWD, &c_path(root)?) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let emptied = delete_contents(folder, |_| false);
    let removed = unlinkat(CWD, root, AtFlags::REMOVEDIR);
    emptied?;
    Ok(removed?)
}

/// Deletes a directory that a program may have filled with files of others: those stay, with the directories
/// above them, and so does what is on another file system. Directories are taken over by `owner`, a user
/// whom no process has. Returns whether the directory is gone.
///
/// # Errors
/// If something else could not be deleted. The rest is deleted as far as possible.
pub fn delete_own_tree(
    parent: impl AsFd,
    name: &CStr,
    owner: u32,
    is_own: &dyn Fn(&Stat) -> bool,
) -> io::Result<bool> {
    let device = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?.st_dev;
    let guard = Guard {
        owner: Uid::from_raw(owner),
        device,
        is_own,
    };
    let Some(folder) = open_guarded(&parent, name, Some(&guard))? else {
        return Ok(false);
    };
    delete_guarded(folder, |_| false, Some(&guard))?;
    match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        removed => Ok(removed.map(|()| true)?),
    }
}

/// What may be deleted where others may have files, too.
struct Guard<'a> {
    owner: Uid,
    device: u64,
    is_own: &'a dyn Fn(&Stat) -> bool,
}

impl Guard<'_> {
    fn allows(&self, found: &Stat) -> bool {
        let is_taken_over = found.st_uid == self.owner.as_raw();
        found.st_dev == self.device && (is_taken_over || (self.is_own)(found))
    }
}

/// Deletes everything in a directory except its entries for which `is_kept` returns true. The directory
/// itself stays.
///
/// # Errors
/// Lists what could not be deleted. The rest is deleted all the same.
pub fn delete_contents(folder: OwnedFd, is_kept: impl Fn(&CStr) -> bool) -> Result<(), Undeleted> {
    delete_guarded(folder, is_kept, None)
}

fn delete_guarded(
    folder: OwnedFd,
    is_kept: impl Fn(&CStr) -> bool,
    guard: Option<&Guard<'_>>,
) -> Result<(), Undeleted> {
    let mut failures = Failures::default();
    let mut here = folder;
    let mut parents: Vec<Level> = Vec::new();
    let mut folders = delete_files(&here, &parents, &mut failures, is_kept, guard);
    loop {
        if let Some(name) = folders.pop() {
            let opened = open_guarded(&here, &name, guard);
            let opened = opened.and_then(|dir| Ok((identity(&here)?, dir)));
            match opened {
                Ok((_, None)) => {}
                Ok((identity, Some(dir))) => {
                    parents.push(Level {
                        identity,
                        name,
                        siblings: std::mem::take(&mut folders),
                        failed_before: failures.count(),
                    });
                    folders = delete_files(&dir, &parents, &mut failures, |_| false, guard);
                    here = dir;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // A file has replaced it, or it is empty and this user may not open it.
                Err(_) if remove_by_name(&here, &name) => {}
                Err(error) => failures.add(&parents, &name, error),
            }
            continue;
        }
        let Some(level) = parents.pop() else {
            break;
        };
        match openat(&here, c"..", OPEN_DIR, Mode::empty()) {
            Ok(parent) if identity(&parent).is_ok_and(|found| found == level.identity) => {
                here = parent;
            }
            _ => {
                let moved = io::Error::other(DeleteError::Moved);
                failures.add(&parents, &level.name, moved);
                break;
            }
        }
        folders = level.siblings;
        match unlinkat(&here, &level.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST)
                if guard.is_some() || failures.count() > level.failed_before => {}
            Err(error) => failures.add(&parents, &level.name, error),
        }
    }
    failures.undeleted.map_or(Ok(()), Err)
}

fn remove_by_name(parent: &OwnedFd, name: &CStr) -> bool {
    unlinkat(parent, name, AtFlags::empty()).is_ok()
        || unlinkat(parent, name, AtFlags::REMOVEDIR).is_ok()
}

fn identity(folder: &OwnedFd) -> io::Result<(u64, u64)> {
    let found = fstat(folder)?;
    Ok((found.st_dev, found.st_ino))
}

fn c_path(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Opens a directory whatever its mode, and changes the mode so that it can be emptied. Root takes it over,
/// so that no program can put anything more into it, not even one whose working directory it is.
fn open_to_delete(parent: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let dir = open_whatever_mode(parent, name)?;
    take_over(&dir, rustix::process::geteuid())?;
    Ok(dir)
}

/// As [`open_to_delete`]; `None` if the guard does not allow it.
fn open_guarded(
    parent: impl AsFd,
    name: &CStr,
    guard: Option<&Guard<'_>>,
) -> io::Result<Option<OwnedFd>> {
    let Some(guard) = guard else {
        return open_to_delete(parent, name).map(Some);
    };
    let dir = open_whatever_mode(parent, name)?;
    if !guard.allows(&fstat(&dir)?) {
        return Ok(None);
    }
    take_over(&dir, guard.owner)?;
    Ok(Some(dir))
}

fn open_whatever_mode(parent: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    Ok(match openat(&parent, name, OPEN_DIR, Mode::empty()) {
        // Only without root: as the owner, this process may grant itself access. It does so by the
        // descriptor of the directory itself, so that no link is followed.
        Err(Errno::ACCESS) => {
            let handle = openat(&parent, name, OPEN_DIR | OFlags::PATH, Mode::empty())?;
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
            rustix::fs::chmod(path, Mode::RWXU)?;
            openat(&parent, name, OPEN_DIR, Mode::empty())?
        }
        other => other?,
    })
}

fn take_over(dir: &OwnedFd, owner: Uid) -> io::Result<()> {
    // Both are refused if the directory belongs to another user. Where deleting its entries then fails, too,
    // that error is reported.
    if rustix::process::geteuid().is_root() {
        let _ = fchown(dir, Some(owner), None);
    }
    if Mode::from_raw_mode(fstat(dir)?.st_mode) != Mode::RWXU {
        let _ = fchmod(dir, Mode::RWXU);
    }
    Ok(())
}

/// Deletes everything in a directory except its subdirectories, and returns their names.
fn delete_files(
    dir: &OwnedFd,
    parents: &[Level],
    failures: &mut Failures,
    is_kept: impl Fn(&CStr) -> bool,
    guard: Option<&Guard<'_>>,
) -> Vec<CString> {
    let mut folders = Vec::new();
    let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                failures.add(parents, c".", error);
                break;
            }
        };
        let name = entry.file_name();
        if name == c"." || name == c".." || is_kept(name) {
            continue;
        }
        if let Some(guard) = guard {
            let found = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
            if !found.is_ok_and(|found| guard.allows(&found)) {
                continue;
            }
        }
        let is_folder = match entry.file_type() {
            FileType::Directory => true,
            FileType::Unknown => statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory),
            _ => false,
        };
        if is_folder {
            folders.push(name.to_owned());
            continue;
        }
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // A directory has replaced it.
            Err(Errno::ISDIR) => folders.push(name.to_owned()),
            Err(error) => failures.add(parents, name, error),
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mkdirat;

    #[test]
    fn a_tree_that_is_15000_deep_is_deleted() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("deep");
        std::fs::create_dir(&root).unwrap();
        let mut here = openat(CWD, &root, OPEN_DIR, Mode::empty()).unwrap();
        for _ in 0..15_000 {
            mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = openat(&here, "d", OPEN_DIR, Mode::empty()).unwrap();
        }
        delete_tree(&root).unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn links_are_deleted_and_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let kept = temp.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "x").unwrap();
        let root = temp.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::os::unix::fs::symlink(&kept, root.join("a/link")).unwrap();
        delete_tree(&root).unwrap();
        assert!(kept.join("file").exists() && !root.exists());
    }

    #[test]
    fn many_folders_side_by_side_are_deleted() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("wide");
        for n in 0..2_000 {
            std::fs::create_dir_all(root.join(format!("{n}/x"))).unwrap();
            std::fs::write(root.join(format!("{n}/y")), "").unwrap();
        }
        delete_tree(&root).unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn what_is_kept_stays_and_the_rest_goes() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["kept/in", "gone/in"] {
            std::fs::create_dir_all(temp.path().join(name)).unwrap();
            std::fs::write(temp.path().join(name).join("file"), "x").unwrap();
        }
        std::fs::write(temp.path().join("file"), "x").unwrap();
        std::fs::create_dir_all(temp.path().join("gone/kept")).unwrap();
        let folder = openat(CWD, temp.path(), OPEN_DIR, Mode::empty()).unwrap();
        delete_contents(folder, |name| name == c"kept").unwrap();
        let left: Vec<_> = std::fs::read_dir(temp.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert!(temp.path().join("kept/in/file").exists());
    }

    #[test]
    fn a_long_path_is_shown_by_its_end() {
        let level = |name: &str| Level {
            identity: (0, 0),
            name: CString::new(name).unwrap(),
            siblings: Vec::new(),
            failed_before: 0,
        };
        let parents = [level("a"), level("b")];
        assert_eq!(display_path(&parents, c"c"), "a/b/c");
        let deep: Vec<Level> = (0..10_000).map(|_| level("folder")).collect();
        let path = display_path(&deep, c"file");
        assert!(path.starts_with("…/folder/") && path.ends_with("/file"));
        assert!(path.len() < 2 * MAX_PATH_BYTES);
    }
}
