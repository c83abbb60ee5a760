//! Whatever the engine does, the client gets the right error in time, and the next request works.

use std::time::Duration;

use crate::support::raw::{self, Connection};
use crate::support::{Adapter, ScriptedResponse, StandIn, eventually, refused_url};
use serde_json::json;
use tokio::net::TcpListener;

const CODE: &str = r#"{"code":"1"}"#;

async fn execute(adapter: &Adapter) -> raw::Response {
    raw::post(adapter.addr, "/python/execute", CODE).await
}

#[tokio::test]
async fn each_fault_of_an_answer_has_its_status_and_the_next_request_works() {
    for (fault, status, code) in [
        (ScriptedResponse::Close, 502, "EngineConnectionLost"),
        (ScriptedResponse::Reset, 502, "EngineConnectionLost"),
        (
            ScriptedResponse::stdout("x").half(),
            502,
            "EngineConnectionLost",
        ),
        (
            ScriptedResponse::stdout("x").claiming(9999),
            502,
            "EngineConnectionLost",
        ),
        (ScriptedResponse::not_json(), 502, "EngineAnswerInvalid"),
        (
            ScriptedResponse::Bytes(b"nonsense\r\n\r\n".to_vec()),
            502,
            "EngineConnectionLost",
        ),
        (
            ScriptedResponse::json(200, &json!({"run": 5})),
            502,
            "EngineAnswerInvalid",
        ),
        (
            ScriptedResponse::run(json!({"status": "XX"})),
            502,
            "EngineFailed",
        ),
        (
            ScriptedResponse::run(json!({"code": null})),
            502,
            "EngineAnswerInvalid",
        ),
        (ScriptedResponse::empty(500), 502, "EngineFailed"),
        (ScriptedResponse::empty(503), 503, "EngineUnavailable"),
        (ScriptedResponse::empty(302), 502, "EngineAnswerInvalid"),
        (
            ScriptedResponse::json(429, &json!({"message": "busy"})),
            429,
            "TooManyExecutions",
        ),
    ] {
        let piston = StandIn::script()
            .respond(fault.clone())
            .respond(ScriptedResponse::stdout("fine\n"))
            .start()
            .await;
        let adapter = Adapter::in_front_of(&piston).await;
        let response = execute(&adapter).await;
        assert_eq!(response.status, status, "{fault:?}");
        assert_eq!(response.json()["error"]["code"], code, "{fault:?}");
        assert_eq!(
            execute(&adapter).await.json()["stdout"],
            "fine\n",
            "{fault:?}"
        );
        assert_eq!(
            piston.requests().len(),
            2,
            "nothing is sent twice: {fault:?}"
        );
    }
}

#[tokio::test]
async fn an_engine_that_never_answers_is_given_up() {
    let piston = StandIn::script()
        .always(ScriptedResponse::Never)
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let mut connection = Connection::to(adapter.addr).await;
    let body = r#"{"code":"1","timeoutInSeconds":2}"#;
    connection
        .send(raw::request("POST", "/python/execute", &[], body))
        .await;
    piston.received(1).await;
    tokio::time::pause();
    let response = connection.read_response().await;
    assert_eq!(response.status, 504);
    assert_eq!(response.json()["error"]["code"], "EngineTimeout");
    assert_eq!(response.header("operation-id").len(), 36);
}

#[tokio::test]
async fn an_engine_that_is_not_there_yet_is_used_once_it_is() {
    let adapter = Adapter::start(Adapter::config(refused_url().await)).await;
    let response = execute(&adapter).await;
    assert_eq!(
        (response.status, response.header("retry-after")),
        (503, "1")
    );
    assert_eq!(response.json()["error"]["code"], "EngineUnavailable");
    let ready = raw::get(adapter.addr, "/health/startup").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["error"]["code"], "EngineNotReady");
    assert_eq!(raw::get(adapter.addr, "/health").await.status, 200);
}

#[tokio::test]
async fn an_engine_that_comes_back_is_found_ready_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let adapter = Adapter::start(Adapter::config(format!("http://{addr}"))).await;
    assert_eq!(raw::get(adapter.addr, "/ready").await.status, 503);
    let listener = TcpListener::bind(addr).await.unwrap();
    let _piston = StandIn::script()
        .always(ScriptedResponse::stdout("back\n"))
        .start_on(listener);
    adapter.ready().await;
    assert_eq!(execute(&adapter).await.json()["stdout"], "back\n");
}

#[tokio::test]
async fn runtimes_alone_do_not_make_an_engine_ready() {
    let piston = StandIn::script()
        .readiness(ScriptedResponse::empty(500))
        .start()
        .await;
    let adapter = Adapter::start(Adapter::config(piston.url())).await;
    let mut cause = String::new();
    eventually("an execution has been tried", async || {
        let ready = raw::get(adapter.addr, "/ready").await;
        assert_eq!(ready.status, 503);
        cause = ready.json()["error"]["message"].to_string();
        !cause.contains("has been tried yet")
    })
    .await;
    assert!(cause.contains("failed with status 500"), "{cause}");
}

#[tokio::test]
async fn a_program_that_fails_proves_nothing_and_one_that_succeeds_does() {
    let not_found = json!({"code": 127, "status": "RE", "message": "Exited with error status 127"});
    let piston = StandIn::script()
        .readiness(ScriptedResponse::run(not_found.clone()))
        .respond(ScriptedResponse::run(not_found))
        .respond(ScriptedResponse::stdout("1\n"))
        .start()
        .await;
    let adapter = Adapter::start(Adapter::config(piston.url())).await;
    assert_eq!(execute(&adapter).await.json()["exitCode"], 127);
    assert_eq!(raw::get(adapter.addr, "/ready").await.status, 503);
    assert_eq!(execute(&adapter).await.json()["exitCode"], 0);
    assert_eq!(raw::get(adapter.addr, "/ready").await.status, 200);
}

#[tokio::test]
async fn connections_are_given_up_before_piston_closes_them() {
    let piston = StandIn::script()
        .always(ScriptedResponse::stdout("1\n"))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    assert_eq!(execute(&adapter).await.status, 200);
    assert_eq!(execute(&adapter).await.status, 200);
    let before = piston.connections();
    assert!(before <= 2, "connections are used again: {before}");
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(3500)).await;
    tokio::time::resume();
    assert_eq!(execute(&adapter).await.status, 200);
    assert!(piston.connections() > before);
}

#[tokio::test]
async fn limits_that_the_engine_names_are_learned_one_by_one() {
    let refuse = |limit: &str, most: u64| {
        ScriptedResponse::refusal(&format!(
            "{limit} cannot exceed the configured limit of {most}"
        ))
    };
    let piston = StandIn::script()
        .respond(refuse("run_timeout", 3000))
        .respond(refuse("run_memory_limit", 64_000_000))
        .respond(ScriptedResponse::stdout("1\n"))
        .respond(ScriptedResponse::stdout("2\n"))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    assert_eq!(execute(&adapter).await.json()["stdout"], "1\n");
    assert_eq!(execute(&adapter).await.json()["stdout"], "2\n");
    let sent: Vec<_> = piston
        .requests()
        .iter()
        .map(|asked| {
            let json = asked.json();
            (
                json["run_timeout"].as_u64(),
                json["run_memory_limit"].as_u64(),
            )
        })
        .collect();
    let megabytes_512 = Some(512 << 20);
    assert_eq!(
        sent,
        [
            (Some(60_000), megabytes_512),
            (Some(3000), megabytes_512),
            (Some(3000), Some(64_000_000)),
            (Some(3000), Some(64_000_000)),
        ]
    );
}

#[tokio::test]
async fn a_limit_that_is_named_again_and_again_is_an_error() {
    let again = ScriptedResponse::refusal("run_timeout cannot exceed the configured limit of 3000");
    let piston = StandIn::script().always(again).start().await;
    let adapter = Adapter::in_front_of(&piston).await;
    let response = execute(&adapter).await;
    assert_eq!(response.json()["error"]["code"], "ExecutionRejected");
    assert_eq!(piston.requests().len(), 2);
}

/// What Piston answers without a body looks like what hyper answers by itself to what is no request.
#[tokio::test]
async fn a_refusal_of_pistons_without_a_body_is_passed_on_as_it_is() {
    for status in [400, 414, 431] {
        let piston = StandIn::script()
            .always(ScriptedResponse::empty(status))
            .start()
            .await;
        let adapter = Adapter::in_front_of(&piston).await;
        for headers in [&[][..], &[("Connection", "close")]] {
            let request = raw::request("POST", "/api/v2/execute", headers, "{}");
            let response = raw::exchange(adapter.addr, request).await;
            assert_eq!(response.status, status, "{headers:?}");
            assert_eq!(response.text(), "", "{headers:?}");
            assert_eq!(response.header("x-ms-error-code"), "", "{headers:?}");
        }
        let malformed = raw::exchange(adapter.addr, "nonsense\r\n\r\n").await;
        assert_eq!(malformed.json()["error"]["code"], "MalformedRequest");
    }
}
