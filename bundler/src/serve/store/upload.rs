//! Uploads: a file each, that grows by what comes, and becomes a blob when it is what its digest says. They outlive the
//! process: who knows the address goes on where the file ends.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::Store;
use crate::digest::{Digest, Hasher};
use crate::file;
use crate::serve::response::Refusal;

/// An upload's name: 32 hexadecimal digits that can't be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::serve) struct Id([u8; 16]);

impl FromStr for Id {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A blob that is on its way here.
pub(in crate::serve) struct Upload {
    path: PathBuf,
    length: u64,
    /// Over what is there; none if another process wrote it.
    hasher: Option<Hasher>,
}

impl Upload {
    fn create(path: PathBuf) -> io::Result<Self> {
        File::create_new(&path)?;
        Ok(Self { path, length: 0, hasher: Some(Hasher::default()) })
    }

    fn open(path: PathBuf) -> io::Result<Self> {
        let length = open(&path)?.metadata()?.len();
        Ok(Self { path, length, hasher: None })
    }

    /// How many bytes there are.
    pub(in crate::serve) fn length(&self) -> u64 {
        self.length
    }

    /// Adds bytes to its end.
    ///
    /// # Errors
    /// When the disk fails, or is full; what was there counts on, a part of what came is not.
    pub(in crate::serve) fn append(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        // Opened each time: whoever begins uploads and leaves them takes no file descriptors, and one that has become a blob is
        // not written to any more.
        let file = open(&self.path)?;
        for bytes in chunks {
            file.write_all_at(bytes, self.length)?;
            self.length += bytes.len() as u64;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(bytes);
            }
        }
        Ok(())
    }

    /// The digest of what is there, which is on the disk then.
    fn settle(&mut self) -> io::Result<Digest> {
        let mut file = open(&self.path)?;
        file.set_len(self.length)?;
        file.sync_all()?;
        let mut hasher = self.hasher.take().unwrap_or_default();
        if hasher.length() < self.length {
            hasher = Hasher::default();
            io::copy(&mut file, &mut hasher)?;
        }
        self.hasher = Some(hasher.clone());
        Ok(hasher.finish())
    }
}

/// Opens an upload's file, and never what a link of its name leads to.
fn open(path: &Path) -> io::Result<File> {
    match path.symlink_metadata()?.is_file() {
        true => file::open_as(path, File::options().read(true).write(true)),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// An upload that one request at a time is about.
pub(in crate::serve) type Shared = Arc<tokio::sync::Mutex<Upload>>;

impl Store {
    /// Begins an upload.
    ///
    /// # Errors
    /// When no file can be made.
    pub(in crate::serve) fn begin(&self) -> Result<(Id, Shared), Refusal> {
        let mut id = Id([0; 16]);
        getrandom::fill(&mut id.0).map_err(|e| io::Error::other(e.to_string()))?;
        let upload = Arc::new(tokio::sync::Mutex::new(Upload::create(self.upload_path(&id))?));
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&upload));
        Ok((id, upload))
    }

    /// An upload that was begun, also by an earlier process.
    pub(in crate::serve) fn upload(&self, id: &Id) -> Option<Shared> {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(upload) = uploads.get(id) {
            return Some(Arc::clone(upload));
        }
        let upload = Arc::new(tokio::sync::Mutex::new(Upload::open(self.upload_path(id)).ok()?));
        uploads.insert(*id, Arc::clone(&upload));
        Some(upload)
    }

    /// Makes a blob of an upload, if it is what it should be; else there is nothing of it any more.
    ///
    /// # Errors
    /// When it is something else, or the disk fails; the upload is then still there.
    pub(in crate::serve) fn finish(
        &self,
        id: &Id,
        upload: &mut Upload,
        digest: &Digest,
    ) -> Result<(), Refusal> {
        let found = upload.settle()?;
        if found != *digest {
            self.cancel(id);
            return Err(Refusal::bad("DIGEST_INVALID", format!("the content is {found}, not {digest}")));
        }
        {
            let _writing = self.writing();
            let blob = self.path(digest);
            // Also where it is there already: it may be damaged, or about to be swept.
            fs::rename(&upload.path, &blob)?;
            file::sync_directory(blob.parent().unwrap_or(&self.root))?;
        }
        self.forget(id);
        Ok(())
    }

    /// Ends an upload without a blob.
    pub(in crate::serve) fn cancel(&self, id: &Id) {
        self.forget(id);
        let _ = fs::remove_file(self.upload_path(id));
    }

    fn forget(&self, id: &Id) {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Forgets uploads that no request is about; their files tell what is needed when one is.
    pub(super) fn forget_idle(&self) {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.retain(|_, upload| Arc::strong_count(upload) > 1);
    }

    fn upload_path(&self, id: &Id) -> PathBuf {
        self.root.join("uploads").join(id.to_string())
    }
}
