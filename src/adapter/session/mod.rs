//! The state of the session that this container is: its engine, its bounds, its phase of life.

pub mod error;
pub mod package_list;
pub mod packages;
pub mod probe;
pub mod readiness;
pub mod registry;
pub mod reset;
pub mod run;
mod state;
pub mod usage;

pub use crate::adapter::session::state::{Phase, RequestGuard, Session};
