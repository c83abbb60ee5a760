//! The command line of session-adapter.

use std::future::Future;
use std::process::ExitCode;

use clap::Parser;
use session_adapter::adapter::{self, AdapterConfig};
use session_adapter::config::{self, Cli, Command, Flags, Settings};
use session_adapter::startup::{self, DataDir, Signals};
use tokio::net::TcpListener;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
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
        Command::Engine(flags) => with_settings(&flags, serve),
        Command::Healthcheck { url } => {
            run(async move { startup::healthcheck(&url).await.map_err(Failure::from) })
        }
        Command::Runtimes => ExitCode::SUCCESS,
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
    let adapter = adapter_config(&settings, settings.piston.base());
    let piston_url = adapter.piston_url.clone();
    tokio::spawn(startup::announce(
        settings,
        piston_url,
        data_dir.path().to_owned(),
    ));
    adapter::serve(listener, adapter, signals.first()).await?;
    Ok(())
}

async fn bind(address: std::net::SocketAddr) -> Result<TcpListener, Failure> {
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
