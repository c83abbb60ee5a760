//! The domain: what a session is and does, in terms of neither HTTP nor Azure.
//!
//! [`App`] is what the process owns, [`Session`] what belongs to the session and can be deleted.

mod app;
pub mod error;
pub mod identifiers;
pub mod package_list;
pub mod packages;
pub mod probe;
pub mod readiness;
pub mod registry;
pub mod reset;
pub mod run;
mod runtimes;
mod state;
mod turns;

pub use crate::adapter::session::app::{App, InFlightGuard, Phase};
pub use crate::adapter::session::state::Session;
