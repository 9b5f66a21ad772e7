//! `airlock serve --store`: what is pushed is there, whole or not at all, whatever happens in between.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use bundler::digest::Digest;
use serde_json::{Value, json};

use crate::faults::{stop, wait_until};
use crate::parts::{Certificate, LOGIN, Tmpfs, free_port, signal, succeed};
use crate::uploads;
use crate::world::{Served, World, names};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An answer.
pub struct Answer {
    status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn code(&self) -> String {
        let error: Value = serde_json::from_slice(&self.body).expect("an error of the distribution spec");
        error["errors"][0]["code"].as_str().expect("a code").into()
    }
}

/// Sends a request as far as it goes; `length` may promise more than `body` has.
fn begin(served: &Served, method: &str, path: &str, headers: &str, body: &[u8], length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(&served.host).expect("a connection");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n",
        served.host
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(body).expect("sent");
    stream
}

/// Sends a request; what comes back.
pub fn ask(served: &Served, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let mut stream = begin(served, method, path, headers, body, body.len());
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an answer");
    let at = all.windows(4).position(|four| four == b"\r\n\r\n").expect("the end of the head");
    let head = String::from_utf8_lossy(&all[..at]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Answer { status, head, body: all[at + 4..].to_vec() }
}

/// Sends a blob in one request.
fn put_blob(served: &Served, name: &str, content: &[u8]) -> Answer {
    let path = format!("/v2/{name}/blobs/uploads/?digest={}", Digest::of(content));
    ask(served, "POST", &path, "", content)
}

fn put_manifest(served: &Served, name: &str, tag: &str, media_type: &str, manifest: &Value) -> Answer {
    let (path, head) = (format!("/v2/{name}/manifests/{tag}"), format!("Content-Type: {media_type}\r\n"));
    ask(served, "PUT", &path, &head, manifest.to_string().as_bytes())
}

/// Puts a manifest with its blobs.
pub fn put_artifact(served: &Served, name: &str, tag: &str, manifest: &Value, blobs: &[&[u8]]) {
    for content in blobs {
        assert_eq!(put_blob(served, name, content).status, 201);
    }
    assert_eq!(put_manifest(served, name, tag, MANIFEST, manifest).status, 201);
}

/// Puts an image with this config, its manifest changed; status and body of the answer.
pub fn put_manifest_of(served: &Served, config: &str, change: impl Fn(&mut Value)) -> (u16, String) {
    let mut manifest = image(config.as_bytes(), b"layer");
    change(&mut manifest);
    for content in [config.as_bytes(), b"layer"] {
        assert_eq!(put_blob(served, "a/b", content).status, 201);
    }
    let answer = put_manifest(served, "a/b", "1", MANIFEST, &manifest);
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(content), "size": content.len()})
}

fn image(config: &[u8], layer: &[u8]) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    })
}

/// Bytes that differ, a little more than several batches.
fn big() -> Vec<u8> {
    (0..5_000_003_u32).map(|n| (n / 7) as u8).collect()
}

fn blob(world: &World, content: &[u8]) -> PathBuf {
    world.path("store/blobs/sha256").join(Digest::of(content).hex())
}

#[test]
fn what_is_pushed_is_there_after_a_kill_and_pushed_once() {
    let world = World::with_bundle();
    let push = |served: &Served| {
        world
            .run(&["push", "app.tar", "--registry", &served.host, "--key", "airlock.pub", "--json"])
            .exits(0)
            .json()
    };
    let mut served = Served::store(&world, "store", &[]);
    assert_eq!(push(&served)["items"], 3);
    served.process.0.kill().expect("killed");
    served.process.0.wait().expect("gone");

    let served = Served::store(&world, "store", &[]);
    assert_eq!(push(&served)["unchanged"], 3);
    let manifest = ask(&served, "GET", "/v2/quay.io/a/web/manifests/1.0", "", b"");
    assert_eq!(manifest.status, 200);
    // As containerd asks the mirrors of a host.
    let mirrored = ask(&served, "GET", "/v2/a/web/manifests/1.0?ns=quay.io", "", b"");
    assert_eq!(mirrored.body, manifest.body);
    assert_eq!(ask(&served, "GET", "/v2/a/web/manifests/1.0?ns=docker.io", "", b"").status, 404);
    let parsed: Value = serde_json::from_slice(&manifest.body).expect("a manifest");
    let layer = parsed["layers"][0]["digest"].as_str().expect("a digest");
    let layer = ask(&served, "GET", &format!("/v2/quay.io/a/web/blobs/{layer}"), "", b"");
    assert_eq!(Digest::of(&layer.body).to_string(), parsed["layers"][0]["digest"]);
    assert_eq!(names(&world.path("store")), ["blobs", "index.json", "oci-layout", "uploads"]);
    assert!(names(&world.path("store/uploads")).is_empty(), "left-overs");
    assert_eq!(names(&world.path("store/blobs")), ["sha256"]);
}

#[test]
fn an_upload_goes_on_after_a_broken_connection_and_after_a_kill() {
    let world = World::new();
    let mut served = Served::store(&world, "store", &[]);
    let content = big();
    let digest = Digest::of(&content);
    let opened = ask(&served, "POST", "/v2/a/b/blobs/uploads/", "", b"");
    assert_eq!(opened.status, 202);
    let location = opened.header("location").expect("a location").to_owned();
    let stored = |served: &Served| {
        let status = ask(served, "GET", &location, "", b"");
        assert_eq!(status.status, 204);
        let range = status.header("range").and_then(|range| range.strip_prefix("0-")).expect("a range");
        range.parse::<usize>().expect("a number") + 1
    };

    let half = 3_000_000;
    drop(begin(&served, "PATCH", &location, "Content-Range: 0-4999999\r\n", &content[..half], 5_000_000));
    // The next request may be answered before the one that was broken off.
    wait_until("what came of it is there", || stored(&served) == half);
    // Not what follows: nothing is taken, and it says so.
    let wrong = ask(&served, "PATCH", &location, "Content-Range: 0-9\r\n", &content[..10]);
    assert_eq!((wrong.status, wrong.header("range")), (416, Some("0-2999999")));

    served.process.0.kill().expect("killed");
    served.process.0.wait().expect("gone");
    let served = Served::store(&world, "store", &[]);
    let at = stored(&served);
    assert_eq!(at, half);
    let range = format!("Content-Range: {at}-{}\r\n", content.len() - 1);
    let end = ask(&served, "PUT", &format!("{location}?digest={digest}"), &range, &content[at..]);
    assert_eq!((end.status, end.header("location")), (201, Some(&*format!("/v2/a/b/blobs/{digest}"))));
    let got =
        ask(&served, "GET", &format!("/v2/a/b/blobs/{digest}"), "Range: bytes=2999990-3000009\r\n", b"");
    assert_eq!((got.status, &got.body[..]), (206, &content[2_999_990..3_000_010]));
    let gone = ask(&served, "GET", &location, "", b"");
    assert_eq!((gone.status, gone.code()), (404, "BLOB_UPLOAD_UNKNOWN".into()));

    // HEAD has no ranges.
    let all = ask(&served, "HEAD", &format!("/v2/a/b/blobs/{digest}"), "Range: bytes=0-9\r\n", b"");
    assert_eq!((all.status, all.header("content-length")), (200, Some(&*content.len().to_string())));

    // More than was said, by a client that does not say how much comes.
    let opened = ask(&served, "POST", "/v2/a/b/blobs/uploads/", "", b"");
    let location = opened.header("location").expect("a location");
    let mut stream = TcpStream::connect(&served.host).expect("a connection");
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nContent-Range: 0-1\r\n\r\n7\r\nseven b\r\n0\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("SIZE_INVALID"), "{answer}");
    assert_eq!(ask(&served, "DELETE", location, "", b"").status, 204);

    // What is not what it should be leaves nothing.
    let opened = ask(&served, "POST", "/v2/a/b/blobs/uploads/", "", b"");
    let location = opened.header("location").expect("a location");
    let wrong = ask(&served, "PUT", &format!("{location}?digest={digest}"), "", b"other");
    assert_eq!((wrong.status, wrong.code()), (400, "DIGEST_INVALID".into()));
    assert!(names(&world.path("store/uploads")).is_empty(), "left-overs");
}

#[test]
fn a_tag_points_to_nothing_incomplete() {
    let world = World::new();
    let served = Served::store(&world, "store", &[]);
    let (config, layer) = (b"{}", b"a layer");
    let manifest = image(config, layer);
    let text = manifest.to_string();
    let put = |name: &str| put_manifest(&served, name, "1", MANIFEST, &manifest);
    let unknown = (404, "MANIFEST_BLOB_UNKNOWN".to_owned());
    let refused = put("a/b");
    assert_eq!((refused.status, refused.code()), unknown);
    put_blob(&served, "a/b", config);
    let refused = put("a/b");
    assert_eq!((refused.status, refused.code()), unknown);
    assert_eq!(ask(&served, "GET", "/v2/a/b/tags/list", "", b"").status, 404);
    put_blob(&served, "a/b", layer);
    assert_eq!(put("a/b").status, 201);

    // An index of what is in another repository only.
    let index =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST, text.as_bytes())]});
    let refused = put_manifest(&served, "a/c", "1", INDEX, &index);
    assert_eq!((refused.status, refused.code()), unknown);
    assert_eq!(put("a/c").status, 201);
    assert_eq!(put_manifest(&served, "a/c", "all", INDEX, &index).status, 201);

    // What is there has another size than it says: nobody could pull that.
    for (media_type, it, size) in [
        (MANIFEST, &manifest, "/layers/0/size"),
        (MANIFEST, &manifest, "/config/size"),
        (INDEX, &index, "/manifests/0/size"),
    ] {
        let mut wrong = it.clone();
        *wrong.pointer_mut(size).expect("a size") = json!(1);
        let refused = put_manifest(&served, "a/c", "wrong", media_type, &wrong);
        assert_eq!((refused.status, refused.code()), (400, "MANIFEST_INVALID".into()), "{wrong}");
    }

    // Nothing that is needed is taken away.
    let delete = |path: &str| ask(&served, "DELETE", &format!("/v2/a/c/{path}"), "", b"");
    let (child, layer) = (Digest::of(text.as_bytes()), Digest::of(layer));
    let parent = Digest::of(index.to_string().as_bytes());
    for path in [format!("blobs/{layer}"), format!("blobs/{child}"), format!("manifests/{child}")] {
        let refused = delete(&path);
        assert_eq!((refused.status, refused.code()), (405, "UNSUPPORTED".into()), "{path}");
    }
    for (path, status) in [
        ("manifests/all".to_owned(), 202),
        ("manifests/all".to_owned(), 404),
        (format!("manifests/{parent}"), 202),
        (format!("manifests/{child}"), 202),
        // The other repository has it still.
        (format!("blobs/{layer}"), 405),
    ] {
        assert_eq!(delete(&path).status, status, "{path}");
    }
    let tags = ask(&served, "GET", "/v2/a/b/tags/list", "", b"");
    assert_eq!(tags.body, br#"{"name":"a/b","tags":["1"]}"#);
}

#[test]
fn what_is_no_manifest_or_no_name_is_refused() {
    let world = World::new();
    let served = Served::store(&world, "store", &[]);
    put_blob(&served, "a", b"{}");
    let manifest = image(b"{}", b"{}");
    let sha512 = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": {"mediaType": "x/y", "size": 2, "digest": format!("sha512:{}", "a".repeat(128))}});
    let both = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [], "manifests": [], "config": manifest["config"]});
    let long = format!("/v2/{}/blobs/uploads/", "a/".repeat(127) + "ab");
    let huge = vec![b' '; (4 << 20) + 1];
    for (method, path, media_type, body, status, code) in [
        ("PUT", "/v2/a/manifests/1", INDEX, manifest.to_string().as_bytes(), 400, "MANIFEST_INVALID"),
        ("PUT", "/v2/a/manifests/1", MANIFEST, b"", 400, "MANIFEST_INVALID"),
        ("PUT", "/v2/a/manifests/1", MANIFEST, b"[]", 400, "MANIFEST_INVALID"),
        ("PUT", "/v2/a/manifests/1", MANIFEST, sha512.to_string().as_bytes(), 400, "MANIFEST_INVALID"),
        ("PUT", "/v2/a/manifests/1", MANIFEST, both.to_string().as_bytes(), 400, "MANIFEST_INVALID"),
        ("PUT", "/v2/a/manifests/1", "text/plain", b"{\"schemaVersion\":2}", 400, "MANIFEST_INVALID"),
        ("PUT", "/v2/a/manifests/-1", MANIFEST, b"{}", 400, "TAG_INVALID"),
        ("PUT", "/v2/a/manifests/sha256:0", MANIFEST, b"{}", 400, "DIGEST_INVALID"),
        ("PUT", "/v2/A/manifests/1", MANIFEST, b"{}", 400, "NAME_INVALID"),
        ("PUT", "/v2/a/manifests/1", MANIFEST, &huge, 413, "SIZE_INVALID"),
        ("POST", "/v2/a/../b/blobs/uploads/", "", b"", 400, "NAME_INVALID"),
        ("POST", &long, "", b"", 400, "NAME_INVALID"),
        ("POST", "/v2/a/blobs/uploads/?digest-algorithm=sha512", "", b"", 400, "DIGEST_INVALID"),
        ("POST", "/v2/a/blobs/uploads/?digest=sha512:00", "", b"", 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/manifests/sha512:00", "", b"", 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/blobs/sha512:00", "", b"", 400, "DIGEST_INVALID"),
        ("PUT", "/v2/a/blobs/uploads/00", "", b"", 400, "DIGEST_INVALID"),
        ("PATCH", "/v2/a/blobs/uploads/../../index.json", "", b"", 404, "NAME_UNKNOWN"),
        (
            "PATCH",
            "/v2/a/blobs/uploads/00000000000000000000000000000000",
            "",
            b"",
            404,
            "BLOB_UPLOAD_UNKNOWN",
        ),
        ("DELETE", "/v2/a/blobs/sha256:0", "", b"", 400, "DIGEST_INVALID"),
        ("DELETE", "/v2/b/manifests/1", "", b"", 404, "MANIFEST_UNKNOWN"),
        ("POST", "/v2/a/manifests/1", "", b"", 405, "UNSUPPORTED"),
        ("TRACE", "/v2/", "", b"", 405, "UNSUPPORTED"),
    ] {
        let answer = ask(&served, method, path, &format!("Content-Type: {media_type}\r\n"), body);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method} {path}");
    }
    assert_eq!(names(&world.path("store/uploads")), [""; 0]);
    assert_eq!(ask(&served, "GET", "/v2/_catalog", "", b"").body, br#"{"repositories":[]}"#);
}

#[test]
fn a_store_is_used_by_one_and_what_is_damaged_in_it_is_left_out() {
    let world = World::with_bundle();
    let start = |store: &str| world.run(&["serve", "--store", store, "--listen", "127.0.0.1:0"]);
    let served = Served::store(&world, "store", &[]);
    start("store").exits(1).says("another `airlock serve` uses it").says("hint: stop that one");
    world.run(&["push", "app.tar", "--registry", &served.host, "--key", "airlock.pub"]).exits(0);
    let redis = ask(&served, "GET", "/v2/docker.io/library/redis/manifests/8", "", b"").body;
    fs::write(blob(&world, &redis), b"damaged").expect("written");
    let served = started_again(&world, served);
    assert_eq!(ask(&served, "GET", "/v2/docker.io/library/redis/manifests/8", "", b"").status, 404);
    assert_eq!(ask(&served, "GET", "/v2/quay.io/a/web/manifests/1.0", "", b"").status, 200);
    world.run(&["push", "app.tar", "--registry", &served.host, "--key", "airlock.pub"]).exits(0);
    assert_eq!(ask(&served, "GET", "/v2/docker.io/library/redis/manifests/8", "", b"").body, redis);
}

#[test]
fn a_list_of_referrers_stays_as_small_as_a_manifest() {
    let world = World::new();
    let served = Served::store(&world, "store", &[]);
    put_blob(&served, "a", b"{}");
    let subject = image(b"{}", b"{}");
    let put = |tag: &str, words: usize| {
        let mut referrer = subject.clone();
        referrer["subject"] = descriptor(MANIFEST, subject.to_string().as_bytes());
        referrer["annotations"] = json!({"words": tag.repeat(words)});
        put_manifest(&served, "a", tag, MANIFEST, &referrer)
    };
    for tag in ["1", "2", "2"] {
        assert_eq!(put(tag, 1_500_000).status, 201, "{tag}");
    }
    let refused = put("3", 1_500_000);
    assert_eq!((refused.status, refused.code()), (413, "SIZE_INVALID".into()));
    assert_eq!(put("3", 1000).status, 201);
    let list = format!("/v2/a/referrers/{}", Digest::of(subject.to_string().as_bytes()));
    let list: Value = serde_json::from_slice(&ask(&served, "GET", &list, "", b"").body).expect("an index");
    assert_eq!(list["manifests"].as_array().map(Vec::len), Some(3));
}

/// Ends a store as a service manager does, and starts it anew.
fn started_again(world: &World, mut served: Served) -> Served {
    signal(&served.process.0, "TERM");
    assert!(served.process.0.wait().expect("gone").success());
    Served::store(world, "store", &[])
}

#[test]
fn an_index_goes_with_a_part_of_it_and_what_it_had_stays_to_be_pushed_again() {
    let world = World::new();
    world.image("multi", &["linux/amd64", "linux/arm64"], b"x");
    world.write(
        "bundle.toml",
        b"name = \"app\"\nversion = \"1.0.0\"\nplatforms = [\"all\"]\n[[image]]\nref = \"multi:1\"\nfrom = \"oci:multi\"\n",
    );
    world.keys("airlock");
    world.run(&["lock"]).exits(0);
    world.build("app.tar");
    let push = |served: &Served| {
        world
            .run(&["push", "app.tar", "--registry", &served.host, "--key", "airlock.pub", "--json"])
            .exits(0)
            .json()
    };
    let tag = |served: &Served| ask(served, "GET", "/v2/docker.io/library/multi/manifests/1", "", b"");
    let mut served = Served::store(&world, "store", &[]);
    push(&served);
    let index: Value = serde_json::from_slice(&tag(&served).body).expect("an index");
    let child = index["manifests"][0]["digest"].as_str().expect("a digest").to_owned();

    let blobs = world.path("store/blobs/sha256");
    let damaged = blobs.join(child.trim_start_matches("sha256:"));
    let before = names(&blobs).len();
    let age = || {
        for name in names(&blobs) {
            let file = File::options().write(true).open(blobs.join(name)).expect("a blob");
            file.set_modified(SystemTime::now() - Duration::from_secs(48 * 60 * 60)).expect("made older");
        }
    };
    fs::write(&damaged, b"damaged").expect("written");
    age();
    served = started_again(&world, served);
    assert_eq!(tag(&served).status, 404);
    assert_eq!(names(&blobs).len(), before, "what may be needed again went");
    assert_eq!(push(&served)["blobs_sent"], 0);
    assert_eq!(tag(&served).status, 200);
    assert_eq!(
        ask(&served, "GET", &format!("/v2/docker.io/library/multi/manifests/{child}"), "", b"").status,
        200
    );

    // A layer that is gone, and what nothing names.
    let layer = index["manifests"][1]["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
    let manifest: Value =
        serde_json::from_slice(&fs::read(blobs.join(layer)).expect("a blob")).expect("JSON");
    let layer = manifest["layers"][0]["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
    fs::remove_file(blobs.join(layer)).expect("removed");
    world.write(&format!("store/blobs/sha256/{}", Digest::of(b"unused").hex()), b"unused");
    world.write("store/blobs/sha256/.airlock-left", b"by a kill");
    served = started_again(&world, served);
    assert_eq!(tag(&served).status, 404);
    assert_eq!(push(&served)["blobs_sent"], 1);
    assert_eq!(tag(&served).status, 200);
    age();
    served = started_again(&world, served);
    assert_eq!(tag(&served).status, 200);
    assert_eq!(names(&blobs).len(), before, "what nothing names stayed");
}

#[test]
fn what_is_not_a_store_is_left_as_it_is() {
    let world = World::new();
    let start = |store: &str| world.run(&["serve", "--store", store, "--listen", "127.0.0.1:0"]);
    world.image("other", &["linux/amd64"], b"x");
    let before = fs::read(world.path("other/index.json")).expect("an index");
    start("other").exits(1).says("another tool's OCI image layout").says("--store");
    assert_eq!(fs::read(world.path("other/index.json")).expect("an index"), before);
    world.write("strange/oci-layout", b"x");
    start("strange").exits(1).says("oci-layout");
    world.write("file", b"x");
    start("file").exits(1).says("opening store file");
    world.write("site/uploads/photo", b"x");
    start("site").exits(1).says("it has files in it, and is no store").says("an empty directory");
    assert_eq!(names(&world.path("site")), ["uploads"]);
    // A store that was prepared for us: old files in a directory of another are not ours to remove.
    for directory in ["uploads", "blobs", "blobs/sha256"] {
        drop(Served::store(&world, "linked", &[]));
        let inside = world.path("linked").join(directory);
        let elsewhere = world.path("elsewhere").join(directory);
        fs::create_dir_all(elsewhere.parent().expect("a parent")).expect("made");
        fs::rename(&inside, &elsewhere).expect("moved");
        std::os::unix::fs::symlink(&elsewhere, &inside).expect("a link");
        start("linked").exits(1).says(&format!("its directory {directory} is a link"));
        fs::remove_dir_all(world.path("linked")).expect("removed");
    }

    fs::create_dir_all(world.path("store/lost+found")).expect("a directory");
    let mut served = Served::store(&world, "store", &[]);
    put_blob(&served, "a", b"x");
    signal(&served.process.0, "TERM");
    assert!(served.process.0.wait().expect("gone").success());
    let index = fs::read(world.path("store/index.json")).expect("an index");
    world.write("store/index.json", b"{");
    start("store").exits(1).says("index.json").says("hint: restore it");
    fs::remove_file(world.path("store/index.json")).expect("removed");
    start("store").exits(1).says("it is missing, and there are blobs").says("hint: restore it");
    world.write("store/index.json", &index);
    let _served = Served::store(&world, "store", &[]);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_full_disk_takes_nothing_of_what_is_there() {
    let tmpfs = Tmpfs::mount("size=4m");
    let world = World::below(tmpfs.path());
    let served = Served::store(&world, "store", &[]);
    let (config, layer) = (b"{}", b"a layer");
    for content in [&config[..], layer] {
        assert_eq!(put_blob(&served, "a", content).status, 201);
    }
    let put = || put_manifest(&served, "a", "1", MANIFEST, &image(config, layer));
    assert_eq!(put().status, 201);
    let content = big();
    let full = put_blob(&served, "a", &content);
    assert_eq!(full.status, 507, "{}", full.head);
    // What came of it is kept, until it is given up.
    assert_eq!(ask(&served, "GET", "/v2/a/manifests/1", "", b"").status, 200);
    for name in names(&world.path("store/uploads")) {
        let path = format!("/v2/a/blobs/uploads/{name}");
        assert_eq!(ask(&served, "DELETE", &path, "", b"").status, 204);
    }
    let small = vec![7; 1 << 20];
    assert_eq!(put_blob(&served, "a", &small).status, 201);
    assert_eq!(put().status, 201);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn only_who_logs_in_pushes_and_everybody_pulls_where_that_is_said() {
    let world = World::with_bundle();
    let file = world.path("users").display().to_string();
    let hash = succeed(Command::new("htpasswd").args(["-nbBC", "5", LOGIN.0, LOGIN.1]));
    world.write("users", hash.as_bytes());
    let served = Served::store(&world, "store", &["--htpasswd", &file, "--anonymous-pull"]);
    let push = || world.run(&["push", "app.tar", "--registry", &served.host, "--key", "airlock.pub"]);
    push().exits(3).says("401 Unauthorized").says("no login");
    let config = world.path("docker").display().to_string();
    let login = ["--config", &config, "login", "--username", LOGIN.0, "--password", LOGIN.1, &served.host];
    succeed(Command::new("docker").args(login));
    push().exits(0);
    assert_eq!(ask(&served, "GET", "/v2/quay.io/a/web/manifests/1.0", "", b"").status, 200);
    assert_eq!(ask(&served, "DELETE", "/v2/quay.io/a/web/manifests/1.0", "", b"").status, 401);
    assert_eq!(
        ask(&served, "GET", "/v2/", "", b"").header("www-authenticate"),
        Some(&*format!("Bearer realm=\"http://{}/token\",service=\"airlock\"", served.host))
    );

    // A bundle can be served to those only who log in, too.
    let served = Served::with(&world, "app.tar", &["--htpasswd", &file]);
    assert_eq!(ask(&served, "GET", "/v2/quay.io/a/web/manifests/1.0", "", b"").status, 401);
    let wrong = ["login", "--username", LOGIN.0, "--password", "wrong", &served.host];
    let refused = Command::new("docker").args(["--config", &config]).args(wrong).output().expect("docker");
    assert!(!refused.status.success());

    world.write("users", b"ali:$apr1$x$y\n");
    world
        .run(&["serve", "app.tar", "--key", "airlock.pub", "--htpasswd", &file])
        .exits(1)
        .says("htpasswd -B");
    world
        .run(&["serve", "--store", "open", "--listen", "0.0.0.0:0"])
        .exits(1)
        .says("everybody who reaches it could change what nodes run")
        .says("--htpasswd");
    assert!(!world.path("open").exists(), "it was refused, and made");
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn only_who_has_a_certificate_by_the_sites_authority_is_answered() {
    let world = World::with_bundle();
    let server = Certificate::signed(&world.path(""));
    let of = |path: &PathBuf| path.display().to_string();
    let (ca, certificate, key) = (of(&server.ca), of(&server.certificate), of(&server.key));
    let tls = ["--tls-cert", &certificate, "--tls-key", &key, "--tls-client-ca", &ca];
    let served = Served::with(&world, "app.tar", &tls);
    let curl = |more: &[&str]| {
        let url = format!("https://{}/v2/", served.host);
        let mut curl = Command::new("curl");
        curl.args(["-sf", "--noproxy", "*", "--cacert", &ca, &url]).args(more).stdout(Stdio::null());
        curl.status().expect("curl").success()
    };
    assert!(!curl(&[]));
    assert!(curl(&["--cert", &certificate, "--key", &key]));
    // Somebody else's.
    fs::create_dir(world.path("other")).expect("a directory");
    let other = Certificate::self_signed(&world.path("other"));
    assert!(!curl(&["--cert", &of(&other.certificate), "--key", &of(&other.key)]));
    // Pushed to with one, and without.
    let store = Served::store(&world, "store", &tls);
    let push = ["push", "app.tar", "--registry", &store.host, "--key", "airlock.pub", "--ca-file", &ca];
    world.run(&push).exits(3).says("asks for a client certificate").says("--cert-file");
    world.run(&[&push[..], &["--cert-file", &certificate, "--key-file", &key]].concat()).exits(0);
    world
        .run(&[&push[..], &["--cert-file", &certificate, "--key-file", &ca]].concat())
        .exits(1)
        .says("--key-file takes a PEM file");
    world
        .run(&["serve", "app.tar", "--key", "airlock.pub", "--tls-client-ca", &ca])
        .exits(1)
        .says("over TLS only");
}

#[test]
fn a_large_blob_goes_on_where_it_was_when_both_ends_were_killed() {
    let world = uploads::bundle();
    let args = |host: &str| {
        let args = ["push", "big.tar", "--registry", host, "--insecure-skip-verify", "--json"];
        args.map(str::to_owned)
    };
    // The same address again: an upload's is below it.
    let listen = format!("127.0.0.1:{}", free_port());
    let mut served = Served::store(&world, "store", &["--listen", &listen]);
    let uploaded = || {
        let files = fs::read_dir(world.path("store/uploads")).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).max().unwrap_or_default()
    };
    let mut push = world.command(&args(&served.host));
    let push = push.args(["--limit-rate", "40M"]).stderr(Stdio::piped()).spawn().expect("airlock");
    wait_until("more than a chunk is there", || uploaded() > 34 << 20);
    stop(push, "KILL");
    served.process.0.kill().expect("killed");
    served.process.0.wait().expect("gone");
    let begun = uploaded();
    let served = Served::store(&world, "store", &["--listen", &listen]);
    assert_eq!(ask(&served, "GET", "/v2/_catalog", "", b"").body, br#"{"repositories":[]}"#);
    let pushed = world.run(&args(&served.host)).exits(0).json();
    let sent = pushed["bytes_sent"].as_u64().expect("a number");
    assert!(sent < uploads::SIZE as u64 - begun / 2, "{sent} after {begun}");
    assert!(names(&world.path("store/uploads")).is_empty(), "left-overs");
    world.run(&args(&served.host)).exits(0);
}
