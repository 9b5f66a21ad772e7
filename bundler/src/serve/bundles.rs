//! Verified bundles as a registry's content. Nothing is written.

use std::sync::Arc;

use bytes::Bytes;

use super::tables::{Described, Repository, Tables};
use crate::attached::Attached;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{OCI_INDEX, OCI_MANIFEST, Parsed};
use crate::reference::{flattened, source_path};
use crate::verify::VerifiedBundle;

/// Content of bundles.
pub(super) struct Bundles {
    bundles: Vec<Arc<VerifiedBundle>>,
    tables: Arc<Tables>,
}

impl Bundles {
    /// Makes the tables. Where bundles have the same tag, the one named last counts.
    ///
    /// # Errors
    /// When a manifest of a bundle can't be read.
    pub(super) fn new(bundles: Vec<Arc<VerifiedBundle>>) -> Result<Self> {
        let mut tables = Tables::default();
        for bundle in &bundles {
            add(&mut tables, bundle)?;
        }
        Ok(Self { bundles, tables: Arc::new(tables) })
    }

    pub(super) fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables)
    }

    /// A bundle that has this content, with its size in bytes.
    pub(super) fn holder(&self, digest: &Digest) -> Option<(&Arc<VerifiedBundle>, u64)> {
        self.bundles.iter().find_map(|bundle| Some((bundle, bundle.size(digest)?)))
    }

    /// A manifest.
    pub(super) fn manifest(&self, digest: &Digest) -> Result<Bytes> {
        let missing = || Error::input("answering a request", format!("no bundle has {digest}"));
        self.holder(digest).ok_or_else(missing)?.0.small(digest)
    }
}

fn add(tables: &mut Tables, bundle: &VerifiedBundle) -> Result<()> {
    let describe = |digest: &Digest, media_type: &str| {
        let unreadable =
            |e| Error::trust(format!("reading {digest} of {}", bundle.bundle().path().display()), e);
        Described::read(media_type, &bundle.small(digest)?).map(Arc::new).map_err(unreadable)
    };
    for (image, tag) in bundle.manifest().tagged_images() {
        let name = source_path(&image.reference);
        let names = tables.short.entry(image.reference.repository().into()).or_default();
        if !names.contains(&name) {
            names.push(name.clone());
        }
        tables.short.insert(flattened(&name), vec![name.clone()]);
        let repository = tables.repositories.entry(name).or_default();
        repository.tags.extend(tag.map(|tag| (tag.into(), image.digest)));
        let members = bundle.members(&image.digest, &image.media_type)?;
        let mut manifests: Vec<_> =
            members.into_iter().map(|member| (member.digest, member.media_type)).collect();
        if let Some(upstream) = image.upstream {
            // With the indexes within it that are carried.
            let mut indexes = vec![(upstream, OCI_INDEX.to_owned())];
            while let Some((digest, media_type)) = indexes.pop() {
                if manifests.iter().any(|(there, _)| *there == digest) {
                    continue;
                }
                if let Parsed::Index(index) = bundle.parse(&digest, &media_type)? {
                    let inner = index.manifests.into_iter().filter(|child| child.is_index());
                    let carried = inner.filter(|child| bundle.size(&child.digest).is_some());
                    indexes.extend(carried.map(|child| (child.digest, child.media_type)));
                }
                manifests.push((digest, media_type));
            }
        }
        manifests.extend(add_attached(repository, &image.attached));
        for (digest, media_type) in manifests {
            repository.manifests.insert(digest, describe(&digest, &media_type)?);
        }
    }
    let charts = bundle.manifest().charts.iter().map(|c| (&c.repository, &c.tag, c.digest, &c.attached[..]));
    let files = bundle.manifest().files.iter().map(|f| (&f.repository, &f.tag, f.manifest, &[][..]));
    for (name, tag, digest, attached) in charts.chain(files) {
        tables.short.insert(flattened(name), vec![name.clone()]);
        let repository = tables.repositories.entry(name.clone()).or_default();
        repository.tags.insert(tag.clone(), digest);
        let mut manifests = vec![(digest, OCI_MANIFEST.into())];
        manifests.extend(add_attached(repository, attached));
        for (digest, media_type) in manifests {
            repository.manifests.insert(digest, describe(&digest, &media_type)?);
        }
    }
    Ok(())
}

/// Adds the tags of what belongs to an image or a chart; its manifests are the caller's to add.
fn add_attached(repository: &mut Repository, attached: &[Attached]) -> Vec<(Digest, String)> {
    let tags = attached.iter().filter_map(|attached| Some((attached.tag.clone()?, attached.digest)));
    repository.tags.extend(tags);
    attached.iter().map(|attached| (attached.digest, OCI_MANIFEST.into())).collect()
}
