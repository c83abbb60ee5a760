//! The command line of session-adapter.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use session_adapter::adapter::{self, AdapterConfig};
use session_adapter::config::{self, Cli, Command, EngineKind, Flags, PistonUrl, Settings};
use session_adapter::engine::sandbox::{SPAWNER_ARGUMENT, spawner_main};
use session_adapter::engine::{Engine, EngineConfig};
use session_adapter::replay;
use session_adapter::startup::{self, DataDir, Signals};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What a compiler may take; the adapter waits this much longer than the run's own limit.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(20);

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    // Ahead of everything else: the spawner must have one thread.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == SPAWNER_ARGUMENT)
    {
        spawner_main();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Where even stderr is closed there is nobody left to tell.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { config::USAGE } else { 0 });
        }
    };
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(flags) => with_settings(&flags, serve),
        Command::Engine(flags) => with_settings(&flags, engine_alone),
        Command::Healthcheck { url } => run(startup::healthcheck(url)),
        Command::Runtimes(flags) => with_settings(&flags, show_runtimes),
        Command::Replay { directory, url } => run(replay_all(directory, url)),
    }
}

/// Judges the settings before anything else is done.
fn with_settings<F>(flags: &Flags, command: impl FnOnce(Settings) -> F) -> ExitCode
where
    F: Future<Output = Result<(), Failure>>,
{
    match Settings::judge(flags, |name| std::env::var(name).ok()) {
        Ok(settings) => {
            startup::init_log(settings.log_format);
            run(command(settings))
        }
        Err(error) => {
            eprintln!("session-adapter: {error}");
            ExitCode::from(config::USAGE)
        }
    }
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
            eprintln!("session-adapter: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: Settings) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let listener = bind(settings.listen).await?;
    let data_dir = DataDir::open(settings.data_dir.clone())?;
    let engine = match settings.engine {
        EngineKind::Embedded => Some(RunningEngine::start(&settings, data_dir.path()).await?),
        EngineKind::Piston => None,
    };
    let piston = engine
        .as_ref()
        .map_or(&settings.piston, |engine| &engine.url)
        .base();
    let adapter = adapter_config(&settings, piston.clone());
    let listen = Some(listener.local_addr()?);
    let data_path = data_dir.path().to_owned();
    tokio::spawn(startup::announce(settings, listen, piston, data_path));
    adapter::serve(listener, adapter, signals.first()).await?;
    if let Some(engine) = engine {
        engine.stop().await;
    }
    Ok(())
}

async fn engine_alone(settings: Settings) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let data_dir = DataDir::open(settings.data_dir.clone())?;
    let drain_timeout = settings.drain_timeout;
    let engine = RunningEngine::start(&settings, data_dir.path()).await?;
    let url = engine.url.base();
    let data_path = data_dir.path().to_owned();
    tokio::spawn(startup::announce(settings, None, url, data_path));
    signals.first().await;
    engine.drain(drain_timeout).await;
    Ok(())
}

async fn show_runtimes(settings: Settings) -> Result<(), Failure> {
    let data_dir = DataDir::open(settings.data_dir.clone())?;
    let engine = Engine::start(engine_config(&settings, data_dir.path()))?;
    print!("{}", startup::table(&engine.runtimes().await));
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
    shutdown: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl RunningEngine {
    async fn start(settings: &Settings, data_dir: &Path) -> Result<Self, Failure> {
        let address = settings
            .piston
            .loopback()
            .ok_or("the embedded engine listens on loopback only")?;
        let engine = Engine::start(engine_config(settings, data_dir))?;
        let listener = bind(address).await?;
        let url = settings.piston.with_port(listener.local_addr()?.port());
        let (shutdown, told) = oneshot::channel();
        let serving = engine.clone();
        let served = tokio::spawn(async move {
            let until = async {
                let _ = told.await;
            };
            serving.serve(listener, until).await;
        });
        Ok(Self {
            engine,
            url,
            shutdown,
            served,
        })
    }

    /// Ends every job and waits until nothing of it is left.
    async fn stop(self) {
        self.drain(Duration::ZERO).await;
    }

    /// Lets jobs end for as long as `time`, then ends them.
    async fn drain(mut self, time: Duration) {
        // The receiver is gone only where the server is.
        let _ = self.shutdown.send(());
        if tokio::time::timeout(time, &mut self.served).await.is_err() {
            self.engine.kill_all();
            let _ = tokio::time::timeout(Duration::from_secs(2), self.served).await;
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}").into())
}

fn adapter_config(settings: &Settings, piston_url: String) -> AdapterConfig {
    AdapterConfig {
        engine: settings.engine,
        piston_url,
        run_timeout: settings.run_timeout,
        max_run_timeout: settings.max_run_timeout,
        max_body: settings.max_body,
        output_limit: settings.output_limit,
        memory_limit: settings.memory_limit,
        max_jobs: settings.max_jobs,
        queue: settings.queue,
        drain_timeout: settings.drain_timeout,
    }
}

fn engine_config(settings: &Settings, data_dir: &Path) -> EngineConfig {
    EngineConfig {
        max_jobs: settings.max_jobs,
        queue: settings.queue,
        run_timeout: settings.max_run_timeout,
        compile_timeout: COMPILE_TIMEOUT,
        memory_limit: settings.memory_limit,
        output_limit: settings.output_limit,
        max_body: 2 * settings.max_body,
        data_dir: Some(data_dir.to_owned()),
        ..EngineConfig::default()
    }
}
