//! Bundles that were damaged or made to deceive: always refused, with exit code 2.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use bundler::Kind;
use bundler::bundle::Bundle;
use bundler::digest::Digest;
use bundler::progress::Silent;
use bundler::sign::PublicKey;
use bundler::verify::Trust;

use crate::parts::{ACCEPT, Registry, Running, free_port, succeed, wait_for};
use crate::world::World;

fn trust(world: &World) -> Trust {
    let pem = std::fs::read_to_string(world.path("airlock.pub")).expect("a public key");
    Trust::Keys { keys: vec![PublicKey::from_pem(&pem).expect("a public key")], required: 1 }
}

/// All that `airlock verify` does, in this process.
fn verify(path: &Path, trust: &Trust) -> bundler::Result<()> {
    Bundle::open(path)?.verify(trust)?.check_all(&Silent)
}

#[test]
fn one_flipped_bit_anywhere_is_refused() {
    flip_each_byte(&World::with_bundle());
}

#[test]
fn one_flipped_bit_among_equal_entries_is_refused() {
    let world = World::with_bundle();
    // The same content in two places of the tar: files that are what other entries are.
    let mut spec = std::fs::read_to_string(world.path("bundle.toml")).expect("the spec");
    for (at, (name, content)) in entries(&world.path("app.tar")).into_iter().enumerate() {
        if matches!(name.as_str(), "oci-layout" | "manifest.json") {
            world.write(&name, &content);
            let digest = Digest::of(&content).hex();
            spec += &format!("[[file]]\nname = \"f{at}\"\npath = \"{name}\"\nsha256 = \"{digest}\"\n");
        }
    }
    world.write("bundle.toml", spec.as_bytes());
    world.run(&["lock"]).exits(0);
    world.build("app.tar");
    let contents: Vec<_> = entries(&world.path("app.tar")).into_iter().map(|(_, content)| content).collect();
    let unique: BTreeSet<_> = contents.iter().collect();
    assert_eq!(contents.len() - unique.len(), 2);
    flip_each_byte(&world);
}

fn flip_each_byte(world: &World) {
    let (path, trust) = (world.path("app.tar"), trust(world));
    verify(&path, &trust).expect("the bundle as it was built");
    let bytes = std::fs::read(&path).expect("the bundle");
    let file = File::options().write(true).open(&path).expect("the bundle");
    for (at, byte) in bytes.iter().enumerate() {
        // Another bit at each place; all eight of a byte are covered every eight bytes.
        file.write_at(&[byte ^ (1 << (at % 8))], at as u64).expect("write");
        let verified = verify(&path, &trust);
        assert!(
            verified.as_ref().is_err_and(|error| error.kind() == Kind::Trust),
            "byte {at} flipped: {verified:?}"
        );
        file.write_at(&[*byte], at as u64).expect("write");
    }
    verify(&path, &trust).expect("the bundle as it was");
}

#[test]
fn truncation_at_any_length_is_refused() {
    let world = World::with_bundle();
    let (path, trust) = (world.path("app.tar"), trust(&world));
    let file = File::options().write(true).open(&path).expect("the bundle");
    let size = file.metadata().expect("its size").len();
    for length in (0..size).rev() {
        file.set_len(length).expect("truncate");
        match verify(&path, &trust) {
            Err(error) if error.kind() == Kind::Trust => {}
            other => panic!("cut to {length} of {size} bytes: {other:?}"),
        }
    }
}

#[test]
fn trailing_bytes_are_refused() {
    for extra in [&[0][..], &[1], &[0; 512], &[0; 1024], &[7; 5000]] {
        let world = World::with_bundle();
        let mut bytes = std::fs::read(world.path("app.tar")).expect("the bundle");
        bytes.extend(extra);
        world.write("app.tar", &bytes);
        world.run(&["verify", "app.tar", "--key", "airlock.pub"]).exits(2).says("follow after its end");
    }
}

/// Entries of a tar, as name and content.
fn entries(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(File::open(path).expect("the bundle"));
    let read = |entry: std::io::Result<tar::Entry<File>>| {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a path").to_string_lossy().into_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).expect("content");
        (name, content)
    };
    archive.entries().expect("entries").map(read).collect()
}

/// A header as the format has it, but for the name and what follows from it.
fn header(size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_device_major(0).expect("ustar");
    header.set_device_minor(0).expect("ustar");
    header
}

/// The checksum as POSIX has it: six digits, NUL, space.
fn set_checksum(header: &mut tar::Header) {
    header.set_cksum();
    let sum = header.cksum().expect("a checksum");
    header.as_old_mut().cksum.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Writes the tar anew with another tool, changed by `change`.
fn repack(world: &World, change: impl FnOnce(&mut Vec<(String, Vec<u8>)>)) {
    let mut list = entries(&world.path("app.tar"));
    change(&mut list);
    let mut tar = tar::Builder::new(File::create(world.path("app.tar")).expect("the bundle"));
    for (name, content) in list {
        let mut header = header(content.len());
        // `set_path` refuses `..`; an attacker's tool does not.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        set_checksum(&mut header);
        tar.append(&header, content.as_slice()).expect("an entry");
    }
    tar.finish().expect("a tar");
}

#[test]
fn other_entries_than_those_listed_are_refused() {
    type Change = fn(&mut Vec<(String, Vec<u8>)>);
    let changes: [(&str, Change); 7] = [
        ("an extra entry at the end", |list| list.push(("extra".into(), b"x".to_vec()))),
        ("an extra entry in between", |list| list.insert(3, ("extra".into(), b"x".to_vec()))),
        ("a missing entry", |list| drop(list.remove(5))),
        ("the last entry missing", |list| drop(list.pop())),
        ("a duplicate", |list| list.push(list[4].clone())),
        ("another order", |list| list.swap(5, 6)),
        ("a path that climbs", |list| list[5].0 = "../../etc/cron.d/x".into()),
    ];
    for (what, change) in changes {
        let world = World::with_bundle();
        repack(&world, change);
        let run = world.run(&["verify", "app.tar", "--key", "airlock.pub"]);
        assert_eq!(run.code, 2, "{what}: {}", run.stderr);
    }
}

#[test]
fn repacked_unchanged_it_is_still_good() {
    // Shows that the refusals above are for the change, not for the repacking.
    let world = World::with_bundle();
    let before = std::fs::read(world.path("app.tar")).expect("the bundle");
    repack(&world, |_| ());
    assert!(
        before == std::fs::read(world.path("app.tar")).expect("the bundle"),
        "tar crate writes the same bytes"
    );
    world.run(&["verify", "app.tar", "--key", "airlock.pub"]).exits(0);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for (from, to) in [
        ("\"name\": \"app\"", "\"name\": \"../../x\""),
        ("\"repository\": \"files/notes.txt\"", "\"repository\": \"/../x\""),
        ("\"charts\": []", "\"charts\": [CHART]"),
    ] {
        let world = World::with_bundle();
        let chart = format!(
            "{{\"digest\": \"{}\", \"name\": \"web\", \"release\": \"--debug\", \"repository\": \"charts/web\", \
             \"tag\": \"1\", \"version\": \"1\"}}",
            Digest::of(b"")
        );
        repack(&world, |list| {
            let text = String::from_utf8(list[0].1.clone()).expect("JSON");
            assert!(text.contains(from), "{text}");
            list[0].1 = text.replace(from, &to.replace("CHART", &chart)).into_bytes();
        });
        let verbs: [&[&str]; 5] = [
            &["verify", "app.tar", "--insecure-skip-verify"],
            &["inspect", "app.tar"],
            &["serve", "app.tar", "--insecure-skip-verify", "--listen", "256.0.0.1:0"],
            &["push", "app.tar", "--registry", "127.0.0.1:1", "--insecure-skip-verify"],
            &["install", "app.tar", "--registry", "127.0.0.1:1", "--insecure-skip-verify"],
        ];
        for verb in verbs {
            world.run(verb).exits(2).says("airlock.json");
        }
    }
}

#[test]
fn what_does_not_belong_to_an_image_is_not_taken_for_its_signature() {
    for (tag, subject, code) in [
        (None, 0, 2),
        (Some("latest".to_owned()), 0, 2),
        (Some("sha256-OTHER.sig".to_owned()), 0, 2),
        (Some("sha256-OWN.sig".to_owned()), 1, 2),
        // Who made the bundle may put anything under the tag of a signature. Whoever looks there checks it.
        (Some("sha256-OWN.sig".to_owned()), 0, 0),
    ] {
        let world = World::with_bundle();
        repack(&world, |list| {
            let mut manifest: serde_json::Value = serde_json::from_slice(&list[0].1).expect("JSON");
            let digests =
                [0, 1].map(|n| manifest["images"][n]["digest"].as_str().expect("a digest").to_owned());
            let hex = |n: usize| digests[n].trim_start_matches("sha256:").to_owned();
            let mut attached =
                serde_json::json!({"digest": digests[1], "kind": "x", "subject": digests[subject]});
            if let Some(tag) = &tag {
                attached["tag"] = tag.replace("OWN", &hex(0)).replace("OTHER", &hex(1)).into();
            }
            manifest["images"][0]["attached"] = serde_json::json!([attached]);
            list[0].1 = serde_json::to_vec_pretty(&manifest).expect("JSON");
        });
        let run = world.run(&["verify", "app.tar", "--insecure-skip-verify"]).exits(code);
        assert_eq!(run.stderr.contains("is not part of it"), code == 2, "{}", run.stderr);
    }
}

#[test]
fn a_file_is_what_its_manifest_has() {
    let world = World::with_bundle();
    repack(&world, |list| {
        let mut manifest: serde_json::Value = serde_json::from_slice(&list[0].1).expect("JSON");
        let other = manifest["images"][0]["digest"].clone();
        manifest["files"][0]["digest"] = other;
        list[0].1 = serde_json::to_vec_pretty(&manifest).expect("JSON");
    });
    let verify = ["verify", "app.tar", "--insecure-skip-verify"];
    world.run(&verify).exits(2).says("file notes.txt: sha256:").says("is not what its manifest");
}

#[test]
fn an_entry_is_checked_at_its_own_place() {
    let world = World::with_bundle();
    // A blob with the bytes of each entry that has a fixed name, as somebody can plant it who knows them beforehand.
    repack(&world, |list| {
        let planted: Vec<_> = list[2..8].iter().map(|(_, content)| content.clone()).collect();
        let mut manifest: serde_json::Value = serde_json::from_slice(&list[0].1).expect("JSON");
        let listed = manifest["entries"].as_array_mut().expect("entries");
        for content in planted {
            let digest = Digest::of(&content);
            let path = format!("blobs/sha256/{}", digest.hex());
            listed.push(serde_json::json!({"path": path, "sha256": digest.hex(), "size": content.len()}));
            list.push((path, content));
        }
        list[0].1 = serde_json::to_vec_pretty(&manifest).expect("JSON");
    });
    let verbs: [&[&str]; 5] = [
        &["verify", "app.tar", "--insecure-skip-verify"],
        &["verify", "app.tar", "--insecure-skip-verify", "--quick"],
        &["serve", "app.tar", "--insecure-skip-verify", "--listen", "256.0.0.1:0"],
        &["push", "app.tar", "127.0.0.1:1", "--insecure-skip-verify"],
        &["install", "app.tar", "--registry", "127.0.0.1:1", "--insecure-skip-verify"],
    ];
    world.run(verbs[0]).exits(0);
    let names = entries(&world.path("app.tar")).into_iter().map(|(name, _)| name);
    for (name, (_, content)) in names.zip(offsets(&world.path("app.tar"))).skip(2) {
        flip(&world.path("app.tar"), content);
        for verb in verbs {
            // Layers and files stand before the planted blobs, and are hashed by `verify` alone.
            let run = world.run(verb);
            let is_small = !name.starts_with("blobs/");
            if is_small || verb == verbs[0] {
                run.exits(2).says(&format!("the content of {name} is not what its digest says"));
            }
        }
        flip(&world.path("app.tar"), content);
    }
    world.run(verbs[0]).exits(0);
}

#[test]
fn links_in_place_of_files_are_refused() {
    for kind in
        [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Fifo, tar::EntryType::Directory]
    {
        let world = World::with_bundle();
        let list = entries(&world.path("app.tar"));
        let mut tar = tar::Builder::new(File::create(world.path("app.tar")).expect("the bundle"));
        for (at, (name, content)) in list.into_iter().enumerate() {
            let mut header = header(content.len());
            header.set_path(&name).expect("a path");
            if at == 6 {
                header.set_entry_type(kind);
                header.set_link_name("/etc/passwd").expect("a link");
            }
            set_checksum(&mut header);
            tar.append(&header, content.as_slice()).expect("an entry");
        }
        tar.finish().expect("a tar");
        world
            .run(&["verify", "app.tar", "--key", "airlock.pub"])
            .exits(2)
            .says("what stands before the content");
    }
}

#[test]
fn no_key_wrong_key_and_no_signature_are_refused() {
    let world = World::with_bundle();
    world.run(&["verify", "app.tar"]).exits(1).says("--key");
    world.keys("other");
    world.run(&["verify", "app.tar", "--key", "other.pub"]).exits(2).says("key");
    world.run(&["verify", "app.tar", "--key", "other.pub", "--key", "airlock.pub"]).exits(0);

    world.run(&["build", "--output", "plain.tar"]).exits(1).says("--key");
    world.run(&["build", "--unsigned", "--output", "plain.tar"]).exits(0).says("not signed");
    world.run(&["verify", "plain.tar", "--key", "airlock.pub"]).exits(2).says("not signed");
    world.run(&["verify", "plain.tar", "--insecure-skip-verify"]).exits(0).says("NOT checked");
}

#[test]
fn what_is_no_bundle_is_called_so() {
    let world = World::with_bundle();
    world.write("text.tar", &b"hello ".repeat(1000));
    world.write("empty.tar", b"");
    for name in ["text.tar", "empty.tar"] {
        world.run(&["verify", name, "--key", "airlock.pub"]).exits(2).says("no bundle");
    }
    world.run(&["verify", "gone.tar", "--key", "airlock.pub"]).exits(1).says("No such file");
    world.run(&["verify", ".", "--key", "airlock.pub"]).exits(1).says("not a regular file");
    // A partial bundle is called what it is.
    let mut list = entries(&world.path("app.tar"));
    list.insert(2, ("airlock.partial.json".into(), b"{}".to_vec()));
    repack(&world, |all| *all = list);
    world.run(&["verify", "app.tar", "--key", "airlock.pub"]).exits(1).says("partial bundle");
}

#[test]
fn damage_is_found_without_a_signature_too() {
    let world = World::with_bundle();
    let mut bytes = std::fs::read(world.path("app.tar")).expect("the bundle");
    let last_of_content = bytes.iter().rposition(|b| *b != 0).expect("content");
    bytes[last_of_content] ^= 1;
    world.write("app.tar", &bytes);
    world.run(&["verify", "app.tar", "--insecure-skip-verify"]).exits(2).says("not what its digest says");
}

/// Flips a bit of a file.
fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).expect("the bundle");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], at).expect("written");
}

/// Where the header and the content of each entry start.
fn offsets(path: &Path) -> Vec<(u64, u64)> {
    let mut archive = tar::Archive::new(File::open(path).expect("the bundle"));
    let offsets = |entry: std::io::Result<tar::Entry<File>>| {
        let entry = entry.expect("an entry");
        (entry.raw_header_position(), entry.raw_file_position())
    };
    archive.entries().expect("entries").map(offsets).collect()
}

#[test]
fn every_verb_refuses_damage_before_it_does_anything() {
    let world = World::with_bundle();
    let whole = std::fs::read(world.path("app.tar")).expect("the bundle");
    let offsets = offsets(&world.path("app.tar"));
    let ((first, manifest), (_, signature), (header, _)) = (offsets[0], offsets[1], offsets[7]);
    let end = whole.len() as u64;
    // What stands 513 bytes after the start of a header of a small entry (oci-layout has 30 bytes) is padding.
    let damage: [(&str, u64); 8] = [
        ("the first header", first),
        ("the manifest", manifest + 100),
        ("the signature", signature + 100),
        ("the padding of the signature", signature + 4000),
        ("padding", offsets[2].1 + 400),
        ("a header", header + 100),
        ("a small blob", offsets[6].1),
        ("the end", end - 1),
    ];
    // Nobody listens there: if it is asked nonetheless, the exit code is another.
    let verbs: [&[&str]; 5] = [
        &["verify", "app.tar"],
        &["inspect", "app.tar"],
        &["serve", "app.tar", "--listen", "256.0.0.1:0"],
        &["push", "app.tar", "--registry", "127.0.0.1:1"],
        &["install", "app.tar", "--registry", "127.0.0.1:1"],
    ];
    let refused = |what: &str| {
        for verb in verbs {
            let run = world.run(&[verb, &["--key", "airlock.pub"]].concat());
            assert_eq!(run.code, 2, "{verb:?}, {what}: {}", run.stderr);
        }
    };
    for (what, at) in damage {
        flip(&world.path("app.tar"), at);
        refused(what);
        flip(&world.path("app.tar"), at);
    }
    for length in [0, 1, 511, 512, manifest + 1, header, end - 1024, end - 1] {
        world.write("app.tar", &whole[..length as usize]);
        refused(&format!("cut to {length} bytes"));
    }
    world.write("app.tar", &[&whole[..], &[0]].concat());
    refused("a byte more");
    world.write("app.tar", &whole);
    for (verb, code) in verbs.iter().zip([0, 0, 1, 3, 1]) {
        let run = world.run(&[verb, &["--key", "airlock.pub"][..]].concat());
        assert_eq!(run.code, code, "{verb:?} of a bundle that is whole: {}", run.stderr);
        let run = world.run(&[verb, &["--key", "airlock.key"][..]].concat());
        assert_eq!(run.code, 1, "{verb:?} with a private key: {}", run.stderr);
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_damaged_layer_gets_no_tag_and_no_client_takes_it_for_whole() {
    let world = World::with_bundle();
    let manifest = world.run(&["inspect", "app.tar", "--json"]).exits(0).json()["manifest"].clone();
    let listed = manifest["entries"].as_array().expect("entries");
    let flip_all = || {
        // The large blobs stand last: two layers and a file.
        for (entry, (_, content)) in listed.iter().zip(&offsets(&world.path("app.tar"))[2..]).rev().take(3) {
            flip(&world.path("app.tar"), content + entry["size"].as_u64().expect("a size") - 1);
        }
    };
    flip_all();
    world.run(&["verify", "app.tar", "--key", "airlock.pub"]).exits(2).says("not what its digest says");
    let quick = world.run(&["verify", "app.tar", "--key", "airlock.pub", "--quick"]).exits(0);
    assert!(quick.stdout.contains("layers and files NOT checked (--quick)"), "{}", quick.stdout);

    let registry = Registry::start();
    let run = world.run(&["push", "app.tar", "--registry", &registry.host(), "--key", "airlock.pub"]);
    run.exits(2).says("not what its digest says").says("hint: the file is damaged: copy it again");
    let port = free_port();
    let served = format!("127.0.0.1:{port}");
    let mut serve = world.command(&["serve", "app.tar", "--key", "airlock.pub", "--listen", &served]);
    let _server = Running(serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("airlock"));
    wait_for(port);
    let fetch = |url: String| {
        let args = ["-s", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", &url];
        let output = Command::new("curl").args(ACCEPT).args(args).output().expect("curl");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let names = [("docker.io/library/redis", "8"), ("quay.io/a/web", "1.0"), ("files/notes.txt", "1.0.0")];
    let pushed = |repository: &str, tag: &str| {
        let (_, answer) = fetch(format!("http://{}/v2/{repository}/manifests/{tag}", registry.host()));
        answer.split(' ').next().expect("a status").to_owned()
    };
    for (repository, tag) in names {
        assert_eq!(pushed(repository, tag), "404", "{repository}:{tag}");
        let base = format!("http://{served}/v2/{repository}");
        let manifest = succeed(Command::new("curl").args(["-sf", &format!("{base}/manifests/{tag}")]));
        let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("a manifest");
        let layer = &manifest["layers"][0];
        let (whole, answer) = fetch(format!("{base}/blobs/{}", layer["digest"].as_str().expect("a digest")));
        assert!(!whole && answer != format!("200 {}", layer["size"]), "{repository}: {answer}");
    }
    flip_all();
    world.run(&["push", "app.tar", "--registry", &registry.host(), "--key", "airlock.pub"]).exits(0);
    assert!(names.iter().all(|(repository, tag)| pushed(repository, tag) == "200"));
}

#[test]
fn a_client_that_says_nothing_is_let_go() {
    use std::io::{Read as _, Write as _};
    let world = World::with_bundle();
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let mut serve = world.command(&["serve", "app.tar", "--key", "airlock.pub", "--listen", &address]);
    let _server = Running(serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("airlock"));
    wait_for(port);
    // The last is how HTTP/2 begins, which would be waited for to its end.
    let clients = ["", "GET /v2/ HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n"].map(|said| {
        let mut client = std::net::TcpStream::connect(&address).expect("a connection");
        client.write_all(said.as_bytes()).expect("sent");
        client.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a timeout");
        client
    });
    for mut client in clients {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("the connection's end");
    }
}

/// Found by fuzzing: these have no path that a filter could ask for.
#[test]
fn a_target_without_a_path_is_answered() {
    use std::io::{Read as _, Write as _};
    let world = World::with_bundle();
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let mut serve = world.command(&["serve", "app.tar", "--key", "airlock.pub", "--listen", &address]);
    let _server = Running(serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("airlock"));
    wait_for(port);
    for target in ["CONNECT host:1", "GET host:1", "OPTIONS *"] {
        let mut client = std::net::TcpStream::connect(&address).expect("a connection");
        client
            .write_all(format!("{target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").as_bytes())
            .expect("sent");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 40"), "{target}: {answer:?}");
    }
}

#[test]
fn without_the_sources_host_nothing_takes_anothers_place() {
    let world = World::new();
    world.image("web", &["linux/amd64"], b"web");
    world.write("notes", b"read me\n");
    world.keys("airlock");
    let file = format!(
        "[[file]]\nname = \"notes\"\npath = \"notes\"\nsha256 = \"{}\"\n",
        Digest::of(b"read me\n").hex()
    );
    let image = |reference: &str| format!("[[image]]\nref = \"{reference}\"\nfrom = \"oci:web\"\n");
    for spec in [image("q.io/a/web:1") + &image("r.io/a/web:2"), image("q.io/files/notes:1") + &file] {
        world.spec(&spec);
        world.run(&["lock"]).exits(0);
        world.build("app.tar");
        let push = ["push", "app.tar", "--registry", "127.0.0.1:1", "--key", "airlock.pub", "--strip-host"];
        world.run(&push).exits(1).says("in the same repository").says("hint: leave out --strip-host");
    }
}

/// Puts other content in the place of an entry, under its new digest, and says so in the manifests above it.
fn replace(list: &mut [(String, Vec<u8>)], at: usize, content: Vec<u8>) {
    let (old, new) = (Digest::of(&list[at].1), Digest::of(&content));
    let sizes = [list[at].1.len(), content.len()].map(|size| size.to_string());
    list[at] = (format!("blobs/sha256/{}", new.hex()), content);
    // Its size stands behind its digest in `airlock.json`, and before or behind it in a manifest of one layer.
    let parent =
        (1..list.len()).find(|n| *n > 7 && String::from_utf8_lossy(&list[*n].1).contains(&old.hex()));
    let mut text = String::from_utf8(list[0].1.clone()).expect("JSON");
    let size = |size: &str| format!("{}\",\n      \"size\": {size}\n", old.hex());
    text = text.replace(&size(&sizes[0]), &size(&sizes[1])).replace(&old.hex(), &new.hex());
    list[0].1 = text.into_bytes();
    if let Some(parent) = parent {
        let mut above: serde_json::Value = serde_json::from_slice(&list[parent].1).expect("JSON");
        above["config"]["digest"] = new.to_string().into();
        above["config"]["size"] = list[at].1.len().into();
        replace(list, parent, serde_json::to_vec(&above).expect("JSON"));
    }
}

#[test]
fn keys_in_another_case_are_refused_in_a_bundle() {
    for (is_config, from, to, code) in [
        (true, "\"rootfs\":", "\"rootfs\":", 0),
        (true, "\"rootfs\":", "\"RootFS\":{},\"rootfs\":", 2),
        (true, "\"os\":", "\"os\":\"linux\",\"os\":", 2),
        (false, "\"layers\":", "\"Layers\":[],\"layers\":", 2),
        (false, "\"layers\":", "\"layer\u{17f}\":[],\"layers\":", 2),
        (false, "\"size\":", "\"Size\":1,\"size\":", 2),
    ] {
        let world = World::with_bundle();
        repack(&world, |list| {
            let text = |content: &[u8]| String::from_utf8_lossy(content).into_owned();
            let is_it =
                |content: &[u8]| text(content).contains(if is_config { "\"rootfs\"" } else { "\"layers\"" });
            let at = (8..list.len()).find(|n| is_it(&list[*n].1)).expect("the blob");
            let changed = text(&list[at].1).replacen(from, to, 1).into_bytes();
            replace(list, at, changed);
        });
        let run = world.run(&["verify", "app.tar", "--insecure-skip-verify"]).exits(code);
        assert_eq!(
            run.stderr.contains("readers disagree on what it says: key \""),
            code == 2,
            "{}",
            run.stderr
        );
    }
}
