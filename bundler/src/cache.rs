//! The content cache: bytes that no registry has, kept by digest, so that what `lock` pinned is there for `build`.
//!
//! `blobs/sha256/<hex>` holds content, `converted/sha256/<hex>` names what was made from a source with that digest, and
//! `uploads/<hex>` says where an upload goes on. Only a directory of the user's own is a cache ([`crate::private`]): a
//! place that others may have prepared is neither believed nor written to. Readers check the digest of a blob all the same,
//! since a disk may be damaged. A blob appears under its name only when it is complete, by a rename; so processes share a
//! cache without locks, and anything lost is made again. Unfinished files of killed processes go when something is stored
//! a day later.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::private::{Draft, PrivateDir};

/// Bytes moved at a time.
const CHUNK: usize = 256 << 10;
/// How names of unfinished files begin.
const UNFINISHED: &str = ".partial-";
/// An unfinished file that was not written to for so long has no writer any more.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);
/// Directories of blobs, in the cache's own.
const BLOBS: [&str; 2] = ["blobs", "sha256"];
/// Directories of records of conversions.
const CONVERSIONS: [&str; 2] = ["converted", "sha256"];
/// Directory of records of unfinished uploads.
const UPLOADS: [&str; 1] = ["uploads"];
/// Longest record of a conversion, in bytes: a digest.
const RECORD: u64 = 128;

/// A directory of content by digest.
#[derive(Clone, Debug)]
pub struct ContentCache {
    /// Directory of the cache; none if the user has no place for it. Then nothing is found, and nothing can be stored.
    root: Option<PathBuf>,
    /// Nobody waits for what is being written any more.
    stopped: Arc<AtomicBool>,
}

/// Stops what is written through the handle that it was made with, when it is dropped.
pub(crate) struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl ContentCache {
    /// The user's cache: `$XDG_CACHE_HOME/airlock`, else `$HOME/.cache/airlock`. Without either there is none: the current
    /// directory may be a checkout of somebody else's, records of uploads included.
    #[must_use]
    pub fn of_user() -> Self {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        Self { root: default_root(variable("XDG_CACHE_HOME"), variable("HOME")), stopped: Arc::default() }
    }

    /// The cache in directory `root`, which is made when something is first stored.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: Some(root.into()), stopped: Arc::default() }
    }

    /// A handle for a thread, which can't be stopped from outside: once the other half is dropped, its writers fail.
    pub(crate) fn stoppable(&self) -> (Self, Stop) {
        let handle = Self { root: self.root.clone(), stopped: Arc::default() };
        let stop = Stop(Arc::clone(&handle.stopped));
        (handle, stop)
    }

    /// Its directory, if the user has a place for one.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Path of the content with this digest, if the cache has it.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> Option<PathBuf> {
        let (blobs, name) = (self.find(&BLOBS)?, digest.hex());
        blobs.has(&name).then(|| blobs.path(&name))
    }

    /// Stores `bytes`.
    ///
    /// # Errors
    /// When the directory can't be written to, or its file system is full.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let mut writer = self.writer()?;
        writer.write(bytes)?;
        writer.finish().keep()
    }

    /// A place to write content whose digest is not known yet.
    ///
    /// # Errors
    /// When the directory can't be written to.
    pub fn writer(&self) -> Result<CacheWriter<'_>> {
        let file = self.draft(&BLOBS)?;
        Ok(CacheWriter { cache: self, file, hasher: Hasher::default() })
    }

    /// What was made from the source with digest `source`, if that is known.
    #[must_use]
    pub fn converted(&self, source: &Digest) -> Option<Digest> {
        // A damaged record is no record: the source is converted again.
        let mut text = String::new();
        let record = self.find(&CONVERSIONS)?.read(&source.hex()).ok()?;
        record.take(RECORD).read_to_string(&mut text).ok()?;
        text.parse().ok()
    }

    /// Records that `made` was made from the source with digest `source`.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn record_conversion(&self, source: &Digest, made: &Digest) -> Result<()> {
        let mut record = self.draft(&CONVERSIONS)?;
        record.write_all(made.to_string().as_bytes()).map_err(|e| self.error(e))?;
        record.keep(&source.hex()).map_err(|e| self.error(e))
    }

    /// The directory with records of unfinished uploads; made if it is missing. None where there is no safe place for it.
    pub(crate) fn uploads(&self) -> Option<PrivateDir> {
        self.directory(&UPLOADS)
            .inspect_err(|error| tracing::debug!(%error, "unfinished uploads are not recorded"))
            .ok()
    }

    /// A directory of the cache, if it is there and safe.
    fn find(&self, below: &[&str]) -> Option<PrivateDir> {
        PrivateDir::find(self.root.as_deref()?, below)
            .inspect_err(|error| {
                if error.kind() != ErrorKind::NotFound {
                    tracing::debug!(%error, "the content cache is not used");
                }
            })
            .ok()
    }

    /// A directory of the cache, made if it is missing.
    fn directory(&self, below: &[&str]) -> Result<PrivateDir> {
        let Some(root) = &self.root else {
            let why = "there is no place for it: neither XDG_CACHE_HOME nor HOME is set to an absolute path";
            return Err(Error::input("storing content in the cache", why).hint(
                "set XDG_CACHE_HOME to a directory of your own; `lock` and `build` need the same one",
            ));
        };
        PrivateDir::make(root, below).map_err(|e| self.error(e))
    }

    fn draft(&self, below: &[&str]) -> Result<Draft> {
        let directory = self.directory(below)?;
        directory.remove_older(|name| name.starts_with(UNFINISHED), ABANDONED);
        directory.draft(UNFINISHED).map_err(|e| self.error(e))
    }

    fn error(&self, error: std::io::Error) -> Error {
        let hint = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "free some space there, or set XDG_CACHE_HOME to a directory that has some"
            }
            _ => {
                "set XDG_CACHE_HOME to a directory of your own that nobody else can write to; a cache that only its \
                 permissions keep from use is given back by `chmod -R go-w`"
            }
        };
        let root = self.root.as_deref().unwrap_or(Path::new(""));
        Error::input(format!("storing content in cache {}", root.display()), error).hint(hint)
    }
}

fn default_root(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    // The XDG base directory specification: a relative path is to be ignored. An empty one is relative.
    let absolute = |path: &PathBuf| path.is_absolute();
    let xdg = xdg.filter(absolute).map(|cache| cache.join("airlock"));
    xdg.or_else(|| home.filter(absolute).map(|home| home.join(".cache/airlock")))
}

/// Content on its way into the cache, hashed while it is written; gone if dropped.
pub struct CacheWriter<'a> {
    cache: &'a ContentCache,
    file: Draft,
    hasher: Hasher,
}

impl<'a> CacheWriter<'a> {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When the file system is full, or this was stopped.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.cache.stopped.load(Ordering::Relaxed) {
            return Err(self.cache.error(ErrorKind::Interrupted.into()));
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(|e| self.cache.error(e))
    }

    /// Takes everything that `from` has; `failed` words an error in reading it.
    ///
    /// # Errors
    /// When reading or writing fails.
    pub fn copy(&mut self, from: &mut impl Read, failed: impl Fn(std::io::Error) -> Error) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => self.write(&buffer[..read])?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Ends the content. It is not in the cache yet.
    #[must_use]
    pub fn finish(self) -> Finished<'a> {
        let size = self.hasher.length();
        // Closed: an archive may have more files than this process may have open.
        let name = self.file.close();
        Finished { cache: self.cache, name, digest: self.hasher.finish(), size }
    }
}

/// Content that is complete, and in the cache once it is kept; gone if dropped.
pub struct Finished<'a> {
    cache: &'a ContentCache,
    name: String,
    digest: Digest,
    size: u64,
}

impl Finished<'_> {
    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its path, until it is kept.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.cache.find(&BLOBS).map_or_else(PathBuf::new, |blobs| blobs.path(&self.name))
    }

    /// Puts it into the cache. What was there under its digest is replaced: it may have been damaged.
    ///
    /// # Errors
    /// When the directory can't be written to.
    pub fn keep(self) -> Result<Digest> {
        let blobs = self.cache.directory(&BLOBS)?;
        blobs.rename(&self.name, &self.digest.hex()).map_err(|e| self.cache.error(e))?;
        Ok(self.digest)
    }
}

/// Removes the unfinished name; after a rename there is none.
impl Drop for Finished<'_> {
    fn drop(&mut self) {
        if let Some(blobs) = self.cache.find(&BLOBS) {
            let _ = blobs.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn cache() -> (tempfile::TempDir, ContentCache) {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = ContentCache::at(directory.path().join("cache"));
        (directory, cache)
    }

    fn directory(cache: &ContentCache, below: &[&str]) -> PathBuf {
        below.iter().fold(cache.root.clone().expect("a root"), |path, name| path.join(name))
    }

    fn names(cache: &ContentCache) -> Vec<String> {
        let entries = std::fs::read_dir(directory(cache, &BLOBS)).expect("the blobs");
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn content_is_found_by_its_digest_and_damage_is_repaired() {
        let (_directory, cache) = cache();
        let digest = Digest::of(b"content");
        assert_eq!(cache.path(&digest), None);
        assert_eq!(cache.put(b"content").expect("stored"), digest);
        let path = cache.path(&digest).expect("there");
        std::fs::write(&path, "damaged").expect("written");
        cache.put(b"content").expect("stored again");
        assert_eq!(std::fs::read(&path).expect("read"), b"content");
        assert_eq!(names(&cache), [digest.hex()]);
    }

    #[test]
    fn what_is_dropped_leaves_nothing() {
        let (_directory, cache) = cache();
        let mut writer = cache.writer().expect("a writer");
        writer.copy(&mut &b"half"[..], |e| Error::input("reading", e)).expect("written");
        assert_eq!(names(&cache).len(), 1);
        let finished = writer.finish();
        assert_eq!((finished.digest(), finished.size()), (Digest::of(b"half"), 4));
        drop(finished);
        drop(cache.writer().expect("a writer"));
        assert_eq!(names(&cache), [""; 0]);
    }

    #[test]
    fn what_the_killed_left_goes_after_a_day_and_not_before() {
        let (_directory, cache) = cache();
        let finished = cache.put(b"content").expect("stored");
        let leave = |name: &str, hours: u64| {
            let file = std::fs::File::create(directory(&cache, &BLOBS).join(name)).expect("a file");
            file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).expect("a time");
        };
        leave(".partial-old", 25);
        leave(".partial-new", 23);
        leave(&finished.hex(), 99);
        cache.put(b"more").expect("stored");
        let mut left = names(&cache);
        left.sort();
        let mut expected = [".partial-new".to_owned(), finished.hex(), Digest::of(b"more").hex()];
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn conversions_are_remembered_and_damaged_records_are_not() {
        let (_directory, cache) = cache();
        let (source, made) = (Digest::of(b"source"), Digest::of(b"made"));
        assert_eq!(cache.converted(&source), None);
        cache.record_conversion(&source, &made).expect("recorded");
        assert_eq!(cache.converted(&source), Some(made));
        std::fs::write(directory(&cache, &CONVERSIONS).join(source.hex()), "sha256:").expect("written");
        assert_eq!(cache.converted(&source), None);
    }

    #[test]
    fn writers_at_the_same_time_agree() {
        let (_directory, cache) = cache();
        let content = vec![7; 3 * CHUNK + 1];
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| cache.put(&content).expect("stored"));
            }
        });
        let path = cache.path(&Digest::of(&content)).expect("there");
        assert_eq!(std::fs::read(path).expect("read"), content);
        assert_eq!(names(&cache).len(), 1);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let cache = ContentCache::at(file.path().join("cache"));
        let error = cache.put(b"content").expect_err("no directory");
        assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}");
        assert!(error.hint_text().is_some_and(|h| h.contains("XDG_CACHE_HOME")), "{error:?}");
        let full = cache.error(ErrorKind::StorageFull.into());
        assert!(full.hint_text().is_some_and(|h| h.contains("free some space")), "{full:?}");
    }

    #[test]
    fn the_users_cache_is_where_xdg_says() {
        let root = |xdg: &str, home: &str| default_root(Some(xdg.into()), Some(home.into()));
        assert_eq!(root("/c", "/h"), Some("/c/airlock".into()));
        assert_eq!(root("", "/h"), Some("/h/.cache/airlock".into()));
        assert_eq!(root("relative", "/h"), Some("/h/.cache/airlock".into()));
        assert_eq!(root("", "relative"), None);
        assert_eq!(default_root(None, None), None);
    }

    #[test]
    fn without_a_home_nothing_is_found_or_stored() {
        let cache = ContentCache { root: None, stopped: Arc::default() };
        assert!(cache.path(&Digest::of(b"x")).is_none() && cache.uploads().is_none());
        let error = cache.put(b"x").expect_err("no place");
        assert!(error.hint_text().is_some_and(|h| h.contains("XDG_CACHE_HOME")), "{error:?}");
    }

    #[test]
    fn links_in_the_cache_lead_nowhere() {
        let (outside, cache) = cache();
        let digest = cache.put(b"content").expect("stored");
        let path = cache.path(&digest).expect("there");
        let target = outside.path().join("target");
        std::fs::write(&target, "precious").expect("written");
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink(&target, &path).expect("a link");
        assert_eq!(cache.path(&digest), None);
        cache.put(b"content").expect("stored again");
        assert_eq!(std::fs::read(&target).expect("read"), b"precious");
        assert_eq!(std::fs::read(&path).expect("read"), b"content");
        // The directory itself.
        let blobs = directory(&cache, &BLOBS);
        std::fs::rename(&blobs, outside.path().join("elsewhere")).expect("moved");
        std::os::unix::fs::symlink(outside.path().join("elsewhere"), &blobs).expect("a link");
        assert_eq!(cache.path(&digest), None);
        let error = cache.put(b"more").expect_err("a link");
        assert!(error.to_string().contains("blobs/sha256 is a link"), "{error}");
    }
}
