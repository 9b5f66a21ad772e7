//! From a plan to the tar: blobs are fetched in parallel, written straight to their offset and hashed on the way. The
//! file has its final name only when it is whole.

use std::fs::{File, TryLockError};
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};

use crate::archive::{Layout, Placed};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::origin::{CHANGED, Origin, check, file_chunks};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::registry::{self, Client};
use crate::sign::{self, SigningKey};

/// Blobs that are fetched at a time.
const PARALLEL: usize = 6;

/// A finished bundle.
#[derive(Debug)]
pub struct Built {
    /// Size of the file in bytes.
    pub size: u64,
    /// SHA-256 of `airlock.json`, which stands for everything in the bundle.
    pub manifest_digest: Digest,
}

/// Writes the tar to `output`, signed with `key`, or unsigned without one.
///
/// # Errors
/// When something can't be fetched or isn't what its digest says, or the file can't be written. Nothing is left
/// behind under the final name.
pub async fn build(
    plan: Plan,
    key: Option<&SigningKey>,
    client: &Client,
    output: &Path,
    progress: &Arc<dyn Progress>,
) -> Result<Built> {
    let partial = Partial::create(output)?;
    partial.reserve(plan.layout.file_size)?;
    let signature = match key {
        Some(key) => sign::sign(key, &plan.manifest_bytes)?,
        None => sign::unsigned(),
    };
    let target = Target {
        file: Arc::new(partial.file.try_clone().map_err(|e| partial.failed(e))?),
        path: output.into(),
    };
    target.frame(&plan.layout)?;
    target.write(&plan.manifest_bytes, plan.layout.entries[0].content_at)?;
    target.write(&signature, plan.layout.entries[1].content_at)?;

    progress.begin("fetching", plan.manifest.entries.iter().map(|e| e.size).sum());
    // Listed entries stand behind the manifest and its signature.
    let jobs = plan.layout.entries[2..].iter().zip(&plan.manifest.entries).zip(plan.origins);
    futures_util::stream::iter(jobs.map(Ok))
        .try_for_each_concurrent(PARALLEL, |((placed, listed), origin)| {
            let (target, progress) = (target.clone(), Arc::clone(progress));
            let job = Job { digest: listed.sha256.0, placed: placed.clone(), origin, client: client.clone() };
            async move { job.run(&target, &*progress).await }
        })
        .await?;
    progress.end();
    partial.finish(output)?;
    Ok(Built { size: plan.layout.file_size, manifest_digest: Digest::of(&plan.manifest_bytes) })
}

/// The file while it is written: beside the final one, so that a rename suffices, and removed if it isn't finished.
struct Partial {
    file: File,
    path: PathBuf,
    keep: bool,
}

impl Partial {
    fn create(output: &Path) -> Result<Self> {
        let writing = || format!("writing bundle {}", output.display());
        if output.is_dir() {
            return Err(
                Error::input(writing(), "it is a directory").hint("name the file, such as hello-0.1.0.tar")
            );
        }
        // The rename would put the bundle in the place of a device, a pipe or a link.
        if let Ok(there) = output.symlink_metadata()
            && !there.is_file()
        {
            let what = if there.is_symlink() { "a symbolic link" } else { "not a regular file" };
            return Err(Error::input(writing(), format!("it is there already, and is {what}"))
                .hint("name a new file, or a bundle to replace"));
        }
        let name = output.file_name().ok_or_else(|| Error::input(writing(), "it is not a file name"))?;
        let mut name = name.to_owned();
        name.push(".partial");
        let path = output.with_file_name(name);
        // Nor is anything written to where a link of that name leads.
        let no_link = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).custom_flags(no_link);
        let file = options.open(&path);
        let file = file.map_err(|e| Error::unwritable(writing(), e, "--output"))?;
        // Two builds into one file would mix; the lock goes with the process, however it ends.
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::input(writing(), format!("another build is writing {}", path.display())));
            }
            Err(TryLockError::Error(e)) => return Err(Error::input(writing(), e)),
        }
        let partial = Self { file, path, keep: false };
        partial.file.set_len(0).map_err(|e| partial.failed(e))?;
        Ok(partial)
    }

    /// Takes the whole room at once: a disk that is too small is known before anything is fetched.
    fn reserve(&self, size: u64) -> Result<()> {
        use rustix::io::Errno;
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, size) {
            // File systems that can't (NFS, FAT) find out while they are written to.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(self.failed(error.into())),
        }
    }

    fn finish(mut self, output: &Path) -> Result<()> {
        self.file.sync_all().map_err(|e| self.failed(e))?;
        std::fs::rename(&self.path, output).map_err(|e| self.failed(e))?;
        self.keep = true;
        // The rename itself must survive a power cut too.
        let parent = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| self.failed(e))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        write_error(&self.path, error)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing better can be done about a failure here; the file isn't under the final name.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn write_error(path: &Path, error: std::io::Error) -> Error {
    Error::unwritable(format!("writing {}", path.display()), error, "--output")
}

/// Where a tar is written; positions are the layout's.
#[derive(Clone)]
struct Target {
    file: Arc<File>,
    path: PathBuf,
}

impl Target {
    /// Everything that isn't content: headers; padding and the end are zeros already.
    fn frame(&self, layout: &Layout) -> Result<()> {
        self.file.set_len(layout.file_size).map_err(|e| write_error(&self.path, e))?;
        layout.entries.iter().try_for_each(|placed| self.write(&placed.header(), placed.header_at))
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.file.write_all_at(bytes, at).map_err(|e| write_error(&self.path, e))
    }
}

/// One blob on its way.
struct Job {
    digest: Digest,
    placed: Placed,
    origin: Origin,
    client: Client,
}

impl Job {
    async fn run(&self, target: &Target, progress: &dyn Progress) -> Result<()> {
        let size = self.placed.entry.size;
        let mut written = Hasher::default();
        match &self.origin {
            Origin::Bytes(bytes) => self.take(&mut written, bytes, target, progress)?,
            Origin::File { path, offset } => {
                let chunks = file_chunks(path.clone(), *offset, size);
                self.drain(&mut written, chunks, target, progress).await?;
            }
            Origin::Registry(repository) => {
                let chunks = repository.blob(&self.digest, 0).await?;
                self.drain(&mut written, chunks, target, progress).await?;
            }
            Origin::Url(url) => {
                let chunks = self.client.download(url).await?.stream;
                self.drain(&mut written, chunks, target, progress).await?;
            }
        }
        check(&self.digest, written, &self.fetching()).map_err(|e| e.hint(self.changed()))
    }

    async fn drain(
        &self,
        written: &mut Hasher,
        chunks: impl Stream<Item = Result<Bytes>>,
        target: &Target,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut chunks = std::pin::pin!(chunks);
        while let Some(chunk) = chunks.try_next().await? {
            self.take(written, &chunk, target, progress)?;
        }
        if written.length() < self.placed.entry.size {
            let (has, size) = (written.length(), self.placed.entry.size);
            let why = format!("it ended after {has} of {size} bytes");
            return Err(match self.origin {
                Origin::File { .. } => Error::trust(self.fetching(), why).hint(self.changed()),
                _ => Error::network(self.fetching(), why)
                    .hint("run it again; if it stays so, the server is at fault"),
            });
        }
        Ok(())
    }

    fn take(
        &self,
        written: &mut Hasher,
        bytes: &[u8],
        target: &Target,
        progress: &dyn Progress,
    ) -> Result<()> {
        let at = written.length();
        // Never a byte past the blob's own place.
        if at + bytes.len() as u64 > self.placed.entry.size {
            let size = self.placed.entry.size;
            return Err(Error::trust(
                self.fetching(),
                format!("there is more than the {size} bytes that its manifest says"),
            )
            .hint(self.changed()));
        }
        target.write(bytes, self.placed.content_at + at)?;
        written.update(bytes);
        progress.advance(bytes.len() as u64);
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

    fn fetching(&self) -> String {
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
