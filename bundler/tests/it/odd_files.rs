//! Pipes, devices, sockets and directories in the place of files that a person names, or that a verb looks for: no verb
//! waits for them, and the error says what they are.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::world::{Run, World};

/// Longest time that a verb may take for its refusal.
const PATIENCE: Duration = Duration::from_secs(10);

fn pipe(path: &Path) {
    let _ = fs::remove_file(path);
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo");
    assert!(made.success());
}

/// Runs a verb, and ends it when it takes too long.
fn timed(world: &World, args: &[&str]) -> Run {
    let started = Instant::now();
    let mut child =
        world.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("airlock");
    while child.try_wait().expect("waited").is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().expect("killed");
            child.wait().expect("ended");
            unreachable!("{args:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("its output").into()
}

#[test]
fn no_verb_waits_for_a_pipe() {
    let world = World::with_bundle();
    pipe(&world.path("pipe"));
    let pushed = ["push", "app.tar", "127.0.0.1:1", "--key", "airlock.pub"];
    let cases: [&[&str]; 17] = [
        &["verify", "pipe", "--key", "airlock.pub"],
        &["verify", "app.tar", "--key", "pipe"],
        &["verify", "app.tar", "--trust", "pipe"],
        &["verify", "app.tar", "--key", "airlock.pub", "--signature", "pipe"],
        &["inspect", "pipe"],
        &["inspect", "pipe", "--key", "airlock.pub"],
        &["sign", "pipe", "--key", "airlock.key"],
        &["sign", "app.tar", "--key", "pipe"],
        &["sign", "app.tar", "--key", "airlock.key", "--password-file", "pipe"],
        &["sign", "app.tar", "--signature", "pipe", "--public-key", "airlock.pub"],
        &["push", "pipe", "127.0.0.1:1", "--key", "airlock.pub"],
        &[&pushed[..], &["--ca-file", "pipe"]].concat(),
        &[&pushed[..], &["--cert-file", "pipe", "--key-file", "airlock.key"]].concat(),
        &["serve", "pipe", "--key", "airlock.pub", "--listen", "127.0.0.1:0"],
        &["serve", "--store", "store", "--htpasswd", "pipe", "--listen", "127.0.0.1:0"],
        &["lock", "--file", "pipe"],
        &["build", "--lock-file", "pipe", "--unsigned", "--output", "other.tar"],
    ];
    for args in cases {
        let run = timed(&world, args);
        assert_ne!(run.code, 0, "{args:?}");
        assert!(run.stderr.contains("pipe"), "{args:?}: {}", run.stderr);
    }
}

#[test]
fn no_verb_waits_for_a_pipe_that_it_looks_for() {
    let world = World::with_bundle();
    for name in ["other.tar.partial", "other.tar.partial.journal"] {
        pipe(&world.path(name));
        let run = timed(&world, &["build", "--unsigned", "--output", "other.tar"]);
        assert!(run.code != 0 || world.path("other.tar").is_file(), "{}", run.stderr);
        let _ = fs::remove_file(world.path(name));
        let _ = fs::remove_file(world.path("other.tar"));
    }
    for (name, args) in [
        ("redis/index.json", &["lock", "--update"][..]),
        ("redis/oci-layout", &["lock", "--update"]),
        ("notes.txt", &["build", "--unsigned", "--output", "other.tar"]),
        ("bundle.toml", &["lock"]),
        ("images.lock", &["lock"]),
        ("images.lock", &["build", "--unsigned", "--output", "other.tar"]),
    ] {
        let copy = World::with_bundle();
        pipe(&copy.path(name));
        timed(&copy, args).exits(1).says(name).says("a named pipe");
    }
}

#[test]
fn directories_devices_and_sockets_are_named() {
    let world = World::with_bundle();
    fs::create_dir(world.path("directory")).expect("made");
    let _listener = std::os::unix::net::UnixListener::bind(world.path("socket")).expect("a socket");
    for (name, what) in [
        ("directory", "a directory"),
        ("/dev/zero", "a device"),
        ("socket", "a socket"),
        ("/dev/null", "a device"),
    ] {
        for args in [
            ["verify", name, "--key", "airlock.pub"],
            ["verify", "app.tar", "--key", name],
            ["sign", "app.tar", "--key", name],
        ] {
            timed(&world, &args).exits(1).says(&format!("not a regular file, but {what}"));
        }
    }
}

#[test]
fn an_unreadable_key_is_told_from_a_missing_one() {
    let world = World::with_bundle();
    timed(&world, &["sign", "app.tar", "--key", "no.key"])
        .exits(1)
        .says("No such file")
        .says("keys generate");
    let run = timed(&world, &["verify", "app.tar", "--key", "no.pub"]).exits(1).says("hint: check the path");
    assert!(!run.stderr.contains("keys generate"), "{}", run.stderr);
    let run = timed(&world, &["sign", "app.tar", "--key", "airlock.pub"]).exits(1);
    assert!(run.stderr.contains("PUBLIC KEY") && !run.stderr.contains("make a key pair"), "{}", run.stderr);
}

#[test]
fn an_empty_password_makes_no_key() {
    let world = World::new();
    let generate = |password: &str| {
        let mut command = world.command(&["keys", "generate"]);
        Run::from(command.env("AIRLOCK_PASSWORD", password).output().expect("airlock"))
    };
    generate("").exits(1).says("it is empty").says("hint: give one with --password-file");
    world.write("empty", b"\n");
    world.run(&["keys", "generate", "--password-file", "empty"]).exits(1).says("it is empty");
    assert!(!world.path("airlock.key").exists() && !world.path("airlock.pub").exists());
    generate(" ").exits(0);
}
