//! How much work is done, by count: requests, bytes that are read and written. Time would say the same, less surely.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use bundler::cache::ContentCache;
use bundler::digest::Digest;
use bundler::lock::Lock;
use bundler::origin::{Origin, Sources};
use bundler::plan::plan;
use bundler::registry::{Client, Options};
use bundler::sign::{self, SigningKey};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde_json::json;

use crate::faults::{Upstream, ask_for};
use crate::limits::{MEMORY, MIB, big_image, image_of, peak_memory};
use crate::parts::{Registry, Settings, succeed};
use crate::world::{PASSWORD, Run, Served, World};

/// Most bytes that are read of anything but layers: headers, manifests, keys, the lock, and the system's CA certificates,
/// which are most of it.
const SMALL: u64 = MIB;

/// Bytes that a process has read so far, sockets aside, and written.
struct Io {
    read: u64,
    written: u64,
}

impl Io {
    fn of(pid: u32) -> Self {
        let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("the kernel's count");
        let count = |name: &str| {
            let count = io.lines().find_map(|line| line.strip_prefix(name)?.parse().ok());
            count.expect("a number")
        };
        Self { read: count("rchar: "), written: count("wchar: ") }
    }
}

/// Runs airlock to its end.
fn counted(mut command: Command) -> (Run, Io) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("airlock");
    // The kernel keeps the count until somebody has waited for the process.
    let pid = Pid::from_child(&child);
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).expect("its end");
    let io = Io::of(child.id());
    (child.wait_with_output().expect("airlock").into(), io)
}

/// Asserts that `bytes` are `times` the bundle, but for a twentieth: padding that nobody reads, and keys.
#[track_caller]
fn assert_times(what: &str, bytes: u64, times: u64, bundle: u64) {
    let beside = bytes.abs_diff(times * bundle);
    assert!(beside < bundle / 20, "{what}: {bytes} bytes of a bundle of {bundle}");
}

#[track_caller]
fn assert_small(what: &str, bytes: u64) {
    assert!((1..SMALL).contains(&bytes), "{what}: {bytes} bytes");
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_push_of_what_is_there_asks_once_for_each_image_chart_and_file() {
    const IMAGES: usize = 100;
    let world = World::new();
    world.keys("airlock");
    world.write("web/Chart.yaml", b"apiVersion: v2\nname: web\nversion: 1.0.0\n");
    world.write("notes.txt", b"read me\n");
    let mut spec = format!(
        "[[chart]]\npath = \"web\"\nrelease = \"web\"\n[[file]]\nname = \"notes.txt\"\npath = \"notes.txt\"\nsha256 = \"{}\"\n",
        Digest::of(b"read me\n").hex()
    );
    for n in 0..IMAGES {
        let name = format!("app{n}");
        world.image(&name, &["linux/amd64"], name.as_bytes());
        spec += &format!("[[image]]\nref = \"{name}:1\"\nfrom = \"oci:{name}\"\n");
    }
    world.spec(&spec);
    world.run(&["lock"]).exits(0);
    world.build("app.tar");
    let registry = Registry::start();
    let push = || {
        let run =
            world.run(&["push", "app.tar", "--registry", &registry.host(), "--key", "airlock.pub", "--json"]);
        run.exits(0).json()["unchanged"].as_u64().expect("a number")
    };
    assert_eq!(push(), 0);
    let before = registry.requests().len();
    assert_eq!(push(), IMAGES as u64 + 2);
    let asked = registry.requests().split_off(before);
    assert_eq!(asked.len(), IMAGES + 2, "{asked:?}");
    let unique: BTreeSet<_> = asked.iter().filter(|asked| asked.starts_with("HEAD /v2/")).collect();
    assert_eq!(unique.len(), asked.len(), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_asks_once_for_each_blob_and_manifest() {
    let world = World::new();
    big_image(&world.path("one"), 2, MIB);
    big_image(&world.path("two"), 3, MIB);
    ask_for(&world, &["one", "two"]);
    let upstream = Upstream::of(&world).await;
    upstream.run(&world, &["lock"]).exits(0);
    upstream.liar.forget();
    let build = upstream.command(&world, &["build", "--unsigned", "--output", "app.tar"]);
    let (run, io) = counted(build);
    run.exits(0);
    let bundle = fs::metadata(world.path("app.tar")).expect("the bundle").len();
    let mut asked: Vec<_> = upstream.liar.asked().into_iter().map(|asked| asked.target).collect();
    asked.sort();
    let digest = |target: &String| target.rsplit_once('/').expect("a path").1.to_owned();
    // Two manifests, two configs, and the layers of the larger image.
    assert_eq!(asked.iter().map(digest).collect::<BTreeSet<_>>().len(), 7, "{asked:#?}");
    assert_eq!(asked.len(), 7, "{asked:#?}");
    assert_small("build reads what it wrote", io.read);
    assert_times("build writes", io.written, 1, bundle);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_bundle_is_read_once_or_not_at_all() {
    const LAYER: u64 = 64 * MIB;
    let room = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let world = World::below(room);
    let layers = big_image(&world.path("big"), 4, LAYER);
    world.spec("[[image]]\nref = \"big:1\"\nfrom = \"oci:big\"\n");
    world.keys("airlock");
    let read = |args: &[&str]| {
        let (run, io) = counted(world.command(args));
        run.exits(0);
        io.read
    };
    assert_small("lock", read(&["lock"]));
    let (run, io) = counted(world.command(&["build", "--key", "airlock.key", "--output", "big.tar"]));
    run.exits(0);
    let bundle = fs::metadata(world.path("big.tar")).expect("the bundle").len();
    assert_times("build reads", io.read, 1, bundle);
    assert_times("build writes", io.written, 1, bundle);

    let trusted = ["big.tar", "--key", "airlock.pub"];
    assert_times("verify", read(&[&["verify"], &trusted[..]].concat()), 1, bundle);
    assert_small("verify --quick", read(&[&["verify", "--quick"], &trusted[..]].concat()));

    let registry = Registry::with(&Settings { below: Some(room), ..Settings::default() });
    let host = registry.host();
    let push = ["push", "big.tar", "--registry", &host, "--key", "airlock.pub"];
    assert_times("push", read(&push), 1, bundle);
    assert_small("push of what is there", read(&push));

    let served = Served::start(&world, "big.tar");
    let read = || Io::of(served.process.0.id()).read;
    assert_small("serve, when it listens", read());
    let url = |layer| format!("http://{}/v2/docker.io/library/big/blobs/{layer}", served.host);
    for times in 1..=2 {
        for layer in &layers {
            succeed(Command::new("curl").args(["-sf", "--output", "/dev/null", &url(layer)]));
        }
        assert_times("serve, when all was pulled", read(), times, bundle);
    }
    let before = read();
    assert_eq!(succeed(Command::new("curl").args(["-sf", "--range", "0-0", &url(&layers[0])])).len(), 1);
    assert_small("serve, a byte of what it has checked", read() - before);
}

/// A signed bundle of an image with three layers of `size` bytes: holes, that take no disk. They are not what their
/// digests say, so that nobody has to hash them; its structure is sound.
async fn hollow_bundle(world: &World, size: u64) -> Vec<String> {
    let blobs = world.path("hollow/blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory");
    let layers = ["a", "b", "c"].map(|name| {
        let digest = Digest::of(name.as_bytes());
        File::create(blobs.join(digest.hex())).and_then(|file| file.set_len(size)).expect("a hole");
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size})
    });
    let layers = image_of(&world.path("hollow"), &layers);
    world.spec("[[image]]\nref = \"hollow:1\"\nfrom = \"oci:hollow\"\n");
    world.keys("airlock");
    world.run(&["lock"]).exits(0);

    let read = |name: &str| fs::read_to_string(world.path(name)).expect(name);
    let client = Client::new(&Options::default()).expect("a client");
    let sources =
        Sources { client: &client, cache: &ContentCache::at(world.path("cache")), base: &world.path("") };
    let lock = read("images.lock");
    let plan = plan(&Lock::parse(&lock).expect("the lock"), &lock, &sources).await.expect("a plan");
    let key = SigningKey::from_cosign_pem(&read("airlock.key"), PASSWORD.as_bytes()).expect("the key");
    let signature = sign::sign(&key, &plan.manifest_bytes).expect("a signature");
    let small = |origin: &Origin| match origin {
        Origin::Bytes(bytes) => bytes.to_vec(),
        Origin::File { path, .. } if fs::metadata(path).expect("a file").len() < MIB => {
            fs::read(path).expect("a file")
        }
        _ => vec![],
    };
    let contents = [plan.manifest_bytes.clone(), signature].into_iter().chain(plan.origins.iter().map(small));
    let file = File::create(world.path("hollow.tar")).expect("a file");
    file.set_len(plan.layout.file_size).expect("its size");
    for (placed, content) in plan.layout.entries.iter().zip(contents) {
        file.write_all_at(&placed.header(), placed.header_at).expect("written");
        file.write_all_at(&content, placed.content_at).expect("written");
    }
    layers
}

#[tokio::test]
#[ignore = "needs real parts: cargo xtask test"]
async fn thirty_gigabytes_are_served_and_checked_quickly_like_little() {
    let world = World::new();
    let layers = hollow_bundle(&world, 10_000 * MIB).await;
    assert!(fs::metadata(world.path("hollow.tar")).expect("the bundle").len() > 30_000 * MIB);
    let (run, io) = counted(world.command(&["verify", "--quick", "hollow.tar", "--key", "airlock.pub"]));
    run.exits(0);
    assert_small("verify --quick", io.read);
    let served = Served::start(&world, "hollow.tar");
    let pid = served.process.0.id();
    assert_small("serve, when it listens", Io::of(pid).read);

    // The first bytes come before the last ones were read.
    let url = format!("http://{}/v2/docker.io/library/hollow/blobs/{}", served.host, layers[0]);
    let script = format!("curl -sf {url} | head -c {MIB} | wc -c");
    assert_eq!(succeed(Command::new("sh").args(["-c", &script])), format!("{MIB}\n"));
    let read = Io::of(pid).read;
    assert!((MIB..64 * MIB).contains(&read), "{read} bytes");
    let memory = peak_memory(pid).expect("serve runs");
    assert!(memory < MEMORY, "{} KiB of memory", memory >> 10);
}
