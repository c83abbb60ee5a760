//! The HTTP edge, byte by byte: whatever arrives on a socket has the response that the table states,
//! nothing is executed that was not asked for in a well-formed request, nothing twice, and the
//! adapter serves the next client.
//!
//! The cases follow RFC 9112 and, in words of their own, the lists of three public suites, which
//! themselves are not run here:
//!
//! | suite | what of it | as the suite wants it | otherwise |
//! |---|---|---|---|
//! | h1spec (uNetworking) | all 32 | 30 | both lengths: (a) below; its `POST /` is a 405 here |
//! | http-desync-guardian (AWS) | the 27 severe | 27 refused with 400 | |
//! | | the ambiguous, by kind | refused with 400, but for | (a), (b), a body of GET and HEAD (read and thrown away), `Transfer_Encoding` and the like (headers that mean nothing) |
//! | Http11Probe (MDA2AV) | all but those of cookies and caching | all but 7 | below |
//!
//! What hyper takes, and RFC 9112 lets it take:
//! (a) both `Content-Length` and `Transfer-Encoding`: the chunks count, and the connection closes;
//! (b) `Content-Length` twice with one value, or with zeros ahead;
//! (c) a bare LF at the end of a line of the head, though not within chunks;
//! (d) extensions of chunks without a name or of other bytes than a token's, and blanks behind a
//!     chunk's size, though its grammar has neither;
//! (e) a fragment in the target, which is cut off;
//! (f) empty lines ahead of a request.
//! What hyper decides otherwise than others do: HTTP/1.2 and everything above is 400, not 505; a
//! client that closes its half of the connection is taken for gone; the preface of HTTP/2 is
//! dropped without a response.
//!
//! The 7 of Http11Probe, whose `POST /` is an execution here:
//! - `SMUG-CHUNK-BARE-SEMICOLON`, `-EXT-CTRL`, `-EXT-INVALID-TOKEN`, `-SIZE-TRAILING-OWS`: (d), which
//!   hyper skips up to CR LF without a look;
//! - `SMUG-CHUNK-LF-TRAILER`: hyper takes a bare LF behind the last chunk for the beginning of a
//!   trailer and waits; the response is 400 at the end of the connection, or 408 after 30 s;
//! - `COMP-HTTP12-VERSION`: 400, where 200 or 505 was to be;
//! - `COMP-DUPLICATE-CT`: 415, not 400, for two types neither of which an execution takes.
//!
//! Its warnings are for what RFC 9112 and 9110 leave open: (a), (b), (c), (e), (f), blanks around a
//! `Content-Length`, bytes behind a body of nothing, `Transfer_Encoding` and trailers that mean
//! nothing, bodies of GET and HEAD, `100 Continue`, HTTP/1.0 without a host, an absolute target of
//! another host, `Range`, `Accept` and upgrades that are passed over, and 404 for a path with a
//! backslash, `%00` or `%0d%0a`.

#[path = "../support/mod.rs"]
mod support;

mod cases;

use std::io;

use cases::{Case, Ending, Seen, Sending};
use support::eventually::PATIENCE;
use support::raw::{self, Connection};
use support::{Adapter, ScriptedResponse, StandIn};
use tokio::time::timeout;

/// The table is about the form of requests. Which hosts are served is another matter.
async fn adapter_for_any_host(piston: &StandIn) -> Adapter {
    Adapter::with(piston, |config| config.access.hosts.extend("*".parse())).await
}

async fn adapter() -> (StandIn, Adapter) {
    let piston = StandIn::script()
        .always(ScriptedResponse::stdout("lives\n"))
        .start()
        .await;
    let adapter = adapter_for_any_host(&piston).await;
    (piston, adapter)
}

#[tokio::test]
async fn every_request_has_the_answer_that_the_table_states() {
    let (piston, adapter) = adapter().await;
    let mut wrong = Vec::new();
    let cases = cases::all();
    let mut runs = 0;
    for case in &cases {
        let seen = play(&adapter, case).await;
        let more = piston.requests().len() - runs;
        if seen != case.wanted || !case.runs.contains(&more) {
            wrong.push(format!(
                "{}: {seen}, {more} executions; wanted {}, {:?}",
                case.name, case.wanted, case.runs
            ));
        }
        let next = raw::post(adapter.addr, "/python/execute", cases::CODE).await;
        if next.status != 200 {
            wrong.push(format!(
                "{}: {} for the next client",
                case.name, next.status
            ));
        }
        runs = piston.requests().len();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{} cases", cases.len());
    let promise = format!("a table of {} cases", cases.len());
    let promises = include_str!("../../SPECIFICATION.md");
    assert!(promises.contains(&promise), "{promise}");
}

#[tokio::test]
async fn every_error_of_the_adapter_is_azures() {
    let (_piston, adapter) = adapter().await;
    for (method, path, status, code) in [
        ("GET", "/nothing", 404, "PathNotFound"),
        ("DELETE", "/executions", 405, "MethodNotAllowed"),
        ("POST", "/%ff/execute", 400, "InvalidRequestTarget"),
        (
            "POST",
            "/python/execute?identifier=a",
            400,
            "InvalidIdentifier",
        ),
        ("POST", "/python/execute", 415, "UnsupportedMediaType"),
        (
            "GET",
            &format!("/{}", "x".repeat(20_000)),
            414,
            "RequestTargetTooLong",
        ),
    ] {
        let response = raw::exchange(adapter.addr, raw::request(method, path, &[], "")).await;
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.json()["error"]["code"], code, "{path}");
        assert_eq!(response.header("x-ms-error-code"), code, "{path}");
        assert_eq!(
            response.header("content-type"),
            "application/json; charset=utf-8"
        );
    }
    let value = "x".repeat(70_000);
    let large = raw::request("GET", "/", &[("X", value.as_str())], "");
    let response = raw::exchange(adapter.addr, large).await;
    assert_eq!(response.status, 431);
    assert_eq!(response.json()["error"]["code"], "RequestHeadersTooLarge");
    let response = raw::exchange(adapter.addr, raw::request("PUT", "/health", &[], "")).await;
    assert_eq!(
        (response.status, response.header("allow")),
        (405, "GET, HEAD")
    );
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let piston = StandIn::script()
        .respond(ScriptedResponse::stdout("first\n"))
        .respond(ScriptedResponse::stdout("second\n"))
        .start()
        .await;
    let adapter = adapter_for_any_host(&piston).await;
    let one = raw::request("POST", "/python/execute", &[], r#"{"code":"1"}"#);
    let mut connection = Connection::to(adapter.addr).await;
    connection.send([one.clone(), one].concat()).await;
    assert_eq!(connection.read_response().await.json()["stdout"], "first\n");
    assert_eq!(
        connection.read_response().await.json()["stdout"],
        "second\n"
    );
}

#[tokio::test]
async fn a_head_is_answered_without_a_body() {
    let (_piston, adapter) = adapter().await;
    for path in ["/", "/health", "/nothing"] {
        let whole = |method| {
            let head =
                format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let addr = adapter.addr;
            async move {
                let mut connection = Connection::to(addr).await;
                connection.try_send(head).await.unwrap();
                connection.everything().await
            }
        };
        let (get, head) = (whole("GET").await, whole("HEAD").await);
        let status = |response: &str| response.lines().next().map(ToOwned::to_owned);
        assert_eq!(status(&head), status(&get), "{path}");
        assert!(!get.ends_with("\r\n\r\n"), "{get}");
        assert_eq!(head.find("\r\n\r\n"), Some(head.len() - 4), "{head}");
    }
}

/// Whatever a HEAD brings along, there is one response, and none to what hides in its body.
#[tokio::test]
async fn a_body_of_a_head_request_is_no_request() {
    let (piston, adapter) = adapter().await;
    let hidden = raw::request("POST", "/python/execute", &[], cases::CODE);
    let chunks = [b"0\r\n\r\n", hidden.as_slice()].concat();
    for (headers, body) in [
        (format!("Content-Length: {}\r\n", hidden.len()), &hidden),
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            &chunks,
        ),
    ] {
        let head = format!(
            "HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
        );
        let mut connection = Connection::to(adapter.addr).await;
        connection
            .try_send([head.as_bytes(), body].concat())
            .await
            .unwrap();
        let all = connection.everything().await;
        assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{all}");
    }
    assert!(piston.requests().is_empty());
}

/// A client that says that it sends no more may have gone: there may be no response, and there is
/// never a second execution.
#[tokio::test]
async fn a_client_that_closes_its_half_is_taken_for_gone() {
    let (piston, adapter) = adapter().await;
    for n in 1..=5 {
        let mut connection = Connection::to(adapter.addr).await;
        let request = raw::request("POST", "/python/execute", &[], cases::CODE);
        connection.try_send(request).await.unwrap();
        connection.finish().await;
        let _ = connection.try_answer().await;
        assert!(piston.requests().len() <= n);
    }
    let next = raw::post(adapter.addr, "/python/execute", cases::CODE).await;
    assert_eq!(next.json()["stdout"], "lives\n");
}

/// Sends a case's bytes over a connection of their own, and says what came.
async fn play(adapter: &Adapter, case: &Case) -> Seen {
    let mut connection = Connection::to(adapter.addr).await;
    // Who is refused half-way may be reset while sending.
    let _ = match case.sending {
        Sending::AtOnce => connection.try_send(&case.bytes).await,
        Sending::ByteByByte => byte_by_byte(&mut connection, &case.bytes).await,
        Sending::ThenFinish => match connection.try_send(&case.bytes).await {
            Ok(()) => {
                connection.finish().await;
                Ok(())
            }
            failed => failed,
        },
    };
    let mut seen = Seen::default();
    while seen.answers.len() < case.wanted.answers.len() {
        match next_answer(&mut connection).await {
            Some(response) => seen.answers.push(judged(&response)),
            None => return seen.ending(Ending::Closes),
        }
    }
    if case.wanted.ending == Ending::Closes {
        return match next_answer(&mut connection).await {
            Some(response) => {
                seen.answers.push(judged(&response));
                seen.ending(Ending::Stays)
            }
            None => seen.ending(Ending::Closes),
        };
    }
    let _ = connection
        .try_send(raw::request("GET", "/health", &[], ""))
        .await;
    match next_answer(&mut connection).await {
        Some(response) if response.status == 200 => seen.ending(Ending::Stays),
        Some(response) => {
            seen.answers.push(judged(&response));
            seen.ending(Ending::Stays)
        }
        None => seen.ending(Ending::Closes),
    }
}

async fn byte_by_byte(connection: &mut Connection, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        connection.try_send([*byte]).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// The next response, or `None` at the end of the connection.
async fn next_answer(connection: &mut Connection) -> Option<raw::Response> {
    match timeout(PATIENCE, connection.try_answer()).await {
        Ok(response) => response.ok(),
        Err(_) => Some(raw::Response {
            status: 0,
            headers: http::HeaderMap::new(),
            body: b"nothing, for too long".to_vec(),
        }),
    }
}

/// Status and code of a response. An error is Azure's, or the code says what it is instead; so it does
/// of a response that lacks a header.
fn judged(response: &raw::Response) -> (u16, String) {
    if let Some(name) = lacking(response) {
        return (response.status, format!("no {name}"));
    }
    if response.status < 400 {
        return (response.status, String::new());
    }
    let body: Option<serde_json::Value> = serde_json::from_slice(&response.body).ok();
    let code = body
        .as_ref()
        .and_then(|body| body["error"]["code"].as_str());
    let code = match code {
        Some(code) if code == response.header("x-ms-error-code") => code.to_owned(),
        _ => format!("not Azure's: {:?}", response.text()),
    };
    (response.status, code)
}

/// A header that RFC 9110 wants of a response and that it does not have.
fn lacking(response: &raw::Response) -> Option<&'static str> {
    let is_final = response.status >= 200;
    let names = [
        ("date", is_final),
        ("content-type", is_final && !response.body.is_empty()),
        ("allow", response.status == 405),
    ];
    let has = |name| match name {
        "date" => is_date(response.header(name)),
        _ => !response.header(name).is_empty(),
    };
    let mut lacking = names.iter().filter(|(name, wanted)| *wanted && !has(*name));
    lacking.next().map(|(name, _)| *name)
}

/// Whether a text has the form of `Sat, 21 Nov 2026 14:30:00 GMT`.
fn is_date(text: &str) -> bool {
    let form = b"Aaa, 00 Aaa 0000 00:00:00 GMT";
    let fits = |(byte, form): (u8, &u8)| match form {
        b'0' => byte.is_ascii_digit(),
        b'A' => byte.is_ascii_uppercase(),
        b'a' => byte.is_ascii_lowercase(),
        other => byte == *other,
    };
    text.len() == form.len() && text.bytes().zip(form).all(fits)
}
