//! What runs a job and contains it: the spawner, a keeper for each job, and the engine's ends of
//! the sockets to them.
//!
//! ```text
//! engine (HTTP, any user) ── control socket ──> spawner (one thread)
//!    └── one socket a job ──────────────────> keeper (reaper of the job's processes)
//!                                               └── process above the program (the job's rights)
//!                                                     └── the program
//! ```

mod confine;
mod keeper;
mod link;
mod process_tree;
mod program;
mod protocol;
mod slots;
mod spawner;
mod stage;
mod sys;
mod wire;
mod workspace;

pub use protocol::StageLimits;
pub use spawner::{SPAWNER_ARGUMENT, spawner_main};

pub(super) use link::{JobLink, LinkError, SpawnerHandle};
pub(super) use protocol::{Cause, Ended, StageOrder};
