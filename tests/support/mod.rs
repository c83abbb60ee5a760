//! What the tests are written with: an adapter in this process, a stand-in for Piston that answers
//! from a script, and a client that sends bytes as they are.
//!
//! A test in a few lines:
//! ```ignore
//! let piston = StandIn::script().respond(ScriptedResponse::stdout("hello\n")).start().await;
//! let adapter = Adapter::in_front_of(&piston).await;
//! let response = raw::post(adapter.addr, "/python/execute", r#"{"code":"print('hello')"}"#).await;
//! assert_eq!(response.status, 200);
//! assert_eq!(piston.requests()[0].json()["files"][0]["content"], "print('hello')");
//! ```

// Each test file is a program of its own that needs a part of this.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod adapter;
pub mod command;
pub mod conditional;
pub mod engine;
pub mod eventually;
mod execution;
pub mod exposition;
pub mod folder;
pub mod form;
pub mod http1;
pub mod processes;
mod program;
pub mod raw;
pub mod schema;
mod standin;

pub use adapter::Adapter;
pub use eventually::eventually;
pub use execution::end_of_execution;
pub use program::{Program, run, run_python};
pub use standin::{Gate, ReceivedRequest, Script, ScriptedResponse, StandIn, refused_url};

use std::path::PathBuf;

/// The directory of the recorded exchanges.
pub fn exchanges() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/exchanges")
}
