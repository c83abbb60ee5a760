//! The embedded engine: a Piston API that needs no privileges.
//!
//! `POST /api/v2/execute`, `GET /api/v2/runtimes` and `GET /api/v2/packages` speak Piston's wire,
//! as recorded from Piston 3.1.1. A request becomes a job: a fresh directory with the request's
//! files, a compile stage where the language has one, a run stage, and Piston's words for how each
//! ended. What runs and contains the job is in [`sandbox`].
//!
//! # Where it is not Piston
//!
//! | Piston | this engine | why |
//! |---|---|---|
//! | bad JSON, wrong charset: 400 `{"stack"}` | 400 `{"message"}` | a stack names the server's paths |
//! | 400 `{}` for `stdin` that is no string, `files: [null]` | 400 `{"message"}` | the caller must know what is wrong |
//! | bodies over 102 400 bytes: 400 | up to `max_body`, then 413 | programs and inputs are longer |
//! | compressed bodies are read | 415 | no client sends them on loopback |
//! | file name that leads out, is `.`, a number, too long or has a NUL: 500 | 400 `{"message"}` | it is the caller's fault |
//! | absolute file name: runs the machine's file | 400 `{"message"}` | the file sent is not the one that would run |
//! | file name `..x`: 500 | a name like any other | it does not lead out |
//! | file name or `args` of a kind that cannot be used: 500 | 400 `{"message"}` | it is the caller's fault |
//! | main file `-x`: taken for an option | is run, as `./-x` | the caller means the file |
//! | limit 0 or below 1: none at all | the engine's own limit | nothing may run for ever |
//! | negative memory limit: none at all | the engine's own limit | nothing may use all memory |
//! | output over the limit is lost with its chunk | kept up to the limit | what was printed shows what went wrong |
//! | stderr then says `Sandbox keeper received fatal signal 6` | it does not | that is the sandbox, not the program |
//! | a character split over two reads becomes U+FFFD | stays whole | the program printed it whole |
//! | killed by a signal: stderr has the path of the run script | stderr has the signal in words | the path means nothing to a client |
//! | tracebacks name `/box/submission/main.py` | `main.py` | the job's directory has a random name |
//! | c, c++: every file gets `.c`, `.cpp` added | the main file, if it has no such ending, and nameless ones | headers can be included |
//! | c, c++: `chmod: cannot access 'a.out'` after a compile error | not there | no such script |
//! | java: `.java` added always | added where it is missing | file names in messages are the caller's |
//! | `/tmp` is the job's own, and its `HOME` | `TMPDIR` and `HOME` are a folder of the job's own | needs no mount |
//! | no address but loopback is reachable, sockets can be made | sockets are refused | needs no network namespace |
//! | `memory` is the control group's | the highest sum of what the processes held | needs no control group |
//! | more jobs than fit wait without bound | 429 with `Retry-After` behind a queue | a bound on memory |
//! | a client that hangs up leaves its job running | the job is killed | nobody waits for it |
//! | `GET /api/v2/packages` asks the network | lists what is installed | there is nothing to install |

#![deny(unsafe_code)]

mod config;
mod job;
mod json;
mod outcome;
mod output;
mod request;
mod runtimes;
#[allow(unsafe_code, reason = "what contains a job is made of system calls")]
pub mod sandbox;
mod server;
mod signals;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::DumpableBehavior;
use tokio::net::TcpListener;
use tokio::sync::{OnceCell, watch};

pub use config::EngineConfig;
pub use runtimes::TableError;

use crate::gate::Gate;
use crate::piston::Runtime;
use job::Shop;
use runtimes::{Entry, Installed, accepts, candidates, version_in};
use sandbox::{SandboxReport, SpawnerHandle, installed_with};

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The table of runtimes.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The sandbox cannot be started.
    #[error("the engine's sandbox cannot be started: {0}")]
    Sandbox(#[source] std::io::Error),
    /// Layers are missing without which hostile code is not contained.
    #[error("jobs cannot be contained here, for want of: {missing}")]
    WeakSandbox {
        /// The layers, in words.
        missing: String,
    },
}

/// A running engine. Clones are the same engine; when the last one is dropped every job ends.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// The answer of `GET /`.
#[derive(Debug, serde::Serialize)]
struct About<'a> {
    message: &'static str,
    sandbox: &'a SandboxReport,
}

/// What all requests share.
#[derive(Debug)]
struct Inner {
    config: EngineConfig,
    gate: Gate,
    spawner: SpawnerHandle,
    table: Vec<Entry>,
    path: Vec<PathBuf>,
    found: OnceCell<Arc<[Installed]>>,
    stop: watch::Sender<bool>,
}

impl Engine {
    /// Starts the spawner. Takes some milliseconds, and no runtime.
    ///
    /// # Errors
    /// Where the table of runtimes cannot be used or the sandbox cannot be started.
    pub fn start(config: EngineConfig) -> Result<Self, EngineError> {
        let table = runtimes::load(config.runtimes.as_deref())?;
        let spawner =
            SpawnerHandle::start(&config.program, &config.setup()).map_err(EngineError::Sandbox)?;
        let missing = spawner.report.missing_pillars();
        if !missing.is_empty() && !config.allow_weak_sandbox {
            return Err(EngineError::WeakSandbox {
                missing: missing.join(", "),
            });
        }
        let path = search_path(spawner.report.own_users);
        Ok(Self {
            inner: Arc::new(Inner {
                gate: Gate::new(config.max_jobs, config.queue),
                config,
                spawner,
                table,
                path,
                found: OnceCell::new(),
                stop: watch::Sender::new(false),
            }),
        })
    }

    /// Serves Piston's API until `shutdown` is done, and then until the requests under way are
    /// answered. Connections are accepted at once; what needs the runtimes waits until the
    /// programs have told their versions.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let asking = Arc::clone(&self.inner);
        tokio::spawn(async move {
            asking.installed().await;
        });
        server::serve(Arc::clone(&self.inner), listener, shutdown).await;
    }

    /// The runtimes that were found on this machine. The first call asks the programs.
    pub async fn runtimes(&self) -> Vec<Runtime> {
        let installed = self.inner.installed().await;
        installed.iter().map(Installed::to_wire).collect()
    }

    /// What contains the jobs on this machine.
    pub fn sandbox(&self) -> &SandboxReport {
        &self.inner.spawner.report
    }

    /// The folder with the jobs' directories, empty when no job is there.
    pub fn work_dir(&self) -> &std::path::Path {
        &self.inner.spawner.work
    }

    /// The folder that all jobs may read and write: the one that was chosen, else one that goes
    /// with the engine.
    pub fn data_dir(&self) -> &std::path::Path {
        &self.inner.spawner.data_dir
    }

    /// Gives up root for good, where jobs have users of their own: this process becomes the user
    /// that can read and write what jobs leave in the data directory. To be called once, after the
    /// ports are bound. Returns the user's id; `None` where there is nothing to give up, but also then
    /// other processes of its user cannot look into this one any more.
    ///
    /// # Errors
    /// Where the change is refused; the process must not go on then.
    pub fn drop_privileges(&self) -> std::io::Result<Option<u32>> {
        if let Some(id) = self.inner.spawner.service {
            sandbox::become_service(id)?;
        }
        // Jobs that share this process's user must not look into it either.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        Ok(self.inner.spawner.service)
    }

    /// Ends every job that runs now or is started later; each request is answered as if a signal
    /// had ended its program.
    pub fn kill_all(&self) {
        self.inner.stop.send_replace(true);
    }
}

/// The runtimes that an engine with this configuration finds on this machine.
///
/// # Errors
/// As [`Engine::start`].
pub async fn discover(config: EngineConfig) -> Result<Vec<Runtime>, EngineError> {
    Ok(Engine::start(config)?.runtimes().await)
}

impl Inner {
    /// What `GET /` says.
    fn about(&self) -> About<'_> {
        About {
            message: concat!(
                "session-adapter embedded engine v",
                env!("CARGO_PKG_VERSION")
            ),
            sandbox: &self.spawner.report,
        }
    }

    fn shop(&self) -> Shop<'_> {
        Shop {
            config: &self.config,
            spawner: &self.spawner,
            path: &self.path,
            stop: self.stop.subscribe(),
        }
    }

    /// The runtimes of this machine, by name and version.
    async fn installed(&self) -> Arc<[Installed]> {
        Arc::clone(self.found.get_or_init(|| self.find()).await)
    }

    async fn find(&self) -> Arc<[Installed]> {
        let mut found = Vec::new();
        // All at once: most of the time is spent waiting for slow starters.
        let shop = self.shop();
        for asked in join_all(self.table.iter().map(|entry| find_one(&shop, entry))).await {
            found.extend(asked);
        }
        found.sort_by(|a: &Installed, b: &Installed| {
            (&a.entry.language, &a.version).cmp(&(&b.entry.language, &b.version))
        });
        let names: Vec<_> = found
            .iter()
            .map(|one| format!("{} {}", one.entry.language, one.version))
            .collect();
        tracing::info!(runtimes = names.join(", "), "runtimes found");
        found.into()
    }
}

/// Asks the programs of an entry, best first, until one tells a version that will do. They are
/// asked in a job, so that what a job could not run is not found.
async fn find_one(shop: &Shop<'_>, entry: &Entry) -> Option<Installed> {
    for program in candidates(entry, shop.path) {
        let Some(text) = shop.ask(&program, &entry.version).await else {
            continue;
        };
        if let Some(version) = version_in(&text).filter(|version| accepts(entry, version)) {
            return Some(Installed {
                entry: Arc::new(entry.clone()),
                readable: installed_with(&program),
                program,
                version,
            });
        }
    }
    None
}

/// Waits for all of a few futures, all of which make progress.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    use std::task::Poll;
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, output) in &mut waiting {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *output = Some(value),
                    Poll::Pending => ready = false,
                }
            }
        }
        if ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    waiting
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}

/// The folders for `PATH`: those of this process that a job's user may enter.
fn search_path(own_uids: bool) -> Vec<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let open_to_all = |folder: &std::path::Path| {
        folder.ancestors().all(|step| {
            std::fs::metadata(step).is_ok_and(|found| found.permissions().mode() & 0o001 != 0)
        })
    };
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute() && (!own_uids || open_to_all(folder)))
        .collect();
    for usual in ["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from) {
        if !folders.contains(&usual) {
            folders.push(usual);
        }
    }
    folders
}
