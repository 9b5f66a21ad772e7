//! Airlock on a host that has nothing: an empty root directory that can't be written to, no environment, no network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::faults::{Upstream, world_of};
use crate::parts::{
    ACCEPT, Certificate, Isolation, Registry, Running, Settings, Tmpfs, free_port, signal, succeed, wait_for,
};
use crate::world::{PASSWORD, Run, World, names};

/// A root directory with the binary in it, and what a test puts there: no /etc, /dev, /proc or /tmp.
struct Root(Tmpfs);

impl Root {
    fn new() -> Self {
        let root = Self(Tmpfs::mount("size=256m"));
        fs::copy(env!("CARGO_BIN_EXE_airlock"), root.path("airlock")).expect("copied");
        root
    }

    /// With `app.tar` and `airlock.pub` of a world; from then on nothing can be written there.
    fn with_bundle(world: &World) -> Self {
        let root = Self::new();
        root.take(&world.path("app.tar"));
        root.take(&world.path("airlock.pub"));
        root
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn take(&self, file: &Path) {
        fs::copy(file, self.path(file.file_name().and_then(|n| n.to_str()).expect("a name")))
            .expect("copied");
    }

    /// Airlock with that root and without any environment.
    fn command(&self, args: &[&str]) -> Command {
        // By its path: with the environment PATH goes, too.
        let mut command = Command::new("/usr/sbin/chroot");
        command.arg(self.0.path()).arg("/airlock").args(args).env_clear().stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        self.command(args).output().expect("chroot").into()
    }
}

/// What curl prints for a URL, which must be there.
fn curl(url: &str) -> String {
    succeed(Command::new("curl").args(ACCEPT).args(["-sf", url]))
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn an_empty_read_only_root_is_enough_to_verify_inspect_serve_and_push() {
    let world = World::with_bundle();
    let root = Root::with_bundle(&world);
    root.0.make_read_only();
    assert_eq!(names(root.0.path()), ["airlock", "airlock.pub", "app.tar"]);

    let run = root.run(&["verify", "app.tar", "--key", "airlock.pub"]).exits(0);
    assert!(run.stdout.contains("all as signed"), "{}", run.stdout);
    let json = root.run(&["inspect", "app.tar", "--key", "airlock.pub", "--json"]).exits(0).json();
    assert!(json["signed_by"].is_string(), "{json}");

    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let args = ["serve", "app.tar", "--key", "airlock.pub", "--listen", &listen];
    let mut server = Running(root.command(&args).stdout(Stdio::null()).spawn().expect("chroot"));
    wait_for(port);
    let web = format!("http://{listen}/v2/quay.io/a/web");
    let manifest = curl(&format!("{web}/manifests/1.0"));
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("a manifest");
    for blob in [&manifest["config"], &manifest["layers"][0]] {
        let url = format!("{web}/blobs/{}", blob["digest"].as_str().expect("a digest"));
        let size =
            succeed(Command::new("curl").args(["-sf", &url, "-o", "/dev/null", "-w", "%{size_download}"]));
        assert_eq!(size, blob["size"].to_string());
    }
    signal(&server.0, "TERM");
    assert_eq!(server.0.wait().expect("airlock").code(), Some(0));

    // By address, and by a name that no file there resolves.
    for host in [Registry::start(), Registry::start()].iter().zip(["127.0.0.1", "localhost"]) {
        let (registry, name) = host;
        let target = registry.host().replace("127.0.0.1", name);
        let pushed = root
            .run(&["push", "app.tar", "--registry", &target, "--key", "airlock.pub", "--json"])
            .exits(0)
            .json();
        assert!(pushed["blobs_sent"].as_u64().expect("a number") > 4, "{pushed}");
        curl(&format!("http://{}/v2/quay.io/a/web/manifests/1.0", registry.host()));
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn an_empty_root_pushes_over_tls_with_a_ca_file() {
    let world = World::with_bundle();
    let root = Root::with_bundle(&world);
    let certificate = Certificate::signed(&world.path(""));
    root.take(&certificate.ca);
    root.0.make_read_only();
    let registry = Registry::with(&Settings { certificate: Some(&certificate), ..Settings::default() });
    for target in [registry.host(), registry.host().replace("127.0.0.1", "localhost")] {
        root.run(&["push", "app.tar", "--registry", &target, "--key", "airlock.pub"])
            .exits(3)
            .says("--ca-file");
        root.run(&["push", "app.tar", "--registry", &target, "--key", "airlock.pub", "--ca-file", "ca.pem"])
            .exits(0);
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn an_empty_root_makes_keys_locks_and_builds() {
    let world = World::new();
    world.image("redis", &["linux/amd64"], b"redis");
    let root = Root::new();
    succeed(Command::new("cp").arg("-r").arg(world.path("redis")).arg(root.0.path()));
    fs::write(root.path("password"), format!("{PASSWORD}\n")).expect("written");
    let spec = "name = \"app\"\nversion = \"1\"\nplatforms = [\"linux/amd64\"]\n\
                [[image]]\nref = \"redis:8\"\nfrom = \"oci:redis\"\n";
    fs::write(root.path("bundle.toml"), spec).expect("written");
    root.run(&["keys", "generate", "--password-file", "password"]).exits(0);
    root.run(&["lock"]).exits(0);
    root.run(&["build", "--key", "airlock.key", "--password-file", "password"]).exits(0);
    root.run(&["verify", "app-1.tar", "--key", "airlock.pub"]).exits(0);
    let expected = [
        "airlock",
        "airlock.key",
        "airlock.pub",
        "app-1.tar",
        "bundle.toml",
        "images.lock",
        "password",
        "redis",
    ];
    assert_eq!(names(root.0.path()), expected);
}

/// Airlock in a network of its own, as in the world otherwise.
fn isolated(world: &World, network: &Isolation, args: &[&str]) -> Run {
    let mut command = network.command(env!("CARGO_BIN_EXE_airlock"));
    command.args(args).current_dir(world.path("")).env("AIRLOCK_PASSWORD", PASSWORD);
    command.env("XDG_CACHE_HOME", world.path("cache")).env("DOCKER_CONFIG", world.path("docker"));
    command.stdin(Stdio::null()).output().expect("airlock").into()
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_network_of_loopback_only_is_enough_at_the_site() {
    let world = World::with_bundle();
    let network = Isolation::new();
    isolated(&world, &network, &["verify", "app.tar", "--key", "airlock.pub"]).exits(0);

    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let mut command = network.command(env!("CARGO_BIN_EXE_airlock"));
    command
        .args(["serve", "app.tar", "--key", "airlock.pub", "--listen", &listen])
        .current_dir(world.path(""));
    let _server = Running(command.stdout(Stdio::null()).spawn().expect("airlock"));
    network.wait_for(port);
    let registry = Registry::with(&Settings { network: Some(&network), ..Settings::default() });
    let host = registry.host();
    isolated(&world, &network, &["push", "app.tar", "--registry", &host, "--key", "airlock.pub"]).exits(0);
    let manifest = |host: &str| {
        let url = format!("http://{host}/v2/quay.io/a/web/manifests/1.0");
        succeed(network.command("curl").args(ACCEPT).args(["-sf", &url]))
    };
    assert_eq!(manifest(&listen), manifest(&host));
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn serving_needs_no_user_no_right_and_no_way_out() {
    let world = World::with_bundle();
    let root = Root::with_bundle(&world);
    fs::create_dir(root.path("store")).expect("a directory");
    std::os::unix::fs::chown(root.path("store"), Some(65534), Some(65534)).expect("given away");
    let network = Isolation::new();
    let serve = |what: &[&str]| {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut command = network.command("/usr/sbin/chroot");
        command.args(["--userspec=65534:65534", "--groups="]).arg(root.0.path());
        command.arg("/airlock").arg("serve").args(what).args(["--listen", &listen]).env_clear();
        let server = Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("chroot"));
        network.wait_for(listen.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port"));
        (server, listen)
    };
    let (bundle, from) = serve(&["app.tar", "--key", "airlock.pub"]);
    let (store, to) = serve(&["--store", "store"]);
    for server in [&bundle, &store] {
        let status = fs::read_to_string(format!("/proc/{}/status", server.0.id())).expect("its status");
        let has = |line: &str| assert!(status.lines().any(|found| found == line), "no {line:?} in {status}");
        has("Uid:\t65534\t65534\t65534\t65534");
        has("CapEff:\t0000000000000000");
        has("CapPrm:\t0000000000000000");
    }
    isolated(&world, &network, &["push", "app.tar", "--registry", &to, "--key", "airlock.pub"]).exits(0);
    let manifest = |host: &str| {
        let url = format!("http://{host}/v2/quay.io/a/web/manifests/1.0");
        succeed(network.command("curl").args(ACCEPT).args(["-sf", &url]))
    };
    assert_eq!(manifest(&from), manifest(&to));
    assert_eq!(names(root.0.path()), ["airlock", "airlock.pub", "app.tar", "store"]);
}

/// How soon it must be said that a registry can't be reached.
const PATIENCE: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real parts: cargo xtask test"]
async fn a_registry_that_cannot_be_reached_is_named_within_seconds() {
    let world = World::with_bundle();
    let network = Isolation::new();
    let timed = |args: &[&str]| {
        let started = Instant::now();
        let run = isolated(&world, &network, args).exits(3);
        let took = started.elapsed();
        assert!(took < PATIENCE, "{args:?} took {took:?}");
        run
    };
    // An address without a route, a name, and the name that stands for Docker Hub.
    for reference in ["192.0.2.1:5000/app:1", "registry.example.com/app:1", "busybox:1"] {
        let host = reference.split_once('/').map_or("registry-1.docker.io", |(host, _)| host);
        world.spec(&format!("[[image]]\nref = \"{reference}\"\n"));
        timed(&["lock", "--lock-file", "new.lock"])
            .says(host)
            .says("pinning an image that bundle.toml asks for");
        assert!(!world.path("new.lock").exists());
    }
    timed(&["push", "app.tar", "--registry", "192.0.2.1:5000", "--key", "airlock.pub"])
        .says("192.0.2.1:5000");

    // A lock made while the registry was there.
    let world = world_of(&["redis"]);
    let upstream = Upstream::of(&world).await;
    upstream.run(&world, &["lock"]).exits(0);
    let started = Instant::now();
    let run = isolated(&world, &network, &["build", "--key", "airlock.key"]).exits(3);
    run.says("resolving image quay.io/redis:1").says("quay.io/redis@sha256:");
    assert!(started.elapsed() < PATIENCE, "build took {:?}", started.elapsed());
    assert!(!world.path("app-1.0.0.tar").exists() && !world.path("app-1.0.0.tar.partial").exists());
}
