//! From a plan to the tar: blobs are fetched in parallel, written straight to their offset and hashed on the way. The
//! file has its final name only when it is whole; until then a journal beside it says what it has, and a build that was
//! interrupted goes on from there.

use std::cmp::Reverse;
use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::archive::Layout;
use crate::bundle::Bundle;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::origin::Sources;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::sign::{self, Signer};

mod job;
mod journal;
mod owned;
mod partial;
mod parts;
mod replace;

use job::Job;
use partial::Partial;

/// A finished bundle.
#[derive(Debug)]
pub struct Built {
    /// Size of the file in bytes.
    pub size: u64,
    /// SHA-256 of `airlock.json`, which stands for everything in the bundle.
    pub manifest_digest: Digest,
    /// Bytes of blobs that a build before had fetched.
    pub resumed: u64,
    /// Keys of the signatures that the file had before, and still has.
    pub kept: Vec<String>,
}

/// Choices of a build.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choices {
    /// True if what came from a registry is put into the content cache, for the next build.
    pub keeps_blobs: bool,
    /// A file of the output's name is replaced, whatever it is.
    pub replaces: bool,
}

/// Writes the tar to `output`, signed by `signer`, or unsigned without one. What the content cache has is taken from there. Of
/// the same bundle in that file, the signatures of others are kept.
///
/// # Errors
/// When another bundle in that file would be lost, unless that is chosen.
/// When something can't be fetched or isn't what its digest says, the file can't be written, or `verify` would refuse it. Nothing is left
/// behind under the final name. What was fetched when the network failed, or the process ended, is kept in
/// `OUTPUT.partial`, and the next build of the same bundle goes on from there.
pub async fn build(
    plan: Plan,
    signer: Option<&Signer>,
    sources: &Sources<'_>,
    choices: Choices,
    output: &Path,
    progress: &Arc<dyn Progress>,
) -> Result<Built> {
    let mut partial = Partial::open(output)?;
    let own = signer.map(|signer| signer.public_key().key_id());
    let kept = || match choices.replaces {
        true => Ok(vec![]),
        false => replace::kept(output, &plan.manifest, &plan.manifest_bytes, own.as_deref()),
    };
    // Before anything is fetched.
    let before = kept()?;
    let signature = match signer {
        Some(signer) => signer.entry(&plan.manifest_bytes)?,
        None => before.into_iter().next().unwrap_or_else(sign::unsigned),
    };
    let manifest_digest = Digest::of(&plan.manifest_bytes);
    let sizes: Vec<u64> = plan.manifest.entries.iter().map(|entry| entry.size).collect();
    let journal = partial.prepare(plan.layout.file_size, &manifest_digest, &sizes)?;
    let target = Arc::new(Target {
        file: partial.file.try_clone().map_err(|e| partial.failed(e))?,
        path: output.into(),
    });
    target.frame(&plan.layout)?;
    target.write(&plan.manifest_bytes, plan.layout.entries[0].content_at)?;
    target.write(&signature, plan.layout.entries[1].content_at)?;

    progress.begin("fetching", sizes.iter().sum());
    // Listed entries stand behind the manifest and its signature.
    let jobs = plan.layout.entries[2..].iter().zip(&plan.manifest.entries).zip(plan.origins).enumerate();
    let mut jobs: Vec<_> = jobs.collect();
    // Large ones first, so that none of them is the last, alone.
    jobs.sort_by_key(|(_, ((placed, _), _))| Reverse(placed.entry.size));
    let transfers = Arc::new(Semaphore::new(sources.client.transfers()));
    let (mut running, mut resumed) = (JoinSet::new(), 0);
    for (index, ((placed, listed), origin)) in jobs {
        let start = journal.known()[index];
        let job = Job {
            index,
            digest: listed.sha256.0,
            placed: placed.clone(),
            origin,
            client: sources.client.clone(),
            cache: sources.cache.clone(),
            keeps_blobs: choices.keeps_blobs,
            target: Arc::clone(&target),
            journal: Arc::clone(&journal),
            progress: Arc::clone(progress),
            transfers: Arc::clone(&transfers),
        };
        running.spawn(job.run(start));
    }
    let mut outcome = Ok(());
    while outcome.is_ok()
        && let Some(joined) = running.join_next().await
    {
        let joined = joined.unwrap_or_else(|e| Err(Error::input("building the bundle", e)));
        outcome = joined.map(|bytes| resumed += bytes);
    }
    if let Err(error) = outcome {
        running.shutdown().await;
        // A disk that is full wants its room back, and content that is wrong is not gone on from.
        if error.kind() != Kind::Network {
            partial.discard();
        }
        return Err(error);
    }
    progress.end();
    let (kept, mut size) = (kept()?, plan.layout.file_size);
    let unfinished = crate::file::beside(output, ".partial");
    for entry in kept.iter().filter(|entry| **entry != signature) {
        Bundle::add_signature(&unfinished, entry)?;
        size = std::fs::metadata(&unfinished).map_err(|e| write_error(&unfinished, e))?.len();
    }
    let kept = kept.iter().map(|entry| sign::signer(entry)).collect::<Result<_>>()?;
    if let Err(error) = partial.check(signer).await {
        partial.discard();
        return Err(error);
    }
    partial.finish(output)?;
    Ok(Built { size, manifest_digest, resumed, kept })
}

fn write_error(path: &Path, error: std::io::Error) -> Error {
    Error::unwritable(format!("writing {}", path.display()), error, "--output")
}

/// Where a tar is written; positions are the layout's.
struct Target {
    file: File,
    path: PathBuf,
}

impl Target {
    /// Everything that isn't content: headers, padding and the end. An unfinished file may have anything there.
    fn frame(&self, layout: &Layout) -> Result<()> {
        let mut end = 0;
        for placed in &layout.entries {
            let mut frame = vec![0; (placed.header_at - end) as usize];
            frame.extend(placed.header());
            self.write(&frame, end)?;
            end = placed.content_at + placed.entry.size;
        }
        self.write(&vec![0; (layout.file_size - end) as usize], end)
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.file.write_all_at(bytes, at).map_err(|e| write_error(&self.path, e))
    }

    /// Has what was written there go to the disk from now on, so that there is less to wait for in the end. Blocks while
    /// the disk is behind.
    fn settle(&self, at: u64, length: u64) {
        // Advice: pages that are not on the disk yet can't be given up, and so their writing is begun.
        let _ = rustix::fs::fadvise(&self.file, at, NonZeroU64::new(length), rustix::fs::Advice::DontNeed);
    }
}
