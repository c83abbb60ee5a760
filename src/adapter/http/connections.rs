//! Limits the open connections and the memory of what they have in flight.
//!
//! Idle clients and slow readers hold a connection slot or buffer memory. Under pressure one connection
//! is closed: when slots run out, the one that has waited longest for its client, be it for the head of
//! a request or for more of a body; when incomplete heads take too much memory, the one with the
//! largest; when unread responses do, the one that has been sending its response longest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::adapter::telemetry::metrics::Metrics;

/// Bytes of all responses in flight; a single one may be larger.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// Bytes of all incomplete heads.
const MAX_HEAD_BYTES: usize = 64 << 20;

/// The slots of all connections.
#[derive(Debug)]
pub struct ConnectionLimiter {
    free: Arc<Semaphore>,
    queues: Mutex<Queues>,
    metrics: Arc<Metrics>,
}

/// What it takes to close a connection while it waits for its client.
#[derive(Debug, Default)]
struct ClosableConnection {
    closed: Notify,
    /// Bytes read of its next head.
    head_bytes: AtomicUsize,
}

/// Connections by what they wait for, by ticket: the lowest has waited longest.
#[derive(Debug, Default)]
struct Queues {
    tickets: u64,
    /// Those that wait for the head of a request, or more of a body.
    request: BTreeMap<u64, Arc<ClosableConnection>>,
    /// Bytes read of all incomplete heads.
    head_bytes: usize,
    /// Those whose client is reading a response, with its size in bytes.
    response: BTreeMap<u64, (Arc<ClosableConnection>, usize)>,
    response_bytes: usize,
    /// A new connection waits for a slot because there was no connection to close.
    is_short: bool,
}

impl Queues {
    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Enters a connection that waits for its client.
    fn wait(&mut self, connection: &Arc<ClosableConnection>) -> u64 {
        let ticket = self.ticket();
        self.request.insert(ticket, Arc::clone(connection));
        ticket
    }

    /// Closes the connection that has waited longest for its client.
    fn close_one(&mut self) -> bool {
        let longest = self.request.pop_first();
        if let Some((_, connection)) = &longest {
            connection.closed.notify_one();
        }
        longest.is_some()
    }

    /// Closes the connection with the largest incomplete head.
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
    /// A limiter of `max` connections.
    pub fn new(max: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(max)),
            queues: Mutex::default(),
            metrics,
        })
    }

    /// Takes a slot for an accepted connection; when none is free, another connection is closed.
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

/// The slot of one connection, free again when this and all its request guards are dropped.
#[derive(Debug)]
pub struct ConnectionGuard(Arc<ConnectionState>);

/// The state of one connection.
#[derive(Debug)]
struct ConnectionState {
    limiter: Arc<ConnectionLimiter>,
    closable: Arc<ClosableConnection>,
    /// Requests whose response has not been sent to the last byte.
    requests: AtomicUsize,
    /// The ticket of its latest wait for a head; 0 before the first.
    ticket: AtomicU64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl ConnectionGuard {
    /// Counts a request until its response has been sent.
    pub fn request(&self) -> RequestGuard {
        self.0.requests.fetch_add(1, Ordering::AcqRel);
        self.0.leave_head();
        RequestGuard(Arc::clone(&self.0))
    }

    /// Resolves when the connection must be closed to make room for others.
    pub async fn closed(&self) {
        self.0.closable.closed.notified().await;
    }

    /// Notes that bytes were read. Between requests they belong to the head of the next one.
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

/// A request in flight.
#[derive(Debug)]
pub struct RequestGuard(Arc<ConnectionState>);

impl RequestGuard {
    /// The client has a body to send until the guard is dropped.
    pub fn body(&self) -> BodyGuard {
        let state = Arc::clone(&self.0);
        let ticket = state.limiter.queues().wait(&state.closable);
        BodyGuard { state, ticket }
    }

    /// The bytes of the response; the request ends when the client has read them. When all responses
    /// together are too large, the oldest are dropped with their connections.
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

/// A request body in flight.
#[derive(Debug)]
pub struct BodyGuard {
    state: Arc<ConnectionState>,
    ticket: u64,
}

impl BodyGuard {
    /// Restarts the wait: a part of the body has arrived.
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

/// A response that its client has not read yet.
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
