//! One blob on its way into the tar.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use tokio::sync::Semaphore;

use super::Target;
use super::journal::{Journal, RECORD};
use crate::archive::Placed;
use crate::cache::ContentCache;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Kind, Result};
use crate::origin::{CHANGED, Origin, check, file_chunks};
use crate::progress::Progress;
use crate::registry::{self, Client, Repository};

/// How much is read at a time of what is there already, in bytes.
const CHUNK: u64 = 256 << 10;

/// After so many bytes of a blob the disk is told to write them, so that it works while the network does.
const SETTLED: u64 = 8 << 20;
/// A page of memory, in bytes, or a part of one.
const PAGE: u64 = 4096;

/// One blob on its way.
pub(super) struct Job {
    /// Its number among the listed entries.
    pub(super) index: usize,
    pub(super) digest: Digest,
    pub(super) placed: Placed,
    pub(super) origin: Origin,
    pub(super) client: Client,
    pub(super) cache: ContentCache,
    /// Whether what a registry sent is put into the cache.
    pub(super) keeps_blobs: bool,
    pub(super) target: Arc<Target>,
    pub(super) journal: Arc<Journal>,
    pub(super) progress: Arc<dyn Progress>,
    /// How many may be on their way at a time; one of them is this job's.
    pub(super) transfers: Arc<Semaphore>,
}

/// How far a blob is.
#[derive(Default)]
pub(super) struct State {
    hasher: Hasher,
    /// Bytes that the journal and the progress know of.
    recorded: u64,
    shown: u64,
    /// Bytes that are on their way to the disk.
    settled: u64,
}

impl State {
    /// Bytes that were hashed.
    pub(super) fn length(&self) -> u64 {
        self.hasher.length()
    }

    /// What came since `hasher` is not right.
    fn go_back(&mut self, hasher: Hasher) {
        (self.recorded, self.settled) = (hasher.length(), hasher.length());
        self.hasher = hasher;
    }

    /// So much of the blob was shown as done.
    pub(super) fn shown_to(&mut self, length: u64) {
        self.shown = length.max(self.shown);
    }
}

impl Job {
    /// Fetches what is missing behind the first `start` bytes, which a build before has written as far as its journal says: they
    /// are hashed before they count. The result is how many of them do.
    pub(super) async fn run(self, start: u64) -> Result<u64> {
        // Nobody closes it: jobs take their turns in the order in which they were made.
        let _turn = Arc::clone(&self.transfers).acquire_owned().await.ok();
        let job = Arc::new(self);
        let since = Instant::now();
        let (mut state, mut resumed) = (State::default(), start);
        if start > 0 {
            // Nothing of it is to be told of again.
            (state.recorded, state.shown, state.settled) = (start, start, start);
            job.take_written(&mut state, start).await?;
            job.progress.resume(start);
        }
        match job.fetch(&mut state).await {
            // What was there may be at fault: after a crash of the system, or by somebody's hand. Then it is all fetched again.
            Err(error) if start > 0 && error.kind() == Kind::Trust => {
                tracing::debug!(digest = %job.digest, %error, "what was there is not right: from the start");
                state = State { shown: state.shown, ..State::default() };
                resumed = 0;
                job.fetch(&mut state).await?;
            }
            outcome => outcome?,
        }
        job.record(job.placed.entry.size)?;
        tracing::info!(
            "{}: {} bytes, {resumed} of them from before, {:.3} s",
            job.fetching(),
            job.placed.entry.size,
            since.elapsed().as_secs_f64()
        );
        // What is there already is not stored once more.
        if job.keeps_blobs
            && matches!(job.origin, Origin::Registry(_))
            && job.cache.path(&job.digest).is_none()
        {
            // The bundle is what was asked for; the next build is only slower.
            if let Err(error) = job.keep().await {
                tracing::warn!("{error}");
            }
        }
        Ok(resumed)
    }

    /// Tells the journal how much is written, but not of what is here anyway.
    fn record(&self, bytes: u64) -> Result<()> {
        match self.origin {
            Origin::Bytes(_) => Ok(()),
            _ => self.journal.record(self.index, bytes),
        }
    }

    /// Hashes what is in the file already, up to `end`.
    pub(super) async fn take_written(self: &Arc<Self>, state: &mut State, end: u64) -> Result<()> {
        let (job, hasher) = (Arc::clone(self), std::mem::take(&mut state.hasher));
        let read = tokio::task::spawn_blocking(move || job.hashed(hasher, end));
        state.hasher =
            read.await.unwrap_or_else(|e| Err(Error::input("reading the unfinished bundle", e)))?;
        self.told(state)
    }

    /// Takes a hash on to `end`. Blocks.
    fn hashed(&self, mut hasher: Hasher, end: u64) -> Result<Hasher> {
        self.read(hasher.length(), end, |part| {
            hasher.update(part);
            Ok(())
        })?;
        Ok(hasher)
    }

    /// Reads what is in the file from `at` to `end`. Blocks.
    fn read(&self, mut at: u64, end: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; CHUNK.min(end - at) as usize];
        while at < end {
            let part = &mut buffer[..CHUNK.min(end - at) as usize];
            let read = self.target.file.read_exact_at(part, self.placed.content_at + at);
            read.map_err(|e| Error::input(format!("reading {}", self.target.path.display()), e))?;
            take(part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Fetches everything behind what `state` has, and checks the whole.
    async fn fetch(self: &Arc<Self>, state: &mut State) -> Result<()> {
        let (size, from) = (self.placed.entry.size, state.hasher.length());
        if from < size || size == 0 {
            match &self.origin {
                Origin::Bytes(bytes) => self.take(state, bytes.get(from as usize..).unwrap_or_default())?,
                Origin::File { path, offset } => {
                    self.drain(state, file_chunks(path.clone(), offset + from, size - from)).await?;
                }
                Origin::Registry(repository) => {
                    if self.take_cached(state).await? {
                        return Ok(());
                    }
                    self.pull(state, repository).await?;
                }
                Origin::Url(url) => {
                    if self.take_cached(state).await? {
                        return Ok(());
                    }
                    // A server of files may know no ranges.
                    state.hasher = Hasher::default();
                    self.drain(state, self.client.download(url).await?.stream).await?;
                }
            }
        }
        let hasher = std::mem::take(&mut state.hasher);
        check(&self.digest, hasher, &self.fetching()).map_err(|e| e.hint(self.changed()))
    }

    /// Takes the blob out of the cache, whole and checked, if it has it.
    async fn take_cached(&self, state: &mut State) -> Result<bool> {
        let (from, size) = (state.length(), self.placed.entry.size);
        let Some(path) = self.cache.path(&self.digest) else { return Ok(false) };
        let cached = file_chunks(path.clone(), from, size - from);
        let before = state.hasher.clone();
        let outcome = async {
            self.drain(state, cached).await?;
            check(&self.digest, std::mem::take(&mut state.hasher), "reading the cache")
        };
        match outcome.await {
            Ok(()) => Ok(true),
            // A cache may be damaged; what it can't give, the registry or server can.
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "not out of the cache, then");
                state.go_back(before);
                Ok(false)
            }
        }
    }

    /// Puts the blob into the cache.
    async fn keep(self: &Arc<Self>) -> Result<()> {
        let job = Arc::clone(self);
        let kept = tokio::task::spawn_blocking(move || {
            let mut writer = job.cache.writer()?;
            job.read(0, job.placed.entry.size, |part| writer.write(part))?;
            writer.finish().keep()
        });
        kept.await.unwrap_or_else(|e| Err(Error::input("storing a blob in the cache", e))).map(drop)
    }

    /// Out of a registry: as one stream, until there are transfers to spare.
    async fn pull(self: &Arc<Self>, state: &mut State, repository: &Repository) -> Result<()> {
        let from = state.length();
        let mut chunks = repository.blob(&self.digest, from).await?;
        let mut is_whole = true;
        while is_whole {
            let Some(chunk) = chunks.try_next().await? else { break };
            self.take(state, &chunk)?;
            is_whole = !self.is_worth_parts(state.length());
        }
        if is_whole {
            return self.ended(state);
        }
        drop(chunks);
        self.fetch_parts(state, repository).await?;
        let at = state.length();
        if at < self.placed.entry.size {
            self.drain(state, repository.blob(&self.digest, at).await?).await?;
        }
        Ok(())
    }

    async fn drain(&self, state: &mut State, chunks: impl Stream<Item = Result<Bytes>> + Send) -> Result<()> {
        let mut chunks = std::pin::pin!(chunks);
        while let Some(chunk) = chunks.try_next().await? {
            self.take(state, &chunk)?;
        }
        self.ended(state)
    }

    /// Whether all of it came.
    fn ended(&self, state: &State) -> Result<()> {
        if state.hasher.length() < self.placed.entry.size {
            let (has, size) = (state.hasher.length(), self.placed.entry.size);
            let why = format!("it ended after {has} of {size} bytes");
            return Err(match self.origin {
                Origin::File { .. } => Error::trust(self.fetching(), why).hint(self.changed()),
                _ => Error::network(self.fetching(), why)
                    .hint("run it again; if it stays so, the server is at fault"),
            });
        }
        Ok(())
    }

    fn take(&self, state: &mut State, bytes: &[u8]) -> Result<()> {
        let at = state.hasher.length();
        // Never a byte past the blob's own place.
        if at + bytes.len() as u64 > self.placed.entry.size {
            let size = self.placed.entry.size;
            return Err(Error::trust(
                self.fetching(),
                format!("there is more than the {size} bytes that its manifest says"),
            )
            .hint(self.changed()));
        }
        self.target.write(bytes, self.placed.content_at + at)?;
        state.hasher.update(bytes);
        self.told(state)
    }

    /// Tells the journal, the disk and the progress how far it is.
    fn told(&self, state: &mut State) -> Result<()> {
        let length = state.hasher.length();
        if length >= state.recorded + RECORD {
            self.record(length)?;
            state.recorded = length;
        }
        if length >= state.settled + SETTLED {
            // Whole pages only: what is written to a page that is on its way is written once more.
            let (at, end) = (self.placed.content_at + state.settled, self.placed.content_at + length);
            let end = end - end % PAGE;
            let target = Arc::clone(&self.target);
            tokio::task::spawn_blocking(move || target.settle(at, end - at));
            state.settled = end - self.placed.content_at;
        }
        // What is fetched twice is shown once.
        self.progress.advance(length.saturating_sub(state.shown));
        state.shown_to(length);
        Ok(())
    }

    /// What to do about content that is not what is pinned.
    fn changed(&self) -> &'static str {
        match self.origin {
            // What a digest names does not change: no pin helps.
            Origin::Registry(_) => registry::CHANGED,
            _ => CHANGED,
        }
    }

    pub(super) fn fetching(&self) -> String {
        match &self.origin {
            Origin::Url(url) => format!("fetching {url}"),
            Origin::File { path, .. } => format!("reading {}", path.display()),
            Origin::Registry(repository) => {
                format!("fetching blob {}", repository.named(&self.digest.to_string()))
            }
            Origin::Bytes(_) => format!("writing blob {}", self.digest),
        }
    }
}
