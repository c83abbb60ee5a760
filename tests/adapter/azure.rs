//! Azure's official examples, all of them, against the program with its embedded engine. Each has
//! a session of its own, for they share their ids.
//!
//! Besides what an example says, every response is held against the schema of its version
//! (`support/schema.rs`).

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::form::upload;
use crate::support::raw::{self, Response};
use crate::support::{Program, eventually};
use serde_json::{Value, json};

/// Members whose values are the example's own; of all others only the kind has to be the same.
const EXACT: [&str; 7] = [
    "id",
    "identifier",
    "executionType",
    "status",
    "stdout",
    "stderr",
    "executionResult",
];

struct Example {
    name: String,
    operation: String,
    version: String,
    parameters: Value,
    status: u16,
    body: Option<Value>,
    headers: Vec<String>,
}

impl Example {
    fn read(path: &Path, operation: String) -> Self {
        let text = fs::read_to_string(path).unwrap();
        // Their line feeds are spelled with the wrong slash.
        let json: Value = serde_json::from_str(&text.replace("63/n", "63\\n")).unwrap();
        let (status, response) = json["responses"]
            .as_object()
            .unwrap()
            .iter()
            .next()
            .unwrap();
        let headers = response["headers"].as_object();
        Self {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            operation,
            version: json["parameters"]["api-version"]
                .as_str()
                .unwrap()
                .to_owned(),
            parameters: json["parameters"].clone(),
            status: status.parse().unwrap(),
            body: response.get("body").cloned(),
            headers: headers.map_or(Vec::new(), |headers| headers.keys().cloned().collect()),
        }
    }

    /// A parameter as text.
    fn given(&self, name: &str) -> String {
        match &self.parameters[name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    fn target(&self, path: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for name in [
            "api-version",
            "identifier",
            "path",
            "recursive",
            "offset",
            "limit",
        ] {
            if !self.parameters[name].is_null() {
                query.append_pair(name, &self.given(name));
            }
        }
        format!("{path}?{}", query.finish())
    }
}

/// The examples that a version's document names, with the operation that each is of.
fn examples() -> Vec<Example> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/azure");
    let mut found = Vec::new();
    for version in fs::read_dir(root).unwrap() {
        let folder = version.unwrap().path();
        let document = fs::read_to_string(folder.join("DynamicSessions.json")).unwrap();
        let document: Value = serde_json::from_str(&document).unwrap();
        for methods in document["paths"].as_object().unwrap().values() {
            for operation in methods.as_object().unwrap().values() {
                let id = operation["operationId"].as_str().unwrap();
                for example in operation["x-ms-examples"].as_object().unwrap().values() {
                    let path = folder.join(example["$ref"].as_str().unwrap());
                    // The newest document names two that were never published.
                    if path.exists() {
                        found.push(Example::read(&path, id.to_owned()));
                    }
                }
            }
        }
    }
    found
}

/// Sends one request of an example.
async fn send(program: &Program, method: &str, target: &str, body: &str) -> Response {
    raw::exchange(program.addr, raw::request(method, target, &[], body)).await
}

async fn execute(program: &Program, example: &Example, request: &Value) -> Response {
    let id = match example.given("operation-id").as_str() {
        "" => "testExecutionId".to_owned(),
        id => id.to_owned(),
    };
    let headers = [
        ("Content-Type", "application/json"),
        ("operation-id", id.as_str()),
    ];
    let target = example.target("/executions");
    let request = raw::request("POST", &target, &headers, &request.to_string());
    raw::exchange(program.addr, request).await
}

fn asynchronous(code: &str) -> Value {
    json!({"codeInputType": "Inline", "executionType": "Asynchronous", "code": code,
        "timeoutInSeconds": 60})
}

/// The execution once it has ended.
async fn end_of(program: &Program, example: &Example) -> Response {
    let target = example.target("/executions/testExecutionId");
    let mut response = None;
    eventually("the execution has ended", async || {
        let now = send(program, "GET", &target, "").await;
        let status = now.json()["status"].take();
        response = Some(now);
        status != "Running" && status != "NotStarted"
    })
    .await;
    response.unwrap()
}

/// What an example takes for granted, and then its request.
async fn play(program: &Program, example: &Example) -> Response {
    let addr = program.addr;
    let session = format!("/executions?identifier={}", example.given("identifier"));
    let file = |name: &str| example.target(name);
    match example.operation.as_str() {
        "CodeExecution_Execute" => {
            upload(addr, "/files", "previouslyuploadedfile.txt", b"").await;
            let response = execute(
                program,
                example,
                &example.parameters["codeExecutionRequest"],
            )
            .await;
            match example.name.ends_with("Async_Completed") {
                true => Response {
                    headers: response.headers,
                    ..end_of(program, example).await
                },
                false => response,
            }
        }
        "CodeExecution_Get" if example.name.ends_with("Running") => {
            let request = asynchronous("import time; time.sleep(60)");
            execute(program, example, &request).await;
            send(
                program,
                "GET",
                &example.target("/executions/testExecutionId"),
                "",
            )
            .await
        }
        "CodeExecution_Get" => {
            execute(program, example, &asynchronous("print(7*9)")).await;
            end_of(program, example).await
        }
        "SessionResourceFiles_List" => {
            upload(addr, &file("/files"), "testfile.yaml", b"a: 1").await;
            let below = "/files?path=test-directory/test-sub-directory";
            upload(addr, below, "deep.yaml", b"b: 2").await;
            send(program, "GET", &file("/files"), "").await
        }
        "SessionResourceFiles_Upload" => {
            upload(addr, &file("/files"), "testfile.yaml", b"a: 1").await
        }
        "SessionResourceFiles_Get" => {
            upload(addr, &file("/files"), "testfile", b"a: 1").await;
            send(program, "GET", &file("/files/testfile"), "").await
        }
        "SessionResourceFiles_GetContent" => {
            upload(addr, &file("/files"), "testfile", b"testfilecontent").await;
            send(program, "GET", &file("/files/testfile/content"), "").await
        }
        "SessionResourceFiles_Delete" => {
            upload(addr, &file("/files"), "testfile", b"").await;
            send(program, "DELETE", &file("/files/testfile"), "").await
        }
        "SessionManagement_Get" => {
            raw::post(addr, &session, r#"{"code":"1"}"#).await;
            send(program, "GET", &example.target("/session"), "").await
        }
        "SessionManagement_Delete" => {
            raw::post(addr, &session, r#"{"code":"1"}"#).await;
            send(program, "DELETE", &example.target("/session"), "").await
        }
        "SessionPoolManagement_StopSession" => {
            raw::post(addr, &session, r#"{"code":"1"}"#).await;
            send(
                program,
                "POST",
                &example.target("/.management/stopSession"),
                "",
            )
            .await
        }
        "ListSessions_Get" => {
            raw::post(addr, "/executions?identifier=testid1", r#"{"code":"1"}"#).await;
            send(program, "GET", &example.target("/listSessions"), "").await
        }
        "SessionPoolMetadata_Get" => send(program, "GET", &example.target("/metadata"), "").await,
        other => panic!("nobody knows how to play {other}"),
    }
}

/// Where a response is not as the example has it.
fn difference(expected: &Value, found: &Value, name: &str) -> Option<String> {
    let differs = || Some(format!("{name}: {found} instead of {expected}"));
    match (expected, found) {
        (Value::Object(members), Value::Object(_)) => {
            members.iter().find_map(|(name, expected)| {
                // A last page has no next one.
                if name == "nextLink" && expected.is_null() {
                    return None;
                }
                match found.get(name) {
                    Some(found) => difference(expected, found, name),
                    None => Some(format!("{name} is missing in {found}")),
                }
            })
        }
        // Of the kinds of entries that the example has there must be one each.
        (Value::Array(expected), Value::Array(found)) => expected.iter().find_map(|expected| {
            let differences = found.iter().map(|found| difference(expected, found, name));
            let differences: Option<Vec<_>> = differences.collect();
            differences.map(|differences| format!("{name}: {expected}: {differences:?}"))
        }),
        _ if EXACT.contains(&name) => (expected != found).then(differs).flatten(),
        (Value::String(expected), Value::String(found)) if name == "type" => (!expected
            .eq_ignore_ascii_case(found))
        .then(differs)
        .flatten(),
        _ => {
            let same = std::mem::discriminant(expected) == std::mem::discriminant(found);
            (!same).then(differs).flatten()
        }
    }
}

fn judge(example: &Example, response: &Response) -> Option<String> {
    if response.status != example.status {
        return Some(format!("status {}: {}", response.status, response.text()));
    }
    let missing = example
        .headers
        .iter()
        .find(|name| response.header(name).is_empty());
    if let Some(missing) = missing {
        return Some(format!("no header {missing}"));
    }
    match (&example.body, example.operation.as_str()) {
        (None, _) => (!response.body.is_empty()).then(|| "there is a body".to_owned()),
        (Some(Value::String(bytes)), "SessionResourceFiles_GetContent") => {
            (*bytes != response.text()).then(|| response.text())
        }
        (Some(body), _) => {
            // A program that lists the data directory also sees what is this program's own there.
            let text = response.text().replace(r".session-adapter\n", "");
            difference(body, &serde_json::from_str(&text).unwrap(), "body")
        }
    }
}

#[tokio::test]
async fn every_official_example_is_answered_as_azure_does() {
    let examples = examples();
    assert_eq!(examples.len(), 42);
    let mut failures = Vec::new();
    for example in &examples {
        let program = Program::start(&[]).await;
        let response = play(&program, example).await;
        if let Some(why) = judge(example, &response) {
            failures.push(format!("{} {}: {why}", example.version, example.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
