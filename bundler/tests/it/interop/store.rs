//! `airlock serve --store` as skopeo, oras, helm and Docker push to it, and its directory as skopeo reads it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{AtEnd, BUSYBOX, HELLO, part, path, sha256, shared, tool, upstream};
use crate::parts::LOGIN;
use crate::world::{Served, World};

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn what_other_tools_push_they_find_again_and_so_does_who_reads_the_directory() {
    let world = World::new();
    let served = Served::store(&world, "store", &[]);
    let here = world.path("");
    let at = |name: &str| format!("{}/{name}", served.host);

    // All platforms, and one more name for the same.
    let from = format!("docker://{}/{BUSYBOX}", part("AIRLOCK_TEST_UPSTREAM"));
    let copy = ["copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"];
    for name in ["tools/busybox:1.36", "other/busybox:latest"] {
        let to = format!("docker://{}", at(name));
        tool(&here, "skopeo", &[&copy[..], &[&from, &to]].concat()).exits(0);
    }
    let store = path(&world, "store");
    for there in
        [format!("docker://{}", at("tools/busybox:1.36")), format!("oci:{store}:other/busybox:latest")]
    {
        let raw = tool(&here, "skopeo", &["inspect", "--raw", "--tls-verify=false", &there]).exits(0).stdout;
        assert_eq!(sha256(raw.as_bytes()), upstream(BUSYBOX), "{there}");
    }

    // What belongs to an image is found by it.
    world.write("sbom.json", b"{}");
    let image = at("tools/busybox:1.36");
    let attach = ["attach", "--plain-http", "--artifact-type", "application/spdx+json", &image, "sbom.json"];
    tool(&here, "oras", &attach).exits(0);
    let discover = ["discover", "--plain-http", "--format", "json", &image];
    let found: Value = serde_json::from_str(&tool(&here, "oras", &discover).exits(0).stdout).expect("JSON");
    assert_eq!(found["referrers"][0]["artifactType"], "application/spdx+json", "{found}");
    let tags = tool(&here, "oras", &["repo", "tags", "--plain-http", &at("tools/busybox")]).exits(0).stdout;
    assert_eq!(tags.trim(), "1.36", "a tag stands in for the referrers API");

    // A chart.
    let chart = shared_chart(&world);
    tool(&here, "helm", &["push", &chart, &format!("oci://{}", at("charts")), "--plain-http"]).exits(0);
    fs::create_dir(world.path("pulled")).expect("a directory");
    let version = part("AIRLOCK_TEST_WEB_CHART_VERSION");
    let pull = ["pull", &format!("oci://{}", at("charts/web")), "--version", &version, "--plain-http"];
    tool(&world.path("pulled"), "helm", &pull).exits(0);
    let pulled = fs::read(world.path(&format!("pulled/web-{version}.tgz"))).expect("the chart");
    assert!(pulled == fs::read(&chart).expect("the chart"), "another chart came back");

    // Docker, which says its manifests in a format of its own.
    let name = at("team/hello:1");
    tool(&here, "docker", &["tag", HELLO, &name]).exits(0);
    let remove = ["image", "rm", name.as_str()];
    let _untag = AtEnd("docker", &remove);
    tool(&here, "docker", &["push", &name]).exits(0);
    tool(&here, "docker", &remove).exits(0);
    tool(&here, "docker", &["pull", &name]).exits(0);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn docker_pulls_what_everybody_may_and_pushes_when_it_is_logged_in() {
    let world = World::new();
    let here = world.path("");
    let hash = tool(&here, "htpasswd", &["-nbBC", "5", LOGIN.0, LOGIN.1]).exits(0).stdout;
    world.write("users", hash.as_bytes());
    let served = Served::store(&world, "store", &["--htpasswd", &path(&world, "users"), "--anonymous-pull"]);
    let (logged_in, nobody) = (path(&world, "logged-in"), path(&world, "nobody"));
    let docker = |config: &str, args: &[&str]| tool(&here, "docker", &[&["--config", config], args].concat());

    let name = format!("{}/team/open:1", served.host);
    tool(&here, "docker", &["tag", HELLO, &name]).exits(0);
    let remove = ["image", "rm", name.as_str()];
    let _untag = AtEnd("docker", &remove);
    docker(&nobody, &["push", &name]).exits(1).says("log in first");
    docker(&logged_in, &["login", "--username", LOGIN.0, "--password", "wrong", &served.host]).exits(1);
    docker(&logged_in, &["login", "--username", LOGIN.0, "--password", LOGIN.1, &served.host]).exits(0);
    docker(&logged_in, &["push", &name]).exits(0);
    tool(&here, "docker", &remove).exits(0);
    docker(&nobody, &["pull", &name]).exits(0);

    world.write("no-login", b"{}");
    let image = format!("docker://{name}");
    let no_login = ["--tls-verify=false", "--authfile", &path(&world, "no-login"), &image];
    tool(&here, "skopeo", &[&["inspect", "--raw"], &no_login[..]].concat()).exits(0);
    tool(&here, "skopeo", &[&["delete"], &no_login[..]].concat()).exits(1);
}

/// The web chart's file.
fn shared_chart(world: &World) -> String {
    let version = part("AIRLOCK_TEST_WEB_CHART_VERSION");
    let pull = ["pull", &part("AIRLOCK_TEST_WEB_CHART"), "--version", &version, "--plain-http"];
    tool(&world.path(""), "helm", &pull).exits(0);
    path(world, &format!("web-{version}.tgz"))
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_bundle_pushed_to_a_store_is_what_serve_has() {
    let world = World::new();
    let store = Served::store(&world, "store", &[]);
    let served = Served::start(shared(), "app.tar");
    shared().run(&["push", "app.tar", "--registry", &store.host, "--key", "airlock.pub"]).exits(0);
    let list =
        |host: &str| tool(Path::new("/"), "oras", &["repo", "ls", "--plain-http", host]).exits(0).stdout;
    let names = list(&served.host);
    assert!(names.lines().count() > 5, "{names}");
    assert_eq!(list(&store.host), names);
    for name in names.lines() {
        let both = [&served.host, &store.host].map(|host| {
            let tags = ["repo", "tags", "--plain-http", &format!("{host}/{name}")];
            let tags = tool(Path::new("/"), "oras", &tags).exits(0).stdout;
            let digest = |tag: &str| {
                let resolve = ["resolve", "--plain-http", &format!("{host}/{name}:{tag}")];
                tool(Path::new("/"), "oras", &resolve).exits(0).stdout
            };
            tags.lines().map(|tag| (tag.to_owned(), digest(tag))).collect::<Vec<_>>()
        });
        assert_eq!(both[0], both[1], "{name}");
    }
}
