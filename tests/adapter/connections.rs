//! Given clients that hold connections, memory or both and do nothing with them, when another one
//! comes, then it is served as if they were not there.

use crate::support::eventually::PATIENCE;
use crate::support::raw::{self, Connection};
use crate::support::{Adapter, Program, ScriptedResponse, StandIn};
use serde_json::json;
use tokio::time::timeout;

const HALF_A_HEAD: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\nX: ";
const HALF_A_BODY: &str = "POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{";

/// With so few descriptors there is room for half as many connections.
const DESCRIPTORS: usize = 300;

/// More connections than there is room for, each with these bytes sent.
async fn crowd(program: &Program, bytes: &str) -> Vec<Connection> {
    let mut crowd = Vec::new();
    for _ in 0..DESCRIPTORS {
        let mut connection = Connection::to(program.addr).await;
        // Whoever is closed already does not take it.
        let _ = connection.try_send(bytes).await;
        crowd.push(connection);
    }
    crowd
}

async fn print_42(program: &Program) -> Result<raw::Response, tokio::time::error::Elapsed> {
    let running = raw::post(program.addr, "/python/execute", r#"{"code":"print(42)"}"#);
    timeout(PATIENCE, running).await
}

#[tokio::test]
async fn connections_that_do_nothing_make_room_for_others() {
    let program = Program::start_after(&format!("ulimit -n {DESCRIPTORS}"), &[]).await;
    for bytes in ["", HALF_A_HEAD, HALF_A_BODY] {
        let mut crowd = crowd(&program, bytes).await;
        for _ in 0..3 {
            let response = print_42(&program).await.expect("a place");
            assert_eq!(response.json()["stdout"], "42\n", "behind {bytes:?}");
        }
        // Those that have waited longest have gone; those that came last have not.
        crowd[0].closed().await;
        let last = crowd.last_mut().unwrap();
        last.send(match bytes {
            "" => "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            HALF_A_HEAD => "x\r\n\r\n".to_owned(),
            _ => format!("{}}}", " ".repeat(97)),
        })
        .await;
        let expected = if bytes == HALF_A_BODY { 400 } else { 200 };
        assert_eq!(
            last.read_response().await.status,
            expected,
            "behind {bytes:?}"
        );
    }
    let metrics = raw::get(program.addr, "/metrics").await.text();
    assert!(metrics.contains("limits_hit_total{limit=\"connections\"}"));
}

#[tokio::test]
async fn a_connection_with_a_request_under_way_keeps_its_place() {
    let program = Program::start_after(&format!("ulimit -n {DESCRIPTORS}"), &[]).await;
    let mut busy = Connection::to(program.addr).await;
    let body = r#"{"code":"import time\ntime.sleep(2)\nprint(42)"}"#;
    busy.send(raw::request("POST", "/python/execute", &[], body))
        .await;
    // Its request is read once another one is answered.
    raw::get(program.addr, "/health").await;
    let _crowd = crowd(&program, "").await;
    assert_eq!(busy.read_response().await.json()["stdout"], "42\n");
}

#[tokio::test]
async fn heads_that_do_not_end_are_bounded() {
    let piston = StandIn::script().start().await;
    let adapter = Adapter::in_front_of(&piston).await;
    let large = format!("{HALF_A_HEAD}{}", "x".repeat(120 << 10));
    let mut small = Connection::to(adapter.addr).await;
    small.send(HALF_A_HEAD).await;
    let mut crowd = Vec::new();
    for _ in 0..600 {
        let mut connection = Connection::to(adapter.addr).await;
        connection.send(&large).await;
        crowd.push(connection);
    }
    assert_eq!(raw::get(adapter.addr, "/health").await.status, 200);
    let metrics = raw::get(adapter.addr, "/metrics").await.text();
    assert!(metrics.contains("limits_hit_total{limit=\"heads\"}"));
    // The small one had nothing to do with it.
    small.send("x\r\n\r\n").await;
    assert_eq!(small.read_response().await.status, 200);
    drop(crowd);
    let mut next = Connection::to(adapter.addr).await;
    for _ in 0..3 {
        next.send(raw::request(
            "GET",
            "/health",
            &[("X-Long", &"x".repeat(60 << 10))],
            "",
        ))
        .await;
        assert_eq!(next.read_response().await.status, 200);
    }
}

#[tokio::test]
async fn unread_responses_are_bounded() {
    // Each byte is six in JSON, and the response tells it several times.
    let piston = StandIn::script()
        .always(ScriptedResponse::stdout(&"\u{1}".repeat(1 << 20)))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let request = raw::request("POST", "/python/execute", &[], r#"{"code":"1"}"#);
    let mut slow = Vec::new();
    for _ in 0..6 {
        let mut connection = Connection::with_little_room(adapter.addr).await;
        connection.send(&request).await;
        connection.readable().await;
        slow.push(connection);
    }
    assert!(
        slow[0].try_answer().await.is_err(),
        "the first response was kept"
    );
    let last = slow.last_mut().unwrap().read_response().await;
    assert_eq!(
        (last.status, last.json()["stdout"].as_str().unwrap().len()),
        (200, 1 << 20)
    );
    let response = raw::exchange(adapter.addr, &request).await;
    assert_eq!(response.status, 200);
    let metrics = raw::get(adapter.addr, "/metrics").await.text();
    assert!(metrics.contains("limits_hit_total{limit=\"responses\"}"));
}

#[tokio::test]
async fn room_for_a_body_is_made_as_it_comes() {
    let program = Program::start(&[]).await;
    let address_space = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmSize:"))
            .unwrap();
        line.trim()
            .strip_suffix(" kB")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >> 10
    };
    let before = address_space();
    let head = "POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 16000000\r\n\r\n{";
    let mut announced = Vec::new();
    for _ in 0..100 {
        let mut connection = Connection::to(program.addr).await;
        connection.send(head).await;
        announced.push(connection);
    }
    raw::get(program.addr, "/health").await;
    let grown = address_space() - before;
    assert!(grown < 200, "{grown} MiB for bodies that did not come");
}

#[tokio::test]
async fn large_bodies_that_stall_leave_room_for_small_ones() {
    let piston = StandIn::script()
        .always(ScriptedResponse::stdout("1\n"))
        .start()
        .await;
    let adapter = Adapter::with(&piston, |config| config.max_body = 1 << 20).await;
    let head = "POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1048576\r\n\r\n";
    let most = format!("{head}{}", "x".repeat((1 << 20) - 1));
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut connection = Connection::to(adapter.addr).await;
        connection.send(&most).await;
        stalled.push(connection);
    }
    // The last of them is more than is left, and says so when all of the others has been read.
    assert_eq!(stalled[3].read_response().await.status, 429);
    let large = json!({"code": "x".repeat(900_000)}).to_string();
    assert_eq!(
        raw::post(adapter.addr, "/execute", &large).await.status,
        429
    );
    let small = json!({"code": "x".repeat(50_000)}).to_string();
    assert_eq!(
        raw::post(adapter.addr, "/execute", &small).await.status,
        200
    );
}

#[tokio::test]
async fn a_busy_engine_behind_pistons_own_path_says_when_to_try_again() {
    let busy = ScriptedResponse::json(429, &json!({"message": "busy"}));
    let piston = StandIn::script().always(busy).start().await;
    let adapter = Adapter::in_front_of(&piston).await;
    let response = raw::post(adapter.addr, "/api/v2/execute", "{}").await;
    assert_eq!(
        (response.status, response.header("retry-after")),
        (429, "1")
    );
}
