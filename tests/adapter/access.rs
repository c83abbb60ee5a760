//! Who is served: requests of hosts, pages and media types that were not invited reach nothing.

use std::net::SocketAddr;

use crate::support::{Program, form, raw, run};

/// Code that would leave a trace in the data directory.
const CODE: &str = r#"{"code":"open('trace', 'w').write('x')"}"#;
const PISTON_CODE: &str =
    r#"{"language":"python","version":"*","files":[{"content":"open('trace', 'w')"}]}"#;

/// A request with exactly these headers, and a length where there is a body.
fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    format!("{text}\r\n{body}").into_bytes()
}

async fn send(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> raw::Response {
    raw::exchange(addr, request(method, path, headers, body)).await
}

fn engine_of(program: &Program) -> SocketAddr {
    let url = program.started["piston_url"].as_str().unwrap();
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// Paths that do something, with a body that is fit for them.
fn paths() -> Vec<(&'static str, &'static str, &'static str, String)> {
    let upload = form::form(&[(
        "form-data; name=\"file\"; filename=\"trace\"",
        b"x".as_slice(),
    )]);
    let upload = String::from_utf8(upload).unwrap();
    let json = "application/json";
    let multipart = "multipart/form-data; boundary=d74496d66958873e";
    let mut paths = vec![
        ("POST", "/api/v2/execute", json, PISTON_CODE.to_owned()),
        ("POST", "/files", multipart, upload.clone()),
        ("POST", "/python/uploadFile", multipart, upload),
        ("POST", "/.management/stopSession", json, String::new()),
        ("DELETE", "/session", json, String::new()),
        ("DELETE", "/files/kept", json, String::new()),
        ("GET", "/files", json, String::new()),
        ("GET", "/files/kept/content", json, String::new()),
        ("GET", "/metrics", json, String::new()),
        ("GET", "/", json, String::new()),
    ];
    for path in [
        "/python/execute",
        "/code/execute",
        "/execute",
        "/executions",
    ] {
        paths.push(("POST", path, json, CODE.to_owned()));
    }
    let shell = r#"{"shellCommand":"touch trace"}"#.to_owned();
    paths.push(("POST", "/shellExecute", json, shell));
    paths
}

/// Nothing was run, written or deleted, and the session was not used.
async fn assert_untouched(program: &Program) {
    let data = std::path::Path::new(program.started["data_dir"].as_str().unwrap());
    assert!(!data.join("trace").exists());
    assert!(data.join("kept").exists());
    let sessions = raw::get(program.addr, "/listSessions").await.json();
    assert_eq!(
        sessions["sessions"].as_array().unwrap().len(),
        0,
        "{sessions}"
    );
    let page = raw::get(program.addr, "/metrics").await.text();
    assert!(
        !page.contains("session_adapter_executions_total{"),
        "{page}"
    );
}

async fn program_with_a_file(arguments: &[&str]) -> Program {
    let program = Program::start(arguments).await;
    let data = std::path::Path::new(program.started["data_dir"].as_str().unwrap());
    std::fs::write(data.join("kept"), "x").unwrap();
    program
}

#[tokio::test]
async fn a_name_that_was_rebound_and_a_page_of_another_origin_reach_nothing() {
    let program = program_with_a_file(&[]).await;
    let port = program.addr.port();
    let local = format!("127.0.0.1:{port}");
    let rebound = format!("evil.example:{port}");
    let own_of_rebound = format!("http://evil.example:{port}");
    let other_port = "http://127.0.0.1:3000".to_owned();
    for (host, origin, site, code) in [
        (&rebound, None, None, "HostNotAllowed"),
        (
            &rebound,
            Some(own_of_rebound.as_str()),
            None,
            "HostNotAllowed",
        ),
        (
            &local,
            Some("https://evil.example"),
            None,
            "OriginNotAllowed",
        ),
        (
            &local,
            Some(other_port.as_str()),
            Some("same-site"),
            "OriginNotAllowed",
        ),
        (&local, Some("null"), None, "OriginNotAllowed"),
        (&local, None, Some("cross-site"), "OriginNotAllowed"),
    ] {
        for (method, path, media_type, body) in paths() {
            let path = format!("{path}?identifier=somebody");
            let mut headers = vec![("Host", host.as_str()), ("Content-Type", media_type)];
            headers.extend(origin.map(|origin| ("Origin", origin)));
            headers.extend(site.map(|site| ("Sec-Fetch-Site", site)));
            let refused = send(program.addr, method, &path, &headers, &body).await;
            assert_eq!(refused.status, 403, "{method} {path} {headers:?}");
            assert_eq!(refused.header("x-ms-error-code"), code);
            assert_eq!(refused.json()["error"]["code"], code);
            assert_eq!(refused.header("access-control-allow-origin"), "");
        }
    }
    assert_untouched(&program).await;
}

#[tokio::test]
async fn the_engine_serves_no_page_but_its_own_and_no_rebound_name() {
    let program = program_with_a_file(&["--allow-origin", "*"]).await;
    let engine = engine_of(&program);
    let own = format!("http://{engine}");
    let local = engine.to_string();
    for (host, origin, media_type, status) in [
        ("evil.example", None, "application/json", 403),
        (
            &local,
            Some("https://evil.example"),
            "application/json",
            403,
        ),
        (&local, Some("null"), "application/json", 403),
        (&local, Some(own.as_str()), "text/plain;charset=UTF-8", 415),
        (&local, None, "text/plain", 415),
        (&local, None, "", 415),
        (&local, Some(own.as_str()), "application/json", 200),
        (&local, None, "text/plain;charset=UTF-8", 200),
    ] {
        let mut headers = vec![("Host", host)];
        headers.extend((!media_type.is_empty()).then_some(("Content-Type", media_type)));
        headers.extend(origin.map(|origin| ("Origin", origin)));
        let path = "/api/v2/execute";
        let seen = send(engine, "POST", path, &headers, PISTON_CODE).await;
        assert_eq!(seen.status, status, "{headers:?}: {}", seen.text());
        let message = &seen.json()["message"];
        assert_eq!(message.is_string(), status != 200, "{}", seen.text());
        let runtimes = send(engine, "GET", "/api/v2/runtimes", &headers[..1], "").await;
        assert_eq!(runtimes.status == 403, host == "evil.example");
    }
}

#[tokio::test]
async fn the_listener_for_metrics_has_the_same_rules() {
    let program = Program::start(&["--metrics", "127.0.0.1:0"]).await;
    let metrics: SocketAddr = program.started["metrics"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let local = metrics.to_string();
    for (host, origin, status) in [
        (local.as_str(), None, 200),
        ("evil.example", None, 403),
        (&local, Some("https://evil.example"), 403),
    ] {
        let mut headers = vec![("Host", host), ("Connection", "close")];
        headers.extend(origin.map(|origin| ("Origin", origin)));
        let seen = send(metrics, "GET", "/metrics", &headers, "").await;
        assert_eq!(seen.status, status, "{headers:?}");
    }
}

#[tokio::test]
async fn an_execution_must_say_that_it_is_json() {
    let program = program_with_a_file(&[]).await;
    let local = program.addr.to_string();
    for (_, path, _, body) in paths()
        .into_iter()
        .filter(|(.., body)| body.starts_with('{'))
    {
        for media_type in [
            "",
            "text/plain",
            "text/plain;charset=UTF-8",
            "multipart/form-data",
        ] {
            let is_passed_on = path == "/api/v2/execute";
            if is_passed_on && media_type == "text/plain;charset=UTF-8" {
                continue;
            }
            let mut headers = vec![("Host", local.as_str())];
            headers.extend((!media_type.is_empty()).then_some(("Content-Type", media_type)));
            let refused = send(program.addr, "POST", path, &headers, &body).await;
            assert_eq!(
                refused.status,
                415,
                "{path} {media_type}: {}",
                refused.text()
            );
            let error = &refused.json()["error"]["code"];
            assert_eq!(error == "UnsupportedMediaType", !is_passed_on, "{path}");
        }
    }
    // A page of the host itself has to say so where other clients need not.
    let own = format!("http://{local}");
    let headers = [
        ("Host", local.as_str()),
        ("Origin", own.as_str()),
        ("Content-Type", "text/plain;charset=UTF-8"),
    ];
    let refused = send(
        program.addr,
        "POST",
        "/api/v2/execute",
        &headers,
        PISTON_CODE,
    )
    .await;
    assert_eq!(refused.status, 415, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "UnsupportedMediaType");
    let data = std::path::Path::new(program.started["data_dir"].as_str().unwrap());
    assert!(!data.join("trace").exists());
}

#[tokio::test]
async fn a_page_of_the_host_itself_and_names_that_are_allowed_are_served() {
    let program = Program::start(&["--allow-host", "sessions.example"]).await;
    let port = program.addr.port();
    for (host, origin) in [
        (
            format!("localhost:{port}"),
            Some(format!("http://localhost:{port}")),
        ),
        (format!("[::1]:{port}"), None),
        (
            "sessions.example".to_owned(),
            Some("https://sessions.example".to_owned()),
        ),
        ("SESSIONS.example:8080".to_owned(), None),
    ] {
        let mut headers = vec![
            ("Host", host.as_str()),
            ("Content-Type", "application/json"),
        ];
        headers.extend(origin.as_deref().map(|origin| ("Origin", origin)));
        let body = r#"{"code":"print(42)"}"#;
        let ran = send(program.addr, "POST", "/python/execute", &headers, body).await;
        assert_eq!(ran.json()["stdout"], "42\n", "{host}: {}", ran.text());
        assert_eq!(ran.header("access-control-allow-origin"), "");
    }
    let headers = [("Host", "other.example")];
    let refused = send(program.addr, "GET", "/health", &headers, "").await;
    assert_eq!(refused.status, 403);
    let message = refused.json()["error"]["message"].to_string();
    assert!(
        message.contains("other.example") && message.contains("--allow-host"),
        "{message}"
    );
}

#[tokio::test]
async fn a_browser_is_told_what_a_page_of_an_allowed_origin_may_do() {
    let program = Program::start(&["--allow-origin", "https://app.example"]).await;
    let local = program.addr.to_string();
    let page = [
        ("Host", local.as_str()),
        ("Origin", "https://app.example"),
        ("Sec-Fetch-Site", "cross-site"),
    ];
    let asked = [
        ("Access-Control-Request-Method", "POST"),
        (
            "Access-Control-Request-Headers",
            "content-type,operation-id",
        ),
        ("Access-Control-Request-Private-Network", "true"),
    ];
    let headers = [page.as_slice(), asked.as_slice()].concat();
    let preflight = send(program.addr, "OPTIONS", "/python/execute", &headers, "").await;
    assert_eq!(preflight.status, 204, "{}", preflight.text());
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-allow-methods", "GET, HEAD, POST, DELETE"),
        ("access-control-allow-headers", "content-type,operation-id"),
        ("access-control-allow-private-network", "true"),
        ("vary", "Origin"),
    ] {
        assert_eq!(preflight.header(name), value, "{name}");
    }
    let json = [("Content-Type", "application/json")];
    let headers = [page.as_slice(), json.as_slice()].concat();
    let body = r#"{"code":"print(42)"}"#;
    let ran = send(program.addr, "POST", "/python/execute", &headers, body).await;
    assert_eq!(ran.json()["stdout"], "42\n", "{}", ran.text());
    assert_eq!(
        ran.header("access-control-allow-origin"),
        "https://app.example"
    );
    assert!(
        ran.header("access-control-expose-headers")
            .contains("operation-id")
    );
    let missing = send(program.addr, "GET", "/nothing", &page, "").await;
    assert_eq!(missing.status, 404);
    assert_eq!(
        missing.header("access-control-allow-origin"),
        "https://app.example"
    );
    let passed = send(
        program.addr,
        "POST",
        "/api/v2/execute",
        &headers,
        PISTON_CODE,
    )
    .await;
    assert_eq!(passed.status, 200, "{}", passed.text());
    // Others are not told anything.
    let other = [
        ("Host", local.as_str()),
        ("Origin", "https://other.example"),
        asked[0],
    ];
    let refused = send(program.addr, "OPTIONS", "/python/execute", &other, "").await;
    assert_eq!(refused.status, 403);
    assert_eq!(refused.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn listening_beyond_loopback_is_warned_about_unless_it_is_meant() {
    let warning = "listening beyond loopback: whoever reaches this address can run code";
    // It ends for this directory's sake, once it has listened.
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("document"), "x").unwrap();
    let data_dir = ["--data-dir", foreign.path().to_str().unwrap()];
    let loopback = "127.0.0.1:0";
    for (listen, metrics, more, warnings) in [
        ("0.0.0.0:0", "0.0.0.0:0", vec![], 2),
        (loopback, "0.0.0.0:0", vec!["--allow-host", "x.example"], 1),
        (loopback, loopback, vec![], 0),
        ("0.0.0.0:0", "0.0.0.0:0", vec!["--allow-host", "*"], 0),
    ] {
        let listeners = ["--listen", listen, "--metrics", metrics];
        let engine = ["--piston-url", "http://127.0.0.1:0"];
        let arguments = [&listeners[..], &engine, &data_dir, &more].concat();
        let ended = run(&arguments).await;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.contains("is not empty"), "{said}");
        assert_eq!(said.matches(warning).count(), warnings, "{said}");
    }
}
