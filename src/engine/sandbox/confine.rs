//! What a process does to itself before it becomes the job's program.

use std::io;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::process::{
    DumpableBehavior, Gid, Pid, Resource, Rlimit, Uid, getrlimit, prlimit, set_dumpable_behavior,
    setpriority_process, setrlimit,
};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::files;
use super::policy::Policy;
use super::protocol::StageLimits;
use super::sys::{self, End, Fork, OneThread, Reaped, Wait, Waiting};
use super::workspace::Workspace;

/// The niceness of what gets the processor last.
const LOWEST_PRIORITY: i32 = 19;

/// Who is confined.
pub(super) struct Subject<'a> {
    pub(super) limits: &'a StageLimits,
    /// The job's user, where it has one.
    pub(super) uid: Option<u32>,
    /// Processes of the user that were there before, where the job has no user of its own.
    pub(super) shared_processes: u64,
    /// Folders that the program needs besides the usual ones.
    pub(super) readable: &'a [PathBuf],
    pub(super) workspace: &'a Workspace,
}

/// Gives up every right that a job does not need; there is no way back.
///
/// Returns the version of the Landlock rules in use.
///
/// # Errors
/// Where a layer that was found at start cannot be laid now.
pub(super) fn confine(policy: &Policy, subject: &Subject<'_>) -> io::Result<Option<u8>> {
    // When memory runs out, jobs are to be ended before what contains them.
    set_oom_score();
    // However many processes a job has, they must not keep the processor from what ends them and from
    // the adapter. In a container all share one group of the scheduler.
    let _ = setpriority_process(None, LOWEST_PRIORITY);
    if policy.limits {
        set_limits(subject)?;
    }
    if let Some(uid) = subject.uid {
        become_user(uid, policy.service)?;
    }
    set_no_new_privs(true)?;
    let mut landlock = None;
    if policy.landlock {
        let writable = [subject.workspace.root.clone(), policy.data_dir.clone()];
        landlock = files::limit(subject.readable, &writable, policy.allow_network)?;
    }
    if let Some(filters) = &policy.filters {
        filters.apply()?;
    }
    Ok(landlock)
}

/// Takes on a job's user and group for good, and the group of the data directory.
///
/// # Errors
/// Where this process may not.
pub(super) fn become_user(id: u32, service: Option<u32>) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    let groups: Vec<_> = service.map(Gid::from_raw).into_iter().collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// The kernel's limits of a process that a request can change.
fn of_request(limits: &StageLimits) -> [(Resource, Option<u64>); 2] {
    // A seat belt behind the CPU time that the keeper adds up over the whole tree. A program that
    // was started ahead of its job may have used some of it already.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the number is positive and the cast saturates"
    )]
    let cpu_seconds = (limits.cpu_ms / 1000.0).ceil().max(1.0) as u64 + 3;
    // Far above the limit, which is on resident memory: what is reserved and not used costs
    // nothing, but allocating without end must fail even where the keeper is too slow to see it.
    let data = limits.memory.saturating_add(limits.memory.max(256 << 20));
    [
        (Resource::Cpu, Some(cpu_seconds)),
        (Resource::Data, Some(data)),
    ]
}

/// Lowers what [`confine`] has set to lower limits of a stage, in processes that run already.
///
/// A process may only do that to those of its own user, for which a copy of this one becomes one.
///
/// # Errors
/// Where it is refused.
pub(super) fn lower_limits(
    proof: OneThread,
    uid: Option<u32>,
    processes: &[i32],
    limits: &StageLimits,
) -> io::Result<()> {
    let lower = || -> io::Result<()> {
        if let Some(uid) = uid {
            become_user(uid, None)?;
        }
        for process in processes {
            for (resource, most) in of_request(limits) {
                let limit = Rlimit {
                    current: most,
                    maximum: most,
                };
                prlimit(Pid::from_raw(*process), resource, limit)?;
            }
        }
        Ok(())
    };
    match sys::fork(proof)? {
        Fork::Child => sys::exit_now(i32::from(lower().is_err())),
        Fork::Parent(child) => match sys::wait(Some(child), Waiting::Block) {
            Wait::Ended(Reaped {
                end: End::Exit(0), ..
            }) => Ok(()),
            _ => Err(io::Error::other("limits cannot be lowered")),
        },
    }
}

fn set_limits(subject: &Subject<'_>) -> io::Result<()> {
    let limits = subject.limits;
    // Processes are counted by user id. Where the id is shared, those that were there before are
    // not the job's.
    let processes = match subject.uid {
        Some(_) => limits.processes,
        None => limits.processes.saturating_add(subject.shared_processes),
    };
    let [cpu, data] = of_request(limits);
    for (resource, most) in [
        (Resource::Nproc, Some(processes)),
        (Resource::Nofile, Some(limits.open_files)),
        (Resource::Fsize, Some(limits.file_size)),
        cpu,
        data,
        (Resource::Core, Some(0)),
        (Resource::Memlock, Some(64 << 10)),
        (Resource::Msgqueue, Some(0)),
        // As in Piston's sandbox: deep recursion is limited by the memory.
        (Resource::Stack, None),
    ] {
        // What was given can only be lowered, in a container by root, too.
        let highest = getrlimit(resource).maximum;
        let allowed = match (most, highest) {
            (Some(most), Some(highest)) => Some(most.min(highest)),
            (None, bound) | (bound, None) => bound,
        };
        setrlimit(
            resource,
            Rlimit {
                current: allowed,
                maximum: allowed,
            },
        )?;
    }
    Ok(())
}

/// Raises this process's out-of-memory score to the highest. That it cannot is no reason to stop:
/// `/proc` is not everywhere.
fn set_oom_score() {
    // The file is root's for as long as the process may not be looked into. No program of a job
    // runs yet that could.
    let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open("/proc/self/oom_score_adj", flags, Mode::empty()) {
        let _ = rustix::io::write(file, b"1000");
    }
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
