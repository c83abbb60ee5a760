//! Supervises a kernel: a program that runs one cell after the other, with limits for each.
//!
//! It runs in the keeper. The engine talks to the kernel directly and tells the keeper when a cell begins
//! and ends. Exceeding a cell's limit is reported and left to the engine, which interrupts the kernel
//! first so that its variables survive; exceeding the memory limit ends the kernel at once. Between
//! cells the kernel is measured too: what a cell left running has the limits of one more cell.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::disk_watch::{DiskUsage, DiskWatch};
use super::held::HeldWatch;
use super::log;
use super::process_tree::{Usage, current_memory, reaped_cpu, usage_below};
use super::protocol::{Cause, CellLimits, CellUsage, Ended, Order, Report};
use super::stage::{
    Program, ReapedChildren, Stage, StageError, kill_and_reap, millis, poll_for, poll_interval,
    reap,
};
use super::sys;

/// Time between two measurements of an idle kernel.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(250);

struct RunningCell {
    limits: CellLimits,
    peak_memory: u64,
    /// Whether it was reported that a limit is exceeded.
    is_reported: bool,
    /// Whether the kernel had exceeded a disk limit before it began.
    is_over_disk_limit: bool,
}

/// A kernel that runs.
struct KernelSupervisor<'a> {
    stage: Stage<'a>,
    program: Program,
    /// The Python process, once it was needed.
    pid: Option<i32>,
    reaped: ReapedChildren,
    ticks_per_second: u64,
    cell: Option<RunningCell>,
    /// CPU time that had been used when the cell began or the last one ended.
    cpu_before: Duration,
    /// The same for all its processes, those that run included.
    all_cpu_before: Duration,
    /// Whether the kernel had other processes when it was last measured.
    has_others: bool,
    /// Whether it has not run a cell yet.
    is_new: bool,
    disk: DiskWatch,
    held: HeldWatch,
}

/// Runs a kernel until it ends or the engine ends it. Returns `None` if the engine hung up.
///
/// # Errors
/// If the program could not be started, or its processes do not end.
pub(super) fn run_kernel(
    stage: Stage<'_>,
    descriptors: Vec<OwnedFd>,
) -> Result<Option<Ended>, StageError> {
    let started = Instant::now();
    let program = stage.start(&descriptors)?;
    drop(descriptors);
    let disk = disk_watch(&stage);
    let held = HeldWatch::new(stage.surroundings, stage.policy);
    let mut kernel = KernelSupervisor {
        stage,
        program,
        pid: None,
        reaped: ReapedChildren::default(),
        ticks_per_second: sys::ticks_per_second(),
        cell: None,
        cpu_before: Duration::ZERO,
        all_cpu_before: Duration::ZERO,
        has_others: false,
        is_new: true,
        disk,
        held,
    };
    let cause = kernel.serve();
    let (proof, ids, init) = (
        kernel.stage.proof,
        kernel.stage.slot.ids,
        kernel.program.init,
    );
    kill_and_reap(proof, ids, Some(init), &mut kernel.reaped)?;
    let Some(mut cause) = cause? else {
        return Ok(None);
    };
    cause = kernel.program.final_cause(cause)?;
    if matches!(cause, Cause::Exit(_) | Cause::Signal(_)) && kernel.disk.ends_over_limit() {
        cause = Cause::DiskLimit;
    }
    Ok(Some(Ended {
        cause,
        wall_ms: millis(started.elapsed()),
        cpu_ms: millis(kernel.reaped.cpu.saturating_sub(kernel.cpu_before)),
        memory: kernel.reaped.peak_memory,
    }))
}

fn disk_watch(stage: &Stage<'_>) -> DiskWatch {
    let files = stage.files();
    let before = DiskUsage::of(&files);
    DiskWatch::new(stage.order.limits, files, before)
}

impl KernelSupervisor<'_> {
    fn serve(&mut self) -> Result<Option<Cause>, StageError> {
        let mut interval = IDLE_POLL_INTERVAL;
        loop {
            let mut fds = [
                PollFd::new(&self.program.exit_fd, PollFlags::IN),
                PollFd::from_borrowed_fd(self.stage.wire.as_fd(), PollFlags::IN),
            ];
            let timeout = match self.cell {
                Some(_) => interval.min(self.disk.time_left()),
                None => interval,
            };
            let ready = poll_for(&mut fds, timeout).map_err(StageError::Watch)?;
            let [has_ended, has_order] = fds.map(|fd| !fd.revents().is_empty());
            if has_ended {
                reap(&mut self.reaped, Some(self.program.init));
                if let Some(status) = self.reaped.init {
                    return Ok(Some(status.into()));
                }
            }
            if has_order {
                match self.stage.wire.receive()? {
                    None => return Ok(None),
                    Some(Order::Kill) => return Ok(Some(Cause::Killed)),
                    Some(Order::Interrupt) => self.interrupt()?,
                    Some(Order::BeginCell(limits)) => self.begin_cell(limits),
                    Some(Order::EndCell) => {
                        let usage = self.end_cell();
                        self.stage.wire.send(&Report::CellEnded(usage))?;
                    }
                    Some(_) => return Err(StageError::UnexpectedOrder),
                }
            }
            if ready == 0 {
                reap(&mut self.reaped, Some(self.program.init));
                if let Some(cause) = self.measure()? {
                    return Ok(Some(cause));
                }
            }
            interval = self.poll_interval();
        }
    }

    fn poll_interval(&self) -> Duration {
        match &self.cell {
            None => IDLE_POLL_INTERVAL,
            Some(cell) => poll_interval(cell.peak_memory, self.stage.order.limits.memory),
        }
    }

    fn begin_cell(&mut self, limits: CellLimits) {
        let cpu = self.cpu_time();
        self.all_cpu_before += cpu.saturating_sub(self.cpu_before);
        self.cpu_before = cpu;
        // Reading the usage of all processes takes longer than many a cell.
        if self.is_new || self.has_others {
            self.all_cpu_before = self.usage().cpu;
            self.is_new = false;
        }
        // What was written since the last cell counts for this one.
        let is_over_disk_limit = self.disk.ends_over_limit();
        self.cell = Some(RunningCell {
            limits,
            peak_memory: 0,
            is_reported: false,
            is_over_disk_limit,
        });
    }

    fn end_cell(&mut self) -> CellUsage {
        let cpu = self.cpu_time();
        let mut used = cpu.saturating_sub(self.cpu_before);
        self.cpu_before = cpu;
        if self.has_others {
            let all = self.usage().cpu;
            used = used.max(all.saturating_sub(self.all_cpu_before));
        }
        self.all_cpu_before += used;
        let cell = self.cell.take();
        let peak = cell.as_ref().map_or(0, |cell| cell.peak_memory);
        let was_over = cell.is_some_and(|cell| cell.is_over_disk_limit);
        CellUsage {
            cpu_ms: millis(used),
            memory: self.pid().map_or(0, current_memory).max(peak),
            is_over_disk_limit: self.disk.ends_over_limit() || was_over,
        }
    }

    /// What all processes use, with the CPU time of those that have ended.
    fn usage(&mut self) -> Usage {
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let mut usage = usage_below(me, self.ticks_per_second);
        usage.cpu += self.reaped.cpu;
        // Itself and those above it are not others.
        self.has_others = usage.processes.len() > 1 + self.stage.policy.processes_above_program();
        usage
    }

    /// CPU time of the kernel and of those of its processes that have ended: quick to read, and exact
    /// for the kernel itself.
    fn cpu_time(&mut self) -> Duration {
        let own = self.pid().map_or(Duration::ZERO, |pid| {
            sys::process_cpu_time(pid) + reaped_cpu(pid, self.ticks_per_second)
        });
        own + self.reaped.cpu
    }

    fn pid(&mut self) -> Option<i32> {
        if self.pid.is_none() {
            self.pid = self.program.pid(self.stage.policy);
        }
        self.pid
    }

    /// Measures all processes once. Returns the limit that ends the kernel.
    fn measure(&mut self) -> Result<Option<Cause>, StageError> {
        let mut usage = self.usage();
        let limit = self.stage.order.limits.memory;
        let (proof, ids) = (self.stage.proof, self.stage.slot.ids);
        self.held
            .add_to(&mut usage, limit, self.program.init, proof, ids);
        if usage.memory > limit {
            return Ok(Some(Cause::MemoryLimit));
        }
        if self.held.has_too_many_terminals() {
            log::warn("killed a kernel", &"it has too many pseudo-terminals");
            return Ok(Some(Cause::Killed));
        }
        let cpu = usage.cpu.saturating_sub(self.all_cpu_before);
        let over_disk = self.disk.is_over_limit();
        let exceeded = |cpu_limit: f64| match over_disk {
            _ if millis(cpu) > cpu_limit => Some(Cause::CpuLimit),
            true => Some(Cause::DiskLimit),
            false => None,
        };
        let Some(cell) = &mut self.cell else {
            return Ok(exceeded(self.stage.order.limits.cpu_ms));
        };
        cell.peak_memory = cell.peak_memory.max(usage.memory);
        if !cell.is_reported
            && let Some(cause) = exceeded(cell.limits.cpu_ms)
        {
            cell.is_reported = true;
            self.stage.wire.send(&Report::CellLimit(cause))?;
        }
        Ok(None)
    }

    /// Sends SIGINT to the kernel and to what it runs in the foreground.
    fn interrupt(&mut self) -> Result<(), StageError> {
        let stage = &self.stage;
        self.program
            .interrupt(stage.policy, stage.proof, stage.slot.ids)
    }
}
