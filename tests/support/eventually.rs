//! Waiting with a bound.

use std::time::{Duration, Instant};

use tokio::time::sleep;

/// A test that waits this long for anything has failed. Far longer than any wait takes, so that a
/// loaded machine does not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Polls a condition until it holds, and panics if it never does.
///
/// The clock is the real one: in a test that pauses Tokio's clock, time advances only while nothing
/// else can run, and a deadline on it would pass at once.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
