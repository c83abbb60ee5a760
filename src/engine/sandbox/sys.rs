//! The system calls for which there is no safe wrapper elsewhere. All `unsafe` of the crate is in
//! this file.
#![allow(unsafe_code, reason = "system calls")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use rustix::process::Pid;

/// Proof that this process has one thread.
///
/// A forked copy of a process with several threads may only call async-signal-safe functions, for
/// another thread may have held a lock when the copy was made. The spawner and all that it forks
/// have one thread by construction, so that ordinary code may run there between fork and exec.
#[derive(Debug, Clone, Copy)]
pub(super) struct OneThread(());

impl OneThread {
    /// # Errors
    /// Where the process has more than one thread, or `/proc` is not there to tell.
    pub(super) fn check() -> io::Result<Self> {
        match std::fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(Self(())),
            n => Err(io::Error::other(format!(
                "{n} threads where one is allowed"
            ))),
        }
    }
}

/// Which side of a fork this is.
pub(super) enum Fork {
    /// The parent, with the child's id.
    Parent(Pid),
    /// The child.
    Child,
}

/// Makes a copy of this process.
///
/// # Errors
/// What `fork` says.
pub(super) fn fork(_proof: OneThread) -> io::Result<Fork> {
    // SAFETY: the process has a single thread, as the proof says, so that no lock is held by a
    // thread that the copy lacks; the copy may run any code.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid)
            .map(Fork::Parent)
            .ok_or_else(|| io::Error::other("fork answered with no process")),
    }
}

/// Ends this process at once: no destructor, no buffer of the parent's is flushed a second time.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// A child that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reaped {
    /// Its process id.
    pub(super) pid: i32,
    /// How it ended.
    pub(super) end: End,
    /// CPU time of it and of the children that it waited for.
    pub(super) cpu: Duration,
    /// Highest resident memory in bytes of it or of one of the children that it waited for.
    pub(super) peak_memory: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It exited with this code.
    Exit(i32),
    /// This signal killed it.
    Signal(i32),
}

/// Whether [`wait`] returns when no child has ended yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Until a child ends.
    Block,
    /// Not at all.
    Poll,
}

/// What [`wait`] found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wait {
    /// A child that has ended.
    Ended(Reaped),
    /// Children, but none that has ended.
    Running,
    /// No children.
    Childless,
}

/// Collects a child that has ended: the one with this id, or any.
pub(super) fn wait(pid: Option<Pid>, waiting: Waiting) -> Wait {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let flags = match waiting {
        Waiting::Block => 0,
        Waiting::Poll => libc::WNOHANG,
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
            -1 => return Wait::Childless,
            0 => return Wait::Running,
            pid => {
                // SAFETY: zeroed is a valid rusage, and wait4 has filled it.
                let usage = unsafe { usage.assume_init() };
                return Wait::Ended(Reaped {
                    pid,
                    end: if libc::WIFSIGNALED(status) {
                        End::Signal(libc::WTERMSIG(status))
                    } else {
                        End::Exit(libc::WEXITSTATUS(status))
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

/// Sends a signal to every process that this one may signal, itself excepted.
pub(super) fn kill_all_i_may() {
    // SAFETY: `kill` touches no memory.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// Sends SIGKILL to one process.
pub(super) fn kill(pid: i32) {
    if pid > 1 {
        // SAFETY: `kill` touches no memory.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// What `close_range` says.
pub(super) fn close_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(io::Error::other)?;
    // SAFETY: the callers are about to exec or to fork workers, and use none of these descriptors
    // afterwards, nor drop an owner of one: they leave by exec or by `exit_now`.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes `number` a copy of `fd`.
///
/// # Errors
/// What `dup2` says.
pub(super) fn copy_to(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: the callers pass 0, 1 or 2, which no owner in this process holds.
    match unsafe { libc::dup2(fd.as_raw_fd(), number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Takes up the descriptor that the engine passed as standard input.
pub(super) fn take_stdin() -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the spawner is started with its control socket as descriptor 0, and nothing else in
    // it uses standard input.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(0) }
}

/// Gives every signal its default action and blocks none, whatever the engine's parent had set.
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
    }
}

/// CPU time that a process has used so far; zero where there is no such process.
pub(super) fn cpu_time_of(pid: i32) -> Duration {
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

/// Clock ticks a second, the unit of times in `/proc/PID/stat`.
pub(super) fn ticks_per_second() -> u64 {
    // SAFETY: `sysconf` touches no memory of ours.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) })
        .ok()
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100)
}

/// Makes this whole process, with all its threads, one of an ordinary user for good, whose new
/// files its group may write, and which that user's other processes cannot look into.
///
/// # Errors
/// Where the change is refused.
pub(in crate::engine) fn become_service(id: u32) -> io::Result<()> {
    let checked = |result: i32| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // The C library's functions, unlike the bare system calls, change every thread.
    // SAFETY: none of these reads or writes memory of ours; the empty list of groups has no
    // elements to be read.
    unsafe {
        checked(libc::setgroups(0, std::ptr::null()))?;
        checked(libc::setresgid(id, id, id))?;
        checked(libc::setresuid(id, id, id))?;
        libc::umask(0o002);
    }
    Ok(())
}
