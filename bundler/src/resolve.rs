//! From a tag or digest to what is carried of an image: `lock` asks with a tag, `plan` with the digest it pinned, and
//! both must come to the same.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{self, Descriptor, ImageIndex, ImageManifest, Parsed, Platform};
use crate::origin::Origin;
use crate::registry::{Manifest, Repository};
use crate::source::LocalImage;
use crate::spec::Platforms;

/// Where an image's bytes come from.
pub enum ImageSource {
    /// A repository in a registry.
    Registry(Repository),
    /// A layout, an archive or an engine's image on this machine.
    Local(LocalImage),
}

impl ImageSource {
    /// A manifest or index.
    ///
    /// # Errors
    /// When it is not there, or not what its digest says.
    pub async fn manifest(&self, tag_or_digest: &str) -> Result<Manifest> {
        match self {
            Self::Registry(repository) => repository.manifest(tag_or_digest).await,
            Self::Local(image) => {
                // A local source is opened for one image: whatever tag is asked for is that one.
                let digest = tag_or_digest.parse().unwrap_or(image.root.digest);
                let bytes = Bytes::from(image.manifest(&digest)?);
                let is_root = digest == image.root.digest;
                let media_type =
                    if is_root { image.root.media_type.clone() } else { image::OCI_MANIFEST.into() };
                Ok(Manifest { bytes, media_type, digest })
            }
        }
    }

    /// Where a blob's bytes are.
    ///
    /// # Errors
    /// When a local source doesn't have it.
    pub fn origin(&self, digest: &Digest) -> Result<Origin> {
        match self {
            Self::Registry(repository) => Ok(Origin::Registry(repository.clone())),
            Self::Local(image) => match image.locate(digest) {
                Some(located) => Ok(Origin::File { path: located.path, offset: located.offset }),
                None => {
                    Err(Error::input(format!("reading blob {digest}"), "the image's source does not have it"))
                }
            },
        }
    }

    /// A config, whole.
    async fn config(&self, descriptor: &Descriptor) -> Result<Bytes> {
        self.origin(&descriptor.digest)?.read(&descriptor.digest, descriptor.size).await
    }
}

/// What is carried of an image.
pub struct Resolved {
    /// The manifest or index that is carried.
    pub root: Manifest,
    /// The index that was asked for, where that is not what is carried.
    pub upstream: Option<Manifest>,
    /// The manifests below an index.
    pub children: Vec<Manifest>,
    /// The carried manifest of each platform.
    pub platforms: BTreeMap<Platform, Digest>,
    /// Layers, with their sizes.
    pub layers: BTreeMap<Digest, u64>,
    /// Configs, with their sizes.
    pub configs: BTreeMap<Digest, u64>,
    /// The config, where it had to be read.
    pub config: Option<Bytes>,
    /// The manifest, where the root is one.
    pub single: Option<ImageManifest>,
}

impl Resolved {
    /// Bytes of everything that is carried.
    #[must_use]
    pub fn size(&self) -> u64 {
        let manifests =
            [Some(&self.root), self.upstream.as_ref()].into_iter().flatten().chain(&self.children);
        manifests.map(|m| m.bytes.len() as u64).sum::<u64>()
            + self.layers.values().chain(self.configs.values()).sum::<u64>()
    }

    /// Its licences, as a label of the config or an annotation says (image spec, "Pre-Defined Annotation Keys"); of several
    /// platforms the first one's.
    ///
    /// # Errors
    /// When the config can't be read.
    pub async fn licenses(&self, source: &ImageSource) -> Result<Option<String>> {
        const KEY: &str = "org.opencontainers.image.licenses";
        let manifest = self.children.first().unwrap_or(&self.root);
        let Ok(Parsed::Manifest(parsed)) = image::parse(&manifest.media_type, &manifest.bytes) else {
            return Ok(None);
        };
        let config = match &self.config {
            Some(config) => config.clone(),
            None => source.config(&parsed.config).await?,
        };
        let label = image::config_labels(&config).and_then(|mut labels| labels.remove(KEY));
        let annotation = || image::relation(&manifest.bytes).ok()?.annotations()?.get(KEY).cloned();
        Ok(label.or_else(annotation).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
    }

    /// Media type of what was asked for.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.upstream.as_ref().unwrap_or(&self.root).media_type
    }

    fn add(&mut self, manifest: &ImageManifest) {
        self.configs.insert(manifest.config.digest, manifest.config.size);
        self.layers.extend(manifest.layers.iter().map(|layer| (layer.digest, layer.size)));
    }
}

/// Fetches the manifests of an image and chooses its platforms. `name` is for messages.
///
/// # Errors
/// When it is not there, not an image that can be carried, or not made for a platform.
pub async fn resolve(
    source: &ImageSource,
    name: &str,
    tag_or_digest: &str,
    wanted: &Platforms,
) -> Result<Resolved> {
    let doing = || format!("resolving image {name}");
    let asked = source.manifest(tag_or_digest).await.map_err(|e| e.within(doing()))?;
    match parse(name, &asked)? {
        Parsed::Manifest(manifest) => {
            let (has, config) = platform(source, &manifest).await.map_err(|e| e.within(doing()))?.unzip();
            if let (Some(has), Platforms::Some(wanted)) = (&has, wanted) {
                image::check_single(has, wanted).map_err(|e| no_platform(name, &e))?;
            }
            let platforms = has.map(|platform| (platform, asked.digest)).into_iter().collect();
            let mut resolved = Resolved::new(asked, platforms);
            resolved.config = config;
            resolved.add(&manifest);
            resolved.single = Some(manifest);
            Ok(resolved)
        }
        Parsed::Index(index) => from_index(source, name, asked, &index, wanted).await,
    }
}

impl Resolved {
    fn new(root: Manifest, platforms: BTreeMap<Platform, Digest>) -> Self {
        let (layers, configs) = Default::default();
        Self {
            root,
            upstream: None,
            children: vec![],
            platforms,
            layers,
            configs,
            config: None,
            single: None,
        }
    }
}

async fn from_index(
    source: &ImageSource,
    name: &str,
    asked: Manifest,
    index: &ImageIndex,
    wanted: &Platforms,
) -> Result<Resolved> {
    let chosen = match wanted {
        Platforms::All => None,
        Platforms::Some(wanted) => Some(index.choose(wanted).map_err(|e| no_platform(name, &e))?),
    };
    let keep: Vec<Descriptor> = match &chosen {
        None => index.manifests.clone(),
        Some(chosen) => chosen.values().cloned().collect(),
    };
    let platforms = match chosen {
        Some(chosen) => chosen.into_iter().map(|(platform, d)| (platform, d.digest)).collect(),
        None => keep.iter().filter_map(|d| d.platform().map(|p| (p, d.digest))).collect(),
    };
    let mut children = Vec::new();
    let mut manifests = Vec::new();
    for child in &keep {
        let raw = source
            .manifest(&child.digest.to_string())
            .await
            .map_err(|e| e.within(format!("resolving image {name}")))?;
        match parse(name, &raw)? {
            Parsed::Manifest(manifest) => manifests.push(manifest),
            Parsed::Index(_) => {
                return Err(Error::input(
                    format!("resolving image {name}"),
                    "it has an index within its index",
                ));
            }
        }
        children.push(raw);
    }
    let all = keep.len() == index.manifests.len();
    let mut resolved = if keep.len() == 1 && !matches!(wanted, Platforms::All) {
        let mut resolved = Resolved::new(children.remove(0), platforms);
        resolved.upstream = Some(asked);
        resolved.single = manifests.first().cloned();
        resolved
    } else if all {
        Resolved::new(asked, platforms)
    } else {
        let digests: Vec<_> = keep.iter().map(|d| d.digest).collect();
        let bytes: Bytes = image::derive_index(&asked.bytes, &digests)
            .map_err(|e| Error::input(format!("choosing platforms of image {name}"), e))?
            .into();
        let derived = Manifest { digest: Digest::of(&bytes), bytes, media_type: asked.media_type.clone() };
        let mut resolved = Resolved::new(derived, platforms);
        resolved.upstream = Some(asked);
        resolved
    };
    resolved.children = children;
    for manifest in &manifests {
        resolved.add(manifest);
    }
    Ok(resolved)
}

fn parse(name: &str, manifest: &Manifest) -> Result<Parsed> {
    image::parse(&manifest.media_type, &manifest.bytes)
        .map_err(|e| Error::input(format!("reading {} of image {name}", manifest.digest), e))
}

/// What a manifest without an index runs on, and the config that says so; none for what isn't an image to run.
async fn platform(source: &ImageSource, manifest: &ImageManifest) -> Result<Option<(Platform, Bytes)>> {
    const IMAGE_CONFIGS: [&str; 2] =
        ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
    if !IMAGE_CONFIGS.contains(&manifest.config.media_type.as_str()) {
        return Ok(None);
    }
    let config = source.config(&manifest.config).await?;
    let platform = image::config_platform(&config)
        .map_err(|e| Error::input(format!("reading config {}", manifest.config.digest), e))?;
    Ok(Some((platform, config)))
}

fn no_platform(name: &str, error: &image::ImageError) -> Error {
    Error::input(format!("choosing platforms of image {name}"), error.to_string())
        .hint("change `platforms` in bundle.toml, or use an image that is made for them")
}
