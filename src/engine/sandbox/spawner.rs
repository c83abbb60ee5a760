//! The spawner: a small process with one thread that makes a keeper for each job.
//!
//! It is this program started anew, so that it shares nothing with the HTTP side: it stays small,
//! which keeps forking fast and the memory figures of short programs honest, and it may keep
//! rights that the HTTP side gives up.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, pidfd_open};

use crate::data_dir::give_reserved;
use crate::tree::{delete_tree, temporary_folder};

use super::disk;
use super::keeper::{Job, clean_up, keep};
use super::line;
use super::policy::Policy;
use super::process_tree::{children_of, usage_below};
use super::protocol::{Ready, Setup};
use super::report::{Layer, SandboxReport};
use super::slots::{Slot, Slots};
use super::stage::kill_user;
use super::sys::{self, End, Fork, OneThread, Wait, Waiting};
use super::trial::probe;
use super::wire::{receive_with_fds, send_with_fds};
use super::workspace::Workspace;

/// How long the last jobs may take to go once the engine is gone.
const FAREWELL: Duration = Duration::from_secs(15);

/// How long the processes of a killed keeper may take to go.
const ORPHANS: Duration = Duration::from_secs(2);

/// How many processes try to clean a slot before it is given up.
const CLEANERS: u8 = 3;

/// What the names of the folders for jobs begin with.
const WORK_PREFIX: &str = "session-jobs-";

/// The first argument that makes this program a spawner.
pub const SPAWNER_ARGUMENT: &str = "__spawner";

/// Runs the spawner, with its control socket as standard input, until the engine is gone.
///
/// To be called ahead of everything else: no thread may have been started.
pub fn spawner_main() -> ! {
    let code = match run() {
        Ok(()) => 0,
        Err(error) => {
            line::error("the sandbox's spawner failed", &error);
            1
        }
    };
    sys::exit_now(code)
}

fn run() -> io::Result<()> {
    let proof = OneThread::check()?;
    sys::close_from(3)?;
    let control = private_control()?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut packet = vec![0; 64 << 10];
    let mut data_dir_lock = VecDeque::new();
    let length = receive_with_fds(&control, &mut packet, &mut data_dir_lock)?;
    let setup: Setup = serde_json::from_slice(packet.get(..length).unwrap_or_default())?;
    line::set_json(setup.json_log);
    let started = start(proof, &setup);
    let ready = match &started {
        Ok(started) => Ready::Ready {
            work: started.work.clone(),
            data_dir: started.data_dir.clone(),
            report: started.report.clone(),
            service: started.slots.service,
        },
        Err(error) => Ready::Failed(error.to_string()),
    };
    let ready = serde_json::to_vec(&ready)?;
    send_with_fds(&control, &ready, &[], SendFlags::empty())?;
    let started = started?;
    let root = started.root;
    let mut spawner = Spawner {
        proof,
        policy: started.policy,
        work: started.work,
        slots: started.slots,
        _locks: (started.lock, data_dir_lock.pop_front()),
        keepers: Vec::new(),
        unclean: Vec::new(),
    };
    let served = spawner.serve(control);
    spawner.farewell();
    let deleted = delete_tree(&root);
    served.and(deleted)
}

/// Moves the control socket out of the way of the standard streams.
fn private_control() -> io::Result<OwnedFd> {
    let given = sys::take_stdin();
    let control = rustix::io::fcntl_dupfd_cloexec(&given, 3)?;
    // Descriptor 0 stays in use, by something harmless.
    std::mem::forget(given);
    let null = std::fs::File::open("/dev/null")?;
    sys::copy_to(null.as_fd(), 0)?;
    Ok(control)
}

/// Holds the number of a descriptor, so that a keeper is only started where it can be watched, too.
fn spare_descriptor() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/dev/null")?.into())
}

/// What the spawner works with.
struct Started {
    policy: Policy,
    report: SandboxReport,
    slots: Slots,
    /// What goes with the spawner.
    root: PathBuf,
    /// Where the jobs' directories are, below it.
    work: PathBuf,
    /// The folder that all jobs share, below it where nobody chose another.
    data_dir: PathBuf,
    /// Held for as long as the folder is in use.
    lock: OwnedFd,
}

/// Makes the folder for the jobs and the slots, and tries out what contains a job.
fn start(proof: OneThread, setup: &Setup) -> io::Result<Started> {
    let wants_uids =
        rustix::process::geteuid().is_root() && !setup.without.contains(&Layer::OwnUsers);
    let lacking = if wants_uids {
        missing_rights()
    } else {
        Vec::new()
    };
    let own_uids = wants_uids && lacking.is_empty();
    let mut slots = if own_uids {
        Slots::with_own_uids(setup.slots)?
    } else {
        Slots::sharing_one_uid(setup.slots)
    };
    let (root, lock) = temporary_folder(&setup.work_parent, WORK_PREFIX)?;
    let work = root.join("jobs");
    rustix::fs::mkdir(&work, Mode::RWXU)?;
    if own_uids {
        // The jobs' users may go through them to their own folders, and see no other.
        for folder in [&root, &work] {
            rustix::fs::chmod(folder, Mode::RWXU | Mode::XGRP | Mode::XOTH)?;
        }
    }
    let data_dir = match &setup.data_dir {
        Some(chosen) => chosen.clone(),
        None => {
            let data_dir = root.join("data");
            rustix::fs::mkdir(&data_dir, Mode::RWXU)?;
            data_dir
        }
    };
    if let Some(service) = slots.service {
        disk::open_to_group(&data_dir, service)
            .and_then(|()| give_reserved(&data_dir, service))
            .map_err(|error| {
                io::Error::other(format!("data directory {}: {error}", data_dir.display()))
            })?;
    }
    let mut policy = Policy::new(setup, data_dir.clone(), slots.service);
    let slot = slots
        .take()
        .ok_or_else(|| io::Error::other("there are no job slots"))?;
    let tried = probe(&mut policy, proof, &work, slot);
    slots.give_back(slot);
    match tried {
        Ok(report) => Ok(Started {
            policy,
            report: SandboxReport { lacking, ..report },
            slots,
            root,
            work,
            data_dir,
            lock,
        }),
        Err(error) => {
            delete_tree(&root)?;
            Err(error)
        }
    }
}

/// What root needs to give each job a user of its own, and to get at what such a user leaves; the
/// names of those that this process does not have.
fn missing_rights() -> Vec<String> {
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

/// A keeper, or a cleaner that makes up for one.
struct Keeper {
    pid: Pid,
    ends: OwnedFd,
    /// The keeper's end of the job's socket. It is closed, which the engine can see, when the job has
    /// been cleaned up after, whoever does it.
    socket: OwnedFd,
    slot: Slot,
    /// The name of the job's directory.
    name: String,
    /// How many processes have tried to clean up, this one included if it is a cleaner.
    cleaned: u8,
}

struct Spawner {
    proof: OneThread,
    policy: Policy,
    work: PathBuf,
    slots: Slots,
    /// On the folder for jobs and on the data directory. Keepers inherit them.
    _locks: (OwnedFd, Option<OwnedFd>),
    keepers: Vec<Keeper>,
    /// Those that did not leave a clean slot, and for which no cleaner runs yet.
    unclean: Vec<Keeper>,
}

impl Spawner {
    /// Takes jobs until the engine is gone.
    fn serve(&mut self, control: OwnedFd) -> io::Result<()> {
        let mut control = Some(control);
        while let Some(socket) = &control {
            let mut fds: Vec<_> = self
                .keepers
                .iter()
                .map(|keeper| PollFd::new(&keeper.ends, PollFlags::IN))
                .collect();
            // Without a free slot the next job waits in the socket.
            if self.slots.any_free() {
                fds.push(PollFd::new(socket, PollFlags::IN));
            } else {
                fds.push(PollFd::new(socket, PollFlags::empty()));
            }
            let pause = Timespec {
                tv_sec: 0,
                tv_nsec: 200_000_000,
            };
            match poll(&mut fds, (!self.unclean.is_empty()).then_some(&pause)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let told = fds.pop().is_some_and(|fd| !fd.revents().is_empty());
            drop(fds);
            self.collect();
            if self.is_worn_out() {
                return Err(io::Error::other(
                    "no job slot is left: none could be cleaned",
                ));
            }
            if told && self.slots.any_free() {
                self.take_job(&mut control)?;
            } else if told {
                return Ok(());
            }
        }
        Ok(())
    }

    fn take_job(&mut self, control: &mut Option<OwnedFd>) -> io::Result<()> {
        let Some(from) = control else {
            return Ok(());
        };
        let mut fds = VecDeque::new();
        let mut name = [0; 16];
        let length = receive_with_fds(&*from, &mut name, &mut fds)?;
        if length == 0 {
            *control = None;
            return Ok(());
        }
        let name = String::from_utf8_lossy(&name).into_owned();
        let Some(socket) = fds.pop_front() else {
            // The kernel has closed it, which the engine sees.
            line::error("a job's keeper cannot be started", &Errno::MFILE);
            return Ok(());
        };
        let spare = match spare_descriptor() {
            Ok(spare) => spare,
            Err(error) => {
                line::error("a job's keeper cannot be started", &error);
                return Ok(());
            }
        };
        let Some(slot) = self.slots.take() else {
            return Ok(());
        };
        match sys::fork(self.proof) {
            Ok(Fork::Child) => {
                // The engine must be able to see that the spawner is gone, or another job.
                *control = None;
                self.keepers.clear();
                self.unclean.clear();
                let job = Job {
                    policy: &self.policy,
                    slot,
                    work: &self.work,
                    name: &name,
                };
                keep(self.proof, socket, &job)
            }
            Ok(Fork::Parent(pid)) => {
                drop(spare);
                self.watch(pid, socket, slot, name, 0)?;
            }
            // The engine sees the job's socket close.
            Err(error) => {
                line::error("a job's keeper cannot be started", &error);
                self.slots.give_back(slot);
            }
        }
        Ok(())
    }

    /// Whether there is no slot any more, now and later.
    fn is_worn_out(&self) -> bool {
        !self.slots.any_free() && self.keepers.is_empty() && self.unclean.is_empty()
    }

    fn watch(
        &mut self,
        pid: Pid,
        socket: OwnedFd,
        slot: Slot,
        name: String,
        cleaned: u8,
    ) -> io::Result<()> {
        self.keepers.push(Keeper {
            pid,
            ends: pidfd_open(pid, PidfdFlags::empty())?,
            socket,
            slot,
            name,
            cleaned,
        });
        Ok(())
    }

    /// Collects ended children. A slot whose keeper did not leave it clean, or was itself killed,
    /// is cleaned by a process of its own; if that fails, too, it is not used again.
    fn collect(&mut self) {
        for (keeper, end) in self.collect_ended() {
            if end == End::Exit(0) {
                self.slots.give_back(keeper.slot);
                continue;
            }
            self.end_orphans(keeper.slot);
            self.unclean.push(keeper);
        }
        for keeper in std::mem::take(&mut self.unclean) {
            let number = keeper.slot.number;
            if keeper.cleaned >= CLEANERS {
                line::error(
                    "a job slot is not clean and rests",
                    &format_args!("slot {number}"),
                );
                continue;
            }
            // For want of processes or memory, which other jobs may hold: it is tried again.
            if let Err((keeper, error)) = self.start_cleaner(keeper) {
                let why = format_args!("slot {number}: {error}");
                line::error("the cleaner of a job slot cannot be started yet", &why);
                self.unclean.push(keeper);
            }
        }
    }

    fn collect_ended(&mut self) -> Vec<(Keeper, End)> {
        let mut ended = Vec::new();
        while let Wait::Ended(child) = sys::wait(None, Waiting::Poll) {
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

    /// Kills what a keeper left that was killed: its processes are this one's children now, for
    /// this is the reaper above all keepers.
    fn end_orphans(&mut self, slot: Slot) {
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let until = Instant::now() + ORPHANS;
        while Instant::now() < until {
            let keepers: Vec<_> = self
                .keepers
                .iter()
                .map(|keeper| keeper.pid.as_raw_nonzero().get())
                .collect();
            // A keeper that has ended meanwhile is no running child; it is collected later.
            let mut orphans = children_of(me);
            orphans.retain(|pid| !keepers.contains(pid));
            if orphans.is_empty() {
                break;
            }
            for orphan in orphans {
                for pid in usage_below(orphan, 1).pids {
                    sys::kill(pid);
                }
                sys::kill(orphan);
            }
            if let Some(uid) = slot.uid {
                let _ = kill_user(self.proof, uid);
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    fn start_cleaner(&mut self, keeper: Keeper) -> Result<(), (Keeper, io::Error)> {
        match sys::fork(self.proof) {
            Ok(Fork::Child) => {
                self.keepers.clear();
                self.unclean.clear();
                let job = Job {
                    policy: &self.policy,
                    slot: keeper.slot,
                    work: &self.work,
                    name: &keeper.name,
                };
                let workspace = Workspace::of(&self.work, &keeper.name);
                sys::exit_now(i32::from(clean_up(&job, Some(&workspace)).is_err()))
            }
            Ok(Fork::Parent(pid)) => {
                let Keeper {
                    ends,
                    socket,
                    slot,
                    name,
                    cleaned,
                    ..
                } = keeper;
                // Its number is free for the cleaner's.
                drop(ends);
                let watched = self.watch(pid, socket, slot, name, cleaned + 1);
                if let Err(error) = watched {
                    line::error("a cleaner cannot be watched", &error);
                }
                Ok(())
            }
            Err(error) => Err((keeper, error)),
        }
    }

    /// Waits for the last keepers, which end with the engine.
    fn farewell(&mut self) {
        let until = Instant::now() + FAREWELL;
        while !self.keepers.is_empty() && Instant::now() < until {
            let mut fds: Vec<_> = self
                .keepers
                .iter()
                .map(|keeper| PollFd::new(&keeper.ends, PollFlags::IN))
                .collect();
            let most = Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            let _ = poll(&mut fds, Some(&most));
            drop(fds);
            self.collect();
        }
    }
}
