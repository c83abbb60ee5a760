//! The repository itself: layers, documentation, fuzz corpus.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail where it stands"
)]

#[path = "../support/mod.rs"]
mod support;

mod architecture;
mod documents;
mod fuzz_corpus;
