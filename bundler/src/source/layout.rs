//! OCI image layouts (image spec, "OCI Image Layout"), in a directory or in a tar file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use super::{Blobs, LocalImage, Located, each_entry, open_tar};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::{INDEX, OCI_LAYOUT};
use crate::image::Descriptor;

/// The annotation that names an image in a layout's index.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Opens a layout directory.
pub(super) fn open_directory(root: &Path, tag: Option<&str>) -> Result<LocalImage> {
    let action = format!("reading OCI layout {}", root.display());
    let read = |name: &str| {
        let path = root.join(name);
        let size = path.metadata().map_err(|e| Error::input(format!("{action}: {name}"), e))?.len();
        Located { path, offset: 0, size }.read()
    };
    let root_descriptor = root_of(&read(OCI_LAYOUT)?, &read(INDEX)?, tag).map_err(|e| e.refusal(action))?;
    Ok(LocalImage { root: root_descriptor, blobs: Blobs::Directory(root.into()) })
}

/// Opens a tar file of a layout: blobs are found by their place in it, nothing is unpacked.
pub(super) fn open_archive(path: &Path, tag: Option<&str>) -> Result<LocalImage> {
    let action = format!("reading OCI archive {}", path.display());
    let failed = |e: std::io::Error| Error::input(&action, e);
    let file = open_tar(path)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut archive = tar::Archive::new(file);
    let (mut spans, mut metadata) = (HashMap::new(), HashMap::new());
    each_entry(archive.entries_with_seek(), failed, |name, entry| {
        if !entry.header().entry_type().is_file() {
            return Ok(());
        }
        let (offset, size) = (entry.raw_file_position(), entry.size());
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(Error::input(&action, format!("it is cut short in {name}")));
        }
        let twice = match blob(&name) {
            Some(digest) => spans.insert(digest, (offset, size)).is_some(),
            None if name == OCI_LAYOUT || name == INDEX => {
                let located = Located { path: path.into(), offset, size };
                metadata.insert(name.clone(), located).is_some()
            }
            None => false,
        };
        if twice { Err(Error::input(&action, format!("{name} is in it twice"))) } else { Ok(()) }
    })?;
    let read = |name: &str| match metadata.get(name) {
        Some(located) => located.read(),
        None => Err(Error::input(&action, format!("it has no {name}"))
            .hint("for what docker save writes, use docker-archive:")),
    };
    let root = root_of(&read(OCI_LAYOUT)?, &read(INDEX)?, tag).map_err(|e| e.refusal(&action))?;
    Ok(LocalImage { root, blobs: Blobs::Archive(path.into(), spans) })
}

fn blob(path: &str) -> Option<Digest> {
    format!("sha256:{}", path.strip_prefix("blobs/sha256/")?).parse().ok()
}

/// Why an index does not say which image is meant.
#[derive(Debug, thiserror::Error)]
enum LayoutError {
    #[error("{0} is not what the OCI image spec says: {1}")]
    Json(&'static str, serde_json::Error),
    #[error("its layout version {0:?} is not known: expected 1.0.0")]
    Version(String),
    #[error("it has no image {0:?}; it has: {1}")]
    NoSuch(String, String),
    #[error("it has no image")]
    Empty,
    #[error("it has several images: {0}")]
    Ambiguous(String),
}

impl LayoutError {
    fn refusal(self, action: impl Into<String>) -> Error {
        let hint = match &self {
            Self::NoSuch(..) | Self::Ambiguous(_) => Some("write which one after the path: PATH:NAME"),
            _ => None,
        };
        let error = Error::input(action, self);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// The image that `tag` means in an index; without a tag, the only one.
fn root_of(layout: &[u8], index: &[u8], tag: Option<&str>) -> Result<Descriptor, LayoutError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        #[serde(flatten)]
        descriptor: Descriptor,
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    let marker: Marker = serde_json::from_slice(layout).map_err(|e| LayoutError::Json(OCI_LAYOUT, e))?;
    if marker.image_layout_version != "1.0.0" {
        return Err(LayoutError::Version(marker.image_layout_version));
    }
    let index: Index = serde_json::from_slice(index).map_err(|e| LayoutError::Json(INDEX, e))?;
    let name = |m: &Named| m.annotations.get(REF_NAME).cloned().unwrap_or(m.descriptor.digest.to_string());
    let list = |some: &[&Named]| some.iter().map(|m| name(m)).collect::<Vec<_>>().join(", ");
    let all: Vec<&Named> = index.manifests.iter().collect();
    let mut fits = all.clone();
    if let Some(tag) = tag {
        fits.retain(|m| name(m) == tag || m.descriptor.digest.to_string() == tag);
    }
    // The same image by several names is one image.
    let mut seen = HashSet::new();
    fits.retain(|m| seen.insert(m.descriptor.digest));
    match (fits.as_slice(), tag) {
        ([one], _) => Ok(one.descriptor.clone()),
        ([], Some(tag)) => Err(LayoutError::NoSuch(tag.into(), list(&all))),
        ([], None) => Err(LayoutError::Empty),
        (several, _) => Err(LayoutError::Ambiguous(list(several))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::{IMAGE, Kind, tar_file};

    const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

    fn index(names: &[Option<&str>]) -> String {
        let one = |(n, name): (usize, &Option<&str>)| {
            let annotations = name.map(|n| serde_json::json!({REF_NAME: n})).unwrap_or(serde_json::json!({}));
            let digest = Digest::of(&[n as u8]);
            serde_json::json!({"mediaType": IMAGE, "digest": digest, "size": 1, "annotations": annotations})
        };
        let manifests: Vec<_> = names.iter().enumerate().map(one).collect();
        serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string()
    }

    #[test]
    fn an_image_is_chosen_by_name_or_digest_or_being_the_only_one() {
        let root = |names: &[Option<&str>], tag: Option<&str>| {
            root_of(LAYOUT.as_bytes(), index(names).as_bytes(), tag)
                .map(|d| d.digest)
                .map_err(|e| e.to_string())
        };
        let [zero, one] = [Digest::of(&[0]), Digest::of(&[1])];
        assert_eq!(root(&[None], None), Ok(zero));
        assert_eq!(root(&[Some("a"), Some("b")], Some("b")), Ok(one));
        assert_eq!(root(&[Some("a"), None], Some(&one.to_string())), Ok(one));
        assert_eq!(root(&[Some("a"), None], None), Err(format!("it has several images: a, {one}")));
        assert_eq!(root(&[Some("a"), Some("a")], Some("a")), Err("it has several images: a, a".into()));
        assert_eq!(root(&[Some("a")], Some("c")), Err("it has no image \"c\"; it has: a".into()));
        assert_eq!(root(&[], None), Err("it has no image".into()));
    }

    #[test]
    fn what_is_no_layout_is_refused() {
        let refused = |layout: &str, index: &str| match root_of(layout.as_bytes(), index.as_bytes(), None) {
            Err(error) => error.to_string(),
            Ok(root) => unreachable!("{root:?}"),
        };
        assert!(refused(r#"{"imageLayoutVersion":"2.0.0"}"#, "{}").contains("2.0.0"));
        assert!(refused("x", "{}").contains("oci-layout"));
        assert!(
            refused(LAYOUT, r#"{"manifests":[{"digest":"sha256:../../x","size":1}]}"#).contains("index.json")
        );
        let directory = tempfile::tempdir().expect("a directory");
        let error = open_directory(directory.path(), None).expect_err("no layout").to_string();
        assert!(error.contains("oci-layout: No such file"), "{error}");
    }

    #[test]
    fn links_in_a_directory_are_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        std::fs::create_dir_all(root.join("blobs/sha256")).expect("made");
        std::fs::write(root.join(OCI_LAYOUT), LAYOUT).expect("written");
        std::fs::write(root.join(INDEX), index(&[None])).expect("written");
        let digest = Digest::of(&[0]);
        let blob = root.join("blobs/sha256").join(digest.hex());
        std::os::unix::fs::symlink(root.join(OCI_LAYOUT), &blob).expect("a link");
        let image = open_directory(root, None).expect("a layout");
        assert_eq!(image.locate(&digest), None);
        std::fs::remove_file(&blob).expect("removed");
        std::fs::write(&blob, [1]).expect("written");
        let error = image.manifest(&digest).expect_err("another digest");
        assert_eq!(error.kind(), crate::Kind::Trust, "{error}");
        std::fs::write(&blob, [0]).expect("written");
        assert_eq!(image.manifest(&digest).expect("the manifest"), [0]);
        std::fs::File::options().write(true).open(&blob).and_then(|f| f.set_len(1 << 33)).expect("grown");
        let error = image.manifest(&digest).expect_err("too large").to_string();
        assert!(error.contains("8589934592 bytes"), "{error}");
    }

    #[test]
    fn archives_are_read_in_place_and_hostile_ones_refused() {
        let digest = Digest::of(&[0]);
        let blob = format!("blobs/sha256/{}", digest.hex());
        let index = index(&[None]);
        let open = |files: &[(&str, Kind)]| open_archive(tar_file(files).path(), None);
        let good = [
            (OCI_LAYOUT, Kind::File(LAYOUT.as_bytes())),
            (INDEX, Kind::File(index.as_bytes())),
            (&blob, Kind::File(&[0])),
        ];
        let file = tar_file(&good);
        let image = open_archive(file.path(), None).expect("an archive");
        assert_eq!((image.root.digest, image.manifest(&digest).expect("the manifest")), (digest, vec![0]));

        let mut link = good;
        link[2].1 = Kind::Symlink(OCI_LAYOUT);
        assert_eq!(open(&link).expect("an archive").locate(&digest), None);
        for (extra, says) in [
            (("../x", Kind::File(b"")), "\"../x\" leads out of it"),
            ((blob.as_str(), Kind::File(b"")), "is in it twice"),
            ((INDEX, Kind::File(b"{}")), "index.json is in it twice"),
        ] {
            let error = open(&[&good[..], &[extra]].concat()).expect_err(says).to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
        let error = open(&good[1..]).expect_err("no marker");
        assert!(error.to_string().contains("no oci-layout"), "{error}");
        // Two blocks of each entry, then the blob's header: its content is gone.
        file.as_file().set_len(5 * 512).expect("cut");
        let error = open_archive(file.path(), None).expect_err("cut short").to_string();
        assert!(error.contains("it is cut short in blobs/"), "{error}");
        std::fs::write(file.path(), b"\x1f\x8b").expect("written");
        let error = open_archive(file.path(), None).expect_err("compressed");
        assert!(error.hint_text().is_some_and(|h| h.contains("gunzip")), "{error:?}");
    }
}
