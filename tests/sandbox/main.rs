//! What contains a job and a session. Most of it only root can set up or attack; what this machine
//! does not allow is reported as ignored, see `support/conditional.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail where it stands"
)]

#[path = "../support/mod.rs"]
mod support;

mod abuse;
mod data_dir;
mod faults;
mod isolation;
mod limits;
mod ordinary;
mod ownership;
mod service;
mod warm;

use std::process::ExitCode;

use support::conditional::run;

fn main() -> ExitCode {
    if service::is_process_of_its_own() || ordinary::is_process_of_its_own() {
        return ExitCode::SUCCESS;
    }
    run(vec![
        ("abuse", abuse::tests()),
        ("data_dir", data_dir::tests()),
        ("faults", faults::tests()),
        ("isolation", isolation::tests()),
        ("limits", limits::tests()),
        ("ordinary", ordinary::tests()),
        ("ownership", ownership::tests()),
        ("service", service::tests()),
        ("warm", warm::tests()),
    ])
}
