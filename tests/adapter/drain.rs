//! Going down: what runs may end, nothing new begins, and nobody waits for ever.

use std::time::Duration;

use crate::support::raw::{self, Connection};
use crate::support::{Adapter, Gate, ScriptedResponse, StandIn, eventually};
use tokio::net::TcpStream;

fn execution() -> Vec<u8> {
    raw::request("POST", "/python/execute", &[], r#"{"code":"1"}"#)
}

#[tokio::test]
async fn what_runs_gets_its_answer_and_new_work_is_refused() {
    let gate = Gate::closed();
    let piston = StandIn::script()
        .respond(ScriptedResponse::stdout("finished\n").held_by(&gate))
        .start()
        .await;
    let mut adapter = Adapter::in_front_of(&piston).await;
    let mut idle = Connection::to(adapter.addr).await;
    idle.send(raw::request("GET", "/ready", &[], "")).await;
    assert_eq!(idle.read_response().await.status, 200);
    let mut running = Connection::to(adapter.addr).await;
    running.send(execution()).await;
    piston.received(1).await;

    adapter.shut_down();
    eventually("no connection is accepted any more", async || {
        TcpStream::connect(adapter.addr).await.is_err()
    })
    .await;
    idle.send(raw::request("GET", "/ready", &[], "")).await;
    let ready = idle.read_response().await;
    assert_eq!((ready.status, ready.header("connection")), (503, "close"));
    assert_eq!(ready.json()["error"]["code"], "ShuttingDown");

    gate.open();
    let response = running.read_response().await;
    assert_eq!(response.json()["stdout"], "finished\n");
    adapter.ended().await.unwrap();
}

#[tokio::test]
async fn what_does_not_end_in_time_is_killed_and_told_so() {
    let piston = StandIn::script()
        .always(ScriptedResponse::Never)
        .start()
        .await;
    let mut adapter = Adapter::with(&piston, |config| {
        config.drain_timeout = Duration::from_millis(50);
        config.max_jobs = 1;
    })
    .await;
    let mut running = Connection::to(adapter.addr).await;
    running.send(execution()).await;
    piston.received(1).await;
    let mut waiting = Connection::to(adapter.addr).await;
    waiting.send(raw::request("GET", "/health", &[], "")).await;
    waiting.read_response().await;
    waiting.send(execution()).await;

    adapter.shut_down();
    for connection in [&mut running, &mut waiting] {
        let response = connection.read_response().await;
        assert_eq!(response.status, 503);
        assert_eq!(response.json()["error"]["code"], "ShuttingDown");
    }
    adapter.ended().await.unwrap();
    piston.abandoned(1).await;
    assert_eq!(piston.requests().len(), 1);
}

#[tokio::test]
async fn a_body_that_is_still_coming_is_not_waited_for() {
    let piston = StandIn::script().start().await;
    let mut adapter = Adapter::in_front_of(&piston).await;
    let mut slow = Connection::to(adapter.addr).await;
    slow.send(raw::request("GET", "/health", &[], "")).await;
    slow.read_response().await;
    slow.send("POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        .await;
    // The adapter has read the head once it answers something that came later.
    raw::get(adapter.addr, "/health").await;
    adapter.shut_down();
    let response = slow.read_response().await;
    assert_eq!(response.json()["error"]["code"], "ShuttingDown");
    adapter.ended().await.unwrap();
}

#[tokio::test]
async fn an_idle_adapter_ends_at_once_whatever_its_connections_do() {
    let piston = StandIn::script().start().await;
    let mut adapter = Adapter::in_front_of(&piston).await;
    let _silent = Connection::to(adapter.addr).await;
    let mut kept = Connection::to(adapter.addr).await;
    kept.send(raw::request("GET", "/health", &[], "")).await;
    assert_eq!(kept.read_response().await.text(), "OK\n");
    adapter.shut_down();
    adapter.ended().await.unwrap();
    kept.closed().await;
}
