//! The HTTP server: accepts connections, limits them, and shuts down without losing what runs.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use rustix::net::sockopt::set_tcp_user_timeout;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::adapter::config::AdapterConfig;
use crate::adapter::files::{FileLimits, FileStore};
use crate::adapter::http::accept::accept;
use crate::adapter::http::connections::{ConnectionGuard, ConnectionLimiter};
use crate::adapter::http::hyper_errors::ErrorBodyRewriter;
use crate::adapter::http::{handler, metrics_listener};
use crate::adapter::session::{App, Phase, probe};

/// Connections at a time, if that leaves as many descriptors for everything else.
const MAX_CONNECTIONS: usize = 4096;
/// How long a connection may be idle, or take to send its header; long enough that a proxy rarely
/// sends a request as its connection is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// The read buffer of a connection. Hyper responds to a larger head with 431; the documented limits
/// are below it.
const READ_AHEAD: usize = 128 << 10;
/// How long a client may read nothing of a response before its connection is closed.
const TCP_USER_TIMEOUT_MS: u32 = 75_000;
/// The time to send the last responses once their executions have ended.
const FLUSH: Duration = Duration::from_secs(3);
/// The time for executions to end once they are killed.
const KILL: Duration = Duration::from_secs(1);

/// Why the adapter cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The HTTP client that talks to the engine.
    #[error("cannot set up the client of the engine: {0}")]
    Client(#[from] reqwest::Error),
    /// The directory of the session's files.
    #[error("cannot open the data directory: {0}")]
    Data(#[source] io::Error),
    /// A task that never ends has ended: the one that watches the engine, or tells the metrics.
    #[error("a task in the background has ended: {0:?}")]
    Background(Option<tokio::task::JoinError>),
}

/// Where an adapter listens.
#[derive(Debug)]
pub struct Listeners {
    pub sessions: TcpListener,
    /// For `GET /metrics` alone.
    pub metrics: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(sessions: TcpListener) -> Self {
        Self {
            sessions,
            metrics: None,
        }
    }
}

/// Serves until `shutdown` resolves, then lets executions end for as long as the configuration
/// allows, and kills those that remain.
///
/// # Errors
/// [`AdapterError`] where nothing could be served at all.
pub async fn serve(
    listeners: impl Into<Listeners>,
    config: AdapterConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AdapterError> {
    let listeners = listeners.into();
    let listener = listeners.sessions;
    let drain_timeout = config.drain_timeout;
    let limits = FileLimits {
        bytes: config.data_bytes,
        entries: config.data_files,
    };
    let files = FileStore::open(&config.data_dir, limits).map_err(AdapterError::Data)?;
    let app = Arc::new(App::new(config, files)?);
    let mut background = JoinSet::new();
    background.spawn({
        let app = Arc::clone(&app);
        async move { probe::watch(&app).await }
    });
    if let Some(listener) = listeners.metrics {
        background.spawn(metrics_listener::serve(listener, Arc::clone(&app)));
    }
    let graceful = GracefulShutdown::new();
    let limiter = ConnectionLimiter::new(max_connections(), Arc::clone(&app.metrics));
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = background.join_next() => return Err(AdapterError::Background(ended.err())),
            (stream, guard) = next(&listener, &limiter) => {
                tokio::spawn(connection(stream, guard, Arc::clone(&app), &graceful));
            }
        }
    }

    drop(listener);
    app.set_phase(Phase::Draining);
    tracing::info!(
        running = app.limiter.running(),
        waiting = app.limiter.waiting(),
        "draining"
    );
    let deadline = Instant::now() + drain_timeout;
    if timeout_at(deadline, app.idle()).await.is_err() {
        tracing::warn!(
            running = app.limiter.running(),
            "drain timeout elapsed; killing executions"
        );
        app.set_phase(Phase::Killing);
        let _ = timeout(KILL, app.idle()).await;
    }
    if timeout(FLUSH, graceful.shutdown()).await.is_err() {
        tracing::warn!("some clients did not read their response in time");
    }
    Ok(())
}

/// How many connections there may be.
fn max_connections() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current;
    let half = descriptors.map_or(usize::MAX, |limit| {
        usize::try_from(limit / 2).unwrap_or(usize::MAX)
    });
    half.clamp(1, MAX_CONNECTIONS)
}

/// The next connection, and a guard for it.
async fn next(
    listener: &TcpListener,
    limiter: &Arc<ConnectionLimiter>,
) -> (TcpStream, ConnectionGuard) {
    let stream = accept(listener).await;
    (stream, limiter.take().await)
}

/// Serves the requests of one connection. Hyper drops the handler of a request whose client
/// disconnects, and with it everything that was done for it.
fn connection(
    stream: TcpStream,
    guard: ConnectionGuard,
    app: Arc<App>,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + use<> {
    // A socket that will not take the option is about to fail anyway.
    let _ = stream.set_nodelay(true);
    let _ = set_tcp_user_timeout(&stream, TCP_USER_TIMEOUT_MS);
    let connected = app.metrics.connected();
    let guard = Arc::new(guard);
    let own = Arc::clone(&guard);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let app = Arc::clone(&app);
        let request_guard = own.request();
        async move { Ok::<_, Infallible>(handler::answer(&app, request, request_guard).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(READ_AHEAD)
        .serve_connection(
            TokioIo::new(ErrorBodyRewriter::new(stream, Arc::clone(&guard))),
            service,
        );
    let watched = graceful.watch(connection);
    async move {
        let _connected = connected;
        let ended = tokio::select! {
            ended = watched => ended,
            () = guard.closed() => return,
        };
        match ended {
            // The response was a 400, 414 or 431; nothing else is known of the request.
            Err(error) if error.is_parse() => tracing::info!(%error, "malformed request"),
            // The client went away or was too slow: its requests have lines of their own.
            Ok(()) | Err(_) => {}
        }
    }
}
