//! From pins to the whole tar, laid out before a layer byte is fetched: a digest pins all that is below it, manifests
//! are small, and with them every size is known.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fmt::Display;

use bytes::Bytes;

use crate::archive::Layout;
use crate::attached::Attached;
use crate::chart::Chart;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fetch;
use crate::file;
use crate::format::{self, Indexed, ListedEntry, MANIFEST_CAP, METADATA_CAP, Manifest, Name, Sha256Hex};
use crate::image::{self, ImageManifest, OCI_MANIFEST, Parsed};
use crate::lock::{Lock, LockedChart, LockedFile, LockedImage};
use crate::origin::{CHANGED, Origin, Sources};
use crate::reference::{Reference, source_path};
use crate::resolve::{ImageSource, resolve};
use crate::sign;
use crate::statement;

/// A tar, laid out.
pub struct Plan {
    /// What `airlock.json` says.
    pub manifest: Manifest,
    /// Its bytes.
    pub manifest_bytes: Vec<u8>,
    /// Every entry with its place.
    pub layout: Layout,
    /// Where each listed entry's bytes come from, in the order of `manifest.entries`.
    pub origins: Vec<Origin>,
}

/// Plans the bundle of a lock. `lock_text` goes into it as it is.
///
/// # Errors
/// When something pinned is not there any more, or has changed.
pub async fn plan(lock: &Lock, lock_text: &str, sources: &Sources<'_>) -> Result<Plan> {
    let mut content = Content::default();
    let mut images = Vec::new();
    let mut singles = Vec::new();
    for locked in &lock.images {
        let (image, single) = plan_image(locked, lock, sources, &mut content).await?;
        singles.extend(single.map(|manifest| (image.reference.clone(), manifest)));
        images.push(image);
    }
    let mut charts = Vec::new();
    for locked in &lock.charts {
        charts.push(plan_chart(locked, sources, &mut content).await?);
    }
    let mut files = Vec::new();
    for locked in &lock.files {
        files.push(plan_file(locked, &lock.bundle_version, sources, &mut content)?);
    }
    // What `verify` would refuse is not built.
    if let Some((digest, one, other)) = content.clash {
        let why = format!(
            "it has {one} bytes by one manifest, and {other} by another: the images can't be carried"
        );
        return Err(Error::trust(format!("planning blob {digest}"), why));
    }
    let manifest = Manifest {
        charts,
        created: lock.created.clone(),
        entries: vec![],
        files,
        format: format::VERSION,
        images,
        kind: format::KIND.into(),
        name: lock.name.clone(),
        serial: lock.serial,
        version: lock.bundle_version.clone(),
    };
    lay_out(manifest, &singles, lock, lock_text, content)
}

/// Blobs by digest, each once.
#[derive(Default)]
struct Content {
    blobs: BTreeMap<Digest, Planned>,
    /// What two manifests say different sizes of.
    clash: Option<(Digest, u64, u64)>,
}

struct Planned {
    size: u64,
    origin: Origin,
    /// Goes to the front of the tar, where a reader finds all that it must check first.
    small: bool,
}

impl Content {
    fn add(&mut self, digest: Digest, size: u64, origin: Origin, small: bool) {
        match self.blobs.entry(digest) {
            Slot::Vacant(slot) => {
                slot.insert(Planned { size, origin, small });
            }
            Slot::Occupied(mut slot) => {
                let there = slot.get_mut();
                there.small |= small;
                if there.size != size {
                    self.clash = Some((digest, there.size, size));
                }
            }
        }
    }

    fn bytes(&mut self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.add(digest, bytes.len() as u64, Origin::Bytes(bytes), true);
        digest
    }
}

async fn plan_image(
    locked: &LockedImage,
    lock: &Lock,
    sources: &Sources<'_>,
    content: &mut Content,
) -> Result<(format::Image, Option<ImageManifest>)> {
    let name = locked.reference.to_string();
    let source = fetch::image_source(&locked.reference, locked.from.as_deref(), sources).await?;
    let pinned = locked.upstream.unwrap_or(locked.digest);
    if let ImageSource::Local(image) = &source
        && image.root.digest != pinned
    {
        return Err(stale(&format!("image {name}"), pinned, image.root.digest));
    }
    let resolved = resolve(&source, &name, &pinned.to_string(), &lock.platforms).await?;
    let found = LockedImage::new(locked.reference.clone(), None, vec![], &resolved);
    for ((field, pinned), (_, found)) in locked.pins().into_iter().zip(found.pins()) {
        if pinned != found {
            return Err(stale(&format!("{field} of image {name}"), pinned, found));
        }
    }
    for layer in &resolved.layers {
        content.add(layer.digest, layer.size, source.layer(layer)?, false);
    }
    for config in resolved.configs.values() {
        content.bytes(config.clone());
    }
    let upstream = resolved.upstream.as_ref().map(|m| m.digest);
    let media_type = resolved.root.media_type.clone();
    let manifests = [resolved.root].into_iter().chain(resolved.upstream);
    for manifest in manifests.chain(resolved.within).chain(resolved.children) {
        content.bytes(manifest.bytes);
    }
    let image = format::Image {
        meant_by: locked.meant_by.clone(),
        digest: locked.digest,
        media_type,
        platforms: locked.platforms.clone(),
        reference: locked.reference.clone(),
        repository: source_path(&locked.reference),
        upstream,
        signed_by: locked.signed_by.clone(),
        attached: locked.attached.clone(),
    };
    for attached in &image.attached {
        plan_attached(attached, &format!("image {name}"), &source, content).await?;
    }
    // `docker load` takes images only.
    let single = resolved.single.filter(|_| !image.platforms.is_empty());
    Ok((image, single))
}

/// Plans something that belongs to an image or a chart.
async fn plan_attached(
    attached: &Attached,
    name: &str,
    source: &ImageSource,
    content: &mut Content,
) -> Result<()> {
    let planning = || format!("planning the {} of {name}", attached.kind);
    let manifest = source.manifest(&attached.digest.to_string()).await.map_err(|e| e.within(planning()))?;
    let parsed = match image::parse(&manifest.media_type, &manifest.bytes) {
        Ok(Parsed::Manifest(parsed)) if attached.holds(&manifest.bytes) => parsed,
        Ok(_) => return Err(Error::trust(planning(), format!("{} does not belong to it", attached.digest))),
        Err(e) => return Err(Error::input(planning(), e)),
    };
    content.bytes(source.config(&parsed.config).await.map_err(|e| e.within(planning()))?);
    for layer in &parsed.layers {
        content.add(layer.digest, layer.size, source.layer(layer)?, false);
    }
    content.bytes(manifest.bytes);
    Ok(())
}

async fn plan_chart(
    locked: &LockedChart,
    sources: &Sources<'_>,
    content: &mut Content,
) -> Result<format::Chart> {
    let chart: Chart = fetch::pinned_chart(&locked.from, &locked.digest, sources).await?;
    let digest = content.bytes(chart.manifest.clone());
    if digest != locked.digest {
        return Err(stale(&format!("chart {}", locked.from), locked.digest, digest));
    }
    let size = chart.content.len() as u64;
    for (field, pinned, found) in [
        ("name", &locked.name, &chart.name),
        ("version", &locked.version, &chart.version),
        ("size", &locked.size.to_string(), &size.to_string()),
    ] {
        if pinned != found {
            return Err(stale(&format!("{field} of chart {}", locked.from), pinned, found));
        }
    }
    content.bytes(chart.config);
    content.bytes(chart.content);
    // Whatever else its manifest names travels, too, such as the provenance file of a signed chart.
    for (layer, origin) in fetch::chart_layers(&locked.from, &chart.manifest, sources)? {
        content.add(layer.digest, layer.size, origin, layer.size <= METADATA_CAP);
    }
    let mut values = Vec::new();
    for file in &locked.values {
        let bytes = file::values(&fetch::local(sources.base, &file.path)?)?;
        let found = content.bytes(bytes);
        if found != file.digest {
            return Err(stale(&format!("values file {}", file.path), file.digest, found));
        }
        values.push(found);
    }
    if !locked.attached.is_empty() {
        let name = format!("chart {}", locked.from);
        let reference = locked.from.strip_prefix("oci://").and_then(|from| from.parse::<Reference>().ok());
        let why = "it comes from no registry, where something could belong to it";
        let reference = reference.ok_or_else(|| Error::input(format!("planning {name}"), why))?;
        let source = fetch::image_source(&reference, None, sources).await?;
        for attached in &locked.attached {
            plan_attached(attached, &name, &source, content).await?;
        }
    }
    Ok(format::Chart {
        attached: locked.attached.clone(),
        signed_by: locked.signed_by.clone(),
        digest,
        name: locked.name.clone(),
        namespace: locked.namespace.clone(),
        release: locked.release.clone(),
        repository: format!("charts/{}", locked.name),
        set: locked.set.clone(),
        tag: crate::chart::tag(&locked.version),
        values,
        version: locked.version.clone(),
    })
}

/// A file travels as an OCI artifact (image spec, "Guidelines for Artifact Usage"), so that any registry takes it.
fn plan_file(
    locked: &LockedFile,
    version: &str,
    sources: &Sources<'_>,
    content: &mut Content,
) -> Result<format::File> {
    let origin = match locked.from.contains("://") {
        true => Origin::Url(locked.from.clone()),
        false => {
            let path = sources.base.join(&locked.from);
            let file = file::open(&path).and_then(|file| file.metadata());
            let size = file.map_err(|e| Error::input(format!("reading {}", path.display()), e))?.len();
            if size != locked.size {
                let why =
                    format!("images.lock pins {} bytes, and {} has {size}", locked.size, path.display());
                return Err(Error::trust(format!("planning file {}", locked.name), why).hint(CHANGED));
            }
            Origin::File { path, offset: 0 }
        }
    };
    content.add(locked.digest, locked.size, origin, false);
    let config = content.bytes(&b"{}"[..]);
    let manifest = serde_json::json!({
        "artifactType": "application/vnd.airlock.file.v1",
        "config": {"digest": config, "mediaType": "application/vnd.oci.empty.v1+json", "size": 2},
        "layers": [{
            "annotations": {"org.opencontainers.image.title": locked.name},
            "digest": locked.digest,
            "mediaType": "application/octet-stream",
            "size": locked.size,
        }],
        "mediaType": OCI_MANIFEST,
        "schemaVersion": 2,
    });
    let platform =
        locked.platform.as_ref().map(|p| format!("-{}", p.to_string().replace('/', "-"))).unwrap_or_default();
    Ok(format::File {
        digest: locked.digest,
        manifest: content.bytes(manifest.to_string()),
        name: locked.name.clone(),
        platform: locked.platform.clone(),
        repository: format!("files/{}", locked.name),
        tag: format!("{}{platform}", crate::chart::tag(version)),
    })
}

fn lay_out(
    mut manifest: Manifest,
    singles: &[(Reference, ImageManifest)],
    lock: &Lock,
    lock_text: &str,
    content: Content,
) -> Result<Plan> {
    let laying_out = || format!("laying out bundle {}", manifest.name);
    let index = index(&manifest, &content).map_err(|e| Error::input(laying_out(), e))?;
    let singles: Vec<_> = singles.iter().map(|(reference, manifest)| (reference, manifest)).collect();
    let docker = format::docker_manifest(&singles).map_err(|e| Error::input(laying_out(), e))?;
    let provenance = statement::provenance(lock, lock_text).map_err(|e| Error::input(laying_out(), e))?;
    let sbom = statement::sbom(lock, lock_text).map_err(|e| Error::input(laying_out(), e))?;
    let fixed: [(&str, Bytes); 6] = [
        (format::OCI_LAYOUT, format::OCI_LAYOUT_CONTENT.into()),
        (format::INDEX, index.into()),
        (format::DOCKER_MANIFEST, docker.into()),
        (format::LOCK, Bytes::copy_from_slice(lock_text.as_bytes())),
        (format::PROVENANCE, provenance.into()),
        (format::SBOM, sbom.into()),
    ];
    let mut entries = Vec::new();
    let mut origins = Vec::new();
    for (path, bytes) in fixed {
        if bytes.len() as u64 > METADATA_CAP {
            let why = format!("{path} would have {} bytes, and may have {METADATA_CAP}", bytes.len());
            return Err(Error::input(laying_out(), why).hint("make several bundles of it"));
        }
        entries.push(ListedEntry {
            path: path.into(),
            sha256: Sha256Hex(Digest::of(&bytes)),
            size: bytes.len() as u64,
        });
        origins.push(Origin::Bytes(bytes));
    }
    let (small, large): (Vec<_>, Vec<_>) = content.blobs.into_iter().partition(|(_, planned)| planned.small);
    for (digest, planned) in small.into_iter().chain(large) {
        entries.push(ListedEntry {
            path: format::blob_path(&digest),
            sha256: Sha256Hex(digest),
            size: planned.size,
        });
        origins.push(planned.origin);
    }
    let name = manifest.name.clone();
    manifest.entries = entries;
    let manifest_bytes =
        manifest.to_bytes().map_err(|e| Error::input(format!("laying out bundle {name}"), e))?;
    let size = manifest_bytes.len() as u64;
    if size > MANIFEST_CAP {
        let why = format!("{} would have {size} bytes, and may have {MANIFEST_CAP}", format::MANIFEST);
        return Err(Error::input(format!("laying out bundle {name}"), why).hint("make several bundles of it"));
    }
    // Names, places and the order of entries are those that a reader takes.
    Manifest::from_bytes(&manifest_bytes)
        .map_err(|e| Error::input(format!("laying out bundle {name}"), e))?;
    let layout = manifest
        .layout(manifest_bytes.len() as u64, sign::ENTRY_SIZE)
        .map_err(|e| Error::input(format!("laying out bundle {name}"), e))?;
    Ok(Plan { manifest, manifest_bytes, layout, origins })
}

fn index(manifest: &Manifest, content: &Content) -> std::result::Result<Vec<u8>, serde_json::Error> {
    let size = |digest: &Digest| content.blobs.get(digest).map_or(0, |planned| planned.size);
    let images = manifest.images.iter().map(|image| Indexed {
        name: Name::Image(&image.reference),
        digest: &image.digest,
        media_type: &image.media_type,
        size: size(&image.digest),
    });
    let artifact = |repository: &str, tag: &str| Name::Artifact(format!("{repository}:{tag}"));
    let charts = manifest.charts.iter().map(|chart| Indexed {
        name: artifact(&chart.repository, &chart.tag),
        digest: &chart.digest,
        media_type: OCI_MANIFEST,
        size: size(&chart.digest),
    });
    let files = manifest.files.iter().map(|file| Indexed {
        name: artifact(&file.repository, &file.tag),
        digest: &file.manifest,
        media_type: OCI_MANIFEST,
        size: size(&file.manifest),
    });
    format::index_json(&images.chain(charts).chain(files).collect::<Vec<_>>())
}

fn stale(what: &str, pinned: impl Display, found: impl Display) -> Error {
    Error::input(format!("planning {what}"), format!("images.lock pins {pinned}, and now it is {found}"))
        .hint("the lock is stale: run `airlock lock`, look at the difference, and build again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Platforms;

    #[test]
    fn manifest_above_the_readers_limit_is_not_planned() {
        let lock = Lock {
            version: 1,
            name: "app".into(),
            bundle_version: "1".into(),
            serial: 1,
            created: "2026-01-01T00:00:00Z".into(),
            spec: Digest::of(b""),
            platforms: Platforms::All,
            charts: vec![],
            images: vec![],
            files: vec![],
        };
        let planned = |blobs: u32| {
            let mut content = Content::default();
            for n in 0..blobs {
                content.bytes(n.to_le_bytes().to_vec());
            }
            let manifest = Manifest {
                charts: vec![],
                created: lock.created.clone(),
                entries: vec![],
                files: vec![],
                format: format::VERSION,
                images: vec![],
                kind: format::KIND.into(),
                name: lock.name.clone(),
                serial: lock.serial,
                version: lock.bundle_version.clone(),
            };
            lay_out(manifest, &[], &lock, "", content)
        };
        let few = planned(60_000).expect("a plan").manifest_bytes.len() as u64;
        assert!((MANIFEST_CAP / 2..MANIFEST_CAP).contains(&few), "{few}");
        let Err(error) = planned(100_000) else { unreachable!("too large") };
        assert!(error.to_string().contains("airlock.json would have"), "{error}");
        assert_eq!(error.hint_text(), Some("make several bundles of it"));
    }
}
