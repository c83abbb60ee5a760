//! Measures how much disk space a directory takes up.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, Stat, openat, statvfs};
use rustix::io::Errno;

use super::{Next, OPEN_DIR, walk};

/// Disk usage in bytes and entries.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that the files take up on disk.
    pub bytes: u64,
    /// Number of files, directories and links.
    pub entries: u64,
}

impl Space {
    /// The usage of everything in a directory. If something is nested too deeply to be counted, the
    /// number of entries is `u64::MAX`, which exceeds every limit.
    pub fn of(folder: OwnedFd) -> Measurement {
        Self::of_some(folder, |_, _, _| true)
    }

    /// As [`Self::of`], but only of entries for which `counts` returns true. All directories are
    /// entered.
    pub fn of_some(
        folder: OwnedFd,
        mut counts: impl FnMut(&CStr, &Stat, usize) -> bool,
    ) -> Measurement {
        let mut counter = SpaceCounter::default();
        let missed = walk(folder, |_, name, found, depth| {
            if counts(name, found, depth) {
                counter.add(found);
            }
            Ok(Next::Enter)
        });
        let mut space = counter.space();
        if missed.as_ref().map_or(true, |missed| missed.too_deep) {
            space.entries = u64::MAX;
        }
        Measurement {
            space,
            is_complete: !missed.is_ok_and(|missed| missed.unreadable),
        }
    }
}

/// What was measured of a directory.
#[derive(Debug, Clone, Copy)]
pub struct Measurement {
    /// What this process can see.
    pub space: Space,
    /// Whether that is everything: no directory's mode kept this process out.
    pub is_complete: bool,
}

impl Measurement {
    /// Opens a directory, and measures it. Nothing, if it is not there.
    pub fn at(path: &Path, measure: impl FnOnce(OwnedFd) -> Self) -> Self {
        match openat(CWD, path, OPEN_DIR, Mode::empty()) {
            Ok(folder) => measure(folder),
            Err(error) => Self {
                space: Space::default(),
                is_complete: error != Errno::ACCESS,
            },
        }
    }
}

/// Adds up the entries of one measurement.
#[derive(Debug, Default)]
pub struct SpaceCounter {
    space: Space,
    /// Device and inode of the files with several hard links that were counted. Only those are
    /// remembered, so that other files cost nothing.
    linked: HashSet<(u64, u64)>,
}

impl SpaceCounter {
    /// Counts an entry. A file with several hard links takes up its whole size at the first of them, and
    /// nothing at the others: where the rest of its links are cannot be known, and dividing its size among
    /// them would let a program hide it behind links elsewhere.
    pub fn add(&mut self, found: &Stat) {
        self.space.entries = self.space.entries.saturating_add(1);
        let is_folder = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        let is_linked = !is_folder && found.st_nlink > 1;
        if is_linked && !self.linked.insert((found.st_dev, found.st_ino)) {
            return;
        }
        let blocks = u64::try_from(found.st_blocks).unwrap_or(0);
        let bytes = blocks.saturating_mul(512);
        self.space.bytes = self.space.bytes.saturating_add(bytes);
    }

    /// What was counted so far.
    pub fn space(&self) -> Space {
        self.space
    }
}

/// The usage of everything in a directory. Nothing, if it is not there.
pub fn in_folder(path: &Path) -> Measurement {
    Measurement::at(path, Space::of)
}

/// Bytes that are available on a directory's file system. `u64::MAX` if that is unknown.
pub fn free_bytes(path: &Path) -> u64 {
    statvfs(path).map_or(u64::MAX, |found| {
        found.f_bavail.saturating_mul(found.f_frsize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_entries_of_a_folder_are_counted() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("a")).unwrap();
        std::fs::write(temp.path().join("a/b"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(temp.path().join("a/b"), temp.path().join("c")).unwrap();
        let space = in_folder(temp.path()).space;
        assert_eq!(space.entries, 3);
        assert!((100_000..150_000).contains(&space.bytes), "{space:?}");
    }

    #[test]
    fn links_elsewhere_hide_nothing_of_a_file() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("counted")).unwrap();
        std::fs::create_dir(temp.path().join("elsewhere")).unwrap();
        let file = temp.path().join("counted/a");
        std::fs::write(&file, vec![1; 100_000]).unwrap();
        for name in ["b", "c", "d"] {
            std::fs::hard_link(&file, temp.path().join("elsewhere").join(name)).unwrap();
        }
        let space = in_folder(&temp.path().join("counted")).space;
        assert_eq!(space.entries, 1);
        assert!((100_000..150_000).contains(&space.bytes), "{space:?}");
    }

    #[test]
    fn files_without_further_links_are_not_remembered() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("folder")).unwrap();
        std::fs::write(temp.path().join("file"), "x").unwrap();
        let mut counter = SpaceCounter::default();
        for name in ["folder", "file"] {
            counter.add(&rustix::fs::lstat(temp.path().join(name)).unwrap());
        }
        assert_eq!(counter.space().entries, 2);
        assert!(counter.linked.is_empty());
    }

    #[test]
    fn what_is_too_deep_to_count_is_over_every_limit() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("d/".repeat(220))).unwrap();
        assert_eq!(in_folder(temp.path()).space.entries, u64::MAX);
    }
}
