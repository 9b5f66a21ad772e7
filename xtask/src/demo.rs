//! `cargo xtask demo`: the main job, end to end, from nothing; every step is a command that a person would type.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::images::{self, BUSYBOX, HELLO, REDIS, Upstream, WEB, WEB_CHART_VERSION};
use crate::parts::{Engine, Netns, Place, Registry, Scratch, Served};
use crate::sh::{as_root, command, output, run as quietly, text};
use crate::tools::Tools;
use crate::{Failure, Outcome};

const PASSWORD: &str = "a password for the demo's key only";
/// What the bundle is called when it is carried.
const BUNDLE: &str = "hello.tar";

/// Runs it. `cluster` also installs for real: into the current context of kubeconfig, or the one named.
///
/// # Errors
/// At the first step that fails.
pub fn run(cluster: Option<Option<&str>>) -> Outcome {
    let tools = Tools::ensure()?;
    println!("building airlock and the service");
    let (airlock, service) = (images::release("bundler", "airlock")?, images::release("service", "service")?);
    let scratch = Scratch::create()?;
    let mut story = Story {
        scratch: &scratch,
        path: tools.path()?.to_string_lossy().into(),
        rows: Vec::new(),
        begin: Instant::now(),
    };

    let locked = connected(&mut story, &tools, &airlock, &service)?;
    disconnected(&mut story, &locked)?;
    if let Some(context) = cluster {
        install(&mut story, context)?;
    }
    story.table();
    Ok(())
}

/// Each carried image, and the digest of what upstream had under its reference.
type Digests = Vec<(String, String)>;

/// The side with a network: images, lock, keys, build. What it leaves is in `site/`, as if it had been carried there.
fn connected(story: &mut Story, tools: &Tools, airlock: &Path, service: &Path) -> Result<Digests, Failure> {
    story.part("The connected side");
    let (engine, upstream) = story.step("images made, upstream registry filled", |story| {
        let engine = Engine::start(Place::Here, &story.scratch.path("e"))?;
        let registry = Registry::start(Place::Here, &story.scratch.path("upstream"))?;
        let upstream = Upstream::fill(registry, &engine, tools, service, &story.scratch.path("images"))?;
        let result = format!("{} images, a chart; Redis is {}", upstream.digests.len(), upstream.redis);
        Ok(((engine, upstream), result))
    })?;

    let dir = story.dir("connected")?;
    let helm = dir.join("helm");
    let built = fs::canonicalize(find_helm(tools)?).map_err(|e| format!("finding helm: {e}"))?;
    fs::copy(&built, &helm).map_err(|e| format!("copying helm: {e}"))?;
    write_spec(&dir, &upstream, &helm)?;
    println!("bundle.toml:\n{}", indented(&read(&dir.join("bundle.toml"))?));
    let here = Airlock { place: Place::Here, program: airlock, dir: &dir };
    let network = [("DOCKER_HOST", engine.host()), ("AIRLOCK_MIRRORS", upstream.mirrors())];
    story.step("airlock lock", |story| {
        let said = here.shows(story, &["lock"], &network)?;
        Ok(((), said.lines().last().unwrap_or_default().to_owned()))
    })?;
    story.step("airlock keys generate", |story| {
        Ok((here.shows(story, &["keys", "generate"], &[])?, "airlock.key, airlock.pub".into()))
    })?;
    story.step("airlock build, signed", |story| {
        here.shows(story, &["build", "--key", "airlock.key", "--output", BUNDLE], &network)?;
        Ok(((), size(&dir.join(BUNDLE))?))
    })?;
    // What upstream has: proof for later that nothing was changed on the way.
    let mut digests = Digests::new();
    for reference in [REDIS, WEB, BUSYBOX] {
        let there = format!("{}/{reference}", upstream.registry.host);
        let resolve = ["resolve", "--plain-http", "--platform", "linux/amd64", &there];
        digests.push((reference.into(), output(command("oras", &resolve).env("PATH", &story.path))?));
    }
    story.step("upstream stopped; three files carried over", |story| {
        drop((engine, upstream));
        let site = story.dir("site")?;
        for name in [BUNDLE, "airlock.pub"] {
            fs::rename(dir.join(name), site.join(name)).map_err(|e| format!("carrying {name} over: {e}"))?;
        }
        fs::copy(airlock, site.join("airlock")).map_err(|e| format!("carrying airlock over: {e}"))?;
        Ok(((), format!("airlock ({}), {BUNDLE}, airlock.pub", size(airlock)?)))
    })?;
    Ok(digests)
}

/// The side without: a network namespace that has loopback only, and three files.
fn disconnected(story: &mut Story, digests: &Digests) -> Outcome {
    story.part("The disconnected side: nothing but loopback, no HOME, no CA files named");
    let netns = Netns::create()?;
    let place = Place::In(&netns);
    println!("{}", indented(&output(&mut place.command("ip", &["-brief", "address"]))?));
    let site = story.dir("site")?;
    let program = site.join("airlock");
    let airlock = Airlock { place, program: &program, dir: &site };

    story.step("airlock verify", |story| {
        Ok(((), after(&airlock.shows(story, &["verify", BUNDLE, "--key", "airlock.pub"], &[])?, "; ")))
    })?;
    story.step("airlock inspect", |story| {
        let said = airlock.shows(story, &["inspect", BUNDLE, "--key", "airlock.pub"], &[])?;
        let count = |what: &str| said.lines().filter(|line| line.starts_with(what)).count();
        Ok(((), format!("{} charts, {} images, {} file", count("chart "), count("image "), count("file "))))
    })?;
    let served = story.step("airlock serve, straight from the tar", |story| {
        let log = story.scratch.path("serve.log");
        let served = Served::start(place, &program, &site.join(BUNDLE), &site.join("airlock.pub"), &log)?;
        println!("$ airlock serve {BUNDLE} --key airlock.pub\n{}", indented(&read(&log)?));
        let result = format!("read-only registry at {}", served.host);
        Ok((served, result))
    })?;
    let registry = Registry::start(place, &story.scratch.path("registry"))?;
    for title in ["airlock push, into CNCF distribution", "airlock push again"] {
        story.step(title, |story| {
            let said = airlock.shows(
                story,
                &["push", BUNDLE, "--registry", &registry.host, "--key", "airlock.pub"],
                &[],
            )?;
            Ok(((), after(&said, " has ")))
        })?;
    }
    story.step("pulled back by skopeo", |story| compare(story, place, &registry.host, digests))?;
    story.step("airlock install --dry-run", |story| {
        let args = ["install", BUNDLE, "--key", "airlock.pub", "--registry", &registry.host, "--dry-run"];
        let manifests = airlock.output(story, &args, &[])?;
        println!("$ airlock {}\n{}", args.join(" "), indented(&manifests));
        let rewritten = manifests.lines().filter(|line| line.contains(&registry.host)).count();
        Ok((
            (),
            format!(
                "{rewritten} references in {} lines of manifests, all to {}",
                manifests.lines().count(),
                registry.host
            ),
        ))
    })?;
    story.step("the service and its Redis, out of the bundle", |story| greet(story, place, &served.host))
}

/// Pulls images whole out of the second registry, and compares their digests with upstream's.
fn compare(story: &Story, place: Place, registry: &str, digests: &Digests) -> Result<((), String), Failure> {
    for (reference, expected) in digests {
        let there = format!("docker://{registry}/{reference}");
        let dir = story.dir("pulled")?;
        let to = format!("dir:{}", dir.display());
        let mut copy = place.command("skopeo", &["copy", "--src-tls-verify=false", &there, &to]);
        quietly(copy.env("PATH", &story.path))?;
        let raw = place
            .command("skopeo", &["inspect", "--raw", "--tls-verify=false", &there])
            .env("PATH", &story.path)
            .output();
        let raw = raw.map_err(|e| format!("starting skopeo: {e}"))?.stdout;
        let file = story.scratch.path("raw");
        fs::write(&file, raw).map_err(|e| format!("writing {}: {e}", file.display()))?;
        let sum = output(&mut command("sha256sum", &[text(&file)?]))?;
        let found = format!("sha256:{}", sum.split(' ').next().unwrap_or_default());
        println!("    {reference}\n      upstream {expected}\n      here     {found}");
        if &found != expected {
            return Err(format!("{reference} is another image than upstream's"));
        }
        quietly(&mut as_root("rm", &["-rf", text(&dir)?]))?;
    }
    Ok(((), format!("{} images, each with upstream's digest", digests.len())))
}

/// A Docker engine behind the gap pulls from `serve`, runs Redis and the service, and two visitors are greeted.
fn greet(story: &Story, place: Place, serve: &str) -> Result<((), String), Failure> {
    let engine = Engine::start(place, &story.scratch.path("f"))?;
    let docker = |args: &[&str]| {
        println!("$ docker {}", args.join(" "));
        output(&mut engine.docker(args))
    };
    let (redis, hello) = (format!("{serve}/{REDIS}"), format!("{serve}/{HELLO}"));
    docker(&["pull", "--quiet", &redis])?;
    docker(&["pull", "--quiet", &hello])?;
    let confined = ["run", "--detach", "--network", "host", "--read-only", "--cap-drop", "ALL"];
    let settings =
        ["--user", "999:1000", "--entrypoint", "redis-server", &redis, "--save", "", "--requirepass", "demo"];
    docker(&[&confined[..], &settings].concat())?;
    docker(
        &[
            &confined[..],
            &[
                "--env",
                "REDIS_HOST=127.0.0.1",
                "--env",
                "REDIS_PASSWORD=demo",
                "--env",
                "BIND_PORT=8000",
                &hello,
            ],
        ]
        .concat(),
    )?;
    let curl = |path: &str| {
        let url = format!("http://127.0.0.1:8000{path}");
        output(&mut place.command(
            "curl",
            &[
                "--silent",
                "--fail",
                "--noproxy",
                "*",
                "--retry",
                "40",
                "--retry-delay",
                "1",
                "--retry-all-errors",
                &url,
            ],
        ))
    };
    curl("/readyz")?;
    let mut last = String::new();
    for seen in 1..=2 {
        last = curl("/")?;
        println!("$ curl http://127.0.0.1:8000/\n{}", indented(&last));
        if last != format!("Hello from Redis! I have been seen {seen} times.") {
            return Err(format!("greeting {seen} is {last:?}"));
        }
    }
    Ok(((), last))
}

/// The real thing, where there is a cluster. Its nodes pull from a registry on this machine, or from the one that
/// `AIRLOCK_DEMO_REGISTRY` names.
fn install(story: &mut Story, context: Option<&str>) -> Outcome {
    story.part("A cluster");
    let site = story.dir("site")?;
    let (_running, registry) = match std::env::var("AIRLOCK_DEMO_REGISTRY") {
        Ok(registry) => (None, registry),
        Err(_) => {
            let registry = Registry::start(Place::Here, &story.scratch.path("cluster"))?;
            let host = registry.host.clone();
            (Some(registry), host)
        }
    };
    story.step("airlock install", |story| {
        let mut args = vec!["install", BUNDLE, "--key", "airlock.pub", "--registry", &registry];
        args.extend(context.iter().flat_map(|context| ["--kube-context", context]));
        let home = std::env::var("HOME").unwrap_or_default();
        let kubeconfig = std::env::var("KUBECONFIG").unwrap_or(format!("{home}/.kube/config"));
        let airlock = Airlock { place: Place::Here, program: &site.join("airlock"), dir: &site };
        let said = airlock.shows(story, &args, &[("HOME", home), ("KUBECONFIG", kubeconfig)])?;
        Ok(((), said.lines().last().unwrap_or_default().to_owned()))
    })
}

/// What the repository's own bundle.toml wants, and beside it a stranger's chart and helm itself.
fn write_spec(dir: &Path, upstream: &Upstream, helm: &Path) -> Outcome {
    let root = std::env::current_dir().map_err(|e| format!("finding the repository: {e}"))?;
    let chart = root.join("charts");
    // A link to it would lead out of the directory of bundle.toml, which `lock` refuses.
    quietly(command("cp", &["-r", text(&chart)?]).arg(dir))?;
    let sum = output(&mut command("sha256sum", &[text(helm)?]))?;
    let spec = read(Path::new("bundle.toml"))?;
    let more = format!(
        "\n[[chart]]\noci = \"{}\"\nversion = \"{WEB_CHART_VERSION}\"\n\n[[image]]\nref = \"{BUSYBOX}\"\n\n\
         [[file]]\nname = \"helm\"\npath = \"helm\"\nsha256 = \"{}\"\nplatform = \"linux/{}\"\n",
        upstream.web_chart(),
        sum.split(' ').next().unwrap_or_default(),
        output(&mut command("dpkg", &["--print-architecture"]))?,
    );
    let file = dir.join("bundle.toml");
    fs::write(&file, spec + &more).map_err(|e| format!("writing {}: {e}", file.display()))
}

fn find_helm(tools: &Tools) -> Result<PathBuf, Failure> {
    let path = tools.path()?;
    let found = std::env::split_paths(&path).map(|dir| dir.join("helm")).find(|file| file.exists());
    found.ok_or_else(|| "helm is not on PATH".into())
}

/// `airlock` as somebody runs it in a directory.
struct Airlock<'a> {
    place: Place<'a>,
    program: &'a Path,
    dir: &'a Path,
}

impl Airlock<'_> {
    fn output(&self, story: &Story, args: &[&str], env: &[(&str, String)]) -> Result<String, Failure> {
        let mut words = vec![format!("PATH={}", story.path), format!("AIRLOCK_PASSWORD={PASSWORD}")];
        words.push(format!("XDG_CACHE_HOME={}", story.scratch.path("cache").display()));
        words.extend(env.iter().map(|(name, value)| format!("{name}={value}")));
        // By env, so that HOME and the rest are gone, under sudo too.
        let clean: Vec<&str> = ["-i"].into_iter().chain(words.iter().map(String::as_str)).collect();
        let airlock: Vec<&str> = [text(self.program)?].into_iter().chain(args.iter().copied()).collect();
        let mut command: Command = self.place.command("env", &[clean, airlock].concat());
        let done = command.current_dir(self.dir).output().map_err(|e| format!("starting airlock: {e}"))?;
        if done.status.success() {
            Ok(String::from_utf8_lossy(&done.stdout).into())
        } else {
            Err(format!(
                "airlock {}: {}\n{}",
                args.join(" "),
                done.status,
                String::from_utf8_lossy(&done.stderr)
            ))
        }
    }

    fn shows(&self, story: &Story, args: &[&str], env: &[(&str, String)]) -> Result<String, Failure> {
        println!("$ airlock {}", args.join(" "));
        let said = self.output(story, args, env)?;
        println!("{}", indented(&said));
        Ok(said)
    }
}

/// What happened, for the table at the end.
struct Story<'a> {
    scratch: &'a Scratch,
    /// `PATH` of what runs.
    path: String,
    rows: Vec<(&'static str, String, Duration)>,
    begin: Instant,
}

impl Story<'_> {
    fn part(&self, title: &str) {
        println!("\n=== {title} ===\n");
    }

    /// Does something that has a result in words, and takes the time.
    fn step<T>(
        &mut self,
        title: &'static str,
        work: impl FnOnce(&Self) -> Result<(T, String), Failure>,
    ) -> Result<T, Failure> {
        println!("--- {title}");
        let begin = Instant::now();
        let (value, result) = work(self).map_err(|why| format!("{title}: {why}"))?;
        self.rows.push((title, result, begin.elapsed()));
        Ok(value)
    }

    fn dir(&self, name: &str) -> Result<PathBuf, Failure> {
        let dir = self.scratch.path(name);
        fs::create_dir_all(&dir).map_err(|e| format!("making {}: {e}", dir.display()))?;
        Ok(dir)
    }

    fn table(&self) {
        let width = self.rows.iter().map(|(title, ..)| title.len()).max().unwrap_or_default();
        println!("\n=== What happened ===\n");
        for (title, result, time) in &self.rows {
            println!("{:>6.2} s  {title:width$}  {result}", time.as_secs_f64());
        }
        println!("{:>6.2} s  in all, after the build", self.begin.elapsed().as_secs_f64());
    }
}

/// What follows a mark in what a program said; all of it where there is no mark.
fn after(said: &str, mark: &str) -> String {
    said.trim().split_once(mark).map_or(said.trim(), |(_, rest)| rest).to_owned()
}

fn read(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|e| format!("reading {}: {e}", file.display()))
}

fn size(file: &Path) -> Result<String, Failure> {
    let bytes = fs::metadata(file).map_err(|e| format!("measuring {}: {e}", file.display()))?.len();
    Ok(format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)))
}

fn indented(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
