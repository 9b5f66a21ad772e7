//! Public charts as helm renders them: everything is found, everything is rewritten, nothing else changes.
//!
//! The corpus lies beside the repository, `AIRLOCK_CORPUS` says where else; `truth.json` in it says what each chart names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use bundler::digest::Digest;
use bundler::discover::{Found, discover};
use bundler::reference::{Mapping, Reference};
use bundler::rewrite::{Pins, gate, rewrite};

#[derive(serde::Deserialize)]
struct Truth {
    refs: BTreeMap<String, BTreeSet<String>>,
}

/// Charts with their manifests and what is true of them.
fn corpus() -> Vec<(String, String, Truth)> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let dir = std::env::var_os("AIRLOCK_CORPUS").map_or_else(beside, PathBuf::from);
    let truth =
        fs::read_to_string(dir.join("truth.json")).expect("truth.json of the corpus: set AIRLOCK_CORPUS");
    let truth: BTreeMap<String, Truth> = serde_json::from_str(&truth).expect("truth.json");
    assert!(!truth.is_empty());
    let read = |name: &str| fs::read_to_string(dir.join(format!("{name}.yaml"))).expect(name);
    truth.into_iter().map(|(name, truth)| (name.clone(), read(&name), truth)).collect()
}

fn full(text: &str) -> Reference {
    text.parse::<Reference>().expect(text).normalised()
}

#[test]
#[ignore = "needs the corpus of rendered charts: cargo xtask test"]
fn every_reference_is_found_with_its_places() {
    for (name, manifests, truth) in corpus() {
        let found = discover(&manifests).expect(&name);
        let mut kinds: BTreeMap<Reference, BTreeSet<String>> = BTreeMap::new();
        for Found { reference, kind, .. } in &found {
            let reference = reference.as_ref().expect("a reference").normalised();
            kinds.entry(reference).or_default().insert(kind.to_string());
        }
        for (text, places) in &truth.refs {
            let seen = kinds.get(&full(text)).unwrap_or_else(|| panic!("{name}: {text} was not found"));
            assert!(seen.is_superset(places), "{name}: {text} was found in {seen:?}, not in {places:?}");
        }
        let true_ones: BTreeSet<Reference> = truth.refs.keys().map(|text| full(text)).collect();
        let wrong: Vec<_> = found
            .iter()
            .filter(|f| f.is_wanted() && f.full().is_none_or(|r| !true_ones.contains(&r)))
            .collect();
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
    }
}

#[test]
#[ignore = "needs the corpus of rendered charts: cargo xtask test"]
fn nothing_is_left_after_rewriting() {
    let mapping = Mapping::new("site.example:5000/mirror", false).expect("a mapping");
    for (name, manifests, truth) in corpus() {
        let digest = |text: &str| full(text).digest().copied().unwrap_or_else(|| Digest::of(text.as_bytes()));
        let pins = Pins::new(truth.refs.keys().map(|text| (full(text), digest(text))));
        let rewritten = rewrite(&manifests, &pins, &mapping).expect(&name);
        gate(&rewritten.text, &pins, &mapping).expect(&name);
        // By plain search, too: without what is at the site, no reference is anywhere, in comments neither.
        for text in truth.refs.keys() {
            let source = full(text);
            let rest = rewritten.text.replace(&mapping.image(&source, &digest(text)), "");
            let is_part = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
            let left = rest.match_indices(text.as_str()).filter(|(at, _)| {
                !rest[..*at].ends_with(is_part) && !rest[at + text.len()..].starts_with(is_part)
            });
            assert_eq!(left.count(), 0, "{name}: {text}");
        }
        let again = rewrite(&rewritten.text, &pins, &mapping).expect(&name);
        assert_eq!(again.text, rewritten.text, "{name}: twice");
    }
}
