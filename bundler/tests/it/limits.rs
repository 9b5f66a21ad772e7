//! What airlock needs of a machine: little memory, no more disk than the bundle; and what it says when there is less.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bundler::digest::{Digest, Hasher};
use serde_json::json;

use crate::parts::{Registry, Running, Settings, Tmpfs, free_port, signal, succeed, wait_for};
use crate::world::{Run, World, blob, names};

pub const MIB: u64 = 1 << 20;
/// Most memory that a verb may have resident, whatever the bundle's size.
pub const MEMORY: u64 = 64 * MIB;
/// What a file system may need beside a file's content.
const SLACK: u64 = 4 * MIB;

/// Most memory that a process has had resident so far, in bytes; none once it has ended.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    Some(kib << 10)
}

/// Disk space of everything below a directory, in bytes.
fn disk_use(directory: &Path) -> u64 {
    let mut sum = 0;
    // What is gone by the time it is looked at needs no space.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => sum += disk_use(&entry.path()),
            Ok(metadata) => sum += metadata.blocks() * 512,
            Err(_) => {}
        }
    }
    sum
}

/// Looks at a process, and at the directory of its world, while it works.
struct Watch<'a> {
    world: &'a World,
    disk_before: u64,
    memory: u64,
    disk: u64,
}

impl<'a> Watch<'a> {
    fn new(world: &'a World) -> Self {
        Self { world, disk_before: disk_use(&world.path("")), memory: 0, disk: 0 }
    }

    fn look(&mut self, pid: u32) {
        // The kernel keeps the peak: only what the last moment adds can be missed.
        self.memory = peak_memory(pid).unwrap_or_default().max(self.memory);
        self.disk = disk_use(&self.world.path("")).saturating_sub(self.disk_before).max(self.disk);
    }

    /// Runs airlock to its end.
    fn run(mut self, args: &[&str]) -> (Run, Self) {
        let mut child = command(self.world, args).spawn().expect("airlock");
        while child.try_wait().expect("airlock").is_none() {
            self.look(child.id());
            // A short job must be seen at all.
            std::thread::sleep(Duration::from_millis(if self.memory > MIB { 20 } else { 1 }));
        }
        (child.wait_with_output().expect("airlock").into(), self)
    }

    #[track_caller]
    fn stayed_within(&self, what: &str, disk: u64) {
        assert!(self.memory > MIB, "{what}: it was not looked at");
        assert!(self.memory < MEMORY, "{what}: {} KiB of memory", self.memory >> 10);
        assert!(self.disk < disk + SLACK, "{what}: {} KiB of disk", self.disk >> 10);
    }
}

/// Airlock with all directories that it might put something into below the world's.
fn command(world: &World, args: &[&str]) -> Command {
    let mut command = world.command(args);
    command.env("TMPDIR", world.path("tmp")).env("HOME", world.path("home"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Writes a blob of bytes that no compression makes smaller, the same ones for the same seed; its descriptor.
fn big_blob(layout: &Path, seed: u64, size: u64) -> serde_json::Value {
    let mut state = seed;
    let mut random = || {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut piece: Vec<u8> = (0..MIB / 8).flat_map(|_| random().to_le_bytes()).collect();
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory");
    let unnamed = blobs.join(format!("unnamed-{seed}"));
    let mut file = File::create(&unnamed).expect("a file");
    let mut hasher = Hasher::default();
    for number in 0..size / MIB {
        piece[..8].copy_from_slice(&number.to_le_bytes());
        hasher.update(&piece);
        file.write_all(&piece).expect("room on the disk");
    }
    let digest = hasher.finish();
    fs::rename(unnamed, blobs.join(digest.hex())).expect("renamed");
    json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size})
}

/// An OCI layout directory with an image of `layers` layers of `size` bytes; the layers' digests. Of two such images the
/// first layers are the same.
pub fn big_image(layout: &Path, layers: u64, size: u64) -> Vec<String> {
    let layers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (1..=layers).map(|seed| scope.spawn(move || big_blob(layout, seed, size))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a blob")).collect()
    });
    image_of(layout, &layers)
}

/// An OCI layout directory with an image of the layers that are in it; their digests.
pub fn image_of(layout: &Path, layers: &[serde_json::Value]) -> Vec<String> {
    let digests: Vec<_> = layers.iter().map(|l| l["digest"].as_str().expect("a digest").to_owned()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": digests},
    });
    let config = blob(layout, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": layers,
    });
    let manifest =
        blob(layout, "application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).expect("written");
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
    digests
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn two_gigabytes_pass_in_64_mib_of_memory_and_no_disk_but_the_bundles() {
    const LAYER: u64 = 512 * MIB;
    // Where the build is there is room; the system's directory for temporary files may be memory.
    let room = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let world = World::below(room);
    let layers = big_image(&world.path("big"), 4, LAYER);
    world.spec("[[image]]\nref = \"big:1\"\nfrom = \"oci:big\"\n");
    world.keys("airlock");
    fs::create_dir(world.path("tmp")).expect("a directory");

    let (run, watch) = Watch::new(&world).run(&["lock"]);
    run.exits(0);
    watch.stayed_within("lock", 0);

    let (run, watch) = Watch::new(&world).run(&["build", "--key", "airlock.key", "--output", "big.tar"]);
    run.exits(0);
    let size = fs::metadata(world.path("big.tar")).expect("the bundle").len();
    assert!(size > 4 * LAYER);
    watch.stayed_within("build", size);
    // Else the test needs room for a third copy.
    fs::remove_dir_all(world.path("big")).expect("removed");

    let (run, watch) = Watch::new(&world).run(&["verify", "big.tar", "--key", "airlock.pub"]);
    run.exits(0);
    watch.stayed_within("verify", 0);

    let mut watch = Watch::new(&world);
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let args = ["serve", "big.tar", "--key", "airlock.pub", "--listen", &address];
    let mut server = Running(command(&world, &args).spawn().expect("airlock"));
    wait_for(port);
    let mut curl = Command::new("curl");
    curl.args(["-sf", "--parallel", "--parallel-max", "2", "--write-out", "%{size_download}\n"]);
    for layer in &layers {
        let url = format!("http://{address}/v2/docker.io/library/big/blobs/{layer}");
        curl.args(["--output", "/dev/null", &url]);
    }
    assert_eq!(succeed(&mut curl), format!("{LAYER}\n").repeat(4));
    watch.look(server.0.id());
    signal(&server.0, "TERM");
    assert_eq!(server.0.wait().expect("airlock").code(), Some(0));
    watch.stayed_within("serve", 0);

    let registry = Registry::with(&Settings { below: Some(room), ..Settings::default() });
    let args = ["push", "big.tar", "--registry", &registry.host(), "--key", "airlock.pub", "--json"];
    let (run, watch) = Watch::new(&world).run(&args);
    let sent = run.exits(0).json()["bytes_sent"].as_u64().expect("a number");
    assert!(sent > 4 * LAYER, "{sent}");
    watch.stayed_within("push", 0);

    // And back again: the same image out of a registry.
    fs::remove_file(world.path("big.tar")).expect("removed");
    fs::remove_file(world.path("images.lock")).expect("removed");
    world.spec("[[image]]\nref = \"big:1\"\n");
    let mirror = format!("docker.io={}/docker.io", registry.host());
    world.run(&["lock", "--mirror", &mirror]).exits(0);
    let args = ["build", "--key", "airlock.key", "--output", "big.tar", "--mirror", &mirror];
    let (run, watch) = Watch::new(&world).run(&args);
    run.exits(0);
    watch.stayed_within("build from a registry", size);
}

/// A spec with an image that has a layer of 2 MiB, and a signed bundle `small.tar` of another spec.
fn two_mebibytes() -> World {
    let world = World::new();
    world.image("redis", &["linux/amd64"], b"redis");
    world.spec("[[image]]\nref = \"redis:8\"\nfrom = \"oci:redis\"\n");
    world.keys("airlock");
    world.run(&["lock"]).exits(0);
    world.build("small.tar");
    big_image(&world.path("big"), 1, 2 * MIB);
    world.spec("[[image]]\nref = \"big:1\"\nfrom = \"oci:big\"\n");
    world.run(&["lock"]).exits(0);
    world
}

/// Leaves `free` bytes of a file system's first MiB.
fn fill(disk: &Tmpfs, free: u64) {
    fs::write(disk.path().join("filler"), vec![1; (MIB - free) as usize]).expect("room for the filler");
}

fn at(disk: &Tmpfs, name: &str) -> PathBuf {
    disk.path().join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

const FULL: &str = "No space left on device";
const READ_ONLY: &str = "Read-only file system";

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_full_disk_stops_build_and_an_older_bundle_stays() {
    let world = two_mebibytes();
    let disk = Tmpfs::mount("size=1m");
    let app = at(&disk, "app.tar");
    let build = || world.run(&["build", "--key", "airlock.key", "--output", text(&app)]);
    build()
        .exits(1)
        .says(text(&app))
        .says(FULL)
        .says("the bundle takes ")
        .says("hint: free some space there, or choose another disk");
    assert_eq!(names(disk.path()), [""; 0]);

    fs::copy(world.path("small.tar"), &app).expect("copied");
    build().exits(1).says(FULL);
    assert_eq!(names(disk.path()), ["app.tar"]);
    world.run(&["verify", text(&app), "--key", "airlock.pub"]).exits(0);

    // Not a byte free, not even for the headers.
    fs::remove_file(&app).expect("removed");
    fill(&disk, 0);
    build().exits(1).says(text(&app)).says(FULL);
    assert_eq!(names(disk.path()), ["filler"]);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_read_only_disk_stops_build_and_an_older_bundle_stays() {
    let world = two_mebibytes();
    let disk = Tmpfs::mount("size=8m");
    let app = at(&disk, "app.tar");
    fs::copy(world.path("small.tar"), &app).expect("copied");
    disk.make_read_only();
    let run = world.run(&["build", "--key", "airlock.key", "--output", text(&app)]);
    run.exits(1)
        .says(text(&app))
        .says(READ_ONLY)
        .says("hint: choose a directory that exists and is writable");
    assert_eq!(names(disk.path()), ["app.tar"]);
    world.run(&["verify", text(&app), "--key", "airlock.pub"]).exits(0);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_disk_without_room_for_a_key_gets_no_half_of_a_pair() {
    let world = World::new();
    let disk = Tmpfs::mount("size=1m");
    let generate = || world.run(&["keys", "generate", "--output-dir", text(disk.path())]);
    fill(&disk, 0);
    generate().exits(1).says(text(&at(&disk, "airlock.key"))).says(FULL).says("hint: free some space there");
    assert_eq!(names(disk.path()), ["filler"]);
    // A page for the private key, none for the public one.
    fill(&disk, 4096);
    generate().exits(1).says(text(&at(&disk, "airlock.pub"))).says(FULL);
    assert_eq!(names(disk.path()), ["filler"]);
    disk.make_read_only();
    generate()
        .exits(1)
        .says(text(&at(&disk, "airlock.key")))
        .says(READ_ONLY)
        .says("writable with --output-dir");
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_disk_without_room_for_a_lock_keeps_the_old_one() {
    let world = two_mebibytes();
    let disk = Tmpfs::mount("size=1m");
    let lock_file = at(&disk, "images.lock");
    let lock = || world.run(&["lock", "--lock-file", text(&lock_file)]);
    fill(&disk, 0);
    lock().exits(1).says(text(&lock_file)).says(FULL).says("hint: free some space there");
    assert_eq!(names(disk.path()), ["filler"]);

    fill(&disk, 8192);
    lock().exits(0);
    let before = fs::read(&lock_file).expect("the lock");
    fill(&disk, 4096);
    world.spec("[[image]]\nref = \"redis:8\"\nfrom = \"oci:redis\"\n");
    lock().exits(1).says(text(&lock_file)).says(FULL);
    disk.make_read_only();
    lock().exits(1).says(text(&lock_file)).says(READ_ONLY).says("writable with --lock-file");
    assert_eq!(names(disk.path()), ["filler", "images.lock"]);
    assert_eq!(before, fs::read(&lock_file).expect("the lock"));
}

/// What `docker save` writes of an image with one layer of `size` bytes.
fn docker_archive(path: &Path, size: usize) {
    let layer = vec![7; size];
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": ["big:1"], "Layers": ["layer.tar"]}]);
    let mut tar = tar::Builder::new(File::create(path).expect("a file"));
    let (config, manifest) = (config.to_string(), manifest.to_string());
    let entries: [(&str, &[u8]); 3] =
        [("layer.tar", &layer), ("config.json", config.as_bytes()), ("manifest.json", manifest.as_bytes())];
    for (name, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).expect("an entry");
    }
    tar.finish().expect("a tar");
}

/// An image of the Docker engine with a layer of 2 MiB; gone when this is dropped.
struct EngineImage;

impl EngineImage {
    const NAME: &str = "docker.io/airlock/full-disk-test:1";

    fn host() -> String {
        std::env::var("AIRLOCK_TEST_DOCKER_HOST")
            .expect("AIRLOCK_TEST_DOCKER_HOST must name an engine's socket")
    }

    fn docker(args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &Self::host()]).args(args);
        command
    }

    fn import(world: &World) -> Self {
        let root = world.path("root");
        fs::create_dir(&root).expect("a directory");
        fs::write(root.join("content"), vec![7; 2 * MIB as usize]).expect("written");
        let tar = world.path("root.tar");
        succeed(Command::new("tar").args(["-C", text(&root), "-cf", text(&tar), "."]));
        succeed(&mut Self::docker(&["import", text(&tar), Self::NAME]));
        Self
    }
}

impl Drop for EngineImage {
    fn drop(&mut self) {
        let _ = Self::docker(&["image", "rm", "--force", Self::NAME]).output();
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_cache_without_room_stops_lock_and_keeps_nothing_half_done() {
    let world = World::new();
    docker_archive(&world.path("saved.tar"), 2 * MIB as usize);
    let _image = EngineImage::import(&world);
    for from in ["docker-archive:saved.tar".to_owned(), format!("docker-daemon:{}", EngineImage::NAME)] {
        world.spec(&format!("[[image]]\nref = \"big:1\"\nfrom = \"{from}\"\n"));
        let disk = Tmpfs::mount("size=1m");
        let lock = || {
            let mut command = world.command(&["lock"]);
            command.env("XDG_CACHE_HOME", disk.path()).env("DOCKER_HOST", EngineImage::host());
            Run::from(command.output().expect("airlock"))
        };
        let cache = at(&disk, "airlock");
        lock()
            .exits(1)
            .says(text(&cache))
            .says(FULL)
            .says("hint: free some space there, or set XDG_CACHE_HOME");
        assert!(names(&cache.join("blobs/sha256")).iter().all(|name| !name.starts_with('.')), "{from}");
        assert!(!world.path("images.lock").exists());
        disk.make_read_only();
        lock().exits(1).says(text(&cache)).says(READ_ONLY).says("hint: set XDG_CACHE_HOME");
        succeed(Command::new("mount").args(["-o", "remount,rw,size=8m"]).arg(disk.path()));
        lock().exits(0);
        fs::remove_file(world.path("images.lock")).expect("removed");
    }
}
