//! What a job's user owns on disk: measured while the job runs, deleted or handed over afterwards.
//!
//! Other jobs may be changing the same directories meanwhile. Entries are therefore handled by
//! descriptor, and the owner is checked on the descriptor that is acted on.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, chmod, chownat, fchmod, fchown, fstat, openat,
    unlinkat,
};
use rustix::process::{Gid, Uid};

use crate::tree::{MAX_DEPTH, Next, OPEN_DIR, Space, SpaceCounter, delete_tree, walk};

use super::files::SHARED_DIRS;
use super::slots::UID_RANGE;

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OPEN_DIR, Mode::empty())?)
}

/// The space that a user's files take up in the shared directories.
pub(super) fn shared_of(uid: u32) -> Space {
    let mut counter = SpaceCounter::default();
    for_each_of(uid, |_, _, found| {
        counter.add(found);
        Ok(Next::Enter)
    });
    counter.space()
}

/// Deletes a user's files in the shared directories.
///
/// # Errors
/// If something could not be deleted; the rest is deleted all the same.
pub(super) fn sweep(uid: u32) -> io::Result<()> {
    let mut failed = None;
    for_each_of(uid, |folder, name, found| {
        let deleted = match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => delete_tree(&path_of(folder, name)),
            _ => unlinkat(folder, name, AtFlags::empty()).map_err(Into::into),
        };
        failed = deleted.err().or(failed.take());
        Ok(Next::Skip)
    });
    failed.map_or(Ok(()), Err)
}

/// Visits a user's entries in the shared directories, and in directories below that everybody may
/// write to.
fn for_each_of(uid: u32, mut visit: impl FnMut(&OwnedFd, &CStr, &Stat) -> io::Result<Next>) {
    for shared in SHARED_DIRS {
        let Ok(root) = open(Path::new(shared)) else {
            continue;
        };
        let _ = walk(root, |folder, name, found, _| {
            if found.st_uid == uid {
                visit(folder, name, found)
            } else if found.st_mode & 0o002 != 0 {
                Ok(Next::Enter)
            } else {
                Ok(Next::Skip)
            }
        });
    }
}

fn path_of(folder: &OwnedFd, name: &CStr) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

/// Makes the data directory writable for the jobs' users through a common group. Without the sticky
/// bit, each of them can delete what another left. What an earlier engine's users own in it, which may
/// have been others, becomes the service's.
///
/// # Errors
/// If the directory does not exist or this process may not change it.
pub(super) fn open_to_group(data_dir: &Path, group: u32) -> io::Result<()> {
    let folder = open(data_dir)?;
    let mode = Mode::from_raw_mode(fstat(&folder)?.st_mode);
    fchown(&folder, None, Some(Gid::from_raw(group)))?;
    fchmod(&folder, (mode | Mode::RWXG | Mode::SGID) - Mode::SVTX)?;
    hand_over_of(
        data_dir,
        |uid| uid != group && UID_RANGE.contains(&uid),
        group,
    )
}

/// Gives what a job's user left in the data directory to the service's user and group, and makes it
/// readable and writable for them, whatever mode the job gave it.
///
/// Other jobs may be using the directory: each entry is opened, its owner checked on the descriptor,
/// and only then changed. Directories nested too deeply to be entered are deleted.
///
/// # Errors
/// If the data directory cannot be opened, or an owner or mode cannot be changed.
pub(super) fn hand_over(data_dir: &Path, from: u32, to: u32) -> io::Result<()> {
    match hand_over_of(data_dir, |uid| uid == from, to) {
        // With the data directory its files are gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn hand_over_of(data_dir: &Path, is_from: impl Fn(u32) -> bool, to: u32) -> io::Result<()> {
    walk(open(data_dir)?, |folder, name, found, depth| {
        if !is_from(found.st_uid) {
            return Ok(Next::Enter);
        }
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind == FileType::Directory && depth >= MAX_DEPTH {
            // Nobody could reach its contents. If another job moves it meanwhile, it stays.
            let _ = delete_tree(&path_of(folder, name));
            return Ok(Next::Skip);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(held) = openat(folder, name, flags, Mode::empty()) else {
            return Ok(Next::Skip);
        };
        let found = fstat(&held)?;
        if !is_from(found.st_uid) {
            return Ok(Next::Skip);
        }
        let owner = (Uid::from_raw(to), Gid::from_raw(to));
        chownat(
            &held,
            c"",
            Some(owner.0),
            Some(owner.1),
            AtFlags::EMPTY_PATH,
        )?;
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind != FileType::Symlink {
            let rights =
                Mode::from_raw_mode(found.st_mode) & (Mode::RWXU | Mode::RWXG | Mode::RWXO);
            let more = match kind {
                FileType::Directory => Mode::RWXU | Mode::RWXG | Mode::SGID,
                _ => Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP,
            };
            chmod(format!("/proc/self/fd/{}", held.as_raw_fd()), rights | more)?;
        }
        Ok(Next::Enter)
    })?;
    Ok(())
}
