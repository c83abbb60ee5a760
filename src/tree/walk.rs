//! Walks a directory tree by descriptors, so that no link leads out of it, and without recursion.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, openat, statat};
use rustix::io::Errno;

/// Directories deeper than this are not entered, because each level holds a descriptor.
pub const MAX_DEPTH: usize = 200;

/// Flags to open a directory that is not a link.
pub const OPEN_DIR: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::RDONLY);

/// What to do with an entry that was visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Enter it, if it is a directory.
    Enter,
    /// Do not enter it.
    Skip,
}

/// What a walk did not enter.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    /// Something was nested too deeply.
    pub too_deep: bool,
    /// A directory's mode keeps this process out.
    pub unreadable: bool,
}

/// Visits every entry below a directory, each directory before its contents. `visit` gets the parent,
/// the entry's name and metadata, and its depth, which is 0 for entries of `root`. Entries that vanish
/// meanwhile or cannot be read are skipped.
///
/// # Errors
/// Those of `visit`.
pub fn walk(
    root: OwnedFd,
    mut visit: impl FnMut(&OwnedFd, &CStr, &Stat, usize) -> io::Result<Next>,
) -> io::Result<Missed> {
    let mut missed = Missed::default();
    let mut names = entries(&root);
    let mut parents: Vec<(OwnedFd, Vec<CString>)> = Vec::new();
    let mut here = root;
    loop {
        let Some(name) = names.pop() else {
            let Some((parent, siblings)) = parents.pop() else {
                return Ok(missed);
            };
            here = parent;
            names = siblings;
            continue;
        };
        let Ok(found) = statat(&here, &name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        match visit(&here, &name, &found, parents.len())? {
            Next::Skip => continue,
            Next::Enter if FileType::from_raw_mode(found.st_mode) != FileType::Directory => {
                continue;
            }
            Next::Enter => {}
        }
        if parents.len() >= MAX_DEPTH {
            missed.too_deep = true;
            continue;
        }
        match openat(&here, &name, OPEN_DIR, Mode::empty()) {
            Ok(folder) => {
                let inner = entries(&folder);
                parents.push((
                    std::mem::replace(&mut here, folder),
                    std::mem::replace(&mut names, inner),
                ));
            }
            Err(Errno::ACCESS) => missed.unreadable = true,
            Err(_) => {}
        }
    }
}

fn entries(folder: &OwnedFd) -> Vec<CString> {
    let mut names = Vec::new();
    let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
    let mut found = RawDir::new(folder, &mut buffer);
    while let Some(Ok(entry)) = found.next() {
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;

    #[test]
    fn every_entry_is_visited_once_and_links_are_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("a/b")).unwrap();
        std::fs::write(temp.path().join("a/b/c"), "").unwrap();
        std::fs::write(temp.path().join("d"), "").unwrap();
        std::os::unix::fs::symlink("/", temp.path().join("a/link")).unwrap();
        let root = openat(CWD, temp.path(), OPEN_DIR, Mode::empty()).unwrap();
        let mut seen = Vec::new();
        let missed = walk(root, |_, name, _, _| {
            seen.push(name.to_str().unwrap().to_owned());
            Ok(Next::Enter)
        });
        seen.sort();
        assert_eq!(missed.unwrap(), Missed::default());
        assert_eq!(seen, ["a", "b", "c", "d", "link"]);
    }
}
