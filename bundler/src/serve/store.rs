//! Content that is pushed here: one OCI image layout on disk (image spec, "OCI Image Layout"), for all repositories.
//!
//! `index.json` says which manifests there are: one descriptor for each tag, named `REPOSITORY:TAG`, and one for each manifest
//! of a repository, named `REPOSITORY@DIGEST`, by `org.opencontainers.image.ref.name`. It is replaced whole, after what it names
//! is on the disk: whatever moment a machine stops at, a tag points to something complete, or is not there. Blobs are kept
//! once, whoever needs them. Names from requests never become paths.

mod load;
mod upload;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use serde_json::json;
use warp::http::StatusCode;

use super::response::Refusal;
use super::tables::{Described, Tables};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::file;
use crate::format::{METADATA_CAP, blob_path};
use crate::image::{self, OCI_INDEX};
use load::{Entry, MARK, NAME};
pub(super) use upload::{Id, Shared, Upload};

/// Largest manifest (distribution spec, "Pushing Manifests": at least 4 MB), in bytes.
pub(super) const MANIFEST_CAP: u64 = 4 << 20;
/// How long what nothing names is kept: somebody may be about to name it, or to go on with it.
pub(super) const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);
/// How old a blob is at least that is made young again.
const RENEWED: Duration = Duration::from_secs(60 * 60);

/// A directory with content.
pub(super) struct Store {
    root: PathBuf,
    tables: RwLock<Arc<Tables>>,
    /// Held while names are given or taken.
    writing: Mutex<()>,
    uploads: Mutex<HashMap<Id, Shared>>,
    /// Locked as long as we run: two that write would forget each other's tags.
    _lock: File,
}

/// What a manifest is put or taken away by.
pub(super) enum Target<'a> {
    Tag(&'a str),
    Digest(Digest),
}

impl Store {
    /// Opens a store, or makes one of a directory that is empty.
    ///
    /// # Errors
    /// When the directory can't be written to, is another's, or is used by another process.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let store = Self {
            root: root.into(),
            tables: RwLock::default(),
            writing: Mutex::default(),
            uploads: Mutex::default(),
            _lock: load::claim(root)?,
        };
        let loaded = store.load()?;
        if loaded.is_new {
            let failed = |e| Error::unwritable(format!("opening store {}", root.display()), e, "--store");
            store.write(&loaded.tables).map_err(failed)?;
        }
        store.set(loaded.tables);
        if loaded.is_damaged {
            // What belonged to it may be needed when it is pushed again.
            store.unused().iter().for_each(|path| renew(path));
        }
        store.sweep(ABANDONED);
        Ok(store)
    }

    /// What there is now.
    pub(super) fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, tables: Tables) {
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tables);
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a blob is, or would be.
    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(blob_path(digest))
    }

    /// A blob's size in bytes, if it is here.
    pub(super) fn size(&self, digest: &Digest) -> Option<u64> {
        self.path(digest).metadata().ok().map(|found| found.len())
    }

    /// The same, for somebody who asked in order to name it: it is kept as long as if it had been pushed now.
    pub(super) fn promise(&self, digest: &Digest) -> Option<u64> {
        let path = self.path(digest);
        if is_older(&path, RENEWED) {
            renew(&path);
        }
        self.size(digest)
    }

    /// A manifest, its digest checked.
    ///
    /// # Errors
    /// When it can't be read, or is damaged.
    pub(super) fn manifest(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        let bytes = file::read(&self.path(digest), MANIFEST_CAP)?;
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(io::Error::new(ErrorKind::InvalidData, format!("{} is damaged", blob_path(digest)))),
        }
    }

    /// Stores a manifest of a repository, and gives it the tag; its digest, and that of what it belongs to.
    ///
    /// # Errors
    /// When it is no manifest, not what its digest says, or what it needs is not here.
    pub(super) fn put_manifest(
        &self,
        name: &str,
        target: &Target,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(Digest, Option<Digest>), Refusal> {
        let digest = Digest::of(bytes);
        if let Target::Digest(named) = target
            && *named != digest
        {
            return Err(Refusal::bad("DIGEST_INVALID", format!("the content is {digest}, not {named}")));
        }
        let described = Described::read(media_type, bytes)
            .map_err(|e| Refusal::bad("MANIFEST_INVALID", e.to_string()))?;
        if described.media_type != media_type {
            let why = format!("it says that it is {}, and is sent as {media_type}", described.media_type);
            return Err(Refusal::bad("MANIFEST_INVALID", why));
        }
        let subject = described.subject;
        let _writing = self.writing();
        let mut tables = Tables::clone(&self.tables());
        let repository = tables.repositories.entry(name.into()).or_default();
        let blobs = described.blobs.iter().map(|(digest, size)| (digest, *size, self.size(digest)));
        let child_size = |child| repository.manifests.get(child).map(|child: &Arc<Described>| child.size);
        let children = described.children.iter().map(|(digest, size)| (digest, *size, child_size(digest)));
        for (needed, size, there) in blobs.chain(children) {
            match there {
                Some(there) if there == size => {}
                Some(there) => {
                    let why = format!("{needed} has {there} bytes, and not {size} as it says");
                    return Err(Refusal::bad("MANIFEST_INVALID", why));
                }
                None => {
                    let why = format!("{needed}, which it names, is not in {name}: push that first");
                    return Err(Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", why));
                }
            }
        }
        self.check_config(&described)?;
        if let Some(subject) = &subject
            && described.listed() + repository.listed(subject, &digest) > MANIFEST_CAP
        {
            let why =
                format!("what belongs to {subject} would take more than {MANIFEST_CAP} bytes in a list");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", why));
        }
        // Also where it is there already: it may be damaged, or about to be swept.
        file::replace(&self.path(&digest), bytes, 0o644)?;
        repository.manifests.insert(digest, Arc::new(described));
        if let Target::Tag(tag) = target {
            repository.tags.insert((*tag).into(), digest);
        }
        self.write(&tables)?;
        self.set(tables);
        Ok((digest, subject))
    }

    /// Checks that all readers take a manifest's config for the same.
    fn check_config(&self, described: &Described) -> Result<(), Refusal> {
        let Some(config) = &described.config else { return Ok(()) };
        let refuse = |why: String| {
            Err(Refusal::bad("MANIFEST_INVALID", format!("its config {}: {why}", config.digest)))
        };
        match file::read(&self.path(&config.digest), METADATA_CAP) {
            Ok(content) => {
                image::check_config(&config.media_type, &content).or_else(|e| refuse(e.to_string()))
            }
            // What is no image's may be of any size.
            Err(e) if e.kind() == ErrorKind::FileTooLarge && !image::is_image_config(config) => Ok(()),
            Err(e) => refuse(e.to_string()),
        }
    }

    /// Takes away a tag, or a manifest with its tags.
    ///
    /// # Errors
    /// When it is not there, or an index lists it.
    pub(super) fn delete_manifest(&self, name: &str, target: &Target) -> Result<(), Refusal> {
        let _writing = self.writing();
        let mut tables = Tables::clone(&self.tables());
        let unknown = || Refusal::not_found("MANIFEST_UNKNOWN", format!("{name} has no such manifest"));
        let repository = tables.repositories.get_mut(name).ok_or_else(unknown)?;
        match target {
            Target::Tag(tag) => {
                repository.tags.remove(*tag).ok_or_else(unknown)?;
            }
            Target::Digest(digest) => {
                if let Some(parent) = repository.parent(digest) {
                    return Err(in_use(format!("{parent} lists it: delete that first")));
                }
                repository.manifests.remove(digest).ok_or_else(unknown)?;
                repository.tags.retain(|_, tagged| tagged != digest);
            }
        }
        if repository.manifests.is_empty() {
            tables.repositories.remove(name);
        }
        self.write(&tables)?;
        self.set(tables);
        Ok(())
    }

    /// Takes away a blob, from all repositories.
    ///
    /// # Errors
    /// When it is not there, or a manifest needs it.
    pub(super) fn delete_blob(&self, digest: &Digest) -> Result<(), Refusal> {
        let _writing = self.writing();
        if self.tables().used().contains(digest) {
            return Err(in_use("a manifest needs it: delete that first".into()));
        }
        match fs::remove_file(self.path(digest)) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(Refusal::not_found("BLOB_UNKNOWN", format!("there is no blob {digest}")))
            }
            removed => Ok(removed?),
        }
    }

    /// Writes `index.json`.
    fn write(&self, tables: &Tables) -> io::Result<()> {
        let mut manifests = Vec::new();
        for (name, repository) in &tables.repositories {
            let mut entry = |digest: &Digest, text: String| {
                let described = repository.manifests.get(digest)?;
                let annotations = HashMap::from([(NAME.to_owned(), text)]);
                let (media_type, size) = (described.media_type.clone(), described.size);
                manifests.push(Entry { media_type, digest: *digest, size, annotations });
                Some(())
            };
            for (tag, digest) in &repository.tags {
                entry(digest, format!("{name}:{tag}"));
            }
            let mut digests: Vec<_> = repository.manifests.keys().collect();
            digests.sort();
            for digest in digests {
                entry(digest, format!("{name}@{digest}"));
            }
        }
        let index = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "annotations": {MARK: "1"}, "manifests": manifests,
        });
        file::replace(&self.root.join("index.json"), index.to_string().as_bytes(), 0o644)
    }

    /// Blobs that nothing names.
    fn unused(&self) -> Vec<PathBuf> {
        let used: HashSet<_> = self.tables().used().iter().map(|digest| self.path(digest)).collect();
        let mut found = self.files("blobs/sha256", |name| name.len() == 64);
        found.retain(|path| !used.contains(path));
        found
    }

    /// Our files in a directory; what else somebody put there stays.
    fn files(&self, directory: &str, is_ours: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.root.join(directory)).into_iter().flatten().flatten();
        let ours = entries.filter(|entry| entry.file_name().to_str().is_some_and(&is_ours));
        ours.map(|entry| entry.path()).collect()
    }

    /// Removes blobs that nothing names, uploads that nobody goes on with, and what a killed process left, if they are older than
    /// that.
    pub(super) fn sweep(&self, than: Duration) {
        self.forget_idle();
        let _writing = self.writing();
        let mut found = self.unused();
        found.extend(self.files("uploads", |name| name.parse::<Id>().is_ok()));
        for directory in [".", "blobs/sha256"] {
            found.extend(self.files(directory, |name| name.starts_with(file::DRAFT)));
        }
        let removed =
            found.iter().filter(|path| is_older(path, than) && fs::remove_file(path).is_ok()).count();
        if removed > 0 {
            tracing::info!(removed, "files that nothing names are gone");
        }
    }
}

/// Whether a file was written that long ago, or longer.
fn is_older(path: &Path, than: Duration) -> bool {
    let age = path.metadata().ok().and_then(|found| found.modified().ok()?.elapsed().ok());
    age.is_some_and(|age| age >= than)
}

/// Makes a file as if it had been written now.
fn renew(path: &Path) {
    // If it can't be, it goes a day after it came.
    let _ = File::options().write(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

fn in_use(why: String) -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::OCI_MANIFEST;

    #[tokio::test]
    async fn what_nothing_names_is_swept_and_the_rest_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("a store");
        let blob = |content: &'static [u8]| {
            let (id, upload) = store.begin().expect("an upload");
            let mut upload = upload.try_lock_owned().expect("nobody else's");
            upload.append(&[content.into()]).expect("written");
            store.finish(&id, &mut upload, &Digest::of(content)).expect("a blob");
            Digest::of(content)
        };
        let (config, foreign, unused) = (blob(b"{}"), blob(b"foreign"), blob(b"unused"));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {"mediaType": "x/y", "digest": config, "size": 2},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar", "digest": foreign, "size": 7}],
        });
        let manifest = manifest.to_string();
        let (digest, _) = store
            .put_manifest("a", &Target::Tag("1"), OCI_MANIFEST, manifest.as_bytes())
            .expect("a manifest");
        let (begun, _) = store.begin().expect("an upload");
        fs::write(dir.path().join("blobs/sha256/note"), "not ours").expect("written");

        store.sweep(ABANDONED);
        assert!(store.size(&unused).is_some() && store.upload(&begun).is_some());
        store.sweep(Duration::ZERO);
        assert!(store.size(&unused).is_none() && store.upload(&begun).is_none());
        for kept in [config, foreign, digest] {
            assert!(store.size(&kept).is_some(), "{kept}");
        }
        drop(store);
        let store = Store::open(dir.path()).expect("a store");
        assert_eq!(store.manifest(&digest).expect("a manifest"), manifest.as_bytes());
    }
}
