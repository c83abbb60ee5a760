//! Asks Python which packages programs can use.

use std::time::Duration;

use tokio::time::Instant;

use crate::adapter::model::package::Package;
use crate::adapter::session::app::App;
use crate::adapter::session::error::SessionError;
use crate::piston::{ExecuteRequest, File};

const LIST: &str = "\
import importlib.metadata, json
found = {d.metadata['Name']: d.version for d in importlib.metadata.distributions() if d.metadata['Name']}
print(json.dumps([{'name': n, 'version': found[n]} for n in sorted(found, key=str.lower)]))
";
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may wait for a place to run in.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// Asks Python, until it has answered once. There are none where there is no Python, and where it
/// does not say.
///
/// # Errors
/// [`SessionError`] where there is no place for an execution, or none works.
pub async fn list(app: &App) -> Result<&[Package], SessionError> {
    if app.packages.found.get().is_none()
        && let Some(found) = ask(app).await?
    {
        // Where two ask at a time, they learn the same.
        let _ = app.packages.found.set(found);
    }
    Ok(app.packages.found.get().map_or(&[], Vec::as_slice))
}

async fn ask(app: &App) -> Result<Option<Vec<Package>>, SessionError> {
    if !app.runtimes.has("python") {
        return Ok(None);
    }
    let latest = Instant::now() + LIST_TIMEOUT;
    let slot = app.enqueue()?;
    let _permit = app.acquire(slot, Some(latest), TIMEOUT).await?;
    let mut request = ExecuteRequest {
        language: "python".to_owned(),
        version: "*".to_owned(),
        files: vec![File::text("packages.py", LIST)],
        run_timeout: Some(TIMEOUT.as_millis() as u64),
        ..ExecuteRequest::default()
    };
    let response = app.backend.client().execute(&mut request, latest).await?;
    // Real Piston keeps little output: what it has cut is no list.
    Ok(serde_json::from_str(&response.run.stdout).ok())
}
