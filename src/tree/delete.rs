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
    let emptied = delete_contents(folder);
    unlinkat(CWD, root, AtFlags::REMOVEDIR)?;
    emptied
}

/// Deletes all that is in a folder, and leaves the folder itself.
///
/// # Errors
/// Where something could not be deleted; the rest is deleted all the same, as far as it goes.
pub fn delete_contents(folder: OwnedFd) -> io::Result<()> {
    let mut here = folder;
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
}
