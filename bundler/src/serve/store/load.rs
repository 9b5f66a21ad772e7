//! Opening a store: whose directory it is, and what of it is still good.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Store;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::file;
use crate::format::blob_path;
use crate::reference::{is_repository, is_tag};
use crate::serve::tables::{Described, Tables};

/// Largest `index.json`, in bytes: a million tags.
const INDEX_CAP: u64 = 256 << 20;
/// Annotation that makes an `index.json` a store's.
pub(super) const MARK: &str = "dev.airlock.store";
/// Names a descriptor in `index.json` (image spec, "Pre-Defined Annotation Keys").
pub(super) const NAME: &str = "org.opencontainers.image.ref.name";
/// What to do about a directory that is no store of ours.
const ANOTHER: &str = "choose a new or an empty directory with --store";
/// What to do about an `index.json` that is lost.
const RESTORE: &str = "restore it from a backup, or choose an empty directory with --store and push again";

/// `index.json`.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    annotations: HashMap<String, String>,
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) annotations: HashMap<String, String>,
}

/// What a store has.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) tables: Tables,
    /// There is no `index.json` yet.
    pub(super) is_new: bool,
    /// Something that it names is missing or damaged, and left out.
    pub(super) is_damaged: bool,
}

/// Makes a store of a new or empty directory, or finds that it is one, and locks it.
///
/// # Errors
/// When it can't be written to, has something else in it, or is used by another process.
pub(super) fn claim(root: &Path) -> Result<File> {
    let action = || format!("opening store {}", root.display());
    let failed = |e: io::Error| Error::unwritable(action(), e, "--store");
    let marker = root.join("oci-layout");
    fs::create_dir_all(root).map_err(failed)?;
    if !marker.exists() {
        for entry in fs::read_dir(root).map_err(failed)? {
            // A new file system has that.
            if entry.map_err(failed)?.file_name() != "lost+found" {
                return Err(Error::input(action(), "it has files in it, and is no store").hint(ANOTHER));
            }
        }
    }
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
        let why = "its file oci-layout is not that of an OCI image layout";
        return Err(Error::input(action(), why).hint(ANOTHER));
    }
    for directory in ["blobs/sha256", "uploads"] {
        fs::create_dir_all(root.join(directory)).map_err(failed)?;
    }
    // Old files in them are removed.
    for directory in ["blobs", "blobs/sha256", "uploads"] {
        if root.join(directory).symlink_metadata().map_err(failed)?.is_symlink() {
            return Err(Error::input(action(), format!("its directory {directory} is a link")).hint(ANOTHER));
        }
    }
    Ok(lock)
}

impl Store {
    /// Reads `index.json` and all that it names. What is not there any more, or damaged, is left out with all that leads to it, and
    /// said: the rest is good, and whoever pushes it again is told that it is missing.
    ///
    /// # Errors
    /// When `index.json` is missing, damaged or not ours, or a file can't be read.
    pub(super) fn load(&self) -> Result<Loaded> {
        let path = self.root.join("index.json");
        let action = || format!("reading {}", path.display());
        let bytes = match file::read(&path, INDEX_CAP) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return match self.unused().is_empty() {
                    true => Ok(Loaded { is_new: true, ..Loaded::default() }),
                    false => Err(Error::input(action(), "it is missing, and there are blobs").hint(RESTORE)),
                };
            }
            read => read.map_err(|e| Error::input(action(), e))?,
        };
        let index: Index =
            serde_json::from_slice(&bytes).map_err(|e| Error::input(action(), e).hint(RESTORE))?;
        if !index.annotations.contains_key(MARK) {
            let why = "it is that of another tool's OCI image layout";
            return Err(Error::input(action(), why).hint(ANOTHER));
        }
        let mut loaded = Loaded::default();
        // The same bytes may have two media types, in two repositories.
        let mut read: HashMap<(Digest, String), Option<Arc<Described>>> = HashMap::new();
        for Entry { media_type, digest, annotations, .. } in index.manifests {
            let name = annotations.get(NAME).map_or("", String::as_str);
            let (repository, tag) = split(name).ok_or_else(|| {
                let why = format!("{digest} is named {name:?} there, which is no REPOSITORY:TAG");
                Error::input(action(), why).hint(RESTORE)
            })?;
            let repository = loaded.tables.repositories.entry(repository.into()).or_default();
            repository.tags.extend(tag.map(|tag| (tag.into(), digest)));
            let described = match read.entry((digest, media_type)) {
                Slot::Occupied(known) => known.get().clone(),
                Slot::Vacant(slot) => {
                    let described = self.described(&digest, &slot.key().1)?;
                    slot.insert(described).clone()
                }
            };
            match described {
                Some(described) => {
                    repository.manifests.insert(digest, described);
                }
                None => loaded.is_damaged = true,
            }
        }
        for (name, repository) in &mut loaded.tables.repositories {
            for left_out in repository.drop_incomplete() {
                tracing::error!(
                    "{name}{left_out} is missing or damaged, or something of it is: push it again"
                );
                loaded.is_damaged = true;
            }
        }
        loaded.tables.repositories.retain(|_, repository| !repository.manifests.is_empty());
        Ok(loaded)
    }

    /// A manifest whose blobs are here; none if it, or one of them, is missing or damaged.
    fn described(&self, digest: &Digest, media_type: &str) -> Result<Option<Arc<Described>>> {
        let bytes = match self.manifest(digest) {
            Ok(bytes) => bytes,
            Err(e) if is_damage(&e) => return Ok(None),
            // Of a file that can't be read now nobody knows whether it is good.
            Err(e) => return Err(Error::input(format!("reading {}", self.path(digest).display()), e)),
        };
        let described = Described::read(media_type, &bytes).ok();
        let has = |(blob, size): &(Digest, u64)| self.size(blob) == Some(*size);
        let whole = described.filter(|it| it.blobs.iter().all(has));
        if whole.is_none() {
            tracing::error!("{}, or what it names, is missing or damaged", blob_path(digest));
        }
        Ok(whole.map(Arc::new))
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData | ErrorKind::FileTooLarge)
}

/// Repository and tag of a name in `index.json`.
fn split(name: &str) -> Option<(&str, Option<&str>)> {
    let (repository, tag) = match name.split_once('@') {
        Some((repository, _)) => (repository, None),
        None => name.rsplit_once(':').map(|(repository, tag)| (repository, Some(tag)))?,
    };
    (is_repository(repository) && tag.is_none_or(is_tag)).then_some((repository, tag))
}

#[cfg(test)]
mod tests {
    use super::*;

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
