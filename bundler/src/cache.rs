//! The content cache: bytes that no registry has, kept by digest, so that what `lock` pinned is there for `build`.
//!
//! `blobs/sha256/<hex>` holds content, `converted/sha256/<hex>` names what was made from a source with that digest.
//! Whoever reads a blob checks its digest: a cache may be damaged, or belong to somebody else. A blob appears under
//! its name only when it is complete, by a rename; so processes share a cache without locks, and whatever is lost is
//! made again. What a process that was killed left unfinished is removed when something is stored a day later.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};

/// Bytes moved at a time.
const CHUNK: usize = 256 << 10;
/// How names of unfinished files begin.
const UNFINISHED: &str = ".partial-";
/// Nobody writes to an unfinished file any more that was not written to for so long.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A directory of content by digest.
#[derive(Clone, Debug)]
pub struct ContentCache {
    root: PathBuf,
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
    /// The user's cache: `$XDG_CACHE_HOME/airlock`, else `$HOME/.cache/airlock`, else `./.airlock-cache`.
    #[must_use]
    pub fn of_user() -> Self {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        Self::at(default_root(variable("XDG_CACHE_HOME"), variable("HOME")))
    }

    /// The cache in directory `root`, which is made when something is first stored.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), stopped: Arc::default() }
    }

    /// A handle for a thread, which can't be stopped from outside: once the other half is dropped, its writers fail.
    pub(crate) fn stoppable(&self) -> (Self, Stop) {
        let handle = Self::at(&self.root);
        let stop = Stop(Arc::clone(&handle.stopped));
        (handle, stop)
    }

    /// Its directory: `blobs/sha256/<hex>` below it, as in an OCI image layout.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the content with this digest is, if it is there.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> Option<PathBuf> {
        let path = self.blobs().join(digest.hex());
        path.is_file().then_some(path)
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
        let file = self.temporary(&self.blobs())?;
        Ok(CacheWriter { cache: self, file, hasher: Hasher::default() })
    }

    /// What was made from the source with digest `source`, if that is known.
    #[must_use]
    pub fn converted(&self, source: &Digest) -> Option<Digest> {
        // A damaged record is no record: the source is converted again.
        std::fs::read_to_string(self.conversions().join(source.hex())).ok()?.parse().ok()
    }

    /// Records that `made` was made from the source with digest `source`.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn record_conversion(&self, source: &Digest, made: &Digest) -> Result<()> {
        let directory = self.conversions();
        let mut file = self.temporary(&directory)?;
        file.write_all(made.to_string().as_bytes()).map_err(|e| self.error(e))?;
        file.persist(directory.join(source.hex())).map_err(|e| self.error(e.error))?;
        Ok(())
    }

    /// Where unfinished uploads are written down.
    #[must_use]
    pub fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn conversions(&self) -> PathBuf {
        self.root.join("converted/sha256")
    }

    fn temporary(&self, directory: &Path) -> Result<tempfile::NamedTempFile> {
        std::fs::create_dir_all(directory).map_err(|e| self.error(e))?;
        remove_older(directory, UNFINISHED, ABANDONED);
        tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(directory).map_err(|e| self.error(e))
    }

    fn error(&self, error: std::io::Error) -> Error {
        let hint = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "free some space there, or set XDG_CACHE_HOME to a directory that has some"
            }
            _ => "set XDG_CACHE_HOME to a directory that can be written to",
        };
        Error::input(format!("storing content in cache {}", self.root.display()), error).hint(hint)
    }
}

/// Removes files that are older, by their name's beginning; what can't be removed does no harm.
pub(crate) fn remove_older(directory: &Path, prefix: &str, than: Duration) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        let is_one = entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes());
        if is_one && age().is_some_and(|age| age > than) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn default_root(xdg: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    // The XDG base directory specification: a relative path is to be ignored. An empty one is relative.
    let absolute = |path: &PathBuf| path.is_absolute();
    match (xdg.filter(absolute), home.filter(absolute)) {
        (Some(cache), _) => cache.join("airlock"),
        (None, Some(home)) => home.join(".cache/airlock"),
        (None, None) => ".airlock-cache".into(),
    }
}

/// Content on its way into the cache, hashed while it is written; gone if dropped.
pub struct CacheWriter<'a> {
    cache: &'a ContentCache,
    file: tempfile::NamedTempFile,
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
        Finished { cache: self.cache, file: self.file.into_temp_path(), digest: self.hasher.finish(), size }
    }
}

/// Content that is complete, and in the cache once it is kept; gone if dropped.
pub struct Finished<'a> {
    cache: &'a ContentCache,
    file: tempfile::TempPath,
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

    /// Where it is, until it is kept.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Puts it into the cache. What was there under its digest is replaced: it may have been damaged.
    ///
    /// # Errors
    /// When the directory can't be written to.
    pub fn keep(self) -> Result<Digest> {
        let name = self.cache.blobs().join(self.digest.hex());
        self.file.persist(name).map_err(|e| self.cache.error(e.error))?;
        Ok(self.digest)
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

    fn names(cache: &ContentCache) -> Vec<String> {
        let entries = std::fs::read_dir(cache.blobs()).expect("the blobs");
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
            let file = std::fs::File::create(cache.blobs().join(name)).expect("a file");
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
        std::fs::write(cache.conversions().join(source.hex()), "sha256:").expect("written");
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
        assert_eq!(root("/c", "/h"), Path::new("/c/airlock"));
        assert_eq!(root("", "/h"), Path::new("/h/.cache/airlock"));
        assert_eq!(root("relative", "/h"), Path::new("/h/.cache/airlock"));
        assert_eq!(default_root(None, None), Path::new(".airlock-cache"));
    }
}
