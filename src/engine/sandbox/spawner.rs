//! The spawner: a small process with one thread that forks a keeper for each job.
//!
//! It is this executable started anew, so it shares no memory with the HTTP side. That keeps it small,
//! which makes forking fast and keeps its own pages out of the memory figures of short programs, and
//! lets it keep rights that the HTTP side gives up.
//!
//! It owns the job slots. A slot is free again only once its keeper, or a cleaner after it, has left
//! it clean. The spawner never reads a job's files or output.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, pidfd_open};

use crate::tree::{delete_tree, temporary_folder};

use super::disk::{self, FileTime, SharedPlaces};
use super::held::Surroundings;
use super::keeper::{RunningJob, run_keeper};
use super::log;
use super::policy::Policy;
use super::probe::{ProbeError, probe};
use super::process_tree::running_below;
use super::protocol::{JobUser, Opening, Ready, ServiceIds, Setup};
use super::report::{Layer, SandboxReport};
use super::slots::{Slot, Slots, SlotsError};
use super::stage::{MAX_REAPED, kill_below, kill_user};
use super::sys::{self, ExitStatus, Fork, SingleThreaded, ThreadError, Wait, WaitMode};
use super::wire::{receive_with_fds, send_with_fds};
use super::workspace::Workspace;

/// How long the last keepers may take to end once the engine is gone.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the processes of a killed keeper may take to end.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(2);

/// How many cleaners try to clean a slot one after the other before it is quarantined.
const MAX_CLEANUP_ATTEMPTS: u32 = 3;

/// How long a quarantined slot waits for its next cleaner.
const QUARANTINE_INTERVAL: Duration = Duration::from_secs(5);

/// For how long measurements of the machine are used.
const SURROUNDINGS_INTERVAL: Duration = Duration::from_millis(100);

/// Time until a cleaner that could not be started is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Prefix of the directories that hold the jobs' directories.
pub(in crate::engine) const WORK_PREFIX: &str = "session-jobs-";

/// The first argument that makes this executable run as the spawner.
pub const SPAWNER_ARGUMENT: &str = "__spawner";

/// Why the spawner could not start or go on.
#[derive(Debug, thiserror::Error)]
enum SpawnerError {
    #[error(transparent)]
    Threads(#[from] ThreadError),
    #[error("cannot set up the spawner's process: {0}")]
    Process(#[source] io::Error),
    #[error("cannot use the control socket: {0}")]
    ControlSocket(#[source] io::Error),
    #[error("cannot read the setup: {0}")]
    Setup(#[source] serde_json::Error),
    #[error("cannot give out user ids: {0}")]
    Slots(#[from] SlotsError),
    #[error("there are no job slots")]
    NoSlots,
    #[error("cannot create a directory for jobs in {}: {source}", .parent.display())]
    CreateWorkDir {
        parent: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("data directory {}: {source}", .path.display())]
    DataDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error("cannot wait for jobs: {0}")]
    Poll(#[source] io::Error),
    #[error("cannot watch a keeper: {0}")]
    WatchKeeper(#[source] io::Error),
    #[error("no job slot is left: none could be cleaned")]
    OutOfSlots,
    #[error("cannot delete the directory for jobs: {0}")]
    DeleteWorkDir(#[source] io::Error),
}

/// Runs the spawner, with its control socket as standard input, until the engine is gone.
///
/// Must be called before anything that may start a thread.
pub fn spawner_main() -> ! {
    let code = match run() {
        Ok(()) => 0,
        Err(error) => {
            log::error("sandbox spawner failed", &error);
            1
        }
    };
    sys::exit_now(code)
}

fn run() -> Result<(), SpawnerError> {
    let proof = SingleThreaded::check()?;
    sys::default_signals();
    sys::close_from(3).map_err(SpawnerError::Process)?;
    let control = take_control_socket().map_err(SpawnerError::ControlSocket)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .and_then(|()| rustix::process::set_child_subreaper(Some(rustix::process::getpid())))
        .map_err(|error| SpawnerError::Process(error.into()))?;
    let mut packet = vec![0; 64 << 10];
    let mut data_dir_lock = VecDeque::new();
    let length = receive_with_fds(&control, &mut packet, &mut data_dir_lock)
        .map_err(SpawnerError::ControlSocket)?;
    let setup: Setup = serde_json::from_slice(packet.get(..length).unwrap_or_default())
        .map_err(SpawnerError::Setup)?;
    // What is free by now is there for keepers and cleaners even where no more memory can be had.
    drop(packet);
    log::set_json(setup.json_log);
    let started = start(proof, &setup);
    let ready = match &started {
        Ok(started) => Ready::Ready {
            work: started.work.clone(),
            data_dir: started.data_dir.clone(),
            report: started.report.clone(),
            service: started.slots.block.as_ref().map(|block| ServiceIds {
                service: block.service,
                session: block.session,
            }),
        },
        Err(error) => Ready::Failed(error.to_string()),
    };
    serde_json::to_vec(&ready)
        .map_err(io::Error::from)
        .and_then(|ready| send_with_fds(&control, &ready, &[], SendFlags::empty()))
        .map_err(SpawnerError::ControlSocket)?;
    let started = started?;
    let root = started.root;
    let mut spawner = Spawner {
        proof,
        setting: JobSetting::new(started.policy, started.work),
        slots: started.slots,
        _locks: (started.lock, data_dir_lock.pop_front()),
        keepers: Vec::new(),
        unclean: Vec::new(),
    };
    let served = spawner.serve(control);
    spawner.wait_for_keepers();
    let deleted = delete_tree(&root).map_err(SpawnerError::DeleteWorkDir);
    served.and(deleted)
}

/// Moves the control socket to a descriptor above the standard streams.
fn take_control_socket() -> io::Result<OwnedFd> {
    let given = sys::take_stdin();
    let control = rustix::io::fcntl_dupfd_cloexec(&given, 3)?;
    // Descriptor 0 must stay in use, or the next file that is opened would get it.
    std::mem::forget(given);
    let null = std::fs::File::open("/dev/null")?;
    sys::duplicate_to(null.as_fd(), 0)?;
    Ok(control)
}

/// Reserves a descriptor, so that no keeper is started that could not be watched by one.
fn reserve_descriptor() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/dev/null")?.into())
}

/// A spawner's resources at its start.
struct Started {
    policy: Policy,
    report: SandboxReport,
    slots: Slots,
    /// The directory that is deleted with the spawner.
    root: PathBuf,
    /// The parent of the jobs' directories, below the root.
    work: PathBuf,
    /// The directory that all jobs share, below the root unless one was configured.
    data_dir: PathBuf,
    /// Lock on the root, held for as long as it is in use.
    lock: OwnedFd,
}

/// Creates the slots and the directories for jobs, and probes the sandbox.
fn start(proof: SingleThreaded, setup: &Setup) -> Result<Started, SpawnerError> {
    let wants_uids =
        rustix::process::geteuid().is_root() && !setup.without.contains(&Layer::OwnUsers);
    let lacking = if wants_uids {
        missing_capabilities()
    } else {
        Vec::new()
    };
    let own_uids = wants_uids && lacking.is_empty();
    let mut slots = if own_uids {
        Slots::with_own_uids(setup.slots)?
    } else {
        Slots::sharing_one_uid(setup.slots)
    };
    let (root, work, lock) = create_work_dir(&setup.work_parent, own_uids).map_err(|source| {
        SpawnerError::CreateWorkDir {
            parent: setup.work_parent.clone(),
            source,
        }
    })?;
    let data_dir_failed = |path: &Path, source| SpawnerError::DataDir {
        path: path.to_owned(),
        source,
    };
    let data_dir = match &setup.data_dir {
        Some(configured) => configured.clone(),
        None => {
            let data_dir = root.join("data");
            rustix::fs::mkdir(&data_dir, Mode::RWXU)
                .map_err(|error| data_dir_failed(&data_dir, error.into()))?;
            data_dir
        }
    };
    if let Some(block) = &slots.block {
        disk::open_to_group(&data_dir, block)
            .map_err(|source| data_dir_failed(&data_dir, source))?;
        if let Err(error) = disk::sweep_abandoned(block) {
            log::warn(
                "failed to delete what an earlier engine's jobs left",
                &error,
            );
        }
    }
    let mut policy = Policy::new(setup, data_dir.clone(), slots.block.clone());
    let slot = slots.take(JobUser::Own).ok_or(SpawnerError::NoSlots)?;
    let probed = probe(&mut policy, proof, &work, slot);
    slots.give_back(slot);
    match probed {
        Ok(report) => Ok(Started {
            policy,
            report: SandboxReport { lacking, ..report }.with_mode_and_missing(),
            slots,
            root,
            work,
            data_dir,
            lock,
        }),
        Err(error) => {
            delete_tree(&root).map_err(SpawnerError::DeleteWorkDir)?;
            Err(error.into())
        }
    }
}

/// Creates a temporary directory and the directory for jobs in it. Returns both, and the lock on the
/// former.
fn create_work_dir(parent: &Path, own_uids: bool) -> io::Result<(PathBuf, PathBuf, OwnedFd)> {
    let (root, lock) = temporary_folder(parent, WORK_PREFIX)?;
    let work = root.join("jobs");
    rustix::fs::mkdir(&work, Mode::RWXU)?;
    if own_uids {
        // The jobs' users may pass through to their own directories, but not list the others.
        for folder in [&root, &work] {
            rustix::fs::chmod(folder, Mode::RWXU | Mode::XGRP | Mode::XOTH)?;
        }
    }
    Ok((root, work, lock))
}

/// The names of the missing capabilities that root needs to run jobs as users of their own, and to
/// clean up what such a user leaves.
fn missing_capabilities() -> Vec<String> {
    use rustix::thread::{CapabilitySet, capabilities};
    const NEEDED: [(CapabilitySet, &str); 5] = [
        (CapabilitySet::SETUID, "CAP_SETUID"),
        (CapabilitySet::SETGID, "CAP_SETGID"),
        (CapabilitySet::CHOWN, "CAP_CHOWN"),
        (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
        (CapabilitySet::FOWNER, "CAP_FOWNER"),
    ];
    let here = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    NEEDED
        .into_iter()
        .filter(|(right, _)| !here.contains(*right))
        .map(|(_, name)| name.to_owned())
        .collect()
}

/// A keeper, or a cleaner that took over from one that failed.
struct Keeper {
    pid: Pid,
    /// Readable once the process has ended.
    exit_fd: OwnedFd,
    job: SlotJob,
}

/// The job that a slot is used for, until it has been cleaned up.
struct SlotJob {
    /// The keeper's end of the job's socket. The spawner holds it until the job has been cleaned up, by
    /// whichever process, or the slot is quarantined; closing it tells the engine so.
    socket: Option<OwnedFd>,
    slot: Slot,
    /// The name of the job's directory.
    name: String,
    /// Whether it is a program, see [`RunningJob`].
    is_program: bool,
    /// Whether others had the job's user when it began.
    shares_user_now: bool,
    started: FileTime,
    /// How many cleaners have been started.
    cleanup_attempts: u32,
    /// When the next cleaner may start.
    retry_at: Instant,
}

impl SlotJob {
    fn running<'a>(&'a self, spawner: &'a JobSetting, since: Option<FileTime>) -> RunningJob<'a> {
        RunningJob {
            policy: &spawner.policy,
            slot: self.slot,
            is_program: self.is_program,
            work: &spawner.work,
            name: &self.name,
            shares_user_now: self.shares_user_now,
            surroundings: spawner.surroundings,
            places: &spawner.places,
            started: self.started,
            since,
        }
    }
}

/// What is the same for all jobs.
struct JobSetting {
    policy: Policy,
    work: PathBuf,
    places: SharedPlaces,
    surroundings: Surroundings,
    surroundings_measured: Instant,
}

impl JobSetting {
    fn new(policy: Policy, work: PathBuf) -> Self {
        Self {
            places: SharedPlaces::search(&policy.data_dir),
            surroundings: Surroundings::measure(),
            surroundings_measured: Instant::now(),
            policy,
            work,
        }
    }

    /// Refreshes the measurements if they are old. Measuring for each job would cost more than a short job.
    fn refresh(&mut self) {
        if self.policy.namespaces.is_none() {
            self.places.refresh(&self.policy.data_dir);
        }
        if self.surroundings_measured.elapsed() > SURROUNDINGS_INTERVAL {
            self.surroundings = Surroundings::measure();
            self.surroundings_measured = Instant::now();
        }
    }
}

struct Spawner {
    proof: SingleThreaded,
    setting: JobSetting,
    slots: Slots,
    /// Locks on the work directory and on the data directory. Keepers inherit them, so they are held
    /// until the last job has ended.
    _locks: (OwnedFd, Option<OwnedFd>),
    keepers: Vec<Keeper>,
    /// Jobs whose keeper has ended, whose slot is not clean and for which no cleaner runs.
    unclean: Vec<SlotJob>,
}

impl Spawner {
    /// Accepts jobs until the engine is gone.
    fn serve(&mut self, control: OwnedFd) -> Result<(), SpawnerError> {
        let mut control = Some(control);
        while let Some(socket) = &control {
            let mut fds: Vec<_> = self
                .keepers
                .iter()
                .map(|keeper| PollFd::new(&keeper.exit_fd, PollFlags::IN))
                .collect();
            // Without a free slot, jobs stay queued in the socket.
            if self.slots.any_free() {
                fds.push(PollFd::new(socket, PollFlags::IN));
            } else {
                fds.push(PollFd::new(socket, PollFlags::empty()));
            }
            let retry_at = self.unclean.iter().map(|job| job.retry_at).min();
            let timeout = retry_at.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(SpawnerError::Poll(error.into())),
            }
            let control_ready = fds.pop().is_some_and(|fd| !fd.revents().is_empty());
            drop(fds);
            self.reap();
            if self.is_out_of_slots() {
                return Err(SpawnerError::OutOfSlots);
            }
            if control_ready && self.slots.any_free() {
                self.accept_job(&mut control)?;
            } else if control_ready {
                // Without interest in data, `poll` reports only that the engine hung up.
                return Ok(());
            }
        }
        Ok(())
    }

    fn accept_job(&mut self, control: &mut Option<OwnedFd>) -> Result<(), SpawnerError> {
        let Some(from) = control else {
            return Ok(());
        };
        let mut fds = VecDeque::new();
        let mut packet = [0; 256];
        let length =
            receive_with_fds(&*from, &mut packet, &mut fds).map_err(SpawnerError::ControlSocket)?;
        if length == 0 {
            *control = None;
            return Ok(());
        }
        let opening: Opening = serde_json::from_slice(packet.get(..length).unwrap_or_default())
            .map_err(SpawnerError::Setup)?;
        let Some(socket) = fds.pop_front() else {
            // Without a free descriptor the kernel closes the socket, which the engine sees.
            log::error("failed to start a keeper", &Errno::MFILE);
            return Ok(());
        };
        let spare = match reserve_descriptor() {
            Ok(spare) => spare,
            Err(error) => {
                log::error("failed to start a keeper", &error);
                return Ok(());
            }
        };
        self.setting.refresh();
        let Some(slot) = self.slots.take(opening.user) else {
            return Ok(());
        };
        let job = SlotJob {
            socket: None,
            slot,
            name: opening.name,
            is_program: opening.is_program,
            shares_user_now: self.is_session_user_taken(),
            started: FileTime::now(),
            cleanup_attempts: 0,
            retry_at: Instant::now(),
        };
        match sys::fork(self.proof) {
            Ok(Fork::Child) => {
                // Closes this process's copies: the engine learns by closed sockets that the spawner or
                // another job has ended.
                *control = None;
                self.keepers.clear();
                self.unclean.clear();
                let running = job.running(&self.setting, None);
                run_keeper(self.proof, socket, running)
            }
            Ok(Fork::Parent(pid)) => {
                drop(spare);
                let socket = Some(socket);
                self.watch(pid, SlotJob { socket, ..job })
                    .map_err(SpawnerError::WatchKeeper)?;
            }
            // The job's socket is dropped, which the engine sees.
            Err(error) => {
                log::error("failed to start a keeper", &error);
                self.slots.give_back(slot);
            }
        }
        Ok(())
    }

    /// Whether a keeper's job has the session's user now.
    fn is_session_user_taken(&self) -> bool {
        let mut ids = self.keepers.iter().filter_map(|keeper| keeper.job.slot.ids);
        ids.any(|ids| !ids.is_sole_user)
    }

    /// Whether no slot is free and none will soon be.
    fn is_out_of_slots(&self) -> bool {
        let quarantined = |job: &SlotJob| job.cleanup_attempts >= MAX_CLEANUP_ATTEMPTS;
        !self.slots.any_free() && self.keepers.is_empty() && self.unclean.iter().all(quarantined)
    }

    fn watch(&mut self, pid: Pid, job: SlotJob) -> io::Result<()> {
        let exit_fd = pidfd_open(pid, PidfdFlags::empty())?;
        self.keepers.push(Keeper { pid, exit_fd, job });
        Ok(())
    }

    /// Reaps ended children. If a keeper failed to clean its slot or was killed, a cleaner takes over. A
    /// slot that several cleaners could not clean is quarantined: it is not used until a later one can.
    fn reap(&mut self) {
        for (keeper, end) in self.reap_exited() {
            let mut job = keeper.job;
            if end == ExitStatus::Exit(0) {
                if job.cleanup_attempts > MAX_CLEANUP_ATTEMPTS {
                    let slot = format_args!("slot {}", job.slot.number);
                    log::warn("quarantined job slot is clean and used again", &slot);
                }
                self.slots.give_back(job.slot);
                continue;
            }
            self.kill_orphans(job.slot);
            if job.cleanup_attempts >= MAX_CLEANUP_ATTEMPTS {
                if job.cleanup_attempts == MAX_CLEANUP_ATTEMPTS {
                    let slot = format_args!("slot {}", job.slot.number);
                    log::error("job slot quarantined: cleanup failed", &slot);
                }
                job.socket = None;
                job.retry_at = Instant::now() + QUARANTINE_INTERVAL;
            }
            self.unclean.push(job);
        }
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.unclean)
            .into_iter()
            .partition(|job: &SlotJob| job.retry_at <= now);
        self.unclean = later;
        for job in due {
            // Fails if other jobs hold the last processes or memory, so it is retried.
            if let Err((mut job, error)) = self.start_cleaner(job) {
                let error = format_args!("slot {}: {error}", job.slot.number);
                log::error("failed to start a cleaner: will retry", &error);
                job.retry_at = now + RETRY_INTERVAL;
                self.unclean.push(job);
            }
        }
    }

    fn reap_exited(&mut self) -> Vec<(Keeper, ExitStatus)> {
        let mut ended = Vec::new();
        // Orphans of a killed keeper may start and end processes faster than they are reaped.
        for _ in 0..MAX_REAPED {
            let Wait::Ended(child) = sys::wait(None, WaitMode::Poll) else {
                break;
            };
            let found = self
                .keepers
                .iter()
                .position(|keeper| keeper.pid.as_raw_nonzero().get() == child.pid);
            if let Some(at) = found {
                ended.push((self.keepers.swap_remove(at), child.end));
            }
        }
        ended
    }

    /// Kills the processes of a keeper that was killed. They have been reparented to this process, which
    /// is the subreaper above all keepers.
    fn kill_orphans(&mut self, slot: Slot) {
        let me = rustix::process::getpid();
        let until = Instant::now() + ORPHAN_TIMEOUT;
        while Instant::now() < until {
            let keepers: Vec<_> = self
                .keepers
                .iter()
                .map(|keeper| keeper.pid.as_raw_nonzero().get())
                .collect();
            // Keepers that have ended meanwhile are reaped later.
            if running_below(me.as_raw_nonzero().get(), &keepers).is_empty() {
                break;
            }
            kill_below(self.proof, me, &keepers, slot.ids);
            let is_late = Instant::now() + ORPHAN_TIMEOUT / 2 > until;
            if let Some(ids) = slot.ids.filter(|ids| ids.is_sole_user || is_late) {
                kill_user(self.proof, ids);
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    fn start_cleaner(&mut self, mut job: SlotJob) -> Result<(), (SlotJob, io::Error)> {
        match sys::fork(self.proof) {
            Ok(Fork::Child) => {
                self.keepers.clear();
                self.unclean.clear();
                let running = job.running(&self.setting, Some(job.started));
                let workspace = Workspace::of(&self.setting.work, &job.name);
                let cleaned = running.clean_up(Some(&workspace), false);
                sys::exit_now(i32::from(cleaned.is_err()))
            }
            Ok(Fork::Parent(pid)) => {
                job.cleanup_attempts += 1;
                if let Err(error) = self.watch(pid, job) {
                    log::error("failed to watch a cleaner", &error);
                }
                Ok(())
            }
            Err(error) => Err((job, error)),
        }
    }

    /// Waits for the last keepers, which end because the engine has closed their sockets.
    fn wait_for_keepers(&mut self) {
        let until = Instant::now() + SHUTDOWN_TIMEOUT;
        while !self.keepers.is_empty() && Instant::now() < until {
            let mut fds: Vec<_> = self
                .keepers
                .iter()
                .map(|keeper| PollFd::new(&keeper.exit_fd, PollFlags::IN))
                .collect();
            let timeout = Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            let _ = poll(&mut fds, Some(&timeout));
            drop(fds);
            self.reap();
        }
    }
}
