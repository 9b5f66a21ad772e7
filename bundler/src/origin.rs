//! Where bytes come from, blob by blob, and reading the small ones.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use crate::cache::ContentCache;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::format::METADATA_CAP;
use crate::registry::{Client, Repository};

/// How much of a file is read at a time, in bytes.
const CHUNK: usize = 256 << 10;

/// What to do about content that isn't what is pinned.
pub(crate) const CHANGED: &str = "it has changed since it was pinned, or was damaged on the way; if you trust the change: `airlock lock --update`";

/// What is needed to reach content.
pub struct Sources<'a> {
    /// Registries and URLs.
    pub client: &'a Client,
    /// Converted images and packed charts.
    pub cache: &'a ContentCache,
    /// Directory that relative paths start from: that of the lock.
    pub base: &'a Path,
}

/// Where the bytes of one blob come from.
#[derive(Clone)]
pub enum Origin {
    /// They are here.
    Bytes(Bytes),
    /// A file, from an offset on.
    File {
        /// The file.
        path: PathBuf,
        /// Where the blob starts in it, in bytes.
        offset: u64,
    },
    /// A blob of a repository.
    Registry(Repository),
    /// A URL.
    Url(String),
}

impl Origin {
    /// A small blob, whole and checked.
    ///
    /// # Errors
    /// When it can't be had, or is not what its digest says.
    pub async fn read(&self, digest: &Digest, size: u64) -> Result<Bytes> {
        let doing = format!("fetching blob {digest}");
        if size > METADATA_CAP {
            return Err(Error::input(
                doing,
                format!("it is too large to be a manifest, config or chart: {size} bytes"),
            ));
        }
        let mut chunks = match self {
            Origin::Bytes(bytes) => return Ok(bytes.clone()),
            Origin::Registry(repository) => return repository.small_blob(digest, size).await,
            Origin::File { path, offset } => std::pin::pin!(file_chunks(path.clone(), *offset, size)),
            Origin::Url(url) => return Err(Error::input(doing, format!("{url} is not an image's blob"))),
        };
        let mut bytes = Vec::new();
        let mut hasher = Hasher::default();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            hasher.update(&chunk);
            if hasher.length() > size {
                return Err(Error::trust(
                    doing,
                    format!("there is more than the {size} bytes that its manifest says"),
                ));
            }
            bytes.extend_from_slice(&chunk);
        }
        check(digest, hasher, &doing)?;
        Ok(bytes.into())
    }
}

/// Compares what was read with what was asked for.
pub(crate) fn check(digest: &Digest, hasher: Hasher, doing: &str) -> Result<()> {
    let found = hasher.finish();
    if found == *digest {
        return Ok(());
    }
    Err(Error::trust(doing, format!("its content is {found}, not {digest}")).hint(CHANGED))
}

/// `size` bytes of a file from `offset`.
pub(crate) fn file_chunks(path: PathBuf, offset: u64, size: u64) -> impl Stream<Item = Result<Bytes>> + Send {
    struct State {
        path: PathBuf,
        file: Option<File>,
        at: u64,
        end: u64,
    }
    fn step(mut state: State) -> Result<Option<(Bytes, State)>> {
        let failed = |e: std::io::Error| Error::input(format!("reading {}", state.path.display()), e);
        if state.at == state.end {
            return Ok(None);
        }
        let file = match state.file.take() {
            Some(file) => file,
            None => crate::file::open(&state.path).map_err(failed)?,
        };
        let mut chunk = vec![0; (CHUNK as u64).min(state.end - state.at) as usize];
        let read = file.read_at(&mut chunk, state.at).map_err(failed)?;
        if read == 0 {
            return Ok(None);
        }
        chunk.truncate(read);
        state.at += read as u64;
        state.file = Some(file);
        Ok(Some((chunk.into(), state)))
    }
    let state = State { path, file: None, at: offset, end: offset + size };
    futures_util::stream::try_unfold(state, |state| async {
        let step = tokio::task::spawn_blocking(move || step(state));
        step.await.unwrap_or_else(|e| Err(Error::input("reading a file", e)))
    })
}
