//! From a tag or digest to what is carried of an image: `lock` asks with a tag, `plan` with the digest it pinned, and
//! both must come to the same.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{self, Descriptor, ImageError, ImageIndex, ImageManifest, LIST_CAP, Parsed, Platform};
use crate::origin::Origin;
use crate::registry::{Manifest, Repository};
use crate::source::LocalImage;
use crate::spec::Platforms;

/// Hint for an image that can't be carried as it is.
const REPAIR: &str = "have it built and pushed again with a current tool";

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

    /// Returns where a layer's bytes are: in its descriptor, or where its manifest comes from.
    ///
    /// # Errors
    /// As [`Self::origin`].
    pub fn layer(&self, layer: &Descriptor) -> Result<Origin> {
        match layer.data().map_err(|e| Error::trust(format!("reading layer {}", layer.digest), e))? {
            Some(content) => Ok(Origin::Bytes(content)),
            None => self.origin(&layer.digest),
        }
    }

    /// A config, whole and checked.
    ///
    /// # Errors
    /// When it can't be had, is not what its descriptor says, or readers disagree on what it says.
    pub async fn config(&self, config: &Descriptor) -> Result<Bytes> {
        let reading = || format!("reading config {}", config.digest);
        let content = match config.data().map_err(|e| Error::trust(reading(), e))? {
            Some(content) => content,
            None => self.origin(&config.digest)?.read(&config.digest, config.size).await?,
        };
        if content.len() as u64 != config.size {
            let why = format!("it has {} bytes, and its manifest says {}", content.len(), config.size);
            return Err(Error::trust(reading(), why).hint(REPAIR));
        }
        image::check_config(&config.media_type, &content).map_err(|e| unreadable(reading(), e))?;
        Ok(content)
    }
}

/// What is carried of an image.
pub struct Resolved {
    /// The manifest or index that is carried.
    pub root: Manifest,
    /// The index that was asked for, where that is not what is carried.
    pub upstream: Option<Manifest>,
    /// Indexes within `upstream`, where it has some and what is carried comes out of them.
    pub within: Vec<Manifest>,
    /// The manifests below an index that is carried, and the indexes within it.
    pub children: Vec<Manifest>,
    /// The carried manifest of each platform.
    pub platforms: BTreeMap<Platform, Digest>,
    /// Layers, as the manifests name them.
    pub layers: Vec<Descriptor>,
    /// Configs.
    pub configs: BTreeMap<Digest, Bytes>,
    /// The manifest, where the root is one.
    pub single: Option<ImageManifest>,
}

impl Resolved {
    /// Bytes of everything that is carried.
    #[must_use]
    pub fn size(&self) -> u64 {
        let manifests = [Some(&self.root), self.upstream.as_ref()].into_iter().flatten();
        let manifests = manifests.chain(&self.within).chain(&self.children);
        let layers: BTreeMap<_, _> = self.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
        manifests.map(|m| m.bytes.len() as u64).sum::<u64>()
            + layers.values().sum::<u64>()
            + self.configs.values().map(|config| config.len() as u64).sum::<u64>()
    }

    /// Its licences, as a label of the config or an annotation says (image spec, "Pre-Defined Annotation Keys"); of several
    /// platforms the first one's.
    #[must_use]
    pub fn licenses(&self) -> Option<String> {
        const KEY: &str = "org.opencontainers.image.licenses";
        let is_manifest =
            |it: &&Manifest| matches!(image::parse(&it.media_type, &it.bytes), Ok(Parsed::Manifest(_)));
        let manifest = self.children.iter().find(is_manifest).unwrap_or(&self.root);
        let Ok(Parsed::Manifest(parsed)) = image::parse(&manifest.media_type, &manifest.bytes) else {
            return None;
        };
        let config = self.configs.get(&parsed.config.digest)?;
        let label = image::config_labels(config).and_then(|mut labels| labels.remove(KEY));
        let annotation = || image::relation(&manifest.bytes).ok()?.annotations()?.get(KEY).cloned();
        label.or_else(annotation).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Media type of what was asked for.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.upstream.as_ref().unwrap_or(&self.root).media_type
    }

    /// Adds what a manifest names; its config is read, since what it says must be the same to each reader.
    async fn add(&mut self, source: &ImageSource, name: &str, manifest: &ImageManifest) -> Result<()> {
        let config = &manifest.config;
        match self.configs.entry(config.digest) {
            Slot::Occupied(known) if known.get().len() as u64 == config.size => {}
            // Of another size than a manifest before has said: that is found out again.
            Slot::Occupied(_) => drop(source.config(config).await.map_err(|e| e.within(resolving(name)))?),
            Slot::Vacant(slot) => {
                let content = source.config(config).await.map_err(|e| e.within(resolving(name)))?;
                slot.insert(content);
            }
        }
        self.layers.extend(manifest.layers.iter().cloned());
        Ok(())
    }
}

fn resolving(name: &str) -> String {
    format!("resolving image {name}")
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
    let asked = source.manifest(tag_or_digest).await.map_err(|e| e.within(resolving(name)))?;
    let parsed = parse(name, &asked)?;
    let asked = Manifest { media_type: image::media_type(&asked.media_type, &asked.bytes), ..asked };
    let manifest = match parsed {
        Parsed::Manifest(manifest) => manifest,
        Parsed::Index(index) => return from_index(source, name, asked, &index, wanted).await,
    };
    let digest = asked.digest;
    let mut resolved = Resolved::new(asked);
    resolved.add(source, name, &manifest).await?;
    let has = platform(&manifest, &resolved.configs).map_err(|e| e.within(resolving(name)))?;
    if let (Some(has), Platforms::Some(wanted)) = (&has, wanted) {
        image::check_single(has, wanted).map_err(|e| no_platform(name, &e))?;
    }
    resolved.platforms = has.map(|platform| (platform, digest)).into_iter().collect();
    resolved.single = Some(manifest);
    Ok(resolved)
}

impl Resolved {
    fn new(root: Manifest) -> Self {
        Self {
            root,
            upstream: None,
            within: vec![],
            children: vec![],
            platforms: BTreeMap::new(),
            layers: vec![],
            configs: BTreeMap::new(),
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
    let (mut children, mut within, mut found) = (Vec::new(), Vec::new(), Vec::new());
    match wanted {
        Platforms::All => {
            children = below(source, name, index, |_| true).await?;
            let inner = children.iter().filter_map(|(_, parsed)| match parsed {
                Parsed::Index(inner) => Some(inner),
                Parsed::Manifest(_) => None,
            });
            let listed = std::iter::once(index).chain(inner).flat_map(|index| &index.manifests);
            // An index may have a platform, too; what runs there is below it.
            let listed = listed.filter(|d| !d.is_index());
            found.extend(listed.filter_map(|d| Some((d.platform()?, d.digest))));
        }
        Platforms::Some(wanted) => {
            let (chosen, inner) = choose(source, name, index, wanted).await?;
            within = inner;
            for (platform, descriptor) in chosen {
                if found.iter().all(|(_, there)| *there != descriptor.digest) {
                    children.push(child(source, name, &descriptor).await?);
                }
                found.push((platform, descriptor.digest));
            }
        }
    }
    let platforms = image::by_platform(found);
    let is_all = *wanted == Platforms::All || (within.is_empty() && platforms.len() == index.manifests.len());
    let digests: Vec<_> = platforms.values().copied().collect();
    let (mut manifests, parsed): (Vec<_>, Vec<_>) = children.into_iter().unzip();
    let mut resolved = match (is_all, parsed.as_slice()) {
        (_, [Parsed::Manifest(only)]) if *wanted != Platforms::All => {
            let mut resolved = Resolved::new(manifests.remove(0));
            (resolved.upstream, resolved.single) = (Some(asked), Some(only.clone()));
            resolved
        }
        (true, _) => Resolved::new(asked),
        (false, _) => {
            let inner: Vec<_> = within.iter().map(|manifest| manifest.bytes.clone()).collect();
            let bytes: Bytes = image::derive_flat_index(&asked.bytes, &inner, &digests)
                .map_err(|e| Error::input(format!("choosing platforms of image {name}"), e))?
                .into();
            let media_type = asked.media_type.clone();
            let mut resolved = Resolved::new(Manifest { digest: Digest::of(&bytes), bytes, media_type });
            resolved.upstream = Some(asked);
            resolved
        }
    };
    (resolved.platforms, resolved.within, resolved.children) = (platforms, within, manifests);
    for parsed in &parsed {
        if let Parsed::Manifest(manifest) = parsed {
            resolved.add(source, name, manifest).await?;
        }
    }
    Ok(resolved)
}

/// Fetches what an index lists, and what the indexes in it list, as far as it is `wanted`; each once.
async fn below(
    source: &ImageSource,
    name: &str,
    index: &ImageIndex,
    wanted: impl Fn(&Descriptor) -> bool,
) -> Result<Vec<(Manifest, Parsed)>> {
    let mut queue: VecDeque<Descriptor> = index.manifests.iter().cloned().collect();
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    while let Some(descriptor) = queue.pop_front() {
        if !wanted(&descriptor) || !seen.insert(descriptor.digest) {
            continue;
        }
        if seen.len() > LIST_CAP {
            return Err(Error::input(resolving(name), ImageError::TooMany));
        }
        let (manifest, parsed) = child(source, name, &descriptor).await?;
        if let Parsed::Index(inner) = &parsed {
            queue.extend(inner.manifests.iter().cloned());
        }
        found.push((manifest, parsed));
    }
    Ok(found)
}

/// Fetches what an index lists.
async fn child(source: &ImageSource, name: &str, descriptor: &Descriptor) -> Result<(Manifest, Parsed)> {
    let raw = source.manifest(&descriptor.digest.to_string()).await;
    let raw = raw.map_err(|e| e.within(resolving(name)))?;
    let parsed = image::parse_child(descriptor, &raw.bytes)
        .map_err(|e| unreadable(format!("reading {} of image {name}", descriptor.digest), e))?;
    let media_type = image::media_type(&descriptor.media_type, &raw.bytes);
    Ok((Manifest { media_type, ..raw }, parsed))
}

/// An index as if what the indexes within it list were its own; each manifest once for a platform.
fn flat(index: &ImageIndex, within: &[(Manifest, Parsed)]) -> ImageIndex {
    let inner = within.iter().filter_map(|(_, parsed)| match parsed {
        Parsed::Index(inner) => Some(inner),
        Parsed::Manifest(_) => None,
    });
    let mut seen = BTreeSet::new();
    let listed = std::iter::once(index).chain(inner).flat_map(|index| &index.manifests);
    let manifests =
        listed.filter(|d| !d.is_index() && seen.insert((d.digest, d.platform()))).cloned().collect();
    ImageIndex { manifests }
}

/// Chooses platforms of an index; also returns the indexes within it, where the choice needs them. Children whose platform
/// it does not say are asked for it only where they are needed: as in containerd, their configs say it.
async fn choose(
    source: &ImageSource,
    name: &str,
    index: &ImageIndex,
    wanted: &[Platform],
) -> Result<(Vec<(Platform, Descriptor)>, Vec<Manifest>)> {
    let (mut told, mut within) = (flat(index, &[]), vec![]);
    let refused = match told.choose(wanted) {
        Ok(chosen) => return Ok((chosen, vec![])),
        Err(error) => error,
    };
    let is_nested = index.manifests.iter().any(Descriptor::is_index);
    if matches!(refused, ImageError::NoPlatform { .. }) && is_nested {
        let inner = below(source, name, index, Descriptor::is_index).await?;
        told = flat(index, &inner);
        within = inner.into_iter().map(|(manifest, _)| manifest).collect();
    }
    for descriptor in told.manifests.iter_mut().filter(|descriptor| descriptor.says_no_platform()) {
        let (_, parsed) = child(source, name, descriptor).await?;
        let Parsed::Manifest(manifest) = parsed else { continue };
        if image::is_image_config(&manifest.config) {
            let config = source.config(&manifest.config).await.map_err(|e| e.within(resolving(name)))?;
            image::config_platform(&config).iter().for_each(|platform| descriptor.is_for(platform));
        }
    }
    let chosen = told.choose(wanted).map_err(|e| no_platform(name, &e))?;
    Ok((chosen, within))
}

fn parse(name: &str, manifest: &Manifest) -> Result<Parsed> {
    image::parse(&manifest.media_type, &manifest.bytes)
        .map_err(|e| unreadable(format!("reading {} of image {name}", manifest.digest), e))
}

fn unreadable(reading: String, error: ImageError) -> Error {
    let is_fault = matches!(
        error,
        ImageError::Keys(_) | ImageError::Data(_) | ImageError::ChildSize { .. } | ImageError::ChildType(_)
    );
    let error = Error::input(reading, error);
    if is_fault { error.hint(REPAIR) } else { error }
}

/// Returns the platform of a manifest without an index; none if it isn't an image to run.
fn platform(manifest: &ImageManifest, configs: &BTreeMap<Digest, Bytes>) -> Result<Option<Platform>> {
    let digest = &manifest.config.digest;
    match configs.get(digest) {
        Some(config) if image::is_image_config(&manifest.config) => image::config_platform(config)
            .map(Some)
            .map_err(|e| Error::input(format!("reading config {digest}"), e)),
        _ => Ok(None),
    }
}

fn no_platform(name: &str, error: &ImageError) -> Error {
    Error::input(format!("choosing platforms of image {name}"), error.to_string())
        .hint("change `platforms` in bundle.toml, or use an image that is made for them")
}
