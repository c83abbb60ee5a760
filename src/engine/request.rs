//! Parses the body of `POST /api/v2/execute`.
//!
//! Checks are made in Piston's order and reported with Piston's messages, as recorded. The result is a
//! [`Submission`], which needs no further checks. Nothing here touches files or processes.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use super::json::{Json, Members, ValueKind, number_text};
use crate::piston::{User, WorkingDirectory};

/// Limits on a file's path, and on each name in it, in bytes.
const MAX_PATH: usize = 1024;
const MAX_NAME: usize = 255;

/// Why a request is refused: the `message` of the response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct RequestError(pub(super) String);

/// A request with the required members, for which the runtime is not yet chosen.
#[derive(Debug)]
pub(super) struct JobRequest<'a> {
    pub(super) language: String,
    /// Semver range.
    pub(super) version: String,
    files: Vec<Members<'a>>,
    body: Members<'a>,
}

/// A request that can be run.
#[derive(Debug, PartialEq)]
pub(super) struct Submission {
    /// All files, in the request's order.
    pub(super) files: Vec<SourceFile>,
    /// Always ends with a newline.
    pub(super) stdin: Vec<u8>,
    pub(super) args: Vec<String>,
    pub(super) compile: Bounds,
    pub(super) run: Bounds,
    /// Where the run stage starts, if not in the job's directory.
    pub(super) working_directory: Option<WorkingDirectory>,
    /// As whom it runs, if the request says so.
    pub(super) user: Option<User>,
    /// Whether a time limit may interrupt it before it is killed.
    pub(super) interrupt: bool,
}

/// One file of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceFile {
    /// The name in the request, or `fileN.code`.
    pub(super) name: String,
    /// Whether the request names it.
    pub(super) is_named: bool,
    /// The decoded bytes.
    pub(super) content: Vec<u8>,
    /// Whether it counts as source code. Files in base64 or hex do not.
    pub(super) is_text: bool,
}

/// The limits of one stage that a request can set.
/// Longest name of a kernel in bytes: that of an identifier of Azure's.
const MAX_KERNEL_NAME: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bounds {
    /// Wall-clock time in milliseconds.
    pub(super) wall_ms: f64,
    /// CPU time in milliseconds.
    pub(super) cpu_ms: f64,
    /// Memory in bytes.
    pub(super) memory: f64,
}

fn refuse<T>(message: impl Into<String>) -> Result<T, RequestError> {
    Err(RequestError(message.into()))
}

impl<'a> JobRequest<'a> {
    /// Parses the required members. `None` is a body that Piston would not have read as JSON.
    ///
    /// # Errors
    /// The first member that is missing or of the wrong type.
    pub(super) fn read(body: Option<&'a str>) -> Result<Self, RequestError> {
        let body = match body {
            Some(text) if !text.is_empty() => read_body(text)?,
            _ => Members::default(),
        };
        let required = |name: &str| match body.get(name).and_then(Json::string) {
            Some(text) if !text.is_empty() => Ok(text),
            _ => refuse(format!("{name} is required as a string")),
        };
        let language = required("language")?;
        let version = required("version")?;
        let Some(elements) = body.get("files").and_then(Json::elements) else {
            return refuse("files is required as an array");
        };
        let mut files = Vec::with_capacity(elements.len());
        for (i, element) in elements.into_iter().enumerate() {
            let members = element.members().unwrap_or_default();
            if members.get("content").map(Json::kind) != Some(ValueKind::String) {
                return refuse(format!("files[{i}].content is required as a string"));
            }
            files.push(members);
        }
        Ok(Self {
            language,
            version,
            files,
            body,
        })
    }

    /// Parses the other members, which Piston does only once the runtime has been chosen. `compile` and
    /// `run` are the highest bounds, which also apply if the request sets none.
    ///
    /// # Errors
    /// The first member that is wrong, with Piston's message if it has one.
    pub(super) fn submission(
        &self,
        compile: Bounds,
        run: Bounds,
    ) -> Result<Submission, RequestError> {
        let counts_as_text = |file: &Members<'_>| match file.get("encoding") {
            Some(encoding) if encoding.is_truthy() => encoding.string().as_deref() == Some("utf8"),
            _ => true,
        };
        if !self.files.iter().any(counts_as_text) {
            return refuse("files must include at least one utf8 encoded file");
        }
        let mut bounds = (compile, run);
        for (name, place, none_below_zero) in [
            ("compile_memory_limit", &mut bounds.0.memory, true),
            ("run_memory_limit", &mut bounds.1.memory, true),
            ("compile_timeout", &mut bounds.0.wall_ms, false),
            ("run_timeout", &mut bounds.1.wall_ms, false),
            ("compile_cpu_time", &mut bounds.0.cpu_ms, false),
            ("run_cpu_time", &mut bounds.1.cpu_ms, false),
        ] {
            if let Some(asked) = self.bound(name, *place, none_below_zero)? {
                *place = asked;
            }
        }
        let files = self
            .files
            .iter()
            .enumerate()
            .map(|(i, file)| source_file(i, file))
            .collect::<Result<_, _>>()?;
        Ok(Submission {
            files,
            stdin: self.stdin()?,
            args: self.args()?,
            compile: bounds.0,
            run: bounds.1,
            working_directory: self.working_directory()?,
            user: self.user()?,
            interrupt: self.flag("interrupt")?,
        })
    }

    /// A bound that the request sets. Values below one unit, including 0, do not count as set: Piston
    /// would lift the limit.
    fn bound(
        &self,
        name: &str,
        highest: f64,
        none_below_zero: bool,
    ) -> Result<Option<f64>, RequestError> {
        let Some(value) = self.body.get(name).filter(|value| value.is_truthy()) else {
            return Ok(None);
        };
        let Some(number) = value.number() else {
            return refuse(format!("If specified, {name} must be a number"));
        };
        if number > highest {
            let highest = number_text(highest);
            return refuse(format!(
                "{name} cannot exceed the configured limit of {highest}"
            ));
        }
        if number < 0.0 && !none_below_zero {
            return refuse(format!("{name} must be non-negative"));
        }
        Ok((number >= 1.0).then_some(number))
    }

    fn stdin(&self) -> Result<Vec<u8>, RequestError> {
        let mut text = match self.body.get("stdin") {
            None => String::new(),
            Some(value) => match value.kind() {
                ValueKind::Null => String::new(),
                ValueKind::String => value.string().unwrap_or_default(),
                _ => return refuse("If specified, stdin must be a string"),
            },
        };
        if !text.ends_with('\n') && !self.flag("raw_stdin")? {
            text.push('\n');
        }
        Ok(text.into_bytes())
    }

    /// An extension to Piston's API: see [`ExecuteRequest`](crate::piston::ExecuteRequest).
    pub(super) fn flag(&self, name: &str) -> Result<bool, RequestError> {
        let Some(value) = self.body.get(name) else {
            return Ok(false);
        };
        match value.kind() {
            ValueKind::Null | ValueKind::Bool => Ok(value.is_truthy()),
            _ => refuse(format!("If specified, {name} must be a boolean")),
        }
    }

    /// An extension to Piston's API: the name of the kernel in which the code runs, see
    /// [`kernel`](super::kernel).
    ///
    /// # Errors
    /// If it is no string, or too long.
    pub(super) fn kernel(&self) -> Result<Option<String>, RequestError> {
        let Some(value) = self.body.get("kernel") else {
            return Ok(None);
        };
        match (value.kind(), value.string()) {
            (ValueKind::Null, _) => Ok(None),
            (_, Some(name)) if name.len() <= MAX_KERNEL_NAME => Ok(Some(name)),
            _ => refuse(format!(
                "If specified, kernel must be a string of at most {MAX_KERNEL_NAME} bytes"
            )),
        }
    }

    /// An extension to Piston's API.
    fn working_directory(&self) -> Result<Option<WorkingDirectory>, RequestError> {
        let Some(value) = self.body.get("working_directory") else {
            return Ok(None);
        };
        match (value.kind(), value.string().as_deref()) {
            (ValueKind::Null, _) => Ok(None),
            (_, Some("data")) => Ok(Some(WorkingDirectory::Data)),
            _ => refuse("If specified, working_directory must be \"data\""),
        }
    }

    /// An extension to Piston's API.
    fn user(&self) -> Result<Option<User>, RequestError> {
        let Some(value) = self.body.get("user") else {
            return Ok(None);
        };
        match (value.kind(), value.string().as_deref()) {
            (ValueKind::Null, _) => Ok(None),
            (_, Some("session")) => Ok(Some(User::Session)),
            (_, Some("own")) => Ok(Some(User::Own)),
            _ => refuse("If specified, user must be \"session\" or \"own\""),
        }
    }

    fn args(&self) -> Result<Vec<String>, RequestError> {
        let args: Vec<String> = match self.body.get("args") {
            None => Vec::new(),
            Some(value) => match value.kind() {
                ValueKind::Null => Vec::new(),
                // JavaScript spreads a string into its characters.
                ValueKind::String => value
                    .string()
                    .unwrap_or_default()
                    .chars()
                    .map(String::from)
                    .collect(),
                ValueKind::Array => value
                    .elements()
                    .unwrap_or_default()
                    .into_iter()
                    .map(Json::to_js_string)
                    .collect(),
                _ => return refuse("If specified, args must be an array"),
            },
        };
        // As in Piston, an argument ends at its first NUL.
        Ok(args
            .into_iter()
            .map(|arg| arg.split('\0').next().unwrap_or_default().to_owned())
            .collect())
    }
}

fn read_body(text: &str) -> Result<Members<'_>, RequestError> {
    let json = match Json::parse(text) {
        Ok(json) => json,
        Err(error) => return refuse(format!("the request body is not valid JSON: {error}")),
    };
    match json.kind() {
        ValueKind::Object => Ok(json.members().unwrap_or_default()),
        // To JavaScript an array is an object, which lacks the required members.
        ValueKind::Array => Ok(Members::default()),
        _ => refuse("the request body is not a JSON object"),
    }
}

fn source_file(i: usize, file: &Members<'_>) -> Result<SourceFile, RequestError> {
    let given = file.get("name").filter(|name| name.is_truthy());
    let name = match given {
        None => format!("file{i}.code"),
        Some(name) => match name.string() {
            Some(name) => checked_name(i, name)?,
            None => return refuse(format!("If specified, files[{i}].name must be a string")),
        },
    };
    let content = file
        .get("content")
        .and_then(Json::string)
        .unwrap_or_default();
    let encoding = file.get("encoding").and_then(Json::string);
    let (content, is_text) = match encoding.as_deref() {
        Some("base64") => (from_base64(&content), false),
        Some("hex") => (from_hex(&content), false),
        _ => (content.into_bytes(), true),
    };
    Ok(SourceFile {
        name,
        is_named: given.is_some(),
        content,
        is_text,
    })
}

/// Checks that a file's path stays in the job's directory and can be created.
fn checked_name(i: usize, name: String) -> Result<String, RequestError> {
    let problem = if name.contains('\0') {
        "must not contain a NUL"
    } else if name.starts_with('/') {
        "must be relative"
    } else if name.len() > MAX_PATH || name.split('/').any(|part| part.len() > MAX_NAME) {
        "is too long"
    } else if name.ends_with('/') {
        "must name a file"
    } else {
        match plain_path(&name) {
            Some(path) if !path.is_empty() => return Ok(name),
            Some(_) => "must name a file",
            None => "must stay in the job's directory",
        }
    };
    refuse(format!("files[{i}].name {problem}"))
}

/// Normalizes a relative path: no `.`, `..` or empty components. `None` if it leads out of its
/// directory.
pub(super) fn plain_path(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Decodes base64 as Node does: both alphabets are accepted, and other characters are skipped.
fn from_base64(text: &str) -> Vec<u8> {
    const DECODER: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    let mut clean: Vec<u8> = text
        .bytes()
        .take_while(|byte| *byte != b'=')
        .filter_map(|byte| match byte {
            b'-' => Some(b'+'),
            b'_' => Some(b'/'),
            byte if byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/' => Some(byte),
            _ => None,
        })
        .collect();
    // A single digit does not make a byte.
    if clean.len() % 4 == 1 {
        clean.pop();
    }
    DECODER.decode(clean).unwrap_or_default()
}

/// Decodes hex as Node does: up to the first pair that is not hex.
fn from_hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks_exact(2)
        .map_while(|pair| match pair {
            [high, low] => {
                let digit = |byte: &u8| (*byte as char).to_digit(16);
                u8::try_from(digit(high)? * 16 + digit(low)?).ok()
            }
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIGHEST: Bounds = Bounds {
        wall_ms: 3000.0,
        cpu_ms: 3000.0,
        memory: 1e9,
    };

    fn read(body: &str) -> Result<Submission, String> {
        JobRequest::read(Some(body))
            .and_then(|request| request.submission(HIGHEST, HIGHEST))
            .map_err(|refusal| refusal.0)
    }

    fn with(rest: &str) -> Result<Submission, String> {
        read(&format!(
            r#"{{"language":"python","version":"*","files":[{{"content":"x"}}]{rest}}}"#
        ))
    }

    fn named(name: &str) -> Result<Submission, String> {
        let name = serde_json::to_string(name).unwrap();
        read(&format!(
            r#"{{"language":"python","version":"*","files":[{{"name":{name},"content":"x"}}]}}"#
        ))
    }

    #[test]
    fn what_is_missing_is_named_in_pistons_order() {
        for (body, message) in [
            ("", "language is required as a string"),
            ("[]", "language is required as a string"),
            (r#"{"language":5}"#, "language is required as a string"),
            (r#"{"language":"x"}"#, "version is required as a string"),
            (
                r#"{"language":"x","version":"*","files":{}}"#,
                "files is required as an array",
            ),
            (
                r#"{"language":"x","version":"*","files":[{"content":"a"},{"content":5}]}"#,
                "files[1].content is required as a string",
            ),
            (
                r#"{"language":"x","version":"*","files":[]}"#,
                "files must include at least one utf8 encoded file",
            ),
        ] {
            assert_eq!(read(body).unwrap_err(), message, "{body}");
        }
    }

    #[test]
    fn bounds_are_judged_as_piston_does_but_zero_is_no_way_out() {
        for (rest, message) in [
            (
                r#","run_timeout":3001"#,
                "run_timeout cannot exceed the configured limit of 3000",
            ),
            (r#","run_timeout":-5"#, "run_timeout must be non-negative"),
            (
                r#","compile_cpu_time":"1""#,
                "If specified, compile_cpu_time must be a number",
            ),
            (
                r#","run_memory_limit":"64m""#,
                "If specified, run_memory_limit must be a number",
            ),
            (
                r#","run_timeout":"x","compile_timeout":-1"#,
                "compile_timeout must be non-negative",
            ),
        ] {
            assert_eq!(with(rest).unwrap_err(), message, "{rest}");
        }
        for rest in ["0", "0.5", "null", "false", r#""""#] {
            let asked = with(&format!(r#","run_timeout":{rest}"#)).unwrap();
            assert_eq!(asked.run.wall_ms, 3000.0, "{rest}");
        }
        assert_eq!(
            with(r#","run_timeout":1500.5"#).unwrap().run.wall_ms,
            1500.5
        );
        assert_eq!(with(r#","run_memory_limit":-5"#).unwrap().run.memory, 1e9);
    }

    #[test]
    fn names_that_lead_out_or_cannot_be_are_refused() {
        for (name, problem) in [
            ("../x.py", "must stay in the job's directory"),
            ("a/../../x", "must stay in the job's directory"),
            ("/etc/passwd", "must be relative"),
            (".", "must name a file"),
            ("a/", "must name a file"),
            ("a\0b", "must not contain a NUL"),
        ] {
            assert_eq!(named(name).unwrap_err(), format!("files[0].name {problem}"));
        }
        assert_eq!(
            named(&"a".repeat(256)).unwrap_err(),
            "files[0].name is too long"
        );
        for name in ["a/../b.py", "./x", "..x", "my fïle 😀.py"] {
            assert_eq!(named(name).unwrap().files[0].name, name);
        }
        assert_eq!(named("").unwrap().files[0].name, "file0.code");
    }

    #[test]
    fn stdin_ends_with_a_newline() {
        assert_eq!(with("").unwrap().stdin, b"\n");
        assert_eq!(with(r#","stdin":"a""#).unwrap().stdin, b"a\n");
        assert_eq!(with(r#","stdin":"a\n""#).unwrap().stdin, b"a\n");
        assert!(with(r#","stdin":5"#).is_err());
    }

    #[test]
    fn raw_stdin_is_given_as_it_is() {
        assert_eq!(with(r#","raw_stdin":true"#).unwrap().stdin, b"");
        assert_eq!(
            with(r#","stdin":"a","raw_stdin":true"#).unwrap().stdin,
            b"a"
        );
        assert_eq!(
            with(r#","stdin":"a","raw_stdin":false"#).unwrap().stdin,
            b"a\n"
        );
        assert!(with(r#","raw_stdin":"yes""#).is_err());
    }

    #[test]
    fn arguments_are_read_as_javascript_spreads_them() {
        assert_eq!(
            with(r#","args":"ab c""#).unwrap().args,
            ["a", "b", " ", "c"]
        );
        assert_eq!(
            with(r#","args":["a\u0000b",1,null]"#).unwrap().args,
            ["a", "1", "null"]
        );
        assert!(with(r#","args":5"#).is_err());
    }

    #[test]
    fn the_working_directory_is_the_jobs_or_the_data_directory() {
        assert_eq!(with("").unwrap().working_directory, None);
        let asked = with(r#","working_directory":"data""#).unwrap();
        assert_eq!(asked.working_directory, Some(WorkingDirectory::Data));
        let null = with(r#","working_directory":null"#).unwrap();
        assert_eq!(null.working_directory, None);
        for other in [
            r#""job""#,
            r#""Data""#,
            r#""/mnt/data""#,
            r#""""#,
            "5",
            "{}",
        ] {
            assert_eq!(
                with(&format!(r#","working_directory":{other}"#)).unwrap_err(),
                r#"If specified, working_directory must be "data""#,
            );
        }
    }

    #[test]
    fn encodings_are_read_as_node_does() {
        assert_eq!(from_base64("AP8Q"), [0, 255, 16]);
        assert_eq!(from_base64("aG\nVs bG8="), b"hello");
        assert_eq!(from_base64("_-8"), [255, 239]);
        assert_eq!(from_hex("00ff20"), [0, 255, 32]);
        assert_eq!(from_hex("4zz0"), b"");
        assert_eq!(from_hex("414"), b"A");
    }
}
