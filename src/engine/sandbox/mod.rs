//! What runs a job and contains it: the spawner, a keeper for each job, and the engine's ends of
//! the sockets to them.
//!
//! ```text
//! engine (HTTP, any user) ── control socket ──> spawner (one thread)
//!    └── one socket a job ──────────────────> keeper (reaper of the job's processes)
//!                                               └── process above the program (the job's rights)
//!                                                     └── the program
//! ```
//!
//! A keeper may have started the program ahead of its job: `warm.rs`.

mod confine;
mod disk;
mod disk_watch;
mod files;
mod keeper;
mod line;
mod link;
mod policy;
mod process_tree;
mod program;
mod protocol;
mod report;
mod seccomp;
mod slots;
mod spawner;
mod stage;
mod sys;
mod trial;
mod warm;
mod wire;
mod workspace;

pub use protocol::StageLimits;
pub use report::{Layer, SandboxReport};
pub use spawner::{SPAWNER_ARGUMENT, spawner_main};

pub(super) use files::installed_with;
pub(super) use link::{JobLink, LinkError, SpawnerHandle};
pub(super) use protocol::{Cause, Ended, Setup, StageOrder, WarmOrder};
pub(super) use sys::become_service;
