//! Every setting in one place: flag, else environment variable, else default.
//!
//! All of them are checked before anything is bound. A wrong one names what gave it, its value and
//! what is expected, and the program ends with [`USAGE`].

mod misspelt;
mod values;

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use values::{
    bytes, choice, count, invalid, list, module_name, parsed, seconds, source_name, switch,
    toml_file, url, writable_directory,
};

use crate::access::{AccessPolicy, AllowedHost, AllowedOrigin};

pub use misspelt::Misspelt;
pub use values::{ListenAddress, MetricsPlace, PistonUrl};

/// Exit code for a command line or a setting that is wrong (`EX_USAGE` of sysexits.h).
pub const USAGE: u8 = 64;

/// The variable with the address of the adapter.
const LISTEN: &str = "ADAPTER_LISTEN";
const DEFAULT_HOST: &str = "127.0.0.1";
/// The variable with the port of an address that has none.
const PORT: &str = "PORT";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "session-adapter",
    version,
    about = "Azure dynamic sessions in front of Piston: takes Azure's execution requests on port 2000 and runs them on a Piston engine on port 2001.",
    after_help = "Without a command, `serve` is meant. Every setting is a flag, else the environment \
                  variable in brackets, else the default.\n\n\
                  Example:\n  session-adapter --listen 127.0.0.1:2000 --run-timeout 10\n  \
                  curl -X POST 'localhost:2000/python/execute?identifier=demo-1' \\\n       \
                  -H 'Content-Type: application/json' -d '{\"properties\":{\"code\":\"print(42)\"}}'",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Settings,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the adapter, and with `--engine embedded` the engine behind it (the default command)
    Serve(Box<Settings>),
    /// Run the embedded engine alone: Piston's API on the address of --piston-url
    Engine(Box<EngineSettings>),
    /// Ask a running adapter whether an execution works: exit code 0 if so, else 1
    Healthcheck(Target),
    /// Show which languages can run here
    Runtimes(RuntimesSettings),
    /// Replay recorded exchanges against a running adapter: exit code 0 if every response matches
    Replay {
        /// The directory of the exchanges
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// The adapter
        #[command(flatten)]
        target: Target,
    },
}

/// A running adapter.
#[derive(Debug, Args)]
pub struct Target {
    /// URL of the adapter, such as http://127.0.0.1:2000 [default: the address of ADAPTER_LISTEN, with
    /// the port of PORT, else 2000, if it has none]
    #[arg(long, value_name = "URL", value_parser = url())]
    url: Option<String>,
}

/// The settings of `serve`.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Address the adapter listens on; without a port it is PORT, else 2000. There is no
    /// authentication: whoever reaches the address can run code [default: 127.0.0.1:2000]
    #[arg(long, env = LISTEN, value_name = "ADDRESS[:PORT]", hide_default_value = true)]
    #[arg(value_parser = parsed::<ListenAddress>(), default_value = DEFAULT_HOST)]
    listen: ListenAddress,
    /// Origin of web pages that may use the session from a browser, besides those of the host itself,
    /// such as `https://app.example`; may be repeated or have commas; `*` allows all [default: none]
    #[arg(long, env = "ALLOW_ORIGIN", value_name = "ORIGIN")]
    #[arg(value_parser = list(str::parse::<AllowedOrigin>))]
    allow_origin: Vec<Vec<AllowedOrigin>>,
    /// What runs the code.
    #[command(flatten)]
    pub backend: BackendSettings,
    /// Wall-clock limit of an execution that names none; never above --max-run-timeout
    #[arg(long, env = "RUN_TIMEOUT_SECONDS", value_name = "SECONDS")]
    #[arg(value_parser = seconds(0.001, 86_400.0), default_value = "60")]
    pub run_timeout: Duration,
    /// Largest file upload
    #[arg(long, env = "MAX_UPLOAD_BYTES", value_name = "BYTES")]
    #[arg(value_parser = bytes(0, 1 << 40), default_value = "128MiB")]
    pub max_upload: u64,
    /// Where metrics can be read: on = /metrics among the other paths, or at an address of their own
    #[arg(long, env = "METRICS", value_name = "on|off|ADDRESS:PORT")]
    #[arg(value_parser = parsed::<MetricsPlace>(), default_value = "on")]
    pub metrics: MetricsPlace,
    /// What the engine needs to know, and the adapter as well.
    #[command(flatten)]
    pub common: EngineSettings,
    /// The address the adapter listens on, with its port.
    #[arg(skip = SocketAddr::from(([127, 0, 0, 1], 0)))]
    pub address: SocketAddr,
}

/// The settings of `runtimes`.
#[derive(Debug, Clone, Args)]
pub struct RuntimesSettings {
    /// What runs the code.
    #[command(flatten)]
    pub backend: BackendSettings,
    /// What discovery needs.
    #[command(flatten)]
    pub programs: ProgramSettings,
    /// Taken because `serve` has it, and not used: the files of a session are left alone.
    #[arg(long, hide = true)]
    data_dir: Option<PathBuf>,
}

/// Python processes that keep the variables of a session.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Embedded engine")]
pub struct KernelOptions {
    /// Kernels: Python processes that keep the variables of a session; `off` runs every execution in a
    /// fresh process
    #[arg(long, env = "SESSION_KERNEL", value_name = "on|off", value_parser = choice::<KernelSwitch>())]
    #[arg(default_value_t = KernelSwitch::On)]
    kernel: KernelSwitch,
    /// How many kernels there may be, one for each identifier; for another one, the kernel that has been
    /// idle for longest ends
    #[arg(long, env = "MAX_KERNELS", value_name = "COUNT", value_parser = count(1, 256))]
    #[arg(default_value = "8")]
    max_kernels: usize,
    /// Memory of a kernel and its processes [default: --memory-limit]
    #[arg(long, env = "KERNEL_MEMORY_BYTES", value_name = "BYTES")]
    #[arg(value_parser = bytes(16 << 20, 1 << 40))]
    kernel_memory_limit: Option<u64>,
    /// How long code in a kernel may take to end after it was interrupted at a limit; then the kernel is
    /// killed and its variables are lost
    #[arg(long, env = "KERNEL_INTERRUPT_GRACE_SECONDS", value_name = "SECONDS")]
    #[arg(value_parser = seconds(0.0, 5.0), default_value = "2")]
    pub kernel_interrupt_grace: Duration,
    /// How long a kernel may be idle before it ends [default: for ever]
    #[arg(long, env = "KERNEL_IDLE_TIMEOUT_SECONDS", value_name = "SECONDS")]
    #[arg(value_parser = seconds(1.0, 1e7))]
    pub kernel_idle_timeout: Option<Duration>,
}

impl KernelOptions {
    /// How many kernels there may be; 0 if they are off.
    pub fn limit(&self) -> usize {
        match self.kernel {
            KernelSwitch::On => self.max_kernels,
            KernelSwitch::Off => 0,
        }
    }
}

/// Whether there are kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KernelSwitch {
    /// Variables are kept where clients expect it.
    On,
    /// Every execution has a fresh process.
    Off,
}

impl Display for KernelSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// What runs the code.
#[derive(Debug, Clone, Args)]
pub struct BackendSettings {
    /// What runs the code: the engine inside this program, or a Piston that is already there
    #[arg(long, env = "SESSION_ENGINE", value_name = "embedded|piston")]
    #[arg(value_parser = choice::<EngineKind>(), default_value = "embedded")]
    pub engine: EngineKind,
}

/// The settings of `engine`.
#[derive(Debug, Clone, Args)]
pub struct EngineSettings {
    /// Host name by which clients may call the listeners, besides IP addresses and localhost; may be
    /// repeated or have commas. `*` allows every name: for containers whose network decides who gets
    /// here [default: none]
    #[arg(long, env = "ALLOW_HOST", value_name = "NAME")]
    #[arg(value_parser = list(str::parse::<AllowedHost>))]
    allow_host: Vec<Vec<AllowedHost>>,
    /// Where the session's files are kept: an empty directory, or one that was used for this before.
    /// Programs may change, and DELETE /session deletes, everything in it
    /// [default: a temporary directory, deleted on exit]
    #[arg(long, env = "SESSION_DATA_DIR", value_name = "DIRECTORY")]
    #[arg(value_parser = writable_directory())]
    pub data_dir: Option<PathBuf>,
    /// Use --data-dir even if it holds files: they become the session's, to be changed and deleted
    #[arg(long, env = "ADOPT_DATA_DIR", value_parser = switch())]
    pub adopt_data_dir: bool,
    /// Highest wall-clock limit; a request for more gets this
    #[arg(long, env = "MAX_RUN_TIMEOUT_SECONDS", value_name = "SECONDS")]
    #[arg(value_parser = seconds(0.001, 86_400.0), default_value = "220")]
    pub max_run_timeout: Duration,
    /// Wall-clock limit of the compile stage
    #[arg(long, env = "COMPILE_TIMEOUT_SECONDS", value_name = "SECONDS")]
    #[arg(value_parser = seconds(0.001, 3600.0), default_value = "20")]
    pub compile_timeout: Duration,
    /// Largest request body
    #[arg(long, env = "MAX_BODY_BYTES", value_name = "BYTES")]
    #[arg(value_parser = bytes(1 << 10, 1 << 30), default_value = "16MiB")]
    pub max_body: u64,
    /// How much of stdout and of stderr is kept; a program that prints more is stopped
    #[arg(long, env = "OUTPUT_LIMIT_BYTES", value_name = "BYTES")]
    #[arg(value_parser = bytes(1, 1 << 30), default_value = "1MiB")]
    pub output_limit: u64,
    /// Executions at a time [default: 2 for each core]
    #[arg(long, env = "MAX_JOBS", value_name = "COUNT", value_parser = count(1, 1024))]
    #[arg(default_value_t = 2 * cores(), hide_default_value = true)]
    pub max_jobs: usize,
    /// Executions that may wait for their turn; more get 429
    #[arg(long, env = "MAX_QUEUE", value_name = "COUNT", value_parser = count(0, 65_536))]
    #[arg(default_value = "64")]
    pub queue: usize,
    /// How long running executions may take to end after SIGTERM
    #[arg(long, env = "DRAIN_TIMEOUT_SECONDS", value_name = "SECONDS")]
    #[arg(value_parser = seconds(0.0, 86_400.0), default_value = "25")]
    pub drain_timeout: Duration,
    /// What each of its programs may do.
    #[command(flatten)]
    pub programs: ProgramSettings,
    /// Limits of executions and of the session's files.
    #[command(flatten)]
    pub jobs: JobSettings,
}

/// Where programs run, and what each of them may do.
#[derive(Debug, Clone, Args)]
pub struct ProgramSettings {
    /// Where Piston's API is; the embedded engine listens there (loopback only, port 0 = any)
    #[arg(long, env = "PISTON_URL", value_name = "URL")]
    #[arg(value_parser = parsed::<PistonUrl>(), default_value = "http://127.0.0.1:2001")]
    pub piston_url: PistonUrl,
    /// Memory of one execution
    #[arg(long, env = "JOB_MEMORY_BYTES", value_name = "BYTES")]
    #[arg(value_parser = bytes(16 << 20, 1 << 40), default_value = "512MiB")]
    pub memory_limit: u64,
    /// Form of the log on stderr [default: json; text on a terminal]
    #[arg(long, env = "LOG_FORMAT", value_name = "json|text", value_parser = choice::<LogFormat>())]
    pub log_format: Option<LogFormat>,
    /// What contains programs of the embedded engine.
    #[command(flatten)]
    pub sandbox: SandboxSettings,
}

/// What contains programs of the embedded engine.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Embedded engine")]
pub struct SandboxSettings {
    /// More languages, or others in place of those built in: a TOML file [default: none]
    #[arg(long, env = "SESSION_RUNTIMES", value_name = "FILE", value_parser = toml_file())]
    pub runtimes: Option<String>,
    /// Processes and threads of an execution
    #[arg(long, env = "JOB_PROCESSES", value_name = "COUNT")]
    #[arg(value_parser = count(1, 100_000), default_value = "256")]
    pub process_limit: usize,
    /// Open files of a process
    #[arg(long, env = "JOB_OPEN_FILES", value_name = "COUNT")]
    #[arg(value_parser = count(16, 1_000_000), default_value = "2048")]
    pub open_file_limit: usize,
    /// Size of a file that is written
    #[arg(long, env = "JOB_FILE_BYTES", value_name = "BYTES")]
    #[arg(value_parser = bytes(1, 1 << 40), default_value = "256MiB")]
    pub file_size_limit: u64,
    /// All files that an execution keeps outside the data directory
    #[arg(long, env = "JOB_DISK_BYTES", value_name = "BYTES")]
    #[arg(value_parser = bytes(1, 1 << 40), default_value = "1GiB")]
    pub disk_limit: u64,
    /// How many files and folders those may be
    #[arg(long, env = "JOB_DISK_FILES", value_name = "COUNT")]
    #[arg(value_parser = count(1, 10_000_000), default_value = "50000")]
    pub disk_file_limit: usize,
    /// Let programs use the network, the session's own ports included
    #[arg(long, env = "ALLOW_NETWORK", value_parser = switch())]
    pub allow_network: bool,
    /// Run programs even if layers of the sandbox that contain hostile code are missing
    #[arg(long, env = "ALLOW_WEAK_SANDBOX", value_parser = switch())]
    pub allow_weak_sandbox: bool,
}

/// What bounds executions of the embedded engine.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Embedded engine")]
pub struct JobSettings {
    /// Maximum number of pre-started interpreters; 0 = none
    /// [default: 1 for each core]
    #[arg(long, env = "WARM_INTERPRETERS", value_name = "COUNT", value_parser = count(0, 64))]
    #[arg(default_value_t = cores(), hide_default_value = true)]
    pub warm: usize,
    /// Python modules that pre-started interpreters import, such as numpy,pandas; may be repeated
    /// [default: none]
    #[arg(long, env = "PRELOAD_MODULES", value_name = "NAMES", value_parser = list(module_name))]
    preload: Vec<Vec<String>>,
    /// CPU time of all processes of an execution [default: --max-run-timeout for each core]
    #[arg(long, env = "JOB_CPU_SECONDS", value_name = "SECONDS", value_parser = seconds(0.001, 1e7))]
    cpu_limit: Option<Duration>,
    /// All files in the data directory
    #[arg(long, env = "SESSION_DATA_BYTES", value_name = "BYTES")]
    #[arg(value_parser = bytes(1, 1 << 40), default_value = "2GiB")]
    pub data_limit: u64,
    /// How many files and folders those may be
    #[arg(long, env = "SESSION_DATA_FILES", value_name = "COUNT")]
    #[arg(value_parser = count(1, 10_000_000), default_value = "50000")]
    pub data_file_limit: usize,
    /// What keeps variables.
    #[command(flatten)]
    pub kernels: KernelOptions,
}

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

impl Cli {
    /// The command with all its settings, from these arguments and the environment.
    ///
    /// # Errors
    /// For the first argument or setting that is wrong, and for requests of help.
    pub fn resolve(
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<Command, clap::Error> {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self::resolve_in(arguments, |name| std::env::var_os(name))
    }

    /// The misspelt ones among environment variables with these names.
    pub fn misspelt_variables(names: impl IntoIterator<Item = String>) -> Vec<Misspelt> {
        let command = Self::command();
        let settings = command.get_arguments();
        let settings = settings.filter_map(|arg| arg.get_env()?.to_str());
        misspelt::find(names, &settings.chain([PORT]).collect())
    }

    fn resolve_in(
        arguments: Vec<OsString>,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Command, clap::Error> {
        // An empty variable counts as absent: that is how compose files and pools clear one.
        let is_cleared = |name: &OsStr| {
            let value = name.to_str().and_then(&environment);
            value.is_some_and(|value| value.is_empty())
        };
        let prepare = |arg: Arg| {
            let takes_values = arg.get_action().takes_values();
            let arg = arg
                .hide_env_values(true)
                .allow_negative_numbers(takes_values);
            match arg.get_env().is_some_and(is_cleared) {
                true => arg.env(Resettable::Reset),
                false => arg,
            }
        };
        let mut command = Self::command()
            .mut_args(prepare)
            .mut_subcommands(|subcommand| subcommand.mut_args(prepare));
        let first = arguments.get(1);
        if first.is_some_and(|name| command.find_subcommand(name).is_some()) {
            // The variables are those of the subcommand.
            command = command.mut_args(|arg| arg.env(Resettable::Reset));
        }
        let matches = command.try_get_matches_from_mut(arguments)?;
        let cli = Self::from_arg_matches(&matches)?;
        let mut chosen = cli.command.unwrap_or(Command::Serve(Box::new(cli.serve)));
        let sources = match matches.subcommand() {
            Some((name, matches)) => Sources {
                command: command.find_subcommand(name).unwrap_or(&command),
                matches,
            },
            None => Sources {
                command: &command,
                matches: &matches,
            },
        };
        match &mut chosen {
            Command::Serve(settings) => {
                settings.resolve(&sources)?;
                settings.address = settings.listen.with_port(environment(PORT))?;
            }
            Command::Engine(settings) => {
                settings.programs.resolve(EngineKind::Embedded, &sources)?
            }
            Command::Runtimes(settings) => {
                settings
                    .programs
                    .resolve(settings.backend.engine, &sources)?;
            }
            Command::Healthcheck(_) | Command::Replay { .. } => {}
        }
        Ok(chosen)
    }
}

/// What gave the settings of a command their values.
struct Sources<'a> {
    command: &'a clap::Command,
    matches: &'a ArgMatches,
}

impl Sources<'_> {
    fn of(&self, id: &str) -> ValueSource {
        let source = self.matches.value_source(id);
        source.unwrap_or(ValueSource::DefaultValue)
    }

    fn invalid(&self, id: &str, expected: impl Display) -> clap::Error {
        let arg = self.command.get_arguments().find(|arg| arg.get_id() == id);
        let mut values = self.matches.get_raw(id).into_iter().flatten();
        let value = values.next_back().unwrap_or_default();
        invalid(&source_name(arg, self.of(id)), value, expected)
    }
}

impl Settings {
    fn resolve(&mut self, sources: &Sources<'_>) -> Result<(), clap::Error> {
        self.common.programs.resolve(self.backend.engine, sources)?;
        let max = self.common.max_run_timeout;
        if sources.of("run_timeout") == ValueSource::DefaultValue {
            self.run_timeout = self.run_timeout.min(max);
        } else if self.run_timeout > max {
            let max = max.as_secs_f64();
            let expected = format!("at most {max}, the value of --max-run-timeout");
            return Err(sources.invalid("run_timeout", expected));
        }
        Ok(())
    }

    /// Who may talk to the adapter.
    pub fn access(&self) -> AccessPolicy {
        AccessPolicy {
            hosts: self.common.allow_host.concat(),
            origins: self.allow_origin.concat(),
        }
    }
}

impl EngineSettings {
    /// Who may talk to the engine.
    pub fn access(&self) -> AccessPolicy {
        AccessPolicy {
            hosts: self.allow_host.concat(),
            origins: Vec::new(),
        }
    }

    /// Memory of a kernel in bytes.
    pub fn kernel_memory_limit(&self) -> u64 {
        let own = self.jobs.kernels.kernel_memory_limit;
        own.unwrap_or(self.programs.memory_limit)
    }

    /// CPU time of all processes of an execution.
    pub fn cpu_limit(&self) -> Duration {
        let cores = u32::try_from(cores()).unwrap_or(1);
        let default = self.max_run_timeout.saturating_mul(cores);
        self.jobs.cpu_limit.unwrap_or(default)
    }
}

impl ProgramSettings {
    fn resolve(&self, engine: EngineKind, sources: &Sources<'_>) -> Result<(), clap::Error> {
        if engine == EngineKind::Embedded && self.piston_url.loopback().is_none() {
            let expected = "a loopback address, on which the embedded engine listens, such as \
                            http://127.0.0.1:2001";
            return Err(sources.invalid("piston_url", expected));
        }
        Ok(())
    }
}

impl JobSettings {
    /// Python modules that warm interpreters import.
    pub fn preload(&self) -> Vec<String> {
        self.preload.concat()
    }
}

impl Target {
    /// The URL that was given, else that of the adapter which this environment configures.
    ///
    /// # Errors
    /// Where the environment's address is wrong.
    pub fn resolve(self) -> Result<String, clap::Error> {
        match self.url {
            Some(url) => Ok(url),
            None => configured_adapter(|name| std::env::var_os(name)),
        }
    }
}

/// The URL of the adapter that these environment variables configure.
fn configured_adapter(
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<String, clap::Error> {
    let text = environment(LISTEN).filter(|text| !text.is_empty());
    let text = text.unwrap_or_else(|| DEFAULT_HOST.into());
    let address: Result<ListenAddress, _> = text.to_string_lossy().trim().parse();
    let address = address.map_err(|expected| invalid(LISTEN, &text, expected))?;
    let address = address.reachable().with_port(environment(PORT))?;
    Ok(format!("http://{address}"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests;
