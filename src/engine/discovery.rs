//! Discovers which runtimes of the table are on this machine.
//!
//! Each program is run in a job to print its version, so that a runtime is found only if jobs can run
//! it. A probe that fails for want of processes or descriptors says nothing about the runtime and is
//! retried; one that prints no usable version means that the runtime is not there.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OnceCell};

use super::job::JobContext;
use super::runtimes::{Installed, TableEntry, accepts, candidates, version_in};
use super::sandbox::{LinkError, installed_with};

/// How often a failed probe is retried at once.
const MAX_RETRIES: u32 = 3;
/// Pause before each of these retries.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Backoff before a request makes unprobed runtimes be probed again. It doubles from the first to the
/// second value.
const DISCOVERY_BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];

/// The table of runtimes, and what discovery has found of them.
#[derive(Debug)]
pub(super) struct Discovery {
    pub(super) table: Vec<TableEntry>,
    found: OnceCell<Arc<[Installed]>>,
    partial: Mutex<Option<PartialDiscovery>>,
}

/// What was found while some runtimes could not be probed.
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
    pub(super) fn new(table: Vec<TableEntry>) -> Self {
        Self {
            table,
            found: OnceCell::new(),
            partial: Mutex::default(),
        }
    }

    /// The runtimes of this machine, sorted by name and version. The first call probes them; later calls
    /// do so only for want of a complete result.
    pub(super) async fn installed(&self, context: &JobContext<'_>) -> Arc<[Installed]> {
        if let Some(all) = self.found.get() {
            return Arc::clone(all);
        }
        let mut partial = self.partial.lock().await;
        // Another request may have found them while this one waited for the lock.
        if let Some(all) = self.found.get() {
            return Arc::clone(all);
        }
        if let Some(partial) = partial.as_ref().filter(|partial| partial.is_fresh()) {
            return Arc::clone(&partial.found);
        }
        let (found, is_complete) = self.find(context).await;
        if partial.is_none() {
            self.warn_of_missing(context);
        }
        if is_complete {
            // Cannot be set already: that happens only under the lock.
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

    /// Logs which of the operator's runtimes have no program here. Built-in ones may well be missing.
    fn warn_of_missing(&self, context: &JobContext<'_>) {
        for entry in self.table.iter().filter(|entry| entry.is_added) {
            if candidates(entry, context.path, &context.spawner.data_dir).is_empty() {
                let (language, programs) = (&entry.language, entry.programs.join(", "));
                tracing::warn!(
                    language,
                    programs,
                    "program in the table of runtimes is not installed"
                );
            }
        }
    }

    /// Probes every runtime. Also returns whether all could be probed.
    async fn find(&self, context: &JobContext<'_>) -> (Arc<[Installed]>, bool) {
        // Concurrently, because nearly all of the time is spent waiting for slow programs.
        let probed = join_all(self.table.iter().map(|entry| probe(context, entry))).await;
        let (mut found, mut is_complete) = (Vec::new(), true);
        for (entry, probed) in self.table.iter().zip(probed) {
            let probed = match probed {
                // Once a retry has failed, retrying each of the others would take too long.
                Err(_) if is_complete => retry(context, entry).await,
                done => done,
            };
            match probed {
                Ok(Some(one)) => {
                    found.extend(one.standard_variants());
                    found.push(one);
                }
                Ok(None) => {}
                Err(error) => {
                    is_complete = false;
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
        (found.into(), is_complete)
    }
}

/// Runs the programs of an entry, best first, until one prints a version that the entry accepts.
///
/// # Errors
/// If one could not be run.
async fn probe(
    context: &JobContext<'_>,
    entry: &TableEntry,
) -> Result<Option<Installed>, LinkError> {
    for program in candidates(entry, context.path, &context.spawner.data_dir) {
        let Some(text) = context.version_output(&program, &entry.version).await? else {
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

/// Probes an entry alone that failed together with all others, which may have taken too many processes
/// or descriptors at once.
///
/// # Errors
/// If it fails again.
async fn retry(
    context: &JobContext<'_>,
    entry: &TableEntry,
) -> Result<Option<Installed>, LinkError> {
    let mut retries_left = MAX_RETRIES;
    loop {
        tokio::time::sleep(RETRY_PAUSE).await;
        retries_left -= 1;
        match probe(context, entry).await {
            Err(_) if retries_left > 0 => {}
            done => return done,
        }
    }
}

/// Polls a few futures concurrently until all are ready.
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

/// The directories for a job's `PATH`: those of this process's `PATH` that the job's user may enter.
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
