//! Piston's wire: the types of its HTTP API (v2) and the client that speaks it.
//!
//! This is the only module that both sides know: the adapter sends these types, the embedded
//! engine answers with them, and real Piston can stand in the engine's place.

mod client;
mod signal;
mod untyped;
mod wire;

pub use client::{Client, ClientError, ClientLimits, RawAnswer, Refusal};
pub use signal::{SIGNALS, Signal};
pub use untyped::is_untyped;
pub use wire::{
    Encoding, EngineAbout, ExecuteRequest, ExecuteResponse, File, Jobs, Message, Runtime, Stage,
    Status, Verdict, WorkingDirectory,
};
