//! From a request to its answer: route, act, render.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use serde::Serialize;
use tokio::time::Instant;

use crate::adapter::azure::dialect::Dialect;
use crate::adapter::azure::error::ApiError;
use crate::adapter::azure::version::API_VERSIONS;
use crate::adapter::azure::{self, Query, Rendered};
use crate::adapter::http::connections::Turn;
use crate::adapter::http::head::check_head;
use crate::adapter::http::request_body::{RequestBody, check_json};
use crate::adapter::http::request_log::RequestLog;
use crate::adapter::http::response::{
    Answer, JSON, SESSION_GUID, TEXT, failure, guid_of, header_value, respond, session_failure,
    with_type,
};
use crate::adapter::http::response_body::AnswerBody;
use crate::adapter::http::route::{Action, route};
use crate::adapter::http::{cors, file_handler, metrics_page};
use crate::adapter::model::identifier::Identifier;
use crate::adapter::model::operation_id::OperationId;
use crate::adapter::model::trace::TraceContext;
use crate::adapter::session::error::{SessionError, outcome_label};
use crate::adapter::session::registry::{State, Waiting};
use crate::adapter::session::reset::delete;
use crate::adapter::session::run::begin;
use crate::adapter::session::usage::SessionRecord;
use crate::adapter::session::{Phase, Session, package_list};
use crate::piston::{RawAnswer, is_untyped};

/// Answers one request, whatever it is.
pub async fn answer(session: &Arc<Session>, request: Request<Incoming>, turn: Turn) -> Answer {
    let counted = session.count_request();
    let (head, incoming) = request.into_parts();
    let trace = TraceContext::of(
        head.headers
            .get_all("traceparent")
            .iter()
            .map(HeaderValue::as_bytes),
    );
    let mut log = RequestLog::start(&session.metrics, trace);
    let mut body = RequestBody::new(&head.headers, incoming, &turn);
    let checked = check_head(&head);
    let is_sound = checked.is_ok();
    let invited = checked.and_then(|()| Ok(session.config.access.check(&head)?));
    let (foreign_origin, invited) = match invited {
        Ok(origin) => (origin, Ok(())),
        Err(error) => (None, Err(error)),
    };
    let mut response = match invited.and_then(|()| route(&head.method, &head.uri)) {
        _ if foreign_origin.is_some() && cors::is_preflight(&head) => cors::preflight(&head),
        Ok(action) => {
            log.route(action.label());
            act(session, action, &head, &mut body, &mut log).await
        }
        Err(error) => failure(&error, &mut log),
    };
    if let Some(origin) = foreign_origin {
        cors::allow(response.headers_mut(), origin);
    }
    let is_at_its_end = body.finish(session).await;
    if !is_sound || !is_at_its_end || session.phase() != Phase::Serving {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    let length = response.body().size_hint().lower() as usize;
    log.answered(response.status(), length);
    if let AnswerBody::File(file) = response.body_mut() {
        file.account(log, counted);
    }
    response.body_mut().hold(turn);
    response
}

async fn act(
    session: &Arc<Session>,
    action: Action,
    head: &Parts,
    body: &mut RequestBody,
    log: &mut RequestLog,
) -> Answer {
    let result = match action {
        Action::Health => Ok(with_type(Response::new(Full::from("OK\n").into()), TEXT)),
        Action::Ready => ready(session),
        Action::About => Ok(about(session).await),
        Action::Metrics if session.config.metrics_path => Ok(metrics_page(session).await),
        Action::Metrics => Err(ApiError::PathNotFound),
        Action::Execute(dialect) => return execution(session, &dialect, head, body, log).await,
        Action::GetExecution(id) => get_execution(session, &id, head, log),
        Action::GetSession => get_session(session, head, log),
        Action::DeleteSession => delete_session(session, head, log).await,
        Action::StopSession => stop_session(session, head, log).await,
        Action::ListSessions => list_sessions(session, head),
        Action::Metadata => metadata(session, head).await,
        Action::PassExecute => pass_execute(session, head, body, log).await,
        Action::PassRuntimes => pass_runtimes(session).await,
        Action::Files(action) => file_handler::act(session, action, head, body, log).await,
    };
    result.unwrap_or_else(|error| failure(&error, log))
}

async fn execution(
    session: &Arc<Session>,
    dialect: &Dialect,
    head: &Parts,
    body: &mut RequestBody,
    log: &mut RequestLog,
) -> Answer {
    let operation_id = match head.headers.get("operation-id") {
        Some(given) => OperationId::given(given.as_bytes()).ok_or(ApiError::OperationId),
        None => Ok(OperationId::random()),
    };
    let mut response = match &operation_id {
        Ok(id) => run(session, dialect, head, body, id, log)
            .await
            .unwrap_or_else(|error| failure(&error, log)),
        Err(error) => failure(error, log),
    };
    let headers = response.headers_mut();
    headers.insert("api-supported-versions", SUPPORTED_VERSIONS.clone());
    headers.insert(SESSION_GUID, guid_of(session));
    if let Ok(id) = operation_id {
        headers.insert("operation-id", header_value(id.as_str()));
    }
    response
}

async fn run(
    session: &Arc<Session>,
    dialect: &Dialect,
    head: &Parts,
    body: &mut RequestBody,
    id: &OperationId,
    log: &mut RequestLog,
) -> Result<Answer, ApiError> {
    log.operation_id(id.as_str());
    let query = Query::parse(head.uri.query().unwrap_or_default())?;
    log.identifier(query.identifier.as_ref());
    check_json(&head.headers)?;
    let held = body.read(session).await?;
    log.bytes_in(held.bytes.len());
    let version = query.version_or_newest();
    let request = azure::parse(dialect, query, &held.bytes)?;
    let execution = request.execution;
    log.identifier(execution.identifier.as_ref());
    session.sessions.used_by(execution.identifier.as_ref());
    let location = operation_location(id, version, execution.identifier.as_ref());
    let waits = !execution.is_asynchronous;
    let tracked = begin(session, id.clone(), execution, held.share, log.arrival())?;
    drop(held.bytes);
    log.execution(&tracked);
    let state = match waits {
        true => State::Ended(Waiting::on(Arc::clone(&tracked)).ended().await),
        false => tracked.state(),
    };
    // A retry may come in another dialect.
    let form = request
        .form
        .for_execution(tracked.is_shell, request.value_is_text);
    let mut response = match azure::render(form, &tracked, &state) {
        Ok(rendered) => {
            log.outcome(outcome_of(&state));
            respond(rendered)
        }
        Err(error) => session_failure(error, log),
    };
    let identifier = tracked.identifier.as_ref();
    if session.executions.find(identifier, id.as_str()).is_some() {
        let headers = response.headers_mut();
        headers.insert("operation-location", header_value(&location));
    }
    Ok(response)
}

/// Where the execution can be asked for.
fn operation_location(id: &OperationId, version: &str, identifier: Option<&Identifier>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("api-version", version);
    if let Some(identifier) = identifier {
        query.append_pair("identifier", identifier.as_str());
    }
    format!("/executions/{}?{}", id.as_str(), query.finish())
}

/// How an execution stands, in one word for the log.
fn outcome_of(state: &State) -> &'static str {
    match state {
        State::NotStarted => "not_started",
        State::Running => "running",
        State::Ended(result) => outcome_label(result),
    }
}

fn get_execution(
    session: &Session,
    id: &str,
    head: &Parts,
    log: &mut RequestLog,
) -> Result<Answer, ApiError> {
    let query = query_of(head, log)?;
    let not_found = || ApiError::ExecutionNotFound {
        id: id.chars().take(128).collect(),
    };
    let identifier = query.identifier.as_ref();
    let tracked = session.executions.find(identifier, id);
    let tracked = tracked.ok_or_else(not_found)?;
    log.operation_id(tracked.id.as_str());
    let state = tracked.state();
    log.outcome(outcome_of(&state));
    let mut response = respond(azure::render_resource(&tracked, &state, &query));
    let id = header_value(tracked.id.as_str());
    response.headers_mut().insert("operation-id", id);
    Ok(response)
}

fn get_session(session: &Session, head: &Parts, log: &mut RequestLog) -> Result<Answer, ApiError> {
    let query = query_of(head, log)?;
    let record = find_session(session, &query)?;
    let identifier = query.identifier.as_ref();
    Ok(respond(azure::session(session, &record, identifier)))
}

async fn delete_session(
    session: &Arc<Session>,
    head: &Parts,
    log: &mut RequestLog,
) -> Result<Answer, ApiError> {
    find_session(session, &query_of(head, log)?)?;
    delete(session).await?;
    let mut response = Response::new(AnswerBody::from(Full::default()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

async fn stop_session(
    session: &Arc<Session>,
    head: &Parts,
    log: &mut RequestLog,
) -> Result<Answer, ApiError> {
    let query = query_of(head, log)?;
    find_session(session, &query)?;
    delete(session).await?;
    Ok(respond(azure::stopped(query.identifier.as_ref())))
}

fn find_session(session: &Session, query: &Query) -> Result<SessionRecord, ApiError> {
    let identifier = query.identifier.as_ref();
    let not_found = || ApiError::SessionNotFound {
        identifier: identifier.map_or("", Identifier::as_str).to_owned(),
    };
    session.sessions.find(identifier).ok_or_else(not_found)
}

fn list_sessions(session: &Session, head: &Parts) -> Result<Answer, ApiError> {
    let query = Query::parse(head.uri.query().unwrap_or_default())?;
    Ok(respond(azure::list(session, &query)))
}

async fn metadata(session: &Session, head: &Parts) -> Result<Answer, ApiError> {
    Query::parse(head.uri.query().unwrap_or_default())?;
    let packages = package_list::list(session).await?;
    Ok(respond(azure::metadata(session, packages)))
}

/// The query of a request about a session.
fn query_of(head: &Parts, log: &mut RequestLog) -> Result<Query, ApiError> {
    let query = Query::parse(head.uri.query().unwrap_or_default())?;
    log.identifier(query.identifier.as_ref());
    Ok(query)
}

async fn pass_execute(
    session: &Session,
    head: &Parts,
    body: &mut RequestBody,
    log: &mut RequestLog,
) -> Result<Answer, ApiError> {
    // A page of an allowed origin has to say what it sends; the engine does not learn of the page.
    if head.headers.contains_key(header::ORIGIN) {
        check_json(&head.headers)?;
    }
    // Piston knows of no query: what is wrong with it does not matter.
    let query = Query::parse(head.uri.query().unwrap_or_default()).unwrap_or_default();
    log.identifier(query.identifier.as_ref());
    session.sessions.used_by(query.identifier.as_ref());
    let content_type = if is_untyped(&head.headers) {
        Some(HeaderValue::from_static("application/json"))
    } else {
        head.headers.get(header::CONTENT_TYPE).cloned()
    };
    let passed = content_type.map(|content_type| (header::CONTENT_TYPE, content_type));
    let held = body.read(session).await?;
    log.bytes_in(held.bytes.len());
    let timings = log.timings();
    timings.queued();
    let longest = session.config.max_run_timeout;
    let deadline = timings.arrived() + session.answer_within();
    let passing = async {
        let _alive = session.life.read().await;
        session.sessions.used_by(query.identifier.as_ref());
        let _pass = session
            .admit(session.join()?, Some(deadline), longest)
            .await?;
        timings.entered();
        let client = &session.client;
        Ok(client.post_execute(held.bytes, passed, deadline).await?)
    };
    let result: Result<_, ApiError> = tokio::select! {
        answer = passing => answer,
        () = session.canceled() => Err(SessionError::Canceled.into()),
        () = session.reached(Phase::Killing) => Err(SessionError::ShuttingDown.into()),
    };
    if result.is_ok() {
        timings.ran();
    }
    // What is passed on is not read, the language and the outcome neither.
    let outcome = match &result {
        Ok(_) => "passed",
        Err(error) => error.metadata().code,
    };
    session.metrics.execution(timings, outcome, |_| false);
    result.map(|answer| pass_on(session, answer))
}

async fn pass_runtimes(session: &Session) -> Result<Answer, ApiError> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let answer = session.client.get_runtimes(deadline).await?;
    Ok(pass_on(session, answer))
}

/// The engine's answer as it is, but never a stack trace.
fn pass_on(session: &Session, answer: RawAnswer) -> Answer {
    let (body, content_type) = if answer.has_stack() {
        let message = Bytes::from_static(br#"{"message":"the engine cannot read the request"}"#);
        (message, Some(JSON))
    } else {
        (answer.body, answer.content_type)
    };
    let mut response = Response::new(Full::new(body).into());
    *response.status_mut() = answer.status;
    response
        .headers_mut()
        .insert(SESSION_GUID, guid_of(session));
    if answer.status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, 1.into());
    }
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
        return Err(SessionError::ShuttingDown.into());
    }
    session.readiness.check().map_err(SessionError::NotReady)?;
    Ok(respond(Rendered::ok(&Ready { status: "ready" })))
}

async fn about(session: &Session) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(2);
    let engine = session.client.about(deadline).await.unwrap_or_default();
    respond(Rendered::ok(&azure::About::new(session, engine.sandbox)))
}

async fn metrics_page(session: &Session) -> Answer {
    let page = metrics_page::page(session).await;
    let content_type = HeaderValue::from_static(metrics_page::CONTENT_TYPE);
    with_type(Response::new(Full::from(page).into()), content_type)
}

static SUPPORTED_VERSIONS: LazyLock<HeaderValue> =
    LazyLock::new(|| header_value(&API_VERSIONS.join(", ")));
