//! Locks that somebody changed by hand, and files that are none: said, with the entry, and nothing is written.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bundler::digest::Digest;

use crate::world::World;

#[test]
fn a_lock_that_was_changed_by_hand_is_refused_with_the_entry() {
    let world = World::new();
    world.image("web", &["linux/amd64", "linux/arm64"], b"web");
    world.write("notes.txt", b"read me\n");
    let sum = Digest::of(b"read me\n").hex();
    world.spec(&format!(
        "[[image]]\nref = \"quay.io/a/web:1.0\"\nfrom = \"oci:web\"\n\
         [[file]]\nname = \"notes.txt\"\npath = \"notes.txt\"\nsha256 = \"{sum}\"\n"
    ));
    world.run(&["lock"]).exits(0);
    let lock = std::fs::read_to_string(world.path("images.lock")).expect("the lock");
    let line =
        |start: &str| lock.lines().find(|line| line.starts_with(start)).expect(start).to_owned() + "\n";
    let size = lock
        .split("[[image]]")
        .nth(1)
        .and_then(|i| i.lines().find(|l| l.starts_with("size")))
        .expect("a size");
    let other = Digest::of(b"other");
    for (from, to, says) in [
        (line("upstream"), String::new(), "image quay.io/a/web:1.0"),
        (line("upstream"), format!("upstream = \"{other}\"\n"), "image quay.io/a/web:1.0"),
        (line("digest"), format!("digest = \"{other}\"\n"), "image quay.io/a/web:1.0"),
        (line("media_type"), "media_type = \"text/plain\"\n".into(), "media_type of image quay.io/a/web:1.0"),
        (size.into(), "size = 1".into(), "size of image quay.io/a/web:1.0"),
        ("size = 8\n".into(), "size = 7\n".into(), "planning file notes.txt"),
        ("size = 8\n".into(), "size = 9223372036854775807\n".into(), "planning file notes.txt"),
        ("name = \"notes.txt\"".into(), "name = \"a/../../b\"".into(), "file name \"a/../../b\""),
        ("name = \"notes.txt\"".into(), "name = \"/etc/x\"".into(), "file name \"/etc/x\""),
        ("name = \"app\"".into(), "name = \"a\\u001b[2J\"".into(), "name \"a\\u{1b}[2J\""),
        ("bundle_version = \"1.0.0\"".into(), "bundle_version = \"../x\"".into(), "version \"../x\""),
        (
            "ref = \"quay.io/a/web:1.0\"".into(),
            "ref = \"quay.io/a/../web:1.0\"".into(),
            "not an image reference",
        ),
        (line("serial"), "serial = 0x\n".into(), "line "),
    ] {
        assert!(lock.contains(&from), "no {from:?} in {lock}");
        world.write("images.lock", lock.replacen(&from, &to, 1).as_bytes());
        let code = if says.starts_with("planning file") { 2 } else { 1 };
        world.run(&["build", "--unsigned", "--output", "app.tar"]).exits(code).says(says).says("hint: ");
        assert!(!world.path("app.tar").exists() && !world.path("app.tar.partial").exists(), "{to}");
    }
    world.write("images.lock", lock.as_bytes());
    world.run(&["build", "--unsigned", "--output", "app.tar"]).exits(0);
}

#[test]
fn devices_and_pipes_are_no_files() {
    let world = World::with_bundle();
    let made = Command::new("mkfifo").arg(world.path("pipe")).status().expect("mkfifo");
    assert!(made.success());
    std::fs::create_dir(world.path("layout")).expect("a directory");
    let made = Command::new("mkfifo").arg(world.path("layout/oci-layout")).status().expect("mkfifo");
    assert!(made.success());
    let spec = std::fs::read(world.path("bundle.toml")).expect("the spec");
    for device in ["/dev/zero", "pipe"] {
        world.write("bundle.toml", &spec);
        for args in [
            &["lock", "--file", device][..],
            &["lock", "--lock-file", device],
            &["lock", "--ca-file", device],
            &["build", "--key", device, "--output", "b.tar"],
            &["build", "--file", device, "--unsigned", "--output", "b.tar"],
            &["verify", "app.tar", "--key", device],
            &["inspect", "app.tar", "--key", device],
            &["serve", "app.tar", "--key", "airlock.pub", "--tls-cert", device, "--tls-key", device],
        ] {
            world.run(args).exits(1).says("not a regular file");
        }
        for spec in [
            format!("[[chart]]\npath = \"{device}\"\n"),
            format!("[[file]]\nname = \"x\"\npath = \"{device}\"\nsha256 = \"{}\"\n", "0".repeat(64)),
            format!("[[image]]\nref = \"x:1\"\nfrom = \"oci-archive:{device}\"\n"),
            format!("[[image]]\nref = \"x:1\"\nfrom = \"docker-archive:{device}\"\n"),
            "[[image]]\nref = \"x:1\"\nfrom = \"oci:layout\"\n".into(),
        ] {
            world.spec(&spec);
            // A chart needs helm first, which may not be there.
            let run = world.run(&["lock", "--lock-file", "new.lock"]);
            assert!(run.stderr.contains("not a regular file") || run.code == 4, "{spec}: {run:?}");
        }
    }
    let endless = ["keys", "generate", "--name", "b", "--password-file", "/dev/zero"];
    world.run(&endless).exits(1).says("a device");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_from_the_web_is_kept_when_it_is_right_and_fetched_again_when_the_cache_is_not() {
    let world = World::new();
    world.write("web/f.bin", b"right\n");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let server = tokio::spawn(warp::serve(warp::fs::dir(world.path("web"))).incoming(listener).run());
    let spec = |content: &[u8], user: &str| {
        let sum = Digest::of(content).hex();
        world.spec(&format!(
            "[[file]]\nname = \"f\"\nurl = \"http://{user}{address}/f.bin\"\nsha256 = \"{sum}\"\n"
        ));
        Digest::of(content)
    };
    world.keys("airlock");
    spec(b"other\n", "");
    world.run(&["lock"]).exits(2).says("and bundle.toml says");
    let kept = || std::fs::read_dir(world.path("cache/airlock/blobs/sha256")).map_or(0, Iterator::count);
    assert_eq!(kept(), 0, "what nobody asked for is kept");

    let digest = spec(b"right\n", "");
    let damaged = world.path("cache/airlock/blobs/sha256").join(digest.hex());
    std::fs::create_dir_all(damaged.parent().expect("a directory")).expect("made");
    for damage in [&b"wrong\n"[..], b"short"] {
        let _ = std::fs::remove_file(world.path("images.lock"));
        std::fs::write(&damaged, damage).expect("written");
        world.run(&["lock"]).exits(0);
        assert_eq!(std::fs::read(&damaged).expect("the file"), b"right\n");
        std::fs::write(&damaged, damage).expect("written");
        world.build("f.tar");
        world.run(&["verify", "f.tar", "--key", "airlock.pub"]).exits(0);
    }
    spec(b"right\n", "ann:secret@");
    let refused = world.run(&["lock"]).exits(1);
    assert!(
        refused.stderr.contains("a user and password") && !refused.stderr.contains("secret"),
        "{}",
        refused.stderr
    );
    server.abort();
}

#[test]
fn what_is_to_be_updated_is_there_and_times_have_four_digits_for_the_year() {
    let world = World::with_bundle();
    let run = world.run(&["lock", "--update", "quay.io/a/web:1.0", "nosuch"]).exits(1);
    run.says("is called nosuch").says("there are: docker.io/library/redis:8, notes.txt, quay.io/a/web:1.0");
    world.run(&["lock", "--update", "quay.io/a/web:1.0", "notes.txt"]).exits(0);
    let mut late = world.command(&["lock", "--lock-file", "late.lock"]);
    let run: crate::world::Run =
        late.env("SOURCE_DATE_EPOCH", "253402300800").output().expect("airlock").into();
    run.exits(1).says("is not seconds since 1970");
}

#[test]
fn a_lock_is_stopped_while_it_reads_a_large_file() {
    let world = World::new();
    let file = std::fs::File::create(world.path("large")).expect("a file");
    file.set_len(1 << 40).expect("a sparse file");
    let hashed = format!("[[file]]\nname = \"x\"\npath = \"large\"\nsha256 = \"{}\"\n", "0".repeat(64));
    archive_with_a_large_layer(&world.path("saved.tar"));
    let converted = "[[image]]\nref = \"x:1\"\nfrom = \"docker-archive:saved.tar\"\n";
    for (signal, spec) in [("-TERM", &*hashed), ("-INT", &hashed), ("-TERM", converted)] {
        world.spec(spec);
        let mut command = world.command(&["lock"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("airlock");
        std::thread::sleep(Duration::from_millis(500));
        assert!(child.try_wait().expect("its state").is_none(), "it was done at once");
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill");
        assert!(sent.success());
        let asked = Instant::now();
        let ended = loop {
            if let Some(status) = child.try_wait().expect("its state") {
                break status;
            }
            assert!(
                asked.elapsed() < Duration::from_secs(10) || child.kill().is_err(),
                "{signal} was not heard"
            );
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(ended.code(), Some(if signal == "-INT" { 130 } else { 143 }));
    }
    let blobs = world.path("cache/airlock/blobs/sha256");
    assert!(blobs.is_dir() && crate::world::names(&blobs).is_empty(), "something was left in the cache");
}

/// What `docker save` writes, sparse: its layer has 6 GiB of nothing.
fn archive_with_a_large_layer(path: &Path) {
    const SIZE: u64 = 6 << 30;
    let config = format!("{{\"rootfs\": {{\"diff_ids\": [\"{}\"]}}}}", Digest::of(b"unknown"));
    let manifest = r#"[{"Config": "config.json", "RepoTags": ["x:1"], "Layers": ["layer.tar"]}]"#;
    let mut file = std::fs::File::create(path).expect("an archive");
    let entries =
        [("config.json", config.len()), ("manifest.json", manifest.len()), ("layer.tar", SIZE as usize)];
    let mut end = 0;
    for ((name, size), content) in entries.into_iter().zip([&*config, manifest, ""]) {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).expect("a path");
        header.set_size(size as u64);
        header.set_cksum();
        file.seek(SeekFrom::Start(end)).expect("a place");
        file.write_all(header.as_bytes()).expect("a header");
        file.write_all(content.as_bytes()).expect("content");
        end += 512 + (size as u64).next_multiple_of(512);
    }
    file.set_len(end + 1024).expect("a sparse file");
}

#[test]
fn a_wrong_file_is_not_taken_for_a_key() {
    let world = World::with_bundle();
    world.write("zeros", &[0; 100]);
    world.write("binary", b"\xff\xfe\x00");
    world.write("text", b"hello");
    world.write("other.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    world.write("cut.pub", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    for (name, says) in [
        ("zeros", "the file is not a key"),
        ("binary", "the file is not a key"),
        ("text", "the file is not a key"),
        ("other.pem", "the file is a CERTIFICATE, not a"),
    ] {
        world.run(&["verify", "app.tar", "--key", name]).exits(1).says(says).says("hint: give the .pub file");
        world
            .run(&["build", "--key", name, "--output", "b.tar"])
            .exits(1)
            .says(says)
            .says("airlock keys generate");
    }
    world.run(&["verify", "app.tar", "--key", "cut.pub"]).exits(1).says("not an ECDSA P-256 key");
}

#[test]
fn a_link_in_the_bundles_place_is_neither_replaced_nor_followed() {
    let world = World::with_bundle();
    world.write("precious", b"precious");
    let link = |name: &str, to: &str| std::os::unix::fs::symlink(to, world.path(name)).expect("a link");
    link("link.tar", "precious");
    link("dangling.tar", "nothing");
    link("b.tar.partial", "precious");
    for (name, says) in [
        ("link.tar", "is a symbolic link"),
        ("dangling.tar", "is a symbolic link"),
        ("b.tar", "it is a symbolic link"),
    ] {
        world.run(&["build", "--unsigned", "--output", name]).exits(1).says(says);
    }
    assert_eq!(std::fs::read(world.path("precious")).expect("the file"), b"precious");
    assert!(!world.path("nothing").exists() && world.path("link.tar").is_symlink());
}
