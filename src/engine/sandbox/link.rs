//! The engine's side: starting the spawner, and one link a job.

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
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::protocol::{
    Ended, FileHeader, MAX_MESSAGE, Order, Ready, Report, Setup, StageOrder, WarmOrder,
};
use super::report::SandboxReport;
use super::spawner::SPAWNER_ARGUMENT;
use super::wire::{frame, receive_with_fds, send_with_fds};
use super::workspace::BOX;
use crate::limiter::Permit;
use crate::tree::random_name;

/// How long the spawner may take to be ready.
const START: Duration = Duration::from_secs(20);
/// How long what is left of a job may take to go before the next one takes its place all the same.
const FAREWELL: Duration = Duration::from_secs(30);

/// Why a job got no answer from the sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// A file name that cannot be used, in words for the client.
    #[error("{0}")]
    Refused(String),
    /// There is no room for the job; nothing of it was run.
    #[error("there is no room on the disk for a job's files")]
    NoSpace,
    /// The sandbox did not do what it was asked.
    #[error("the sandbox failed: {0}")]
    Failed(String),
    /// The program that was started ahead of the job has ended before it came.
    #[error("a program that waited for its job has ended")]
    Stale,
    /// The sandbox's processes are gone.
    #[error("the sandbox ended unexpectedly")]
    Gone,
    /// Talking to the sandbox failed.
    #[error("talking to the sandbox failed: {0}")]
    Io(#[from] io::Error),
}

/// The spawner; dropping it ends the spawner and every job.
#[derive(Debug)]
pub(crate) struct SpawnerHandle {
    control: OwnedFd,
    /// The folder with the jobs' directories.
    pub(crate) work: PathBuf,
    /// The folder that all jobs share.
    pub(crate) data_dir: PathBuf,
    /// What contains a job.
    pub(crate) report: SandboxReport,
    /// User and group that this process can become.
    pub(crate) service: Option<u32>,
    /// How it ended, in words, once it has.
    end: watch::Receiver<Option<String>>,
}

impl SpawnerHandle {
    /// Starts the spawner and waits until it takes jobs, a few milliseconds. It holds the lock on the
    /// data directory until the last job has ended.
    ///
    /// # Errors
    /// Where it cannot be started or finds that it cannot work here.
    pub(crate) fn start(
        program: &Path,
        setup: &Setup,
        lock: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        let (control, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let mut child = Command::new(program)
            .arg(SPAWNER_ARGUMENT)
            .env_clear()
            .current_dir("/")
            // Ctrl-C in a terminal is meant for the program, which lets its jobs finish.
            .process_group(0)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        // Collects it when it ends: after the engine has closed the socket, or too early.
        let (ended, end) = watch::channel(None);
        std::thread::spawn(move || {
            let how = match child.wait() {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            ended.send_replace(Some(how));
        });
        // A start that takes this long has failed, whatever holds it up.
        set_socket_timeout(&control, Timeout::Recv, Some(START))?;
        send_with_fds(
            &control,
            &serde_json::to_vec(setup)?,
            lock.as_slice(),
            SendFlags::empty(),
        )?;
        let mut answer = vec![0; 64 << 10];
        let length = receive_with_fds(&control, &mut answer, &mut VecDeque::new())?;
        if length == 0 {
            return Err(io::Error::other("the sandbox's spawner ended at start"));
        }
        match serde_json::from_slice(answer.get(..length).unwrap_or_default())? {
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
            Ready::Failed(why) => Err(io::Error::other(why)),
        }
    }

    /// Waits until the spawner has ended, which it does by itself only where something is wrong,
    /// and says how.
    pub(crate) async fn ended(&self) -> String {
        let mut end = self.end.clone();
        let how = end.wait_for(Option::is_some).await;
        how.map_or_else(|_| None, |how| how.clone())
            .unwrap_or_else(|| "nobody knows how".to_owned())
    }

    /// Asks for a keeper. The job has this permit, if it needs one, for as long as any process of it is
    /// there.
    ///
    /// # Errors
    /// Where the spawner is gone.
    pub(crate) async fn open(&self, permit: Option<Permit>) -> Result<JobLink, LinkError> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(io::Error::from)?;
        let name = random_name()?;
        loop {
            match send_with_fds(
                &self.control,
                name.as_bytes(),
                &[theirs.as_fd()],
                SendFlags::DONTWAIT,
            ) {
                Ok(_) => break,
                // So many jobs wait for a slot that the socket is full, which the gate in front
                // of it does not let happen for long.
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
            root: self.work.join(name),
            runs: false,
            permit,
        })
    }
}

/// The engine's end of one job; dropping it kills the job and deletes what it left. The job's permit is
/// given back when the last process is gone.
#[derive(Debug)]
pub(crate) struct JobLink {
    stream: UnixStream,
    received: Vec<u8>,
    root: PathBuf,
    /// Whether there may be processes of the job.
    runs: bool,
    permit: Option<Permit>,
}

impl Drop for JobLink {
    fn drop(&mut self) {
        // After the report of a stage nothing runs, and what the job has left in the data directory
        // has been handed over. The rest is done without anybody waiting for it.
        if self.runs
            && let Some(permit) = self.permit.take()
            && let Err(error) = self.leave(permit)
        {
            tracing::error!(%error, "a job cannot be waited for");
        }
    }
}

impl JobLink {
    /// Ends the job, and gives the permit back when nothing of the job is left.
    fn leave(&self, permit: Permit) -> io::Result<()> {
        shutdown(&self.stream, Shutdown::Write)?;
        let rest = std::os::unix::net::UnixStream::from(self.stream.as_fd().try_clone_to_owned()?);
        let mut rest = UnixStream::from_std(rest)?;
        // Without a runtime the process is about to end.
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        runtime.spawn(async move {
            let mut chunk = [0; 4096];
            let end = async { while rest.read(&mut chunk).await.is_ok_and(|read| read > 0) {} };
            if tokio::time::timeout(FAREWELL, end).await.is_err() {
                tracing::error!("a job that was given up does not end");
            }
            drop(permit);
        });
        Ok(())
    }

    /// The directory with the job's files.
    pub(crate) fn directory(&self) -> PathBuf {
        self.root.join(BOX)
    }

    /// The job's directory and the folder that it lies in: of no meaning to a client.
    pub(crate) fn private_folders(&self) -> [String; 2] {
        [self.directory(), self.root.clone()].map(|path| path.to_string_lossy().into_owned())
    }

    /// Sends the job's files. Whether they could be written is told with the first stage.
    ///
    /// # Errors
    /// Where the keeper is gone.
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
            Err(_) => Err(self.last_word().await),
        }
    }

    /// What the keeper said before it hung up.
    async fn last_word(&mut self) -> LinkError {
        match self.report().await {
            Ok(_) => LinkError::Gone,
            Err(error) => error,
        }
    }

    /// Starts a program with these standard streams ahead of its job, and waits until it is ready.
    ///
    /// # Errors
    /// Where it cannot be started, or the keeper is gone.
    pub(crate) async fn warm_up(
        &mut self,
        order: WarmOrder,
        stdio: [OwnedFd; 3],
    ) -> Result<(), LinkError> {
        let bytes = frame(&Order::Warm(order))?;
        self.send_with_streams(&bytes, stdio).await?;
        match self.next_report().await? {
            Report::Warm => Ok(()),
            Report::Refused(why) | Report::Failed(why) => Err(LinkError::Failed(why)),
            Report::NoSpace => Err(LinkError::NoSpace),
            Report::Ended(_) | Report::Stale => Err(LinkError::Gone),
        }
    }

    /// Whether the keeper of a program that waits for its job is there, and so is the program.
    pub(crate) fn waits(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(
            recv(&self.stream, &mut [0; 1], flags),
            Err(rustix::io::Errno::WOULDBLOCK)
        )
    }

    /// Gives the job its permit.
    pub(crate) fn admit(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// Takes the permit of a job that did not come to run.
    pub(crate) fn turn_away(mut self) -> Option<Permit> {
        self.permit.take()
    }

    /// Starts a stage, with these standard streams if no program was started ahead with others.
    ///
    /// # Errors
    /// Where the keeper is gone.
    pub(crate) async fn start_stage(
        &mut self,
        order: StageOrder,
        stdio: Option<[OwnedFd; 3]>,
    ) -> Result<(), LinkError> {
        let bytes = frame(&Order::Stage(order))?;
        self.runs = true;
        match stdio {
            Some(stdio) => self.send_with_streams(&bytes, stdio).await,
            None => self.send(&bytes).await,
        }
    }

    async fn send_with_streams(
        &mut self,
        bytes: &[u8],
        stdio: [OwnedFd; 3],
    ) -> Result<(), LinkError> {
        let sent = self
            .stream
            .async_io(Interest::WRITABLE, || {
                let [stdin, stdout, stderr] = &stdio;
                let fds = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
                send_with_fds(&self.stream, bytes, &fds, SendFlags::DONTWAIT)
            })
            .await;
        drop(stdio);
        match sent {
            Ok(sent) => self.send(bytes.get(sent..).unwrap_or_default()).await,
            Err(_) => Err(self.last_word().await),
        }
    }

    /// Ends the running stage; its report comes all the same.
    ///
    /// # Errors
    /// Where the keeper is gone.
    pub(crate) async fn kill(&mut self) -> Result<(), LinkError> {
        self.send(&frame(&Order::Kill)?).await
    }

    /// How the running stage ended. May be dropped and called again.
    ///
    /// # Errors
    /// What the keeper has to say instead, or that it is gone.
    pub(crate) async fn report(&mut self) -> Result<Ended, LinkError> {
        match self.next_report().await? {
            Report::Ended(ended) => {
                self.runs = false;
                Ok(ended)
            }
            Report::Refused(why) => Err(LinkError::Refused(why)),
            Report::NoSpace => Err(LinkError::NoSpace),
            Report::Failed(why) => Err(LinkError::Failed(why)),
            Report::Stale => Err(LinkError::Stale),
            Report::Warm => Err(LinkError::Gone),
        }
    }

    /// The keeper's next word. May be dropped and called again.
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

    fn parse(&mut self) -> io::Result<Option<Report>> {
        let Some(length) = self.received.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(io::Error::other)?;
        if length > MAX_MESSAGE {
            return Err(io::Error::other("a message from the sandbox is too long"));
        }
        let Some(message) = self.received.get(4..4 + length) else {
            return Ok(None);
        };
        let report = serde_json::from_slice(message)?;
        self.received.drain(..4 + length);
        Ok(Some(report))
    }
}
