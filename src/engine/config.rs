//! The settings of an engine and the limits of its jobs.

use std::path::PathBuf;
use std::time::Duration;

use super::request::Bounds;
use super::sandbox::{Layer, Setup};
use crate::access::AccessPolicy;
use crate::tree::temp_dir;

/// The settings of an [`Engine`](super::Engine). A request can lower a limit, never raise it.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// This executable, which is started again as the spawner.
    pub program: PathBuf,
    /// How many jobs run at a time.
    pub max_jobs: usize,
    /// How many more jobs may wait. Further requests get 429.
    pub queue: usize,
    /// Wall-clock time of a run stage: both the maximum and the default.
    pub run_timeout: Duration,
    /// Wall-clock time of a compile stage: both the maximum and the default.
    pub compile_timeout: Duration,
    /// CPU time of all processes of a run stage. `run_timeout` if `None`.
    pub run_cpu_time: Option<Duration>,
    /// CPU time of all processes of a compile stage. `compile_timeout` if `None`.
    pub compile_cpu_time: Option<Duration>,
    /// Memory of all processes of a job in bytes.
    pub memory_limit: u64,
    /// Bytes kept of each output stream. A program that prints more is killed.
    pub output_limit: usize,
    /// Longest request body in bytes.
    pub max_body: usize,
    /// How long a client may take to send its request.
    pub read_timeout: Duration,
    /// Number of processes and threads of a job.
    pub max_processes: u64,
    /// Open files per process of a job.
    pub max_open_files: u64,
    /// Size of any single file that a job writes, in bytes.
    pub max_file_size: u64,
    /// Total bytes that a job may keep on disk outside the data directory.
    pub max_job_bytes: u64,
    /// Files and folders that a job may keep on disk, outside the data directory.
    pub max_job_files: u64,
    /// Bytes in the data directory. A job that exceeds them is killed.
    pub max_data_bytes: u64,
    /// Files and folders in the data directory. A job that exceeds them is killed.
    pub max_data_files: u64,
    /// Who may talk to the engine. No page of another origin may, whatever this allows.
    pub access: AccessPolicy,
    /// Whether jobs may use the network, the session's own ports included.
    pub allow_network: bool,
    /// Whether to run jobs even where layers are missing without which hostile code is not
    /// contained.
    pub allow_weak_sandbox: bool,
    /// Layers to leave out, to show in a test that they matter.
    pub without: Vec<Layer>,
    /// Whether the sandbox's processes log JSON to stderr, rather than text.
    pub json_log: bool,
    /// The directory with the session's files, which all jobs may read and write and which outlive them.
    /// It must be empty or have been used for this before. If `None`, a temporary one is deleted with the
    /// engine.
    pub data_dir: Option<PathBuf>,
    /// Whether `data_dir` may contain other files, which then belong to the session.
    pub adopt_data_dir: bool,
    /// Where the jobs' directories are created. The system's temporary directory if `None`.
    pub work_dir: Option<PathBuf>,
    /// More runtimes, as TOML in the format of the built-in table.
    pub runtimes: Option<String>,
    /// How long a program may take to print its version at start.
    pub version_timeout: Duration,
    /// Maximum number of interpreters that are started before their jobs. Without separate users for
    /// jobs there are none, whatever this says.
    pub warm: usize,
    /// Python modules that these interpreters, and kernels, import before their first code.
    pub preload: Vec<String>,
    /// Python processes that live as long as their sessions.
    pub kernels: KernelSettings,
}

/// The settings of all kernels.
#[derive(Debug, Clone)]
pub struct KernelSettings {
    /// How many kernels there may be. 0 means that there are none, and every request has a fresh process.
    pub max_kernels: usize,
    /// Memory of all processes of a kernel in bytes.
    pub memory_limit: u64,
    /// How long a cell may take to end after it was interrupted, before its kernel is killed.
    pub interrupt_grace: Duration,
    /// How long a kernel may be idle before it ends. For ever if `None`.
    pub idle_timeout: Option<Duration>,
}

impl Default for KernelSettings {
    fn default() -> Self {
        Self {
            max_kernels: 8,
            memory_limit: 512 << 20,
            interrupt_grace: Duration::from_secs(2),
            idle_timeout: None,
        }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            program: PathBuf::from("/proc/self/exe"),
            max_jobs: 2 * cores,
            queue: 64,
            run_timeout: Duration::from_secs(60),
            compile_timeout: Duration::from_secs(60),
            run_cpu_time: None,
            compile_cpu_time: None,
            memory_limit: 512 << 20,
            output_limit: 1 << 20,
            max_body: 16 << 20,
            read_timeout: Duration::from_secs(30),
            max_processes: 256,
            max_open_files: 2048,
            max_file_size: 256 << 20,
            max_job_bytes: 1 << 30,
            max_job_files: 50_000,
            max_data_bytes: 2 << 30,
            max_data_files: 50_000,
            access: AccessPolicy::default(),
            allow_network: false,
            allow_weak_sandbox: false,
            without: Vec::new(),
            json_log: true,
            data_dir: None,
            adopt_data_dir: false,
            work_dir: None,
            runtimes: None,
            version_timeout: Duration::from_secs(10),
            warm: 2 * cores,
            preload: Vec::new(),
            kernels: KernelSettings::default(),
        }
    }
}

impl EngineConfig {
    pub(super) fn setup(&self) -> Setup {
        Setup {
            // A slot stays in use after its job until it has been cleaned.
            slots: self
                .max_jobs
                .saturating_mul(2)
                .saturating_add(4)
                .saturating_add(self.warm.saturating_mul(2))
                .saturating_add(self.kernels.max_kernels.saturating_mul(2)),
            work_parent: self.work_dir.clone().unwrap_or_else(temp_dir),
            data_dir: self.data_dir.clone(),
            allow_network: self.allow_network,
            json_log: self.json_log,
            without: self.without.clone(),
        }
    }

    /// The highest bounds of a run stage.
    pub(super) fn run_bounds(&self) -> Bounds {
        self.bounds(self.run_timeout, self.run_cpu_time)
    }

    /// The highest bounds of a compile stage.
    pub(super) fn compile_bounds(&self) -> Bounds {
        self.bounds(self.compile_timeout, self.compile_cpu_time)
    }

    /// The bounds of a program that prints its version.
    pub(super) fn version_bounds(&self) -> Bounds {
        self.bounds(self.version_timeout, None)
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "memory limits are below 2^53 bytes"
    )]
    fn bounds(&self, wall: Duration, cpu: Option<Duration>) -> Bounds {
        Bounds {
            wall_ms: wall.as_secs_f64() * 1000.0,
            cpu_ms: cpu.unwrap_or(wall).as_secs_f64() * 1000.0,
            memory: self.memory_limit as f64,
        }
    }
}
