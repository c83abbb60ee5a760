//! The settings of an adapter.

use std::path::PathBuf;
use std::time::Duration;

use crate::access::AccessPolicy;
use crate::config::EngineKind;

/// What the adapter needs to know.
#[derive(Debug, Clone)]
pub struct AdapterConfig {
    /// What runs the code; told to clients that ask.
    pub engine: EngineKind,
    /// Who may talk to the listeners.
    pub access: AccessPolicy,
    /// Base of Piston's API, `http://HOST:PORT`.
    pub piston_url: String,
    /// Wall-clock limit of an execution that names none.
    pub run_timeout: Duration,
    /// Highest wall-clock limit; requests for more get this.
    pub max_run_timeout: Duration,
    /// What a compiler may take.
    pub compile_timeout: Duration,
    /// Largest request body in bytes.
    pub max_body: usize,
    /// The directory of the session's files.
    pub data_dir: PathBuf,
    /// Largest upload in bytes.
    pub max_upload: u64,
    /// What the data directory may hold in bytes.
    pub data_bytes: u64,
    /// Files and folders that it may hold.
    pub data_files: u64,
    /// Bytes kept of each output stream.
    pub output_limit: usize,
    /// Memory of one execution in bytes.
    pub memory_limit: u64,
    /// Whether the embedded engine has kernels.
    pub kernels: bool,
    /// Executions at a time.
    pub max_jobs: usize,
    /// Executions that may wait.
    pub queue: usize,
    /// Whether the metrics are at `/metrics` among the other paths.
    pub metrics_path: bool,
    /// How long running executions may take to end once `shutdown` resolves.
    pub drain_timeout: Duration,
}
