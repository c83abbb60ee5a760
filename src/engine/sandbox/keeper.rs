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

use crate::data_dir::used_space_at;
use crate::tree::Space;

use super::disk;
use super::kernel::run_kernel;
use super::log;
use super::policy::Policy;
use super::prestart::{IdleProgram, PrestartContext, PrestartError};
use super::protocol::{FileHeader, Order, Report, StageOrder};
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
pub(super) fn run_keeper(proof: SingleThreaded, socket: OwnedFd, job: &RunningJob<'_>) -> ! {
    let mut wire = Wire::new(socket);
    let subreaper = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let mut workspace = None;
    if let Err(error) = subreaper
        .map_err(KeeperError::Subreaper)
        .and_then(|()| serve(proof, &mut wire, job, &mut workspace))
    {
        // Fails if the engine has hung up, which then does not need the report.
        let _ = wire.send(&match is_storage_full(&error) {
            true => Report::NoSpace,
            false => Report::Failed(error.to_string()),
        });
    }
    drop(wire);
    let cleaned = kill_all(proof, job.slot)
        .map_err(CleanUpError::from)
        .and_then(|()| clean_up(job, workspace.as_ref()));
    if let Err(error) = &cleaned {
        log::error("failed to clean up after a job", error);
    }
    sys::exit_now(i32::from(cleaned.is_err()))
}

/// The job that a keeper is responsible for.
pub(super) struct RunningJob<'a> {
    pub(super) policy: &'a Policy,
    pub(super) slot: Slot,
    /// The parent of the job's directory.
    pub(super) work: &'a Path,
    /// The name of the job's directory.
    pub(super) name: &'a str,
}

impl RunningJob<'_> {
    fn stage<'a>(
        &'a self,
        proof: SingleThreaded,
        wire: &'a mut Wire,
        workspace: &'a Workspace,
        order: &'a StageOrder,
        data_before: Space,
    ) -> Stage<'a> {
        Stage {
            proof,
            policy: self.policy,
            wire,
            workspace,
            slot: self.slot,
            order,
            data_before,
        }
    }
}

/// Deletes what the job left, except for its files in the data directory, which are given to the
/// service. No process of the job may be running.
///
/// # Errors
/// The first thing that failed; the rest is done all the same.
pub(super) fn clean_up(
    job: &RunningJob<'_>,
    workspace: Option<&Workspace>,
) -> Result<(), CleanUpError> {
    let handed_over = hand_over(job);
    let swept = match job.slot.uid {
        Some(uid) if job.policy.sweep => disk::sweep(uid).map_err(CleanUpError::Sweep),
        _ => Ok(()),
    };
    // Last, so that a missing directory means that everything else has been cleaned up.
    let deleted = workspace
        .map_or(Ok(()), Workspace::delete)
        .map_err(CleanUpError::Workspace);
    deleted.and(swept).and(handed_over)
}

/// Gives the job's files in the data directory to the service.
fn hand_over(job: &RunningJob<'_>) -> Result<(), CleanUpError> {
    match (job.slot.uid, job.policy.service) {
        (Some(uid), Some(service)) => {
            let handed_over = disk::hand_over(&job.policy.data_dir, uid, service);
            handed_over.map_err(CleanUpError::HandOver)
        }
        _ => Ok(()),
    }
}

fn serve(
    proof: SingleThreaded,
    wire: &mut Wire,
    job: &RunningJob<'_>,
    workspace: &mut Option<Workspace>,
) -> Result<(), KeeperError> {
    let mut data_before = Space::default();
    let create_workspace = || {
        let created = Workspace::create(job.work, job.name, job.slot.uid);
        created.map_err(KeeperError::CreateWorkspace)
    };
    let mut idle: Option<IdleProgram> = None;
    while let Some(order) = next_order(wire, idle.as_ref())? {
        match order {
            Order::Prestart(order) => {
                let workspace = workspace.insert(create_workspace()?);
                let stdio = standard_streams(wire.take_fds())?;
                let context = PrestartContext {
                    proof,
                    policy: job.policy,
                    wire,
                    workspace,
                    slot: job.slot,
                };
                let Some(started) = IdleProgram::start(context, order, stdio)? else {
                    return Ok(());
                };
                wire.send(&Report::Prestarted(started.report.clone()))?;
                idle = Some(started);
            }
            Order::Open(files) => {
                data_before = used_space_at(&job.policy.data_dir);
                let workspace = match workspace {
                    Some(workspace) => workspace,
                    None => workspace.insert(create_workspace()?),
                };
                if let Some(idle) = &idle {
                    idle.remove_pipe(workspace)?;
                }
                if !write_files(wire, workspace, job.slot, &files)? {
                    return Ok(());
                }
            }
            Order::Stage(order) => {
                let fds = wire.take_fds();
                let workspace = workspace.as_ref().ok_or(KeeperError::NoFiles)?;
                let stage = job.stage(proof, wire, workspace, &order, data_before);
                let ended = match idle.take() {
                    Some(idle) => idle.run(stage)?,
                    None => stage.run(standard_streams(fds)?)?,
                };
                let Some(ended) = ended else {
                    return Ok(());
                };
                // Before the report: its receiver may use the files at once.
                hand_over(job)?;
                wire.send(&Report::Ended(ended))?;
            }
            Order::Kernel(order) => {
                let descriptors = Vec::from(wire.take_fds());
                let workspace = workspace.as_ref().ok_or(KeeperError::NoFiles)?;
                let stage = job.stage(proof, wire, workspace, &order, data_before);
                let hand_over_files = || hand_over(job).map_err(KeeperError::from);
                let Some(ended) = run_kernel(stage, descriptors, hand_over_files)? else {
                    return Ok(());
                };
                hand_over(job)?;
                wire.send(&Report::Ended(ended))?;
            }
            // The stage that these were meant for has just ended.
            Order::Kill | Order::Interrupt | Order::BeginCell(_) | Order::EndCell => {}
        }
    }
    Ok(())
}

/// The next order, or `None` if the engine hung up or the program that waits for its job has ended.
fn next_order(wire: &mut Wire, idle: Option<&IdleProgram>) -> Result<Option<Order>, KeeperError> {
    if let Some(idle) = idle {
        let mut fds = idle.exit_poll_fds();
        fds.push(PollFd::from_borrowed_fd(wire.as_fd(), PollFlags::IN));
        while poll_for(&mut fds, IDLE_POLL_TIMEOUT).map_err(KeeperError::Poll)? == 0 {}
        fds.pop();
        if fds.iter().any(|ended| !ended.revents().is_empty()) {
            drop(fds);
            wire.send(&Report::Stale)?;
            return Ok(None);
        }
    }
    Ok(wire.receive()?)
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
        let mut target = match workspace.create_file(&file.path, slot.uid) {
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
