//! Deletes the session: ends what runs, and forgets what was kept.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::adapter::files::{FileError, blocking};
use crate::adapter::session::app::App;
use crate::adapter::session::error::SessionError;
use crate::error_chain::error_chain;

/// How long executions, and the processes behind them, may take to end.
const DELETION_TIMEOUT: Duration = Duration::from_secs(10);

/// Leaves the session as it was before its first use. Executions that come meanwhile wait until
/// it is done, and belong to the new session. It goes on when its client hangs up.
///
/// # Errors
/// [`SessionError::DeletionFailed`], or `FileError::Undeleted`, where something of the old session is
/// left.
pub async fn delete(app: &Arc<App>) -> Result<(), SessionError> {
    let deleting = Arc::clone(app);
    let deletion = tokio::spawn(async move {
        let _in_flight = deleting.in_flight();
        clear(&deleting).await
    });
    let ended = deletion.await;
    ended.unwrap_or(Err(SessionError::DeletionFailed("it was interrupted")))
}

async fn clear(app: &App) -> Result<(), SessionError> {
    let session = &app.session;
    let deadline = Instant::now() + DELETION_TIMEOUT;
    // First in line, so that whoever comes from now on waits behind it.
    let mut alone = pin!(session.reset_lock.write());
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
    app.backend
        .delete_kernels(deadline)
        .await
        .map_err(|_| SessionError::DeletionFailed("a kernel does not end"))?;
    if !app.backend.wait_until_idle(deadline).await {
        return Err(SessionError::DeletionFailed("a process does not end"));
    }
    let files = session.files.clone();
    if let Err(error) = blocking(move || files.clear()).await {
        // The names of files are for their owner alone.
        let cause = match &error {
            FileError::Undeleted(undeleted) => error_chain(undeleted),
            other => error_chain(other),
        };
        tracing::error!(error = cause, "failed to delete the session's files");
        return Err(error.into());
    }
    session.executions.clear();
    session.identifiers.clear();
    Ok(())
}
