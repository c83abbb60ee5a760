//! Measures how much disk space a directory takes up.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, Stat, openat, statvfs};

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
    pub fn of(folder: OwnedFd) -> Self {
        Self::of_some(folder, |_, _, _| true)
    }

    /// As [`Self::of`], but only of entries for which `counts` returns true. All directories are
    /// entered.
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

    pub fn add(&mut self, found: &Stat) {
        let blocks = u64::try_from(found.st_blocks).unwrap_or(0);
        // A file with several hard links is stored once.
        let names = u64::from(u32::try_from(found.st_nlink).unwrap_or(u32::MAX)).max(1);
        let is_folder = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        let share = if is_folder { 1 } else { names };
        self.bytes = self
            .bytes
            .saturating_add(blocks.saturating_mul(512) / share);
        self.entries = self.entries.saturating_add(1);
    }
}

/// The usage of everything in a directory. None if it cannot be opened.
pub fn in_folder(path: &Path) -> Space {
    openat(CWD, path, OPEN_DIR, Mode::empty()).map_or_else(|_| Space::default(), Space::of)
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
