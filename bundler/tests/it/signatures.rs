//! Several signatures on one bundle.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use bundler::Kind;
use bundler::bundle::Bundle;
use bundler::sign::{PublicKey, SigningKey};
use bundler::verify::Trust;

use crate::world::World;

/// What a further signature takes, in bytes.
const FURTHER: usize = 512 + 4096;

/// A bundle `app.tar` that is signed by `airlock`, and another key pair, `second`.
fn world() -> World {
    let world = World::with_bundle();
    world.keys("second");
    world
}

const BOTH: [&str; 8] =
    ["verify", "app.tar", "--key", "airlock.pub", "--key", "second.pub", "--require-signatures", "2"];
const SIGN: [&str; 4] = ["sign", "app.tar", "--key", "second.key"];

#[test]
fn several_must_agree_where_the_site_says_so() {
    let world = world();
    let before = fs::read(world.path("app.tar")).expect("the bundle");
    world.run(&BOTH).exits(2).says("1 trusted keys have signed it, and 2 must have");
    world.run(&["verify", "app.tar", "--key", "second.pub"]).exits(2).says("which is not trusted");
    world.run(&SIGN).exits(0);
    assert!(world.run(&BOTH).exits(0).stdout.contains("signed by keys "));
    for one in ["airlock.pub", "second.pub"] {
        world.run(&["verify", "app.tar", "--key", one]).exits(0);
    }
    let after = fs::read(world.path("app.tar")).expect("the bundle");
    assert_eq!(after.len(), before.len() + FURTHER);
    assert!(after.starts_with(&before[..before.len() - 1024]), "nothing moves");

    world.run(&SIGN).exits(1).says("it has one of key").says("already");
    world.run(&["sign", "app.tar"]).exits(1).says("nobody is named").says("--signer COMMAND");
    world.run(&[&BOTH[..7], &["3"]].concat()).exits(1).says("3 of 2 keys can't have signed it");
    let shown = world.run(&["inspect", "app.tar", "--key", "second.pub"]).exits(0).stdout;
    assert!(shown.contains("signed by key") && shown.contains("which is none of those given"), "{shown}");
    let json = world.run(&["inspect", "app.tar", "--json"]).exits(0).json();
    assert_eq!(json["claims_keys"].as_array().map(Vec::len), Some(2), "{json}");
}

#[test]
fn a_build_keeps_signatures_of_others() {
    let world = world();
    let build = |more: &[&str]| world.run(&[&["build", "--output", "app.tar", "--json"], more].concat());
    let own = ["--key", "airlock.key"];
    let once = fs::read(world.path("app.tar")).expect("the bundle");
    build(&own).exits(0);
    assert!(fs::read(world.path("app.tar")).expect("the bundle") == once, "the same build, the same bytes");
    world.run(&SIGN).exits(0);
    let both = fs::read(world.path("app.tar")).expect("the bundle");
    for signed in [&own[..], &["--key", "second.key"], &["--unsigned"]] {
        let built = build(signed).exits(0).says("kept the signatures of keys ").json();
        assert_eq!(built["size"], both.len(), "{built}");
        assert_eq!(built["signed"], true);
        world.run(&BOTH).exits(0);
    }
    let quiet = build(&[&own[..], &["--quiet"]].concat()).exits(0);
    assert_eq!(quiet.stderr, "");
    let forced = build(&[&own[..], &["--force"]].concat()).exits(0).json();
    assert_eq!(forced["kept_signatures"], serde_json::json!([]));
    assert!(fs::read(world.path("app.tar")).expect("the bundle") == once);
}

#[test]
fn a_build_replaces_nothing_that_would_be_lost() {
    let world = world();
    let build = |more: &[&str]| {
        world.run(&[&["build", "--output", "app.tar", "--key", "airlock.key"], more].concat())
    };
    let there = || fs::read(world.path("app.tar")).expect("the file");
    let refused = |why: &str| {
        let before = there();
        build(&[]).exits(1).says(why).says("--force");
        assert!(there() == before, "it is as it was");
        assert!(!world.path("app.tar.partial").exists());
    };
    let (spec, lock) = ("bundle.toml", "images.lock");
    let [old_spec, old_lock] = [spec, lock].map(|name| fs::read(world.path(name)).expect(name));
    let newer = String::from_utf8_lossy(&old_spec).replace("1.0.0", "1.0.1");
    world.run(&SIGN).exits(0);
    world.write(spec, newer.as_bytes());
    world.run(&["lock"]).exits(0);
    refused("with the signature of key");
    build(&["--force"]).exits(0);
    // A newer serial, and the same serial with other content.
    world.write(spec, &old_spec);
    world.write(lock, &old_lock);
    refused("with serial 2, and this has 1");
    world.write(spec, newer.replace("1.0.1", "1.0.2").as_bytes());
    world.run(&["lock"]).exits(0);
    refused("with serial 2, and this has 2");
    // An older one that nobody else signed.
    world.run(&["lock", "--update"]).exits(0);
    fs::remove_file(world.path("app.tar")).expect("removed");
    build(&[]).exits(0);
    world.write(spec, newer.replace("1.0.1", "1.0.3").as_bytes());
    world.run(&["lock"]).exits(0);
    build(&[]).exits(0);
    // Another bundle, a damaged one, and no bundle at all.
    world.write(spec, newer.replace("\"app\"", "\"other\"").as_bytes());
    world.run(&["lock"]).exits(0);
    refused("bundle app, and this is other");
    let mut damaged = there();
    damaged.truncate(2000);
    world.write("app.tar", &damaged);
    refused("it is no sound bundle");
    world.write("app.tar", b"notes");
    refused("it is no sound bundle");
    build(&["--force"]).exits(0);
    world.run(&["verify", "app.tar", "--key", "airlock.pub"]).exits(0);
}

#[test]
fn a_bundle_that_nobody_signed_is_signed_in_its_place() {
    let world = world();
    let signed = fs::read(world.path("app.tar")).expect("the bundle");
    world.run(&["build", "--unsigned", "--output", "app.tar", "--force"]).exits(0);
    world.run(&["sign", "app.tar", "--key", "airlock.key"]).exits(0);
    assert!(fs::read(world.path("app.tar")).expect("the bundle") == signed, "the same as from build --key");
}

#[test]
fn what_an_interrupted_sign_left_is_refused_and_done_by_the_next() {
    let world = world();
    let path = world.path("app.tar");
    let before = fs::read(&path).expect("the bundle");
    world.run(&SIGN).exits(0);
    let after = fs::read(&path).expect("the bundle");
    let end = before.len() - 1024;
    // Grown only; the new end written, too; a part of the first bytes; all but the last of them.
    let grown = [&before[..], &vec![0; FURTHER]].concat();
    let rest = [&before[..], &after[before.len()..]].concat();
    let some = [&after[..end + 700], &before[end + 700..], &after[before.len()..]].concat();
    let most = [&after[..end + 1023], &[0], &after[before.len()..]].concat();
    for torn in [grown, rest, some, most] {
        assert_eq!(torn.len(), after.len());
        fs::write(&path, &torn).expect("written");
        world.run(&["verify", "app.tar", "--key", "airlock.pub"]).exits(2).says("run it again");
        world.run(&SIGN).exits(0);
        assert!(fs::read(&path).expect("the bundle") == after);
    }
}

#[test]
fn no_bit_of_a_further_signature_can_be_changed_and_none_cut_off() {
    let world = world();
    world.run(&SIGN).exits(0);
    let path = world.path("app.tar");
    let pem = |name: &str| fs::read_to_string(world.path(name)).expect("a key");
    let key = |name: &str| PublicKey::from_pem(&pem(name)).expect("a public key");
    let trust = Trust::Keys { keys: vec![key("airlock.pub"), key("second.pub")], required: 1 };
    let verify = || Bundle::open(&path)?.verify(&trust).map(|bundle| bundle.signers().len());
    assert_eq!(verify().expect("the bundle"), 2);
    let bytes = fs::read(&path).expect("the bundle");
    let file = File::options().write(true).open(&path).expect("the bundle");
    for (at, byte) in bytes.iter().enumerate().skip(bytes.len() - FURTHER - 1024) {
        file.write_all_at(&[byte ^ (1 << (at % 8))], at as u64).expect("written");
        match verify() {
            Err(error) if error.kind() == Kind::Trust => {}
            other => panic!("byte {at} flipped: {other:?}"),
        }
        file.write_all_at(&[*byte], at as u64).expect("written");
    }
    for length in (bytes.len() - FURTHER - 1024..bytes.len()).rev() {
        file.set_len(length as u64).expect("cut");
        match verify() {
            Err(error) if error.kind() == Kind::Trust => {}
            other => panic!("cut to {length} bytes: {other:?}"),
        }
    }
}

#[test]
fn there_is_an_end_to_signatures() {
    let world = World::with_bundle();
    let path = world.path("app.tar");
    let message = Bundle::message(&path).expect("the message");
    let add = || {
        let key = SigningKey::generate().expect("a key");
        Bundle::add_signature(&path, &bundler::sign::sign(&key, &message).expect("an entry"))
    };
    for _ in 1..16 {
        add().expect("room for another");
    }
    assert!(add().expect_err("one too many").to_string().contains("may not have more"));
    world.run(&["verify", "app.tar", "--key", "airlock.pub"]).exits(0);
}

#[test]
fn a_signature_counts_that_lies_beside_the_bundle() {
    let world = world();
    let before = fs::read(world.path("app.tar")).expect("the bundle");
    let said = world.run(&[&SIGN[..], &["--output", "second.sig", "--json"]].concat()).exits(0).json();
    assert_eq!(said["signature"], "second.sig");
    assert!(fs::read(world.path("app.tar")).expect("the bundle") == before);
    world.run(&BOTH).exits(2);
    let both = [&BOTH[..], &["--signature", "second.sig"]].concat();
    assert_eq!(world.run(&[&both[..], &["--json"]].concat()).exits(0).json()["signers"], said_keys(&world));
    // It is the same as the one that is put into the file, and counts once.
    world.run(&["sign", "app.tar", "--signature", "second.sig", "--public-key", "second.pub"]).exits(0);
    assert_eq!(world.run(&[&both[..], &["--json"]].concat()).exits(0).json()["signers"], said_keys(&world));

    policy(&world, "trust.toml", 1, "required = 2", &["airlock", "second"]);
    fs::write(world.path("app.tar"), &before).expect("written");
    let by_policy = ["verify", "app.tar", "--trust", "trust.toml", "--signature"];
    world.run(&[&by_policy[..], &["second.sig"]].concat()).exits(0);
    // Twice one key is one key; somebody else's, another bundle's and what is none are refused, not passed over.
    world.run(&["sign", "app.tar", "--key", "airlock.key", "--output", "first.sig"]).exits(0);
    world.run(&[&by_policy[..], &["first.sig"]].concat()).exits(2).says("2 must have");
    world
        .run(&["verify", "app.tar", "--key", "airlock.pub", "--signature", "second.sig"])
        .exits(2)
        .says("taking signature second.sig: taking a signature: it does not hold");
    world.write("second.sig", b"c2lnbmVk");
    world.run(&[&by_policy[..], &["second.sig"]].concat()).exits(2).says("no ECDSA signature");
    world.run(&[&by_policy[..], &["third.sig"]].concat()).exits(1).says("reading signature third.sig");
}

/// Ids of both keys, in the order of the signatures.
fn said_keys(world: &World) -> serde_json::Value {
    let id = |name: &str| {
        let pem = fs::read_to_string(world.path(name)).expect("a key");
        PublicKey::from_pem(&pem).expect("a public key").key_id()
    };
    serde_json::json!([id("airlock.pub"), id("second.pub")])
}

#[test]
fn every_verb_that_reads_a_bundle_takes_the_sites_policy() {
    let world = world();
    policy(&world, "trust.toml", 1, "", &["airlock"]);
    policy(&world, "other.toml", 1, "bundles = [\"other\"]", &["airlock"]);
    world.write("m.yaml", b"kind: Pod\n");
    let helm = world.path("helm");
    world.write("helm", b"#!/bin/sh\necho v3.99.0\n");
    fs::set_permissions(&helm, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a program");
    let helm = helm.display().to_string();
    for verb in [
        &["inspect", "app.tar"][..],
        &["inspect", "app.tar", "--sbom"],
        &["rewrite", "m.yaml", "--bundle", "app.tar", "--registry", "site.example"],
        &["uninstall", "--all", "--bundle", "app.tar", "--helm", &helm],
        &["serve", "app.tar", "--listen", "127.0.0.1:0"],
        &["push", "app.tar", "--registry", "127.0.0.1:1"],
        &["render", "app.tar", "--registry", "site.example"],
        &["mirrors", "containerd", "app.tar", "--registry", "site.example"],
        &["policy", "app.tar", "--registry", "site.example"],
    ] {
        let with = |trust: &str| world.run(&[verb, &["--trust", trust]].concat());
        with("other.toml").exits(2).says("bundles of that name are not trusted here");
    }
    world.run(&["inspect", "app.tar", "--trust", "trust.toml"]).exits(0);
}

/// A trust policy, in a file.
fn policy(world: &World, name: &str, serial: u64, rest: &str, keys: &[&str]) {
    let mut text = format!("kind = \"airlock trust policy 1\"\nserial = {serial}\n{rest}\n");
    for key in keys {
        let pem = fs::read_to_string(world.path(&format!("{key}.pub"))).expect("a key");
        text += &format!("[[key]]\nname = \"{key}\"\npem = \"\"\"\n{pem}\"\"\"\n");
    }
    world.write(name, text.as_bytes());
}

#[test]
fn a_policy_says_whose_signatures_count_and_for_what() {
    let world = world();
    let verify = || world.run(&["verify", "app.tar", "--trust", "trust.toml"]);
    policy(&world, "trust.toml", 1, "required = 2\nbundles = [\"app\", \"other-*\"]", &["airlock", "second"]);
    verify().exits(2).says("1 trusted keys have signed it, and 2 must have");
    world.run(&SIGN).exits(0);
    verify().exits(0);
    let from_environment = world.command(&["verify", "app.tar"]).env("AIRLOCK_TRUST", "trust.toml").output();
    assert!(from_environment.expect("airlock").status.success());
    // How many must agree is said there, too: more than the policy wants, not fewer.
    policy(&world, "two.toml", 1, "", &["airlock", "second"]);
    let count = |n: &str| {
        let mut verify = world.command(&["verify", "app.tar", "--require-signatures", n]);
        let run: crate::world::Run =
            verify.env("AIRLOCK_TRUST", "two.toml").output().expect("airlock").into();
        run
    };
    count("2").exits(0);
    count("3").exits(2).says("2 trusted keys have signed it, and 3 must have");
    world.run(&["inspect", "app.tar", "--require-signatures", "2"]).exits(1).says("nobody says whose");
    let shown = world.run(&["inspect", "app.tar", "--insecure-skip-verify"]).exits(0).stdout;
    assert!(shown.contains("NOT checked"), "{shown}");
    // What is said comes before what stands in the environment.
    for said in [&["--key", "airlock.pub"][..], &["--trust", "trust.toml"], &["--insecure-skip-verify"]] {
        let mut verify = world.command(&[&["verify", "app.tar"], said].concat());
        verify.env("AIRLOCK_TRUST", "none.toml").env("AIRLOCK_KEY", "none.pub");
        assert!(verify.output().expect("airlock").status.success(), "{said:?}");
    }
    policy(&world, "trust.toml", 1, "bundles = [\"other-*\", \"ap\"]", &["airlock"]);
    verify().exits(2).says("not trusted here, only other-*, ap");
    policy(&world, "trust.toml", 1, "minimum-serial = { app = 2 }", &["airlock"]);
    verify().exits(2).says("its serial is 1, and 2 at least is wanted");
    policy(&world, "trust.toml", 1, "minimum-serial = { app = 1, other = 9 }", &["airlock"]);
    verify().exits(0);
    let shown = world.run(&["trust", "show", "trust.toml"]).exits(0).stdout;
    assert!(shown.ends_with("bundle app: serial 1 or newer\nbundle other: serial 9 or newer\n"), "{shown}");
    world.run(&["verify", "app.tar", "--trust", "trust.toml", "--key", "airlock.pub"]).exits(1);
    world.write("trust.toml", b"keys = 1");
    verify().exits(1).says("reading trust.toml");
}

#[test]
fn keys_are_rotated_by_a_policy_that_the_old_ones_signed() {
    let world = world();
    policy(&world, "trust.toml", 1, "", &["airlock"]);
    policy(&world, "next.toml", 2, "", &["second"]);
    let before = fs::read(world.path("trust.toml")).expect("the policy");
    let update = || world.run(&["trust", "update", "trust.toml", "next.toml"]);
    update().exits(2).says("is not signed");
    world.run(&["trust", "sign", "next.toml", "--key", "second.key"]).exits(0);
    update().exits(2).says("which is not trusted");
    assert!(fs::read(world.path("trust.toml")).expect("the policy") == before);
    world.run(&["trust", "sign", "next.toml", "--key", "airlock.key"]).exits(0);
    assert!(update().exits(0).stdout.contains("serial 2"));
    world.run(&["verify", "app.tar", "--trust", "trust.toml"]).exits(2).says("which is not trusted");
    world.run(&["build", "--key", "second.key", "--output", "app.tar"]).exits(0);
    world.run(&["verify", "app.tar", "--trust", "trust.toml"]).exits(0);
    update().exits(2);
    let shown = world.run(&["trust", "show", "trust.toml"]).exits(0).stdout;
    assert!(shown.contains("  second\n") && !shown.contains("  airlock\n"), "{shown}");
}

#[test]
fn no_output_replaces_what_the_command_reads() {
    let world = World::with_bundle();
    std::os::unix::fs::symlink("airlock.key", world.path("link.key")).expect("a link");
    fs::hard_link(world.path("airlock.key"), world.path("same.key")).expect("a hard link");
    let before = |name: &str| fs::read(world.path(name)).expect(name);
    let files = ["airlock.key", "images.lock", "bundle.toml", "same.key"].map(|name| (name, before(name)));
    for (name, _) in &files {
        let build = ["build", "--key", "airlock.key", "--output", name, "--force"];
        world.run(&build).exits(1).says("which this command reads").says("hint: ");
    }
    for name in ["airlock.key", "app.tar", "link.key"] {
        let sign = ["sign", "app.tar", "--key", "airlock.key", "--output", name];
        world.run(&sign).exits(1).says("which this command reads").says("hint: ");
    }
    for (name, content) in files {
        assert_eq!(before(name), content, "{name}");
    }
}
