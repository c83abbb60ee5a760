//! The spawner: a small process with one thread that makes a keeper for each job.
//!
//! It is this program started anew, so that it shares nothing with the HTTP side: it stays small,
//! which keeps forking fast and the memory figures of short programs honest, and it may keep
//! rights that the HTTP side gives up.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SendFlags;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, pidfd_open};

use super::keeper::keep;
use super::protocol::{Ready, Setup};
use super::slots::{Slot, Slots};
use super::sys::{self, End, Fork, OneThread, Wait, Waiting};
use super::wire::{receive_with_fds, send_with_fds};
use super::workspace::delete_tree;

/// How long the last jobs may take to go once the engine is gone.
const FAREWELL: Duration = Duration::from_secs(15);

/// The first argument that makes this program a spawner.
pub const SPAWNER_ARGUMENT: &str = "__spawner";

/// Runs the spawner, with its control socket as standard input, until the engine is gone.
///
/// To be called ahead of everything else: no thread may have been started.
pub fn spawner_main() -> ! {
    let code = match run() {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "the sandbox's spawner failed: {error}");
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
    let length = receive_with_fds(&control, &mut packet, &mut VecDeque::new())?;
    let setup: Setup = serde_json::from_slice(packet.get(..length).unwrap_or_default())?;
    let started = start(&setup);
    let ready = match &started {
        Ok((work, _, own_uids)) => Ready::Ready {
            work: work.clone(),
            own_uids: *own_uids,
        },
        Err(error) => Ready::Failed(error.to_string()),
    };
    let ready = serde_json::to_vec(&ready)?;
    send_with_fds(&control, &ready, &[], SendFlags::empty())?;
    let (work, slots, _) = started?;
    let mut spawner = Spawner {
        proof,
        work,
        slots,
        keepers: Vec::new(),
    };
    let served = spawner.serve(control);
    spawner.farewell();
    delete_tree(&spawner.work)?;
    served
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

/// Makes the folder for the jobs and the slots.
fn start(setup: &Setup) -> io::Result<(PathBuf, Slots, bool)> {
    let own_uids = rustix::process::geteuid().is_root() && may_change_user();
    let slots = if own_uids {
        Slots::with_own_uids(setup.slots)?
    } else {
        Slots::sharing_one_uid(setup.slots)
    };
    let work = setup
        .work_parent
        .join(format!("session-jobs-{}", random_name()?));
    rustix::fs::mkdir(&work, rustix::fs::Mode::RWXU)?;
    if own_uids {
        // The jobs' users may go through it to their own folders, and see no other.
        let mode = rustix::fs::Mode::RWXU | rustix::fs::Mode::XGRP | rustix::fs::Mode::XOTH;
        rustix::fs::chmod(&work, mode)?;
    }
    Ok((work, slots, own_uids))
}

fn may_change_user() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| {
        sets.effective
            .contains(CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::CHOWN)
    })
}

/// A name that nobody can guess.
pub(super) fn random_name() -> io::Result<String> {
    let mut bytes = [0_u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

struct Keeper {
    pid: Pid,
    ends: OwnedFd,
    slot: Slot,
}

struct Spawner {
    proof: OneThread,
    work: PathBuf,
    slots: Slots,
    keepers: Vec<Keeper>,
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
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let told = fds.pop().is_some_and(|fd| !fd.revents().is_empty());
            drop(fds);
            self.collect();
            if told && self.slots.any_free() {
                self.take_job(&mut control)?;
            } else if told {
                return Ok(());
            }
        }
        Ok(())
    }

    fn take_job(&mut self, control: &mut Option<OwnedFd>) -> io::Result<()> {
        let Some(socket) = control else {
            return Ok(());
        };
        let mut fds = VecDeque::new();
        let mut name = [0; 16];
        let length = receive_with_fds(&*socket, &mut name, &mut fds)?;
        if length == 0 {
            *control = None;
            return Ok(());
        }
        let name = String::from_utf8_lossy(&name).into_owned();
        let (Some(job), Some(slot)) = (fds.pop_front(), self.slots.take()) else {
            return Ok(());
        };
        match sys::fork(self.proof) {
            Ok(Fork::Child) => {
                // The engine must be able to see that the spawner is gone.
                *control = None;
                keep(self.proof, job, slot, &self.work, &name)
            }
            Ok(Fork::Parent(pid)) => {
                let ends = pidfd_open(pid, PidfdFlags::empty())?;
                self.keepers.push(Keeper { pid, ends, slot });
            }
            // The engine sees the job's socket close.
            Err(error) => {
                let _ = writeln!(io::stderr(), "a job's keeper cannot be started: {error}");
                self.slots.give_back(slot);
            }
        }
        Ok(())
    }

    /// Collects ended children: keepers, and what keepers that were killed left behind.
    fn collect(&mut self) {
        while let Wait::Ended(child) = sys::wait(None, Waiting::Poll) {
            let found = self
                .keepers
                .iter()
                .position(|keeper| keeper.pid.as_raw_nonzero().get() == child.pid);
            let Some(at) = found else {
                continue;
            };
            let keeper = self.keepers.swap_remove(at);
            if child.end == End::Exit(0) {
                self.slots.give_back(keeper.slot);
            } else {
                let _ = writeln!(
                    io::stderr(),
                    "job slot {} is not clean and will not be used again",
                    keeper.slot.number
                );
            }
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

/// Where the jobs' directories are made unless a setting says otherwise.
pub(super) fn default_work_parent() -> PathBuf {
    let temp = std::env::temp_dir();
    if temp.is_absolute() {
        temp
    } else {
        Path::new("/tmp").to_path_buf()
    }
}
