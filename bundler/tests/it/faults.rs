//! `lock` and `build` when they are killed half-way or told lies, as their exit codes and what they leave show it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bundler::digest::Digest;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use warp::reply::Response;

use crate::liar::{Asked, Liar, answer, broken_off, streamed};
use crate::parts::{Registry, signal};
use crate::world::{Run, World, names};

/// What an honest registry would answer.
#[derive(Clone)]
pub struct Content {
    pub media_type: String,
    pub bytes: Bytes,
}

impl Content {
    pub fn answer(&self) -> Option<Response> {
        Some(answer(200, &[("content-type", &self.media_type)], self.bytes.clone()))
    }
}

/// What is answered instead; nothing ever, with `None`.
type Twist = Box<dyn Fn(&Asked, &Content) -> Option<Response> + Send + Sync>;

/// The registry quay.io, with the images of a world's OCI layouts in it: repository and directory have the same name.
pub struct Upstream {
    pub liar: Liar,
    twist: Arc<Mutex<Twist>>,
}

impl Upstream {
    pub async fn of(world: &World) -> Self {
        let root = world.path("");
        let twist: Arc<Mutex<Twist>> = Arc::new(Mutex::new(Box::new(|_, content| content.answer())));
        let chosen = twist.clone();
        let liar = Liar::start(move |asked| match find(&root, &asked.target) {
            Some(content) => chosen.lock().expect("a lock")(asked, &content),
            None if asked.target == "/v2/" => Some(answer(200, &[], "{}")),
            None => Some(answer(404, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#)),
        })
        .await;
        Self { liar, twist }
    }

    pub fn honest(&self) {
        self.instead(|_, content| content.answer());
    }

    fn instead(&self, twist: impl Fn(&Asked, &Content) -> Option<Response> + Send + Sync + 'static) {
        *self.twist.lock().expect("a lock") = Box::new(twist);
    }

    /// Something else for each layer.
    pub fn layers(&self, twist: impl Fn(&Asked, &Content) -> Option<Response> + Send + Sync + 'static) {
        self.instead(
            move |asked, content| {
                if is_layer(asked, content) { twist(asked, content) } else { content.answer() }
            },
        );
    }

    pub fn command(&self, world: &World, args: &[&str]) -> Command {
        let mut command = world.command(args);
        command.env("AIRLOCK_MIRRORS", format!("quay.io={}", self.liar.host));
        command
    }

    pub fn run(&self, world: &World, args: &[&str]) -> Run {
        self.command(world, args).output().expect("airlock").into()
    }

    fn build(&self, world: &World, output: &str) -> Run {
        self.run(world, &["build", "--key", "airlock.key", "--output", output])
    }
}

pub fn is_layer(asked: &Asked, content: &Content) -> bool {
    asked.target.contains("/blobs/") && content.bytes.first() != Some(&b'{')
}

fn find(root: &Path, target: &str) -> Option<Content> {
    let (repository, rest) = target.strip_prefix("/v2/")?.split_once('/')?;
    let layout = root.join(repository);
    let (_, wanted) = rest.split_once('/')?;
    let digest = match wanted.strip_prefix("sha256:") {
        Some(hex) => hex.to_owned(),
        None => {
            let index = fs::read(layout.join("index.json")).ok()?;
            let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
            index["manifests"][0]["digest"].as_str().expect("a digest")["sha256:".len()..].to_owned()
        }
    };
    let bytes = Bytes::from(fs::read(layout.join("blobs/sha256").join(digest)).ok()?);
    let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let media_type = value["mediaType"].as_str().unwrap_or("application/octet-stream").to_owned();
    Some(Content { media_type, bytes })
}

/// A world with keys, whose spec asks for these images of quay.io. Its layouts are what [`Upstream`] has.
pub fn world_of(images: &[&str]) -> World {
    let world = World::new();
    world.keys("airlock");
    for image in images {
        world.image(image, &["linux/amd64"], image.as_bytes());
    }
    ask_for(&world, images);
    world
}

pub fn ask_for(world: &World, images: &[&str]) {
    let ask = |image: &&str| format!("[[image]]\nref = \"quay.io/{image}:1\"\n");
    world.spec(&images.iter().map(ask).collect::<String>());
}

pub const BUILD: [&str; 5] = ["build", "--key", "airlock.key", "--output", "app.tar"];

/// Waits for something that takes a moment.
#[track_caller]
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets the registry stop in the middle of each answer that `which` picks, and says when one was asked for.
fn stall(
    upstream: &Upstream,
    which: impl Fn(&Asked, &Content) -> bool + Send + Sync + 'static,
) -> Arc<AtomicBool> {
    let reached = Arc::new(AtomicBool::new(false));
    let seen = reached.clone();
    upstream.instead(move |asked, content| {
        if !which(asked, content) {
            return content.answer();
        }
        seen.store(true, Ordering::Relaxed);
        let start = stream::iter([Ok(content.bytes.slice(..1))]);
        let size = content.bytes.len().to_string();
        Some(streamed(200, &[("content-length", &size)], start.chain(stream::pending())))
    });
    reached
}

/// Starts airlock and waits until the registry has stalled.
fn start(upstream: &Upstream, world: &World, args: &[&str], reached: &AtomicBool) -> Child {
    reached.store(false, Ordering::Relaxed);
    let child = upstream.command(world, args).stderr(Stdio::piped()).spawn().expect("airlock");
    wait_until("the registry is asked", || reached.load(Ordering::Relaxed));
    child
}

/// Asks a process to stop, and waits until it has.
pub fn stop(child: Child, name: &str) -> Run {
    let started = Instant::now();
    signal(&child, name);
    let run = Run::from(child.wait_with_output().expect("airlock"));
    assert!(started.elapsed() < Duration::from_secs(5), "SIG{name} took {:?}", started.elapsed());
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_build_leaves_no_bundle_and_the_next_one_clears_up() {
    let world = world_of(&["redis", "web"]);
    let upstream = Upstream::of(&world).await;
    upstream.run(&world, &["lock"]).exits(0);
    let before = names(&world.path(""));

    let reached = stall(&upstream, is_layer);
    let killed = start(&upstream, &world, &BUILD, &reached);
    assert_eq!(stop(killed, "KILL").code, -1);
    // `airlock build --help` says that this is left.
    let partial = world.path("app.tar.partial");
    assert!(fs::metadata(&partial).expect("the unfinished bundle").len() > 0);
    assert!(!world.path("app.tar").exists());
    world.run(&["verify", "app.tar.partial", "--key", "airlock.pub"]).exits(2);
    // Larger than the next one will be.
    File::options().write(true).open(&partial).and_then(|f| f.set_len(64 << 20)).expect("a larger file");

    upstream.honest();
    upstream.build(&world, "app.tar").exits(0);
    world.run(&["verify", "app.tar", "--key", "airlock.pub"]).exits(0);
    fs::remove_file(world.path("app.tar")).expect("removed");
    assert_eq!(names(&world.path("")), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_stopped_leaves_nothing() {
    let world = world_of(&["redis", "web"]);
    let upstream = Upstream::of(&world).await;
    upstream.run(&world, &["lock"]).exits(0);
    world.write("app.tar", b"the one before");
    let before = names(&world.path(""));
    let reached = stall(&upstream, is_layer);
    for (name, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let child = start(&upstream, &world, &[&BUILD[..], &["--force"]].concat(), &reached);
        assert!(world.path("app.tar.partial").exists());
        stop(child, name).exits(code).says(&format!("building: stopped by SIG{name}"));
        assert_eq!(names(&world.path("")), before);
        assert_eq!(fs::read(world.path("app.tar")).expect("the older bundle"), b"the one before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_stopped_or_killed_is_the_old_one() {
    let world = world_of(&["redis", "web"]);
    let upstream = Upstream::of(&world).await;
    ask_for(&world, &["redis"]);
    upstream.run(&world, &["lock"]).exits(0);
    ask_for(&world, &["redis", "web"]);
    let (before, lock) = (names(&world.path("")), fs::read(world.path("images.lock")).expect("the lock"));
    let reached = stall(&upstream, |asked, _| asked.target.starts_with("/v2/web/manifests/"));
    for (name, code) in [("TERM", 143), ("INT", 130), ("HUP", 129), ("KILL", -1)] {
        let run = stop(start(&upstream, &world, &["lock"], &reached), name).exits(code);
        assert_eq!(run.stderr.contains("pinning: stopped by SIG"), code > 0, "{}", run.stderr);
        assert_eq!(names(&world.path("")), before);
        assert_eq!(fs::read(world.path("images.lock")).expect("the lock"), lock);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_stopped_leaves_nothing_in_the_cache() {
    let world = World::new();
    world.spec("[[image]]\nref = \"app:1\"\nfrom = \"docker-daemon:app:1\"\n");
    let engine = Liar::start(|asked| {
        if !asked.target.ends_with("/get") {
            return Some(answer(200, &[], format!(r#"{{"Id":"{}"}}"#, Digest::of(b"config"))));
        }
        let mut header = tar::Header::new_ustar();
        header.set_path("layer.tar").expect("a path");
        header.set_size(1 << 20);
        header.set_cksum();
        let start = [header.as_bytes().to_vec(), vec![7; 4096]].concat();
        Some(streamed(200, &[], stream::iter([Ok(start.into())]).chain(stream::pending())))
    })
    .await;
    let mut command = world.command(&["lock"]);
    command.env("DOCKER_HOST", format!("tcp://{}", engine.host)).stderr(Stdio::piped());
    let child = command.spawn().expect("airlock");
    let cached = world.path("cache/airlock/blobs/sha256");
    wait_until("the layer is on its way", || cached.exists() && !names(&cached).is_empty());
    stop(child, "TERM").exits(143).says("pinning: stopped by SIGTERM");
    assert_eq!(names(&cached), [""; 0]);
    assert!(!world.path("images.lock").exists());
}

#[test]
fn a_lock_killed_at_any_moment_is_old_or_new() {
    let world = World::with_bundle();
    let head = "platforms = [\"linux/amd64\"]\n[[image]]\nref = \"redis:8\"\nfrom = \"oci:redis\"\n";
    let specs = [1, 2].map(|version| format!("name = \"app\"\nversion = \"{version}\"\n{head}"));
    let started = Instant::now();
    world.run(&["lock", "--check"]).exits(0);
    let step = started.elapsed() / 20;
    let (mut old, mut finished, mut delay) = (0, 0, Duration::ZERO);
    // Later each time, until it is too late: however slow the machine is just now, all moments are tried.
    while finished < 3 {
        let before = fs::read(world.path("images.lock")).expect("the lock");
        let of_first = String::from_utf8_lossy(&before).contains("bundle_version = \"1\"");
        world.write("bundle.toml", specs[usize::from(of_first)].as_bytes());
        let mut child = world.command(&["lock"]).stdout(Stdio::null()).spawn().expect("airlock");
        std::thread::sleep(delay);
        let _ = child.kill();
        finished += u32::from(child.wait().expect("airlock").success());
        if fs::read(world.path("images.lock")).expect("the lock") == before {
            old += 1;
        } else {
            // Whole, and of this spec.
            world.run(&["lock", "--check"]).exits(0);
        }
        delay += step;
        assert!(delay < Duration::from_secs(30), "it does not finish");
    }
    assert!(old > 0, "it was never killed in time");
}

/// What a registry does, how it ends and what is said.
type Lie = (&'static str, Box<dyn Fn(&Asked, &Content) -> Option<Response> + Send + Sync>, i32, &'static str);

/// The content with one bit flipped, or a space behind what is JSON.
fn other(content: &Content) -> Option<Response> {
    let mut bytes = content.bytes.to_vec();
    match bytes.first() {
        Some(b'{') => bytes.push(b' '),
        _ => bytes[20] ^= 1,
    }
    Content { bytes: bytes.into(), ..content.clone() }.answer()
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_to_build_end_with_the_documented_code_and_leave_nothing() {
    let world = world_of(&["redis"]);
    let upstream = Upstream::of(&world).await;
    upstream.run(&world, &["lock"]).exits(0);
    let before = names(&world.path(""));
    let lies: [Lie; 8] = [
        (
            "another layer",
            Box::new(|a, c| if is_layer(a, c) { other(c) } else { c.answer() }),
            2,
            "its content is sha256:",
        ),
        (
            "more of a layer",
            Box::new(|a, c| {
                let bytes =
                    if is_layer(a, c) { [&c.bytes[..], b"more"].concat().into() } else { c.bytes.clone() };
                Content { bytes, ..c.clone() }.answer()
            }),
            2,
            "there is more than",
        ),
        (
            "less of a layer",
            Box::new(|a, c| {
                let end = if is_layer(a, c) { 10 } else { c.bytes.len() };
                Content { bytes: c.bytes.slice(..end), ..c.clone() }.answer()
            }),
            3,
            "it ended after 10 of",
        ),
        (
            "a layer that breaks off, again and again",
            Box::new(|a, c| {
                if !is_layer(a, c) {
                    return c.answer();
                }
                Some(streamed(200, &[("content-length", "100")], broken_off(b"x")))
            }),
            3,
            "fetching blob quay.io/redis@sha256:",
        ),
        (
            "no layer",
            Box::new(|a, c| if is_layer(a, c) { Some(answer(404, &[], "")) } else { c.answer() }),
            3,
            "404 Not Found",
        ),
        (
            "no manifest",
            Box::new(
                |a, c| if a.target.contains("/manifests/") { Some(answer(404, &[], "")) } else { c.answer() },
            ),
            3,
            "404 Not Found",
        ),
        (
            "another manifest",
            Box::new(|a, c| if a.target.contains("/manifests/") { other(c) } else { c.answer() }),
            2,
            "fetching manifest quay.io/redis@sha256:",
        ),
        (
            "another config",
            Box::new(
                |a, c| if is_layer(a, c) || a.target.contains("/manifests/") { c.answer() } else { other(c) },
            ),
            2,
            "fetching blob quay.io/redis@sha256:",
        ),
    ];
    for (what, lie, code, says) in lies {
        upstream.instead(lie);
        let run = upstream.build(&world, "app.tar");
        assert_eq!(run.code, code, "{what}: {}", run.stderr);
        // The image, and where it was really asked for.
        let run = run.says(says).says("quay.io/redis@sha256:").says(&format!(" at {}", upstream.liar.host));
        assert_eq!(
            run.stderr.contains("hint: the registry, or something on the way"),
            code == 2,
            "{}",
            run.stderr
        );
        assert_eq!(names(&world.path("")), before, "{what}");
    }
    upstream.honest();
    upstream.build(&world, "app.tar").exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_to_lock_end_with_the_documented_code_and_leave_nothing() {
    let world = world_of(&["redis"]);
    let upstream = Upstream::of(&world).await;
    let before = names(&world.path(""));
    let declared = Digest::of(b"another").to_string();
    let lies: [Lie; 3] = [
        (
            "a manifest that is not what its header says",
            Box::new(move |a, c| {
                let headers = [("content-type", c.media_type.as_str()), ("docker-content-digest", &declared)];
                if !a.target.contains("/manifests/") {
                    return c.answer();
                }
                Some(answer(200, &headers, c.bytes.clone()))
            }),
            2,
            "fetching manifest quay.io/redis:1 at ",
        ),
        (
            "another config",
            Box::new(|a, c| if a.target.contains("/manifests/") { c.answer() } else { other(c) }),
            2,
            "fetching blob quay.io/redis@sha256:",
        ),
        (
            "no such image",
            Box::new(|_, _| Some(answer(404, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#))),
            3,
            "fetching manifest quay.io/redis:1 at ",
        ),
    ];
    for (what, lie, code, says) in lies {
        upstream.instead(lie);
        let run = upstream.run(&world, &["lock"]);
        assert_eq!(run.code, code, "{what}: {}", run.stderr);
        run.says(says).says("pinning an image that bundle.toml asks for");
        assert_eq!(names(&world.path("")), before, "{what}");
    }
    // An index that is honest, and a manifest below it that is not.
    world.image("redis", &["linux/amd64", "linux/arm64"], b"redis");
    upstream.instead(|a, c| if a.target.contains("/manifests/sha256:") { other(c) } else { c.answer() });
    upstream.run(&world, &["lock"]).exits(2).says("fetching manifest quay.io/redis@sha256:");
    assert!(!world.path("images.lock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_changes_nothing_and_an_image_that_goes_stops_build() {
    let world = world_of(&["redis"]);
    let upstream = Upstream::of(&world).await;
    upstream.run(&world, &["lock"]).exits(0);
    upstream.build(&world, "app.tar").exits(0);
    let (bundle, lock) = (fs::read(world.path("app.tar")), fs::read(world.path("images.lock")));
    let (bundle, lock) = (bundle.expect("the bundle"), lock.expect("the lock"));

    world.image("redis", &["linux/amd64"], b"redis, newer");
    upstream.build(&world, "again.tar").exits(0);
    assert_eq!(Digest::of(&fs::read(world.path("again.tar")).expect("the bundle")), Digest::of(&bundle));
    upstream.run(&world, &["lock"]).exits(0);
    assert_eq!(fs::read(world.path("images.lock")).expect("the lock"), lock);
    upstream.run(&world, &["lock", "--update"]).exits(0);
    assert_ne!(fs::read(world.path("images.lock")).expect("the lock"), lock);

    // Only the newer image is left upstream.
    world.write("images.lock", &lock);
    fs::remove_dir_all(world.path("redis")).expect("removed");
    world.image("redis", &["linux/amd64"], b"redis, newer");
    let run = upstream.build(&world, "again.tar").exits(3);
    run.says("quay.io/redis@sha256:").says("404 Not Found").says("does not have it");
    assert_eq!(
        Digest::of(&fs::read(world.path("again.tar")).expect("the older bundle")),
        Digest::of(&bundle)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_arrive_in_another_order_make_the_same_bundle() {
    let images = ["a", "b", "c", "d", "e", "f"];
    let world = world_of(&images);
    let upstream = Upstream::of(&world).await;
    upstream.run(&world, &["lock"]).exits(0);

    // Another directory, with another cache; the time is that of the clock.
    let elsewhere = World::new();
    ask_for(&elsewhere, &images);
    for name in ["airlock.key", "images.lock"] {
        fs::copy(world.path(name), elsewhere.path(name)).expect("copied");
    }
    let build = |world: &World, later: bool, epoch: Option<&str>| {
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let order = arrived.clone();
        upstream.layers(move |_, content| {
            let digest = Digest::of(&content.bytes);
            let rank = u64::from_str_radix(&digest.hex()[..2], 16).expect("hexadecimal digits");
            let delay = Duration::from_millis(if later { 255 - rank } else { rank });
            let (order, bytes) = (order.clone(), content.bytes.clone());
            let delayed = async move {
                tokio::time::sleep(delay).await;
                order.lock().expect("a lock").push(digest);
                Ok(bytes)
            };
            Some(streamed(200, &[], stream::once(delayed)))
        });
        let mut command = upstream.command(world, &BUILD);
        match epoch {
            Some(epoch) => command.env("SOURCE_DATE_EPOCH", epoch),
            None => command.env_remove("SOURCE_DATE_EPOCH"),
        };
        Run::from(command.output().expect("airlock")).exits(0);
        let order = arrived.lock().expect("a lock").clone();
        (order, fs::read(world.path("app.tar")).expect("the bundle"))
    };
    let (first_order, first) = build(&world, false, Some("1700000000"));
    let (second_order, second) = build(&elsewhere, true, None);
    let (_, third) = build(&elsewhere, false, Some("1900000000"));
    assert_eq!(first_order.len(), images.len());
    assert_ne!(first_order, second_order);
    assert!(first == second && first == third, "{} {}", Digest::of(&first), Digest::of(&second));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real parts: cargo xtask test"]
async fn a_bundle_built_from_the_registry_that_it_was_pushed_to_is_the_same() {
    let world = world_of(&["a", "b", "c"]);
    let upstream = Upstream::of(&world).await;
    upstream.run(&world, &["lock"]).exits(0);
    upstream.build(&world, "app.tar").exits(0);
    let registry = Registry::start();
    let host = registry.host();
    world.run(&["push", "app.tar", "--registry", &host, "--strip-host", "--key", "airlock.pub"]).exits(0);
    drop(upstream);
    let mut command = world.command(&["build", "--key", "airlock.key", "--output", "again.tar"]);
    command.env("AIRLOCK_MIRRORS", format!("quay.io={host}"));
    Run::from(command.output().expect("airlock")).exits(0);
    let read = |name: &str| fs::read(world.path(name)).expect("a bundle");
    assert_eq!(Digest::of(&read("app.tar")), Digest::of(&read("again.tar")));
}
