//! Runs an execution.
//!
//! Every execution is a job of the engine: a fresh process. `run` is the place where one that
//! asks for a kernel that lives with the session would be told from one that asks for a job.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::adapter::backend::translate::{self, Marker, ResolvedLanguage, ValueOptions};
use crate::adapter::files::blocking;
use crate::adapter::model::execution::Execution;
use crate::adapter::model::operation_id::OperationId;
use crate::adapter::model::outcome::Outcome;
use crate::adapter::model::timings::Arrival;
use crate::adapter::session::error::SessionError;
use crate::adapter::session::registry::{Registered, Tracked};
use crate::adapter::session::state::{Phase, Session};
use crate::config::EngineKind;
use crate::limiter::QueueSlot;
use crate::piston::{ClientError, ExecuteRequest, File, Refusal};

/// What the engine may need on top of compiling and running: to start, to answer.
const GRACE: Duration = Duration::from_secs(10);

/// Real Piston takes requests of 102 400 bytes. Source and input with at most so many leave room,
/// however they are escaped, for what tells a value.
const MOST_BESIDE_A_VALUE: usize = 32 << 10;

/// Begins `execution`, or finds that the same one was begun before under its id. It runs on in a task of its
/// own, whether anybody waits for it or not; `share` is its part of what all bodies may hold.
///
/// # Errors
/// [`SessionError`] where there is no place for it, or its id is that of a different execution.
pub fn begin(
    session: &Arc<Session>,
    id: OperationId,
    execution: Execution,
    share: Option<OwnedSemaphorePermit>,
    arrival: Arrival,
) -> Result<Arc<Tracked>, SessionError> {
    let executions = &session.executions;
    let digest = executions.digest(&execution);
    let identifier = execution.identifier.as_ref();
    // Before it takes a place in the queue, where there may be none.
    if let Some(existing) = executions.find_existing(identifier, &id, digest)? {
        return Ok(existing);
    }
    let place = session.join()?;
    let tracked = Tracked::new(id, &execution, digest, arrival);
    let tracked = match executions.register(tracked)? {
        Registered::Existing(tracked) => return Ok(tracked),
        Registered::New(tracked) => tracked,
    };
    tracked.timings().queued();
    if place.has_permit() {
        tracked.started();
    }
    let job = Job {
        session: Arc::clone(session),
        tracked: Arc::clone(&tracked),
        result: None,
    };
    let task = tokio::spawn(async move {
        let _counted = job.session.count_request();
        let _share = share;
        job.run(execution, place).await;
    });
    tracked.runs_in(task.abort_handle());
    Ok(tracked)
}

/// An execution under way. However its task ends, the execution has an end.
struct Job {
    session: Arc<Session>,
    tracked: Arc<Tracked>,
    result: Option<Result<Outcome, SessionError>>,
}

impl Job {
    async fn run(mut self, execution: Execution, place: QueueSlot) {
        let session = Arc::clone(&self.session);
        let result = tokio::select! {
            biased;
            result = run(&session, &self.tracked, execution, place) => result,
            () = session.reached(Phase::Killing) => Err(SessionError::ShuttingDown),
        };
        self.result = Some(result);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let result = self.result.take();
        let result = result.unwrap_or(Err(SessionError::Canceled));
        self.session.count_execution(&self.tracked, &result);
        self.session.executions.end(&self.tracked, result);
    }
}

async fn run(
    session: &Session,
    tracked: &Tracked,
    execution: Execution,
    place: QueueSlot,
) -> Result<Outcome, SessionError> {
    let _alive = session.life.read().await;
    // Once more, for a session that was deleted meanwhile.
    session.sessions.used_by(tracked.identifier.as_ref());
    let language = session.resolve(&execution.language).await;
    tracked.timings().language(&language.language);
    let marker = has_value(session, &execution, &language).then(Marker::random);
    let value_options = ValueOptions {
        most: session.longest_value(),
        jupyter: execution.jupyter_format,
    };
    let most = execution.output_streams_max_length.unwrap_or(usize::MAX);
    let mut request = translate::piston_request(execution, language, &session.terms());
    if let Some(marker) = &marker {
        marker.put_before(&mut request, value_options);
    }
    let timeout = Duration::from_millis(request.run_timeout.unwrap_or_default());

    let latest_answer = match tracked.is_asynchronous {
        true => None,
        false => Some(tracked.timings().arrived() + session.answer_within()),
    };
    let pass = session.admit(place, latest_answer, timeout).await?;
    tracked.started();
    if session.config.engine == EngineKind::Piston {
        send_along(session, &mut request).await?;
    }
    let deadline = Instant::now() + timeout + session.config.compile_timeout + GRACE;
    let deadline = latest_answer.map_or(deadline, |latest| latest.min(deadline));
    let answer = session.client.execute(&mut request, deadline).await;
    tracked.timings().ran();
    drop(pass);

    let outcome = answer.and_then(|response| match &marker {
        Some(marker) => translate::outcome_with_value(&request, response, marker, most),
        None => translate::outcome(&request, response, most),
    });
    session.readiness.learn_from(&outcome);
    let outcome = match outcome {
        Err(ClientError::Refused(Refusal::RuntimeUnknown)) => {
            return Err(not_found(session, request).await);
        }
        other => other?,
    };
    if outcome.value_overflowed {
        session.value_overflowed(outcome.stderr().len());
    }
    Ok(outcome)
}

/// What there is instead of what was asked for: the engine, which has just said that it does not have
/// it, is asked, for it may have had it before.
async fn not_found(session: &Session, request: ExecuteRequest) -> SessionError {
    // Where it does not say, what it said before is as good as can be told.
    let _ = session.refresh_runtimes().await;
    SessionError::RuntimeNotFound {
        language: request.language,
        version: request.version,
        available: session.known_runtimes().to_vec(),
    }
}

/// Adds the session's files to a request for an engine that does not share the data directory.
/// What the request has already comes first.
async fn send_along(session: &Session, request: &mut ExecuteRequest) -> Result<(), SessionError> {
    let store = session.files.clone();
    if store.is_empty() {
        return Ok(());
    }
    let most = session.config.max_body as u64;
    let read = blocking(move || {
        let files = store.for_execution(most)?;
        let encode = |(name, bytes): (String, Vec<u8>)| File::bytes(name, &bytes);
        Ok(files.into_iter().map(encode).collect::<Vec<_>>())
    });
    let files = read.await?;
    let own: Vec<String> = request.files.iter().map(|file| file.name.clone()).collect();
    request
        .files
        .extend(files.into_iter().filter(|file| !own.contains(&file.name)));
    Ok(())
}

/// Whether the value of the last expression is told.
fn has_value(session: &Session, execution: &Execution, language: &ResolvedLanguage) -> bool {
    let is_asked_for = language.language == "python" && !execution.is_shell;
    is_asked_for
        && match session.config.engine {
            // What tells the value also lets a program start away from its file.
            EngineKind::Embedded => true,
            EngineKind::Piston => is_worth_telling(execution),
        }
}

/// What tells a value makes a request larger, and must not make it one that Piston refuses.
fn is_worth_telling(execution: &Execution) -> bool {
    execution.code.len() + execution.stdin.len() < MOST_BESIDE_A_VALUE
        && (execution.jupyter_format || !translate::ends_in_print(&execution.code))
}
