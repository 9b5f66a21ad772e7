//! What is written for nodes and for the cluster, and refused, without real parts; with them, it is in `interop/mirrors.rs`
//! and `cluster/`.

use std::fs;
use std::io::Read as _;
use std::process::Stdio;

use serde_json::Value;

use crate::parts::Running;
use crate::world::World;

const BUNDLE: [&str; 3] = ["app.tar", "--key", "airlock.pub"];

fn with<'a>(verb: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [verb, &BUNDLE, rest].concat()
}

#[test]
fn files_are_printed_or_written_and_those_of_others_stay() {
    let world = World::with_bundle();
    let site = ["--registry", "site:5000/a"];
    let printed = world.run(&with(&["mirrors", "containerd"], &site)).exits(0).says("config_path");
    for path in ["/etc/containerd/certs.d/docker.io/hosts.toml", "/etc/containerd/certs.d/quay.io/hosts.toml"]
    {
        assert!(printed.stdout.contains(&format!("==> {path} <==\n")), "{}", printed.stdout);
    }
    let to = [&site[..], &["--output-dir", "node"]].concat();
    let written = world.run(&with(&["mirrors", "containerd"], &to)).exits(0).stdout;
    assert_eq!(written.matches("created ").count(), 2, "{written}");
    let again = world.run(&with(&["mirrors", "containerd"], &to)).exits(0).stdout;
    assert_eq!(again.matches("unchanged ").count(), 2, "{again}");

    let hosts = world.path("node/etc/containerd/certs.d/docker.io/hosts.toml");
    let ours = fs::read_to_string(&hosts).expect("hosts.toml");
    fs::write(&hosts, "server = \"https://theirs\"\n").expect("written");
    world.run(&with(&["mirrors", "containerd"], &to)).exits(1).says("are not airlock's").says("--force");
    world.run(&with(&["mirrors", "containerd"], &[&to[..], &["--force"]].concat())).exits(0);
    assert_eq!(fs::read_to_string(&hosts).expect("hosts.toml"), ours);

    let json = world.run(&with(&["mirrors", "k3s", "--json"], &site)).exits(0).json();
    assert_eq!(json["runtime"], "k3s");
    assert_eq!(json["files"][1]["path"], "etc/rancher/k3s/registries.yaml");
}

#[test]
fn what_makes_no_mirror_is_refused_with_what_to_do() {
    let world = World::with_bundle();
    world.write("not-ca.pem", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    world.write("config.toml", b"version = 2\n");
    world.write("file", b"");
    for (verb, rest, said) in [
        ("docker", &["--registry", "site:5000"][..], "below docker.io"),
        ("docker", &["--registry", "site:5000/a", "--strip-host"], "below a"),
        ("containerd", &["--registry", "site"], "needs a dot or a port"),
        ("containerd", &["--registry", "https://site:5000"], "without a scheme"),
        ("containerd", &["--registry", "fd00::1"], "stands in brackets"),
        ("containerd", &["--registry", "site:5000", "--ca-file", "missing.pem"], "missing.pem"),
        ("containerd", &["--registry", "site:5000", "--ca-file", "not-ca.pem"], "no certificate in it"),
        ("containerd", &["--registry", "site:5000", "--output-dir", "file"], "Not a directory"),
        ("containerd", &["--registry", "site:5000", "--force"], "--output-dir"),
        ("containerd", &["--registry", "site:5000", "--check-config", "config.toml"], "add config_path"),
        ("crio", &["--registry", "site:5000", "--check-config", "config.toml"], "containerd's configuration"),
    ] {
        world.run(&with(&["mirrors", verb], rest)).exits(1).says(said);
    }
    // Nothing that is not verified.
    world.keys("other");
    let stranger = ["mirrors", "containerd", "app.tar", "--key", "other.pub", "--registry", "site:5000"];
    world.run(&stranger).exits(2).says("not trusted");
}

#[test]
fn policies_are_the_same_bytes_and_refused_where_the_cluster_has_none() {
    let world = World::with_bundle();
    let site = ["--registry", "site:5000/a", "--kube-version", "1.34"];
    let first = world.run(&with(&["policy"], &site)).exits(0).says("feature-gates");
    assert!(
        first
            .stdout
            .contains("docker.io..library..redis.-8\": \"site:5000/a/docker.io/library/redis:8@sha256:")
    );
    assert!(first.stdout.contains("validationActions: [Audit, Warn]"), "{}", first.stdout);
    assert_eq!(world.run(&with(&["policy"], &site)).exits(0).stdout, first.stdout);
    let json = world.run(&with(&["policy", "--json", "--enforce"], &site)).exits(0).json();
    assert!(json["manifests"].as_str().is_some_and(|text| text.contains("validationActions: [Deny]")));

    let old = ["--registry", "site:5000", "--kube-version", "1.31"];
    world.run(&with(&["policy"], &old)).exits(4).says("1.31 has no MutatingAdmissionPolicy").says("mirrors");
    let half = world.run(&with(&["policy", "--validate-only"], &old)).exits(0).stdout;
    assert!(!half.contains("Mutating") && !half.contains("ConfigMap"), "{half}");
    for (rest, code, said) in [
        (&["--registry", "site:5000", "--kube-version", "new"][..], 1, "no version"),
        (&["--registry", "site:5000", "--kube-version", "1.34", "--selector", "a b"], 1, "no label"),
        (&["--registry", "site:5000", "--kube-version", "1.34", "--audit", "--enforce"], 1, "cannot be used"),
    ] {
        world.run(&with(&["policy"], rest)).exits(code).says(said);
    }
    let mut command = world.command(&with(&["policy"], &["--registry", "site:5000"]));
    command.env("KUBECONFIG", world.path("no-kubeconfig"));
    let run: crate::world::Run = command.output().expect("airlock").into();
    run.exits(4).says("--kube-version");
}

#[test]
fn a_standing_registry_says_where_it_is_and_whom_to_trust() {
    let world = World::with_bundle();
    let serve = ["serve", "app.tar", "--key", "airlock.pub", "--json", "--listen", "127.0.0.1:0"];
    let tls = ["--tls-self-signed", "tls", "--advertise", "127.0.0.1,localhost:444"];
    let mut fingerprints = vec![];
    for _ in 0..2 {
        let mut child = world
            .command(&[&serve[..], &tls].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("airlock");
        let stdout = child.stdout.take().expect("its stdout");
        let _process = Running(child);
        let said = serde_json::Deserializer::from_reader(stdout.take(4096)).into_iter::<Value>().next();
        let said = said.expect("an address").expect("JSON");
        assert_eq!(said["scheme"], "https");
        assert_eq!(said["advertised"], serde_json::json!([said["address"], "localhost:444"]));
        let url = format!("https://{}/v2/", said["advertised"][0].as_str().expect("an address"));
        let ca = world.path("tls/ca.pem");
        let ca = ca.to_str().expect("a path");
        let curl = ["--silent", "--fail", "--noproxy", "*", "--cacert", ca, &url];
        crate::parts::succeed(std::process::Command::new("curl").args(curl));
        fingerprints.push(said["ca_sha256"].as_str().expect("a digest").to_owned());
    }
    assert_eq!(fingerprints[0], fingerprints[1]);

    for (rest, said) in [
        (&["--advertise", "10.0.0.1"][..], "--listen 0.0.0.0"),
        (&["--advertise", "http://site"], "no HOST"),
        (&["--tls-self-signed", "tls"], "--advertise"),
        (&["--tls-self-signed", "app.tar", "--advertise", "127.0.0.1"], "app.tar"),
        (
            &["--tls-cert", "tls/server.pem", "--tls-key", "tls/server.key", "--advertise", "127.0.0.9"],
            "nodes would refuse it",
        ),
    ] {
        world.run(&[&serve[..], rest].concat()).exits(1).says(said);
    }
}
