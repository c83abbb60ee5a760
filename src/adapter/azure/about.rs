//! `GET /`: what this is, what it runs, and what it allows.

use serde::Serialize;

use crate::adapter::azure::version::API_VERSIONS;
use crate::adapter::session::App;
use crate::piston::{EngineAbout, KernelsStatus, Runtime};

const PATHS: [&str; 29] = [
    "POST /{language}/execute",
    "POST /code/execute",
    "POST /execute",
    "POST /executions",
    "GET /executions/{id}",
    "POST /shellExecute",
    "GET /session",
    "DELETE /session",
    "GET /listSessions",
    "GET /metadata",
    "POST /.management/stopSession",
    "GET /files",
    "POST /files",
    "GET /files/{name}",
    "DELETE /files/{name}",
    "GET /files/{name}/content",
    "POST /files/upload",
    "GET /files/content/{name}",
    "POST /upload",
    "GET /python/files",
    "POST /python/uploadFile",
    "GET /python/downloadFile",
    "POST /api/v2/execute",
    "GET /api/v2/runtimes",
    "GET /api/v2/packages",
    "GET /health",
    "GET /health/startup",
    "GET /ready",
    "GET /",
];

const KEPT: &str = "kept between Python executions of /code/execute, /executions, /execute and of \
                    pythonCode, in a kernel for each identifier; fresh for all others";
const FRESH: &str = "fresh each time: every execution is a process of its own";

/// The response of `GET /`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    name: &'static str,
    version: &'static str,
    engine: String,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<serde_json::Value>,
    variables: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernels: Option<KernelsStatus>,
    runtimes: Vec<Runtime>,
    api_versions: [&'static str; API_VERSIONS.len()],
    limits: Limits,
    paths: Vec<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    run_timeout_in_seconds: f64,
    max_run_timeout_in_seconds: f64,
    max_body_in_bytes: usize,
    max_upload_in_bytes: u64,
    output_in_bytes: usize,
    memory_in_bytes: u64,
    executions: usize,
    queue: usize,
}

impl About {
    /// What is known now, from the engine too.
    pub fn new(app: &App, engine: EngineAbout) -> Self {
        let config = &app.config;
        Self {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            engine: config.engine.to_string(),
            ready: app.readiness.check().is_ok(),
            sandbox: engine.sandbox,
            variables: match &engine.kernels {
                Some(_) => KEPT,
                None => FRESH,
            },
            kernels: engine.kernels,
            runtimes: app.runtimes.known().to_vec(),
            api_versions: API_VERSIONS,
            limits: Limits {
                run_timeout_in_seconds: config.run_timeout.as_secs_f64(),
                max_run_timeout_in_seconds: config.max_run_timeout.as_secs_f64(),
                max_body_in_bytes: config.max_body,
                max_upload_in_bytes: config.max_upload,
                output_in_bytes: config.output_limit,
                memory_in_bytes: config.memory_limit,
                executions: config.max_jobs,
                queue: config.queue,
            },
            paths: PATHS
                .into_iter()
                .chain(config.metrics_path.then_some("GET /metrics"))
                .collect(),
        }
    }
}
