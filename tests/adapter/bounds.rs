//! Bytes, time, jobs and the queue are bounded, and a client that goes away frees its place.

use std::time::Duration;

use crate::support::raw::{self, Connection};
use crate::support::{Adapter, Gate, ScriptedResponse, StandIn, eventually};

const CODE: &str = r#"{"code":"1"}"#;

fn execution() -> Vec<u8> {
    raw::request("POST", "/python/execute", &[], CODE)
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_refused_before_it_comes() {
    let piston = StandIn::script().start().await;
    let adapter = Adapter::with(&piston, |config| config.max_body = 1000).await;
    let mut connection = Connection::to(adapter.addr).await;
    let head = "POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1001\r\n";
    connection
        .send(format!("{head}Expect: 100-continue\r\n\r\n"))
        .await;
    let response = connection.read_response().await;
    assert_eq!(response.status, 413);
    assert_eq!(response.json()["error"]["code"], "RequestBodyTooLarge");
}

#[tokio::test]
async fn a_client_that_sends_too_much_still_reads_its_answer() {
    let piston = StandIn::script().start().await;
    let adapter = Adapter::with(&piston, |config| config.max_body = 1000).await;
    let body = "x".repeat(8 << 20);
    let declared = raw::request("POST", "/execute", &[], &body);
    let chunked = format!(
        "POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    for bytes in [declared, chunked.into_bytes()] {
        assert_eq!(raw::exchange(adapter.addr, bytes).await.status, 413);
    }
}

#[tokio::test]
async fn an_error_that_needs_no_body_reaches_a_client_that_sends_one() {
    let piston = StandIn::script()
        .always(ScriptedResponse::stdout("1\n"))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let body = "x".repeat(12 << 20);
    for (path, status) in [
        ("/nothing", 404),
        ("/health", 405),
        ("/python/execute?api-version=1", 400),
        ("/python/execute?identifier=x", 400),
    ] {
        let mut connection = Connection::to(adapter.addr).await;
        connection
            .send(raw::request("POST", path, &[], &body))
            .await;
        assert_eq!(connection.read_response().await.status, status, "{path}");
        connection.send(execution()).await;
        assert_eq!(connection.read_response().await.status, 200, "after {path}");
    }
    let mut connection = Connection::to(adapter.addr).await;
    let head = "POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n";
    connection
        .send(format!("{head}Expect: 100-continue\r\n\r\n"))
        .await;
    let response = connection.read_response().await;
    assert_eq!(
        (response.status, response.header("connection")),
        (404, "close")
    );
}

#[tokio::test]
async fn bodies_that_are_held_together_are_bounded() {
    let piston = StandIn::script()
        .always(ScriptedResponse::stdout("1\n"))
        .start()
        .await;
    let adapter = Adapter::with(&piston, |config| config.max_body = 10_000).await;
    let most = "POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10000\r\n\r\n";
    let most = format!("{most}{}", "x".repeat(9_900));
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut connection = Connection::to(adapter.addr).await;
        connection.send(&most).await;
        stalled.push(connection);
    }
    let body = format!(r#"{{"code":"{}"}}"#, "x".repeat(500));
    let mut refused = None;
    eventually("a body too many is refused", async || {
        let response = raw::post(adapter.addr, "/execute", &body).await;
        refused = (response.status != 200).then_some(response);
        refused.is_some()
    })
    .await;
    let refused = refused.unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (429, "1"));
    drop(stalled);
    eventually("there is room again", async || {
        raw::post(adapter.addr, "/execute", &body).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_body_of_just_the_limit_is_taken() {
    let piston = StandIn::script()
        .always(ScriptedResponse::stdout(""))
        .start()
        .await;
    let adapter = Adapter::with(&piston, |config| config.max_body = CODE.len()).await;
    assert_eq!(raw::post(adapter.addr, "/execute", CODE).await.status, 200);
    let longer = format!("{CODE} ");
    assert_eq!(
        raw::post(adapter.addr, "/execute", &longer).await.status,
        413
    );
}

#[tokio::test]
async fn a_body_that_never_comes_is_given_up() {
    let piston = StandIn::script().start().await;
    let adapter = Adapter::in_front_of(&piston).await;
    let mut connection = Connection::to(adapter.addr).await;
    tokio::time::pause();
    connection
        .send("POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        .await;
    let response = connection.read_response().await;
    assert_eq!(response.status, 408);
    assert_eq!(response.json()["error"]["code"], "RequestTimeout");
}

#[tokio::test]
async fn more_than_the_queue_holds_get_429_and_the_rest_their_answer() {
    let gate = Gate::closed();
    let held = ScriptedResponse::stdout("done\n").held_by(&gate);
    let piston = StandIn::script().always(held).start().await;
    let adapter = Adapter::with(&piston, |config| {
        config.max_jobs = 1;
        config.queue = 1;
    })
    .await;
    let mut running = Connection::to(adapter.addr).await;
    running.send(execution()).await;
    piston.received(1).await;
    // Of two more, one waits and one is turned away, whichever comes first.
    let mut waiting = [
        Connection::to(adapter.addr).await,
        Connection::to(adapter.addr).await,
    ];
    for connection in &mut waiting {
        connection.send(execution()).await;
    }
    let [one, other] = &mut waiting;
    let (refused, waits) = tokio::select! {
        refused = one.read_response() => (refused, other),
        refused = other.read_response() => (refused, one),
    };
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["code"], "TooManyExecutions");
    assert_eq!(refused.header("retry-after"), "1");
    gate.open();
    assert_eq!(running.read_response().await.status, 200);
    assert_eq!(waits.read_response().await.status, 200);
}

#[tokio::test]
async fn a_client_that_hangs_up_gives_up_its_execution_and_its_place() {
    let gate = Gate::closed();
    let piston = StandIn::script()
        .respond(ScriptedResponse::Never)
        .always(ScriptedResponse::stdout("next\n").held_by(&gate))
        .start()
        .await;
    let adapter = Adapter::with(&piston, |config| {
        config.max_jobs = 1;
        config.queue = 1;
    })
    .await;
    let mut running = Connection::to(adapter.addr).await;
    running.send(execution()).await;
    piston.received(1).await;
    drop(running);
    piston.abandoned(1).await;

    let mut next = Connection::to(adapter.addr).await;
    next.send(execution()).await;
    piston.received(2).await;
    gate.open();
    assert_eq!(next.read_response().await.json()["stdout"], "next\n");
}

#[tokio::test]
async fn an_execution_that_could_not_end_in_time_is_not_started() {
    let piston = StandIn::script()
        .always(ScriptedResponse::Never)
        .start()
        .await;
    let adapter = Adapter::with(&piston, |config| config.max_jobs = 1).await;
    let mut running = Connection::to(adapter.addr).await;
    running.send(execution()).await;
    piston.received(1).await;
    let mut waiting = Connection::to(adapter.addr).await;
    tokio::time::pause();
    let patient = r#"{"code":"1","timeoutInSeconds":220}"#;
    waiting
        .send(raw::request("POST", "/python/execute", &[], patient))
        .await;
    let response = waiting.read_response().await;
    assert_eq!(response.status, 429);
    assert_eq!(piston.requests().len(), 1);
}

#[tokio::test]
async fn an_answer_of_a_gigabyte_is_not_held() {
    let piston = StandIn::script()
        .respond(ScriptedResponse::stdout("x").claiming(1 << 30))
        .respond(ScriptedResponse::huge(3 << 20))
        .start()
        .await;
    let adapter = Adapter::with(&piston, |config| config.output_limit = 1024).await;
    for _ in 0..2 {
        let response = raw::post(adapter.addr, "/python/execute", CODE).await;
        assert_eq!(response.status, 502);
        assert_eq!(response.json()["error"]["code"], "EngineAnswerInvalid");
    }
    assert_eq!(piston.requests().len(), 2);
}

#[tokio::test]
async fn slow_headers_do_not_hold_a_connection_for_ever() {
    let piston = StandIn::script().start().await;
    let adapter = Adapter::in_front_of(&piston).await;
    let mut slow = Connection::to(adapter.addr).await;
    slow.send("GET / HT").await;
    tokio::time::pause();
    let ended = tokio::time::timeout(Duration::from_secs(100), slow.closed()).await;
    ended.expect("a closed connection");
}

/// Output stands four times in the response of a custom container, and no more.
#[tokio::test]
async fn a_megabyte_of_output_makes_a_response_of_little_more_than_four() {
    let piston = StandIn::script()
        .always(ScriptedResponse::huge(1_000_000))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    for path in ["/python/execute", "/execute"] {
        let response = raw::post(adapter.addr, path, r#"{"code":"1"}"#).await;
        let length = response.body.len();
        assert!((4_000_000..=4_100_000).contains(&length), "{length} bytes");
        let response = response.json();
        for output in [
            &response["stdout"],
            &response["run"]["stdout"],
            &response["run"]["output"],
            &response["properties"]["stdout"],
        ] {
            assert_eq!(output.as_str().unwrap().len(), 1_000_000);
        }
        for stage in ["run", "compile"] {
            assert_eq!(response["properties"].get(stage), None);
        }
    }
}
