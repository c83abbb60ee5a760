//! Finds the runtimes of this machine: each program of the table is asked for its version in a job, so
//! that what a job cannot run is not found.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OnceCell};

use super::job::JobContext;
use super::runtimes::{Entry, Installed, accepts, candidates, version_in};
use super::sandbox::{LinkError, installed_with};

/// How often a runtime is asked for its version once more that could not be asked.
const ASK_AGAIN: u32 = 3;
/// How long before each of these.
const ASK_PAUSE: Duration = Duration::from_millis(200);
/// How long runtimes that could not be asked are left alone: doubles from the first to the second
/// value.
const DISCOVERY_BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];

/// The table of runtimes, and which of them are on this machine.
#[derive(Debug)]
pub(super) struct Discovery {
    pub(super) table: Vec<Entry>,
    found: OnceCell<Arc<[Installed]>>,
    partial: Mutex<Option<PartialDiscovery>>,
}

/// The runtimes that are known while not every one could be asked.
#[derive(Debug)]
struct PartialDiscovery {
    found: Arc<[Installed]>,
    since: Instant,
    backoff: Duration,
}

impl PartialDiscovery {
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < self.backoff
    }
}

impl Discovery {
    pub(super) fn new(table: Vec<Entry>) -> Self {
        Self {
            table,
            found: OnceCell::new(),
            partial: Mutex::default(),
        }
    }

    /// The runtimes of this machine, by name and version. The first call asks the programs.
    pub(super) async fn installed(&self, context: &JobContext<'_>) -> Arc<[Installed]> {
        if let Some(all) = self.found.get() {
            return Arc::clone(all);
        }
        let mut partial = self.partial.lock().await;
        // Somebody else may have found them meanwhile.
        if let Some(all) = self.found.get() {
            return Arc::clone(all);
        }
        if let Some(partial) = partial.as_ref().filter(|partial| partial.is_fresh()) {
            return Arc::clone(&partial.found);
        }
        let (found, is_all) = self.find(context).await;
        if is_all {
            // Nobody else sets it while the lock is held.
            let _ = self.found.set(Arc::clone(&found));
        } else {
            let backoff = partial
                .as_ref()
                .map_or(DISCOVERY_BACKOFF[0], |last| last.backoff * 2);
            *partial = Some(PartialDiscovery {
                found: Arc::clone(&found),
                since: Instant::now(),
                backoff: backoff.min(DISCOVERY_BACKOFF[1]),
            });
        }
        found
    }

    /// Asks for every runtime; says whether all could be asked.
    async fn find(&self, context: &JobContext<'_>) -> (Arc<[Installed]>, bool) {
        // All at once: most of the time is spent waiting for slow starters.
        let asked = join_all(self.table.iter().map(|entry| find_one(context, entry))).await;
        let (mut found, mut is_all) = (Vec::new(), true);
        for (entry, asked) in self.table.iter().zip(asked) {
            let asked = match asked {
                // Where one could not, waiting for each of the others would take long.
                Err(_) if is_all => ask_again(context, entry).await,
                done => done,
            };
            match asked {
                Ok(one) => found.extend(one),
                Err(error) => {
                    is_all = false;
                    let language = &entry.language;
                    tracing::error!(%error, language, "runtime version probe failed");
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
async fn find_one(context: &JobContext<'_>, entry: &Entry) -> Result<Option<Installed>, LinkError> {
    for program in candidates(entry, context.path) {
        let Some(text) = context.ask(&program, &entry.version).await? else {
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
async fn ask_again(
    context: &JobContext<'_>,
    entry: &Entry,
) -> Result<Option<Installed>, LinkError> {
    let mut tries = ASK_AGAIN;
    loop {
        tokio::time::sleep(ASK_PAUSE).await;
        tries -= 1;
        match find_one(context, entry).await {
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
pub(super) fn search_path(own_uids: bool) -> Vec<PathBuf> {
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
