//! A verified bundle into any OCI registry: first ask, then send; each blob once; a tag only when all below it is there.

mod referrers;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::image::{OCI_MANIFEST, Parsed};
use crate::progress::Progress;
use crate::reference::{Mapping, source_path};
use crate::registry::{Client, Repository};
use crate::verify::{Member, VerifiedBundle};

/// Images, charts and files that are asked for at a time.
const PARALLEL_QUESTIONS: usize = 8;
/// Blobs below this size, in bytes, go first: they take no time, and an image is complete with its last large layer.
const SMALL: u64 = 1 << 20;

/// What was done.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Pushed {
    /// Images, what belongs to them, charts and files that the registry has now.
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

impl Item<'_> {
    /// The name of its manifest in the repository.
    fn target(&self) -> String {
        self.tag.map_or_else(|| self.digest.to_string(), Into::into)
    }
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
    let count = items.len() as u64;
    let push = Push {
        bundle,
        client,
        registry: mapping.registry(),
        progress: Arc::clone(progress),
        sent: Arc::default(),
        blobs_sent: AtomicU64::default(),
    };
    let missing = push.ask(items).await?;
    let blobs = blobs(bundle, &missing);
    progress.begin("pushing", blobs.iter().map(|blob| blob.size).sum());
    futures_util::stream::iter(blobs.iter().map(Ok))
        .try_for_each_concurrent(client.transfers(), |blob| push.blob(blob, &missing))
        .await?;
    // An index of nothing waits for no blob.
    for missing in missing.iter().filter(|missing| missing.blobs.is_empty()) {
        push.complete(missing).await?;
    }
    progress.end();
    referrers::list(bundle, client, mapping).await?;
    Ok(Pushed {
        items: count,
        unchanged: count - missing.len() as u64,
        blobs_sent: push.blobs_sent.into_inner(),
        bytes_sent: push.sent.load(Ordering::Relaxed),
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
        for attached in &image.attached {
            let (repository, tag) = (repository.clone(), attached.tag.as_deref());
            items.push(Item { repository, tag, digest: attached.digest, media_type: OCI_MANIFEST });
        }
        items.push(Item { repository, tag, digest, media_type });
    }
    let charts = manifest.charts.iter().map(|c| (&c.repository, &c.tag, c.digest, &c.attached[..]));
    let files = manifest.files.iter().map(|f| (&f.repository, &f.tag, f.manifest, &[][..]));
    for (below, tag, digest, attached) in charts.chain(files) {
        let repository = mapping.under(below);
        if let Some(image) = owners.get(&repository) {
            return Err(collision(&format!("{below}:{tag}"), image, &repository));
        }
        for attached in attached {
            let (repository, tag) = (repository.clone(), attached.tag.as_deref());
            items.push(Item { repository, tag, digest: attached.digest, media_type: OCI_MANIFEST });
        }
        items.push(Item { repository, tag: Some(tag), digest, media_type: OCI_MANIFEST });
    }
    Ok(items)
}

fn collision(name: &str, other: &str, repository: &str) -> Error {
    let why = format!("{other} would be in the same repository {repository}");
    Error::input(format!("mapping {name} to the registry"), why).hint("leave out --strip-host")
}

/// An item that the registry has not.
struct Missing<'a> {
    item: Item<'a>,
    /// What it has under that tag instead.
    other: Option<Digest>,
    /// Its manifests with their media types, those that an index lists before the index: the item's own is the last.
    manifests: Vec<(Digest, String)>,
    /// Configs and layers.
    blobs: BTreeSet<Digest>,
    /// How many of its blobs are not there yet.
    waiting: AtomicUsize,
}

/// A blob, and who needs it.
struct Blob {
    digest: Digest,
    /// In bytes.
    size: u64,
    /// Places in the list of what is missing.
    needed_by: Vec<usize>,
}

/// Each blob once, in the order in which they are sent: large ones first, so that none of them is the last, alone.
fn blobs(bundle: &VerifiedBundle, missing: &[Missing<'_>]) -> Vec<Blob> {
    let mut needed: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
    for (place, item) in missing.iter().enumerate() {
        for digest in &item.blobs {
            needed.entry(*digest).or_default().push(place);
        }
    }
    let size = |digest: &Digest| bundle.size(digest).unwrap_or_default();
    let blobs = needed.into_iter().map(|(digest, needed_by)| Blob { digest, size: size(&digest), needed_by });
    let mut blobs: Vec<_> = blobs.collect();
    blobs.sort_by_key(|blob| (blob.size >= SMALL, Reverse(blob.size)));
    blobs
}

/// A run of `push`.
struct Push<'a> {
    bundle: &'a Arc<VerifiedBundle>,
    client: &'a Client,
    registry: &'a str,
    progress: Arc<dyn Progress>,
    /// Bytes of blobs.
    sent: Arc<AtomicU64>,
    blobs_sent: AtomicU64,
}

impl Push<'_> {
    fn repository(&self, item: &Item<'_>) -> Repository {
        self.client.repository(self.registry, &item.repository)
    }

    /// What the registry has not, or has otherwise.
    async fn ask<'a>(&self, items: Vec<Item<'a>>) -> Result<Vec<Missing<'a>>> {
        let asked = futures_util::stream::iter(items).map(|item| async {
            let there = self.repository(&item).head_manifest(&item.target()).await?;
            if there == Some(item.digest) {
                tracing::info!("{}:{} {}: is there already", item.repository, item.target(), item.digest);
                return Ok(None);
            }
            self.missing(item, there).map(Some)
        });
        asked.buffered(PARALLEL_QUESTIONS).try_filter_map(|missing| async { Ok(missing) }).try_collect().await
    }

    fn missing<'a>(&self, item: Item<'a>, other: Option<Digest>) -> Result<Missing<'a>> {
        let (mut manifests, mut blobs) = (Vec::new(), BTreeSet::new());
        for Member { digest, media_type, parsed } in self.bundle.members(&item.digest, item.media_type)? {
            if let Parsed::Manifest(manifest) = parsed {
                blobs.extend(manifest.layers.iter().chain([&manifest.config]).map(|part| part.digest));
            }
            manifests.push((digest, media_type));
        }
        let waiting = AtomicUsize::new(blobs.len());
        Ok(Missing { item, other, manifests, blobs, waiting })
    }

    /// Sends a blob to the first repository that needs it, has the others take it over from there, and completes what
    /// has waited for nothing else.
    async fn blob(&self, blob: &Blob, missing: &[Missing<'_>]) -> Result<()> {
        let needing = || blob.needed_by.iter().map(|place| &missing[*place]);
        let mut repositories: Vec<_> = needing().map(|missing| &missing.item.repository).collect();
        repositories.sort_unstable();
        repositories.dedup();
        if let Some((first, others)) = repositories.split_first() {
            let repository = self.client.repository(self.registry, first);
            if repository.has_blob(&blob.digest).await? {
                repository.forget_upload(&blob.digest).await;
                tracing::info!("blob {}: {} bytes, is there already", blob.digest, blob.size);
                self.progress.resume(blob.size);
            } else {
                self.send(&repository, blob, Some(Arc::clone(&self.progress))).await?;
            }
            let take_over = |other: &&String| {
                let repository = self.client.repository(self.registry, other);
                async move {
                    match repository.mount(&blob.digest, first).await? {
                        true => repository.forget_upload(&blob.digest).await,
                        false => self.send(&repository, blob, None).await?,
                    }
                    Ok(())
                }
            };
            futures_util::stream::iter(others)
                .map(Ok)
                .try_for_each_concurrent(PARALLEL_QUESTIONS, take_over)
                .await?;
        }
        for missing in needing() {
            if missing.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.complete(missing).await?;
            }
        }
        Ok(())
    }

    async fn send(
        &self,
        repository: &Repository,
        blob: &Blob,
        progress: Option<Arc<dyn Progress>>,
    ) -> Result<()> {
        let shown = Arc::new(Shown { progress, sent: Arc::clone(&self.sent), at: Mutex::default() });
        let content = |from| {
            shown.start(from);
            let shown = Arc::clone(&shown);
            let content = self.bundle.stream(blob.digest, from, blob.size - from);
            content.inspect_ok(move |piece| shown.pass(piece.len() as u64)).boxed()
        };
        let since = Instant::now();
        repository.upload(&blob.digest, blob.size, content).await?;
        tracing::info!(
            "blob {}: {} bytes sent to {}, {:.3} s",
            blob.digest,
            blob.size,
            repository.named(&blob.digest.to_string()),
            since.elapsed().as_secs_f64()
        );
        self.blobs_sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Puts the manifests of an item whose blobs are all there.
    async fn complete(&self, missing: &Missing<'_>) -> Result<()> {
        let Missing { item, other, manifests, .. } = missing;
        let repository = self.repository(item);
        let Some(((own, media_type), below)) = manifests.split_last() else { return Ok(()) };
        for (digest, media_type) in below {
            let bytes = self.bundle.small(digest)?;
            repository.put_manifest(&digest.to_string(), media_type, bytes).await?;
        }
        let put = repository.put_manifest(&item.target(), media_type, self.bundle.small(own)?).await;
        if put.is_ok() {
            tracing::info!("{}:{} {own}: is there now", item.repository, item.target());
        }
        put.map_err(|error| match other {
            Some(other) if error.kind() == Kind::Network => error.hint(format!(
                "the tag is there already, with {other}, and the registry may not let it be changed (immutable tags): \
                 delete it there, or push below another prefix"
            )),
            _ => error,
        })
    }
}

/// How far a blob is that may be sent in several tries: what is sent twice is shown once.
struct Shown {
    /// None if it is not shown.
    progress: Option<Arc<dyn Progress>>,
    /// Bytes that were sent, all in all.
    sent: Arc<AtomicU64>,
    /// Where this try is, and where the farthest was.
    at: Mutex<(u64, u64)>,
}

impl Shown {
    /// A try starts behind so many bytes.
    fn start(&self, from: u64) {
        let mut place = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(progress) = self.progress.as_ref().filter(|_| from > place.1) {
            progress.resume(from - place.1);
        }
        *place = (from, from.max(place.1));
    }

    fn pass(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        let mut place = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        let at = place.0 + bytes;
        if let Some(progress) = self.progress.as_ref().filter(|_| at > place.1) {
            progress.advance(at - place.1);
        }
        *place = (at, at.max(place.1));
    }
}
