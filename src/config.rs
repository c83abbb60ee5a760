//! Every setting in one place: flag, else environment variable, else default.
//!
//! All of them are judged before anything is bound. A wrong one names itself, its value and what
//! is allowed, and the program ends with [`USAGE`].

mod cli;
mod error;
mod parse;

use std::ffi::OsString;
use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use parse::{
    Given, bytes, choice, count, list, module_names, seconds, toml_file, writable_directory,
    yes_or_no,
};

use crate::access::AccessPolicy;

pub use cli::{Cli, Command, Flags, JobFlags, Target};
pub use error::ConfigError;

/// Exit code for a command line or a setting that is wrong (`EX_USAGE` of sysexits.h).
pub const USAGE: u8 = 64;

/// What runs the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// The engine inside this program.
    Embedded,
    /// A Piston that somebody else started.
    Piston,
}

impl Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded",
            Self::Piston => "piston",
        })
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Where the metrics can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsPlace {
    /// At `/metrics` among the adapter's other paths.
    Path,
    /// At `/metrics` of a listener of their own.
    Listener(SocketAddr),
    /// Nowhere.
    Off,
}

impl Display for MetricsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("on"),
            Self::Listener(address) => address.fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}

impl MetricsPlace {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "on" => Ok(Self::Path),
            "off" => Ok(Self::Off),
            address => address.parse().map(Self::Listener).map_err(|_| {
                "allowed is on, off or ADDRESS:PORT, for example 127.0.0.1:9464".to_owned()
            }),
        }
    }
}

/// Every setting, judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Address the adapter listens on.
    pub listen: SocketAddr,
    /// Who may talk to the listeners.
    pub access: AccessPolicy,
    /// What runs the code.
    pub engine: EngineKind,
    /// Where Piston's API is.
    pub piston: PistonUrl,
    /// The session's files, where the operator chose the place.
    pub data_dir: Option<PathBuf>,
    /// Whether that place may hold anything: all of it then belongs to the session.
    pub adopt_data_dir: bool,
    /// Wall-clock limit of an execution that names none.
    pub run_timeout: Duration,
    /// Highest wall-clock limit.
    pub max_run_timeout: Duration,
    /// Largest request body in bytes.
    pub max_body: usize,
    /// Largest upload in bytes.
    pub max_upload: usize,
    /// Bytes kept of each output stream.
    pub output_limit: usize,
    /// Executions at a time.
    pub max_jobs: usize,
    /// Executions that may wait.
    pub queue: usize,
    /// Memory of one execution in bytes.
    pub memory_limit: u64,
    /// How long running executions may take to end after SIGTERM.
    pub drain_timeout: Duration,
    /// What a compiler may take.
    pub compile_timeout: Duration,
    /// Where the metrics can be read.
    pub metrics: MetricsPlace,
    /// The form of the log, where the operator chose one.
    pub log_format: Option<LogFormat>,
    /// What bounds a job of the embedded engine.
    pub jobs: JobSettings,
}

/// What bounds a job of the embedded engine, judged.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSettings {
    /// More languages, as TOML.
    pub runtimes: Option<String>,
    /// Interpreters that are started ahead of executions, at most.
    pub warm: usize,
    /// Python modules that these import.
    pub preload: Vec<String>,
    /// CPU time of all processes.
    pub cpu: Duration,
    /// Processes and threads.
    pub processes: usize,
    /// Open files of a process.
    pub open_files: usize,
    /// Size of a file in bytes.
    pub file_size: u64,
    /// Bytes on disk outside the data directory.
    pub disk: u64,
    /// Files and folders outside the data directory.
    pub disk_files: usize,
    /// Bytes in the data directory.
    pub data: u64,
    /// Files and folders in the data directory.
    pub data_files: usize,
    /// Whether programs may use the network.
    pub allow_network: bool,
    /// Whether programs run where what contains hostile code is missing.
    pub allow_weak_sandbox: bool,
}

/// The base address of a Piston API: `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PistonUrl {
    host: String,
    port: u16,
}

impl Default for PistonUrl {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 2001,
        }
    }
}

impl PistonUrl {
    /// The address as a URL without a slash at its end.
    pub fn base(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    /// The loopback address the embedded engine listens on; `None` if it is not one.
    pub fn loopback(&self) -> Option<SocketAddr> {
        let host = if self.host == "localhost" {
            "127.0.0.1"
        } else {
            &self.host
        };
        let address: SocketAddr = format!("{host}:{}", self.port).parse().ok()?;
        address.ip().is_loopback().then_some(address)
    }

    /// The same host with the port that the engine really got.
    pub fn with_port(&self, port: u16) -> Self {
        Self {
            host: self.host.clone(),
            port,
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "allowed is http://HOST:PORT".to_owned();
        let uri: http::Uri = text.parse().map_err(|_| wrong())?;
        let plain = uri.scheme_str() == Some("http")
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none();
        match uri.authority() {
            Some(authority) if plain && !authority.as_str().contains('@') => Ok(Self {
                host: match authority.host() {
                    "" => return Err(wrong()),
                    host => host.to_owned(),
                },
                port: authority.port_u16().ok_or_else(wrong)?,
            }),
            _ => Err(wrong()),
        }
    }
}

impl Settings {
    /// Judges the flags, and for what they leave open the environment.
    ///
    /// # Errors
    /// [`ConfigError`] for the first setting that is wrong.
    pub fn judge(
        flags: &Flags,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let from = |flag, value: &Option<String>, variable| {
            Given::find(flag, value.as_deref(), variable, &environment)
        };
        let listen = listen(flags.listen.as_deref(), &environment)?;
        let engine = from("--engine", &flags.engine, "SESSION_ENGINE")
            .parse_or(EngineKind::Embedded, choice)?;
        let piston = from("--piston-url", &flags.piston_url, "PISTON_URL").parse_or(
            PistonUrl::default(),
            |text| {
                let piston = PistonUrl::parse(text)?;
                if engine == EngineKind::Embedded && piston.loopback().is_none() {
                    return Err("the embedded engine listens on loopback only, \
                                for example http://127.0.0.1:2001"
                        .to_owned());
                }
                Ok(piston)
            },
        )?;
        let max_run_timeout = from(
            "--max-run-timeout",
            &flags.max_run_timeout,
            "MAX_RUN_TIMEOUT_SECONDS",
        )
        .parse_or(Duration::from_secs(220), seconds(0.001, 86_400.0))?;
        let run_timeout = from("--run-timeout", &flags.run_timeout, "RUN_TIMEOUT_SECONDS")
            .parse_or(
                Duration::from_secs(60).min(max_run_timeout),
                seconds(0.001, max_run_timeout.as_secs_f64()),
            )?;
        let access = AccessPolicy {
            hosts: from("--allow-host", &joined(&flags.allow_host), "ALLOW_HOST")
                .parse_or(Vec::new(), list)?,
            origins: from(
                "--allow-origin",
                &joined(&flags.allow_origin),
                "ALLOW_ORIGIN",
            )
            .parse_or(Vec::new(), list)?,
        };
        Ok(Self {
            listen,
            access,
            engine,
            piston,
            data_dir: from("--data-dir", &flags.data_dir, "SESSION_DATA_DIR")
                .parse_or(None, |text| writable_directory(text).map(Some))?,
            adopt_data_dir: switch(flags.adopt_data_dir, "ADOPT_DATA_DIR", &environment)?,
            run_timeout,
            max_run_timeout,
            max_body: from("--max-body", &flags.max_body, "MAX_BODY_BYTES")
                .parse_or(16 << 20, bytes(1 << 10, 1 << 30))? as usize,
            max_upload: from("--max-upload", &flags.max_upload, "MAX_UPLOAD_BYTES")
                .parse_or(128 << 20, bytes(0, 1 << 40))? as usize,
            output_limit: from("--output-limit", &flags.output_limit, "OUTPUT_LIMIT_BYTES")
                .parse_or(1 << 20, bytes(1, 1 << 30))? as usize,
            max_jobs: from("--max-jobs", &flags.max_jobs, "MAX_JOBS")
                .parse_or(2 * cores(), count(1, 1024))?,
            queue: from("--queue", &flags.queue, "MAX_QUEUE").parse_or(64, count(0, 65_536))?,
            memory_limit: from("--memory-limit", &flags.memory_limit, "JOB_MEMORY_BYTES")
                .parse_or(512 << 20, bytes(16 << 20, 1 << 40))?,
            drain_timeout: from(
                "--drain-timeout",
                &flags.drain_timeout,
                "DRAIN_TIMEOUT_SECONDS",
            )
            .parse_or(Duration::from_secs(25), seconds(0.0, 86_400.0))?,
            compile_timeout: from(
                "--compile-timeout",
                &flags.compile_timeout,
                "COMPILE_TIMEOUT_SECONDS",
            )
            .parse_or(Duration::from_secs(20), seconds(0.001, 3600.0))?,
            jobs: JobSettings::judge(&flags.jobs, max_run_timeout, &environment)?,
            metrics: from("--metrics", &flags.metrics, "METRICS")
                .parse_or(MetricsPlace::Path, MetricsPlace::parse)?,
            log_format: from("--log-format", &flags.log_format, "LOG_FORMAT")
                .parse_or(None, |text| choice(text).map(Some))?,
        })
    }
}

impl JobSettings {
    fn judge(
        flags: &JobFlags,
        max_run_timeout: Duration,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let from = |flag, value: &Option<String>, variable| {
            Given::find(flag, value.as_deref(), variable, &environment)
        };
        Ok(Self {
            runtimes: from("--runtimes", &flags.runtimes, "SESSION_RUNTIMES")
                .parse_or(None, |text| toml_file(text).map(Some))?,
            warm: from("--warm", &flags.warm, "WARM_INTERPRETERS")
                .parse_or(cores(), count(0, 64))?,
            preload: from("--preload", &flags.preload, "PRELOAD_MODULES")
                .parse_or(Vec::new(), module_names)?,
            cpu: from("--cpu-limit", &flags.cpu_limit, "JOB_CPU_SECONDS").parse_or(
                max_run_timeout.saturating_mul(u32::try_from(cores()).unwrap_or(1)),
                seconds(0.001, 1e7),
            )?,
            processes: from("--process-limit", &flags.process_limit, "JOB_PROCESSES")
                .parse_or(256, count(1, 100_000))?,
            open_files: from(
                "--open-file-limit",
                &flags.open_file_limit,
                "JOB_OPEN_FILES",
            )
            .parse_or(2048, count(16, 1_000_000))?,
            file_size: from(
                "--file-size-limit",
                &flags.file_size_limit,
                "JOB_FILE_BYTES",
            )
            .parse_or(256 << 20, bytes(1, 1 << 40))?,
            disk: from("--disk-limit", &flags.disk_limit, "JOB_DISK_BYTES")
                .parse_or(1 << 30, bytes(1, 1 << 40))?,
            disk_files: from(
                "--disk-file-limit",
                &flags.disk_file_limit,
                "JOB_DISK_FILES",
            )
            .parse_or(50_000, count(1, 10_000_000))?,
            data: from("--data-limit", &flags.data_limit, "SESSION_DATA_BYTES")
                .parse_or(2 << 30, bytes(1, 1 << 40))?,
            data_files: from(
                "--data-file-limit",
                &flags.data_file_limit,
                "SESSION_DATA_FILES",
            )
            .parse_or(50_000, count(1, 10_000_000))?,
            allow_network: switch(flags.allow_network, "ALLOW_NETWORK", &environment)?,
            allow_weak_sandbox: switch(
                flags.allow_weak_sandbox,
                "ALLOW_WEAK_SANDBOX",
                &environment,
            )?,
        })
    }
}

impl Target {
    /// The URL that was given, else that of the adapter which this environment configures.
    ///
    /// # Errors
    /// [`ConfigError`] where the environment's address is wrong.
    pub fn url(
        self,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<String, ConfigError> {
        if let Some(url) = self.url {
            return Ok(url);
        }
        let mut address = listen(None, environment)?;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        Ok(format!("http://{address}"))
    }
}

/// A flag that may be repeated, as its variable has it: with commas.
fn joined(values: &[String]) -> Option<String> {
    (!values.is_empty()).then(|| values.join(","))
}

/// A setting that is on or off: a flag without a value, or a variable.
fn switch(
    flag: bool,
    variable: &'static str,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<bool, ConfigError> {
    match flag {
        true => Ok(true),
        false => Given::find("", None, variable, environment).parse_or(false, yes_or_no),
    }
}

/// The address of the adapter: the flag, else `ADAPTER_LISTEN`, else loopback. Where it names no port
/// that is `PORT`, which never changes the address.
fn listen(
    flag: Option<&str>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<SocketAddr, ConfigError> {
    let given = Given::find("--listen", flag, "ADAPTER_LISTEN", &environment);
    match given.parse_or(
        ListenAddress::Host(Ipv4Addr::LOCALHOST.into()),
        ListenAddress::parse,
    )? {
        ListenAddress::Socket(address) => Ok(address),
        ListenAddress::Host(host) => {
            let port = Given::find("", None, "PORT", &environment).parse_or(2000, |text| {
                text.parse()
                    .map_err(|_| "allowed is a port from 0 to 65535".to_owned())
            })?;
            Ok(SocketAddr::from((host, port)))
        }
    }
}

/// An address with or without a port.
enum ListenAddress {
    Socket(SocketAddr),
    Host(IpAddr),
}

impl ListenAddress {
    fn parse(text: &str) -> Result<Self, String> {
        let text = match text.strip_prefix("localhost") {
            Some(rest) if rest.is_empty() || rest.starts_with(':') => format!("127.0.0.1{rest}"),
            _ => text.to_owned(),
        };
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        text.parse()
            .map(Self::Socket)
            .or_else(|_| bare.unwrap_or(&text).parse().map(Self::Host))
            .map_err(|_| {
                "allowed is ADDRESS or ADDRESS:PORT, for example 127.0.0.1:2000, localhost or \
                 0.0.0.0"
                    .to_owned()
            })
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests;
