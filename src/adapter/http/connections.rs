//! The connections that are open, and which of them is closed where there is no room for all.
//!
//! A client that sends no request, or takes no response, costs a place or memory and gains nothing by
//! it. Where limiter run out, the connection goes that has waited longest for its client: for the head
//! of a request, or for more of a body; where heads that are not complete take too much memory, the
//! one with the largest; and where responses on their way do, the one that has been at its response longest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::adapter::telemetry::metrics::Metrics;

/// Bytes of all responses on their way; one is, whatever its size.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// Bytes of all heads that are not complete.
const MAX_HEAD_BYTES: usize = 64 << 20;

/// All limiter.
#[derive(Debug)]
pub struct ConnectionLimiter {
    free: Arc<Semaphore>,
    queues: Mutex<Queues>,
    metrics: Arc<Metrics>,
}

/// A connection that may wait for its client.
#[derive(Debug, Default)]
struct ClosableConnection {
    closed: Notify,
    /// What has been read of its next head.
    head_bytes: AtomicUsize,
}

/// Connections by what they wait for, each with a ticket: the lowest has waited longest.
#[derive(Debug, Default)]
struct Queues {
    tickets: u64,
    /// For the head of a request, or more of a body.
    request: BTreeMap<u64, Arc<ClosableConnection>>,
    /// What has been read of all heads.
    head_bytes: usize,
    /// For their client to take a response of so many bytes.
    response: BTreeMap<u64, (Arc<ClosableConnection>, usize)>,
    response_bytes: usize,
    /// A new connection has no place, and there was none to close.
    is_short: bool,
}

impl Queues {
    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// From now on this connection waits for its client.
    fn wait(&mut self, connection: &Arc<ClosableConnection>) -> u64 {
        let ticket = self.ticket();
        self.request.insert(ticket, Arc::clone(connection));
        ticket
    }

    /// Closes the connection that has waited longest for its client's words.
    fn close_one(&mut self) -> bool {
        let longest = self.request.pop_first();
        if let Some((_, connection)) = &longest {
            connection.closed.notify_one();
        }
        longest.is_some()
    }

    /// Closes the connection with the largest head that is not complete.
    fn close_largest(&mut self) -> bool {
        let size =
            |(_, one): &(&u64, &Arc<ClosableConnection>)| one.head_bytes.load(Ordering::Relaxed);
        let largest = self
            .request
            .iter()
            .max_by_key(size)
            .map(|(ticket, _)| *ticket);
        let largest = largest.and_then(|ticket| self.request.remove(&ticket));
        if let Some(connection) = &largest {
            self.head_bytes -= connection.head_bytes.swap(0, Ordering::Relaxed);
            connection.closed.notify_one();
        }
        largest.is_some()
    }
}

impl ConnectionLimiter {
    /// So many.
    pub fn new(most: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(most)),
            queues: Mutex::default(),
            metrics,
        })
    }

    /// A place for a connection that has been accepted; where none is free another one is closed.
    pub async fn take(self: &Arc<Self>) -> ConnectionGuard {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                self.make_room();
                let permit = Arc::clone(&self.free).acquire_owned().await.ok();
                self.queues().is_short = false;
                permit
            }
        };
        let state = Arc::new(ConnectionState {
            limiter: Arc::clone(self),
            closable: Arc::default(),
            requests: AtomicUsize::new(0),
            ticket: AtomicU64::new(0),
            _permit: permit,
        });
        state.wait_for_head();
        ConnectionGuard(state)
    }

    fn make_room(&self) {
        let mut queues = self.queues();
        if queues.close_one() {
            self.metrics.limit("connections");
        } else {
            queues.is_short = true;
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection; it is free when this and all turns are dropped.
#[derive(Debug)]
pub struct ConnectionGuard(Arc<ConnectionState>);

/// Where a connection stands.
#[derive(Debug)]
struct ConnectionState {
    limiter: Arc<ConnectionLimiter>,
    closable: Arc<ClosableConnection>,
    /// Requests that are not answered to the last byte.
    requests: AtomicUsize,
    /// Of its last wait for a head; 0 ahead of the first.
    ticket: AtomicU64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl ConnectionGuard {
    /// Counts a request until it is answered.
    pub fn request(&self) -> RequestGuard {
        self.0.requests.fetch_add(1, Ordering::AcqRel);
        self.0.leave_head();
        RequestGuard(Arc::clone(&self.0))
    }

    /// Resolves when the connection must be closed, to make room for others.
    pub async fn closed(&self) {
        self.0.closable.closed.notified().await;
    }

    /// So many bytes have been read; where no request is under way they are of the next one's head.
    pub fn read(&self, bytes: usize) {
        if self.0.requests.load(Ordering::Acquire) > 0 {
            return;
        }
        let mut queues = self.0.limiter.queues();
        queues.head_bytes += bytes;
        self.0
            .closable
            .head_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        while queues.head_bytes > MAX_HEAD_BYTES && queues.close_largest() {
            self.0.limiter.metrics.limit("heads");
        }
    }
}

impl ConnectionState {
    fn wait_for_head(&self) {
        let mut queues = self.limiter.queues();
        let ticket = queues.wait(&self.closable);
        self.ticket.store(ticket, Ordering::Release);
        if std::mem::take(&mut queues.is_short) && queues.close_one() {
            self.limiter.metrics.limit("connections");
        }
    }

    fn leave_head(&self) {
        let ticket = self.ticket.load(Ordering::Acquire);
        let mut queues = self.limiter.queues();
        queues.request.remove(&ticket);
        queues.head_bytes -= self.closable.head_bytes.swap(0, Ordering::Relaxed);
    }
}

impl Drop for ConnectionState {
    fn drop(&mut self) {
        self.leave_head();
    }
}

/// A request under way.
#[derive(Debug)]
pub struct RequestGuard(Arc<ConnectionState>);

impl RequestGuard {
    /// From now on until it is dropped the client is to send a body.
    pub fn body(&self) -> BodyGuard {
        let state = Arc::clone(&self.0);
        let ticket = state.limiter.queues().wait(&state.closable);
        BodyGuard { state, ticket }
    }

    /// The bytes of a response, with which the guard ends once the client has taken them. Answers that
    /// are too large together cost other connections theirs.
    pub fn response_bytes(self, bytes: Bytes) -> Bytes {
        let state = Arc::clone(&self.0);
        let mut queues = state.limiter.queues();
        let ticket = queues.ticket();
        queues.response_bytes += bytes.len();
        while queues.response_bytes > MAX_RESPONSE_BYTES
            && let Some((_, (connection, size))) = queues.response.pop_first()
        {
            queues.response_bytes -= size;
            connection.closed.notify_one();
            state.limiter.metrics.limit("responses");
        }
        let closable = Arc::clone(&state.closable);
        queues.response.insert(ticket, (closable, bytes.len()));
        drop(queues);
        Bytes::from_owner(InFlightBody {
            bytes,
            guard: self,
            ticket,
        })
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.wait_for_head();
        }
    }
}

/// A body that comes in.
#[derive(Debug)]
pub struct BodyGuard {
    state: Arc<ConnectionState>,
    ticket: u64,
}

impl BodyGuard {
    /// A part of it has come.
    pub fn renew(&mut self) {
        let mut queues = self.state.limiter.queues();
        // One that is gone already is to be closed.
        if queues.request.remove(&self.ticket).is_some() {
            self.ticket = queues.wait(&self.state.closable);
        }
    }
}

impl Drop for BodyGuard {
    fn drop(&mut self) {
        self.state.limiter.queues().request.remove(&self.ticket);
    }
}

/// A response that its client has not taken.
struct InFlightBody {
    bytes: Bytes,
    guard: RequestGuard,
    ticket: u64,
}

impl AsRef<[u8]> for InFlightBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for InFlightBody {
    fn drop(&mut self) {
        let mut queues = self.guard.0.limiter.queues();
        if let Some((_, size)) = queues.response.remove(&self.ticket) {
            queues.response_bytes -= size;
        }
    }
}
