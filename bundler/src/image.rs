//! Images: manifests and indexes as the OCI image spec and Docker's schema 2 have them, and the choice of platforms.
//!
//! Manifests stay the bytes they came as; what is parsed here is only read. Threat model: the bytes come from a
//! registry or a file of somebody else; they are capped by the caller, and a digest pins them once they are locked.

mod keys;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use oci_distribution::manifest as media;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};

mod platform;

pub use platform::Platform;
pub(crate) use platform::by_platform;
use platform::{Fit, RawPlatform};

/// Media type of an OCI image index.
pub const OCI_INDEX: &str = media::OCI_IMAGE_INDEX_MEDIA_TYPE;
/// Media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = media::OCI_IMAGE_MEDIA_TYPE;
const DOCKER_LIST: &str = media::IMAGE_MANIFEST_LIST_MEDIA_TYPE;
const DOCKER_MANIFEST: &str = media::IMAGE_MANIFEST_MEDIA_TYPE;
/// Media types of images' configs.
const IMAGE_CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Most children an index may have, those of indexes within it included, and most layers a manifest may have.
pub(crate) const LIST_CAP: usize = 1000;
/// Largest blob that a descriptor may name, in bytes: a TiB. Sums of sizes stay far from overflowing.
const SIZE_CAP: u64 = 1 << 40;

/// Why bytes are not an image that can be carried.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not a platform.
    #[error(
        "{0:?} is not a platform: expected OS/ARCHITECTURE[/VARIANT], such as linux/amd64, or OS(VERSION)/ARCHITECTURE, such as windows(10.0.20348)/amd64"
    )]
    PlatformText(String),
    /// Not JSON of the right shape.
    #[error("not a manifest or index: {0}")]
    Json(#[from] serde_json::Error),
    /// Docker's schema 1, whose layers have no digests of their own.
    #[error("it is in Docker's schema 1 format, which no digest pins; push it again with a current tool")]
    SchemaOne,
    /// Something else than an image or index.
    #[error("its media type {0:?} is neither an image manifest nor an index")]
    MediaType(String),
    /// A layer that may not be passed on.
    #[error("layer {0} may not be distributed (media type {1})")]
    NotDistributable(Digest, String),
    /// More children or layers than any real image has.
    #[error("it lists more than {LIST_CAP} items")]
    TooMany,
    /// A size that no real blob has.
    #[error("it says that {0} has {1} bytes, more than any image's")]
    Size(Digest, u64),
    /// A key that readers take for another one, or that occurs twice.
    #[error("readers disagree on what it says: {0}")]
    Keys(String),
    /// Content within a descriptor that is not what the descriptor says.
    #[error("the data that it has of {0} is not what that digest says")]
    Data(Digest),
    /// A child of another size than its index says.
    #[error("it has {found} bytes, and the index that lists it says {said}")]
    ChildSize {
        /// Its size.
        found: u64,
        /// The size in the index.
        said: u64,
    },
    /// A child of another type than its index says.
    #[error("the index that lists it says that its media type is {0:?}, and that is not what it is")]
    ChildType(String),
    /// A document that could be read as either.
    #[error("it is both an image manifest and an index")]
    Both,
    /// The image isn't made for a platform.
    #[error("it has no manifest for platform {wanted}; it has: {has}")]
    NoPlatform {
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        has: String,
    },
    /// Several manifests fit.
    #[error("platform {wanted} means several of its manifests: name the variant, one of: {has}")]
    Ambiguous {
        /// What was asked for.
        wanted: Platform,
        /// What fits.
        has: String,
    },
    /// A digest of a kind that we can't check.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// A content descriptor (image spec, "OCI Content Descriptors").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    #[serde(default)]
    pub media_type: String,
    /// Of the content.
    pub digest: Digest,
    /// Size of the content in bytes.
    pub size: u64,
    /// In an index: what the child runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<RawPlatform>,
    /// The content itself, in Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<String>,
}

impl Descriptor {
    /// Of `content`.
    #[must_use]
    pub fn of(media_type: &str, content: &[u8]) -> Self {
        Self::new(media_type, Digest::of(content), content.len() as u64)
    }

    /// Of content with this digest and size.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.into(), digest, size, platform: None, data: None }
    }

    /// The content, where the descriptor has it (image spec, "Embedded Content").
    ///
    /// # Errors
    /// When that is not what the digest says.
    pub fn data(&self) -> Result<Option<Bytes>, ImageError> {
        let Some(data) = &self.data else { return Ok(None) };
        let content = BASE64.decode(data).ok().filter(|content| Digest::of(content) == self.digest);
        content.map(|content| Some(content.into())).ok_or(ImageError::Data(self.digest))
    }

    /// Reports whether the descriptor names an image manifest.
    fn is_manifest(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// Reports whether the descriptor names an index.
    #[must_use]
    pub fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }

    /// Whether it may be passed on, and so is where its manifest is.
    #[must_use]
    pub fn is_distributable(&self) -> bool {
        !self.media_type.contains("nondistributable") && !self.media_type.contains("foreign")
    }

    /// In an index: whether the child's platform is left open. Of attestations the index says that they have none.
    pub(crate) fn says_no_platform(&self) -> bool {
        self.platform.is_none() && matches!(self.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// Notes the child's platform.
    pub(crate) fn is_for(&mut self, platform: &Platform) {
        self.platform = Some(platform.into());
    }

    /// In an index: the child's platform. None for what isn't an image to run, such as a build attestation.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        self.platform.as_ref().and_then(RawPlatform::known)
    }
}

/// Reports whether a config has the media type of an image's config.
pub(crate) fn is_image_config(config: &Descriptor) -> bool {
    IMAGE_CONFIGS.contains(&config.media_type.as_str())
}

/// Checks a config of this media type: where it is that of an image, each reader must take it for the same.
///
/// # Errors
/// When a key of it can be taken for another one, or occurs twice.
pub fn check_config(media_type: &str, config: &[u8]) -> Result<(), ImageError> {
    match IMAGE_CONFIGS.contains(&media_type) || keys::is_image_config(config) {
        true => keys::check_config(config),
        false => Ok(()),
    }
}

/// The platform that an image's config names.
///
/// # Errors
/// When the config is not JSON, or names none.
pub fn config_platform(config: &[u8]) -> Result<Platform, ImageError> {
    let raw: RawPlatform = serde_json::from_slice(config)?;
    raw.known().ok_or_else(|| ImageError::PlatformText(format!("{}/{}", raw.os, raw.architecture)))
}

/// The labels in an image's config (image spec, "OCI Image Configuration"); none for what has no such config.
#[must_use]
pub fn config_labels(config: &[u8]) -> Option<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Raw {
        config: Inner,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inner {
        labels: BTreeMap<String, String>,
    }
    serde_json::from_slice(config).map(|Raw { config }| config.labels).ok()
}

/// An image manifest, read.
#[derive(Clone, Debug, Deserialize)]
pub struct ImageManifest {
    /// The image's configuration.
    pub config: Descriptor,
    /// Its layers, lowest first; none where it has `null`, as tools write that are made in Go.
    #[serde(deserialize_with = "list")]
    pub layers: Vec<Descriptor>,
}

/// An image index, read.
#[derive(Clone, Debug, Deserialize)]
pub struct ImageIndex {
    /// The children.
    #[serde(deserialize_with = "list")]
    pub manifests: Vec<Descriptor>,
}

/// A list, or `null` for an empty one.
fn list<'de, D: serde::Deserializer<'de>>(reader: D) -> Result<Vec<Descriptor>, D::Error> {
    Option::deserialize(reader).map(Option::unwrap_or_default)
}

/// What a tag can point to.
#[derive(Clone, Debug)]
pub enum Parsed {
    /// One image.
    Manifest(ImageManifest),
    /// Several, one a platform.
    Index(ImageIndex),
}

/// Reads a manifest or index that is to be carried. `media_type` is what the registry called it; empty when nothing did.
///
/// # Errors
/// For anything that can't be carried: see [`ImageError`].
pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Parsed, ImageError> {
    let parsed = read(media_type, bytes)?;
    if let Parsed::Manifest(manifest) = &parsed
        && let Some(layer) = manifest.layers.iter().find(|layer| !layer.is_distributable())
    {
        return Err(ImageError::NotDistributable(layer.digest, layer.media_type.clone()));
    }
    Ok(parsed)
}

/// Reads a manifest or index, whether or not all that it names may be passed on.
///
/// # Errors
/// See [`ImageError`].
pub fn read(media_type: &str, bytes: &[u8]) -> Result<Parsed, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        #[serde(default)]
        schema_version: u32,
        #[serde(default)]
        media_type: String,
        config: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
        manifests: Option<IgnoredAny>,
    }
    keys::check_manifest(bytes)?;
    let kind: Kind = serde_json::from_slice(bytes)?;
    if kind.schema_version == 1 {
        return Err(ImageError::SchemaOne);
    }
    // Without a media type of its own such a document is what each reader takes it for (CVE-2021-41190).
    if kind.manifests.is_some() && (kind.config.is_some() || kind.layers.is_some()) {
        return Err(ImageError::Both);
    }
    let fits = |descriptors: &[Descriptor]| {
        if descriptors.len() > LIST_CAP {
            return Err(ImageError::TooMany);
        }
        descriptors.iter().try_for_each(|descriptor| descriptor.data().map(drop))?;
        let huge = descriptors.iter().find(|descriptor| descriptor.size > SIZE_CAP);
        huge.map_or(Ok(()), |huge| Err(ImageError::Size(huge.digest, huge.size)))
    };
    // The document's own word first: it is what the digest covers.
    let said = if kind.media_type.is_empty() { media_type } else { &kind.media_type };
    match said {
        OCI_INDEX | DOCKER_LIST => {
            let index: ImageIndex = serde_json::from_slice(bytes)?;
            fits(&index.manifests)?;
            Ok(Parsed::Index(index))
        }
        OCI_MANIFEST | DOCKER_MANIFEST => {
            let manifest: ImageManifest = serde_json::from_slice(bytes)?;
            fits(&manifest.layers)?;
            fits(std::slice::from_ref(&manifest.config))?;
            Ok(Parsed::Manifest(manifest))
        }
        other => Err(ImageError::MediaType(other.into())),
    }
}

/// Reads a manifest or index that an index lists.
///
/// # Errors
/// As [`parse`], and when it has another size, or is of another kind, than the index says.
pub fn parse_child(child: &Descriptor, bytes: &[u8]) -> Result<Parsed, ImageError> {
    let found = bytes.len() as u64;
    if found != child.size {
        return Err(ImageError::ChildSize { found, said: child.size });
    }
    match parse(&child.media_type, bytes)? {
        // Container runtimes go by the index.
        Parsed::Index(index) if child.is_index() => Ok(Parsed::Index(index)),
        Parsed::Manifest(manifest) if child.is_manifest() => Ok(Parsed::Manifest(manifest)),
        _ => Err(ImageError::ChildType(child.media_type.clone())),
    }
}

/// The media type of a manifest or index: its own word, or else the one it was called by.
#[must_use]
pub fn media_type(said: &str, bytes: &[u8]) -> String {
    let own = relation(bytes).ok().and_then(|relation| relation.media_type().map(str::to_owned));
    own.unwrap_or_else(|| said.to_owned())
}

/// What a manifest or index says about itself, and about another one that it belongs to (image spec, "Image Manifest
/// Property Descriptions").
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Relation {
    /// What it was made for: the image that a signature signs.
    #[serde(default)]
    pub subject: Option<Descriptor>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    config: Option<Config>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    media_type: String,
}

/// Reads what a manifest or index says of others.
///
/// # Errors
/// When it is no JSON of that shape.
pub fn relation(bytes: &[u8]) -> Result<Relation, ImageError> {
    Ok(serde_json::from_slice(bytes)?)
}

/// The descriptor by which a manifest stands in a list of referrers (distribution spec, "Listing Referrers").
///
/// # Errors
/// When `manifest` is no JSON of that shape.
pub fn referrer(media_type: &str, digest: &Digest, manifest: &[u8]) -> Result<serde_json::Value, ImageError> {
    let relation = relation(manifest)?;
    let mut descriptor = serde_json::json!({
        "mediaType": media_type, "digest": digest, "size": manifest.len(), "artifactType": relation.artifact_type(),
    });
    if let Some(annotations) = relation.annotations() {
        descriptor["annotations"] = serde_json::json!(annotations);
    }
    Ok(descriptor)
}

impl Relation {
    /// What it says that it is itself.
    #[must_use]
    pub fn media_type(&self) -> Option<&str> {
        self.media_type.as_deref().filter(|own| !own.is_empty())
    }

    /// The kind of artifact, as a list of referrers has it: its own word, or else the type of its config (distribution spec,
    /// "Listing Referrers").
    #[must_use]
    pub fn artifact_type(&self) -> &str {
        let own = self.artifact_type.as_deref().filter(|own| !own.is_empty());
        own.or(self.config.as_ref().map(|config| config.media_type.as_str())).unwrap_or_default()
    }

    /// Its annotations.
    #[must_use]
    pub fn annotations(&self) -> Option<&BTreeMap<String, String>> {
        self.annotations.as_ref()
    }
}

impl ImageIndex {
    /// The children that `wanted` means, with their platforms as the index spells them. An exact match comes first, then
    /// what a runtime takes there: another spelling, the nearest older variant. Of several versions of an operating
    /// system it is the newest, and of equals the one that stands first.
    ///
    /// # Errors
    /// When a platform is not there, or means several variants.
    pub fn choose(&self, wanted: &[Platform]) -> Result<Vec<(Platform, Descriptor)>, ImageError> {
        let has: Vec<_> = self.manifests.iter().filter_map(|d| d.platform().map(|p| (p, d))).collect();
        let list = |some: &[&(Platform, &Descriptor)]| {
            let names: Vec<String> = some.iter().map(|(p, _)| p.to_string()).collect();
            if names.is_empty() { "none".into() } else { names.join(", ") }
        };
        let mut chosen: Vec<(Platform, Descriptor)> = Vec::new();
        for platform in wanted {
            let mut fits: Vec<_> = has.iter().filter_map(|p| Some((platform.fit(&p.0)?, p))).collect();
            fits.sort_by_key(|(fit, (p, _))| (*fit, std::cmp::Reverse(p.version())));
            let wanted = || platform.clone();
            let Some((fit, (found, descriptor))) = fits.first() else {
                return Err(ImageError::NoPlatform {
                    wanted: wanted(),
                    has: list(&has.iter().collect::<Vec<_>>()),
                });
            };
            if *fit == Fit::Any && fits.iter().any(|(_, (p, _))| p.canonical() != found.canonical()) {
                let has = list(&fits.iter().map(|(_, p)| *p).collect::<Vec<_>>());
                return Err(ImageError::Ambiguous { wanted: wanted(), has });
            }
            if !chosen.iter().any(|(p, _)| p == found) {
                chosen.push((found.clone(), (*descriptor).clone()));
            }
        }
        chosen.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(chosen)
    }
}

/// Checks that an image without an index is made for what is wanted.
///
/// # Errors
/// When it is for another platform.
pub fn check_single(has: &Platform, wanted: &[Platform]) -> Result<(), ImageError> {
    match wanted.iter().find(|w| w.fit(has).is_none()) {
        Some(wanted) => Err(ImageError::NoPlatform { wanted: wanted.clone(), has: has.to_string() }),
        None => Ok(()),
    }
}

/// An index of only the children in `keep`, everything else as in `index`: the same input gives the same bytes.
///
/// # Errors
/// When `index` is not an index.
pub fn derive_index(index: &[u8], keep: &[Digest]) -> Result<Vec<u8>, ImageError> {
    derive_flat_index(index, &[], keep)
}

/// As [`derive_index`]; children of the indexes `within` it stand behind its own.
///
/// # Errors
/// When one of them is not an index.
pub fn derive_flat_index(index: &[u8], within: &[Bytes], keep: &[Digest]) -> Result<Vec<u8>, ImageError> {
    let mut document: serde_json::Value = serde_json::from_slice(index)?;
    let mut kept: Vec<serde_json::Value> = Vec::new();
    for bytes in std::iter::once(index).chain(within.iter().map(|bytes| &**bytes)) {
        let mut inner: serde_json::Value = serde_json::from_slice(bytes)?;
        let children = inner.get_mut("manifests").and_then(serde_json::Value::as_array_mut);
        for child in children.into_iter().flat_map(std::mem::take) {
            let digest = child.get("digest").and_then(serde_json::Value::as_str).and_then(|d| d.parse().ok());
            let is_new =
                |kept: &[serde_json::Value]| kept.iter().all(|other| other["digest"] != child["digest"]);
            if digest.is_some_and(|digest: Digest| keep.contains(&digest))
                && (within.is_empty() || is_new(&kept))
            {
                kept.push(child);
            }
        }
    }
    document["manifests"] = kept.into();
    Ok(serde_json::to_vec(&document)?)
}

/// A manifest of our own making, for content that comes without one: the same input gives the same bytes.
///
/// # Errors
/// None that can be caused by input.
pub fn oci_manifest(
    config: &Descriptor,
    layers: &[Descriptor],
    annotations: &BTreeMap<&str, &str>,
) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Document<'a> {
        schema_version: u32,
        media_type: &'a str,
        config: &'a Descriptor,
        layers: &'a [Descriptor],
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        annotations: &'a BTreeMap<&'a str, &'a str>,
    }
    serde_json::to_vec(&Document { schema_version: 2, media_type: OCI_MANIFEST, config, layers, annotations })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().expect(text)
    }

    fn index(platforms: &[(&str, &str, &str)]) -> Vec<u8> {
        let children: Vec<_> = platforms
            .iter()
            .enumerate()
            .map(|(n, (os, architecture, variant))| {
                serde_json::json!({
                    "mediaType": OCI_MANIFEST, "size": 7, "digest": Digest::of(&[n as u8]),
                    "platform": {"os": os, "architecture": architecture, "variant": variant},
                })
            })
            .collect();
        serde_json::to_vec(
            &serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}),
        )
        .expect("JSON")
    }

    fn parsed(bytes: &[u8]) -> ImageIndex {
        match parse("", bytes) {
            Ok(Parsed::Index(index)) => index,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn platforms_are_chosen_by_name_and_variant() {
        let bytes = index(&[
            ("linux", "amd64", ""),
            ("linux", "arm64", "v8"),
            ("linux", "arm", "v6"),
            ("linux", "arm", "v7"),
            ("unknown", "unknown", ""),
        ]);
        let index = parsed(&bytes);
        let chosen = |wanted: &[&str]| {
            let wanted: Vec<_> = wanted.iter().map(|w| platform(w)).collect();
            let names = |chosen: Vec<(Platform, Descriptor)>| {
                chosen.iter().map(|(p, _)| p.to_string()).collect::<Vec<_>>()
            };
            index.choose(&wanted).map(|chosen| names(chosen).join(" "))
        };
        assert_eq!(chosen(&["linux/arm64", "linux/amd64"]).expect("both"), "linux/amd64 linux/arm64/v8");
        assert_eq!(chosen(&["linux/arm/v7"]).expect("v7"), "linux/arm/v7");
        assert!(matches!(chosen(&["linux/arm"]), Err(ImageError::Ambiguous { .. })));
        let missing = chosen(&["windows/amd64"]).expect_err("no windows").to_string();
        assert!(missing.contains("windows/amd64") && missing.contains("linux/arm64/v8"), "{missing}");
        assert!(!missing.contains("unknown"), "{missing}");
    }

    #[test]
    fn a_derived_index_has_the_chosen_children_and_the_rest_unchanged() {
        let bytes = index(&[("linux", "amd64", ""), ("linux", "arm64", ""), ("linux", "s390x", "")]);
        let children = parsed(&bytes).manifests;
        let derived = derive_index(&bytes, &[children[2].digest, children[0].digest]).expect("an index");
        let kept: Vec<_> = parsed(&derived).manifests;
        assert_eq!(kept, [children[0].clone(), children[2].clone()]);
        let all: Vec<_> = children.iter().map(|c| c.digest).collect();
        let again = derive_index(&derive_index(&bytes, &all).expect("all"), &all).expect("all");
        assert_eq!(parsed(&again).manifests, children);
    }

    #[test]
    fn what_cannot_be_carried_is_refused_by_name() {
        let refused = |media_type: &str, json: &str| match parse(media_type, json.as_bytes()) {
            Err(error) => error.to_string(),
            Ok(parsed) => panic!("{parsed:?}"),
        };
        assert!(refused("", r#"{"schemaVersion":1}"#).contains("schema 1"));
        assert!(refused("application/json", r#"{"schemaVersion":2}"#).contains("application/json"));
        assert!(refused("", "7").contains("not a manifest"));
        let digest = Digest::of(b"");
        let foreign = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":1}},
                "layers":[{{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"{digest}","size":1}}]}}"#
        );
        assert!(refused(OCI_MANIFEST, &foreign).contains("may not be distributed"));
        let both = foreign.replace("\"layers\"", "\"manifests\":[],\"layers\"");
        assert!(refused(OCI_MANIFEST, &both).contains("both"));
        assert!(refused(OCI_INDEX, &both).contains("both"));
        let huge = foreign.replace("\"size\":1}", &format!("\"size\":{}}}", u64::MAX));
        assert!(refused(OCI_MANIFEST, &huge).contains("18446744073709551615 bytes"));
        let sha512 = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"sha512:{}","size":1}}]}}"#,
            "a".repeat(128)
        );
        assert!(refused(OCI_INDEX, &sha512).contains("sha512"));
        let many: Vec<_> = (0..=LIST_CAP).map(|_| ("linux", "amd64", "")).collect();
        assert!(refused("", &String::from_utf8_lossy(&index(&many))).contains("more than"));
    }

    #[test]
    fn a_single_image_is_for_its_own_platform_only() {
        let has =
            config_platform(br#"{"os":"linux","architecture":"arm64","variant":"v8"}"#).expect("a platform");
        assert!(check_single(&has, &[platform("linux/arm64")]).is_ok());
        assert!(check_single(&has, &[platform("linux/arm64"), platform("linux/amd64")]).is_err());
        assert!(config_platform(b"{}").is_err());
        for text in ["linux", "", "/", "linux/", "a/b/c/d", "linux/amd 64", "linux/../x"] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }
}
