//! Executions that are asked for again: asynchronous ones, and those that have an id.

use crate::support::raw::{self, Connection};
use crate::support::{Adapter, Gate, ScriptedResponse, StandIn, end_of_execution, eventually};
use serde_json::{Value, json};

const NEWEST: &str = "2025-10-02-preview";

fn request(id: Option<&str>, body: &Value) -> Vec<u8> {
    request_to("/executions?identifier=demo-1", id, body)
}

fn request_to(path: &str, id: Option<&str>, body: &Value) -> Vec<u8> {
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend(id.map(|id| ("operation-id", id)));
    raw::request("POST", path, &headers, &body.to_string())
}

fn asynchronous() -> Value {
    json!({"code": "print(7*9)", "codeInputType": "Inline", "executionType": "Asynchronous",
        "timeoutInSeconds": 60})
}

#[tokio::test]
async fn an_asynchronous_execution_is_answered_at_once_and_asked_for_later() {
    let gate = Gate::closed();
    let response = ScriptedResponse::stdout("63\n").held_by(&gate);
    let piston = StandIn::script().respond(response).start().await;
    let adapter = Adapter::in_front_of(&piston).await;

    let accepted = raw::exchange(adapter.addr, request(None, &asynchronous())).await;
    assert_eq!(accepted.status, 200);
    let id = accepted.header("operation-id").to_owned();
    let location = accepted.header("operation-location");
    assert_eq!(
        location,
        format!("/executions/{id}?api-version={NEWEST}&identifier=demo-1")
    );
    let resource = accepted.json();
    assert_eq!(resource["id"], id.as_str());
    assert_eq!(resource["identifier"], "demo-1");
    assert_eq!(resource["executionType"], "Asynchronous");
    assert_eq!(resource["status"], "Running");
    assert_eq!(resource.get("result"), None);
    piston.received(1).await;
    let running = raw::get(adapter.addr, location).await;
    assert_eq!(running.json()["status"], "Running");
    assert_eq!(running.header("operation-id"), id);

    gate.open();
    let ended = end_of_execution(adapter.addr, location).await;
    assert_eq!(ended["status"], "Succeeded");
    assert_eq!(ended["result"]["stdout"], "63\n");
    assert_eq!(ended["result"]["executionResult"], "");
    assert_eq!(ended.get("error"), None);
}

#[tokio::test]
async fn one_that_waits_for_its_turn_has_not_started() {
    let gate = Gate::closed();
    let piston = StandIn::script()
        .always(ScriptedResponse::stdout("1\n").held_by(&gate))
        .start()
        .await;
    let adapter = Adapter::with(&piston, |config| {
        config.max_jobs = 1;
        config.queue = 1;
    })
    .await;
    let first = raw::exchange(adapter.addr, request(Some("first"), &asynchronous())).await;
    assert_eq!(first.status, 200);
    piston.received(1).await;
    let second = raw::exchange(adapter.addr, request(Some("second"), &asynchronous())).await;
    assert_eq!(second.json()["status"], "NotStarted");
    let third = raw::exchange(adapter.addr, request(Some("third"), &asynchronous())).await;
    assert_eq!(third.status, 429);
    let third = raw::get(adapter.addr, "/executions/third?identifier=demo-1").await;
    assert_eq!(third.json()["error"]["code"], "ExecutionNotFound");
    gate.open();
    let second = end_of_execution(adapter.addr, "/executions/second?identifier=demo-1").await;
    assert_eq!(second["status"], "Succeeded");
}

#[tokio::test]
async fn a_repeated_id_is_the_same_execution_and_runs_once() {
    let piston = StandIn::script()
        .respond(ScriptedResponse::stdout("first\n"))
        .always(ScriptedResponse::stdout("second\n"))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let body = json!({"code": "print(1)"});
    for _ in 0..3 {
        let response = raw::exchange(adapter.addr, request(Some("once"), &body)).await;
        assert_eq!(response.header("operation-id"), "once");
        assert_eq!(response.json()["result"]["stdout"], "first\n");
    }
    // Neither the dialect nor whether the client waits is part of the execution.
    let wrapped =
        json!({"properties": {"pythonCode": "print(1)", "executionType": "Asynchronous"}});
    for path in [
        "/python/execute?identifier=demo-1&api-version=2024-02-02-preview",
        "/code/execute?identifier=demo-1",
        "/Python/execute?identifier=demo-1",
    ] {
        for body in [&body, &wrapped] {
            let response = raw::exchange(adapter.addr, request_to(path, Some("once"), body)).await;
            assert_eq!(response.json()["properties"]["stdout"], "first\n", "{path}");
        }
    }
    assert_eq!(piston.requests().len(), 1);
}

/// Asserts that the response refuses an operation id that is in use.
fn assert_conflict(response: &raw::Response, what: &str) {
    assert_eq!(response.status, 409, "{what}: {}", response.text());
    assert_eq!(
        response.header("x-ms-error-code"),
        "OperationIdConflict",
        "{what}"
    );
    let error = response.json()["error"].take();
    assert_eq!(error["code"], "OperationIdConflict", "{what}");
    assert_eq!(error["target"], "operation-id", "{what}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("operation-id"), "{message}");
    assert_eq!(response.header("operation-location"), "", "{what}");
}

#[tokio::test]
async fn an_id_is_bound_to_all_that_decides_what_runs_and_how_it_ends() {
    let piston = StandIn::script()
        .always(ScriptedResponse::stdout("ran\n"))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let body = json!({"code": "print(1)", "language": "python", "version": "3", "stdin": "in",
        "args": ["a", "b"], "timeoutInSeconds": 5, "outputStreamsMaxLength": 100});
    let first = raw::exchange(adapter.addr, request(Some("mine"), &body)).await;
    assert_eq!(first.status, 200, "{}", first.text());
    for (field, value) in [
        ("code", json!("print(2)")),
        ("language", json!("bash")),
        ("version", json!("3.1")),
        ("stdin", json!("other")),
        ("args", json!(["ab"])),
        ("args", json!(["a", "b", ""])),
        ("timeoutInSeconds", json!(6)),
        ("timeoutInSeconds", json!(null)),
        ("outputStreamsMaxLength", json!(101)),
        ("returnJupyterFormatExecutionResult", json!(true)),
    ] {
        let mut other = body.clone();
        match value.is_null() {
            true => drop(other.as_object_mut().unwrap().remove(field)),
            false => other[field] = value,
        }
        for kind in ["Synchronous", "Asynchronous"] {
            other["executionType"] = json!(kind);
            let response = raw::exchange(adapter.addr, request(Some("mine"), &other)).await;
            assert_conflict(&response, field);
        }
    }
    let again = raw::exchange(adapter.addr, request(Some("mine"), &body)).await;
    assert_eq!(again.status, 200);
    assert_eq!(piston.requests().len(), 1);

    // A shell command is not the same execution as code for its shell.
    let shell = json!({"shellCommand": "ls"});
    raw::exchange(adapter.addr, request(Some("shell"), &shell)).await;
    let code = json!({"code": "ls", "language": "bash"});
    let response = raw::exchange(adapter.addr, request(Some("shell"), &code)).await;
    assert_conflict(&response, "shell");
    let page = raw::get(adapter.addr, "/metrics").await.text();
    let counted = r#"session_adapter_errors_total{code="OperationIdConflict"} 21"#;
    assert!(page.contains(counted), "{page}");
}

#[tokio::test]
async fn an_id_conflicts_while_its_execution_runs_and_after_it_has_failed() {
    let gate = Gate::closed();
    let piston = StandIn::script()
        .respond(ScriptedResponse::empty(500).held_by(&gate))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    raw::exchange(adapter.addr, request(Some("mine"), &asynchronous())).await;
    piston.received(1).await;
    let other = json!({"code": "print('other')"});
    let response = raw::exchange(adapter.addr, request(Some("mine"), &other)).await;
    assert_conflict(&response, "running");
    gate.open();
    let location = "/executions/mine?identifier=demo-1";
    let ended = end_of_execution(adapter.addr, location).await;
    assert_eq!(ended["error"]["error"]["code"], "EngineFailed");
    // It may have run.
    let response = raw::exchange(adapter.addr, request(Some("mine"), &other)).await;
    assert_conflict(&response, "failed");
    assert_eq!(piston.requests().len(), 1);
}

#[tokio::test]
async fn each_identifier_has_operation_ids_of_its_own() {
    let piston = StandIn::script()
        .respond(ScriptedResponse::stdout("first\n"))
        .respond(ScriptedResponse::stdout("second\n"))
        .respond(ScriptedResponse::stdout("nameless\n"))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let body = json!({"code": "print(1)"});
    let resource = |query: &str| format!("/executions/shared{query}");
    let queries = ["?identifier=demo-1", "?identifier=demo-2", ""];
    let outputs = ["first\n", "second\n", "nameless\n"];
    for (begun, (query, output)) in queries.iter().zip(outputs).enumerate() {
        for other in &queries[begun..] {
            let response = raw::get(adapter.addr, &resource(other)).await;
            assert_eq!(response.status, 404, "{other}: {}", response.text());
            assert_eq!(response.header("x-ms-error-code"), "ExecutionNotFound");
        }
        let path = format!("/executions{query}");
        let response = raw::exchange(adapter.addr, request_to(&path, Some("shared"), &body)).await;
        assert_eq!(response.json()["result"]["stdout"], output, "{query}");
        assert_ne!(response.header("operation-location"), "");
    }
    for (query, output) in queries.iter().zip(outputs) {
        let response = raw::get(adapter.addr, &resource(query)).await;
        assert_eq!(response.json()["result"]["stdout"], output, "{query}");
    }
    // An identifier in the body is as good as one in the query.
    let named = json!({"code": "print(1)", "identifier": "demo-2"});
    let response = raw::exchange(
        adapter.addr,
        request_to("/executions", Some("shared"), &named),
    )
    .await;
    assert_eq!(response.json()["result"]["stdout"], "second\n");
    assert_eq!(piston.requests().len(), 3);
}

#[tokio::test]
async fn an_id_that_the_adapter_chose_is_bound_as_well() {
    let piston = StandIn::script()
        .respond(ScriptedResponse::stdout("first\n"))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let body = json!({"code": "print(1)"});
    let first = raw::exchange(adapter.addr, request(None, &body)).await;
    let id = first.header("operation-id");
    let again = raw::exchange(adapter.addr, request(Some(id), &body)).await;
    assert_eq!(again.json()["result"]["stdout"], "first\n");
    let other = json!({"code": "print(2)"});
    let response = raw::exchange(adapter.addr, request(Some(id), &other)).await;
    assert_conflict(&response, "a chosen id");
}

#[tokio::test]
async fn who_hung_up_comes_back_with_the_id_and_finds_the_result() {
    let gate = Gate::closed();
    let response = ScriptedResponse::stdout("late\n").held_by(&gate);
    let piston = StandIn::script().respond(response).start().await;
    let adapter = Adapter::in_front_of(&piston).await;
    let body = json!({"code": "print('late')"});
    let mut impatient = Connection::to(adapter.addr).await;
    impatient.send(request(Some("mine"), &body)).await;
    piston.received(1).await;
    drop(impatient);
    gate.open();
    let response = raw::exchange(adapter.addr, request(Some("mine"), &body)).await;
    assert_eq!(response.json()["result"]["stdout"], "late\n");
    assert_eq!(piston.requests().len(), 1);
}

#[tokio::test]
async fn who_hung_up_without_an_id_leaves_nothing_running() {
    let piston = StandIn::script()
        .always(ScriptedResponse::Never)
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let mut impatient = Connection::to(adapter.addr).await;
    let body = json!({"code": "while True: pass"});
    impatient.send(request(None, &body)).await;
    piston.received(1).await;
    drop(impatient);
    piston.abandoned(1).await;
}

#[tokio::test]
async fn an_error_of_the_engine_is_a_failed_execution() {
    let piston = StandIn::script()
        .always(ScriptedResponse::json(500, &json!({})))
        .start()
        .await;
    let adapter = Adapter::start(Adapter::config(piston.url())).await;
    raw::exchange(adapter.addr, request(Some("faulty"), &asynchronous())).await;
    let ended = end_of_execution(adapter.addr, "/executions/faulty?identifier=demo-1").await;
    assert_eq!(ended["status"], "Failed");
    assert_eq!(ended["error"]["error"]["code"], "EngineFailed");
    assert_eq!(ended.get("result"), None);
}

#[tokio::test]
async fn one_that_was_refused_before_it_ran_may_be_tried_again_under_its_id() {
    let piston = StandIn::script()
        .respond(ScriptedResponse::json(503, &json!({})))
        .respond(ScriptedResponse::json(503, &json!({})))
        .always(ScriptedResponse::stdout("ran\n"))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let (body, other) = (json!({"code": "print('ran')"}), json!({"code": "other"}));
    for body in [&body, &other] {
        let refused = raw::exchange(adapter.addr, request(Some("again"), body)).await;
        assert_eq!(refused.status, 503);
    }
    let ran = raw::exchange(adapter.addr, request(Some("again"), &body)).await;
    assert_eq!(ran.json()["result"]["stdout"], "ran\n");
    let conflict = raw::exchange(adapter.addr, request(Some("again"), &other)).await;
    assert_conflict(&conflict, "it has run");
}

#[tokio::test]
async fn the_versions_tell_the_same_execution_in_their_own_forms() {
    let response = ScriptedResponse::json(
        200,
        &json!({"run": {"code": 3, "signal": null, "stdout": "", "stderr": "", "output": "",
            "status": "RE"}, "language": "bash", "version": "5.2.15"}),
    );
    let piston = StandIn::script().always(response).start().await;
    let adapter = Adapter::in_front_of(&piston).await;
    let shell = json!({"shellCommand": "exit 3", "executionType": "Asynchronous"});
    raw::exchange(adapter.addr, request(Some("shell"), &shell)).await;
    let ended = end_of_execution(adapter.addr, "/executions/shell?identifier=demo-1").await;
    assert_eq!(ended["status"], "3");
    assert_eq!(ended.get("executionType"), None);

    let path = "/python/execute?identifier=demo-1&api-version=2024-02-02-preview";
    let accepted = request_to(path, Some("code"), &asynchronous());
    let accepted = raw::exchange(adapter.addr, accepted).await.json();
    assert_eq!(accepted["id"], "code");
    assert_eq!(accepted["properties"]["stdout"], "");
    let ended = end_of_execution(
        adapter.addr,
        "/executions/code?identifier=demo-1&api-version=2024-10-02-preview",
    )
    .await;
    assert_eq!(ended["status"], "Failed");
    assert_eq!(ended["executionType"], "Asynchronous");
}

#[tokio::test]
async fn what_is_not_known_is_not_found() {
    let piston = StandIn::script().start().await;
    let adapter = Adapter::in_front_of(&piston).await;
    let response = raw::get(adapter.addr, "/executions/nobody").await;
    assert_eq!(response.status, 404);
    assert_eq!(response.header("x-ms-error-code"), "ExecutionNotFound");
    let response = raw::get(adapter.addr, "/executions/nobody?api-version=1999").await;
    assert_eq!(response.json()["error"]["code"], "InvalidApiVersion");
}

#[tokio::test]
async fn the_adapter_does_not_end_before_an_asynchronous_execution_has() {
    let gate = Gate::closed();
    let piston = StandIn::script()
        .respond(ScriptedResponse::stdout("x\n").held_by(&gate))
        .start()
        .await;
    let mut adapter = Adapter::in_front_of(&piston).await;
    let mut kept = Connection::to(adapter.addr).await;
    kept.send(request(Some("slow"), &asynchronous())).await;
    assert_eq!(kept.read_response().await.status, 200);
    piston.received(1).await;
    adapter.shut_down();
    eventually("no connection is accepted any more", async || {
        tokio::net::TcpStream::connect(adapter.addr).await.is_err()
    })
    .await;
    kept.send(raw::request(
        "GET",
        "/executions/slow?identifier=demo-1",
        &[],
        "",
    ))
    .await;
    assert_eq!(kept.read_response().await.json()["status"], "Running");
    gate.open();
    adapter.ended().await.unwrap();
}

#[tokio::test]
async fn deleting_the_session_cancels_what_runs_and_forgets_what_ran() {
    let piston = StandIn::script()
        .respond(ScriptedResponse::stdout("done\n"))
        .always(ScriptedResponse::Never)
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let body = json!({"code": "print('done')"});
    raw::exchange(adapter.addr, request(Some("ended"), &body)).await;
    raw::exchange(adapter.addr, request(Some("later"), &asynchronous())).await;
    let mut waiting = Connection::to(adapter.addr).await;
    waiting.send(request(None, &body)).await;
    let mut passed = Connection::to(adapter.addr).await;
    passed
        .send(request_to("/api/v2/execute", None, &body))
        .await;
    piston.received(4).await;

    let path = "/session?identifier=demo-1&api-version=2025-02-02-preview";
    let session = raw::get(adapter.addr, path).await.json();
    assert_eq!(session["identifier"], "demo-1");
    let sessions = raw::get(adapter.addr, "/listSessions").await.json();
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1);

    let deleted = raw::exchange(adapter.addr, raw::request("DELETE", path, &[], "")).await;
    assert_eq!((deleted.status, deleted.text().as_str()), (204, ""));
    for connection in [&mut waiting, &mut passed] {
        let response = connection.read_response().await;
        assert_eq!(response.status, 409);
        assert_eq!(response.json()["error"]["code"], "ExecutionCanceled");
    }
    let canceled = raw::get(adapter.addr, "/executions/later?identifier=demo-1")
        .await
        .json();
    assert_eq!(canceled["status"], "Canceled");
    assert_eq!(
        raw::get(adapter.addr, "/executions/ended?identifier=demo-1")
            .await
            .status,
        404
    );
    let gone = raw::get(adapter.addr, path).await;
    assert_eq!(gone.status, 404);
    assert_eq!(gone.header("x-ms-error-code"), "NoSessionFoundError");
    let sessions = raw::get(adapter.addr, "/listSessions").await.json();
    assert_eq!(sessions, json!({"sessions": []}));
    piston.abandoned(3).await;
}

/// An adapter whose session has many files, so that deleting it takes a while.
async fn with_many_files(piston: &StandIn) -> (Adapter, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    for number in 0..20_000 {
        std::fs::write(data.path().join(number.to_string()), "").unwrap();
    }
    let adapter = Adapter::with(piston, |config| config.data_dir = data.path().to_owned()).await;
    (adapter, data)
}

/// How many files the session has: the directory with the adapter's own mark is none of them.
fn count(data: &tempfile::TempDir) -> usize {
    std::fs::read_dir(data.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name() != ".session-adapter")
        .count()
}

#[tokio::test]
async fn who_hangs_up_on_a_deletion_gets_it_all_the_same() {
    let piston = StandIn::script()
        .always(ScriptedResponse::stdout("x\n"))
        .start()
        .await;
    let (adapter, data) = with_many_files(&piston).await;
    let passed = json!({"language": "c", "version": "*", "files": [{"content": ""}]});
    let path = "/api/v2/execute?identifier=demo-1";
    raw::exchange(adapter.addr, request_to(path, None, &passed)).await;
    let mut impatient = Connection::to(adapter.addr).await;
    let delete = raw::request("DELETE", "/session?identifier=demo-1", &[], "");
    impatient.send(delete).await;
    eventually("the deletion is under way", async || count(&data) < 20_000).await;
    drop(impatient);
    // It waits for the deletion, and belongs to the new session.
    let body = json!({"code": "int main() {}", "language": "c"});
    let response = raw::exchange(adapter.addr, request(Some("new"), &body)).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(count(&data), 0);
    let session = raw::get(adapter.addr, "/session?identifier=demo-1").await;
    assert_eq!(session.status, 200);
}

#[tokio::test]
async fn an_id_that_was_canceled_or_never_ran_is_free_again() {
    let piston = StandIn::script()
        .respond(ScriptedResponse::json(
            400,
            &json!({"message": "cobol-* runtime is unknown"}),
        ))
        .respond(ScriptedResponse::Never)
        .always(ScriptedResponse::stdout("ran\n"))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let unknown = json!({"code": "1", "language": "cobol", "executionType": "Asynchronous"});
    raw::exchange(adapter.addr, request(Some("mine"), &unknown)).await;
    let refused = end_of_execution(adapter.addr, "/executions/mine?identifier=demo-1").await;
    assert_eq!(refused["error"]["error"]["code"], "RuntimeNotFound");
    raw::exchange(adapter.addr, request(Some("mine"), &asynchronous())).await;
    piston.received(2).await;
    let delete = raw::request("DELETE", "/session?identifier=demo-1", &[], "");
    assert_eq!(raw::exchange(adapter.addr, delete).await.status, 204);
    let canceled = raw::get(adapter.addr, "/executions/mine?identifier=demo-1")
        .await
        .json();
    assert_eq!(canceled["status"], "Canceled");
    let body = json!({"code": "print('ran')"});
    let response = raw::exchange(adapter.addr, request(Some("mine"), &body)).await;
    assert_eq!(response.json()["result"]["stdout"], "ran\n");
}

#[tokio::test]
async fn a_refused_execution_cannot_be_asked_for() {
    let piston = StandIn::script()
        .always(ScriptedResponse::json(
            400,
            &json!({"message": "cobol-* runtime is unknown"}),
        ))
        .start()
        .await;
    let adapter = Adapter::start(Adapter::config(piston.url())).await;
    let body = json!({"code": "1", "language": "cobol"});
    let refused = raw::exchange(adapter.addr, request(None, &body)).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.header("operation-location"), "");
}

#[tokio::test]
async fn who_asks_again_in_another_dialect_gets_the_form_that_fits() {
    let piston = StandIn::script()
        .always(ScriptedResponse::stdout("x\n"))
        .start()
        .await;
    let adapter = Adapter::in_front_of(&piston).await;
    let shell = json!({"shellCommand": "true"});
    for (id, first, second, status) in [
        ("one", "/shellExecute", "/executions", "0"),
        ("two", "/executions", "/shellExecute", "Succeeded"),
    ] {
        raw::exchange(adapter.addr, request_to(first, Some(id), &shell)).await;
        let again = raw::exchange(adapter.addr, request_to(second, Some(id), &shell)).await;
        assert_eq!(again.json()["status"], status);
    }
    let again = raw::exchange(adapter.addr, request_to("/execute", Some("one"), &shell)).await;
    assert_eq!(again.json()["status"], "Success");
    // One that began where there are no shell executions keeps a status in words.
    raw::exchange(adapter.addr, request_to("/execute", Some("three"), &shell)).await;
    let again = request_to("/shellExecute", Some("three"), &shell);
    let again = raw::exchange(adapter.addr, again).await;
    assert_eq!(again.json()["status"], "Succeeded");
    assert_eq!(piston.requests().len(), 3);
}
