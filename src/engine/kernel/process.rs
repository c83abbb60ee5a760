//! One kernel's process: starts it, runs cells in it, and says what became of them.
//!
//! At a limit the cell is interrupted first, which keeps the variables; a kernel that goes on is killed.
//! What a cell prints is read from pipes of its own until its kernel says that it has ended.

use std::future::pending;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Mode, fchmod};
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::super::config::KernelSettings;
use super::super::job::JobContext;
use super::super::outcome::outcome;
use super::super::output::{Output, Stream};
use super::super::request::Bounds;
use super::super::runtimes::Installed;
use super::super::sandbox::{
    Cause, CellLimits, CellUsage, Ended, JobLink, JobUser, KernelEvent, LinkError,
};
use super::super::stdio::{Streams, read, write};
use super::socket::{CellRequest, Done, KernelMessage, KernelSocket, SocketError};
use crate::piston::{CellValue, KernelLoss, Stage, WorkingDirectory};

/// The kernel's program; the first file is the one that is run.
const PROGRAM: [(&str, &str); 3] = [
    ("kernel.py", include_str!("kernel.py")),
    ("ipython_shell.py", include_str!("ipython_shell.py")),
    ("plain_shell.py", include_str!("plain_shell.py")),
];
/// How long a kernel may take to start, the modules that it imports included.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the sandbox may take to report what has happened already.
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to read the output of a kernel that has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Code for a kernel.
#[derive(Debug)]
pub(in crate::engine) struct Cell {
    pub(in crate::engine) code: String,
    pub(in crate::engine) stdin: Vec<u8>,
    pub(in crate::engine) bounds: Bounds,
}

/// How a cell ended.
#[derive(Debug)]
pub(super) struct CellOutcome {
    pub(super) stage: Stage,
    /// Why its kernel has ended, if it has.
    pub(super) loss: Option<KernelLoss>,
    pub(super) value: CellValue,
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum StartError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("it ended before it was ready: {0:?}")]
    Ended(Cause),
    #[error("it was not ready within {} s", START_TIMEOUT.as_secs())]
    TimedOut,
}

/// A kernel that waits for its next cell.
#[derive(Debug)]
pub(super) struct KernelProcess {
    link: JobLink,
    socket: KernelSocket,
    memory_limit: u64,
    interrupt_grace: Duration,
    /// The kernel's parent reports there how a signal ended it, and would die of a closed pipe.
    _stderr: Option<pipe::Receiver>,
    cells: u64,
    pub(super) ipython: Option<String>,
    pub(super) failed_imports: Vec<String>,
}

impl KernelProcess {
    /// Starts a kernel and waits until it is ready for its first cell.
    ///
    /// # Errors
    /// If it does not get there.
    pub(super) async fn start(
        context: &JobContext<'_>,
        runtime: &Installed,
        settings: &KernelSettings,
    ) -> Result<Self, StartError> {
        let mut link = context.spawner.open(JobUser::Session, false, None).await?;
        let files = PROGRAM.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
        link.files(&files).await?;
        let program = runtime.program.to_string_lossy().into_owned();
        let main = link.directory().join(PROGRAM[0].0);
        let command = vec![program, main.to_string_lossy().into_owned()];
        let bounds = Bounds {
            memory: settings.memory_limit as f64,
            ..context.config.run_bounds()
        };
        let mut order = context.order(runtime, command, bounds);
        order.working_directory = Some(WorkingDirectory::Data);
        order.is_kernel = true;
        let preload = serde_json::Value::from(context.config.preload.clone());
        order
            .environment
            .push(("SESSION_PRELOAD".to_owned(), preload.to_string()));
        if !context.spawner.report.separates_jobs() {
            let shares_user = ("SESSION_SHARES_USER".to_owned(), "1".to_owned());
            order.environment.push(shares_user);
        }
        let (streams, [stdin, stdout, stderr]) = Streams::open().map_err(LinkError::from)?;
        let (mut socket, theirs) = KernelSocket::pair().map_err(SocketError::from)?;
        link.start_kernel(order, [stdin, stdout, stderr, theirs])
            .await?;
        let (mut stdout, mut stderr) = (Some(streams.stdout), Some(streams.stderr));
        let starting = async {
            let (mut out_buffer, mut err_buffer) = ([0; 4096], [0; 4096]);
            loop {
                tokio::select! {
                    // What it prints meanwhile is nobody's, and must not fill the pipes.
                    length = read(&mut stdout, &mut out_buffer), if stdout.is_some() => {
                        if length == 0 {
                            stdout = None;
                        }
                    }
                    length = read(&mut stderr, &mut err_buffer), if stderr.is_some() => {
                        if length == 0 {
                            stderr = None;
                        }
                    }
                    message = socket.receive() => match message {
                        Ok(KernelMessage::Ready(ready)) => return Ok(ready),
                        Ok(_) => return Err(SocketError::Malformed.into()),
                        Err(SocketError::Closed) => return match link.kernel_event().await? {
                            KernelEvent::Ended(ended) => Err(StartError::Ended(ended.cause)),
                            _ => Err(SocketError::Closed.into()),
                        },
                        Err(error) => return Err(error.into()),
                    },
                }
            }
        };
        let ready = timeout(START_TIMEOUT, starting).await;
        let ready = ready.map_err(|_elapsed| StartError::TimedOut)??;
        Ok(Self {
            link,
            socket,
            memory_limit: settings.memory_limit,
            interrupt_grace: settings.interrupt_grace,
            _stderr: stderr,
            cells: 0,
            ipython: ready.ipython,
            failed_imports: ready.failed_imports,
        })
    }

    /// Ends the kernel, and returns once no process of it is left.
    pub(super) async fn end(self) {
        self.link.end().await;
    }

    /// Why the kernel has ended since its last cell, if it has.
    pub(super) async fn loss_while_idle(&mut self) -> Option<KernelLoss> {
        if self.link.is_idle() {
            return None;
        }
        Some(match self.link.kernel_event().await {
            Ok(KernelEvent::Ended(ended)) => loss_of(ended.cause),
            _ => KernelLoss::Crashed,
        })
    }

    /// Runs a cell. It is interrupted when the other end of `client` is dropped, and killed when
    /// `killed` changes.
    pub(super) async fn run(
        &mut self,
        cell: &Cell,
        context: &JobContext<'_>,
        killed: &mut watch::Receiver<()>,
        client: &mut oneshot::Sender<()>,
    ) -> CellOutcome {
        let mut run = CellRun {
            output: Output::new(context.config.output_limit),
            started: Instant::now(),
            reason: None,
            end: None,
        };
        let usage = match self.supervise(cell, &mut run, killed, client).await {
            Ok(usage) => usage,
            Err(error) => {
                tracing::warn!(%error, "a kernel broke");
                run.end.get_or_insert(End::Killed(KernelLoss::Crashed));
                CellUsage::default()
            }
        };
        self.outcome(cell, context, run, usage)
    }

    fn outcome(
        &self,
        cell: &Cell,
        context: &JobContext<'_>,
        run: CellRun,
        usage: CellUsage,
    ) -> CellOutcome {
        let end = run.end.unwrap_or(End::Killed(KernelLoss::Crashed));
        let (cause, loss, value) = match end {
            End::Done(done) => (Cause::Exit(done.code), None, done.value),
            End::Ended(ended) => {
                let loss = run
                    .reason
                    .as_ref()
                    .map_or_else(|| loss_of(ended.cause), Reason::loss);
                (ended.cause, Some(loss), CellValue::default())
            }
            End::Killed(loss) => (Cause::Killed, Some(loss), CellValue::default()),
        };
        let cause = match run.reason {
            Some(Reason::Limit(limit)) => limit,
            Some(Reason::Output | Reason::Canceled | Reason::Deleted) | None => cause,
        };
        let limits = context.limits(Bounds {
            memory: self.memory_limit as f64,
            ..cell.bounds
        });
        let ended = Ended {
            cause,
            wall_ms: run.started.elapsed().as_secs_f64() * 1000.0,
            cpu_ms: usage.cpu_ms,
            memory: usage.memory,
        };
        CellOutcome {
            stage: outcome(&limits, ended, run.output, &self.link.private_directories()),
            loss,
            value,
        }
    }

    async fn supervise(
        &mut self,
        cell: &Cell,
        run: &mut CellRun,
        killed: &mut watch::Receiver<()>,
        client: &mut oneshot::Sender<()>,
    ) -> Result<CellUsage, StartError> {
        self.cells += 1;
        let number = self.cells;
        let (streams, theirs) = Streams::open().map_err(LinkError::from)?;
        open_to_programs(&theirs).map_err(LinkError::from)?;
        let cpu_ms = cell.bounds.cpu_ms;
        self.link.begin_cell(CellLimits { cpu_ms }).await?;
        let request = CellRequest {
            cell: number,
            code: &cell.code,
        };
        self.socket.queue(&request, theirs)?;
        let mut stdin = Some(streams.stdin);
        let (mut stdout, mut stderr) = (Some(streams.stdout), Some(streams.stderr));
        let (mut out_buffer, mut err_buffer) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        let mut fed = 0;
        let wall_limit = run.started + Duration::from_secs_f64(cell.bounds.wall_ms / 1000.0);
        // When the kernel is killed because it did not react to an interrupt, and when it must be gone.
        let mut kill_at: Option<Instant> = None;
        let mut gone_at: Option<Instant> = None;
        let mut is_closed = false;
        while run.end.is_none() {
            let interrupted = run.reason.is_some();
            let reason = tokio::select! {
                length = read(&mut stdout, &mut out_buffer), if stdout.is_some() => {
                    run.output.push(Stream::Stdout, out_buffer.get(..length).unwrap_or_default());
                    if length == 0 {
                        stdout = None;
                    }
                    run.output.overflow().map(|_| Reason::Output)
                }
                length = read(&mut stderr, &mut err_buffer), if stderr.is_some() => {
                    run.output.push(Stream::Stderr, err_buffer.get(..length).unwrap_or_default());
                    if length == 0 {
                        stderr = None;
                    }
                    run.output.overflow().map(|_| Reason::Output)
                }
                length = write(&mut stdin, cell.stdin.get(fed..).unwrap_or_default()), if stdin.is_some() => {
                    fed += length;
                    if length == 0 || fed >= cell.stdin.len() {
                        stdin = None;
                    }
                    None
                }
                message = self.socket.receive(), if !is_closed => match message {
                    Ok(KernelMessage::Done(done)) if done.cell == number => {
                        run.end = Some(End::Done(done));
                        None
                    }
                    // It waits for the reply to one before it sends another.
                    Ok(KernelMessage::Clear(cell)) if cell == number && self.socket.is_flushed() => {
                        // All of it has been printed by now.
                        drain(&stdout, &mut out_buffer, |_| {});
                        drain(&stderr, &mut err_buffer, |_| {});
                        run.output.clear();
                        self.socket.queue(&(), [])?;
                        None
                    }
                    // It has ended, which is reported soon, or cannot report the cell's end any more.
                    Err(SocketError::Closed | SocketError::Io(_)) => {
                        is_closed = true;
                        kill_at.get_or_insert(Instant::now() + self.interrupt_grace);
                        None
                    }
                    // No kernel sends this by itself.
                    Ok(_) | Err(_) => {
                        is_closed = true;
                        kill_at = Some(Instant::now());
                        None
                    }
                },
                report = self.link.kernel_event() => match report? {
                    KernelEvent::Limit(cause) => Some(Reason::Limit(cause)),
                    KernelEvent::Ended(ended) => {
                        run.end = Some(End::Ended(ended));
                        None
                    }
                    KernelEvent::CellEnded(_) => None,
                },
                () = sleep_until(wall_limit), if !interrupted => Some(Reason::Limit(Cause::WallLimit)),
                () = client.closed(), if !interrupted => Some(Reason::Canceled),
                _ = killed.changed(), if !matches!(run.reason, Some(Reason::Deleted)) => {
                    kill_at = Some(Instant::now());
                    run.reason = Some(Reason::Deleted);
                    None
                }
                () = at(kill_at) => {
                    kill_at = None;
                    gone_at = Some(Instant::now() + REPORT_TIMEOUT);
                    self.link.kill().await?;
                    None
                }
                () = at(gone_at) => {
                    run.end = Some(End::Killed(KernelLoss::Crashed));
                    None
                }
            };
            if let Some(reason) = reason
                && run.reason.is_none()
            {
                run.reason = Some(reason);
                self.link.interrupt().await?;
                kill_at = Some(Instant::now() + self.interrupt_grace);
            }
        }
        match &run.end {
            Some(End::Done(_)) => {
                // A process that it left behind may hold the pipes; what the cell printed is there by now.
                drain(&stdout, &mut out_buffer, |bytes| {
                    run.output.push(Stream::Stdout, bytes);
                });
                drain(&stderr, &mut err_buffer, |bytes| {
                    run.output.push(Stream::Stderr, bytes);
                });
                self.end_cell(run).await
            }
            Some(End::Ended(ended)) => {
                let usage = CellUsage {
                    cpu_ms: ended.cpu_ms,
                    memory: ended.memory,
                    ..CellUsage::default()
                };
                let rest = async {
                    while stdout.is_some() || stderr.is_some() {
                        tokio::select! {
                            length = read(&mut stdout, &mut out_buffer), if stdout.is_some() => {
                                run.output.push(Stream::Stdout, out_buffer.get(..length).unwrap_or_default());
                                if length == 0 {
                                    stdout = None;
                                }
                            }
                            length = read(&mut stderr, &mut err_buffer), if stderr.is_some() => {
                                run.output.push(Stream::Stderr, err_buffer.get(..length).unwrap_or_default());
                                if length == 0 {
                                    stderr = None;
                                }
                            }
                        }
                    }
                };
                // Only a descriptor that was passed out of the sandbox could keep them open.
                let _ = timeout(DRAIN_TIMEOUT, rest).await;
                Ok(usage)
            }
            Some(End::Killed(_)) | None => Ok(CellUsage::default()),
        }
    }

    /// Has the sandbox measure what the cell has left. Returns what the cell has used.
    async fn end_cell(&mut self, run: &mut CellRun) -> Result<CellUsage, StartError> {
        self.link.end_cell().await?;
        let reported = async {
            loop {
                match self.link.kernel_event().await? {
                    KernelEvent::CellEnded(usage) => {
                        if usage.is_over_disk_limit {
                            run.reason.get_or_insert(Reason::Limit(Cause::DiskLimit));
                        }
                        return Ok(usage);
                    }
                    KernelEvent::Limit(_) => {}
                    KernelEvent::Ended(ended) => {
                        run.end = Some(End::Ended(ended));
                        return Ok(CellUsage::default());
                    }
                }
            }
        };
        timeout(REPORT_TIMEOUT, reported)
            .await
            .map_err(|_elapsed| StartError::TimedOut)?
    }
}

/// A cell while it runs.
struct CellRun {
    output: Output,
    started: Instant,
    /// Why it was interrupted.
    reason: Option<Reason>,
    end: Option<End>,
}

/// Why a cell is interrupted.
enum Reason {
    Limit(Cause),
    Output,
    Canceled,
    Deleted,
}

impl Reason {
    /// Why the kernel had to be killed.
    fn loss(&self) -> KernelLoss {
        match self {
            Self::Limit(cause) => loss_of(*cause),
            Self::Output => KernelLoss::OutputLimit,
            Self::Canceled => KernelLoss::Canceled,
            Self::Deleted => KernelLoss::Deleted,
        }
    }
}

/// How a cell ended.
enum End {
    /// The kernel says so, and waits for the next one.
    Done(Done),
    /// The kernel has ended.
    Ended(Ended),
    /// The kernel is beyond control.
    Killed(KernelLoss),
}

fn loss_of(cause: Cause) -> KernelLoss {
    match cause {
        Cause::Exit(_) | Cause::Signal(_) | Cause::Killed => KernelLoss::Crashed,
        Cause::WallLimit => KernelLoss::TimeLimit,
        Cause::CpuLimit => KernelLoss::CpuLimit,
        Cause::MemoryLimit => KernelLoss::MemoryLimit,
        Cause::DiskLimit => KernelLoss::DiskLimit,
    }
}

/// Lets programs open the pipes by path, as `/dev/stdout`, for which the kernel's user needs rights to
/// them. Nobody else has a path to them.
fn open_to_programs(streams: &[OwnedFd; 3]) -> std::io::Result<()> {
    let everybody = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
    for stream in streams {
        fchmod(stream, everybody)?;
    }
    Ok(())
}

/// Reads what is in a pipe now.
fn drain(pipe: &Option<pipe::Receiver>, buffer: &mut [u8], mut push: impl FnMut(&[u8])) {
    let Some(pipe) = pipe else { return };
    // No more than a pipe can hold, for a process that was left behind may go on printing. Read past tokio,
    // which may not have noticed yet that there is something.
    for _ in 0..64 {
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(length) if length > 0 => push(buffer.get(..length).unwrap_or_default()),
            _ => return,
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
