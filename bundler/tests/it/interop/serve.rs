//! `airlock serve` as helm, skopeo and curl find it. The engines are in `engines`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{
    BUSYBOX, PORTED, REDIS, Served, WEB, carried, lock_of, part, sha256, shared, tool, untar, upstream,
    upstream_for,
};
use crate::world::{Run, World};

/// Where `digest` is among a bundle's entries.
fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn helm_pulls_charts_as_they_are_pinned() {
    let served = Served::start(shared(), "app.tar");
    let pulled = tempfile::tempdir().expect("a directory");
    let lock = lock_of(shared(), "images.lock");
    assert_eq!(lock.charts.len(), 2);
    for chart in &lock.charts {
        let (name, version) = (&chart.name, &chart.version);
        let there = format!("oci://{}/charts/{name}", served.host);
        let pull = ["pull", &there, "--version", version, "--plain-http"];
        let said = tool(pulled.path(), "helm", &pull).exits(0);
        assert!(format!("{}{}", said.stdout, said.stderr).contains(&format!("Digest: {}\n", chart.digest)));
        let content = fs::read(pulled.path().join(format!("{name}-{version}.tgz"))).expect("the chart");

        let manifest = blob(&chart.digest.to_string());
        let entries = untar(shared(), "app.tar", &[&manifest]);
        let manifest = fs::read(entries.path().join(&manifest)).expect("the chart's manifest");
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        assert_eq!(manifest["layers"][0]["digest"], sha256(&content));

        let show = ["show", "chart", &there, "--version", version, "--plain-http"];
        let shown = tool(pulled.path(), "helm", &show).exits(0).stdout;
        assert!(shown.contains(&format!("name: {name}\n")), "{shown}");
    }
    // What came from a registry is what upstream has.
    let (source, version) = (part("AIRLOCK_TEST_WEB_CHART"), part("AIRLOCK_TEST_WEB_CHART_VERSION"));
    let other = tempfile::tempdir().expect("a directory");
    tool(other.path(), "helm", &["pull", &source, "--version", &version, "--plain-http"]).exits(0);
    let name = format!("web-{version}.tgz");
    let both = [pulled.path(), other.path()].map(|dir| fs::read(dir.join(&name)).expect("the chart"));
    assert!(both[0] == both[1], "{name} is another than upstream's");
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn skopeo_copies_from_serve_by_the_sources_name_and_by_the_mapped_one() {
    let served = Served::start(shared(), "app.tar");
    for (reference, digest) in carried() {
        let mapped = reference.replace("example:5000", "example_5000");
        let (_, alone) = reference.split_once('/').expect("a host");
        for name in [mapped.as_str(), alone] {
            let target = tempfile::tempdir().expect("a directory");
            let from = format!("docker://{}/{name}", served.host);
            let to = format!("dir:{}", target.path().display());
            tool(target.path(), "skopeo", &["copy", "--src-tls-verify=false", &from, &to]).exits(0);
            let manifest = fs::read(target.path().join("manifest.json")).expect("what skopeo copied");
            assert_eq!(sha256(&manifest), digest, "{name}");
        }
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn skopeo_finds_all_platforms_of_an_index_at_serve() {
    let served = Served::start(shared(), "all.tar");
    let target = tempfile::tempdir().expect("a directory");
    let from = format!("docker://{}/{BUSYBOX}", served.host);
    let to = format!("dir:{}", target.path().display());
    let copy = ["copy", "--all", "--preserve-digests", "--src-tls-verify=false", &from, &to];
    tool(target.path(), "skopeo", &copy).exits(0);
    let index = fs::read(target.path().join("manifest.json")).expect("what skopeo copied");
    assert_eq!(sha256(&index), upstream(BUSYBOX));
}

/// A request by curl: the body and what curl is told to write after it, on a line of its own.
fn curl(url: &str, write: &str, args: &[&str]) -> (String, String) {
    let write = format!("\n{write}");
    let fixed = ["--silent", "--show-error", "--noproxy", "*", "--write-out", &write, url];
    let run: Run = tool(Path::new("/"), "curl", &[&fixed[..], args].concat()).exits(0);
    let (body, written) = run.stdout.rsplit_once('\n').expect("what curl writes");
    (body.into(), written.into())
}

fn status(url: &str, args: &[&str]) -> String {
    curl(url, "%{http_code}", args).1
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn heads_and_ranges_are_answered_as_the_distribution_spec_says() {
    let served = Served::start(shared(), "app.tar");
    let digest = upstream_for(BUSYBOX, "amd64");
    let manifest = format!("http://{}/v2/docker.io/library/busybox/manifests/1.36", served.host);
    let head = "%{http_code} %header{docker-content-digest} %header{content-type} %{size_download}";
    let oci = "application/vnd.oci.image.manifest.v1+json";
    assert_eq!(
        curl(&manifest, head, &["--head", "--output", "/dev/null"]).1,
        format!("200 {digest} {oci} 0")
    );
    let (body, _) = curl(&manifest, "", &[]);
    assert_eq!(sha256(body.as_bytes()), digest);

    let config: Value = serde_json::from_str(&body).expect("JSON");
    let config = config["config"]["digest"].as_str().expect("a digest").to_owned();
    let url = format!("http://{}/v2/docker.io/library/busybox/blobs/{config}", served.host);
    let (whole, code) = curl(&url, "%{http_code}", &[]);
    assert_eq!((sha256(whole.as_bytes()), code.as_str()), (config.clone(), "200"));
    let size = whole.len();
    let ranged = "%{http_code} %header{content-range} %header{content-length}";
    let (part, said) = curl(&url, ranged, &["--range", "5-14"]);
    assert_eq!((part.as_str(), said), (&whole[5..15], format!("206 bytes 5-14/{size} 10")));
    let (part, said) = curl(&url, ranged, &["--range", "-3"]);
    assert_eq!(part, whole[size - 3..]);
    assert_eq!(said, format!("206 bytes {}-{}/{size} 3", size - 3, size - 1));
    assert_eq!(status(&url, &["--range", &format!("{size}-")]), "416");

    // A layer, and one piece from its middle.
    let layer: Value = serde_json::from_str(&body).expect("JSON");
    let layer = layer["layers"][0]["digest"].as_str().expect("a digest");
    let url = format!("http://{}/v2/docker.io/library/busybox/blobs/{layer}", served.host);
    let got = World::new();
    let out = got.path("piece").display().to_string();
    let written = curl(&url, "%{http_code}", &["--range", "70000-170000", "--output", &out]).1;
    assert_eq!(written, "206");
    let entry = blob(layer);
    let entries = untar(shared(), "app.tar", &[&entry]);
    let all = fs::read(entries.path().join(&entry)).expect("the layer");
    assert!(fs::read(out).expect("the piece") == all[70_000..=170_000], "another piece of the layer");
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn mirrors_are_answered_for_their_own_host_and_everything_else_is_refused() {
    let served = Served::start(shared(), "app.tar");
    let at = |path: &str| format!("http://{}/v2/{path}", served.host);
    let code = |path: &str| status(&at(path), &[]);
    let (redis, web) = ("library/redis/manifests/8.10.1-alpine", "example/web/manifests/1.0.0");
    assert!(REDIS.ends_with("library/redis:8.10.1-alpine") && WEB.ends_with("example/web:1.0.0"));
    assert_eq!(code(&format!("{redis}?ns=docker.io")), "200");
    assert_eq!(code(&format!("{web}?ns=quay.io")), "200");
    // Another host's image of the same name is another image.
    assert_eq!(code(&format!("{redis}?ns=quay.io")), "404");
    assert_eq!(code(&format!("{web}?ns=docker.io")), "404");
    // A mirror with the host in its path, as `override_path` has it; containerd says the host all the same.
    assert_eq!(code(&format!("docker.io/{redis}?ns=docker.io")), "200");
    // Go's clients escape the colon.
    assert!(PORTED.starts_with("registry.example:5000/tools/busybox:"));
    assert_eq!(code("tools/busybox/manifests/1.36?ns=registry.example%3A5000"), "200");
    assert_eq!(code("tools/busybox/manifests/1.36?ns=registry.example"), "404");

    for (args, path, expected) in [
        (&[][..], "docker.io/library/nginx/manifests/1", ("404", "NAME_UNKNOWN")),
        (&[], "docker.io/library/redis/manifests/9", ("404", "MANIFEST_UNKNOWN")),
        (
            &["--request", "PUT", "--data", "{}"],
            "docker.io/library/redis/manifests/9",
            ("405", "UNSUPPORTED"),
        ),
        (&["--request", "POST"], "docker.io/library/redis/blobs/uploads/", ("405", "UNSUPPORTED")),
        (&["--request", "DELETE"], "docker.io/library/redis/manifests/8", ("405", "UNSUPPORTED")),
    ] {
        let (body, code) = curl(&at(path), "%{http_code}", args);
        let error: Value = serde_json::from_str(&body).expect("an error of the distribution spec");
        assert_eq!((code.as_str(), error["errors"][0]["code"].as_str()), (expected.0, Some(expected.1)));
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn lists_come_in_parts_and_each_says_where_the_next_is() {
    let served = Served::start(shared(), "app.tar");
    let catalog = |url: &str| {
        let (body, link) = curl(url, "%header{link}", &[]);
        let names: Value = serde_json::from_str(&body).expect(&body);
        let names = names["repositories"].as_array().expect("names").clone();
        let next = link.strip_prefix('<').and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
        (names, next.map(|path| format!("http://{}{path}", served.host)))
    };
    let start = format!("http://{}/v2/_catalog", served.host);
    let (all, none) = catalog(&start);
    assert!(all.len() > 3 && none.is_none(), "{all:?}");
    let (mut names, mut next) = catalog(&format!("{start}?n=2"));
    while let Some(url) = next {
        let (part, after) = catalog(&url);
        assert!((1..=2).contains(&part.len()), "{url}: {part:?}");
        names.extend(part);
        next = after;
    }
    assert_eq!(names, all);
    let last = all[1].as_str().expect("a name").replace('/', "%2F");
    assert_eq!(catalog(&format!("{start}?last={last}")).0, all[2..]);
    // A client that follows `Link`, and a path that is encoded.
    let listed = tool(Path::new("/"), "oras", &["repo", "ls", "--plain-http", &served.host]).exits(0).stdout;
    assert_eq!(listed.lines().count(), all.len(), "{listed}");
    let digest = upstream_for(BUSYBOX, "amd64").replace(':', "%3A");
    let manifest = format!("http://{}/v2/docker.io%2Flibrary/busybox/manifests/{digest}", served.host);
    assert_eq!(status(&manifest, &[]), "200");
}
