//! Every error a client can get, and the one table that turns it into Azure's body.

use http::StatusCode;

use crate::access::AccessError;
use crate::adapter::azure::version::API_VERSIONS;
use crate::adapter::files::FileError;
use crate::limiter::QueueFull;
use crate::piston::{ClientError, Refusal, Runtime};

/// Why a request has no 200.
///
/// The text is Azure's `error.message`. It never holds code, input, output, or words of the engine.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No such path.
    #[error("There is nothing at this path. GET / lists what there is.")]
    PathNotFound,
    /// The path exists, the method does not.
    #[error("This path takes {allow}.")]
    MethodNotAllowed {
        /// The `Allow` header.
        allow: &'static str,
    },
    /// The request target is no URI, cannot be decoded, or holds user information.
    #[error("The request target is not valid: a path in percent-encoded UTF-8 is expected.")]
    TargetInvalid,
    /// The path with its query is longer than allowed.
    #[error("The path and the query have more than {limit} bytes.")]
    TargetTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// The headers are larger than allowed.
    #[error("The headers have more than {limit} bytes.")]
    HeadersTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The bytes are not a request of HTTP/1.1, or the method is too long for one.
    #[error("The request is not valid HTTP/1.1.")]
    Malformed,
    /// `Host` is missing, is there twice or is not a host.
    #[error("The request must have one header Host, with a host and perhaps a port.")]
    HostInvalid,
    /// The request is not from somebody who was invited.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The transfer coding is another than `chunked`, or there are several.
    #[error("The only value of Transfer-Encoding is 'chunked', once.")]
    TransferEncodingInvalid,
    /// The client expects what is not offered.
    #[error("The only value of Expect is '100-continue'.")]
    ExpectationFailed,
    /// The body is compressed.
    #[error("The body must have no Content-Encoding.")]
    ContentEncoding,
    /// `api-version` is not one of Azure's.
    #[error("api-version '{given}' is not supported. Supported are {}.", API_VERSIONS.join(", "))]
    ApiVersion {
        /// What the client asked for.
        given: String,
    },
    /// `identifier` is not of Azure's form.
    #[error(
        "The session identifier must have 4 to 128 characters: letters, digits and ASCII \
         punctuation, but no space and no backslash."
    )]
    Identifier,
    /// The `operation-id` header is not usable.
    #[error("The header operation-id must have 1 to 128 letters, digits, '.', '_' or '-'.")]
    OperationId,
    /// The `operation-id` belongs to another execution.
    #[error(
        "The id in the header operation-id was used before for a different execution. Send the same \
         request again to get the result of that one, or a new operation-id to run this one."
    )]
    OperationIdConflict,
    /// There is no such execution, or no more.
    #[error("There is no execution '{id}', or it is no longer remembered.")]
    ExecutionNotFound {
        /// The id that was asked for.
        id: String,
    },
    /// It was ended on request.
    #[error("The execution was canceled.")]
    ExecutionCanceled,
    /// This session does not go by that name, or was not used yet.
    #[error("There is no session '{identifier}' here, or it was not used yet.")]
    SessionNotFound {
        /// The identifier that was asked for.
        identifier: String,
    },
    /// The session was to be deleted, and something of it is left.
    #[error("The session could not be deleted: {0}.")]
    DeletionFailed(&'static str),
    /// The body is declared as something else than JSON.
    #[error("The body must be declared as application/json by Content-Type, not as '{given}'.")]
    MediaType {
        /// The content type; empty where there is none.
        given: String,
    },
    /// The body is larger than allowed.
    #[error("The body is larger than {limit} bytes.")]
    BodyTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The body did not arrive in time.
    #[error("The body did not arrive within {seconds} s.")]
    BodyTimeout {
        /// The time allowed.
        seconds: u64,
    },
    /// The connection broke while the body arrived.
    #[error("The body ended before it was complete.")]
    BodyIncomplete,
    /// The body is not a JSON object.
    #[error("The body must be a JSON object: {0}.")]
    BodyInvalid(String),
    /// A field that must be there is not.
    #[error("{0} is required.")]
    Missing(&'static str),
    /// A field is not as it must be.
    #[error("{field} {problem}.")]
    Property {
        /// The name of the field.
        field: &'static str,
        /// What it must be, and what it is.
        problem: String,
    },
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
        /// What there is.
        available: Vec<Runtime>,
    },
    /// As many executions wait as may.
    #[error("Too many executions: {}. Try again later.", .0)]
    TooManyExecutions(#[from] QueueFull),
    /// The bodies of all requests together are larger than the session holds.
    #[error("Too many large requests at a time. Try again later.")]
    TooManyBodies,
    /// It could not have ended before the ingress gives up.
    #[error("The execution waited too long for its turn and was not started. Try again later.")]
    QueueTimeout,
    /// The adapter is going down.
    #[error("The session is shutting down.")]
    ShuttingDown,
    /// No real execution has worked yet.
    #[error("The session is not ready: {0}.")]
    NotReady(String),
    /// An upload's body is declared as something else than a form with files.
    #[error("The body must be multipart/form-data with a field 'file', not '{given}'.")]
    NotMultipart {
        /// The content type.
        given: String,
    },
    /// The body is not `multipart/form-data`.
    #[error("The body is not valid multipart/form-data: {0}.")]
    MultipartInvalid(&'static str),
    /// The files of an upload are larger than allowed.
    #[error("The upload is larger than {limit} bytes.")]
    FileTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// As many files come in or go out as may.
    #[error("Too many files come in or go out at a time. Try again later.")]
    TooManyTransfers,
    /// Something cannot be done with a file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The engine has no answer to use.
    #[error("{}", engine_message(.0))]
    Engine(#[from] ClientError),
}

/// How a client is told.
pub struct Told {
    /// The HTTP status.
    pub status: StatusCode,
    /// Azure's `error.code` and the header `x-ms-error-code`.
    pub code: &'static str,
    /// Azure's `error.target`: the field that is wrong.
    pub target: Option<&'static str>,
    /// `Retry-After` in seconds.
    pub retry_after: Option<u32>,
}

impl ApiError {
    /// The table.
    pub fn told(&self) -> Told {
        let (status, code) = match self {
            Self::PathNotFound => (StatusCode::NOT_FOUND, "PathNotFound"),
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            Self::TargetInvalid => (StatusCode::BAD_REQUEST, "InvalidRequestTarget"),
            Self::TargetTooLong { .. } => (StatusCode::URI_TOO_LONG, "RequestTargetTooLong"),
            Self::HeadersTooLarge { .. } => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "RequestHeadersTooLarge",
            ),
            Self::Malformed => (StatusCode::BAD_REQUEST, "MalformedRequest"),
            Self::HostInvalid => (StatusCode::BAD_REQUEST, "InvalidHost"),
            Self::Access(AccessError::Host(_)) => (StatusCode::FORBIDDEN, "HostNotAllowed"),
            Self::Access(AccessError::Origin(_) | AccessError::CrossSite) => {
                (StatusCode::FORBIDDEN, "OriginNotAllowed")
            }
            Self::TransferEncodingInvalid => (StatusCode::BAD_REQUEST, "InvalidTransferEncoding"),
            Self::ExpectationFailed => (StatusCode::EXPECTATION_FAILED, "ExpectationFailed"),
            Self::ContentEncoding => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType"),
            Self::ApiVersion { .. } => (StatusCode::BAD_REQUEST, "InvalidApiVersion"),
            Self::Identifier => (StatusCode::BAD_REQUEST, "InvalidIdentifier"),
            Self::OperationId => (StatusCode::BAD_REQUEST, "InvalidOperationId"),
            Self::OperationIdConflict => (StatusCode::CONFLICT, "OperationIdConflict"),
            Self::ExecutionNotFound { .. } => (StatusCode::NOT_FOUND, "ExecutionNotFound"),
            Self::ExecutionCanceled => (StatusCode::CONFLICT, "ExecutionCanceled"),
            Self::SessionNotFound { .. } => (StatusCode::NOT_FOUND, "NoSessionFoundError"),
            Self::DeletionFailed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "DeletionFailed"),
            Self::MediaType { .. } => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType"),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "RequestBodyTooLarge"),
            Self::BodyTimeout { .. } => (StatusCode::REQUEST_TIMEOUT, "RequestTimeout"),
            Self::BodyIncomplete | Self::BodyInvalid(_) => {
                (StatusCode::BAD_REQUEST, "InvalidRequestBody")
            }
            Self::Missing(_) => (StatusCode::BAD_REQUEST, "MissingRequestProperty"),
            Self::Property { .. } => (StatusCode::BAD_REQUEST, "InvalidRequestProperty"),
            Self::RuntimeNotFound { .. } => (StatusCode::BAD_REQUEST, "RuntimeNotFound"),
            Self::TooManyExecutions(_) | Self::TooManyBodies | Self::QueueTimeout => {
                (StatusCode::TOO_MANY_REQUESTS, "TooManyExecutions")
            }
            Self::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "ShuttingDown"),
            Self::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "EngineNotReady"),
            Self::NotMultipart { .. } => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType")
            }
            Self::MultipartInvalid(_) => (StatusCode::BAD_REQUEST, "InvalidRequestBody"),
            Self::FileTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "FileTooLarge"),
            Self::TooManyTransfers => (StatusCode::TOO_MANY_REQUESTS, "TooManyTransfers"),
            Self::File(error) => file_status(error),
            Self::Engine(error) => engine_status(error),
        };
        Told {
            status,
            code,
            target: self.target(),
            retry_after: matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            )
            .then_some(1),
        }
    }

    /// Whether the code may have run, so that trying again could run it twice.
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::Engine(error) => !matches!(
                error,
                ClientError::Unreachable(_)
                    | ClientError::Unavailable
                    | ClientError::Busy
                    | ClientError::NoSpace
                    | ClientError::Refused(_)
            ),
            Self::ExecutionCanceled | Self::ShuttingDown => true,
            _ => false,
        }
    }

    /// The limit at which a request has ended, in one word.
    pub fn limit(&self) -> Option<&'static str> {
        Some(match self {
            Self::TargetTooLong { .. } => "target",
            Self::HeadersTooLarge { .. } => "headers",
            Self::BodyTooLarge { .. } => "body",
            Self::BodyTimeout { .. } => "body_time",
            Self::TooManyBodies => "bodies",
            Self::TooManyExecutions(_) => "queue",
            Self::QueueTimeout => "queue_time",
            Self::FileTooLarge { .. } => "upload",
            Self::TooManyTransfers => "transfers",
            Self::File(FileError::Full) => "data",
            Self::File(FileError::TooMuch { .. })
            | Self::Engine(ClientError::Refused(Refusal::TooLarge(_))) => "execution_size",
            Self::Engine(ClientError::AnswerTooLarge(_)) => "answer",
            Self::Engine(ClientError::Timeout(_)) => "engine_time",
            Self::Engine(ClientError::Busy) => "engine_jobs",
            _ => return None,
        })
    }

    fn target(&self) -> Option<&'static str> {
        match self {
            Self::Missing(field) | Self::Property { field, .. } => Some(field),
            Self::RuntimeNotFound { .. } => Some("language"),
            Self::ApiVersion { .. } => Some("api-version"),
            Self::Identifier => Some("identifier"),
            Self::OperationId | Self::OperationIdConflict => Some("operation-id"),
            Self::File(FileError::Name(_)) => Some("name"),
            Self::File(FileError::Path(_)) => Some("path"),
            _ => None,
        }
    }
}

fn file_status(error: &FileError) -> (StatusCode, &'static str) {
    match error {
        FileError::Name(_) => (StatusCode::BAD_REQUEST, "FileNameInvalid"),
        FileError::Path(_) => (StatusCode::BAD_REQUEST, "FilePathInvalid"),
        FileError::NotFound => (StatusCode::NOT_FOUND, "FileNotFound"),
        FileError::Conflict => (StatusCode::CONFLICT, "FileConflict"),
        FileError::Deleted => (StatusCode::CONFLICT, "UploadCanceled"),
        FileError::Denied => (StatusCode::FORBIDDEN, "FileAccessDenied"),
        FileError::Full => (StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage"),
        FileError::TooMuch { .. } => (StatusCode::BAD_REQUEST, "ExecutionTooLarge"),
        FileError::Undeleted(_) => (StatusCode::INTERNAL_SERVER_ERROR, "DeletionFailed"),
        FileError::Disk(_) => (StatusCode::INTERNAL_SERVER_ERROR, "FilesFailed"),
    }
}

/// Refusals are the request's fault, the rest is the engine's.
fn engine_status(error: &ClientError) -> (StatusCode, &'static str) {
    match error {
        ClientError::Unreachable(_) | ClientError::Unavailable => {
            (StatusCode::SERVICE_UNAVAILABLE, "EngineUnavailable")
        }
        ClientError::ConnectionLost(_) => (StatusCode::BAD_GATEWAY, "EngineConnectionLost"),
        ClientError::Timeout(_) => (StatusCode::GATEWAY_TIMEOUT, "EngineTimeout"),
        ClientError::AnswerTooLarge(_) | ClientError::AnswerInvalid(_) => {
            (StatusCode::BAD_GATEWAY, "EngineAnswerInvalid")
        }
        ClientError::Busy => (StatusCode::TOO_MANY_REQUESTS, "TooManyExecutions"),
        ClientError::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage"),
        ClientError::Failed(_) | ClientError::SandboxFailed => {
            (StatusCode::BAD_GATEWAY, "EngineFailed")
        }
        ClientError::Refused(Refusal::TooLarge(_)) => {
            (StatusCode::BAD_REQUEST, "ExecutionTooLarge")
        }
        ClientError::Refused(_) => (StatusCode::BAD_REQUEST, "ExecutionRejected"),
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
        ClientError::AnswerTooLarge(limit) => {
            format!("The engine's answer is larger than {limit} bytes.")
        }
        ClientError::AnswerInvalid(_) => "The engine's answer cannot be read.".to_owned(),
        ClientError::Busy => "The engine is busy. Try again later.".to_owned(),
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
