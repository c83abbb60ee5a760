//! A job's directory: made, filled, and deleted whatever the job has made of it.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, chownat, fchmod, fchown, fstat, mkdirat, openat,
    statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::walk::OPEN_DIR;

/// The directories of one job.
#[derive(Debug)]
pub(super) struct Workspace {
    /// The directory that holds the two others.
    pub(super) root: PathBuf,
    /// Where the program starts, with the files of the request.
    pub(super) box_dir: PathBuf,
    /// `HOME` and `TMPDIR`.
    pub(super) temp_dir: PathBuf,
}

/// Name of the directory in which a program starts.
pub(super) const BOX: &str = "box";

impl Workspace {
    /// The directories of a job of this name, whether they are there or not.
    pub(super) fn of(work: &Path, name: &str) -> Self {
        let root = work.join(name);
        Self {
            box_dir: root.join(BOX),
            temp_dir: root.join("tmp"),
            root,
        }
    }

    /// Makes empty directories that belong to `owner`.
    ///
    /// # Errors
    /// Where the disk or the rights are not there.
    pub(super) fn create(work: &Path, name: &str, owner: Option<u32>) -> io::Result<Self> {
        let this = Self::of(work, name);
        for folder in [&this.root, &this.box_dir, &this.temp_dir] {
            mkdirat(CWD, folder, Mode::RWXU)?;
            let made = openat(CWD, folder, OPEN_DIR, Mode::empty())?;
            give(&made, owner)?;
        }
        Ok(this)
    }

    /// Opens a new file of this job, and the folders above it. `path` has plain names only, which
    /// the caller has checked; a name that was there before is replaced.
    ///
    /// # Errors
    /// Where a name is too long, or is a folder here and a file there.
    pub(super) fn create_file(&self, path: &str, owner: Option<u32>) -> io::Result<OwnedFd> {
        create_below(&self.box_dir, path, owner)
    }

    /// The same below `HOME`.
    ///
    /// # Errors
    /// As [`Self::create_file`].
    pub(super) fn create_home_file(&self, path: &str, owner: Option<u32>) -> io::Result<OwnedFd> {
        create_below(&self.temp_dir, path, owner)
    }

    /// Deletes everything. No process of the job may be left.
    ///
    /// # Errors
    /// Where something could not be deleted.
    pub(super) fn delete(&self) -> io::Result<()> {
        delete_tree(&self.root)
    }
}

fn create_below(top: &Path, path: &str, owner: Option<u32>) -> io::Result<OwnedFd> {
    let mut folder = openat(CWD, top, OPEN_DIR, Mode::empty())?;
    let mut names = Path::new(path).components().peekable();
    while let Some(name) = names.next() {
        let Component::Normal(name) = name else {
            return Err(Errno::INVAL.into());
        };
        if names.peek().is_none() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
            let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
            let file = openat(&folder, name, flags | OFlags::CLOEXEC, mode)?;
            give(&file, owner)?;
            return Ok(file);
        }
        match mkdirat(&folder, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        folder = openat(&folder, name, OPEN_DIR, Mode::empty())?;
        give(&folder, owner)?;
    }
    Err(Errno::INVAL.into())
}

/// Gives what has this name to a job's user.
///
/// # Errors
/// Where it is not this process's to give.
pub(super) fn give_path(path: &Path, owner: Option<u32>) -> io::Result<()> {
    if let Some(id) = owner {
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn give(fd: impl AsFd, owner: Option<u32>) -> io::Result<()> {
    if let Some(id) = owner {
        fchown(fd, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
    }
    Ok(())
}

/// Deletes a folder and all that is in it, without recursion and with few descriptors: a job can
/// make folders tens of thousands deep.
///
/// It follows no link. It goes up again by `..`, and sees to it that this is where it came from:
/// in a shared folder somebody may move what is being deleted.
///
/// # Errors
/// Where something could not be deleted; the rest is deleted all the same, as far as it goes.
pub(super) fn delete_tree(root: &Path) -> io::Result<()> {
    let mut here = match open_to_delete(CWD, &c_path(root)?) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // The folders on the way down: which one it is, the name of the next, and the names of those
    // beside it that are still to be deleted.
    let mut way: Vec<((u64, u64), CString, Vec<CString>)> = Vec::new();
    let mut folders = empty_of_files(&here)?;
    let mut failed = None;
    loop {
        if let Some(name) = folders.pop() {
            match open_to_delete(&here, &name).and_then(|dir| Ok((empty_of_files(&dir)?, dir))) {
                Ok((inner, dir)) => {
                    way.push((
                        identity(&here)?,
                        name,
                        std::mem::replace(&mut folders, inner),
                    ));
                    here = dir;
                }
                Err(error) => failed = Some(error),
            }
            continue;
        }
        let Some((parent, name, siblings)) = way.pop() else {
            break;
        };
        here = openat(&here, c"..", OPEN_DIR, Mode::empty())?;
        if identity(&here)? != parent {
            return Err(io::Error::other(
                "a folder was moved while it was being deleted",
            ));
        }
        folders = siblings;
        if let Err(error) = unlinkat(&here, &name, AtFlags::REMOVEDIR) {
            failed = Some(error.into());
        }
    }
    unlinkat(CWD, root, AtFlags::REMOVEDIR)?;
    failed.map_or(Ok(()), Err)
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
fn empty_of_files(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut folders = Vec::new();
    let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_folder = match entry.file_type() {
            FileType::Directory => true,
            FileType::Unknown => {
                let found = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(found.st_mode) == FileType::Directory
            }
            _ => false,
        };
        if is_folder {
            folders.push(name.to_owned());
        } else {
            unlinkat(dir, name, AtFlags::empty())?;
        }
    }
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_file_is_not_written_through_a_link_in_its_place() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "kept").unwrap();
        let workspace = Workspace::create(temp.path(), "job", None).unwrap();
        let link = |to: &Path, name: &str| {
            std::os::unix::fs::symlink(to, workspace.box_dir.join(name)).unwrap();
        };
        link(&outside.join("kept"), "file");
        link(&outside, "folder");
        assert!(workspace.create_file("file", None).is_err());
        assert!(workspace.create_file("folder/new", None).is_err());
        assert_eq!(std::fs::read(outside.join("kept")).unwrap(), b"kept");
        assert!(!outside.join("new").exists());
        // Which opening by name does.
        std::fs::write(workspace.box_dir.join("file"), "lost").unwrap();
        assert_eq!(std::fs::read(outside.join("kept")).unwrap(), b"lost");
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
}
