//! The page of metrics in Prometheus' text format.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::adapter::session::App;
use crate::adapter::telemetry::exposition::{Kind, Page};

/// The content type of the page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// What the engine may say of its sandbox under `GET /`, and is told.
const LAYERS: [&str; 8] = [
    "as_root",
    "landlock",
    "limits",
    "namespaces",
    "network",
    "no_new_privileges",
    "own_users",
    "seccomp",
];
/// How long the engine may take to tell of itself.
const ABOUT: Duration = Duration::from_secs(1);

/// The page, as it is now.
pub async fn page(app: &App) -> String {
    let engine = app.backend.client().about(Instant::now() + ABOUT).await;
    let engine = engine.unwrap_or_default();
    let mut page = Page::default();
    about_session(&mut page, app);
    app.metrics.write(&mut page);
    if let Some(jobs) = engine.jobs {
        page.family(
            "engine_jobs",
            Kind::Gauge,
            "Jobs of the engine: running, or waiting for a place.",
        );
        page.sample("engine_jobs", &[("state", "running")], jobs.running);
        page.sample("engine_jobs", &[("state", "waiting")], jobs.waiting);
    }
    if let Some(kernels) = engine.kernels {
        page.family(
            "engine_kernels",
            Kind::Gauge,
            "Kernels of the engine: those of sessions, and those started ahead.",
        );
        page.sample("engine_kernels", &[("state", "running")], kernels.running);
        page.sample("engine_kernels", &[("state", "spare")], kernels.spare);
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

fn about_session(page: &mut Page, app: &App) {
    let metrics = &app.metrics;
    page.family(
        "build_info",
        Kind::Gauge,
        "Always 1; the version of this program and its kind of engine.",
    );
    let engine = app.config.engine.to_string();
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
        u8::from(app.readiness.check().is_ok()),
    );
    page.single(
        "connections",
        Kind::Gauge,
        "Connections that are open.",
        metrics.connections(),
    );
    for (name, help, running, waiting) in [
        (
            "executions",
            "Executions, readiness checks included: running, or waiting for their turn.",
            app.limiter.running(),
            app.limiter.waiting(),
        ),
        (
            "executions_limit",
            "How many executions may run and wait.",
            app.config.max_jobs,
            app.config.queue,
        ),
    ] {
        page.family(name, Kind::Gauge, help);
        page.sample(name, &[("state", "running")], running);
        page.sample(name, &[("state", "waiting")], waiting);
    }
}
