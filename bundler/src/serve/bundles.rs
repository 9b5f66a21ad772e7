//! Verified bundles as a registry's content. Nothing is written.

use std::sync::Arc;

use bytes::Bytes;

use super::tables::{Described, Tables};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{self, OCI_MANIFEST, Parsed};
use crate::reference::source_path;
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
        let repository = tables.repositories.entry(name).or_default();
        repository.tags.extend(tag.map(|tag| (tag.into(), image.digest)));
        let mut manifests = vec![(image.digest, image.media_type.clone())];
        if let Parsed::Index(index) = bundle.parse(&image.digest, &image.media_type)? {
            manifests.extend(index.manifests.into_iter().map(|child| (child.digest, child.media_type)));
        }
        manifests.extend(image.upstream.map(|upstream| (upstream, image::OCI_INDEX.into())));
        for attached in &image.attached {
            manifests.push((attached.digest, OCI_MANIFEST.into()));
            repository.tags.extend(attached.tag.clone().map(|tag| (tag, attached.digest)));
        }
        for (digest, media_type) in manifests {
            repository.manifests.insert(digest, describe(&digest, &media_type)?);
        }
    }
    let charts = bundle.manifest().charts.iter().map(|c| (&c.repository, &c.tag, c.digest));
    let files = bundle.manifest().files.iter().map(|f| (&f.repository, &f.tag, f.manifest));
    for (name, tag, digest) in charts.chain(files) {
        let repository = tables.repositories.entry(name.clone()).or_default();
        repository.tags.insert(tag.clone(), digest);
        repository.manifests.insert(digest, describe(&digest, OCI_MANIFEST)?);
    }
    Ok(())
}
