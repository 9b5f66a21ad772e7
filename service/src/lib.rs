//! Hello from Redis: `config` -> `store` -> `http`, counted in `metrics`; `health` asks it from outside.
pub mod config;
pub mod health;
pub mod http;
pub mod metrics;
pub mod store;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

const USAGE: &str = "\
usage: service                       serve; the settings come from the environment
       service --healthcheck [URL]   ask URL (default: its own /healthz): exit code 0 if it answers 200, else 1
       service --version
";

/// How long requests that are being answered may take once the service is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Does what the arguments say; the exit code is the process's.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => serve(),
        ["--healthcheck"] => ended(own_health(), ""),
        ["--healthcheck", url] => ended(health::check(url), ""),
        ["--version"] => ended(Ok(()), concat!("service ", env!("CARGO_PKG_VERSION"), "\n")),
        ["--help"] => ended(Ok(()), USAGE),
        _ => ended(Err(format!("unknown arguments: {}\n{USAGE}", args.join(" "))), ""),
    }
}

/// The end of a short command: `text` on stdout, or the error on stderr.
fn ended(outcome: Result<(), String>, text: &str) -> ExitCode {
    let written = match &outcome {
        Ok(()) => std::io::stdout().write_all(text.as_bytes()),
        Err(e) => writeln!(std::io::stderr(), "error: {e}"),
    };
    if outcome.is_ok() && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn env(name: &str) -> Option<String> {
    // What is not UTF-8 must fail where it is used, not count as unset.
    std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())
}

fn own_health() -> Result<(), String> {
    health::check(&format!("http://127.0.0.1:{}/healthz", config::bind_port(env)?))
}

fn serve() -> ExitCode {
    let config = config::Config::read(env);
    let filter = config.as_ref().map_or("info", |c| &c.log);
    tracing_subscriber::fmt().json().with_env_filter(filter).init();
    let done =
        config.map_err(|errors| errors.iter().for_each(|e| tracing::error!("{e}"))).and_then(|config| {
            tokio::runtime::Runtime::new()
                .map_err(Into::into)
                .and_then(|rt| {
                    let done = rt.block_on(run(&config));
                    // Dropping it would wait for a name look-up that hangs.
                    rt.shutdown_background();
                    done
                })
                .map_err(|e| tracing::error!("{e}"))
        });
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Serves until SIGTERM or SIGINT, and then for as long as open requests take, at most [`GRACE`].
async fn run(config: &config::Config) -> Result<(), Box<dyn std::error::Error>> {
    let store = store::Store::new(config)?;
    let port = config.bind_port;
    let listener = TcpListener::bind(("0.0.0.0", port))
        .await
        .map_err(|e| format!("cannot listen on port {port}: {e}"))?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stop, stopped) = oneshot::channel();
    tracing::info!(port, version = env!("CARGO_PKG_VERSION"), "listening");
    let server = warp::serve(http::routes(store, Arc::default())).incoming(listener).graceful(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("stopping");
        let _ = stop.send(());
    });
    let grace_is_over = async {
        let _ = stopped.await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        () = server.run() => tracing::info!("stopped"),
        () = grace_is_over => tracing::warn!(seconds = GRACE.as_secs(), "stopped with requests still open"),
    }
    Ok(())
}
