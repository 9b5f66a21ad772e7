//! Signatures and keys, exchanged with cosign and openssl.

use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use serde_json::Value;

use super::{path, shared, tool, untar};
use crate::world::{PASSWORD, Run, World};

/// What a person at a site checks, with a key of theirs.
fn cosign_verifies(dir: &Path, key: &str) -> Run {
    let bundle = ["--bundle", "airlock.sigstore.json", "--insecure-ignore-tlog", "airlock.json"];
    tool(dir, "cosign", &[&["verify-blob", "--key", key], &bundle[..]].concat())
}

fn cosign(dir: &Path, args: &[&str]) -> Run {
    let mut command = Command::new("cosign");
    command.current_dir(dir).args(args).env("COSIGN_PASSWORD", PASSWORD);
    command.output().expect("cosign").into()
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn cosign_and_openssl_accept_the_signature_and_no_other_key_or_content() {
    let taken = untar(shared(), "app.tar", &["airlock.json", "airlock.sigstore.json"]);
    let dir = taken.path();
    let key = path(shared(), "airlock.pub");
    cosign_verifies(dir, &key).exits(0).says("Verified OK");

    let entry = fs::read(dir.join("airlock.sigstore.json")).expect("the signature entry");
    let entry: Value = serde_json::from_slice(&entry).expect("JSON");
    let signature = entry["messageSignature"]["signature"].as_str().expect("a signature");
    let raw = base64::engine::general_purpose::STANDARD.decode(signature).expect("base64");
    fs::write(dir.join("raw"), raw).expect("written");
    let openssl = |key: &str| {
        tool(dir, "openssl", &["dgst", "-sha256", "-verify", key, "-signature", "raw", "airlock.json"])
    };
    assert_eq!(openssl(&key).exits(0).stdout, "Verified OK\n");

    let other = World::new();
    other.keys("other");
    let other = path(&other, "other.pub");
    assert_ne!(cosign_verifies(dir, &other).code, 0);
    openssl(&other).exits(1);

    let mut content = fs::read(dir.join("airlock.json")).expect("the manifest");
    let last = content.len() - 1;
    content[last] ^= 1;
    fs::write(dir.join("airlock.json"), content).expect("written");
    assert_ne!(cosign_verifies(dir, &key).code, 0);
    openssl(&key).exits(1);
}

/// A world with a lock of one image, and no keys.
fn one_image() -> World {
    let world = World::new();
    world.image("one", &["linux/amd64"], b"x");
    world.spec("[[image]]\nref = \"one:1\"\nfrom = \"oci:one\"\n");
    world.run(&["lock"]).exits(0);
    world
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_key_pair_of_cosigns_signs_a_bundle() {
    let world = one_image();
    cosign(&world.path(""), &["generate-key-pair"]).exits(0);
    let mut build = world.command(&["build", "--key", "cosign.key", "--output", "app.tar"]);
    build.env_remove("AIRLOCK_PASSWORD").env("COSIGN_PASSWORD", PASSWORD);
    Run::from(build.output().expect("airlock")).exits(0);
    world.run(&["verify", "app.tar", "--key", "cosign.pub"]).exits(0);
    let taken = untar(&world, "app.tar", &["airlock.json", "airlock.sigstore.json"]);
    cosign_verifies(taken.path(), &path(&world, "cosign.pub")).exits(0).says("Verified OK");
    world.keys("airlock");
    world.run(&["verify", "app.tar", "--key", "airlock.pub"]).exits(2);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn cosign_signs_with_a_key_pair_of_airlocks() {
    let world = World::new();
    world.keys("airlock");
    world.write("notes.txt", b"read me\n");
    let dir = world.path("");
    // Without a transparency log: there is none on this side of the gap.
    let flags = ["--yes", "--tlog-upload=false", "--use-signing-config=false", "--bundle", "b.json"];
    let sign = ["sign-blob", "--key", "airlock.key"];
    cosign(&dir, &[&sign[..], &flags, &["notes.txt"]].concat()).exits(0);
    let verify = ["verify-blob", "--insecure-ignore-tlog", "--bundle", "b.json", "notes.txt", "--key"];
    tool(&dir, "cosign", &[&verify[..], &["airlock.pub"]].concat()).exits(0).says("Verified OK");
    world.keys("other");
    assert_ne!(tool(&dir, "cosign", &[&verify[..], &["other.pub"]].concat()).code, 0);
    // The key that cosign derives from the private file is the one that we wrote beside it.
    let public = cosign(&dir, &["public-key", "--key", "airlock.key"]).exits(0).stdout;
    assert_eq!(public, fs::read_to_string(world.path("airlock.pub")).expect("the public key"));
}

/// A key of openssl's, in both forms, and its public half.
fn openssl_key(dir: &Path) {
    tool(dir, "openssl", &["ecparam", "-name", "prime256v1", "-genkey", "-out", "sec1.pem"]).exits(0);
    tool(dir, "openssl", &["pkcs8", "-topk8", "-nocrypt", "-in", "sec1.pem", "-out", "pkcs8.pem"]).exits(0);
    tool(dir, "openssl", &["ec", "-in", "sec1.pem", "-pubout", "-out", "openssl.pub"]).exits(0);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn keys_of_openssls_sign_and_so_does_openssl() {
    let world = one_image();
    openssl_key(&world.path(""));
    let verify = || world.run(&["verify", "app.tar", "--key", "openssl.pub"]).exits(0);
    for key in ["sec1.pem", "pkcs8.pem"] {
        world.run(&["build", "--key", key, "--output", "app.tar"]).exits(0);
        verify();
    }
    let signer = "openssl dgst -sha256 -sign sec1.pem";
    let args = ["build", "--signer", signer, "--public-key", "openssl.pub", "--output", "app.tar"];
    world.run(&args).exits(0);
    verify();
    let locked = ["pkcs8", "-topk8", "-passout", "pass:x", "-in", "sec1.pem", "-out", "locked.pem"];
    tool(&world.path(""), "openssl", &locked).exits(0);
    world
        .run(&["build", "--key", "locked.pem", "--output", "no.tar"])
        .exits(1)
        .says("hint: have openssl sign: --signer");
    // Of another key than the one that is named.
    world.keys("airlock");
    let args = ["build", "--signer", signer, "--public-key", "airlock.pub", "--output", "no.tar"];
    world.run(&args).exits(2).says("it does not hold");
    assert!(!world.path("no.tar").exists());
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn cosign_adds_a_second_signature() {
    let world = World::with_bundle();
    let dir = world.path("");
    cosign(&dir, &["generate-key-pair"]).exits(0);
    let both =
        ["verify", "app.tar", "--key", "airlock.pub", "--key", "cosign.pub", "--require-signatures", "2"];
    world.run(&both).exits(2).says("1 trusted keys have signed it, and 2 must have");
    tool(&dir, "tar", &["xf", "app.tar", "airlock.json"]).exits(0);
    let sign =
        ["sign-blob", "--key", "cosign.key", "--yes", "--tlog-upload=false", "--use-signing-config=false"];
    let output = ["--new-bundle-format=false", "--output-signature", "second.sig", "airlock.json"];
    cosign(&dir, &[&sign[..], &output].concat()).exits(0);
    world.run(&["sign", "app.tar", "--signature", "second.sig", "--public-key", "cosign.pub"]).exits(0);
    let json = world.run(&[&both[..], &["--json"]].concat()).exits(0).json();
    assert_eq!(json["signers"].as_array().map(Vec::len), Some(2), "{json}");
    // What stands at the tail is a bundle of cosign's, as the first one is.
    let listed = tool(&dir, "tar", &["tf", "app.tar"]).exits(0).stdout;
    let further: Vec<_> = listed.lines().filter(|line| line.starts_with("signatures/")).collect();
    assert_eq!(further.len(), 1, "{listed}");
    tool(&dir, "tar", &["xf", "app.tar", further[0]]).exits(0);
    let verify = [
        "verify-blob",
        "--key",
        "cosign.pub",
        "--bundle",
        further[0],
        "--insecure-ignore-tlog",
        "airlock.json",
    ];
    tool(&dir, "cosign", &verify).exits(0).says("Verified OK");
}

/// Flags of `cosign sign-blob` without a transparency log.
const OFFLINE: [&str; 4] = ["sign-blob", "--yes", "--tlog-upload=false", "--use-signing-config=false"];

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_sigstore_bundle_of_cosigns_signs() {
    let world = World::with_bundle();
    let dir = world.path("");
    cosign(&dir, &["generate-key-pair"]).exits(0);
    tool(&dir, "tar", &["xf", "app.tar", "airlock.json"]).exits(0);
    let sign = ["--key", "cosign.key", "--bundle"];
    cosign(&dir, &[&OFFLINE[..], &sign, &["second.json", "airlock.json"]].concat()).exits(0);
    cosign(&dir, &[&OFFLINE[..], &sign, &["other.json", "bundle.toml"]].concat()).exits(0);
    let old = ["--new-bundle-format=false"];
    cosign(&dir, &[&OFFLINE[..], &old, &sign, &["old.json", "airlock.json"]].concat()).exits(0);
    let kind = fs::read_to_string(world.path("second.json")).expect("a bundle");
    assert!(kind.contains("application/vnd.dev.sigstore.bundle.v0.3+json"), "{kind}");

    let both =
        ["verify", "app.tar", "--key", "airlock.pub", "--key", "cosign.pub", "--require-signatures", "2"];
    let refused = world.run(&both).exits(2).says("1 trusted keys have signed it, and 2 must have");
    refused.says("hint: get a further signature, 1 in all, of: ");
    for signature in ["second.json", "old.json"] {
        world.run(&[&both[..], &["--signature", signature]].concat()).exits(0);
    }
    world.run(&[&both[..], &["--signature", "other.json"]].concat()).exits(2).says("it is for another file");
    let add = |signature: &str, key: &str| {
        world.run(&["sign", "app.tar", "--signature", signature, "--public-key", key])
    };
    add("other.json", "cosign.pub").exits(2).says("it is for another file");
    add("second.json", "airlock.pub").exits(2).says("it does not hold");
    add("second.json", "cosign.pub").exits(0);
    world.run(&both).exits(0);

    // As a command's output, and as `build` takes it.
    let signer = format!("{} --key cosign.key --bundle /dev/stdout - 2>/dev/null", OFFLINE.join(" "));
    let args = ["build", "--signer", &format!("cosign {signer} | tail -n 1"), "--public-key", "cosign.pub"];
    let mut build = world.command(&[&args[..], &["--output", "two.tar"]].concat());
    Run::from(build.env("COSIGN_PASSWORD", PASSWORD).output().expect("airlock")).exits(0);
    world.run(&["verify", "two.tar", "--key", "cosign.pub"]).exits(0);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_key_of_cosigns_with_an_empty_password_is_named() {
    let world = one_image();
    let mut command = Command::new("cosign");
    command.current_dir(world.path("")).arg("generate-key-pair").env("COSIGN_PASSWORD", "");
    Run::from(command.output().expect("cosign")).exits(0);
    let mut build = world.command(&["build", "--key", "cosign.key", "--output", "app.tar"]);
    build.env_remove("AIRLOCK_PASSWORD").env("COSIGN_PASSWORD", "");
    Run::from(build.output().expect("airlock")).exits(0).says("cosign.key has an empty password");
    world.run(&["verify", "app.tar", "--key", "cosign.pub"]).exits(0);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_key_on_one_line_or_in_long_ones_is_read() {
    let world = one_image();
    openssl_key(&world.path(""));
    for width in ["1", "76", "9999"] {
        let fold = format!(
            "for f in pkcs8.pem openssl.pub; do (head -n1 $f; sed '1d;$d' $f | tr -d '\\n' | fold -w {width}; echo; tail -n1 $f) > other.$f; done"
        );
        tool(&world.path(""), "sh", &["-c", &fold]).exits(0);
        tool(&world.path(""), "openssl", &["pkey", "-in", "other.pkcs8.pem", "-noout"]).exits(0);
        world.run(&["build", "--key", "other.pkcs8.pem", "--output", "app.tar"]).exits(0);
        world.run(&["verify", "app.tar", "--key", "other.openssl.pub"]).exits(0);
        fs::remove_file(world.path("app.tar")).expect("removed");
    }
}
