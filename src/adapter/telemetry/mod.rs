//! What is counted, and its text for Prometheus.

pub mod exposition;
pub mod metrics;
