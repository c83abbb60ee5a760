//! How much is in a folder.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, Stat, openat, statvfs};

use super::{Next, OPEN_DIR, walk};

/// Bytes and entries.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What the files take up on disk.
    pub bytes: u64,
    /// Files, folders, links.
    pub entries: u64,
}

impl Space {
    /// What is in a folder. What is nested too deep to be counted is as good as without end.
    pub fn of(folder: OwnedFd) -> Self {
        Self::of_some(folder, |_, _, _| true)
    }

    /// The same for those entries that count, by their name and depth; all are entered.
    pub fn of_some(folder: OwnedFd, mut counts: impl FnMut(&CStr, &Stat, usize) -> bool) -> Self {
        let mut space = Self::default();
        let complete = walk(folder, |_, name, found, depth| {
            if counts(name, found, depth) {
                space.add(found);
            }
            Ok(Next::Enter)
        });
        if !matches!(complete, Ok(true)) {
            space.entries = u64::MAX;
        }
        space
    }

    /// Counts one entry.
    pub fn add(&mut self, found: &Stat) {
        let blocks = u64::try_from(found.st_blocks).unwrap_or(0);
        // A file with several names is there once.
        let names = u64::from(u32::try_from(found.st_nlink).unwrap_or(u32::MAX)).max(1);
        let is_folder = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        let share = if is_folder { 1 } else { names };
        self.bytes = self
            .bytes
            .saturating_add(blocks.saturating_mul(512) / share);
        self.entries = self.entries.saturating_add(1);
    }
}

/// What is in a folder, none where it cannot be opened.
pub fn in_folder(path: &Path) -> Space {
    openat(CWD, path, OPEN_DIR, Mode::empty()).map_or_else(|_| Space::default(), Space::of)
}

/// Bytes that are free on the file system of a folder.
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
        let space = in_folder(temp.path());
        assert_eq!(space.entries, 3);
        assert!((100_000..150_000).contains(&space.bytes), "{space:?}");
    }

    #[test]
    fn what_is_too_deep_to_count_is_over_every_limit() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("d/".repeat(220))).unwrap();
        assert_eq!(in_folder(temp.path()).entries, u64::MAX);
    }
}
