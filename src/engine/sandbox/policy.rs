//! Which layers contain a job on this machine: what was asked for, and what was found to work.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Resource;
use serde::{Deserialize, Serialize};

use super::confine::{Subject, confine};
use super::protocol::{Setup, StageLimits};
use super::seccomp::Filters;
use super::slots::Slot;
use super::sys::{self, Fork, OneThread, Waiting};
use super::workspace::Workspace;

/// One layer of the sandbox, by the name under which it can be left out for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Every job slot has a user of its own.
    OwnUsers,
    /// Resource limits of the kernel.
    Limits,
    /// System calls are filtered.
    Seccomp,
    /// Files are limited by Landlock.
    Landlock,
    /// Shared folders are swept after each job.
    Sweep,
}

/// What contains a job on this machine, as found by trying it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxReport {
    /// Every job slot has a user of its own, by whom its processes are found and killed, and whom
    /// the kernel counts processes for.
    pub own_users: bool,
    /// Jobs run as root, which no limit on processes binds.
    pub as_root: bool,
    /// Resource limits hold.
    pub limits: bool,
    /// Programs cannot gain rights by being executed.
    pub no_new_privileges: bool,
    /// System calls are filtered.
    pub seccomp: bool,
    /// Version of the Landlock rules in use.
    pub landlock: Option<u8>,
    /// Jobs may use the network.
    pub network: bool,
    /// Capabilities for want of which jobs have no users of their own although they run as root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<String>,
}

impl fmt::Display for SandboxReport {
    /// The layers that are on, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = [
            (self.own_users, "own users"),
            (self.limits, "limits"),
            (self.no_new_privileges, "no_new_privs"),
            (self.seccomp, "seccomp"),
            (self.landlock.is_some(), "landlock"),
        ];
        let on = layers
            .into_iter()
            .filter_map(|(on, name)| on.then_some(name));
        let network = if self.network {
            "network allowed"
        } else {
            "no network"
        };
        f.write_str(&on.chain([network]).collect::<Vec<_>>().join(", "))
    }
}

impl SandboxReport {
    /// The layers without which hostile code is not contained, as far as they are missing. That an
    /// ordinary user cannot give out user ids is not among them: his jobs have his rights.
    pub fn missing_pillars(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.as_root && !self.own_users {
            missing.push(match self.lacking.as_slice() {
                [] => "a user of its own for each job".to_owned(),
                lacking => format!(
                    "a user of its own for each job ({} missing)",
                    lacking.join(", ")
                ),
            });
        }
        let layers = [
            (self.limits, "resource limits"),
            (self.no_new_privileges, "no_new_privs"),
            (self.seccomp, "seccomp filters"),
        ];
        let absent = layers.into_iter().filter(|(here, _)| !here);
        missing.extend(absent.map(|(_, name)| name.to_owned()));
        missing
    }
}

/// What every job of a spawner is contained by.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) filters: Option<Filters>,
    pub(super) landlock: bool,
    pub(super) limits: bool,
    pub(super) sweep: bool,
    pub(super) allow_network: bool,
    pub(super) data_dir: PathBuf,
    /// User and group to whom what jobs leave in the data directory is given.
    pub(super) service: Option<u32>,
}

impl Policy {
    /// What is asked for. A filter that cannot be compiled is a layer that is missing.
    pub(super) fn new(setup: &Setup, data_dir: PathBuf, service: Option<u32>) -> Self {
        let wants = |layer| !setup.without.contains(&layer);
        Self {
            filters: wants(Layer::Seccomp)
                .then(|| Filters::compile(setup.allow_network).ok())
                .flatten(),
            landlock: wants(Layer::Landlock),
            limits: wants(Layer::Limits),
            sweep: wants(Layer::Sweep),
            allow_network: setup.allow_network,
            data_dir,
            service,
        }
    }

    /// Contains a process of its own as a job would be, and sees what came of it. Layers that the
    /// machine does not have are taken out of the policy.
    ///
    /// # Errors
    /// Where jobs cannot run at all, such as for want of a folder that their users can reach.
    pub(super) fn try_out(
        &mut self,
        proof: OneThread,
        work: &std::path::Path,
        slot: Slot,
    ) -> io::Result<SandboxReport> {
        if let Some(filters) = &self.filters
            && !in_a_child(proof, |_| filters.apply())?.is_empty()
        {
            self.filters = None;
        }
        let workspace = Workspace::create(work, "trial", slot.uid)?;
        let told = in_a_child(proof, |told| {
            let report = self.contain_this_process(slot, &workspace)?;
            rustix::io::write(told, &serde_json::to_vec(&report)?)?;
            Ok(())
        });
        workspace.delete()?;
        let told = told?;
        serde_json::from_slice(&told)
            .map_err(|_| io::Error::other(String::from_utf8_lossy(&told).into_owned()))
    }

    fn contain_this_process(&self, slot: Slot, workspace: &Workspace) -> io::Result<SandboxReport> {
        let limits = StageLimits::for_trial();
        let landlock = confine(
            self,
            &Subject {
                limits: &limits,
                uid: slot.uid,
                shared_processes: 0,
                readable: &[],
                workspace,
            },
        )?;
        // A job must be able to work in its directory.
        std::fs::write(workspace.box_dir.join("trial"), "").map_err(|error| {
            io::Error::other(format!(
                "{} cannot be used: {error}",
                workspace.box_dir.display()
            ))
        })?;
        let uid = rustix::process::getuid();
        Ok(SandboxReport {
            own_users: slot.uid.is_some() && slot.uid == Some(uid.as_raw()),
            as_root: uid.is_root(),
            limits: rustix::process::getrlimit(Resource::Fsize).maximum == Some(limits.file_size),
            no_new_privileges: rustix::thread::no_new_privs().unwrap_or(false),
            seccomp: self.filters.is_some(),
            landlock,
            network: self.allow_network,
            lacking: Vec::new(),
        })
    }
}

/// Does something in a copy of this process, and returns what it wrote, or its error.
fn in_a_child(
    proof: OneThread,
    act: impl FnOnce(&OwnedFd) -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    match sys::fork(proof)? {
        Fork::Child => {
            if let Err(error) = act(&write) {
                let _ = rustix::io::write(&write, error.to_string().as_bytes());
            }
            sys::exit_now(0)
        }
        Fork::Parent(child) => {
            drop(write);
            let mut told = Vec::new();
            std::fs::File::from(read).read_to_end(&mut told)?;
            sys::wait(Some(child), Waiting::Block);
            Ok(told)
        }
    }
}
