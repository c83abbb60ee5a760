//! The embedded engine: a Piston API that needs no privileges.
//!
//! `POST /api/v2/execute`, `GET /api/v2/runtimes` and `GET /api/v2/packages` speak Piston's wire,
//! as recorded from Piston 3.1.1. A request becomes a job: a fresh directory with the request's
//! files, a compile stage where the language has one, a run stage, and Piston's words for how each
//! ended. What runs and contains the job is in [`sandbox`].
//!
//! Where it does otherwise than Piston, and why, is in `fixtures/README.md`. One member of a request
//! is its own: `"working_directory": "data"` makes the run stage start in the data directory instead
//! of the job's. `GET /` says what contains the jobs, and how many there are.

mod config;
#[doc(hidden)]
pub mod fuzzing;
mod job;
mod json;
mod memory;
mod outcome;
mod output;
mod request;
mod runtimes;
#[allow(unsafe_code, reason = "what contains a job is made of system calls")]
pub mod sandbox;
mod server;
mod stdio;
mod warm;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::DumpableBehavior;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, OnceCell, watch};

pub use config::EngineConfig;
pub use runtimes::TableError;

use crate::data_dir::{DataDir, DataDirError};
use crate::gate::Gate;
use crate::piston::{Jobs, Runtime};
use job::Shop;
use runtimes::{Entry, Installed, accepts, candidates, version_in};
use sandbox::{LinkError, SandboxReport, SpawnerHandle, installed_with};
use warm::Pool;

/// How often a runtime is asked for its version once more that could not be asked.
const ASK_AGAIN: u32 = 3;
/// How long before each of these.
const ASK_PAUSE: Duration = Duration::from_millis(200);
/// How long it is made do with those that could be asked; twice as long each time, up to the second.
const MAKE_DO: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The table of runtimes.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The sandbox cannot be started.
    #[error("the engine's sandbox cannot be started: {0}")]
    Sandbox(#[source] std::io::Error),
    /// Layers are missing without which hostile code is not contained.
    #[error(
        "jobs cannot be contained here, for want of: {missing}; --allow-weak-sandbox runs them all the same"
    )]
    WeakSandbox {
        /// The layers, in words.
        missing: String,
    },
    /// The process that starts the jobs is gone; its end in words.
    #[error("the engine's spawner ended unexpectedly: {0}")]
    SpawnerEnded(String),
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
    jobs: Jobs,
    warm: warm::Count,
}

/// What all requests share.
#[derive(Debug)]
struct Inner {
    config: EngineConfig,
    gate: Gate,
    /// Dropped ahead of the spawner.
    pool: Pool,
    spawner: SpawnerHandle,
    /// Locked for as long as this process uses it, where it was given.
    _data_dir: Option<DataDir>,
    table: Vec<Entry>,
    path: Vec<PathBuf>,
    found: OnceCell<Arc<[Installed]>>,
    found_so_far: Mutex<Option<SoFar>>,
    stop: watch::Sender<bool>,
}

/// The runtimes that are known while not every one could be asked.
#[derive(Debug)]
struct SoFar {
    found: Arc<[Installed]>,
    since: Instant,
    longest: Duration,
}

impl SoFar {
    fn will_do(&self) -> bool {
        self.since.elapsed() < self.longest
    }
}

impl Engine {
    /// Starts the spawner. Takes some milliseconds, and no runtime.
    ///
    /// # Errors
    /// Where the table of runtimes or the data directory cannot be used, or the sandbox cannot be
    /// started.
    pub fn start(config: EngineConfig) -> Result<Self, EngineError> {
        let table = runtimes::load(config.runtimes.as_deref())?;
        let data_dir = config.data_dir.as_deref();
        let data_dir = data_dir
            .map(|path| DataDir::open(path, config.adopt_data_dir))
            .transpose()?;
        let lock = data_dir.as_ref().map(DataDir::lock);
        let spawner = SpawnerHandle::start(&config.program, &config.setup(), lock)
            .map_err(EngineError::Sandbox)?;
        let missing = spawner.report.missing_required_layers();
        if !missing.is_empty() && !config.allow_weak_sandbox {
            return Err(EngineError::WeakSandbox {
                missing: missing.join(", "),
            });
        }
        let path = search_path(spawner.report.own_users);
        // Where jobs share a user, an earlier one could reach into what runs a later one, and how
        // many processes that may have could only be said when it is started.
        let warm = if spawner.report.own_users {
            config.warm
        } else {
            0
        };
        Ok(Self {
            inner: Arc::new(Inner {
                gate: Gate::new(config.max_jobs, config.queue),
                pool: Pool::new(warm),
                config,
                spawner,
                _data_dir: data_dir,
                table,
                path,
                found: OnceCell::new(),
                found_so_far: Mutex::default(),
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
            // Nothing may keep the engine when its last owner lets go.
            let filling = Arc::downgrade(&asking);
            drop(asking);
            warm::keep_full(filling).await;
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

    /// Waits until no job can be started any more, and says why. Jobs that run may still end by
    /// themselves.
    pub async fn failed(&self) -> EngineError {
        EngineError::SpawnerEnded(self.inner.spawner.ended().await)
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
            jobs: Jobs {
                running: self.gate.running(),
                waiting: self.gate.waiting(),
            },
            warm: self.pool.count(),
        }
    }

    fn shop(&self) -> Shop<'_> {
        Shop {
            config: &self.config,
            spawner: &self.spawner,
            pool: &self.pool,
            path: &self.path,
            stop: self.stop.subscribe(),
        }
    }

    /// The runtimes of this machine, by name and version.
    async fn installed(&self) -> Arc<[Installed]> {
        if let Some(all) = self.found.get() {
            return Arc::clone(all);
        }
        let mut so_far = self.found_so_far.lock().await;
        // Somebody else may have found them meanwhile.
        if let Some(all) = self.found.get() {
            return Arc::clone(all);
        }
        if let Some(so_far) = so_far.as_ref().filter(|so_far| so_far.will_do()) {
            return Arc::clone(&so_far.found);
        }
        let (found, is_all) = self.find().await;
        if is_all {
            // Nobody else sets it while the lock is held.
            let _ = self.found.set(Arc::clone(&found));
        } else {
            let longest = so_far.as_ref().map_or(MAKE_DO[0], |last| last.longest * 2);
            *so_far = Some(SoFar {
                found: Arc::clone(&found),
                since: Instant::now(),
                longest: longest.min(MAKE_DO[1]),
            });
        }
        found
    }

    /// Asks for every runtime; says whether all could be asked.
    async fn find(&self) -> (Arc<[Installed]>, bool) {
        // All at once: most of the time is spent waiting for slow starters.
        let shop = self.shop();
        let asked = join_all(self.table.iter().map(|entry| find_one(&shop, entry))).await;
        let (mut found, mut is_all) = (Vec::new(), true);
        for (entry, asked) in self.table.iter().zip(asked) {
            let asked = match asked {
                // Where one could not, waiting for each of the others would take long.
                Err(_) if is_all => ask_again(&shop, entry).await,
                done => done,
            };
            match asked {
                Ok(one) => found.extend(one),
                Err(error) => {
                    is_all = false;
                    let language = &entry.language;
                    tracing::error!(%error, language, "a runtime cannot be asked for its version");
                }
            }
        }
        found.sort_by(|a: &Installed, b: &Installed| {
            (&a.entry.language, &a.version).cmp(&(&b.entry.language, &b.version))
        });
        let names: Vec<_> = found
            .iter()
            .map(|one| format!("{} {}", one.entry.language, one.version))
            .collect();
        tracing::info!(runtimes = names.join(", "), "runtimes found");
        (found.into(), is_all)
    }
}

/// Asks the programs of an entry, best first, until one tells a version that will do. They are
/// asked in a job, so that what a job could not run is not found.
///
/// # Errors
/// Where one could not be asked.
async fn find_one(shop: &Shop<'_>, entry: &Entry) -> Result<Option<Installed>, LinkError> {
    for program in candidates(entry, shop.path) {
        let Some(text) = shop.ask(&program, &entry.version).await? else {
            continue;
        };
        if let Some(version) = version_in(&text).filter(|version| accepts(entry, version)) {
            return Ok(Some(Installed {
                entry: Arc::new(entry.clone()),
                readable: installed_with(&program),
                program,
                version,
            }));
        }
    }
    Ok(None)
}

/// Asks for an entry that could not be asked for along with all others, which may have taken too many
/// processes or descriptors together.
///
/// # Errors
/// Where it still cannot be asked.
async fn ask_again(shop: &Shop<'_>, entry: &Entry) -> Result<Option<Installed>, LinkError> {
    let mut tries = ASK_AGAIN;
    loop {
        tokio::time::sleep(ASK_PAUSE).await;
        tries -= 1;
        match find_one(shop, entry).await {
            Err(_) if tries > 0 => {}
            done => return done,
        }
    }
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
