//! What the engine, the spawner and the keepers say to each other.
//!
//! Between the engine and the spawner there is one `SOCK_SEQPACKET` pair: the first packet is a
//! [`Setup`], the answer a [`Ready`]; each later packet is one job, and carries one end of that
//! job's own stream socket. On that socket the engine sends [`Order`]s to the job's keeper, which
//! answers with [`Report`]s; each is JSON behind its length (four bytes, little-endian). The bytes
//! of the files follow an [`Order::Open`] as they are. The three standard streams come along with
//! an [`Order::Stage`]. When the engine closes the socket or its half of it, the job ends; the other
//! half is open until everything of the job is gone.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::report::{Layer, SandboxReport};
use crate::piston::WorkingDirectory;

/// Longest JSON of one message in bytes. Arguments and environment are in it, not files.
pub(super) const MAX_MESSAGE: usize = 64 << 20;

/// What the spawner has to know before the first job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// How many jobs there can be at a time, those being cleaned up included.
    pub slots: usize,
    /// Where the folder for the jobs' directories is made.
    pub work_parent: PathBuf,
    /// The folder that all jobs may read and write; one that goes with the spawner if none.
    pub data_dir: Option<PathBuf>,
    /// Whether jobs may use the network.
    pub allow_network: bool,
    /// Whether lines of the log are JSON.
    pub json_log: bool,
    /// Layers that are left out.
    pub without: Vec<Layer>,
}

/// The spawner's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Ready {
    /// It takes jobs.
    Ready {
        /// The folder with the jobs' directories.
        work: PathBuf,
        /// The folder that all jobs share.
        data_dir: PathBuf,
        /// What contains a job.
        report: SandboxReport,
        /// User and group that the HTTP side can become.
        service: Option<u32>,
    },
    /// It cannot work here, and why.
    Failed(String),
}

/// What the engine asks of a keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Make the job's directory and start its program ahead of the job. Standard input, output and
    /// error come along as descriptors.
    Warm(WarmOrder),
    /// Make the job's directory with these files; their bytes follow in this order.
    Open(Vec<FileHeader>),
    /// Run a program. Standard input, output and error come along as descriptors, unless they came
    /// with [`Order::Warm`].
    Stage(StageOrder),
    /// End the running stage now.
    Kill,
}

/// One file of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FileHeader {
    /// Path below the job's directory, made of plain names only.
    pub(crate) path: String,
    /// Length in bytes.
    pub(crate) length: u64,
}

/// A program to be started ahead of its job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WarmOrder {
    /// What the job is expected to be, with the highest bounds that it can have.
    pub(crate) stage: StageOrder,
    /// The file that the program reads last of all before it runs what is in it, by its name in the
    /// job's directory.
    pub(crate) file: String,
    /// Files below `HOME` and what is in them, which are there until the program reads that file.
    pub(crate) home: Vec<(String, String)>,
}

/// One program to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StageOrder {
    /// The program (a path) and its arguments.
    pub(crate) command: Vec<String>,
    /// The environment, but for what the keeper adds: `HOME`, `TMPDIR` and `PWD`.
    pub(crate) environment: Vec<(String, String)>,
    /// The bounds.
    pub(crate) limits: StageLimits,
    /// Folders that the program needs besides those of the system.
    pub(crate) readable: Vec<PathBuf>,
    /// Where it starts, if not in the job's directory.
    pub(crate) working_directory: Option<WorkingDirectory>,
}

/// The bounds of one stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StageLimits {
    /// Wall-clock time in milliseconds.
    pub wall_ms: f64,
    /// CPU time of the whole process tree in milliseconds.
    pub cpu_ms: f64,
    /// Memory of the whole process tree in bytes.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Open files of a process.
    pub open_files: u64,
    /// Size of one file in bytes.
    pub file_size: u64,
    /// Bytes of all files that the job has outside the data directory.
    pub job_bytes: u64,
    /// Number of these files, folders included.
    pub job_files: u64,
    /// Bytes of all files in the data directory.
    pub data_bytes: u64,
    /// Number of these files, folders included.
    pub data_files: u64,
}

impl StageLimits {
    /// Small limits with which the spawner tries out a sandbox.
    pub(in crate::engine) fn for_trial() -> Self {
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

/// What a keeper tells the engine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The program that was started ahead of its job waits for it.
    Warm,
    /// That program has ended without a job. The keeper ends, too.
    Stale,
    /// The files could not be made, by fault of their names.
    Refused(String),
    /// There is no room on the disk for the job. Nothing of it was run.
    NoSpace,
    /// The keeper could not do what was asked.
    Failed(String),
    /// The stage is over, and so is every process that it started.
    Ended(Ended),
}

/// How a stage ended.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// What ended it.
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
    /// The program ended by itself: its exit code, 128 + n after signal n.
    Exit(i32),
    /// A signal killed the process above the program.
    Signal(i32),
    /// The wall-clock limit.
    WallLimit,
    /// The CPU limit.
    CpuLimit,
    /// The memory limit.
    MemoryLimit,
    /// A limit on the bytes or the number of files.
    DiskLimit,
    /// [`Order::Kill`].
    Killed,
}
