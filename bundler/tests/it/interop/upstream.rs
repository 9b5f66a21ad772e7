//! What upstream says of an image, from a registry there to one at the site: signed and attested by cosign, described by oras,
//! checked by `airlock lock`, and found again by `cosign verify`. Once with a registry that lists referrers, once with one that
//! does not.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{BUSYBOX, part, tool, upstream, upstream_for};
use crate::parts::Registry;
use crate::world::{Run, Served, World};

const OFFLINE: [&str; 3] = ["--yes", "--tlog-upload=false", "--use-signing-config=false"];

fn cosign(world: &World, args: &[&str]) -> Run {
    let mut command = Command::new("cosign");
    command.current_dir(world.path("")).args(args).env("COSIGN_PASSWORD", "secret").stdin(Stdio::null());
    command.output().expect("cosign").into()
}

/// `NAME.key` and `NAME.pub`.
fn keys(world: &World, name: &str) {
    cosign(world, &["generate-key-pair", "--output-key-prefix", name]).exits(0);
}

/// Puts busybox for all platforms into a registry: signed in both of cosign's ways, one platform too, attested, described.
fn fill(world: &World, host: &str) {
    let (from, there) =
        (format!("docker://{}/{BUSYBOX}", part("AIRLOCK_TEST_UPSTREAM")), format!("{host}/{BUSYBOX}"));
    let copy = ["copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"];
    tool(Path::new("/"), "skopeo", &[&copy[..], &[&from, &format!("docker://{there}")]].concat()).exits(0);
    let name = there.rsplit_once(':').expect("a tag").0;
    let sign = |what: &str, digest: &str, more: &[&str]| {
        let image = format!("{name}@{digest}");
        let args = [&[what], &OFFLINE[..], &["--key", "acme.key", "--allow-http-registry"], more, &[&image]];
        cosign(world, &args.concat()).exits(0);
    };
    let (index, child) = (upstream(BUSYBOX), upstream_for(BUSYBOX, "amd64"));
    sign("sign", &index, &[]);
    sign("sign", &index, &["--new-bundle-format=false"]);
    sign("sign", &child, &[]);
    world.write("statement.json", br#"{"buildDefinition": {}}"#);
    sign("attest", &index, &["--type", "slsaprovenance1", "--predicate", "statement.json"]);
    world.write("sbom.json", br#"{"spdxVersion": "SPDX-2.3"}"#);
    let attach = ["attach", "--plain-http", "--artifact-type", "application/spdx+json", &there, "sbom.json"];
    tool(&world.path(""), "oras", &attach).exits(0);
}

fn spec(world: &World, platforms: &str, more: &str) {
    world.write(
        "bundle.toml",
        format!(
            "name = \"app\"\nversion = \"1.0.0\"\nplatforms = [\"{platforms}\"]\n{more}\n\
             [[image]]\nref = \"{BUSYBOX}\"\n"
        )
        .as_bytes(),
    );
}

fn airlock(world: &World, host: &str, args: &[&str]) -> Run {
    world
        .command(args)
        .env("AIRLOCK_MIRRORS", format!("docker.io={host}/docker.io"))
        .output()
        .expect("airlock")
        .into()
}

const SIGNED: &str = "[[signed]]\nimages = [\"docker.io/library/*\"]\nkeys = [\"acme.pub\"]";

/// Asserts that cosign takes an image at a registry, by that key.
fn accepts(world: &World, image: &str) {
    let verify = ["verify", "--key", "acme.pub", "--insecure-ignore-tlog", "--allow-http-registry", image];
    let said = cosign(world, &verify).exits(0);
    assert!(said.stderr.contains("verified against the specified public key"), "{}", said.stderr);
}

/// What belongs to the index and is found at a registry, by kinds of artifact, as oras lists it.
fn referrers(world: &World, image: &str) -> Vec<String> {
    let discover = ["discover", "--plain-http", "--format", "json", image];
    let found = tool(&world.path(""), "oras", &discover).exits(0).stdout;
    let found: Value = serde_json::from_str(&found).expect("JSON");
    let kinds = found["referrers"].as_array().expect("a list").iter();
    let mut kinds: Vec<_> = kinds.map(|it| it["artifactType"].as_str().expect("a type").to_owned()).collect();
    kinds.sort();
    kinds
}

fn carries_everything_from(host: &str, world: &World) {
    keys(world, "acme");
    keys(world, "other");
    world.keys("airlock");
    fill(world, host);
    spec(world, "all", SIGNED);
    airlock(world, host, &["lock"]).exits(0);
    let lock = fs::read_to_string(world.path("images.lock")).expect("the lock");
    assert_eq!(lock.matches("[[image.attached]]").count(), 5, "{lock}");
    airlock(world, host, &["lock", "--check"]).exits(0);
    airlock(world, host, &["build", "--key", "airlock.key", "--output", "app.tar"]).exits(0);
    let shown = world.run(&["inspect", "app.tar", "--key", "airlock.pub"]).exits(0).stdout;
    for text in [
        "signed upstream by key",
        "has cosign signature, of the image\n",
        "has https://sigstore.dev/cosign/sign/v1, of linux/amd64, the image\n",
        "has https://slsa.dev/provenance/v1, of the image\n",
        "has application/spdx+json, of the image\n",
    ] {
        assert!(shown.contains(text), "no {text:?} in {shown}");
    }

    // Everywhere at the site it is found, and pushed once.
    let (store, registry) = (Served::store(world, "site", &[]), Registry::start());
    let served = Served::start(world, "app.tar");
    for site in [&store.host, &registry.host()] {
        let push = || {
            world
                .run(&["push", "app.tar", "--registry", site, "--key", "airlock.pub", "--json"])
                .exits(0)
                .json()
        };
        assert_eq!((&push()["items"], &push()["unchanged"]), (&6.into(), &6.into()));
    }
    let sigstore = "application/vnd.dev.sigstore.bundle.v0.3+json";
    for site in [&store.host, &registry.host(), &served.host] {
        let image = format!("{site}/{BUSYBOX}");
        accepts(world, &image);
        let child =
            format!("{}@{}", image.rsplit_once(':').expect("a tag").0, upstream_for(BUSYBOX, "amd64"));
        accepts(world, &child);
        assert_eq!(referrers(world, &image), ["application/spdx+json", sigstore, sigstore], "{site}");
        let attested = ["verify-attestation", "--key", "acme.pub", "--insecure-ignore-tlog"];
        let attested =
            [&attested[..], &["--type", "slsaprovenance1", "--allow-http-registry", &image]].concat();
        cosign(world, &attested).exits(0);
        // By the tag, too, as older cosign does it.
        let old = ["verify", "--key", "acme.pub", "--insecure-ignore-tlog", "--allow-http-registry"];
        cosign(world, &[&old[..], &["--new-bundle-format=false", &image]].concat()).exits(0);
    }

    // One platform of several: the index goes along as evidence, and its signatures with it.
    spec(world, "linux/amd64", SIGNED);
    airlock(world, host, &["lock"]).exits(0);
    airlock(world, host, &["build", "--key", "airlock.key", "--output", "one.tar"]).exits(0);
    let shown = world.run(&["inspect", "one.tar", "--key", "airlock.pub"]).exits(0).stdout;
    assert!(shown.contains("has https://slsa.dev/provenance/v1, of all its platforms upstream\n"), "{shown}");
    let served = Served::start(world, "one.tar");
    accepts(world, &format!("{}/{BUSYBOX}", served.host));
    let name = BUSYBOX.rsplit_once(':').expect("a tag").0;
    accepts(world, &format!("{}/{name}@{}", served.host, upstream(BUSYBOX)));

    // Somebody else's key, nobody's signature, and none of it carried.
    spec(world, "linux/amd64", &SIGNED.replace("acme.pub", "other.pub"));
    let refused = airlock(world, host, &["lock"]).exits(2);
    refused
        .says("checking upstream's signature")
        .says("no key that bundle.toml names for it has signed sha256:");
    assert!(fs::read_to_string(world.path("images.lock")).expect("the lock").contains("attached"));
    spec(world, "linux/amd64", "attached = false");
    airlock(world, host, &["lock"]).exits(0);
    assert!(!fs::read_to_string(world.path("images.lock")).expect("the lock").contains("attached"));
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn signatures_go_from_a_registry_that_lists_referrers_to_the_site() {
    let world = World::new();
    let upstream = Served::store(&world, "upstream", &[]);
    carries_everything_from(&upstream.host, &world);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn signatures_go_from_a_registry_that_knows_tags_only_to_the_site() {
    let world = World::new();
    let upstream = Registry::start();
    carries_everything_from(&upstream.host(), &world);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_chart_must_be_signed_and_its_signatures_travel() {
    let world = World::new();
    let upstream = Served::store(&world, "upstream", &[]);
    let version = part("AIRLOCK_TEST_WEB_CHART_VERSION");
    let from = format!("{}:{version}", part("AIRLOCK_TEST_WEB_CHART").trim_start_matches("oci://"));
    let name = format!("{}/charts/web", upstream.host);
    let there = format!("{name}:{version}");
    let copy = ["cp", "--from-plain-http", "--to-plain-http", &from, &there];
    tool(Path::new("/"), "oras", &copy).exits(0);
    for key in ["acme", "other"] {
        keys(&world, key);
    }
    world.keys("airlock");
    let spec = |key: &str, more: &str| {
        world.spec(&format!(
            "{more}\n[[chart]]\noci = \"oci://{name}\"\nversion = \"{version}\"\n\
             [[signed]]\nimages = [\"{}/charts/*\"]\nkeys = [\"{key}.pub\"]\n",
            upstream.host
        ));
    };
    let lock = || super::airlock(&world, &["lock"]);
    let refused = || {
        lock()
            .exits(2)
            .says(&format!("chart oci://{there}@sha256:"))
            .says("no key that bundle.toml names for it")
    };
    spec("acme", "");
    refused();

    let raw = tool(Path::new("/"), "oras", &["manifest", "fetch", "--plain-http", &there]).exits(0).stdout;
    let image = format!("{name}@{}", super::sha256(raw.as_bytes()));
    for more in [&[][..], &["--new-bundle-format=false"]] {
        let sign = ["--key", "acme.key", "--allow-http-registry"];
        cosign(&world, &[&["sign"], &OFFLINE[..], &sign, more, &[&image]].concat()).exits(0);
    }
    spec("other", "");
    refused();
    spec("acme", "");
    lock().exits(0);
    let text = fs::read_to_string(world.path("images.lock")).expect("the lock");
    assert_eq!(text.matches("[[chart.attached]]").count(), 2, "{text}");
    super::airlock(&world, &["lock", "--check"]).exits(0);
    // What is pinned for one key is not enough for another.
    spec("other", "");
    refused();
    spec("acme", "");

    super::airlock(&world, &["build", "--key", "airlock.key", "--output", "app.tar"]).exits(0);
    let shown = world.run(&["inspect", "app.tar", "--key", "airlock.pub"]).exits(0).stdout;
    assert!(shown.contains("signed upstream by key") && shown.contains("has cosign signature\n"), "{shown}");
    world.run(&["verify", "app.tar", "--key", "airlock.pub"]).exits(0);
    let (store, registry) = (Served::store(&world, "site", &[]), Registry::start());
    let served = Served::start(&world, "app.tar");
    for site in [&store.host, &registry.host()] {
        for _ in 0..2 {
            world.run(&["push", "app.tar", site, "--key", "airlock.pub"]).exits(0);
        }
    }
    for site in [&store.host, &registry.host(), &served.host] {
        let chart = format!("{site}/charts/web:{version}");
        accepts(&world, &chart);
        let old = ["verify", "--key", "acme.pub", "--insecure-ignore-tlog", "--allow-http-registry"];
        cosign(&world, &[&old[..], &["--new-bundle-format=false", &chart]].concat()).exits(0);
        assert_eq!(referrers(&world, &chart), ["application/vnd.dev.sigstore.bundle.v0.3+json"], "{site}");
    }

    spec("acme", "attached = false");
    lock().exits(0);
    let text = fs::read_to_string(world.path("images.lock")).expect("the lock");
    assert!(!text.contains("attached") && text.contains("signed_by"), "{text}");
}
