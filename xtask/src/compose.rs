//! The compose file, run for real: up, a greeting, Redis killed, down and up again, and Prometheus beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::containerfile::report;
use crate::images::{self, copy_with_libraries};
use crate::parts::{Engine, Place};
use crate::sh::{as_root, command, output, run, text};
use crate::tools::Tools;
use crate::{Failure, Outcome};

const PROMETHEUS: &str = "docker.io/prom/prometheus:stand-in";
/// How long a greeting may take, from nothing but the images.
const A_MINUTE: Duration = Duration::from_secs(60);

/// Runs it in an engine that has the service's image.
///
/// # Errors
/// When something is not as it must be.
pub fn check(engine: &Engine, tools: &Tools, dir: &Path) -> Outcome {
    let found = |program: &str| {
        output(command("sh", &["-c", &format!("command -v {program}")]).env("PATH", tools.path()?))
    };
    let redis = [found("redis-server")?, found("redis-cli")?];
    stand_in(engine, &dir.join("redis"), images::REDIS, &redis, "/data", "999:1000")?;
    let prometheus = tools.prometheus()?;
    let prometheus = [prometheus.join("prometheus"), prometheus.join("promtool")];
    let prometheus = [text(&prometheus[0])?.to_owned(), text(&prometheus[1])?.to_owned()];
    stand_in(engine, &dir.join("prometheus"), PROMETHEUS, &prometheus, "/prometheus", "65534:65534")?;
    println!("Redis and Prometheus are Debian's, each alone in an image");

    let project = Project::new(engine, tools)?;
    for profile in ["", "dev", "monitoring", "*"] {
        run(&mut project.compose(&["--profile", profile, "config", "--quiet"])?)?;
    }
    project.comes_up_and_keeps_the_count()?;
    project.is_watched()
}

/// An image of some of the machine's programs, with a data directory as the official image has it.
fn stand_in(engine: &Engine, dir: &Path, tag: &str, programs: &[String], data: &str, owner: &str) -> Outcome {
    fs::create_dir_all(dir.join("data")).map_err(|e| format!("making {}: {e}", dir.display()))?;
    for program in programs {
        let name = program.rsplit('/').next().unwrap_or(program);
        copy_with_libraries(program, dir, &format!("usr/local/bin/{name}"))?;
    }
    let dockerfile = format!(
        "FROM scratch\nCOPY root /\nCOPY --chown={owner} data {data}\nWORKDIR {data}\nENV PATH=/usr/local/bin\n"
    );
    fs::write(dir.join("Dockerfile"), dockerfile)
        .map_err(|e| format!("writing below {}: {e}", dir.display()))?;
    run(engine.docker(&["build", "--quiet", "--tag", tag, text(dir)?]).env("DOCKER_BUILDKIT", "0"))
}

/// The compose file as a project of our own, taken down when it is dropped.
struct Project<'a> {
    engine: &'a Engine,
    compose: PathBuf,
    name: String,
    port: String,
    prometheus: String,
}

impl<'a> Project<'a> {
    fn new(engine: &'a Engine, tools: &Tools) -> Result<Self, Failure> {
        let port = || Place::Here.free_port().map(|port| port.to_string());
        let name = format!("airlock-xtask-{}", std::process::id());
        Ok(Self { engine, compose: tools.docker_compose(), name, port: port()?, prometheus: port()? })
    }

    fn compose(&self, args: &[&str]) -> Result<Command, Failure> {
        let mut compose = command(text(&self.compose)?, &[&["--project-name", &self.name], args].concat());
        compose.env("DOCKER_HOST", self.engine.host());
        compose.env("REDIS_IMAGE", images::REDIS).env("PROMETHEUS_IMAGE", PROMETHEUS);
        compose.env("HELLO_PORT", &self.port).env("PROMETHEUS_PORT", &self.prometheus);
        Ok(compose)
    }

    fn up(&self, services: &[&str]) -> Outcome {
        let args = [&["up", "--detach", "--wait", "--wait-timeout", "60", "--no-build"], services].concat();
        run(&mut self.compose(&args)?)
    }

    /// What a service's container has in `docker inspect`.
    fn inspect(&self, service: &str, what: &str) -> Result<String, Failure> {
        let id = output(&mut self.compose(&["ps", "--all", "--quiet", service])?)?;
        output(&mut self.engine.docker(&["inspect", "--format", what, &id]))
    }

    /// The count of a greeting, if there is one.
    fn count(&self) -> Option<u64> {
        let url = format!("http://127.0.0.1:{}/", self.port);
        let greeting = output(&mut command("curl", &["--silent", "--fail", "--noproxy", "*", &url])).ok()?;
        greeting.split_whitespace().find_map(|word| word.parse().ok())
    }

    fn comes_up_and_keeps_the_count(&self) -> Outcome {
        let begin = Instant::now();
        self.up(&[])?;
        let first = self.count().ok_or("compose is up, but there is no greeting")?;
        let took = begin.elapsed();
        report(took, "from `docker compose up` to a greeting", &format!("count {first}"));
        if first != 1 || took > A_MINUTE {
            return Err(format!("the first greeting has count {first} after {took:.1?}"));
        }
        // An engine drops a limit when the kernel lacks the controller for it, and only warns.
        for (service, memory) in [("hello", 64), ("redis", 128)] {
            let limits = self.inspect(
                service,
                "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.ReadonlyRootfs}}",
            )?;
            let wanted = format!("{} 500000000 256 true", memory * 1024 * 1024);
            if limits != wanted {
                return Err(format!("{service} has the limits {limits:?}, not {wanted:?}"));
            }
        }

        let pid = self.inspect("redis", "{{.State.Pid}}")?;
        run(&mut as_root("kill", &["-KILL", &pid]))?;
        let killed = Instant::now();
        while self.inspect("redis", "{{.State.Pid}}")? == pid {
            std::thread::sleep(Duration::from_millis(50));
        }
        let second = wait_for("a greeting after Redis was killed", || self.count())?;
        report(killed.elapsed(), "Redis killed, back by itself", &format!("count {second}"));

        run(&mut self.compose(&["down"])?)?;
        self.up(&[])?;
        let third = self.count().ok_or("compose is up again, but there is no greeting")?;
        // A hit that was answered by 503 may have been counted or not.
        if second <= first || third <= second || third > first + 20 {
            return Err(format!(
                "the count is not kept: {first}, after a kill {second}, after down and up {third}"
            ));
        }
        println!("           down and up again: count {third}");
        Ok(())
    }

    fn is_watched(&self) -> Outcome {
        self.up(&["prometheus"])?;
        let query = |path: &str| -> Option<Value> {
            let url = format!("http://127.0.0.1:{}/api/v1/{path}", self.prometheus);
            let answer =
                output(&mut command("curl", &["--silent", "--fail", "--noproxy", "*", &url])).ok()?;
            serde_json::from_str(&answer).ok()
        };
        wait_for("Prometheus to scrape the service", || {
            let targets = query("targets")?;
            let targets = targets["data"]["activeTargets"].as_array()?.clone();
            targets.iter().any(|t| t["labels"]["job"] == "hello" && t["health"] == "up").then_some(())
        })?;
        let rules = |state: &'static str| {
            let answer = query("rules")?;
            let groups = answer["data"]["groups"].as_array()?.clone();
            let rules = groups.iter().filter_map(|group| group["rules"].as_array()).flatten();
            let names = rules.filter(|rule| rule["health"] == "ok" && rule["state"] == state);
            let names: Vec<String> =
                names.filter_map(|rule| rule["name"].as_str().map(str::to_owned)).collect();
            (!names.is_empty()).then_some(names)
        };
        let quiet = wait_for("Prometheus to evaluate the rules", || rules("inactive"))?;
        run(&mut self.compose(&["stop", "redis"])?)?;
        let begin = Instant::now();
        wait_for("HelloRedisDown to be pending", || {
            rules("pending")?.iter().any(|name| name == "HelloRedisDown").then_some(())
        })?;
        let result = format!("HelloRedisDown is pending, of {} alerts", quiet.len());
        report(begin.elapsed(), "Redis stopped, seen by Prometheus", &result);
        Ok(())
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        if let Ok(mut down) = self.compose(&["--profile", "*", "down", "--volumes", "--timeout", "2"]) {
            let _ = down.output();
        }
    }
}

/// Asks until there is an answer.
fn wait_for<T>(what: &str, ask: impl Fn() -> Option<T>) -> Result<T, Failure> {
    let end = Instant::now() + A_MINUTE;
    while Instant::now() < end {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Err(format!("waited a minute in vain for {what}"))
}
