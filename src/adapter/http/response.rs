//! Responses and their headers.

use http::{HeaderName, HeaderValue, Response, header};
use http_body_util::Full;

use crate::adapter::azure::Rendered;
use crate::adapter::azure::error::{ApiError, ErrorMeta};
use crate::adapter::files::FileError;
use crate::adapter::http::request_log::RequestLog;
use crate::adapter::http::response_body::ResponseBody;
use crate::adapter::session::App;
use crate::adapter::session::error::SessionError;
use crate::error_chain::error_chain;

/// The content type of every JSON response.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// The content type of plain text.
pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Which container this is. What the engine has answered has it, too, for that may have nothing else
/// that tells it from what hyper answers by itself.
pub const SESSION_GUID: HeaderName = HeaderName::from_static("x-ms-session-guid");

/// A response on its way.
pub type ApiResponse = Response<ResponseBody>;

/// The response for an error, which the log and metrics are told of.
pub fn failure(error: &ApiError, log: &mut RequestLog) -> ApiResponse {
    match error {
        ApiError::Session(error) => session_failure(error, log),
        error => {
            let meta = error.metadata();
            log.failed(meta.code, error.limit());
            let mut response = error_response(meta);
            if let ApiError::MethodNotAllowed { allow } = error {
                let headers = response.headers_mut();
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            response
        }
    }
}

/// The same for an error of the session.
pub fn session_failure(error: &SessionError, log: &mut RequestLog) -> ApiResponse {
    log.failed(error.code(), error.limit());
    match error {
        SessionError::Engine(cause) => log.cause(error_chain(cause)),
        SessionError::File(cause @ FileError::Disk(_)) => log.cause(error_chain(cause)),
        _ => {}
    }
    error_response(ErrorMeta::of_session(error))
}

fn error_response(meta: ErrorMeta) -> ApiResponse {
    let (code, retry_after) = (meta.code, meta.retry_after);
    let mut response = respond(Rendered::error(meta));
    let headers = response.headers_mut();
    headers.insert("x-ms-error-code", HeaderValue::from_static(code));
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// A response of JSON.
pub fn respond(rendered: Rendered) -> ApiResponse {
    let mut response = Response::new(Full::new(rendered.body).into());
    *response.status_mut() = rendered.status;
    with_type(response, JSON)
}

pub fn with_type(mut response: ApiResponse, content_type: HeaderValue) -> ApiResponse {
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

pub fn guid_of(app: &App) -> HeaderValue {
    header_value(&app.session.guid.to_string())
}

/// For text of our own, which is visible ASCII.
pub fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
