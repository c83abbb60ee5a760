//! The session's files: one store over one directory, which the programs of the session share.
//!
//! Those programs may be hostile: they plant links, FIFOs, folders without end, names that are not
//! UTF-8, and move everything about at any time. So a path is judged once ([`Names`]), then walked
//! by descriptors (`folder`); only regular files are read; a file is replaced by a rename
//! (`draft`); and nothing is done by recursion. Every function here blocks on the disk.

mod content;
mod disposition;
mod draft;
mod error;
mod folder;
mod listing;
mod multipart;
mod name;
mod root;
mod store;

pub use content::Content;
pub use disposition::Disposition;
pub use draft::{Draft, Sealed};
pub use error::{FileError, blocking};
pub use listing::{Entry, Kind};
pub use multipart::{Multipart, Piece, boundary};
pub use name::{FilePath, FolderPath, Names};
pub use root::FileLimits;
pub use store::FileStore;

#[cfg(test)]
mod tests;
