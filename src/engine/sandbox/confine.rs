//! Applies the layers of the sandbox to the calling process, before it becomes the job's program.
//!
//! The order matters. Namespaces come first: mounting takes rights, and what the other layers name is
//! there only afterwards. The out-of-memory score and the change of user need the keeper's privileges.
//! Without them, Landlock and seccomp require `no_new_privs`. The system call filters come last, so
//! that they need not allow what the other steps do.
//!
//! Which layers are applied is the [`Policy`]'s decision; this module does not look at the machine.

use std::io;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::process::{
    DumpableBehavior, Gid, Pid, Resource, Rlimit, Uid, getrlimit, prlimit, set_dumpable_behavior,
    setpriority_process, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::files::{self, RulesetError};
use super::namespaces::{NamespaceError, View};
use super::policy::Policy;
use super::protocol::StageLimits;
use super::seccomp::SeccompError;
use super::slots::JobIds;
use super::sys::{self, ExitStatus, Fork, Reaped, SingleThreaded, Wait, WaitMode};
use super::workspace::Workspace;

/// The highest niceness, which is the lowest priority.
const LOWEST_PRIORITY: i32 = 19;

/// Open files per process that any program may need.
const USUAL_OPEN_FILES: u64 = 512;

/// A layer of the sandbox that could not be applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfineError {
    #[error("cannot set up namespaces: {0}")]
    Namespaces(#[from] NamespaceError),
    #[error("cannot set a resource limit: {0}")]
    Limits(#[source] io::Error),
    #[error("cannot change to the job's user: {0}")]
    User(#[source] io::Error),
    #[error("cannot give up capabilities: {0}")]
    Capabilities(#[source] io::Error),
    #[error("cannot set no_new_privs: {0}")]
    NoNewPrivileges(#[source] io::Error),
    #[error("cannot set the Landlock rules: {0}")]
    Landlock(#[from] RulesetError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// Why the limits of running processes could not be lowered.
#[derive(Debug, thiserror::Error)]
pub(super) enum LowerLimitsError {
    #[error("cannot fork: {0}")]
    Fork(#[source] io::Error),
    #[error("the kernel refused to lower a limit")]
    Refused,
}

/// The job that the process belongs to.
pub(super) struct Subject<'a> {
    pub(super) limits: &'a StageLimits,
    pub(super) is_kernel: bool,
    /// As whom the job runs, if jobs have users of their own.
    pub(super) ids: Option<JobIds>,
    /// How many processes the user already has, if the job shares one.
    pub(super) shared_processes: u64,
    /// What the program reads, besides the directories of the system.
    pub(super) readable: &'a [PathBuf],
    pub(super) workspace: &'a Workspace,
    /// The same, as the job sees it.
    pub(super) seen: &'a Workspace,
}

/// Gives up every right that a job does not need. This cannot be undone.
///
/// Returns the version of the Landlock ABI in use.
///
/// # Errors
/// If a layer of the policy cannot be applied. The process must exit then.
pub(super) fn confine(policy: &Policy, subject: &Subject<'_>) -> Result<Option<u8>, ConfineError> {
    let writable = policy.writable(subject.workspace, subject.seen);
    let readable = [subject.readable, &policy.network_files].concat();
    if let Some(namespaces) = &policy.namespaces {
        namespaces.enter(&View {
            mountpoint: &subject.workspace.root,
            writable: &writable,
            readable: &readable,
            shared_memory: shared_memory(subject.limits),
        })?;
    }
    // When memory runs out, the kernel should kill jobs before the processes that contain them.
    set_oom_score();
    // All processes of a container share one scheduling group, so a job with many processes could
    // starve its keeper and the adapter.
    let _ = setpriority_process(None, LOWEST_PRIORITY);
    if policy.limits {
        set_limits(policy, subject).map_err(ConfineError::Limits)?;
    }
    if let Some(ids) = subject.ids {
        let shared_group = policy.block.as_ref().map(|block| block.service);
        become_user(ids, shared_group).map_err(ConfineError::User)?;
    }
    drop_capabilities().map_err(ConfineError::Capabilities)?;
    set_no_new_privs(true).map_err(|error| ConfineError::NoNewPrivileges(error.into()))?;
    let mut landlock = None;
    if policy.landlock {
        landlock = files::restrict(
            &policy.common_files,
            &readable,
            writable.iter().map(|(_, seen)| *seen),
            policy.has_network(),
        )?;
    }
    if let Some(filters) = &policy.filters {
        filters.apply()?;
    }
    Ok(landlock)
}

/// How large `/dev/shm` may be, in bytes and files. It is memory that no process has, so the limit on memory
/// does not include it.
fn shared_memory(limits: &StageLimits) -> (u64, u64) {
    (limits.job_bytes.min(limits.memory / 2), limits.job_files)
}

/// Changes to a job's user and group for good, with the data directory's group as the only other one.
///
/// # Errors
/// If this process lacks the capabilities.
pub(super) fn become_user(ids: JobIds, shared_group: Option<u32>) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
    let groups: Vec<_> = shared_group.map(Gid::from_raw).into_iter().collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Gives up all capabilities. With `no_new_privs`, no program that is executed has more, not even as root.
fn drop_capabilities() -> io::Result<()> {
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    Ok(set_capabilities(None, sets)?)
}

/// The kernel's limits per process that a request can change.
fn request_limits(limits: &StageLimits, is_kernel: bool) -> [(Resource, Option<u64>); 2] {
    if is_kernel {
        // A failed allocation is an error in the cell; being killed loses the variables.
        return [(Resource::Cpu, None), (Resource::Data, Some(limits.memory))];
    }
    // The keeper enforces CPU time over the whole process tree; this limit is a backstop. The margin
    // also covers what a pre-started program has used before its job.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the number is positive and the cast saturates"
    )]
    let cpu_seconds = (limits.cpu_ms / 1000.0).ceil().max(1.0) as u64 + 3;
    // The limit is on resident memory, and reserving address space costs nothing, so this is far
    // above it. It makes unbounded allocation fail even if it is too fast for the keeper to see.
    let data = limits.memory.saturating_add(limits.memory.max(256 << 20));
    [
        (Resource::Cpu, Some(cpu_seconds)),
        (Resource::Data, Some(data)),
    ]
}

/// Lowers the limits that [`confine`] has set, in processes that already run.
///
/// Without `CAP_SYS_RESOURCE`, `prlimit` works only on processes of the caller's own user, so a child
/// changes to that user first.
///
/// # Errors
/// If the child cannot be started or the kernel refuses the change.
pub(super) fn lower_limits(
    proof: SingleThreaded,
    ids: Option<JobIds>,
    processes: &[i32],
    limits: &StageLimits,
) -> Result<(), LowerLimitsError> {
    let lower = || -> io::Result<()> {
        if let Some(ids) = ids {
            become_user(ids, None)?;
        }
        for process in processes {
            for (resource, limit) in request_limits(limits, false) {
                let rlimit = Rlimit {
                    current: limit,
                    maximum: limit,
                };
                prlimit(Pid::from_raw(*process), resource, rlimit)?;
            }
        }
        Ok(())
    };
    match sys::fork(proof).map_err(LowerLimitsError::Fork)? {
        Fork::Child => sys::exit_now(i32::from(lower().is_err())),
        Fork::Parent(child) => match sys::wait(Some(child), WaitMode::Block) {
            Wait::Ended(Reaped {
                end: ExitStatus::Exit(0),
                ..
            }) => Ok(()),
            _ => Err(LowerLimitsError::Refused),
        },
    }
}

fn set_limits(policy: &Policy, subject: &Subject<'_>) -> io::Result<()> {
    let limits = subject.limits;
    // The kernel counts processes by user. Those that a shared user already has are not the job's. Of this
    // program's processes above the job's program, only one counts as the job's.
    let not_counted = policy.processes_above_program().saturating_sub(1) as u64;
    let processes = limits
        .processes
        .saturating_add(subject.shared_processes + not_counted);
    let mut open_files = limits.open_files;
    if subject.ids.is_none()
        && let Some(hard_limit) = getrlimit(Resource::Nofile).maximum
    {
        // The hard limit also bounds the descriptors in flight through sockets, for all processes of the user
        // together. The engine needs some of them.
        open_files = open_files.min((hard_limit / 2).max(USUAL_OPEN_FILES));
    }
    let [cpu, data] = request_limits(limits, subject.is_kernel);
    for (resource, limit) in [
        (Resource::Nproc, Some(processes)),
        (Resource::Nofile, Some(open_files)),
        (Resource::Fsize, Some(limits.file_size)),
        cpu,
        data,
        (Resource::Core, Some(0)),
        (Resource::Memlock, Some(64 << 10)),
        (Resource::Msgqueue, Some(0)),
        // POSIX timers count, too, of which the kernel otherwise allows tens of thousands.
        (Resource::Sigpending, Some(1024)),
        // As in Piston's sandbox: the memory limit bounds deep recursion.
        (Resource::Stack, None),
    ] {
        // A hard limit can only be lowered: root in a container usually lacks `CAP_SYS_RESOURCE`.
        let hard_limit = getrlimit(resource).maximum;
        let allowed = match (limit, hard_limit) {
            (Some(limit), Some(hard_limit)) => Some(limit.min(hard_limit)),
            (None, limit) | (limit, None) => limit,
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

/// Makes this process the first that the kernel kills when memory runs out. Failure is ignored, since
/// `/proc` may be read-only or not mounted.
fn set_oom_score() {
    // While a process is not dumpable, root owns its files in `/proc` and this write is refused. No
    // program of the job runs yet that could use the moment in between.
    let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open("/proc/self/oom_score_adj", flags, Mode::empty()) {
        let _ = rustix::io::write(file, b"1000");
    }
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
