//! Reads a request's body within limits of size, time and the memory of all bodies together.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::adapter::azure::error::ApiError;
use crate::adapter::http::connections::{BodyGuard, RequestGuard};
use crate::adapter::session::error::SessionError;
use crate::adapter::session::{App, Phase};

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Capacity reserved for a body before its bytes arrive.
const INITIAL_CAPACITY: usize = 64 << 10;
/// How much of an unwanted body is read and discarded, so that its sender gets to read the response
/// instead of a reset connection.
const DISCARD_BYTES: usize = 1 << 30;
const DISCARD_TIME: Duration = Duration::from_secs(3);

/// Bodies up to `SMALL_BODY` may use the last `max_body / SMALL_SHARE` bytes of the budget; larger ones
/// may not.
const SMALL_BODY: usize = 64 << 10;
const SMALL_SHARE: usize = 4;
/// Whether a body declares itself as JSON. A web page of any origin can send a body that declares
/// itself as nothing, or as text, without asking first.
///
/// # Errors
/// [`ApiError::MediaType`].
pub fn check_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut all = headers.get_all(header::CONTENT_TYPE).iter();
    let Some(given) = all.next() else {
        return Err(ApiError::MediaType {
            given: String::new(),
        });
    };
    let is_single = all.next().is_none();
    let text = String::from_utf8_lossy(given.as_bytes());
    let mut parts = text.split(';').map(|part| part.trim().to_ascii_lowercase());
    let media = parts.next().unwrap_or_default();
    let is_json = media == "application/json"
        || media == "text/json"
        || (media.starts_with("application/") && media.ends_with("+json"));
    let is_utf8 = parts
        .filter_map(|part| {
            part.strip_prefix("charset=")
                .map(|c| c.trim_matches('"').to_owned())
        })
        .all(|charset| matches!(charset.as_str(), "utf-8" | "utf8" | "us-ascii"));
    if is_json && is_utf8 && is_single {
        return Ok(());
    }
    Err(ApiError::MediaType {
        given: text.chars().take(64).collect(),
    })
}

/// The body of one request, whether anybody reads it or not.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    /// The client waits for `100 Continue`, and gets it when the body is first read.
    waits: bool,
    /// All of it was read. Hyper does not say so of a body in chunks.
    has_ended: bool,
    /// Held while the client has more to send.
    guard: Option<BodyGuard>,
}

/// A whole body, and its permit from the memory budget of all bodies.
#[derive(Debug)]
pub struct BufferedBody {
    pub bytes: Bytes,
    /// To be held as long as what was parsed from the body.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl RequestBody {
    /// The body that comes with these headers.
    pub fn new(headers: &HeaderMap, incoming: Incoming, guard: &RequestGuard) -> Self {
        let has_ended = incoming.is_end_stream();
        Self {
            guard: (!has_ended).then(|| guard.body()),
            has_ended,
            incoming,
            waits: headers.contains_key(header::EXPECT),
        }
    }

    /// Reads the body whole.
    ///
    /// # Errors
    /// [`ApiError::BodyTooLarge`], [`ApiError::BodyTimeout`], [`ApiError::BodyIncomplete`],
    /// [`ApiError::TooManyBodies`], [`SessionError::ShuttingDown`].
    pub async fn read(&mut self, app: &App) -> Result<BufferedBody, ApiError> {
        let limit = app.config.max_body;
        let announced = self.incoming.size_hint().lower();
        if announced > limit as u64 {
            return Err(ApiError::BodyTooLarge { limit });
        }
        self.waits = false;
        // The announced length is only a claim.
        let mut bytes = BytesMut::with_capacity((announced as usize).min(INITIAL_CAPACITY));
        let mut permit = None;
        let reading = async {
            while let Some(data) = self.next_data().await? {
                let length = bytes.len() + data.len();
                if length > limit {
                    return Err(ApiError::BodyTooLarge { limit });
                }
                merge_permit(&mut permit, take_body_bytes(app, data.len(), length)?);
                bytes.extend_from_slice(&data);
            }
            Ok(())
        };
        // What has arrived already is read without waiting for anything else.
        tokio::select! {
            biased;
            read = timeout(BODY_TIMEOUT, reading) => read.unwrap_or(Err(ApiError::BodyTimeout {
                seconds: BODY_TIMEOUT.as_secs(),
            }))?,
            () = app.reached(Phase::Draining) => return Err(SessionError::ShuttingDown.into()),
        }
        Ok(BufferedBody {
            bytes: bytes.freeze(),
            permit,
        })
    }

    /// The announced length, or a lower bound of it.
    pub fn announced(&self) -> u64 {
        self.incoming.size_hint().lower()
    }

    /// Reads what comes next, or nothing at the end.
    ///
    /// # Errors
    /// [`ApiError::BodyTimeout`] where nothing comes, [`ApiError::BodyIncomplete`],
    /// [`SessionError::ShuttingDown`].
    pub async fn next_chunk(&mut self, app: &App) -> Result<Option<Bytes>, ApiError> {
        self.waits = false;
        tokio::select! {
            read = timeout(BODY_TIMEOUT, self.next_data()) => read.unwrap_or(Err(ApiError::BodyTimeout {
                seconds: BODY_TIMEOUT.as_secs(),
            })),
            () = app.reached(Phase::Draining) => Err(SessionError::ShuttingDown.into()),
        }
    }

    async fn next_data(&mut self) -> Result<Option<Bytes>, ApiError> {
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|_| ApiError::BodyIncomplete)?;
            if let Some(guard) = &mut self.guard {
                guard.renew();
            }
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        self.has_ended = true;
        self.guard = None;
        Ok(None)
    }

    /// Throws away what was not read, and says whether the connection can take another request.
    pub async fn finish(mut self, app: &App) -> bool {
        if !self.waits && !self.has_ended {
            tokio::select! {
                _ = timeout(DISCARD_TIME, self.discard()) => {}
                () = app.reached(Phase::Draining) => {}
            }
        }
        self.has_ended || self.incoming.is_end_stream()
    }

    async fn discard(&mut self) {
        let mut seen = 0;
        while let Some(frame) = self.incoming.frame().await {
            let Ok(frame) = frame else {
                return;
            };
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > DISCARD_BYTES {
                return;
            }
        }
        self.has_ended = true;
    }
}

/// Takes a permit from the memory budget of all bodies for a body of `length` bytes so far. The
/// last of it is for small bodies, so that few large ones do not keep all others out.
///
/// # Errors
/// [`ApiError::TooManyBodies`].
fn take_body_bytes(
    app: &App,
    bytes: usize,
    length: usize,
) -> Result<OwnedSemaphorePermit, ApiError> {
    let semaphore = Arc::clone(&app.body_bytes);
    let kept = match length {
        ..=SMALL_BODY => 0,
        _ => app.config.max_body / SMALL_SHARE,
    };
    u32::try_from(bytes)
        .ok()
        .filter(|_| semaphore.available_permits() >= bytes.saturating_add(kept))
        .and_then(|bytes| semaphore.try_acquire_many_owned(bytes).ok())
        .ok_or(ApiError::TooManyBodies)
}

fn merge_permit(permit: &mut Option<OwnedSemaphorePermit>, more: OwnedSemaphorePermit) {
    match permit {
        Some(permit) => permit.merge(more),
        None => *permit = Some(more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content_type: &str) -> Result<(), ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        check_json(&headers)
    }

    #[test]
    fn json_in_utf8_is_taken_and_nothing_else() {
        assert!(check_json(&HeaderMap::new()).is_err());
        for good in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
            "application/problem+json",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "text/plain",
            "application/json; charset=latin1",
            "multipart/form-data",
            "",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
