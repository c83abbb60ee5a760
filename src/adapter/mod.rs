//! The Azure side: what session pools and agent frameworks speak, on port 2000.
//!
//! A request goes down the layers and its response comes back up: [`http`] accepts it and names the
//! action, [`azure`] reads its dialect, the [`session`] runs it through the [`backend`] on the engine,
//! and [`azure`] renders the outcome. A layer imports only layers below it; `tests/repository/architecture.rs`
//! holds that against the code.

// The layers are public only for benches and fuzz targets.
#[allow(missing_docs)]
pub mod azure;
#[allow(missing_docs)]
pub mod backend;
mod config;
mod files;
#[doc(hidden)]
pub mod fuzzing;
#[allow(missing_docs)]
pub mod http;
#[allow(missing_docs)]
pub mod model;
#[cfg(test)]
mod properties;
#[allow(missing_docs)]
pub mod session;
mod telemetry;

pub use crate::adapter::azure::error::ApiError;
pub use crate::adapter::config::AdapterConfig;
pub use crate::adapter::http::{AdapterError, Listeners, serve};
pub use crate::config::EngineKind;
