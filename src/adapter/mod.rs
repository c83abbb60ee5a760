//! The Azure side: what session pools and agent frameworks speak, on port 2000.
//!
//! The way of a request: [`server`] accepts it, [`route`] names the action, [`api`] parses it,
//! [`execute`] runs it on the engine with [`translate`], and [`api`] renders the outcome.

pub mod azure;
pub mod backend;
mod config;
mod files;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod model;
#[cfg(test)]
mod properties;
pub mod session;
mod telemetry;

pub use crate::adapter::azure::error::ApiError;
pub use crate::adapter::config::AdapterConfig;
pub use crate::adapter::http::{AdapterError, Listeners, serve};
pub use crate::config::EngineKind;
