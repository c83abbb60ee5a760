//! Measures, now and then, what a running job keeps on disk.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::data_dir::used_space_at;
use crate::tree::{Space, free_bytes, in_folder};

use super::disk;
use super::protocol::StageLimits;

/// Time between two looks at the disk, at least.
const LOOK_AT_DISK: Duration = Duration::from_millis(100);
/// Bytes of the disk that must stay free.
const LEAST_FREE: u64 = 64 << 20;

/// Looks after the space on disk, for which there is no quota.
pub(super) struct DiskWatch {
    limits: StageLimits,
    root: PathBuf,
    data_dir: PathBuf,
    uid: Option<u32>,
    /// What was in the data directory before: it is not this job's to answer for.
    data_before: Space,
    /// The job is ended when less is free; nothing where there was less before.
    least_free: u64,
    next: Instant,
}

/// What there is to know of a job whose space on disk is watched.
pub(super) struct Watched<'a> {
    pub(super) limits: StageLimits,
    /// The job's directory.
    pub(super) root: &'a Path,
    pub(super) data_dir: &'a Path,
    pub(super) data_before: Space,
    /// The job's user, where it has one.
    pub(super) uid: Option<u32>,
}

impl DiskWatch {
    pub(super) fn new(job: &Watched<'_>, started: Instant) -> Self {
        let root = job.root.to_owned();
        let least_free = if free_bytes(&root) > 2 * LEAST_FREE {
            LEAST_FREE
        } else {
            0
        };
        Self {
            limits: job.limits,
            data_before: job.data_before,
            data_dir: job.data_dir.to_owned(),
            uid: job.uid,
            root,
            least_free,
            next: started + LOOK_AT_DISK,
        }
    }

    /// Measures, unless it did so a short while ago.
    pub(super) fn is_over(&mut self) -> bool {
        let begun = Instant::now();
        if begun < self.next {
            return false;
        }
        let over = self.measure();
        // A large tree takes long to go through: this must not take most of the time.
        self.next = Instant::now() + LOOK_AT_DISK.max(begun.elapsed() * 10);
        over
    }

    fn measure(&self) -> bool {
        let mut job = in_folder(&self.root);
        if let Some(uid) = self.uid {
            let shared = disk::shared_of(uid);
            job.bytes = job.bytes.saturating_add(shared.bytes);
            job.entries = job.entries.saturating_add(shared.entries);
        }
        let data = used_space_at(&self.data_dir);
        job.bytes > self.limits.job_bytes
            || job.entries > self.limits.job_files
            || data.bytes > self.limits.data_bytes.max(self.data_before.bytes)
            || data.entries > self.limits.data_files.max(self.data_before.entries)
            || free_bytes(&self.root) < self.least_free
    }
}
