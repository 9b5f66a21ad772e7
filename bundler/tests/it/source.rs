//! Charts that real helm accepts, and images out of what skopeo and a real Docker engine write.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bundler::cache::ContentCache;
use bundler::chart::Chart;
use bundler::digest::{Digest, Hasher};
use bundler::image::{self, ImageManifest, Parsed};
use bundler::source::{LocalImage, Located, Transport};
use serde_json::Value;

use crate::parts::Registry;

/// Runs a program that must succeed, and returns what it prints.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| unreachable!("{program} must be on PATH: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// Paths and content of a packed chart; of `Chart.yaml` and `Chart.lock`, which helm writes anew, the path only.
fn packed_files(tgz: &[u8]) -> BTreeSet<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(tgz));
    let mut files = BTreeSet::new();
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let mut content = Vec::new();
        std::io::copy(&mut entry, &mut content).expect("content");
        if path.ends_with("/Chart.yaml") || path.ends_with("/Chart.lock") {
            content.clear();
        }
        assert!(files.insert((path.clone(), content)), "{path} twice");
    }
    files
}

/// A chart with whatever helm treats in a way of its own; in a directory that has another name than the chart.
fn chart_directory(above: &Path) -> PathBuf {
    run("helm", &["create", text(&above.join("hello"))]);
    run("helm", &["create", text(&above.join("packed"))]);
    run("helm", &["create", text(&above.join("plain"))]);
    let chart = above.join("directory");
    fs::rename(above.join("hello"), &chart).expect("renamed");
    run("helm", &["package", text(&above.join("packed")), "--destination", text(&chart.join("charts"))]);
    fs::rename(above.join("plain"), chart.join("charts/another-name")).expect("moved");
    let write = |path: &str, content: &str| {
        let path = chart.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    };
    let metadata = fs::read_to_string(chart.join("Chart.yaml")).expect("Chart.yaml");
    let dependencies =
        "dependencies:\n- {name: plain, version: 0.1.0}\n- {name: packed, version: 0.1.0, alias: p}\n";
    write(
        "Chart.yaml",
        &format!(
            "# kept\n{metadata}{dependencies}annotations: {{example.org/a: '<b> & c'}}\nkubeVersion: '>=1.20.0'\n"
        ),
    );
    write("Chart.lock", "dependencies: []\ndigest: sha256:00\ngenerated: \"2026-01-01T00:00:00Z\"\n");
    write("values.schema.json", "{}");
    write("crds/a.yaml", "");
    write("templates/.hidden", "");
    write("templates/sub/.hidden", "");
    write("charts/_draft/x", "");
    write("charts/packed-0.1.0.tgz.prov", "provenance");
    write("files/\u{fc}mlaut \u{1f680}.txt", "\u{feff}with a byte order mark");
    write(&format!("files/{}/{}", "d".repeat(90), "f".repeat(120)), "a long path");
    write("ignored/a", "");
    write("a.bak", "");
    write("b/a.bak", "");
    write("b/[x]", "");
    write("rooted", "");
    write("b/rooted", "");
    write(".helmignore", "# comment\n*.bak\nignored/\n/rooted\nb/\\[?\\]\n");
    write("shared/s.yaml", "shared");
    std::os::unix::fs::symlink("shared", chart.join("linked")).expect("a link");
    std::os::unix::fs::symlink("linked/s.yaml", chart.join("linked.yaml")).expect("a link");
    chart
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_chart_directory_is_packed_as_helm_packs_it() {
    let temporary = tempfile::tempdir().expect("a directory");
    let directory = chart_directory(temporary.path());
    let ours = Chart::from_dir(&directory).expect("a chart");
    assert_eq!(Chart::from_dir(&directory).expect("a chart"), ours);

    run("helm", &["package", text(&directory), "--destination", text(temporary.path())]);
    let by_helm = fs::read(temporary.path().join("hello-0.1.0.tgz")).expect("what helm packed");
    assert_eq!(packed_files(&ours.content), packed_files(&by_helm));

    let file = temporary.path().join("ours.tgz");
    fs::write(&file, &ours.content).expect("written");
    assert!(run("helm", &["show", "chart", text(&file)]).contains("name: hello"));
    let rendered = |chart: &Path| run("helm", &["template", "x", text(chart)]);
    let from_tgz = rendered(&file);
    assert!(from_tgz.contains("image:"), "{from_tgz}");
    assert_eq!(from_tgz, rendered(&directory));

    let fetched = Chart::from_bytes("hello-0.1.0.tgz", by_helm.clone()).expect("a packed chart");
    assert_eq!(fetched.content, by_helm);
    assert_eq!(fetched.config, ours.config);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_charts_config_is_what_helm_pushes() {
    let temporary = tempfile::tempdir().expect("a directory");
    let chart = Chart::from_dir(&chart_directory(temporary.path())).expect("a chart");
    let file = temporary.path().join("hello-0.1.0.tgz");
    fs::write(&file, &chart.content).expect("written");
    let registry = Registry::start();
    run("helm", &["push", text(&file), &format!("oci://{}/charts", registry.host()), "--plain-http"]);
    let pushed = format!("docker://{}/charts/hello:0.1.0", registry.host());
    let manifest = run("skopeo", &["inspect", "--tls-verify=false", "--raw", &pushed]);
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    let ours: Value = serde_json::from_slice(&chart.manifest).expect("JSON");
    assert_eq!((&manifest["config"], &manifest["layers"]), (&ours["config"], &ours["layers"]));
}

/// The Docker engine that the tests use.
fn docker_host() -> String {
    std::env::var("AIRLOCK_TEST_DOCKER_HOST")
        .expect("AIRLOCK_TEST_DOCKER_HOST must name a Docker engine's socket")
}

fn docker(args: &[&str]) -> String {
    run("docker", &[&["--host", &docker_host()], args].concat())
}

/// The ID of an image that the engine built, one layer a file; the image is gone when this is dropped.
struct Built(String);

impl Built {
    fn from(name: &str, files: &[&str]) -> Self {
        let context = tempfile::tempdir().expect("a directory");
        let mut steps = String::from("FROM scratch\nENV A=b\n");
        for file in files {
            // More than a buffer's worth, so that a layer arrives in several pieces.
            fs::write(context.path().join(file), file.repeat(1 << 20)).expect("written");
            steps += &format!("COPY {file} /{file}\n");
        }
        fs::write(context.path().join("Dockerfile"), steps).expect("written");
        // Without the build cache: a layer of an earlier build would have another time than the same one of this.
        let id = docker(&["build", "--quiet", "--no-cache", "--tag", name, text(context.path())]);
        Self(id.trim().into())
    }

    /// A field of what the engine says of it.
    fn inspect(&self, field: &str) -> Value {
        let json = docker(&["image", "inspect", "--format", &format!("{{{{json {field}}}}}"), &self.0]);
        serde_json::from_str(&json).expect("JSON")
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        let _ = Command::new("docker")
            .args(["--host", &docker_host(), "image", "rm", "--force", &self.0])
            .output();
    }
}

/// A directory with a cache below it.
struct Machine {
    base: PathBuf,
    cache: ContentCache,
}

fn machine(base: &Path) -> Machine {
    Machine { base: base.into(), cache: ContentCache::at(base.join("cache")) }
}

async fn open(machine: &Machine, from: &str) -> bundler::Result<LocalImage> {
    match from.parse().expect(from) {
        Transport::Local(source) => source.open_with(&machine.base, &machine.cache, &docker_host()).await,
        Transport::Registry(reference) => unreachable!("{reference}"),
    }
}

fn digest_at(located: &Located) -> Digest {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = fs::File::open(&located.path).expect("the file");
    file.seek(SeekFrom::Start(located.offset)).expect("the place");
    let mut bytes = Vec::new();
    file.take(located.size).read_to_end(&mut bytes).expect("the bytes");
    let mut hasher = Hasher::default();
    hasher.update(&bytes);
    hasher.finish()
}

/// The image's manifest, after a look at every blob that it names.
fn checked(image: &LocalImage) -> ImageManifest {
    let bytes = image.manifest(&image.root.digest).expect("the manifest");
    assert_eq!(bytes.len() as u64, image.root.size);
    let Ok(Parsed::Manifest(manifest)) = image::parse(&image.root.media_type, &bytes) else {
        unreachable!("{}", String::from_utf8_lossy(&bytes))
    };
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        let located = image.locate(&blob.digest).expect("the blob");
        assert_eq!((digest_at(&located), located.size), (blob.digest, blob.size));
    }
    manifest
}

fn diff_ids(image: &LocalImage) -> Value {
    let config = image.manifest(&checked(image).config.digest).expect("the config");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    config["rootfs"]["diff_ids"].clone()
}

#[tokio::test]
#[ignore = "needs real parts: cargo xtask test"]
async fn an_engines_image_is_the_same_whichever_way_it_comes() {
    let temporary = tempfile::tempdir().expect("a directory");
    let name = "docker.io/airlock/source-test:1";
    let built = Built::from(name, &["a", "b", "a"]);
    let here = machine(temporary.path());

    let image = open(&here, &format!("docker-daemon:{name}")).await.expect("an image");
    let manifest = checked(&image);
    let layers: Vec<Value> = manifest.layers.iter().map(|l| l.digest.to_string().into()).collect();
    assert_eq!(Value::from(layers), built.inspect(".RootFS.Layers"));
    assert_eq!(Value::from(manifest.config.digest.to_string()), built.inspect(".Id"));
    let names =
        fs::read_dir(here.cache.root().expect("a root").join("blobs/sha256")).expect("the cache").count();
    let layers: BTreeSet<String> = manifest.layers.iter().map(|l| l.digest.to_string()).collect();
    assert!(layers.len() < manifest.layers.len(), "the engine saves a layer that comes twice as a link");
    assert_eq!(names, 2 + layers.len(), "nothing else is left in the cache");

    docker(&["save", "--output", text(&temporary.path().join("saved.tar")), name]);
    let elsewhere = machine(&temporary.path().join("elsewhere"));
    let path = temporary.path().join("saved.tar");
    let from_file =
        open(&elsewhere, &format!("docker-archive:{}:{name}", text(&path))).await.expect("an image");
    assert_eq!(from_file.root, image.root);
    assert_eq!(checked(&from_file).layers, manifest.layers);
    let by_id = open(&here, &format!("docker-daemon:{}", manifest.config.digest)).await.expect("an image");
    assert_eq!(by_id.root, image.root);

    // A layout of what is in the cache is what skopeo takes for the same image.
    fs::write(here.cache.root().expect("a root").join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
        .expect("written");
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [image.root]});
    fs::write(here.cache.root().expect("a root").join("index.json"), index.to_string()).expect("written");
    let back = format!("docker-archive:{}", text(&temporary.path().join("back.tar")));
    run("skopeo", &["copy", &format!("oci:{}", text(here.cache.root().expect("a root"))), &back]);
    let again = open(&machine(&temporary.path().join("again")), &back).await.expect("an image");
    assert_eq!(checked(&again).layers, manifest.layers);

    let other = Built::from(name, &["a", "d"]);
    let moved = open(&here, &format!("docker-daemon:{name}")).await.expect("an image");
    assert_ne!(moved.root.digest, image.root.digest);
    assert_eq!(diff_ids(&moved), other.inspect(".RootFS.Layers"));
    let missing =
        open(&here, "docker-daemon:docker.io/airlock/source-test:2").await.expect_err("no such image");
    assert!(missing.to_string().contains("there is no such image"), "{missing}");
}

#[tokio::test]
#[ignore = "needs real parts: cargo xtask test"]
async fn layouts_and_archives_of_skopeo_are_read_in_place() {
    let temporary = tempfile::tempdir().expect("a directory");
    let name = "docker.io/airlock/layout-test:1";
    let built = Built::from(name, &["a", "b"]);
    docker(&["save", "--output", text(&temporary.path().join("saved.tar")), name]);
    let saved = format!("docker-archive:{}", text(&temporary.path().join("saved.tar")));
    let at = |transport: &str, name: &str| format!("{transport}:{}:1", text(&temporary.path().join(name)));
    let (layout, archive) = (at("oci", "layout"), at("oci-archive", "archive.tar"));
    run("skopeo", &["copy", &saved, &layout]);
    run("skopeo", &["copy", &layout, &archive]);

    let here = machine(temporary.path());
    let image = open(&here, "oci:layout:1").await.expect("a layout");
    assert_eq!(diff_ids(&image), built.inspect(".RootFS.Layers"));
    let raw = run("skopeo", &["inspect", "--raw", &layout]);
    assert_eq!(image.root.digest, Digest::of(raw.as_bytes()));
    let archived = open(&here, "oci-archive:archive.tar").await.expect("an archive");
    assert_eq!(archived.root, image.root);
    assert_eq!(checked(&archived).layers, checked(&image).layers);
    assert!(!here.cache.root().expect("a root").exists(), "pinned bytes need no copy");

    let error = open(&here, "oci-archive:archive.tar:2").await.expect_err("another tag");
    assert!(error.to_string().contains("it has: 1"), "{error}");
    let error = open(&here, "oci-archive:saved.tar").await.expect_err("another format");
    assert!(error.hint_text().is_some_and(|h| h.contains("docker-archive:")), "{error:?}");
    run("gzip", &[text(&temporary.path().join("archive.tar"))]);
    let error = open(&here, "oci-archive:archive.tar.gz").await.expect_err("compressed");
    assert!(error.hint_text().is_some_and(|h| h.contains("gunzip")), "{error:?}");
}
