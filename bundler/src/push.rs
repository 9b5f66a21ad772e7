//! A verified bundle into any OCI registry: first ask, then send; each blob once; a tag only when all below it is there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::TryStreamExt;
use tokio::sync::{Mutex, Semaphore};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{ImageManifest, OCI_MANIFEST, Parsed};
use crate::progress::Progress;
use crate::reference::{Mapping, source_path};
use crate::registry::{Client, Repository};
use crate::verify::VerifiedBundle;

/// Images, charts and files that are pushed at a time.
const PARALLEL_ITEMS: usize = 4;
/// Blobs that are sent at a time.
const PARALLEL_BLOBS: usize = 6;

/// What was done.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Pushed {
    /// Images, charts and files that the registry has now.
    pub items: u64,
    /// Of these, how many it had before.
    pub unchanged: u64,
    /// Blobs that were sent.
    pub blobs_sent: u64,
    /// Bytes that were sent, manifests aside.
    pub bytes_sent: u64,
}

/// Something with a place in a registry.
struct Item<'a> {
    /// Below the registry; the prefix included.
    repository: String,
    tag: Option<&'a str>,
    digest: Digest,
    media_type: &'a str,
}

/// Pushes everything to where `mapping` says.
///
/// # Errors
/// When the registry refuses or can't be reached, when two images would get the same tag, or when the bundle's content
/// isn't what its digests say.
pub async fn push(
    bundle: &Arc<VerifiedBundle>,
    client: &Client,
    mapping: &Mapping,
    progress: &Arc<dyn Progress>,
) -> Result<Pushed> {
    let items = items(bundle, mapping)?;
    progress.begin("pushing", bundle.manifest().entries.iter().map(|e| e.size).sum());
    let push = Push {
        bundle,
        client,
        registry: mapping.registry(),
        progress: Arc::clone(progress),
        blobs: Mutex::default(),
        sending: Semaphore::new(PARALLEL_BLOBS),
        unchanged: AtomicU64::default(),
        blobs_sent: AtomicU64::default(),
        bytes_sent: AtomicU64::default(),
    };
    let jobs = futures_util::stream::iter(items.iter().map(Ok));
    jobs.try_for_each_concurrent(PARALLEL_ITEMS, |item| push.item(item)).await?;
    progress.end();
    Ok(Pushed {
        items: items.len() as u64,
        unchanged: push.unchanged.into_inner(),
        blobs_sent: push.blobs_sent.into_inner(),
        bytes_sent: push.bytes_sent.into_inner(),
    })
}

/// Whether everything in a bundle has a place of its own at the site.
///
/// # Errors
/// When two images would be in the same repository.
pub fn check(bundle: &VerifiedBundle, mapping: &Mapping) -> Result<()> {
    items(bundle, mapping).map(drop)
}

fn items<'a>(bundle: &'a VerifiedBundle, mapping: &Mapping) -> Result<Vec<Item<'a>>> {
    let manifest = bundle.manifest();
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let mut items = Vec::new();
    for (image, tag) in manifest.tagged_images() {
        let (repository, owner) = (mapping.repository(&image.reference), source_path(&image.reference));
        // Only without the source's host can two sources meet in one repository.
        let first = owners.entry(repository.clone()).or_insert_with(|| owner.clone());
        if *first != owner {
            return Err(collision(&image.reference.to_string(), first, &repository));
        }
        let (digest, media_type) = (image.digest, image.media_type.as_str());
        items.push(Item { repository, tag, digest, media_type });
    }
    let charts = manifest.charts.iter().map(|c| (&c.repository, &c.tag, c.digest));
    let files = manifest.files.iter().map(|f| (&f.repository, &f.tag, f.manifest));
    for (below, tag, digest) in charts.chain(files) {
        let repository = mapping.under(below);
        if let Some(image) = owners.get(&repository) {
            return Err(collision(&format!("{below}:{tag}"), image, &repository));
        }
        items.push(Item { repository, tag: Some(tag), digest, media_type: OCI_MANIFEST });
    }
    Ok(items)
}

fn collision(name: &str, other: &str, repository: &str) -> Error {
    let why = format!("{other} would be in the same repository {repository}");
    Error::input(format!("mapping {name} to the registry"), why).hint("leave out --strip-host")
}

/// A run of `push`.
struct Push<'a> {
    bundle: &'a Arc<VerifiedBundle>,
    client: &'a Client,
    registry: &'a str,
    progress: Arc<dyn Progress>,
    /// For each blob the repositories that have it; locked while it is sent, so that it is sent once.
    blobs: Mutex<HashMap<Digest, Arc<Mutex<Option<String>>>>>,
    sending: Semaphore,
    unchanged: AtomicU64,
    blobs_sent: AtomicU64,
    bytes_sent: AtomicU64,
}

impl Push<'_> {
    async fn item(&self, item: &Item<'_>) -> Result<()> {
        let target = item.tag.map_or_else(|| item.digest.to_string(), Into::into);
        let repository = self.client.repository(self.registry, &item.repository);
        if repository.head_manifest(&target).await? == Some(item.digest) {
            self.unchanged.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        match self.bundle.parse(&item.digest, item.media_type)? {
            Parsed::Manifest(manifest) => self.parts(&repository, item, &manifest).await?,
            Parsed::Index(index) => {
                for child in &index.manifests {
                    let Parsed::Manifest(manifest) = self.bundle.parse(&child.digest, &child.media_type)?
                    else {
                        let why = format!("{} is an index within an index", child.digest);
                        return Err(Error::input(format!("pushing {}", item.repository), why));
                    };
                    self.parts(&repository, item, &manifest).await?;
                    let bytes = self.bundle.small(&child.digest)?;
                    repository.put_manifest(&child.digest.to_string(), &child.media_type, bytes).await?;
                }
            }
        }
        repository.put_manifest(&target, item.media_type, self.bundle.small(&item.digest)?).await
    }

    /// Sends a manifest's config and layers.
    async fn parts(&self, repository: &Repository, item: &Item<'_>, manifest: &ImageManifest) -> Result<()> {
        let parts = manifest.layers.iter().chain([&manifest.config]).map(|part| Ok(part.digest));
        futures_util::stream::iter(parts)
            .try_for_each_concurrent(PARALLEL_BLOBS, |digest| self.blob(repository, item, digest))
            .await
    }

    async fn blob(&self, repository: &Repository, item: &Item<'_>, digest: Digest) -> Result<()> {
        let slot = Arc::clone(self.blobs.lock().await.entry(digest).or_default());
        let mut had_by = slot.lock().await;
        if had_by.as_ref() == Some(&item.repository) {
            return Ok(());
        }
        let _permit = self.sending.acquire().await;
        let there = match had_by.as_ref() {
            Some(other) => repository.mount(&digest, other).await?,
            None => repository.has_blob(&digest).await?,
        };
        let size = self.bundle.size(&digest).unwrap_or_default();
        if there {
            if had_by.is_none() {
                self.progress.advance(size);
            }
        } else {
            let progress = Arc::clone(&self.progress);
            let body = self
                .bundle
                .stream(digest, 0, size)
                .inspect_ok(move |chunk| progress.advance(chunk.len() as u64));
            repository.upload(&digest, size, body).await?;
            self.blobs_sent.fetch_add(1, Ordering::Relaxed);
            self.bytes_sent.fetch_add(size, Ordering::Relaxed);
        }
        *had_by = Some(item.repository.clone());
        Ok(())
    }
}
