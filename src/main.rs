//! The command line of session-adapter.

use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use session_adapter::adapter::{self, AdapterConfig, Listeners};
use session_adapter::config::{
    self, Cli, Command, EngineKind, EngineSettings, LogFormat, MetricsPlace, PistonUrl,
    ProgramSettings, RuntimesSettings, Settings, Target,
};
use session_adapter::data_dir::{DataDir, DataDirError};
use session_adapter::engine::sandbox::{SPAWNER_ARGUMENT, spawner_main};
use session_adapter::engine::{self, Engine, EngineConfig, EngineError, KernelSettings};
use session_adapter::error_chain::error_chain;
use session_adapter::replay;
use session_adapter::startup::{self, Endpoints, ReservedPort, Signals};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    // Ahead of everything else: the spawner must have one thread.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == SPAWNER_ARGUMENT)
    {
        spawner_main();
    }
    let command = match Cli::resolve(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => return misuse(&error),
    };
    match command {
        Command::Serve(settings) => logged(settings.common.programs.log_format, serve(*settings)),
        Command::Engine(settings) => logged(settings.programs.log_format, engine_alone(*settings)),
        Command::Healthcheck(target) => with_url(target, startup::healthcheck),
        Command::Runtimes(settings) => {
            logged(settings.programs.log_format, show_runtimes(settings))
        }
        Command::Replay { directory, target } => with_url(target, |url| replay_all(directory, url)),
    }
}

fn logged(
    format: Option<LogFormat>,
    command: impl Future<Output = Result<(), Failure>>,
) -> ExitCode {
    startup::init_log(format);
    startup::warn_of_misspelt_variables();
    run(command)
}

/// Finds the adapter that a command is about.
fn with_url<F>(target: Target, command: impl FnOnce(String) -> F) -> ExitCode
where
    F: Future<Output = Result<(), Failure>>,
{
    match target.resolve() {
        Ok(url) => run(command(url)),
        Err(error) => misuse(&error),
    }
}

fn misuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nothing can be done if stdout is closed.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    eprint!(
        "session-adapter: {}",
        text.strip_prefix("error: ").unwrap_or(&text)
    );
    ExitCode::from(config::USAGE)
}

fn run(command: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("session-adapter: {}", error_chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn serve(mut settings: Settings) -> Result<(), Failure> {
    startup::raise_descriptors();
    let signals = Signals::listen()?;
    let listener = bind(settings.address).await?;
    let listen = Some(listener.local_addr()?);
    let metrics = match settings.metrics {
        MetricsPlace::Listener(address) => {
            let listener = bind(address).await?;
            settings.metrics = MetricsPlace::Listener(listener.local_addr()?);
            Some(listener)
        }
        MetricsPlace::Path | MetricsPlace::Off => None,
    };
    let listeners = [Some(&listener), metrics.as_ref()];
    startup::warn_if_open(&settings, &listeners);
    // Ahead of every program, and up to the end of the last one.
    let _reserved_ports = startup::reserve_ports(&settings.common, &listeners);
    startup::delete_abandoned();
    let (engine, data_dir) = match settings.backend.engine {
        EngineKind::Embedded => (Some(RunningEngine::start(&settings.common).await?), None),
        EngineKind::Piston => (None, Some(own_data_dir(&settings.common)?)),
    };
    let endpoints = match &engine {
        Some(engine) => engine.endpoints(listen),
        None => Endpoints {
            listen,
            piston_url: settings.common.programs.piston_url.base(),
            data_dir: data_dir.as_ref().map(|dir| dir.path().to_owned()),
            data_dir_is_temporary: data_dir.as_ref().is_some_and(DataDir::is_temporary),
            sandbox: None,
        },
    };
    if let Some(engine) = &engine {
        // Everything is bound; from here on root is the spawner's alone.
        engine.engine.drop_privileges()?;
    }
    let adapter = adapter_config(&settings, &endpoints);
    let common = settings.common.clone();
    tokio::spawn(startup::announce(common, Some(settings), endpoints));
    let listeners = Listeners {
        sessions: listener,
        metrics,
    };
    let Some(engine) = engine else {
        return Ok(adapter::serve(listeners, adapter, signals.first()).await?);
    };
    let mut failed = Ok(());
    let until = async { failed = engine.wait_for_shutdown(signals).await };
    adapter::serve(listeners, adapter, until).await?;
    engine.drain(Duration::ZERO).await;
    Ok(failed?)
}

async fn engine_alone(settings: EngineSettings) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let drain_timeout = settings.drain_timeout;
    let engine = RunningEngine::start(&settings).await?;
    engine.engine.drop_privileges()?;
    tokio::spawn(startup::announce(settings, None, engine.endpoints(None)));
    let failed = engine.wait_for_shutdown(signals).await;
    engine.drain(drain_timeout).await;
    Ok(failed?)
}

async fn show_runtimes(settings: RuntimesSettings) -> Result<(), Failure> {
    let programs = &settings.programs;
    let runtimes = match settings.backend.engine {
        EngineKind::Embedded => engine::discover(program_config(programs)).await?,
        EngineKind::Piston => startup::ask_runtimes(&programs.piston_url.base()).await?,
    };
    print!("{}", startup::table(&runtimes));
    Ok(())
}

async fn replay_all(directory: std::path::PathBuf, url: String) -> Result<(), Failure> {
    let report = replay::replay_with(&directory, &url, |line| println!("{line}")).await?;
    println!("{}", report.summary());
    if report.is_success() {
        Ok(())
    } else {
        Err("not every exchange was answered as recorded".into())
    }
}

/// The embedded engine in this process.
struct RunningEngine {
    engine: Engine,
    url: PistonUrl,
    _reserved_ports: Vec<ReservedPort>,
    data_dir_is_temporary: bool,
    shutdown: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl RunningEngine {
    async fn start(settings: &EngineSettings) -> Result<Self, Failure> {
        let piston_url = &settings.programs.piston_url;
        let address = piston_url
            .loopback()
            .ok_or("the embedded engine listens on loopback only")?;
        // Ahead of everything that changes something: it fails where another adapter is running.
        let listener = bind(address).await.map_err(|error| {
            format!(
                "{error} (the engine's address, --piston-url; a second adapter on this machine may \
                 take any free port: --piston-url http://127.0.0.1:0)"
            )
        })?;
        let reserved_ports = startup::reserve_ports(settings, &[Some(&listener)]);
        let config = engine_config(settings);
        let data_dir_is_temporary = config.data_dir.is_none();
        let engine = Engine::start(config)?;
        let url = piston_url.with_port(listener.local_addr()?.port());
        let (shutdown, stopped) = oneshot::channel();
        let serving = engine.clone();
        let served = tokio::spawn(async move {
            let until = async {
                let _ = stopped.await;
            };
            serving.serve(listener, until).await;
        });
        Ok(Self {
            engine,
            url,
            _reserved_ports: reserved_ports,
            data_dir_is_temporary,
            shutdown,
            served,
        })
    }

    fn endpoints(&self, listen: Option<SocketAddr>) -> Endpoints {
        Endpoints {
            listen,
            piston_url: self.url.base(),
            data_dir: Some(self.engine.data_dir().to_owned()),
            data_dir_is_temporary: self.data_dir_is_temporary,
            sandbox: Some(self.engine.sandbox().clone()),
        }
    }

    /// Waits for a signal, or until the engine is of no more use: then it is best that whoever
    /// started this program starts it anew.
    async fn wait_for_shutdown(&self, signals: Signals) -> Result<(), EngineError> {
        tokio::select! {
            () = signals.first() => Ok(()),
            error = self.engine.failed() => {
                tracing::error!(%error, "the engine has failed: going down");
                Err(error)
            }
        }
    }

    /// Lets jobs end for as long as `time`, then ends them, and waits until nothing is left.
    async fn drain(mut self, time: Duration) {
        // The receiver is gone only where the server is.
        let _ = self.shutdown.send(());
        if tokio::time::timeout(time, &mut self.served).await.is_err() {
            self.engine.kill_all();
            let _ = tokio::time::timeout(Duration::from_secs(2), self.served).await;
        }
    }
}

/// The directory of the session's files where the engine does not have them.
fn own_data_dir(settings: &EngineSettings) -> Result<DataDir, DataDirError> {
    match &settings.data_dir {
        Some(path) => {
            let data_dir = DataDir::open(path, settings.adopt_data_dir)?;
            data_dir.mark(None)?;
            Ok(data_dir)
        }
        None => DataDir::temporary(),
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}").into())
}

fn adapter_config(settings: &Settings, endpoints: &Endpoints) -> AdapterConfig {
    let common = &settings.common;
    AdapterConfig {
        engine: settings.backend.engine,
        access: settings.access(),
        piston_url: endpoints.piston_url.clone(),
        run_timeout: settings.run_timeout,
        max_run_timeout: common.max_run_timeout,
        compile_timeout: common.compile_timeout,
        max_body: common.max_body as usize,
        data_dir: endpoints.data_dir.clone().unwrap_or_default(),
        max_upload: settings.max_upload,
        data_bytes: common.jobs.data_limit,
        data_files: common.jobs.data_file_limit as u64,
        output_limit: common.output_limit as usize,
        memory_limit: common.programs.memory_limit,
        kernels: common.jobs.kernels.limit() > 0,
        max_jobs: common.max_jobs,
        queue: common.queue,
        metrics_path: settings.metrics == MetricsPlace::Path,
        drain_timeout: common.drain_timeout,
    }
}

fn engine_config(settings: &EngineSettings) -> EngineConfig {
    EngineConfig {
        max_jobs: settings.max_jobs,
        queue: settings.queue,
        run_timeout: settings.max_run_timeout,
        compile_timeout: settings.compile_timeout,
        run_cpu_time: Some(settings.cpu_limit()),
        output_limit: settings.output_limit as usize,
        // The adapter's request repeats a program with other escapes.
        max_body: 2 * settings.max_body as usize + (1 << 10),
        warm: settings.jobs.warm,
        preload: settings.jobs.preload(),
        kernels: KernelSettings {
            max_kernels: settings.jobs.kernels.limit(),
            memory_limit: settings.kernel_memory_limit(),
            interrupt_grace: settings.jobs.kernels.kernel_interrupt_grace,
            idle_timeout: settings.jobs.kernels.kernel_idle_timeout,
        },
        max_data_bytes: settings.jobs.data_limit,
        max_data_files: settings.jobs.data_file_limit as u64,
        access: settings.access(),
        data_dir: settings.data_dir.clone(),
        adopt_data_dir: settings.adopt_data_dir,
        ..program_config(&settings.programs)
    }
}

fn program_config(settings: &ProgramSettings) -> EngineConfig {
    let sandbox = &settings.sandbox;
    EngineConfig {
        memory_limit: settings.memory_limit,
        max_processes: sandbox.process_limit as u64,
        max_open_files: sandbox.open_file_limit as u64,
        max_file_size: sandbox.file_size_limit,
        max_job_bytes: sandbox.disk_limit,
        max_job_files: sandbox.disk_file_limit as u64,
        allow_network: sandbox.allow_network,
        allow_weak_sandbox: sandbox.allow_weak_sandbox,
        runtimes: sandbox.runtimes.clone(),
        json_log: startup::log_format(settings.log_format) == LogFormat::Json,
        ..EngineConfig::default()
    }
}
