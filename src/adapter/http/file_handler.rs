//! Requests about files. Bytes come in and go out in chunks; disk I/O is left to blocking threads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::adapter::azure::dialect::FilesForm;
use crate::adapter::azure::error::ApiError;
use crate::adapter::azure::{FilesQuery, render_entry, render_list, render_uploaded};
use crate::adapter::files::{Entry, FilePath, FolderPath, PendingUpload, StagedFile, blocking};
use crate::adapter::http::disposition::Disposition;
use crate::adapter::http::multipart::{Multipart, MultipartEvent, boundary};
use crate::adapter::http::request_body::RequestBody;
use crate::adapter::http::request_log::RequestLog;
use crate::adapter::http::response::{ApiResponse, respond};
use crate::adapter::http::response_body::{FileBody, ResponseBody};
use crate::adapter::http::route::FilesAction;
use crate::adapter::session::error::SessionError;
use crate::adapter::session::{App, Phase};

/// How long an upload may take.
const UPLOAD_TIME: Duration = Duration::from_secs(600);
/// How long one waits for its turn.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// What a body may have on top of its files.
const FRAMING_BYTES: u64 = 1 << 20;
/// Files in a request.
const MAX_FILES: usize = 32;
/// What RFC 5987 leaves as it is in a `filename*`.
const ATTRIBUTE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Waits for the right to a transfer.
async fn transfer_permit(
    app: &App,
    transfers: &Arc<Semaphore>,
) -> Result<OwnedSemaphorePermit, ApiError> {
    let permit = timeout(MAX_WAIT, Arc::clone(transfers).acquire_owned());
    tokio::select! {
        permit = permit => permit.ok().and_then(Result::ok).ok_or(ApiError::TooManyTransfers),
        () = app.reached(Phase::Draining) => Err(SessionError::ShuttingDown.into()),
    }
}

/// Answers a request about files.
pub async fn act(
    app: &App,
    action: FilesAction,
    head: &Parts,
    body: &mut RequestBody,
    log: &mut RequestLog,
) -> Result<ApiResponse, ApiError> {
    let query = FilesQuery::parse(head.uri.query().unwrap_or_default())?;
    log.identifier(query.identifier.as_ref());
    app.session.identifiers.touch(query.identifier.as_ref());
    let store = app.session.files.clone();
    let folder = store.names().folder(&query.path)?;
    match action {
        FilesAction::List(form) => {
            let _permit = transfer_permit(app, &app.session.transfers.lists).await?;
            let recursive = query.recursive;
            let entries = blocking(move || store.list(&folder, recursive)).await?;
            Ok(respond(render_list(form, &query, &entries)))
        }
        FilesAction::Upload(form) => {
            let _permit = transfer_permit(app, &app.session.transfers.uploads).await?;
            let uploading = upload(app, folder, form, head, body, log);
            timeout(UPLOAD_TIME, uploading).await.unwrap_or_else(|_| {
                Err(ApiError::BodyTimeout {
                    seconds: UPLOAD_TIME.as_secs(),
                })
            })
        }
        FilesAction::Entry(name) => {
            let path = store.names().file(folder, &name)?;
            let entry = blocking(move || store.entry(&path)).await?;
            Ok(respond(render_entry(&entry)))
        }
        FilesAction::Delete(name) => {
            let path = store.names().file(folder, &name)?;
            blocking(move || store.delete(&path)).await?;
            let mut response = Response::new(ResponseBody::from(Full::default()));
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok(response)
        }
        FilesAction::Content(name) => {
            let path = store.names().file(folder, &name)?;
            download(app, path, head).await
        }
        FilesAction::NestedContent(name) => {
            let path = store.names().nested_file(folder, &name)?;
            download(app, path, head).await
        }
        FilesAction::PythonDownload => {
            let name = query.filename.ok_or(ApiError::Missing("filename"))?;
            let path = store.names().nested_file(folder, &name)?;
            download(app, path, head).await
        }
    }
}

async fn download(app: &App, path: FilePath, head: &Parts) -> Result<ApiResponse, ApiError> {
    let store = app.session.files.clone();
    let disposition = format!(
        "attachment; filename*=UTF-8''{}",
        utf8_percent_encode(path.name.as_str(), ATTRIBUTE)
    );
    let place = transfer_permit(app, &app.session.transfers.downloads).await?;
    let content = blocking(move || store.read(&path)).await?;
    let length = content.length();
    let body = if head.method == Method::HEAD {
        Full::default().into()
    } else {
        ResponseBody::File(Box::new(FileBody::new(content, place)))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if let Ok(disposition) = HeaderValue::from_str(&disposition) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}

/// Reads the files of a request, and puts them in place when the last byte is there.
async fn upload(
    app: &App,
    folder: FolderPath,
    form: FilesForm,
    head: &Parts,
    body: &mut RequestBody,
    log: &mut RequestLog,
) -> Result<ApiResponse, ApiError> {
    let limit = app.config.max_upload;
    if body.announced() > limit.saturating_add(FRAMING_BYTES) {
        return Err(ApiError::FileTooLarge { limit });
    }
    let given = head.headers.get(header::CONTENT_TYPE);
    let declared = given.and_then(|given| boundary(given.as_bytes()));
    let not_multipart = || ApiError::NotMultipart {
        given: given.map_or(String::new(), |given| {
            let text = String::from_utf8_lossy(given.as_bytes());
            text.chars().take(64).collect()
        }),
    };
    let malformed = |problem| match declared {
        Some(_) => ApiError::MultipartInvalid(problem),
        // Semantic Kernel declares its multipart body as JSON, left over from its last execution.
        None => not_multipart(),
    };
    let named = declared.as_ref().and_then(Option::as_deref);
    let mut multipart = Multipart::new(named).map_err(malformed)?;
    let mut files = Uploads::new(app, folder);
    let mut seen = 0;
    loop {
        match multipart.next_event().map_err(malformed)? {
            Some(MultipartEvent::Part(part)) => files.begin(part).await?,
            Some(MultipartEvent::Data(data)) => files.write(data).await?,
            Some(MultipartEvent::PartEnd) => files.end().await?,
            Some(MultipartEvent::End) => break,
            None => {
                let Some(chunk) = body.next_chunk(app).await? else {
                    return Err(malformed("it ends before its closing boundary"));
                };
                seen += chunk.len() as u64;
                log.bytes_in(usize::try_from(seen).unwrap_or(usize::MAX));
                if seen > limit.saturating_add(FRAMING_BYTES) {
                    return Err(ApiError::FileTooLarge { limit });
                }
                multipart.push(&chunk);
            }
        }
    }
    let entries = files.commit().await?;
    Ok(respond(render_uploaded(form, &entries)))
}

/// The files of one request.
struct Uploads<'a> {
    app: &'a App,
    folder: FolderPath,
    /// The file that is coming in; `None` in a part that is none.
    upload: Option<PendingUpload>,
    /// The folder that the client put before its name.
    given_folder: String,
    /// Those that are complete, each with that folder.
    staged: Vec<(String, StagedFile)>,
    /// Bytes that may still come.
    left: u64,
}

impl<'a> Uploads<'a> {
    fn new(app: &'a App, folder: FolderPath) -> Self {
        Self {
            app,
            folder,
            upload: None,
            given_folder: String::new(),
            staged: Vec::new(),
            left: app.config.max_upload,
        }
    }

    async fn begin(&mut self, part: Disposition) -> Result<(), ApiError> {
        let is_file = part.name.as_deref() == Some("file");
        let Some(name) = part.filename.or_else(|| is_file.then(|| "file".to_owned())) else {
            return Ok(());
        };
        if self.staged.len() == MAX_FILES {
            return Err(ApiError::MultipartInvalid("it has more than 32 files"));
        }
        let store = self.app.session.files.clone();
        let bare = store.names().nested_file(FolderPath::default(), &name)?;
        let path = store.names().nested_file(self.folder.clone(), &name)?;
        let upload = blocking(move || store.begin_upload(path)).await?;
        self.upload = Some(upload);
        self.given_folder = bare.folder.to_string();
        Ok(())
    }

    async fn write(&mut self, data: Bytes) -> Result<(), ApiError> {
        let Some(mut upload) = self.upload.take() else {
            return Ok(());
        };
        let left = self.left.checked_sub(data.len() as u64);
        self.left = left.ok_or(ApiError::FileTooLarge {
            limit: self.app.config.max_upload,
        })?;
        let written = blocking(move || {
            upload.write(&data)?;
            Ok(upload)
        });
        self.upload = Some(written.await?);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), ApiError> {
        if let Some(upload) = self.upload.take() {
            let staged = blocking(move || upload.stage()).await?;
            self.staged
                .push((std::mem::take(&mut self.given_folder), staged));
        }
        Ok(())
    }

    async fn commit(self) -> Result<Vec<Entry>, ApiError> {
        if self.staged.is_empty() {
            return Err(ApiError::Missing("file"));
        }
        let staged = self.staged;
        let committing = move || {
            let commit = |(given_folder, staged): (String, StagedFile)| {
                let entry = staged.commit()?;
                Ok(Entry {
                    folder: given_folder,
                    ..entry
                })
            };
            staged.iter().try_for_each(|(_, staged)| staged.check())?;
            staged.into_iter().map(commit).collect()
        };
        Ok(blocking(committing).await?)
    }
}
