//! Turns a request into its response: route, act, render.

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
use crate::adapter::http::connections::RequestGuard;
use crate::adapter::http::head::check_head;
use crate::adapter::http::request_body::{RequestBody, check_json};
use crate::adapter::http::request_log::RequestLog;
use crate::adapter::http::response::{
    ApiResponse, JSON, SESSION_GUID, TEXT, failure, guid_of, header_value, respond,
    session_failure, with_type,
};
use crate::adapter::http::response_body::ResponseBody;
use crate::adapter::http::route::{Action, route};
use crate::adapter::http::{cors, file_handler, metrics_page};
use crate::adapter::model::identifier::Identifier;
use crate::adapter::model::operation_id::OperationId;
use crate::adapter::model::trace::TraceContext;
use crate::adapter::session::error::{SessionError, outcome_label};
use crate::adapter::session::identifiers::SessionRecord;
use crate::adapter::session::registry::{State, WaitGuard};
use crate::adapter::session::reset::delete;
use crate::adapter::session::run::{begin, proxy};
use crate::adapter::session::{App, Phase, package_list};
use crate::piston::{
    EngineAbout, InstalledPackage, RawRequest, RawResponse, is_fetch_default_content_type,
};

/// Serves one request. It always has a response.
pub async fn answer(
    app: &Arc<App>,
    request: Request<Incoming>,
    guard: RequestGuard,
) -> ApiResponse {
    let counted = app.in_flight();
    let (head, incoming) = request.into_parts();
    let trace = TraceContext::of(
        head.headers
            .get_all("traceparent")
            .iter()
            .map(HeaderValue::as_bytes),
    );
    let mut log = RequestLog::start(&app.metrics, trace);
    let mut body = RequestBody::new(&head.headers, incoming, &guard);
    let checked = check_head(&head);
    let is_head_valid = checked.is_ok();
    let invited = checked.and_then(|()| Ok(app.config.access.check(&head)?));
    let (foreign_origin, invited) = match invited {
        Ok(origin) => (origin, Ok(())),
        Err(error) => (None, Err(error)),
    };
    let mut response = match invited.and_then(|()| route(&head.method, &head.uri)) {
        _ if foreign_origin.is_some() && cors::is_preflight(&head) => cors::preflight(&head),
        Ok(action) => {
            log.route(action.label());
            act(app, action, &head, &mut body, &mut log).await
        }
        Err(error) => failure(&error, &mut log),
    };
    if let Some(origin) = foreign_origin {
        cors::allow(response.headers_mut(), origin);
    }
    let is_body_read = body.finish(app).await;
    if !is_head_valid || !is_body_read || app.phase() != Phase::Serving {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    let length = response.body().size_hint().lower() as usize;
    log.answered(response.status(), length);
    if let ResponseBody::File(file) = response.body_mut() {
        file.log_on_completion(log, counted);
    }
    response.body_mut().attach_guard(guard);
    response
}

async fn act(
    app: &Arc<App>,
    action: Action,
    head: &Parts,
    body: &mut RequestBody,
    log: &mut RequestLog,
) -> ApiResponse {
    let result = match action {
        Action::Health => Ok(with_type(Response::new(Full::from("OK\n").into()), TEXT)),
        Action::Ready => ready(app),
        Action::About => Ok(about(app).await),
        Action::Metrics if app.config.metrics_path => Ok(metrics_page(app).await),
        Action::Metrics => Err(ApiError::PathNotFound),
        Action::Execute(dialect) => return execution(app, &dialect, head, body, log).await,
        Action::GetExecution(id) => get_execution(app, &id, head, log),
        Action::GetSession => get_session(app, head, log),
        Action::DeleteSession => delete_session(app, head, log).await,
        Action::StopSession => stop_session(app, head, log).await,
        Action::ListSessions => list_sessions(app, head),
        Action::Metadata => metadata(app, head).await,
        Action::ProxyExecute => proxy_execute(app, head, body, log).await,
        Action::ProxyRuntimes => proxy_runtimes(app).await,
        Action::Packages => packages(app).await,
        Action::Files(action) => file_handler::act(app, action, head, body, log).await,
    };
    result.unwrap_or_else(|error| failure(&error, log))
}

async fn execution(
    app: &Arc<App>,
    dialect: &Dialect,
    head: &Parts,
    body: &mut RequestBody,
    log: &mut RequestLog,
) -> ApiResponse {
    let operation_id = match head.headers.get("operation-id") {
        Some(given) => OperationId::given(given.as_bytes()).ok_or(ApiError::OperationId),
        None => Ok(OperationId::random()),
    };
    let mut response = match &operation_id {
        Ok(id) => run(app, dialect, head, body, id, log)
            .await
            .unwrap_or_else(|error| failure(&error, log)),
        Err(error) => failure(error, log),
    };
    let headers = response.headers_mut();
    headers.insert("api-supported-versions", SUPPORTED_VERSIONS.clone());
    headers.insert(SESSION_GUID, guid_of(app));
    if let Ok(id) = operation_id {
        headers.insert("operation-id", header_value(id.as_str()));
    }
    response
}

async fn run(
    app: &Arc<App>,
    dialect: &Dialect,
    head: &Parts,
    body: &mut RequestBody,
    id: &OperationId,
    log: &mut RequestLog,
) -> Result<ApiResponse, ApiError> {
    log.operation_id(id.as_str());
    let query = Query::parse(head.uri.query().unwrap_or_default())?;
    log.identifier(query.identifier.as_ref());
    check_json(&head.headers)?;
    let buffered = body.read(app).await?;
    log.bytes_in(buffered.bytes.len());
    let version = query.version_or_newest();
    let shell_type = head.headers.get("x-shell-type");
    let shell_type = shell_type.map(|given| String::from_utf8_lossy(given.as_bytes()));
    let request = azure::parse(dialect, query, shell_type.as_deref(), &buffered.bytes)?;
    let execution = request.execution;
    log.identifier(execution.identifier.as_ref());
    app.session.identifiers.touch(execution.identifier.as_ref());
    let location = operation_location(id, version, execution.identifier.as_ref());
    let waits = !execution.is_asynchronous;
    let handle = begin(app, id.clone(), execution, buffered.permit, log.arrival())?;
    drop(buffered.bytes);
    log.execution(&handle);
    let state = match waits {
        true => State::Ended(WaitGuard::on(Arc::clone(&handle)).ended().await),
        false => handle.state(),
    };
    // A retry may come in another dialect.
    let form = request
        .form
        .for_execution(handle.is_shell, request.value_is_text);
    let mut response = match azure::render(form, &handle, &state) {
        Ok(rendered) => {
            log.outcome(outcome_of(&state));
            respond(rendered)
        }
        Err(error) => session_failure(error, log),
    };
    insert_generation(&mut response, &state);
    let identifier = handle.identifier.as_ref();
    if app
        .session
        .executions
        .find(identifier, id.as_str())
        .is_some()
    {
        let headers = response.headers_mut();
        headers.insert("operation-location", header_value(&location));
    }
    Ok(response)
}

/// Tells how often the kernel that ran the execution has been started.
fn insert_generation(response: &mut ApiResponse, state: &State) {
    if let State::Ended(result) = state
        && let Ok(outcome) = &**result
        && let Some(kernel) = outcome.kernel
    {
        let generation = HeaderValue::from(kernel.generation);
        response
            .headers_mut()
            .insert("kernel-generation", generation);
    }
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
    app: &App,
    id: &str,
    head: &Parts,
    log: &mut RequestLog,
) -> Result<ApiResponse, ApiError> {
    let query = query_of(head, log)?;
    let not_found = || ApiError::ExecutionNotFound {
        id: id.chars().take(128).collect(),
    };
    let identifier = query.identifier.as_ref();
    let handle = app.session.executions.find(identifier, id);
    let handle = handle.ok_or_else(not_found)?;
    log.operation_id(handle.id.as_str());
    let state = handle.state();
    log.outcome(outcome_of(&state));
    let mut response = respond(azure::render_resource(&handle, &state, &query));
    let id = header_value(handle.id.as_str());
    response.headers_mut().insert("operation-id", id);
    insert_generation(&mut response, &state);
    Ok(response)
}

fn get_session(app: &App, head: &Parts, log: &mut RequestLog) -> Result<ApiResponse, ApiError> {
    let query = query_of(head, log)?;
    let record = find_session(app, &query)?;
    let identifier = query.identifier.as_ref();
    Ok(respond(azure::session(app, &record, identifier)))
}

async fn delete_session(
    app: &Arc<App>,
    head: &Parts,
    log: &mut RequestLog,
) -> Result<ApiResponse, ApiError> {
    find_session(app, &query_of(head, log)?)?;
    delete(app).await?;
    let mut response = Response::new(ResponseBody::from(Full::default()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

async fn stop_session(
    app: &Arc<App>,
    head: &Parts,
    log: &mut RequestLog,
) -> Result<ApiResponse, ApiError> {
    let query = query_of(head, log)?;
    find_session(app, &query)?;
    delete(app).await?;
    Ok(respond(azure::stopped(query.identifier.as_ref())))
}

fn find_session(app: &App, query: &Query) -> Result<SessionRecord, ApiError> {
    let identifier = query.identifier.as_ref();
    let not_found = || ApiError::SessionNotFound {
        identifier: identifier.map_or("", Identifier::as_str).to_owned(),
    };
    app.session
        .identifiers
        .find(identifier)
        .ok_or_else(not_found)
}

fn list_sessions(app: &App, head: &Parts) -> Result<ApiResponse, ApiError> {
    let query = Query::parse(head.uri.query().unwrap_or_default())?;
    Ok(respond(azure::list(app, &query)))
}

async fn metadata(app: &App, head: &Parts) -> Result<ApiResponse, ApiError> {
    Query::parse(head.uri.query().unwrap_or_default())?;
    let packages = package_list::list(app).await?;
    let kernels = engine_status(app).await.kernels;
    Ok(respond(azure::metadata(app, packages, kernels.as_ref())))
}

/// The query of a request about a session.
fn query_of(head: &Parts, log: &mut RequestLog) -> Result<Query, ApiError> {
    let query = Query::parse(head.uri.query().unwrap_or_default())?;
    log.identifier(query.identifier.as_ref());
    Ok(query)
}

async fn proxy_execute(
    app: &App,
    head: &Parts,
    body: &mut RequestBody,
    log: &mut RequestLog,
) -> Result<ApiResponse, ApiError> {
    // A page of an allowed origin has to say what it sends; the engine does not learn of the page.
    if head.headers.contains_key(header::ORIGIN) {
        check_json(&head.headers)?;
    }
    // Piston knows of no query: what is wrong with it does not matter.
    let query = Query::parse(head.uri.query().unwrap_or_default()).unwrap_or_default();
    log.identifier(query.identifier.as_ref());
    app.session.identifiers.touch(query.identifier.as_ref());
    let content_type = if is_fetch_default_content_type(&head.headers) {
        Some(HeaderValue::from_static("application/json"))
    } else {
        head.headers.get(header::CONTENT_TYPE).cloned()
    };
    let buffered = body.read(app).await?;
    log.bytes_in(buffered.bytes.len());
    let request = RawRequest {
        content_type,
        body: buffered.bytes,
    };
    let response = proxy(app, query.identifier.as_ref(), request, log.timings()).await?;
    Ok(proxy_response(app, response))
}

async fn proxy_runtimes(app: &App) -> Result<ApiResponse, ApiError> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let response = app.backend.client().get_runtimes(deadline).await?;
    Ok(proxy_response(app, response))
}

/// The installed packages in Piston's form. A real Piston is not asked for them: it fetches
/// an index from the network, and ends where it cannot.
async fn packages(app: &App) -> Result<ApiResponse, ApiError> {
    let runtimes = app.runtimes.refresh(app.backend.client()).await?;
    let packages = InstalledPackage::of_runtimes(&runtimes);
    Ok(respond(Rendered::ok(&packages)))
}

/// The engine's response as it is, but never a stack trace.
fn proxy_response(app: &App, raw: RawResponse) -> ApiResponse {
    let (body, content_type) = if raw.has_stack() {
        let message = Bytes::from_static(br#"{"message":"the engine cannot read the request"}"#);
        (message, Some(JSON))
    } else {
        (raw.body, raw.content_type)
    };
    let mut response = Response::new(Full::new(body).into());
    *response.status_mut() = raw.status;
    response.headers_mut().insert(SESSION_GUID, guid_of(app));
    if raw.status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, 1.into());
    }
    match content_type {
        Some(content_type) => with_type(response, content_type),
        None => response,
    }
}

#[derive(Serialize)]
struct ReadyBody {
    status: &'static str,
}

fn ready(app: &App) -> Result<ApiResponse, ApiError> {
    if app.phase() != Phase::Serving {
        return Err(SessionError::ShuttingDown.into());
    }
    app.readiness.check().map_err(SessionError::NotReady)?;
    Ok(respond(Rendered::ok(&ReadyBody { status: "ready" })))
}

async fn about(app: &App) -> ApiResponse {
    let engine = engine_status(app).await;
    respond(Rendered::ok(&azure::About::new(app, engine)))
}

/// What the engine says of itself, if it answers soon.
async fn engine_status(app: &App) -> EngineAbout {
    let deadline = Instant::now() + Duration::from_secs(2);
    let about = app.backend.client().about(deadline).await;
    about.unwrap_or_default()
}

async fn metrics_page(app: &App) -> ApiResponse {
    let page = metrics_page::page(app).await;
    let content_type = HeaderValue::from_static(metrics_page::CONTENT_TYPE);
    with_type(Response::new(Full::from(page).into()), content_type)
}

static SUPPORTED_VERSIONS: LazyLock<HeaderValue> =
    LazyLock::new(|| header_value(&API_VERSIONS.join(", ")));
