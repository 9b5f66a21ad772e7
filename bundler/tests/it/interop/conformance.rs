//! The OCI distribution spec's own conformance suite against `serve`. Its commit is pinned in `xtask/src/tools.rs`; what is
//! switched off, and why, is in `docs/registry.md`.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use super::{BUSYBOX, shared, upstream_for};
use crate::store::ask;
use crate::world::{Served, World};

/// The suite's verdicts, by what was tried.
fn verdicts(world: &World, served: &Served, settings: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut suite = Command::new("oci-conformance");
    suite.current_dir(world.path("")).env("OCI_RESULTS_DIR", "results").env("OCI_VERSION", "1.1");
    suite.envs([("OCI_REGISTRY", served.host.as_str()), ("OCI_TLS", "disabled"), ("NO_PROXY", "*")]);
    // Stricter than the spec asks for, where we mean to be.
    for option in ["BLOBS_DIGEST_HEADER", "MANIFESTS_DIGEST_HEADER", "BLOBS_UPLOAD_CANCEL"] {
        suite.env(format!("OCI_API_{option}"), "true");
    }
    // Not by its exit code: without any push it falls over its own report, after it has said all this.
    let output = suite.envs(settings.iter().copied()).output().expect("oci-conformance");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, summary) = said.split_once("\nOCI Conformance Result: Pass\n").expect(&said);
    let (_, summary) = summary.split_once("\nAPI conformance:\n").expect(&said);
    let lines = summary.lines().filter_map(|line| line.split_once(": "));
    lines
        .map(|(what, verdict)| (what.trim().trim_end_matches('.').to_owned(), verdict.trim().to_owned()))
        .collect()
}

/// What has a verdict.
fn with<'a>(verdicts: &'a BTreeMap<String, String>, verdict: &str) -> Vec<&'a str> {
    verdicts.iter().filter(|(_, found)| *found == verdict).map(|(what, _)| what.as_str()).collect()
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_store_passes_pull_push_discovery_and_management() {
    let world = World::new();
    let served = Served::store(&world, "store", &[]);
    let verdicts = verdicts(&world, &served, &[("OCI_DATA_SHA512", "false")]);
    let (passed, disabled) = (with(&verdicts, "Pass"), with(&verdicts, "Disabled"));
    assert_eq!(passed.len() + disabled.len(), verdicts.len(), "{verdicts:?}");
    let off = [
        "Blobs sha512",
        "Digest Algorithm sha512",
        "Manifest put with tag params",
        "Sparse Manifests",
        "Tag Param",
        "Tag Param sha512",
    ];
    assert_eq!(disabled, off);
    assert_eq!(passed.len(), 46, "{passed:?}");
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_bundle_passes_pull_and_discovery() {
    let served = Served::start(shared(), "app.tar");
    let (name, tag) = BUSYBOX.rsplit_once(':').expect("a tag");
    let digest = upstream_for(BUSYBOX, "amd64");
    let world = World::new();
    let manifest = ask(&served, "GET", &format!("/v2/{name}/manifests/{tag}"), "", b"").body;
    let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest");
    let blobs =
        [&manifest["config"], &manifest["layers"][0]].map(|b| b["digest"].as_str().expect("a digest"));
    let blobs = blobs.join(" ");
    let off = ["PUSH", "BLOBS_DELETE", "MANIFESTS_DELETE", "TAGS_DELETE"].map(|api| format!("OCI_API_{api}"));
    let mut settings: Vec<_> = off.iter().map(|api| (api.as_str(), "false")).collect();
    settings.extend([("OCI_REPO1", name), ("OCI_RO_DATA_TAGS", tag), ("OCI_RO_DATA_MANIFESTS", &digest)]);
    settings.extend([("OCI_RO_DATA_BLOBS", blobs.as_str()), ("OCI_RO_DATA_REFERRERS", &digest)]);
    // Uploads there are none; and of manifests that it did not make the suite never reads the header that it misses then.
    for option in ["OCI_API_BLOBS_UPLOAD_CANCEL", "OCI_API_MANIFESTS_DIGEST_HEADER"] {
        settings.push((option, "false"));
    }
    let verdicts = verdicts(&world, &served, &settings);
    let passed = [
        "Blob get",
        "Blob head",
        "Invalid Manifest Digest",
        "Manifest get by digest",
        "Manifest get by tag",
        "Manifest head by digest",
        "Manifest head by tag",
        "Ping",
        "Read Only Inputs",
        "Referrers",
        "Tag listing",
    ];
    assert_eq!(with(&verdicts, "Pass"), passed, "{verdicts:?}");
    for bad in ["FAIL", "Fail", "Error", "Skip"] {
        assert_eq!(with(&verdicts, bad), [""; 0], "{verdicts:?}");
    }
}
