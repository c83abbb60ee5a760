//! A listener for the metrics alone, for when clients of the session must not read them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::adapter::azure::Rendered;
use crate::adapter::azure::error::ApiError;
use crate::adapter::http::accept::accept;
use crate::adapter::http::metrics_page::{CONTENT_TYPE, page};
use crate::adapter::http::response::JSON;
use crate::adapter::session::App;

/// Connections at a time; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 16;
/// How long a connection may be idle, or take to send its header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a connection lasts at most, whatever happens on it.
const CONNECTION_TIME: Duration = Duration::from_secs(3600);

/// Answers `GET /metrics`, for ever.
pub async fn serve(listener: TcpListener, app: Arc<App>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&connections).acquire_owned().await.ok();
        let stream = accept(&listener).await;
        let app = Arc::clone(&app);
        let service = service_fn(move |request| {
            let app = Arc::clone(&app);
            async move { Ok::<_, Infallible>(answer(&app, request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            let _permit = permit;
            // Whoever is cut off asks again.
            let _ = timeout(CONNECTION_TIME, connection).await;
        });
    }
}

async fn answer(app: &App, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, _body) = request.into_parts();
    if let Err(error) = app.config.access.check(&head) {
        return refusal(&error.into());
    }
    let status = match (head.uri.path(), &head.method) {
        ("/metrics", &Method::GET | &Method::HEAD) => {
            let mut response = Response::new(Full::from(page(app).await));
            let content_type = HeaderValue::from_static(CONTENT_TYPE);
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, content_type);
            return response;
        }
        ("/metrics", _) => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_FOUND,
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn refusal(error: &ApiError) -> Response<Full<Bytes>> {
    let rendered = Rendered::error(error.metadata());
    let mut response = Response::new(Full::new(rendered.body));
    *response.status_mut() = rendered.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    let code = HeaderValue::from_static(error.metadata().code);
    headers.insert("x-ms-error-code", code);
    response
}
