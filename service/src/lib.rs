//! Hello from Redis.
//!
//! `settings` (the table) -> `config`; `dial` (with `tls` and `secret`) -> `link` -> `store`; `stream` -> `server` -> `http`,
//! with a `trace` context, counted in `metrics`. `health` asks it from outside.
pub mod settings;
pub mod config;
pub mod secret;
pub mod tls;
pub mod dial;
pub mod link;
pub mod store;
pub mod stream;
pub mod server;
pub mod http;
pub mod trace;
pub mod metrics;
pub mod health;

use config::Config;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

const USAGE: &str = "\
usage: service [--config PATH]                 serve
       service [--config PATH] --healthcheck [URL]
                                               ask URL (default: its own /healthz): exit code 0 if it answers 200, else 1
       service --version
       service --help

settings, from the environment, or in lower case from the file (TOML); [default]:
";
/// All requests meet in one connection to Redis: more threads would only wait for it, and take memory.
const MAX_THREADS: usize = 4;
/// Threads for name look-ups and files; each look-up that hangs holds one, and the next must find another.
const MAX_BLOCKING_THREADS: usize = 32;
/// Files that are open beside clients' connections: Redis' connections, certificates, those that are being refused.
const OTHER_FILES: usize = 64 + server::REFUSALS;

/// Does what the arguments say; the exit code is the process's.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (config, rest) = match args.as_slice() {
        ["--config", path, rest @ ..] => (Some(*path), rest),
        all => (None, all),
    };
    match rest {
        [] => serve(config),
        ["--healthcheck"] => ended(health::check(&own_health(config)), ""),
        ["--healthcheck", url] => ended(health::check(url), ""),
        ["--version"] => ended(Ok(()), concat!("service ", env!("CARGO_PKG_VERSION"), "\n")),
        ["--help"] => ended(Ok(()), &format!("{USAGE}{}", settings::help())),
        _ => ended(Err(format!("unknown arguments: {} (--help lists those there are)", args.join(" "))), ""),
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

fn own_health(path: Option<&str>) -> String {
    let mut address = config::bind_address(path, env);
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}/healthz")
}

fn serve(path: Option<&str>) -> ExitCode {
    let (log, config) = Config::load(path, env);
    let colours = std::io::stdout().is_terminal();
    let subscriber = tracing_subscriber::fmt().with_env_filter(log.filter).with_ansi(colours);
    if log.text {
        subscriber.init()
    } else {
        subscriber.json().init()
    }
    let served = config.and_then(|config| served(config).map_err(|e| vec![e]));
    served
        .inspect_err(|errors| errors.iter().for_each(|e| tracing::error!("{e}")))
        .map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

fn served(config: Config) -> Result<(), String> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start threads: {e}"))?;
    let done = runtime.block_on(run(config));
    // Dropping it would wait for a name look-up that hangs.
    runtime.shutdown_background();
    done
}

/// Serves until SIGTERM or SIGINT.
async fn run(config: Config) -> Result<(), String> {
    let cannot_listen = |e| format!("cannot listen on {}: {e}", config.bind);
    let listener = TcpListener::bind(config.bind).await.map_err(cannot_listen)?;
    let signals =
        signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let (mut term, mut int) = signals.map_err(|e| format!("cannot wait for signals: {e}"))?;
    let metrics = Arc::<metrics::Metrics>::default();
    let (stage, seen) = watch::channel(http::Stage::Serving);
    let redis = Arc::new(config.redis);
    let link = link::Link::start(redis.clone(), metrics.clone());
    let store = Arc::new(store::Store::new(link, &redis.key, config.request_budget, metrics.clone()));
    let routes = http::routes(store, metrics.clone(), seen.clone());
    let front = Arc::new(http::Front { routes, metrics, stage: seen, complaints: http::Limit::default() });
    let server = server::Server {
        front,
        limits: config.limits,
        max_connections: affordable(config.max_connections),
        grace: config.shutdown_grace,
        stage,
    };
    tracing::info!(address = %config.bind, version = env!("CARGO_PKG_VERSION"), "listening");
    let stop = async {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    };
    match server.run(listener, stop).await.map_err(|e| format!("cannot serve: {e}"))? {
        true => tracing::info!("stopped"),
        false => tracing::warn!("stopped with requests still open"),
    }
    Ok(())
}

/// As many of `wanted` connections as leave files for the rest: without one, Redis could not be reached again.
fn affordable(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let open = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    let Some(open) = open.and_then(|n| n.parse::<usize>().ok()) else { return wanted };
    let most = open.saturating_sub(OTHER_FILES).max(1);
    if most < wanted {
        tracing::warn!(
            wanted,
            most,
            "fewer connections than MAX_CONNECTIONS: raise the limit of open files ({open})"
        );
    }
    wanted.min(most)
}
