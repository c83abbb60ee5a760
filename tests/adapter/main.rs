//! The adapter between its clients and an engine: dialects, executions, limits, errors, metrics.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail where it stands"
)]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod azure;
mod bounds;
mod connections;
mod drain;
mod engine_faults;
mod executions;
mod faults;
mod metrics;
