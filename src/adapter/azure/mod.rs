//! Azure's dialects: parses requests and renders responses.
//!
//! It knows nothing of connections and nothing of how an execution is run.

mod about;
pub mod body;
mod code;
pub mod dialect;
pub mod error;
mod executions;
mod files;
mod language;
mod query;
mod render;
mod request;
mod sessions;
pub mod version;

pub use crate::adapter::azure::about::About;
pub use crate::adapter::azure::body::Rendered;
pub use crate::adapter::azure::files::{FilesQuery, render_entry, render_list, render_uploaded};
pub use crate::adapter::azure::query::Query;
pub use crate::adapter::azure::render::{render, render_resource};
pub use crate::adapter::azure::request::{ExecutionRequest, parse};
pub use crate::adapter::azure::sessions::{list, metadata, session, stopped};
