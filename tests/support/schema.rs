//! Holds each response against Azure's own documents (`fixtures/azure`): the schema of the version
//! that was asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::{Value, json};

use super::raw::Response;

const NEWEST: &str = "2025-10-02-preview";
const ERROR: &str = "#/definitions/Azure.Core.Foundations.ErrorResponse";

/// The documents by version.
fn documents() -> &'static BTreeMap<String, Document> {
    static DOCUMENTS: OnceLock<BTreeMap<String, Document>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/azure");
        let versions = std::fs::read_dir(folder).unwrap();
        versions
            .map(|version| {
                let path = version.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let text = std::fs::read_to_string(path.join("DynamicSessions.json")).unwrap();
                (name, Document::read(&text))
            })
            .collect()
    })
}

/// One document, ready to judge.
struct Document {
    operations: Vec<Operation>,
    error: Validator,
}

struct Operation {
    method: String,
    path: Vec<String>,
    /// By status, or `default`; `None` where the body is not JSON.
    answers: BTreeMap<String, Option<Validator>>,
}

impl Document {
    fn read(text: &str) -> Self {
        let mut document: Value = serde_json::from_str(text).unwrap();
        allow_new_words(&mut document);
        let definitions = document["definitions"].take();
        let validator = |schema: &Value| {
            let mut schema = schema.clone();
            schema["definitions"] = definitions.clone();
            jsonschema::options()
                .should_validate_formats(true)
                .build(&schema)
                .unwrap()
        };
        let mut operations = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let answers = operation["responses"].as_object().unwrap().iter();
                operations.push(Operation {
                    method: method.to_uppercase(),
                    path: segments(path),
                    answers: answers
                        .map(|(status, response)| {
                            let schema = response.get("schema").filter(|s| s["type"] != "file");
                            (status.clone(), schema.map(validator))
                        })
                        .collect(),
                });
            }
        }
        Self {
            operations,
            error: validator(&json!({ "$ref": ERROR })),
        }
    }

    /// The schema of a response; `None` where the document has no such operation, or no JSON.
    fn schema(&self, method: &str, path: &str, status: u16) -> Option<&Validator> {
        let asked = segments(path);
        let same = |(ours, given): (&String, &String)| ours.starts_with('{') || ours == given;
        let operation = self.operations.iter().find(|one| {
            one.method == method
                && one.path.len() == asked.len()
                && one.path.iter().zip(&asked).all(same)
        })?;
        let of_status = operation.answers.get(&status.to_string());
        of_status.or(operation.answers.get("default"))?.as_ref()
    }
}

fn segments(path: &str) -> Vec<String> {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    segments.map(str::to_owned).collect()
}

/// `modelAsString` says that a list of words may grow; shell pools response with exit codes.
fn allow_new_words(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if members
                .get("x-ms-enum")
                .is_some_and(|words| words["modelAsString"] == true)
            {
                members.remove("enum");
            }
            members.values_mut().for_each(allow_new_words);
        }
        Value::Array(elements) => elements.iter_mut().for_each(allow_new_words),
        _ => {}
    }
}

/// Panics where the response to a request is not what Azure's document says.
pub fn check(method: &str, target: &str, response: &Response) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    // What hyper refuses before there is a request has no body at all.
    let is_hypers = matches!(response.status, 400 | 414 | 431) && response.body.is_empty();
    if method == "HEAD" || path.starts_with("/api/") || is_hypers {
        return;
    }
    let version = form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "api-version")
        .map_or(NEWEST.to_owned(), |(_, version)| version.into_owned());
    let is_error = response.status >= 400;
    let document = match documents().get(&version) {
        Some(document) => document,
        None if is_error => &documents()[NEWEST],
        None => return,
    };
    let schema = match document.schema(method, path, response.status) {
        Some(schema) => schema,
        None if is_error => &document.error,
        None => return,
    };
    let is_json = response
        .header("content-type")
        .starts_with("application/json");
    assert!(is_json, "{method} {target}: {:?}", response.headers);
    let body = response.json();
    if let Err(error) = schema.validate(&body) {
        let place = error.instance_path();
        panic!("{method} {target}: {error} at {place} of {body}");
    }
    if is_error {
        assert_eq!(body["error"]["code"], response.header("x-ms-error-code"));
    }
}
