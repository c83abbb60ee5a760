//! Finds out which layers of the sandbox work on this machine, by confining a child process as a job
//! would be.
//!
//! It runs once, before the first job. A layer that the machine does not have is no error here: the
//! engine decides whether the rest is enough.

use std::error::Error;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Resource;

use super::confine::{ConfineError, Subject, confine};
use super::policy::Policy;
use super::protocol::StageLimits;
use super::report::SandboxReport;
use super::slots::Slot;
use super::sys::{self, Fork, SingleThreaded, WaitMode};
use super::workspace::Workspace;

/// Why jobs cannot run on this machine.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("cannot run a process to probe the sandbox: {0}")]
    Process(#[source] io::Error),
    #[error("cannot create namespaces: {0}")]
    Namespaces(#[source] io::Error),
    #[error("cannot create the directory of a probed job: {0}")]
    CreateWorkspace(#[source] io::Error),
    #[error("cannot delete the directory of a probed job: {0}")]
    DeleteWorkspace(#[source] io::Error),
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error("{} cannot be used: {source}", .path.display())]
    UnusableDirectory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot send the report: {0}")]
    Report(#[source] io::Error),
    /// What the child reported instead of its layers.
    #[error("{0}")]
    Child(String),
}

/// Confines a child process as a job would be, and reports which layers were applied. Layers that the
/// machine does not have are removed from the policy.
///
/// # Errors
/// If jobs cannot run at all, for example because their users cannot reach their directories.
pub(super) fn probe(
    policy: &mut Policy,
    proof: SingleThreaded,
    work: &std::path::Path,
    slot: Slot,
) -> Result<SandboxReport, ProbeError> {
    let workspace = policy
        .create_workspace(work, "probe", slot.ids)
        .map_err(ProbeError::CreateWorkspace)?;
    let report = probe_layers(policy, proof, slot, &workspace);
    workspace.delete().map_err(ProbeError::DeleteWorkspace)?;
    report
}

fn probe_layers(
    policy: &mut Policy,
    proof: SingleThreaded,
    slot: Slot,
    workspace: &Workspace,
) -> Result<SandboxReport, ProbeError> {
    if let Some(filters) = &policy.filters
        && !run_in_child(|| sys::fork(proof), |_| filters.apply())?.is_empty()
    {
        policy.leave_out_filters();
    }
    let probed = probe_once(policy, proof, slot, workspace);
    let has_namespaces = policy.namespaces.is_some();
    match probed {
        Err(error) if has_namespaces => {
            policy.leave_out_namespaces(error.to_string());
            probe_once(policy, proof, slot, workspace)
        }
        probed => probed,
    }
}

fn probe_once(
    policy: &Policy,
    proof: SingleThreaded,
    slot: Slot,
    workspace: &Workspace,
) -> Result<SandboxReport, ProbeError> {
    let confine = |pipe: &OwnedFd| {
        let report = confine_this_process(policy, slot, workspace)?;
        let report =
            serde_json::to_vec(&report).map_err(|error| ProbeError::Report(error.into()))?;
        rustix::io::write(pipe, &report).map_err(|error| ProbeError::Report(error.into()))?;
        Ok::<_, ProbeError>(())
    };
    let output = match run_in_child(|| policy.fork(proof), confine) {
        Err(ProbeError::Process(error)) if policy.namespaces.is_some() => {
            return Err(ProbeError::Namespaces(error));
        }
        output => output?,
    };
    serde_json::from_slice(&output)
        .map_err(|_| ProbeError::Child(String::from_utf8_lossy(&output).into_owned()))
}

fn confine_this_process(
    policy: &Policy,
    slot: Slot,
    workspace: &Workspace,
) -> Result<SandboxReport, ProbeError> {
    let limits = StageLimits::for_probe();
    let seen = policy.seen_by_job(workspace);
    let landlock = confine(
        policy,
        &Subject {
            is_kernel: false,
            limits: &limits,
            ids: slot.ids,
            shared_processes: 0,
            readable: &[],
            workspace,
            seen: &seen,
        },
    )?;
    // A job must be able to work in its directory.
    std::fs::write(seen.box_dir.join("probe"), "").map_err(|source| {
        ProbeError::UnusableDirectory {
            path: workspace.box_dir.clone(),
            source,
        }
    })?;
    let uid = rustix::process::getuid();
    Ok(SandboxReport {
        own_users: slot.ids.is_some_and(|ids| ids.uid == uid.as_raw()),
        as_root: uid.is_root(),
        limits: rustix::process::getrlimit(Resource::Fsize).maximum == Some(limits.file_size),
        no_new_privileges: rustix::thread::no_new_privs().unwrap_or(false),
        seccomp: policy.filters.is_some(),
        landlock,
        namespaces: policy.namespaces.is_some(),
        no_namespaces: policy.no_namespaces.clone(),
        network: policy.allow_network,
        lacking: Vec::new(),
        ..SandboxReport::default()
    })
}

/// Runs `act` in the child process that `fork` makes, and returns what it wrote to the pipe, or the text of its error.
pub(super) fn run_in_child<E: Error>(
    fork: impl FnOnce() -> io::Result<Fork>,
    act: impl FnOnce(&OwnedFd) -> Result<(), E>,
) -> Result<Vec<u8>, ProbeError> {
    let (read, write) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|error| ProbeError::Process(error.into()))?;
    match fork().map_err(ProbeError::Process)? {
        Fork::Child => {
            if let Err(error) = act(&write) {
                let _ = rustix::io::write(&write, error.to_string().as_bytes());
            }
            sys::exit_now(0)
        }
        Fork::Parent(child) => {
            drop(write);
            let mut output = Vec::new();
            let read = std::fs::File::from(read).read_to_end(&mut output);
            sys::wait(Some(child), WaitMode::Block);
            read.map_err(ProbeError::Process)?;
            Ok(output)
        }
    }
}
