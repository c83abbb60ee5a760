//! Keeps the pool full of pre-started interpreters.
//!
//! One background task per engine starts interpreters, one at a time and only while no job waits, so
//! that it takes CPU and memory from no job. It holds the engine weakly and ends with it. Which
//! interpreter to start next is the [`Pool`](super::pool::Pool)'s decision.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::memory;
use super::state::EngineState;

/// Time between two checks of the idle interpreters while nobody asks for one.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How long the first refill waits for the first execution.
const FIRST_EXECUTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Memory in bytes that must be available besides what one job may use.
const SPARE_MEMORY: u64 = 64 << 20;

/// Keeps an engine's pool full until the engine is gone.
pub(super) async fn refill(engine: Weak<EngineState>) {
    let Some(mut wakeups) = engine.upgrade().and_then(|engine| engine.pool.wakeups()) else {
        return;
    };
    if let Some(engine) = engine.upgrade() {
        expect_usual(&engine).await;
    }
    let mut reported = BTreeSet::new();
    // A session becomes ready with its first execution, which should have the CPU for itself.
    let _ = tokio::time::timeout(FIRST_EXECUTION_TIMEOUT, wakeups.recv()).await;
    loop {
        match engine.upgrade() {
            Some(engine) => fill(&engine, &mut reported).await,
            None => return,
        }
        tokio::select! {
            wakeup = wakeups.recv() => if wakeup.is_none() {
                return;
            },
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
    }
}

/// Expects the jobs that the table of runtimes names, those of its first language before all others.
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

/// Starts interpreters until the pool is full. Each module that cannot be imported is logged once.
async fn fill(engine: &EngineState, reported: &mut BTreeSet<String>) {
    while let Some((id, key)) = engine.pool.next_start() {
        if memory_is_short(engine) {
            break;
        }
        // Waiting jobs come first. The next one that ends wakes this task again.
        if engine.limiter.waiting() > 0 {
            return;
        }
        let started = engine.job_context().prestart(&key).await;
        let language = &key.runtime.entry.language;
        match &started {
            Ok(prestarted) => {
                for module in &prestarted.failed_imports {
                    if reported.insert(module.clone()) {
                        tracing::warn!(module, language, "module of --preload cannot be imported");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, language, "failed to pre-start interpreter"),
        }
        engine.pool.finish_start(id, started.ok());
    }
    if memory_is_short(engine) {
        engine.pool.clear();
    }
}

fn memory_is_short(engine: &EngineState) -> bool {
    let needed = engine.config.memory_limit.saturating_add(SPARE_MEMORY);
    memory::available().is_some_and(|available| available < needed)
}
