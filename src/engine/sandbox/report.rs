//! The layers of the sandbox, and what was found of them on this machine.

use std::fmt;

use serde::{Deserialize, Serialize};

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
    pub fn missing_required_layers(&self) -> Vec<String> {
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
