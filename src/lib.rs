//! session-adapter: Azure's dynamic-sessions API in front of a Piston engine.

pub mod engine;
pub mod gate;
pub mod piston;
pub mod replay;
