//! From a request to its answer: route, act, render.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use crate::adapter::api::{self, API_VERSIONS, Query, Rendered};
use crate::adapter::error::ApiError;
use crate::adapter::execute::execute;
use crate::adapter::log::RequestLog;
use crate::adapter::route::{Action, Dialect, route};
use crate::adapter::session::{INGRESS, Phase, Session};
use crate::piston::RawAnswer;

use super::body;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

type Answer = Response<Full<Bytes>>;

/// Answers one request, whatever it is.
pub async fn answer(session: &Session, request: Request<Incoming>) -> Answer {
    let _counted = session.count_request();
    let mut log = RequestLog::start();
    let mut response = match route(request.method(), request.uri()) {
        Ok(action) => {
            log.route(action.label());
            act(session, action, request, &mut log).await
        }
        Err(error) => failure(&error, &mut log),
    };
    if session.phase() != Phase::Serving {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    let length = response.body().size_hint().lower() as usize;
    log.answered(response.status(), length);
    response
}

async fn act(
    session: &Session,
    action: Action,
    request: Request<Incoming>,
    log: &mut RequestLog,
) -> Answer {
    let result = match action {
        Action::Health => Ok(with_type(Response::new(Full::from("OK\n")), TEXT)),
        Action::Ready => ready(session),
        Action::About => Ok(about(session)),
        Action::Execute(dialect) => return execution(session, &dialect, request, log).await,
        Action::PassExecute => pass_execute(session, request, log).await,
        Action::PassRuntimes => pass_runtimes(session).await,
    };
    result.unwrap_or_else(|error| failure(&error, log))
}

async fn execution(
    session: &Session,
    dialect: &Dialect,
    request: Request<Incoming>,
    log: &mut RequestLog,
) -> Answer {
    let operation_id = operation_id(request.headers());
    let result = match &operation_id {
        Ok(id) => run(session, dialect, request, id, log).await,
        Err(_) => Err(ApiError::OperationId),
    };
    let mut response = match result {
        Ok(rendered) => respond(rendered),
        Err(error) => failure(&error, log),
    };
    let headers = response.headers_mut();
    headers.insert("api-supported-versions", supported_versions());
    headers.insert("x-ms-session-guid", header_value(&session.guid.to_string()));
    if let Ok(id) = operation_id {
        headers.insert("operation-id", header_value(&id));
    }
    response
}

async fn run(
    session: &Session,
    dialect: &Dialect,
    request: Request<Incoming>,
    operation_id: &str,
    log: &mut RequestLog,
) -> Result<Rendered, ApiError> {
    log.operation_id(operation_id);
    let query = Query::parse(request.uri().query().unwrap_or_default())?;
    log.identifier(query.identifier.as_ref());
    body::check_json(request.headers())?;
    let body = read_body(session, request, log).await?;
    let execution = api::parse(dialect, query, &body)?;
    drop(body);
    log.identifier(execution.identifier.as_ref());
    let (form, identifier) = (execution.form, execution.identifier.clone());
    let outcome = execute(session, execution, &mut log.timings).await?;
    log.outcome(outcome.ended_by);
    Ok(api::render(
        form,
        identifier.as_ref(),
        operation_id,
        &outcome,
    ))
}

async fn read_body(
    session: &Session,
    request: Request<Incoming>,
    log: &mut RequestLog,
) -> Result<Bytes, ApiError> {
    let expects = request.headers().contains_key(header::EXPECT);
    let body = body::read(request.into_body(), session.config.max_body, expects).await?;
    log.bytes_in(body.len());
    Ok(body)
}

/// The client's own id for its execution, else a new one.
fn operation_id(headers: &HeaderMap) -> Result<String, ApiError> {
    let Some(given) = headers.get("operation-id") else {
        return Ok(Uuid::new_v4().to_string());
    };
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
    match given.to_str() {
        Ok(id) if (1..=128).contains(&id.len()) && id.as_bytes().iter().all(allowed) => {
            Ok(id.to_owned())
        }
        _ => Err(ApiError::OperationId),
    }
}

async fn pass_execute(
    session: &Session,
    request: Request<Incoming>,
    log: &mut RequestLog,
) -> Result<Answer, ApiError> {
    let started = Instant::now();
    let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
    let body = read_body(session, request, log).await?;
    let _pass = session
        .enter(started, session.config.max_run_timeout)
        .await?;
    log.timings.queued();
    let answer = tokio::select! {
        answer = session.client.post_execute(body, content_type, started + INGRESS) => answer?,
        () = session.reached(Phase::Killing) => return Err(ApiError::ShuttingDown),
    };
    log.timings.ran();
    Ok(pass_on(answer))
}

async fn pass_runtimes(session: &Session) -> Result<Answer, ApiError> {
    let deadline = Instant::now() + std::time::Duration::from_secs(10);
    Ok(pass_on(session.client.get_runtimes(deadline).await?))
}

/// The engine's answer as it is, but never a stack trace.
fn pass_on(answer: RawAnswer) -> Answer {
    let (body, content_type) = if answer.has_stack() {
        let message = Bytes::from_static(br#"{"message":"the engine cannot read the request"}"#);
        (message, Some(JSON))
    } else {
        (answer.body, answer.content_type)
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = answer.status;
    match content_type {
        Some(content_type) => with_type(response, content_type),
        None => response,
    }
}

#[derive(Serialize)]
struct Ready {
    status: &'static str,
}

fn ready(session: &Session) -> Result<Answer, ApiError> {
    if session.phase() != Phase::Serving {
        return Err(ApiError::ShuttingDown);
    }
    session.readiness.check().map_err(ApiError::NotReady)?;
    Ok(respond(Rendered {
        status: StatusCode::OK,
        body: api::json(&Ready { status: "ready" }),
    }))
}

fn about(session: &Session) -> Answer {
    respond(Rendered {
        status: StatusCode::OK,
        body: api::json(&api::About::new(session)),
    })
}

fn failure(error: &ApiError, log: &mut RequestLog) -> Answer {
    let told = error.told();
    log.outcome(told.code);
    if let ApiError::Engine(cause) = error {
        log.cause(cause.to_string());
    }
    let mut response = respond(api::render_error(error));
    let headers = response.headers_mut();
    headers.insert("x-ms-error-code", HeaderValue::from_static(told.code));
    if let Some(seconds) = told.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if let ApiError::MethodNotAllowed { allow } = error {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    response
}

fn respond(rendered: Rendered) -> Answer {
    let mut response = Response::new(Full::new(rendered.body));
    *response.status_mut() = rendered.status;
    with_type(response, JSON)
}

fn with_type(mut response: Answer, content_type: HeaderValue) -> Answer {
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

fn supported_versions() -> HeaderValue {
    header_value(&API_VERSIONS.join(", "))
}

/// For text of our own, which is visible ASCII.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
