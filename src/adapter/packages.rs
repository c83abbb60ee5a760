//! The Python packages that programs can use, as Python itself lists them.

use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::piston::{ExecuteRequest, File};

use super::api::Package;
use super::error::ApiError;
use super::session::Session;

const LIST: &str = "\
import importlib.metadata, json
found = {d.metadata['Name']: d.version for d in importlib.metadata.distributions() if d.metadata['Name']}
print(json.dumps([{'name': n, 'version': found[n]} for n in sorted(found, key=str.lower)]))
";
const TIMEOUT: Duration = Duration::from_secs(10);

/// The packages, once they are known.
#[derive(Debug, Default)]
pub struct Packages {
    found: OnceCell<Vec<Package>>,
}

impl Packages {
    /// Asks Python, the first time. Where there is no Python there are no packages.
    ///
    /// # Errors
    /// [`ApiError`] where there is no place for an execution, or none works.
    pub async fn list(&self, session: &Session) -> Result<&[Package], ApiError> {
        let found = self.found.get_or_try_init(|| ask(session)).await?;
        Ok(found)
    }
}

async fn ask(session: &Session) -> Result<Vec<Package>, ApiError> {
    let runtimes = session.known_runtimes();
    if !runtimes.iter().any(|runtime| runtime.language == "python") {
        return Ok(Vec::new());
    }
    let _pass = session.join()?.admitted().await;
    let mut request = ExecuteRequest {
        language: "python".to_owned(),
        version: "*".to_owned(),
        files: vec![File::text("packages.py", LIST)],
        run_timeout: Some(TIMEOUT.as_millis() as u64),
        ..ExecuteRequest::default()
    };
    let deadline = Instant::now() + 2 * TIMEOUT;
    let response = session.client.execute(&mut request, deadline).await?;
    // Real Piston keeps little output: what it has cut is no list.
    Ok(serde_json::from_str(&response.run.stdout).unwrap_or_default())
}
