//! Piston's routes over HTTP/1: parses requests, runs jobs and serializes responses.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use serde::Serialize;
use tokio::net::TcpListener;

use super::job;
use super::kernel::cells;
use super::kernel::process::{Cell, StartError};
use super::kernel::table::KernelError;
use super::request::{JobRequest, Submission};
use super::runtimes::{Installed, choose};
use super::sandbox::LinkError;
use super::state::EngineState;
use crate::piston::{InstalledPackage, Message, is_fetch_default_content_type};

type JsonResponse = Response<Full<Bytes>>;

/// Why a request gets an error response.
#[derive(Debug)]
struct RequestError {
    status: StatusCode,
    message: String,
}

impl RequestError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message }
    }

    fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

/// Serves until `shutdown` resolves, then finishes the requests in flight.
pub(super) async fn serve(
    engine: Arc<EngineState>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = std::pin::pin!(shutdown);
    let connections = GracefulShutdown::new();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(engine.config.read_timeout);
    loop {
        let stream = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Usually there are no descriptors left, until another connection ends.
                    tracing::warn!(%error, "the engine cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        // Responses are small and clients wait for them, so they should not be delayed by Nagle's algorithm.
        let _ = stream.set_nodelay(true);
        let engine = Arc::clone(&engine);
        let service = service_fn(move |request| {
            let engine = Arc::clone(&engine);
            async move { Ok::<_, Infallible>(handle(&engine, request).await) }
        });
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the engine ended early");
            }
        });
    }
    drop(listener);
    connections.shutdown().await;
}

async fn handle(engine: &Arc<EngineState>, request: Request<Incoming>) -> JsonResponse {
    let (head, body) = request.into_parts();
    if let Err(error) = engine.config.access.check(&head) {
        return error_response(RequestError::new(StatusCode::FORBIDDEN, error.to_string()));
    }
    let request = Request::from_parts(head, body);
    let path = request.uri().path();
    // As in Piston, case does not matter and one trailing slash is ignored.
    let path = path.strip_suffix('/').unwrap_or(path).to_ascii_lowercase();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let result = match path.as_str() {
        "" if reads => Ok(json(StatusCode::OK, &engine.about())),
        "/api/v2/runtimes" if reads => Ok(json(StatusCode::OK, &engine.runtimes().await)),
        "/api/v2/packages" if reads => {
            let packages = InstalledPackage::of_runtimes(&engine.runtimes().await);
            Ok(json(StatusCode::OK, &packages))
        }
        "/api/v2/kernels" if *request.method() == Method::DELETE => {
            engine.kernels.delete_all().await;
            Ok(json(StatusCode::OK, &engine.about()))
        }
        "/api/v2/execute" if *request.method() == Method::POST => execute(engine, request).await,
        other if !reads && other.starts_with("/api/v2/") => match check_type(request.headers()) {
            Ok(_) => Err(RequestError::new(StatusCode::NOT_FOUND, "Not Found")),
            Err(error) => Err(error),
        },
        _ => Err(RequestError::new(StatusCode::NOT_FOUND, "Not Found")),
    };
    result.unwrap_or_else(error_response)
}

fn error_response(error: RequestError) -> JsonResponse {
    let message = Message {
        message: Some(error.message),
    };
    let mut response = json(error.status, &message);
    if error.status == StatusCode::TOO_MANY_REQUESTS {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

async fn execute(
    engine: &Arc<EngineState>,
    request: Request<Incoming>,
) -> Result<JsonResponse, RequestError> {
    let is_json = check_type(request.headers())?;
    let body = read_body(engine, request.into_body()).await?;
    // Piston reads a body as text whatever bytes are in it, and drops a byte order mark.
    let text = String::from_utf8_lossy(&body);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let asked = JobRequest::read(is_json.then_some(text))
        .map_err(|refusal| RequestError::bad(refusal.0))?;
    let installed = engine.installed().await;
    let Some(runtime) = choose(&installed, &asked.language, &asked.version) else {
        return Err(RequestError::bad(format!(
            "{}-{} runtime is unknown",
            asked.language, asked.version
        )));
    };
    let submission = asked
        .submission(engine.config.compile_bounds(), engine.config.run_bounds())
        .map_err(|refusal| RequestError::bad(refusal.0))?;
    let kernel = asked
        .kernel()
        .map_err(|refusal| RequestError::bad(refusal.0))?;
    drop(asked);
    drop(body);
    if let Some(name) = kernel.filter(|_| is_cell(engine, &installed, runtime, &submission)) {
        return execute_cell(engine, &name, runtime, submission).await;
    }
    let permit = engine.limiter.acquire().await;
    let permit = permit
        .map_err(|full| RequestError::new(StatusCode::TOO_MANY_REQUESTS, full.to_string()))?;
    match job::execute(&engine.job_context(), runtime, submission, permit).await {
        Ok(response) => Ok(json(StatusCode::OK, &response)),
        Err(LinkError::Refused(message)) => Err(RequestError::bad(message)),
        Err(error) => {
            tracing::error!(%error, "an execution failed");
            let status = match error {
                LinkError::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Err(RequestError::new(
                status,
                "the engine could not run the job",
            ))
        }
    }
}

/// Whether a submission that names a kernel can run there: one file of the kernel's Python, without
/// arguments.
fn is_cell(
    engine: &EngineState,
    installed: &[Installed],
    runtime: &Installed,
    submission: &Submission,
) -> bool {
    submission.files.len() == 1
        && submission.args.is_empty()
        && engine.kernels.serve(installed, runtime)
}

async fn execute_cell(
    engine: &Arc<EngineState>,
    name: &str,
    runtime: &Installed,
    submission: Submission,
) -> Result<JsonResponse, RequestError> {
    let code = submission.files.into_iter().next().map(|file| file.content);
    let cell = Cell {
        code: String::from_utf8_lossy(&code.unwrap_or_default()).into_owned(),
        stdin: submission.stdin,
        bounds: submission.run,
    };
    let response = cells::execute(engine, name, runtime, cell).await;
    let response = response.map_err(|error| {
        tracing::error!(%error, "a cell was not run");
        let status = match error {
            KernelError::QueueFull(_) | KernelError::NoneFree(_) => StatusCode::TOO_MANY_REQUESTS,
            KernelError::Start(StartError::Link(LinkError::NoSpace)) => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            KernelError::Start(StartError::Link(_)) | KernelError::Deleted => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            KernelError::Start(_) => StatusCode::FAILED_DEPENDENCY,
        };
        RequestError::new(status, error.to_string())
    })?;
    Ok(json(StatusCode::OK, &response))
}

/// Checks `Content-Type` as Piston does. Piston's own check accepts everything that starts like JSON,
/// but its body parser reads only JSON: false means that it would ignore the body.
fn check_type(headers: &HeaderMap) -> Result<bool, RequestError> {
    let value = match headers.get(CONTENT_TYPE).map(HeaderValue::to_str) {
        Some(Ok(_)) if is_fetch_default_content_type(headers) => "application/json",
        Some(Ok(value)) => value,
        _ => "",
    };
    if !value.starts_with("application/json") {
        return Err(RequestError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "requests must be of type application/json",
        ));
    }
    let mut parts = value.split(';').map(str::trim);
    let is_json = parts.next() == Some("application/json");
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let charset = value.trim_matches('"').to_ascii_lowercase();
        if name.eq_ignore_ascii_case("charset") && charset != "utf-8" && charset != "utf8" {
            let message = format!("unsupported charset {:?}", charset.to_ascii_uppercase());
            return Err(RequestError::bad(message));
        }
    }
    match headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity" | b"") => Ok(is_json),
        Some(_) => Err(RequestError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "requests must not be compressed",
        )),
    }
}

async fn read_body(engine: &EngineState, body: Incoming) -> Result<Bytes, RequestError> {
    let limit = engine.config.max_body;
    let reading = Limited::new(body, limit).collect();
    match tokio::time::timeout(engine.config.read_timeout, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(RequestError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request body is longer than {limit} bytes"),
        )),
        Ok(Err(_)) => Err(RequestError::bad("the request body ended early")),
        Err(_) => Err(RequestError::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request body did not arrive in time",
        )),
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> JsonResponse {
    let mut response = match serde_json::to_vec(body) {
        Ok(bytes) => {
            let mut response = Response::new(Full::from(bytes));
            *response.status_mut() = status;
            response
        }
        Err(error) => {
            tracing::error!(%error, "failed to serialize a response");
            let mut response = Response::new(Full::from("{}"));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    };
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    response
}
