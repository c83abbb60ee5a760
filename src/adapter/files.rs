//! The session's files: one store over one directory, which the programs of the session share.
//!
//! Those programs may be hostile: they plant links, FIFOs, folders without end, names that are not
//! UTF-8, and move everything about at any time. So a path is judged once ([`Names`]), then walked
//! by descriptors (`folder`); only regular files are read; a file is replaced by a rename
//! (`draft`); and nothing is done by recursion. Every function here blocks on the disk.

mod content;
mod disposition;
mod draft;
mod folder;
mod listing;
mod multipart;
mod name;

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, statat, unlinkat};
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use crate::data_dir::{self, LOST_AND_FOUND, RESERVED};
use crate::tree::{Next, OPEN_DIR, Undeleted, delete_contents};

pub use content::Content;
pub use disposition::Disposition;
pub use draft::{Draft, Sealed};
pub use listing::{Entry, Kind};
pub use multipart::{Multipart, Piece, boundary};
pub use name::{FilePath, FolderPath, Names};

/// Why something cannot be done with a file. Messages are meant for clients.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The name of the file, and what is wrong with it.
    #[error("The name of the file {0}.")]
    Name(&'static str),
    /// The folder, and what is wrong with it or with a name in it.
    #[error("A name in the path {0}.")]
    Path(&'static str),
    /// No such file or folder.
    #[error("There is no such file or folder in the session.")]
    NotFound,
    /// A folder is in the place of a file, or the other way round.
    #[error("Something else is in this place: a folder instead of a file, or the other way round.")]
    Conflict,
    /// The session was deleted while the file came in.
    #[error("The upload was ended: the session was deleted.")]
    Deleted,
    /// A program of the session has made it unreadable.
    #[error(
        "The file cannot be read or changed: a program of the session has closed it to others."
    )]
    Denied,
    /// The disk or the session's share of it is used up.
    #[error("There is no room left for the session's files.")]
    Full,
    /// The files do not fit into a request to the engine.
    #[error(
        "The session's files have {bytes} bytes, which is more than the {limit} bytes that can be \
         sent along with an execution."
    )]
    TooMuch {
        /// What there is.
        bytes: u64,
        /// What can be sent.
        limit: u64,
    },
    /// Some files of a session that was to be deleted are left.
    #[error("{}", left_behind(.0))]
    Undeleted(#[from] Undeleted),
    /// The disk.
    #[error("The session's files cannot be read or written.")]
    Disk(#[source] io::Error),
}

fn left_behind(undeleted: &Undeleted) -> String {
    let named: Vec<String> = undeleted
        .paths
        .iter()
        .map(|path| format!("'{path}'"))
        .collect();
    let named = named.join(", ");
    match undeleted.count - undeleted.paths.len() {
        0 => format!("These files or folders of the session could not be deleted: {named}."),
        more => format!(
            "These files or folders of the session could not be deleted: {named} and {more} more."
        ),
    }
}

/// Does what blocks on the disk, on a thread that may wait.
///
/// # Errors
/// Those of `work`; [`FileError::Disk`] where it came to no end.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(FileError::Disk(io::Error::other(error))))
}

impl FileError {
    /// What a failed change means: what stands in the way is not what it should be.
    fn of_write(error: Errno) -> Self {
        match error {
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::LOOP
            | Errno::EXIST
            | Errno::NOTEMPTY => Self::Conflict,
            other => other.into(),
        }
    }

    fn of_io(error: io::Error) -> Self {
        Errno::from_io_error(&error).map_or(Self::Disk(error), Self::of_write)
    }
}

impl From<Errno> for FileError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO => Self::NotFound,
            Errno::ISDIR => Self::Conflict,
            Errno::NAMETOOLONG => Self::Name("is too long"),
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Self::Full,
            other => Self::Disk(other.into()),
        }
    }
}

/// What the data directory may hold.
#[derive(Debug, Clone, Copy)]
pub struct FileLimits {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files and folders.
    pub entries: u64,
}

/// The session's files. Clones are the same store.
#[derive(Debug, Clone)]
pub struct FileStore {
    shared: Arc<Shared>,
    names: Names,
}

#[derive(Debug)]
struct Shared {
    root: OwnedFd,
    /// Whether the file system's own `lost+found` is in it.
    has_lost_and_found: bool,
    limits: FileLimits,
    /// Programs cannot make links to files that are not theirs to read and write.
    links_are_own: bool,
    /// As of when it is known to be empty.
    empty: Mutex<Option<Changed>>,
}

/// When a folder was last changed, in seconds and nanoseconds; programs cannot choose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Changed(i64, i64);

impl Changed {
    /// File systems tell times no finer than this.
    const COARSEST: i64 = 3;

    fn of(found: &Stat) -> Self {
        Self(found.st_ctime, found.st_ctime_nsec as i64)
    }

    /// Whether a change from now on is certain to be of a later time.
    fn is_settled(self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.ok().and_then(|now| i64::try_from(now.as_secs()).ok());
        now.is_some_and(|now| now > self.0 + Self::COARSEST)
    }
}

impl Shared {
    fn found_empty(&self) -> Option<Changed> {
        *self.empty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_empty(&self, changed: Changed) {
        *self.empty.lock().unwrap_or_else(PoisonError::into_inner) = Some(changed);
    }

    /// Another descriptor of the data directory.
    fn root(&self) -> Result<OwnedFd, FileError> {
        folder::open(&self.root, &FolderPath::default())
    }

    /// Bytes that may still be added, along with so many entries.
    fn room_for(&self, entries: u64) -> Result<u64, FileError> {
        let used = data_dir::used_space(self.root()?);
        if used.entries.saturating_add(entries) > self.limits.entries {
            return Err(FileError::Full);
        }
        let left = self.limits.bytes.checked_sub(used.bytes);
        left.ok_or(FileError::Full)
    }
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
            shared: Arc::new(Shared {
                has_lost_and_found: statat(&root, LOST_AND_FOUND, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok(),
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
        let opened = folder::open(&self.shared.root, folder)?;
        Ok(listing::list(opened, folder, recursive))
    }

    /// What is known of a file or folder.
    ///
    /// # Errors
    /// [`FileError::NotFound`], also for what is neither.
    pub fn entry(&self, path: &FilePath) -> Result<Entry, FileError> {
        let (_, found) = folder::look_up(&self.shared.root, path)?;
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
    /// [`FileError::NotFound`], also for what is no regular file; [`FileError::Denied`].
    pub fn read(&self, path: &FilePath) -> Result<Content, FileError> {
        Content::open(&self.shared, path)
    }

    /// Begins a file, which is there once it is sealed and committed.
    ///
    /// # Errors
    /// [`FileError::Full`].
    pub fn draft(&self, path: FilePath) -> Result<Draft, FileError> {
        Draft::new(Arc::clone(&self.shared), path)
    }

    /// Deletes a file, or a link or the like that a program has left under its name.
    ///
    /// # Errors
    /// [`FileError::NotFound`], and [`FileError::Conflict`] for a folder.
    pub fn delete(&self, path: &FilePath) -> Result<(), FileError> {
        let (folder, found) = folder::look_up(&self.shared.root, path)?;
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
        match openat(&root, RESERVED, OPEN_DIR, Mode::empty()) {
            Ok(reserved) => data_dir::delete_uploads(reserved)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                // A program has put something else in its place, or has just taken it away again.
                let _ = unlinkat(&root, RESERVED, AtFlags::empty());
            }
            Err(_) => {}
        }
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
    /// [`FileError::TooMuch`] where they have more than `limit` bytes together.
    pub fn for_execution(&self, limit: u64) -> Result<Vec<(String, Vec<u8>)>, FileError> {
        let mut total = 0;
        let mut files = Vec::new();
        listing::each_below(
            self.shared.root()?,
            &FolderPath::default(),
            |folder, entry| {
                if entry.kind == Kind::File {
                    total += entry.size;
                    if total > limit {
                        files.clear();
                    } else if let Some(bytes) = content::read_all(&self.shared, folder, &entry) {
                        files.push((entry.path(), bytes));
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
        files.sort();
        Ok(files)
    }
}

/// Whether an entry of the data directory itself is this program's and not the session's.
fn is_reserved(name: &CStr) -> bool {
    name.to_bytes() == RESERVED.as_bytes()
}

#[cfg(test)]
mod tests;
