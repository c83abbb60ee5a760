//! What the commands need before and around the servers: logs, signals, directories.

mod json_line;
mod reserved_port;

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::config::{Cli, EngineSettings, LogFormat, Misspelt, Settings};
use crate::data_dir;
use crate::engine;
use crate::engine::sandbox::SandboxReport;
use crate::error_chain::error_chain;
use crate::piston::{Client, ClientLimits, Runtime};

use json_line::JsonLine;
pub use reserved_port::ReservedPort;

/// How long the start line waits for the engine to say what it runs.
const ANNOUNCE: Duration = Duration::from_secs(10);

/// The form of the log: the one that the operator chose, else text on a terminal, else JSON.
pub fn log_format(chosen: Option<LogFormat>) -> LogFormat {
    chosen.unwrap_or(if io::stderr().is_terminal() {
        LogFormat::Text
    } else {
        LogFormat::Json
    })
}

/// Sends the log to stderr: JSON, or text on a terminal, unless the operator chose.
pub fn init_log(format: Option<LogFormat>) {
    let lines = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_writer(io::stderr)
        .with_target(false);
    match log_format(format) {
        LogFormat::Json => lines.event_format(JsonLine).init(),
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).init(),
    }
}

/// Lets this process have as many descriptors as it may: each connection takes one.
pub fn raise_descriptors() {
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limits.maximum,
        ..limits
    };
    // Where this is refused there are as many as there were.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes over both signals.
    ///
    /// # Errors
    /// Where the handlers cannot be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Resolves at the first signal. The second one ends the process at once, with the exit code
    /// that a shell gives to a process that it ended.
    pub async fn first(mut self) {
        let _ = self.next().await;
        tokio::spawn(async move {
            let number = self.next().await;
            std::process::exit(128 + number);
        });
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        }
    }
}

/// Deletes what adapters of this user left in the directory for temporary files when they were killed,
/// whichever engine they had.
pub fn delete_abandoned() {
    data_dir::delete_abandoned();
    engine::delete_abandoned();
}

/// Warns where others than this machine can reach a listener and nothing says that this is meant.
pub fn warn_if_open(settings: &Settings, listeners: &[Option<&TcpListener>]) {
    if settings.access().allows_every_host() {
        return;
    }
    let addresses = listeners.iter().flatten();
    for address in addresses.filter_map(|listener| listener.local_addr().ok()) {
        if !address.ip().is_loopback() {
            tracing::warn!(
                %address,
                hint = "--allow-host '*' says that this is meant",
                "listening beyond loopback: whoever reaches this address can run code"
            );
        }
    }
}

/// Keeps programs that may use the network from listening on a listener's port in the address family that
/// the listener does not cover, for as long as the result exists.
pub fn reserve_ports(
    settings: &EngineSettings,
    listeners: &[Option<&TcpListener>],
) -> Vec<ReservedPort> {
    if !settings.programs.sandbox.allow_network {
        return Vec::new();
    }
    let listeners = listeners.iter().flatten();
    listeners
        .filter_map(|listener| ReservedPort::beside(listener))
        .collect()
}

/// Warns of variables whose names are probably those of settings, but misspelt.
pub fn warn_of_misspelt_variables() {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for Misspelt { variable, meant } in Cli::misspelt_variables(names) {
        tracing::warn!(
            variable,
            meant,
            "unknown environment variable: probably misspelt"
        );
    }
}

/// Where this process listens, asks and keeps files.
#[derive(Debug)]
pub struct Endpoints {
    /// The adapter, if it runs.
    pub listen: Option<SocketAddr>,
    /// The engine.
    pub piston_url: String,
    /// The session's files, if this process keeps them.
    pub data_dir: Option<PathBuf>,
    /// Whether they go with the process.
    pub data_dir_is_temporary: bool,
    /// What contains the jobs, if this process runs them.
    pub sandbox: Option<SandboxReport>,
}

/// Writes the one line that says how this process runs: every setting, and what can run here.
///
/// Warns if a required layer of the sandbox is missing.
pub async fn announce(settings: EngineSettings, serve: Option<Settings>, endpoints: Endpoints) {
    if let Some(sandbox) = &endpoints.sandbox {
        let missing = sandbox.missing.join(", ");
        if !missing.is_empty() {
            let hint = sandbox.hint();
            tracing::warn!(%sandbox, missing, hint, "weak sandbox: hostile code is not contained");
        }
    }
    let piston_url = &endpoints.piston_url;
    let runtimes = match runtimes_of(piston_url).await {
        Some(runtimes) => {
            let name = |r: &Runtime| format!("{} {}", r.language, r.version);
            runtimes.iter().map(name).collect::<Vec<_>>().join(", ")
        }
        None => format!("unknown: the engine at {piston_url} does not answer"),
    };
    let (serve, programs, jobs) = (serve.as_ref(), &settings.programs, &settings.jobs);
    let (sandbox, kernels) = (&programs.sandbox, &jobs.kernels);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = endpoints.listen.map(tracing::field::display),
        allow_host = list(&settings.access().hosts),
        allow_origin = serve.map(|serve| list(&serve.access().origins)),
        engine = serve.map(|serve| tracing::field::display(serve.backend.engine)),
        piston_url,
        data_dir = endpoints.data_dir.map(|path| path.display().to_string()),
        data_dir_is_temporary = endpoints.data_dir_is_temporary,
        adopt_data_dir = settings.adopt_data_dir,
        run_timeout_s = serve.map(|serve| serve.run_timeout.as_secs_f64()),
        max_run_timeout_s = settings.max_run_timeout.as_secs_f64(),
        max_body = settings.max_body,
        max_upload = serve.map(|serve| serve.max_upload),
        output_limit = settings.output_limit,
        max_jobs = settings.max_jobs,
        queue = settings.queue,
        memory_limit = programs.memory_limit,
        metrics = serve.map(|serve| tracing::field::display(serve.metrics)),
        drain_timeout_s = settings.drain_timeout.as_secs_f64(),
        compile_timeout_s = settings.compile_timeout.as_secs_f64(),
        warm = jobs.warm,
        preload = jobs.preload().join(","),
        max_kernels = kernels.limit(),
        kernel_memory_limit = settings.kernel_memory_limit(),
        kernel_interrupt_grace_s = kernels.kernel_interrupt_grace.as_secs_f64(),
        kernel_idle_timeout_s = kernels
            .kernel_idle_timeout
            .map(|timeout| timeout.as_secs_f64()),
        cpu_limit_s = settings.cpu_limit().as_secs_f64(),
        process_limit = sandbox.process_limit,
        open_file_limit = sandbox.open_file_limit,
        file_size_limit = sandbox.file_size_limit,
        disk_limit = sandbox.disk_limit,
        disk_file_limit = sandbox.disk_file_limit,
        data_limit = jobs.data_limit,
        data_file_limit = jobs.data_file_limit,
        allow_network = sandbox.allow_network,
        allow_weak_sandbox = sandbox.allow_weak_sandbox,
        sandbox = endpoints.sandbox.as_ref().map(ToString::to_string),
        runtimes,
        "started"
    );
}

fn list(values: &[impl ToString]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    values.join(",")
}

/// What the engine at `piston_url` can run.
///
/// # Errors
/// Where it does not say.
pub async fn ask_runtimes(piston_url: &str) -> Result<Vec<Runtime>, Box<dyn std::error::Error>> {
    let runtimes = client(piston_url)?
        .runtimes(Instant::now() + ANNOUNCE)
        .await;
    runtimes.map_err(|error| format!("the engine at {piston_url}: {}", error_chain(&error)).into())
}

/// The same, for an engine that may still be starting.
async fn runtimes_of(piston_url: &str) -> Option<Vec<Runtime>> {
    let client = client(piston_url).ok()?;
    let deadline = Instant::now() + ANNOUNCE;
    while Instant::now() < deadline {
        if let Ok(runtimes) = client.runtimes(deadline).await {
            return Some(runtimes);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

fn client(piston_url: &str) -> Result<Client, reqwest::Error> {
    Client::new(
        piston_url,
        ClientLimits {
            max_response_bytes: 1 << 20,
        },
    )
}

/// Asks the adapter at `url` whether an execution works.
///
/// # Errors
/// Says why not.
pub async fn healthcheck(url: String) -> Result<(), Box<dyn std::error::Error>> {
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build()?;
    let ready = format!("{}/ready", url.trim_end_matches('/'));
    let answer = http.get(ready).send().await?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let body = answer.text().await.unwrap_or_default();
    Err(format!("{url} is not ready ({status}): {body}").into())
}

/// A table of runtimes, for people.
pub fn table(runtimes: &[Runtime]) -> String {
    let width = |cell: fn(&Runtime) -> usize, title: &str| {
        runtimes
            .iter()
            .map(cell)
            .max()
            .unwrap_or(0)
            .max(title.len())
    };
    let language = width(|r| r.language.len(), "LANGUAGE");
    let version = width(|r| r.version.len(), "VERSION");
    let row = |a: &str, b: &str, c: &str| {
        format!("{a:language$}  {b:version$}  {c}")
            .trim_end()
            .to_owned()
            + "\n"
    };
    std::iter::once(row("LANGUAGE", "VERSION", "ALIASES"))
        .chain(
            runtimes
                .iter()
                .map(|r| row(&r.language, &r.version, &r.aliases.join(", "))),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up() {
        let runtimes: Vec<Runtime> = serde_json::from_str(
            r#"[{"language":"python","version":"3.11.7","aliases":["py","python3"]},
                {"language":"a-long-language","version":"1.0.0","aliases":[]}]"#,
        )
        .unwrap();
        assert_eq!(
            table(&runtimes),
            "LANGUAGE         VERSION  ALIASES\n\
             python           3.11.7   py, python3\n\
             a-long-language  1.0.0\n"
        );
    }
}
