//! The job's init: the parent of the program, in the place of the shell that runs Piston's `run`
//! script.
//!
//! It confines itself to the job's rights, starts the program and exits as a shell would: with the
//! program's exit code, or with 128 + n and a message on standard error after signal n. A program that
//! kills its parent kills this process and not the keeper, which has other rights. In namespaces a reaper is
//! between the two.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{Pid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::confine::{ConfineError, Subject, confine};
use super::policy::Policy;
use super::protocol::StageOrder;
use super::slots::JobIds;
use super::sys::{self, ExitStatus, Fork, Reaped, SingleThreaded, Wait, WaitMode};
use super::workspace::Workspace;
use crate::piston::{Signal, WorkingDirectory};

/// What init gets from the keeper.
pub(super) struct InitContext<'a> {
    pub(super) proof: SingleThreaded,
    pub(super) policy: &'a Policy,
    pub(super) order: &'a StageOrder,
    pub(super) workspace: &'a Workspace,
    /// Standard input, output and error, and a kernel's socket.
    pub(super) descriptors: &'a [OwnedFd],
    /// As whom the job runs, if jobs have users of their own.
    pub(super) ids: Option<JobIds>,
    /// How many processes the user already has, if the job shares one.
    pub(super) shared_processes: u64,
    /// Where to write an [`InitReport`].
    pub(super) report: &'a OwnedFd,
}

/// The first descriptor beyond those that a program gets.
pub(super) const FIRST_FREE: libc::c_int = 4;

/// What init's exit code does not tell the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum InitReport {
    /// What failed before the program was started.
    Failed(String),
    /// The signal that killed init within its namespaces.
    Killed(i32),
}

/// What failed before the program was started.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("cannot fork: {0}")]
    Fork(#[source] io::Error),
    #[error("cannot start a session: {0}")]
    Session(#[source] Errno),
    #[error("cannot set up the standard streams: {0}")]
    Streams(#[source] io::Error),
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error("cannot enter the working directory: {0}")]
    WorkingDirectory(#[source] Errno),
    #[error("cannot close the keeper's descriptors: {0}")]
    Close(#[source] io::Error),
}

/// Runs as the job's init in a process just forked from the keeper.
pub(super) fn run_init(context: &InitContext<'_>) -> ! {
    let seen = context.policy.seen_by_job(context.workspace);
    if let Err(error) = prepare(context, &seen) {
        send(
            context.report.as_fd(),
            &InitReport::Failed(error.to_string()),
        );
        sys::exit_now(125);
    }
    // From here on only the program's descriptors are open.
    let started = start_program(context, &seen);
    // A kernel's end is seen by the end of its socket, which no other process may hold.
    let _ = sys::close_from(3);
    let code = match started {
        Ok(program) => match sys::wait(Some(program), WaitMode::Block) {
            Wait::Ended(Reaped {
                end: ExitStatus::Exit(code),
                ..
            }) => code,
            Wait::Ended(Reaped {
                end: ExitStatus::Signal(signal),
                ..
            }) => {
                // A shell prints nothing for these two.
                if signal != libc::SIGINT && signal != libc::SIGPIPE {
                    print_error(&Signal::of_number(signal).map_or_else(
                        || format!("Signal {signal}"),
                        |signal| signal.description.to_owned(),
                    ));
                }
                128 + signal
            }
            Wait::Running | Wait::NoChildren => 126,
        },
        // As a shell does: 127 if there is no such program, 126 if it cannot be executed.
        Err(error) => {
            let program = context.order.command.first().map_or("", String::as_str);
            print_error(&format!("{program}: {error}"));
            if error.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            }
        }
    };
    sys::exit_now(code)
}

/// Runs as the first process of the job's namespaces, the parent of init: reaps orphans, and kills what is left
/// when init has ended.
///
/// Init cannot be that process. No signal from within a pid namespace kills its first process, but in Piston a
/// program can kill its parent.
fn run_reaper(init: Pid, report: &OwnedFd) -> ! {
    // When the keeper is killed, so is all of the job.
    let _ = set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    // Keeps only the report's pipe, as descriptor 0: the engine waits until nothing holds the job's descriptors.
    let _ = sys::duplicate_to(report.as_fd(), 0);
    let _ = sys::close_from(1);
    let end = wait_for(init);
    // The kernel would kill them, too, but their CPU time would not be counted.
    sys::kill_all_permitted();
    while let Wait::Ended(_) = sys::wait(None, WaitMode::Block) {}
    match end {
        Some(ExitStatus::Exit(code)) => sys::exit_now(code),
        Some(ExitStatus::Signal(signal)) => {
            send(io::stdin().as_fd(), &InitReport::Killed(signal));
            sys::exit_now(128 + signal)
        }
        None => sys::exit_now(126),
    }
}

/// Waits for a child to end, and reaps others meanwhile.
fn wait_for(child: Pid) -> Option<ExitStatus> {
    loop {
        match sys::wait(None, WaitMode::Block) {
            Wait::Ended(ended) if ended.pid == child.as_raw_nonzero().get() => {
                return Some(ended.end);
            }
            Wait::Ended(_) => {}
            Wait::Running | Wait::NoChildren => return None,
        }
    }
}

/// Ignores errors: the write fails only if the keeper has ended, and then nobody needs the report.
fn send(to: BorrowedFd<'_>, report: &InitReport) {
    let _ = rustix::io::write(to, &serde_json::to_vec(report).unwrap_or_default());
}

fn prepare(context: &InitContext<'_>, seen: &Workspace) -> Result<(), InitError> {
    sys::default_sigpipe();
    rustix::process::setsid().map_err(InitError::Session)?;
    rustix::process::umask(match context.ids {
        // The group is that of all jobs, which share the data directory.
        Some(_) => rustix::fs::Mode::WOTH,
        None => rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH,
    });
    // Above the numbers that they are going to have, so that none replaces another.
    let moved = context
        .descriptors
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, FIRST_FREE))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| InitError::Streams(error.into()))?;
    for (number, fd) in (0..).zip(&moved) {
        sys::duplicate_to(fd.as_fd(), number).map_err(InitError::Streams)?;
    }
    drop(moved);
    confine(
        context.policy,
        &Subject {
            limits: &context.order.limits,
            is_kernel: context.order.is_kernel,
            ids: context.ids,
            shared_processes: context.shared_processes,
            readable: &context.order.readable,
            workspace: context.workspace,
            seen,
        },
    )?;
    if context.policy.namespaces.is_some() {
        match sys::fork(context.proof).map_err(InitError::Fork)? {
            Fork::Parent(init) => run_reaper(init, context.report),
            Fork::Child => {}
        }
    }
    // After giving up the keeper's rights: an earlier stage or job may have replaced the directory by
    // a link, which must not lead anywhere that the program could not go by itself.
    rustix::process::chdir(directory(context, seen)).map_err(InitError::WorkingDirectory)?;
    sys::close_from(context.descriptors.len() as libc::c_uint).map_err(InitError::Close)
}

/// The program's working directory.
fn directory<'a>(context: &InitContext<'a>, seen: &'a Workspace) -> &'a Path {
    match context.order.working_directory {
        Some(WorkingDirectory::Data) => &context.policy.data_dir,
        None => &seen.box_dir,
    }
}

/// Starts the program. The standard library does so by `posix_spawn`, which does not copy this process.
fn start_program(context: &InitContext<'_>, seen: &Workspace) -> io::Result<Pid> {
    let Some((program, arguments)) = context.order.command.split_first() else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(
            context
                .order
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        )
        .env("HOME", &seen.temp_dir)
        .env("TMPDIR", &seen.temp_dir)
        .env("PWD", directory(context, seen))
        .spawn()?;
    Ok(Pid::from_child(&child))
}

fn print_error(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
