//! Counters, and their text for Prometheus. It does not know what is counted.

pub mod exposition;
pub mod metrics;
