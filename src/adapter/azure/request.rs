//! Parses the body of an execution request, in any version: flat or under `properties`.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::adapter::azure::dialect::{Dialect, ResponseForm};
use crate::adapter::azure::error::ApiError;
use crate::adapter::azure::query::{self, Query};
use crate::adapter::model::execution::Execution;
use crate::lossy::LossyString;

/// What runs where a shell pool gives a program and its arguments instead of a script.
const EXEC_ARGUMENTS: &str = "exec \"$@\"\n";

/// An execution, and the form in which its client wants the response.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionRequest {
    /// What is to be run.
    pub execution: Execution,
    /// The form of the response.
    pub form: ResponseForm,
    /// Whether a value is text in this version.
    pub value_is_text: bool,
}

/// The fields, not looked into yet. Those that nobody knows are ignored.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct RequestFields<'a> {
    #[serde(borrow)]
    properties: Option<&'a RawValue>,
    #[serde(borrow)]
    identifier: Option<&'a RawValue>,
    #[serde(borrow)]
    language: Option<&'a RawValue>,
    #[serde(borrow)]
    version: Option<&'a RawValue>,
    #[serde(borrow)]
    code_input_type: Option<&'a RawValue>,
    #[serde(borrow)]
    execution_type: Option<&'a RawValue>,
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    python_code: Option<&'a RawValue>,
    #[serde(borrow)]
    shell_command: Option<&'a RawValue>,
    #[serde(borrow)]
    exec_command_and_args: Option<&'a RawValue>,
    #[serde(borrow)]
    shell_type: Option<&'a RawValue>,
    #[serde(borrow)]
    stdin: Option<&'a RawValue>,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
    #[serde(borrow)]
    timeout_in_seconds: Option<&'a RawValue>,
    #[serde(borrow)]
    output_streams_max_length: Option<&'a RawValue>,
    #[serde(borrow)]
    use_empty_kernel: Option<&'a RawValue>,
    #[serde(borrow)]
    return_jupyter_format_execution_result: Option<&'a RawValue>,
}

impl RequestFields<'_> {
    /// These, and what they lack from `others`.
    fn or(self, others: Self) -> Self {
        Self {
            properties: None,
            identifier: self.identifier.or(others.identifier),
            language: self.language.or(others.language),
            version: self.version.or(others.version),
            code_input_type: self.code_input_type.or(others.code_input_type),
            execution_type: self.execution_type.or(others.execution_type),
            code: self.code.or(others.code),
            python_code: self.python_code.or(others.python_code),
            shell_command: self.shell_command.or(others.shell_command),
            exec_command_and_args: self.exec_command_and_args.or(others.exec_command_and_args),
            shell_type: self.shell_type.or(others.shell_type),
            stdin: self.stdin.or(others.stdin),
            args: self.args.or(others.args),
            timeout_in_seconds: self.timeout_in_seconds.or(others.timeout_in_seconds),
            output_streams_max_length: self
                .output_streams_max_length
                .or(others.output_streams_max_length),
            use_empty_kernel: self.use_empty_kernel.or(others.use_empty_kernel),
            return_jupyter_format_execution_result: self
                .return_jupyter_format_execution_result
                .or(others.return_jupyter_format_execution_result),
        }
    }
}

/// Reads the body of an execution request. `shell_type` is the header `X-Shell-Type`, which a client may
/// send in place of the field.
///
/// # Errors
/// An [`ApiError`] that names the field, what it must be, and what it is.
pub fn parse(
    dialect: &Dialect,
    query: Query,
    shell_type: Option<&str>,
    body: &[u8],
) -> Result<ExecutionRequest, ApiError> {
    let text = std::str::from_utf8(body).map_err(|e| {
        ApiError::BodyInvalid(format!("it is not UTF-8 at byte {}", e.valid_up_to()))
    })?;
    let outer = fields(text.trim_start_matches('\u{FEFF}'))?;
    let given = match outer.properties {
        Some(properties) if properties.get().starts_with('{') => {
            fields(properties.get())?.or(outer)
        }
        Some(other) => return Err(wrong("properties", "must be an object", other)),
        None => outer,
    };
    let execution_type = choice("executionType", given.execution_type, &EXECUTION_TYPES)?;
    let use_empty_kernel = flag("useEmptyKernel", given.use_empty_kernel)?;
    let value_is_text = query.value_is_text();
    let identifier = match query.identifier {
        Some(identifier) => Some(identifier),
        None => optional("identifier", given.identifier)?
            .and_then(non_empty)
            .map(|text| query::identifier(&text))
            .transpose()?,
    };
    let version = match query.version {
        Some(version) => Some(version),
        None => optional("version", given.version)?.and_then(non_empty),
    };
    let program = program(dialect, shell_type, &given, value_is_text)?;
    let is_cell = program.is_stateful && !use_empty_kernel && program.args.is_empty();
    let execution = Execution {
        identifier,
        language: short("language", program.language)?,
        version: short("version", version.unwrap_or_else(|| "*".to_owned()))?,
        code: program.code,
        stdin: optional("stdin", given.stdin)?.unwrap_or_default(),
        args: program.args,
        timeout: timeout(given.timeout_in_seconds)?,
        is_asynchronous: execution_type == Some(ASYNCHRONOUS),
        output_streams_max_length: length(
            "outputStreamsMaxLength",
            given.output_streams_max_length,
        )?,
        jupyter_format: flag(
            "returnJupyterFormatExecutionResult",
            given.return_jupyter_format_execution_result,
        )?,
        is_shell: program.is_shell,
        is_cell,
        has_exit_status: program.form.is_shell(),
    };
    Ok(ExecutionRequest {
        execution,
        form: program.form,
        value_is_text,
    })
}

struct ProgramForm {
    language: String,
    code: String,
    args: Vec<String>,
    is_shell: bool,
    /// Whether the dialect's clients expect variables to last.
    is_stateful: bool,
    form: ResponseForm,
}

fn program(
    dialect: &Dialect,
    shell_type: Option<&str>,
    given: &RequestFields<'_>,
    value_is_text: bool,
) -> Result<ProgramForm, ApiError> {
    if let Some(shell) = shell_program(dialect, shell_type, given)? {
        return Ok(shell);
    }
    let code = optional("code", given.code)?;
    let is_custom_code = matches!(dialect, Dialect::Language(_)) && code.is_some();
    let code = match code {
        Some(code) => code,
        None => optional("pythonCode", given.python_code)?.ok_or(ApiError::Missing("code"))?,
    };
    let input_type = choice("codeInputType", given.code_input_type, &CODE_INPUT_TYPES)?;
    let language = match dialect {
        Dialect::Language(language) => language.clone(),
        Dialect::Code => "python".to_owned(),
        Dialect::Execute | Dialect::Executions | Dialect::Shell => {
            optional("language", given.language)?
                .map(|language| language.trim().to_owned())
                .and_then(non_empty)
                .unwrap_or_else(|| "python".to_owned())
        }
    };
    Ok(ProgramForm {
        is_stateful: !is_custom_code && is_python(&language),
        language,
        code: match input_type {
            Some(INLINE_BASE64) => decode_base64(code)?,
            _ => code,
        },
        args: strings("args", given.args)?,
        is_shell: false,
        form: match dialect {
            Dialect::Language(_) | Dialect::Execute => ResponseForm::Language,
            Dialect::Code => ResponseForm::Code,
            Dialect::Executions | Dialect::Shell => ResponseForm::of_resource(false, value_is_text),
        },
    })
}

/// `shellCommand` or `execCommandAndArgs`, where the dialect knows them.
fn shell_program(
    dialect: &Dialect,
    header: Option<&str>,
    given: &RequestFields<'_>,
) -> Result<Option<ProgramForm>, ApiError> {
    let form = match dialect {
        Dialect::Language(_) | Dialect::Code => return Ok(None),
        Dialect::Execute => ResponseForm::Language,
        Dialect::Executions => ResponseForm::Shell,
        Dialect::Shell => ResponseForm::ShellExecute,
    };
    let command = optional("shellCommand", given.shell_command)?;
    let arguments = strings("execCommandAndArgs", given.exec_command_and_args)?;
    if command.is_none() && arguments.is_empty() {
        return match dialect {
            Dialect::Shell => Err(ApiError::Missing("shellCommand")),
            _ => Ok(None),
        };
    }
    let shell = match choice("shellType", given.shell_type, &SHELLS)? {
        Some(shell) => shell,
        None => match header.filter(|given| !given.is_empty()) {
            Some(given) => one_of("X-Shell-Type", given, &SHELLS)?,
            None => BASH,
        },
    };
    let (code, args) = match (command, arguments) {
        (Some(_), arguments) if !arguments.is_empty() => {
            return Err(ApiError::Property {
                field: "shellCommand",
                problem: "cannot be given together with execCommandAndArgs".to_owned(),
            });
        }
        (Some(command), _) if shell == BASH => (command, Vec::new()),
        (Some(command), _) => {
            let arguments = [shell.to_owned(), "-c".to_owned(), command];
            (EXEC_ARGUMENTS.to_owned(), arguments.into())
        }
        (None, arguments) => (EXEC_ARGUMENTS.to_owned(), arguments),
    };
    Ok(Some(ProgramForm {
        language: BASH.to_owned(),
        code,
        args,
        is_shell: true,
        is_stateful: false,
        form,
    }))
}

/// Whether this is one of the names that every engine has for Python.
fn is_python(language: &str) -> bool {
    let names = ["python", "py", "python3", "py3"];
    names.iter().any(|name| name.eq_ignore_ascii_case(language))
}

/// Programs break lines of base64, and leave out what pads its end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const INLINE_BASE64: &str = "InlineBase64";
const BASH: &str = "bash";
const SHELLS: [&str; 2] = [BASH, "sh"];
const ASYNCHRONOUS: &str = "Asynchronous";
const EXECUTION_TYPES: [&str; 2] = ["Synchronous", ASYNCHRONOUS];
const CODE_INPUT_TYPES: [&str; 3] = ["Inline", "InlineText", INLINE_BASE64];
/// No language and no range of versions is longer.
const LONGEST_NAME: usize = 64;

fn fields(text: &str) -> Result<RequestFields<'_>, ApiError> {
    if !text.trim_start().starts_with('{') {
        let given = kind(text.trim_start());
        return Err(ApiError::BodyInvalid(format!("it is {given}")));
    }
    serde_json::from_str(text).map_err(|e| ApiError::BodyInvalid(e.to_string()))
}

/// What a piece of JSON is, for people.
fn kind(json: &str) -> &'static str {
    match json.bytes().next() {
        None => "empty",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(_) => "no JSON",
    }
}

fn wrong(field: &'static str, must: &str, given: &RawValue) -> ApiError {
    ApiError::Property {
        field,
        problem: format!("{must}, not {}", kind(given.get())),
    }
}

fn string(field: &'static str, raw: &RawValue) -> Result<String, ApiError> {
    serde_json::from_str::<LossyString>(raw.get())
        .map(|text| text.0)
        .map_err(|_| wrong(field, "must be a string", raw))
}

/// A string, where one is given; `null` is none.
fn optional(field: &'static str, raw: Option<&RawValue>) -> Result<Option<String>, ApiError> {
    raw.map(|raw| string(field, raw)).transpose()
}

fn strings(field: &'static str, raw: Option<&RawValue>) -> Result<Vec<String>, ApiError> {
    let Some(raw) = raw else {
        return Ok(Vec::new());
    };
    serde_json::from_str::<Vec<LossyString>>(raw.get())
        .map(|texts| texts.into_iter().map(|text| text.0).collect())
        .map_err(|_| ApiError::Property {
            field,
            problem: match kind(raw.get()) {
                "an array" => "must hold strings only".to_owned(),
                other => format!("must be an array of strings, not {other}"),
            },
        })
}

/// Keeps what errors and logs repeat short.
fn short(field: &'static str, text: String) -> Result<String, ApiError> {
    if text.chars().count() <= LONGEST_NAME {
        return Ok(text);
    }
    Err(ApiError::Property {
        field,
        problem: format!("must have at most {LONGEST_NAME} characters"),
    })
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// The word that is given, where it is one of those that are allowed, in any case.
fn choice<'w>(
    field: &'static str,
    raw: Option<&RawValue>,
    allowed: &[&'w str],
) -> Result<Option<&'w str>, ApiError> {
    optional(field, raw)?
        .map(|given| one_of(field, &given, allowed))
        .transpose()
}

fn one_of<'w>(field: &'static str, given: &str, allowed: &[&'w str]) -> Result<&'w str, ApiError> {
    let word = allowed.iter().find(|word| word.eq_ignore_ascii_case(given));
    word.copied().ok_or_else(|| ApiError::Property {
        field,
        problem: format!(
            "must be one of {}, not '{}'",
            allowed.join(", "),
            shortened(given)
        ),
    })
}

/// What an error repeats of a client's own words.
fn shortened(text: &str) -> String {
    text.chars().take(32).collect()
}

/// `true` or `false`; absent is `false`.
fn flag(field: &'static str, raw: Option<&RawValue>) -> Result<bool, ApiError> {
    let Some(raw) = raw else {
        return Ok(false);
    };
    serde_json::from_str(raw.get()).map_err(|_| wrong(field, "must be true or false", raw))
}

/// A number of bytes.
fn length(field: &'static str, raw: Option<&RawValue>) -> Result<Option<usize>, ApiError> {
    let Some(raw) = raw else {
        return Ok(None);
    };
    const MUST: &str = "must be a whole number above 0";
    match serde_json::from_str(raw.get()) {
        Ok(0) => Err(wrong_number(field, MUST, raw)),
        Ok(length) => Ok(Some(length)),
        Err(_) if kind(raw.get()) == "a number" => Err(wrong_number(field, MUST, raw)),
        Err(_) => Err(wrong(field, MUST, raw)),
    }
}

fn wrong_number(field: &'static str, must: &str, given: &RawValue) -> ApiError {
    ApiError::Property {
        field,
        problem: format!("{must}, not {}", shortened(given.get())),
    }
}

fn decode_base64(code: String) -> Result<String, ApiError> {
    let problem = |problem: &str| ApiError::Property {
        field: "code",
        problem: problem.to_owned(),
    };
    let mut code = code.into_bytes();
    code.retain(|byte| !byte.is_ascii_whitespace());
    let bytes = BASE64
        .decode(code)
        .map_err(|_| problem("must be base64, as codeInputType says"))?;
    String::from_utf8(bytes).map_err(|_| problem("must be UTF-8 once decoded"))
}

/// Seconds, fractions too; 0 and less would mean no limit to an engine and are refused.
fn timeout(raw: Option<&RawValue>) -> Result<Option<Duration>, ApiError> {
    let Some(raw) = raw else {
        return Ok(None);
    };
    const FIELD: &str = "timeoutInSeconds";
    const MUST: &str = "must be a number of seconds above 0";
    let seconds: f64 = serde_json::from_str(raw.get()).map_err(|_| wrong(FIELD, MUST, raw))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(timeout) if timeout >= Duration::from_millis(1) => Ok(Some(timeout)),
        Err(_) if seconds > 0.0 => Ok(Some(Duration::MAX)),
        _ => Err(wrong_number(FIELD, MUST, raw)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dialect: &Dialect, body: &str) -> Result<Execution, ApiError> {
        read_request(dialect, body).map(|request| request.execution)
    }

    fn read_request(dialect: &Dialect, body: &str) -> Result<ExecutionRequest, ApiError> {
        parse(dialect, Query::default(), None, body.as_bytes())
    }

    fn python() -> Dialect {
        Dialect::Language("python".to_owned())
    }

    #[test]
    fn fields_are_found_flat_and_under_properties_which_win() {
        for body in [
            r#"{"code":"1","stdin":"a","args":["x"],"timeoutInSeconds":2}"#,
            r#"{"properties":{"code":"1","stdin":"a","args":["x"],"timeoutInSeconds":2}}"#,
            r#"{"code":"0","stdin":"a","properties":{"code":"1","args":["x"],"timeoutInSeconds":2}}"#,
            r#"{"pythonCode":"1","stdin":"a","args":["x"],"timeoutInSeconds":2.0,"other":{}}"#,
        ] {
            let execution = read(&python(), body).unwrap();
            assert_eq!(execution.code, "1");
            assert_eq!(execution.stdin, "a");
            assert_eq!(execution.args, ["x"]);
            assert_eq!(execution.timeout, Some(Duration::from_secs(2)));
            assert_eq!(
                (execution.language.as_str(), execution.version.as_str()),
                ("python", "*")
            );
        }
    }

    #[test]
    fn enum_values_may_be_in_any_case() {
        let body =
            r#"{"codeInputType":"inlineBASE64","executionType":"SYNCHRONOUS","code":"MQ=="}"#;
        assert_eq!(read(&Dialect::Executions, body).unwrap().code, "1");
        let broken = r#"{"codeInputType":"InlineBase64","code":"cHJp\nbnQo\r\nMSk"}"#;
        assert_eq!(read(&Dialect::Executions, broken).unwrap().code, "print(1)");
    }

    #[test]
    fn what_the_newest_version_adds_is_read() {
        let body = r#"{"code":"1","executionType":"asynchronous","outputStreamsMaxLength":4096,
            "useEmptyKernel":true,"returnJupyterFormatExecutionResult":true}"#;
        let execution = read(&Dialect::Executions, body).unwrap();
        assert!(execution.is_asynchronous && execution.jupyter_format);
        assert_eq!(execution.output_streams_max_length, Some(4096));
        let plain = read(&Dialect::Executions, r#"{"code":"1"}"#).unwrap();
        assert!(!plain.is_asynchronous && !plain.jupyter_format);
        assert_eq!(plain.output_streams_max_length, None);
    }

    #[test]
    fn shell_commands_run_bash_where_the_dialect_knows_them() {
        let command = r#"{"shellCommand":"ls","stdin":"x"}"#;
        let request = read_request(&Dialect::Executions, command).unwrap();
        assert_eq!(
            (request.execution.language.as_str(), request.form),
            ("bash", ResponseForm::Shell)
        );
        assert_eq!(
            read_request(&Dialect::Execute, command).unwrap().form,
            ResponseForm::Language
        );
        let program = read(&Dialect::Shell, r#"{"execCommandAndArgs":["ls","-a"]}"#).unwrap();
        assert_eq!(program.code, "exec \"$@\"\n");
        assert_eq!(program.args, ["ls", "-a"]);
        assert!(matches!(
            read(&Dialect::Shell, "{}"),
            Err(ApiError::Missing("shellCommand"))
        ));
        assert!(matches!(
            read(&python(), command),
            Err(ApiError::Missing("code"))
        ));
    }

    #[test]
    fn an_error_names_the_field_what_it_must_be_and_what_it_is() {
        for (body, message) in [
            (r#"{"code":5}"#, "code must be a string, not a number."),
            (r#"{"code":null}"#, "code is required."),
            (
                r#"{"properties":[]}"#,
                "properties must be an object, not an array.",
            ),
            (
                r#"{"code":"","args":"x"}"#,
                "args must be an array of strings, not a string.",
            ),
            (r#"{"code":"","args":[1]}"#, "args must hold strings only."),
            (
                r#"{"code":"","timeoutInSeconds":0}"#,
                "timeoutInSeconds must be a number of seconds above 0, not 0.",
            ),
            (
                r#"{"code":"","timeoutInSeconds":"9"}"#,
                "timeoutInSeconds must be a number of seconds above 0, not a string.",
            ),
            (
                r#"{"code":"","codeInputType":"file"}"#,
                "codeInputType must be one of Inline, InlineText, InlineBase64, not 'file'.",
            ),
            (
                r#"{"code":"%","codeInputType":"InlineBase64"}"#,
                "code must be base64, as codeInputType says.",
            ),
            (
                r#"{"code":"","outputStreamsMaxLength":-1}"#,
                "outputStreamsMaxLength must be a whole number above 0, not -1.",
            ),
            (
                r#"{"code":"","useEmptyKernel":"yes"}"#,
                "useEmptyKernel must be true or false, not a string.",
            ),
            (
                r#"{"code":"","executionType":"later"}"#,
                "executionType must be one of Synchronous, Asynchronous, not 'later'.",
            ),
            ("", "The body must be a JSON object: it is empty."),
            ("[]", "The body must be a JSON object: it is an array."),
        ] {
            assert_eq!(read(&python(), body).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn deep_duplicate_and_half_json_is_refused_and_never_overflows() {
        let deep = format!(
            r#"{{"code":"1","x":{}{}}}"#,
            "[".repeat(20_000),
            "]".repeat(20_000)
        );
        assert_eq!(read(&python(), &deep).unwrap().code, "1");
        let code = format!(r#"{{"code":{}{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
        assert!(matches!(
            read(&python(), &code),
            Err(ApiError::Property { .. })
        ));
        for body in [
            r#"{"code":"1","code":"2"}"#,
            r#"{"code":"1""#,
            "{\"code\":\"\u{0}\"}",
        ] {
            assert!(read(&python(), body).is_err(), "{body}");
        }
        assert!(parse(&python(), Query::default(), None, b"{\"code\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_byte_order_mark_and_empty_names_are_no_reason_to_refuse() {
        let body = "\u{FEFF}{\"code\":\"1\",\"identifier\":\"\",\"version\":\"\"}";
        let execution = read(&python(), body).unwrap();
        assert_eq!(
            (execution.identifier, execution.version.as_str()),
            (None, "*")
        );
        let named = read(&Dialect::Execute, r#"{"code":"1","language":" C++ "}"#).unwrap();
        assert_eq!(named.language, "C++");
    }

    #[test]
    fn a_long_name_is_not_repeated() {
        let body = format!(r#"{{"code":"1","language":"{}"}}"#, "x".repeat(3_000_000));
        let error = read(&Dialect::Execute, &body).unwrap_err().to_string();
        assert_eq!(error, "language must have at most 64 characters.");
    }

    #[test]
    fn a_choice_may_be_written_with_escapes() {
        let body = r#"{"code":"MQ==","codeInputType":"Inline\u0042ase64"}"#;
        assert_eq!(read(&python(), body).unwrap().code, "1");
    }

    #[test]
    fn a_huge_time_limit_is_kept_to_be_clamped() {
        let body = r#"{"code":"","timeoutInSeconds":1e300}"#;
        assert_eq!(read(&python(), body).unwrap().timeout, Some(Duration::MAX));
        assert!(read(&python(), r#"{"code":"","timeoutInSeconds":1e999}"#).is_err());
    }

    #[test]
    fn half_a_surrogate_pair_in_code_is_replaced_as_piston_does() {
        assert_eq!(
            read(&python(), r#"{"code":"'\ud83d'"}"#).unwrap().code,
            "'\u{FFFD}'"
        );
    }
}
