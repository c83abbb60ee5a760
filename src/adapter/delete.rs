//! Deletes the session: ends what runs, and forgets what was kept.

use std::io;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::EngineKind;
use super::error::ApiError;
use super::session::Session;

/// How long executions, and the processes behind them, may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// Leaves the session as it was before its first use. Executions that come meanwhile wait until
/// it is done, and belong to the new session.
///
/// # Errors
/// [`ApiError::DeletionFailed`] where something of the old session is left.
pub async fn delete(session: &Session) -> Result<(), ApiError> {
    let deadline = Instant::now() + PATIENCE;
    let _alone = loop {
        session.cancel_executions();
        match timeout(PAUSE, session.life.write()).await {
            Ok(alone) => break alone,
            Err(_) if Instant::now() > deadline => {
                return Err(ApiError::DeletionFailed("an execution does not end"));
            }
            Err(_) => {}
        }
    };
    if session.config.engine == EngineKind::Embedded {
        wait_for_the_engine(session, deadline).await?;
    }
    let files = session.files.clone();
    let cleared = spawn_blocking(move || files.clear()).await;
    if let Err(error) = cleared
        .map_err(io::Error::other)
        .and_then(|done| done.map_err(io::Error::other))
    {
        tracing::error!(%error, "the session's files cannot be deleted");
        return Err(ApiError::DeletionFailed("a file cannot be deleted"));
    }
    session.executions.clear();
    session.sessions.clear();
    Ok(())
}

/// Waits until no process of a job is left that could still write. Real Piston does not end a job
/// that nobody waits for, but its jobs cannot write to the session's files.
async fn wait_for_the_engine(session: &Session, deadline: Instant) -> Result<(), ApiError> {
    loop {
        let about = session.client.about(deadline).await;
        if about.jobs.is_none_or(|jobs| jobs.running == 0) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(ApiError::DeletionFailed("a process does not end"));
        }
        sleep(PAUSE).await;
    }
}
