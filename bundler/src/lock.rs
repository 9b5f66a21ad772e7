//! `images.lock`: what is wanted, pinned. TOML, sorted, made to be read in a diff; written by `airlock lock` only.

mod changes;
mod charts;
mod evidence;
mod pin;
mod unused;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::attached::Attached;
use crate::digest::Digest;
use crate::image::Platform;
use crate::name::{self, NameError};
use crate::reference::Reference;
use crate::resolve::Resolved;
use crate::spec::Platforms;

pub use changes::{Change, Changes};
pub use pin::{Pinned, Survey, Update, pin, survey};

/// Version of the file's format that this code writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// First line of the file.
const HEADER: &str = "# Written by `airlock lock`. Change bundle.toml and run it again, not this file.\n";

/// Everything that a bundle is made of, pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// [`VERSION`].
    pub version: u32,
    /// The bundle's name.
    pub name: String,
    /// The bundle's version, for people.
    pub bundle_version: String,
    /// Counts up with every change of what is pinned.
    pub serial: u64,
    /// When this serial was made (RFC 3339, UTC).
    pub created: String,
    /// Digest of the spec that it was made from.
    pub spec: Digest,
    /// Platforms of every image.
    pub platforms: Platforms,
    /// Charts, in the order they are installed.
    #[serde(rename = "chart", default, skip_serializing_if = "Vec::is_empty")]
    pub charts: Vec<LockedChart>,
    /// Images, sorted by reference.
    #[serde(rename = "image", default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<LockedImage>,
    /// Files, sorted by name and platform.
    #[serde(rename = "file", default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<LockedFile>,
}

/// An image, pinned. The digest pins everything below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedImage {
    /// The reference as charts spell it, in full.
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// Of the manifest or index that is carried.
    pub digest: Digest,
    /// Of the index that the tag pointed to, where that is not what is carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Digest>,
    /// Media type of what the tag pointed to.
    pub media_type: String,
    /// Size of all its blobs and manifests in bytes, shared ones included.
    pub size: u64,
    /// Where the bytes come from, if not from the reference's registry: skopeo's transports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Who asks for it: `bundle.toml`, or a chart and the place in its manifests.
    pub asked_by: Vec<String>,
    /// Texts in charts that mean it without being its reference (`map` in `bundle.toml`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub meant_by: Vec<String>,
    /// Its licences, as it says itself (image spec, `org.opencontainers.image.licenses`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licenses: Option<String>,
    /// Ids of the keys that signed what the tag pointed to, where `bundle.toml` asks for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed_by: Vec<String>,
    /// The manifest of each platform that is carried.
    pub platforms: BTreeMap<Platform, Digest>,
    /// What is carried with it: signatures, attestations, SBOMs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attached: Vec<Attached>,
}

impl LockedImage {
    /// What is to be pinned of what was found.
    pub(crate) fn new(
        reference: Reference,
        from: Option<String>,
        asked_by: Vec<String>,
        resolved: &Resolved,
    ) -> Self {
        Self {
            reference,
            digest: resolved.root.digest,
            upstream: resolved.upstream.as_ref().map(|m| m.digest),
            media_type: resolved.media_type().into(),
            size: resolved.size(),
            from,
            asked_by,
            meant_by: vec![],
            licenses: None,
            signed_by: vec![],
            platforms: resolved.platforms.clone(),
            attached: vec![],
        }
    }

    /// What is pinned, field by field; who asks for it and where it comes from is not.
    pub(crate) fn pins(&self) -> [(&'static str, String); 5] {
        let or_none = |digest: Option<Digest>| digest.map_or("none".into(), |digest| digest.to_string());
        let platforms = self.platforms.iter().map(|(platform, digest)| format!("{platform} {digest}"));
        [
            ("upstream", or_none(self.upstream)),
            ("digest", self.digest.to_string()),
            ("platforms", platforms.collect::<Vec<_>>().join(", ")),
            ("media_type", self.media_type.clone()),
            ("size", self.size.to_string()),
        ]
    }
}

/// A chart, pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedChart {
    /// The chart's name.
    pub name: String,
    /// The chart's version.
    pub version: String,
    /// Where it comes from: a path, `oci://…`, or the URL of the packed chart.
    pub from: String,
    /// Of its OCI manifest.
    pub digest: Digest,
    /// Size of the packed chart in bytes.
    pub size: u64,
    /// Helm release name.
    pub release: String,
    /// Namespace to install into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its licences, as it says itself (Artifact Hub's annotation `artifacthub.io/license`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licenses: Option<String>,
    /// Single values, as for `helm --set`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
    /// Ids of the keys that signed it in its registry, where `bundle.toml` asks for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed_by: Vec<String>,
    /// Values files, in the order they apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<LockedValues>,
    /// Signatures and the like that its registry has for it, which are carried with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attached: Vec<Attached>,
}

/// A values file, pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedValues {
    /// Path from the directory of the lock.
    pub path: String,
    /// Of its content.
    pub digest: Digest,
}

/// A file, pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedFile {
    /// Its name.
    pub name: String,
    /// Platform that it is for, if it is for one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Where it comes from: a URL or a path.
    pub from: String,
    /// Of its content.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

/// Why a text is not a lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Not TOML of the right shape.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// Made by another version.
    #[error("its format is version {0}; this airlock reads version {VERSION}")]
    Version(u32),
    /// The same reference twice.
    #[error("image {0} is pinned twice")]
    Twice(Reference),
    /// A name that must not get any further.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No time.
    #[error("created {0:?} is no time (RFC 3339)")]
    Created(String),
}

impl Lock {
    /// Reads `images.lock`.
    ///
    /// # Errors
    /// For a text that `airlock lock` did not write.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        #[derive(Deserialize)]
        struct Preamble {
            version: u32,
        }
        let preamble: Preamble = toml::from_str(text)?;
        if preamble.version != VERSION {
            return Err(LockError::Version(preamble.version));
        }
        let mut lock: Self = toml::from_str(text)?;
        lock.check_names()?;
        chrono::DateTime::parse_from_rfc3339(&lock.created)
            .map_err(|_| LockError::Created(lock.created.clone()))?;
        lock.images.sort_by(|a, b| a.reference.cmp(&b.reference));
        match lock.images.windows(2).find(|pair| pair[0].reference == pair[1].reference) {
            Some(pair) => Err(LockError::Twice(pair[0].reference.clone())),
            None => Ok(lock),
        }
    }

    /// Checks what becomes a part of paths, repositories and helm's command line.
    fn check_names(&self) -> Result<(), NameError> {
        name::component("name", &self.name)?;
        name::version(&self.bundle_version)?;
        name::charts(self.charts.iter().map(|c| (&*c.name, &*c.version, c.digest)))?;
        name::releases(self.charts.iter().map(|c| (&*c.release, c.namespace.as_deref())))?;
        self.files.iter().try_for_each(|file| name::component("file name", &file.name))
    }

    /// The file's text.
    ///
    /// # Errors
    /// None that can be caused by input.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        Ok(format!("{HEADER}{}", toml::to_string(self)?))
    }

    /// Whether both pin the same things: serial and time aside.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        let mut other = other.clone();
        other.serial = self.serial;
        other.created.clone_from(&self.created);
        *self == other
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A lock with one of everything.
    pub(crate) fn sample() -> Lock {
        let digest = Digest::of(b"");
        Lock {
            version: VERSION,
            name: "hello".into(),
            bundle_version: "0.1.0".into(),
            serial: 1,
            created: "2026-11-24T00:00:00Z".into(),
            spec: digest,
            platforms: Platforms::All,
            charts: vec![LockedChart {
                name: "hello".into(),
                version: "0.1.0".into(),
                from: "charts/hello".into(),
                digest,
                size: 3,
                release: "hello".into(),
                namespace: None,
                licenses: None,
                set: vec![],
                signed_by: vec![],
                values: vec![LockedValues { path: "values.yaml".into(), digest }],
                attached: vec![],
            }],
            images: vec![LockedImage {
                reference: "docker.io/library/redis:8".parse().expect("a reference"),
                digest,
                upstream: None,
                media_type: "application/vnd.oci.image.index.v1+json".into(),
                size: 7,
                from: None,
                asked_by: vec!["bundle.toml".into()],
                meant_by: vec![],
                licenses: Some("MIT".into()),
                signed_by: vec!["sha256:0".into()],
                platforms: [("linux/amd64".parse().expect("a platform"), digest)].into(),
                attached: ["1.sig", "2"]
                    .map(|tag| Attached {
                        digest,
                        kind: "a signature".into(),
                        subject: digest,
                        tag: Some(tag.into()).filter(|tag: &String| tag.ends_with("sig")),
                    })
                    .into(),
            }],
            files: vec![],
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let lock = sample();
        let text = lock.to_toml().expect("TOML");
        assert_eq!(Lock::parse(&text).expect(&text), lock);
        assert!(text.starts_with("# Written by"));
    }

    #[test]
    fn other_texts_are_refused() {
        let text = sample().to_toml().expect("TOML");
        for (from, to, says) in [
            ("version = 1\n", "version = 2\n", "version 2"),
            ("serial = 1", "serial = -1", "serial"),
            ("sha256:", "sha512:", "sha512"),
            ("name = ", "nome = ", "nome"),
            ("release = \"hello\"", "release = \"../../x\"", "release \"../../x\""),
            ("release = \"hello\"", "release = \"h\"\nnamespace = \"-n\"", "namespace \"-n\""),
            ("created = \"2026-11-24T", "created = \"yesterday", "\"yesterday00:00:00Z\" is no time"),
            ("bundle_version = \"0.1.0\"", "bundle_version = \"a/../b\"", "version \"a/../b\""),
        ] {
            let error = Lock::parse(&text.replacen(from, to, 1)).expect_err(to).to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
        let image = text.split_once("[[image]]").expect("an image").1;
        let twice = Lock::parse(&format!("{text}\n[[image]]{image}"));
        assert!(matches!(twice, Err(LockError::Twice(_))), "{twice:?}");
    }

    #[test]
    fn serial_and_time_are_not_content() {
        let (one, mut two) = (sample(), sample());
        two.serial = 9;
        two.created = "2027-01-01T00:00:00Z".into();
        assert!(one.same_content(&two));
        two.images[0].size = 8;
        assert!(!one.same_content(&two));
    }
}
