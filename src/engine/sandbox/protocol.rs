//! The messages between the engine, the spawner and the keepers.
//!
//! The engine and the spawner share one `SOCK_SEQPACKET` pair. The first packet is a [`Setup`], the
//! reply a [`Ready`]. Each later packet is one job, an [`Opening`], and carries one end of that job's own
//! stream socket. On that socket the engine sends [`Order`]s to the job's keeper, which replies with
//! [`Report`]s; each is JSON prefixed with its length (four bytes, little-endian). The raw bytes of
//! the files follow an [`Order::Open`]. The descriptors of the three standard streams are attached to
//! an [`Order::Stage`] or [`Order::Prestart`]. When the engine closes the socket, or its half of it,
//! the job ends. The keeper's half stays open until the job has been cleaned up.
//!
//! Engine and keepers are always the same executable, so the format needs no versions.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::report::{Layer, SandboxReport};
use crate::piston::WorkingDirectory;
use crate::tree::Space;

/// Longest JSON of one message in bytes. Arguments and environment are in it, not files.
pub(super) const MAX_MESSAGE: usize = 64 << 20;

/// What the spawner needs before the first job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// How many jobs there can be at a time, including those being cleaned up.
    pub slots: usize,
    /// Where the folder for the jobs' directories is made.
    pub work_parent: PathBuf,
    /// The directory that all jobs may read and write; if `None`, a temporary one that is deleted with
    /// the spawner.
    pub data_dir: Option<PathBuf>,
    /// Whether jobs may use the network.
    pub allow_network: bool,
    /// Whether log lines are JSON.
    pub json_log: bool,
    /// Layers that are left out.
    pub without: Vec<Layer>,
}

/// The spawner's reply to [`Setup`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Ready {
    Ready {
        /// The parent of the jobs' directories.
        work: PathBuf,
        /// The directory that all jobs share.
        data_dir: PathBuf,
        /// What contains a job.
        report: SandboxReport,
        /// Whom the engine's own process can change to.
        service: Option<ServiceIds>,
    },
    /// It cannot work on this machine, with the reason.
    Failed(String),
}

/// The ids of the engine's own process once it has given up root.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ServiceIds {
    /// Its user and group.
    pub(crate) service: u32,
    /// The user who owns the session's files, and as whom it accesses files.
    pub(crate) session: u32,
}

/// As whom a job runs, where jobs have users of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum JobUser {
    /// The session's user, who owns the session's files. Kernels and shell commands are that user, and
    /// so are programs that run one after the other.
    Session,
    /// A user that no other job has meanwhile, for programs that run at the same time.
    Own,
}

/// A request for a keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Opening {
    /// The name of the job's directory.
    pub(crate) name: String,
    pub(crate) user: JobUser,
    /// Whether it is for a program, which leaves its files to whichever program is next, and not for a
    /// kernel or a shell command.
    pub(crate) is_program: bool,
}

/// A request to a keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Create the job's directory and start its program before the job arrives. The descriptors of
    /// standard input, output and error are attached.
    Prestart(PrestartOrder),
    /// Create the job's directory with these files, whose bytes follow in this order.
    Open(Vec<FileHeader>),
    /// Run a program. The descriptors of standard input, output and error are attached, unless they
    /// came with [`Order::Prestart`].
    Stage(StageOrder),
    /// Start a program that runs cells until it is killed. The descriptors of standard input, output
    /// and error are attached, and that of the socket over which it gets its cells.
    Kernel(StageOrder),
    /// A cell begins: from here on its limits count.
    BeginCell(CellLimits),
    /// The cell has ended. The reply is [`Report::CellEnded`].
    EndCell,
    /// Send SIGINT to the kernel and to what it runs in the foreground.
    Interrupt,
    /// Kill the running stage now.
    Kill,
}

/// The limits of one cell. Those of its kernel are in the [`StageOrder`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct CellLimits {
    /// CPU time of the kernel's processes during the cell, in milliseconds.
    pub(crate) cpu_ms: f64,
}

/// What a cell has used.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct CellUsage {
    /// CPU time of the kernel's processes in milliseconds.
    pub(crate) cpu_ms: f64,
    /// Peak memory in bytes, the session's variables included.
    pub(crate) memory: u64,
    /// Whether it ended with a disk limit exceeded.
    pub(crate) is_over_disk_limit: bool,
}

/// One file of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FileHeader {
    /// Path below the job's directory, without `.`, `..` or empty components.
    pub(crate) path: String,
    /// Length in bytes.
    pub(crate) length: u64,
}

/// A program to start before its job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PrestartOrder {
    /// The stage that the job is expected to ask for, with the highest limits that it can have.
    pub(crate) stage: StageOrder,
    /// Name in the job's directory of the source file, which must be the last file that the program
    /// opens before it runs it.
    pub(crate) file: String,
    /// Paths and contents of files below `HOME`, which are deleted once the program opens its source.
    pub(crate) home: Vec<(String, String)>,
    /// The one of these whose content by then is reported.
    pub(crate) report: Option<String>,
}

/// One program to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StageOrder {
    /// The program (a path) and its arguments.
    pub(crate) command: Vec<String>,
    /// The environment, except for what init adds: `HOME`, `TMPDIR` and `PWD`.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) limits: StageLimits,
    /// Directories that the program reads, besides those of the system.
    pub(crate) readable: Vec<PathBuf>,
    /// Where the program starts, if not in the job's directory.
    pub(crate) working_directory: Option<WorkingDirectory>,
    /// Paths and contents of files below `HOME`.
    pub(crate) home: Vec<(String, String)>,
    /// Whether the program runs cells: then no limit on its own CPU time ends it, and an allocation
    /// fails before the memory limit is reached.
    pub(crate) is_kernel: bool,
    /// Whether the program gets SIGINT, and a moment to print what it has buffered, before a time limit ends
    /// it.
    pub(crate) is_interrupted_first: bool,
}

/// The limits of one stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StageLimits {
    /// Wall-clock time in milliseconds.
    pub wall_ms: f64,
    /// CPU time of the whole process tree in milliseconds.
    pub cpu_ms: f64,
    /// Resident memory of the whole process tree in bytes.
    pub memory: u64,
    /// Number of processes and threads.
    pub processes: u64,
    /// Open files per process.
    pub open_files: u64,
    /// Size of any single file in bytes.
    pub file_size: u64,
    /// Bytes of all files of the job outside the data directory.
    pub job_bytes: u64,
    /// Number of these files, folders included.
    pub job_files: u64,
    /// Bytes of all files in the data directory.
    pub data_bytes: u64,
    /// Number of these files, folders included.
    pub data_files: u64,
}

impl StageLimits {
    /// The files of the job outside the data directory.
    pub(super) fn job_space(&self) -> Space {
        Space {
            bytes: self.job_bytes,
            entries: self.job_files,
        }
    }

    /// The files in the data directory.
    pub(super) fn data_space(&self) -> Space {
        Space {
            bytes: self.data_bytes,
            entries: self.data_files,
        }
    }

    /// Small limits with which the spawner probes the sandbox.
    pub(in crate::engine) fn for_probe() -> Self {
        Self {
            wall_ms: 1000.0,
            cpu_ms: 1000.0,
            memory: 64 << 20,
            processes: 64,
            open_files: 64,
            file_size: 1 << 20,
            job_bytes: 1 << 20,
            job_files: 64,
            data_bytes: 1 << 20,
            data_files: 64,
        }
    }
}

/// A keeper's message to the engine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The pre-started program waits for its job. The text is that of [`PrestartOrder::report`].
    Prestarted(String),
    /// The pre-started program ended before its job, and the keeper ends too.
    Stale,
    /// The files could not be created because of their names.
    Refused(String),
    /// The disk has no space left for the job. Nothing of it was run.
    NoSpace,
    /// The keeper could not carry out the order.
    Failed(String),
    /// The stage is over, and no process that it started is left.
    Ended(Ended),
    /// The cell exceeds this limit. It runs on until it is interrupted or killed.
    CellLimit(Cause),
    /// What the cell has used.
    CellEnded(CellUsage),
}

/// How a stage ended.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) cause: Cause,
    /// Wall-clock time in milliseconds.
    pub(crate) wall_ms: f64,
    /// CPU time of the whole process tree in milliseconds.
    pub(crate) cpu_ms: f64,
    /// Peak memory in bytes.
    pub(crate) memory: u64,
}

/// What ended a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// The program exited by itself with this code, or 128 + n after signal n.
    Exit(i32),
    /// This signal killed the job's init.
    Signal(i32),
    WallLimit,
    CpuLimit,
    MemoryLimit,
    /// A limit on bytes or number of files.
    DiskLimit,
    /// [`Order::Kill`].
    Killed,
}
