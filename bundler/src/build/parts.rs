//! A large blob in several parts at once, while there are transfers to spare: one connection rarely fills a fast line.
//!
//! Parts are written where they belong as they come, and hashed out of the file in their order: the journal tells of
//! what was hashed, so that a build that is killed loses the parts that were on their way and nothing else.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::TryStreamExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use super::job::{Job, State};
use crate::error::{Error, Kind, Result};
use crate::registry::Repository;

/// Size of a part, in bytes.
const PART: u64 = 16 << 20;
/// Less than this that is left of a blob, in bytes, is not worth other connections.
const SPLIT: u64 = 4 * PART;

/// A part on its way; it is given up when it is dropped.
struct Part {
    range: Range<u64>,
    task: JoinHandle<Result<()>>,
    shown: Arc<AtomicU64>,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Job {
    /// Whether what is left of a blob is to be fetched in parts.
    pub(super) fn is_worth_parts(&self, at: u64) -> bool {
        self.placed.entry.size - at >= SPLIT && self.transfers.available_permits() > 0
    }

    /// Fetches what is behind `state`, in parts. It may stop before the end, where a part can't be had so: the registry may
    /// know no ranges, or the network fails.
    pub(super) async fn fetch_parts(
        self: &Arc<Self>,
        state: &mut State,
        repository: &Repository,
    ) -> Result<()> {
        let size = self.placed.entry.size;
        let mut next = state.length();
        let mut parts: VecDeque<Part> = VecDeque::new();
        loop {
            while next < size {
                // One part goes with the blob's own transfer, others with those that nobody needs.
                let spare = if parts.is_empty() {
                    None
                } else {
                    match Arc::clone(&self.transfers).try_acquire_owned() {
                        Ok(spare) => Some(spare),
                        Err(_) => break,
                    }
                };
                let range = next..size.min(next + PART);
                next = range.end;
                parts.push_back(self.part(repository, range, spare));
            }
            let Some(mut part) = parts.pop_front() else { return Ok(()) };
            let fetched = (&mut part.task).await;
            match fetched.unwrap_or_else(|e| Err(Error::input("building the bundle", e))) {
                Ok(()) => {
                    state.shown_to(part.range.end);
                    self.take_written(state, part.range.end).await?;
                }
                Err(error) if error.kind() == Kind::Network => {
                    tracing::debug!(digest = %self.digest, %error, "no parts, then");
                    let mut shown = part.shown.load(Ordering::Relaxed);
                    for other in &mut parts {
                        // Nobody may write there any more when it is fetched again.
                        other.task.abort();
                        let _ = (&mut other.task).await;
                        shown += other.shown.load(Ordering::Relaxed);
                    }
                    // What is fetched twice is shown once.
                    state.shown_to(part.range.start + shown);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn part(
        self: &Arc<Self>,
        repository: &Repository,
        range: Range<u64>,
        spare: Option<OwnedSemaphorePermit>,
    ) -> Part {
        let (job, repository, shown) = (Arc::clone(self), repository.clone(), Arc::new(AtomicU64::new(0)));
        let (wanted, counted) = (range.clone(), Arc::clone(&shown));
        let task = tokio::spawn(async move {
            let outcome = job.fetch_part(&repository, wanted, &counted).await;
            drop(spare);
            outcome
        });
        Part { range, task, shown }
    }

    async fn fetch_part(&self, repository: &Repository, range: Range<u64>, shown: &AtomicU64) -> Result<()> {
        let refused = |why: &str| Error::network(self.fetching(), why);
        let part = repository.blob_part(&self.digest, range.clone()).await?;
        let mut chunks = part.ok_or_else(|| refused("the registry knows no ranges"))?;
        let mut at = range.start;
        while let Some(chunk) = chunks.try_next().await? {
            let end = at + chunk.len() as u64;
            // Never a byte past the part's own place.
            if end > range.end {
                return Err(refused("there is more than was asked for"));
            }
            self.target.write(&chunk, self.placed.content_at + at)?;
            at = end;
            shown.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            self.progress.advance(chunk.len() as u64);
        }
        if at < range.end { Err(refused("there is less than was asked for")) } else { Ok(()) }
    }
}
