//! The command line, as clap reads it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
    /// What to do; `serve` when absent.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of `serve`, given without its name.
    #[command(flatten)]
    pub serve: Flags,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the adapter, and with `--engine embedded` the engine behind it (the default command)
    Serve(Flags),
    /// Run the embedded engine alone: Piston's API on the address of --piston-url
    Engine(Flags),
    /// Ask a running adapter whether an execution works: exit code 0 if so, else 1
    Healthcheck(Target),
    /// Show which languages can run here
    Runtimes(Flags),
    /// Replay recorded exchanges against a running adapter: exit code 0 if all are answered alike
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
    /// Address of the adapter [default: the port of ADAPTER_LISTEN, else PORT, on this machine]
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
}

/// The settings as they stand on the command line, not judged yet.
#[derive(Debug, Default, Args)]
pub struct Flags {
    /// Address the adapter listens on; without a port it is PORT, else 2000. There is no
    /// authentication: whoever reaches the address can run code [env: ADAPTER_LISTEN]
    /// [default: 127.0.0.1:2000]
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub(super) listen: Option<String>,
    /// Host name by which clients may call the listeners, besides IP addresses and localhost; may be
    /// repeated. `*` allows every name: for containers whose network decides who gets here
    /// [env: ALLOW_HOST, with commas] [default: none]
    #[arg(long, value_name = "NAME")]
    pub(super) allow_host: Vec<String>,
    /// Origin of web pages that may use the session from a browser, besides those of the host itself,
    /// such as `https://app.example`; may be repeated; `*` allows all [env: ALLOW_ORIGIN, with commas]
    /// [default: none]
    #[arg(long, value_name = "ORIGIN")]
    pub(super) allow_origin: Vec<String>,
    /// What runs the code: the engine inside this program, or a Piston that is already there
    /// [env: SESSION_ENGINE] [default: embedded]
    #[arg(long, value_name = "embedded|piston")]
    pub(super) engine: Option<String>,
    /// Where Piston's API is; the embedded engine listens there (loopback only, port 0 = any)
    /// [env: PISTON_URL] [default: http://127.0.0.1:2001]
    #[arg(long, value_name = "URL")]
    pub(super) piston_url: Option<String>,
    /// Where the session's files are kept: an empty directory, or one that was used for this before.
    /// Programs may change, and DELETE /session deletes, everything in it [env: SESSION_DATA_DIR]
    /// [default: a temporary directory, deleted on exit]
    #[arg(long, value_name = "DIRECTORY")]
    pub(super) data_dir: Option<String>,
    /// Use --data-dir even if it holds files: they become the session's, to be changed and deleted
    /// [env: ADOPT_DATA_DIR]
    #[arg(long)]
    pub(super) adopt_data_dir: bool,
    /// Wall-clock limit of an execution that names none [env: RUN_TIMEOUT_SECONDS] [default: 60]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(super) run_timeout: Option<String>,
    /// Highest wall-clock limit; a request for more gets this
    /// [env: MAX_RUN_TIMEOUT_SECONDS] [default: 220]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(super) max_run_timeout: Option<String>,
    /// Largest request body [env: MAX_BODY_BYTES] [default: 16MiB]
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub(super) max_body: Option<String>,
    /// Largest file upload [env: MAX_UPLOAD_BYTES] [default: 128MiB]
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub(super) max_upload: Option<String>,
    /// How much of stdout and of stderr is kept; a program that prints more is stopped
    /// [env: OUTPUT_LIMIT_BYTES] [default: 1MiB]
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub(super) output_limit: Option<String>,
    /// Executions at a time [env: MAX_JOBS] [default: 2 for each core]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub(super) max_jobs: Option<String>,
    /// Executions that may wait for their turn; more get 429 [env: MAX_QUEUE] [default: 64]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub(super) queue: Option<String>,
    /// Memory of one execution [env: JOB_MEMORY_BYTES] [default: 512MiB]
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub(super) memory_limit: Option<String>,
    /// How long running executions may take to end after SIGTERM
    /// [env: DRAIN_TIMEOUT_SECONDS] [default: 25]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(super) drain_timeout: Option<String>,
    /// What a compiler may take [env: COMPILE_TIMEOUT_SECONDS] [default: 20]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(super) compile_timeout: Option<String>,
    /// Where metrics can be read: on = /metrics among the other paths, or at an address of their own
    /// [env: METRICS] [default: on]
    #[arg(long, value_name = "on|off|ADDRESS:PORT")]
    pub(super) metrics: Option<String>,
    /// Form of the log on stderr [env: LOG_FORMAT] [default: json; text on a terminal]
    #[arg(long, value_name = "json|text")]
    pub(super) log_format: Option<String>,
    /// The embedded engine.
    #[command(flatten)]
    pub(super) jobs: JobFlags,
}

/// What bounds a job of the embedded engine, as it stands on the command line.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Embedded engine")]
pub struct JobFlags {
    /// More languages, or others in place of those built in: a TOML file [env: SESSION_RUNTIMES]
    #[arg(long, value_name = "FILE")]
    pub(super) runtimes: Option<String>,
    /// Interpreters that are started ahead of executions, at most; 0 = none [env: WARM_INTERPRETERS]
    /// [default: 1 for each core]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub(super) warm: Option<String>,
    /// Python modules that these import ahead of executions, such as numpy,pandas
    /// [env: PRELOAD_MODULES] [default: none]
    #[arg(long, value_name = "NAMES")]
    pub(super) preload: Option<String>,
    /// CPU time of all processes of an execution [env: JOB_CPU_SECONDS]
    /// [default: --max-run-timeout for each core]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(super) cpu_limit: Option<String>,
    /// Processes and threads of an execution [env: JOB_PROCESSES] [default: 256]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub(super) process_limit: Option<String>,
    /// Open files of a process [env: JOB_OPEN_FILES] [default: 2048]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub(super) open_file_limit: Option<String>,
    /// Size of a file that is written [env: JOB_FILE_BYTES] [default: 256MiB]
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub(super) file_size_limit: Option<String>,
    /// All files that an execution keeps outside the data directory [env: JOB_DISK_BYTES]
    /// [default: 1GiB]
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub(super) disk_limit: Option<String>,
    /// How many files and folders those may be [env: JOB_DISK_FILES] [default: 50000]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub(super) disk_file_limit: Option<String>,
    /// All files in the data directory [env: SESSION_DATA_BYTES] [default: 2GiB]
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub(super) data_limit: Option<String>,
    /// How many files and folders those may be [env: SESSION_DATA_FILES] [default: 50000]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub(super) data_file_limit: Option<String>,
    /// Let programs use the network, the session's own ports included [env: ALLOW_NETWORK]
    #[arg(long)]
    pub(super) allow_network: bool,
    /// Run programs even where what contains hostile code is missing [env: ALLOW_WEAK_SANDBOX]
    #[arg(long)]
    pub(super) allow_weak_sandbox: bool,
}
