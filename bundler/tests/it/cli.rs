//! What the command line says, and how: JSON wherever it was asked for, and nothing that steers a terminal.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use serde_json::Value;

use crate::parts::Certificate;
use crate::world::{Run, World};

/// Old spellings with what they are now, for `app.tar`.
const SPELLINGS: [(&str, &str); 12] = [
    ("push app.tar 127.0.0.1:1", "push app.tar --registry 127.0.0.1:1"),
    ("push --strip-host app.tar 127.0.0.1:1", "push --strip-host app.tar --registry 127.0.0.1:1"),
    (
        "mirrors crio app.tar --registry s.io:5 --plain-http",
        "mirrors crio app.tar --registry s.io:5 --plain-http s.io:5",
    ),
    (
        "mirrors crio --plain-http app.tar --registry s.io:5",
        "mirrors crio app.tar --registry s.io:5 --plain-http s.io:5",
    ),
    (
        "mirrors --plain-http crio app.tar --registry s.io:5",
        "mirrors crio app.tar --registry s.io:5 --plain-http s.io:5",
    ),
    (
        "mirrors crio app.tar --plain-http --registry s.io:5",
        "mirrors crio app.tar --registry s.io:5 --plain-http s.io:5",
    ),
    (
        "mirrors k3s app.tar --registry s.io:5 --ca ca.pem",
        "mirrors k3s app.tar --registry s.io:5 --ca-file ca.pem",
    ),
    (
        "mirrors k3s app.tar --registry s.io:5 --output n",
        "mirrors k3s app.tar --registry s.io:5 --output-dir n",
    ),
    ("mirrors k3s app.tar --registry s.io:5 -o n", "mirrors k3s app.tar --registry s.io:5 --output-dir n"),
    (
        "mirrors containerd app.tar --registry s.io:5 --check c.toml",
        "mirrors containerd app.tar --registry s.io:5 --check-config c.toml",
    ),
    ("uninstall --helm ./helm --all app.tar", "uninstall --helm ./helm --all --bundle app.tar"),
    ("render app.tar --registry s.io:5 --chart no", "render app.tar --registry s.io:5 --release no"),
];

#[test]
fn old_spellings_of_options_still_work() {
    let world = World::with_bundle();
    world.write(
        "c.toml",
        b"[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
    );
    Certificate::signed(&world.path(""));
    world.write("helm", b"#!/bin/sh\necho v3.99.0\n");
    let runnable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(world.path("helm"), runnable).expect("a program");
    let run = |words: &str| {
        let args: Vec<&str> = words.split(' ').chain(["--key", "airlock.pub"]).collect();
        let output = world.command(&args).env("KUBECONFIG", "none").output();
        let _ = std::fs::remove_dir_all(world.path("n"));
        Run::from(output.expect("airlock"))
    };
    for (old, new) in SPELLINGS {
        let (old, new) = (run(old), run(new));
        assert_eq!((old.code, &old.stdout, &old.stderr), (new.code, &new.stdout, &new.stderr));
        assert!(!new.stderr.contains("the command line") && !new.stderr.contains("Usage"), "{}", new.stderr);
    }
    // They are in no help.
    for (verb, old) in
        [("push", "[REGISTRY"), ("mirrors", "--ca "), ("mirrors", "--output "), ("render", "--chart")]
    {
        let help = world.run(&[verb, "--help"]).exits(0).stdout;
        assert!(!help.contains(old), "{help}");
    }
    world.run(&["push", "app.tar"]).exits(1).says("--registry <REGISTRY[/PREFIX]>");
    let twice = ["push", "app.tar", "a.example", "--registry", "b.example", "--key", "airlock.pub"];
    world.run(&twice).exits(1).says("cannot be used with");
}

#[test]
fn an_option_means_one_thing_for_nodes_too() {
    let world = World::with_bundle();
    let crio = |more: &[&str], host: &str| {
        let args = ["mirrors", "crio", "app.tar", "--key", "airlock.pub", "--registry", "s.io:5"];
        let output = world.command(&[&args, more].concat()).env("AIRLOCK_PLAIN_HTTP", host).output();
        Run::from(output.expect("airlock")).exits(0).stdout
    };
    // Only the site's registry counts, wherever it is named.
    for (more, host, is_plain) in [
        (&[][..], "", false),
        (&[], "s.io:5", true),
        (&[], "other:5,s.io:5", true),
        (&["--plain-http", "other:5"], "", false),
        (&["--plain-http", "other:5,s.io:5"], "", true),
    ] {
        assert_eq!(crio(more, host).contains("insecure = true"), is_plain, "{more:?} {host}");
    }
}

/// A file name that is no UTF-8.
fn odd(name: &[u8]) -> OsString {
    OsStr::from_bytes(&[b"odd\xff".as_slice(), name].concat()).into()
}

#[test]
fn paths_that_are_no_text_are_shown_as_far_as_they_are() {
    let world = World::with_bundle();
    let (bundle, lock, key) = (odd(b".tar"), odd(b".lock"), OsStr::new("airlock.key"));
    let run = |args: &[&OsStr]| world.run(&[args, &[OsStr::new("--json")]].concat()).exits(0).json();
    let s = OsStr::new;
    let locked = run(&[s("lock"), s("--lock-file"), &lock]);
    assert_eq!(locked["lock_file"], "odd\u{fffd}.lock");
    let built = run(&[s("build"), s("--lock-file"), &lock, s("--key"), key, s("--output"), &bundle]);
    assert_eq!(built["bundle"], "odd\u{fffd}.tar");
    let trusted = [s("--key"), s("airlock.pub")];
    for verb in ["verify", "inspect"] {
        assert_eq!(run(&[&[s(verb), &bundle], &trusted[..]].concat())["bundle"], "odd\u{fffd}.tar");
    }
    std::fs::create_dir(world.path("").join(odd(b""))).expect("a directory");
    let made = run(&[s("keys"), s("generate"), s("--output-dir"), &odd(b"")]);
    assert_eq!(made["public_key"], "odd\u{fffd}/airlock.pub");
}

#[test]
fn wrong_usage_is_json_too_where_that_is_asked_for() {
    let world = World::new();
    for args in [&["verify", "--json"][..], &["--json", "push"], &["--json", "no-such-verb"]] {
        let run = world.run(args).exits(1);
        let said: Value = serde_json::from_str(&run.stderr).expect(&run.stderr);
        assert_eq!(said["exit_code"], 1);
        assert!(
            said["error"].as_str().is_some_and(|e| e.starts_with("reading the command line: ")),
            "{said}"
        );
        assert!(said["hint"].as_str().is_some_and(|hint| hint.contains("Usage: airlock")), "{said}");
    }
    world.run(&["verify"]).exits(1).says("error: the following required arguments");
    world
        .run(&["verify", "app.tar"])
        .exits(1)
        .says("whose signature counts")
        .says("hint: give the public key");
    let help = world.run(&["--json", "--help"]).exits(0);
    assert!(help.stdout.contains("Usage: airlock"), "{}", help.stdout);
}

#[test]
fn nothing_from_outside_steers_the_terminal() {
    let world = World::with_bundle();
    let steers = |text: &str| text.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\r']);
    world.write("\u{1b}[2J\u{9b}1m\u{202e}.tar", &std::fs::read(world.path("app.tar")).expect("the bundle"));
    for args in [
        &["verify", "\u{1b}[2J\u{9b}1m\u{202e}.tar", "--key", "airlock.pub", "--json"][..],
        &["verify", "\u{1b}[2J\r\u{202e}gone.tar", "--key", "airlock.pub"],
        &["verify", "\u{1b}[2J\r\u{202e}gone.tar", "--key", "airlock.pub", "--json"],
        &["lock", "--file", "\u{9b}2J"],
    ] {
        let run = world.run(args);
        assert!(!steers(&run.stdout) && !steers(&run.stderr), "{run:?}");
    }
}
