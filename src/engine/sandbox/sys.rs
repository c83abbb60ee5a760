//! System calls that have no safe wrapper elsewhere. All `unsafe` code of the crate is in this file.
//!
//! It knows nothing of jobs or policies. What makes the calls sound is stated in each `SAFETY` line
//! and, for `fork`, proven by [`SingleThreaded`].
#![allow(unsafe_code, reason = "system calls")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities,
};

use super::protocol::ServiceIds;

/// Why a process may not fork.
#[derive(Debug, thiserror::Error)]
pub(super) enum ThreadError {
    #[error("cannot count the threads of this process: {0}")]
    Count(#[source] io::Error),
    #[error("{0} threads where one is allowed")]
    SeveralThreads(usize),
}

/// Proof that this process has one thread.
///
/// A forked copy of a process with several threads may only call async-signal-safe functions, because
/// another thread may have held a lock at the time of the fork. The spawner and everything that it
/// forks have one thread by construction, so ordinary code may run there between fork and exec.
#[derive(Debug, Clone, Copy)]
pub(super) struct SingleThreaded(());

impl SingleThreaded {
    /// # Errors
    /// If the process has more than one thread, or `/proc` is not mounted.
    pub(super) fn check() -> Result<Self, ThreadError> {
        let threads = std::fs::read_dir("/proc/self/task").map_err(ThreadError::Count)?;
        match threads.count() {
            1 => Ok(Self(())),
            n => Err(ThreadError::SeveralThreads(n)),
        }
    }
}

/// Which side of a fork this is.
pub(super) enum Fork {
    /// The parent, with the child's id.
    Parent(Pid),
    Child,
}

/// Forks this process.
///
/// # Errors
/// Those of `fork`.
pub(super) fn fork(_proof: SingleThreaded) -> io::Result<Fork> {
    // SAFETY: the process has a single thread, as the proof says, so no lock is held by a thread
    // that the child lacks; the child may run any code.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent))
}

/// Forks this process into new namespaces, which `flags` of clone(2) choose.
///
/// # Errors
/// Those of `clone`: `EPERM` and `ENOSPC` where this process may not have such namespaces.
pub(super) fn fork_into(_proof: SingleThreaded, flags: libc::c_int) -> io::Result<Fork> {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    let none: libc::c_long = 0;
    // SAFETY: as for `fork`; without a stack of its own, and without CLONE_VM, the child goes on with a
    // copy of this process's memory. The C library is not told: it takes the child's thread id for the
    // parent's, which matters to `abort` alone.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(pid.map_or(Fork::Child, Fork::Parent))
}

/// Adds attributes (`MOUNT_ATTR_…`) to a mount, and to those below it if `is_recursive`.
///
/// # Errors
/// Those of `mount_setattr`.
pub(super) fn restrict_mount(
    mount: BorrowedFd<'_>,
    attributes: u64,
    is_recursive: bool,
) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let recursive = if is_recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a string that ends with zero, and the structure is as large as it is said to be.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// Brings the loopback interface of this process's network namespace up.
///
/// # Errors
/// Those of `ioctl`. `socket` is any internet socket.
pub(super) fn bring_loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed();
    }
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short,
        },
    };
    // SAFETY: the request reads a name that ends with zero, and the flags.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Exits at once. No destructor runs, and no buffer inherited from the parent is flushed twice.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// A child that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reaped {
    pub(super) pid: i32,
    pub(super) end: ExitStatus,
    /// CPU time, including that of the children that it waited for.
    pub(super) cpu: Duration,
    /// Peak resident memory in bytes, of the process or of any one child that it waited for.
    pub(super) peak_memory: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExitStatus {
    /// It exited with this code.
    Exit(i32),
    /// This signal killed it.
    Signal(i32),
}

/// What [`wait`] does while no child has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitMode {
    /// Wait until one ends.
    Block,
    Poll,
}

/// What [`wait`] found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wait {
    /// A child that has ended.
    Ended(Reaped),
    /// Children, but none that has ended.
    Running,
    NoChildren,
}

/// Reaps a child that has ended: the one with this id, or any.
pub(super) fn wait(pid: Option<Pid>, mode: WaitMode) -> Wait {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let flags = match mode {
        WaitMode::Block => 0,
        WaitMode::Poll => libc::WNOHANG,
    };
    let wanted = pid.map_or(-1, |pid| pid.as_raw_nonzero().get());
    loop {
        // SAFETY: both pointers are to live places of the right type for the call.
        let found = unsafe {
            libc::wait4(
                wanted,
                &raw mut status,
                flags | libc::__WALL,
                usage.as_mut_ptr(),
            )
        };
        match found {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Wait::NoChildren,
            0 => return Wait::Running,
            pid => {
                // SAFETY: zeroed is a valid rusage, and wait4 has filled it.
                let usage = unsafe { usage.assume_init() };
                return Wait::Ended(Reaped {
                    pid,
                    end: if libc::WIFSIGNALED(status) {
                        ExitStatus::Signal(libc::WTERMSIG(status))
                    } else {
                        ExitStatus::Exit(libc::WEXITSTATUS(status))
                    },
                    cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
                    peak_memory: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
                });
            }
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u32::try_from(time.tv_usec).unwrap_or(0);
    Duration::new(seconds, micros.saturating_mul(1000))
}

/// Sends SIGKILL to every process that this one may signal, except itself. The kernel does this in one
/// pass, which no `fork` can outrun.
pub(super) fn kill_all_permitted() {
    // SAFETY: `kill` touches no memory.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// Those of `close_range`.
pub(super) fn close_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: the callers are about to exec or to fork workers. Afterwards they neither use these
    // descriptors nor drop an owner of one: they leave by exec or by `exit_now`.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes `number` a copy of `fd`.
///
/// # Errors
/// Those of `dup2`.
pub(super) fn duplicate_to(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: the callers pass 0, 1 or 2, which no owner in this process holds, or 3 once all owners
    // that are still used have been moved above it.
    match unsafe { libc::dup2(fd.as_raw_fd(), number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Takes ownership of the descriptor that the engine passed as standard input.
pub(super) fn take_stdin() -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the spawner is started with its control socket as descriptor 0, and nothing else in
    // it uses standard input.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(0) }
}

/// Resets every signal to its default action and unblocks all, except that a closed pipe is an error and not
/// the end. Processes inherit both, so a program would otherwise see what the engine's parent had set.
pub(super) fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid action for each signal; where the call fails (SIGKILL,
        // SIGSTOP, and the two that the C library keeps) nothing is changed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut none = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `none` is written by sigemptyset before sigprocmask reads it.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Lets a closed pipe end this process, as programs expect.
pub(super) fn default_sigpipe() {
    // SAFETY: SIG_DFL is a valid action.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// CPU time that a process has used so far; zero if there is no such process.
pub(super) fn process_cpu_time(pid: i32) -> Duration {
    let mut clock = 0;
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: both places are live and of the right type; `clock` is read only after it was set.
    let found = unsafe {
        libc::clock_getcpuclockid(pid, &raw mut clock) == 0
            && libc::clock_gettime(clock, time.as_mut_ptr()) == 0
    };
    if !found {
        return Duration::ZERO;
    }
    // SAFETY: zeroed is a valid timespec, and the call has filled it.
    let time = unsafe { time.assume_init() };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Clock ticks per second, the unit of times in `/proc/PID/stat`.
pub(super) fn ticks_per_second() -> u64 {
    // SAFETY: `sysconf` touches no memory of ours.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) })
        .ok()
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100)
}

/// Changes this process, with all its threads, to an ordinary user for good. New files become
/// writable for its group.
///
/// This thread, and those that it starts from now on, access files as another user, that of `session`: what
/// setfsuid(2) is for. They create, read and change files as that user could, but processes of that user can
/// neither signal nor inspect this one. A group of the same number, in which no job is, protects the reserved
/// directory from jobs. Returns whether the kernel supports that.
///
/// # Errors
/// If the kernel refuses the change.
pub(in crate::engine) fn become_service(ids: ServiceIds) -> io::Result<bool> {
    let ServiceIds { service, session } = ids;
    let checked = |result: i32| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    let before = capabilities(None)?;
    set_keep_capabilities(true)?;
    // The bare system calls change one thread only; the C library's functions change all of them.
    // SAFETY: the list has one element, which is read. Nothing else reads or writes memory of ours.
    unsafe {
        checked(libc::setgroups(1, &raw const session))?;
        checked(libc::setresgid(service, service, service))?;
        checked(libc::setresuid(service, service, service))?;
        libc::umask(0o002);
    }
    let mut only_setuid = CapabilitySets {
        effective: CapabilitySet::SETUID & before.permitted,
        permitted: CapabilitySet::SETUID & before.permitted,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, only_setuid)?;
    // SAFETY: `setfsuid` touches no memory. It returns the id that was in force before, also where it
    // fails; an id that nobody has changes nothing.
    let in_force = unsafe {
        libc::setfsuid(session);
        libc::setfsuid(u32::MAX)
    };
    only_setuid.effective = CapabilitySet::empty();
    only_setuid.permitted = CapabilitySet::empty();
    set_capabilities(None, only_setuid)?;
    set_keep_capabilities(false)?;
    Ok(u32::try_from(in_force).is_ok_and(|id| id == session))
}
