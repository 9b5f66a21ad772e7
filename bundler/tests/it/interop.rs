//! Interoperability: what skopeo, oras, cosign, openssl, Docker, containerd and helm make of bundles, of `serve` and of
//! `push`. The tools are run as programs, and digests are compared with those that the upstream registry has.

mod conformance;
mod discover;
pub mod engines;
mod images;
mod keys;
mod lock;
mod mirrors;
mod push;
mod rendering;
mod repository;
mod serve;
mod store;
mod upstream;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use bundler::digest::Digest;
use bundler::lock::Lock;
use serde_json::Value;

use crate::world::{Run, Served, World};

pub const HELLO: &str = "docker.io/airlock-dev/hello:0.1.0";
pub const BUSYBOX: &str = "docker.io/library/busybox:1.36";
pub const REDIS: &str = "docker.io/library/redis:8.10.1-alpine";
const WEB: &str = "quay.io/example/web:1.0.0";
/// busybox under the name of a registry with a port.
const PORTED: &str = "registry.example:5000/tools/busybox:1.36";

/// What `cargo xtask test` says in a variable.
pub fn part(name: &str) -> String {
    std::env::var(name).expect(name)
}

/// Runs a program in a directory; Docker's client finds the tests' engine.
fn tool(dir: &Path, program: &str, args: &[&str]) -> Run {
    let mut command = Command::new(program);
    command.current_dir(dir).args(args).stdin(Stdio::null());
    command.env("DOCKER_HOST", part("AIRLOCK_TEST_DOCKER_HOST"));
    command.output().expect(program).into()
}

/// Runs airlock on the connected side: upstream stands for docker.io and quay.io.
fn airlock(world: &World, args: &[&str]) -> Run {
    let mut command = world.command(args);
    command.env("AIRLOCK_MIRRORS", part("AIRLOCK_TEST_MIRRORS"));
    command.env("DOCKER_HOST", part("AIRLOCK_TEST_DOCKER_HOST"));
    command.output().expect("airlock").into()
}

fn sha256(content: &[u8]) -> String {
    Digest::of(content).to_string()
}

pub fn path(world: &World, name: &str) -> String {
    world.path(name).display().to_string()
}

/// A reference's digest, as the upstream registry has it.
fn upstream(reference: &str) -> String {
    all_upstream().remove(reference).expect(reference)
}

fn all_upstream() -> BTreeMap<String, String> {
    serde_json::from_str(&part("AIRLOCK_TEST_IMAGES")).expect("JSON of references and digests")
}

/// The digest of a reference's manifest for linux on `architecture` at the upstream registry, read by oras.
pub fn upstream_for(reference: &str, architecture: &str) -> String {
    let at = format!("{}/{reference}", part("AIRLOCK_TEST_UPSTREAM"));
    let raw = tool(Path::new("/"), "oras", &["manifest", "fetch", "--plain-http", &at]).exits(0).stdout;
    assert_eq!(sha256(raw.as_bytes()), upstream(reference));
    let manifest: Value = serde_json::from_str(&raw).expect("JSON");
    let Some(children) = manifest["manifests"].as_array() else { return upstream(reference) };
    let fits = |c: &&Value| c["platform"]["os"] == "linux" && c["platform"]["architecture"] == architecture;
    let child = children.iter().find(fits).expect(architecture);
    child["digest"].as_str().expect("a digest").into()
}

/// Each image of `app.tar` with the digest that it must have: upstream's, or the lock's for what is built here.
pub fn carried() -> Vec<(String, String)> {
    let lock = lock_of(shared(), "images.lock");
    let built = lock.images.iter().find(|i| i.reference.to_string() == HELLO).expect("hello's pin");
    let mut images: Vec<_> = all_upstream()
        .into_keys()
        .map(|reference| match reference.as_str() {
            HELLO => (reference, built.digest.to_string()),
            other => (reference.clone(), upstream_for(other, "amd64")),
        })
        .collect();
    images.push((PORTED.into(), upstream_for(BUSYBOX, "amd64")));
    assert_eq!(images.len(), lock.images.len(), "the bundle's images: {:?}", lock.images);
    images
}

fn lock_of(world: &World, name: &str) -> Lock {
    Lock::parse(&std::fs::read_to_string(world.path(name)).expect(name)).expect("a lock")
}

/// The repository's own chart.
const HELLO_CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/hello");

/// `app.tar`, for linux/amd64: two charts with their images, one of them out of the Docker engine; more images; helm. And
/// `all.tar`: images for all platforms that they have. Made once; tests only read them.
pub fn shared() -> &'static World {
    static SHARED: LazyLock<(World, Child)> = LazyLock::new(|| {
        let world = World::new();
        let remover = remover(&world.path(""));
        let helm = tool(Path::new("/"), "sh", &["-c", "command -v helm"]).exits(0).stdout;
        let helm = helm.trim();
        let sum = Digest::of(&std::fs::read(helm).expect("helm's program")).hex();
        let (chart, version) = (part("AIRLOCK_TEST_WEB_CHART"), part("AIRLOCK_TEST_WEB_CHART_VERSION"));
        world.spec(&format!(
            "[[chart]]\npath = \"{HELLO_CHART}\"\nnamespace = \"hello\"\n\
             [[chart]]\noci = \"{chart}\"\nversion = \"{version}\"\n\
             [[image]]\nref = \"{HELLO}\"\nfrom = \"docker-daemon:{HELLO}\"\n\
             [[image]]\nref = \"{BUSYBOX}\"\n\
             [[image]]\nref = \"{PORTED}\"\nfrom = \"docker://{BUSYBOX}\"\n\
             [[file]]\nname = \"helm\"\npath = \"{helm}\"\nsha256 = \"{sum}\"\nplatform = \"linux/amd64\"\n"
        ));
        let all = format!(
            "name = \"all\"\nversion = \"1.0.0\"\nplatforms = [\"all\"]\n\
             [[image]]\nref = \"{BUSYBOX}\"\n[[image]]\nref = \"{HELLO}\"\n[[image]]\nref = \"{WEB}\"\n"
        );
        world.write("all.toml", all.as_bytes());
        world.keys("airlock");
        for (spec, lock, tar) in
            [("bundle.toml", "images.lock", "app.tar"), ("all.toml", "all.lock", "all.tar")]
        {
            let files = ["--file", spec, "--lock-file", lock];
            airlock(&world, &[&["lock"], &files[..]].concat()).exits(0);
            airlock(&world, &[&["build"], &files[..], &["--key", "airlock.key", "--output", tar]].concat())
                .exits(0);
        }
        (world, remover)
    });
    &SHARED.0
}

/// Removes a directory when this process is over: what tests share is never dropped. Its stdin closes then.
fn remover(dir: &Path) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' INT TERM; cat; rm -rf \"$0\""]).arg(dir);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("sh")
}

/// Runs a program when it is dropped: what a test put into an engine is taken out again, however the test ends.
struct AtEnd<'a>(&'a str, &'a [&'a str]);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        let _ = tool(Path::new("/"), self.0, self.1);
    }
}

/// Entries of a bundle, taken out by tar into a directory of the test's own.
fn untar(world: &World, bundle: &str, entries: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let (bundle, to) = (path(world, bundle), dir.path().display().to_string());
    tool(Path::new("/"), "tar", &[&["-x", "-f", &bundle, "-C", &to], entries].concat()).exits(0);
    dir
}
