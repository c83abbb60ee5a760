//! Runs an execution.
//!
//! Every execution is a job of the engine: a fresh process. This is the place where one that asks
//! for a kernel that lives with the session would be told from one that asks for a job.

use std::time::Duration;

use tokio::time::Instant;

use crate::piston::{ClientError, Refusal};

use super::EngineKind;
use super::api::{AnswerForm, Execution};
use super::error::ApiError;
use super::log::Timings;
use super::session::{Phase, Session};
use super::translate::{self, Marker, Outcome, ResolvedLanguage, ValueOptions};

/// What the engine may need on top of compiling and running: to start, to answer.
const GRACE: Duration = Duration::from_secs(10);

/// Runs `execution` to its end.
///
/// # Errors
/// [`ApiError`]: the request's fault, the engine's, or no place to run in.
pub async fn execute(
    session: &Session,
    execution: Execution,
    timings: &mut Timings,
) -> Result<Outcome, ApiError> {
    let language = session.resolve(&execution.language).await;
    timings.language(&language.language);
    let marker = has_value(session, &execution, &language).then(Marker::new);
    let mut request = translate::piston_request(execution, language, &session.limits());
    if let Some(marker) = &marker {
        let options = ValueOptions {
            most: session.config.output_limit / 2,
            jupyter: false,
        };
        marker.put_before(&mut request, options);
    }
    let timeout = Duration::from_millis(request.run_timeout.unwrap_or_default());

    timings.queued();
    let pass = session.enter(timings.arrived(), timeout).await?;
    timings.entered();
    let latest = timings.arrived() + session.answer_within();
    let deadline = Instant::now() + timeout + session.config.compile_timeout + GRACE;
    let answer = tokio::select! {
        answer = session.client.execute(&mut request, deadline.min(latest)) => answer,
        () = session.reached(Phase::Killing) => return Err(ApiError::ShuttingDown),
    };
    timings.ran();
    drop(pass);

    let outcome = answer.and_then(|response| match &marker {
        Some(marker) => translate::outcome_with_value(&request, response, marker),
        None => translate::outcome(&request, response),
    });
    session.readiness.learn_from(&outcome);
    outcome.map_err(|error| match error {
        ClientError::Refused(Refusal::RuntimeUnknown) => ApiError::RuntimeNotFound {
            language: request.language,
            version: request.version,
            available: session.known_runtimes().to_vec(),
        },
        error => ApiError::Engine(error),
    })
}

/// Whether the value of the last expression is told. So far only the embedded engine is asked for it.
fn has_value(session: &Session, execution: &Execution, language: &ResolvedLanguage) -> bool {
    session.config.engine == EngineKind::Embedded
        && language.language == "python"
        && execution.form != AnswerForm::Shell
}
