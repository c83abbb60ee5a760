//! The session's files: one store over one directory, which the programs of the session share.
//!
//! Those programs may be hostile: they plant links, FIFOs, folders without end, names that are not
//! UTF-8, and move everything about at any time. So a path is judged once ([`Names`]), then walked
//! by descriptors (`folder`); only regular files are read; a file is replaced by a rename
//! (`upload`); and nothing is done by recursion. Every function here blocks on the disk.

mod content;
mod error;
mod folder;
mod listing;
mod name;
mod root;
mod store;
mod transfers;
mod upload;

pub use crate::adapter::files::content::Content;
pub use crate::adapter::files::error::{FileError, blocking};
pub use crate::adapter::files::listing::{Entry, EntryKind};
pub use crate::adapter::files::name::{FilePath, FolderPath, Names};
pub use crate::adapter::files::root::FileLimits;
pub use crate::adapter::files::store::FileStore;
pub use crate::adapter::files::transfers::Transfers;
pub use crate::adapter::files::upload::{PendingUpload, StagedFile};

#[cfg(test)]
mod tests;
