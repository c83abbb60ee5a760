//! Deletes the session: ends what runs, and forgets what was kept.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::adapter::files::{FileError, blocking};
use crate::adapter::session::error::SessionError;
use crate::adapter::session::state::Session;
use crate::config::EngineKind;
use crate::error_chain::error_chain;

/// How long executions, and the processes behind them, may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// Leaves the session as it was before its first use. Executions that come meanwhile wait until
/// it is done, and belong to the new session. It goes on when its client hangs up.
///
/// # Errors
/// [`SessionError::DeletionFailed`], or `FileError::Undeleted`, where something of the old session is
/// left.
pub async fn delete(session: &Arc<Session>) -> Result<(), SessionError> {
    let deleting = Arc::clone(session);
    let deletion = tokio::spawn(async move {
        let _counted = deleting.count_request();
        clear(&deleting).await
    });
    let ended = deletion.await;
    ended.unwrap_or(Err(SessionError::DeletionFailed("it was interrupted")))
}

async fn clear(session: &Session) -> Result<(), SessionError> {
    let deadline = Instant::now() + PATIENCE;
    // First in line, so that whoever comes from now on waits behind it.
    let mut alone = pin!(session.life.write());
    let taken = tokio::select! {
        biased;
        taken = &mut alone => Some(taken),
        () = std::future::ready(()) => None,
    };
    session.cancel_executions();
    let _alone = match taken {
        Some(taken) => taken,
        None => timeout_at(deadline, alone)
            .await
            .map_err(|_| SessionError::DeletionFailed("an execution does not end"))?,
    };
    if session.config.engine == EngineKind::Embedded {
        wait_for_the_engine(session, deadline).await?;
    }
    let files = session.files.clone();
    if let Err(error) = blocking(move || files.clear()).await {
        // The names of files are for their owner alone.
        let cause = match &error {
            FileError::Undeleted(undeleted) => error_chain(undeleted),
            other => error_chain(other),
        };
        tracing::error!(error = cause, "the session's files cannot be deleted");
        return Err(error.into());
    }
    session.executions.clear();
    session.sessions.clear();
    Ok(())
}

/// Waits until no process of a job is left that could still write. Real Piston does not end a job
/// that nobody waits for, but its jobs cannot write to the session's files.
async fn wait_for_the_engine(session: &Session, deadline: Instant) -> Result<(), SessionError> {
    while Instant::now() < deadline {
        let about = session.client.about(deadline).await;
        if about.is_ok_and(|about| about.jobs.is_some_and(|jobs| jobs.running == 0)) {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
    Err(SessionError::DeletionFailed("a process does not end"))
}
