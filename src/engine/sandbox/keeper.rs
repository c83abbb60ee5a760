//! The keeper: one process a job, which makes its directory, watches its stages, and leaves
//! nothing of it behind.
//!
//! It is a copy of the spawner, has one thread, and keeps the spawner's rights. It lives until
//! the engine closes the job's socket, which also happens when the engine dies.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::data_dir::used_space_at;
use crate::tree::Space;

use super::disk;
use super::line;
use super::policy::Policy;
use super::protocol::{FileHeader, Order, Report};
use super::slots::Slot;
use super::stage::{Stage, end_all, wait_for};
use super::sys::{self, OneThread};
use super::warm::{self, Warm};
use super::wire::Wire;
use super::workspace::Workspace;

/// How long a keeper sleeps at a time while nothing happens.
const IDLE: Duration = Duration::from_secs(3600);

/// Keeps one job; runs in a fresh copy of the spawner. It exits with 0 where the slot is clean.
pub(super) fn keep(proof: OneThread, socket: OwnedFd, job: &Job<'_>) -> ! {
    let mut wire = Wire::new(socket);
    let reaper = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let mut workspace = None;
    if let Err(error) = reaper
        .map_err(Into::into)
        .and_then(|()| serve(proof, &mut wire, job, &mut workspace))
    {
        // The engine may have hung up, and then needs to know nothing.
        let _ = wire.send(&match is_for_want_of_room(&error) {
            true => Report::NoSpace,
            false => Report::Failed(error.to_string()),
        });
    }
    drop(wire);
    let cleaned = end_all(proof, job.slot).and_then(|()| clean_up(job, workspace.as_ref()));
    if let Err(error) = &cleaned {
        line::error("what a job left cannot be cleaned up", error);
    }
    sys::exit_now(i32::from(cleaned.is_err()))
}

/// What a keeper works with.
pub(super) struct Job<'a> {
    pub(super) policy: &'a Policy,
    pub(super) slot: Slot,
    /// Where the job's directory is made.
    pub(super) work: &'a Path,
    /// The name of the job's directory.
    pub(super) name: &'a str,
}

/// Takes away all that the job left, but for its files in the data directory, which are given to
/// the service. No process of the job is there any more.
pub(super) fn clean_up(job: &Job<'_>, workspace: Option<&Workspace>) -> io::Result<()> {
    let handed_over = hand_over(job);
    let swept = match job.slot.uid {
        Some(uid) if job.policy.sweep => disk::sweep(uid),
        _ => Ok(()),
    };
    // Last, so that a directory that is gone says that all is clean.
    let deleted = workspace.map_or(Ok(()), Workspace::delete);
    deleted.and(swept).and(handed_over)
}

/// Gives what the job has left in the data directory to the service.
fn hand_over(job: &Job<'_>) -> io::Result<()> {
    match (job.slot.uid, job.policy.service) {
        (Some(uid), Some(service)) => disk::hand_over(&job.policy.data_dir, uid, service),
        _ => Ok(()),
    }
}

fn serve(
    proof: OneThread,
    wire: &mut Wire,
    job: &Job<'_>,
    place: &mut Option<Workspace>,
) -> io::Result<()> {
    let mut data_before = Space::default();
    let mut warm: Option<Warm> = None;
    while let Some(order) = next_order(wire, warm.as_ref())? {
        match order {
            Order::Warm(order) => {
                let workspace = place.insert(Workspace::create(job.work, job.name, job.slot.uid)?);
                let stdio = three(wire.take_fds())?;
                let place = warm::Place {
                    proof,
                    policy: job.policy,
                    wire,
                    workspace,
                    slot: job.slot,
                };
                let Some(started) = Warm::start(place, order, stdio)? else {
                    return Ok(());
                };
                warm = Some(started);
                wire.send(&Report::Warm)?;
            }
            Order::Open(files) => {
                data_before = used_space_at(&job.policy.data_dir);
                let workspace = match place {
                    Some(workspace) => workspace,
                    None => place.insert(Workspace::create(job.work, job.name, job.slot.uid)?),
                };
                if let Some(warm) = &warm {
                    warm.make_way(workspace)?;
                }
                if !write_files(wire, workspace, job.slot, &files)? {
                    return Ok(());
                }
            }
            Order::Stage(order) => {
                let fds = wire.take_fds();
                let workspace = place
                    .as_ref()
                    .ok_or_else(|| io::Error::other("a stage before its files"))?;
                let stage = Stage {
                    proof,
                    policy: job.policy,
                    wire,
                    workspace,
                    slot: job.slot,
                    order: &order,
                    data_before,
                };
                let ended = match warm.take() {
                    Some(warm) => warm.run(stage)?,
                    None => stage.run(three(fds)?)?,
                };
                let Some(ended) = ended else {
                    return Ok(());
                };
                // Ahead of the report: who gets it may look for the files at once.
                hand_over(job)?;
                wire.send(&Report::Ended(ended))?;
            }
            // The stage that was meant has ended meanwhile.
            Order::Kill => {}
        }
    }
    Ok(())
}

/// The next order; `None` where the engine hung up, or what waits for its job has ended.
fn next_order(wire: &mut Wire, warm: Option<&Warm>) -> io::Result<Option<Order>> {
    if let Some(warm) = warm {
        let mut fds = warm.ends();
        fds.push(PollFd::from_borrowed_fd(wire.as_fd(), PollFlags::IN));
        while wait_for(&mut fds, IDLE)? == 0 {}
        fds.pop();
        if fds.iter().any(|ended| !ended.revents().is_empty()) {
            drop(fds);
            wire.send(&Report::Stale)?;
            return Ok(None);
        }
    }
    wire.receive()
}

fn three(fds: VecDeque<OwnedFd>) -> io::Result<[OwnedFd; 3]> {
    Vec::from(fds)
        .try_into()
        .map_err(|_| io::Error::other("a stage needs three descriptors"))
}

/// Whether the disk is full. A keeper writes nothing once a program has run.
fn is_for_want_of_room(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull
}

/// Whether a file cannot be made because of what it is called, and not for want of room or rights.
fn is_of_the_name(error: &io::Error) -> bool {
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

/// Writes the job's files; false where there is no point in going on.
fn write_files(
    wire: &mut Wire,
    workspace: &Workspace,
    slot: Slot,
    files: &[FileHeader],
) -> io::Result<bool> {
    let mut chunk = vec![0; 64 << 10];
    for file in files {
        let mut target = match workspace.create_file(&file.path, slot.uid) {
            Ok(fd) => std::fs::File::from(fd),
            Err(error) if !is_of_the_name(&error) => return Err(error),
            Err(error) => {
                let message = format!("file name {:?} cannot be used: {error}", file.path);
                wire.send(&Report::Refused(message))?;
                return Ok(false);
            }
        };
        let mut left = file.length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            let part = chunk.get_mut(..most).unwrap_or_default();
            if !wire.fill(part)? {
                return Ok(false);
            }
            target.write_all(part)?;
            left -= part.len() as u64;
        }
    }
    Ok(true)
}
