//! Whatever the engine answers, or does instead: the client gets the right error in time, the log has
//! the cause, an asynchronous execution comes to its end, the next execution works, and nothing that
//! may have run is sent twice. The adapter is a program of its own here, for its log and its memory.

use std::time::{Duration, Instant};

use crate::support::raw;
use crate::support::{Program, ScriptedResponse, StandIn, end_of_execution, eventually};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

/// A response that takes as long as this was not given when the fault was there to be seen.
const SOON: Duration = Duration::from_secs(20);
const GIB: u64 = 1 << 30;

/// A fault, and what is to come of it.
struct Fault {
    name: &'static str,
    response: ScriptedResponse,
    status: u16,
    code: &'static str,
    /// What the log says, among other words.
    cause: &'static str,
}

fn fault(
    name: &'static str,
    response: ScriptedResponse,
    status: u16,
    code: &'static str,
    cause: &'static str,
) -> Fault {
    Fault {
        name,
        response,
        status,
        code,
        cause,
    }
}

fn stdout() -> ScriptedResponse {
    ScriptedResponse::stdout("of another execution\n")
}

fn bytes(text: impl Into<String>) -> ScriptedResponse {
    ScriptedResponse::Bytes(text.into().into_bytes())
}

/// A proper response with a member of the run stage changed.
fn with(fields: Value) -> ScriptedResponse {
    ScriptedResponse::run(fields)
}

/// A proper response without a member, at the top or of the run stage.
fn without(member: &str) -> ScriptedResponse {
    let mut body = json!({
        "run": {"signal": null, "stdout": "", "stderr": "", "code": 0, "output": ""},
        "language": "python", "version": "3.11.2",
    });
    body.as_object_mut().unwrap().remove(member);
    body["run"].as_object_mut().map(|run| run.remove(member));
    ScriptedResponse::json(200, &body)
}

#[rustfmt::skip]
fn faults() -> Vec<Fault> {
    const LOST: &str = "closed the connection before its response was complete";
    const NOT_PISTONS: &str = "the engine's response is not Piston's";
    let lost = |name, response| fault(name, response, 502, "EngineConnectionLost", LOST);
    let invalid = |name, response, cause| fault(name, response, 502, "EngineAnswerInvalid", cause);
    let stack = json!({"stack": "SyntaxError: Unexpected token\n    at /piston/api/node_modules/body-parser"});
    vec![
        lost("accepted and closed", ScriptedResponse::Close),
        lost("accepted and reset", ScriptedResponse::Reset),
        lost("half a head", stdout().head().half_of_bytes()),
        lost("a head alone", stdout().head()),
        lost("half a body", stdout().half()),
        lost("a length too large", stdout().claiming(9999)),
        lost("chunks without an end", bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"run")),
        lost("a chunk that is none", bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")),
        lost("no HTTP", bytes("nonsense\r\n\r\n")),
        lost("a length that is none", bytes("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n")),
        lost("two lengths", bytes("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}")),
        lost("a head of 1 MB", bytes(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)))),
        lost("a word ahead and no response", bytes("HTTP/1.1 100 Continue\r\n\r\n")),
        invalid("a length too small", stdout().claiming(10), "Eof error in JSON"),
        invalid("a length too small, and more behind it", stdout().claiming(10).staying_open(), "Eof error in JSON"),
        invalid("not JSON", ScriptedResponse::not_json(), "Syntax error in JSON"),
        invalid("nothing", ScriptedResponse::empty(200), "Eof error in JSON"),
        invalid("JSON too deep", ScriptedResponse::Whole { status: 200, content_type: None, body: vec![b'['; 100_000] }, NOT_PISTONS),
        invalid("no UTF-8", ScriptedResponse::Whole { status: 200, content_type: None, body: b"{\"language\":\"\xff\"}".to_vec() }, NOT_PISTONS),
        invalid("a list", ScriptedResponse::json(200, &json!([])), NOT_PISTONS),
        invalid("no run stage", without("run"), "Data error in JSON"),
        invalid("no language", without("language"), "Data error in JSON"),
        invalid("no version", without("version"), "Data error in JSON"),
        invalid("no exit code", without("code"), NOT_PISTONS),
        invalid("a run stage that is a number", ScriptedResponse::json(200, &json!({"run": 5})), "Data error in JSON"),
        invalid("an exit code in words", with(json!({"code": "0"})), "Data error in JSON"),
        invalid("an exit code beyond 32 bits", with(json!({"code": 3_000_000_000_u64})), "Data error in JSON"),
        invalid("a signal by its number", with(json!({"signal": 9})), "Data error in JSON"),
        invalid("output in pieces", with(json!({"stdout": ["a"]})), "Data error in JSON"),
        invalid("a time in words", with(json!({"cpu_time": "20 ms"})), "Data error in JSON"),
        invalid("a redirection", ScriptedResponse::empty(302), "status 302"),
        invalid("no such path", ScriptedResponse::json(404, &json!({"message": "Not Found"})), "status 404"),
        invalid("no body and no content", ScriptedResponse::empty(204), "status 204"),
        invalid("a 400 with a stack trace", ScriptedResponse::json(400, &stack), "status 400 with a stack trace"),
        invalid("a 400 without words", ScriptedResponse::empty(400), "status 400 without a message"),
        invalid("1 GiB that is announced", ScriptedResponse::flood(GIB, true), "larger than"),
        invalid("1 GiB in chunks", ScriptedResponse::flood(GIB, false), "larger than"),
        fault("a refusal in unknown words", ScriptedResponse::refusal("SECRET"), 400, "ExecutionRejected", "in words that are not Piston's"),
        fault("a refusal for its size", ScriptedResponse::empty(413), 400, "ExecutionTooLarge", "bytes are too many"),
        fault("busy", ScriptedResponse::json(429, &json!({"message": "busy"})), 429, "TooManyExecutions", "the engine is busy"),
        fault("an empty 500", ScriptedResponse::empty(500), 502, "EngineFailed", "failed with status 500"),
        fault("a 500 with a stack trace", ScriptedResponse::json(500, &stack), 502, "EngineFailed", "failed with status 500"),
        fault("an empty 503", ScriptedResponse::empty(503), 503, "EngineUnavailable", "the engine is not available"),
        fault("a full disk", ScriptedResponse::empty(507), 507, "InsufficientStorage", "no room on its disk"),
        fault("a sandbox that failed", with(json!({"status": "XX"})), 502, "EngineFailed", "the engine's sandbox failed"),
    ]
}

async fn in_front_of(piston: &StandIn, arguments: &[&str]) -> Program {
    let arguments = [&["--engine", "piston"], arguments].concat();
    Program::start_with_engine(&arguments, &piston.url()).await
}

fn request(id: &str, body: &Value) -> Vec<u8> {
    let headers = [("Content-Type", "application/json"), ("operation-id", id)];
    raw::request("POST", "/executions", &headers, &body.to_string())
}

async fn execute(program: &Program, id: &str) -> raw::Response {
    let body = json!({"code": format!("print({id:?})")});
    raw::exchange(program.addr, request(id, &body)).await
}

/// Has an execution accepted, and asks for it until it is over.
async fn execute_later(program: &Program, id: &str) -> Value {
    let body = json!({"code": format!("print({id:?})"), "executionType": "Asynchronous"});
    let accepted = raw::exchange(program.addr, request(id, &body)).await;
    assert_eq!(accepted.status, 200, "{}", accepted.text());
    end_of_execution(program.addr, &format!("/executions/{id}")).await
}

/// The next execution works, and gets its own response.
async fn works(program: &Program, piston: &StandIn, id: &str) {
    let word = format!("fine {id}\n");
    piston.respond_next(ScriptedResponse::stdout(&word));
    let response = execute(program, id).await;
    assert_eq!(response.status, 200, "{id}: {}", response.text());
    assert_eq!(response.json()["result"]["stdout"], word, "{id}");
}

/// How often the stand-in was asked to run this.
fn runs(piston: &StandIn, id: &str) -> usize {
    let code = format!("print({id:?})");
    let has = |asked: &&crate::support::ReceivedRequest| {
        let files = asked.json()["files"].take();
        files
            .as_array()
            .unwrap()
            .iter()
            .any(|file| file["content"] == code.as_str())
    };
    piston.requests().iter().filter(has).count()
}

fn assert_says_nothing_private(text: &str, fault: &str) {
    for word in [
        "/piston",
        "node_modules",
        "SyntaxError",
        "SECRET",
        "another execution",
    ] {
        assert!(!text.contains(word), "{fault}: {text}");
    }
}

#[tokio::test]
async fn each_fault_is_told_and_logged_and_the_next_execution_works() {
    let piston = StandIn::script().start().await;
    let mut program = in_front_of(&piston, &[]).await;
    for (number, fault) in faults().into_iter().enumerate() {
        let name = fault.name;
        let id = format!("sync-{number}");
        piston.respond_next(fault.response.clone());
        let begun = Instant::now();
        let response = execute(&program, &id).await;
        assert!(begun.elapsed() < SOON, "{name}");
        assert_eq!(response.status, fault.status, "{name}: {}", response.text());
        assert_eq!(response.json()["error"]["code"], fault.code, "{name}");
        assert_eq!(response.header("x-ms-error-code"), fault.code, "{name}");
        let may_be_repeated = matches!(fault.status, 429 | 503);
        assert_eq!(
            response.header("retry-after").is_empty(),
            !may_be_repeated,
            "{name}"
        );
        assert_says_nothing_private(&response.text(), name);
        let line = program.logged_of("request", &id).await;
        assert_eq!(line["outcome"], fault.code, "{name}: {line}");
        assert_eq!(line["status"], fault.status, "{name}: {line}");
        let cause = line["cause"].as_str().unwrap_or_default();
        assert!(cause.contains(fault.cause), "{name}: {line}");
        assert_says_nothing_private(&line.to_string(), name);
        works(&program, &piston, &format!("after-sync-{number}")).await;

        let id = format!("async-{number}");
        piston.respond_next(fault.response);
        let begun = Instant::now();
        let resource = execute_later(&program, &id).await;
        assert!(begun.elapsed() < SOON, "{name}");
        assert_eq!(resource["status"], "Failed", "{name}: {resource}");
        assert_eq!(
            resource["error"]["error"]["code"], fault.code,
            "{name}: {resource}"
        );
        assert_says_nothing_private(&resource.to_string(), name);
        let line = program.logged_of("execution", &id).await;
        assert_eq!(line["outcome"], fault.code, "{name}: {line}");
        let cause = line["cause"].as_str().unwrap_or_default();
        assert!(cause.contains(fault.cause), "{name}: {line}");
        works(&program, &piston, &format!("after-async-{number}")).await;

        // Who comes back with the id of what may have run is told how it ended.
        if fault.status == 502 {
            for id in [format!("sync-{number}"), format!("async-{number}")] {
                let again = execute(&program, &id).await;
                assert_eq!(again.json()["error"]["code"], fault.code, "{name}");
                assert_eq!(runs(&piston, &id), 1, "{name}");
            }
        }
    }
    assert_eq!(
        piston.requests().len(),
        4 * faults().len(),
        "nothing is sent twice"
    );
    assert_eq!(piston.complaints(), [""; 0]);
    let peak = peak_memory(program.pid());
    println!("{} faults; peak memory {peak} KiB", faults().len());
    assert!(peak < 256 << 10, "{peak} KiB");
}

/// Piston's own API: what Piston said is passed on, but for stack traces; what it did not say whole
/// is an error here, too, and is not asked for twice.
#[tokio::test]
async fn what_is_passed_on_has_the_same_faults_and_no_stack_trace() {
    let piston = StandIn::script().start().await;
    let mut program = in_front_of(&piston, &[]).await;
    let body = r#"{"language":"python","version":"*","files":[{"content":"1"}]}"#;
    for fault in faults() {
        let name = fault.name;
        piston.respond_next(fault.response.clone());
        let response = raw::post(program.addr, "/api/v2/execute", body).await;
        let line = program.logged("request").await;
        match fault.response {
            ScriptedResponse::Whole { status, .. } => {
                assert_eq!(response.status, status, "{name}");
                assert_eq!(response.header("x-ms-error-code"), "", "{name}");
                assert_eq!(line["outcome"], "ok", "{name}: {line}");
            }
            // As long as Piston said, and what it was is not looked at.
            _ if fault.cause.contains("in JSON") => assert_eq!(response.status, 200, "{name}"),
            _ => {
                assert_eq!(response.status, fault.status, "{name}: {}", response.text());
                assert_eq!(response.json()["error"]["code"], fault.code, "{name}");
                let cause = line["cause"].as_str().unwrap_or_default();
                assert!(cause.contains(fault.cause), "{name}: {line}");
            }
        }
        for word in ["/piston", "node_modules", "SyntaxError"] {
            assert!(
                !response.text().contains(word),
                "{name}: {}",
                response.text()
            );
        }
        piston.respond_next(ScriptedResponse::stdout("fine\n"));
        let response = raw::post(program.addr, "/api/v2/execute", body).await;
        assert_eq!(response.json()["run"]["stdout"], "fine\n", "{name}");
        program.logged("request").await;
    }
    assert_eq!(
        piston.requests().len(),
        2 * faults().len(),
        "nothing is sent twice"
    );
}

/// `VmHWM` in KiB.
fn peak_memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

/// Other versions of Piston say more or less: what is needed is taken, the rest is not missed.
#[tokio::test]
async fn members_more_or_less_change_nothing() {
    let run = |fields: Value| json!({"run": fields, "language": "python", "version": "3.11.2"});
    let old = json!({"stdout": "1\n", "stderr": "", "code": 0, "signal": null, "output": "1\n"});
    let mut new = run(old.clone());
    new["run"]["new"] = json!({"a": [1]});
    new["new"] = json!(null);
    new["compile"] = json!(null);
    let fractions =
        json!({"stdout": "1\n", "code": 0, "memory": 1.5, "cpu_time": 0.25, "wall_time": 1e3});
    let piston = StandIn::script().start().await;
    let program = in_front_of(&piston, &[]).await;
    for (number, body) in [run(old), new, run(fractions)].into_iter().enumerate() {
        piston.respond_next(ScriptedResponse::json(200, &body));
        let response = execute(&program, &format!("id-{number}")).await;
        assert_eq!(response.status, 200, "{body}: {}", response.text());
        assert_eq!(response.json()["result"]["stdout"], "1\n", "{body}");
    }
    let unknown = json!({"stdout": "", "code": 1, "status": "ZZ", "message": "in new words"});
    piston.respond_next(ScriptedResponse::json(200, &run(unknown)));
    let response = execute(&program, "unknown").await;
    assert_eq!(response.json()["status"], "Failed", "{}", response.text());
}

/// What comes behind a response is of no execution, even if it looks like a response.
#[tokio::test]
async fn bytes_behind_an_answer_are_no_answer_to_the_next() {
    let piston = StandIn::script().start().await;
    let program = in_front_of(&piston, &[]).await;
    for number in 0..50 {
        let ScriptedResponse::Open(first) = ScriptedResponse::stdout("first\n").staying_open()
        else {
            unreachable!("it stays open");
        };
        let ScriptedResponse::Open(second) = stdout().staying_open() else {
            unreachable!("it stays open");
        };
        piston.respond_next(ScriptedResponse::Open([first, second].concat()));
        let response = execute(&program, &format!("first-{number}")).await;
        assert_eq!(response.json()["result"]["stdout"], "first\n");
        works(&program, &piston, &format!("second-{number}")).await;
    }
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_told_and_used_once_it_is_back() {
    let piston = StandIn::script().start().await;
    let addr = piston.addr;
    let mut program = in_front_of(&piston, &[]).await;
    works(&program, &piston, "before").await;
    drop(piston);
    // The stand-in is gone when nobody is connected any more.
    let mut tries = 0;
    eventually("the stand-in is gone", async || {
        tries += 1;
        let response = execute(&program, &format!("gone-{tries}")).await;
        response.status == 503
    })
    .await;
    let response = execute(&program, "sync").await;
    assert_eq!(
        (response.status, response.header("retry-after")),
        (503, "1")
    );
    assert_eq!(response.json()["error"]["code"], "EngineUnavailable");
    let line = program.logged_of("request", "sync").await;
    let cause = line["cause"].as_str().unwrap();
    assert!(cause.contains("cannot connect to the engine"), "{line}");
    assert!(cause.contains("refused"), "{line}");
    let resource = execute_later(&program, "async").await;
    assert_eq!(resource["status"], "Failed");
    assert_eq!(resource["error"]["error"]["code"], "EngineUnavailable");
    let line = program.logged_of("execution", "async").await;
    assert!(
        line["cause"].as_str().unwrap().contains("refused"),
        "{line}"
    );
    let ready = raw::get(program.addr, "/ready").await;
    assert_eq!(ready.status, 503, "{}", ready.text());

    let listener = TcpListener::bind(addr).await.unwrap();
    let piston = StandIn::script().start_on(listener);
    works(&program, &piston, "after").await;
    // Nothing was run under these ids, so that they may be sent again.
    for id in ["sync", "async"] {
        works(&program, &piston, id).await;
    }
    assert_eq!(raw::get(program.addr, "/ready").await.status, 200);
}

/// The time is the execution's limit, the compiler's, and 10 s.
#[tokio::test]
async fn an_answer_that_never_comes_or_never_ends_is_given_up() {
    let stalled = |response: ScriptedResponse| match response {
        ScriptedResponse::Bytes(bytes) => ScriptedResponse::Open(bytes),
        other => other,
    };
    let piston = StandIn::script().start().await;
    let arguments = [
        "--max-run-timeout",
        "1",
        "--compile-timeout",
        "1",
        "--max-jobs",
        "8",
    ];
    let mut program = in_front_of(&piston, &arguments).await;
    works(&program, &piston, "before").await;
    let kinds = [
        ScriptedResponse::Never,
        stalled(stdout().head()),
        stalled(stdout().half()),
    ];
    for kind in kinds.iter().chain(&kinds) {
        piston.respond_next(kind.clone());
    }
    let (a, b, c, x, y, z) = tokio::join!(
        execute(&program, "a"),
        execute(&program, "b"),
        execute(&program, "c"),
        execute_later(&program, "x"),
        execute_later(&program, "y"),
        execute_later(&program, "z"),
    );
    for (response, id) in [(a, "a"), (b, "b"), (c, "c")] {
        assert_eq!(response.status, 504, "{id}: {}", response.text());
        assert_eq!(response.json()["error"]["code"], "EngineTimeout");
        let again = execute(&program, id).await;
        assert_eq!(again.status, 504, "it is not run twice");
    }
    for resource in [x, y, z] {
        assert_eq!(resource["status"], "Failed", "{resource}");
        assert_eq!(
            resource["error"]["error"]["code"], "EngineTimeout",
            "{resource}"
        );
    }
    for id in ["a", "b", "c", "x", "y", "z"] {
        assert_eq!(runs(&piston, id), 1, "{id}");
    }
    let line = program.logged("execution").await;
    assert_eq!(
        line["cause"], "the engine did not answer within 12 s",
        "{line}"
    );
    works(&program, &piston, "after").await;
}

/// Piston closes what is idle for 5 s: before, at and after that time.
#[tokio::test]
async fn a_connection_that_piston_closed_while_it_was_idle_is_not_used() {
    let five_seconds = Duration::from_secs(5);
    let piston = StandIn::script()
        .close_idle_after(five_seconds)
        .start()
        .await;
    let program = in_front_of(&piston, &[]).await;
    for (number, pause) in [0, 5000, 5100].into_iter().enumerate() {
        sleep(Duration::from_millis(pause)).await;
        works(&program, &piston, &format!("id-{number}")).await;
    }
    assert_eq!(piston.requests().len(), 3);
}

/// An engine that closes connections earlier than Piston does, and just as they are used again: an
/// execution may fail then, but it never runs twice.
#[tokio::test]
async fn a_connection_that_closes_as_it_is_used_runs_nothing_twice() {
    let idle = Duration::from_millis(4);
    let piston = StandIn::script()
        .always(ScriptedResponse::stdout("1\n"))
        .close_idle_after(idle)
        .start()
        .await;
    let program = in_front_of(&piston, &[]).await;
    let mut lost = 0;
    for number in 0..300 {
        sleep(Duration::from_micros(3000 + number % 20 * 100)).await;
        let id = format!("id-{number}");
        let response = execute(&program, &id).await;
        match StatusCode::from_u16(response.status).unwrap() {
            StatusCode::OK => assert_eq!(runs(&piston, &id), 1, "{id}"),
            StatusCode::BAD_GATEWAY => {
                assert_eq!(response.json()["error"]["code"], "EngineConnectionLost");
                assert!(runs(&piston, &id) <= 1, "{id}");
                lost += 1;
            }
            other => panic!("{id}: {other}"),
        }
    }
    println!("{lost} of 300 were lost");
    assert!(lost < 300, "none works");
}

fn listing(languages: &[&str]) -> ScriptedResponse {
    let runtime =
        |language: &&str| json!({"language": language, "version": "1.0.0", "aliases": []});
    let list: Vec<Value> = languages.iter().map(runtime).collect();
    ScriptedResponse::json(200, &json!(list))
}

#[tokio::test]
async fn languages_come_and_go_while_the_adapter_runs() {
    let piston = StandIn::script()
        .runtimes(listing(&["python"]))
        .start()
        .await;
    let program = in_front_of(&piston, &[]).await;
    works(&program, &piston, "before").await;
    // What is not listed is the engine's to judge, and it may have come a moment ago.
    piston.will_list(listing(&["ruby"]));
    piston.respond_next(ScriptedResponse::stdout("new\n"));
    let body = r#"{"code":"puts 1"}"#;
    let response = raw::post(program.addr, "/ruby/execute", body).await;
    assert_eq!(response.json()["stdout"], "new\n", "{}", response.text());
    // What was listed and is gone is not told as being there.
    piston.respond_next(ScriptedResponse::refusal("python-* runtime is unknown"));
    let response = execute(&program, "gone").await;
    assert_eq!(response.status, 400);
    let error = response.json()["error"].take();
    assert_eq!(error["code"], "RuntimeNotFound");
    let message = error["message"].as_str().unwrap();
    assert!(message.ends_with("Available: ruby 1.0.0."), "{message}");
    let resource = {
        piston.respond_next(ScriptedResponse::refusal("python-* runtime is unknown"));
        execute_later(&program, "gone-too").await
    };
    assert_eq!(
        resource["error"]["error"]["code"], "RuntimeNotFound",
        "{resource}"
    );
    // A list that cannot be read is no reason to run nothing.
    for broken in [
        ScriptedResponse::not_json(),
        ScriptedResponse::empty(500),
        ScriptedResponse::Reset,
        ScriptedResponse::flood(GIB, false),
    ] {
        piston.will_list(broken);
        works(
            &program,
            &piston,
            &format!("broken-{}", piston.requests().len()),
        )
        .await;
        piston.respond_next(ScriptedResponse::refusal("cobol-* runtime is unknown"));
        let response = raw::post(program.addr, "/cobol/execute", body).await;
        assert_eq!(response.json()["error"]["code"], "RuntimeNotFound");
    }
    piston.will_list(listing(&["python"]));
    works(&program, &piston, "after").await;
}
