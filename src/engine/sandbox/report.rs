//! The layers of the sandbox and which of them work on this machine.
//!
//! [`SandboxReport`] is serialized into `GET /` of the engine, so its field names are part of the
//! interface.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A layer of the sandbox that can be left out, to show in a test that it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Namespaces for each job.
    Namespaces,
    /// Users of their own for jobs.
    OwnUsers,
    /// The kernel's resource limits.
    Limits,
    /// Seccomp filters that deny system calls.
    Seccomp,
    /// Landlock rules for files, signals and sockets.
    Landlock,
    /// Deletion of what a job left in shared directories.
    Sweep,
}

/// Which of the modes in SECURITY.md an engine runs in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Jobs have users of their own.
    A,
    /// Jobs have the engine's user, and namespaces.
    B,
    /// Neither, or jobs run as root: hostile code is not contained.
    #[default]
    C,
}

/// What contains a job on this machine, as found by probing it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxReport {
    /// What keeps jobs from each other, and from what else is on the machine.
    pub mode: Mode,
    /// Missing layers without which hostile code is not contained. The engine runs all the same because it is
    /// allowed to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Jobs have groups of their own, and users of their own or the session's, by which their processes and
    /// files are told apart and the kernel counts processes.
    pub own_users: bool,
    /// Each job has a file system with the little that it needs, and processes, loopback network and shared
    /// memory of its own.
    pub namespaces: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_namespaces: Option<String>,
    /// Jobs run as root, to which the limit on processes does not apply.
    pub as_root: bool,
    /// Resource limits are in force.
    pub limits: bool,
    /// Executing a setuid program grants no privileges.
    pub no_new_privileges: bool,
    /// System calls are filtered.
    pub seccomp: bool,
    /// Version of the Landlock ABI in use.
    pub landlock: Option<u8>,
    /// Jobs may use the network.
    pub network: bool,
    /// Missing capabilities, because of which jobs have no users of their own although the engine runs
    /// as root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<String>,
}

impl fmt::Display for SandboxReport {
    /// The layers that are on, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = [
            (self.own_users, "own users"),
            (self.namespaces, "namespaces"),
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
        let layers = on.chain([network]).collect::<Vec<_>>().join(", ");
        write!(f, "mode {:?}: {layers}", self.mode)
    }
}

impl SandboxReport {
    /// Fills in the mode and what is missing from the layers.
    pub(super) fn with_mode_and_missing(mut self) -> Self {
        self.mode = match self {
            Self {
                own_users: true, ..
            } => Mode::A,
            Self {
                namespaces: true,
                as_root: false,
                ..
            } => Mode::B,
            _ => Mode::C,
        };
        self.missing = self.missing_required_layers();
        self
    }

    /// Whether jobs cannot reach each other, nor what else runs as their user.
    pub fn separates_jobs(&self) -> bool {
        self.own_users || self.namespaces
    }

    /// The layers that are missing and without which hostile code is not contained.
    ///
    /// Something must keep jobs from each other, and from what else its user owns: separate users if the
    /// engine runs as root, else namespaces.
    fn missing_required_layers(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.as_root && !self.own_users {
            missing.push(match self.lacking.as_slice() {
                [] => "users of their own for jobs".to_owned(),
                lacking => format!(
                    "users of their own for jobs ({} missing)",
                    lacking.join(", ")
                ),
            });
        } else if !self.separates_jobs() {
            let reason = self.no_namespaces.as_deref().unwrap_or("unknown reason");
            missing.push(format!("namespaces ({reason})"));
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

    /// What an operator can do about missing layers.
    pub fn hint(&self) -> Option<&'static str> {
        let lacks_namespaces = !self.as_root && !self.separates_jobs();
        lacks_namespaces.then_some(
            "on a machine, allow user namespaces (see \"A weak sandbox\" in docs/OPERATIONS.md); in a container, \
             start it as root, which needs no --privileged",
        )
    }
}
