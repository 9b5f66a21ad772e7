//! `cargo xtask images`: both images built from source by the Containerfile, what is in them, how the service starts out
//! of its image, and the compose file with it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::parts::{Engine, Place, Redis, Scratch, greeting, start_to_greeting};
use crate::sh::{as_root, command, output, run as must_run, shown, text};
use crate::tools::Tools;
use crate::{Failure, Outcome, compose, images};

/// What the service's image may have, compressed.
const LIMIT: u64 = 8_000_000;
/// What the service may take from its start to its first greeting.
const COLD_START: Duration = Duration::from_millis(50);
/// Longest wait for a greeting.
const PATIENCE: Duration = Duration::from_secs(20);
/// Everything that the Containerfile copies.
const CONTEXT: &[&str] =
    &["Containerfile", ".dockerignore", ".cargo", "Cargo.toml", "Cargo.lock", "service", "bundler", "xtask"];
const AIRLOCK: &str = "docker.io/airlock-dev/airlock:0.1.0";

/// Builds and checks everything; what was measured is printed.
///
/// # Errors
/// When a build fails, or something is not as it must be.
pub fn run(arm64: bool) -> Outcome {
    let tools = Tools::ensure()?;
    tools.docker_plugins()?;
    let scratch = Scratch::create()?;
    let engine = Engine::start(Place::Here, &scratch.path("engine"))?;
    let builder = Builder::new(&engine, &tools, &scratch)?;
    println!("the base image for the build is {}", builder.base_is);

    builder.build("hello", images::HELLO, &[])?;
    builder.only_the_service_is_built_again()?;
    let hello = builder.look_into(images::HELLO)?;
    hello.must_be("hello", &["hello"], native())?;
    if hello.compressed > LIMIT {
        return Err(format!("{} has {} bytes compressed, over {LIMIT}", images::HELLO, hello.compressed));
    }
    let redis = Redis::start(&scratch.path("redis.log"))?;
    starts_fast(&hello.program("hello")?, &redis)?;
    runs_confined(&engine, &redis)?;
    drop(redis);

    builder.build("airlock", AIRLOCK, &[])?;
    builder.look_into(AIRLOCK)?.must_be("airlock", &["airlock", "work/"], native())?;
    let version = output(&mut engine.docker(&["run", "--rm", "--network", "none", AIRLOCK, "--version"]))?;
    println!("           airlock's image says {version:?}");

    if arm64 {
        let tag = "docker.io/airlock-dev/hello:arm64";
        builder.build("hello", tag, &["--platform", "linux/arm64"])?;
        builder.look_into(tag)?.must_be("hello", &["hello"], "arm64")?;
    }
    compose::check(&engine, &tools, &scratch.path("compose"))
}

/// This machine's architecture, as images name it.
fn native() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// One line of the report.
pub fn report(took: Duration, what: &str, result: &str) {
    println!("{took:>9.1?}  {what:44} {result}");
}

/// buildx with the engine's BuildKit, and a base image that has Rust.
struct Builder<'a> {
    engine: &'a Engine,
    tools: &'a Tools,
    dir: PathBuf,
    base: String,
    network: &'static str,
    base_is: &'static str,
}

impl<'a> Builder<'a> {
    fn new(engine: &'a Engine, tools: &'a Tools, scratch: &Scratch) -> Result<Self, Failure> {
        let dir = scratch.path("context");
        fs::create_dir(&dir).map_err(|e| format!("making {}: {e}", dir.display()))?;
        let copy = [&["--recursive", "--target-directory", text(&dir)?], CONTEXT].concat();
        must_run(&mut command("cp", &copy))?;
        let containerfile =
            fs::read_to_string("Containerfile").map_err(|e| format!("reading Containerfile: {e}"))?;
        let base = containerfile.lines().find_map(|line| line.strip_prefix("ARG RUST_IMAGE="));
        let base = base.ok_or("Containerfile: no line begins with ARG RUST_IMAGE=")?;
        let pull = command("timeout", &["300", "docker", "--host", &engine.host(), "pull", "--quiet", base])
            .output();
        if pull.is_ok_and(|o| o.status.success()) {
            // The engine has no bridge: a build reaches crates.io by the machine's own network.
            let base_is = "Docker Hub's, by digest";
            return Ok(Self { engine, tools, dir, base: base.into(), network: "host", base_is });
        }
        let base = "airlock-xtask/rust".to_owned();
        import_base(engine, &tools.rust_base()?, scratch, &base)?;
        let base_is = "Debian testing with Rust and vendored crates, made here (Docker Hub is not reachable)";
        Ok(Self { engine, tools, dir, base, network: "none", base_is })
    }

    /// Builds a target, and returns what the builder said.
    fn build(&self, target: &str, tag: &str, more: &[&str]) -> Result<String, Failure> {
        let start = Instant::now();
        let base = format!("RUST_IMAGE={}", self.base);
        let file = self.dir.join("Containerfile");
        let args: [&[&str]; 4] = [
            &["build", "--progress", "plain", "--network", self.network, "--load", "--build-arg", &base],
            &["--file", text(&file)?, "--target", target, "--tag", tag],
            more,
            &[text(&self.dir)?],
        ];
        let mut build = command("docker-buildx", &args.concat());
        build.env("PATH", self.tools.path()?).env("DOCKER_HOST", self.engine.host());
        let done = build.output().map_err(|e| format!("{}: could not be started: {e}", shown(&build)))?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        if !done.status.success() {
            return Err(format!("{}: {}\n{said}", shown(&build), done.status));
        }
        report(start.elapsed(), &format!("built {target} {}", more.join(" ")), tag);
        Ok(said)
    }

    /// A changed source file must leave the layer of the dependencies as it is.
    fn only_the_service_is_built_again(&self) -> Outcome {
        let file = self.dir.join("service/src/main.rs");
        let changed =
            fs::OpenOptions::new().append(true).open(&file).and_then(|mut f| f.write_all(b"// changed\n"));
        changed.map_err(|e| format!("writing {}: {e}", file.display()))?;
        let said = self.build("hello", images::HELLO, &[])?;
        let step = |what: &str| {
            let number = said.lines().find(|l| l.contains("RUN") && l.contains(what))?.split(' ').next()?;
            said.lines().any(|line| line == format!("{number} CACHED")).into()
        };
        match (step("&& cargo build"), step("&& touch service")) {
            (Some(true), Some(false)) => Ok(()),
            _ => Err(format!(
                "a changed source file voids the dependencies' layer, or not the service's:\n{said}"
            )),
        }
    }

    /// An image as it is sent: layers compressed.
    fn look_into(&self, reference: &str) -> Result<Image, Failure> {
        let name = reference.rsplit('/').next().unwrap_or(reference).replace(':', "-");
        let dir = self.dir.with_file_name(name);
        let (from, to) = (format!("docker-daemon:{reference}"), format!("oci:{}", text(&dir)?));
        must_run(&mut command("skopeo", &["copy", "--src-daemon-host", &self.engine.host(), &from, &to]))?;
        let index = json(&dir.join("index.json"))?;
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            dir.join("blobs").join(digest.replace(':', "/"))
        };
        let manifest = json(&blob(&index["manifests"][0]))?;
        let config = json(&blob(&manifest["config"]))?;
        let layers = manifest["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let compressed: u64 = layers.iter().filter_map(|layer| layer["size"].as_u64()).sum();
        println!("           {reference}: {:.2} MB compressed", compressed as f64 / 1e6);
        Ok(Image { dir: dir.clone(), config, layers: layers.iter().map(blob).collect(), compressed })
    }
}

/// Makes the base image: the Debian, and the workspace's crates in its `CARGO_HOME`.
fn import_base(engine: &Engine, debian: &Path, scratch: &Scratch, name: &str) -> Outcome {
    let (dir, tar) = (scratch.path("base"), scratch.path("base.tar"));
    let vendor = dir.join("cargo/vendor");
    must_run(&mut command("cargo", &["vendor", "--quiet", "--locked", "--versioned-dirs", text(&vendor)?]))?;
    let config = "[source.crates-io]\nreplace-with = \"vendored\"\n\n[source.vendored]\ndirectory = \"/cargo/vendor\"\n";
    fs::write(dir.join("cargo/config.toml"), config)
        .map_err(|e| format!("writing below {}: {e}", dir.display()))?;
    must_run(&mut command("cp", &["--reflink=auto", text(debian)?, text(&tar)?]))?;
    let append =
        ["--append", "--file", text(&tar)?, "--owner=0", "--group=0", "--directory", text(&dir)?, "cargo"];
    must_run(&mut command("tar", &append))?;
    must_run(&mut engine.docker(&["import", "--change", "ENV CARGO_HOME=/cargo", text(&tar)?, name]))?;
    fs::remove_file(&tar).map_err(|e| format!("removing {}: {e}", tar.display()))
}

/// An image in a directory, in OCI layout.
struct Image {
    dir: PathBuf,
    config: Value,
    layers: Vec<PathBuf>,
    compressed: u64,
}

impl Image {
    /// # Errors
    /// When there is anything else in it than these files, or its configuration is another.
    fn must_be(&self, title: &str, files: &[&str], architecture: &str) -> Outcome {
        let mut found = Vec::new();
        for layer in &self.layers {
            found.extend(output(&mut command("tar", &["-tzf", text(layer)?]))?.lines().map(str::to_owned));
        }
        found.sort();
        if found != files {
            return Err(format!("the image of {title} holds {found:?}, not {files:?}"));
        }
        let config = &self.config["config"];
        let label =
            |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap_or("");
        let missing = ["title", "description", "source", "licenses", "version", "revision"];
        let missing: Vec<_> = missing.into_iter().filter(|name| label(name).is_empty()).collect();
        let program = format!("/{title}");
        match (
            label("title") == title,
            missing.as_slice(),
            config["User"].as_str(),
            config["Entrypoint"][0].as_str(),
        ) {
            (true, [], Some("65532:65532"), Some(start)) if start == program => {}
            _ => {
                return Err(format!(
                    "the image of {title} is configured otherwise: {config}; missing: {missing:?}"
                ));
            }
        }
        // The machine that the program is for: bytes 18 and 19 of an ELF file.
        let elf =
            fs::read(self.program(title)?).map_err(|e| format!("reading the program of {title}: {e}"))?;
        let machine = match elf.get(18..20) {
            Some([62, 0]) => "amd64",
            Some([183, 0]) => "arm64",
            _ => "neither amd64 nor arm64",
        };
        match (self.config["architecture"] == architecture, machine == architecture) {
            (true, true) => Ok(()),
            _ => Err(format!("the image of {title} is not for {architecture}: its program is for {machine}")),
        }
    }

    /// The program in its last layer.
    fn program(&self, name: &str) -> Result<PathBuf, Failure> {
        let layer = self.layers.last().ok_or("the image has no layer")?;
        must_run(&mut command("tar", &["-xzf", text(layer)?, "-C", text(&self.dir)?, name]))?;
        Ok(self.dir.join(name))
    }
}

/// The program itself, without any engine: from its start to the first greeting, out of a file that is not in memory.
fn starts_fast(program: &Path, redis: &Redis) -> Outcome {
    let mut took = Vec::new();
    for _ in 0..11 {
        let forget = format!("if={}", text(program)?);
        must_run(&mut command("dd", &[&forget, "iflag=nocache", "count=0"]))?;
        took.push(start_to_greeting(program, redis, PATIENCE)?);
    }
    took.sort();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    report(
        median,
        "from the program's start to its first greeting",
        &format!("median of 11; {most:.1?} at most"),
    );
    if median > COLD_START {
        return Err(format!("the service takes {median:.1?} to its first greeting, over {COLD_START:?}"));
    }
    Ok(())
}

/// Out of its image, with nothing allowed.
fn runs_confined(engine: &Engine, redis: &Redis) -> Outcome {
    let port = Place::Here.free_port()?;
    let settings = redis.settings(port).map(|(name, value)| format!("--env={name}={value}"));
    let settings = settings.each_ref().map(String::as_str);
    let confined =
        ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--health-interval=1s"];
    let args =
        [&["run", "--detach", "--network=host"], confined.as_slice(), &settings, &[images::HELLO]].concat();
    let begin = Instant::now();
    let id = output(&mut engine.docker(&args))?;
    greeting(port, PATIENCE)?;
    let all = begin.elapsed();
    let answered =
        SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| format!("reading the clock: {e}"))?;
    let inspect = |what: &str| output(&mut engine.docker(&["inspect", "--format", what, &id]));
    let started = output(&mut command("date", &["--date", &inspect("{{.State.StartedAt}}")?, "+%s%N"]))?;
    let started =
        started.parse().map(Duration::from_nanos).map_err(|e| format!("reading a start time: {e}"))?;
    report(
        answered.saturating_sub(started),
        "from the container's start to the first greeting",
        "as the engine notes it",
    );
    report(all, "from `docker run` to the first greeting", "the engine's own work included");

    let pid = inspect("{{.State.Pid}}")?;
    let status = output(&mut as_root("cat", &[&format!("/proc/{pid}/status")]))?;
    for line in [
        "Uid:\t65532",
        "Gid:\t65532",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        if !status.contains(line) {
            return Err(format!("the service in its container is not confined: no {line:?} in\n{status}"));
        }
    }
    let end = Instant::now() + Duration::from_secs(20);
    while inspect("{{.State.Health.Status}}")? != "healthy" {
        if Instant::now() > end {
            return Err(format!(
                "the container does not become healthy: {}",
                inspect("{{json .State.Health}}")?
            ));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    must_run(&mut engine.docker(&["rm", "--force", &id]))
}

fn json(file: &Path) -> Result<Value, Failure> {
    let content = fs::read(file).map_err(|e| format!("reading {}: {e}", file.display()))?;
    serde_json::from_slice(&content).map_err(|e| format!("reading {}: {e}", file.display()))
}
