//! Verbs that are asked to stop: one sentence, the signal's exit code, and nothing left behind.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::faults::{stop, wait_until};
use crate::parts::signal;
use crate::world::{Run, World, names};

const SIGNALS: [(&str, i32); 3] = [("INT", 130), ("TERM", 143), ("HUP", 129)];

/// The bundle of format 1 that is kept for ever: it has a chart.
fn world_with_chart() -> World {
    let world = World::new();
    for name in ["v1.tar", "v1.pub"] {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
        world.write(name, &fs::read(data).expect(name));
    }
    world
}

/// Starts airlock with a pipe for stdin that nobody ends.
fn start(world: &World, args: &[&str]) -> Child {
    let mut command = world.command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("TMPDIR", world.path("tmp")).spawn().expect("airlock")
}

/// Waits until a process hears signals.
fn hears(child: &Child) {
    let status = format!("/proc/{}/status", child.id());
    wait_until("it listens for SIGTERM", || {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        caught
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask >> 14 & 1 == 1)
    });
}

#[test]
fn a_stopped_verb_says_so_in_one_sentence() {
    let world = World::with_bundle();
    fs::create_dir(world.path("tmp")).expect("a directory");
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = silent.local_addr().expect("its address").to_string();
    let site = ["--registry", "site.example"];
    let bundle = ["app.tar", "--key", "airlock.pub"];
    let push = [&["push"], &bundle[..], &["--registry", &host]].concat();
    let slow = ["sign", "app.tar", "--signer", "exec sleep 30", "--public-key", "airlock.pub"];
    for (args, said) in [
        (&[&["rewrite"], &site[..]].concat()[..], "rewriting: stopped by SIG"),
        (&["discover", "-", "--offline"], "looking for references: stopped by SIG"),
        (&push, "pushing: stopped by SIG"),
        (&slow, "signing: stopped by SIG"),
    ] {
        for (name, code) in SIGNALS {
            let mut child = start(&world, args);
            // Waiting for the process would close it.
            let _stdin = child.stdin.take();
            hears(&child);
            // As far as it gets.
            std::thread::sleep(Duration::from_millis(300));
            let run = stop(child, name).exits(code).says(&format!("{said}{name}; "));
            assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
            assert_eq!(run.stdout, "");
            assert_eq!(names(&world.path("tmp")), [""; 0]);
        }
    }
    let left = succeeds_or_nothing("pgrep", &["-f", "^sleep 30$"]);
    assert_eq!(left, "", "the signer's command is ended");
}

/// Returns the output of a program, whether it finds something or not.
fn succeeds_or_nothing(program: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(program).args(args).output().expect(program);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_verify_that_is_stopped_ends_soon() {
    let world = World::new();
    let file = fs::File::create(world.path("large")).expect("a file");
    file.set_len(1 << 30).expect("a length");
    world.image("redis", &["linux/amd64"], b"redis");
    let digest = succeeds_or_nothing("sha256sum", &[&world.path("large").display().to_string()]);
    world.spec(&format!(
        "[[image]]\nref = \"redis:8\"\nfrom = \"oci:redis\"\n[[file]]\nname = \"large\"\npath = \"large\"\nsha256 = \"{}\"\n",
        digest.split(' ').next().expect("a digest")
    ));
    world.keys("airlock");
    world.run(&["lock"]).exits(0);
    world.build("app.tar");
    for (name, code) in SIGNALS {
        let child = start(&world, &["verify", "app.tar", "--key", "airlock.pub"]);
        hears(&child);
        std::thread::sleep(Duration::from_millis(100));
        let started = Instant::now();
        let run = stop(child, name)
            .exits(code)
            .says(&format!("verifying: stopped by SIG{name}; the bundle is not verified"));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn a_stopped_install_leaves_no_temporary_file() {
    let world = world_with_chart();
    fs::create_dir(world.path("tmp")).expect("a directory");
    // Says its version, and then takes its time.
    world.write("helm", b"#!/bin/sh\n[ $1 = version ] && echo v4.2.4 && exit\nexec sleep 31\n");
    fs::set_permissions(world.path("helm"), fs::Permissions::from_mode(0o755)).expect("a program");
    let common = ["v1.tar", "--key", "v1.pub", "--registry", "site.example", "--helm", "./helm"];
    for (verb, more, said) in [
        ("render", &[][..], "rendering: stopped by SIG"),
        ("install", &["--dry-run"], "rendering: stopped by SIG"),
    ] {
        for (name, code) in SIGNALS {
            let child = start(&world, &[&[verb], &common[..], more].concat());
            wait_until("helm renders", || !succeeds_or_nothing("pgrep", &["-f", "^sleep 31$"]).is_empty());
            assert_eq!(names(&world.path("tmp")).len(), 1, "what helm is given");
            let run = stop(child, name).exits(code).says(&format!("{said}{name}; "));
            assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
            assert_eq!(names(&world.path("tmp")), [""; 0]);
            wait_until("helm has ended", || succeeds_or_nothing("pgrep", &["-f", "^sleep 31$"]).is_empty());
        }
    }
}

#[test]
fn an_ignored_signal_stays_ignored() {
    let world = World::new();
    let program = env!("CARGO_BIN_EXE_airlock");
    let script = format!("trap '' HUP; exec {program} discover - --offline");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]).current_dir(world.path("")).env("XDG_CACHE_HOME", world.path("cache"));
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh");
    let _stdin = child.stdin.take();
    hears(&child);
    signal(&child, "HUP");
    std::thread::sleep(Duration::from_millis(300));
    stop(child, "TERM").exits(143).says("stopped by SIGTERM");
}

#[test]
fn a_registry_ends_well_and_at_once_if_told_twice() {
    let world = World::with_bundle();
    let serve = ["serve", "app.tar", "--key", "airlock.pub", "--listen", "127.0.0.1:0", "--json"];
    for twice in [false, true] {
        let mut child = start(&world, &serve);
        let stdout = child.stdout.take().expect("its stdout");
        let said =
            serde_json::Deserializer::from_reader(stdout.take(4096)).into_iter::<serde_json::Value>().next();
        let said = said.expect("an address").expect("JSON");
        let mut client =
            TcpStream::connect(said["address"].as_str().expect("an address")).expect("connected");
        if twice {
            // A request that does not end.
            client.write_all(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n").expect("sent");
            std::thread::sleep(Duration::from_millis(200));
            signal(&child, "INT");
            std::thread::sleep(Duration::from_millis(300));
            assert!(child.try_wait().expect("its state").is_none(), "it waits for the request");
            stop(child, "INT")
                .exits(130)
                .says("serving: stopped by SIGINT; requests that had not ended were cut off");
        } else {
            drop(client);
            let run: Run =
                stop(child, "TERM").exits(0).says("stopped by SIGTERM; requests that run are finished first");
            assert!(!run.stderr.contains("error"), "{run:?}");
        }
    }
}
