//! Piston's wire: the types of its HTTP API (v2) and the client that speaks it.
//!
//! This is the only module that both sides know: the adapter sends these types, the embedded
//! engine responds with them, and a real Piston can replace the engine.

mod client;
mod content_type;
mod kernel;
mod signal;
mod wire;

pub use client::{Client, ClientError, ClientLimits, RawRequest, RawResponse, Refusal};
pub use content_type::is_fetch_default_content_type;
pub use kernel::{CellResult, CellValue, Json, KernelLoss, KernelReport, KernelsStatus};
pub use signal::{SIGNALS, Signal};
pub use wire::{
    Encoding, EngineAbout, ExecuteRequest, ExecuteResponse, File, InstalledPackage, Jobs, Message,
    Runtime, Stage, Status, User, Verdict, WorkingDirectory,
};
