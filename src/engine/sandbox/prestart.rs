//! Starts a program before its job arrives and lets it wait for its source.
//!
//! The program is the one that the job is expected to need: the same command with the same
//! environment in the same directory, started in the same way and confined like any other. Only its
//! source file is a named pipe, so that the program blocks where it would read that file. By then an
//! interpreter has initialized itself and has run no code of a job. When the job arrives, an ordinary
//! file with the source replaces the pipe, for tracebacks and for others that open it, and the same
//! bytes are written to the pipe. Nothing in the interpreter knows of this: the program sees what it
//! would see in a fresh interpreter, down to its command line, and has its own random seeds and
//! addresses. It runs one job and ends.
//!
//! Trust: until the source is written to the pipe, no foreign code has run as the slot's user since
//! the slot was cleaned, nor in the job's directory. Until then the keeper may write there and trust
//! what it reads. Afterwards it does neither.
//!
//! Limits: wall time counts from the handover of the source, and CPU time excludes what the processes
//! had used by then. The kernel's limits are set to the highest that a job can have and lowered if the
//! request asks for less. Memory counts in full, as for any interpreter.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mknodat, open, stat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::confine::{LowerLimitsError, lower_limits};
use super::process_tree::running_below;
use super::protocol::{Cause, Ended, PrestartOrder, Report, StageLimits, StageOrder};
use super::slots::Slot;
use super::stage::{Baseline, Program, Stage, StageError, kill_all, poll_for};
use super::sys;
use super::wire::{Wire, WireError};
use super::workspace::{Workspace, chown_path};
use crate::tree::delete_tree;

/// How long a program may take to open its source.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two checks whether it has.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Longest report of a program in bytes.
const MAX_REPORT: u64 = 64 << 10;

/// Why there is no program that waits for its job, or why it could not run the job.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrestartError {
    #[error("cannot prepare the job's directory: {0}")]
    Prepare(#[source] io::Error),
    #[error("cannot delete the files in HOME: {0}")]
    DeleteHome(#[source] io::Error),
    #[error("cannot open the pipe to the program: {0}")]
    OpenPipe(#[source] io::Error),
    #[error("cannot watch the program: {0}")]
    Watch(#[source] io::Error),
    #[error("the program ended before its job")]
    Ended,
    #[error("the program did not open its source within {} s", START_TIMEOUT.as_secs())]
    TimedOut,
    #[error("cannot hand over the source: {0}")]
    HandOver(#[source] io::Error),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A program that waits for its source.
pub(super) struct IdleProgram {
    /// What it has left in the file of [`PrestartOrder::report`].
    pub(super) report: String,
    order: StageOrder,
    file: String,
    program: Program,
    processes: Vec<i32>,
    /// One for each process, readable once it has ended.
    exit_fds: Vec<OwnedFd>,
    /// The write end of the pipe from which the program reads its source.
    source: OwnedFd,
    /// Its standard streams, in case another program has to be started in its place.
    stdio: [OwnedFd; 3],
    /// Device and inode of the data directory at its start.
    data_dir: (u64, u64),
}

impl IdleProgram {
    /// Starts the program and returns once it waits for its source, or `None` if the engine hung up.
    ///
    /// # Errors
    /// If it cannot be started, ends, or does not open its source.
    pub(super) fn start(
        stage: Stage<'_>,
        order: &PrestartOrder,
        stdio: [OwnedFd; 3],
    ) -> Result<Option<Self>, PrestartError> {
        let workspace = stage.workspace;
        let pipe = workspace.box_dir.join(&order.file);
        create_files(workspace, &pipe, &order.home, stage.slot).map_err(PrestartError::Prepare)?;
        let data_dir = identity(&stage.policy.data_dir).map_err(PrestartError::Prepare)?;
        let mut program = stage.start(&stdio)?;
        let Some(source) = wait_for_reader(&mut program, stage.wire, &pipe)? else {
            return Ok(None);
        };
        let report = order.report.as_ref();
        let report = report.map(|name| read_report(&workspace.temp_dir.join(name)));
        for (path, _) in &order.home {
            if let Some(top) = path.split('/').next() {
                delete_tree(&workspace.temp_dir.join(top)).map_err(PrestartError::DeleteHome)?;
            }
        }
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let processes: Vec<i32> = running_below(me, &[]).iter().map(|one| one.pid).collect();
        let exit_fds = processes
            .iter()
            .filter_map(|pid| Pid::from_raw(*pid))
            .map(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .collect::<Result<_, _>>()
            .map_err(|error| PrestartError::Watch(error.into()))?;
        Ok(Some(Self {
            report: report.unwrap_or_default(),
            order: order.stage.clone(),
            file: order.file.clone(),
            program,
            processes,
            exit_fds,
            source,
            stdio,
            data_dir,
        }))
    }

    /// Each becomes readable once one of the processes has ended, which none should before the program
    /// has its source.
    pub(super) fn exit_poll_fds(&self) -> Vec<PollFd<'_>> {
        self.exit_fds
            .iter()
            .map(|fd| PollFd::new(fd, PollFlags::IN))
            .collect()
    }

    /// Deletes the named pipe, so that an ordinary file can take its path. The program has it open.
    ///
    /// # Errors
    /// If it cannot be deleted.
    pub(super) fn remove_pipe(&self, workspace: &Workspace) -> Result<(), PrestartError> {
        let path = workspace.box_dir.join(&self.file);
        unlinkat(CWD, path, AtFlags::empty()).map_err(|error| PrestartError::HandOver(error.into()))
    }

    /// Runs a stage as [`Stage::run`] does: with this program if it was started for such a stage, else
    /// with one that is started now.
    ///
    /// # Errors
    /// As [`Stage::run`], and if the source cannot be read back.
    pub(super) fn run(self, stage: Stage<'_>) -> Result<Option<Ended>, PrestartError> {
        let time = Instant::now();
        let ended = poll_for(&mut self.exit_poll_fds(), Duration::ZERO);
        if ended.map_err(PrestartError::Watch)? > 0 {
            return Self::report_stale(&stage);
        }
        if self.matches(&stage) && self.lower_limits(&stage).is_ok() {
            let source = std::fs::read(stage.workspace.box_dir.join(&self.file))
                .map_err(PrestartError::HandOver)?;
            let cpu = self
                .processes
                .iter()
                .copied()
                .map(sys::process_cpu_time)
                .sum();
            // The engine sends longer sources elsewhere, so the pipe takes all of it in one write.
            match rustix::io::write(&self.source, &source) {
                Ok(length) if length == source.len() => {
                    drop((self.source, self.stdio));
                    return Ok(stage.supervise(self.program, Baseline { time, cpu })?);
                }
                Err(Errno::PIPE) => return Self::report_stale(&stage),
                _ => {}
            }
        }
        kill_all(stage.proof, stage.slot)?;
        drop((self.source, self.program));
        Ok(stage.run(self.stdio)?)
    }

    /// Reports that the program has ended without a job. It may have printed to its standard streams,
    /// so they cannot be used for another program, and the engine opens a new job.
    fn report_stale(stage: &Stage<'_>) -> Result<Option<Ended>, PrestartError> {
        stage.wire.send(&Report::Stale)?;
        Ok(None)
    }

    fn matches(&self, stage: &Stage<'_>) -> bool {
        let expected = StageOrder {
            limits: stage.order.limits,
            is_interrupted_first: stage.order.is_interrupted_first,
            ..self.order.clone()
        };
        let asked = &stage.order.limits;
        let highest = &self.order.limits;
        // A request can lower these three; the others are the same for every job.
        let limits = StageLimits {
            wall_ms: asked.wall_ms,
            cpu_ms: asked.cpu_ms,
            memory: asked.memory,
            ..*highest
        };
        *stage.order == expected
            && *asked == limits
            && asked.cpu_ms <= highest.cpu_ms
            && asked.memory <= highest.memory
            && identity(&stage.policy.data_dir).is_ok_and(|found| found == self.data_dir)
    }

    fn lower_limits(&self, stage: &Stage<'_>) -> Result<(), LowerLimitsError> {
        let (asked, highest) = (&stage.order.limits, &self.order.limits);
        let same = asked.cpu_ms == highest.cpu_ms && asked.memory == highest.memory;
        if same || !stage.policy.limits {
            return Ok(());
        }
        lower_limits(stage.proof, stage.slot.ids, &self.processes, asked)
    }
}

/// Creates the named pipe in place of the source, and the files below `HOME`.
fn create_files(
    workspace: &Workspace,
    pipe: &Path,
    home: &[(String, String)],
    slot: Slot,
) -> io::Result<()> {
    mknodat(CWD, pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    if let Some(ids) = slot.ids {
        chown_path(pipe, ids)?;
    }
    workspace.create_home_files(home, slot.ids)
}

/// What the program has written to this file. Nothing depends on it, so nothing is read if that fails.
fn read_report(path: &Path) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut text = Vec::new();
    if let Ok(file) = open(path, flags, Mode::empty()) {
        let _ = std::fs::File::from(file)
            .take(MAX_REPORT)
            .read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Waits until the program has opened the pipe and returns its write end, or `None` if the engine hung
/// up.
fn wait_for_reader(
    program: &mut Program,
    wire: &Wire,
    pipe: &Path,
) -> Result<Option<OwnedFd>, PrestartError> {
    let until = Instant::now() + START_TIMEOUT;
    while Instant::now() < until {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match open(pipe, flags, Mode::empty()) {
            Ok(source) => return Ok(Some(source)),
            // Nobody has opened it for reading yet.
            Err(Errno::NXIO) => {}
            Err(error) => return Err(PrestartError::OpenPipe(error.into())),
        }
        let mut fds = [
            PollFd::new(&program.exit_fd, PollFlags::IN),
            PollFd::from_borrowed_fd(wire.as_fd(), PollFlags::RDHUP),
        ];
        poll_for(&mut fds, POLL_INTERVAL).map_err(PrestartError::Watch)?;
        let [ended, hung_up] = fds.map(|fd| !fd.revents().is_empty());
        if hung_up {
            return Ok(None);
        }
        if ended {
            program.final_cause(Cause::Killed)?;
            return Err(PrestartError::Ended);
        }
    }
    Err(PrestartError::TimedOut)
}

fn identity(folder: &Path) -> io::Result<(u64, u64)> {
    let found = stat(folder)?;
    Ok((found.st_dev, found.st_ino))
}
