//! What the command line says, and how: JSON wherever it was asked for, and nothing that steers a terminal.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use serde_json::Value;

use crate::world::World;

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
