//! A job's directory: creates it, writes files into it and deletes it, whatever the job has done to
//! it.
//!
//! Everything is opened relative to a descriptor and without following links, because code of the job
//! may have replaced any entry between two steps.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, chownat, fchmod, fchown, mkdirat, openat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::slots::JobIds;
use crate::tree::{OPEN_DIR, delete_tree};

/// The paths of one job's directories.
#[derive(Debug, Clone)]
pub(super) struct Workspace {
    /// The parent of the others.
    pub(super) root: PathBuf,
    /// Where the request's files are and the program starts.
    pub(super) box_dir: PathBuf,
    /// `HOME` and `TMPDIR`.
    pub(super) temp_dir: PathBuf,
    /// What the job sees as `/tmp` and `/var/tmp`, where it has namespaces.
    pub(super) private_temp_dirs: [PathBuf; 2],
}

/// Name of [`Workspace::box_dir`] below the root.
pub(super) const BOX: &str = "box";

impl Workspace {
    /// The paths for a job of this name, whether they exist or not.
    pub(super) fn of(work: &Path, name: impl AsRef<Path>) -> Self {
        let root = work.join(name);
        Self {
            box_dir: root.join(BOX),
            temp_dir: root.join("tmp"),
            private_temp_dirs: ["private-tmp", "private-var-tmp"].map(|name| root.join(name)),
            root,
        }
    }

    /// Creates empty directories that belong to `owner`. The root stays this process's, and admits the
    /// group of `owner` alone: other jobs may have the same user.
    ///
    /// # Errors
    /// If the disk is full or permissions are missing.
    pub(super) fn create(work: &Path, name: &str, owner: Option<JobIds>) -> io::Result<Self> {
        let this = Self::of(work, name);
        mkdirat(CWD, &this.root, Mode::RWXU)?;
        create_for(&[&this.box_dir, &this.temp_dir], owner)?;
        if let Some(ids) = owner {
            let root = openat(CWD, &this.root, OPEN_DIR, Mode::empty())?;
            fchown(&root, None, Some(Gid::from_raw(ids.gid)))?;
            fchmod(&root, Mode::RWXU | Mode::XGRP)?;
        }
        Ok(this)
    }

    /// Creates the directories that a job with namespaces sees in place of the shared ones.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(super) fn create_private_temp_dirs(&self, owner: Option<JobIds>) -> io::Result<()> {
        let [temp, var_temp] = &self.private_temp_dirs;
        create_for(&[temp, var_temp], owner)?;
        for folder in &self.private_temp_dirs {
            // As programs expect it, though nobody else can come here.
            let everybody = Mode::RWXU | Mode::RWXG | Mode::RWXO | Mode::SVTX;
            rustix::fs::chmod(folder, everybody)?;
        }
        Ok(())
    }

    /// Opens a file of this job for writing, and creates the directories above it. The caller has
    /// checked that `path` has no `.`, `..` or empty components. An existing file is truncated.
    ///
    /// The error stays an [`io::Error`], by whose code the caller tells unusable names from a machine
    /// that has failed.
    ///
    /// # Errors
    /// If a name is too long, or is used for a file and for a directory.
    pub(super) fn create_file(&self, path: &str, owner: Option<JobIds>) -> io::Result<OwnedFd> {
        create_below(&self.box_dir, path, owner)
    }

    /// Creates files below `HOME`, as [`Self::create_file`] does, with these contents.
    ///
    /// # Errors
    /// As [`Self::create_file`].
    pub(super) fn create_home_files(
        &self,
        files: &[(String, String)],
        owner: Option<JobIds>,
    ) -> io::Result<()> {
        for (path, content) in files {
            let file = create_below(&self.temp_dir, path, owner)?;
            std::fs::File::from(file).write_all(content.as_bytes())?;
        }
        Ok(())
    }

    /// Deletes everything. No process of the job may be running.
    ///
    /// # Errors
    /// If something could not be deleted.
    pub(super) fn delete(&self) -> io::Result<()> {
        delete_tree(&self.root)
    }
}

fn create_for(folders: &[&PathBuf], owner: Option<JobIds>) -> io::Result<()> {
    for folder in folders {
        mkdirat(CWD, *folder, Mode::RWXU)?;
        if let Some(ids) = owner {
            chown_path(folder, ids)?;
        }
    }
    Ok(())
}

fn create_below(top: &Path, path: &str, owner: Option<JobIds>) -> io::Result<OwnedFd> {
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

/// Changes the owner of a path to the user of a job.
///
/// # Errors
/// If this process may not change owners.
pub(super) fn chown_path(path: &Path, owner: JobIds) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(chownat(CWD, path, Some(uid), Some(gid), flags)?)
}

/// Changes the owner of an open file to the user of a job, if jobs have users of their own.
///
/// # Errors
/// If this process may not change owners.
pub(super) fn give(fd: impl AsFd, owner: Option<JobIds>) -> io::Result<()> {
    if let Some(ids) = owner {
        let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
        fchown(fd, Some(uid), Some(gid))?;
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
        // Control: opening by name does follow the link.
        std::fs::write(workspace.box_dir.join("file"), "lost").unwrap();
        assert_eq!(std::fs::read(outside.join("kept")).unwrap(), b"lost");
    }
}
