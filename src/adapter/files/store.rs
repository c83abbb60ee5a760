//! The store: what can be done with the session's files.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, openat, unlinkat};

use crate::adapter::files::content::{self, Content};
use crate::adapter::files::error::FileError;
use crate::adapter::files::folder;
use crate::adapter::files::listing::{self, Entry, EntryKind};
use crate::adapter::files::name::{FilePath, FolderPath, Names};
use crate::adapter::files::root::{Changed, DataRoot, FileLimits};
use crate::adapter::files::upload::PendingUpload;
use crate::data_dir::{self, LOST_AND_FOUND, is_reserved, open_reserved};
use crate::tree::{Next, delete_contents};

/// The session's files. Clones are the same store.
#[derive(Debug, Clone)]
pub struct FileStore {
    pub(super) shared: Arc<DataRoot>,
    names: Names,
}

impl FileStore {
    /// Opens the store over a directory, which is the session's alone.
    ///
    /// # Errors
    /// Where the directory cannot be opened.
    pub fn open(data_dir: &Path, limits: FileLimits) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, data_dir, flags, Mode::empty())?;
        let protected = std::fs::read_to_string("/proc/sys/fs/protected_hardlinks");
        Ok(Self {
            names: Names::new(&data_dir.to_string_lossy()),
            shared: Arc::new(DataRoot {
                has_lost_and_found: data_dir::is_lost_and_found(&root),
                root,
                limits,
                links_are_own: protected.is_ok_and(|text| text.trim() == "1"),
                empty: Mutex::default(),
            }),
        })
    }

    /// What reads the paths that clients write.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The entries of a folder, or of all folders in it too, by folder and name.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::Denied`].
    pub fn list(&self, folder: &FolderPath, recursive: bool) -> Result<Vec<Entry>, FileError> {
        let opened = folder::open(self.shared.folder(), folder)?;
        Ok(listing::list(opened, folder, recursive))
    }

    /// What is known of a file or folder.
    ///
    /// # Errors
    /// [`FileError::NotFound`], also for what is neither.
    pub fn entry(&self, path: &FilePath) -> Result<Entry, FileError> {
        let (_, found) = folder::look_up(self.shared.folder(), path)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile | FileType::Directory => {
                Ok(Entry::new(path.name.as_str(), "", &found))
            }
            _ => Err(FileError::NotFound),
        }
    }

    /// Opens a file to read it. It stays as it is for the reader, even where it is replaced.
    ///
    /// # Errors
    /// [`FileError::NotFound`], also for what is no regular file; [`FileError::Denied`];
    /// [`FileError::InUse`].
    pub fn read(&self, path: &FilePath) -> Result<Content, FileError> {
        Content::open(&self.shared, path)
    }

    /// Begins a file, which is there once it is staged and committed.
    ///
    /// # Errors
    /// [`FileError::Full`].
    pub fn begin_upload(&self, path: FilePath) -> Result<PendingUpload, FileError> {
        PendingUpload::new(Arc::clone(&self.shared), path)
    }

    /// Deletes a file, or a link or the like that a program has left under its name.
    ///
    /// # Errors
    /// [`FileError::NotFound`], and [`FileError::Conflict`] for a folder.
    pub fn delete(&self, path: &FilePath) -> Result<(), FileError> {
        let (folder, found) = folder::look_up(self.shared.folder(), path)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return Err(FileError::Conflict);
        }
        Ok(unlinkat(folder, path.name.as_str(), AtFlags::empty())?)
    }

    /// Deletes all files of the session, those of uploads under way included.
    ///
    /// # Errors
    /// [`FileError::Undeleted`] names what could not be deleted; the rest is deleted all the same.
    pub fn clear(&self) -> Result<(), FileError> {
        let root = self.shared.root()?;
        let reserved = open_reserved(&root).map_err(FileError::of_io)?;
        data_dir::delete_uploads(reserved)?;
        let has_lost_and_found = self.shared.has_lost_and_found;
        Ok(delete_contents(root, |name| {
            is_reserved(name)
                || (has_lost_and_found && name.to_bytes() == LOST_AND_FOUND.as_bytes())
        })?)
    }

    /// Whether the session has no files, as far as that can be seen.
    pub fn is_empty(&self) -> bool {
        let Ok(changed) = fstat(&self.shared.root).map(|found| Changed::of(&found)) else {
            return true;
        };
        if self.shared.found_empty() == Some(changed) {
            return true;
        }
        let is_settled = changed.is_settled();
        let root = self.shared.root();
        let is_empty = root
            .and_then(|root| folder::is_empty(&root, is_reserved))
            .unwrap_or(true);
        if is_empty && is_settled {
            self.shared.remember_empty(changed);
        }
        is_empty
    }

    /// All regular files with names in UTF-8, as paths and bytes, for an engine that does not share
    /// the data directory.
    ///
    /// # Errors
    /// [`FileError::TooMuch`] where they have more than `limit` bytes together, [`FileError::InUse`].
    pub fn for_execution(&self, limit: u64) -> Result<Vec<(String, Vec<u8>)>, FileError> {
        let mut total = 0;
        let mut files = Vec::new();
        let mut failed = None;
        listing::each_below(
            self.shared.root()?,
            &FolderPath::default(),
            |folder, entry| {
                if entry.kind == EntryKind::File {
                    total += entry.size;
                    if total > limit {
                        files.clear();
                        return Ok(Next::Enter);
                    }
                    match content::read_all(&self.shared, folder, &entry) {
                        Ok(Some(bytes)) => files.push((entry.path(), bytes)),
                        Ok(None) => {}
                        Err(error) => failed = Some(error),
                    }
                }
                Ok(Next::Enter)
            },
        )
        .map_err(FileError::of_io)?;
        if total > limit {
            return Err(FileError::TooMuch {
                bytes: total,
                limit,
            });
        }
        if let Some(error) = failed {
            return Err(error);
        }
        files.sort();
        Ok(files)
    }
}
