//! The connections that are open, and which of them is closed where there is no room for all.
//!
//! A client that sends no request, or takes no answer, costs a place or memory and gains nothing by
//! it. Where places run out, the connection goes that has waited longest for its client: for the head
//! of a request, or for more of a body; where heads that are not complete take too much memory, the
//! one with the largest; and where answers on their way do, the one that has been at its answer longest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::adapter::telemetry::metrics::Metrics;

/// Bytes of all answers on their way; one is, whatever its size.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Bytes of all heads that are not complete.
const MAX_HEAD_BYTES: usize = 64 << 20;

/// All places.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    queues: Mutex<Queues>,
    metrics: Arc<Metrics>,
}

/// A connection that may wait for its client.
#[derive(Debug, Default)]
struct Waiting {
    closed: Notify,
    /// What has been read of its next head.
    head_bytes: AtomicUsize,
}

/// Connections by what they wait for, each with a ticket: the lowest has waited longest.
#[derive(Debug, Default)]
struct Queues {
    tickets: u64,
    /// For the head of a request, or more of a body.
    request: BTreeMap<u64, Arc<Waiting>>,
    /// What has been read of all heads.
    head_bytes: usize,
    /// For their client to take an answer of so many bytes.
    answer: BTreeMap<u64, (Arc<Waiting>, usize)>,
    answer_bytes: usize,
    /// A new connection has no place, and there was none to close.
    is_short: bool,
}

impl Queues {
    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// From now on this connection waits for its client.
    fn wait(&mut self, connection: &Arc<Waiting>) -> u64 {
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
        let size = |(_, one): &(&u64, &Arc<Waiting>)| one.head_bytes.load(Ordering::Relaxed);
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

impl Places {
    /// So many.
    pub fn new(most: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(most)),
            queues: Mutex::default(),
            metrics,
        })
    }

    /// A place for a connection that has been accepted; where none is free another one is closed.
    pub async fn take(self: &Arc<Self>) -> Place {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                self.make_room();
                let permit = Arc::clone(&self.free).acquire_owned().await.ok();
                self.queues().is_short = false;
                permit
            }
        };
        let line = Arc::new(Line {
            places: Arc::clone(self),
            waiting: Arc::default(),
            requests: AtomicUsize::new(0),
            ticket: AtomicU64::new(0),
            _permit: permit,
        });
        line.wait_for_head();
        Place(line)
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
pub struct Place(Arc<Line>);

/// Where a connection stands.
#[derive(Debug)]
struct Line {
    places: Arc<Places>,
    waiting: Arc<Waiting>,
    /// Requests that are not answered to the last byte.
    requests: AtomicUsize,
    /// Of its last wait for a head; 0 ahead of the first.
    ticket: AtomicU64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// Counts a request until it is answered.
    pub fn request(&self) -> Turn {
        self.0.requests.fetch_add(1, Ordering::AcqRel);
        self.0.leave_head();
        Turn(Arc::clone(&self.0))
    }

    /// Resolves when the connection must be closed, to make room for others.
    pub async fn closed(&self) {
        self.0.waiting.closed.notified().await;
    }

    /// So many bytes have been read; where no request is under way they are of the next one's head.
    pub fn read(&self, bytes: usize) {
        if self.0.requests.load(Ordering::Acquire) > 0 {
            return;
        }
        let mut queues = self.0.places.queues();
        queues.head_bytes += bytes;
        self.0
            .waiting
            .head_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        while queues.head_bytes > MAX_HEAD_BYTES && queues.close_largest() {
            self.0.places.metrics.limit("heads");
        }
    }
}

impl Line {
    fn wait_for_head(&self) {
        let mut queues = self.places.queues();
        let ticket = queues.wait(&self.waiting);
        self.ticket.store(ticket, Ordering::Release);
        if std::mem::take(&mut queues.is_short) && queues.close_one() {
            self.places.metrics.limit("connections");
        }
    }

    fn leave_head(&self) {
        let ticket = self.ticket.load(Ordering::Acquire);
        let mut queues = self.places.queues();
        queues.request.remove(&ticket);
        queues.head_bytes -= self.waiting.head_bytes.swap(0, Ordering::Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.leave_head();
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Turn(Arc<Line>);

impl Turn {
    /// From now on until it is dropped the client is to send a body.
    pub fn body(&self) -> BodyTurn {
        let line = Arc::clone(&self.0);
        let ticket = line.places.queues().wait(&line.waiting);
        BodyTurn { line, ticket }
    }

    /// The bytes of an answer, with which the turn ends once the client has taken them. Answers that
    /// are too large together cost other connections theirs.
    pub fn answer(self, bytes: Bytes) -> Bytes {
        let line = Arc::clone(&self.0);
        let mut queues = line.places.queues();
        let ticket = queues.ticket();
        queues.answer_bytes += bytes.len();
        while queues.answer_bytes > MAX_ANSWER_BYTES
            && let Some((_, (connection, size))) = queues.answer.pop_first()
        {
            queues.answer_bytes -= size;
            connection.closed.notify_one();
            line.places.metrics.limit("answers");
        }
        let waiting = Arc::clone(&line.waiting);
        queues.answer.insert(ticket, (waiting, bytes.len()));
        drop(queues);
        Bytes::from_owner(OnItsWay {
            bytes,
            turn: self,
            ticket,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.wait_for_head();
        }
    }
}

/// A body that comes in.
#[derive(Debug)]
pub struct BodyTurn {
    line: Arc<Line>,
    ticket: u64,
}

impl BodyTurn {
    /// A part of it has come.
    pub fn renew(&mut self) {
        let mut queues = self.line.places.queues();
        // One that is gone already is to be closed.
        if queues.request.remove(&self.ticket).is_some() {
            self.ticket = queues.wait(&self.line.waiting);
        }
    }
}

impl Drop for BodyTurn {
    fn drop(&mut self) {
        self.line.places.queues().request.remove(&self.ticket);
    }
}

/// An answer that its client has not taken.
struct OnItsWay {
    bytes: Bytes,
    turn: Turn,
    ticket: u64,
}

impl AsRef<[u8]> for OnItsWay {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let mut queues = self.turn.0.places.queues();
        if let Some((_, size)) = queues.answer.remove(&self.ticket) {
            queues.answer_bytes -= size;
        }
    }
}
