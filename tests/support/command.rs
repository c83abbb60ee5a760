//! Processes that tests start. They see nothing of the machine's environment, so that a test does not
//! depend on who runs it and where.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::eventually::PATIENCE;

/// Where Debian has its programs.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first program of this name in `PATH`.
pub fn installed(program: &str) -> Option<PathBuf> {
    let mut places = PATH
        .split(':')
        .map(|folder| Path::new(folder).join(program));
    places.find(|place| place.exists())
}

/// A process with `PATH` as its only variable and no standard input.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).stdin(Stdio::null());
    command
}

/// The same, killed when a test has waited long enough for its end.
pub fn bounded_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = command("timeout");
    command
        .args(["--signal", "KILL", &PATIENCE.as_secs().to_string()])
        .arg(program);
    command
}
