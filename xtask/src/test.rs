//! `cargo xtask test`: sets up the real parts, runs every test, adds up the results.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cluster::{self, Cluster};
use crate::images::{self, Upstream};
use crate::parts::{Engine, Place, Registry, Scratch};
use crate::sh::{command, is_root, output};
use crate::tools::Tools;
use crate::{Failure, Outcome};

/// Results of one or several test binaries.
#[derive(Default, Debug, PartialEq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`; other lines add nothing.
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        for part in counts.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// The real parts that tests find by their environment.
struct World {
    upstream: Upstream,
    registry: Registry,
    engine: Engine,
    tools: Tools,
    // Last, since the others keep their files in it.
    _scratch: Scratch,
}

impl World {
    fn set_up() -> Result<Self, Failure> {
        let tools = Tools::ensure()?;
        let scratch = Scratch::create()?;
        let hello = images::release("service", "service")?;
        println!("starting a registry, an upstream registry and a Docker engine; making images");
        let registry = Registry::start(Place::Here, &scratch.path("registry"))?;
        let upstream = Registry::start(Place::Here, &scratch.path("upstream"))?;
        let engine = Engine::start(Place::Here, &scratch.path("engine"))?;
        let upstream = Upstream::fill(upstream, &engine, &tools, &hello, &scratch.path("images"))?;
        println!("Redis is {}", upstream.redis);
        Ok(Self { upstream, registry, engine, tools, _scratch: scratch })
    }

    /// What `bundler/tests/it/interop.rs` reads.
    fn environment(&self) -> Result<Vec<(&'static str, OsString)>, Failure> {
        let images =
            serde_json::to_string(&self.upstream.digests).map_err(|e| format!("writing JSON: {e}"))?;
        Ok(vec![
            ("PATH", self.tools.path()?),
            ("AIRLOCK_TEST_UPSTREAM", self.upstream.registry.host.clone().into()),
            ("AIRLOCK_TEST_REGISTRY", self.registry.host.clone().into()),
            ("AIRLOCK_TEST_DOCKER_HOST", self.engine.host().into()),
            ("AIRLOCK_TEST_CONTAINERD", self.engine.containerd().into()),
            ("AIRLOCK_TEST_WEB_CHART", self.upstream.web_chart().into()),
            ("AIRLOCK_TEST_WEB_CHART_VERSION", images::WEB_CHART_VERSION.into()),
            ("AIRLOCK_TEST_MIRRORS", self.upstream.mirrors().into()),
            ("AIRLOCK_TEST_IMAGES", images.into()),
        ])
    }
}

/// Sets up the parts, prints what tests find them by, and keeps them until a line or the end of stdin.
///
/// # Errors
/// When a part can't be set up.
pub fn env() -> Outcome {
    let world = World::set_up()?;
    for (name, value) in world.environment()? {
        println!("export {name}='{}'", value.to_string_lossy());
    }
    std::io::stdin().read_line(&mut String::new()).map_err(|e| format!("reading stdin: {e}"))?;
    Ok(())
}

/// Runs all tests; the last line printed is `N passed, N failed, N skipped`. Those on a cluster are run `with_cluster`, and
/// are skipped otherwise; the cluster stays up for the next run, but for continuous integration.
///
/// # Errors
/// When a part can't be set up, a test fails, or no test ran.
pub fn run(with_cluster: bool, args: &[&str]) -> Outcome {
    let world = World::set_up()?;
    let mut environment = world.environment()?;
    let mut tally = Tally::default();
    let mut skip = Vec::new();
    let mut not_run = String::new();
    let listed = output(&mut command("cargo", &["test", "--workspace", "--", "--list"]))?;
    let mut leave_out = |tests: Vec<String>, why: &str| {
        not_run += &format!("not run: {} tests {why}\n", tests.len());
        tally.skipped += tests.len() as u64;
        skip.extend(tests);
    };
    if with_cluster {
        let cluster = Cluster::up(&world.tools)?;
        cluster.forget_images()?;
        environment.extend(cluster.environment().into_iter().map(|(name, value)| (name, value.into())));
    } else {
        leave_out(on_cluster(&listed), "on a Kubernetes; cargo xtask test --cluster runs them");
    }
    if !has_corpus() {
        let why = "of public charts as helm renders them: there is no ../shared/corpus, and AIRLOCK_CORPUS names none";
        leave_out(on_corpus(&listed), why);
    }
    // Under nohup, or in a shell's background, signals are ignored, and programs that tests stop would go on.
    let mut cargo = Command::new("env");
    cargo.args(["--default-signal=HUP,INT,TERM", "cargo", "test", "--workspace", "--no-fail-fast"]);
    cargo.args(["--", "--include-ignored"]).args(args);
    for test in &skip {
        cargo.args(["--skip", test]);
    }
    if !is_root() {
        // Tests fill a disk of their own, enter a chroot, and ask containerd.
        let path = world.tools.path()?;
        let runner = format!("sudo -n -E env PATH={}", path.to_string_lossy());
        cargo.env(format!("CARGO_TARGET_{}_RUNNER", target()?), runner);
    }
    let mut cargo = cargo
        .envs(environment)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("starting cargo test: {e}"))?;
    if let Some(stdout) = cargo.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.map_err(|e| format!("reading what cargo test prints: {e}"))?;
            tally.add(&line);
            println!("{line}");
        }
    }
    let status = cargo.wait().map_err(|e| format!("waiting for cargo test: {e}"))?;
    drop(world);
    if with_cluster && std::env::var_os("CI").is_some() {
        cluster::down()?;
    }
    print!("{not_run}");
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    match (status.success(), tally.passed) {
        (true, 1..) => Ok(()),
        (true, 0) => Err("no test ran".into()),
        (false, _) => Err(format!("tests failed ({status}): see above")),
    }
}

/// The tests on a cluster, by their whole names, out of what a test binary lists.
fn on_cluster(listed: &str) -> Vec<String> {
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    names.filter(|name| name.starts_with("cluster::")).map(str::to_owned).collect()
}

/// The tests that read the corpus of rendered charts, by their whole names.
fn on_corpus(listed: &str) -> Vec<String> {
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    names.filter(|name| name.contains("corpus")).map(str::to_owned).collect()
}

/// Whether the corpus is where its tests look for it.
fn has_corpus() -> bool {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let dir = std::env::var_os("AIRLOCK_CORPUS").map_or_else(beside, PathBuf::from);
    dir.join("truth.json").is_file()
}

/// This machine's target, as cargo spells it in a variable's name.
fn target() -> Result<String, Failure> {
    let version = output(&mut command("rustc", &["-vV"]))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or("rustc -vV names no host")?;
    Ok(host.to_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_on_a_cluster_are_told_by_their_module() {
        let listed = "charts::cluster::a: test\ncluster::install::b: test\ncluster::c: benchmark\n\n2 tests";
        assert_eq!(on_cluster(listed), ["cluster::install::b"]);
        assert_eq!(on_corpus("corpus::a: test\nyaml::of_the_corpus: test\nb: test\n").len(), 2);
    }

    #[test]
    fn result_lines_add_up_and_others_do_not() {
        let mut tally = Tally::default();
        tally.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        tally.add("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.add("test says: 7 passed");
        assert_eq!(tally, Tally { passed: 5, failed: 4, skipped: 1 });
    }
}
