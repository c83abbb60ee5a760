//! What the embedded engine adds to Piston's API for code that runs in a kernel: a Python process that
//! lives as long as its session. Piston has none of this, and ignores it.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The member `kernel` of a response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelReport {
    /// How often the kernel has been started, this one included.
    pub generation: u64,
    /// Why it was started again, where variables of an earlier one were lost before this cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarted: Option<KernelLoss>,
    /// Why it has ended with this cell, so that its variables are lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<KernelLoss>,
    /// What the cell has shown.
    #[serde(default)]
    pub value: CellValue,
}

/// The value of a cell's last expression, and its rich output.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CellValue {
    /// The value, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<CellResult>,
    /// Whether the cell ended in an expression whose value is `None`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub none: bool,
    /// Jupyter's MIME bundles, `{"data":{…},"metadata":{…}}`, in the order in which they were shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Json>,
}

/// The value of a cell's last expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// Which of the outputs shows it.
    pub output: usize,
    /// The value itself, if it is a string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub string: Option<String>,
}

/// JSON that is passed on as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(pub Box<RawValue>);

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// Why a kernel has ended, and its variables with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelLoss {
    /// It ended by itself: code called `os._exit`, or a signal killed it.
    Crashed,
    /// It did not react to an interrupt at the wall-clock limit.
    TimeLimit,
    /// It did not react to an interrupt at the limit on CPU time, or used that much between cells.
    CpuLimit,
    /// It exceeded the memory limit.
    MemoryLimit,
    /// It did not react to an interrupt at the limit on output.
    OutputLimit,
    /// It did not react to an interrupt at a limit on files.
    DiskLimit,
    /// It did not react to an interrupt after its client had gone.
    Canceled,
    /// Its session was deleted.
    Deleted,
    /// Another kernel took its place.
    Evicted,
    /// Nobody used it for too long.
    IdleTimeout,
}

impl KernelLoss {
    /// The word, as JSON, the log and metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::TimeLimit => "time_limit",
            Self::CpuLimit => "cpu_limit",
            Self::MemoryLimit => "memory_limit",
            Self::OutputLimit => "output_limit",
            Self::DiskLimit => "disk_limit",
            Self::Canceled => "canceled",
            Self::Deleted => "deleted",
            Self::Evicted => "evicted",
            Self::IdleTimeout => "idle_timeout",
        }
    }
}

/// What `GET /` of the engine tells of its kernels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelsStatus {
    /// How many there may be.
    pub limit: usize,
    /// How many there are.
    pub running: usize,
    /// How many have been started ahead.
    pub spare: usize,
    /// The version of the IPython that runs cells; absent until the first kernel has started, and where
    /// Python has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipython: Option<String>,
}
