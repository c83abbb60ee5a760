//! What is counted, and its text for Prometheus.

mod exposition;
pub mod metrics;
