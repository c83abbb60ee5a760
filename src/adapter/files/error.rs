//! What can go wrong with a file of the session.

use std::io;

use rustix::io::Errno;
use tokio::task::spawn_blocking;

use crate::tree::Undeleted;

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
    /// A program of the session holds a lease on the file.
    #[error("The file is in use: a program of the session holds a lease on it. Try again later.")]
    InUse,
    /// The disk or the session's share of it is used up.
    #[error("There is no room left for the session's files.")]
    Full,
    /// The files do not fit into a request to the engine.
    #[error(
        "The session's files have {bytes} bytes, which is more than the {limit} bytes that can be \
         sent along with an execution."
    )]
    TooMuch {
        bytes: u64,
        /// What can be sent.
        limit: u64,
    },
    /// Some files of a session that was to be deleted are left.
    #[error("{}", left_behind(.0))]
    Undeleted(#[from] Undeleted),
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
    pub(super) fn of_write(error: Errno) -> Self {
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

    pub(super) fn of_io(error: io::Error) -> Self {
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
            // Nothing but a lease makes an open with O_NONBLOCK fail so.
            Errno::WOULDBLOCK => Self::InUse,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Self::Full,
            other => Self::Disk(other.into()),
        }
    }
}
