//! An execution, independent of the dialect that asked for it.

use std::time::Duration;

use crate::adapter::model::identifier::Identifier;

/// An execution as a client asked for it, whatever form its response takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Execution {
    pub identifier: Option<Identifier>,
    /// A language or an alias, as the client wrote it.
    pub language: String,
    /// A semver range.
    pub version: String,
    pub code: String,
    pub stdin: String,
    pub args: Vec<String>,
    /// The wall-clock limit that the client asked for.
    pub timeout: Option<Duration>,
    /// Whether the client does not wait for the end.
    pub is_asynchronous: bool,
    /// How many bytes of each output stream the client wants.
    pub output_streams_max_length: Option<usize>,
    /// Whether a value is told as Jupyter shows it.
    pub jupyter_format: bool,
    /// Whether it is a shell command, given by `shellCommand` or `execCommandAndArgs`.
    pub is_shell: bool,
    /// Whether it runs as a cell in its session's kernel, where the engine has one for it.
    pub is_cell: bool,
    /// Whether its status is an exit code, as in shell pools; not where it began on `/execute`.
    pub has_exit_status: bool,
}
