//! Job slots, and user and group ids for each if this process may change users.
//!
//! Processes and files of jobs are told apart by these ids, so two engines on one machine must never
//! use the same. Each engine takes a block of ids and holds a lock on it for as long as its
//! spawner or one of its keepers lives.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::protocol::JobUser;

/// All ids that engines may use, divided into blocks.
pub(super) const UID_RANGE: Range<u32> = 30_720..59_392;
const UIDS_PER_BLOCK: u32 = 512;
/// Ids at the end of a block that no slot has: the session's and the service's.
const RESERVED_IDS: u32 = 2;
/// Where the locks may be. Every engine on the machine finds the same first one that works.
const LOCK_DIRS: [&str; 3] = [
    "/run/session-adapter",
    "/var/lib/session-adapter",
    "/tmp/.session-adapter-slots",
];

/// Why no block of user ids could be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum SlotsError {
    #[error("cannot create {}: {source}", .path.display())]
    CreateLockDir {
        path: &'static Path,
        #[source]
        source: io::Error,
    },
    #[error("{} is not root's alone", .0.display())]
    SharedLockDir(&'static Path),
    #[error("cannot look at {}: {source}", .path.display())]
    InspectLockDir {
        path: &'static Path,
        #[source]
        source: io::Error,
    },
    #[error("cannot lock a block of user ids in {}: {source}", .dir.display())]
    Lock {
        dir: &'static Path,
        #[source]
        source: io::Error,
    },
    #[error("every block of user ids is taken")]
    AllBlocksTaken,
}

/// A slot for one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    /// Counts from 0.
    pub(super) number: usize,
    /// As whom the job runs, if jobs have users of their own.
    pub(super) ids: Option<JobIds>,
}

/// User and group of a job.
///
/// No two jobs that run at the same time have the same group. It keeps jobs of the session's user apart: the
/// kernel lets a process inspect another only if both ids are the same, and a job's directory admits its
/// group alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct JobIds {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Whether no other job has this user, so that everything of the user's is this job's.
    pub(super) is_sole_user: bool,
}

/// The ids that an engine has for as long as it runs.
#[derive(Debug, Clone)]
pub(super) struct Block {
    /// Users and groups of the slots.
    slots: Range<u32>,
    /// The user who owns the session's files, and runs kernels, shell commands and one program at a time.
    pub(super) session: u32,
    /// User and group of the engine's own process. Every job is in this group, which shares the data
    /// directory.
    pub(super) service: u32,
}

impl Block {
    fn new(ids: &Range<u32>) -> Self {
        Self {
            slots: ids.start..ids.end - RESERVED_IDS,
            session: ids.end - 2,
            service: ids.end - 1,
        }
    }

    /// Whether this user, or group, is that of one slot.
    pub(super) fn is_of_slot(&self, id: u32) -> bool {
        self.slots.contains(&id)
    }

    fn ids(&self, number: usize, user: JobUser) -> Option<JobIds> {
        let own = self.slots.start + u32::try_from(number).ok()?;
        Some(match user {
            JobUser::Session => JobIds {
                uid: self.session,
                gid: own,
                is_sole_user: false,
            },
            JobUser::Own => JobIds {
                uid: own,
                gid: own,
                is_sole_user: true,
            },
        })
    }
}

#[derive(Debug)]
pub(super) struct Slots {
    free: Vec<usize>,
    /// `None` if jobs have the user of this process.
    pub(super) block: Option<Block>,
    _lock: Option<File>,
}

impl Slots {
    /// Slots whose jobs run as this process's own user.
    pub(super) fn sharing_one_uid(count: usize) -> Self {
        Self {
            free: (0..count).rev().collect(),
            block: None,
            _lock: None,
        }
    }

    /// Slots with a user each, from a block of ids that no other engine uses.
    ///
    /// # Errors
    /// If no directory can hold the locks, or every block is taken.
    pub(super) fn with_own_uids(count: usize) -> Result<Self, SlotsError> {
        let count = count.min((UIDS_PER_BLOCK - RESERVED_IDS) as usize);
        let dir = find_lock_dir()?;
        let used = uids_in_use();
        for block in blocks(rustix::system::uname().nodename().to_bytes()) {
            if used.iter().any(|id| block.contains(id)) {
                continue;
            }
            let lock = lock_block(dir, &block);
            if let Some(lock) = lock.map_err(|source| SlotsError::Lock { dir, source })? {
                return Ok(Self {
                    free: (0..count).rev().collect(),
                    block: Some(Block::new(&block)),
                    _lock: Some(lock),
                });
            }
        }
        Err(SlotsError::AllBlocksTaken)
    }

    /// Takes the slot that was used longest ago, for a job of this user.
    pub(super) fn take(&mut self, user: JobUser) -> Option<Slot> {
        let number = self.free.pop()?;
        let ids = self
            .block
            .as_ref()
            .and_then(|block| block.ids(number, user));
        Some(Slot { number, ids })
    }

    pub(super) fn any_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Returns a slot, so that an id is not reused soon after its last job.
    pub(super) fn give_back(&mut self, slot: Slot) {
        self.free.insert(0, slot.number);
    }
}

/// The blocks in the order in which they are tried.
///
/// Containers on one machine do not see each other's locks, but the kernel counts a user's processes
/// across them. The first block therefore depends on the host name: different containers start with
/// different blocks, and a restarted one gets its old block and with it the ownership of its files.
fn blocks(host: &[u8]) -> impl Iterator<Item = Range<u32>> {
    let mut hasher = DefaultHasher::new();
    host.hash(&mut hasher);
    let count = UID_RANGE.len() / UIDS_PER_BLOCK as usize;
    let skipped = usize::try_from(hasher.finish() % count as u64).unwrap_or(0);
    UID_RANGE
        .step_by(UIDS_PER_BLOCK as usize)
        .cycle()
        .skip(skipped)
        .take(count)
        .map(|first| first..first + UIDS_PER_BLOCK)
}

fn find_lock_dir() -> Result<&'static Path, SlotsError> {
    let [first, second, third] = LOCK_DIRS.map(Path::new);
    prepare_lock_dir(first)
        .or_else(|_| prepare_lock_dir(second))
        .or_else(|_| prepare_lock_dir(third))
}

/// Creates a directory for the locks. Only root may use it, else another user could hold every lock.
fn prepare_lock_dir(path: &'static Path) -> Result<&'static Path, SlotsError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(SlotsError::CreateLockDir { path, source });
        }
        _ => {}
    }
    let found = std::fs::symlink_metadata(path)
        .map_err(|source| SlotsError::InspectLockDir { path, source })?;
    if found.is_dir() && found.uid() == 0 && found.mode() & 0o077 == 0 {
        Ok(path)
    } else {
        Err(SlotsError::SharedLockDir(path))
    }
}

fn lock_block(dir: &Path, block: &Range<u32>) -> io::Result<Option<File>> {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(dir.join(format!("{}.lock", block.start)))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Ids that belong to somebody else: those in `/etc/passwd`, and those of running processes.
fn uids_in_use() -> HashSet<u32> {
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
    fn hosts_start_with_different_blocks_and_try_each_once() {
        let order =
            |host: &str| -> Vec<u32> { blocks(host.as_bytes()).map(|block| block.start).collect() };
        let (one, other) = (order("one"), order("other"));
        assert_ne!(one[0], other[0]);
        assert_eq!(one, order("one"));
        let all: HashSet<u32> = one.iter().copied().collect();
        assert_eq!(all.len(), UID_RANGE.len() / UIDS_PER_BLOCK as usize);
        assert!(
            one.iter()
                .all(|first| first + UIDS_PER_BLOCK <= UID_RANGE.end)
        );
    }
}
