//! Replaying fixtures against an adapter that is running.

use std::path::Path;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::fixture::{AzureRequest, Fixture, FixtureError, load};
use super::matching::{Difference, response_difference};
use super::report::{Line, ReplayOutcome, ReplayReport};
use super::response::Response;
use crate::error_chain::error_chain;
use crate::piston::Runtime;

/// Longer than an ingress waits, so that what is reported is the adapter's own response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(300);

const RUNTIMES: &str = "/api/v2/runtimes";

/// Why nothing was replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The fixtures cannot be used.
    #[error(transparent)]
    Fixtures(#[from] FixtureError),
    /// The URL is not one of an HTTP server without a path.
    #[error("{0:?} is not a URL like http://127.0.0.1:2000")]
    Url(String),
    /// The adapter does not say which languages it has.
    #[error("{url}{RUNTIMES}: {reason}")]
    Runtimes {
        /// Where the adapter should be.
        url: String,
        /// What came instead of the list.
        reason: String,
    },
    /// The HTTP client cannot be made.
    #[error("no HTTP client: {0}")]
    Client(#[source] reqwest::Error),
}

/// A client of one adapter.
#[derive(Debug, Clone)]
pub struct Caller {
    url: String,
    client: reqwest::Client,
}

impl Caller {
    /// A client of the adapter at `url`, as in `http://127.0.0.1:2000`.
    ///
    /// # Errors
    /// When the URL is not one, or has a path.
    pub fn new(url: &str) -> Result<Self, ReplayError> {
        let base = url.strip_suffix('/').unwrap_or(url);
        let authority = base
            .strip_prefix("http://")
            .filter(|rest| !rest.is_empty() && !rest.contains(['/', '?', '#']));
        if authority.is_none() || reqwest::Url::parse(base).is_err() {
            return Err(ReplayError::Url(url.to_owned()));
        }
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(RESPONSE_TIMEOUT)
            .build()
            .map_err(ReplayError::Client)?;
        Ok(Self {
            url: base.to_owned(),
            client,
        })
    }

    /// Sends a fixture's request.
    ///
    /// # Errors
    /// In words, when there is no response.
    pub async fn call(&self, request: &AzureRequest, body: Vec<u8>) -> Result<Response, String> {
        let method =
            Method::from_bytes(request.method.as_bytes()).map_err(|error| error_chain(&error))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let name =
                HeaderName::from_bytes(name.as_bytes()).map_err(|error| error_chain(&error))?;
            headers.insert(
                name,
                HeaderValue::from_str(value).map_err(|error| error_chain(&error))?,
            );
        }
        let mut sending = self
            .client
            .request(method, format!("{}{}", self.url, request.path))
            .headers(headers);
        if !body.is_empty() {
            sending = sending.body(body);
        }
        let response = sending.send().await.map_err(|error| error_chain(&error))?;
        Ok(Response {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response
                .bytes()
                .await
                .map_err(|error| error_chain(&error))?,
        })
    }

    async fn runtimes(&self) -> Result<Vec<Runtime>, ReplayError> {
        let request = AzureRequest {
            method: "GET".to_owned(),
            path: RUNTIMES.to_owned(),
            headers: Default::default(),
            body: None,
            body_text: None,
        };
        let unusable = |reason: String| ReplayError::Runtimes {
            url: self.url.clone(),
            reason,
        };
        let response = self.call(&request, Vec::new()).await.map_err(unusable)?;
        if response.status != 200 {
            return Err(unusable(format!("status {}", response.status)));
        }
        serde_json::from_slice(&response.body).map_err(|error| unusable(error.to_string()))
    }
}

/// Replays a directory's fixtures against the adapter at `url`, whatever engine is behind it.
///
/// Fixtures that depend on the recorded engine, and those in a language that the adapter's runtimes
/// lack, are skipped.
///
/// # Errors
/// When the fixtures cannot be read or the adapter does not list its runtimes. A response that
/// differs is no error but in the [`ReplayReport`].
pub async fn replay(directory: &Path, url: &str) -> Result<ReplayReport, ReplayError> {
    replay_with(directory, url, |_| ()).await
}

/// The same as [`replay`], telling each line as soon as it is known.
///
/// # Errors
/// The same as [`replay`].
pub async fn replay_with(
    directory: &Path,
    url: &str,
    mut tell: impl FnMut(&Line),
) -> Result<ReplayReport, ReplayError> {
    let caller = Caller::new(url)?;
    let fixtures = load(directory)?;
    let runtimes = caller.runtimes().await?;
    let mut report = ReplayReport::default();
    for fixture in fixtures {
        let outcome = match reason_to_skip(&fixture, &runtimes) {
            Some(reason) => ReplayOutcome::Skipped(reason),
            None => replay_one(&caller, &fixture).await,
        };
        let line = Line {
            name: fixture.name,
            outcome,
        };
        tell(&line);
        report.lines.push(line);
    }
    Ok(report)
}

fn reason_to_skip(fixture: &Fixture, runtimes: &[Runtime]) -> Option<String> {
    if let Some(reason) = &fixture.engine_dependent {
        return Some(reason.clone());
    }
    let language = fixture.language()?;
    let listed = runtimes.iter().any(|runtime| {
        runtime.language == language || runtime.aliases.iter().any(|alias| alias == language)
    });
    (!listed).then(|| format!("no {language} here"))
}

async fn replay_one(caller: &Caller, fixture: &Fixture) -> ReplayOutcome {
    match caller.call(&fixture.azure_request, fixture.sent()).await {
        Ok(response) => match response_difference(&fixture.azure_response, &response) {
            None => ReplayOutcome::Passed,
            Some(difference) => ReplayOutcome::Failed(difference),
        },
        Err(reason) => ReplayOutcome::Failed(Difference {
            path: "answer".to_owned(),
            expected: fixture.azure_response.status.to_string(),
            actual: reason,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_url_of_a_server_is_taken() {
        for good in [
            "http://127.0.0.1:2000",
            "http://localhost:2000/",
            "http://[::1]:2000",
        ] {
            assert!(Caller::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1:2000",
            "https://x",
            "http://",
            "http://x/y",
            "http://x?y",
            "http://x:y",
        ] {
            assert!(
                matches!(Caller::new(bad), Err(ReplayError::Url(_))),
                "{bad}"
            );
        }
    }
}
