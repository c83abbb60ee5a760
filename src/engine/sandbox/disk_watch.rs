//! Checks a running job's disk usage from time to time, and once it has ended.
//!
//! There are no disk quotas that an unprivileged container could set, so the keeper measures instead.
//! A job can exceed a limit by what it writes between two measurements, which are the more frequent the
//! less room is left. Where a limit was exceeded before, a job may not add to that.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::data_dir::used_space_at;
use crate::tree::{Space, free_bytes, in_folder};

use super::disk::Leftovers;
use super::namespaces::UserNamespace;
use super::probe::run_in_child;
use super::protocol::StageLimits;
use super::sys::SingleThreaded;

/// Longest and shortest time between two measurements.
const MAX_INTERVAL: Duration = Duration::from_millis(100);
const MIN_INTERVAL: Duration = Duration::from_millis(5);
/// What a program can write in a second at most, in bytes and in files, about.
const BYTES_PER_SECOND: u64 = 1 << 30;
const FILES_PER_SECOND: u64 = 100_000;
/// Bytes that must stay free on the disk of the jobs' directories.
const MIN_FREE_BYTES: u64 = 64 << 20;

/// Measures a job's files against its limits.
pub(super) struct DiskWatch {
    limits: StageLimits,
    files: JobFiles,
    before: DiskUsage,
    /// The job is ended when less than this is free. 0 if hardly more was free at its start.
    min_free_bytes: u64,
    next: Instant,
}

/// Where the files of a job are.
pub(super) struct JobFiles {
    /// Its own directory.
    pub(super) root: PathBuf,
    pub(super) data_dir: PathBuf,
    /// What it leaves in shared directories, if that can be told from the files of others.
    pub(super) leftovers: Option<Leftovers>,
    /// A user namespace for measuring folders whose modes keep this process out.
    pub(super) user_namespace: Option<(UserNamespace, SingleThreaded)>,
}

/// What there is on disk.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct DiskUsage {
    /// Outside the data directory.
    pub(super) job: Space,
    pub(super) data: Space,
}

impl DiskWatch {
    /// `before` is what there was when the job, or cell, began.
    pub(super) fn new(limits: StageLimits, files: JobFiles, before: DiskUsage) -> Self {
        let mut watch = Self {
            limits,
            files,
            before,
            min_free_bytes: 0,
            next: Instant::now(),
        };
        watch.begin_at(before);
        watch
    }

    /// Counts from here on against this usage.
    fn begin_at(&mut self, usage: DiskUsage) {
        self.before = usage;
        self.min_free_bytes = if free_bytes(&self.files.root) > 2 * MIN_FREE_BYTES {
            MIN_FREE_BYTES
        } else {
            0
        };
        self.next = Instant::now() + self.interval(&usage);
    }

    /// The time until the next measurement is due.
    pub(super) fn time_left(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Whether a limit is exceeded. Measures only if the last measurement is old enough.
    pub(super) fn is_over_limit(&mut self) -> bool {
        let start = Instant::now();
        if start < self.next {
            return false;
        }
        let usage = DiskUsage::of(&self.files);
        // Walking a large tree is slow. Waiting ten times as long bounds the keeper's share of CPU.
        self.next = Instant::now() + self.interval(&usage).max(start.elapsed() * 10);
        self.exceeds(&usage) || free_bytes(&self.files.root) < self.min_free_bytes
    }

    /// Whether a limit is exceeded now, at the end. From here on this usage counts as what there was before.
    pub(super) fn ends_over_limit(&mut self) -> bool {
        let usage = DiskUsage::of(&self.files);
        let exceeds = self.exceeds(&usage);
        self.begin_at(usage);
        exceeds
    }

    fn exceeds(&self, usage: &DiskUsage) -> bool {
        let over = |used: &Space, limit: Space, before: &Space| {
            used.bytes > limit.bytes.max(before.bytes)
                || used.entries > limit.entries.max(before.entries)
        };
        over(&usage.job, self.limits.job_space(), &self.before.job)
            || over(&usage.data, self.limits.data_space(), &self.before.data)
    }

    /// How long it takes to use up the room that is left.
    fn interval(&self, usage: &DiskUsage) -> Duration {
        let time = |used: &Space, limit: Space| {
            let bytes = limit.bytes.saturating_sub(used.bytes);
            let files = limit.entries.saturating_sub(used.entries);
            let seconds = |left: u64, rate: u64| left as f64 / rate as f64;
            seconds(bytes, BYTES_PER_SECOND).min(seconds(files, FILES_PER_SECOND))
        };
        let job = time(&usage.job, self.limits.job_space());
        let data = time(&usage.data, self.limits.data_space());
        Duration::try_from_secs_f64(job.min(data))
            .unwrap_or(MAX_INTERVAL)
            .clamp(MIN_INTERVAL, MAX_INTERVAL)
    }
}

impl DiskUsage {
    /// What there is now.
    pub(super) fn of(files: &JobFiles) -> Self {
        let (usage, is_complete) = Self::measure(files);
        if is_complete {
            return usage;
        }
        // A job that has this process's user can hide files in folders that it closes to that user.
        let user_namespace = files.user_namespace.as_ref();
        user_namespace
            .and_then(|(user, proof)| Self::measure_in_user_namespace(files, *user, *proof))
            .unwrap_or_else(|| usage.beyond_every_limit())
    }

    /// What this process can see, and whether that is everything.
    fn measure(files: &JobFiles) -> (Self, bool) {
        let job = in_folder(&files.root);
        let data = used_space_at(&files.data_dir);
        let mut usage = Self {
            job: job.space,
            data: data.space,
        };
        if let Some(leftovers) = &files.leftovers {
            let shared = leftovers.space();
            usage.job.bytes = usage.job.bytes.saturating_add(shared.bytes);
            usage.job.entries = usage.job.entries.saturating_add(shared.entries);
        }
        (usage, job.is_complete && data.is_complete)
    }

    /// The same, in a child in a user namespace, where modes do not keep it out.
    fn measure_in_user_namespace(
        files: &JobFiles,
        user: UserNamespace,
        proof: SingleThreaded,
    ) -> Option<Self> {
        let measure = |pipe: &OwnedFd| {
            user.enter()?;
            let (Self { job, data }, is_complete) = Self::measure(files);
            if is_complete {
                let figures = [job.bytes, job.entries, data.bytes, data.entries];
                let figures = figures.map(u64::to_ne_bytes).concat();
                rustix::io::write(pipe, &figures)?;
            }
            io::Result::Ok(())
        };
        let output = run_in_child(|| user.fork(proof), measure).ok()?;
        let figures: Vec<_> = output
            .chunks_exact(size_of::<u64>())
            .filter_map(|bytes| bytes.try_into().ok().map(u64::from_ne_bytes))
            .collect();
        let [bytes, entries, data_bytes, data_entries] = *figures.as_slice() else {
            return None;
        };
        Some(Self {
            job: Space { bytes, entries },
            data: Space {
                bytes: data_bytes,
                entries: data_entries,
            },
        })
    }

    fn beyond_every_limit(mut self) -> Self {
        self.job.entries = u64::MAX;
        self
    }
}
