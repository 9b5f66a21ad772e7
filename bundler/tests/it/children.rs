//! Programs that airlock runs: what they get of its environment, and of the files that they read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use crate::liar::{Liar, answer};
use crate::world::{Run, World};

/// A program that writes its environment and arguments to `NAME.env` and `NAME.args`, and then runs `script`.
fn program(world: &World, name: &str, script: &str) {
    let dir = world.path("");
    let dir = dir.display();
    let text = format!("#!/bin/sh\nenv >> {dir}/{name}.env\necho \"$@\" >> {dir}/{name}.args\n{script}\n");
    world.write(&format!("bin/{name}"), text.as_bytes());
    fs::set_permissions(world.path("bin").join(name), fs::Permissions::from_mode(0o755)).expect("a mode");
}

/// A stand-in for helm that renders one object: helm itself tells nobody its environment.
fn helm(world: &World) {
    let object = "apiVersion: v1\\nkind: ConfigMap\\nmetadata: {name: a}\\n";
    program(world, "helm", &format!("if [ \"$1\" = version ]; then echo v4.2.4; else printf '{object}'; fi"));
    world.write("chart/Chart.yaml", b"apiVersion: v2\nname: a\nversion: 1.0.0\n");
}

fn run(world: &World, args: &[&str]) -> Run {
    let path = format!("{}:{}", world.path("bin").display(), std::env::var("PATH").expect("PATH"));
    let mut command = world.command(args);
    command.env("PATH", path).env("COSIGN_PASSWORD", "cosign's secret").env("KEPT", "this");
    command.output().expect("airlock").into()
}

fn no_password(world: &World, name: &str) -> String {
    let environment = fs::read_to_string(world.path(&format!("{name}.env"))).expect("it ran");
    assert!(environment.contains("KEPT=this"), "{environment}");
    assert!(!environment.contains("AIRLOCK_PASSWORD"), "{environment}");
    environment
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_get_no_password() {
    let world = World::new();
    helm(&world);
    world.keys("airlock");
    world.spec("[[chart]]\npath = \"chart\"\n");
    run(&world, &["lock"]).exits(0);
    assert!(!no_password(&world, "helm").contains("COSIGN_PASSWORD"));

    // A signer may be cosign.
    program(&world, "signer", "exit 1");
    let signer = ["--signer", "signer", "--public-key", "airlock.pub"];
    run(&world, &[&["build", "--output", "a.tar"], &signer[..]].concat()).exits(1);
    assert!(no_password(&world, "signer").contains("COSIGN_PASSWORD"));

    let registry = Liar::start(|_| Some(answer(401, &[("www-authenticate", "Basic realm=x")], ""))).await;
    program(&world, "docker-credential-spy", "echo credentials not found; exit 1");
    world.write("docker/config.json", br#"{"credsStore": "spy"}"#);
    world.spec(&format!("[[image]]\nref = \"{}/a:1\"\n", registry.host));
    run(&world, &["lock"]).exits(3).says("no login for");
    assert!(!no_password(&world, "docker-credential-spy").contains("COSIGN_PASSWORD"));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_credential_helper_matters_only_for_login() {
    let world = World::new();
    world.write("docker/config.json", br#"{"credsStore": "nowhere-to-be-found"}"#);
    let registry = Liar::start(|_| Some(answer(401, &[("www-authenticate", "Basic realm=x")], ""))).await;
    world.spec(&format!("[[image]]\nref = \"{}/a:1\"\n", registry.host));
    let refused = world.run(&["lock"]).exits(3);
    refused.says("hint: the login to").says("docker-credential-nowhere-to-be-found");
    // A token server that gives anybody a token.
    let token = Liar::start(|_| Some(answer(200, &[], r#"{"token": "", "access_token": "T"}"#))).await;
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"", token.host);
    let public = Liar::start(move |asked| {
        Some(match asked.header("authorization") {
            Some("Bearer T") => answer(404, &[], ""),
            _ => answer(401, &[("www-authenticate", &challenge)], ""),
        })
    })
    .await;
    world.spec(&format!("[[image]]\nref = \"{}/a:1\"\n", public.host));
    let run = world.run(&["lock"]).exits(3).says("is asked without a login");
    assert!(run.stderr.contains("404"), "asked with the token: {}", run.stderr);
}

#[test]
fn values_files_unfit_for_helm_are_refused_first() {
    let world = World::new();
    helm(&world);
    let mkfifo = std::process::Command::new("mkfifo").arg(world.path("pipe")).status();
    assert!(mkfifo.expect("mkfifo").success());
    world.write("large.yaml", &vec![b'#'; 5 << 20]);
    world.write("secret", b"a: b\n");
    world.write("below/chart/Chart.yaml", b"apiVersion: v2\nname: a\nversion: 1.0.0\n");
    std::os::unix::fs::symlink("../secret", world.path("below/link.yaml")).expect("a link");
    let head =
        "name = \"app\"\nversion = \"1.0.0\"\nplatforms = [\"linux/amd64\"]\n[[chart]]\npath = \"chart\"\n";
    let lock = |values: &str| {
        world.write("below/bundle.toml", format!("{head}values = [\"{values}\"]\n").as_bytes());
        run(&world, &["lock", "--file", "below/bundle.toml", "--lock-file", "below/images.lock"])
    };
    for (values, says) in [
        ("/dev/zero", "a device"),
        ("../pipe", "a named pipe"),
        ("..", "a directory"),
        ("../large.yaml", "larger than"),
        ("https://127.0.0.1:1/values.yaml", "No such file"),
        ("link.yaml", "it is a link to"),
    ] {
        let started = std::time::Instant::now();
        lock(values).exits(1).says(says);
        assert!(started.elapsed() < Duration::from_secs(10), "{values}");
    }
    let ran = fs::read_to_string(world.path("helm.args")).expect("it ran");
    assert!(!ran.lines().any(|line| line.starts_with("template ")), "{ran}");
    lock("../secret").exits(0);
}

#[test]
fn what_helm_reads_is_for_this_user_only() {
    let world = World::new();
    helm(&world);
    let modes = world.path("modes");
    let modes = format!("[ -z \"$TMPDIR\" ] || ls -ld \"$TMPDIR\"/airlock-* >> {} || true", modes.display());
    let script = fs::read_to_string(world.path("bin/helm")).expect("the script");
    world.write("bin/helm", format!("{script}{modes}\n").as_bytes());
    world.keys("airlock");
    world.spec("[[chart]]\npath = \"chart\"\n");
    fs::create_dir(world.path("tmp")).expect("made");
    run(&world, &["lock"]).exits(0);
    run(&world, &["build", "--key", "airlock.key", "--output", "app.tar"]).exits(0);
    let mut render =
        world.command(&["render", "app.tar", "--key", "airlock.pub", "--registry", "r.example", "--helm"]);
    render.arg(world.path("bin/helm")).env("TMPDIR", world.path("tmp"));
    render.output().expect("airlock");
    let modes = fs::read_to_string(world.path("modes")).expect("helm ran");
    let directories = modes.lines().filter(|line| line.starts_with('d')).collect::<Vec<_>>();
    assert!(
        !directories.is_empty() && directories.iter().all(|line| line.starts_with("drwx------")),
        "{modes}"
    );
}
