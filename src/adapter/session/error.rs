//! What a session refuses, and what goes wrong in it.
//!
//! The texts are for clients: they never hold code, input, output, or words of the engine. How they
//! become responses is for the layer above to say.

use crate::adapter::files::FileError;
use crate::adapter::model::outcome::Outcome;
use crate::limiter;
use crate::piston::{ClientError, Refusal, Runtime};

/// Why a session does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The `operation-id` belongs to another execution.
    #[error(
        "The id in the header operation-id was used before for a different execution. Send the same \
         request again to get the result of that one, or a new operation-id to run this one."
    )]
    OperationIdConflict,
    /// It was ended on request.
    #[error("The execution was canceled.")]
    Canceled,
    /// The session was to be deleted, and something of it is left.
    #[error("The session could not be deleted: {0}.")]
    DeletionFailed(&'static str),
    /// The engine has no such language or version.
    #[error(
        "No runtime for language '{language}' in version '{version}'. Available: {}.",
        list(available)
    )]
    RuntimeNotFound {
        /// What was asked for.
        language: String,
        /// What was asked for.
        version: String,
        available: Vec<Runtime>,
    },
    /// As many executions wait as may.
    #[error("Too many executions: {}. Try again later.", .0)]
    QueueFull(#[from] limiter::QueueFull),
    /// It could not have ended before the ingress gives up.
    #[error("The execution waited too long for its turn and was not started. Try again later.")]
    QueueTimeout,
    /// The adapter is going down.
    #[error("The session is shutting down.")]
    ShuttingDown,
    /// No real execution has worked yet.
    #[error("The session is not ready: {0}.")]
    NotReady(String),
    /// Something cannot be done with a file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The engine has no answer to use.
    #[error("{}", engine_message(.0))]
    Engine(#[from] ClientError),
}

impl SessionError {
    /// The stable name of the error, for clients, the log and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::OperationIdConflict => "OperationIdConflict",
            Self::Canceled => "ExecutionCanceled",
            Self::DeletionFailed(_) => "DeletionFailed",
            Self::RuntimeNotFound { .. } => "RuntimeNotFound",
            Self::QueueFull(_) | Self::QueueTimeout => "TooManyExecutions",
            Self::ShuttingDown => "ShuttingDown",
            Self::NotReady(_) => "EngineNotReady",
            Self::File(error) => file_code(error),
            Self::Engine(error) => engine_code(error),
        }
    }

    /// Whether the code may have run, so that a retry could run it twice.
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::Engine(error) => !matches!(
                error,
                ClientError::Unreachable(_)
                    | ClientError::Unavailable
                    | ClientError::Busy
                    | ClientError::NoSpace
                    | ClientError::KernelNotStarted
                    | ClientError::Refused(_)
            ),
            Self::Canceled | Self::ShuttingDown => true,
            _ => false,
        }
    }

    /// The limit that was reached, for metrics.
    pub fn limit(&self) -> Option<&'static str> {
        Some(match self {
            Self::QueueFull(_) => "queue",
            Self::QueueTimeout => "queue_time",
            Self::File(FileError::Full) => "data",
            Self::File(FileError::TooMuch { .. })
            | Self::Engine(ClientError::Refused(Refusal::TooLarge(_))) => "execution_size",
            Self::Engine(ClientError::ResponseTooLarge(_)) => "response",
            Self::Engine(ClientError::Timeout(_)) => "engine_time",
            Self::Engine(ClientError::Busy) => "engine_jobs",
            _ => return None,
        })
    }
}

/// How an execution ended, for the log and metrics: the verdict on the program, or the code of the
/// error.
pub fn outcome_label(result: &Result<Outcome, SessionError>) -> &'static str {
    match result {
        Ok(outcome) => outcome.verdict.as_str(),
        Err(error) => error.code(),
    }
}

fn file_code(error: &FileError) -> &'static str {
    match error {
        FileError::Name(_) => "FileNameInvalid",
        FileError::Path(_) => "FilePathInvalid",
        FileError::NotFound => "FileNotFound",
        FileError::Conflict => "FileConflict",
        FileError::Deleted => "UploadCanceled",
        FileError::Denied => "FileAccessDenied",
        FileError::InUse => "FileInUse",
        FileError::Full => "InsufficientStorage",
        FileError::TooMuch { .. } => "ExecutionTooLarge",
        FileError::Undeleted(_) => "DeletionFailed",
        FileError::Disk(_) => "FilesFailed",
    }
}

fn engine_code(error: &ClientError) -> &'static str {
    match error {
        ClientError::Unreachable(_) | ClientError::Unavailable => "EngineUnavailable",
        ClientError::ConnectionLost(_) => "EngineConnectionLost",
        ClientError::Timeout(_) => "EngineTimeout",
        ClientError::ResponseTooLarge(_) | ClientError::ResponseInvalid(_) => "EngineAnswerInvalid",
        ClientError::Busy => "TooManyExecutions",
        ClientError::KernelNotStarted => "KernelUnavailable",
        ClientError::NoSpace => "InsufficientStorage",
        ClientError::Failed(_) | ClientError::SandboxFailed => "EngineFailed",
        ClientError::Refused(Refusal::TooLarge(_)) => "ExecutionTooLarge",
        ClientError::Refused(_) => "ExecutionRejected",
    }
}

fn engine_message(error: &ClientError) -> String {
    match error {
        ClientError::Unreachable(_) | ClientError::Unavailable => {
            "The engine cannot be reached. Nothing was run.".to_owned()
        }
        ClientError::ConnectionLost(_) => {
            "The engine ended its answer early. The code may have run.".to_owned()
        }
        ClientError::Timeout(after) => format!(
            "The engine did not answer within {} s. The code may have run.",
            after.as_secs()
        ),
        ClientError::ResponseTooLarge(limit) => {
            format!("The engine's answer is larger than {limit} bytes.")
        }
        ClientError::ResponseInvalid(_) => "The engine's answer cannot be read.".to_owned(),
        ClientError::Busy => "The engine is busy. Try again later.".to_owned(),
        ClientError::KernelNotStarted => {
            "The session's Python kernel did not start. Nothing was run. \
             useEmptyKernel runs code in a fresh process instead."
                .to_owned()
        }
        ClientError::NoSpace => {
            "There is no room on the disk for the execution's files. Nothing was run.".to_owned()
        }
        ClientError::Failed(_) | ClientError::SandboxFailed => {
            "The engine failed to run the code.".to_owned()
        }
        ClientError::Refused(Refusal::TooLarge(size)) => {
            format!("The execution takes {size} bytes, which is more than the engine accepts.")
        }
        ClientError::Refused(_) => "The engine refused the execution.".to_owned(),
    }
}

fn list(runtimes: &[Runtime]) -> String {
    if runtimes.is_empty() {
        return "nothing".to_owned();
    }
    let names: Vec<String> = runtimes
        .iter()
        .map(|r| format!("{} {}", r.language, r.version))
        .collect();
    names.join(", ")
}
