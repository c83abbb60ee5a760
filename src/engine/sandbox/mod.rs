//! Runs and contains jobs: the spawner, one keeper per job, and the engine's ends of the sockets to
//! them.
//!
//! ```text
//! engine (HTTP, any user) ── control socket ──> spawner (one thread)
//!    └── one socket per job ────────────────> keeper (subreaper of the job's processes)
//!                                               └── init (the job's user and limits)
//!                                                     └── the program
//! ```
//!
//! A keeper may start the program before its job arrives; see `prestart.rs`.
//!
//! The sandbox must not know HTTP, Piston's API or the table of runtimes: it gets commands, files and
//! limits, and reports how each stage ended. Everything but `link.rs` runs in processes with one
//! thread, which is what makes it safe to run ordinary code after `fork`. `engine/sandbox/sys.rs` is
//! the only place with `unsafe`.

mod confine;
mod disk;
mod disk_watch;
mod files;
mod held;
mod init;
mod keeper;
mod kernel;
mod link;
mod log;
mod namespaces;
mod policy;
mod prestart;
mod probe;
mod process_tree;
mod protocol;
mod report;
mod seccomp;
mod slots;
mod spawner;
mod stage;
mod sys;
mod wire;
mod workspace;

pub use link::SandboxStartError;
pub use protocol::StageLimits;
pub use report::{Layer, Mode, SandboxReport};
pub use spawner::{SPAWNER_ARGUMENT, spawner_main};

pub(super) use files::installed_with;
pub(super) use link::{JobLink, JobPermit, KernelEvent, LinkError, SpawnerHandle};
pub(super) use protocol::{
    Cause, CellLimits, CellUsage, Ended, JobUser, PrestartOrder, Setup, StageOrder,
};
pub(super) use spawner::WORK_PREFIX;
pub(super) use sys::become_service;
pub(super) use wire::send_with_fds;
