//! A job's directory: made, filled, and deleted whatever the job has made of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, chownat, fchown, mkdirat, openat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::tree::{OPEN_DIR, delete_tree};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
