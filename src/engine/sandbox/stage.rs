//! Runs one stage of a job: starts its init, enforces the limits and ends every process.
//!
//! It runs in the keeper, which is the subreaper of all the stage's processes, so none of them can
//! escape by losing its parent. The kernel has no limits per process tree without a control group,
//! which needs rights that this engine does without; CPU time, memory and disk usage are polled, and
//! memory and disk usage are looked at once more in the end.

use std::collections::HashSet;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::confine::become_user;
use super::disk::Leftovers;
use super::disk_watch::{DiskUsage, DiskWatch, JobFiles};
use super::held::{HeldWatch, Surroundings};
use super::init::{FIRST_FREE, InitContext, InitReport, run_init};
use super::log;
use super::policy::Policy;
use super::process_tree::{
    Process, group_of, oldest_child, oldest_line, running_below, task_count, usage_below,
};
use super::protocol::{Cause, Ended, Order, StageLimits, StageOrder};
use super::slots::{JobIds, Slot};
use super::sys::{self, ExitStatus, Fork, Reaped, SingleThreaded, Wait, WaitMode};
use super::wire::{Wire, WireError};
use super::workspace::{Workspace, give};

/// Longest and shortest time between two measurements.
const MAX_INTERVAL: Duration = Duration::from_millis(50);
const MIN_INTERVAL: Duration = Duration::from_millis(5);
/// Memory in bytes that a program can take in a second, about.
const BYTES_PER_SECOND: u64 = 2 << 30;
/// How long killed processes may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// After what time all processes of the session's user are killed, if those of one job do not end.
const LAST_RESORT: Duration = Duration::from_secs(2);
/// How many processes are reaped before limits and messages are checked again.
pub(super) const MAX_REAPED: usize = 1000;
/// How long a program that was interrupted may take to end.
const FLUSH_TIME: Duration = Duration::from_millis(500);
/// For how long new processes of a job are looked for before those that were found are killed.
const MAX_STOP_TIME: Duration = Duration::from_millis(200);

/// Why a stage could not be run.
#[derive(Debug, thiserror::Error)]
pub(super) enum StageError {
    #[error("cannot give the standard streams to the job's user: {0}")]
    Streams(#[source] io::Error),
    #[error("cannot write a file in the job's HOME: {0}")]
    Home(#[source] io::Error),
    #[error("cannot start the job's init: {0}")]
    Start(#[source] io::Error),
    /// What the job's init reported.
    #[error("{0}")]
    Init(String),
    #[error("cannot watch the job's processes: {0}")]
    Watch(#[source] io::Error),
    #[error("cannot interrupt the job's processes: {0}")]
    Interrupt(#[source] io::Error),
    #[error("processes of the job do not end")]
    Unkillable,
    #[error("an order other than to kill arrived during a stage")]
    UnexpectedOrder,
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A stage that is about to run.
pub(super) struct Stage<'a> {
    pub(super) proof: SingleThreaded,
    pub(super) policy: &'a Policy,
    pub(super) wire: &'a mut Wire,
    pub(super) workspace: &'a Workspace,
    pub(super) slot: Slot,
    pub(super) order: &'a StageOrder,
    /// Whether others may have the job's user when it begins.
    pub(super) shares_user_now: bool,
    pub(super) surroundings: Surroundings,
    /// What the job leaves in shared directories.
    pub(super) leftovers: Option<Leftovers>,
    /// What was on disk when the job began.
    pub(super) before: DiskUsage,
}

/// What is known of the children that have been reaped.
#[derive(Debug, Default)]
pub(super) struct ReapedChildren {
    pub(super) cpu: Duration,
    pub(super) peak_memory: u64,
    pub(super) init: Option<ExitStatus>,
}

impl Stage<'_> {
    /// Runs the stage until no process of it is left. Returns `None` if the engine hung up.
    ///
    /// # Errors
    /// If the program could not be started, or its processes do not end.
    pub(super) fn run(self, stdio: [OwnedFd; 3]) -> Result<Option<Ended>, StageError> {
        let baseline = Baseline::now();
        self.workspace
            .create_home_files(&self.order.home, self.slot.ids)
            .map_err(StageError::Home)?;
        let program = self.start(&stdio)?;
        drop(stdio);
        self.supervise(program, baseline)
    }

    /// Where the job's files are.
    pub(super) fn files(&self) -> JobFiles {
        JobFiles {
            root: self.workspace.root.clone(),
            data_dir: self.policy.data_dir.clone(),
            leftovers: self.leftovers.clone(),
            user_namespace: self.policy.user_namespace().map(|user| (user, self.proof)),
        }
    }

    /// Starts the job's init, which starts the program.
    ///
    /// # Errors
    /// If there is no new process. [`Program::final_cause`] returns what fails within it.
    pub(super) fn start(&self, descriptors: &[OwnedFd]) -> Result<Program, StageError> {
        for fd in descriptors.iter().take(3) {
            // Opening /dev/stdout opens this pipe by path, for which the job's user needs to own it.
            give(fd, self.slot.ids).map_err(StageError::Streams)?;
        }
        let shared_processes = match self.slot.ids {
            _ if self.policy.counts_processes() => 0,
            Some(ids) if ids.is_sole_user || !self.shares_user_now => 0,
            Some(ids) => task_count(ids.uid),
            None => task_count(rustix::process::getuid().as_raw()),
        };
        let start_failed = |error: rustix::io::Errno| StageError::Start(error.into());
        let (report_reader, report) = pipe_with(PipeFlags::CLOEXEC).map_err(start_failed)?;
        // None of the numbers that init gives to the program's descriptors.
        let report = fcntl_dupfd_cloexec(report, FIRST_FREE).map_err(start_failed)?;
        match self.policy.fork(self.proof).map_err(StageError::Start)? {
            Fork::Parent(init) => Ok(Program {
                init,
                exit_fd: pidfd_open(init, PidfdFlags::empty()).map_err(start_failed)?,
                report: report_reader.into(),
            }),
            Fork::Child => run_init(&InitContext {
                proof: self.proof,
                policy: self.policy,
                order: self.order,
                workspace: self.workspace,
                descriptors,
                ids: self.slot.ids,
                shared_processes,
                report: &report,
            }),
        }
    }

    /// Enforces the limits until the program ends, then ends every other process of the stage. Returns
    /// `None` if the engine hung up.
    ///
    /// # Errors
    /// If the program could not be started, or its processes do not end.
    pub(super) fn supervise(
        self,
        mut program: Program,
        baseline: Baseline,
    ) -> Result<Option<Ended>, StageError> {
        let mut reaped = ReapedChildren::default();
        let mut watch = Watch::new(&self, baseline);
        let cause = watch.wait_for_end(&program, self.wire, &mut reaped);
        let wall = baseline.time.elapsed();
        kill_and_reap(self.proof, self.slot.ids, Some(program.init), &mut reaped)?;
        let Some(cause) = cause? else {
            return Ok(None);
        };
        let cause = program.final_cause(cause)?;
        Ok(Some(watch.verdict(cause, wall, &reaped)))
    }
}

impl From<ExitStatus> for Cause {
    fn from(status: ExitStatus) -> Self {
        match status {
            ExitStatus::Exit(code) => Self::Exit(code),
            ExitStatus::Signal(signal) => Self::Signal(signal),
        }
    }
}

/// A started program, by its init.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) init: Pid,
    /// Readable once init has ended.
    pub(super) exit_fd: OwnedFd,
    /// Where init writes its [`InitReport`].
    report: std::fs::File,
}

impl Program {
    /// The cause of a stage's end, with what init's exit code does not say. To be called once init has ended,
    /// as it blocks until then.
    ///
    /// # Errors
    /// What failed before the program was started.
    pub(super) fn final_cause(&mut self, cause: Cause) -> Result<Cause, StageError> {
        let mut report = Vec::new();
        self.report
            .read_to_end(&mut report)
            .map_err(StageError::Watch)?;
        match serde_json::from_slice(&report) {
            Ok(InitReport::Failed(failure)) => Err(StageError::Init(failure)),
            Ok(InitReport::Killed(signal)) if matches!(cause, Cause::Exit(_)) => {
                Ok(Cause::Signal(signal))
            }
            _ => Ok(cause),
        }
    }

    /// The process of the program itself, if it has been started.
    pub(super) fn pid(&self, policy: &Policy) -> Option<i32> {
        let above = self.above(policy);
        above.last().and_then(|last| oldest_child(*last))
    }

    /// The processes above it: its init, and others of this program's own.
    fn above(&self, policy: &Policy) -> Vec<i32> {
        let init = self.init.as_raw_nonzero().get();
        oldest_line(init, policy.processes_above_program())
    }

    /// Sends SIGINT to the program's process group, but for those above it, as a terminal would.
    ///
    /// # Errors
    /// If the child that sends it cannot be started.
    pub(super) fn interrupt(
        &self,
        policy: &Policy,
        proof: SingleThreaded,
        ids: Option<JobIds>,
    ) -> Result<(), StageError> {
        let Some(group) = self.pid(policy).and_then(group_of) else {
            return Ok(());
        };
        let above = self.above(policy);
        let mut foreground = running_below(rustix::process::getpid().as_raw_nonzero().get(), &[]);
        foreground.retain(|process| {
            !above.contains(&process.pid) && group_of(process.pid) == Some(group)
        });
        // Without CAP_KILL only the user itself may signal its processes.
        as_user(proof, ids, || {
            for process in foreground {
                process.signal(Signal::INT);
            }
        })
        .map_err(StageError::Interrupt)
    }
}

/// The point from which a stage's time and CPU usage count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Baseline {
    pub(super) time: Instant,
    /// CPU time that the stage's processes had used before.
    pub(super) cpu: Duration,
}

impl Baseline {
    /// For a stage whose first process is started now.
    pub(super) fn now() -> Self {
        Self {
            time: Instant::now(),
            cpu: Duration::ZERO,
        }
    }
}

/// Measures a running stage against its limits.
struct Watch<'a> {
    proof: SingleThreaded,
    policy: &'a Policy,
    is_interrupted_first: bool,
    ids: Option<JobIds>,
    limits: StageLimits,
    disk: DiskWatch,
    held: HeldWatch,
    baseline: Baseline,
    ticks_per_second: u64,
    peak_cpu: Duration,
    peak_memory: u64,
}

impl<'a> Watch<'a> {
    fn new(stage: &Stage<'a>, baseline: Baseline) -> Self {
        Self {
            proof: stage.proof,
            policy: stage.policy,
            is_interrupted_first: stage.order.is_interrupted_first,
            ids: stage.slot.ids,
            limits: stage.order.limits,
            disk: DiskWatch::new(stage.order.limits, stage.files(), stage.before),
            held: HeldWatch::new(stage.surroundings, stage.policy),
            baseline,
            ticks_per_second: sys::ticks_per_second(),
            peak_cpu: Duration::ZERO,
            peak_memory: 0,
        }
    }

    /// Waits until init ends, a limit is exceeded or the engine orders the end. Returns `None` if the
    /// engine hung up.
    fn wait_for_end(
        &mut self,
        program: &Program,
        wire: &mut Wire,
        reaped: &mut ReapedChildren,
    ) -> Result<Option<Cause>, StageError> {
        let init = program.init;
        let wall = Duration::from_secs_f64(self.limits.wall_ms.max(0.0) / 1000.0);
        // With a large limit a short program ends before the first measurement, and its peak memory is
        // checked once it has been reaped.
        let mut interval = poll_interval(0, self.limits.memory);
        // The time limit because of which the program was interrupted, and when it is killed.
        let mut flushing: Option<(Cause, Instant)> = None;
        loop {
            let left = match flushing {
                Some((_, until)) => until.saturating_duration_since(Instant::now()),
                None => wall.saturating_sub(self.baseline.time.elapsed()),
            };
            if left.is_zero() {
                if let Some((cause, _)) = flushing {
                    return Ok(Some(cause));
                }
                if !self.is_interrupted_first {
                    return Ok(Some(Cause::WallLimit));
                }
                self.interrupt(program)?;
                flushing = Some((Cause::WallLimit, Instant::now() + FLUSH_TIME));
                continue;
            }
            let mut fds = [
                PollFd::new(&program.exit_fd, PollFlags::IN),
                PollFd::from_borrowed_fd(wire.as_fd(), PollFlags::IN),
            ];
            let timeout = left.min(interval).min(self.disk.time_left());
            let ready = poll_for(&mut fds, timeout).map_err(StageError::Watch)?;
            let [init_ended, message_arrived] = fds.map(|fd| !fd.revents().is_empty());
            if init_ended {
                reap(reaped, Some(init));
                if let Some(status) = reaped.init {
                    let limit = flushing.map(|(cause, _)| cause);
                    return Ok(Some(limit.unwrap_or_else(|| status.into())));
                }
            }
            if message_arrived {
                match wire.receive()? {
                    None => return Ok(None),
                    Some(Order::Kill) => return Ok(Some(Cause::Killed)),
                    Some(_) => return Err(StageError::UnexpectedOrder),
                }
            }
            if ready == 0 {
                reap(reaped, Some(init));
                match self.measure(init, reaped) {
                    // It goes on beyond this limit until it has ended or is killed.
                    Some(Cause::CpuLimit) if flushing.is_some() => {}
                    Some(Cause::CpuLimit) if self.is_interrupted_first => {
                        self.interrupt(program)?;
                        flushing = Some((Cause::CpuLimit, Instant::now() + FLUSH_TIME));
                    }
                    Some(cause) => return Ok(Some(cause)),
                    None => {}
                }
                interval = poll_interval(self.peak_memory, self.limits.memory);
            }
        }
    }

    fn interrupt(&self, program: &Program) -> Result<(), StageError> {
        program.interrupt(self.policy, self.proof, self.ids)
    }

    /// Measures the processes once. Returns the limit that they exceed.
    fn measure(&mut self, init: Pid, reaped: &ReapedChildren) -> Option<Cause> {
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let mut usage = usage_below(me, self.ticks_per_second);
        let limit = self.limits.memory;
        self.held
            .add_to(&mut usage, limit, init, self.proof, self.ids);
        let cpu = (usage.cpu + reaped.cpu).saturating_sub(self.baseline.cpu);
        self.peak_cpu = self.peak_cpu.max(cpu);
        self.peak_memory = self.peak_memory.max(usage.memory);
        if usage.memory > self.limits.memory {
            return Some(Cause::MemoryLimit);
        }
        if millis(self.peak_cpu) > self.limits.cpu_ms {
            return Some(Cause::CpuLimit);
        }
        if self.held.has_too_many_terminals() {
            log::warn("killed a job", &"it has too many pseudo-terminals");
            return Some(Cause::Killed);
        }
        self.disk.is_over_limit().then_some(Cause::DiskLimit)
    }

    /// How the stage ended, once all its processes have been reaped. Like Piston's sandbox, this also
    /// checks the final figures, so a program that ended by itself can still have exceeded a limit.
    fn verdict(&mut self, cause: Cause, wall: Duration, reaped: &ReapedChildren) -> Ended {
        let cpu = reaped.cpu.saturating_sub(self.baseline.cpu);
        let cpu_ms = millis(self.peak_cpu.max(cpu));
        let memory = self.peak_memory.max(reaped.peak_memory);
        let by_itself = matches!(cause, Cause::Exit(_) | Cause::Signal(_));
        let cause = if by_itself && reaped.peak_memory > self.limits.memory {
            Cause::MemoryLimit
        } else if by_itself && cpu_ms > self.limits.cpu_ms {
            Cause::CpuLimit
        } else if by_itself && self.disk.ends_over_limit() {
            Cause::DiskLimit
        } else {
            cause
        };
        Ended {
            cause,
            wall_ms: millis(wall),
            cpu_ms,
            memory,
        }
    }
}

/// How long a program can take to reach its memory limit from this usage, in bytes.
pub(super) fn poll_interval(used: u64, limit: u64) -> Duration {
    let micros = limit.saturating_sub(used) / (BYTES_PER_SECOND / 1_000_000);
    Duration::from_micros(micros).clamp(MIN_INTERVAL, MAX_INTERVAL)
}

pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Waits until one of the descriptors is ready, and returns how many are.
///
/// # Errors
/// Those of `poll`.
pub(super) fn poll_for(fds: &mut [PollFd<'_>], timeout: Duration) -> io::Result<usize> {
    let timeout =
        Timespec::try_from(timeout).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    match poll(fds, Some(&timeout)) {
        Err(rustix::io::Errno::INTR) => Ok(0),
        other => Ok(other?),
    }
}

/// Reaps the children that have ended: init, and orphans that were reparented to this process.
/// Returns whether there are more children.
///
/// A program can start and end processes faster than they are reaped, so one call reaps at most [`MAX_REAPED`].
pub(super) fn reap(reaped: &mut ReapedChildren, init: Option<Pid>) -> bool {
    for _ in 0..MAX_REAPED {
        match sys::wait(None, WaitMode::Poll) {
            Wait::Ended(child) => add(reaped, init, child),
            Wait::Running => return true,
            Wait::NoChildren => return false,
        }
    }
    true
}

fn add(reaped: &mut ReapedChildren, init: Option<Pid>, child: Reaped) {
    reaped.cpu += child.cpu;
    reaped.peak_memory = reaped.peak_memory.max(child.peak_memory);
    if init.is_some_and(|init| child.pid == init.as_raw_nonzero().get()) {
        reaped.init = Some(child.end);
    }
}

/// Kills what is left of the stage and waits until it has ended. Once there are no children there are
/// no descendants either, because this process is their reaper.
pub(super) fn kill_and_reap(
    proof: SingleThreaded,
    ids: Option<JobIds>,
    init: Option<Pid>,
    reaped: &mut ReapedChildren,
) -> Result<(), StageError> {
    let started = Instant::now();
    let mut is_last_resort = false;
    while reap(reaped, init) {
        if started.elapsed() > KILL_TIMEOUT {
            return Err(StageError::Unkillable);
        }
        let is_late = started.elapsed() > LAST_RESORT;
        match ids {
            Some(ids) if ids.is_sole_user || is_late => {
                if is_late && !ids.is_sole_user && !is_last_resort {
                    let reason = "processes of a job did not end within 2 s";
                    log::warn("killed all processes of the session's user", &reason);
                    is_last_resort = true;
                }
                kill_user(proof, ids)
            }
            _ => kill_below(proof, rustix::process::getpid(), &[], ids),
        }
        poll_for(&mut [], Duration::from_micros(300)).map_err(StageError::Watch)?;
    }
    Ok(())
}

/// Kills what is left of a job, if anything is, and waits until it has ended.
///
/// # Errors
/// If a process does not end.
pub(super) fn kill_all(proof: SingleThreaded, slot: Slot) -> Result<(), StageError> {
    kill_and_reap(proof, slot.ids, None, &mut ReapedChildren::default())
}

/// Kills every process of a job's user in one system call, which no `fork` can outrun. `kill(-1)`
/// reaches all that the caller may signal, so a child makes the call after changing to that user. Where there
/// can be no child, the descendants of this process are stopped and killed.
pub(super) fn kill_user(proof: SingleThreaded, ids: JobIds) {
    if as_user(proof, Some(ids), sys::kill_all_permitted).is_err() {
        // The job may have taken the last process that there can be.
        stop_and_kill(rustix::process::getpid(), &[]);
    }
}

/// Kills the descendants of a process, but for `except` and theirs, for a job that shares its user.
pub(super) fn kill_below(proof: SingleThreaded, root: Pid, except: &[i32], ids: Option<JobIds>) {
    let act = || {
        // A child that does this is a descendant, too.
        let me = rustix::process::getpid().as_raw_nonzero().get();
        stop_and_kill(root, &[except, &[me]].concat());
    };
    // Without CAP_KILL only the user itself may signal its processes.
    if ids.is_none() || as_user(proof, ids, act).is_err() {
        stop_and_kill(root, except);
    }
}

/// Kills the descendants of a process that are found, but for `except` and theirs.
///
/// They are stopped first. A stopped process starts no other and keeps its place in the number of processes
/// that its user may have, so the search for new ones ends.
fn stop_and_kill(root: Pid, except: &[i32]) {
    let mut stopped: HashSet<Process> = HashSet::new();
    let until = Instant::now() + MAX_STOP_TIME;
    while Instant::now() < until {
        let mut new = running_below(root.as_raw_nonzero().get(), except);
        new.retain(|process| stopped.insert(*process));
        if new.is_empty() {
            break;
        }
        for process in new {
            process.signal(Signal::STOP);
        }
    }
    for process in stopped {
        process.signal(Signal::KILL);
    }
}

/// Runs `act` in a child process that has changed to the job's user, if jobs have users of their own, and
/// waits for it. Nothing is done if the child cannot change to that user.
///
/// # Errors
/// If the child cannot be started.
pub(super) fn as_user(
    proof: SingleThreaded,
    ids: Option<JobIds>,
    act: impl FnOnce(),
) -> io::Result<()> {
    match sys::fork(proof)? {
        Fork::Child => {
            if ids.is_none_or(|ids| become_user(ids, None).is_ok()) {
                act();
            }
            sys::exit_now(0)
        }
        Fork::Parent(child) => {
            sys::wait(Some(child), WaitMode::Block);
            Ok(())
        }
    }
}
