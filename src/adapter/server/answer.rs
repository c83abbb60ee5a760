//! From a request to its answer: route, act, render.

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
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
use crate::adapter::session::{Phase, Session};
use crate::causes::causes;
use crate::piston::{RawAnswer, is_untyped};

use super::body::{RequestBody, check_json};

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Longest path with its query.
const MAX_TARGET_BYTES: usize = 16 << 10;
/// Names and values of all headers together.
const MAX_HEADER_BYTES: usize = 64 << 10;

type Answer = Response<Full<Bytes>>;

/// Answers one request, whatever it is.
pub async fn answer(session: &Session, request: Request<Incoming>) -> Answer {
    let _counted = session.count_request();
    let mut log = RequestLog::start();
    let (head, incoming) = request.into_parts();
    let mut body = RequestBody::new(&head.headers, incoming);
    let mut response = match check_size(&head).and_then(|()| route(&head.method, &head.uri)) {
        Ok(action) => {
            log.route(action.label());
            act(session, action, &head, &mut body, &mut log).await
        }
        Err(error) => failure(&error, &mut log),
    };
    let is_at_its_end = body.finish(session).await;
    if !is_at_its_end || session.phase() != Phase::Serving {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    let length = response.body().size_hint().lower() as usize;
    log.answered(response.status(), length);
    response
}

/// Hyper bounds what it reads ahead, but not sharply.
fn check_size(head: &Parts) -> Result<(), ApiError> {
    let target = head
        .uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if target > MAX_TARGET_BYTES {
        return Err(ApiError::TargetTooLong {
            limit: MAX_TARGET_BYTES,
        });
    }
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    if head.headers.iter().map(field).sum::<usize>() > MAX_HEADER_BYTES {
        return Err(ApiError::HeadersTooLarge {
            limit: MAX_HEADER_BYTES,
        });
    }
    Ok(())
}

async fn act(
    session: &Session,
    action: Action,
    head: &Parts,
    body: &mut RequestBody,
    log: &mut RequestLog,
) -> Answer {
    let result = match action {
        Action::Health => Ok(with_type(Response::new(Full::from("OK\n")), TEXT)),
        Action::Ready => ready(session),
        Action::About => Ok(about(session).await),
        Action::Execute(dialect) => return execution(session, &dialect, head, body, log).await,
        Action::PassExecute => pass_execute(session, head, body, log).await,
        Action::PassRuntimes => pass_runtimes(session).await,
    };
    result.unwrap_or_else(|error| failure(&error, log))
}

async fn execution(
    session: &Session,
    dialect: &Dialect,
    head: &Parts,
    body: &mut RequestBody,
    log: &mut RequestLog,
) -> Answer {
    let operation_id = operation_id(&head.headers);
    let result = match &operation_id {
        Ok(id) => run(session, dialect, head, body, id, log).await,
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
    head: &Parts,
    body: &mut RequestBody,
    operation_id: &str,
    log: &mut RequestLog,
) -> Result<Rendered, ApiError> {
    log.operation_id(operation_id);
    let query = Query::parse(head.uri.query().unwrap_or_default())?;
    log.identifier(query.identifier.as_ref());
    check_json(&head.headers)?;
    let held = body.read(session).await?;
    log.bytes_in(held.bytes.len());
    let execution = api::parse(dialect, query, &held.bytes)?;
    log.identifier(execution.identifier.as_ref());
    let (form, identifier) = (execution.form, execution.identifier.clone());
    let outcome = execute(session, execution, log.timings()).await?;
    log.outcome(outcome.ended_by);
    Ok(api::render(
        form,
        identifier.as_ref(),
        operation_id,
        &outcome,
    ))
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
    head: &Parts,
    body: &mut RequestBody,
    log: &mut RequestLog,
) -> Result<Answer, ApiError> {
    let content_type = if is_untyped(&head.headers) {
        Some(HeaderValue::from_static("application/json"))
    } else {
        head.headers.get(header::CONTENT_TYPE).cloned()
    };
    let held = body.read(session).await?;
    log.bytes_in(held.bytes.len());
    let timings = log.timings();
    timings.queued();
    let longest = session.config.max_run_timeout;
    let _pass = session.enter(timings.arrived(), longest).await?;
    timings.entered();
    let deadline = timings.arrived() + session.answer_within();
    let answer = tokio::select! {
        answer = session.client.post_execute(held.bytes, content_type, deadline) => answer?,
        () = session.reached(Phase::Killing) => return Err(ApiError::ShuttingDown),
    };
    timings.ran();
    Ok(pass_on(answer))
}

async fn pass_runtimes(session: &Session) -> Result<Answer, ApiError> {
    let deadline = Instant::now() + Duration::from_secs(10);
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

async fn about(session: &Session) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(2);
    let sandbox = session.client.sandbox(deadline).await;
    respond(Rendered {
        status: StatusCode::OK,
        body: api::json(&api::About::new(session, sandbox)),
    })
}

fn failure(error: &ApiError, log: &mut RequestLog) -> Answer {
    let told = error.told();
    log.outcome(told.code);
    if let ApiError::Engine(cause) = error {
        log.cause(causes(cause));
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
