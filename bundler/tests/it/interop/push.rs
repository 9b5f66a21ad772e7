//! `airlock push` into CNCF distribution's registry, and what other tools find there.

use std::fs;

use super::{Served, carried, lock_of, path, sha256, shared, tool};
use crate::parts::{Certificate, LOGIN, Registry, Settings};
use crate::world::World;

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn what_is_pushed_has_upstreams_digests_and_is_pushed_once() {
    let registry = Registry::start();
    let target = format!("{}/site", registry.host());
    let push = || {
        shared()
            .run(&["push", "app.tar", "--registry", &target, "--key", "airlock.pub", "--json"])
            .exits(0)
            .json()
    };
    let lock = lock_of(shared(), "images.lock");
    let items = lock.images.len() + lock.charts.len() + lock.files.len();
    let first = push();
    assert_eq!((&first["items"], &first["unchanged"]), (&items.into(), &0.into()), "{first}");
    assert!(first["bytes_sent"].as_u64() > Some(1 << 20), "{first}");
    let second = push();
    assert_eq!((&second["items"], &second["unchanged"]), (&items.into(), &items.into()), "{second}");
    assert_eq!((&second["blobs_sent"], &second["bytes_sent"]), (&0.into(), &0.into()), "{second}");

    let here = World::new();
    for (reference, digest) in carried() {
        let there = format!("docker://{target}/{}", reference.replace("example:5000", "example_5000"));
        let inspect = ["inspect", "--raw", "--tls-verify=false", &there];
        let raw = tool(&here.path(""), "skopeo", &inspect).exits(0).stdout;
        assert_eq!(sha256(raw.as_bytes()), digest, "{reference}");
    }

    // Charts are the same whether they come from the registry or straight from the bundle.
    let served = Served::start(shared(), "app.tar");
    for chart in &lock.charts {
        let pulled = [&target, &served.host].map(|from| {
            let dir = tempfile::tempdir().expect("a directory");
            let there = format!("oci://{from}/charts/{}", chart.name);
            let pull = ["pull", &there, "--version", &chart.version, "--plain-http"];
            tool(dir.path(), "helm", &pull).exits(0);
            fs::read(dir.path().join(format!("{}-{}.tgz", chart.name, chart.version))).expect("the chart")
        });
        assert!(pulled[0] == pulled[1], "{}", chart.name);
    }
    for file in &lock.files {
        let there = format!("{target}/files/{}:1.0.0-linux-amd64", file.name);
        tool(&here.path(""), "oras", &["pull", "--plain-http", &there]).exits(0);
        let content = fs::read(here.path(&file.name)).expect("what oras pulled");
        assert_eq!(sha256(&content), file.digest.to_string());
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn push_uses_dockers_login_and_a_ca_file() {
    let world = World::with_bundle();
    let certificate = Certificate::signed(&world.path(""));
    let registry =
        Registry::with(&Settings { login: true, certificate: Some(&certificate), ..Settings::default() });
    let target = format!("{}/site", registry.host());
    let push = |more: &[&str]| {
        world.run(
            &[&["push", "app.tar", "--registry", &target, "--key", "airlock.pub", "--json"], more].concat(),
        )
    };
    let ca = path(&world, "ca.pem");
    push(&[]).exits(3).says("certificate").says("--ca-file");
    push(&["--ca-file", &ca]).exits(3).says("401 Unauthorized").says("no login");

    let config = path(&world, "docker");
    let login = ["--config", &config, "login", "--username", LOGIN.0, "--password", LOGIN.1];
    tool(&world.path(""), "docker", &[&login[..], &[&registry.host()]].concat()).exits(0);
    let pushed = push(&["--ca-file", &ca]).exits(0).json();
    assert_eq!((&pushed["items"], &pushed["unchanged"]), (&3.into(), &0.into()), "{pushed}");
    assert_eq!(push(&["--ca-file", &ca]).exits(0).json()["unchanged"], 3);

    // By skopeo, with the same login and CA.
    let there = format!("docker://{target}/docker.io/library/redis:8");
    let cas = path(&world, "cas");
    world.write("cas/ca.crt", &fs::read(&ca).expect("the CA"));
    let login = format!("{config}/config.json");
    let inspect = ["inspect", "--raw", "--authfile", &login, "--cert-dir", &cas, &there];
    let raw = tool(&world.path(""), "skopeo", &inspect).exits(0).stdout;
    let lock = lock_of(&world, "images.lock");
    let redis = lock.images.iter().find(|i| i.reference.to_string() == "docker.io/library/redis:8");
    assert_eq!(sha256(raw.as_bytes()), redis.expect("redis").digest.to_string());
}
