//! A program that is started ahead of its job, and waits for it.
//!
//! The program is the one that the job is expected to need: the same command with the same
//! environment in the same directory, started in the same way and as contained as any other. Only
//! the file with its source is a named pipe, so that it waits where it would read that file: an
//! interpreter has got ready then and has run nothing. When the job comes, an ordinary file with the
//! source takes the pipe's place, for tracebacks and whoever else opens it, and the same bytes go
//! through the pipe. Nothing in the interpreter knows of this: what the program finds is what a fresh
//! interpreter has, down to its command line, and its random numbers and addresses are its own. It
//! runs one job and ends.
//!
//! What is trusted, and when: until the source is in the pipe, no foreign code has run as the slot's
//! user since the slot was cleaned, nor in the job's directory. So far the keeper may write there,
//! and believe what it finds. It does neither afterwards.
//!
//! The job's own bounds: time counts from when its source is handed over, CPU time less what the
//! processes had used by then. The kernel's limits are set to the highest that a job can have, and
//! lowered where the request asks for less. Memory counts whole, as that of any interpreter.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mknodat, open, stat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::confine::lower_limits;
use super::policy::Policy;
use super::process_tree::usage_below;
use super::protocol::{Ended, Report, StageLimits, StageOrder, WarmOrder};
use super::slots::Slot;
use super::stage::{Begin, Program, Stage, end_all, wait_for};
use super::sys::{self, OneThread};
use super::wire::Wire;
use super::workspace::{Workspace, give_path};
use crate::tree::{Space, delete_tree};

/// How long a program may take until it waits for its source.
const START: Duration = Duration::from_secs(60);
/// Time between two looks whether it does.
const LOOK: Duration = Duration::from_millis(2);

/// A program that waits for its source.
pub(super) struct Warm {
    order: StageOrder,
    file: String,
    program: Program,
    /// The processes of it.
    processes: Vec<i32>,
    /// Readable when one of them has ended.
    ends: Vec<OwnedFd>,
    /// Where it reads its source from.
    source: OwnedFd,
    /// Its standard streams, for a program that is started in its place.
    stdio: [OwnedFd; 3],
    /// The data directory in which it was started: device and number.
    data_dir: (u64, u64),
}

/// What a program is started with.
pub(super) struct Place<'a> {
    pub(super) proof: OneThread,
    pub(super) policy: &'a Policy,
    pub(super) wire: &'a mut Wire,
    pub(super) workspace: &'a Workspace,
    pub(super) slot: Slot,
}

impl Warm {
    /// Starts the program and waits until it waits for its source; `None` where the engine hung up.
    ///
    /// # Errors
    /// Where it cannot be started, or ends, or does not come to read the file.
    pub(super) fn start(
        place: Place<'_>,
        order: WarmOrder,
        stdio: [OwnedFd; 3],
    ) -> io::Result<Option<Self>> {
        let Place {
            proof,
            policy,
            wire,
            workspace,
            slot,
        } = place;
        let WarmOrder { stage, file, home } = order;
        let pipe = workspace.box_dir.join(&file);
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        give_path(&pipe, slot.uid)?;
        for (path, content) in &home {
            let file = workspace.create_home_file(path, slot.uid)?;
            io::Write::write_all(&mut std::fs::File::from(file), content.as_bytes())?;
        }
        let data_dir = identity(&policy.data_dir)?;
        let mut program = Stage {
            proof,
            policy,
            wire,
            workspace,
            slot,
            order: &stage,
            data_before: Space::default(),
        }
        .start(&stdio)?;
        let Some(source) = wait_for_reader(&mut program, wire, &pipe)? else {
            return Ok(None);
        };
        for (path, _) in &home {
            if let Some(top) = path.split('/').next() {
                delete_tree(&workspace.temp_dir.join(top))?;
            }
        }
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let processes = usage_below(me, 1).pids;
        let ends = processes
            .iter()
            .filter_map(|pid| Pid::from_raw(*pid))
            .map(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .collect::<Result<_, _>>()?;
        Ok(Some(Self {
            order: stage,
            file,
            program,
            processes,
            ends,
            source,
            stdio,
            data_dir,
        }))
    }

    /// Each is readable when one of the processes has ended, as none should before the program has
    /// its source.
    pub(super) fn ends(&self) -> Vec<PollFd<'_>> {
        self.ends
            .iter()
            .map(|ends| PollFd::new(ends, PollFlags::IN))
            .collect()
    }

    /// Takes the pipe out of the place where the source is to be written.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub(super) fn make_way(&self, workspace: &Workspace) -> io::Result<()> {
        Ok(unlinkat(
            CWD,
            workspace.box_dir.join(&self.file),
            AtFlags::empty(),
        )?)
    }

    /// Runs a stage as [`Stage::run`] does, with this program if the stage is what it was started
    /// for, and otherwise with one that is started now.
    ///
    /// # Errors
    /// As [`Stage::run`].
    pub(super) fn run(self, stage: Stage<'_>) -> io::Result<Option<Ended>> {
        let time = Instant::now();
        if wait_for(&mut self.ends(), Duration::ZERO)? > 0 {
            return Self::turn_away(&stage);
        }
        if self.fits(&stage) && self.lower(&stage).is_ok() {
            let source = std::fs::read(stage.workspace.box_dir.join(&self.file))?;
            let cpu = self.processes.iter().copied().map(sys::cpu_time_of).sum();
            // What the program gets is all of it or nothing: as much as the pipe holds.
            match rustix::io::write(&self.source, &source) {
                Ok(length) if length == source.len() => {
                    drop((self.source, self.stdio));
                    return stage.see_through(self.program, Begin { time, cpu });
                }
                Err(Errno::PIPE) => return Self::turn_away(&stage),
                _ => {}
            }
        }
        end_all(stage.proof, stage.slot)?;
        drop((self.source, self.program));
        stage.run(self.stdio)
    }

    /// Says that the program has ended without a job. It may have said why on its standard streams,
    /// so that they cannot be used again.
    fn turn_away(stage: &Stage<'_>) -> io::Result<Option<Ended>> {
        stage.wire.send(&Report::Stale)?;
        Ok(None)
    }

    fn fits(&self, stage: &Stage<'_>) -> bool {
        let expected = StageOrder {
            limits: stage.order.limits,
            ..self.order.clone()
        };
        let asked = &stage.order.limits;
        let highest = &self.order.limits;
        // Those that a request can set are lowered; the others are every job's.
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

    fn lower(&self, stage: &Stage<'_>) -> io::Result<()> {
        let (asked, highest) = (&stage.order.limits, &self.order.limits);
        let same = asked.cpu_ms == highest.cpu_ms && asked.memory == highest.memory;
        if same || !stage.policy.limits {
            return Ok(());
        }
        lower_limits(stage.proof, stage.slot.uid, &self.processes, asked)
    }
}

/// Waits until the program has opened the pipe, or is about to. Returns the other end of it.
fn wait_for_reader(program: &mut Program, wire: &Wire, pipe: &Path) -> io::Result<Option<OwnedFd>> {
    let until = Instant::now() + START;
    while Instant::now() < until {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match open(pipe, flags, Mode::empty()) {
            Ok(source) => return Ok(Some(source)),
            Err(Errno::NXIO) => {}
            Err(error) => return Err(error.into()),
        }
        let mut fds = [
            PollFd::new(&program.ends, PollFlags::IN),
            PollFd::from_borrowed_fd(wire.as_fd(), PollFlags::RDHUP),
        ];
        wait_for(&mut fds, LOOK)?;
        let [ended, hung_up] = fds.map(|fd| !fd.revents().is_empty());
        if hung_up {
            return Ok(None);
        }
        if ended {
            program.find_failure()?;
            return Err(io::Error::other("a program ended ahead of its job"));
        }
    }
    Err(io::Error::other("a program does not come to its source"))
}

fn identity(folder: &Path) -> io::Result<(u64, u64)> {
    let found = stat(folder)?;
    Ok((found.st_dev, found.st_ino))
}
