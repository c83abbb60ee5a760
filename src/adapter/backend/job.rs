//! One execution as the engine is asked for it.

use std::time::Duration;

use crate::adapter::backend::translate;
use crate::adapter::files::{FileError, FileStore, blocking};
use crate::adapter::model::outcome::Outcome;
use crate::piston::{ClientError, ExecuteRequest, ExecuteResponse, File};

/// An execution on its way to the engine.
#[derive(Debug)]
pub struct Job {
    pub(super) request: ExecuteRequest,
    /// Whether a value is told as Jupyter shows it.
    pub(super) jupyter_format: bool,
    pub(super) max_stream_bytes: usize,
}

impl Job {
    /// How long the program may run.
    pub fn run_timeout(&self) -> Duration {
        Duration::from_millis(self.request.run_timeout.unwrap_or_default())
    }

    /// The language and version that the engine is asked for.
    pub fn into_runtime(self) -> (String, String) {
        (self.request.language, self.request.version)
    }

    /// Adds `files` after the source: Piston runs the first file.
    pub(super) async fn attach(
        &mut self,
        files: &FileStore,
        max_bytes: u64,
    ) -> Result<(), FileError> {
        let files = files.clone();
        if files.is_empty() {
            return Ok(());
        }
        let read = blocking(move || {
            let files = files.for_execution(max_bytes)?;
            let encode = |(name, bytes): (String, Vec<u8>)| File::bytes(name, &bytes);
            Ok(files.into_iter().map(encode).collect::<Vec<_>>())
        });
        let read = read.await?;
        let own: Vec<String> = self.request.files.iter().map(|f| f.name.clone()).collect();
        let others = read.into_iter().filter(|file| !own.contains(&file.name));
        self.request.files.extend(others);
        Ok(())
    }

    pub(super) fn outcome(&self, mut response: ExecuteResponse) -> Result<Outcome, ClientError> {
        let limit = self.max_stream_bytes;
        if let Some(kernel) = response.kernel.take() {
            let (run, jupyter) = (response.run, self.jupyter_format);
            return translate::cell_outcome(&self.request, run, kernel, limit, jupyter);
        }
        translate::outcome(&self.request, response, limit)
    }
}
