//! Artifacts of any shape: what `build` accepts, `verify`, `push` and `serve` take. Contents follow from manifests, not from a
//! list of known parts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use bundler::digest::Digest;
use bundler::registry::{Client, Options};
use fastrand::Rng;
use serde_json::{Value, json};

use crate::faults::Upstream;
use crate::parts::succeed;
use crate::store::{put_artifact, put_manifest_of};
use crate::world::{Run, Served, World, blob};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Makes random artifacts in the layout at `root`.
struct Maker<'a> {
    rng: Rng,
    root: &'a Path,
    /// Contents made so far: the same content comes up in several places.
    made: Vec<Vec<u8>>,
    /// True if something that was made must be refused.
    is_bad: bool,
}

impl Maker<'_> {
    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.rng.usize(..of.len())].clone()
    }

    fn put(&mut self, media_type: &str, content: &[u8]) -> Value {
        self.made.push(content.to_vec());
        blob(self.root, media_type, content)
    }

    /// Spoils what is made, now and then.
    fn is_unlucky(&mut self) -> bool {
        let unlucky = self.rng.u8(..) < 3;
        self.is_bad |= unlucky;
        unlucky
    }

    fn layer(&mut self) -> Value {
        let media_type =
            self.one(&[LAYER, "application/vnd.example+toml", "text/plain", "x/y;charset=z", ""]);
        let random: Vec<u8> = (0..self.rng.usize(..2000)).map(|_| self.rng.u8(..)).collect();
        let content = match self.rng.u8(..4) {
            0 => self.one(&self.made.clone()),
            1 => self.one(&[b"".to_vec(), b"{}".to_vec(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()]),
            _ => random,
        };
        let mut layer = self.put(media_type, &content);
        if self.rng.u8(..8) == 0 {
            layer["annotations"] = json!({"org.opencontainers.image.title": "Layers", "LAYERS": ""});
        }
        if self.is_unlucky() {
            layer["Size"] = json!(1);
        }
        layer
    }

    fn config(&mut self, platform: &str) -> Value {
        let (os, architecture) = platform.split_once('/').expect("a platform");
        let mut image = json!({
            "os": os, "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": []},
            "config": {"Labels": {"n": self.rng.u8(..)}},
        });
        if self.is_unlucky() {
            image["History"] = json!([]);
        }
        match self.rng.u8(..5) {
            0 => {
                let mut empty = self.put(EMPTY, b"{}");
                empty["data"] = "e30=".into();
                if self.is_unlucky() {
                    empty["data"] = "e31=".into();
                }
                empty
            }
            1 => self.put("application/vnd.example.config+json", br#"{"name":"x","Name":"y"}"#),
            2 => self.put("application/octet-stream", b""),
            _ => self.put(IMAGE_CONFIG, image.to_string().as_bytes()),
        }
    }

    fn manifest(&mut self, platform: &str) -> Value {
        let layers: Vec<_> = (0..self.one(&[0, 1, 1, 2, 5])).map(|_| self.layer()).collect();
        let media_type = self.one(&[OCI_MANIFEST, OCI_MANIFEST, DOCKER_MANIFEST]);
        let mut manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": self.config(platform), "layers": layers});
        match self.rng.u8(..6) {
            0 => manifest["artifactType"] = "application/vnd.example".into(),
            1 if layers.is_empty() => manifest["layers"] = Value::Null,
            2 => drop(manifest.as_object_mut().expect("an object").remove("mediaType")),
            3 => manifest["subject"] = self.put(OCI_MANIFEST, b"gone"),
            4 => manifest["blobs"] = json!([{"digest": "none"}]),
            _ => {}
        }
        if self.is_unlucky() {
            manifest["Layers"] = json!([]);
        }
        self.put(media_type, manifest.to_string().as_bytes())
    }

    fn artifact(&mut self, platform: &str, depth: usize) -> Value {
        if depth == 3 || self.rng.u8(..10) < 6 {
            return self.manifest(platform);
        }
        let media_type = self.one(&[OCI_INDEX, DOCKER_LIST]);
        let count = self.one(&[0, 1, 2, 2, 3]);
        let children: Vec<_> = (0..count).map(|_| self.child(depth)).collect();
        let mut index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": children});
        match self.rng.u8(..5) {
            0 => drop(index.as_object_mut().expect("an object").remove("mediaType")),
            1 if children.is_empty() => index["manifests"] = Value::Null,
            2 => index["artifactType"] = "application/vnd.example".into(),
            _ => {}
        }
        if self.is_unlucky() {
            index["Manifests"] = json!([]);
        }
        self.put(media_type, index.to_string().as_bytes())
    }

    fn child(&mut self, depth: usize) -> Value {
        let platform = self.one(&["linux/amd64", "linux/arm64", "linux/s390x", "unknown/unknown"]);
        let mut child = self.artifact(platform, depth + 1);
        let (os, architecture) = platform.split_once('/').expect("a platform");
        if self.rng.u8(..5) > 0 {
            child["platform"] = json!({"os": os, "architecture": architecture});
        }
        if self.is_unlucky() {
            child["size"] = json!(child["size"].as_u64().expect("a size") + 1);
        }
        if self.is_unlucky() {
            child["mediaType"] = json!("application/json");
        }
        child
    }
}

/// Writes a layout whose only image is `root`.
fn layout(dir: &Path, root: &Value) {
    fs::write(dir.join("index.json"), json!({"schemaVersion": 2, "manifests": [root]}).to_string())
        .expect("index.json");
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("oci-layout");
}

/// Fetches an image with all that is below it, as a node does; how many manifests and blobs there are.
async fn pull(host: &str, repository: &str, tag: &str) -> usize {
    let client = Client::new(&Options::default()).expect("a client");
    let repository = client.repository(host, repository);
    let (mut queue, mut pulled) = (vec![(tag.to_owned(), None)], BTreeSet::new());
    while let Some((asked, said)) = queue.pop() {
        let manifest = repository.manifest(&asked).await.expect("a manifest");
        if !pulled.insert(manifest.digest.to_string()) {
            continue;
        }
        assert!(said.is_none_or(|said| said == manifest.bytes.len() as u64), "{asked}");
        let value: Value = serde_json::from_slice(&manifest.bytes).expect("JSON");
        let own = value["mediaType"].as_str().unwrap_or(&manifest.media_type);
        assert_eq!(own, manifest.media_type, "{asked}");
        let list = |name: &str| value[name].as_array().cloned().unwrap_or_default();
        for child in list("manifests") {
            queue.push((child["digest"].as_str().expect("a digest").to_owned(), child["size"].as_u64()));
        }
        for part in list("layers").iter().chain(value.get("config")) {
            let digest: Digest = part["digest"].as_str().expect("a digest").parse().expect("a digest");
            let size = part["size"].as_u64().expect("a size");
            let content = repository.small_blob(&digest, size).await.expect("a blob");
            assert_eq!(content.len() as u64, size, "{digest}");
            pulled.insert(digest.to_string());
        }
    }
    pulled.len()
}

/// Seeds of the artifacts: `AIRLOCK_TEST_SEED` names one, else there are some that never change.
fn seeds() -> Vec<u64> {
    match std::env::var("AIRLOCK_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..60).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_accepted_by_build_are_whole_at_the_site() {
    let (mut accepted, mut nested) = (0, 0);
    for seed in seeds() {
        let world = World::new();
        let dir = world.path("art");
        fs::create_dir_all(&dir).expect("a directory");
        let mut maker =
            Maker { rng: Rng::with_seed(seed), root: &dir, made: vec![b"x".to_vec()], is_bad: false };
        let root = maker.artifact("linux/amd64", 0);
        let is_bad = maker.is_bad;
        layout(&dir, &root);
        let wanted =
            maker.one(&["[\"all\"]", "[\"all\"]", "[\"linux/amd64\"]", "[\"linux/amd64\", \"linux/arm64\"]"]);
        let (from, is_remote) = maker.one(&[("", true), ("from = \"oci:art\"\n", false)]);
        let head = format!("name = \"app\"\nversion = \"1\"\nplatforms = {wanted}\n");
        world.write("bundle.toml", format!("{head}[[image]]\nref = \"quay.io/art:1\"\n{from}").as_bytes());
        let upstream = Upstream::of(&world).await;
        let run = |args: &[&str]| upstream.run(&world, args);
        let what = format!("seed {seed}, {wanted}, from a registry: {is_remote}");
        let ends = |run: &Run, expected: &[i32]| {
            assert!(expected.contains(&run.code), "{what}: {} {}", run.code, run.stderr);
            run.code == 0
        };
        if !ends(&run(&["lock"]), &[0, 1, 2]) {
            continue;
        }
        assert!(!is_bad || wanted != "[\"all\"]", "{what}: what must be refused was locked");
        ends(&run(&["build", "--unsigned", "--output", "app.tar"]), &[0]);
        ends(&run(&["verify", "app.tar", "--insecure-skip-verify"]), &[0]);
        accepted += 1;
        nested += usize::from(
            maker.made.iter().filter(|content| content.starts_with(b"{\"manifests\"")).count() > 1,
        );

        let store = Served::store(&world, "store", &[]);
        ends(&run(&["push", "app.tar", &store.host, "--insecure-skip-verify"]), &[0]);
        let pushed = pull(&store.host, "quay.io/art", "1").await;
        let served = Served::bundle(&world, "app.tar", &["--insecure-skip-verify"]);
        assert_eq!(pull(&served.host, "quay.io/art", "1").await, pushed, "{what}");
        // What is served can be bundled again.
        if wanted == "[\"all\"]" {
            fs::remove_file(world.path("images.lock")).expect("the lock");
            world.write("bundle.toml", format!("{head}[[image]]\nref = \"quay.io/art:1\"\n").as_bytes());
            let mut again = world.command(&["lock"]);
            again.env("AIRLOCK_MIRRORS", format!("quay.io={}/quay.io", served.host));
            ends(&again.output().expect("airlock").into(), &[0]);
        }
    }
    assert!(
        seeds().len() == 1 || (accepted > 20 && nested > 3),
        "{accepted} accepted, {nested} with indexes within"
    );
}

/// A world whose image `art` is an index with an index within it, which has arm64 and s390x; the outer one has amd64. The inner
/// one may have a platform in the outer one, too.
fn nested(platforms: &str, has_platform: bool) -> (World, Vec<Digest>) {
    let world = World::new();
    let dir = world.path("art");
    fs::create_dir_all(&dir).expect("a directory");
    let mut digests = Vec::new();
    let mut leaf = |architecture: &str| {
        let config = json!({"os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": []}});
        let config = blob(&dir, IMAGE_CONFIG, config.to_string().as_bytes());
        let layer = blob(&dir, LAYER, architecture.as_bytes());
        let manifest =
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]});
        let mut child = blob(&dir, OCI_MANIFEST, manifest.to_string().as_bytes());
        child["platform"] = json!({"os": "linux", "architecture": architecture});
        digests.push(Digest::of(manifest.to_string().as_bytes()));
        child
    };
    let (amd64, arm64, s390x) = (leaf("amd64"), leaf("arm64"), leaf("s390x"));
    let index = |children: &[Value]| {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children});
        blob(&dir, OCI_INDEX, index.to_string().as_bytes())
    };
    let mut inner = index(&[arm64, s390x]);
    if has_platform {
        inner["platform"] = json!({"os": "linux", "architecture": "arm64"});
    }
    let outer = index(&[amd64, inner]);
    layout(&dir, &outer);
    let head = format!("name = \"app\"\nversion = \"1\"\nplatforms = {platforms}\n");
    world.write(
        "bundle.toml",
        format!("{head}[[image]]\nref = \"quay.io/art:1\"\nfrom = \"oci:art\"\n").as_bytes(),
    );
    (world, digests)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_within_an_index_is_carried() {
    // How many manifests and blobs a node finds under the tag.
    let cases = [
        ("[\"all\"]", 2 + 3 * 3),
        ("[\"linux/amd64\"]", 3),
        ("[\"linux/arm64\"]", 3),
        ("[\"linux/amd64\", \"linux/arm64\"]", 1 + 2 * 3),
        ("[\"linux/arm64\", \"linux/s390x\"]", 1 + 2 * 3),
    ];
    for ((platforms, expected), has_platform) in
        cases.into_iter().flat_map(|case| [(case, false), (case, true)])
    {
        let (world, digests) = nested(platforms, has_platform);
        world.run(&["lock"]).exits(0);
        world.run(&["build", "--unsigned", "--output", "app.tar"]).exits(0);
        world.run(&["verify", "app.tar", "--insecure-skip-verify"]).exits(0);
        let inspected = world.run(&["inspect", "app.tar", "--json"]).exits(0).json();
        let image = &inspected["manifest"]["images"][0];
        for (platform, digest) in ["linux/amd64", "linux/arm64", "linux/s390x"].iter().zip(&digests) {
            let is_wanted = platforms.contains("all") || platforms.contains(platform);
            let carried = image["platforms"].get(platform).and_then(Value::as_str).map(str::to_owned);
            assert_eq!(carried, is_wanted.then(|| digest.to_string()), "{platforms}");
        }
        let store = Served::store(&world, "store", &[]);
        world.run(&["push", "app.tar", &store.host, "--insecure-skip-verify"]).exits(0);
        assert_eq!(pull(&store.host, "quay.io/art", "1").await, expected, "{platforms}");
        let served = Served::bundle(&world, "app.tar", &["--insecure-skip-verify"]);
        assert_eq!(pull(&served.host, "quay.io/art", "1").await, expected, "{platforms}");
    }
    let (world, _) = nested("[\"linux/riscv64\"]", false);
    world
        .run(&["lock"])
        .exits(1)
        .says("linux/amd64, linux/arm64, linux/s390x")
        .says("hint: change `platforms`");
}

#[test]
fn indexes_within_each_other_end_somewhere() {
    let world = World::new();
    let dir = world.path("art");
    let config =
        json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}});
    let config = blob(&dir, IMAGE_CONFIG, config.to_string().as_bytes());
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []});
    let mut root = blob(&dir, OCI_MANIFEST, manifest.to_string().as_bytes());
    let lock = |root: &Value| {
        layout(&dir, root);
        let head = "name = \"app\"\nversion = \"1\"\nplatforms = [\"all\"]\n";
        let image = "[[image]]\nref = \"quay.io/art:1\"\nfrom = \"oci:art\"\n";
        world.write("bundle.toml", format!("{head}{image}").as_bytes());
        world.run(&["lock"])
    };
    let mut wrap = || {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [root]});
        root = blob(&dir, OCI_INDEX, index.to_string().as_bytes());
        root.clone()
    };
    let deep: Vec<_> = (0..1001).map(|_| wrap()).collect();
    lock(&deep[999]).exits(0);
    world.run(&["build", "--unsigned", "--output", "app.tar"]).exits(0);
    world.run(&["verify", "app.tar", "--insecure-skip-verify"]).exits(0);
    lock(&deep[1000]).exits(1).says("it lists more than 1000 items");
}

/// Makes a world whose image `art` is one manifest with this config, both changed as text.
fn changed(change_manifest: (&str, &str), change_config: (&str, &str)) -> World {
    let world = World::new();
    let dir = world.path("art");
    let config = json!({"os": "linux", "architecture": "amd64", "config": {"Cmd": ["x"]}, "rootfs": {"type": "layers", "diff_ids": []}});
    let config = config.to_string().replacen(change_config.0, change_config.1, 1);
    let config = blob(&dir, IMAGE_CONFIG, config.as_bytes());
    let layer = blob(&dir, LAYER, b"layer");
    let manifest =
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]});
    let manifest = manifest.to_string().replacen(change_manifest.0, change_manifest.1, 1);
    let root = blob(&dir, OCI_MANIFEST, manifest.as_bytes());
    layout(&dir, &root);
    world.spec("[[image]]\nref = \"quay.io/art:1\"\nfrom = \"oci:art\"\n");
    world
}

#[test]
fn keys_in_another_case_are_not_locked() {
    const SAME: (&str, &str) = ("\"config\":", "\"config\":");
    changed(SAME, SAME).run(&["lock"]).exits(0);
    for manifest in [
        ("\"layers\":", "\"Layers\":[],\"layers\":"),
        ("\"layers\":", "\"layer\u{17f}\":[],\"layers\":"),
        ("\"layers\":", "\"layers\":null,\"layers\":"),
        ("\"layers\":", "\"Subject\":{},\"layers\":"),
        ("\"digest\":", "\"Digest\":\"\",\"digest\":"),
        ("\"size\":", "\"URLs\":[],\"size\":"),
    ] {
        let run = changed(manifest, SAME).run(&["lock"]);
        run.exits(1)
            .says("readers disagree on what it says: key \"")
            .says("hint: have it built and pushed again");
    }
    for config in [
        ("\"rootfs\":", "\"RootFS\":{},\"rootfs\":"),
        ("\"diff_ids\":", "\"Diff_ids\":[],\"diff_ids\":"),
        ("\"Cmd\":", "\"cmd\":[\"y\"],\"Cmd\":"),
        ("\"os\":", "\"History\":[],\"os\":"),
        ("\"os\":", "\"os\":\"linux\",\"os\":"),
    ] {
        let run = changed(SAME, config).run(&["lock"]);
        run.exits(1)
            .says("readers disagree on what it says: key \"")
            .says("hint: have it built and pushed again");
    }
}

#[test]
fn children_of_another_size_or_kind_are_not_locked() {
    let (world, digests) = nested("[\"linux/amd64\"]", false);
    let dir = world.path("art");
    let index: Value =
        serde_json::from_slice(&fs::read(dir.join("index.json")).expect("index.json")).expect("JSON");
    let outer =
        index["manifests"][0]["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
    let mut outer: Value =
        serde_json::from_slice(&fs::read(dir.join("blobs/sha256").join(outer)).expect("the index"))
            .expect("JSON");
    let says = format!("reading {} of image", digests[0]);
    let mut lock = |field: &str, value: Value, why: &str| {
        let before = std::mem::replace(&mut outer["manifests"][0][field], value);
        layout(&dir, &blob(&dir, OCI_INDEX, outer.to_string().as_bytes()));
        world.run(&["lock"]).exits(1).says(&says).says(why).says("hint: have it built and pushed again");
        outer["manifests"][0][field] = before;
    };
    lock("size", json!(7), "and the index that lists it says 7");
    for media_type in ["application/json", "", LAYER] {
        lock("mediaType", json!(media_type), "and that is not what it is");
    }
}

#[test]
fn a_store_takes_no_keys_in_another_case() {
    let world = World::new();
    let store = Served::store(&world, "store", &[]);
    let good = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}});
    let mut config = good.clone();
    assert_eq!(put_manifest_of(&store, &good.to_string(), |_| ()).0, 201);
    config["rootFS"] = json!({});
    for (config, key) in [(&good, "Layers"), (&good, "Config"), (&good, "Subject"), (&config, "")] {
        let (status, body) = put_manifest_of(&store, &config.to_string(), |manifest| {
            if !key.is_empty() {
                manifest[key] = json!([]);
            }
        });
        assert!(
            status == 400 && body.contains("MANIFEST_INVALID") && body.contains("in case only"),
            "{key}: {body}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real parts: cargo xtask test"]
async fn a_signed_chart_travels_with_its_provenance() {
    let world = World::new();
    world.keys("airlock");
    world.write("src/web/Chart.yaml", b"apiVersion: v2\nname: web\nversion: 0.1.0\n");
    world.write("src/web/templates/a.yaml", b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n");
    let at = |name: &str| world.path(name).display().to_string();
    succeed(Command::new("helm").args(["package", &at("src/web"), "--destination", &at("src")]));
    let dir = world.path("web");
    let layers = [
        blob(
            &dir,
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            &fs::read(world.path("src/web-0.1.0.tgz")).expect("the chart"),
        ),
        blob(
            &dir,
            "application/vnd.cncf.helm.chart.provenance.v1.prov",
            b"-----BEGIN PGP SIGNED MESSAGE-----\n",
        ),
        blob(&dir, "application/vnd.example.readme", b"read me\n"),
    ];
    let config = blob(
        &dir,
        "application/vnd.cncf.helm.config.v1+json",
        br#"{"name":"web","version":"0.1.0","apiVersion":"v2"}"#,
    );
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
    layout(&dir, &blob(&dir, OCI_MANIFEST, manifest.to_string().as_bytes()));
    world.spec("[[chart]]\noci = \"oci://quay.io/web\"\nversion = \"0.1.0\"\n");
    let upstream = Upstream::of(&world).await;
    upstream.run(&world, &["lock"]).exits(0);
    upstream.run(&world, &["build", "--key", "airlock.key", "--output", "app.tar"]).exits(0);
    world.run(&["verify", "app.tar", "--key", "airlock.pub"]).exits(0);
    let store = Served::store(&world, "store", &[]);
    world.run(&["push", "app.tar", &store.host, "--key", "airlock.pub"]).exits(0);
    for served in [store, Served::start(&world, "app.tar")] {
        let to = tempfile::tempdir().expect("a directory");
        let chart = format!("oci://{}/charts/web", served.host);
        succeed(Command::new("helm").current_dir(to.path()).args([
            "pull",
            "--prov",
            "--plain-http",
            "--version",
            "0.1.0",
            &chart,
        ]));
        let pulled = |name: &str| fs::read(to.path().join(name)).expect(name);
        assert_eq!(pulled("web-0.1.0.tgz"), fs::read(world.path("src/web-0.1.0.tgz")).expect("the chart"));
        assert_eq!(pulled("web-0.1.0.tgz.prov"), b"-----BEGIN PGP SIGNED MESSAGE-----\n");
        assert_eq!(pull(&served.host, "charts/web", "0.1.0").await, 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real parts: cargo xtask test"]
async fn what_is_attached_to_a_chart_travels_with_it() {
    let world = World::new();
    world.keys("airlock");
    world.write("src/web/Chart.yaml", b"apiVersion: v2\nname: web\nversion: 0.1.0\n");
    let at = |name: &str| world.path(name).display().to_string();
    succeed(Command::new("helm").args(["package", &at("src/web"), "--destination", &at("src")]));
    let packed = fs::read(world.path("src/web-0.1.0.tgz")).expect("the chart");
    let config = br#"{"name":"web","version":"0.1.0","apiVersion":"v2"}"#;
    let descriptor = |media_type: &str, content: &[u8]| json!({"mediaType": media_type, "digest": Digest::of(content), "size": content.len()});
    let manifest = |config: Value, layer: Value| json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]});
    let chart = manifest(
        descriptor("application/vnd.cncf.helm.config.v1+json", config),
        descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip", &packed),
    );
    let chart_text = chart.to_string();
    let digest = Digest::of(chart_text.as_bytes());
    let mut referrer = manifest(descriptor(EMPTY, b"{}"), descriptor("text/plain", b"good"));
    referrer["artifactType"] = "application/vnd.example.signature".into();
    referrer["subject"] = descriptor(OCI_MANIFEST, chart_text.as_bytes());
    let signature = manifest(descriptor(EMPTY, b"{}"), descriptor("text/plain", b"signed"));
    let upstream = Served::store(&world, "upstream", &[]);
    put_artifact(&upstream, "up/web", "0.1.0", &chart, &[config, &packed]);
    let by_digest = Digest::of(referrer.to_string().as_bytes()).to_string();
    put_artifact(&upstream, "up/web", &by_digest, &referrer, &[b"{}", b"good"]);
    let tag = format!("sha256-{}.sig", digest.hex());
    put_artifact(&upstream, "up/web", &tag, &signature, &[b"{}", b"signed"]);

    let chart = format!("[[chart]]\noci = \"oci://{}/up/web\"\nversion = \"0.1.0\"\n", upstream.host);
    world.spec(&format!("attached = false\n{chart}"));
    world.run(&["lock"]).exits(0);
    let lock = || fs::read_to_string(world.path("images.lock")).expect("the lock");
    assert!(!lock().contains("attached"), "{}", lock());
    world.spec(&chart);
    world.run(&["lock", "--update"]).exits(0);
    world.build("app.tar");
    world.run(&["verify", "app.tar", "--key", "airlock.pub"]).exits(0);
    let text = world.run(&["inspect", "app.tar", "--key", "airlock.pub"]).exits(0).stdout;
    assert!(
        text.contains("has application/vnd.example.signature") && text.contains("has cosign signature"),
        "{text}"
    );
    let store = Served::store(&world, "store", &[]);
    world.run(&["push", "app.tar", &store.host, "--key", "airlock.pub"]).exits(0);
    for served in [store, Served::start(&world, "app.tar")] {
        assert_eq!(pull(&served.host, "charts/web", &tag).await, 3);
        assert_eq!(pull(&served.host, "charts/web", &by_digest).await, 3);
        let client = Client::new(&Options::default()).expect("a client");
        let listed = client.repository(&served.host, "charts/web").referrers(&digest).await.expect("a list");
        let listed = String::from_utf8_lossy(&listed.expect("a list").bytes).into_owned();
        assert!(listed.contains(&by_digest), "{listed}");
    }
}
