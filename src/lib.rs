//! session-adapter: Azure's dynamic-sessions API in front of a Piston engine.

pub mod access;
pub mod adapter;
pub mod config;
pub mod data_dir;
pub mod engine;
pub mod error_chain;
pub mod limiter;
pub mod lossy;
pub mod piston;
pub mod replay;
pub mod startup;
mod tree;
