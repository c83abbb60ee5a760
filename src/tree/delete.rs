//! Deletes folders, whatever a program has made of them.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, fchmod, fstat, openat, statat, unlinkat,
};
use rustix::io::Errno;

use super::OPEN_DIR;

/// How many paths [`Undeleted`] names.
const NAMED: usize = 10;
/// Longest path that it names, in bytes; of a longer one it shows the end.
const NAMED_BYTES: usize = 256;

/// What could not be deleted. Everything else was.
#[derive(Debug, thiserror::Error)]
#[error("{count} files or folders cannot be deleted: {source}")]
pub struct Undeleted {
    /// The first of them, as seen from the folder that was to be emptied. A folder that is left only
    /// because of what is in it is not among them.
    pub paths: Vec<String>,
    /// How many there are.
    pub count: usize,
    /// Why the first one was left.
    #[source]
    pub source: io::Error,
}

impl From<Undeleted> for io::Error {
    fn from(undeleted: Undeleted) -> Self {
        Self::new(undeleted.source.kind(), undeleted)
    }
}

/// Collects what cannot be deleted.
#[derive(Default)]
struct Failures {
    undeleted: Option<Undeleted>,
}

impl Failures {
    fn add(&mut self, way: &[Level], name: &CStr, error: impl Into<io::Error>) {
        let undeleted = self.undeleted.get_or_insert_with(|| Undeleted {
            paths: Vec::new(),
            count: 0,
            source: error.into(),
        });
        undeleted.count += 1;
        if undeleted.paths.len() < NAMED {
            undeleted.paths.push(path_for_people(way, name));
        }
    }

    fn count(&self) -> usize {
        self.undeleted.as_ref().map_or(0, |failed| failed.count)
    }
}

/// A folder on the way down: which one it is, the name of the next one in it, the names of those
/// beside that are still to be deleted, and how much could not be deleted before the next one.
struct Level {
    identity: (u64, u64),
    name: CString,
    siblings: Vec<CString>,
    failed_before: usize,
}

/// A path of at most about [`NAMED_BYTES`]. A program can nest folders tens of thousands deep.
fn path_for_people(way: &[Level], name: &CStr) -> String {
    let mut path = name.to_string_lossy().into_owned();
    for level in way.iter().rev() {
        if path.len() > NAMED_BYTES {
            return format!("…/{path}");
        }
        path = format!("{}/{path}", level.name.to_string_lossy());
    }
    path
}

/// Deletes a folder and all that is in it, without recursion and with few descriptors: a job can
/// make folders tens of thousands deep.
///
/// It follows no link. It goes up again by `..`, and sees to it that this is where it came from:
/// in a shared folder somebody may move what is being deleted.
///
/// # Errors
/// Where something could not be deleted; the rest is deleted all the same, as far as it goes.
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

/// Deletes all that is in a folder but the entries whose names are to be kept, and leaves the folder
/// itself.
///
/// # Errors
/// Names what could not be deleted; the rest is deleted all the same.
pub fn delete_contents(folder: OwnedFd, is_kept: impl Fn(&CStr) -> bool) -> Result<(), Undeleted> {
    let mut failures = Failures::default();
    let mut here = folder;
    let mut way: Vec<Level> = Vec::new();
    let mut folders = delete_files(&here, &way, &mut failures, is_kept);
    loop {
        if let Some(name) = folders.pop() {
            let opened = open_to_delete(&here, &name).and_then(|dir| Ok((identity(&here)?, dir)));
            match opened {
                Ok((identity, dir)) => {
                    way.push(Level {
                        identity,
                        name,
                        siblings: std::mem::take(&mut folders),
                        failed_before: failures.count(),
                    });
                    folders = delete_files(&dir, &way, &mut failures, |_| false);
                    here = dir;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // A link has taken its place, or it is empty and not ours to open.
                Err(_) if remove_by_name(&here, &name) => {}
                Err(error) => failures.add(&way, &name, error),
            }
            continue;
        }
        let Some(level) = way.pop() else {
            break;
        };
        match openat(&here, c"..", OPEN_DIR, Mode::empty()) {
            Ok(parent) if identity(&parent).is_ok_and(|found| found == level.identity) => {
                here = parent;
            }
            _ => {
                let moved = "a folder was moved while it was being deleted";
                failures.add(&way, &level.name, io::Error::other(moved));
                break;
            }
        }
        folders = level.siblings;
        match unlinkat(&here, &level.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if failures.count() > level.failed_before => {}
            Err(error) => failures.add(&way, &level.name, error),
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
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Opens a folder whatever its mode, and makes it one that can be emptied.
fn open_to_delete(parent: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let dir = match openat(&parent, name, OPEN_DIR, Mode::empty()) {
        // Only where this is not root: the owner gives himself the right first. The descriptor is
        // of the folder itself, so that no link is followed.
        Err(Errno::ACCESS) => {
            let handle = openat(&parent, name, OPEN_DIR | OFlags::PATH, Mode::empty())?;
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
            rustix::fs::chmod(path, Mode::RWXU)?;
            openat(&parent, name, OPEN_DIR, Mode::empty())?
        }
        other => other?,
    };
    let mode = Mode::from_raw_mode(fstat(&dir)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        // May be refused on a folder that is not this user's: then deleting says so.
        let _ = fchmod(&dir, Mode::RWXU);
    }
    Ok(dir)
}

/// Deletes all of a folder but the folders in it, and returns their names.
fn delete_files(
    dir: &OwnedFd,
    way: &[Level],
    failures: &mut Failures,
    is_kept: impl Fn(&CStr) -> bool,
) -> Vec<CString> {
    let mut folders = Vec::new();
    let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                failures.add(way, c".", error);
                break;
            }
        };
        let name = entry.file_name();
        if name == c"." || name == c".." || is_kept(name) {
            continue;
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
            // It has become a folder meanwhile.
            Err(Errno::ISDIR) => folders.push(name.to_owned()),
            Err(error) => failures.add(way, name, error),
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
        let way = [level("a"), level("b")];
        assert_eq!(path_for_people(&way, c"c"), "a/b/c");
        let deep: Vec<Level> = (0..10_000).map(|_| level("folder")).collect();
        let path = path_for_people(&deep, c"file");
        assert!(path.starts_with("…/folder/") && path.ends_with("/file"));
        assert!(path.len() < 2 * NAMED_BYTES);
    }
}
