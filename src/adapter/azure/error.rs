//! Every error a client can get, and the one table of their statuses and codes.

use http::StatusCode;

use crate::access::AccessError;
use crate::adapter::azure::version::UnknownVersion;
use crate::adapter::files::FileError;
use crate::adapter::session::error::SessionError;
use crate::piston::{ClientError, Refusal};

/// Why a request has no 200.
///
/// The text is Azure's `error.message`. It never holds code, input, output, or words of the engine.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The session refuses it, or fails.
    #[error(transparent)]
    Session(#[from] SessionError),
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
    #[error(transparent)]
    ApiVersion(#[from] UnknownVersion),
    /// `identifier` is not of Azure's form.
    #[error(
        "The session identifier must have 4 to 128 characters: letters, digits and ASCII \
         punctuation, but no space and no backslash."
    )]
    Identifier,
    /// The `operation-id` header is not usable.
    #[error("The header operation-id must have 1 to 128 letters, digits, '.', '_' or '-'.")]
    OperationId,
    /// There is no such execution, or no more.
    #[error("There is no execution '{id}', or it is no longer remembered.")]
    ExecutionNotFound {
        /// The id that was asked for.
        id: String,
    },
    /// This session does not go by that name, or was not used yet.
    #[error("There is no session '{identifier}' here, or it was not used yet.")]
    SessionNotFound {
        /// The identifier that was asked for.
        identifier: String,
    },
    /// The body is declared as something else than JSON.
    #[error(
        "The body must be declared as application/json by Content-Type; it is {}.",
        declared(given)
    )]
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
    BodyTimeout { seconds: u64 },
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
    /// The bodies of all requests together are larger than the session holds.
    #[error("Too many large requests at a time. Try again later.")]
    TooManyBodies,
    /// An upload's body is declared as something else than a form with files.
    #[error("The body must be multipart/form-data with a field 'file', not '{given}'.")]
    NotMultipart { given: String },
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
}

/// What a response says of an error.
pub struct ErrorMeta {
    pub status: StatusCode,
    /// Azure's `error.code` and the header `x-ms-error-code`.
    pub code: &'static str,
    /// Azure's `error.message`.
    pub message: String,
    /// Azure's `error.target`: the field that is wrong.
    pub target: Option<&'static str>,
    /// `Retry-After` in seconds.
    pub retry_after: Option<u32>,
}

impl ErrorMeta {
    /// What a response says of an error of the session.
    pub fn of_session(error: &SessionError) -> Self {
        let target = match error {
            SessionError::RuntimeNotFound { .. } => Some("language"),
            SessionError::OperationIdConflict => Some("operation-id"),
            SessionError::File(FileError::Name(_)) => Some("name"),
            SessionError::File(FileError::Path(_)) => Some("path"),
            _ => None,
        };
        Self::new(
            session_status(error),
            error.code(),
            error.to_string(),
            target,
        )
    }

    fn new(
        status: StatusCode,
        code: &'static str,
        message: String,
        target: Option<&'static str>,
    ) -> Self {
        let is_temporary = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        Self {
            status,
            code,
            message,
            target,
            retry_after: is_temporary.then_some(1),
        }
    }
}

impl ApiError {
    /// What a response says of it.
    pub fn metadata(&self) -> ErrorMeta {
        let (status, code) = match self {
            Self::Session(error) => return ErrorMeta::of_session(error),
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
            Self::ApiVersion(_) => (StatusCode::BAD_REQUEST, "InvalidApiVersion"),
            Self::Identifier => (StatusCode::BAD_REQUEST, "InvalidIdentifier"),
            Self::OperationId => (StatusCode::BAD_REQUEST, "InvalidOperationId"),
            Self::ExecutionNotFound { .. } => (StatusCode::NOT_FOUND, "ExecutionNotFound"),
            Self::SessionNotFound { .. } => (StatusCode::NOT_FOUND, "NoSessionFoundError"),
            Self::MediaType { .. } => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType"),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "RequestBodyTooLarge"),
            Self::BodyTimeout { .. } => (StatusCode::REQUEST_TIMEOUT, "RequestTimeout"),
            Self::BodyIncomplete | Self::BodyInvalid(_) => {
                (StatusCode::BAD_REQUEST, "InvalidRequestBody")
            }
            Self::Missing(_) => (StatusCode::BAD_REQUEST, "MissingRequestProperty"),
            Self::Property { .. } => (StatusCode::BAD_REQUEST, "InvalidRequestProperty"),
            Self::TooManyBodies => (StatusCode::TOO_MANY_REQUESTS, "TooManyExecutions"),
            Self::NotMultipart { .. } => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType")
            }
            Self::MultipartInvalid(_) => (StatusCode::BAD_REQUEST, "InvalidRequestBody"),
            Self::FileTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "FileTooLarge"),
            Self::TooManyTransfers => (StatusCode::TOO_MANY_REQUESTS, "TooManyTransfers"),
        };
        ErrorMeta::new(status, code, self.to_string(), self.target())
    }

    /// The limit at which a request has ended, in one word.
    pub fn limit(&self) -> Option<&'static str> {
        Some(match self {
            Self::TargetTooLong { .. } => "target",
            Self::HeadersTooLarge { .. } => "headers",
            Self::BodyTooLarge { .. } => "body",
            Self::BodyTimeout { .. } => "body_time",
            Self::TooManyBodies => "bodies",
            Self::FileTooLarge { .. } => "upload",
            Self::TooManyTransfers => "transfers",
            Self::Session(error) => return error.limit(),
            _ => return None,
        })
    }

    fn target(&self) -> Option<&'static str> {
        match self {
            Self::Missing(field) | Self::Property { field, .. } => Some(field),
            Self::ApiVersion(_) => Some("api-version"),
            Self::Identifier => Some("identifier"),
            Self::OperationId => Some("operation-id"),
            _ => None,
        }
    }
}

impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        Self::Session(error.into())
    }
}

impl From<ClientError> for ApiError {
    fn from(error: ClientError) -> Self {
        Self::Session(error.into())
    }
}

fn session_status(error: &SessionError) -> StatusCode {
    match error {
        SessionError::OperationIdConflict | SessionError::Canceled => StatusCode::CONFLICT,
        SessionError::DeletionFailed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        SessionError::RuntimeNotFound { .. } => StatusCode::BAD_REQUEST,
        SessionError::QueueFull(_) | SessionError::QueueTimeout => StatusCode::TOO_MANY_REQUESTS,
        SessionError::ShuttingDown | SessionError::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
        SessionError::File(error) => file_status(error),
        SessionError::Engine(error) => engine_status(error),
    }
}

fn file_status(error: &FileError) -> StatusCode {
    match error {
        FileError::Name(_) => StatusCode::BAD_REQUEST,
        FileError::Path(_) => StatusCode::BAD_REQUEST,
        FileError::NotFound => StatusCode::NOT_FOUND,
        FileError::Conflict => StatusCode::CONFLICT,
        FileError::Deleted => StatusCode::CONFLICT,
        FileError::Denied => StatusCode::FORBIDDEN,
        FileError::InUse => StatusCode::CONFLICT,
        FileError::Full => StatusCode::INSUFFICIENT_STORAGE,
        FileError::TooMuch { .. } => StatusCode::BAD_REQUEST,
        FileError::Undeleted(_) => StatusCode::INTERNAL_SERVER_ERROR,
        FileError::Disk(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Refusals are the request's fault, the rest is the engine's.
fn engine_status(error: &ClientError) -> StatusCode {
    match error {
        ClientError::Unreachable(_) | ClientError::Unavailable | ClientError::KernelNotStarted => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ClientError::ConnectionLost(_) => StatusCode::BAD_GATEWAY,
        ClientError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
        ClientError::ResponseTooLarge(_) | ClientError::ResponseInvalid(_) => {
            StatusCode::BAD_GATEWAY
        }
        ClientError::Busy => StatusCode::TOO_MANY_REQUESTS,
        ClientError::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        ClientError::Failed(_) | ClientError::SandboxFailed => StatusCode::BAD_GATEWAY,
        ClientError::Refused(Refusal::TooLarge(_)) => StatusCode::BAD_REQUEST,
        ClientError::Refused(_) => StatusCode::BAD_REQUEST,
    }
}

fn declared(content_type: &str) -> String {
    match content_type {
        "" => "not declared at all".to_owned(),
        given => format!("declared as '{given}'"),
    }
}
