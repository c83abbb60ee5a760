//! One stage of a job, watched by its keeper from the first process to the last.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fchown;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Pid, PidfdFlags, Uid, pidfd_open};

use crate::tree::Space;

use super::disk_watch::{DiskWatch, Watched};
use super::policy::Policy;
use super::process_tree::usage_below;
use super::program::{Start, stand_above};
use super::protocol::{Cause, Ended, Order, StageLimits, StageOrder};
use super::slots::Slot;
use super::sys::{self, End, Fork, OneThread, Reaped, Wait, Waiting};
use super::wire::Wire;
use super::workspace::Workspace;

/// Time between two looks at what the processes use, while they are far from the limits.
const LOOK_SELDOM: Duration = Duration::from_millis(25);
/// The same, once half of the memory is in use.
const LOOK_OFTEN: Duration = Duration::from_millis(5);
/// A memory limit below which the processes are looked at often from the start, in bytes.
const LITTLE_MEMORY: u64 = 256 << 20;
/// How long killed processes may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// What has to be known to run a stage.
pub(super) struct Stage<'a> {
    pub(super) proof: OneThread,
    pub(super) policy: &'a Policy,
    pub(super) wire: &'a mut Wire,
    pub(super) workspace: &'a Workspace,
    pub(super) slot: Slot,
    pub(super) order: &'a StageOrder,
    pub(super) data_before: Space,
}

/// CPU time and memory of the children that have been collected.
#[derive(Debug, Default)]
struct Collected {
    cpu: Duration,
    peak_memory: u64,
    main: Option<End>,
}

impl Stage<'_> {
    /// Runs the stage to its end; `None` where the engine hung up. No process of it is left.
    ///
    /// # Errors
    /// Where the program could not be started, or its processes do not go away.
    pub(super) fn run(self, stdio: [OwnedFd; 3]) -> io::Result<Option<Ended>> {
        let begin = Begin::now();
        let program = self.start(&stdio)?;
        drop(stdio);
        self.see_through(program, begin)
    }

    /// Starts the program.
    ///
    /// # Errors
    /// Where that is not possible. What goes wrong in the new process is told later.
    pub(super) fn start(&self, stdio: &[OwnedFd; 3]) -> io::Result<Program> {
        for fd in stdio {
            // So that the program can open /dev/stdout, which is this pipe under another name.
            if let Some(id) = self.slot.uid {
                fchown(fd, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
            }
        }
        let shared_processes = match self.slot.uid {
            Some(_) => 0,
            None => own_tasks(),
        };
        let (told, failure) = pipe_with(PipeFlags::CLOEXEC)?;
        match sys::fork(self.proof)? {
            Fork::Parent(main) => Ok(Program {
                main,
                ends: pidfd_open(main, PidfdFlags::empty())?,
                told: told.into(),
            }),
            Fork::Child => stand_above(&Start {
                policy: self.policy,
                order: self.order,
                workspace: self.workspace,
                stdio,
                uid: self.slot.uid,
                shared_processes,
                failure: &failure,
            }),
        }
    }

    /// Watches the program to its end; `None` where the engine hung up. No process of it is left.
    ///
    /// # Errors
    /// Where the program could not be started, or its processes do not go away.
    pub(super) fn see_through(
        self,
        mut program: Program,
        begin: Begin,
    ) -> io::Result<Option<Ended>> {
        let mut collected = Collected::default();
        let mut watch = Watch::new(&self, begin);
        let cause = watch.until_the_end(&program, self.wire, &mut collected);
        let wall = begin.time.elapsed();
        end_and_collect(self.proof, self.slot, Some(program.main), &mut collected)?;
        let Some(cause) = cause? else {
            return Ok(None);
        };
        program.find_failure()?;
        Ok(Some(watch.verdict(cause, wall, &collected)))
    }
}

/// A program that was started, with the process above it.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) main: Pid,
    /// Readable when the process above the program has ended.
    pub(super) ends: OwnedFd,
    /// Where that process tells what went wrong before the program was started.
    told: std::fs::File,
}

impl Program {
    /// What went wrong before the program was started. To be called when it has ended.
    ///
    /// # Errors
    /// That which went wrong.
    pub(super) fn find_failure(&mut self) -> io::Result<()> {
        let mut problem = String::new();
        self.told.read_to_string(&mut problem)?;
        if problem.is_empty() {
            Ok(())
        } else {
            Err(io::Error::other(problem))
        }
    }
}

/// From where on a job answers for what it uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begin {
    pub(super) time: Instant,
    /// CPU time that its processes had used before.
    pub(super) cpu: Duration,
}

impl Begin {
    /// The job's first process is started now.
    pub(super) fn now() -> Self {
        Self {
            time: Instant::now(),
            cpu: Duration::ZERO,
        }
    }
}

/// What the keeper looks after while the stage runs.
struct Watch {
    limits: StageLimits,
    disk: DiskWatch,
    begin: Begin,
    ticks_per_second: u64,
    highest_cpu: Duration,
    highest_memory: u64,
}

impl Watch {
    fn new(stage: &Stage<'_>, begin: Begin) -> Self {
        let watched = Watched {
            limits: stage.order.limits,
            root: &stage.workspace.root,
            data_dir: &stage.policy.data_dir,
            data_before: stage.data_before,
            uid: stage.slot.uid,
        };
        Self {
            limits: stage.order.limits,
            disk: DiskWatch::new(&watched, begin.time),
            begin,
            ticks_per_second: sys::ticks_per_second(),
            highest_cpu: Duration::ZERO,
            highest_memory: 0,
        }
    }

    /// Waits for the main process, a limit, or word from the engine; `None` where it hung up.
    fn until_the_end(
        &mut self,
        program: &Program,
        wire: &mut Wire,
        collected: &mut Collected,
    ) -> io::Result<Option<Cause>> {
        let main = program.main;
        let wall = Duration::from_secs_f64(self.limits.wall_ms.max(0.0) / 1000.0);
        // Little memory is used up fast; otherwise a short program is not looked at at all, and
        // answers for its peak when it has ended.
        let mut pause = if self.limits.memory < LITTLE_MEMORY {
            LOOK_OFTEN
        } else {
            LOOK_SELDOM
        };
        loop {
            let left = wall.saturating_sub(self.begin.time.elapsed());
            if left.is_zero() {
                return Ok(Some(Cause::WallLimit));
            }
            let mut fds = [
                PollFd::new(&program.ends, PollFlags::IN),
                PollFd::from_borrowed_fd(wire.as_fd(), PollFlags::IN),
            ];
            let found = wait_for(&mut fds, left.min(pause))?;
            let [ended, told] = fds.map(|fd| !fd.revents().is_empty());
            if ended {
                collect(collected, Some(main));
                if let Some(end) = collected.main {
                    return Ok(Some(match end {
                        End::Exit(code) => Cause::Exit(code),
                        End::Signal(signal) => Cause::Signal(signal),
                    }));
                }
            }
            if told {
                match wire.receive()? {
                    None => return Ok(None),
                    Some(Order::Kill) => return Ok(Some(Cause::Killed)),
                    Some(_) => return Err(io::Error::other("an order amid a stage")),
                }
            }
            if found == 0 {
                collect(collected, Some(main));
                if let Some(cause) = self.look(collected) {
                    return Ok(Some(cause));
                }
                pause = if self.highest_memory > self.limits.memory / 2 {
                    LOOK_OFTEN
                } else {
                    LOOK_SELDOM
                };
            }
        }
    }

    /// Measures the processes once.
    fn look(&mut self, collected: &Collected) -> Option<Cause> {
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let usage = usage_below(me, self.ticks_per_second);
        let cpu = (usage.cpu + collected.cpu).saturating_sub(self.begin.cpu);
        self.highest_cpu = self.highest_cpu.max(cpu);
        self.highest_memory = self.highest_memory.max(usage.memory);
        if usage.memory > self.limits.memory {
            return Some(Cause::MemoryLimit);
        }
        if millis(self.highest_cpu) > self.limits.cpu_ms {
            return Some(Cause::CpuLimit);
        }
        self.disk.is_over().then_some(Cause::DiskLimit)
    }

    /// The last word on a stage whose processes have all been collected. Like Piston's sandbox it
    /// also finds, in the final figures, that a limit was passed by a program that has ended.
    fn verdict(&self, cause: Cause, wall: Duration, collected: &Collected) -> Ended {
        let cpu = collected.cpu.saturating_sub(self.begin.cpu);
        let cpu_ms = millis(self.highest_cpu.max(cpu));
        let memory = self.highest_memory.max(collected.peak_memory);
        let by_itself = matches!(cause, Cause::Exit(_) | Cause::Signal(_));
        let cause = if by_itself && collected.peak_memory > self.limits.memory {
            Cause::MemoryLimit
        } else if by_itself && cpu_ms > self.limits.cpu_ms {
            Cause::CpuLimit
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

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Waits for one of these; returns how many there are.
///
/// # Errors
/// What `poll` says.
pub(super) fn wait_for(fds: &mut [PollFd<'_>], most: Duration) -> io::Result<usize> {
    let most = Timespec::try_from(most).map_err(io::Error::other)?;
    match poll(fds, Some(&most)) {
        Err(rustix::io::Errno::INTR) => Ok(0),
        other => Ok(other?),
    }
}

/// Collects the children that have ended: the main process, and what it left to this reaper.
/// Returns whether there are more children.
fn collect(collected: &mut Collected, main: Option<Pid>) -> bool {
    loop {
        match sys::wait(None, Waiting::Poll) {
            Wait::Ended(child) => add(collected, main, child),
            Wait::Running => return true,
            Wait::Childless => return false,
        }
    }
}

fn add(collected: &mut Collected, main: Option<Pid>, child: Reaped) {
    collected.cpu += child.cpu;
    collected.peak_memory = collected.peak_memory.max(child.peak_memory);
    if main.is_some_and(|main| child.pid == main.as_raw_nonzero().get()) {
        collected.main = Some(child.end);
    }
}

/// Kills what is left of the stage and waits until it is gone. Without children there are no
/// descendants either, for this process is their reaper.
fn end_and_collect(
    proof: OneThread,
    slot: Slot,
    main: Option<Pid>,
    collected: &mut Collected,
) -> io::Result<()> {
    let started = Instant::now();
    let me = rustix::process::getpid().as_raw_nonzero().get();
    while collect(collected, main) {
        if started.elapsed() > PATIENCE {
            return Err(io::Error::other("processes of the job do not end"));
        }
        for pid in usage_below(me, 1).pids {
            sys::kill(pid);
        }
        if let Some(uid) = slot.uid {
            kill_user(proof, uid)?;
        }
        wait_for(&mut [], Duration::from_micros(300))?;
    }
    Ok(())
}

/// Kills what is left of a job, if anything is, and waits until it is gone.
///
/// # Errors
/// Where something does not go.
pub(super) fn end_all(proof: OneThread, slot: Slot) -> io::Result<()> {
    end_and_collect(proof, slot, None, &mut Collected::default())
}

/// Kills every process of a job's user at one stroke, which no fork can outrun.
pub(super) fn kill_user(proof: OneThread, uid: u32) -> io::Result<()> {
    match sys::fork(proof)? {
        Fork::Child => {
            if super::confine::become_user(uid, None).is_ok() {
                sys::kill_all_i_may();
            }
            sys::exit_now(0)
        }
        Fork::Parent(killer) => {
            sys::wait(Some(killer), Waiting::Block);
            Ok(())
        }
    }
}

/// Processes and threads that this process's user has at this moment.
fn own_tasks() -> u64 {
    use std::os::unix::fs::MetadataExt;
    let me = rustix::process::getuid().as_raw();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 0;
    };
    processes
        .flatten()
        .filter(|process| process.metadata().is_ok_and(|found| found.uid() == me))
        .filter_map(|process| std::fs::read_dir(process.path().join("task")).ok())
        .fold(0, |sum, tasks| sum.saturating_add(tasks.count() as u64))
}
