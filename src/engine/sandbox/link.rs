//! The engine's side of the sandbox: starts the spawner, and holds one link per job.
//!
//! It is asynchronous and runs in the engine's process, unlike the rest of the sandbox. A link owns its
//! job: dropping it ends the job, and the job's permit is returned when nothing of it is left. Links
//! know neither requests nor runtimes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, shutdown,
    socketpair,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::runtime::{Handle, TryCurrentError};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::namespaces::WORK_DIR;
use super::protocol::{
    Cause, CellLimits, CellUsage, Ended, FileHeader, JobUser, Opening, Order, PrestartOrder, Ready,
    Report, ServiceIds, Setup, StageOrder,
};
use super::report::SandboxReport;
use super::spawner::SPAWNER_ARGUMENT;
use super::wire::{WireError, frame, message_length, receive_with_fds, send_with_fds};
use super::workspace::BOX;
use crate::limiter::Permit;
use crate::tree::random_name;

/// How long the spawner may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long cleaning up after a job may take before its permit is given to the next one all the same.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the sandbox could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SandboxStartError {
    /// There is no socket for the spawner, or it cannot be used.
    #[error("cannot set up the control socket: {0}")]
    ControlSocket(#[source] io::Error),
    /// The spawner's process cannot be started.
    #[error("cannot start the spawner: {0}")]
    Spawn(#[source] io::Error),
    /// The spawner ended before it was ready.
    #[error("the sandbox's spawner ended at start")]
    Ended,
    /// The setup or the spawner's reply is not valid JSON.
    #[error("cannot exchange the setup with the spawner: {0}")]
    Setup(#[source] serde_json::Error),
    /// The spawner cannot work on this machine, with its reason.
    #[error("{0}")]
    Failed(String),
}

/// Why the engine cannot wait for the end of a job that it has given up.
#[derive(Debug, thiserror::Error)]
enum AbandonError {
    #[error("cannot use the job's socket: {0}")]
    Socket(#[from] io::Error),
    #[error(transparent)]
    NoRuntime(#[from] TryCurrentError),
}

/// Why the sandbox did not report how a job ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// A file name cannot be used. The text is for the client.
    #[error("{0}")]
    Refused(String),
    /// The disk has no space left for the job. Nothing of it was run.
    #[error("there is no room on the disk for a job's files")]
    NoSpace,
    /// A keeper could not carry out an order.
    #[error("the sandbox failed: {0}")]
    Failed(String),
    /// The pre-started program ended before its job.
    #[error("a program that waited for its job has ended")]
    Stale,
    /// The spawner or the job's keeper has ended.
    #[error("the sandbox ended unexpectedly")]
    Gone,
    /// A socket or pipe to the sandbox failed.
    #[error("talking to the sandbox failed: {0}")]
    Io(#[from] io::Error),
    /// A message to or from a keeper is not valid.
    #[error("talking to the sandbox failed: {0}")]
    Wire(#[from] WireError),
}

/// The running spawner. Dropping the handle ends it and every job.
#[derive(Debug)]
pub(crate) struct SpawnerHandle {
    control: OwnedFd,
    /// The parent of the jobs' directories.
    pub(crate) work: PathBuf,
    /// The directory that all jobs share.
    pub(crate) data_dir: PathBuf,
    /// What contains a job.
    pub(crate) report: SandboxReport,
    /// Whom this process can change to.
    pub(crate) service: Option<ServiceIds>,
    /// How the spawner ended, as text, once it has.
    end: watch::Receiver<Option<String>>,
}

impl SpawnerHandle {
    /// Starts the spawner and blocks until it accepts jobs, which takes a few milliseconds. The spawner
    /// and its keepers hold the lock on the data directory until the last job has ended.
    ///
    /// # Errors
    /// If it cannot be started, or cannot work on this machine.
    pub(crate) fn start(
        program: &Path,
        setup: &Setup,
        lock: Option<BorrowedFd<'_>>,
    ) -> Result<Self, SandboxStartError> {
        let (control, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|error| SandboxStartError::ControlSocket(error.into()))?;
        let mut child = Command::new(program)
            .arg(SPAWNER_ARGUMENT)
            .env_clear()
            .current_dir("/")
            // A terminal sends SIGINT to the whole foreground group. Only the main process should get
            // it, as it lets the jobs finish.
            .process_group(0)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(SandboxStartError::Spawn)?;
        // Reaps it when it ends: after the engine has closed the socket, or too early.
        let (ended, end) = watch::channel(None);
        std::thread::spawn(move || {
            let status = match child.wait() {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            ended.send_replace(Some(status));
        });
        let setup = serde_json::to_vec(setup).map_err(SandboxStartError::Setup)?;
        let mut reply = vec![0; 64 << 10];
        let length = set_socket_timeout(&control, Timeout::Recv, Some(START_TIMEOUT))
            .map_err(io::Error::from)
            .and_then(|()| send_with_fds(&control, &setup, lock.as_slice(), SendFlags::empty()))
            .and_then(|_| receive_with_fds(&control, &mut reply, &mut VecDeque::new()))
            .map_err(SandboxStartError::ControlSocket)?;
        if length == 0 {
            return Err(SandboxStartError::Ended);
        }
        let reply = serde_json::from_slice(reply.get(..length).unwrap_or_default());
        match reply.map_err(SandboxStartError::Setup)? {
            Ready::Ready {
                work,
                data_dir,
                report,
                service,
            } => Ok(Self {
                control,
                work,
                data_dir,
                report,
                service,
                end,
            }),
            Ready::Failed(reason) => Err(SandboxStartError::Failed(reason)),
        }
    }

    /// Waits until the spawner has ended, and returns how. It ends by itself only after a failure.
    pub(crate) async fn ended(&self) -> String {
        let mut end = self.end.clone();
        let status = end.wait_for(Option::is_some).await;
        status
            .map_or_else(|_| None, |status| status.clone())
            .unwrap_or_else(|| "unknown status".to_owned())
    }

    /// Asks for a keeper, for a program or for something else that runs as `user`. The job holds the permit,
    /// if it needs one, for as long as any of its processes may run.
    ///
    /// # Errors
    /// If the spawner has ended.
    pub(crate) async fn open(
        &self,
        user: JobUser,
        is_program: bool,
        permit: Option<JobPermit>,
    ) -> Result<JobLink, LinkError> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(io::Error::from)?;
        let name = random_name()?;
        let opening = serde_json::to_vec(&Opening {
            name: name.clone(),
            user,
            is_program,
        });
        let opening = opening.map_err(WireError::from)?;
        loop {
            match send_with_fds(
                &self.control,
                &opening,
                &[theirs.as_fd()],
                SendFlags::DONTWAIT,
            ) {
                Ok(_) => break,
                // The socket is full of jobs that wait for a slot. The concurrency limit in front of it
                // keeps that rare and short, so polling is good enough.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(_) => return Err(LinkError::Gone),
            }
        }
        let stream = std::os::unix::net::UnixStream::from(ours);
        stream.set_nonblocking(true)?;
        Ok(JobLink {
            stream: UnixStream::from_std(stream)?,
            received: Vec::new(),
            root: match self.report.namespaces {
                true => Path::new(WORK_DIR).join(name),
                false => self.work.join(name),
            },
            is_running: false,
            permit,
        })
    }
}

/// What a job holds for as long as any of its processes may run.
#[derive(Debug)]
pub(crate) struct JobPermit {
    /// The right to run.
    pub(crate) _execution: Permit,
    /// The right to be the session's user among programs, if it has it.
    pub(crate) _session_turn: Option<OwnedSemaphorePermit>,
}

/// What a keeper says of its kernel.
#[derive(Debug)]
pub(crate) enum KernelEvent {
    /// The running cell exceeds this limit.
    Limit(Cause),
    /// The cell has ended, and used this.
    CellEnded(CellUsage),
    /// The kernel has ended, and no process of it is left.
    Ended(Ended),
}

/// The engine's end of one job. Dropping it kills the job and deletes what it left. The job's permit is
/// returned when its last process has ended.
#[derive(Debug)]
pub(crate) struct JobLink {
    stream: UnixStream,
    received: Vec<u8>,
    root: PathBuf,
    /// Whether processes of the job may be running.
    is_running: bool,
    permit: Option<JobPermit>,
}

impl Drop for JobLink {
    fn drop(&mut self) {
        // Once a stage has been reported, no process of it runs and the program's files in the data
        // directory have been handed over, so the permit can be returned before the cleanup.
        if self.is_running
            && let Some(permit) = self.permit.take()
            && let Err(error) = self.abandon(permit)
        {
            tracing::error!(%error, "failed to wait for the end of a job");
        }
    }
}

impl JobLink {
    /// Ends the job, and returns the permit in the background when nothing of the job is left.
    fn abandon(&self, permit: JobPermit) -> Result<(), AbandonError> {
        shutdown(&self.stream, Shutdown::Write).map_err(io::Error::from)?;
        let rest = std::os::unix::net::UnixStream::from(self.stream.as_fd().try_clone_to_owned()?);
        let mut rest = UnixStream::from_std(rest)?;
        // Without a runtime this process is about to exit.
        let runtime = Handle::try_current()?;
        runtime.spawn(async move {
            let mut chunk = [0; 4096];
            let end = async { while rest.read(&mut chunk).await.is_ok_and(|read| read > 0) {} };
            if tokio::time::timeout(CLEANUP_TIMEOUT, end).await.is_err() {
                tracing::error!("abandoned job does not end");
            }
            drop(permit);
        });
        Ok(())
    }

    /// The directory with the job's files.
    pub(crate) fn directory(&self) -> PathBuf {
        self.root.join(BOX)
    }

    /// The job's directory and its parent, whose paths mean nothing to a client.
    pub(crate) fn private_directories(&self) -> [String; 2] {
        [self.directory(), self.root.clone()].map(|path| path.to_string_lossy().into_owned())
    }

    /// Sends the job's files. Failure to write them is reported instead of the first stage's end.
    ///
    /// # Errors
    /// If the keeper has ended.
    pub(crate) async fn files(&mut self, files: &[(String, Vec<u8>)]) -> Result<(), LinkError> {
        let headers = files
            .iter()
            .map(|(path, bytes)| FileHeader {
                path: path.clone(),
                length: bytes.len() as u64,
            })
            .collect();
        self.send(&frame(&Order::Open(headers))?).await?;
        for (_, bytes) in files {
            self.send(bytes).await?;
        }
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        match self.stream.write_all(bytes).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.hang_up_reason().await),
        }
    }

    /// What the keeper reported before it hung up.
    async fn hang_up_reason(&mut self) -> LinkError {
        match self.report().await {
            Ok(_) => LinkError::Gone,
            Err(error) => error,
        }
    }

    /// Starts a program with these standard streams before its job, and waits until it is ready.
    /// Returns the text of [`PrestartOrder::report`].
    ///
    /// # Errors
    /// If it cannot be started, or the keeper has ended.
    pub(crate) async fn prestart(
        &mut self,
        order: PrestartOrder,
        stdio: [OwnedFd; 3],
    ) -> Result<String, LinkError> {
        let bytes = frame(&Order::Prestart(order))?;
        self.send_with_descriptors(&bytes, Vec::from(stdio)).await?;
        match self.next_report().await? {
            Report::Prestarted(report) => Ok(report),
            Report::Refused(reason) | Report::Failed(reason) => Err(LinkError::Failed(reason)),
            Report::NoSpace => Err(LinkError::NoSpace),
            _ => Err(LinkError::Gone),
        }
    }

    /// Whether the pre-started program still waits for its job. Its keeper reports and hangs up as soon
    /// as the program ends, so it does while there is nothing to read.
    pub(crate) fn is_idle(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(
            recv(&self.stream, &mut [0; 1], flags),
            Err(rustix::io::Errno::WOULDBLOCK)
        )
    }

    /// Gives the permit to the job that the pre-started program is used for.
    pub(crate) fn attach_permit(&mut self, permit: JobPermit) {
        self.permit = Some(permit);
    }

    /// Discards a pre-started program that was not used, and takes back the job's permit.
    pub(crate) fn discard_prestarted(mut self) -> Option<JobPermit> {
        self.permit.take()
    }

    /// Starts a stage. `stdio` is `None` if a pre-started program has its standard streams already.
    ///
    /// # Errors
    /// If the keeper has ended.
    pub(crate) async fn start_stage(
        &mut self,
        order: StageOrder,
        stdio: Option<[OwnedFd; 3]>,
    ) -> Result<(), LinkError> {
        let bytes = frame(&Order::Stage(order))?;
        self.is_running = true;
        match stdio {
            Some(stdio) => self.send_with_descriptors(&bytes, Vec::from(stdio)).await,
            None => self.send(&bytes).await,
        }
    }

    async fn send_with_descriptors(
        &mut self,
        bytes: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), LinkError> {
        let sent = self
            .stream
            .async_io(Interest::WRITABLE, || {
                let fds: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
                send_with_fds(&self.stream, bytes, &fds, SendFlags::DONTWAIT)
            })
            .await;
        drop(descriptors);
        match sent {
            Ok(sent) => self.send(bytes.get(sent..).unwrap_or_default()).await,
            Err(_) => Err(self.hang_up_reason().await),
        }
    }

    /// Starts a program that runs cells, with its standard streams and the socket for its cells.
    ///
    /// # Errors
    /// If the keeper has ended.
    pub(crate) async fn start_kernel(
        &mut self,
        order: StageOrder,
        descriptors: [OwnedFd; 4],
    ) -> Result<(), LinkError> {
        let bytes = frame(&Order::Kernel(order))?;
        self.is_running = true;
        self.send_with_descriptors(&bytes, Vec::from(descriptors))
            .await
    }

    /// Tells the keeper that a cell begins.
    ///
    /// # Errors
    /// If the keeper has ended.
    pub(crate) async fn begin_cell(&mut self, limits: CellLimits) -> Result<(), LinkError> {
        self.send(&frame(&Order::BeginCell(limits))?).await
    }

    /// Tells the keeper that the cell has ended, which [`kernel_event`](Self::kernel_event) replies to.
    ///
    /// # Errors
    /// If the keeper has ended.
    pub(crate) async fn end_cell(&mut self) -> Result<(), LinkError> {
        self.send(&frame(&Order::EndCell)?).await
    }

    /// Sends SIGINT to the kernel.
    ///
    /// # Errors
    /// If the keeper has ended.
    pub(crate) async fn interrupt(&mut self) -> Result<(), LinkError> {
        self.send(&frame(&Order::Interrupt)?).await
    }

    /// What the keeper reports of a kernel. Cancel-safe.
    ///
    /// # Errors
    /// What it reports instead, or that it has ended.
    pub(crate) async fn kernel_event(&mut self) -> Result<KernelEvent, LinkError> {
        match self.next_report().await? {
            Report::Ended(ended) => {
                self.is_running = false;
                Ok(KernelEvent::Ended(ended))
            }
            Report::CellLimit(cause) => Ok(KernelEvent::Limit(cause)),
            Report::CellEnded(usage) => Ok(KernelEvent::CellEnded(usage)),
            Report::NoSpace => Err(LinkError::NoSpace),
            Report::Refused(reason) | Report::Failed(reason) => Err(LinkError::Failed(reason)),
            Report::Stale | Report::Prestarted(_) => Err(LinkError::Gone),
        }
    }

    /// Ends the job and waits until nothing of it is left.
    pub(crate) async fn end(mut self) {
        self.is_running = false;
        if shutdown(&self.stream, Shutdown::Write).is_err() {
            return;
        }
        let mut chunk = [0; 4096];
        let end = async {
            while self
                .stream
                .read(&mut chunk)
                .await
                .is_ok_and(|read| read > 0)
            {}
        };
        if tokio::time::timeout(CLEANUP_TIMEOUT, end).await.is_err() {
            tracing::error!("a kernel's processes do not end");
        }
    }

    /// Ends the running stage, which is still reported.
    ///
    /// # Errors
    /// If the keeper has ended.
    pub(crate) async fn kill(&mut self) -> Result<(), LinkError> {
        self.send(&frame(&Order::Kill)?).await
    }

    /// Waits until the running stage has ended. Cancel-safe.
    ///
    /// # Errors
    /// What the keeper reports instead, or that it has ended.
    pub(crate) async fn report(&mut self) -> Result<Ended, LinkError> {
        match self.next_report().await? {
            Report::Ended(ended) => {
                self.is_running = false;
                Ok(ended)
            }
            Report::Refused(reason) => Err(LinkError::Refused(reason)),
            Report::NoSpace => Err(LinkError::NoSpace),
            Report::Failed(reason) => Err(LinkError::Failed(reason)),
            Report::Stale => Err(LinkError::Stale),
            Report::Prestarted(_) | Report::CellLimit(_) | Report::CellEnded(_) => {
                Err(LinkError::Gone)
            }
        }
    }

    /// The keeper's next message. Cancel-safe: received bytes are kept in `self`.
    async fn next_report(&mut self) -> Result<Report, LinkError> {
        loop {
            if let Some(report) = self.parse()? {
                return Ok(report);
            }
            self.stream.readable().await?;
            let mut chunk = [0; 4096];
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return Err(LinkError::Gone),
                Ok(n) => self.received.extend(chunk.iter().take(n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(LinkError::Gone),
            }
        }
    }

    fn parse(&mut self) -> Result<Option<Report>, WireError> {
        let Some(header) = self.received.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = message_length(*header)?;
        let Some(message) = self.received.get(4..4 + length) else {
            return Ok(None);
        };
        let report = serde_json::from_slice(message)?;
        self.received.drain(..4 + length);
        Ok(Some(report))
    }
}
