//! Node configuration by `airlock mirrors`, as containerd, containers' libraries and Docker read it: pulls by the sources'
//! names, of which none can come from anywhere but the site.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::engines::{BUSYBOX_IN_DOCKER, Imported, ctr, docker, listed};
use super::{AtEnd, BUSYBOX, PORTED, Served, carried, part, shared, tool, upstream_for};
use crate::parts::{Certificate, Registry, Settings, succeed};
use crate::world::World;

/// Writes the configuration of `runtime` for `app.tar` at `registry` below a directory.
fn write(runtime: &str, registry: &str, node: &Path, more: &[&str]) {
    let node = node.display().to_string();
    let fixed = [
        "mirrors",
        runtime,
        "app.tar",
        "--key",
        "airlock.pub",
        "--registry",
        registry,
        "--output-dir",
        &node,
    ];
    shared().run(&[&fixed[..], more].concat()).exits(0);
}

/// The images that these tests pull: of docker.io, and of a host with a port.
fn pulled() -> Vec<(String, String)> {
    carried().into_iter().filter(|(name, _)| name == BUSYBOX || name == PORTED).collect()
}

/// Pulls by the sources' names and by one at the site itself, with containerd's own code.
fn pulls_by_hosts_toml(namespace: &str, node: &Path, at_site: &str) {
    let _gone = Imported(namespace);
    let hosts = node.join("etc/containerd/certs.d").display().to_string();
    for (name, _) in pulled() {
        ctr(namespace, &["images", "pull", "--hosts-dir", &hosts, &name]).exits(0);
    }
    assert_eq!(listed(namespace), pulled());
    ctr(namespace, &["images", "pull", "--hosts-dir", &hosts, at_site]).exits(0);
    // What the site does not have is not asked for elsewhere.
    let missing = ["images", "pull", "--hosts-dir", &hosts, "docker.io/library/nothing:1"];
    let run = ctr(namespace, &missing);
    assert_ne!(run.code, 0);
    assert!(!run.stderr.contains("registry-1"), "{}", run.stderr);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn containerd_pulls_from_serve_with_an_authority_of_its_own() {
    let tls = World::new();
    let dir = tls.path("tls").display().to_string();
    let served = Served::with(shared(), "app.tar", &["--tls-self-signed", &dir, "--advertise", "127.0.0.1"]);
    let node = tempfile::tempdir().expect("a directory");
    write("containerd", &served.host, node.path(), &["--ca-file", &format!("{dir}/ca.pem")]);
    let at_site = format!("{}/{BUSYBOX}@{}", served.host, upstream_for(BUSYBOX, "amd64"));
    pulls_by_hosts_toml("airlock-mirror-serve", node.path(), &at_site);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn containerd_pulls_from_a_registry_with_a_prefix() {
    let dir = tempfile::tempdir().expect("a directory");
    let certificate = Certificate::signed(dir.path());
    let ca = certificate.ca.display().to_string();
    let settings = Settings { certificate: Some(&certificate), ..Settings::default() };
    let registry = Registry::with(&settings);
    for (n, (prefix, strip)) in [("mirror/a", &[][..]), ("flat", &["--strip-host"])].into_iter().enumerate() {
        let there = format!("{}/{prefix}", registry.host());
        let push = ["push", "app.tar", "--registry", &there, "--key", "airlock.pub", "--ca-file", &ca];
        shared().run(&[&push[..], strip].concat()).exits(0);
        let node = tempfile::tempdir().expect("a directory");
        write("containerd", &there, node.path(), &[&["--ca-file", &ca], strip].concat());
        let below = if strip.is_empty() { "docker.io/library/busybox" } else { "library/busybox" };
        let at_site = format!("{there}/{below}@{}", upstream_for(BUSYBOX, "amd64"));
        pulls_by_hosts_toml(&format!("airlock-mirror-prefix-{n}"), node.path(), &at_site);
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn containers_libraries_read_registries_conf() {
    let tls = World::new();
    let dir = tls.path("tls").display().to_string();
    let encrypted = ["--tls-self-signed", &dir, "--advertise", "127.0.0.1"];
    let ca = format!("{dir}/ca.pem");
    for (serve, mirrors) in [
        (&[][..], &[][..]),
        (&encrypted, &["--ca-file", &ca]),
        (&encrypted, &["--ca-file", &ca, "--keep-upstream"]),
    ] {
        let served = Served::with(shared(), "app.tar", serve);
        let node = tempfile::tempdir().expect("a directory");
        let plain = ["--plain-http", &served.host];
        write("crio", &served.host, node.path(), if serve.is_empty() { &plain } else { mirrors });
        let conf = node.path().join("etc/containers/registries.conf.d/50-airlock.conf");
        let certificates = node.path().join("etc/containers/certs.d").join(&served.host);
        for (name, digest) in pulled() {
            let mut command = Command::new("skopeo");
            command.arg("--registries-conf").arg(&conf).args([
                "inspect",
                "--no-tags",
                "--format",
                "{{.Name}} {{.Digest}}",
            ]);
            if certificates.exists() {
                command.arg("--cert-dir").arg(&certificates);
            }
            let said = succeed(command.arg(format!("docker://{name}")));
            let (repository, _) = name.rsplit_once(':').expect("a tag");
            assert_eq!(said.trim(), format!("{repository} {digest}"));
        }
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn docker_asks_serve_for_docker_hubs_images() {
    let _alone = BUSYBOX_IN_DOCKER.lock();
    let served = Served::start(shared(), "app.tar");
    let node = tempfile::tempdir().expect("a directory");
    write("docker", &served.host, node.path(), &["--plain-http", &served.host, "--from-serve"]);
    // The tests' engine, whose files are where its containerd's are.
    let socket = part("AIRLOCK_TEST_CONTAINERD");
    let engine = Path::new(&socket).ancestors().nth(3).expect("the engine's directory");
    let (config, pid) = (engine.join("none.json"), fs::read_to_string(engine.join("pid")).expect("its pid"));
    let reload = format!("kill -HUP {}", pid.trim());
    let undo = format!("echo '{{}}' > {}; {reload}", config.display());
    let undo = ["-c", undo.as_str()];
    let _as_before = AtEnd("sh", &undo);
    fs::copy(node.path().join("etc/docker/daemon.json"), &config).expect("daemon.json");
    tool(Path::new("/"), "sh", &["-c", &reload]).exits(0);
    let mirrors = || docker(&["info", "--format", "{{json .RegistryConfig.Mirrors}}"]).exits(0).stdout;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !mirrors().contains(&served.host) {
        assert!(std::time::Instant::now() < end, "the engine has not read its configuration: {}", mirrors());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let remove = ["image", "rm", "--force", "busybox:1.36"];
    let _gone = AtEnd("docker", &remove);
    let said = docker(&["pull", "busybox:1.36"]).exits(0).stdout;
    assert!(said.contains(&format!("Digest: {}\n", upstream_for(BUSYBOX, "amd64"))), "{said}");
}
