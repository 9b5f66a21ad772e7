//! JSON documents: `airlock.json`, and manifests, indexes and configs of images.
#![no_main]

use bundler::format::Manifest;
use bundler::image::{self, OCI_INDEX, OCI_MANIFEST, Parsed, Platform};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::from_bytes(bytes) {
        let written = manifest.to_bytes().expect("a manifest can be written");
        let again = Manifest::from_bytes(&written).expect("what was written is a manifest");
        assert_eq!(again, manifest);
        assert_eq!(manifest.tagged_images().count(), manifest.images.len());
        if let Ok(layout) = manifest.layout(written.len() as u64, 4096) {
            check(&layout);
        }
    }
    if let Ok(platform) = image::config_platform(bytes) {
        assert_eq!(platform.to_string().parse::<Platform>().ok(), Some(platform));
    }
    let media_types = ["", OCI_MANIFEST, OCI_INDEX, "application/vnd.docker.distribution.manifest.v2+json"];
    for media_type in media_types {
        match image::parse(media_type, bytes) {
            Ok(Parsed::Index(index)) => derive(&index, bytes),
            Ok(Parsed::Manifest(manifest)) => {
                let sizes = manifest.layers.iter().chain([&manifest.config]).map(|part| part.size);
                assert!(sizes.sum::<u64>() < 1 << 52);
            }
            Err(_) => {}
        }
    }
});

/// Entries follow each other without gaps and without overlaps.
fn check(layout: &bundler::archive::Layout) {
    let mut at = 0;
    for placed in &layout.entries {
        assert_eq!(placed.header_at, at);
        assert_eq!(placed.header().len() as u64, placed.content_at - placed.header_at);
        at = placed.next_at();
        assert_eq!(at % 512, 0);
    }
    assert_eq!(layout.file_size, at + 1024);
}

/// Of the children that are kept, and of nothing else; or refused, for text in fields that nobody has read before.
fn derive(index: &image::ImageIndex, bytes: &[u8]) {
    let wanted: Vec<Platform> = index.manifests.iter().filter_map(image::Descriptor::platform).collect();
    let chosen: Vec<_> = match index.choose(&wanted) {
        Ok(chosen) => chosen.into_iter().map(|(_, child)| child.digest).collect(),
        Err(_) => index.manifests.iter().map(|child| child.digest).step_by(2).collect(),
    };
    let Ok(derived) = image::derive_index(bytes, &chosen) else { return };
    assert_eq!(image::derive_index(&derived, &chosen).ok().as_ref(), Some(&derived));
    let Ok(Parsed::Index(fewer)) = image::parse(OCI_INDEX, &derived) else {
        panic!("an index of fewer is none: {}", String::from_utf8_lossy(&derived))
    };
    let kept = fewer.manifests.iter().map(|child| child.digest);
    let expected = index.manifests.iter().map(|child| child.digest).filter(|digest| chosen.contains(digest));
    assert!(kept.eq(expected));
}
