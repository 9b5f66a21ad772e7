//! `lock` and `build` as a release engineer runs them, without a network.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use bundler::chart::Chart;
use bundler::digest::Digest;
use bundler::lock::Lock;
use bundler::spec::Spec;

use crate::parts::{Running, free_port, succeed, wait_for};
use crate::world::{Served, World, blob};

#[test]
fn the_same_lock_and_key_give_the_same_bytes() {
    let world = World::with_bundle();
    let first = std::fs::read(world.path("app.tar")).expect("the bundle");
    // Another day, another directory, another order of arrival.
    std::fs::create_dir(world.path("elsewhere")).expect("a directory");
    let mut later = world.command(&["build", "--key", "airlock.key", "--output", "elsewhere/b.tar"]);
    assert!(later.env("SOURCE_DATE_EPOCH", "1900000000").status().expect("airlock").success());
    let second = std::fs::read(world.path("elsewhere/b.tar")).expect("the bundle");
    assert_eq!(Digest::of(&first), Digest::of(&second));
}

#[test]
fn a_lock_stays_until_something_changes() {
    let world = World::with_bundle();
    let before = std::fs::read_to_string(world.path("images.lock")).expect("the lock");
    let mut later = world.command(&["lock"]);
    assert!(later.env("SOURCE_DATE_EPOCH", "1900000000").status().expect("airlock").success());
    assert_eq!(before, std::fs::read_to_string(world.path("images.lock")).expect("the lock"));
    world.run(&["lock", "--check"]).exits(0);

    world.image("redis", &["linux/amd64"], b"redis, newer");
    world.run(&["lock", "--check"]).exits(1).says("docker.io/library/redis:8 is sha256:");
    world.run(&["build", "--key", "airlock.key", "--output", "b.tar"]).exits(1).says("stale");
    assert!(!world.path("b.tar").exists() && !world.path("b.tar.partial").exists());
    world.run(&["lock"]).exits(0);
    let after = std::fs::read_to_string(world.path("images.lock")).expect("the lock");
    assert!(before.contains("serial = 1\n") && after.contains("serial = 2\n"), "{after}");
}

#[test]
fn a_lock_of_another_spec_is_stale() {
    let world = World::with_bundle();
    let text = std::fs::read_to_string(world.path("bundle.toml")).expect("the spec");
    world.write("bundle.toml", text.replace("1.0.0", "1.0.1").as_bytes());
    world.run(&["build", "--key", "airlock.key"]).exits(1).says("airlock lock");
    world.write("notes.txt", b"other\n");
    world.write("bundle.toml", text.as_bytes());
    world.run(&["build", "--key", "airlock.key"]).exits(2).says("notes.txt");
    std::fs::remove_file(world.path("images.lock")).expect("remove");
    world.run(&["build", "--key", "airlock.key"]).exits(1).says("run `airlock lock` first");
}

#[test]
fn a_file_that_is_a_device_is_refused() {
    let world = World::new();
    let empty = Digest::of(b"").hex();
    world.spec(&format!("[[file]]\nname = \"x\"\npath = \"/dev/zero\"\nsha256 = \"{empty}\"\n"));
    world.run(&["lock"]).exits(1).says("/dev/zero").says("not a regular file");
}

#[test]
fn platforms_that_an_image_lacks_are_named() {
    let world = World::new();
    world.image("one", &["linux/arm64"], b"x");
    world.spec("[[image]]\nref = \"one:1\"\nfrom = \"oci:one\"\n");
    world.run(&["lock"]).exits(1).says("linux/amd64").says("linux/arm64").says("bundle.toml asks for");
    assert!(!world.path("images.lock").exists());
    world.image("two", &["linux/arm64", "linux/s390x"], b"x");
    world.spec("[[image]]\nref = \"two:1\"\nfrom = \"oci:two\"\n");
    world.run(&["lock"]).exits(1).says("linux/arm64, linux/s390x");
}

#[test]
fn platforms_are_cut_out_of_an_index_that_travels_as_evidence() {
    let world = World::new();
    world.image("multi", &["linux/amd64", "linux/arm64", "linux/s390x"], b"x");
    world.keys("airlock");
    let head = "name = \"app\"\nversion = \"1\"\n";
    let image = "[[image]]\nref = \"multi:1\"\nfrom = \"oci:multi\"\n";
    for (platforms, carried, evidence) in [
        ("[\"linux/amd64\"]", 1, true),
        ("[\"linux/amd64\", \"linux/s390x\"]", 2, true),
        ("[\"linux/amd64\", \"linux/arm64\", \"linux/s390x\"]", 3, false),
        ("[\"all\"]", 3, false),
    ] {
        world.write("bundle.toml", format!("{head}platforms = {platforms}\n{image}").as_bytes());
        world.run(&["lock"]).exits(0);
        world.build("multi.tar");
        world.run(&["verify", "multi.tar", "--key", "airlock.pub"]).exits(0);
        let inspected = world.run(&["inspect", "multi.tar", "--json"]).exits(0).json();
        let image = &inspected["manifest"]["images"][0];
        assert_eq!(image["platforms"].as_object().map(serde_json::Map::len), Some(carried), "{platforms}");
        assert_eq!(image["upstream"].is_string(), evidence, "{platforms}: {image}");
    }
}

#[test]
fn targets_that_cannot_be_written_are_named() {
    let world = World::with_bundle();
    let build = |output: &str| world.run(&["build", "--key", "airlock.key", "--output", output]);
    build("no/such/dir/app.tar").exits(1).says("no/such/dir/app.tar").says("hint:");
    build(".").exits(1).says("directory");
    // Root writes anywhere, but not into /proc.
    build("/proc/app.tar").exits(1).says("/proc/app.tar");
    // Written to as a file, it would be replaced by one.
    let _socket = std::os::unix::net::UnixListener::bind(world.path("socket")).expect("a socket");
    build("socket").exits(1).says("not a regular file");
    assert!(!world.path("socket").is_file() && !world.path("socket.partial").exists());
    assert!(!world.path("app.tar.partial").exists());
}

#[test]
fn wrong_passwords_and_keys_are_named() {
    let world = World::with_bundle();
    let mut wrong = world.command(&["build", "--key", "airlock.key"]);
    let run: crate::world::Run = wrong.env("AIRLOCK_PASSWORD", "wrong").output().expect("airlock").into();
    run.exits(1).says("password");
    let mut none = world.command(&["build", "--key", "airlock.key"]);
    let run: crate::world::Run = none.env_remove("AIRLOCK_PASSWORD").output().expect("airlock").into();
    run.exits(1).says("--password-file");
    world.run(&["build", "--key", "airlock.pub"]).exits(1).says("airlock.pub");
    world.run(&["keys", "generate"]).exits(1).says("airlock.key");
    let mode = std::fs::metadata(world.path("airlock.key")).expect("the key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn inspect_says_what_is_checked() {
    let world = World::with_bundle();
    let plain = world.run(&["inspect", "app.tar"]).exits(0);
    assert!(
        plain.stdout.contains("NOT checked") && plain.stdout.contains("quay.io/a/web:1.0@sha256:"),
        "{}",
        plain.stdout
    );
    let checked = world.run(&["inspect", "app.tar", "--key", "airlock.pub"]).exits(0);
    assert!(checked.stdout.contains("\nsigned by key "), "{}", checked.stdout);
    let json = world.run(&["verify", "app.tar", "--key", "airlock.pub", "--json"]).exits(0).json();
    assert_eq!(json["name"], "app");
    let error = world.run(&["verify", "gone.tar", "--key", "airlock.pub", "--json"]).exits(1);
    let value: serde_json::Value = serde_json::from_str(&error.stderr).expect("JSON on stderr");
    assert_eq!(value["exit_code"], 1);
}

#[test]
fn the_repositorys_lock_is_of_its_spec_and_chart() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let read = |name: &str| std::fs::read_to_string(root.join(name)).expect(name);
    let spec = Spec::parse(&read("bundle.toml")).expect("bundle.toml");
    let lock = Lock::parse(&read("images.lock")).expect("images.lock");
    let again = "stale: run `airlock lock` (cargo xtask env has an upstream and an engine for it) and commit images.lock";
    assert_eq!(lock.spec, spec.digest(), "{again}");
    for chart in &lock.charts {
        let packed = Chart::from_dir(&root.join(&chart.from)).expect("the chart");
        assert_eq!(chart.digest, Digest::of(&packed.manifest), "{again}");
    }
}

/// Made by the first airlock that wrote version 1, and kept as it is: what verified once must for ever.
#[test]
fn a_bundle_of_version_1_is_still_taken() {
    let world = World::new();
    world.write("v1.tar", include_bytes!("../data/v1.tar"));
    world.write("v1.pub", include_bytes!("../data/v1.pub"));
    world.run(&["verify", "v1.tar", "--key", "v1.pub"]).exits(0);
    // Made before bundles had statements.
    world.run(&["inspect", "v1.tar", "--key", "v1.pub", "--sbom"]).exits(1).says("an older airlock made it");
    let store = Served::store(&world, "store", &[]);
    world.run(&["push", "v1.tar", "--registry", &store.host, "--key", "v1.pub"]).exits(0);
    let manifest =
        &world.run(&["inspect", "v1.tar", "--key", "v1.pub", "--json"]).exits(0).json()["manifest"];
    let names = |list: &str, field: &str| {
        let items = manifest[list].as_array().expect(list);
        items.iter().map(|item| item[field].as_str().expect(field).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("images", "ref"), ["docker.io/library/multi:1", "quay.io/a/web:1.0"]);
    assert_eq!(names("charts", "name"), ["shop"]);
    assert_eq!(names("files", "name"), ["notes.txt"]);
}

#[test]
fn several_bundles_are_one_registry_and_the_last_ones_tags_count() {
    let world = World::with_bundle();
    world.image("redis", &["linux/amd64"], b"redis, newer");
    world.image("more", &["linux/amd64"], b"more");
    world.spec(
        "[[image]]\nref = \"redis:8\"\nfrom = \"oci:redis\"\n[[image]]\nref = \"quay.io/a/more:1.0\"\nfrom = \"oci:more\"\n",
    );
    world.run(&["lock"]).exits(0);
    world.build("newer.tar");
    let port = free_port();
    let served = format!("127.0.0.1:{port}");
    for (bundles, [web, redis, more]) in [
        (["app.tar", "newer.tar"], ["app.tar", "newer.tar", "newer.tar"]),
        (["newer.tar", "app.tar"], ["app.tar", "app.tar", "newer.tar"]),
    ] {
        let args = ["--key", "airlock.pub", "--listen", &served];
        let mut serve = world.command(&[&["serve"], &bundles[..], &args].concat());
        let _server = Running(serve.stdout(Stdio::null()).spawn().expect("airlock"));
        wait_for(port);
        let get =
            |path: &str| succeed(Command::new("curl").args(["-sf", &format!("http://{served}/v2/{path}")]));
        for (name, tag, bundle) in [
            ("quay.io/a/web", "1.0", web),
            ("docker.io/library/redis", "8", redis),
            ("quay.io/a/more", "1.0", more),
        ] {
            let text = get(&format!("{name}/manifests/{tag}"));
            let manifest: serde_json::Value = serde_json::from_str(&text).expect("a manifest");
            let inspected = world.run(&["inspect", bundle, "--json"]).exits(0).json();
            let images = inspected["manifest"]["images"].as_array().expect("images");
            let pinned = images.iter().find(|image| image["ref"] == format!("{name}:{tag}")).expect(name);
            let digest = Digest::of(text.as_bytes());
            assert_eq!(pinned["digest"], digest.to_string(), "{name}");
            let config =
                get(&format!("{name}/blobs/{}", manifest["config"]["digest"].as_str().expect("a digest")));
            assert!(config.contains("amd64"), "{config}");
        }
    }
}

#[test]
fn a_bundle_says_what_is_in_it_and_what_it_was_made_of() {
    let world = World::with_bundle();
    let lock = std::fs::read(world.path("images.lock")).expect("the lock");
    let inspect = |what: &str| {
        let run = world.run(&["inspect", "app.tar", "--key", "airlock.pub", what]).exits(0);
        serde_json::from_str::<serde_json::Value>(&run.stdout).expect("JSON")
    };
    let sbom = inspect("--sbom");
    assert_eq!((&sbom["spdxVersion"], &sbom["SPDXID"]), (&"SPDX-2.3".into(), &"SPDXRef-DOCUMENT".into()));
    let packages = sbom["packages"].as_array().expect("packages");
    let names: Vec<_> = packages.iter().map(|package| package["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["app", "docker.io/library/redis:8", "quay.io/a/web:1.0", "notes.txt"]);
    let sum = |package: &serde_json::Value| package["checksums"][0]["checksumValue"].clone();
    assert_eq!(sum(&packages[3]), Digest::of(b"read me\n").hex());
    let manifest = world.run(&["inspect", "app.tar", "--key", "airlock.pub", "--json"]).exits(0).json();
    let digest = manifest["manifest"]["images"][0]["digest"].as_str().expect("a digest");
    assert_eq!(sum(&packages[1]), digest.trim_start_matches("sha256:"));
    assert_eq!(sbom["relationships"].as_array().expect("relationships").len(), packages.len());

    let provenance = inspect("--provenance");
    assert_eq!(provenance["predicateType"], "https://slsa.dev/provenance/v1");
    assert_eq!(provenance["subject"][0]["digest"]["sha256"], Digest::of(&lock).hex());
    let dependencies = &provenance["predicate"]["buildDefinition"]["resolvedDependencies"];
    assert_eq!(dependencies[0]["digest"]["sha256"], sum(&packages[1]));
    // By tar, as an auditor without airlock reads it.
    let mut tar = tar::Archive::new(std::fs::File::open(world.path("app.tar")).expect("the bundle"));
    let names = tar
        .entries()
        .expect("entries")
        .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string());
    let names: Vec<_> = names.take(8).collect();
    assert_eq!(names[6..], ["provenance.intoto.json", "sbom.spdx.json"]);
    world.run(&["inspect", "app.tar", "--sbom"]).exits(1).says("nobody says whose signature counts");
    world.run(&["inspect", "app.tar", "--sbom", "--insecure-skip-verify"]).exits(0).says("NOT checked");
}

#[test]
fn an_index_of_nothing_is_pushed_too() {
    let world = World::new();
    let root = world.path("empty");
    let none = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []});
    let none = blob(&root, "application/vnd.oci.image.index.v1+json", none.to_string().as_bytes());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [none]});
    world.write("empty/index.json", index.to_string().as_bytes());
    world.write("empty/oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    world.write(
        "bundle.toml",
        b"name = \"app\"\nversion = \"1.0.0\"\nplatforms = [\"all\"]\n[[image]]\nref = \"empty:1\"\nfrom = \"oci:empty\"\n",
    );
    world.keys("airlock");
    world.run(&["lock"]).exits(0);
    world.build("app.tar");
    let served = Served::store(&world, "store", &[]);
    let push = ["push", "app.tar", "--registry", &served.host, "--key", "airlock.pub", "--json"];
    assert_eq!(world.run(&push).exits(0).json()["unchanged"], 0);
    assert_eq!(world.run(&push).exits(0).json()["unchanged"], 1);
}

#[test]
fn licences_are_pinned_as_images_and_charts_say_them() {
    let world = World::new();
    world.image("plain", &["linux/amd64"], b"x");
    world.spec("[[image]]\nref = \"plain:1\"\nfrom = \"oci:plain\"\n");
    world.run(&["lock"]).exits(0);
    let lock = || std::fs::read_to_string(world.path("images.lock")).expect("the lock");
    assert!(!lock().contains("licenses"), "{}", lock());
    // The same with a label.
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.path("plain/index.json")).expect("an index"))
            .expect("JSON");
    let read = |digest: &serde_json::Value| {
        let hex = digest.as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
        let bytes = std::fs::read(world.path(&format!("plain/blobs/sha256/{hex}"))).expect("a blob");
        serde_json::from_slice::<serde_json::Value>(&bytes).expect("JSON")
    };
    let mut manifest = read(&index["manifests"][0]["digest"]);
    let mut config = read(&manifest["config"]["digest"]);
    config["config"]["Labels"] =
        serde_json::json!({"org.opencontainers.image.licenses": "MIT OR Apache-2.0"});
    let root = world.path("plain");
    manifest["config"] =
        blob(&root, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let manifest = blob(&root, "application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(root.join("index.json"), index.to_string()).expect("written");
    world.run(&["lock"]).exits(0);
    assert!(lock().contains("licenses = \"MIT OR Apache-2.0\""), "{}", lock());
    world.keys("airlock");
    world.build("app.tar");
    let sbom = world.run(&["inspect", "app.tar", "--key", "airlock.pub", "--sbom"]).exits(0).stdout;
    assert!(sbom.contains("\"licenseDeclared\": \"MIT OR Apache-2.0\""), "{sbom}");
}
