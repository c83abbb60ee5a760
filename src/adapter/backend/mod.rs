//! How an execution is run: by the embedded engine or by a real Piston.
//!
//! Both speak Piston's API, so that one client serves both; where they differ is decided here and
//! nowhere above.

mod cell;
mod job;
pub mod last_expression;
mod stderr;
pub mod translate;
pub mod value;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::adapter::backend::last_expression::ends_in_print;
use crate::adapter::backend::translate::{Marker, ResolvedLanguage, RunLimits, ValueOptions};
use crate::adapter::files::{FileError, FileStore};
use crate::adapter::model::execution::Execution;
use crate::adapter::model::identifier::Identifier;
use crate::adapter::model::outcome::Outcome;
use crate::config::EngineKind;
use crate::piston::{Client, ClientError, ClientLimits, WorkingDirectory};

pub use job::Job;

/// A real Piston takes requests of 102 400 bytes. Source and input up to this size leave room for the
/// runner that captures the result, however they are escaped.
const MAX_SOURCE_WITH_CAPTURE: usize = 32 << 10;
/// A result of this length fits into the 1024 bytes that a real Piston keeps of stderr by default.
const MIN_RESULT_BYTES: usize = 512;
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
        /// The longest result of an expression, in bytes of JSON.
        max_result_bytes: usize,
    },
    /// A Piston that somebody else started: its jobs share nothing with the adapter.
    Piston {
        client: Client,
        /// As above. Lowered once Piston turns out to keep less of stderr than the output limit.
        max_result_bytes: AtomicUsize,
    },
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
        let limits = ClientLimits {
            max_response_bytes: max_response_bytes(output_limit),
        };
        let client = Client::new(url, limits)?;
        // The result goes the way of standard error, beside what the program itself writes there.
        let max_result_bytes = output_limit / 2;
        Ok(match kind {
            EngineKind::Embedded => Self::Embedded {
                client,
                has_kernels,
                max_result_bytes,
            },
            EngineKind::Piston => Self::Piston {
                client,
                max_result_bytes: AtomicUsize::new(max_result_bytes),
            },
        })
    }

    /// The client of the engine's API.
    pub fn client(&self) -> &Client {
        match self {
            Self::Embedded { client, .. } | Self::Piston { client, .. } => client,
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
        let jupyter_format = execution.jupyter_format;
        let marker =
            (kernel.is_none() && self.captures_result(&execution, &language)).then(Marker::random);
        let value_options = ValueOptions {
            most: self.max_result_bytes(),
            jupyter: execution.jupyter_format,
        };
        let max_stream_bytes = execution.output_streams_max_length.unwrap_or(usize::MAX);
        let mut request = translate::piston_request(execution, language, limits);
        if let Self::Embedded { .. } = self {
            request.working_directory = Some(WorkingDirectory::Data);
            request.raw_stdin = true;
            request.kernel = kernel;
        }
        if let Some(marker) = &marker {
            marker.put_before(&mut request, value_options);
        }
        Job {
            request,
            marker,
            jupyter_format,
            max_stream_bytes,
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
        let outcome = job.outcome(response)?;
        if outcome.value_overflowed {
            self.shorten_results(outcome.stderr().len());
        }
        Ok(outcome)
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

    fn max_result_bytes(&self) -> usize {
        match self {
            Self::Embedded {
                max_result_bytes, ..
            } => *max_result_bytes,
            Self::Piston {
                max_result_bytes, ..
            } => max_result_bytes.load(Ordering::Relaxed),
        }
    }

    /// There was no room for a result after `own` bytes of the program's standard error. Where these
    /// are few, Piston keeps less of stderr than the output limit says.
    fn shorten_results(&self, own: usize) {
        let Self::Piston {
            max_result_bytes, ..
        } = self
        else {
            return;
        };
        if own > MIN_RESULT_BYTES {
            return;
        }
        let before = max_result_bytes.fetch_min(MIN_RESULT_BYTES, Ordering::Relaxed);
        if before > MIN_RESULT_BYTES {
            tracing::warn!(
                max_result_bytes = MIN_RESULT_BYTES,
                "the engine keeps little of stderr: results are cut from now on"
            );
        }
    }

    /// Whether the value of the last expression is captured.
    fn captures_result(&self, execution: &Execution, language: &ResolvedLanguage) -> bool {
        if language.language != "python" || execution.is_shell {
            return false;
        }
        match self {
            // The runner also lets the program start outside the directory of its file.
            Self::Embedded { .. } => true,
            // The runner must not make the request one that Piston refuses.
            Self::Piston { .. } => {
                execution.code.len() + execution.stdin.len() < MAX_SOURCE_WITH_CAPTURE
                    && (execution.jupyter_format || !ends_in_print(&execution.code))
            }
        }
    }
}

/// The largest response with output at its limit: two stages, each stream twice (`output` repeats
/// them), each byte at most six characters of JSON (`\u0000`), and the rich output of a cell.
fn max_response_bytes(output_limit: usize) -> usize {
    MAX_RICH_BYTES + output_limit.saturating_mul(2 * 2 * 2 * 6)
}
