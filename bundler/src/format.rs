//! Bundle format, version 1: the names in the tar and what `airlock.json` says. The spec is `docs/bundle-format.md`.
//!
//! Threat model: `airlock.json` is read before anything is trusted, so its size is capped, and nothing it says is
//! used before its signature holds, except to find the signature.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::archive::{Entry, Layout, LayoutError};
use crate::attached::Attached;
use crate::digest::Digest;
use crate::image::{ImageManifest, Platform};
use crate::name::{self, NameError};
use crate::reference::Reference;

/// The manifest: what is signed.
pub const MANIFEST: &str = "airlock.json";
/// The signature over the manifest's bytes; of a fixed size.
pub const SIGNATURE: &str = "airlock.sigstore.json";
/// In a partial bundle: what is left out.
pub const PARTIAL: &str = "airlock.partial.json";
/// The marker of an OCI image layout.
pub const OCI_LAYOUT: &str = "oci-layout";
/// The layout's index.
pub const INDEX: &str = "index.json";
/// What `docker load` reads.
pub const DOCKER_MANIFEST: &str = "manifest.json";
/// The lock that the bundle was built from.
pub const LOCK: &str = "images.lock";
/// What the bundle was made of: an in-toto statement with SLSA provenance.
pub const PROVENANCE: &str = "provenance.intoto.json";
/// What is in it: SPDX.
pub const SBOM: &str = "sbom.spdx.json";

/// Content of [`OCI_LAYOUT`] (image spec, "oci-layout file").
pub const OCI_LAYOUT_CONTENT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// `kind` of a bundle's manifest; no other signed document has it.
pub const KIND: &str = "dev.airlock.bundle";
/// Major version that this code writes, and the only one it reads.
pub const VERSION: u32 = 1;
/// Largest manifest that is read, in bytes: room for 100,000 blobs.
pub const MANIFEST_CAP: u64 = 16 << 20;
/// Largest image manifest, config or chart that is held in memory, in bytes (distribution spec: registries should
/// take manifests of at least 4 MiB).
pub const METADATA_CAP: u64 = 8 << 20;

/// Annotation that names a chart or file in `index.json`. Not `org.opencontainers.image.ref.name`: containerd would
/// take it for an image and try to unpack it.
pub const REF_ANNOTATION: &str = "dev.airlock.ref";

/// Path of a blob in the tar (image layout spec, "Blobs").
#[must_use]
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// `airlock.json`. Fields are in the order of their names, so that the keys in the file are sorted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Charts, in the order they are installed.
    pub charts: Vec<Chart>,
    /// When the lock was made (RFC 3339, UTC); from the lock, not from a clock at build time.
    pub created: String,
    /// Every other entry of the tar in its order, except [`SIGNATURE`] and further signatures.
    pub entries: Vec<ListedEntry>,
    /// Files.
    pub files: Vec<File>,
    /// Major version of the format.
    pub format: u32,
    /// Images, by reference.
    pub images: Vec<Image>,
    /// [`KIND`].
    pub kind: String,
    /// The bundle's name.
    pub name: String,
    /// Counts up with every change of the lock's content; what "newer" means at a site.
    pub serial: u64,
    /// The bundle's version, for people.
    pub version: String,
}

/// An entry of the tar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedEntry {
    /// Path in the tar.
    pub path: String,
    /// SHA-256 of its content, 64 hexadecimal digits.
    pub sha256: Sha256Hex,
    /// Size of its content in bytes.
    pub size: u64,
}

impl ListedEntry {
    /// Reports whether the entry's path is its digest; else it is one of the entries with fixed names.
    #[must_use]
    pub fn is_blob(&self) -> bool {
        self.path == blob_path(&self.sha256.0)
    }
}

/// A SHA-256 digest written without its algorithm, as `sha256sum` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Hex(pub Digest);

impl TryFrom<String> for Sha256Hex {
    type Error = crate::digest::DigestError;

    fn try_from(hex: String) -> Result<Self, Self::Error> {
        format!("sha256:{hex}").parse().map(Self)
    }
}

impl From<Sha256Hex> for String {
    fn from(hex: Sha256Hex) -> Self {
        hex.0.hex()
    }
}

/// An image in the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Of the manifest or index that is carried, pushed and served.
    pub digest: Digest,
    /// Texts in charts that mean it without being its reference; rewritten where they stand by themselves.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub meant_by: Vec<String>,
    /// Media type of what `digest` names.
    pub media_type: String,
    /// Its platforms (`linux/amd64`) with their manifests.
    pub platforms: BTreeMap<Platform, Digest>,
    /// The reference as charts spell it, in full.
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// Where it lands at a site, below the registry and its prefix.
    pub repository: String,
    /// The index that the tag pointed to upstream, carried as evidence, where it is not `digest`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub upstream: Option<Digest>,
    /// Ids of the keys that signed upstream what the tag pointed to: checked when it was pinned, the maker's word here.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub signed_by: Vec<String>,
    /// What is carried with it: signatures, attestations, SBOMs.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub attached: Vec<Attached>,
}

/// A chart in the bundle, with how it is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chart {
    /// Of its OCI manifest.
    pub digest: Digest,
    /// The chart's name.
    pub name: String,
    /// Namespace that it is installed into, unless told otherwise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub namespace: Option<String>,
    /// Helm release name.
    pub release: String,
    /// Where it lands at a site, below the registry and its prefix.
    pub repository: String,
    /// Values set one by one, as for `helm --set`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub set: Vec<String>,
    /// Tag of the chart: its version, `+` written as `_`.
    pub tag: String,
    /// Values files, each a blob of the bundle, in the order they apply.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub values: Vec<Digest>,
    /// The chart's version.
    pub version: String,
    /// Ids of the keys that signed it in its registry: checked when it was pinned, the maker's word here.
    #[serde(rename = "signedBy", skip_serializing_if = "Vec::is_empty", default)]
    pub signed_by: Vec<String>,
    /// Artifacts carried with the chart: signatures, attestations, SBOMs.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub attached: Vec<Attached>,
}

/// Name of the file that a bundle carries helm as.
pub(crate) const HELM_FILE: &str = "helm";

/// A file in the bundle, such as helm itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Of the file's content.
    pub digest: Digest,
    /// Of the OCI manifest that carries the file.
    pub manifest: Digest,
    /// Its name, and its path below `files/` at a site.
    pub name: String,
    /// Platform that it is for, if it is for one only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub platform: Option<Platform>,
    /// Where it lands at a site, below the registry and its prefix.
    pub repository: String,
    /// Tag: the bundle's version.
    pub tag: String,
}

/// Why bytes are not a manifest of ours.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Not JSON, or not of the right shape.
    #[error("{MANIFEST} is not readable: {0}")]
    Json(#[from] serde_json::Error),
    /// Another kind of document.
    #[error("{MANIFEST} is a {0:?}, not a {KIND:?}")]
    Kind(String),
    /// Made by a newer airlock.
    #[error("{MANIFEST} has format version {0}; this airlock reads version {VERSION}")]
    Version(u32),
    /// A name that must not get any further.
    #[error("{MANIFEST}: {0}")]
    Name(#[from] NameError),
    /// No time.
    #[error("{MANIFEST} says it was made at {0:?}, which is no time (RFC 3339)")]
    Created(String),
    /// No place in a registry.
    #[error("{MANIFEST} names {0:?}, which is no repository and tag")]
    Place(String),
    /// Its list of entries can't be a tar.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The first entries are not those of the format, in its order.
    #[error("{MANIFEST} lists {found:?} where {expected:?} belongs")]
    Order {
        /// What is listed.
        found: String,
        /// What the format has at that place.
        expected: String,
    },
}

/// What is read before the version is known.
#[derive(Deserialize)]
struct Preamble {
    kind: String,
    format: u32,
}

impl Manifest {
    /// The bytes as they are stored and signed.
    ///
    /// # Errors
    /// None that can be caused by input; JSON's writer has a result.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads what [`Self::to_bytes`] wrote. Unknown fields are left to later minor versions.
    ///
    /// # Errors
    /// For another kind, another major version, a wrong shape, or entries out of the format's order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let preamble: Preamble = serde_json::from_slice(bytes)?;
        if preamble.kind != KIND {
            return Err(FormatError::Kind(preamble.kind));
        }
        if preamble.format != VERSION {
            return Err(FormatError::Version(preamble.format));
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        manifest.check_order()?;
        manifest.check_names()?;
        Ok(manifest)
    }

    /// Every image with the tag that it has at a site. One that is asked for by tag has it before one that is asked for by
    /// digest, for which the tag beside it is a comment.
    pub fn tagged_images(&self) -> impl Iterator<Item = (&Image, Option<&str>)> {
        let mut taken = HashMap::new();
        let by_tag = |image: &&Image| image.reference.digest().is_none();
        for image in self.images.iter().filter(by_tag).chain(&self.images) {
            taken.entry(site_name(image)).or_insert(image.digest);
        }
        self.images.iter().map(move |image| {
            let has_it = taken.get(&site_name(image)) == Some(&image.digest);
            (image, image.reference.tag().filter(|_| has_it))
        })
    }

    /// Place of every entry, given the size of this manifest's own bytes and of the signature entry.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn layout(&self, manifest_size: u64, signature_size: u64) -> Result<Layout, LayoutError> {
        let first = [(MANIFEST, manifest_size), (SIGNATURE, signature_size)]
            .map(|(path, size)| Entry { path: path.into(), size });
        let listed = self.entries.iter().map(|e| Entry { path: e.path.clone(), size: e.size });
        Layout::new(first.into_iter().chain(listed))
    }

    /// Names become parts of paths, of helm's command line and of requests, and are shown at terminals.
    fn check_names(&self) -> Result<(), FormatError> {
        name::component("name", &self.name)?;
        name::version(&self.version)?;
        chrono::DateTime::parse_from_rfc3339(&self.created)
            .map_err(|_| FormatError::Created(self.created.clone()))?;
        let place = |repository: &str, tag: &str| {
            let says = format!("localhost/{repository}:{tag}");
            match says.parse::<Reference>() {
                Ok(r) if r.repository() == repository && r.tag() == Some(tag) && r.digest().is_none() => {
                    Ok(())
                }
                _ => Err(FormatError::Place(format!("{repository}:{tag}"))),
            }
        };
        name::charts(self.charts.iter().map(|c| (&*c.name, &*c.version, c.digest)))?;
        self.charts.iter().try_for_each(|chart| place(&chart.repository, &chart.tag))?;
        name::releases(self.charts.iter().map(|c| (&*c.release, c.namespace.as_deref())))?;
        for file in &self.files {
            name::component("file name", &file.name)?;
            place(&file.repository, &file.tag)?;
        }
        self.images.iter().try_for_each(|image| place(&image.repository, "latest"))
    }

    /// Four entries with fixed names, then blobs only, whose names are their digests.
    fn check_order(&self) -> Result<(), FormatError> {
        let fixed = [OCI_LAYOUT, INDEX, DOCKER_MANIFEST, LOCK];
        for (at, expected) in fixed.iter().enumerate() {
            let found = self.entries.get(at).map_or("nothing", |e| &e.path);
            if found != *expected {
                return Err(FormatError::Order { found: found.into(), expected: (*expected).into() });
            }
        }
        // They came later, and may be missing.
        let later = [PROVENANCE, SBOM];
        let mut blobs = &self.entries[fixed.len()..];
        for path in later {
            blobs =
                blobs.split_first().filter(|(first, _)| first.path == path).map_or(blobs, |(_, rest)| rest);
        }
        for entry in blobs {
            let expected = blob_path(&entry.sha256.0);
            if entry.path != expected {
                return Err(FormatError::Order { found: entry.path.clone(), expected });
            }
        }
        Ok(())
    }
}

/// What a tag is unique for.
fn site_name(image: &Image) -> (&str, &str, Option<&str>) {
    (image.reference.registry(), image.reference.repository(), image.reference.tag())
}

/// A descriptor in `index.json` (image spec, "Content Descriptors"); fields in alphabetical order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IndexItem<'a> {
    annotations: BTreeMap<&'a str, String>,
    digest: &'a Digest,
    media_type: &'a str,
    size: u64,
}

/// What `index.json` needs to know of one item.
pub struct Indexed<'a> {
    /// An image's reference, or the name of a chart or file.
    pub name: Name<'a>,
    /// Of the manifest.
    pub digest: &'a Digest,
    /// Of the manifest.
    pub media_type: &'a str,
    /// Size of the manifest in bytes.
    pub size: u64,
}

/// How an item is named in `index.json`.
pub enum Name<'a> {
    /// An image: tools find it by its reference.
    Image(&'a Reference),
    /// A chart or a file: found by `dev.airlock.ref`.
    Artifact(String),
}

/// The bytes of `index.json`.
///
/// # Errors
/// None that can be caused by input.
pub fn index_json(items: &[Indexed]) -> Result<Vec<u8>, serde_json::Error> {
    let manifests: Vec<_> = items
        .iter()
        .map(|item| IndexItem {
            annotations: match &item.name {
                Name::Image(reference) => ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
                    .map(|key| (key, reference.to_string()))
                    .into(),
                Name::Artifact(name) => [(REF_ANNOTATION, name.clone())].into(),
            },
            digest: item.digest,
            media_type: item.media_type,
            size: item.size,
        })
        .collect();
    serde_json::to_vec(&serde_json::json!({
        "manifests": manifests,
        "mediaType": crate::image::OCI_INDEX,
        "schemaVersion": 2,
    }))
}

/// The bytes of `manifest.json`: the images of one platform, as `docker save` lists them.
///
/// # Errors
/// None that can be caused by input.
pub fn docker_manifest(images: &[(&Reference, &ImageManifest)]) -> Result<Vec<u8>, serde_json::Error> {
    let list: Vec<_> = images
        .iter()
        .map(|(reference, manifest)| {
            // `docker load` takes tags only.
            let tags: Vec<String> = reference
                .tag()
                .map(|tag| format!("{}/{}:{tag}", reference.registry(), reference.repository()))
                .into_iter()
                .collect();
            let layers: Vec<_> = manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
            serde_json::json!({"Config": blob_path(&manifest.config.digest), "Layers": layers, "RepoTags": tags})
        })
        .collect();
    serde_json::to_vec(&list)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manifest with one chart and one file, and then with other texts in it.
    fn read(from: &str, to: &str) -> Result<Manifest, FormatError> {
        let digest = Digest::of(b"");
        let fixed = [OCI_LAYOUT, INDEX, DOCKER_MANIFEST, LOCK];
        let entry = |path: &str| serde_json::json!({"path": path, "sha256": digest.hex(), "size": 0});
        let text = serde_json::json!({
            "kind": KIND, "format": VERSION, "name": "app", "version": "1.2.3", "serial": 1,
            "created": "2026-11-24T00:00:00Z",
            "entries": fixed.map(entry),
            "images": [{
                "digest": digest, "mediaType": OCI_LAYOUT, "platforms": {}, "ref": "q.io/a/b:1", "repository": "q.io/a/b",
            }],
            "charts": [{
                "digest": digest, "name": "web", "namespace": "shop", "release": "front", "repository": "charts/web",
                "tag": "4.5.6", "version": "4.5.6",
            }],
            "files": [{
                "digest": digest, "manifest": digest, "name": "helm", "repository": "files/helm", "tag": "7.8.9",
            }],
        });
        let text = text.to_string();
        assert!(text.contains(from), "{from} in {text}");
        Manifest::from_bytes(text.replace(from, to).as_bytes())
    }

    #[test]
    fn only_a_bundles_manifest_is_read() {
        let error = read(KIND, crate::receipt::KIND).expect_err("a receipt").to_string();
        assert!(error.contains(crate::receipt::KIND), "{error}");
        assert!(read("\"format\":1", "\"format\":2").is_err());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        read("app", "app").expect("a manifest");
        for (from, to) in [
            ("\"app\"", "\"a/../b\""),
            ("\"app\"", "\"\\u001b[2J\""),
            ("\"1.2.3\"", "\"../x\""),
            ("2026-11-24", "\\u009b2J"),
            ("\"front\"", "\"../../x\""),
            ("\"front\"", "\"--debug\""),
            ("\"shop\"", "\"--kube-token=x\""),
            ("\"web\"", "\"../web\""),
            ("\"charts/web\"", "\"charts/../web\""),
            ("\"tag\":\"4.5.6\"", "\"tag\":\"/../../x\""),
            ("\"version\":\"4.5.6\"", "\"version\":\"4/5\""),
            ("\"files/helm\"", "\"/files/helm\""),
            ("\"helm\"", "\"../helm\""),
            ("\"7.8.9\"", "\"7.8.9@x\""),
            ("\"repository\":\"q.io/a/b\"", "\"repository\":\"q.io/a/../b\""),
        ] {
            let error = read(from, to).expect_err(to).to_string();
            assert!(error.starts_with(MANIFEST), "{to}: {error}");
        }
    }

    #[test]
    fn statements_may_be_missing_and_have_their_order() {
        let digest = Digest::of(b"").hex();
        let entry = |path: &str| serde_json::json!({"path": path, "sha256": digest, "size": 0});
        let last = entry(LOCK).to_string();
        let with = |more: &[&str]| {
            let more: String = more.iter().map(|path| format!(",{}", entry(path))).collect();
            read(&last, &format!("{last}{more}")).is_ok()
        };
        let blob = blob_path(&Digest::of(b""));
        assert!(with(&[]) && with(&[PROVENANCE]) && with(&[SBOM]) && with(&[PROVENANCE, SBOM, &blob]));
        assert!(!with(&[SBOM, PROVENANCE]) && !with(&[&blob, SBOM]) && !with(&[SBOM, SBOM]) && !with(&["x"]));
    }

    #[test]
    fn a_tag_goes_to_who_is_asked_for_by_it() {
        let mut manifest = read("app", "app").expect("a manifest");
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let template = manifest.images.remove(0);
        let image = |reference: String, digest| Image {
            meant_by: vec![],
            digest,
            reference: reference.parse().expect("a reference"),
            ..template.clone()
        };
        manifest.images = vec![
            image(format!("q.io/a:1@{one}"), one),
            image("q.io/a:1".into(), two),
            image(format!("q.io/b:1@{one}"), one),
            image(format!("q.io/b:1@{two}"), two),
            image(format!("q.io/c@{two}"), two),
        ];
        let tags: Vec<_> = manifest.tagged_images().map(|(_, tag)| tag).collect();
        assert_eq!(tags, [None, Some("1"), Some("1"), None, None]);
    }

    #[test]
    fn one_release_twice_is_refused() {
        let chart = read("app", "app").expect("a manifest").charts.remove(0);
        let chart = serde_json::to_string(&chart).expect("JSON");
        let error = read("\"charts\":[", &format!("\"charts\":[{chart},")).expect_err("twice").to_string();
        assert!(error.contains("\"front\" is there twice"), "{error}");
    }
}
