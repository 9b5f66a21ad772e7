//! `airlock verify`: the only maker of a [`VerifiedBundle`], the only thing that is served, pushed or installed.
//!
//! *Verified* means: a trusted signature over `airlock.json`, a sound structure, every manifest, config and chart
//! hashed, and every digest that they name there. Layers and files are hashed by [`VerifiedBundle::check_all`], or
//! while they are first read from start to end, the last bytes held back until the digest is right.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::Semaphore;

use crate::archive::{Entry, Placed};
use crate::attached::Attached;
use crate::buffers::Buffers;
use crate::bundle::Bundle;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::format::{self, Image, ListedEntry, METADATA_CAP, Manifest};
use crate::image::{self, Descriptor, ImageError, ImageManifest, LIST_CAP, Parsed};
use crate::interrupt;
use crate::progress::Progress;
use crate::sign::{self, PublicKey};

/// How much is read at a time, in bytes.
const CHUNK: u64 = 256 << 10;

/// Most digests that an index and the indexes within it list.
const CHILDREN: usize = 10 * LIST_CAP;

/// How many may wait in threads for something to be hashed.
const HASHING: usize = 16;

/// Whose signature counts.
#[derive(Debug)]
pub enum Trust {
    /// So many of these keys, at least one.
    Keys {
        /// Those that count.
        keys: Vec<PublicKey>,
        /// How many of them must have signed.
        required: usize,
    },
    /// Nobody's: `--insecure-skip-verify`. Structure and digests are checked all the same.
    InsecureSkipVerify,
}

/// A bundle whose signature, structure and small blobs are checked.
#[derive(Debug)]
pub struct VerifiedBundle {
    bundle: Bundle,
    /// The entries below `blobs/`, whose paths are their digests: each digest has one place.
    blobs: HashMap<Digest, Blob>,
    signers: Vec<String>,
    /// For chunks on their way out.
    buffers: Buffers,
    /// Held by readers of a part of something that is hashed first: those who wait for one take no threads.
    hashing: Semaphore,
}

/// A step of the walk over an image: a child to read, or a manifest whose children have all been read.
enum Step {
    Enter(Descriptor),
    Leave(Member),
}

/// A manifest or index that belongs to an image.
#[derive(Debug)]
pub struct Member {
    /// Of it.
    pub digest: Digest,
    /// Its media type, by its own word where it has one.
    pub media_type: String,
    /// Its content.
    pub parsed: Parsed,
}

#[derive(Debug)]
struct Blob {
    placed: Placed,
    /// Its content was hashed, and was right.
    checked: AtomicBool,
    /// Held while it is hashed: many who ask for parts of it wait for one.
    checking: Mutex<()>,
}

impl Bundle {
    /// Checks signature, structure and every small blob.
    ///
    /// # Errors
    /// Of kind [`crate::Kind::Trust`], whatever does not hold.
    pub fn verify(self, trust: &Trust) -> Result<VerifiedBundle> {
        let signers = match trust {
            Trust::Keys { keys, required } => {
                let verifying = || format!("verifying bundle {}", self.path().display());
                sign::verify_all(&self.signatures(), self.manifest_bytes(), keys, *required)
                    .map_err(|e| e.within(verifying()))?
            }
            Trust::InsecureSkipVerify => Vec::new(),
        };
        let mut blobs = HashMap::new();
        for (placed, listed) in self.listed().filter(|(_, listed)| listed.is_blob()) {
            let blob =
                Blob { placed: placed.clone(), checked: AtomicBool::new(false), checking: Mutex::default() };
            blobs.insert(listed.sha256.0, blob);
        }
        let (buffers, hashing) = (Buffers::of(CHUNK as usize), Semaphore::new(HASHING));
        let verified = VerifiedBundle { bundle: self, blobs, signers, buffers, hashing };
        verified.check_small()?;
        Ok(verified)
    }

    /// Every entry that the manifest lists, with its place.
    fn listed(&self) -> impl Iterator<Item = (&Placed, &ListedEntry)> {
        // The first two entries are the manifest and its signature.
        self.layout().entries[2..].iter().zip(&self.manifest().entries)
    }
}

impl VerifiedBundle {
    /// What it holds.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.bundle.manifest()
    }

    /// The bundle itself.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The bundle itself, no longer known as verified.
    #[must_use]
    pub fn into_bundle(self) -> Bundle {
        self.bundle
    }

    /// Id of the first trusted key that signed it; none if that was not checked.
    #[must_use]
    pub fn signer(&self) -> Option<&str> {
        self.signers.first().map(String::as_str)
    }

    /// Ids of all trusted keys that signed it; none if that was not checked.
    #[must_use]
    pub fn signers(&self) -> &[String] {
        &self.signers
    }

    /// Size of a blob in bytes, if it is in the bundle.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.blobs.get(digest).map(|blob| blob.placed.entry.size)
    }

    /// A manifest, config or other small blob, its digest checked.
    ///
    /// # Errors
    /// When it is not there, too large to be held in memory, or not what its digest says.
    pub fn small(&self, digest: &Digest) -> Result<Bytes> {
        let blob = self.blob(digest)?;
        let content = self.content(&blob.placed, digest)?;
        blob.checked.store(true, Ordering::Relaxed);
        Ok(content)
    }

    /// A small entry by its path, its digest checked; none if the bundle has no such entry.
    ///
    /// # Errors
    /// When it is too large to be held in memory, or not what its digest says.
    pub fn entry(&self, path: &str) -> Result<Option<Bytes>> {
        let found = self.bundle.listed().find(|(_, listed)| listed.path == path);
        found.map(|(placed, listed)| self.content(placed, &listed.sha256.0)).transpose()
    }

    /// The content of a small entry at its own place, checked.
    fn content(&self, placed: &Placed, digest: &Digest) -> Result<Bytes> {
        let Entry { path, size } = &placed.entry;
        if *size > METADATA_CAP {
            let why = format!("{path} is too large for a manifest or config: {size} bytes");
            return Err(self.refuse(why));
        }
        let mut content = vec![0; *size as usize];
        self.bundle.read_at(&mut content, placed.content_at)?;
        match Digest::of(&content) == *digest {
            true => Ok(content.into()),
            false => Err(self.corrupt(path)),
        }
    }

    /// Reads an image's manifest or index.
    ///
    /// # Errors
    /// As [`Self::small`], and when it is not one.
    pub fn parse(&self, digest: &Digest, media_type: &str) -> Result<Parsed> {
        image::parse(media_type, &self.small(digest)?).map_err(|e| self.refuse(format!("{digest}: {e}")))
    }

    /// Hashes a blob from start to end, unless that was done before. Blocks.
    ///
    /// # Errors
    /// When it is not there or not what its digest says.
    pub fn check(&self, digest: &Digest, progress: &dyn Progress) -> Result<()> {
        let blob = self.blob(digest)?;
        let _alone = blob.checking.lock().unwrap_or_else(PoisonError::into_inner);
        if blob.checked.load(Ordering::Relaxed) {
            progress.resume(blob.placed.entry.size);
            return Ok(());
        }
        let since = Instant::now();
        self.read(digest, |chunk| {
            progress.advance(chunk.len() as u64);
            Ok(())
        })?;
        let (size, seconds) = (blob.placed.entry.size, since.elapsed().as_secs_f64());
        tracing::info!("blob {digest}: {size} bytes as signed, {seconds:.3} s");
        Ok(())
    }

    /// Hands a blob to `take`, a chunk at a time, and hashes it on the way: what was taken counts only if this ends
    /// well. Blocks.
    ///
    /// # Errors
    /// When it is not there or not what its digest says, and what `take` says.
    pub fn read(&self, digest: &Digest, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let blob = self.blob(digest)?;
        self.read_entry(&blob.placed, digest, &mut take)?;
        blob.checked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Hands an entry at its own place to `take`, as [`Self::read`] does.
    fn read_entry(
        &self,
        placed: &Placed,
        digest: &Digest,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (mut at, end) = (placed.content_at, placed.content_at + placed.entry.size);
        let mut buffer = vec![0; CHUNK.min(placed.entry.size) as usize];
        let mut hasher = Hasher::default();
        while at < end {
            interrupt::check("reading the bundle")?;
            let part = &mut buffer[..CHUNK.min(end - at) as usize];
            self.bundle.read_at(part, at)?;
            hasher.update(part);
            take(part)?;
            at += part.len() as u64;
        }
        match hasher.finish() == *digest {
            true => Ok(()),
            false => Err(self.corrupt(&placed.entry.path)),
        }
    }

    /// Hashes every entry at its own place, on all cores, in the order of the file. Blocks.
    ///
    /// # Errors
    /// The first entry that is not what its digest says.
    pub fn check_all(&self, progress: &dyn Progress) -> Result<()> {
        let entries: Vec<_> = self.bundle.listed().collect();
        progress.begin("checking", entries.iter().map(|(placed, _)| placed.entry.size).sum());
        self.bundle.read_ahead();
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((placed, listed)) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.check_entry(placed, listed, progress) {
                            next.store(entries.len(), Ordering::Relaxed);
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                });
            }
        });
        progress.end();
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Hashes one entry at its own place. Two entries may have the same digest, so it does not stand for the place.
    fn check_entry(&self, placed: &Placed, listed: &ListedEntry, progress: &dyn Progress) -> Result<()> {
        let digest = &listed.sha256.0;
        if listed.is_blob() {
            return self.check(digest, progress);
        }
        self.read_entry(placed, digest, &mut |chunk| {
            progress.advance(chunk.len() as u64);
            Ok(())
        })
    }

    /// `length` bytes of a blob from `start`, as they are read. A blob that was not checked yet is hashed on the way
    /// if all of it is asked for, its last chunk held back until the digest is right; else before.
    pub fn stream(
        self: &Arc<Self>,
        digest: Digest,
        start: u64,
        length: u64,
    ) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
        let read = Read {
            bundle: Arc::clone(self),
            digest,
            at: start,
            end: start + length,
            hasher: None,
            started: false,
        };
        futures_util::stream::try_unfold(read, |mut read| async move {
            let bundle = Arc::clone(&read.bundle);
            // Nobody closes it.
            let _turn = if read.is_hashed_first() { bundle.hashing.acquire().await.ok() } else { None };
            let step = tokio::task::spawn_blocking(move || {
                let chunk = read.next()?;
                Ok(chunk.map(|chunk| (chunk, read)))
            });
            step.await.unwrap_or_else(|e| Err(Error::input("reading the bundle", e)))
        })
    }

    /// Everything small, and that whatever it names is there with the size it says.
    fn check_small(&self) -> Result<()> {
        let manifest = self.manifest();
        for (placed, listed) in self.bundle.listed().filter(|(_, listed)| !listed.is_blob()) {
            self.content(placed, &listed.sha256.0)?;
        }
        for image in &manifest.images {
            self.check_image(image)?;
        }
        for file in &manifest.files {
            let parts = self.artifact(&file.manifest)?;
            if !parts.layers.iter().any(|layer| layer.digest == file.digest) {
                let (name, digest) = (&file.name, file.digest);
                return Err(self.refuse(format!(
                    "file {name}: {digest} is not what its manifest {} has",
                    file.manifest
                )));
            }
        }
        let silent = crate::progress::Silent;
        for chart in &manifest.charts {
            // Helm reads it before anything else is checked; what else is large is checked when it is read.
            self.check(&chart_content(self, chart)?, &silent)?;
            let small = self.artifact(&chart.digest)?.layers.into_iter().filter(|l| l.size <= METADATA_CAP);
            small.into_iter().try_for_each(|layer| self.check(&layer.digest, &silent))?;
            for values in &chart.values {
                self.small(values)?;
            }
            let stray = |digest: &Digest| {
                self.refuse(format!("chart {} {}: {digest} is not part of it", chart.name, chart.version))
            };
            self.check_attached(&chart.attached, &BTreeSet::from([chart.digest]), stray)?;
        }
        Ok(())
    }

    fn check_image(&self, image: &Image) -> Result<()> {
        let stray =
            |digest: &Digest| self.refuse(format!("image {}: {digest} is not part of it", image.reference));
        let (mut runnable, mut used) = (BTreeSet::new(), BTreeSet::new());
        for Member { digest, parsed, .. } in self.members(&image.digest, &image.media_type)? {
            if let Parsed::Manifest(manifest) = &parsed {
                self.check_parts(&digest, manifest)?;
                runnable.insert(digest);
            }
            used.insert(digest);
        }
        image.platforms.values().find(|d| !runnable.contains(*d)).map_or(Ok(()), |d| Err(stray(d)))?;
        let mut subjects = used.clone();
        subjects.extend(image.upstream);
        self.check_attached(&image.attached, &subjects, stray)?;
        tracing::info!("image {}: manifests of {} as signed", image.reference, image.digest);
        let Some(upstream) = &image.upstream else { return Ok(()) };
        // What is carried is pushed by the index, or the manifest, that is made of upstream's: that itself is not its child.
        used.remove(&image.digest);
        used.extend(runnable);
        let listed = self.listed_by(upstream)?.ok_or_else(|| stray(upstream))?;
        used.iter().find(|digest| !listed.contains(digest)).map_or(Ok(()), |digest| Err(stray(digest)))
    }

    /// Digests of all that an index lists, and of what those indexes in it list that are carried. None if it is no index.
    fn listed_by(&self, index: &Digest) -> Result<Option<BTreeSet<Digest>>> {
        let Parsed::Index(index) = self.parse(index, image::OCI_INDEX)? else { return Ok(None) };
        let (mut listed, mut queue) = (BTreeSet::new(), index.manifests);
        while let Some(child) = queue.pop() {
            if listed.insert(child.digest) && child.is_index() && self.size(&child.digest).is_some() {
                if listed.len() > CHILDREN {
                    return Err(self.refuse(format!("{} indexes and more within an index", listed.len())));
                }
                if let Parsed::Index(inner) = self.child(&child)? {
                    queue.extend(inner.manifests);
                }
            }
        }
        Ok(Some(listed))
    }

    /// A manifest or index with all that is below it; each once, and those that an index lists before the index.
    ///
    /// # Errors
    /// When one of them is missing, or is not what its index says.
    pub fn members(&self, digest: &Digest, media_type: &str) -> Result<Vec<Member>> {
        let root = Descriptor::new(media_type, *digest, self.size(digest).unwrap_or_default());
        let (mut seen, mut members, mut steps) = (BTreeSet::new(), Vec::new(), vec![Step::Enter(root)]);
        // No recursion: whoever makes a bundle says how deep indexes are within each other.
        while let Some(step) = steps.pop() {
            let child = match step {
                Step::Leave(member) => {
                    members.push(member);
                    continue;
                }
                Step::Enter(child) => child,
            };
            if !seen.insert(child.digest) {
                // It was read under another index, which may have said another size.
                self.check_size(&child)?;
                continue;
            }
            let parsed = self.child(&child)?;
            let below = match &parsed {
                Parsed::Index(index) => index.manifests.clone(),
                Parsed::Manifest(_) => vec![],
            };
            let media_type = image::media_type(&child.media_type, &self.small(&child.digest)?);
            steps.push(Step::Leave(Member { digest: child.digest, media_type, parsed }));
            steps.extend(below.into_iter().rev().map(Step::Enter));
            if seen.len() > LIST_CAP + 1 || steps.len() > CHILDREN {
                return Err(self.refuse(format!("{digest}: {}", ImageError::TooMany)));
            }
        }
        Ok(members)
    }

    fn check_size(&self, child: &Descriptor) -> Result<()> {
        let found = self.size(&child.digest).unwrap_or_default();
        match found == child.size {
            true => Ok(()),
            false => {
                let why = ImageError::ChildSize { found, said: child.size };
                Err(self.refuse(format!("{}: {why}", child.digest)))
            }
        }
    }

    /// Reads a manifest or index that an index lists.
    fn child(&self, child: &Descriptor) -> Result<Parsed> {
        let digest = &child.digest;
        image::parse_child(child, &self.small(digest)?).map_err(|e| self.refuse(format!("{digest}: {e}")))
    }

    /// Checks that what is said to belong to one of `subjects` does, by its own manifest or tag.
    fn check_attached(
        &self,
        attached: &[Attached],
        subjects: &BTreeSet<Digest>,
        stray: impl Fn(&Digest) -> Error,
    ) -> Result<()> {
        for attached in attached {
            self.artifact(&attached.digest)?;
            if !subjects.contains(&attached.subject) || !attached.holds(&self.small(&attached.digest)?) {
                return Err(stray(&attached.digest));
            }
        }
        Ok(())
    }

    /// Reads a manifest that no index lists, with all that it names.
    fn artifact(&self, digest: &Digest) -> Result<ImageManifest> {
        let Parsed::Manifest(manifest) = self.parse(digest, image::OCI_MANIFEST)? else {
            return Err(self.refuse(format!("{digest} is not an image manifest")));
        };
        self.check_parts(digest, &manifest)?;
        Ok(manifest)
    }

    /// Checks that all parts of a manifest are here, with the sizes that it says.
    fn check_parts(&self, digest: &Digest, manifest: &ImageManifest) -> Result<()> {
        let config = &manifest.config;
        for part in manifest.layers.iter().chain([config]) {
            match self.size(&part.digest) {
                Some(size) if size == part.size => {}
                Some(size) => {
                    return Err(self.refuse(format!(
                        "{} has {size} bytes, and {digest} says {}",
                        part.digest, part.size
                    )));
                }
                None => return Err(self.refuse(format!("{}, which {digest} needs, is missing", part.digest))),
            }
        }
        image::check_config(&config.media_type, &self.small(&config.digest)?)
            .map_err(|e| self.refuse(format!("config {}: {e}", config.digest)))
    }

    fn blob(&self, digest: &Digest) -> Result<&Blob> {
        self.blobs.get(digest).ok_or_else(|| self.refuse(format!("{digest} is missing")))
    }

    fn corrupt(&self, path: &str) -> Error {
        self.refuse(format!("the content of {path} is not what its digest says"))
            .hint("the file is damaged: copy it again from the connected side")
    }

    fn refuse(&self, why: String) -> Error {
        Error::trust(format!("checking bundle {}", self.bundle.path().display()), why)
    }
}

/// A blob being read.
struct Read {
    bundle: Arc<VerifiedBundle>,
    digest: Digest,
    at: u64,
    end: u64,
    /// There while the blob is hashed on the way.
    hasher: Option<Hasher>,
    started: bool,
}

impl Read {
    /// Whether all of the blob is hashed before the next chunk of it is there.
    fn is_hashed_first(&self) -> bool {
        let Some(blob) = self.bundle.blobs.get(&self.digest) else { return false };
        let size = blob.placed.entry.size;
        let is_part = self.at > 0 || self.end != size || size == 0;
        !self.started && is_part && !blob.checked.load(Ordering::Relaxed)
    }

    fn next(&mut self) -> Result<Option<Bytes>> {
        let blob = self.bundle.blob(&self.digest)?;
        let size = blob.placed.entry.size;
        if !self.started {
            if self.is_hashed_first() {
                self.bundle.check(&self.digest, &crate::progress::Silent)?;
            } else if !blob.checked.load(Ordering::Relaxed) {
                self.hasher = Some(Hasher::default());
            }
            self.started = true;
        }
        if self.at >= self.end.min(size) {
            return Ok(None);
        }
        let (length, at) = (CHUNK.min(self.end.min(size) - self.at), blob.placed.content_at + self.at);
        let fill = |chunk: &mut [u8]| self.bundle.bundle.read_at(chunk, at);
        let chunk = self.bundle.buffers.filled(length as usize, fill)?;
        self.at += chunk.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&chunk);
            if self.at == size {
                if self.hasher.take().map(Hasher::finish) != Some(self.digest) {
                    return Err(self.bundle.corrupt(&blob.placed.entry.path));
                }
                blob.checked.store(true, Ordering::Relaxed);
            }
        }
        Ok(Some(chunk))
    }
}

/// A chart's packed content.
///
/// # Errors
/// When the chart's manifest doesn't have exactly one layer.
pub fn chart_content(bundle: &VerifiedBundle, chart: &format::Chart) -> Result<Digest> {
    let manifest = bundle.artifact(&chart.digest)?;
    match manifest.layers.as_slice() {
        [layer] => Ok(layer.digest),
        // Helm puts a provenance file beside the chart.
        layers => {
            let mut packed = layers.iter().filter(|layer| crate::chart::is_content(&layer.media_type));
            match (packed.next(), packed.next()) {
                (Some(layer), None) => Ok(layer.digest),
                (None, _) => Err(bundle.refuse(format!("chart {} has no content", chart.name))),
                (Some(_), Some(_)) => {
                    Err(bundle.refuse(format!("chart {} has several contents", chart.name)))
                }
            }
        }
    }
}
