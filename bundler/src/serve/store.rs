//! Content that is pushed here: one OCI image layout on disk (image spec, "OCI Image Layout"), for all repositories.
//!
//! `index.json` says which manifests there are: one descriptor for each tag, named `REPOSITORY:TAG`, and one for each manifest
//! of a repository, named `REPOSITORY@DIGEST`, by `org.opencontainers.image.ref.name`. It is replaced whole, after what it names
//! is on the disk: whatever moment a machine stops at, a tag points to something complete, or is not there. Blobs are kept
//! once, whoever needs them. Names from requests never become paths.

mod upload;

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::StatusCode;

use super::response::Refusal;
use super::tables::{Described, Tables};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::file;
use crate::format::blob_path;
use crate::image::OCI_INDEX;
use crate::reference::{is_repository, is_tag};
pub(super) use upload::{Id, Shared, Upload};

/// Largest manifest (distribution spec, "Pushing Manifests": at least 4 MB), in bytes.
pub(super) const MANIFEST_CAP: u64 = 4 << 20;
/// Largest `index.json`, in bytes: a million tags.
const INDEX_CAP: u64 = 256 << 20;
/// How long what nothing names is kept: somebody may be about to name it, or to go on with it.
pub(super) const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);
/// Names a descriptor in `index.json` (image spec, "Pre-Defined Annotation Keys").
const NAME: &str = "org.opencontainers.image.ref.name";

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

/// `index.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl Store {
    /// Opens a layout, or makes one where there is none.
    ///
    /// # Errors
    /// When the directory can't be written to, is another's, or is used by another process.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let action = || format!("opening store {}", root.display());
        let failed = |e: io::Error| Error::unwritable(action(), e, "--store");
        for directory in ["blobs/sha256", "uploads"] {
            fs::create_dir_all(root.join(directory)).map_err(failed)?;
        }
        let marker = root.join("oci-layout");
        let lock = File::options().read(true).write(true).create(true).truncate(false).open(&marker);
        let mut lock = lock.map_err(failed)?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => Error::input(action(), "another `airlock serve` uses it")
                .hint("stop that one, or choose another directory with --store"),
            TryLockError::Error(e) => failed(e),
        })?;
        let layout = file::read_text(&marker).map_err(failed)?;
        if layout.is_empty() {
            lock.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(failed)?;
            lock.sync_all().map_err(failed)?;
        } else if !layout.contains("imageLayoutVersion") {
            return Err(Error::input(action(), "its file oci-layout is not that of an OCI image layout")
                .hint("choose another directory with --store"));
        }
        let store = Self {
            root: root.into(),
            tables: RwLock::default(),
            writing: Mutex::default(),
            uploads: Mutex::default(),
            _lock: lock,
        };
        let tables = store.load()?;
        if !root.join("index.json").exists() {
            store.write(&tables).map_err(failed)?;
        }
        store.set(tables);
        store.sweep(ABANDONED);
        Ok(store)
    }

    /// Reads `index.json` and all that it names. What is not there any more, or damaged, is left out, and said: the rest is good.
    fn load(&self) -> Result<Tables> {
        let path = self.root.join("index.json");
        let action = || format!("reading {}", path.display());
        let bytes = match file::read(&path, INDEX_CAP) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Tables::default()),
            read => read.map_err(|e| Error::input(action(), e))?,
        };
        let index: Index = serde_json::from_slice(&bytes).map_err(|e| {
            Error::input(action(), e)
                .hint("restore it from a backup, or start with an empty directory and push again")
        })?;
        let mut tables = Tables::default();
        let mut read: HashMap<Digest, Option<Arc<Described>>> = HashMap::new();
        for Entry { media_type, digest, annotations, .. } in index.manifests {
            let name = annotations.get(NAME).map_or("", String::as_str);
            let (repository, tag) = split(name).ok_or_else(|| {
                let why = format!("{digest} is named {name:?} there, which is no REPOSITORY:TAG");
                Error::input(action(), why)
                    .hint("another tool made it: choose another directory with --store")
            })?;
            let described = read.entry(digest).or_insert_with(|| self.described(&digest, &media_type));
            let Some(described) = described.clone() else {
                tracing::error!("{name}: {} is missing or damaged; push it again", blob_path(&digest));
                continue;
            };
            let repository = tables.repositories.entry(repository.into()).or_default();
            repository.tags.extend(tag.map(|tag| (tag.into(), digest)));
            repository.manifests.insert(digest, described);
        }
        Ok(tables)
    }

    fn described(&self, digest: &Digest, media_type: &str) -> Option<Arc<Described>> {
        let bytes = self.manifest(digest).ok()?;
        Described::read(media_type, &bytes).ok().map(Arc::new)
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

    /// A manifest, its digest checked.
    ///
    /// # Errors
    /// When it can't be read, or is damaged.
    pub(super) fn manifest(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        let bytes = file::read(&self.path(digest), MANIFEST_CAP)?;
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(io::Error::other(format!("{} is damaged", blob_path(digest)))),
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
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        file::replace(&self.root.join("index.json"), index.to_string().as_bytes(), 0o644)
    }

    /// Removes blobs that nothing names, and uploads that nobody goes on with, if they are older than that.
    pub(super) fn sweep(&self, than: Duration) {
        let is_old = |path: &Path| {
            let age = path.metadata().ok().and_then(|found| found.modified().ok()?.elapsed().ok());
            age.is_some_and(|age| age >= than)
        };
        let files = |directory: &str| {
            let entries = fs::read_dir(self.root.join(directory)).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| is_old(path)).collect::<Vec<_>>()
        };
        self.forget_idle();
        let _writing = self.writing();
        let used: std::collections::HashSet<_> =
            self.tables().used().iter().map(|digest| self.path(digest)).collect();
        let unused = files("blobs/sha256").into_iter().filter(|path| !used.contains(path));
        // What else somebody put there is not ours.
        let is_blob = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 64);
        let mut removed = 0;
        for path in unused.filter(is_blob).chain(files("uploads")) {
            if fs::remove_file(&path).is_ok() {
                removed += 1;
            }
        }
        if removed > 0 {
            tracing::info!(removed, "files that nothing names are gone");
        }
    }
}

/// Repository and tag of a name in `index.json`.
fn split(name: &str) -> Option<(&str, Option<&str>)> {
    let (repository, tag) = match name.split_once('@') {
        Some((repository, _)) => (repository, None),
        None => name.rsplit_once(':').map(|(repository, tag)| (repository, Some(tag)))?,
    };
    (is_repository(repository) && tag.is_none_or(is_tag)).then_some((repository, tag))
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

    #[test]
    fn names_in_the_index_are_taken_apart() {
        let digest = Digest::of(b"");
        let by_digest = format!("a/b@{digest}");
        for (name, means) in [
            ("a/b:1.0", Some(("a/b", Some("1.0")))),
            ("docker.io/library/redis:8", Some(("docker.io/library/redis", Some("8")))),
            (&by_digest, Some(("a/b", None))),
            ("latest", None),
            ("", None),
            ("A:1", None),
            ("a:", None),
            ("../a:1", None),
        ] {
            assert_eq!(split(name), means, "{name:?}");
        }
    }
}
