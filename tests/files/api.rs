//! The session's files over real sockets: every path and spelling, hostile names and contents,
//! bounds, and replacement as a whole.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::support::command::command;
use crate::support::form::{self, content_type, form, post_bytes, post_head, upload};
use crate::support::raw::{self, Connection, Response};
use crate::support::{Adapter, ScriptedResponse, StandIn, eventually};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

/// An adapter and its data directory.
struct Session {
    adapter: Adapter,
    data: tempfile::TempDir,
    _piston: StandIn,
}

impl Session {
    async fn start() -> Self {
        Self::with_upload_limit(1 << 20).await
    }

    async fn with_upload_limit(limit: u64) -> Self {
        let piston = StandIn::script().start().await;
        let data = tempfile::tempdir().unwrap();
        let mut config = Adapter::config(piston.url());
        config.data_dir = data.path().to_owned();
        config.max_upload = limit;
        config.data_bytes = 4 << 20;
        Self {
            adapter: Adapter::start(config).await,
            data,
            _piston: piston,
        }
    }

    async fn get(&self, path: &str) -> Response {
        raw::get(self.adapter.addr, path).await
    }

    async fn request(&self, method: &str, path: &str) -> Response {
        raw::exchange(self.adapter.addr, raw::request(method, path, &[], "")).await
    }

    async fn upload(&self, path: &str, filename: &str, bytes: &[u8]) -> Response {
        upload(self.adapter.addr, path, filename, bytes).await
    }

    async fn post(&self, content_type: &str, body: &[u8]) -> Response {
        post_bytes(self.adapter.addr, "/files", content_type, body).await
    }

    async fn names(&self, path: &str) -> Vec<String> {
        let list = self.get(path).await;
        assert_eq!(list.status, 200, "{}", list.text());
        let value = list.json()["value"].clone();
        let entries = value.as_array().unwrap().clone();
        let name = |entry: &Value| entry["properties"]["filename"].as_str().unwrap().to_owned();
        entries.iter().map(name).collect()
    }

    /// What the session really has in the data directory, uploads under way included.
    fn on_disk(&self) -> usize {
        let reserved = self.data.path().join(".session-adapter");
        let reserved = fs::read_dir(reserved).into_iter().flatten().flatten();
        let uploads = reserved
            .filter(|entry| entry.file_name() != "data-directory")
            .count();
        let entries = fs::read_dir(self.data.path()).unwrap().flatten();
        let own = entries.filter(|entry| entry.file_name() != ".session-adapter");
        own.count() + uploads
    }

    async fn until_on_disk(&self, count: usize) {
        eventually("there are so many files", async || self.on_disk() == count).await;
    }
}

fn encoded(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[track_caller]
fn assert_error(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(response.json()["error"]["code"], code);
    assert_eq!(response.header("x-ms-error-code"), code);
}

#[tokio::test]
async fn a_file_goes_in_is_listed_comes_out_and_is_deleted() {
    let session = Session::start().await;
    let uploaded = session
        .upload("/files?identifier=demo-1", "a.yaml", b"x: 1")
        .await;
    assert_eq!(uploaded.status, 200, "{}", uploaded.text());
    let entry = uploaded.json();
    assert_eq!(entry["name"], "a.yaml");
    assert_eq!(entry["type"], "file");
    assert_eq!(entry["contentType"], "application/yaml");
    assert_eq!(entry["sizeInBytes"], 4);
    assert_eq!(entry["properties"]["filename"], "a.yaml");
    assert_eq!(entry["properties"]["size"], 4);
    let modified = entry["lastModifiedAt"].as_str().unwrap();
    assert_eq!((modified.len(), &modified[23..]), (24, "Z"));
    assert_eq!(entry["properties"]["lastModifiedTime"], modified);
    assert_eq!(entry["value"][0]["properties"]["filename"], "a.yaml");

    let same = session.get("/files/a.yaml").await.json();
    assert_eq!(same["lastModifiedAt"], modified);
    assert_eq!(session.names("/files").await, ["a.yaml"]);
    let content = session.get("/files/a.yaml/content").await;
    assert_eq!((content.status, content.text().as_str()), (200, "x: 1"));
    assert_eq!(content.header("content-type"), "application/octet-stream");
    assert_eq!(content.header("content-length"), "4");
    assert_eq!(content.header("x-content-type-options"), "nosniff");
    assert_eq!(
        content.header("content-disposition"),
        "attachment; filename*=UTF-8''a.yaml"
    );
    let deleted = session.request("DELETE", "/files/a.yaml").await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    assert_error(&session.get("/files/a.yaml").await, 404, "FileNotFound");
    let again = session.request("DELETE", "/files/a.yaml").await;
    assert_error(&again, 404, "FileNotFound");
}

#[tokio::test]
async fn each_generation_of_clients_finds_its_paths_and_shapes() {
    let session = Session::start().await;
    for path in ["/files/upload", "/upload", "//files//upload/"] {
        let response = session.upload(path, "x", b"1").await.json();
        assert_eq!(
            response["value"][0]["properties"]["filename"], "x",
            "{path}"
        );
        assert_eq!(response["value"][0]["properties"]["size"], 1);
        assert_eq!(response["value"].as_array().unwrap().len(), 1);
        assert_eq!(response["$id"], "1");
    }
    let old = session
        .upload("/python/uploadFile", "y", b"22")
        .await
        .json();
    let listed = session.get("/python/files").await.json();
    assert_eq!(old["$values"][0], {
        let mut entry = listed["$values"][1].clone();
        entry["$id"] = json!("2");
        entry
    });
    assert_eq!(old["$values"][0]["filename"], "y");
    assert_eq!(old["$values"][0]["size"], 2);
    assert!(old["$values"][0]["last_modified_time"].is_string());
    for path in [
        "/files/y/content",
        "/files/content/y",
        "/files/content/y/content",
        "/files/content//mnt/data/y",
        "/files/content/%2Fmnt%2Fdata%2Fy",
        "/files/%2Fmnt%2Fdata%2Fy/content",
        "/python/downloadFile?filename=y",
        "/python/downloadFile?filename=/mnt/data/y&identifier=demo-1",
    ] {
        assert_eq!(session.get(path).await.text(), "22", "{path}");
    }
    assert_error(
        &session.get("/python/downloadFile").await,
        400,
        "MissingRequestProperty",
    );
}

#[tokio::test]
async fn piston_gets_the_files_with_each_execution() {
    let piston = StandIn::script()
        .always(ScriptedResponse::stdout("x\n"))
        .start()
        .await;
    let data = tempfile::tempdir().unwrap();
    let adapter = Adapter::with(&piston, |config| {
        config.data_dir = data.path().to_owned();
        config.max_body = 64 << 10;
    })
    .await;
    let addr = adapter.addr;
    upload(addr, "/files", "a b.bin", b"\0\xff").await;
    upload(addr, "/files?path=sub", "deep", b"1").await;
    upload(addr, "/files", "main.c", b"never the program").await;
    let body = json!({"code": "int main() {}", "language": "c"}).to_string();
    assert_eq!(raw::post(addr, "/execute", &body).await.status, 200);
    let asked = piston.requests().pop().unwrap().json();
    assert_eq!(
        asked["files"],
        json!([
            {"name": "main.c", "content": "int main() {}"},
            {"name": "a b.bin", "content": "AP8=", "encoding": "base64"},
            {"name": "sub/deep", "content": "MQ==", "encoding": "base64"},
        ])
    );
    upload(addr, "/files", "large", &vec![0; 65 << 10]).await;
    let refused = raw::post(addr, "/execute", &body).await;
    assert_error(&refused, 400, "ExecutionTooLarge");
    assert!(refused.text().contains("66"), "{}", refused.text());
}

#[tokio::test]
async fn of_several_files_none_is_stored_where_one_cannot_be() {
    let session = Session::start().await;
    fs::create_dir(session.data.path().join("folder")).unwrap();
    let part = |name: &str| format!("form-data; name=\"file\"; filename=\"{name}\"");
    let body = form(&[(&part("first"), b"1"), (&part("folder"), b"2")]);
    let response = session.post(&content_type(), &body).await;
    assert_error(&response, 409, "FileConflict");
    assert_eq!(session.on_disk(), 1);
}

#[tokio::test]
async fn deleting_the_session_deletes_its_files() {
    let session = Session::start().await;
    session
        .upload("/files?path=a&identifier=demo-1", "x", b"1")
        .await;
    symlink("/etc", session.data.path().join("etc")).unwrap();
    let deleted = session
        .request("DELETE", "/session?identifier=demo-1")
        .await;
    assert_eq!(deleted.status, 204);
    assert_eq!(session.on_disk(), 0);
    assert!(Path::new("/etc/passwd").exists());
}

#[tokio::test]
async fn folders_are_made_and_listed_and_the_oldest_clients_see_all_files() {
    let session = Session::start().await;
    session.upload("/files", "top", b"").await;
    session.upload("/files?path=a/b", "deep", b"1").await;
    session
        .upload("/files?path=%2Fmnt%2Fdata%2Fa%2F", "low", b"1")
        .await;
    assert_eq!(session.names("/files").await, ["a", "top"]);
    assert_eq!(session.names("/files?path=a").await, ["b", "low"]);
    assert_eq!(
        session.names("/files?path=/a/&recursive=true").await,
        ["b", "low", "b/deep"]
    );
    let all = session.get("/files?recursive=TRUE").await.json();
    let found: Vec<_> = all["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (&entry["directory"], &entry["name"], &entry["type"]))
        .map(|(directory, name, kind)| format!("{directory} {name} {kind}"))
        .collect();
    assert_eq!(
        found,
        [
            r#""" "a" "directory""#,
            r#""" "top" "file""#,
            r#""a" "b" "directory""#,
            r#""a" "low" "file""#,
            r#""a/b" "deep" "file""#,
        ]
    );
    let old = "/files?api-version=2024-02-02-preview";
    // They know of no folder to ask for.
    assert_eq!(session.names(old).await, ["top", "a/low", "a/b/deep"]);
    let oldest = session.get("/python/files").await.json();
    assert_eq!(oldest["$values"].as_array().unwrap().len(), 1);
    assert_eq!(oldest["$values"][0]["filename"], "top");
    let middle = session
        .get("/files?api-version=2024-10-02-preview")
        .await
        .json();
    assert_eq!(middle["value"][0]["type"], "directory");
    assert!(middle["value"][0]["directory"].is_null());
    assert_eq!(
        session.get("/files/deep/content?path=a/b").await.text(),
        "1"
    );
    assert_eq!(session.get("/files/content/a/b/deep").await.text(), "1");
    assert_eq!(
        session.get("/files/deep?path=a/b").await.json()["name"],
        "deep"
    );
    assert_error(&session.get("/files?path=c").await, 404, "FileNotFound");
    assert_error(&session.get("/files?path=top").await, 404, "FileNotFound");
    assert_error(
        &session.get("/files?recursive=2").await,
        400,
        "InvalidRequestProperty",
    );
    // LangChain, Semantic Kernel and LlamaIndex put /mnt/data/ ahead of what they are told.
    let nested = session
        .upload("/files/upload", "/mnt/data/a/new", b"")
        .await
        .json();
    assert_eq!(nested["value"][0]["properties"]["filename"], "a/new");
    assert_eq!(nested["value"][0]["name"], "new");
}

#[tokio::test]
async fn something_else_in_a_place_is_a_conflict() {
    let session = Session::start().await;
    session.upload("/files?path=a", "b", b"1").await;
    assert_error(
        &session.upload("/files", "a", b"").await,
        409,
        "FileConflict",
    );
    assert_error(
        &session.upload("/files?path=a/b", "c", b"").await,
        409,
        "FileConflict",
    );
    assert_error(
        &session.request("DELETE", "/files/a").await,
        409,
        "FileConflict",
    );
    assert_error(&session.get("/files/a/content").await, 404, "FileNotFound");
    assert_eq!(session.get("/files/a").await.json()["type"], "directory");
    assert_eq!(session.names("/files?recursive=true").await, ["a", "a/b"]);
    assert_eq!(session.on_disk(), 1);
}

#[tokio::test]
async fn names_are_any_unicode_and_bytes_come_back_as_they_went() {
    let session = Session::start().await;
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let names = [
        "plain.txt",
        "ü.txt",
        "u\u{308}.txt",
        "🦀 crab.py",
        "a b+c&d=e#f?.txt",
        "100%.txt",
        "50%20off",
        "it's \"quoted\"",
        "back\\slash",
        "line\nbreak",
        "upload",
        "content",
        "...",
        " blank ",
        "semi;colon",
        &"ü".repeat(127),
    ];
    for name in names {
        let disposition = format!(
            "form-data; name=\"file\"; filename*=UTF-8''{}",
            encoded(name)
        );
        let body = form(&[(&disposition, &bytes)]);
        let response = session.post(&content_type(), &body).await;
        assert_eq!(
            (response.status, &response.json()["name"]),
            (200, &json!(name))
        );
        let on_disk = fs::read(session.data.path().join(name)).unwrap();
        assert!(on_disk == bytes, "{name}");
        let content = session
            .get(&format!("/files/{}/content", encoded(name)))
            .await;
        assert!(content.body == bytes, "{name}");
        let disposition = content.header("content-disposition");
        let given = disposition
            .strip_prefix("attachment; filename*=UTF-8''")
            .unwrap();
        let decoded = percent_encoding::percent_decode_str(given)
            .decode_utf8()
            .unwrap();
        assert_eq!(decoded, name);
    }
    let mut sorted: Vec<String> = names.iter().map(ToString::to_string).collect();
    sorted.sort();
    assert_eq!(session.names("/files").await, sorted);
    for name in names.iter().filter(|name| **name != "upload") {
        let path = format!("/files/{}", encoded(name));
        assert_eq!(session.request("DELETE", &path).await.status, 204, "{name}");
    }
    assert_eq!(session.names("/files").await, ["upload"]);
}

#[tokio::test]
async fn every_spelling_of_real_clients_is_understood() {
    let session = Session::start().await;
    for (disposition, name) in [
        ("form-data; name=\"file\"; filename=\"ü.txt\"", "ü.txt"),
        (
            "form-data; name=\"file\"; filename*=utf-8''%C3%BC.txt",
            "ü.txt",
        ),
        ("form-data; name=file; filename=x; filename*=utf-8''y", "y"),
        ("form-data; name=file; filename=x.txt", "x.txt"),
        (
            "form-data; name=\"file\"; filename=\"/mnt/data/x.csv\"",
            "x.csv",
        ),
        ("form-data; name=\"file\"; filename=\"a%20b\"", "a b"),
        ("form-data; name=\"upload\"; filename=\"other\"", "other"),
        ("form-data; name=\"file\"", "file"),
    ] {
        let body = form(&[(disposition, b"1")]);
        let response = session.post(&content_type(), &body).await;
        assert_eq!(response.json()["name"], name, "{disposition}");
    }
    // Semantic Kernel's client keeps the content type of its last execution.
    let body = form(&[("form-data; name=\"file\"; filename=\"sk\"", b"kept")]);
    let response = session.post("application/json", &body).await;
    assert_eq!(
        (response.status, &response.json()["name"]),
        (200, &json!("sk"))
    );
    assert_eq!(session.get("/files/sk/content").await.text(), "kept");
    // Chunked, in chunks that cut everything.
    let mut bytes =
        b"POST /files HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n".to_vec();
    bytes.extend(format!("Content-Type: {}\r\n\r\n", content_type()).bytes());
    for chunk in form(&[("form-data; name=file; filename=chunked", b"\r\n--d7449\r\n")]).chunks(3) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    let response = raw::exchange(session.adapter.addr, bytes).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(
        session.get("/files/chunked/content").await.text(),
        "\r\n--d7449\r\n"
    );
}

#[tokio::test]
async fn several_files_in_a_request_are_all_stored_or_none() {
    let session = Session::start().await;
    let part = |name: &str| format!("form-data; name=\"files\"; filename=\"{name}\"");
    let (a, b) = (part("a"), part("b"));
    let parts: [(&str, &[u8]); 4] = [
        (&a, b"1"),
        ("form-data; name=\"note\"", b"of no interest"),
        (&b, b"22"),
        (&a, b"333"),
    ];
    let response = session.post(&content_type(), &form(&parts)).await.json();
    assert_eq!(response["value"].as_array().unwrap().len(), 3);
    assert_eq!(session.names("/files").await, ["a", "b"]);
    assert_eq!(session.get("/files/a/content").await.text(), "333");
    let bad = part("..");
    let response = session
        .post(&content_type(), &form(&[(&part("c"), b"1"), (&bad, b"2")]))
        .await;
    assert_error(&response, 400, "FileNameInvalid");
    let many: Vec<String> = (0..33).map(|n| part(&n.to_string())).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|part| (part.as_str(), &b""[..])).collect();
    let response = session.post(&content_type(), &form(&many)).await;
    assert_error(&response, 400, "InvalidRequestBody");
    assert_eq!(session.on_disk(), 2);
}

#[tokio::test]
async fn a_body_that_is_no_upload_is_refused_with_a_reason() {
    let session = Session::start().await;
    let whole = form(&[("form-data; name=file; filename=x", b"1")]);
    let named = content_type();
    for (content_type, body, status, code) in [
        (
            "application/octet-stream",
            &b"bytes"[..],
            415,
            "UnsupportedMediaType",
        ),
        ("application/json", b"{}", 415, "UnsupportedMediaType"),
        (
            "multipart/form-data; boundary=other",
            &whole,
            400,
            "InvalidRequestBody",
        ),
        ("multipart/form-data", b"bytes", 400, "InvalidRequestBody"),
        (&named, b"", 400, "InvalidRequestBody"),
        (&named, &whole[..whole.len() - 6], 400, "InvalidRequestBody"),
        (
            &named,
            &form(&[("form-data; name=\"note\"", b"1")]),
            400,
            "MissingRequestProperty",
        ),
        (&named, &form(&[]), 400, "MissingRequestProperty"),
        (
            &named,
            &form(&[("form-data; name=file; filename=\"\"", b"1")]),
            400,
            "FileNameInvalid",
        ),
    ] {
        let response = session.post(content_type, body).await;
        assert_error(&response, status, code);
        assert_eq!(session.on_disk(), 0);
    }
    let head = [
        &b"--"[..],
        form::BOUNDARY.as_bytes(),
        b"\r\nA: ",
        &[b'x'; 40 << 10],
    ]
    .concat();
    assert_error(
        &session.post(&named, &head).await,
        400,
        "InvalidRequestBody",
    );
    let without_boundary = session.post("multipart/form-data", &whole).await;
    assert_eq!(without_boundary.status, 200);
}

#[tokio::test]
async fn no_spelling_leads_out_of_the_data_directory() {
    let session = Session::start().await;
    let outside = session
        .data
        .path()
        .parent()
        .unwrap()
        .join("session-adapter-escaped");
    let escapes = [
        "..",
        "../session-adapter-escaped",
        "/mnt/data/../session-adapter-escaped",
        "/mnt/data/../../etc/passwd",
        "a/../../session-adapter-escaped",
        "..%2fsession-adapter-escaped",
        "%2e%2e/session-adapter-escaped",
        "./x",
        "x\0y",
        "x%00y",
    ];
    for name in escapes {
        let response = session.upload("/files", name, b"1").await;
        assert_eq!(response.status, 400, "{name}: {}", response.text());
        let path = encoded(
            &name
                .replace("%2f", "/")
                .replace("%2e", ".")
                .replace("%00", "\0"),
        );
        for request in [
            format!("/files/{path}"),
            format!("/files/{path}/content"),
            format!("/files/content/{path}"),
            format!("/files?path={path}"),
            format!("/python/downloadFile?filename={path}"),
        ] {
            let response = session.get(&request).await;
            assert_eq!(response.status, 400, "{request}: {}", response.text());
        }
        let response = session
            .upload(&format!("/files?path={path}"), "x", b"")
            .await;
        assert_error(&response, 400, "FilePathInvalid");
        let response = session.request("DELETE", &format!("/files/{path}")).await;
        assert_error(&response, 400, "FileNameInvalid");
    }
    for path in [
        "/files/../../etc/passwd",
        "/files/..%2f..%2fetc%2fpasswd/content",
        "/files/%2e%2e/content",
        "/files/content/../../etc/passwd",
        "/files/content/%2Fetc%2Fpasswd",
        "/files/%2Fetc%2Fpasswd",
        "/files/%252e%252e%252fpasswd",
        "/files/%ff",
        "/files?path=%ff",
    ] {
        let response = session.get(path).await;
        assert!(
            matches!(response.status, 400 | 404),
            "{path}: {}",
            response.text()
        );
        assert!(!response.text().contains("root:"), "{path}");
    }
    assert_error(&session.get("/files/a%2Fb").await, 400, "FileNameInvalid");
    // A backslash is a character like any other.
    session.upload("/files", "..\\x", b"1").await;
    assert_eq!(session.names("/files?recursive=1").await, ["..\\x"]);
    assert!(!outside.exists());
}

#[tokio::test]
async fn what_a_program_plants_is_neither_read_nor_followed() {
    let session = Session::start().await;
    let data = session.data.path();
    symlink("/etc/passwd", data.join("link")).unwrap();
    symlink("/etc", data.join("folder")).unwrap();
    symlink("/dev/zero", data.join("zero")).unwrap();
    mknodat(CWD, data.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    // Only root makes devices; /dev/null's number.
    let _ = mknodat(
        CWD,
        data.join("device"),
        FileType::CharacterDevice,
        Mode::RWXU,
        0x103,
    );
    assert!(session.names("/files?recursive=true").await.is_empty());
    for path in [
        "link",
        "zero",
        "fifo",
        "device",
        "passwd/content?path=folder",
        "content/folder/passwd",
    ] {
        assert_error(
            &session.get(&format!("/files/{path}")).await,
            404,
            "FileNotFound",
        );
    }
    for name in ["link", "zero", "fifo"] {
        let content = session.get(&format!("/files/{name}/content")).await;
        assert_error(&content, 404, "FileNotFound");
    }
    assert_error(
        &session.get("/files?path=folder").await,
        404,
        "FileNotFound",
    );
    let through = session.upload("/files?path=folder", "x", b"").await;
    assert_error(&through, 409, "FileConflict");
    let uploaded = session.upload("/files", "link", b"mine").await;
    assert_eq!(uploaded.status, 200);
    assert_eq!(session.request("DELETE", "/files/folder").await.status, 204);
    assert_eq!(session.names("/files").await, ["link"]);
    assert!(Path::new("/etc/passwd").exists());
}

#[tokio::test]
async fn an_upload_is_exactly_as_large_as_allowed() {
    let session = Session::with_upload_limit(100_000).await;
    for (size, status) in [(0, 200), (100_000, 200), (100_001, 413)] {
        let response = session.upload("/files", "x", &vec![7; size]).await;
        assert_eq!(response.status, status, "{size}");
    }
    assert_eq!(session.get("/files/x/content").await.body, vec![7; 100_000]);
    let body = form(&[
        ("form-data; name=file; filename=a", &[1; 60_000]),
        ("form-data; name=file; filename=b", &[1; 60_000]),
    ]);
    assert_error(
        &session.post(&content_type(), &body).await,
        413,
        "FileTooLarge",
    );
    // Refused by its length alone.
    let mut connection = Connection::to(session.adapter.addr).await;
    connection
        .send(post_head("/files", &content_type(), 2 << 20))
        .await;
    assert_error(&connection.read_response().await, 413, "FileTooLarge");
    assert_eq!(session.names("/files").await, ["x"]);
    assert_eq!(session.on_disk(), 1);
}

#[tokio::test]
async fn a_client_that_sends_far_too_much_still_reads_its_answer() {
    let session = Session::with_upload_limit(1000).await;
    let response = session.upload("/files", "x", &vec![0; 100 << 20]).await;
    assert_error(&response, 413, "FileTooLarge");
    assert_eq!(session.on_disk(), 0);
}

#[tokio::test]
async fn an_upload_may_be_slow_but_must_not_stop() {
    let session = Session::start().await;
    let body = form(&[("form-data; name=file; filename=x", &[1; 1000])]);
    let mut connection = Connection::to(session.adapter.addr).await;
    connection
        .send(post_head("/files", &content_type(), body.len()))
        .await;
    connection.send(&body[..600]).await;
    session.until_on_disk(1).await;
    tokio::time::pause();
    let response = connection.read_response().await;
    assert_error(&response, 408, "RequestTimeout");
    tokio::time::resume();
    session.until_on_disk(0).await;
}

#[tokio::test]
async fn a_session_that_is_full_says_so() {
    let session = Session::start().await;
    for n in 0..3 {
        session
            .upload("/files", &n.to_string(), &vec![1; 1 << 20])
            .await;
    }
    let response = session.upload("/files", "large", &vec![1; 1 << 20]).await;
    let used = session.names("/files").await.len();
    let response = if response.status == 200 {
        session.upload("/files", "larger", &vec![1; 1 << 20]).await
    } else {
        response
    };
    assert_error(&response, 507, "InsufficientStorage");
    assert!(session.on_disk() >= used && session.on_disk() <= 4);
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_nothing_behind() {
    let session = Session::start().await;
    let body = form(&[("form-data; name=file; filename=x", &[1; 200_000])]);
    let mut connection = Connection::to(session.adapter.addr).await;
    connection
        .send(post_head("/files?path=new", &content_type(), body.len()))
        .await;
    connection.send(&body[..150_000]).await;
    session.until_on_disk(1).await;
    assert!(session.names("/files?recursive=true").await.is_empty());
    let hidden = fs::read_dir(session.data.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let hidden = hidden.file_name().into_string().unwrap();
    let read = session.get(&format!("/files/{hidden}/content")).await;
    assert_error(&read, 400, "FileNameInvalid");
    drop(connection);
    session.until_on_disk(0).await;
}

#[tokio::test]
async fn who_downloads_while_a_file_is_replaced_gets_the_old_one_whole() {
    let session = Session::with_upload_limit(16 << 20).await;
    let old = vec![1; 3 << 20];
    fs::write(session.data.path().join("x"), &old).unwrap();
    let mut connection = Connection::to(session.adapter.addr).await;
    connection
        .send(raw::request("GET", "/files/x/content", &[], ""))
        .await;
    // The head is there, so the file is open; the rest does not fit into the sockets.
    connection.readable().await;
    let replaced = session.upload("/files", "x", b"new").await;
    assert_eq!(replaced.status, 200, "{}", replaced.text());
    assert!(connection.read_response().await.body == old);
    assert_eq!(session.get("/files/x/content").await.text(), "new");
}

#[tokio::test]
async fn of_uploads_at_the_same_time_one_wins_whole() {
    let session = Session::start().await;
    let one = |byte: u8| {
        let addr = session.adapter.addr;
        tokio::spawn(async move {
            upload(addr, "/files", "x", &vec![byte; 150_000])
                .await
                .status
        })
    };
    let uploads: Vec<_> = (0..12).map(one).collect();
    for upload in uploads {
        assert_eq!(upload.await.unwrap(), 200);
    }
    let body = session.get("/files/x/content").await.body;
    assert_eq!(body, vec![body[0]; 150_000]);
    assert_eq!(session.on_disk(), 1);
}

#[tokio::test]
async fn head_tells_the_length_and_sends_nothing() {
    let session = Session::start().await;
    session.upload("/files", "x", &[1; 12_345]).await;
    let mut connection = Connection::to(session.adapter.addr).await;
    let request = raw::request("HEAD", "/files/x/content", &[("Connection", "close")], "");
    connection.send(request).await;
    let head = connection.everything().await;
    assert!(head.contains("content-length: 12345\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn a_thousand_files_are_listed_in_order() {
    let session = Session::start().await;
    for n in 0..1000 {
        fs::write(session.data.path().join(format!("{n:04}")), "x").unwrap();
    }
    let names = session.names("/files").await;
    let expected: Vec<String> = (0..1000).map(|n| format!("{n:04}")).collect();
    assert_eq!(names, expected);
}

/// A process that holds a lease on a file.
struct Lease(Child);

impl Lease {
    /// None where the file system has no leases.
    fn take(file: &Path) -> Option<Self> {
        // The kernel asks the holder with SIGIO to let go, which would end this one.
        let code = "import fcntl, os, signal, sys\n\
             signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
             file = os.open(sys.argv[1], os.O_RDWR)\n\
             fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
             print('held', flush=True)\n\
             sys.stdin.read()\n";
        let mut holder = command("python3")
            .args(["-c", code])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        if line != "held\n" {
            holder.wait().unwrap();
            return None;
        }
        Some(Self(holder))
    }

    fn release(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_file_on_which_a_program_holds_a_lease_is_in_use() {
    let session = Session::start().await;
    session.upload("/files", "x", b"content").await;
    let Some(lease) = Lease::take(&session.data.path().join("x")) else {
        eprintln!("SKIPPED: leases, for the file system of the temporary files has none");
        return;
    };
    let download = session.get("/files/x/content").await;
    assert_error(&download, 409, "FileInUse");
    let message = download.json()["error"]["message"].clone();
    assert!(message.as_str().unwrap().contains("lease"), "{message}");
    // The engine gets all files of the session with each execution, or nothing.
    let body = json!({"code": "1"}).to_string();
    let execution = raw::post(session.adapter.addr, "/python/execute", &body).await;
    assert_error(&execution, 409, "FileInUse");
    // The list does not need the content.
    assert_eq!(session.names("/files").await, ["x"]);

    lease.release();
    let download = session.get("/files/x/content").await;
    assert_eq!(
        (download.status, download.text().as_str()),
        (200, "content")
    );
}

#[tokio::test]
async fn versions_identifiers_and_methods_are_judged_as_elsewhere() {
    let session = Session::start().await;
    assert_error(
        &session.get("/files?api-version=1").await,
        400,
        "InvalidApiVersion",
    );
    assert_error(
        &session.get("/files?identifier=x").await,
        400,
        "InvalidIdentifier",
    );
    for (method, path, allow) in [
        ("GET", "/files/upload", "POST"),
        ("PUT", "/files", "GET, HEAD, POST"),
        ("POST", "/files/x", "GET, HEAD, DELETE"),
    ] {
        let response = session.request(method, path).await;
        assert_error(&response, 405, "MethodNotAllowed");
        assert_eq!(response.header("allow"), allow);
    }
}
