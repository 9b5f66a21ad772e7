//! References: the same as another parser reads them, or refused by both; and the same after they were written.
//! The first line is a reference, the second a registry of a site.
#![no_main]

use bundler::digest::Digest;
use bundler::reference::{Mapping, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (text, target) = text.split_once('\n').unwrap_or((text, "site:5000/mirror"));
    let parsed = text.parse::<Reference>();
    compare(text, parsed.as_ref().ok());
    let Ok(reference) = parsed else { return };
    let written = reference.to_string();
    assert_eq!(written.parse::<Reference>().as_ref(), Ok(&reference), "{written}");
    let full = reference.normalised();
    assert_eq!(full.normalised(), full);
    assert!(full.tag().is_some() || full.digest().is_some());
    for (strip_host, flat) in [(false, false), (true, false), (false, true), (true, true)] {
        let Ok(mapping) = Mapping::new(target, strip_host) else { continue };
        let mapping = mapping.flat(flat);
        let digest = Digest::of(text.as_bytes());
        let image = mapping.image(&reference, &digest);
        // A site's path and a source's together may be longer than any repository.
        if mapping.repository(&reference).len() > 255 {
            continue;
        }
        let at_site: Reference = image.parse().unwrap_or_else(|e| panic!("{image}: {e}"));
        assert_eq!(at_site.registry(), mapping.registry(), "{image}");
        assert_eq!(at_site.repository(), mapping.repository(&reference), "{image}");
        assert_eq!((at_site.tag(), at_site.digest()), (reference.tag(), Some(&digest)), "{image}");
    }
});

/// oci-client takes other digests than SHA-256 too, `Team/app`, which it then can't read in full, and tags in Greek.
fn compare(text: &str, ours: Option<&Reference>) {
    if !text.is_ascii() {
        assert_eq!(ours, None, "{text:?}");
        return;
    }
    let theirs = text.parse::<oci_distribution::Reference>().ok();
    match (ours, theirs) {
        (None, None) => {}
        (None, Some(theirs)) => {
            let other_digest = theirs.digest().is_some_and(|digest| digest.parse::<Digest>().is_err());
            let unreadable = theirs.whole().parse::<oci_distribution::Reference>().is_err();
            assert!(other_digest || unreadable, "{text:?} is refused, and oci-client reads {theirs:?}");
        }
        // Addresses in brackets are of distribution's grammar, and oci-client does not know them.
        (Some(ours), None) if ours.registry().starts_with('[') => {}
        (Some(ours), None) => panic!("{text:?} is {ours:?}, and oci-client refuses it"),
        // Docker Hub is Docker Hub, however it is written.
        (Some(ours), Some(theirs)) if ours.registry() == "docker.io" && theirs.registry() != "docker.io" => {}
        (Some(ours), Some(theirs)) => {
            assert_eq!(ours.registry(), theirs.registry().to_ascii_lowercase(), "{text:?}");
            assert_eq!(ours.repository(), theirs.repository(), "{text:?}");
            assert_eq!(ours.normalised().tag(), theirs.tag(), "{text:?}");
            assert_eq!(ours.digest().map(ToString::to_string).as_deref(), theirs.digest(), "{text:?}");
        }
    }
}
