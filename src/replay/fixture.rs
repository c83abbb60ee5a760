//! The files of `fixtures/exchanges`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Header names, in lower case, and their values.
pub type Headers = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
/// One recorded exchange: a request to the adapter and all that follows from it.
pub struct Fixture {
    /// The file's name without `.json`.
    pub name: String,
    /// What the exchange shows.
    pub note: String,
    /// Where Piston's answers come from.
    pub recorded: Recorded,
    /// Why another engine may answer otherwise. Such a fixture is replayed against its recording only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_dependent: Option<String>,
    /// What the client sends.
    pub azure_request: AzureRequest,
    /// What Piston is asked, in order; nothing where the adapter answers by itself.
    pub piston: Vec<PistonExchange>,
    /// What the client gets.
    pub azure_response: AzureResponse,
}

/// Where an exchange comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "lowercase", deny_unknown_fields)]
pub enum Recorded {
    /// Piston's answers were recorded.
    Piston {
        /// The name of the recording.
        recording: String,
        /// The machine it was made on.
        origin: String,
        /// The settings of Piston that differ from its defaults.
        config: String,
        /// The commit of Piston.
        commit: String,
        /// The day, as YYYY-MM-DD.
        date: String,
    },
    /// An example in Azure's published API description; Piston's response is made to fit it.
    Azure {
        /// The version of the document.
        document: String,
        /// The title of the example.
        example: String,
    },
    Composed {
        after: String,
    },
}

/// What the client sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzureRequest {
    pub method: String,
    /// Path and query as they stand in the request line.
    pub path: String,
    /// All headers but `host` and `content-length`.
    pub headers: Headers,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// A body that is sent as it stands here, instead of `body`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_text: Option<String>,
}

/// One question to Piston and its response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PistonExchange {
    /// What the adapter must ask.
    pub request: PistonRequest,
    pub response: PistonResponse,
}

/// What the adapter must ask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PistonRequest {
    pub method: String,
    pub path: String,
    /// Headers that must be there.
    pub headers: Headers,
    /// The JSON, with its fields in any order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// The body to the byte, instead of `body`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_text: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PistonResponse {
    pub status: u16,
    /// The headers that differ from one answer to another.
    pub headers: Headers,
    /// The body to the byte.
    pub body: String,
}

/// What the client gets. Strings in `headers` and `body` may be patterns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzureResponse {
    pub status: u16,
    /// Headers that must be there.
    pub headers: Headers,
    /// The JSON, with its fields in any order and no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// The body to the byte, instead of `body`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_text: Option<String>,
}

/// Why a directory of fixtures cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FixtureError {
    /// The directory or a file in it cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file is not a fixture.
    #[error("{}: {reason}", path.display())]
    Invalid {
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory holds no `.json` file.
    #[error("no fixtures (*.json) in {}", .0.display())]
    Empty(PathBuf),
}

impl Fixture {
    /// Reads one fixture.
    ///
    /// # Errors
    /// When the file cannot be read, is not a fixture or has another name than the fixture.
    pub fn read(path: &Path) -> Result<Self, FixtureError> {
        let text = fs::read_to_string(path).map_err(|source| FixtureError::Read {
            path: path.to_owned(),
            source,
        })?;
        let invalid = |reason: String| FixtureError::Invalid {
            path: path.to_owned(),
            reason,
        };
        let fixture: Self =
            serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        if path.file_stem().and_then(|stem| stem.to_str()) != Some(fixture.name.as_str()) {
            return Err(invalid(format!("its name is {:?}", fixture.name)));
        }
        fixture.judge().map_err(invalid)?;
        Ok(fixture)
    }

    /// The language that the engine must have for the exchange to succeed.
    #[must_use]
    pub fn language(&self) -> Option<&str> {
        if !(200..300).contains(&self.azure_response.status) {
            return None;
        }
        self.piston
            .first()?
            .request
            .body
            .as_ref()?
            .get("language")?
            .as_str()
    }

    /// The body that the client sends.
    #[must_use]
    pub fn sent(&self) -> Vec<u8> {
        let request = &self.azure_request;
        match (&request.body, &request.body_text) {
            (Some(json), _) => json.to_string().into_bytes(),
            (None, Some(text)) => text.clone().into_bytes(),
            (None, None) => Vec::new(),
        }
    }

    fn judge(&self) -> Result<(), String> {
        let bodies = [
            (
                "azure_request",
                &self.azure_request.body,
                &self.azure_request.body_text,
            ),
            (
                "azure_response",
                &self.azure_response.body,
                &self.azure_response.body_text,
            ),
        ];
        let asked = self
            .piston
            .iter()
            .map(|exchange| &exchange.request)
            .map(|request| ("piston.request", &request.body, &request.body_text));
        for (place, body, text) in bodies.into_iter().chain(asked) {
            if body.is_some() && text.is_some() {
                return Err(format!("{place} has both body and body_text"));
            }
        }
        let headers = [&self.azure_request.headers, &self.azure_response.headers]
            .into_iter()
            .chain(self.piston.iter().map(|exchange| &exchange.request.headers))
            .chain(
                self.piston
                    .iter()
                    .map(|exchange| &exchange.response.headers),
            );
        for name in headers.flat_map(BTreeMap::keys) {
            if *name != name.to_ascii_lowercase() {
                return Err(format!("the header {name} is not in lower case"));
            }
        }
        Ok(())
    }
}

/// Reads every `*.json` in a directory, sorted by name.
///
/// # Errors
/// When the directory cannot be read or is empty, or when any file in it is not a fixture.
pub fn load(directory: &Path) -> Result<Vec<Fixture>, FixtureError> {
    let unreadable = |source| FixtureError::Read {
        path: directory.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(FixtureError::Empty(directory.to_owned()));
    }
    paths.sort();
    paths.iter().map(|path| Fixture::read(path)).collect()
}
