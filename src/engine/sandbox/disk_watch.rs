//! Checks a running job's disk usage from time to time.
//!
//! There are no disk quotas that an unprivileged container could set, so the keeper measures instead.
//! A job can exceed a limit by what it writes between two measurements.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::data_dir::used_space_at;
use crate::tree::{Space, free_bytes, in_folder};

use super::disk;
use super::protocol::StageLimits;

/// Minimum time between two measurements.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes that must stay free on the disk of the jobs' directories.
const MIN_FREE_BYTES: u64 = 64 << 20;

/// Measures a job's files against its limits.
pub(super) struct DiskWatch {
    limits: StageLimits,
    root: PathBuf,
    data_dir: PathBuf,
    uid: Option<u32>,
    /// Usage of the data directory before the job, which does not count against it.
    data_before: Space,
    /// The job is ended when less than this is free. 0 if hardly more was free at its start.
    min_free_bytes: u64,
    next: Instant,
}

/// The job whose disk usage is checked.
pub(super) struct WatchedJob<'a> {
    pub(super) limits: StageLimits,
    pub(super) root: &'a Path,
    pub(super) data_dir: &'a Path,
    pub(super) data_before: Space,
    /// The job's own user, if it has one.
    pub(super) uid: Option<u32>,
}

impl DiskWatch {
    pub(super) fn new(job: &WatchedJob<'_>, started: Instant) -> Self {
        let root = job.root.to_owned();
        let min_free_bytes = if free_bytes(&root) > 2 * MIN_FREE_BYTES {
            MIN_FREE_BYTES
        } else {
            0
        };
        Self {
            limits: job.limits,
            data_before: job.data_before,
            data_dir: job.data_dir.to_owned(),
            uid: job.uid,
            root,
            min_free_bytes,
            next: started + POLL_INTERVAL,
        }
    }

    /// Whether a limit is exceeded. Measures only if the last measurement is old enough.
    pub(super) fn is_over_limit(&mut self) -> bool {
        let start = Instant::now();
        if start < self.next {
            return false;
        }
        let over = self.measure();
        // Walking a large tree is slow. Waiting ten times as long bounds the keeper's share of CPU.
        self.next = Instant::now() + POLL_INTERVAL.max(start.elapsed() * 10);
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
            || free_bytes(&self.root) < self.min_free_bytes
    }
}
