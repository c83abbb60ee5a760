//! The programs of `fixtures/programs`, each in a fresh process through every dialect that can express it:
//! what comes back is what `python3 main.py` gives.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use crate::support::command::command;
use crate::support::eventually::PATIENCE;
use crate::support::{Program, raw, run_python};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Programs that run at a time.
const AT_A_TIME: usize = 4;

/// Path, whether the fields stand under `properties`, and where a response has its parts.
const DIALECTS: [Dialect; 6] = [
    Dialect::new("/python/execute", Wrapped, ""),
    Dialect::new(
        "/code/execute?api-version=2024-02-02-preview",
        Wrapped,
        "/properties",
    ),
    Dialect::new("/execute?api-version=2024-09-01-preview", Flat, ""),
    Dialect::new(
        "/executions?api-version=2024-10-02-preview",
        Flat,
        "/result",
    ),
    Dialect::new(
        "/executions?api-version=2025-02-02-preview",
        Flat,
        "/result",
    ),
    Dialect::new(
        "/executions?api-version=2025-10-02-preview",
        Flat,
        "/result",
    ),
];

use Form::{Flat, Wrapped};

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Flat,
    Wrapped,
}

#[derive(Clone, Copy)]
struct Dialect {
    path: &'static str,
    form: Form,
    parts: &'static str,
}

impl Dialect {
    const fn new(path: &'static str, form: Form, parts: &'static str) -> Self {
        Self { path, form, parts }
    }
}

/// A program, and what goes in.
struct Fixture {
    name: String,
    code: String,
    stdin: String,
    args: Vec<String>,
}

impl Fixture {
    fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/programs");
        let mut names: Vec<PathBuf> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "py"))
            .collect();
        names.sort();
        let fixtures = names.iter().map(|path| {
            let beside = |ending| std::fs::read_to_string(path.with_extension(ending)).ok();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            Self {
                code: beside("py").unwrap(),
                stdin: beside("in").unwrap_or_default(),
                args: beside("args")
                    .map_or_else(Vec::new, |text| text.lines().map(str::to_owned).collect()),
                name,
            }
        });
        fixtures.collect()
    }

    /// What `python3 main.py` gives in a directory with nothing else in it.
    async fn by_itself(&self, python: &Path) -> Ended {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("main.py"), &self.code).unwrap();
        // As a job has it, whatever this test was started with.
        let mut child = Command::from(command("env"))
            .arg("--default-signal=INT")
            .arg(python)
            .arg("main.py")
            .args(&self.args)
            .current_dir(directory.path())
            .env("TMPDIR", directory.path())
            .env("LANG", "C.UTF-8")
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A program that ends without reading breaks the pipe.
        let _ = stdin.write_all(self.stdin.as_bytes()).await;
        drop(stdin);
        let output = timeout(PATIENCE, child.wait_with_output()).await;
        let output = output.expect("an end").unwrap();
        let mut stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let signal = output.status.signal();
        if let Some(description) = signal.and_then(description) {
            let newline = if stderr.is_empty() || stderr.ends_with('\n') {
                ""
            } else {
                "\n"
            };
            stderr = format!("{stderr}{newline}{description}.\n");
        }
        Ended {
            stdout: without_folders(&String::from_utf8_lossy(&output.stdout)),
            stderr: without_folders(&stderr),
            code: output
                .status
                .code()
                .unwrap_or_else(|| 128 + signal.unwrap()),
        }
    }

    /// What the adapter answers, as `python3 main.py` would have it.
    async fn through(&self, adapter: &Program, dialect: Dialect) -> Ended {
        let mut fields =
            json!({"code": self.code, "timeoutInSeconds": 120, "useEmptyKernel": true});
        fields["stdin"] = json!(self.stdin);
        fields["args"] = json!(self.args);
        let body = match dialect.form {
            Flat => fields,
            Wrapped => json!({"properties": fields}),
        };
        let response = raw::post(adapter.addr, dialect.path, &body.to_string()).await;
        assert_eq!(response.status, 200, "{}", response.text());
        let response = response.json();
        let parts = response.pointer(dialect.parts).unwrap();
        let text = |name: &str| parts[name].as_str().unwrap().to_owned();
        let status = parts.get("status").unwrap_or(&response["status"]);
        let succeeded = match status.as_str().unwrap() {
            "Success" | "Succeeded" => true,
            "Failure" | "Failed" => false,
            other => panic!("{other}"),
        };
        let code = parts.get("exitCode").or(parts.get("returnCode"));
        let code = code.map(|code| i32::try_from(code.as_i64().unwrap()).unwrap());
        assert!(code.is_none_or(|code| succeeded == (code == 0)));
        assert_eq!(parts["executionResult"], "");
        Ended {
            stdout: without_folders(&text("stdout")),
            stderr: without_folders(&text("stderr")),
            code: code.unwrap_or(i32::from(!succeeded)),
        }
    }
}

#[derive(Debug, PartialEq, Clone)]
struct Ended {
    stdout: String,
    stderr: String,
    code: i32,
}

/// What the engine says of a program that this signal ended.
fn description(signal: i32) -> Option<&'static str> {
    match signal {
        libc::SIGABRT => Some("Aborted"),
        libc::SIGKILL => Some("Killed"),
        libc::SIGTERM => Some("Terminated"),
        _ => None,
    }
}

/// The text with every path of the program's own file as its name alone.
fn without_folders(text: &str) -> String {
    let mut parts: Vec<&str> = text.split("main.py").collect();
    let last = parts.pop().unwrap_or_default();
    let mut shortened = String::new();
    for part in parts {
        let folder = part
            .rfind(['"', '\'', ' ', '\n', '('])
            .map_or(0, |at| at + 1);
        let keep = if part[folder..].starts_with('/') {
            folder
        } else {
            part.len()
        };
        shortened += &part[..keep];
        shortened += "main.py";
    }
    shortened + last
}

/// The interpreter that the engine runs programs with.
async fn python(adapter: &Program) -> PathBuf {
    let response = run_python(adapter, "import sys; print(sys.executable, end='')").await;
    PathBuf::from(response["stdout"].as_str().unwrap())
}

#[tokio::test]
async fn a_program_gives_through_every_dialect_what_python3_gives() {
    let places = AT_A_TIME.to_string();
    let adapter = Program::start(&["--max-jobs", &places]).await;
    let python = Arc::new(python(&adapter).await);
    let adapter = Arc::new(adapter);
    let fixtures = Fixture::all();
    assert!(fixtures.len() >= 100);
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let mut tasks = JoinSet::new();
    for fixture in fixtures {
        let (python, adapter, places) = (python.clone(), adapter.clone(), places.clone());
        tasks.spawn(async move {
            let _place = places.acquire().await.unwrap();
            let expected = fixture.by_itself(&python).await;
            let mut differences = Vec::new();
            for dialect in DIALECTS {
                let mut ended = fixture.through(&adapter, dialect).await;
                let mut expected = expected.clone();
                if !dialect.path.starts_with("/python/") {
                    // The others say only whether it succeeded.
                    expected.code = i32::from(expected.code != 0);
                    ended.code = i32::from(ended.code != 0);
                }
                let where_ = format!("{} by {}", fixture.name, dialect.path);
                if ended != expected {
                    differences.push(format!("{where_}:\n{expected:#?}\nis\n{ended:#?}"));
                }
            }
            differences
        });
    }
    let differences = tasks.join_all().await.concat();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test]
async fn output_that_is_no_text_comes_as_base64_beside_it() {
    let program = Program::start(&[]).await;
    let code = "import os\nos.write(1, b'a\\xff\\xfeb')\nos.write(2, b'\\x80')";
    for empty_kernel in [true, false] {
        for dialect in DIALECTS {
            let mut body = match dialect.form {
                Wrapped => json!({"properties": {"code": code, "useEmptyKernel": empty_kernel}}),
                Flat => json!({"code": code, "useEmptyKernel": empty_kernel}),
            };
            let sep = if dialect.path.contains('?') { '&' } else { '?' };
            let path = format!("{}{sep}identifier=test", dialect.path);
            let response = raw::post(program.addr, &path, &body.to_string())
                .await
                .json();
            let parts = response.pointer(dialect.parts).unwrap();
            assert_eq!(parts["stdout"], "a\u{fffd}\u{fffd}b", "{path}: {response}");
            assert_eq!(parts["stdoutBase64"], "Yf/+Yg==", "{path}: {response}");
            assert_eq!(parts["stderrBase64"], "gA==", "{path}: {response}");

            let fields = match dialect.form {
                Wrapped => &mut body["properties"],
                Flat => &mut body,
            };
            fields["code"] = json!("print('a')");
            let response = raw::post(program.addr, &path, &body.to_string())
                .await
                .json();
            let parts = response.pointer(dialect.parts).unwrap();
            assert_eq!(
                parts["stdoutBase64"],
                serde_json::Value::Null,
                "{path}: {response}"
            );
        }
    }
    let body = json!({"code": code, "outputStreamsMaxLength": 2}).to_string();
    let response = raw::post(program.addr, "/python/execute", &body)
        .await
        .json();
    assert_eq!(response["stdoutBase64"], "Yf8=", "{response}");
}
