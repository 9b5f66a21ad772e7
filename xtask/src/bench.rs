//! `cargo xtask bench service`: the service beside what it replaces, on the same Redis, in one run. The other
//! ones are in [`rewrite`], [`transfer`] and [`large`].

pub mod large;
mod measure;
pub mod rewrite;
pub mod transfer;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::images;
use crate::parts::{Place, Redis, Running, Scratch, start_to_greeting};
use crate::sh::{command, output, text};
use crate::tools::{self, Tools};
use crate::{Failure, Outcome};

/// Connections that wrk and redis-benchmark keep busy.
const CONNECTIONS: &str = "64";
/// Each of them is measured so often, in turn; the medians count.
const ROUNDS: usize = 5;
/// How long each measurement takes.
const DURATION: &str = "4s";
/// Commands that redis-benchmark sends a round: some seconds' worth.
const COMMANDS: &str = "150000";
/// Starts from nothing to the first greeting.
const STARTS: usize = 21;
/// Longest wait for each of those greetings.
const PATIENCE: Duration = Duration::from_secs(10);
/// The original's libraries, of one day.
const PEERS: [&str; 3] = ["flask==3.1.3", "redis==8.1.0", "gunicorn==27.0.1"];

/// What one tool said of one server.
struct Load {
    /// Requests a second.
    rate: f64,
    /// The 99th percentile of the latency.
    p99: Duration,
}

/// A server under load, and what was measured of it.
struct Subject {
    name: &'static str,
    server: Running,
    port: u16,
    loads: Vec<Load>,
}

/// Measures, and prints the table.
///
/// # Errors
/// When a part can't be set up, or a server answered anything but 200.
pub fn service() -> Outcome {
    let tools = Tools::ensure()?;
    tools::packages(&[("wrk", "wrk"), ("redis-benchmark", "redis-tools"), ("python3", "python3-venv")])?;
    let python = tools.python(&PEERS)?;
    let binary = images::release("service", "service")?;
    let scratch = Scratch::create()?;
    let redis = Redis::start(&scratch.path("redis.log"))?;

    let start = |_| start_to_greeting(&binary, &redis, PATIENCE).map(|took| took.as_secs_f64());
    let starts = median((0..STARTS).map(start).collect::<Result<_, _>>()?);
    let workers = "--workers=4";
    let app = fs::canonicalize("xtask/bench").map_err(|e| format!("finding xtask/bench: {e}"))?;
    let program = |name: &str| python.join("bin").join(name).display().to_string();
    let (app, chdir) = (app.join("app.py").display().to_string(), format!("--chdir={}", app.display()));
    let mut subjects = [
        ("Flask, development server", program("python"), vec![app]),
        ("Flask, gunicorn, 4 workers", program("gunicorn"), vec![workers.into(), chdir, "app:app".into()]),
        ("service", text(&binary)?.into(), vec![]),
    ]
    .into_iter()
    .enumerate()
    .map(|(number, (name, program, mut args))| {
        let port = Place::Here.free_port()?;
        if name.contains("gunicorn") {
            args.push(format!("--bind=127.0.0.1:{port}"));
        }
        let mut command = Command::new(program);
        command.args(args).envs(redis.settings(port));
        let mut server = Running::start(&command, &scratch.path(&format!("server{number}.log")))?;
        server.listens(port)?;
        Ok(Subject { name, server, port, loads: Vec::new() })
    })
    .collect::<Result<Vec<_>, Failure>>()?;

    let mut incr = Vec::new();
    for round in 1..=ROUNDS {
        println!("round {round} of {ROUNDS}");
        for subject in &mut subjects {
            subject.loads.push(wrk(subject.port)?);
        }
        incr.push(redis_benchmark(redis.port)?);
    }
    table(&mut subjects, incr, starts)
}

/// The load that wrk makes, and the server's answer to it.
fn wrk(port: u16) -> Result<Load, Failure> {
    let url = format!("http://127.0.0.1:{port}/");
    let said = output(&mut command("wrk", &["-t2", "-c", CONNECTIONS, "-d", DURATION, "--latency", &url]))?;
    if let Some(line) = said.lines().find(|l| l.contains("Non-2xx") || l.contains("Socket errors")) {
        return Err(format!("{url}: {}", line.trim()));
    }
    let field = |mark: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(mark));
        line.map(str::trim).ok_or_else(|| format!("wrk did not say {mark:?}:\n{said}"))
    };
    let rate = field("Requests/sec:")?.parse().map_err(|e| format!("wrk's rate: {e}"))?;
    Ok(Load { rate, p99: latency(field("99%")?).ok_or_else(|| format!("wrk's latency:\n{said}"))? })
}

/// A time as wrk writes it: `850.00us`, `3.51ms`, `1.02s`.
fn latency(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let seconds = match &text[unit..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Some(Duration::from_secs_f64(text[..unit].parse::<f64>().ok()? * seconds))
}

/// `INCR` a second, without pipelining.
fn redis_benchmark(port: u16) -> Result<f64, Failure> {
    let port = port.to_string();
    let args = ["-p", &port, "-c", CONNECTIONS, "-n", COMMANDS, "--csv", "-t", "incr"];
    let said = output(&mut command("redis-benchmark", &args))?;
    let rate =
        said.lines().find_map(|line| line.strip_prefix("\"INCR\",\"")?.split('"').next()?.parse().ok());
    rate.ok_or_else(|| format!("redis-benchmark said no rate:\n{said}"))
}

/// The largest resident memory of a process and its children so far, in KiB.
fn memory(pid: u32) -> Result<u64, Failure> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut sum = 0;
    for pid in children.split_whitespace().map(str::to_owned).chain([pid.to_string()]) {
        let file = PathBuf::from("/proc").join(pid).join("status");
        let status = fs::read_to_string(&file).map_err(|e| format!("reading {}: {e}", file.display()))?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        sum += peak.unwrap_or(0);
    }
    Ok(sum)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn table(subjects: &mut [Subject], incr: Vec<f64>, start: f64) -> Outcome {
    let incr = median(incr);
    println!("\nMedians of {ROUNDS} rounds of {DURATION}, {CONNECTIONS} connections, loopback, one Redis\n");
    println!("| server | requests/s | p99, ms | peak memory, MiB |\n|---|---:|---:|---:|");
    let mut figures = Vec::new();
    for subject in subjects {
        let rate = median(subject.loads.iter().map(|load| load.rate).collect());
        let p99 = median(subject.loads.iter().map(|load| load.p99.as_secs_f64() * 1e3).collect());
        let memory = memory(subject.server.id())? as f64 / 1024.0;
        println!("| {} | {rate:.0} | {p99:.2} | {memory:.1} |", subject.name);
        figures.push((rate, p99, memory));
    }
    println!("| redis-benchmark, INCR | {incr:.0} | | |\n");
    let [flask, gunicorn, ours] = figures[..] else { return Err("a server is missing".into()) };
    let bars = [
        ("requests, to Flask's development server", ours.0 / flask.0, "at least", 40.0),
        ("requests, to gunicorn", ours.0 / gunicorn.0, "at least", 12.0),
        ("requests, to redis-benchmark's INCR", ours.0 / incr, "at least", 0.5),
        ("p99, to the better of the two", ours.1 / flask.1.min(gunicorn.1), "below", 1.0),
        ("resident memory, MiB", ours.2, "below", 15.0),
        ("cold start to first greeting, ms", start * 1e3, "below", 50.0),
    ];
    println!("| the service | measured | bar | |\n|---|---:|---|---|");
    for (name, value, relation, bar) in bars {
        let met = if relation == "below" { value < bar } else { value >= bar };
        println!("| {name} | {value:.2} | {relation} {bar} | {} |", if met { "met" } else { "MISSED" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrks_times_are_read_in_their_units() {
        assert_eq!(latency("850.00us"), Some(Duration::from_micros(850)));
        assert_eq!(latency("3.50ms"), Some(Duration::from_micros(3500)));
        assert_eq!(latency("1.50s"), Some(Duration::from_millis(1500)));
        assert_eq!((latency("3"), latency("x")), (None, None));
    }
}
