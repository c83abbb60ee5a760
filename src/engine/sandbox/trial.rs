//! Finds which layers of the sandbox work on this machine, by containing a process of its own.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Resource;

use super::confine::{Subject, confine};
use super::policy::Policy;
use super::protocol::StageLimits;
use super::report::SandboxReport;
use super::slots::Slot;
use super::sys::{self, Fork, OneThread, Waiting};
use super::workspace::Workspace;

/// Contains a process of its own as a job would be, and sees what came of it. Layers that the
/// machine does not have are taken out of the policy.
///
/// # Errors
/// Where jobs cannot run at all, such as for want of a folder that their users can reach.
pub(super) fn probe(
    policy: &mut Policy,
    proof: OneThread,
    work: &std::path::Path,
    slot: Slot,
) -> io::Result<SandboxReport> {
    if let Some(filters) = &policy.filters
        && !in_a_child(proof, |_| filters.apply())?.is_empty()
    {
        policy.filters = None;
    }
    let workspace = Workspace::create(work, "trial", slot.uid)?;
    let told = in_a_child(proof, |told| {
        let report = contain_this_process(policy, slot, &workspace)?;
        rustix::io::write(told, &serde_json::to_vec(&report)?)?;
        Ok(())
    });
    workspace.delete()?;
    let told = told?;
    serde_json::from_slice(&told)
        .map_err(|_| io::Error::other(String::from_utf8_lossy(&told).into_owned()))
}

fn contain_this_process(
    policy: &Policy,
    slot: Slot,
    workspace: &Workspace,
) -> io::Result<SandboxReport> {
    let limits = StageLimits::for_trial();
    let landlock = confine(
        policy,
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
        seccomp: policy.filters.is_some(),
        landlock,
        network: policy.allow_network,
        lacking: Vec::new(),
    })
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
