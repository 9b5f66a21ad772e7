//! Images out of the file: skopeo's `oci-archive:`, and oras from the layout.

use std::fs;

use super::{
    BUSYBOX, HELLO, WEB, airlock, carried, path, sha256, shared, tool, untar, upstream, upstream_for,
};
use crate::parts::Registry;
use crate::world::World;

/// skopeo up to 1.9 (Debian 12) finds nothing but OCI manifests and indexes by name in a layout: images in Docker's own
/// format (schema 2) it takes from `airlock serve`, which the tests of that show, and newer ones from here, too.
#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn skopeo_copies_images_out_of_the_tar_with_upstreams_manifests() {
    let pinned = carried().into_iter().find(|(reference, _)| reference == HELLO).expect("hello").1;
    for (bundle, reference, digest, more) in [
        ("app.tar", HELLO, pinned, None),
        ("app.tar", BUSYBOX, upstream_for(BUSYBOX, "amd64"), None),
        ("all.tar", HELLO, upstream(HELLO), None),
        ("all.tar", BUSYBOX, upstream(BUSYBOX), Some("--all")),
    ] {
        let target = tempfile::tempdir().expect("a directory");
        let from = format!("oci-archive:{}:{reference}", path(shared(), bundle));
        let to = format!("dir:{}", target.path().display());
        let mut args = vec!["copy", "--preserve-digests"];
        args.extend(more);
        tool(target.path(), "skopeo", &[&args[..], &[&from, &to]].concat()).exits(0);
        let manifest = fs::read(target.path().join("manifest.json")).expect("what skopeo copied");
        assert_eq!(sha256(&manifest), digest, "{bundle} {reference}");
        let raw = tool(target.path(), "skopeo", &["inspect", "--raw", &from]).exits(0).stdout;
        assert_eq!(sha256(raw.as_bytes()), digest, "{bundle} {reference}");
        let said = tool(target.path(), "skopeo", &["inspect", &from]).exits(0).json();
        assert_eq!((&said["Digest"], &said["Os"]), (&digest.into(), &"linux".into()));
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn oras_finds_every_image_of_the_layout_with_upstreams_digest() {
    let whole = [BUSYBOX, HELLO, WEB].map(|reference| (reference.to_owned(), upstream(reference)));
    for (bundle, images) in [("app.tar", carried()), ("all.tar", whole.into())] {
        let unpacked = untar(shared(), bundle, &[]);
        let directory = unpacked.path().display().to_string();
        // Charts and files have no names there: tools would take them for images.
        let names = tool(unpacked.path(), "oras", &["repo", "tags", "--oci-layout", &directory]).exits(0);
        let mut expected: Vec<&str> = images.iter().map(|(reference, _)| reference.as_str()).collect();
        expected.sort_unstable();
        assert_eq!(names.stdout.lines().collect::<Vec<_>>(), expected);
        for (reference, digest) in &images {
            for layout in [&directory, &path(shared(), bundle)] {
                let args = ["manifest", "fetch", "--oci-layout-path", layout, reference];
                let raw = tool(unpacked.path(), "oras", &args).exits(0).stdout;
                assert_eq!(sha256(raw.as_bytes()), *digest, "{bundle} {reference}");
            }
        }
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn oras_copies_every_image_from_the_tar_into_a_registry() {
    let registry = Registry::start();
    let world = World::new();
    for (reference, digest) in carried() {
        let there = format!("{}/copied/{}", registry.host(), reference.replace("example:5000", "example"));
        let args = ["copy", "--from-oci-layout-path", &path(shared(), "app.tar"), &reference];
        tool(&world.path(""), "oras", &[&args[..], &["--to-plain-http", &there]].concat()).exits(0);
        let found = tool(&world.path(""), "oras", &["resolve", "--plain-http", &there]).exits(0).stdout;
        assert_eq!(found.trim(), digest, "{reference}");
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn the_platforms_that_are_asked_for_arrive_at_a_registry_with_upstreams_digests() {
    let registry = Registry::start();
    let world = World::new();
    world.keys("airlock");
    let (amd64, arm64) = (upstream_for(BUSYBOX, "amd64"), upstream_for(BUSYBOX, "arm64"));
    for (name, platforms, root, children) in [
        ("one", "[\"linux/arm64\"]", &arm64, [None, Some(&arm64)]),
        ("both", "[\"linux/amd64\", \"linux/arm64\"]", &upstream(BUSYBOX), [Some(&amd64), Some(&arm64)]),
        ("all", "[\"all\"]", &upstream(BUSYBOX), [Some(&amd64), Some(&arm64)]),
    ] {
        let head = format!("name = \"{name}\"\nversion = \"1\"\nplatforms = {platforms}\n");
        world.write("bundle.toml", format!("{head}[[image]]\nref = \"{BUSYBOX}\"\n").as_bytes());
        airlock(&world, &["lock"]).exits(0);
        airlock(&world, &["build", "--key", "airlock.key", "--output", "b.tar", "--force"]).exits(0);
        world.run(&["verify", "b.tar", "--key", "airlock.pub"]).exits(0);
        let target = format!("{}/{name}", registry.host());
        world.run(&["push", "b.tar", "--registry", &target, "--key", "airlock.pub"]).exits(0);

        let there = format!("docker://{target}/{BUSYBOX}");
        let inspect = ["inspect", "--raw", "--tls-verify=false", &there];
        let raw = tool(&world.path(""), "skopeo", &inspect).exits(0).stdout;
        assert_eq!(sha256(raw.as_bytes()), *root, "{platforms}");
        for (architecture, child) in ["amd64", "arm64"].into_iter().zip(children) {
            let Some(child) = child else { continue };
            let to = format!("dir:{}", path(&world, &format!("{name}-{architecture}")));
            let copy = ["--override-arch", architecture, "copy", "--src-tls-verify=false", &there, &to];
            tool(&world.path(""), "skopeo", &copy).exits(0);
            let manifest = fs::read(world.path(&format!("{name}-{architecture}/manifest.json")));
            assert_eq!(sha256(&manifest.expect("a manifest")), *child, "{platforms}");
        }
    }
}
