//! HTTP chart repositories as they are in the wild, and charts in OCI registries as others push them. Both are servers of the
//! test's own: what they answer has to change from run to run.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use bundler::chart::Chart;
use bundler::digest::Digest;
use bytes::Bytes;
use serde_json::json;

use super::{lock_of, path};
use crate::liar::{Asked, Liar, answer};
use crate::world::{Run, World};

/// A server of files, which may want a password.
struct Shop {
    liar: Liar,
    files: Arc<Mutex<HashMap<String, Bytes>>>,
}

impl Shop {
    async fn open(password: Option<&'static str>) -> Self {
        let files: Arc<Mutex<HashMap<String, Bytes>>> = Arc::default();
        let shelf = files.clone();
        let liar = Liar::start(move |asked: &Asked| {
            if password.is_some() && asked.header("authorization") != password {
                return Some(answer(401, &[("www-authenticate", "Basic realm=x")], ""));
            }
            let found = shelf.lock().expect("a lock").get(&asked.target).cloned();
            Some(found.map_or_else(|| answer(404, &[], ""), |body| answer(200, &[], body)))
        })
        .await;
        Self { liar, files }
    }

    fn put(&self, path: &str, content: impl Into<Bytes>) {
        self.files.lock().expect("a lock").insert(path.into(), content.into());
    }

    /// Puts a chart where an OCI registry has it, with a layer of `media_type`.
    fn push(&self, repository: &str, tag: &str, chart: &Chart, media_type: &str) -> Digest {
        let part = |media_type: &str, content: &[u8]| {
            let digest = Digest::of(content);
            self.put(&format!("/v2/{repository}/blobs/{digest}"), content.to_vec());
            json!({"mediaType": media_type, "digest": digest, "size": content.len()})
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": part("application/vnd.cncf.helm.config.v1+json", &chart.config),
            "layers": [part(media_type, &chart.content)],
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = Digest::of(&manifest);
        for reference in [tag, &digest.to_string()] {
            self.put(&format!("/v2/{repository}/manifests/{reference}"), manifest.clone());
        }
        digest
    }
}

const CONTENT: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
const OLD_CONTENT: &str = "application/tar+gzip";
const PASSWORD: &str = "Basic YW5uOnNlc2FtZQ==";

/// A chart without images; `note` makes its content another.
fn chart(name: &str, version: &str, note: &str) -> Chart {
    let world = World::new();
    let metadata = format!("apiVersion: v2\nname: {name}\nversion: {version}\n");
    world.write("c/Chart.yaml", metadata.as_bytes());
    let template =
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {{note: {note:?}}}\n");
    world.write("c/templates/a.yaml", template.as_bytes());
    Chart::from_dir(&world.path("c")).expect("a chart")
}

fn index(urls: &str) -> String {
    format!(
        "apiVersion: v1\nentries:\n  other:\n  - {{apiVersion: v2, name: other, urls: [other-1.tgz]}}\n  list: 3\n  plain:\n  \
         -\n  - {{name: plain, urls: [plain-0.tgz]}}\n  - {{name: plain, version: 1.0.0, urls: [{urls:?}]}}\n"
    )
}

/// Locks `[[chart]]` with these lines; nothing of this machine's helm or docker is used.
fn lock(world: &World, chart: &str, more: &[&str]) -> Run {
    world.spec(&format!("[[chart]]\n{chart}"));
    let mut command = world.command(&["lock"]);
    command
        .args(more)
        .env("HELM_REPOSITORY_CONFIG", path(world, "repositories.yaml"))
        .output()
        .expect("airlock")
        .into()
}

fn from(repository: &str) -> String {
    format!("repo = \"{repository}\"\nchart = \"plain\"\nversion = \"1.0.0\"\n")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real parts: cargo xtask test"]
async fn indexes_with_odd_entries_lead_to_the_chart() {
    let shop = Shop::open(None).await;
    let packed = chart("plain", "1.0.0", "");
    let host = format!("http://{}", shop.liar.host);
    for (repository, urls, place) in [
        ("/charts", "plain-1.0.0.tgz", "/charts/plain-1.0.0.tgz"),
        ("/charts/", "sub/plain.tgz", "/charts/sub/plain.tgz"),
        ("/charts", "/root.tgz", "/root.tgz"),
        ("/charts", "../up.tgz", "/up.tgz"),
        ("/q?token=t", "plain.tgz", "/q/plain.tgz?token=t"),
        ("", "/root.tgz", "/root.tgz"),
    ] {
        let world = World::new();
        let (directory, query) = repository.split_once('?').unwrap_or((repository, ""));
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        shop.put(&format!("{}/index.yaml{query}", directory.trim_end_matches('/')), index(urls));
        shop.put(place, packed.content.clone());
        lock(&world, &from(&format!("{host}{repository}")), &[]).exits(0);
        let locked = &lock_of(&world, "images.lock").charts[0];
        assert_eq!((locked.from.as_str(), locked.digest), (&*format!("{host}{place}"), packed.digest()));
    }
    let world = World::new();
    shop.put("/bad/index.yaml", index("ftp://h.example/plain.tgz"));
    lock(&world, &from(&format!("{host}/bad")), &[]).exits(1).says("unknown kind").says("hint:");
    lock(&world, &from(&format!("{host}/bad")).replace("1.0.0", "3.0.0"), &[]).exits(1).says("it has 1.0.0");
    for (chart, says) in
        [("other", "no such version"), ("list", "no such version"), ("absent", "no chart of this")]
    {
        lock(&world, &from(&format!("{host}/bad")).replace("\"plain\"", &format!("{chart:?}")), &[])
            .exits(1)
            .says(says);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real parts: cargo xtask test"]
async fn an_index_of_thirty_megabytes_is_read() {
    let (shop, world) = (Shop::open(None).await, World::new());
    let plain = "  plain:\n  - {name: plain, version: 1.0.0, urls: [plain-1.0.0.tgz]}\n";
    let mut large = format!("apiVersion: v1\nentries:\n{plain}");
    for chart in 0..400 {
        let _ = writeln!(large, "  chart-{chart}:");
        for version in 0..200 {
            let _ = writeln!(
                large,
                "  - annotations:\n      category: Database\n    apiVersion: v2\n    appVersion: 1.{version}\n    \
                 description: {}\n    home: https://example.com\n    keywords:\n    - database\n    - sql\n    maintainers:\n    \
                 - email: someone@example.com\n      name: someone\n    name: chart-{chart}\n    urls:\n    \
                 - charts/chart-{chart}-1.{version}.0.tgz\n    version: 1.{version}.0",
                "words ".repeat(12)
            );
        }
    }
    assert!(large.len() > 27 << 20, "{}", large.len());
    shop.put("/index.yaml", large);
    shop.put("/plain-1.0.0.tgz", chart("plain", "1.0.0", "").content);
    lock(&world, &from(&format!("http://{}", shop.liar.host)), &[]).exits(0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real parts: cargo xtask test"]
async fn an_entry_that_leads_to_a_registry_is_pinned() {
    let (shop, world) = (Shop::open(None).await, World::new());
    let host = &shop.liar.host;
    let repository = from(&format!("http://{host}"));
    let digest = shop.push("only/any-name", "1.0.0", &chart("plain", "1.0.0", ""), CONTENT);
    for urls in [format!("oci://{host}/only/any-name:1.0.0"), format!("oci://{host}/only/any-name")] {
        shop.put("/index.yaml", index(&urls));
        lock(&world, &repository, &[]).exits(0);
        let locked = &lock_of(&world, "images.lock").charts[0];
        assert_eq!(
            (locked.from.clone(), locked.digest),
            (format!("oci://{host}/only/any-name:1.0.0@{digest}"), digest)
        );
    }
    world.keys("airlock");
    world.build("b.tar");
    world.run(&["verify", "b.tar", "--key", "airlock.pub"]).exits(0);

    // Other content under the same version: at the same place, at another one, and at a web server.
    let other = chart("plain", "1.0.0", "changed");
    let moved = shop.push("only/any-name", "1.0.0", &other, CONTENT);
    let refused = lock(&world, &repository, &[]).exits(2).says("must not change").says("--update plain");
    refused.says(&digest.to_string()).says(&moved.to_string());
    shop.push("else/plain", "1.0.0", &other, CONTENT);
    shop.put("/index.yaml", index(&format!("oci://{host}/else/plain:1.0.0")));
    lock(&world, &repository, &[]).exits(2).says("must not change");
    shop.put("/index.yaml", index("plain.tgz"));
    shop.put("/plain.tgz", other.content.clone());
    lock(&world, &repository, &[]).exits(2).says("must not change");
    lock(&world, &repository, &["--update", "plain"]).exits(0);
    // From the web server to a registry: the same packed chart is taken, another is not.
    shop.put("/index.yaml", index(&format!("oci://{host}/else/plain:1.0.0")));
    lock(&world, &repository, &[]).exits(0);
    shop.put("/index.yaml", index("plain.tgz"));
    lock(&world, &repository, &["--update"]).exits(0);
    shop.push("else/plain", "1.0.0", &chart("plain", "1.0.0", "again"), CONTENT);
    shop.put("/index.yaml", index(&format!("oci://{host}/else/plain:1.0.0")));
    lock(&world, &repository, &[]).exits(2).says("must not change");
    // A chart that is not the one that was asked for.
    shop.push("else/plain", "1.0.0", &chart("plane", "1.0.0", ""), CONTENT);
    lock(&world, &repository, &["--update"])
        .exits(1)
        .says("it is plane 1.0.0, and plain 1.0.0 was asked for");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real parts: cargo xtask test"]
async fn registry_charts_may_have_other_names_and_types() {
    let shop = Shop::open(None).await;
    for (repository, name, media_type) in [
        ("charts/stable", "plain", CONTENT),
        ("plain", "plain", OLD_CONTENT),
        ("charts/my_chart", "my_chart", CONTENT),
        ("charts/x", "a__b-c.d", OLD_CONTENT),
    ] {
        let world = World::new();
        let packed = chart(name, "1.0.0+b", "");
        let digest = shop.push(repository, "1.0.0_b", &packed, media_type);
        let spec = format!(
            "oci = \"oci://{}/{repository}\"\nversion = \"1.0.0+b\"\nrelease = \"r\"\n",
            shop.liar.host
        );
        lock(&world, &spec, &[]).exits(0);
        let locked = &lock_of(&world, "images.lock").charts[0];
        assert_eq!((locked.name.as_str(), locked.digest), (name, digest));
        world.keys("airlock");
        world.build("b.tar");
        let rendered =
            world.run(&["render", "b.tar", "--key", "airlock.pub", "--registry", "site:5000"]).exits(0);
        assert!(rendered.stdout.contains("kind: ConfigMap"), "{}", rendered.stdout);
        // A tag that moves is a version that changes.
        shop.push(repository, "1.0.0_b", &chart(name, "1.0.0+b", "changed"), media_type);
        lock(&world, &spec, &[]).exits(2).says("must not change");
        lock(&world, &spec.replace("1.0.0+b", "2.0.0"), &[]).exits(3);
    }
    let world = World::new();
    shop.push("charts/my_chart", "1.0.0", &chart("my_chart", "1.0.0", ""), CONTENT);
    let spec = format!("oci = \"oci://{}/charts/my_chart\"\nversion = \"1.0.0\"\n", shop.liar.host);
    lock(&world, &spec, &[]).exits(1).says("my_chart").says("give the chart a `release`");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real parts: cargo xtask test"]
async fn helms_login_and_dockers_open_a_repository() {
    let (shop, elsewhere) = (Shop::open(Some(PASSWORD)).await, Shop::open(None).await);
    let (packed, url) = (chart("plain", "1.0.0", ""), format!("http://{}/charts", shop.liar.host));
    let helm = |world: &World, user: &str, more: &str| {
        let text = format!(
            "repositories:\n- {{name: a, url: '{url}/', username: {user}, password: sesame{more}}}\n"
        );
        world.write("repositories.yaml", text.as_bytes());
    };
    shop.put("/charts/index.yaml", index("/plain.tgz"));
    shop.put("/plain.tgz", packed.content.clone());
    let world = World::new();
    lock(&world, &from(&url), &[]).exits(3).says("401").says("helm repo add").says("docker login");
    helm(&world, "ann", "");
    lock(&world, &from(&url), &[]).exits(0);
    world.keys("airlock");
    let mut build = world.command(&["build", "--key", "airlock.key", "--output", "b.tar"]);
    build
        .env("XDG_CACHE_HOME", world.path("another-cache"))
        .env("HELM_REPOSITORY_CONFIG", world.path("repositories.yaml"));
    Run::from(build.output().expect("airlock")).exits(0);
    helm(&world, "bob", "");
    lock(&world, &from(&url), &[]).exits(3).says("401");

    let docker = World::new();
    let config = json!({"auths": {&shop.liar.host: {"username": "ann", "password": "sesame"}}});
    docker.write("docker/config.json", config.to_string().as_bytes());
    lock(&docker, &from(&url), &[]).exits(0);

    // The password stays with its host, unless helm was told otherwise.
    let far = format!("http://{}/plain.tgz", elsewhere.liar.host);
    elsewhere.put("/plain.tgz", packed.content.clone());
    shop.put("/charts/index.yaml", index(&far));
    for (more, sent) in [("", None), (", pass_credentials_all: true", Some(PASSWORD))] {
        let world = World::new();
        elsewhere.liar.forget();
        helm(&world, "ann", more);
        lock(&world, &from(&url), &[]).exits(0);
        let asked = elsewhere.liar.asked();
        assert_eq!((asked.len(), asked[0].header("authorization")), (1, sent), "{more}");
    }
    docker.write("repositories.yaml", b"repositories: [{username: [x]}]\n");
    lock(&docker, &from(&url), &[]).exits(1).says("helm's logins in").says("repositories.yaml");
}
