//! The Python packages that programs can use, as Python itself lists them.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::adapter::azure::error::ApiError;
use crate::adapter::model::package::Package;
use crate::adapter::session::Session;
use crate::piston::{ExecuteRequest, File};

const LIST: &str = "\
import importlib.metadata, json
found = {d.metadata['Name']: d.version for d in importlib.metadata.distributions() if d.metadata['Name']}
print(json.dumps([{'name': n, 'version': found[n]} for n in sorted(found, key=str.lower)]))
";
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may wait for a place to run in.
const PATIENCE: Duration = Duration::from_secs(30);

/// The packages, once they are known.
#[derive(Debug, Default)]
pub struct Packages {
    found: OnceLock<Vec<Package>>,
}

impl Packages {
    /// Asks Python, until it has answered once. There are none where there is no Python, and where it
    /// does not say.
    ///
    /// # Errors
    /// [`ApiError`] where there is no place for an execution, or none works.
    pub async fn list(&self, session: &Session) -> Result<&[Package], ApiError> {
        if self.found.get().is_none()
            && let Some(found) = ask(session).await?
        {
            // Where two ask at a time, they learn the same.
            let _ = self.found.set(found);
        }
        Ok(self.found.get().map_or(&[], Vec::as_slice))
    }
}

async fn ask(session: &Session) -> Result<Option<Vec<Package>>, ApiError> {
    let runtimes = session.known_runtimes();
    if !runtimes.iter().any(|runtime| runtime.language == "python") {
        return Ok(None);
    }
    let latest = Instant::now() + PATIENCE;
    let _pass = session
        .admit(session.join()?, Some(latest), TIMEOUT)
        .await?;
    let mut request = ExecuteRequest {
        language: "python".to_owned(),
        version: "*".to_owned(),
        files: vec![File::text("packages.py", LIST)],
        run_timeout: Some(TIMEOUT.as_millis() as u64),
        ..ExecuteRequest::default()
    };
    let response = session.client.execute(&mut request, latest).await?;
    // Real Piston keeps little output: what it has cut is no list.
    Ok(serde_json::from_str(&response.run.stdout).ok())
}
