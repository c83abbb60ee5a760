//! Keeps the pool full of interpreters that are started before their jobs.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::memory;
use super::state::EngineState;

/// How often those that wait are looked at while nobody asks for one.
const LOOK: Duration = Duration::from_secs(5);
/// How long the first execution is waited for.
const FIRST: Duration = Duration::from_secs(1);
/// Memory in bytes that must be left beside what one job may use.
const SPARE_MEMORY: u64 = 64 << 20;

/// Keeps an engine's pool full until the engine is gone.
pub(super) async fn refill(engine: Weak<EngineState>) {
    let Some(mut wakeups) = engine.upgrade().and_then(|engine| engine.pool.wakeups()) else {
        return;
    };
    if let Some(engine) = engine.upgrade() {
        expect_usual(&engine).await;
    }
    // The first execution has the processor for itself: a session is ready when it has worked.
    let _ = tokio::time::timeout(FIRST, wakeups.recv()).await;
    loop {
        match engine.upgrade() {
            Some(engine) => fill(&engine).await,
            None => return,
        }
        tokio::select! {
            woken = wakeups.recv() => if woken.is_none() {
                return;
            },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Expects what the table of runtimes says, its first language before all others.
async fn expect_usual(engine: &Arc<EngineState>) {
    let installed = engine.installed().await;
    let first = engine
        .runtimes
        .table
        .iter()
        .find(|entry| !entry.warm.is_empty());
    engine
        .pool
        .expect_usual(&installed, first.map(|entry| entry.language.as_str()));
}

/// Starts interpreters until there are enough.
async fn fill(engine: &EngineState) {
    while let Some((number, key)) = engine.pool.next() {
        if memory_is_short(engine) {
            break;
        }
        // Jobs that are here come first; the pool is woken when one of them is through.
        if engine.limiter.waiting() > 0 {
            return;
        }
        let started = engine.job_context().prestart(&key).await;
        if let Err(error) = &started {
            let language = &key.runtime.entry.language;
            tracing::warn!(%error, language, "failed to pre-start interpreter");
        }
        engine.pool.put(number, started.ok());
    }
    if memory_is_short(engine) {
        engine.pool.clear();
    }
}

fn memory_is_short(engine: &EngineState) -> bool {
    let needed = engine.config.memory_limit.saturating_add(SPARE_MEMORY);
    memory::available().is_some_and(|left| left < needed)
}
