//! The JSON of `POST /api/v2/execute` and `GET /api/v2/runtimes`, as recorded from Piston 3.1.1.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer, Serialize};

use super::kernel::{KernelReport, KernelsStatus};
use super::signal::Signal;

/// The body of `POST /api/v2/execute`.
///
/// Times are milliseconds and memory is bytes. A limit that is absent is the engine's own.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ExecuteRequest {
    /// A language or an alias that `GET /api/v2/runtimes` lists.
    pub language: String,
    /// A semver range, as npm writes them; `*` is any version.
    pub version: String,
    /// The first file is the one that is run.
    pub files: Vec<File>,
    /// Standard input. Piston adds a newline where the last one is missing, see `raw_stdin`.
    pub stdin: String,
    /// Whether the program gets `stdin` exactly as it is: an extension that the embedded engine knows and
    /// Piston ignores.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub raw_stdin: bool,
    /// The program's arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Wall-clock limit of the run stage in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_timeout: Option<u64>,
    /// Memory limit of the run stage in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_memory_limit: Option<u64>,
    /// Where the program starts, if not in the job's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<WorkingDirectory>,
    /// As whom the program runs. If absent, as the session's user unless another program does so meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// Whether a program that reaches a time limit gets SIGINT and half a second before it is killed, if its
    /// language prints then what it has buffered. An extension that the embedded engine knows and Piston ignores.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub interrupt: bool,
    /// The kernel in which the code runs as a cell, where the engine has one for it; else it runs in a
    /// fresh process. An extension that the embedded engine knows and Piston ignores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
}

/// Where the program of the run stage starts, where that is not the job's directory.
///
/// The member `working_directory` of a request, an extension that the embedded engine knows; Piston
/// ignores it. The compile stage always starts in the job's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkingDirectory {
    /// The session's data directory.
    Data,
}

/// As whom a program runs, where jobs have users of their own.
///
/// The member `user` of a request, an extension that the embedded engine knows; Piston ignores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum User {
    /// The user who owns the session's files, whatever else runs as that user meanwhile.
    Session,
    /// A user of its own.
    Own,
}

/// One source file of an [`ExecuteRequest`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct File {
    /// Path below the job's directory.
    pub name: String,
    /// The text of the file, or its bytes in the encoding.
    pub content: String,
    /// Piston's `utf8` where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
}

/// How the bytes of a [`File`] are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// RFC 4648, section 4.
    Base64,
}

impl File {
    /// A source file.
    pub fn text(name: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            content: content.into(),
            encoding: None,
        }
    }

    /// A file that a program reads.
    pub fn bytes(name: impl Into<String>, bytes: &[u8]) -> Self {
        Self {
            name: name.into(),
            content: BASE64_STANDARD.encode(bytes),
            encoding: Some(Encoding::Base64),
        }
    }
}

/// The 200 response of `POST /api/v2/execute`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecuteResponse {
    /// The compile stage, where the language has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile: Option<Stage>,
    /// The run stage. After a compile error Piston repeats the compile stage here.
    pub run: Stage,
    /// The language's own name, whatever alias was asked for.
    pub language: String,
    /// The version that ran.
    pub version: String,
    /// What became of the kernel, if the code ran in one. An extension of the embedded engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelReport>,
}

/// What became of one stage.
///
/// The order of the fields is Piston's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Name of the signal that ended the stage, `SIGKILL` for each of Piston's limits.
    pub signal: Option<String>,
    /// Standard output.
    #[serde(default)]
    pub stdout: String,
    /// Standard error.
    #[serde(default)]
    pub stderr: String,
    /// Exit code, absent where `signal` is set.
    pub code: Option<i32>,
    /// Both streams in the order in which they arrived.
    #[serde(default)]
    pub output: String,
    /// Peak memory in bytes.
    #[serde(default, serialize_with = "plain_number")]
    pub memory: Option<f64>,
    /// The outcome in words.
    #[serde(default)]
    pub message: Option<String>,
    /// The outcome as a code; absent after success.
    #[serde(default)]
    pub status: Option<Status>,
    /// CPU time of the stage in milliseconds.
    #[serde(default, serialize_with = "plain_number")]
    pub cpu_time: Option<f64>,
    /// Wall-clock time of the stage in milliseconds.
    #[serde(default, serialize_with = "plain_number")]
    pub wall_time: Option<f64>,
    /// What ended the stage. An extension of the embedded engine, which knows it for certain; real
    /// Piston does not send it, and its clients ignore it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "known_verdict"
    )]
    pub outcome: Option<Verdict>,
    /// The bytes of standard output in base64 (RFC 4648, section 4), if they are not UTF-8. An extension of the
    /// embedded engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_base64: Option<String>,
    /// The same of standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_base64: Option<String>,
}

/// What ended a stage, or a whole execution: the member `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The program ended with exit code 0.
    Success,
    /// The program ended with another exit code, which is not that of a signal.
    Failure,
    /// The compile stage failed, so that the program did not run. Said of an execution, not of a stage.
    CompileError,
    /// A signal killed the program, or it ended with the exit code that a shell gives for one.
    Signal,
    /// The wall-clock limit.
    TimeLimit,
    /// The limit on CPU time.
    CpuLimit,
    /// The memory limit.
    MemoryLimit,
    /// The limit on standard output or standard error.
    OutputLimit,
    /// A limit on the bytes or the number of files.
    DiskLimit,
}

impl Verdict {
    const ALL: [Self; 9] = [
        Self::Success,
        Self::Failure,
        Self::CompileError,
        Self::Signal,
        Self::TimeLimit,
        Self::CpuLimit,
        Self::MemoryLimit,
        Self::OutputLimit,
        Self::DiskLimit,
    ];

    /// The verdict on a program that ended by itself: 128 + n is what a shell makes of signal n.
    pub fn of_exit_code(code: i32) -> Self {
        match code {
            0 => Self::Success,
            code if Signal::of_number(code.saturating_sub(128)).is_some() => Self::Signal,
            _ => Self::Failure,
        }
    }

    /// The word, as JSON and the log have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::CompileError => "compile_error",
            Self::Signal => "signal",
            Self::TimeLimit => "time_limit",
            Self::CpuLimit => "cpu_limit",
            Self::MemoryLimit => "memory_limit",
            Self::OutputLimit => "output_limit",
            Self::DiskLimit => "disk_limit",
        }
    }

    /// Which limit ended it, in one word for the metrics.
    pub fn limit(self) -> Option<&'static str> {
        match self {
            Self::TimeLimit => Some("time"),
            Self::CpuLimit => Some("cpu"),
            Self::MemoryLimit => Some("memory"),
            Self::OutputLimit => Some("output"),
            Self::DiskLimit => Some("disk"),
            Self::Success | Self::Failure | Self::CompileError | Self::Signal => None,
        }
    }
}

/// A word of a newer engine is as good as none: the other members tell enough.
fn known_verdict<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Verdict>, D::Error> {
    let word = Option::<String>::deserialize(deserializer)?;
    let known = |word: String| Verdict::ALL.into_iter().find(|one| one.as_str() == word);
    Ok(word.and_then(known))
}

/// One entry of `GET /api/v2/packages`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstalledPackage {
    /// The package: the runtime that several languages may share, such as `gcc`, else the language.
    pub language: String,
    /// Its version.
    pub language_version: String,
    /// Always true here. Piston also lists what it could install.
    pub installed: bool,
}

impl InstalledPackage {
    /// The packages behind these runtimes, each once.
    pub fn of_runtimes(runtimes: &[Runtime]) -> Vec<Self> {
        let mut packages: Vec<Self> = Vec::new();
        for runtime in runtimes {
            let package = Self {
                language: runtime
                    .runtime
                    .clone()
                    .unwrap_or_else(|| runtime.language.clone()),
                language_version: runtime.version.clone(),
                installed: true,
            };
            if !packages.contains(&package) {
                packages.push(package);
            }
        }
        packages
    }
}

/// Piston's two-letter outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// The program ended with an exit code other than 0.
    #[serde(rename = "RE")]
    RuntimeError,
    /// A signal killed the sandboxed process.
    #[serde(rename = "SG")]
    Signal,
    /// The wall-clock or the CPU limit was reached.
    #[serde(rename = "TO")]
    Timeout,
    /// Standard output was longer than the limit.
    #[serde(rename = "OL")]
    StdoutLimit,
    /// Standard error was longer than the limit.
    #[serde(rename = "EL")]
    StderrLimit,
    /// The sandbox itself failed.
    #[serde(rename = "XX")]
    SandboxError,
    /// A code that this program does not know.
    #[serde(other)]
    Unknown,
}

/// One entry of `GET /api/v2/runtimes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// The language's own name.
    pub language: String,
    /// A full semver version.
    pub version: String,
    /// Other names for the language.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What runs it, where one runtime serves several languages (`gcc`, `node`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
}

/// What the embedded engine says of itself under `GET /`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct EngineAbout {
    /// What contains its jobs.
    #[serde(default)]
    pub sandbox: Option<serde_json::Value>,
    /// Its jobs.
    #[serde(default)]
    pub jobs: Option<Jobs>,
    /// Its kernels.
    #[serde(default)]
    pub kernels: Option<KernelsStatus>,
}

/// How many jobs an engine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobs {
    /// Those with a process that may still be there.
    pub running: usize,
    /// Those that wait for a place.
    pub waiting: usize,
}

/// The body of Piston's errors: `{"message": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// What went wrong, in Piston's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Writes a whole number without a point, as Piston does: readers with integer types depend on it.
fn plain_number<S: serde::Serializer>(
    number: &Option<f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match number {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the number is whole and below 2^53"
        )]
        Some(n) if n.fract() == 0.0 && n.abs() < 9e15 => serializer.serialize_i64(*n as i64),
        other => other.serialize(serializer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_read_as_it_is_written_and_one_that_is_not_known_is_none() {
        for verdict in Verdict::ALL {
            let json = serde_json::to_string(&Stage {
                outcome: Some(verdict),
                ..Stage::default()
            });
            let json = json.unwrap();
            let word = format!(r#""outcome":"{}""#, verdict.as_str());
            assert!(json.contains(&word), "{json}");
            let read: Stage = serde_json::from_str(&json).unwrap();
            assert_eq!(read.outcome, Some(verdict));
        }
        for json in ["{}", r#"{"outcome":null}"#, r#"{"outcome":"gpu_limit"}"#] {
            let read: Stage = serde_json::from_str(json).unwrap();
            assert_eq!(read.outcome, None, "{json}");
        }
        let silent = serde_json::to_string(&Stage::default()).unwrap();
        assert!(!silent.contains("outcome"), "{silent}");
    }

    #[test]
    fn an_exit_code_of_128_and_a_signal_is_that_signals() {
        for (code, verdict) in [
            (0, Verdict::Success),
            (1, Verdict::Failure),
            (128, Verdict::Failure),
            (137, Verdict::Signal),
            (159, Verdict::Signal),
            (160, Verdict::Failure),
            (255, Verdict::Failure),
            (-1, Verdict::Failure),
            (i32::MIN, Verdict::Failure),
        ] {
            assert_eq!(Verdict::of_exit_code(code), verdict, "{code}");
        }
    }
}
