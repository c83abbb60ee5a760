//! Which case of the table does what each test of Http11Probe does, and which answers that test
//! takes.
//!
//! Its `GET /` is `GET /health` here. Its `POST /` with a text that is to be echoed is an execution
//! with a program, and a `POST` that wants no body where the text is empty.

use super::cases::{Case, Ending};

/// What a test says of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Warn,
    Fail,
}

/// Tests that take the same answers.
pub struct Group {
    /// First statuses that pass; 0 is the end of the connection without a response.
    pass: &'static [u16],
    /// First statuses that pass if the connection closes.
    pass_closing: &'static [u16],
    warn: &'static [u16],
    /// The test's name, and the case's.
    pub tests: &'static [(&'static str, &'static str)],
}

impl Group {
    pub fn verdict(&self, case: &Case) -> Verdict {
        let status = case.wanted.answers.first().map_or(0, |(status, _)| *status);
        let closes = case.wanted.ending == Ending::Closes;
        if self.pass.contains(&status) || (closes && self.pass_closing.contains(&status)) {
            Verdict::Pass
        } else if self.warn.contains(&status) {
            Verdict::Warn
        } else {
            Verdict::Fail
        }
    }
}

/// How many tests there are of cookies, and of caching: a server that echoes cookies, and one whose
/// answers have an ETag or a date of change.
pub const NOT_APPLICABLE: usize = 12 + 9;

/// Tests whose verdict is not in the table: two with HEAD, which `a_head_is_answered_without_a_body`
/// and `a_body_of_a_head_request_is_no_request` show, and one that wants a response within 5 seconds,
/// where this one comes with the end of the body or of its time.
pub const BY_HAND: [(&str, Verdict); 3] = [
    ("COMP-HEAD-NO-BODY", Verdict::Pass),
    ("SMUG-HEAD-CL-BODY", Verdict::Warn),
    ("SMUG-CHUNK-LF-TRAILER", Verdict::Fail),
];

/// What is not as the suite wants it.
pub const FAILED: [&str; 7] = [
    "COMP-DUPLICATE-CT",
    "COMP-HTTP12-VERSION",
    "SMUG-CHUNK-BARE-SEMICOLON",
    "SMUG-CHUNK-EXT-CTRL",
    "SMUG-CHUNK-EXT-INVALID-TOKEN",
    "SMUG-CHUNK-LF-TRAILER",
    "SMUG-CHUNK-SIZE-TRAILING-OWS",
];

/// All other tests that apply.
pub const GROUPS: &[Group] = &[
    // Served.
    Group {
        pass: &[200],
        pass_closing: &[],
        warn: &[],
        tests: &[
            ("COMP-ABSOLUTE-FORM", "an absolute target"),
            ("COMP-BASELINE", "a plain request"),
            ("COMP-CHUNKED-BODY", "an execution in chunks"),
            ("COMP-CHUNKED-EMPTY", "empty chunks where no body is wanted"),
            ("COMP-CHUNKED-EXTENSION", "an extension"),
            ("COMP-CHUNKED-HEX-UPPERCASE", "sizes in capitals"),
            ("COMP-CHUNKED-MULTI", "many chunks"),
            ("COMP-CHUNKED-TRAILER-VALID", "a trailer"),
            ("COMP-CONTENT-TYPE", "a plain request"),
            ("COMP-DATE-FORMAT", "a plain request"),
            ("COMP-DATE-HEADER", "a plain request"),
            ("COMP-POST-CL-BODY", "a plain execution"),
            (
                "COMP-POST-CL-ZERO",
                "Content-Length 0 where no body is wanted",
            ),
            ("COMP-POST-NO-CL-NO-TE", "no length where no body is wanted"),
            ("COMP-RANGE-INVALID", "a range that is none"),
            ("COMP-RANGE-POST", "a range for an execution"),
            ("NORM-CASE-TE", "TRANSFER-ENCODING in capitals"),
            ("NORM-UNDERSCORE-CL", "Content_Length is another header"),
            ("NORM-UNDERSCORE-TE", "Transfer_Encoding is another header"),
            ("SMUG-GET-CL-BODY-DESYNC", "a GET with a body"),
            (
                "SMUG-GET-CL-PREFIX-DESYNC",
                "half a request as the body of a GET",
            ),
            ("SMUG-PIPELINE-SAFE", "ten requests"),
        ],
    },
    // Served, and the connection closes.
    Group {
        pass: &[],
        pass_closing: &[200],
        warn: &[],
        tests: &[
            ("COMP-CONNECTION-CLOSE", "HTTP/1.1 that closes"),
            ("COMP-HTTP10-DEFAULT-CLOSE", "HTTP/1.0"),
        ],
    },
    // Refused.
    Group {
        pass: &[400],
        pass_closing: &[],
        warn: &[],
        tests: &[
            ("COMP-ASTERISK-WITH-GET", "a target that is an asterisk"),
            ("COMP-CHUNKED-NO-FINAL", "no last chunk"),
            ("COMP-DUPLICATE-HOST-SAME", "two equal hosts"),
            ("COMP-HOST-EMPTY-VALUE", "host \"\""),
            ("COMP-HOST-WITH-PATH", "host \"a/b\""),
            ("COMP-HOST-WITH-USERINFO", "host \"user@a\""),
            ("COMP-POST-CL-UNDERSEND", "a body shorter than its length"),
            ("COMP-SPACE-IN-TARGET", "a blank in the target"),
            ("COMP-UNKNOWN-TE-501", "Transfer-Encoding \"gzip\""),
            ("COMP-VERSION-CASE", "version \"http/1.1\""),
            ("COMP-VERSION-LEADING-ZEROS", "version \"HTTP/01.01\""),
            ("COMP-VERSION-MISSING-MINOR", "version \"HTTP/1\""),
            ("COMP-VERSION-WHITESPACE", "version \"HTTP/ 1.1\""),
            (
                "COMP-WHITESPACE-BEFORE-HEADERS",
                "a line of blanks ahead of the headers",
            ),
            ("MAL-BINARY-GARBAGE", "bytes of every value"),
            ("MAL-CHUNK-SIZE-OVERFLOW", "a size of 17 digits"),
            ("MAL-CL-EMPTY", "Content-Length \"\""),
            (
                "MAL-CL-OVERFLOW",
                "Content-Length \"99999999999999999999999999999999\"",
            ),
            ("MAL-CONTROL-CHARS-HEADER", "header value \"\\u{7}\""),
            ("MAL-LONG-METHOD", "a method of 100 000 bytes"),
            ("MAL-NON-ASCII-HEADER-NAME", "header name \"Ü\""),
            ("MAL-NON-ASCII-URL", "a target of UTF-8"),
            ("MAL-NUL-IN-HEADER-VALUE", "header value \"a\\0b\""),
            ("MAL-NUL-IN-URL", "a NUL in the target"),
            ("MAL-URL-OVERLONG-UTF8", "a target of overlong UTF-8"),
            (
                "MAL-WHITESPACE-ONLY-LINE",
                "a line of blanks and nothing more",
            ),
            (
                "NORM-SP-BEFORE-COLON-CL",
                "Content-Length with a blank ahead of its colon",
            ),
            ("NORM-TAB-IN-NAME", "header name \"X\\tY\""),
            ("RFC9110-5.4-DUPLICATE-HOST", "two hosts"),
            ("RFC9110-5.6.2-SP-BEFORE-COLON", "header name \"X \""),
            ("RFC9112-2.3-HTTP09-REQUEST", "HTTP/0.9"),
            (
                "RFC9112-3-CR-ONLY-LINE-ENDING",
                "request line with a bare CR",
            ),
            ("RFC9112-3-MISSING-TARGET", "no target"),
            ("RFC9112-5-EMPTY-HEADER-NAME", "header name \"\""),
            ("RFC9112-5-HEADER-NO-COLON", "a header without a colon"),
            ("RFC9112-5-INVALID-HEADER-NAME", "header name \"X[]\""),
            ("RFC9112-5.1-OBS-FOLD", "a header that is folded"),
            ("RFC9112-6.1-CL-NON-NUMERIC", "Content-Length \"twelve\""),
            ("RFC9112-6.1-CL-PLUS-SIGN", "Content-Length \"+12\""),
            ("RFC9112-7.1-MISSING-HOST", "no host"),
            ("SMUG-BARE-CR-HEADER-VALUE", "header value \"a\\rb\""),
            ("SMUG-CHUNK-BARE-CR-TERM", "a size that ends in a bare CR"),
            ("SMUG-CHUNK-BARE-SEMICOLON", "an extension without a name"),
            ("SMUG-CHUNK-EXT-CR", "an extension with a bare CR"),
            ("SMUG-CHUNK-EXT-CTRL", "an extension with a NUL"),
            (
                "SMUG-CHUNK-EXT-INVALID-TOKEN",
                "an extension that is no token",
            ),
            ("SMUG-CHUNK-HEX-PREFIX", "a size behind 0x"),
            ("SMUG-CHUNK-INVALID-SIZE-DESYNC", "a last size with a plus"),
            ("SMUG-CHUNK-LEADING-SP", "a size behind a blank"),
            ("SMUG-CHUNK-MISSING-TRAILING-CRLF", "a chunk without an end"),
            ("SMUG-CHUNK-NEGATIVE", "a size with a minus"),
            ("SMUG-CHUNK-SIZE-PLUS", "a size with a plus"),
            ("SMUG-CHUNK-SIZE-TRAILING-OWS", "blanks behind a size"),
            ("SMUG-CHUNK-SPILL", "a chunk longer than its size"),
            ("SMUG-CHUNK-UNDERSCORE", "a size with an underscore"),
            ("SMUG-CL-COMMA-DIFFERENT", "Content-Length \"5, 6\""),
            ("SMUG-CL-HEX-PREFIX", "Content-Length \"0x0c\""),
            ("SMUG-CL-INTERNAL-SPACE", "Content-Length \"1 2\""),
            ("SMUG-CL-NEGATIVE", "Content-Length \"-12\""),
            ("SMUG-CL-NEGATIVE-ZERO", "Content-Length \"-0\""),
            ("SMUG-CL-OCTAL", "Content-Length \"0o14\""),
            ("SMUG-CL-UNDERSCORE", "Content-Length \"1_2\""),
            ("SMUG-DUPLICATE-CL", "Content-Length twice and different"),
            ("SMUG-MULTIPLE-HOST-COMMA", "host \"a, b\""),
            (
                "SMUG-TE-DUPLICATE-HEADERS",
                "Transfer-Encoding twice, the last unknown",
            ),
            (
                "SMUG-TE-EMPTY-VALUE",
                "both lengths, \"\", a body of a length",
            ),
            (
                "SMUG-TE-FORMFEED",
                "both lengths, \"\\u{c}chunked\", a body of a length",
            ),
            ("SMUG-TE-HTTP10", "Transfer-Encoding in HTTP/1.0"),
            (
                "SMUG-TE-IDENTITY",
                "both lengths, \"identity\", a body of a length",
            ),
            (
                "SMUG-TE-NOT-FINAL-CHUNKED",
                "both lengths, \"chunked, gzip\", a body of a length",
            ),
            (
                "SMUG-TE-NULL",
                "both lengths, \"chunked\\0\", a body of a length",
            ),
            (
                "SMUG-TE-SP-BEFORE-COLON",
                "Transfer-Encoding with a blank ahead of its colon",
            ),
            (
                "SMUG-TE-VTAB",
                "both lengths, \"\\u{b}chunked\", a body of a length",
            ),
            ("SMUG-TE-XCHUNKED", "both lengths, an unknown coding"),
        ],
    },
    // Refused, or served with a warning.
    Group {
        pass: &[0, 400],
        pass_closing: &[],
        warn: &[200, 404],
        tests: &[
            ("COMP-GET-WITH-CL-BODY", "a GET with a body"),
            ("COMP-HTTP10-NO-HOST", "no host in HTTP/1.0"),
            ("COMP-LEADING-CRLF", "empty lines ahead of a request"),
            ("COMP-REQUEST-LINE-TAB", "a tab in the request line"),
            ("MAL-CHUNK-EXT-64K", "an extension that is too long"),
            ("MAL-CL-TAB-BEFORE-VALUE", "Content-Length behind a tab"),
            ("MAL-RANGE-OVERLAPPING", "a range of 1 000 parts"),
            ("MAL-URL-BACKSLASH", "a backslash"),
            ("MAL-URL-PERCENT-CRLF", "an encoded line break in a path"),
            ("MAL-URL-PERCENT-NULL", "an encoded NUL in a path"),
            ("RFC9112-2.2-BARE-LF-HEADER", "headers with bare LFs"),
            (
                "RFC9112-2.2-BARE-LF-REQUEST-LINE",
                "request line with a bare LF",
            ),
            (
                "RFC9112-3-MULTI-SP-REQUEST-LINE",
                "two blanks in the request line",
            ),
            ("RFC9112-3.2-FRAGMENT-IN-TARGET", "a fragment"),
            (
                "SMUG-ABSOLUTE-URI-HOST-MISMATCH",
                "an absolute target of another host",
            ),
            ("SMUG-CHUNK-EXT-LF", "an extension with a bare LF"),
            ("SMUG-CHUNK-LF-TERM", "a chunk that ends in a bare LF"),
            (
                "SMUG-CHUNKED-WITH-PARAMS",
                "both lengths, \"chunked;x=y\", a body of a length",
            ),
            ("SMUG-CL-COMMA-SAME", "Content-Length \"12, 12\""),
            ("SMUG-CL-COMMA-TRIPLE", "Content-Length \"12, 12, 12\""),
            (
                "SMUG-CL-DOUBLE-ZERO",
                "Content-Length 00 where no body is wanted",
            ),
            (
                "SMUG-CL-EXTRA-LEADING-SP",
                "Content-Length with blanks around",
            ),
            ("SMUG-CL-LEADING-ZEROS", "Content-Length with zeros ahead"),
            (
                "SMUG-CL-LEADING-ZEROS-OCTAL",
                "Content-Length that is another number in octal",
            ),
            ("SMUG-CL-TE-BOTH", "both lengths"),
            (
                "SMUG-CL-TRAILING-SPACE",
                "Content-Length with blanks around",
            ),
            ("SMUG-CL0-BODY-POISON", "a byte behind a body of nothing"),
            (
                "SMUG-TE-CASE-MISMATCH",
                "both lengths, \"Chunked\", a body of a length",
            ),
            (
                "SMUG-TE-DOUBLE-CHUNKED",
                "both lengths, \"chunked, chunked\", a body of a length",
            ),
            (
                "SMUG-TE-LEADING-COMMA",
                "both lengths, \", chunked\", a body of a length",
            ),
            ("SMUG-TE-OBS-FOLD", "both lengths, the coding folded"),
            (
                "SMUG-TE-TAB-BEFORE-VALUE",
                "both lengths, \"\\tchunked\", a body of a length",
            ),
            (
                "SMUG-TE-TRAILING-COMMA",
                "both lengths, \"chunked,\", a body of a length",
            ),
            (
                "SMUG-TE-TRAILING-SPACE",
                "both lengths, \"chunked \", a body of a length",
            ),
            ("SMUG-TRAILER-AUTH", "a trailer that gives a token"),
            ("SMUG-TRAILER-CL", "a trailer that gives a length"),
            (
                "SMUG-TRAILER-CONTENT-TYPE",
                "a trailer that gives a content type",
            ),
            ("SMUG-TRAILER-HOST", "a trailer that gives a host"),
            ("SMUG-TRAILER-TE", "a trailer that gives a coding"),
            (
                "SMUG-TRANSFER_ENCODING",
                "Transfer_Encoding is another header",
            ),
        ],
    },
    // Refused, or served and the connection closes.
    Group {
        pass: &[0, 400],
        pass_closing: &[200],
        warn: &[],
        tests: &[
            ("SMUG-CLTE-CONN-CLOSE", "both lengths"),
            ("SMUG-CLTE-DESYNC", "both lengths, and a byte too many"),
            (
                "SMUG-CLTE-PIPELINE",
                "both lengths, Content-Length too short",
            ),
            (
                "SMUG-CLTE-SMUGGLED-GET",
                "a request behind the chunks, within Content-Length",
            ),
            (
                "SMUG-CLTE-SMUGGLED-GET-CL-NON-NUMERIC",
                "a request behind the chunks, and a Content-Length with a letter",
            ),
            (
                "SMUG-CLTE-SMUGGLED-GET-CL-PLUS",
                "a request behind the chunks, and a wrong Content-Length",
            ),
            (
                "SMUG-CLTE-SMUGGLED-GET-TE-CASE-MISMATCH",
                "a request behind the chunks, and a coding in other letters",
            ),
            (
                "SMUG-CLTE-SMUGGLED-GET-TE-LEADING-COMMA",
                "a request behind the chunks, and a comma ahead of the coding",
            ),
            (
                "SMUG-CLTE-SMUGGLED-GET-TE-OBS-FOLD",
                "a request behind the chunks, and a folded coding",
            ),
            (
                "SMUG-CLTE-SMUGGLED-GET-TE-TRAILING-SPACE",
                "a request behind the chunks, and a blank behind the coding",
            ),
            (
                "SMUG-CLTE-SMUGGLED-HEAD",
                "a HEAD behind the chunks, within Content-Length",
            ),
            (
                "SMUG-DUPLICATE-CL-SMUGGLED-GET",
                "a request behind a body that has two lengths",
            ),
            (
                "SMUG-OPTIONS-TE-OBS-FOLD",
                "both lengths of an unknown method, the coding folded",
            ),
            (
                "SMUG-TE-DUPLICATE-HEADERS-SMUGGLED-GET",
                "a request behind the chunks, and two codings",
            ),
            ("SMUG-TECL-CONN-CLOSE", "both lengths, the other way round"),
            (
                "SMUG-TECL-DESYNC",
                "both lengths, and a byte too many, the other way round",
            ),
            (
                "SMUG-TECL-PIPELINE",
                "both lengths, Content-Length too long",
            ),
            (
                "SMUG-TECL-SMUGGLED-GET",
                "a request as a chunk, behind a short Content-Length",
            ),
        ],
    },
    // A method that the server does not have.
    Group {
        pass: &[405, 501],
        pass_closing: &[],
        warn: &[200],
        tests: &[
            ("COMP-405-ALLOW", "method DELETE"),
            ("COMP-METHOD-CASE", "method get"),
            ("COMP-METHOD-CONNECT", "CONNECT"),
            ("COMP-METHOD-TRACE", "TRACE"),
            ("COMP-NO-CL-IN-204", "method OPTIONS"),
            ("COMP-OPTIONS-ALLOW", "method OPTIONS"),
            ("COMP-TRACE-SENSITIVE", "TRACE with a token"),
            ("COMP-TRACE-WITH-BODY", "TRACE with a body"),
            ("COMP-UNKNOWN-METHOD", "method GETX"),
            (
                "SMUG-OPTIONS-CL-BODY",
                "a request as the body of an unknown method",
            ),
            (
                "SMUG-OPTIONS-CL-BODY-DESYNC",
                "a request as the body of an unknown method",
            ),
        ],
    },
    Group {
        pass: &[200, 405],
        pass_closing: &[],
        warn: &[0],
        tests: &[("COMP-OPTIONS-STAR", "OPTIONS of an asterisk")],
    },
    // Too long.
    Group {
        pass: &[0, 400, 414, 431],
        pass_closing: &[],
        warn: &[],
        tests: &[
            ("MAL-LONG-HEADER-NAME", "a header's name of 70 000 bytes"),
            ("MAL-LONG-HEADER-VALUE", "a header of 70 000 bytes"),
            ("MAL-LONG-URL", "a target of 70 000 bytes"),
            ("MAL-MANY-HEADERS", "10 000 headers"),
        ],
    },
    Group {
        pass: &[200, 404],
        pass_closing: &[],
        warn: &[0],
        tests: &[("COMP-LONG-URL-OK", "a target of 16 KiB")],
    },
    Group {
        pass: &[0, 400, 413],
        pass_closing: &[],
        warn: &[],
        tests: &[("MAL-POST-CL-HUGE-NO-BODY", "more than any body may have")],
    },
    // Not HTTP/1.1.
    Group {
        pass: &[0, 400, 505],
        pass_closing: &[],
        warn: &[],
        tests: &[
            ("MAL-EMPTY-REQUEST", "nothing at all"),
            ("MAL-H2-PREFACE", "HTTP/2 at once"),
            ("MAL-INCOMPLETE-REQUEST", "a head of 40 bytes"),
            ("RFC9112-2.3-INVALID-VERSION", "version \"HTTP/9.9\""),
        ],
    },
    Group {
        pass: &[0],
        pass_closing: &[],
        warn: &[200, 505],
        tests: &[("COMP-HTTP12-VERSION", "version \"HTTP/1.2\"")],
    },
    Group {
        pass: &[0, 200, 400, 426],
        pass_closing: &[],
        warn: &[],
        tests: &[
            ("WS-UPGRADE-HTTP10", "an upgrade to a websocket in HTTP/1.0"),
            (
                "WS-UPGRADE-MISSING-CONN",
                "an upgrade to a websocket that is not in Connection",
            ),
            (
                "WS-UPGRADE-POST",
                "an upgrade of an execution to a websocket",
            ),
            ("WS-UPGRADE-UNKNOWN", "an upgrade to what nobody knows"),
        ],
    },
    Group {
        pass: &[0, 400, 426],
        pass_closing: &[],
        warn: &[200],
        tests: &[(
            "WS-UPGRADE-INVALID-VER",
            "an upgrade to a websocket of another version",
        )],
    },
    // Expectations and types.
    Group {
        pass: &[0, 400, 417],
        pass_closing: &[],
        warn: &[100, 200],
        tests: &[
            ("COMP-EXPECT-UNKNOWN", "Expect \"200-ok\""),
            ("SMUG-EXPECT-100-CL", "100-continue"),
            ("SMUG-EXPECT-100-CL-DESYNC", "100-continue"),
        ],
    },
    Group {
        pass: &[0, 200, 400, 417],
        pass_closing: &[],
        warn: &[],
        tests: &[("COMP-NO-1XX-HTTP10", "HTTP/1.0 that expects to continue")],
    },
    Group {
        pass: &[406],
        pass_closing: &[],
        warn: &[200],
        tests: &[(
            "COMP-ACCEPT-NONSENSE",
            "a media type that nobody knows is asked for",
        )],
    },
    Group {
        pass: &[0, 400],
        pass_closing: &[],
        warn: &[200],
        tests: &[("COMP-DUPLICATE-CT", "two content types, both wrong")],
    },
    Group {
        pass: &[200, 415],
        pass_closing: &[],
        warn: &[],
        tests: &[("COMP-POST-UNSUPPORTED-CT", "content type \"text/plain\"")],
    },
];
