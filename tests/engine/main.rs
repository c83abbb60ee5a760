//! The embedded engine through Piston's API.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail where it stands"
)]

#[path = "../support/mod.rs"]
mod support;

mod conformance;
mod data_dir;
mod programs;
mod soak;
