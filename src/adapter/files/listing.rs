//! What is in the data directory, as far as clients may see it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Stat};

use crate::adapter::files::name::{FolderPath, MAX_DEPTH};
use crate::adapter::model::timestamp::Timestamp;
use crate::data_dir::is_reserved;
use crate::tree::{Next, walk};

/// Entries of a list; the first in its order are kept.
pub const MAX_ENTRIES: usize = 10_000;
/// Bytes of all names and folders in a list.
const MAX_NAME_BYTES: usize = 4 << 20;
/// Entries that are looked at for one list.
const MAX_VISITED: usize = 200_000;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Folder,
}

/// One file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// The folder in which it is, seen from the one that was asked about; empty for that itself.
    pub folder: String,
    pub kind: EntryKind,
    /// Bytes of a file.
    pub size: u64,
    /// When it was last written.
    pub modified: Timestamp,
}

impl Entry {
    pub(super) fn new(name: &str, folder: &str, found: &Stat) -> Self {
        Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            kind: match FileType::from_raw_mode(found.st_mode) {
                FileType::Directory => EntryKind::Folder,
                _ => EntryKind::File,
            },
            size: u64::try_from(found.st_size).unwrap_or(0),
            modified: Timestamp::modified(found),
        }
    }

    /// The path of the entry, seen from the folder that was asked about.
    pub fn path(&self) -> String {
        if self.folder.is_empty() {
            self.name.clone()
        } else {
            format!("{}/{}", self.folder, self.name)
        }
    }
}

/// The entries of a folder, by folder and name: regular files and folders, with names in UTF-8.
///
/// What vanishes meanwhile or may not be read is passed over.
pub fn list(folder: OwnedFd, path: &FolderPath, recursive: bool) -> Vec<Entry> {
    let mut found: BTreeMap<(String, String), Entry> = BTreeMap::new();
    let mut bytes = 0;
    let mut visited = 0;
    // An error is only how the visits end early.
    let _ = each_below(folder, path, |_, entry| {
        visited += 1;
        if visited > MAX_VISITED {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        bytes += entry.name.len() + entry.folder.len();
        found.insert((entry.folder.clone(), entry.name.clone()), entry);
        while found.len() > MAX_ENTRIES || bytes > MAX_NAME_BYTES {
            match found.pop_last() {
                Some((_, last)) => bytes -= last.name.len() + last.folder.len(),
                None => break,
            }
        }
        Ok(if recursive { Next::Enter } else { Next::Skip })
    });
    found.into_values().collect()
}

/// Visits every entry below a folder of this path that clients may see.
///
/// # Errors
/// Those of `visit`, which gets the entry and the folder in which it is.
pub fn each_below(
    folder: OwnedFd,
    path: &FolderPath,
    mut visit: impl FnMut(&OwnedFd, Entry) -> io::Result<Next>,
) -> io::Result<()> {
    let is_data_dir = path.names().is_empty();
    let mut above: Vec<String> = Vec::new();
    walk(folder, |folder, name, found, depth| {
        above.truncate(depth);
        let kind = FileType::from_raw_mode(found.st_mode);
        let is_seen = matches!(kind, FileType::RegularFile | FileType::Directory)
            && !(is_data_dir && depth == 0 && is_reserved(name));
        let Ok(name) = name.to_str() else {
            return Ok(Next::Skip);
        };
        if !is_seen || depth > MAX_DEPTH {
            return Ok(Next::Skip);
        }
        let entry = Entry::new(name, &above.join("/"), found);
        above.push(name.to_owned());
        visit(folder, entry)
    })
    .map(drop)
}
