//! Asynchronous executions.

use std::net::SocketAddr;

use serde_json::Value;

use super::{eventually, raw};

/// Asks for the execution until it has ended; returns its resource.
pub async fn end_of_execution(addr: SocketAddr, location: &str) -> Value {
    let mut resource = Value::Null;
    eventually("the execution has ended", async || {
        let response = raw::get(addr, location).await;
        assert_eq!(response.status, 200, "{}", response.text());
        resource = response.json();
        !matches!(
            resource["status"].as_str().unwrap(),
            "NotStarted" | "Running"
        )
    })
    .await;
    resource
}
