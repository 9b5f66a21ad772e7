//! Hello from Redis: `config` -> `store` -> `http`.
pub mod config;
pub mod http;
pub mod store;

use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the service until SIGTERM or SIGINT; the exit code is the process's.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    let config = match config::Config::read(|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(errors) => {
            errors.iter().for_each(|e| tracing::error!("{e}"));
            return ExitCode::FAILURE;
        }
    };
    let done = tokio::runtime::Runtime::new().map_err(Into::into).and_then(|rt| rt.block_on(run(config)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: config::Config) -> Result<(), Box<dyn std::error::Error>> {
    let store = store::Store::new(&config)?;
    let port = config.bind_port;
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", port))
        .await
        .map_err(|e| format!("cannot listen on port {port}: {e}"))?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tracing::info!(port, "listening");
    warp::serve(http::routes(store))
        .incoming(listener)
        .graceful(async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        })
        .run()
        .await;
    Ok(())
}
