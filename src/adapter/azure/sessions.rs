//! Responses about the session and the pool: `GET /session`, `GET /listSessions`,
//! `GET /metadata`, `POST /.management/stopSession`.
//!
//! Source: `Session`, `SessionsListResponse` and `SessionPoolMetadataResponse` in the published
//! OpenAPI documents.

use serde::Serialize;

use crate::adapter::azure::body::Rendered;
use crate::adapter::azure::query::Query;
use crate::adapter::model::identifier::Identifier;
use crate::adapter::model::package::Package;
use crate::adapter::model::timestamp::Timestamp;
use crate::adapter::session::App;
use crate::adapter::session::identifiers::SessionRecord;
use crate::piston::KernelsStatus;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionResource<'a> {
    identifier: &'a str,
    created_at: Timestamp,
    last_accessed_at: Timestamp,
    expire_at: Timestamp,
    etag: String,
}

#[derive(Serialize)]
struct SessionList<'a> {
    sessions: Vec<SessionResource<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    runtimes: Vec<RuntimeEntry<'a>>,
    pre_installed_packages: &'a [Package],
    created_at: Timestamp,
    last_updated_at: Timestamp,
    jupyter_kernel: JupyterKernel<'a>,
}

#[derive(Serialize)]
struct RuntimeEntry<'a> {
    name: &'a str,
    version: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JupyterKernel<'a> {
    name: &'static str,
    version: &'a str,
    project_url: &'static str,
    description: &'static str,
}

impl<'a> JupyterKernel<'a> {
    fn of(kernels: Option<&'a KernelsStatus>) -> Self {
        match kernels.map(|kernels| kernels.ipython.as_deref()) {
            Some(Some(version)) => Self {
                name: "ipython",
                version,
                project_url: "https://ipython.org",
                description: "Python code runs in IPython, and keeps its variables.",
            },
            Some(None) => Self {
                name: "python",
                version: env!("CARGO_PKG_VERSION"),
                project_url: "https://www.python.org",
                description: "Python code keeps its variables. IPython is not installed, or no code \
                              has run yet.",
            },
            None => Self {
                name: "none",
                version: env!("CARGO_PKG_VERSION"),
                project_url: "https://github.com/engineer-man/piston",
                description: "There is no kernel: every execution is a process of its own.",
            },
        }
    }
}

fn resource<'a>(
    app: &App,
    record: &'a SessionRecord,
    asked: Option<&'a Identifier>,
) -> SessionResource<'a> {
    let identifier = record.identifier.as_ref().or(asked);
    SessionResource {
        identifier: identifier.map_or("", Identifier::as_str),
        created_at: record.created_at.into(),
        last_accessed_at: record.last_accessed_at.into(),
        expire_at: record.expire_at().into(),
        etag: app.session.guid.to_string(),
    }
}

/// The response of `GET /session`.
pub fn session(app: &App, record: &SessionRecord, asked: Option<&Identifier>) -> Rendered {
    Rendered::ok(&resource(app, record, asked))
}

/// The response of `GET /listSessions`.
pub fn list(app: &App, query: &Query) -> Rendered {
    let named = app.session.identifiers.named();
    Rendered::ok(&SessionList {
        sessions: named
            .iter()
            .skip(query.skip)
            .map(|record| resource(app, record, None))
            .collect(),
    })
}

/// The response of `GET /metadata`.
pub fn metadata(app: &App, packages: &[Package], kernels: Option<&KernelsStatus>) -> Rendered {
    let runtimes = app.runtimes.known();
    let created_at = Timestamp::from(app.session.created_at);
    Rendered::ok(&Metadata {
        runtimes: runtimes
            .iter()
            .map(|runtime| RuntimeEntry {
                name: &runtime.language,
                version: &runtime.version,
            })
            .collect(),
        pre_installed_packages: packages,
        last_updated_at: created_at,
        created_at,
        jupyter_kernel: JupyterKernel::of(kernels),
    })
}

/// The response of `POST /.management/stopSession`: a text, as JSON.
pub fn stopped(identifier: Option<&Identifier>) -> Rendered {
    match identifier {
        Some(identifier) => Rendered::ok(&format!("Session {} stopped.", identifier.as_str())),
        None => Rendered::ok(&"The session stopped."),
    }
}
