//! The page of metrics in Prometheus' text format.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::adapter::session::Session;
use crate::adapter::telemetry::exposition::{Kind, Page};

/// The content type of the page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// What the engine may say of its sandbox under `GET /`, and is told.
const LAYERS: [&str; 7] = [
    "as_root",
    "landlock",
    "limits",
    "network",
    "no_new_privileges",
    "own_users",
    "seccomp",
];
/// How long the engine may take to tell of itself.
const ABOUT: Duration = Duration::from_secs(1);

/// The page, as it is now.
pub async fn page(session: &Session) -> String {
    let engine = session.client.about(Instant::now() + ABOUT).await;
    let engine = engine.unwrap_or_default();
    let mut page = Page::default();
    about_session(&mut page, session);
    session.metrics.write(&mut page);
    if let Some(jobs) = engine.jobs {
        page.family(
            "engine_jobs",
            Kind::Gauge,
            "Jobs of the engine: running, or waiting for a place.",
        );
        page.sample("engine_jobs", &[("state", "running")], jobs.running);
        page.sample("engine_jobs", &[("state", "waiting")], jobs.waiting);
    }
    if let Some(Value::Object(sandbox)) = engine.sandbox {
        page.family(
            "sandbox_layer",
            Kind::Gauge,
            "Whether a layer of the engine's sandbox is on; network and as_root are rights that jobs have.",
        );
        for layer in LAYERS {
            if let Some(found) = sandbox.get(layer) {
                let is_on = !matches!(found, Value::Null | Value::Bool(false));
                page.sample("sandbox_layer", &[("layer", layer)], u8::from(is_on));
            }
        }
    }
    page.into_text()
}

fn about_session(page: &mut Page, session: &Session) {
    let metrics = &session.metrics;
    page.family(
        "build_info",
        Kind::Gauge,
        "Always 1; the version of this program and its kind of engine.",
    );
    let engine = session.config.engine.to_string();
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("engine", engine.as_str()),
    ];
    page.sample("build_info", &labels, 1);
    page.single(
        "start_time_seconds",
        Kind::Gauge,
        "When the session began, in seconds since 1970.",
        metrics.start_time(),
    );
    page.single(
        "uptime_seconds",
        Kind::Gauge,
        "For how long the session has been there.",
        metrics.uptime().as_secs_f64(),
    );
    page.single(
        "ready",
        Kind::Gauge,
        "Whether a real execution works, as far as it is known.",
        u8::from(session.readiness.check().is_ok()),
    );
    page.single(
        "connections",
        Kind::Gauge,
        "Connections that are open.",
        metrics.connections(),
    );
    for (name, help, running, waiting) in [
        (
            "executions_now",
            "Executions, readiness checks included: running, or waiting for their turn.",
            session.gate.running(),
            session.gate.waiting(),
        ),
        (
            "executions_most",
            "How many executions may run and wait.",
            session.config.max_jobs,
            session.config.queue,
        ),
    ] {
        page.family(name, Kind::Gauge, help);
        page.sample(name, &[("state", "running")], running);
        page.sample(name, &[("state", "waiting")], waiting);
    }
}
