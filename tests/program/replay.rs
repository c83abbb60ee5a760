//! Every recorded exchange, over real sockets: what a client sends becomes what Piston was asked,
//! and what Piston answered becomes what the client gets.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use crate::support::{
    Adapter, Gate, ScriptedResponse, StandIn, exchanges, raw, refused_url, schema,
};
use serde_json::{Value, json};
use session_adapter::replay::{
    Caller, Fixture, FixtureError, ReplayError, load, replay, replay_with, response_difference,
};
use sha2::{Digest, Sha256};

const HOW_TO_UPDATE: &str = "read the change, then: \
     cd fixtures/exchanges && LC_ALL=C sha256sum *.json > ../exchanges.sha256";

/// Replays one fixture against an adapter and a stand-in of its own: what an adapter learns of
/// Piston's limits in one must not reach another. Says what was not as the fixture has it.
async fn play(fixture: &Fixture) -> Result<(), String> {
    let script = fixture
        .piston
        .iter()
        .fold(StandIn::script(), |script, it| script.recorded(it));
    let piston = script.start().await;
    let adapter = Adapter::in_front_of(&piston).await;
    let caller = Caller::new(&adapter.url()).unwrap();
    let response = caller.call(&fixture.azure_request, fixture.sent()).await?;
    // A wrong question comes first: a wrong response follows from it.
    if let Some(complaint) = piston.complaints().into_iter().next() {
        return Err(complaint);
    }
    if let Some(difference) = response_difference(&fixture.azure_response, &response) {
        return Err(difference.to_string());
    }
    let request = &fixture.azure_request;
    let response = raw::Response {
        status: response.status,
        headers: response.headers,
        body: response.body.to_vec(),
    };
    schema::check(&request.method, &request.path, &response);
    Ok(())
}

fn fixture(name: &str) -> Fixture {
    Fixture::read(&exchanges().join(format!("{name}.json"))).unwrap()
}

#[tokio::test]
async fn every_exchange_is_answered_as_recorded() {
    let fixtures = load(&exchanges()).unwrap();
    assert!(fixtures.len() >= 110, "{} fixtures", fixtures.len());
    let mut failures = Vec::new();
    for fixture in &fixtures {
        if let Err(why) = play(fixture).await {
            failures.push(format!("{}: {why}", fixture.name));
        }
    }
    let count = failures.len();
    assert!(
        failures.is_empty(),
        "{count} of {}:\n{}",
        fixtures.len(),
        failures.join("\n")
    );
}

/// Not every field has a say in the response: a note, say, or the CPU time in Piston's response. A digest
/// of each file notices those too.
#[test]
fn no_file_is_changed_unnoticed() {
    let kept = fs::read_to_string(exchanges().join("../exchanges.sha256")).unwrap();
    let kept: BTreeMap<&str, &str> = kept
        .lines()
        .map(|line| line.split_once("  ").expect("a digest, two spaces, a name"))
        .map(|(digest, name)| (name, digest))
        .collect();
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(exchanges()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let bytes = fs::read(entry.path()).unwrap();
        assert!(
            bytes.len() < 200_000,
            "{name} is too large for a fixture: {}",
            bytes.len()
        );
        let digest = Sha256::digest(bytes);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        found.insert(name, digest);
    }
    let mut changes = Vec::new();
    for (name, digest) in &found {
        match kept.get(name.as_str()) {
            None => changes.push(format!("{name} is new")),
            Some(kept) if kept != digest => changes.push(format!("{name} has changed")),
            Some(_) => {}
        }
    }
    let gone = kept.keys().filter(|name| !found.contains_key(**name));
    changes.extend(gone.map(|name| format!("{name} is gone")));
    assert!(
        changes.is_empty(),
        "{}\n{HOW_TO_UPDATE}",
        changes.join("\n")
    );
}

/// Another value of the same kind, so that the file stays a fixture.
fn changed(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::from(format!("{text}x")),
        Value::Number(number) => Value::from(number.as_u64().unwrap() + 1),
        Value::Bool(flag) => Value::from(!flag),
        _ => Value::from("x"),
    }
}

/// Changes the value at a JSON pointer. `None` when what comes out is no fixture any more, which is
/// noticed as well.
fn with_change(fixture: &Fixture, pointer: &str) -> Option<Fixture> {
    let mut json = serde_json::to_value(fixture).unwrap();
    let place = json
        .pointer_mut(pointer)
        .unwrap_or_else(|| panic!("{}{pointer}", fixture.name));
    *place = changed(place);
    serde_json::from_value(json).ok()
}

async fn notices(fixture: &Fixture, pointer: &str) -> bool {
    match with_change(fixture, pointer) {
        Some(changed) => play(&changed).await.is_err(),
        None => true,
    }
}

#[tokio::test]
async fn a_change_of_a_single_field_fails_the_replay() {
    for (name, pointer) in [
        ("language_python_hello", "/azure_request/method"),
        ("language_no_identifier", "/azure_request/path"),
        (
            "language_python_stdin",
            "/azure_request/body/properties/code",
        ),
        (
            "language_python_stdin",
            "/azure_request/body/properties/stdin",
        ),
        (
            "language_python_args",
            "/azure_request/body/properties/args/1",
        ),
        (
            "language_python_time_limit",
            "/azure_request/body/properties/timeoutInSeconds",
        ),
        (
            "language_python_hello",
            "/azure_request/headers/content-type",
        ),
        ("language_python_hello", "/piston/0/request/path"),
        (
            "language_python_hello",
            "/piston/0/request/headers/content-type",
        ),
        (
            "language_python_hello",
            "/piston/0/request/body/files/0/name",
        ),
        (
            "language_python_hello",
            "/piston/0/request/body/run_memory_limit",
        ),
        ("limit_learned_run_timeout", "/piston/0/response/body"),
        (
            "limit_learned_run_timeout",
            "/piston/1/request/body/run_timeout",
        ),
        ("engine_unavailable", "/piston/0/response/status"),
        ("passed_hello", "/piston/0/request/body_text"),
        ("passed_hello", "/piston/0/response/headers/content-type"),
        ("passed_runtimes", "/piston/0/response/headers/content-type"),
        ("passed_hello", "/azure_response/body_text"),
        ("code_exit_3", "/azure_response/body/properties/status"),
        ("executions_hello", "/azure_response/body/id"),
        (
            "executions_hello",
            "/azure_response/body/result/executionTimeInMilliseconds",
        ),
        ("shell_exit_4", "/azure_response/body/status"),
        ("rejected_timeout_zero", "/azure_response/body/error/target"),
        (
            "rejected_method_get_language",
            "/azure_response/headers/allow",
        ),
        (
            "rejected_identifier_short",
            "/azure_response/headers/x-ms-error-code",
        ),
    ] {
        let fixture = fixture(name);
        assert!(
            notices(&fixture, pointer).await,
            "{name}{pointer} is not noticed"
        );
    }
}

/// The pointers of all values in a JSON value that hold no others.
fn leaves(value: &Value, pointer: &str, found: &mut Vec<String>) {
    let mut inner = |key: &str, value: &Value| {
        let key = key.replace('~', "~0").replace('/', "~1");
        leaves(value, &format!("{pointer}/{key}"), found);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| inner(key, value)),
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(index, value)| inner(&index.to_string(), value));
        }
        _ => found.push(pointer.to_owned()),
    }
}

#[tokio::test]
async fn a_change_of_any_expected_field_fails_the_replay() {
    for name in [
        "language_cpp_compile_error",
        "executions_operation_id",
        "rejected_code_number",
    ] {
        let fixture = fixture(name);
        let json = serde_json::to_value(&fixture).unwrap();
        let mut pointers = Vec::new();
        leaves(&json["azure_response"], "/azure_response", &mut pointers);
        for (index, exchange) in fixture.piston.iter().enumerate() {
            let request = serde_json::to_value(&exchange.request).unwrap();
            leaves(&request, &format!("/piston/{index}/request"), &mut pointers);
        }
        assert!(pointers.len() >= 4, "{name}");
        for pointer in pointers {
            assert!(
                notices(&fixture, &pointer).await,
                "{name}{pointer} is not noticed"
            );
        }
    }
}

#[tokio::test]
async fn a_field_too_many_or_too_few_in_the_answer_fails_the_replay() {
    let mut fixture = fixture("code_hello");
    let whole = fixture.azure_response.body.clone().unwrap();
    let mut fewer = whole.clone();
    fewer["properties"]
        .as_object_mut()
        .unwrap()
        .remove("stderr");
    fixture.azure_response.body = Some(fewer);
    let why = play(&fixture).await.unwrap_err();
    assert_eq!(why, "$.properties.stderr: expected nothing, got \"\"");
    let mut more = whole;
    more["error"] = Value::Null;
    fixture.azure_response.body = Some(more);
    let why = play(&fixture).await.unwrap_err();
    assert_eq!(why, "$.error: expected null, got nothing");
}

#[tokio::test]
async fn a_question_too_many_or_too_few_fails_the_replay() {
    let mut learned = fixture("limit_learned_run_timeout");
    let second = learned.piston.pop().unwrap();
    let why = play(&learned).await.unwrap_err();
    assert_eq!(why, "unexpected: POST /api/v2/execute");
    let mut hello = fixture("language_python_hello");
    hello.piston.push(second);
    let why = play(&hello).await.unwrap_err();
    assert_eq!(why, "1 more requests were expected");
}

/// A directory with some of the fixtures.
fn some(names: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in names {
        let file = format!("{name}.json");
        fs::copy(exchanges().join(&file), directory.path().join(&file)).unwrap();
    }
    directory
}

#[tokio::test]
async fn a_running_adapter_is_judged_by_what_any_engine_must_answer() {
    let python_alone = json!([{"language": "python", "version": "3.13.0", "aliases": ["py"]}]);
    let piston = StandIn::script()
        .runtimes(ScriptedResponse::json(200, &python_alone))
        .always(ScriptedResponse::stdout("hello\n"))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let directory = some(&[
        "code_hello",
        "language_bash_hello",
        "language_python_exit_3",
        "language_python_stdout_limit",
        "rejected_path_unknown",
    ]);
    let mut told = Vec::new();
    let report = replay_with(directory.path(), &adapter.url(), |line| {
        told.push(line.clone())
    })
    .await
    .unwrap();
    assert_eq!(told, report.lines);
    assert!(!report.is_success());
    assert_eq!(
        report.to_string(),
        "ok      code_hello\n\
         skipped language_bash_hello: no bash here\n\
         FAILED  language_python_exit_3: $.exitCode: expected 3, got 0\n\
         skipped language_python_stdout_limit: the limits that Piston was recorded with\n\
         ok      rejected_path_unknown\n\
         2 passed, 1 failed, 2 skipped"
    );
}

#[tokio::test]
async fn what_cannot_be_replayed_says_why() {
    let url = refused_url().await;
    let fixtures = some(&["code_hello"]);
    let error = replay(fixtures.path(), &url).await.unwrap_err();
    assert!(matches!(error, ReplayError::Runtimes { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");

    let empty = tempfile::tempdir().unwrap();
    let error = replay(empty.path(), &url).await.unwrap_err();
    assert!(
        matches!(error, ReplayError::Fixtures(FixtureError::Empty(_))),
        "{error}"
    );

    let missing = empty.path().join("missing");
    let error = replay(&missing, &url).await.unwrap_err();
    assert!(
        matches!(error, ReplayError::Fixtures(FixtureError::Read { .. })),
        "{error}"
    );
}

#[test]
fn a_file_that_is_no_fixture_is_refused() {
    let good = fs::read_to_string(exchanges().join("code_hello.json")).unwrap();
    for (from, to, why) in [
        ("\"note\"", "\"notes\"", "unknown field `notes`"),
        ("\"recording\"", "\"record\"", "unknown field `record`"),
        (
            "\"name\": \"code_hello\"",
            "\"name\": \"x\"",
            "its name is \"x\"",
        ),
        ("\"content-type\"", "\"Content-Type\"", "not in lower case"),
        (
            "\"body\": {",
            "\"body_text\": \"\", \"body\": {",
            "azure_request has both",
        ),
        ("{", "", "expected"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        assert!(good.contains(from));
        fs::write(
            directory.path().join("code_hello.json"),
            good.replacen(from, to, 1),
        )
        .unwrap();
        let error = load(directory.path()).unwrap_err().to_string();
        assert!(
            error.contains("code_hello.json") && error.contains(why),
            "{error}"
        );
    }
}

/// Asks the stand-in directly, over a connection of its own.
async fn ask(piston: &StandIn) -> std::io::Result<raw::Response> {
    let mut connection = raw::Connection::to(piston.addr).await;
    connection.send(EXECUTION).await;
    connection.try_answer().await
}

const EXECUTION: &str = "POST /api/v2/execute HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";

#[tokio::test]
async fn the_stand_in_fails_in_the_ways_it_is_told() {
    let whole = || ScriptedResponse::stdout("hello\n");
    let piston = StandIn::script()
        .respond(ScriptedResponse::Reset)
        .respond(ScriptedResponse::Close)
        .respond(whole().half())
        .respond(whole().claiming(100_000))
        .respond(whole().claiming(10))
        .respond(ScriptedResponse::not_json())
        .respond(ScriptedResponse::huge(3_000_000))
        .respond(whole().after(Duration::from_millis(20)))
        .always(ScriptedResponse::empty(500))
        .start()
        .await;
    let kind = |response: std::io::Result<raw::Response>| response.unwrap_err().kind();
    assert_eq!(kind(ask(&piston).await), ErrorKind::ConnectionReset);
    assert_eq!(kind(ask(&piston).await), ErrorKind::UnexpectedEof);
    assert_eq!(kind(ask(&piston).await), ErrorKind::UnexpectedEof);
    assert_eq!(kind(ask(&piston).await), ErrorKind::UnexpectedEof);
    assert_eq!(ask(&piston).await.unwrap().body.len(), 10);
    assert!(serde_json::from_slice::<Value>(&ask(&piston).await.unwrap().body).is_err());
    assert!(ask(&piston).await.unwrap().body.len() > 3_000_000);
    assert_eq!(
        ask(&piston).await.unwrap().json()["run"]["stdout"],
        "hello\n"
    );
    assert_eq!(ask(&piston).await.unwrap().status, 500);
    assert_eq!((piston.requests().len(), piston.connections()), (9, 9));
    assert_eq!(piston.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn the_stand_in_holds_an_answer_back_and_sees_who_gives_up() {
    let gate = Gate::closed();
    let piston = StandIn::script()
        .respond(ScriptedResponse::Never)
        .respond(ScriptedResponse::stdout("held\n").held_by(&gate))
        .start()
        .await;
    let mut impatient = raw::Connection::to(piston.addr).await;
    impatient.send(EXECUTION).await;
    piston.received(1).await;
    assert_eq!(piston.left(), 0);
    drop(impatient);
    piston.abandoned(1).await;

    let mut patient = raw::Connection::to(piston.addr).await;
    patient.send(EXECUTION).await;
    piston.received(2).await;
    gate.open();
    assert_eq!(
        patient.read_response().await.json()["run"]["stdout"],
        "held\n"
    );
}

#[tokio::test]
async fn the_stand_in_closes_idle_connections_as_piston_does() {
    let piston = StandIn::script()
        .always(ScriptedResponse::stdout(""))
        .close_idle_after(Duration::from_millis(30))
        .start()
        .await;
    let mut connection = raw::Connection::to(piston.addr).await;
    connection.send(EXECUTION).await;
    assert_eq!(
        connection.read_response().await.header("keep-alive"),
        "timeout=5"
    );
    connection
        .send("GET /api/v2/runtimes HTTP/1.1\r\n\r\n")
        .await;
    assert_eq!(
        connection
            .read_response()
            .await
            .json()
            .as_array()
            .unwrap()
            .len(),
        6
    );
    connection.closed().await;
}

#[tokio::test]
async fn the_stand_in_does_not_count_what_no_client_asked_for() {
    let piston = StandIn::script().start().await;
    let ready = r#"{"language":"python","version":"*","files":[{"name":"ready.py","content":""}]}"#;
    let response = raw::post(piston.addr, "/api/v2/execute", ready).await;
    assert_eq!(response.json()["run"]["stdout"], "42\n");
    assert_eq!(raw::get(piston.addr, "/api/v2/runtimes").await.status, 200);
    assert!(piston.requests().is_empty() && piston.complaints().is_empty());
    assert_eq!(raw::get(piston.addr, "/api/v2/packages").await.status, 500);
    assert_eq!(piston.complaints(), ["unexpected: GET /api/v2/packages"]);
}
