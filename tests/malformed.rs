//! Whatever bytes arrive, the answer is a 4xx or a closed connection, and the adapter lives.

mod support;

use support::raw::{self, Connection};
use support::{Adapter, Answer, StandIn};

async fn adapter() -> (StandIn, Adapter) {
    let piston = StandIn::script()
        .always(Answer::stdout("lives\n"))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    (piston, adapter)
}

async fn assert_lives(adapter: &Adapter) {
    let answer = raw::post(adapter.addr, "/python/execute", r#"{"code":"1"}"#).await;
    assert_eq!(answer.json()["stdout"], "lives\n");
}

#[tokio::test]
async fn malformed_requests_get_4xx() {
    let (_piston, adapter) = adapter().await;
    let long = "x".repeat(100_000);
    for bytes in [
        "GET http://%@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        "POST /python/execute HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12",
        "POST /python/execute HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "POST /python/execute HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: nonsense\r\n\r\n",
        "GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        "nonsense\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\r\n\r\n",
        "GET /%ff%fe/execute HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /%zz/execute HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]",
        "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        &format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        &format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"),
    ] {
        let answer = raw::exchange(adapter.addr, bytes).await;
        let shown: String = bytes.chars().take(60).collect();
        assert!(
            (400..500).contains(&answer.status),
            "{shown:?}: {}",
            answer.status
        );
    }
    assert_lives(&adapter).await;
}

#[tokio::test]
async fn a_request_that_stops_half_way_hurts_nobody() {
    let (_piston, adapter) = adapter().await;
    for bytes in [
        "",
        "P",
        "POST /python/execute HTTP/1.1\r\nHost: a\r\nContent-Le",
        "POST /python/execute HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{\"code\":",
        "POST /python/execute HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"co",
        "POST /python/execute HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut connection = Connection::to(adapter.addr).await;
        connection.send(bytes).await;
        connection.finish().await;
        // An answer or none: what counts is that the connection ends.
        if let Ok(answer) = connection.try_answer().await {
            assert!(
                (400..500).contains(&answer.status),
                "{bytes:?}: {}",
                answer.status
            );
        }
    }
    assert_lives(&adapter).await;
}

#[tokio::test]
async fn every_error_of_the_adapter_is_azures() {
    let (_piston, adapter) = adapter().await;
    for (method, path, status, code) in [
        ("GET", "/nothing", 404, "PathNotFound"),
        ("DELETE", "/executions", 405, "MethodNotAllowed"),
        ("POST", "/%ff/execute", 400, "InvalidRequestTarget"),
        (
            "POST",
            "/python/execute?identifier=a",
            400,
            "InvalidIdentifier",
        ),
        ("POST", "/python/execute", 400, "InvalidRequestBody"),
        (
            "GET",
            &format!("/{}", "x".repeat(20_000)),
            414,
            "RequestTargetTooLong",
        ),
    ] {
        let answer = raw::exchange(adapter.addr, raw::request(method, path, &[], "")).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.json()["error"]["code"], code, "{path}");
        assert_eq!(answer.header("x-ms-error-code"), code, "{path}");
        assert_eq!(
            answer.header("content-type"),
            "application/json; charset=utf-8"
        );
    }
    let value = "x".repeat(70_000);
    let large = raw::request("GET", "/", &[("X", value.as_str())], "");
    let answer = raw::exchange(adapter.addr, large).await;
    assert_eq!(answer.status, 431);
    assert_eq!(answer.json()["error"]["code"], "RequestHeadersTooLarge");
    let answer = raw::exchange(adapter.addr, raw::request("PUT", "/health", &[], "")).await;
    assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let piston = StandIn::script()
        .answer(Answer::stdout("first\n"))
        .answer(Answer::stdout("second\n"))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let one = raw::request("POST", "/python/execute", &[], r#"{"code":"1"}"#);
    let mut connection = Connection::to(adapter.addr).await;
    connection.send([one.clone(), one].concat()).await;
    assert_eq!(connection.answer().await.json()["stdout"], "first\n");
    assert_eq!(connection.answer().await.json()["stdout"], "second\n");
}
