//! The bundle while it is written: beside the final file, so that a rename suffices.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::journal::Journal;
use super::{owned, write_error};
use crate::bundle::Bundle;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::file::beside;
use crate::sign::Signer;
use crate::verify::Trust;

/// The unfinished file and its journal.
pub(super) struct Partial {
    pub(super) file: File,
    path: PathBuf,
    /// Once it is open.
    journal: Option<Arc<Journal>>,
    /// Whether it goes, whatever it has.
    is_discarded: bool,
    /// Whether it has its final name.
    is_finished: bool,
}

impl Partial {
    /// Opens it, and takes it for this process.
    pub(super) fn open(output: &Path) -> Result<Self> {
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
        if output.file_name().is_none() {
            return Err(Error::input(writing(), "it is not a file name"));
        }
        let path = beside(output, ".partial");
        let file = owned::open(&path, 0o644).map_err(|e| e.within(writing()))?;
        // Two builds into one file would mix; the lock goes with the process, however it ends.
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::input(writing(), format!("another build is writing {}", path.display())));
            }
            Err(TryLockError::Error(e)) => return Err(Error::input(writing(), e)),
        }
        // Another build may have given it its final name before the lock was ours.
        let id = |meta: std::io::Result<std::fs::Metadata>| meta.ok().map(|meta| (meta.dev(), meta.ino()));
        if id(path.symlink_metadata()) != id(file.metadata()) {
            let why = format!("another build has just written it by way of {}", path.display());
            return Err(Error::input(writing(), why).hint("run the same command again"));
        }
        Ok(Self { file, path, journal: None, is_discarded: false, is_finished: false })
    }

    /// Opens the journal for a bundle with this manifest and entries of these sizes, and makes room for `size` bytes: a disk
    /// that is too small is known before anything is fetched.
    pub(super) fn prepare(&mut self, size: u64, manifest: &Digest, entries: &[u64]) -> Result<Arc<Journal>> {
        let there = self.file.metadata().map_err(|e| self.failed(e))?.len();
        let path = beside(&self.path, ".journal");
        let journal = Journal::open(path, manifest, entries, there == size);
        let journal = Arc::new(journal?);
        self.journal = Some(Arc::clone(&journal));
        if journal.known().iter().all(|bytes| *bytes == 0) {
            self.file.set_len(0).map_err(|e| self.failed(e))?;
        }
        self.reserve(size)?;
        self.file.set_len(size).map_err(|e| self.failed(e))?;
        Ok(journal)
    }

    fn reserve(&self, size: u64) -> Result<()> {
        use rustix::io::Errno;
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, size) {
            // File systems that can't (NFS, FAT) find out while they are written to.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(Errno::NOSPC) => {
                let free = rustix::fs::fstatvfs(&self.file).map(|fs| fs.f_bavail * fs.f_frsize);
                let free = free.map_or_else(|_| "less is free".into(), |free| format!("{free} are free"));
                let why = std::io::Error::new(
                    ErrorKind::StorageFull,
                    format!("No space left on device: the bundle takes {size} bytes, and {free}"),
                );
                Err(self.failed(why))
            }
            Err(error) => Err(self.failed(error.into())),
        }
    }

    /// There is something wrong with it, or no room for it.
    pub(super) fn discard(&mut self) {
        self.is_discarded = true;
    }

    /// Reads it as `airlock verify --quick` does, with the signer's own key: what the site would refuse is refused here. Layers
    /// and files were hashed while they were written, and are not hashed again.
    pub(super) async fn check(&self, signer: Option<&Signer>) -> Result<()> {
        let trust = match signer {
            Some(signer) => Trust::Keys { keys: vec![signer.public_key()], required: 1 },
            None => Trust::InsecureSkipVerify,
        };
        let path = self.path.clone();
        let checked = tokio::task::spawn_blocking(move || Bundle::open(&path)?.verify(&trust).map(drop));
        let checked = checked.await.unwrap_or_else(|e| Err(Error::input("reading it", e)));
        checked.map_err(|e| {
            e.within("checking what was built, as `airlock verify` will")
                .hint("the bundle is not kept; run the same command again, and report it if it stays so")
        })
    }

    /// Gives it its final name.
    pub(super) fn finish(mut self, output: &Path) -> Result<()> {
        self.file.sync_all().map_err(|e| self.failed(e))?;
        std::fs::rename(&self.path, output).map_err(|e| self.failed(e))?;
        self.is_finished = true;
        // One that stays is thrown away by who opens it: its file is not there.
        if let Some(journal) = self.journal.take() {
            let _ = std::fs::remove_file(journal.path());
        }
        // The rename itself must survive a power cut too.
        let parent = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| self.failed(e))
    }

    pub(super) fn failed(&self, error: std::io::Error) -> Error {
        write_error(&self.path, error)
    }
}

/// What the next build can go on from stays.
impl Drop for Partial {
    fn drop(&mut self) {
        if self.is_finished
            || (!self.is_discarded && self.journal.as_ref().is_some_and(|j| j.is_worth_keeping()))
        {
            return;
        }
        // Nothing better can be done about a failure here; the file isn't under the final name.
        let _ = std::fs::remove_file(&self.path);
        if let Some(journal) = &self.journal {
            let _ = std::fs::remove_file(journal.path());
        }
    }
}
