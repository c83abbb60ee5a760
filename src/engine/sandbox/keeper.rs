//! The keeper: one process per job, which creates the job's directory, runs its stages and cleans up
//! after it.
//!
//! It is forked from the spawner, has one thread and keeps the spawner's rights. It lives until the
//! engine closes the job's socket, which the kernel does for an engine that dies. It executes orders
//! and makes no decision about them: which program to run with which limits is the engine's business.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::tree::Space;

use super::disk::{self, FileTime, Leftovers, SharedPlaces};
use super::disk_watch::{DiskUsage, JobFiles};
use super::held::Surroundings;
use super::kernel::run_kernel;
use super::log;
use super::policy::Policy;
use super::prestart::{IdleProgram, PrestartError};
use super::protocol::{Ended, FileHeader, Order, PrestartOrder, Report, StageOrder};
use super::slots::Slot;
use super::stage::{Stage, StageError, kill_all, poll_for};
use super::sys::{self, SingleThreaded};
use super::wire::{Wire, WireError};
use super::workspace::Workspace;

/// How long a keeper blocks in one call of `poll` while nothing happens.
const IDLE_POLL_TIMEOUT: Duration = Duration::from_secs(3600);

/// Why a keeper could not carry out an order.
#[derive(Debug, thiserror::Error)]
enum KeeperError {
    #[error("cannot become the subreaper of the job's processes: {0}")]
    Subreaper(#[source] Errno),
    #[error("cannot create the job's directory: {0}")]
    CreateWorkspace(#[source] io::Error),
    #[error("cannot write a file of the job: {0}")]
    WriteFile(#[source] io::Error),
    #[error("cannot wait for orders: {0}")]
    Poll(#[source] io::Error),
    #[error("a stage was ordered before its files")]
    NoFiles,
    #[error("a program was ordered without its three standard streams")]
    NoStreams,
    #[error(transparent)]
    Prestart(#[from] PrestartError),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    CleanUp(#[from] CleanUpError),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// What a job left and could not be removed or handed over.
#[derive(Debug, thiserror::Error)]
pub(super) enum CleanUpError {
    #[error(transparent)]
    Processes(#[from] StageError),
    #[error("cannot hand over the job's files in the data directory: {0}")]
    HandOver(#[source] io::Error),
    #[error("cannot delete the job's files in shared directories: {0}")]
    Sweep(#[source] io::Error),
    #[error("cannot delete the job's directory: {0}")]
    Workspace(#[source] io::Error),
}

/// Runs as the keeper of one job in a process just forked from the spawner. Exits with 0 if the slot is
/// clean.
pub(super) fn run_keeper(proof: SingleThreaded, socket: OwnedFd, job: RunningJob<'_>) -> ! {
    let mut keeper = Keeper {
        proof,
        wire: Wire::new(socket),
        job,
        workspace: None,
        data_before: Space::default(),
        is_handed_over: true,
    };
    let subreaper = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    if let Err(error) = subreaper
        .map_err(KeeperError::Subreaper)
        .and_then(|()| keeper.serve())
    {
        // Fails if the engine has hung up, which then does not need the report.
        let _ = keeper.wire.send(&match is_storage_full(&error) {
            true => Report::NoSpace,
            false => Report::Failed(error.to_string()),
        });
    }
    let Keeper {
        job,
        workspace,
        is_handed_over,
        wire,
        ..
    } = keeper;
    drop(wire);
    let cleaned = kill_all(proof, job.slot)
        .map_err(CleanUpError::from)
        .and_then(|()| job.clean_up(workspace.as_ref(), is_handed_over));
    if let Err(error) = &cleaned {
        log::error("failed to clean up after a job", error);
    }
    sys::exit_now(i32::from(cleaned.is_err()))
}

/// The job that a keeper is responsible for.
pub(super) struct RunningJob<'a> {
    pub(super) policy: &'a Policy,
    pub(super) slot: Slot,
    /// Whether it is a program, which leaves its files to whichever program is next.
    pub(super) is_program: bool,
    /// The parent of the job's directory.
    pub(super) work: &'a Path,
    /// The name of the job's directory.
    pub(super) name: &'a str,
    /// Whether others may have its user when it begins.
    pub(super) shares_user_now: bool,
    pub(super) surroundings: Surroundings,
    pub(super) places: &'a SharedPlaces,
    /// When its keeper was started.
    pub(super) started: FileTime,
    /// When it began, if it has.
    pub(super) since: Option<FileTime>,
}

impl RunningJob<'_> {
    /// What it leaves in shared directories, if that can be told from the files of others.
    fn leftovers(&self) -> Option<Leftovers> {
        if self.policy.namespaces.is_some() {
            // They are the job's own.
            return None;
        }
        let (block, ids) = (self.policy.block.as_ref()?, self.slot.ids?);
        Some(Leftovers::new(
            block,
            ids,
            self.places,
            self.started,
            self.since,
        ))
    }

    /// Deletes what the job left, except for its files in the data directory, which are the session's.
    /// No process of the job may be running.
    ///
    /// # Errors
    /// The first thing that failed; the rest is done all the same.
    pub(super) fn clean_up(
        &self,
        workspace: Option<&Workspace>,
        is_handed_over: bool,
    ) -> Result<(), CleanUpError> {
        let handed_over = match is_handed_over {
            true => Ok(()),
            false => self.hand_over(),
        };
        let swept = match self.leftovers() {
            Some(leftovers) if self.policy.sweep => leftovers.sweep().map_err(CleanUpError::Sweep),
            _ => Ok(()),
        };
        // Last, so that a missing directory means that everything else has been cleaned up.
        let deleted = workspace
            .map_or(Ok(()), Workspace::delete)
            .map_err(CleanUpError::Workspace);
        deleted.and(swept).and(handed_over)
    }

    /// Gives the job's files in the data directory to the session.
    fn hand_over(&self) -> Result<(), CleanUpError> {
        match (&self.policy.block, self.slot.ids, self.since) {
            (Some(block), Some(ids), Some(since)) if self.is_program => {
                let handed_over = disk::hand_over(&self.policy.data_dir, block, ids, since);
                handed_over.map_err(CleanUpError::HandOver)
            }
            _ => Ok(()),
        }
    }
}

struct Keeper<'a> {
    proof: SingleThreaded,
    wire: Wire,
    job: RunningJob<'a>,
    workspace: Option<Workspace>,
    /// What was in the data directory when the job began.
    data_before: Space,
    /// Whether nothing of the job has run since its files were handed over.
    is_handed_over: bool,
}

impl Keeper<'_> {
    fn serve(&mut self) -> Result<(), KeeperError> {
        let mut idle: Option<IdleProgram> = None;
        while let Some(order) = self.next_order(idle.as_ref())? {
            match order {
                Order::Prestart(order) => match self.prestart(&order)? {
                    Some(started) => idle = Some(started),
                    None => return Ok(()),
                },
                Order::Open(files) => {
                    self.job.since = Some(FileTime::now());
                    self.data_before = self.measure_data();
                    self.make_workspace()?;
                    let workspace = self.workspace.as_ref().ok_or(KeeperError::NoFiles)?;
                    if let Some(idle) = &idle {
                        idle.remove_pipe(workspace)?;
                    }
                    if !write_files(&mut self.wire, workspace, self.job.slot, &files)? {
                        return Ok(());
                    }
                }
                Order::Stage(order) => {
                    let fds = self.wire.take_fds();
                    let stage = self.stage(&order)?;
                    let ended = match idle.take() {
                        Some(idle) => idle.run(stage)?,
                        None => stage.run(standard_streams(fds)?)?,
                    };
                    let Some(ended) = ended else {
                        return Ok(());
                    };
                    self.report_end(ended)?;
                }
                Order::Kernel(order) => {
                    let descriptors = Vec::from(self.wire.take_fds());
                    let Some(ended) = run_kernel(self.stage(&order)?, descriptors)? else {
                        return Ok(());
                    };
                    self.report_end(ended)?;
                }
                // The stage that these were meant for has just ended.
                Order::Kill | Order::Interrupt | Order::BeginCell(_) | Order::EndCell => {}
            }
        }
        Ok(())
    }

    /// What is in the data directory.
    fn measure_data(&self) -> Space {
        let policy = self.job.policy;
        let files = JobFiles {
            root: self.job.work.join(self.job.name),
            data_dir: policy.data_dir.clone(),
            leftovers: None,
            user_namespace: policy.user_namespace().map(|user| (user, self.proof)),
        };
        DiskUsage::of(&files).data
    }

    fn make_workspace(&mut self) -> Result<(), KeeperError> {
        if self.workspace.is_none() {
            let job = &self.job;
            let created = job
                .policy
                .create_workspace(job.work, job.name, job.slot.ids);
            self.workspace = Some(created.map_err(KeeperError::CreateWorkspace)?);
        }
        Ok(())
    }

    /// Starts a program before its job. Returns `None` if the engine hung up.
    fn prestart(&mut self, order: &PrestartOrder) -> Result<Option<IdleProgram>, KeeperError> {
        self.make_workspace()?;
        let stdio = standard_streams(self.wire.take_fds())?;
        let started = IdleProgram::start(self.stage(&order.stage)?, order, stdio)?;
        if let Some(started) = &started {
            let report = Report::Prestarted(started.report.clone());
            self.wire.send(&report)?;
        }
        // No code of a job has run.
        self.is_handed_over = true;
        Ok(started)
    }

    /// A stage that is about to run.
    fn stage<'a>(&'a mut self, order: &'a StageOrder) -> Result<Stage<'a>, KeeperError> {
        self.is_handed_over = false;
        Ok(Stage {
            proof: self.proof,
            policy: self.job.policy,
            shares_user_now: self.job.shares_user_now,
            surroundings: self.job.surroundings,
            leftovers: self.job.leftovers(),
            wire: &mut self.wire,
            workspace: self.workspace.as_ref().ok_or(KeeperError::NoFiles)?,
            slot: self.job.slot,
            order,
            before: DiskUsage {
                data: self.data_before,
                ..DiskUsage::default()
            },
        })
    }

    fn report_end(&mut self, ended: Ended) -> Result<(), KeeperError> {
        // Before the report: its receiver may use the files at once.
        self.job.hand_over()?;
        self.is_handed_over = true;
        Ok(self.wire.send(&Report::Ended(ended))?)
    }

    /// The next order, or `None` if the engine hung up or the program that waits for its job has ended.
    fn next_order(&mut self, idle: Option<&IdleProgram>) -> Result<Option<Order>, KeeperError> {
        if let Some(idle) = idle {
            let mut fds = idle.exit_poll_fds();
            fds.push(PollFd::from_borrowed_fd(self.wire.as_fd(), PollFlags::IN));
            while poll_for(&mut fds, IDLE_POLL_TIMEOUT).map_err(KeeperError::Poll)? == 0 {}
            fds.pop();
            if fds.iter().any(|ended| !ended.revents().is_empty()) {
                drop(fds);
                self.wire.send(&Report::Stale)?;
                return Ok(None);
            }
        }
        Ok(self.wire.receive()?)
    }
}

fn standard_streams(fds: VecDeque<OwnedFd>) -> Result<[OwnedFd; 3], KeeperError> {
    Vec::from(fds)
        .try_into()
        .map_err(|_| KeeperError::NoStreams)
}

/// Whether an error was caused by a full disk. A keeper writes nothing once a program has run, so this
/// also means that nothing was run.
fn is_storage_full(error: &KeeperError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io_error = error.downcast_ref::<io::Error>();
        if io_error.is_some_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether a file cannot be created because of its name, as opposed to a full disk or missing rights.
fn is_invalid_name(error: &io::Error) -> bool {
    const NAMES: [Errno; 6] = [
        Errno::NAMETOOLONG,
        Errno::ISDIR,
        Errno::NOTDIR,
        Errno::EXIST,
        Errno::LOOP,
        Errno::INVAL,
    ];
    let code = error.raw_os_error();
    NAMES.iter().any(|name| code == Some(name.raw_os_error()))
}

/// Writes the job's files. Returns false if the job is over: a name cannot be used, or the engine hung
/// up.
fn write_files(
    wire: &mut Wire,
    workspace: &Workspace,
    slot: Slot,
    files: &[FileHeader],
) -> Result<bool, KeeperError> {
    let mut chunk = vec![0; 16 << 10];
    for file in files {
        let mut target = match workspace.create_file(&file.path, slot.ids) {
            Ok(fd) => std::fs::File::from(fd),
            Err(error) if !is_invalid_name(&error) => {
                return Err(KeeperError::WriteFile(error));
            }
            Err(error) => {
                let message = format!("file name {:?} cannot be used: {error}", file.path);
                wire.send(&Report::Refused(message))?;
                return Ok(false);
            }
        };
        let mut left = file.length;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            let part = chunk.get_mut(..length).unwrap_or_default();
            if !wire.fill(part)? {
                return Ok(false);
            }
            target.write_all(part).map_err(KeeperError::WriteFile)?;
            left -= part.len() as u64;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_found_below_other_errors() {
        let io_error = |errno: Errno| io::Error::from(errno);
        let full = KeeperError::Prestart(PrestartError::Prepare(io_error(Errno::NOSPC)));
        assert!(is_storage_full(&full));
        assert!(is_storage_full(&KeeperError::WriteFile(io_error(
            Errno::NOSPC
        ))));
        let other = KeeperError::CreateWorkspace(io_error(Errno::ACCESS));
        assert!(!is_storage_full(&other));
    }
}
