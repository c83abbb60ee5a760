//! How an execution is run: by the embedded engine or by a real Piston.
//!
//! Both speak Piston's API, so that one client serves both; where they differ is decided here and
//! nowhere above.

mod cell;
mod job;
mod stderr;
pub mod translate;

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::adapter::backend::translate::{ResolvedLanguage, RunLimits};
use crate::adapter::files::{FileError, FileStore};
use crate::adapter::model::execution::Execution;
use crate::adapter::model::identifier::Identifier;
use crate::adapter::model::outcome::Outcome;
use crate::config::EngineKind;
use crate::piston::{Client, ClientError, ClientLimits, ExecuteRequest, User, WorkingDirectory};

pub use job::Job;

/// The longest rich output of a cell with the text of its value, in bytes of JSON.
const MAX_RICH_BYTES: usize = 81 << 20;
const IDLE_POLL: Duration = Duration::from_millis(10);

/// The engine that runs executions.
#[derive(Debug)]
pub enum Backend {
    /// The engine inside this program: its jobs share the data directory with the adapter.
    Embedded {
        client: Client,
        /// Whether it has kernels for cells.
        has_kernels: bool,
    },
    /// A Piston that somebody else started: its jobs share nothing with the adapter.
    Piston { client: Client },
}

impl Backend {
    /// The engine of `kind` whose API is at `url`; it keeps `output_limit` bytes of each stream.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(
        kind: EngineKind,
        url: &str,
        output_limit: usize,
        has_kernels: bool,
    ) -> Result<Self, reqwest::Error> {
        let has_kernels = has_kernels && kind == EngineKind::Embedded;
        let limits = ClientLimits {
            max_response_bytes: max_response_bytes(output_limit, has_kernels),
        };
        let client = Client::new(url, limits)?;
        Ok(match kind {
            EngineKind::Embedded => Self::Embedded {
                client,
                has_kernels,
            },
            EngineKind::Piston => Self::Piston { client },
        })
    }

    /// The client of the engine's API.
    pub fn client(&self) -> &Client {
        match self {
            Self::Embedded { client, .. } | Self::Piston { client } => client,
        }
    }

    /// The name of the kernel that runs `execution`; executions without an identifier share one. `None`
    /// where it runs in a fresh process.
    pub fn kernel_of<'a>(&self, execution: &'a Execution) -> Option<&'a str> {
        match self {
            Self::Embedded {
                has_kernels: true, ..
            } if execution.is_cell => {
                let identifier = execution.identifier.as_ref();
                Some(identifier.map_or("", Identifier::as_str))
            }
            _ => None,
        }
    }

    /// Ends all kernels, and waits until no process of theirs is left.
    ///
    /// # Errors
    /// [`ClientError`] when the engine does not say so by `deadline`.
    pub async fn delete_kernels(&self, deadline: Instant) -> Result<(), ClientError> {
        match self {
            Self::Embedded {
                client,
                has_kernels: true,
                ..
            } => client.delete_kernels(deadline).await,
            _ => Ok(()),
        }
    }

    /// The job that runs `execution`.
    pub fn job(&self, execution: Execution, language: ResolvedLanguage, limits: RunLimits) -> Job {
        let kernel = self.kernel_of(&execution).map(str::to_owned);
        let is_shell = execution.is_shell;
        let jupyter_format = execution.jupyter_format;
        let max_stream_bytes = execution.output_streams_max_length.unwrap_or(usize::MAX);
        let mut request = translate::piston_request(execution, language, limits);
        self.start_in_data_dir(&mut request);
        if let Self::Embedded { .. } = self {
            request.raw_stdin = true;
            request.interrupt = true;
            // Shell commands follow one another even while programs run, and find each other's files.
            request.user = is_shell.then_some(User::Session);
            request.kernel = kernel;
        }
        Job {
            request,
            jupyter_format,
            max_stream_bytes,
        }
    }

    /// Makes a program start where those of clients do.
    pub fn start_in_data_dir(&self, request: &mut ExecuteRequest) {
        if let Self::Embedded { .. } = self {
            request.working_directory = Some(WorkingDirectory::Data);
        }
    }

    /// Adds the session's files, at most `max_bytes` bytes in total, to `job` if the engine does
    /// not share the data directory.
    ///
    /// # Errors
    /// `FileError` when the files cannot be read or are too large together.
    pub async fn attach_session_files(
        &self,
        job: &mut Job,
        files: &FileStore,
        max_bytes: u64,
    ) -> Result<(), FileError> {
        match self {
            Self::Embedded { .. } => Ok(()),
            Self::Piston { .. } => job.attach(files, max_bytes).await,
        }
    }

    /// Runs `job`.
    ///
    /// # Errors
    /// [`ClientError`] when the engine gives no usable response by `deadline`.
    pub async fn run(&self, job: &mut Job, deadline: Instant) -> Result<Outcome, ClientError> {
        let response = self.client().execute(&mut job.request, deadline).await?;
        job.outcome(response)
    }

    /// Waits until no process of a job is left that could still write to the session's files; false
    /// when `deadline` comes first. A real Piston does not end a job that nobody waits for, but its
    /// jobs cannot reach these files.
    pub async fn wait_until_idle(&self, deadline: Instant) -> bool {
        let Self::Embedded { client, .. } = self else {
            return true;
        };
        while Instant::now() < deadline {
            let about = client.about(deadline).await;
            if about.is_ok_and(|about| about.jobs.is_some_and(|jobs| jobs.running == 0)) {
                return true;
            }
            sleep(IDLE_POLL).await;
        }
        false
    }
}

/// The largest response with output at its limit: two stages, each stream twice (`output` repeats
/// them), each byte at most six characters of JSON (`\u0000`), and room for the rest.
fn max_response_bytes(output_limit: usize, has_kernels: bool) -> usize {
    let rest = match has_kernels {
        true => MAX_RICH_BYTES,
        false => 1 << 20,
    };
    rest + output_limit.saturating_mul(2 * 2 * 2 * 6)
}
