//! The table.

use std::fmt;
use std::ops::RangeInclusive;

/// A program in the form of a request's body, of 12 bytes.
pub const CODE: &str = r#"{"code":"1"}"#;
/// The request that nobody may get executed by hiding it in another's bytes.
const SMUGGLED: &str = "POST /python/execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"code\":\"1\"}";

/// How the bytes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    AtOnce,
    ByteByByte,
    /// At once, and nothing more ever.
    ThenFinish,
}

/// What becomes of the connection behind the last response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ending {
    #[default]
    Closes,
    /// Another request on it is answered.
    Stays,
}

/// What comes back: status and Azure's code of each response, and the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub answers: Vec<(u16, String)>,
    pub ending: Ending,
}

impl Seen {
    pub fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (status, code) in &self.answers {
            write!(f, "{status} {code}; ")?;
        }
        write!(f, "{:?}", self.ending)
    }
}

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub bytes: Vec<u8>,
    pub sending: Sending,
    pub wanted: Seen,
    /// How many executions reach the engine.
    pub runs: RangeInclusive<usize>,
}

impl Case {
    fn sent(mut self, sending: Sending) -> Self {
        self.sending = sending;
        self
    }
}

/// What a case wants: answers, ending, executions.
#[derive(Debug, Clone)]
struct Want(Vec<(u16, &'static str)>, Ending, usize);

/// Executed once; the connection stays.
fn ran() -> Want {
    Want(vec![(200, "")], Ending::Stays, 1)
}

/// Executed once; the connection closes.
fn ran_and_closed() -> Want {
    Want(vec![(200, "")], Ending::Closes, 1)
}

/// Answered with a 200 that executes nothing; the connection stays.
fn fine() -> Want {
    Want(vec![(200, "")], Ending::Stays, 0)
}

/// Refused; the connection stays.
fn refused(status: u16, code: &'static str) -> Want {
    Want(vec![(status, code)], Ending::Stays, 0)
}

/// Refused; the connection closes.
fn ended(status: u16, code: &'static str) -> Want {
    Want(vec![(status, code)], Ending::Closes, 0)
}

/// Refused by the parser; the connection closes.
fn malformed() -> Want {
    ended(400, "MalformedRequest")
}

/// The connection closes without a response.
fn dropped() -> Want {
    Want(Vec::new(), Ending::Closes, 0)
}

fn case(name: impl Into<String>, bytes: impl AsRef<[u8]>, want: Want) -> Case {
    let Want(answers, ending, runs) = want;
    let answers = answers
        .into_iter()
        .map(|(status, code)| (status, code.to_owned()))
        .collect();
    Case {
        name: name.into(),
        bytes: bytes.as_ref().to_vec(),
        sending: Sending::AtOnce,
        wanted: Seen { answers, ending },
        runs: runs..=runs,
    }
}

/// A request without a body; `headers` each with its line end.
fn get(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
}

/// An execution; `headers` say how long the body is.
fn post(headers: &str, body: &str) -> String {
    let media_type = match headers.to_ascii_lowercase().contains("content-type") {
        true => "",
        false => "Content-Type: application/json\r\n",
    };
    format!("POST /python/execute HTTP/1.1\r\nHost: a\r\n{media_type}{headers}\r\n{body}")
}

/// A POST that wants no body.
fn stop(headers: &str, behind: &str) -> String {
    format!("POST /.management/stopSession HTTP/1.1\r\nHost: a\r\n{headers}\r\n{behind}")
}

/// An execution whose length is right, with more headers.
fn execution(headers: &str) -> String {
    post(&format!("Content-Length: 12\r\n{headers}"), CODE)
}

/// An execution with a body and its right length.
fn body(body: &str) -> String {
    post(&format!("Content-Length: {}\r\n", body.len()), body)
}

/// An execution in chunks, which are given as they are.
fn chunks(chunks: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", chunks)
}

/// The program in chunks.
const IN_CHUNKS: &str = "c\r\n{\"code\":\"1\"}\r\n0\r\n\r\n";

fn bytes(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// All cases.
pub fn all() -> Vec<Case> {
    [
        plain(),
        content_length(),
        transfer_encoding(),
        smuggling(),
        chunked_bodies(),
        lines(),
        header_names(),
        header_values(),
        host(),
        targets(),
        methods(),
        versions(),
        too_long(),
        expectations(),
        upgrades(),
        other_protocols(),
        pipelines(),
        endings(),
        json_bodies(),
        media_types(),
    ]
    .concat()
}

fn plain() -> Vec<Case> {
    vec![
        case("a plain request", get("/health", ""), fine()),
        case("a plain execution", execution(""), ran()),
        case("an execution in chunks", chunks(IN_CHUNKS), ran()),
        case(
            "header names in any case",
            execution("hOsT-x: 1\r\n"),
            ran(),
        ),
        case(
            "a tab ahead of a value, and an empty value",
            "GET /health HTTP/1.1\r\nhoSt:\ta\r\nempty:\r\n\r\n",
            fine(),
        ),
        case("one byte at a time", execution(""), ran()).sent(Sending::ByteByByte),
        case("chunks one byte at a time", chunks(IN_CHUNKS), ran()).sent(Sending::ByteByByte),
        case(
            "a GET with a body",
            format!("{}{CODE}", get("/health", "Content-Length: 12\r\n")),
            fine(),
        ),
        case(
            "a GET with chunks",
            format!(
                "{}{IN_CHUNKS}",
                get("/health", "Transfer-Encoding: chunked\r\n")
            ),
            fine(),
        ),
    ]
}

fn content_length() -> Vec<Case> {
    let mut cases = vec![
        case(
            "Content-Length 0",
            post("Content-Length: 0\r\n", ""),
            refused(400, "InvalidRequestBody"),
        ),
        case(
            "no length at all",
            post("", ""),
            refused(400, "InvalidRequestBody"),
        ),
        case(
            "Content-Length with zeros ahead",
            post("Content-Length: 00012\r\n", CODE),
            ran(),
        ),
        case(
            "Content-Length with blanks around",
            post("Content-Length:   12 \t \r\n", CODE),
            ran(),
        ),
        case(
            "Content-Length behind a tab",
            post("Content-Length:\t12\r\n", CODE),
            ran(),
        ),
        case(
            "Content-Length that is another number in octal",
            post("Content-Length: 0200\r\n", &format!("{CODE:<200}")),
            ran(),
        ),
        case("no length where no body is wanted", stop("", ""), fine()),
        case(
            "Content-Length 0 where no body is wanted",
            stop("Content-Length: 0\r\n", ""),
            fine(),
        ),
        case(
            "Content-Length 00 where no body is wanted",
            stop("Content-Length: 00\r\n", ""),
            fine(),
        ),
        case(
            "Content-Length twice and the same",
            post("Content-Length: 12\r\nContent-Length: 12\r\n", CODE),
            ran(),
        ),
        case(
            "Content-Length twice and different",
            post("Content-Length: 12\r\nContent-Length: 2\r\n", CODE),
            malformed(),
        ),
        case(
            "Content-Length twice, one of them empty",
            post("Content-Length: 12\r\nContent-Length: \r\n", CODE),
            malformed(),
        ),
        case(
            "Content-Length with a blank ahead of its colon",
            post("Content-Length : 12\r\n", CODE),
            malformed(),
        ),
        case(
            "Content-Length with a tab ahead of its colon",
            post("Content-Length\t: 12\r\n", CODE),
            malformed(),
        ),
        case(
            "Content-Length behind a blank",
            post(" Content-Length: 2\r\nContent-Length: 12\r\n", CODE),
            malformed(),
        ),
        case(
            "Content_Length is another header",
            post("Content_Length: 2\r\nContent-Length: 12\r\n", CODE),
            ran(),
        ),
        case(
            "more than any body may have",
            post("Content-Length: 9000000000000000000\r\n", ""),
            ended(413, "RequestBodyTooLarge"),
        )
        .sent(Sending::ThenFinish),
    ];
    for wrong in [
        "",
        "+12",
        "-12",
        "-0",
        "12 12",
        "12,12",
        "12, 12",
        "5, 6",
        "12, 12, 12",
        "0x0c",
        "0o14",
        "1_2",
        "1 2",
        "12.0",
        "1e1",
        "12;",
        "\"12\"",
        "twelve",
        "12abc",
        "12\u{b}",
        "１２",
        "12\u{11}",
        "18446744073709551616",
        "18446744073709551628",
        "99999999999999999999999999999999",
        "-123456789123456789123456789",
    ] {
        cases.push(case(
            format!("Content-Length {wrong:?}"),
            post(&format!("Content-Length: {wrong}\r\n"), CODE),
            malformed(),
        ));
    }
    cases
}

fn transfer_encoding() -> Vec<Case> {
    let mut cases = vec![
        case(
            "Transfer-Encoding in capitals",
            post("Transfer-Encoding: CHUNKED\r\n", IN_CHUNKS),
            ran(),
        ),
        case(
            "TRANSFER-ENCODING in capitals",
            post("TRANSFER-ENCODING: chunked\r\n", IN_CHUNKS),
            ran(),
        ),
        case(
            "Transfer-Encoding behind a tab",
            post("Transfer-Encoding:\tchunked\r\n", IN_CHUNKS),
            ran(),
        ),
        case(
            "Transfer-Encoding with blanks behind",
            post("Transfer-Encoding: chunked \t\r\n", IN_CHUNKS),
            ran(),
        ),
        case(
            "Transfer-Encoding in HTTP/1.0",
            format!(
                "POST /python/execute HTTP/1.0\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{IN_CHUNKS}"
            ),
            malformed(),
        ),
        case(
            "Transfer_Encoding is another header",
            post("Transfer_Encoding: chunked\r\nContent-Length: 12\r\n", CODE),
            ran(),
        ),
        case(
            "Transfer---Encoding is another header",
            post(
                "Transfer---Encoding: chunked\r\nContent-Length: 12\r\n",
                CODE,
            ),
            ran(),
        ),
    ];
    for wrong in [
        "xchunked",
        "chunkedx",
        "chunked, identity",
        "identity",
        "gzip",
        "nonsense",
        "\"chunked\"",
        "chunked;q=1",
        "chunk",
        "chunked, x",
    ] {
        cases.push(case(
            format!("Transfer-Encoding {wrong:?}"),
            post(&format!("Transfer-Encoding: {wrong}\r\n"), IN_CHUNKS),
            malformed(),
        ));
    }
    for control in [
        "chunked\u{b}",
        "chunked\u{c}",
        "\u{b}chunked",
        "chunked\0",
        "chunked\u{11}",
        "chun\0ked",
    ] {
        cases.push(case(
            format!("Transfer-Encoding {control:?}"),
            post(&format!("Transfer-Encoding: {control}\r\n"), IN_CHUNKS),
            malformed(),
        ));
    }
    // Hyper looks at the last coding of the last line alone.
    for wrong in [
        "identity, chunked",
        "gzip, chunked",
        "chunked, chunked",
        ", chunked",
        ",chunked",
        "chunked,\tchunked",
        "x, y, chunked",
    ] {
        cases.push(case(
            format!("Transfer-Encoding {wrong:?}"),
            post(&format!("Transfer-Encoding: {wrong}\r\n"), IN_CHUNKS),
            ended(400, "InvalidTransferEncoding"),
        ));
    }
    for (one, two) in [
        ("chunked", "chunked"),
        ("identity", "chunked"),
        ("gzip", "chunked"),
        ("", "chunked"),
    ] {
        cases.push(case(
            format!("Transfer-Encoding twice: {one:?}, {two:?}"),
            post(
                &format!("Transfer-Encoding: {one}\r\nTransfer-Encoding: {two}\r\n"),
                IN_CHUNKS,
            ),
            ended(400, "InvalidTransferEncoding"),
        ));
    }
    for (name, header) in [
        (
            "twice, the last unknown",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        ),
        (
            "twice, the last empty",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n",
        ),
        ("empty", "Transfer-Encoding:\r\n"),
        ("with a comma behind", "Transfer-Encoding: chunked,\r\n"),
        (
            "with a blank ahead of its colon",
            "Transfer-Encoding : chunked\r\n",
        ),
        (
            "with a tab ahead of its colon",
            "Transfer-Encoding\t: chunked\r\n",
        ),
        ("with a blank inside", "Transfer- Encoding: chunked\r\n"),
        ("with a word behind", "Transfer-Encoding x: chunked\r\n"),
        (
            "behind a control character",
            "\u{1}Transfer-Encoding: chunked\r\n",
        ),
        ("with a long s", "Tran\u{17f}fer-Encoding: chunked\r\n"),
        ("with a dotless i", "Transfer-Encod\u{131}ng: chunked\r\n"),
        (
            "with a dash that is none",
            "Transfer\u{2015}Encoding: chunked\r\n",
        ),
        (
            "behind a wide blank",
            "\u{2003}Transfer-Encoding: chunked\r\n",
        ),
        (
            "on a line that is folded",
            "X: 1\r\n Transfer-Encoding: chunked\r\n",
        ),
        ("with a folded value", "Transfer-Encoding:\r\n chunked\r\n"),
    ] {
        cases.push(case(
            format!("Transfer-Encoding {name}"),
            post(header, IN_CHUNKS),
            malformed(),
        ));
    }
    cases
}

/// Both ways to give a length. RFC 9112, 6.3 lets a server go by the chunks if it closes.
fn smuggling() -> Vec<Case> {
    let hidden = format!("{IN_CHUNKS}{SMUGGLED}");
    let behind = format!("{CODE}{SMUGGLED}");
    let length = hidden.len();
    let mut cases = vec![
        case(
            "both lengths",
            post(
                "Content-Length: 22\r\nTransfer-Encoding: chunked\r\n",
                IN_CHUNKS,
            ),
            ran_and_closed(),
        ),
        case(
            "both lengths, the other way round",
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: 22\r\n",
                IN_CHUNKS,
            ),
            ran_and_closed(),
        ),
        case(
            "a request behind the chunks, within Content-Length",
            post(
                &format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
                &hidden,
            ),
            ran_and_closed(),
        ),
        case(
            "a request behind the chunks, the other way round",
            post(
                &format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
                &hidden,
            ),
            ran_and_closed(),
        ),
        case(
            "a request behind the chunks that asks to keep the connection",
            post(
                &format!(
                    "Connection: keep-alive\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n"
                ),
                &hidden,
            ),
            ran_and_closed(),
        ),
        case(
            "a request behind empty chunks",
            post(
                &format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
                &format!("0\r\n\r\n{SMUGGLED}"),
            ),
            ended(400, "InvalidRequestBody"),
        ),
        case(
            "a request as a chunk, behind a short Content-Length",
            post(
                "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
                &format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len()),
            ),
            ended(400, "InvalidRequestBody"),
        ),
        case(
            "both lengths, an unknown coding",
            post(
                "Content-Length: 12\r\nTransfer-Encoding: xchunked\r\n",
                &behind,
            ),
            malformed(),
        ),
        case(
            "both lengths, the coding folded",
            post(
                "Content-Length: 12\r\nTransfer-Encoding:\r\n chunked\r\n",
                &behind,
            ),
            malformed(),
        ),
        case(
            "both lengths, a leading comma",
            post(
                "Content-Length: 12\r\nTransfer-Encoding: , chunked\r\n",
                IN_CHUNKS,
            ),
            ended(400, "InvalidTransferEncoding"),
        ),
        case(
            "both lengths, a wrong Content-Length first",
            post(
                "Content-Length: +12\r\nTransfer-Encoding: chunked\r\n",
                IN_CHUNKS,
            ),
            malformed(),
        ),
        case(
            "both lengths on a GET",
            format!(
                "{}{hidden}",
                get(
                    "/health",
                    &format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n")
                )
            ),
            Want(vec![(200, "")], Ending::Closes, 0),
        ),
        case(
            "a request as the body of a GET",
            format!(
                "{}{SMUGGLED}",
                get(
                    "/health",
                    &format!("Content-Length: {}\r\n", SMUGGLED.len())
                )
            ),
            fine(),
        ),
        case(
            "a request as the body of a 404",
            format!(
                "POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
                SMUGGLED.len()
            ),
            refused(404, "PathNotFound"),
        ),
        case(
            "a request as the body of an unknown method",
            format!(
                "OPTIONS /health HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
                SMUGGLED.len()
            ),
            refused(405, "MethodNotAllowed"),
        ),
        case(
            "a request as the body of a GET with two lengths",
            format!(
                "{}{SMUGGLED}",
                get("/health", "Content-Length: 0\r\nContent-Length: 5\r\n")
            ),
            malformed(),
        ),
        case(
            "a request in a header's value, percent-encoded",
            execution("X: 1%0d%0a%0d%0aPOST /python/execute\r\n"),
            ran(),
        ),
        case(
            "a request behind a bare CR in a value",
            execution("X: 1\rContent-Length: 0\r\n"),
            malformed(),
        ),
        case(
            "a request behind one that expects to continue, and is refused",
            format!(
                "POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n{SMUGGLED}",
                SMUGGLED.len()
            ),
            ended(404, "PathNotFound"),
        ),
        case(
            "both lengths, Content-Length too short",
            post(
                "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
                IN_CHUNKS,
            ),
            ran_and_closed(),
        ),
        case(
            "both lengths, Content-Length too long",
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: 50\r\n",
                IN_CHUNKS,
            ),
            ran_and_closed(),
        ),
        case(
            "both lengths, and a byte too many",
            post(
                "Content-Length: 23\r\nTransfer-Encoding: chunked\r\n",
                &format!("{IN_CHUNKS}X"),
            ),
            ran_and_closed(),
        ),
        case(
            "both lengths, and a byte too many, the other way round",
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: 50\r\n",
                &format!("{IN_CHUNKS}X"),
            ),
            ran_and_closed(),
        ),
        case(
            "a HEAD behind the chunks, within Content-Length",
            post(
                "Content-Length: 57\r\nTransfer-Encoding: chunked\r\n",
                &format!("{IN_CHUNKS}HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n"),
            ),
            ran_and_closed(),
        ),
        case(
            "both lengths of an unknown method, the coding folded",
            "OPTIONS /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\nhello",
            malformed(),
        ),
        case(
            "a request behind a body that has two lengths",
            post(
                &format!("Content-Length: 12\r\nContent-Length: {}\r\n", behind.len()),
                &behind,
            ),
            malformed(),
        ),
        case(
            "half a request as the body of a GET",
            format!(
                "{}GET /health HTTP/1.1\r\nHost: a\r\n\r\n{}",
                get("/health", "Content-Length: 32\r\n"),
                get("/health", "")
            ),
            Want(vec![(200, ""), (200, "")], Ending::Stays, 0),
        ),
        case(
            "a byte behind a body of nothing",
            format!(
                "{}{}",
                stop("Content-Length: 0\r\n", "X"),
                get("/health", "")
            ),
            Want(vec![(200, ""), (405, "MethodNotAllowed")], Ending::Stays, 0),
        ),
    ];
    for (coding, want) in [
        ("identity", malformed()),
        ("", malformed()),
        ("chunked,", malformed()),
        ("chunked, gzip", malformed()),
        ("chunked;x=y", malformed()),
        ("\u{b}chunked", malformed()),
        ("\u{c}chunked", malformed()),
        ("chunked\0", malformed()),
        (", chunked", ended(400, "InvalidTransferEncoding")),
        ("chunked, chunked", ended(400, "InvalidTransferEncoding")),
        // These count, and the body is none in chunks.
        ("chunked ", ended(400, "InvalidRequestBody")),
        ("\tchunked", ended(400, "InvalidRequestBody")),
        ("Chunked", ended(400, "InvalidRequestBody")),
    ] {
        cases.push(case(
            format!("both lengths, {coding:?}, a body of a length"),
            post(
                &format!("Transfer-Encoding: {coding}\r\nContent-Length: 12\r\n"),
                CODE,
            ),
            want,
        ));
    }
    for (name, headers, want) in [
        (
            "a wrong Content-Length",
            format!("Content-Length: +{length}\r\nTransfer-Encoding: chunked\r\n"),
            malformed(),
        ),
        (
            "a Content-Length with a letter",
            format!("Content-Length: {length}x\r\nTransfer-Encoding: chunked\r\n"),
            malformed(),
        ),
        (
            "a folded coding",
            format!("Transfer-Encoding:\r\n chunked\r\nContent-Length: {length}\r\n"),
            malformed(),
        ),
        (
            "two codings",
            format!(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: {length}\r\n"
            ),
            malformed(),
        ),
        (
            "a comma ahead of the coding",
            format!("Content-Length: {length}\r\nTransfer-Encoding: , chunked\r\n"),
            ended(400, "InvalidTransferEncoding"),
        ),
        (
            "a blank behind the coding",
            format!("Content-Length: {length}\r\nTransfer-Encoding: chunked \r\n"),
            ran_and_closed(),
        ),
        (
            "a coding in other letters",
            format!("Content-Length: {length}\r\nTransfer-Encoding: Chunked\r\n"),
            ran_and_closed(),
        ),
    ] {
        cases.push(case(
            format!("a request behind the chunks, and {name}"),
            post(&headers, &hidden),
            want,
        ));
    }
    cases
}

fn chunked_bodies() -> Vec<Case> {
    let bad = || ended(400, "InvalidRequestBody");
    let long = "x".repeat(20_000);
    vec![
        case(
            "sizes in capitals",
            chunks("C\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            ran(),
        ),
        case(
            "sizes with zeros ahead",
            chunks("000c\r\n{\"code\":\"1\"}\r\n000\r\n\r\n"),
            ran(),
        ),
        case(
            "many chunks",
            chunks("1\r\n{\r\n6\r\n\"code\"\r\n5\r\n:\"1\"}\r\n0\r\n\r\n"),
            ran(),
        ),
        case(
            "no chunk but the last",
            chunks("0\r\n\r\n"),
            refused(400, "InvalidRequestBody"),
        ),
        case(
            "an extension",
            chunks("c;name=value\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            ran(),
        ),
        case(
            "an extension without a name",
            chunks("c;\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            ran(),
        ),
        case(
            "an extension in quotes",
            chunks("c;a=\"b;c\"\r\n{\"code\":\"1\"}\r\n0;x\r\n\r\n"),
            ran(),
        ),
        case(
            "an extension that is no token",
            chunks("c;a[=b\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            ran(),
        ),
        case(
            "an extension with a NUL",
            chunks("c;\0a\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            ran(),
        ),
        case(
            "empty chunks where no body is wanted",
            stop("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            fine(),
        ),
        case("a last size with a plus", chunks("+0\r\n\r\nX"), bad()),
        case(
            "blanks behind a size",
            chunks("c  \t\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            ran(),
        ),
        case(
            "an extension that is too long",
            chunks(&format!("c;{long}\r\n{{\"code\":\"1\"}}\r\n0\r\n\r\n")),
            bad(),
        ),
        case(
            "an extension with a bare LF",
            chunks("c;a\nb\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            bad(),
        ),
        case(
            "an extension with a bare CR",
            chunks("c;a\rb\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            bad(),
        ),
        case(
            "a size behind 0x",
            chunks("0xc\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            bad(),
        ),
        case(
            "a size with a minus",
            chunks("-c\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            bad(),
        ),
        case(
            "a size with a plus",
            chunks("+c\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            bad(),
        ),
        case(
            "a size with an underscore",
            chunks("0_c\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            bad(),
        ),
        case(
            "a size behind a blank",
            chunks(" c\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            bad(),
        ),
        case(
            "a size with a blank inside",
            chunks("0 c\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            bad(),
        ),
        case("a size that is no number", chunks("zz\r\n"), bad()),
        case(
            "no size",
            chunks("\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            bad(),
        ),
        case(
            "a size of 17 digits",
            chunks("10000000000000000\r\n"),
            bad(),
        ),
        case(
            "a size of many digits",
            chunks(&format!("{}c\r\n", "f".repeat(100))),
            bad(),
        ),
        case(
            "a size of 16 digits",
            chunks("ffffffffffffffff\r\nx"),
            bad(),
        )
        .sent(Sending::ThenFinish),
        case(
            "a size that ends in a bare LF",
            chunks("c\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            bad(),
        ),
        case(
            "a size that ends in a bare CR",
            chunks("c\r{\"code\":\"1\"}\r\n0\r\n\r\n"),
            bad(),
        ),
        case(
            "a chunk that ends in a bare LF",
            chunks("c\r\n{\"code\":\"1\"}\n0\r\n\r\n"),
            bad(),
        ),
        case(
            "a chunk without an end",
            chunks("c\r\n{\"code\":\"1\"}0\r\n\r\n"),
            bad(),
        ),
        case(
            "a chunk longer than its size",
            chunks("b\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            bad(),
        ),
        case(
            "a chunk shorter than its size",
            chunks("d\r\n{\"code\":\"1\"}\r\n0\r\n\r\n"),
            bad(),
        ),
        case(
            "a last chunk that ends in bare LFs",
            chunks("c\r\n{\"code\":\"1\"}\r\n0\n\n"),
            bad(),
        ),
        case(
            "a last chunk and a bare LF",
            chunks("c\r\n{\"code\":\"1\"}\r\n0\r\n\n"),
            bad(),
        )
        .sent(Sending::ThenFinish),
        case(
            "a last chunk without its empty line",
            chunks("c\r\n{\"code\":\"1\"}\r\n0\r\n"),
            bad(),
        )
        .sent(Sending::ThenFinish),
        case("no last chunk", chunks("c\r\n{\"code\":\"1\"}\r\n"), bad()).sent(Sending::ThenFinish),
        case(
            "a trailer",
            chunks("c\r\n{\"code\":\"1\"}\r\n0\r\nX-Sum: 1\r\n\r\n"),
            ran(),
        ),
        case(
            "a trailer that gives a length",
            chunks("c\r\n{\"code\":\"1\"}\r\n0\r\nContent-Length: 5\r\n\r\n"),
            ran(),
        ),
        case(
            "a trailer that gives a coding",
            chunks("c\r\n{\"code\":\"1\"}\r\n0\r\nTransfer-Encoding: identity\r\n\r\n"),
            ran(),
        ),
        case(
            "a trailer that gives a host",
            chunks("c\r\n{\"code\":\"1\"}\r\n0\r\nHost: b\r\n\r\n"),
            ran(),
        ),
        case(
            "a trailer that gives a content type",
            chunks("c\r\n{\"code\":\"1\"}\r\n0\r\nContent-Type: text/plain\r\n\r\n"),
            ran(),
        ),
        case(
            "a trailer that gives a token",
            chunks("c\r\n{\"code\":\"1\"}\r\n0\r\nAuthorization: Bearer x\r\n\r\n"),
            ran(),
        ),
        case(
            "a trailer that gives an operation id",
            chunks("c\r\n{\"code\":\"1\"}\r\n0\r\noperation-id: /../\r\n\r\n"),
            ran(),
        ),
        case(
            "a trailer that is too long",
            chunks(&format!(
                "c\r\n{{\"code\":\"1\"}}\r\n0\r\nX: {long}\r\n\r\n"
            )),
            bad(),
        ),
        case(
            "a trailer that is no header",
            chunks("c\r\n{\"code\":\"1\"}\r\n0\r\nno header\r\n\r\n"),
            bad(),
        ),
        case(
            "a trailer that ends in a bare LF",
            chunks("c\r\n{\"code\":\"1\"}\r\n0\r\nX: 1\n\r\n"),
            bad(),
        )
        .sent(Sending::ThenFinish),
    ]
}

fn lines() -> Vec<Case> {
    vec![
        case(
            "an empty line ahead of a request",
            format!("\r\n{}", get("/health", "")),
            fine(),
        ),
        case(
            "empty lines ahead of a request",
            format!("\r\n\r\n\n{}", get("/health", "")),
            fine(),
        ),
        case(
            "a line of blanks ahead of a request",
            format!(" \r\n{}", get("/health", "")),
            malformed(),
        ),
        case(
            "a blank ahead of a request",
            format!(" {}", get("/health", "")),
            malformed(),
        ),
        case(
            "a word ahead of a request",
            format!("Extra line{}", get("/health", "")),
            malformed(),
        ),
        case(
            "a bare CR ahead of a request",
            format!("\r{}", get("/health", "")),
            malformed(),
        ),
        // RFC 9112, 2.2: a single LF may end a line.
        case(
            "request line with a bare LF",
            "GET /health HTTP/1.1\nHost: a\r\n\r\n",
            fine(),
        ),
        case(
            "headers with bare LFs",
            "GET /health HTTP/1.1\r\nHost: a\nX: 1\n\n",
            fine(),
        ),
        case(
            "an execution with bare LFs",
            format!(
                "POST /python/execute HTTP/1.1\nHost: a\nContent-Type: application/json\nContent-Length: 12\n\n{CODE}"
            ),
            ran(),
        ),
        case(
            "request line with a bare CR",
            "GET /health HTTP/1.1\rHost: a\r\n\r\n",
            malformed(),
        ),
        case(
            "headers with bare CRs",
            "GET /health HTTP/1.1\r\nHost: a\rX: 1\r\r",
            malformed(),
        ),
        case(
            "an empty line with a bare CR",
            "GET /health HTTP/1.1\r\nHost: a\r\n\rX: 1\r\n\r\n",
            malformed(),
        ),
        case(
            "LF CR",
            "GET /health HTTP/1.1\n\rHost: a\n\r\n\r",
            malformed(),
        ),
        case(
            "CR CR LF",
            "GET /health HTTP/1.1\r\r\nHost: a\r\r\n\r\r\n",
            malformed(),
        ),
        case(
            "two blanks in the request line",
            "GET  /health HTTP/1.1\r\nHost: a\r\n\r\n",
            malformed(),
        ),
        case(
            "two blanks ahead of the version",
            "GET /health  HTTP/1.1\r\nHost: a\r\n\r\n",
            malformed(),
        ),
        case(
            "a tab in the request line",
            "GET\t/health\tHTTP/1.1\r\nHost: a\r\n\r\n",
            malformed(),
        ),
        case(
            "a blank behind the version",
            "GET /health HTTP/1.1 \r\nHost: a\r\n\r\n",
            malformed(),
        ),
        case(
            "a blank in the target",
            "GET /hea lth HTTP/1.1\r\nHost: a\r\n\r\n",
            malformed(),
        ),
        case(
            "a line of blanks ahead of the headers",
            "GET /health HTTP/1.1\r\n \r\nHost: a\r\n\r\n",
            malformed(),
        ),
        case(
            "a line of blanks and nothing more",
            "   \r\n\r\n",
            malformed(),
        ),
        case("no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n", malformed()),
        case(
            "no method",
            " /health HTTP/1.1\r\nHost: a\r\n\r\n",
            malformed(),
        ),
        case("no version", "GET /health\r\nHost: a\r\n\r\n", malformed()),
        case("a blank for a version", "GET / \r\n\r\n", malformed()),
        case("nothing but words", "nonsense\r\n\r\n", malformed()),
        case("nothing but a NUL", "\0\r\n\r\n", malformed()),
        case(
            "JSON instead of HTTP",
            "{\"code\":\"1\"}\r\n\r\n",
            malformed(),
        ),
    ]
}

fn header_names() -> Vec<Case> {
    let mut cases = vec![
        case("a header of 1 character", execution("x: 1\r\n"), ran()),
        case(
            "a header of every allowed character",
            execution("!#$%&'*+-.^_`|~09azAZ: 1\r\n"),
            ran(),
        ),
        case(
            "a header without a colon",
            get("/health", "no colon\r\n"),
            malformed(),
        ),
        case(
            "a header that is folded",
            get("/health", "X: 1\r\n 2\r\n"),
            malformed(),
        ),
        case(
            "a header that is folded with a tab",
            get("/health", "X: 1\r\n\t2\r\n"),
            malformed(),
        ),
        case(
            "a header that is folded behind a bare LF",
            get("/health", "X: 1\n content-length: 1000\r\n"),
            malformed(),
        ),
        case(
            "a name with a bare LF",
            get("/health", "X\n: Content-Length: 5\r\n"),
            malformed(),
        ),
        case(
            "a first header that is folded",
            "GET /health HTTP/1.1\r\n X: 1\r\nHost: a\r\n\r\n",
            malformed(),
        ),
        case(
            "a name that is not UTF-8",
            bytes(&[b"GET /health HTTP/1.1\r\nHost: a\r\nX\xff: 1\r\n\r\n"]),
            malformed(),
        ),
    ];
    for name in [
        "", " ", " X", "X ", "X\t", "X Y", "X\tY", "X\0", "\0X", "X\r", "X\u{7f}", "X\u{1b}", "Ü",
        "X[]", "X(1)", "X,Y", "X;Y", "X\"Y\"", "X/Y", "X@Y", "X{Y}", "X=Y", "X?", "X\\",
    ] {
        cases.push(case(
            format!("header name {name:?}"),
            get("/health", &format!("{name}: 1\r\n")),
            malformed(),
        ));
    }
    cases
}

fn header_values() -> Vec<Case> {
    let mut cases = vec![
        case("a value of UTF-8", execution("X: größe 🦀\r\n"), ran()),
        case("a value that is not UTF-8", bytes(&[b"GET /health HTTP/1.1\r\nHost: a\r\nX: \xff\xfe\x80\r\n\r\n"]), fine()),
        case("a value with a tab", execution("X: a\tb\r\n"), ran()),
        case("a range for an execution", execution("Range: bytes=0-10\r\n"), ran()),
        case("a range that is none", get("/health", "Range: bytes=a-z\r\n"), fine()),
        case("a range of 1 000 parts", get("/health", &format!("Range: bytes={}\r\n", vec!["0-"; 1000].join(","))), fine()),
        case("a media type that nobody knows is asked for", get("/health", "Accept: application/x-nothing\r\n"), fine()),
        case("a value of blanks", execution("X:    \t  \r\n"), ran()),
        case("an operation-id that is not UTF-8",
            bytes(&[b"POST /python/execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\noperation-id: \xff\r\nContent-Length: 12\r\n\r\n", CODE.as_bytes()]),
            refused(400, "InvalidOperationId")),
        case("a content type that is not UTF-8",
            bytes(&[b"POST /python/execute HTTP/1.1\r\nHost: a\r\nContent-Type: \xff\r\nContent-Length: 12\r\n\r\n", CODE.as_bytes()]),
            refused(415, "UnsupportedMediaType")),
        case("an operation-id with a path", execution("operation-id: ../x\r\n"), refused(400, "InvalidOperationId")),
        case("an operation-id that is too long", execution(&format!("operation-id: {}\r\n", "x".repeat(129))), refused(400, "InvalidOperationId")),
        case("a cookie with controls", get("/health", "Cookie: a=\u{1}\r\n"), malformed()),
    ];
    for control in [
        "\0",
        "\0a",
        "a\0",
        "a\0b",
        "\u{1}",
        "\u{7}",
        "\u{8}",
        "\u{b}",
        "\u{c}",
        "\u{1b}[2J",
        "\u{7f}",
        "a\rb",
    ] {
        cases.push(case(
            format!("header value {control:?}"),
            get("/health", &format!("X: {control}\r\n")),
            malformed(),
        ));
    }
    cases
}

fn host() -> Vec<Case> {
    let with = |hosts: &str| format!("GET /health HTTP/1.1\r\n{hosts}\r\n");
    let mut cases = vec![
        case("no host", with(""), ended(400, "InvalidHost")),
        case(
            "no host for an execution",
            format!("POST /python/execute HTTP/1.1\r\nContent-Length: 12\r\n\r\n{CODE}"),
            ended(400, "InvalidHost"),
        ),
        case(
            "two hosts",
            with("Host: a\r\nHost: b\r\n"),
            ended(400, "InvalidHost"),
        ),
        case(
            "two equal hosts",
            with("Host: a\r\nHost: a\r\n"),
            ended(400, "InvalidHost"),
        ),
        case(
            "two hosts apart",
            with("Host: a\r\nX: 1\r\nhost: b\r\n"),
            ended(400, "InvalidHost"),
        ),
        case(
            "two hosts in HTTP/1.0",
            "GET /health HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
            ended(400, "InvalidHost"),
        ),
        case(
            "no host in HTTP/1.0",
            "GET /health HTTP/1.0\r\n\r\n",
            Want(vec![(200, "")], Ending::Closes, 0),
        ),
        case(
            "no host for an absolute target",
            "GET http://a/health HTTP/1.1\r\n\r\n",
            ended(400, "InvalidHost"),
        ),
        case(
            "a host that is not UTF-8",
            bytes(&[b"GET /health HTTP/1.1\r\nHost: \xff\r\n\r\n"]),
            ended(400, "InvalidHost"),
        ),
    ];
    for good in [
        "a:80",
        "a:",
        "127.0.0.1:2000",
        "[::1]:2000",
        "A.example",
        "a-b_c.example",
        "xn--bcher-kva.example",
    ] {
        cases.push(case(
            format!("host {good:?}"),
            with(&format!("Host: {good}\r\n")),
            fine(),
        ));
    }
    for wrong in [
        "",
        "user@a",
        "user:word@a",
        "a b",
        "a, b",
        "a/b",
        "a?b",
        "a#b",
        "http://a",
        "a:b",
        "a:99999",
        "[::1",
        "größe",
        "\\a",
    ] {
        cases.push(case(
            format!("host {wrong:?}"),
            with(&format!("Host: {wrong}\r\n")),
            ended(400, "InvalidHost"),
        ));
    }
    cases
}

fn targets() -> Vec<Case> {
    let line = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let invalid = || refused(400, "InvalidRequestTarget");
    let mut cases = vec![
        case("an absolute target", line("http://a/health"), fine()),
        case(
            "an absolute target of another host",
            line("http://elsewhere.example/health"),
            fine(),
        ),
        case(
            "an absolute target over TLS",
            line("https://a/health"),
            fine(),
        ),
        case("an absolute target without a path", line("http://a"), ran()),
        case(
            "an absolute target with a user",
            line("http://user@a/health"),
            invalid(),
        ),
        case(
            "an absolute target of another scheme",
            line("ftp://a/health"),
            invalid(),
        ),
        case("a target that is an authority", line("a:80"), invalid()),
        case("a target that is a name", line("health"), invalid()),
        case("a target that is an asterisk", line("*"), invalid()),
        case(
            "OPTIONS of an asterisk",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            refused(405, "MethodNotAllowed"),
        ),
        case("a target that is not a URI", line("http://%@a/"), invalid()),
        case("a NUL in the target", line("/\0"), malformed()),
        case(
            "a control character in the target",
            line("/\u{1}"),
            malformed(),
        ),
        case("a DEL in the target", line("/\u{7f}"), malformed()),
        case(
            "an encoded NUL in a path",
            line("/%00"),
            refused(404, "PathNotFound"),
        ),
        case(
            "an encoded line break in a path",
            line("/x%0d%0aX:%201"),
            refused(404, "PathNotFound"),
        ),
        case(
            "a path that is not UTF-8 once decoded",
            line("/%ff%fe/execute"),
            invalid(),
        ),
        case("an overlong slash", line("/%c0%af"), invalid()),
        case("an escape that is none", line("/%zz/execute"), invalid()),
        case("an escape cut short", line("/health%2"), invalid()),
        case("a percent sign at the end", line("/health%"), invalid()),
        case("a path that is encoded", line("/%68ealth"), fine()),
        case(
            "a path that is encoded twice",
            line("/%2568ealth"),
            refused(404, "PathNotFound"),
        ),
        case(
            "dots that go nowhere",
            line("/./health"),
            refused(404, "PathNotFound"),
        ),
        case(
            "dots that go up",
            line("/a/../health"),
            refused(404, "PathNotFound"),
        ),
        case(
            "dots above the root",
            line("/../../etc/passwd"),
            refused(404, "PathNotFound"),
        ),
        case(
            "encoded dots",
            line("/%2e%2e/health"),
            refused(404, "PathNotFound"),
        ),
        case(
            "a file above the folder",
            line("/files/..%2f..%2fetc%2fpasswd"),
            refused(400, "FileNameInvalid"),
        ),
        case(
            "a file above the folder, nested",
            line("/files/content/..%2f..%2fetc/passwd"),
            refused(400, "FilePathInvalid"),
        ),
        case(
            "a file above the folder, by the query",
            line("/files/x?path=../.."),
            refused(400, "FilePathInvalid"),
        ),
        case(
            "a file of a NUL",
            line("/files/%00"),
            refused(400, "FileNameInvalid"),
        ),
        case(
            "a file of an encoded name, encoded twice",
            line("/files/%252e%252e"),
            refused(404, "FileNotFound"),
        ),
        case("a backslash", line("/a\\b"), refused(404, "PathNotFound")),
        case("a fragment", line("/health#x"), fine()),
        case("slashes doubled", line("//health//"), fine()),
        case(
            "a query of everything",
            line("/health?a=%ff&b=%00&&=&c=+%20"),
            fine(),
        ),
        case(
            "an identifier twice, the last wrong",
            "POST /python/execute?identifier=good&identifier=%00%00%00%00 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"code\":\"1\"}",
            refused(400, "InvalidIdentifier"),
        ),
        case(
            "an identifier that is not UTF-8",
            "POST /python/execute?identifier=%ff%ff%ff%ff HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"code\":\"1\"}",
            refused(400, "InvalidIdentifier"),
        ),
        case(
            "an identifier with a line break",
            "POST /python/execute?identifier=good%0d%0aX:1 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"code\":\"1\"}",
            refused(400, "InvalidIdentifier"),
        ),
        case(
            "an api-version of nonsense",
            "POST /python/execute?api-version=%00 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"code\":\"1\"}",
            refused(400, "InvalidApiVersion"),
        ),
        case(
            "a language of a NUL",
            format!(
                "POST /%00/execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{CODE}"
            ),
            ran(),
        ),
        case(
            "a language that is encoded twice",
            format!(
                "POST /%2570ython/execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{CODE}"
            ),
            ran(),
        ),
    ];
    cases.push(case(
        "a target of bytes that are not UTF-8",
        bytes(&[b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n"]),
        malformed(),
    ));
    cases.push(case(
        "a target of overlong UTF-8",
        bytes(&[b"GET /\xc0\xaf HTTP/1.1\r\nHost: a\r\n\r\n"]),
        malformed(),
    ));
    cases.push(case("a target of UTF-8", line("/größe"), invalid()));
    cases.push(case("a query of UTF-8", line("/health?größe"), invalid()));
    cases
}

fn methods() -> Vec<Case> {
    let mut cases = vec![
        case(
            "TRACE",
            "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
            refused(405, "MethodNotAllowed"),
        ),
        case(
            "TRACE with a body",
            format!("TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n{CODE}"),
            refused(405, "MethodNotAllowed"),
        ),
        case(
            "TRACE with a token",
            "TRACE / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\n\r\n",
            refused(405, "MethodNotAllowed"),
        ),
        case(
            "CONNECT",
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
            refused(405, "MethodNotAllowed"),
        ),
        case(
            "a method of 128 letters",
            format!("{} /health HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(128)),
            refused(405, "MethodNotAllowed"),
        ),
        case(
            "a method of 129 letters",
            format!("{} /health HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(129)),
            malformed(),
        ),
        case(
            "a method of all characters",
            "!#$%&'*+-.^_`|~09 /health HTTP/1.1\r\nHost: a\r\n\r\n",
            refused(405, "MethodNotAllowed"),
        ),
    ];
    for method in [
        "get", "Get", "OPTIONS", "PUT", "PATCH", "DELETE", "PRI", "PROPFIND", "GETX", "G", "POST",
    ] {
        cases.push(case(
            format!("method {method}"),
            format!("{method} /health HTTP/1.1\r\nHost: a\r\n\r\n"),
            refused(405, "MethodNotAllowed"),
        ));
    }
    for method in ["G\0T", "GÉT", "G\u{1}T", "G(T", "\"GET\"", "G/T", "G,T"] {
        cases.push(case(
            format!("method {method:?}"),
            format!("{method} /health HTTP/1.1\r\nHost: a\r\n\r\n"),
            malformed(),
        ));
    }
    cases.push(case(
        "a method in small letters executes nothing",
        format!("post /python/execute HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n{CODE}"),
        refused(405, "MethodNotAllowed"),
    ));
    cases
}

fn versions() -> Vec<Case> {
    let mut cases = vec![
        case(
            "HTTP/1.0",
            "GET /health HTTP/1.0\r\n\r\n",
            Want(vec![(200, "")], Ending::Closes, 0),
        ),
        case(
            "HTTP/1.0 that stays",
            "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            fine(),
        ),
        case(
            "an execution in HTTP/1.0",
            format!(
                "POST /python/execute HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{CODE}"
            ),
            ran_and_closed(),
        ),
        case(
            "HTTP/1.0 that expects to continue",
            format!(
                "POST /python/execute HTTP/1.0\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 12\r\n\r\n{CODE}"
            ),
            ran_and_closed(),
        ),
        case(
            "HTTP/1.1 that closes",
            get("/health", "Connection: close\r\n"),
            Want(vec![(200, "")], Ending::Closes, 0),
        ),
        case(
            "HTTP/1.1 that closes and stays",
            get("/health", "Connection: close\r\nConnection: keep-alive\r\n"),
            Want(vec![(200, "")], Ending::Closes, 0),
        ),
        case("HTTP/0.9", "GET /health\r\n", malformed()),
    ];
    for version in [
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/3",
        "HTTP/9.9",
        "HTTP/0.9",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/1.10",
        "HTTP/01.1",
        "HTTP/01.01",
        "http/1.1",
        "HTTP /1.1",
        "HTTP/ 1.1",
        "HTTP/1,1",
        "HTPP/1.1",
        "HTTP/-1.1",
    ] {
        cases.push(case(
            format!("version {version:?}"),
            format!("GET /health {version}\r\nHost: a\r\n\r\n"),
            malformed(),
        ));
    }
    cases
}

fn too_long() -> Vec<Case> {
    let line = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(n));
    let many = |n: usize| get("/health", &"X: 1\r\n".repeat(n));
    vec![
        case(
            "a target of 16 KiB",
            line((16 << 10) - 1),
            refused(404, "PathNotFound"),
        ),
        case(
            "a target that is longer",
            line(16 << 10),
            ended(414, "RequestTargetTooLong"),
        ),
        case(
            "a target of 70 000 bytes",
            line(70_000),
            ended(414, "RequestTargetTooLong"),
        ),
        case(
            "a target of 200 000 bytes",
            line(200_000),
            ended(431, "RequestHeadersTooLarge"),
        ),
        case(
            "a header of 60 000 bytes",
            get("/health", &format!("X: {}\r\n", "x".repeat(60_000))),
            fine(),
        ),
        case(
            "a header of 70 000 bytes",
            get("/health", &format!("X: {}\r\n", "x".repeat(70_000))),
            ended(431, "RequestHeadersTooLarge"),
        ),
        case(
            "a header of 200 000 bytes",
            get("/health", &format!("X: {}\r\n", "x".repeat(200_000))),
            ended(431, "RequestHeadersTooLarge"),
        ),
        case(
            "a header's name of 70 000 bytes",
            get("/health", &format!("{}: 1\r\n", "x".repeat(70_000))),
            ended(431, "RequestHeadersTooLarge"),
        ),
        case("99 headers", many(98), fine()),
        case(
            "101 headers",
            many(100),
            ended(431, "RequestHeadersTooLarge"),
        ),
        case(
            "10 000 headers",
            many(10_000),
            ended(431, "RequestHeadersTooLarge"),
        ),
        case(
            "a method of 100 000 bytes",
            format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(100_000)),
            malformed(),
        ),
        case(
            "a method of 200 000 bytes",
            format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(200_000)),
            ended(431, "RequestHeadersTooLarge"),
        ),
        case(
            "200 000 bytes without a line",
            "x".repeat(200_000),
            ended(431, "RequestHeadersTooLarge"),
        ),
    ]
}

fn expectations() -> Vec<Case> {
    let goes_on = |response| Want(vec![(100, ""), response], Ending::Stays, 1);
    let mut cases = vec![
        case(
            "100-continue",
            execution("Expect: 100-continue\r\n"),
            goes_on((200, "")),
        ),
        case(
            "100-continue in capitals",
            execution("Expect: 100-CONTINUE\r\n"),
            goes_on((200, "")),
        ),
        case(
            "100-continue in chunks",
            post(
                "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n",
                IN_CHUNKS,
            ),
            goes_on((200, "")),
        ),
        case(
            "100-continue without a body",
            get("/health", "Expect: 100-continue\r\n"),
            fine(),
        ),
    ];
    for wrong in ["200-ok", "100-continue-x", "x", "100-continue, x", ""] {
        cases.push(case(
            format!("Expect {wrong:?}"),
            execution(&format!("Expect: {wrong}\r\n")),
            ended(417, "ExpectationFailed"),
        ));
    }
    cases
}

fn upgrades() -> Vec<Case> {
    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: ";
    vec![
        case(
            "an upgrade to h2c",
            get(
                "/health",
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
            ),
            fine(),
        ),
        case(
            "an upgrade to a websocket",
            get(
                "/health",
                &format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}13\r\n"),
            ),
            fine(),
        ),
        case(
            "an upgrade to a websocket that is not in Connection",
            get("/health", &format!("Upgrade: websocket\r\n{KEY}13\r\n")),
            fine(),
        ),
        case(
            "an upgrade to a websocket of another version",
            get(
                "/health",
                &format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}99\r\n"),
            ),
            fine(),
        ),
        case(
            "an upgrade to a websocket in HTTP/1.0",
            format!(
                "GET /health HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{KEY}13\r\n\r\n"
            ),
            Want(vec![(200, "")], Ending::Closes, 0),
        ),
        case(
            "an upgrade of an execution to a websocket",
            execution(&format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}13\r\n"
            )),
            ran(),
        ),
        case(
            "an upgrade of an execution",
            execution("Connection: Upgrade\r\nUpgrade: h2c\r\n"),
            ran(),
        ),
        case(
            "an upgrade to what nobody knows",
            get("/health", "Connection: Upgrade\r\nUpgrade: \u{fc}/9\r\n"),
            fine(),
        ),
        case(
            "an upgrade with a request behind",
            format!(
                "{}{}",
                get("/health", "Connection: Upgrade\r\nUpgrade: h2c\r\n"),
                get("/health", "")
            ),
            Want(vec![(200, ""), (200, "")], Ending::Stays, 0),
        ),
    ]
}

fn other_protocols() -> Vec<Case> {
    vec![
        case(
            "HTTP/2 at once",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            dropped(),
        ),
        case(
            "TLS",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n",
            malformed(),
        ),
        case("SSH", "SSH-2.0-OpenSSH_9.9\r\n", malformed()),
        case("SOCKS 5", b"\x05\x01\0", malformed()),
        case(
            "the PROXY protocol",
            format!("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n{}", get("/health", "")),
            malformed(),
        ),
        case("Redis", "*1\r\n$4\r\nPING\r\n", malformed()),
        case("SMTP", "EHLO a\r\n", malformed()),
        case(
            "a response",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            malformed(),
        ),
        case(
            "bytes of every value",
            (0..=255).collect::<Vec<u8>>(),
            malformed(),
        ),
    ]
}

fn pipelines() -> Vec<Case> {
    let two = || Want(vec![(200, ""), (200, "")], Ending::Stays, 2);
    let then = |response, ending, runs| Want(vec![(200, ""), response], ending, runs);
    vec![
        case(
            "two executions",
            format!("{}{}", execution(""), execution("")),
            two(),
        ),
        case(
            "two executions byte by byte",
            format!("{}{}", execution(""), execution("")),
            two(),
        )
        .sent(Sending::ByteByByte),
        case(
            "two executions with an empty line between",
            format!("{}\r\n{}", execution(""), execution("")),
            two(),
        ),
        case(
            "chunks and a length",
            format!("{}{}", chunks(IN_CHUNKS), execution("")),
            two(),
        ),
        case(
            "ten requests",
            get("/health", "").repeat(10),
            Want(vec![(200, ""); 10], Ending::Stays, 0),
        ),
        case(
            "a wrong one behind a good one",
            format!("{}{}", execution(""), get("/health", "X Y: 1\r\n")),
            then((400, "MalformedRequest"), Ending::Closes, 1),
        ),
        case(
            "a wrong one between good ones",
            format!(
                "{}{}{}",
                execution(""),
                get("/health", "X Y: 1\r\n"),
                execution("")
            ),
            then((400, "MalformedRequest"), Ending::Closes, 1),
        ),
        case(
            "a refused one between good ones",
            format!("{}{}{}", execution(""), body("[]"), execution("")),
            Want(
                vec![(200, ""), (400, "InvalidRequestBody"), (200, "")],
                Ending::Stays,
                2,
            ),
        ),
        case(
            "one without a host between good ones",
            format!(
                "{}GET /health HTTP/1.1\r\n\r\n{}",
                execution(""),
                execution("")
            ),
            then((400, "InvalidHost"), Ending::Closes, 1),
        ),
        case(
            "one behind another that closes",
            format!("{}{}", execution("Connection: close\r\n"), execution("")),
            ran_and_closed(),
        ),
        case(
            "bytes behind a body",
            post("Content-Length: 12\r\n", &format!("{CODE}garbage\r\n\r\n")),
            then((400, "MalformedRequest"), Ending::Closes, 1),
        ),
        case(
            "a body longer than its length",
            post("Content-Length: 7\r\n", "{\"code\"garbage :\r\n\r\n"),
            Want(
                vec![(400, "InvalidRequestBody"), (400, "MalformedRequest")],
                Ending::Closes,
                0,
            ),
        ),
    ]
}

/// A client that goes away, at every place where it can.
fn endings() -> Vec<Case> {
    let whole = execution("");
    let mut cases = vec![
        case("nothing at all", "", dropped()).sent(Sending::ThenFinish),
        case("an empty line and nothing more", "\r\n", dropped()).sent(Sending::ThenFinish),
        case(
            "a body shorter than its length",
            post("Content-Length: 50\r\n", CODE),
            ended(400, "InvalidRequestBody"),
        )
        .sent(Sending::ThenFinish),
        case(
            "a length and no body",
            post("Content-Length: 12\r\n", ""),
            ended(400, "InvalidRequestBody"),
        )
        .sent(Sending::ThenFinish),
        case(
            "half a chunk",
            chunks("c\r\n{\"co"),
            ended(400, "InvalidRequestBody"),
        )
        .sent(Sending::ThenFinish),
        case(
            "half a chunk's size",
            chunks("c"),
            ended(400, "InvalidRequestBody"),
        )
        .sent(Sending::ThenFinish),
    ];
    let head = whole.find("\r\n\r\n").unwrap_or_default();
    for cut in [
        1,
        4,
        5,
        12,
        21,
        22,
        30,
        31,
        32,
        35,
        40,
        head,
        head + 2,
        head + 3,
    ] {
        cases.push(
            case(format!("a head of {cut} bytes"), &whole[..cut], dropped())
                .sent(Sending::ThenFinish),
        );
    }
    cases
}

fn json_bodies() -> Vec<Case> {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(20_000), close.repeat(20_000));
    let invalid = || refused(400, "InvalidRequestBody");
    let property = || refused(400, "InvalidRequestProperty");
    let bom = format!("\u{feff}{CODE}");
    let mut cases = vec![
        case("arrays 20 000 deep", body(&deep("[", "]")), invalid()),
        case(
            "objects 20 000 deep",
            body(&deep("{\"a\":", "}")),
            invalid(),
        ),
        case(
            "properties 20 000 deep",
            body(&format!("{{\"properties\":{}}}", deep("[", "]"))),
            property(),
        ),
        case(
            "arrays 20 000 deep that are never closed",
            body(&"[".repeat(20_000)),
            invalid(),
        ),
        case(
            "a member twice",
            body("{\"code\":\"1\",\"code\":\"2\"}"),
            invalid(),
        ),
        case(
            "properties twice",
            body("{\"properties\":{\"code\":\"1\"},\"properties\":{\"code\":\"2\"}}"),
            invalid(),
        ),
        case("a lone surrogate", body("{\"code\":\"'\\ud83d'\"}"), ran()),
        case(
            "surrogates the wrong way round",
            body("{\"code\":\"'\\ude00\\ud83d'\"}"),
            ran(),
        ),
        case("half an escape", body("{\"code\":\"\\ud8\"}"), invalid()),
        case("a byte order mark", body(&bom), ran()),
        case("an empty body in blanks", body(" \r\n\t "), invalid()),
        case(
            "JSON with something behind",
            body("{\"code\":\"1\"}{}"),
            invalid(),
        ),
        case(
            "JSON with a comma too many",
            body("{\"code\":\"1\",}"),
            invalid(),
        ),
        case(
            "JSON with a comment",
            body("{\"code\":\"1\"/**/}"),
            invalid(),
        ),
        case("JSON in single quotes", body("{'code':'1'}"), invalid()),
        case("JSON cut short", body("{\"code\":\"1"), invalid()),
        case("a NUL in a string", body("{\"code\":\"a\0b\"}"), invalid()),
        case(
            "a time of 1e400",
            body("{\"code\":\"1\",\"timeoutInSeconds\":1e400}"),
            property(),
        ),
        case(
            "a time of -1e400",
            body("{\"code\":\"1\",\"timeoutInSeconds\":-1e400}"),
            property(),
        ),
        case(
            "a time of 30 digits",
            body("{\"code\":\"1\",\"timeoutInSeconds\":999999999999999999999999999999}"),
            ran(),
        ),
        case(
            "a time of 0",
            body("{\"code\":\"1\",\"timeoutInSeconds\":0}"),
            property(),
        ),
        case(
            "a time of NaN",
            body("{\"code\":\"1\",\"timeoutInSeconds\":NaN}"),
            invalid(),
        ),
        case(
            "a length of 30 digits",
            body("{\"code\":\"1\",\"outputStreamsMaxLength\":999999999999999999999999999999}"),
            property(),
        ),
        case(
            "a length of -1",
            body("{\"code\":\"1\",\"outputStreamsMaxLength\":-1}"),
            property(),
        ),
        case(
            "a language of 1 000 characters",
            format!(
                "POST /execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1026\r\n\r\n{{\"code\":\"1\",\"language\":\"{}\"}}",
                "x".repeat(1000)
            ),
            property(),
        ),
        case(
            "no code",
            body("{}"),
            refused(400, "MissingRequestProperty"),
        ),
        case(
            "code that is null",
            body("{\"code\":null}"),
            refused(400, "MissingRequestProperty"),
        ),
        case(
            "members that nobody knows, 20 000 deep",
            body(&format!("{{\"code\":\"1\",\"x\":{}}}", deep("[", "]"))),
            ran(),
        ),
    ];
    for (name, text) in [
        ("an array", "[]"),
        ("a string", "\"x\""),
        ("a number", "1e999"),
        ("null", "null"),
        ("true", "true"),
        ("nothing", " "),
        ("XML", "<x/>"),
    ] {
        cases.push(case(format!("a body of {name}"), body(text), invalid()));
    }
    for (name, text) in [
        ("a number", "1"),
        ("an object", "{}"),
        ("an array", "[\"1\"]"),
        ("a boolean", "true"),
    ] {
        cases.push(case(
            format!("code of {name}"),
            body(&format!("{{\"code\":{text}}}")),
            property(),
        ));
    }
    for (name, raw) in [
        (
            "UTF-16 with its mark",
            b"\xff\xfe{\0\"\0c\0o\0d\0e\0\"\0:\0\"\x001\0\"\0}\0".as_slice(),
        ),
        (
            "UTF-16 without",
            b"{\0\"\0c\0o\0d\0e\0\"\0:\0\"\x001\0\"\0}\0",
        ),
        ("Latin-1", b"{\"code\":\"'\xfc'\"}"),
        ("an overlong character", b"{\"code\":\"\xc0\xaf\"}"),
        ("a surrogate", b"{\"code\":\"\xed\xa0\x80\"}"),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03"),
        ("NULs", b"\0\0\0\0"),
    ] {
        let head = format!(
            "POST /python/execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            raw.len()
        );
        cases.push(case(
            format!("a body of {name}"),
            bytes(&[head.as_bytes(), raw]),
            invalid(),
        ));
    }
    cases
}

fn media_types() -> Vec<Case> {
    let typed = |value: &str| execution(&format!("Content-Type: {value}\r\n"));
    let mut cases = Vec::new();
    for good in [
        "application/json",
        "APPLICATION/JSON ; CHARSET=UTF-8",
        "application/json; charset=\"utf-8\"",
        "application/json; charset=us-ascii",
        "text/json",
        "application/merge-patch+json",
        "application/json; x=y",
    ] {
        cases.push(case(format!("content type {good:?}"), typed(good), ran()));
    }
    for wrong in [
        "",
        "text/plain",
        "application/json; charset=utf-16",
        "application/json; charset=iso-8859-1",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application",
        "*/*",
        ";",
        "application/json, text/plain",
    ] {
        cases.push(case(
            format!("content type {wrong:?}"),
            typed(wrong),
            refused(415, "UnsupportedMediaType"),
        ));
    }
    for coding in [
        "gzip",
        "GZIP",
        "br",
        "deflate",
        "zstd",
        "identity, gzip",
        "x",
    ] {
        cases.push(case(
            format!("content coding {coding:?}"),
            execution(&format!("Content-Encoding: {coding}\r\n")),
            ended(415, "UnsupportedMediaType"),
        ));
    }
    cases.push(case(
        "content coding identity",
        execution("Content-Encoding: identity\r\n"),
        ran(),
    ));
    cases.push(case(
        "two content types, the first right",
        execution("Content-Type: application/json\r\nContent-Type: text/plain\r\n"),
        refused(415, "UnsupportedMediaType"),
    ));
    cases.push(case(
        "two content types, both wrong",
        execution("Content-Type: text/plain\r\nContent-Type: text/html\r\n"),
        refused(415, "UnsupportedMediaType"),
    ));
    cases.push(case(
        "an upload without a form",
        "POST /files/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxx",
        refused(415, "UnsupportedMediaType"),
    ));
    cases.push(case("a form without an end",
        "POST /files/upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 5\r\n\r\n--x\r\n", refused(400, "InvalidRequestBody")));
    cases.push(case("a form whose boundary cannot be one",
        "POST /files/upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=\"a \"\r\nContent-Length: 5\r\n\r\n--x\r\n", refused(400, "InvalidRequestBody")));
    cases
}
