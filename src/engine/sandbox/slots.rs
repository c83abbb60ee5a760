//! Job slots, and the user ids that belong to them where this process may give them out.
//!
//! A job's processes are found and killed by their user id, so that two engines on one machine
//! must never use the same ones: each takes a block of ids and holds a lock on it for as long as
//! the spawner, or a keeper of its, lives.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The first id that is given out, and the one behind the last.
const IDS: Range<u32> = 30_720..59_392;
/// Ids in a block, and so the most slots that an engine can have.
const BLOCK: u32 = 512;
/// Folders that may hold the locks, the first that works is used by every engine on the machine.
const LOCK_FOLDERS: [&str; 3] = [
    "/run/session-adapter",
    "/var/lib/session-adapter",
    "/tmp/.session-adapter-slots",
];

/// One place for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    /// Counts from 0.
    pub(super) number: usize,
    /// User and group id of its jobs, where there are such.
    pub(super) uid: Option<u32>,
}

/// The slots that are free.
#[derive(Debug)]
pub(super) struct Slots {
    free: Vec<Slot>,
    /// An id of the block that no job gets.
    pub(super) service: Option<u32>,
    _lock: Option<File>,
}

impl Slots {
    /// Slots whose jobs run as this process's own user.
    pub(super) fn sharing_one_uid(count: usize) -> Self {
        Self {
            free: (0..count)
                .rev()
                .map(|number| Slot { number, uid: None })
                .collect(),
            service: None,
            _lock: None,
        }
    }

    /// Slots with an id each, from a block of ids that no other engine uses.
    ///
    /// # Errors
    /// Where no folder can hold the locks, or every block is taken.
    pub(super) fn with_own_uids(count: usize) -> io::Result<Self> {
        let count = count.min(BLOCK as usize - 1);
        let folder = lock_folder()?;
        let used = ids_in_use();
        for block in blocks(rustix::system::uname().nodename().to_bytes()) {
            if used.iter().any(|id| block.contains(id)) {
                continue;
            }
            if let Some(lock) = lock_block(&folder, &block)? {
                let free = (0..count)
                    .rev()
                    .map(|number| Slot {
                        number,
                        uid: u32::try_from(number).ok().map(|n| block.start + n),
                    })
                    .collect();
                return Ok(Self {
                    free,
                    service: Some(block.end - 1),
                    _lock: Some(lock),
                });
            }
        }
        Err(io::Error::other("every block of user ids is taken"))
    }

    /// A free slot.
    pub(super) fn take(&mut self) -> Option<Slot> {
        self.free.pop()
    }

    /// Whether there is a free slot.
    pub(super) fn any_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Gives a slot back, behind the others: an id rests as long as it can.
    pub(super) fn give_back(&mut self, slot: Slot) {
        self.free.insert(0, slot);
    }
}

/// The blocks in the order in which they are tried. Containers do not see each other's locks, but
/// the kernel counts a user's processes across them: each begins elsewhere, by its host's name, and
/// always there, so that its files stay its own when it starts again.
fn blocks(host: &[u8]) -> impl Iterator<Item = Range<u32>> {
    let mut hasher = DefaultHasher::new();
    host.hash(&mut hasher);
    let count = IDS.len() / BLOCK as usize;
    let skipped = usize::try_from(hasher.finish() % count as u64).unwrap_or(0);
    IDS.step_by(BLOCK as usize)
        .cycle()
        .skip(skipped)
        .take(count)
        .map(|first| first..first + BLOCK)
}

fn lock_folder() -> io::Result<PathBuf> {
    let mut last = io::Error::other("no folder for locks");
    for folder in LOCK_FOLDERS.map(Path::new) {
        match std::fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                last = error;
                continue;
            }
            _ => {}
        }
        let found = std::fs::symlink_metadata(folder)?;
        if found.is_dir() && found.uid() == 0 && found.mode() & 0o077 == 0 {
            return Ok(folder.to_path_buf());
        }
        last = io::Error::other(format!("{} is not root's alone", folder.display()));
    }
    Err(last)
}

fn lock_block(folder: &Path, block: &Range<u32>) -> io::Result<Option<File>> {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(folder.join(format!("{}.lock", block.start)))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Ids that are somebody else's: in the list of users, or of a process.
fn ids_in_use() -> HashSet<u32> {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut ids: HashSet<u32> = users
        .lines()
        .filter_map(|line| line.split(':').nth(2)?.parse().ok())
        .collect();
    if let Ok(processes) = std::fs::read_dir("/proc") {
        ids.extend(
            processes
                .flatten()
                .filter_map(|p| Some(p.metadata().ok()?.uid())),
        );
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_begin_elsewhere_and_try_every_block_once() {
        let order =
            |host: &str| -> Vec<u32> { blocks(host.as_bytes()).map(|block| block.start).collect() };
        let (one, other) = (order("one"), order("other"));
        assert_ne!(one[0], other[0]);
        assert_eq!(one, order("one"));
        let all: HashSet<u32> = one.iter().copied().collect();
        assert_eq!(all.len(), IDS.len() / BLOCK as usize);
        assert!(one.iter().all(|first| first + BLOCK <= IDS.end));
    }
}
