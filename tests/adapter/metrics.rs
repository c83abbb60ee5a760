//! What `/metrics` tells, and which requests' traces the log names.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::support::exposition::{self, Sample};
use crate::support::raw::{self, Connection};
use crate::support::{Adapter, Gate, Program, ScriptedResponse, StandIn};
use serde_json::json;

const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn piston() -> ScriptedResponse {
    ScriptedResponse::json(200, &json!({"message": "Piston v3.1.1"}))
}

async fn scrape(addr: SocketAddr) -> (String, Vec<Sample>) {
    let response = raw::get(addr, "/metrics").await;
    assert_eq!(
        (response.status, response.header("content-type")),
        (200, TYPE)
    );
    let text = response.text();
    let samples = exposition::read(&text);
    (text, samples)
}

/// The counters of a page, but for the probes that a test asks as often as it must.
fn counted(page: &str) -> Vec<&str> {
    let is_counted = |line: &&str| {
        let (name, _) = line.split_once(['{', ' ']).unwrap();
        name.ends_with("_total")
            && !name.ends_with("response_bytes_total")
            && !line.contains("route=\"ready\"")
            && !line.contains("EngineNotReady")
    };
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter(is_counted)
        .map(|line| line.strip_prefix("session_adapter_").unwrap())
        .collect()
}

fn value(samples: &[Sample], name: &str, label: (&str, &str)) -> f64 {
    let name = format!("session_adapter_{name}");
    let found = samples
        .iter()
        .find(|sample| sample.name == name && sample.label(label.0) == label.1);
    found.unwrap_or_else(|| panic!("no {name} {label:?}")).value
}

#[tokio::test]
async fn a_page_tells_what_was_asked_and_how_it_ended() {
    let piston = StandIn::script()
        .about(piston())
        .respond(ScriptedResponse::stdout("hello\n"))
        .respond(ScriptedResponse::run(json!({"code": 1, "status": "RE"})))
        .respond(ScriptedResponse::run(
            json!({"code": null, "signal": "SIGKILL", "status": "TO",
                "message": "Time limit exceeded (wall clock)"}),
        ))
        .respond(ScriptedResponse::run(
            json!({"code": 153, "status": "RE", "outcome": "disk_limit"}),
        ))
        .respond(ScriptedResponse::refusal("klingon-* runtime is unknown"))
        .respond(ScriptedResponse::empty(500))
        .respond(ScriptedResponse::stdout("passed\n"))
        .start()
        .await;
    let adapter = Adapter::with(&piston, |config| config.max_body = 1 << 10).await;
    let execute = |language: &str| format!("/{language}/execute?identifier=demo-1");
    let code = r#"{"code":"echo"}"#;
    for (language, status) in [
        ("bash", 200),
        ("sh", 200),
        ("bash", 200),
        ("bash", 200),
        ("klingon", 400),
        ("c++", 502),
    ] {
        let response = raw::post(adapter.addr, &execute(language), code).await;
        assert_eq!(response.status, status, "{}", response.text());
    }
    let passed = r#"{"language":"bash","version":"*","files":[{"content":"echo"}]}"#;
    let response = raw::post(adapter.addr, "/api/v2/execute", passed).await;
    assert_eq!(response.status, 200);
    for (path, body, status) in [
        ("/python/execute", "{", 400),
        ("/python/execute", &"x".repeat(2000), 413),
        ("/no/such/path", "{}", 404),
    ] {
        assert_eq!(raw::post(adapter.addr, path, body).await.status, status);
    }
    assert_eq!(raw::get(adapter.addr, "/execute").await.status, 405);
    let (page, samples) = scrape(adapter.addr).await;
    assert_eq!(
        counted(&page),
        [
            r#"requests_total{route="api/v2/execute",status="200"} 1"#,
            r#"requests_total{route="none",status="404"} 1"#,
            r#"requests_total{route="none",status="405"} 1"#,
            r#"requests_total{route="{language}/execute",status="200"} 4"#,
            r#"requests_total{route="{language}/execute",status="400"} 2"#,
            r#"requests_total{route="{language}/execute",status="413"} 1"#,
            r#"requests_total{route="{language}/execute",status="502"} 1"#,
            r#"errors_total{code="EngineFailed"} 1"#,
            r#"errors_total{code="InvalidRequestBody"} 1"#,
            r#"errors_total{code="MethodNotAllowed"} 1"#,
            r#"errors_total{code="PathNotFound"} 1"#,
            r#"errors_total{code="RequestBodyTooLarge"} 1"#,
            r#"errors_total{code="RuntimeNotFound"} 1"#,
            r#"executions_total{language="bash",outcome="disk_limit"} 1"#,
            r#"executions_total{language="bash",outcome="failure"} 1"#,
            r#"executions_total{language="bash",outcome="success"} 1"#,
            r#"executions_total{language="bash",outcome="time_limit"} 1"#,
            r#"executions_total{language="c++",outcome="EngineFailed"} 1"#,
            r#"executions_total{language="other",outcome="RuntimeNotFound"} 1"#,
            r#"executions_total{language="other",outcome="passed"} 1"#,
            r#"limits_hit_total{limit="body"} 1"#,
            r#"limits_hit_total{limit="disk"} 1"#,
            r#"limits_hit_total{limit="time"} 1"#,
            &format!("request_bytes_total {}", 6 * code.len() + passed.len() + 1),
        ]
    );
    for name in ["", "_queue", "_engine"] {
        let count = format!("execution{name}_seconds_count");
        assert_eq!(value(&samples, &count, ("", "")), 7.0, "{name}");
    }
    let build = ("version", env!("CARGO_PKG_VERSION"));
    assert_eq!(value(&samples, "build_info", build), 1.0);
    assert_eq!(value(&samples, "build_info", ("engine", "piston")), 1.0);
    assert_eq!(value(&samples, "ready", ("", "")), 1.0);
    assert!(value(&samples, "uptime_seconds", ("", "")) > 0.0);
    assert!(value(&samples, "connections", ("", "")) >= 1.0);
    assert!(value(&samples, "response_bytes_total", ("", "")) > 500.0);
    // Real Piston says nothing of these.
    assert!(!page.contains("engine_jobs{") && !page.contains("sandbox_layer"));
    assert_eq!(piston.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn what_runs_and_waits_is_told_and_who_is_turned_away() {
    let gate = Gate::closed();
    let piston = StandIn::script()
        .about(ScriptedResponse::json(
            200,
            &json!({"jobs": {"running": 3, "waiting": 2}, "sandbox": {"seccomp": true, "landlock": 7,
                "limits": false, "as_root": null, "made up": true}}),
        ))
        .always(ScriptedResponse::stdout("1\n").held_by(&gate))
        .start()
        .await;
    let adapter = Adapter::with(&piston, |config| {
        config.max_jobs = 1;
        config.queue = 1;
    })
    .await;
    let body = r#"{"code":"1","executionType":"Asynchronous"}"#;
    for status in [200, 200, 429] {
        let response = raw::post(adapter.addr, "/executions", body).await;
        assert_eq!(response.status, status, "{}", response.text());
    }
    let (page, samples) = scrape(adapter.addr).await;
    for (name, state, expected) in [
        ("executions", "running", 1.0),
        ("executions", "waiting", 1.0),
        ("executions_limit", "running", 1.0),
        ("executions_limit", "waiting", 1.0),
        ("engine_jobs", "running", 3.0),
        ("engine_jobs", "waiting", 2.0),
    ] {
        let found = value(&samples, name, ("state", state));
        assert_eq!(found, expected, "{name} {state}");
    }
    assert_eq!(value(&samples, "limits_hit_total", ("limit", "queue")), 1.0);
    for (layer, expected) in [
        ("seccomp", 1.0),
        ("landlock", 1.0),
        ("limits", 0.0),
        ("as_root", 0.0),
    ] {
        let found = value(&samples, "sandbox_layer", ("layer", layer));
        assert_eq!(found, expected, "{layer}");
    }
    assert!(!page.contains("made up"));
    gate.open();
}

#[tokio::test]
async fn nothing_that_clients_make_up_becomes_a_label() {
    let piston = StandIn::script()
        .about(piston())
        .always(ScriptedResponse::refusal("x-* runtime is unknown"))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let mut connection = Connection::to(adapter.addr).await;
    let headers = [("Content-Type", "application/json")];
    for number in 0..200 {
        for (method, path) in [
            (
                "POST",
                format!("/lang{number}/execute?identifier=made-up-{number}"),
            ),
            ("POST", format!("/made/up/{number}")),
            ("GET", format!("/executions/made-up-{number}")),
            (
                "GET",
                format!("/files/made-up-{number}?api-version=made-up-{number}"),
            ),
            ("DELETE", format!("/files/made-up-{number}")),
            ("BREW", format!("/made-up-{number}")),
        ] {
            let body = format!(r#"{{"code":"made-up-{number}"}}"#);
            let body = if method == "POST" { body.as_str() } else { "" };
            connection
                .send(raw::request(method, &path, &headers, body))
                .await;
            connection.read_response().await;
        }
    }
    let (page, samples) = scrape(adapter.addr).await;
    assert!(!page.contains("made") && !page.contains("lang1"), "{page}");
    let distinct = |label: &str| -> BTreeSet<&str> {
        let found = samples.iter().map(|sample| sample.label(label));
        found.filter(|value| !value.is_empty()).collect()
    };
    assert_eq!(distinct("language"), BTreeSet::from(["other"]));
    assert!(distinct("route").len() <= 6, "{:?}", distinct("route"));
    assert!(samples.len() < 120, "{}", samples.len());
    let refused = value(&samples, "executions_total", ("language", "other"));
    assert_eq!(refused, 200.0);
}

#[tokio::test]
async fn metrics_that_are_off_are_not_there() {
    let piston = StandIn::script().start().await;
    let adapter = Adapter::with(&piston, |config| config.metrics_path = false).await;
    let response = raw::get(adapter.addr, "/metrics").await;
    assert_eq!(response.status, 404);
    assert_eq!(response.header("x-ms-error-code"), "PathNotFound");
    assert_eq!(piston.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn metrics_may_have_a_listener_of_their_own() {
    let program = Program::start(&["--metrics", "127.0.0.1:0"]).await;
    let own: SocketAddr = program.started["metrics"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(raw::get(program.addr, "/metrics").await.status, 404);
    let response = raw::post(program.addr, "/bash/execute", r#"{"code":"echo"}"#).await;
    assert_eq!(response.status, 200);
    let (_, samples) = scrape(own).await;
    assert_eq!(
        value(&samples, "executions_total", ("language", "bash")),
        1.0
    );
    assert_eq!(value(&samples, "engine_jobs", ("state", "waiting")), 0.0);
    assert_eq!(value(&samples, "sandbox_layer", ("layer", "seccomp")), 1.0);
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/health", 404),
        ("POST", "/bash/execute", 404),
        ("POST", "/metrics", 405),
    ] {
        // In two parts: what is sent whole is held against Azure's documents.
        let mut connection = Connection::to(own).await;
        connection
            .send(format!("{method} {path} HTTP/1.1\r\n"))
            .await;
        connection.send("Host: localhost\r\n\r\n").await;
        let response = connection.read_response().await;
        assert_eq!(response.status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn a_trace_is_logged_with_the_request_and_the_execution_and_told_nobody() {
    let mut program = Program::start(&[]).await;
    let valid = format!("00-{TRACE}-{PARENT}-01");
    let ask = async |addr, path: &str, traceparent: &str, body: &str| {
        let headers = [
            ("Content-Type", "application/json"),
            ("traceparent", traceparent),
        ];
        raw::exchange(addr, raw::request("POST", path, &headers, body)).await
    };
    let body = r#"{"code":"echo \"$TRACEPARENT\"; env"}"#;
    let response = ask(program.addr, "/bash/execute", &valid, body).await;
    assert_eq!(response.header("traceparent"), "");
    assert!(!response.text().contains(TRACE));
    let line = program.logged("request").await;
    assert_eq!(
        (&line["trace_id"], &line["parent_id"]),
        (&json!(TRACE), &json!(PARENT))
    );

    let body = r#"{"code":"1","executionType":"Asynchronous"}"#;
    ask(program.addr, "/executions", &valid, body).await;
    let line = program.logged("execution").await;
    assert_eq!(
        (&line["trace_id"], &line["parent_id"]),
        (&json!(TRACE), &json!(PARENT))
    );

    for invalid in [
        format!("ff-{TRACE}-{PARENT}-01"),
        format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
        format!("00-{}-{PARENT}-01", "0".repeat(32)),
        "made up".to_owned(),
    ] {
        let response = ask(program.addr, "/no/such/path", &invalid, "").await;
        assert_eq!(response.status, 404);
        assert!(!response.text().contains(&invalid));
        let line = program
            .logged_where(|line| line["message"] == "request" && line["route"] == "none")
            .await;
        assert!(line.get("trace_id").is_none() && line.get("parent_id").is_none());
        assert!(!line.to_string().contains(&invalid), "{line}");
    }
}
