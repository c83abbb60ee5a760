//! Runs an execution: registers it, waits for its turn, hands it to the backend.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::adapter::backend::Job;
use crate::adapter::model::execution::Execution;
use crate::adapter::model::identifier::Identifier;
use crate::adapter::model::operation_id::OperationId;
use crate::adapter::model::outcome::Outcome;
use crate::adapter::model::timings::{Arrival, Timings};
use crate::adapter::session::app::{App, Phase, in_time};
use crate::adapter::session::error::SessionError;
use crate::adapter::session::registry::{ExecutionHandle, Registered};
use crate::adapter::session::turns::Place;
use crate::limiter::QueueSlot;
use crate::piston::{ClientError, RawRequest, RawResponse, Refusal};

/// What the engine may need on top of compiling and running: to start, to respond.
const GRACE: Duration = Duration::from_secs(10);

/// Starts `execution`, or returns the same one that was started earlier under this id. It runs in its own
/// task, whether anybody waits for it or not. `body_permit` is its share of the memory for bodies,
/// held until it ends.
///
/// # Errors
/// [`SessionError`] when the queue is full, or the id is that of a different execution.
pub fn begin(
    app: &Arc<App>,
    id: OperationId,
    execution: Execution,
    body_permit: Option<OwnedSemaphorePermit>,
    arrival: Arrival,
) -> Result<Arc<ExecutionHandle>, SessionError> {
    let executions = &app.session.executions;
    let digest = executions.digest(&execution);
    let identifier = execution.identifier.as_ref();
    // First, so that a retry gets its result even when the queue is full.
    if let Some(existing) = executions.find_existing(identifier, &id, digest)? {
        return Ok(existing);
    }
    // Cells of one kernel run one after the other, and whoever waits for them needs no permit.
    let (slot, place) = match app.backend.kernel_of(&execution) {
        None => (app.enqueue()?, None),
        Some(kernel) => {
            let line = app.session.turns.line(kernel);
            match line.try_turn() {
                Some(turn) => (app.enqueue()?, Some(Place::Turn(turn))),
                None => (app.enqueue_behind()?, Some(Place::Line(line))),
            }
        }
    };
    let handle = ExecutionHandle::new(id, &execution, digest, arrival);
    let handle = match executions.register(handle)? {
        Registered::Existing(handle) => return Ok(handle),
        Registered::New(handle) => handle,
    };
    handle.timings().queued();
    if slot.has_permit() {
        handle.started();
    }
    let task = Task {
        app: Arc::clone(app),
        handle: Arc::clone(&handle),
        result: None,
    };
    let task = tokio::spawn(async move {
        let _in_flight = task.app.in_flight();
        let _body_permit = body_permit;
        task.run(execution, slot, place).await;
    });
    handle.runs_in(task.abort_handle());
    Ok(handle)
}

/// The task of one execution. However the task ends, aborted or panicking, the execution ends with it.
struct Task {
    app: Arc<App>,
    handle: Arc<ExecutionHandle>,
    result: Option<Result<Outcome, SessionError>>,
}

impl Task {
    async fn run(mut self, execution: Execution, slot: QueueSlot, place: Option<Place>) {
        let app = Arc::clone(&self.app);
        let result = tokio::select! {
            biased;
            result = run(&app, &self.handle, execution, slot, place) => result,
            () = app.reached(Phase::Killing) => Err(SessionError::ShuttingDown),
        };
        self.result = Some(result);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let result = self.result.take();
        let result = result.unwrap_or(Err(SessionError::Canceled));
        self.app.count_execution(&self.handle, &result);
        self.app.session.executions.end(&self.handle, result);
    }
}

async fn run(
    app: &App,
    handle: &ExecutionHandle,
    execution: Execution,
    slot: QueueSlot,
    place: Option<Place>,
) -> Result<Outcome, SessionError> {
    let backend = &app.backend;
    let language = app
        .runtimes
        .resolve(backend.client(), &execution.language)
        .await;
    handle.timings().language(&language.language);
    let mut job = backend.job(execution, language, app.run_limits());
    let timeout = job.run_timeout();
    let response_deadline = match handle.is_asynchronous {
        true => None,
        false => Some(handle.timings().arrived() + app.response_timeout()),
    };
    let _turn = match place {
        None => None,
        Some(place) => Some(in_time(place.turn(), response_deadline, timeout).await?),
    };
    let _admission = app
        .admit(slot, handle.identifier.as_ref(), response_deadline, timeout)
        .await?;
    handle.started();
    let max_bytes = app.config.max_body as u64;
    backend
        .attach_session_files(&mut job, &app.session.files, max_bytes)
        .await?;
    let deadline = Instant::now() + timeout + app.config.compile_timeout + GRACE;
    let deadline = response_deadline.map_or(deadline, |latest| latest.min(deadline));
    let outcome = backend.run(&mut job, deadline).await;
    handle.timings().ran();
    app.readiness.observe(&outcome);
    match outcome {
        Err(ClientError::Refused(Refusal::RuntimeUnknown)) => {
            Err(runtime_not_found(app, job).await)
        }
        other => Ok(other?),
    }
}

/// Lists what the engine has instead of what was asked for. It is asked again: it may have had the
/// runtime before.
async fn runtime_not_found(app: &App, job: Job) -> SessionError {
    // If the engine does not respond, the error names the runtimes known so far.
    let _ = app.runtimes.refresh(app.backend.client()).await;
    let (language, version) = job.into_runtime();
    SessionError::RuntimeNotFound {
        language,
        version,
        available: app.runtimes.known().to_vec(),
    }
}

/// Passes a Piston request through: `request` goes to the engine unchanged, and so does the
/// response to the client. It waits for its turn, and ends with the session, as any other.
///
/// # Errors
/// [`SessionError`] when the queue is full, the session is deleted or the engine does not respond.
pub async fn proxy(
    app: &App,
    identifier: Option<&Identifier>,
    request: RawRequest,
    timings: &mut Timings,
) -> Result<RawResponse, SessionError> {
    timings.queued();
    let deadline = timings.arrived() + app.response_timeout();
    // The request is not parsed, so assume that it asks for the longest run.
    let timeout = app.config.max_run_timeout;
    let running = async {
        let slot = app.enqueue()?;
        let _admission = app.admit(slot, identifier, Some(deadline), timeout).await?;
        timings.entered();
        Ok(app.backend.client().post_execute(request, deadline).await?)
    };
    let result = tokio::select! {
        result = running => result,
        () = app.session.canceled() => Err(SessionError::Canceled),
        () = app.reached(Phase::Killing) => Err(SessionError::ShuttingDown),
    };
    if result.is_ok() {
        timings.ran();
    }
    let outcome = match &result {
        // The response is not read either.
        Ok(_) => "passed",
        Err(error) => error.code(),
    };
    app.metrics.execution(timings, outcome, |_| false);
    result
}
