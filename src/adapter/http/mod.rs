//! HTTP: connections, requests and responses on port 2000.
//!
//! What a request asks for is named by [`route`], read and rendered by the dialects of
//! [`azure`](crate::adapter::azure), and done by the [`session`](crate::adapter::session).

mod accept;
mod connections;
mod cors;
pub mod disposition;
mod file_handler;
mod handler;
mod head;
mod hyper_errors;
mod metrics_listener;
mod metrics_page;
pub mod multipart;
mod request_body;
pub mod request_log;
mod response;
mod response_body;
pub mod route;
mod server;

pub use crate::adapter::http::server::{AdapterError, Listeners, serve};
