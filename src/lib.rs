//! session-adapter: Azure's dynamic-sessions API in front of a Piston engine.
//!
//! A request to the adapter goes down these layers, and its response comes back up the same way:
//!
//! 1. [`adapter::http`] accepts it, checks its head and host ([`access`]) and names the action.
//! 2. [`adapter::azure`] parses its body into an [`Execution`](adapter::model::execution::Execution).
//! 3. [`adapter::session`] registers the execution, waits for its turn ([`limiter`]) and runs it.
//! 4. [`adapter::backend`] translates it to the wire of [`piston`] and sends it.
//! 5. [`engine`], or a real Piston, runs it; the engine does so in its [`sandbox`](engine::sandbox).
//!
//! The adapter and the engine import [`piston`] and never each other. `docs/ARCHITECTURE.md` has the
//! layers, their invariants and where to change what.

pub mod access;
pub mod adapter;
pub mod config;
pub mod data_dir;
pub mod engine;
pub mod error_chain;
pub mod limiter;
pub mod lossy;
pub mod piston;
#[allow(missing_docs)] // The fields are those of the fixtures, see fixtures/README.md.
pub mod replay;
pub mod startup;
mod tree;
