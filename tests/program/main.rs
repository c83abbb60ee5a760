//! The program as its user runs it: settings, log, signals, recordings, languages.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail where it stands"
)]

#[path = "../support/mod.rs"]
mod support;

mod hermetic;
mod kernels;
mod notebooks;
mod programs;
mod replay;
mod serve;
mod settings;
