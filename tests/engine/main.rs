//! The embedded engine through Piston's API.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail where it stands"
)]

#[path = "../support/mod.rs"]
mod support;

mod conformance;
mod contest;
mod data_dir;
mod programs;
mod soak;

/// Held by tests with many jobs: without users of their own, all jobs count towards one limit on
/// processes, that of the user who runs the tests.
static MANY_JOBS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
