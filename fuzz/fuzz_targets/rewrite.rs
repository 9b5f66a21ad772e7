//! The YAML rewriter: what it changes is still YAML, passes the gate, is the same the second time, and in both of its ways.
#![no_main]

use std::sync::LazyLock;

use bundler::digest::Digest;
use bundler::discover::discover;
use bundler::reference::Mapping;
use bundler::rewrite::{Pin, Pins, checked, gate, rewrite, with_pull_secret};
use bundler::yaml::Stream;
use libfuzzer_sys::fuzz_target;

static PINS: LazyLock<Pins> = LazyLock::new(|| {
    let images = ["docker.io/library/redis:8", "q.io/a/b:1.2", "docker.io/b/c", "h:5/nats:2.10.10"];
    let by_digest = format!("q.io/by/digest:1@{}", Digest::of(b"10"));
    let mut pins: Vec<Pin> = images
        .into_iter()
        .chain([by_digest.as_str()])
        .map(|text| Pin::from((text.parse().expect("a reference"), Digest::of(text.as_bytes()))))
        .collect();
    pins[0].meant_by = vec!["the-cache".into()];
    Pins::new(pins)
});
static MAPPING: LazyLock<Mapping> =
    LazyLock::new(|| Mapping::new("site:5000/mirror", false).expect("a mapping"));

fuzz_target!(|manifests: &str| {
    let (pins, mapping) = (&*PINS, &*MAPPING);
    let _ = discover(manifests);
    if let Ok(text) = with_pull_secret(manifests, "site") {
        Stream::parse(&text).expect("with a secret, YAML");
    }
    let in_one = rewrite(manifests, pins, mapping);
    let by_document = checked(manifests, pins, mapping);
    let Ok(done) = in_one else {
        assert!(by_document.is_err(), "checked takes what rewrite refuses");
        return;
    };
    if done.changes.is_empty() {
        assert_eq!(done.text, manifests);
    }
    let (before, after) = (Stream::parse(manifests), Stream::parse(&done.text));
    let (before, after) = (before.expect("it was YAML"), after.expect("it is YAML"));
    assert_eq!(before.roots().len(), after.roots().len());
    let again = rewrite(&done.text, pins, mapping).expect("what was rewritten can be again");
    assert_eq!(again.text, done.text, "twice is the same as once");
    match by_document {
        Ok(pieces) => {
            assert_eq!(pieces.pieces.concat(), done.text);
            assert_eq!(pieces.changes, done.changes);
            gate(&done.text, pins, mapping).expect("what was checked passes the gate");
        }
        Err(_) => {
            assert!(gate(&done.text, pins, mapping).is_err(), "checked refuses what the gate lets pass")
        }
    }
});
