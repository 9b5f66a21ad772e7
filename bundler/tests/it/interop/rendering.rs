//! `airlock install` with real helm: manifests rewritten when they are printed.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{HELLO, REDIS, WEB, carried, path, shared};
use crate::world::Run;

const SITE: &str = "site.example:5000/mirror";

/// Images of all containers, wherever a pod's spec is.
fn images(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| images(item, found)),
        Value::Object(fields) => {
            for (name, field) in fields {
                let containers = ["containers", "initContainers", "ephemeralContainers"];
                if let (true, Some(list)) = (containers.contains(&name.as_str()), field.as_array()) {
                    found.extend(list.iter().map(|c| c["image"].as_str().expect("an image").to_owned()));
                }
                images(field, found);
            }
        }
        _ => {}
    }
}

/// Every image of the charts, at the site: hooks and tests have theirs, too.
fn assert_rewritten(manifests: &str) {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifests).expect("YAML documents");
    let kinds: Vec<&str> = documents.iter().filter_map(|document| document["kind"].as_str()).collect();
    for (kind, count) in [("Deployment", 2), ("StatefulSet", 1), ("Pod", 2)] {
        assert_eq!(kinds.iter().filter(|k| **k == kind).count(), count, "{kind} of {kinds:?}");
    }
    let mut found = BTreeSet::new();
    documents.iter().for_each(|document| images(document, &mut found));
    let carried = carried();
    let pinned = |reference: &str| &carried.iter().find(|(r, _)| r == reference).expect(reference).1;
    let mut expected: BTreeSet<String> =
        [HELLO, REDIS, WEB].map(|r| format!("{SITE}/{r}@{}", pinned(r))).into();
    // helm's starter chart asks for it without a tag.
    let busybox = pinned("docker.io/library/busybox:latest");
    expected.insert(format!("{SITE}/docker.io/library/busybox@{busybox}"));
    assert_eq!(found, expected);
    let hosts = ["docker.io/", "quay.io/"];
    let count = |prefix: &str| -> usize {
        hosts.iter().map(|host| manifests.matches(&format!("{prefix}{host}")).count()).sum()
    };
    assert_eq!(count(""), count(&format!("{SITE}/")), "{manifests}");
}

/// Arguments of `install` of the shared bundle.
fn install<'a>(bundle: &'a str, key: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["install", bundle, "--key", key, "--registry", SITE], more].concat()
}

/// A jump host that has nothing but airlock, the bundle and the key.
#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_dry_run_needs_no_helm_no_path_and_no_home() {
    let here = tempfile::tempdir().expect("a directory");
    let (bundle, key) = (path(shared(), "app.tar"), path(shared(), "airlock.pub"));
    let dry_run = |more: &[&str]| -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_airlock"));
        command.env_clear().current_dir(here.path()).args(install(&bundle, &key, &["--dry-run"])).args(more);
        command.output().expect("airlock").into()
    };
    let run = dry_run(&[]).exits(0);
    assert_rewritten(&run.stdout);
    assert_eq!(fs::read_dir(here.path()).expect("the directory").count(), 0, "something was left behind");

    // Nobody's signature, nobody's program.
    let mut unchecked = Command::new(env!("CARGO_BIN_EXE_airlock"));
    unchecked.env_clear().current_dir(here.path());
    unchecked.args(["install", &bundle, "--registry", SITE, "--dry-run", "--insecure-skip-verify"]);
    Run::from(unchecked.output().expect("airlock"))
        .exits(4)
        .says("running helm: ")
        .says("name it with --helm");

    let outside = dry_run(&["--set", "web:image.repository=evil.example/web"]).exits(2);
    let place = "\n  Deployment/web spec.template.spec.containers[0].image: evil.example/web:1.0.0\n";
    outside.says("not an image of this bundle").says(place).says("hint: ");
}
