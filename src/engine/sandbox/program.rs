//! The process above the program, in the place where Piston has the shell of its `run` script.
//!
//! It runs with the rights of the job, starts the program, and ends as a shell would: with the
//! program's exit code, or 128 + n and a word on standard error after signal n. A program that
//! kills its parent kills this process, and not the keeper.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use rustix::process::Pid;

use super::confine::{Subject, confine};
use super::policy::Policy;
use super::protocol::StageOrder;
use super::sys::{self, End, Reaped, Wait, Waiting};
use super::workspace::Workspace;
use crate::piston::{Signal, WorkingDirectory};

/// What the stage's processes get from the keeper.
pub(super) struct Start<'a> {
    pub(super) policy: &'a Policy,
    pub(super) order: &'a StageOrder,
    pub(super) workspace: &'a Workspace,
    pub(super) stdio: &'a [OwnedFd; 3],
    pub(super) uid: Option<u32>,
    /// Processes of the user that were there before, where the job has no user of its own.
    pub(super) shared_processes: u64,
    /// Where a failure before the program starts is told.
    pub(super) failure: &'a OwnedFd,
}

/// Becomes the process above the program; runs in a fresh copy of the keeper, which has one
/// thread.
pub(super) fn stand_above(start: &Start<'_>) -> ! {
    if let Err(error) = prepare(start) {
        let _ = rustix::io::write(start.failure, error.to_string().as_bytes());
        sys::exit_now(125);
    }
    // From here on only the three standard streams are open.
    let code = match start_program(start) {
        Ok(program) => match sys::wait(Some(program), Waiting::Block) {
            Wait::Ended(Reaped {
                end: End::Exit(code),
                ..
            }) => code,
            Wait::Ended(Reaped {
                end: End::Signal(signal),
                ..
            }) => {
                // Of these two a shell says nothing.
                if signal != libc::SIGINT && signal != libc::SIGPIPE {
                    say(&Signal::of_number(signal).map_or_else(
                        || format!("Signal {signal}"),
                        |signal| signal.description.to_owned(),
                    ));
                }
                128 + signal
            }
            Wait::Running | Wait::Childless => 126,
        },
        // As a shell says it: 127 where there is no such program, 126 where it cannot run.
        Err(error) => {
            let program = start.order.command.first().map_or("", String::as_str);
            say(&format!("{program}: {error}"));
            if error.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            }
        }
    };
    sys::exit_now(code)
}

fn prepare(start: &Start<'_>) -> io::Result<()> {
    sys::default_signals();
    rustix::process::setsid()?;
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    for (number, fd) in (0..).zip(start.stdio) {
        sys::copy_to(fd.as_fd(), number)?;
    }
    confine(
        start.policy,
        &Subject {
            limits: &start.order.limits,
            uid: start.uid,
            shared_processes: start.shared_processes,
            readable: &start.order.readable,
            workspace: start.workspace,
        },
    )?;
    // With the job's rights: what an earlier stage or an earlier job has made of the directory
    // leads nowhere that the program could not go by itself.
    rustix::process::chdir(directory(start))?;
    sys::close_from(3)
}

/// Where the program starts.
fn directory<'a>(start: &Start<'a>) -> &'a Path {
    match start.order.working_directory {
        Some(WorkingDirectory::Data) => &start.policy.data_dir,
        None => &start.workspace.box_dir,
    }
}

/// Starts the program. The standard library does it without copying this process.
fn start_program(start: &Start<'_>) -> io::Result<Pid> {
    let Some((program, arguments)) = start.order.command.split_first() else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(
            start
                .order
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        )
        .env("HOME", &start.workspace.temp_dir)
        .env("TMPDIR", &start.workspace.temp_dir)
        .env("PWD", directory(start))
        .spawn()?;
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("a process without an id"))
}

fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
