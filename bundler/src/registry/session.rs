//! Records of uploads that were begun: a later run goes on with them.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use reqwest::Url;

use crate::cache::ContentCache;
use crate::digest::Digest;
use crate::private::PrivateDir;

/// No registry keeps an unfinished upload for longer.
const EXPIRED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest record that is read, in bytes: an address, and where it belongs.
const RECORD: u64 = 64 << 10;

/// The address where an upload goes on, if it was recorded. It is taken while it is open: two runs don't send into one upload.
/// A record that can't be read or written counts as none: then a blob is sent from its start.
pub(super) struct Session(Option<Record>);

struct Record {
    directory: PrivateDir,
    name: String,
    file: File,
    /// The blob at its registry, whose upload this is.
    blob: Url,
}

impl Session {
    /// The record for a blob, by its address at the registry. Without a cache, nothing is recorded.
    pub fn of(cache: Option<&ContentCache>, blob: &Url) -> Self {
        Self(cache.and_then(|cache| open(cache, blob)))
    }

    /// Forgets a record of any run: the blob is there.
    pub fn forget(cache: &ContentCache, blob: &Url) {
        if let Some(directory) = cache.uploads() {
            let _ = directory.remove(&name(blob));
        }
    }

    /// The address where the upload goes on. One that another registry gave, or for another blob, does not count.
    pub fn url(&self) -> Option<Url> {
        let record = self.0.as_ref()?;
        let mut text = String::new();
        // From where the file was opened: its start.
        (&record.file).take(RECORD).read_to_string(&mut text).ok()?;
        let (blob, url) = text.strip_suffix('\n')?.split_once('\n')?;
        let url: Url = url.parse().ok()?;
        (blob == record.blob.as_str() && url.origin() == record.blob.origin()).then_some(url)
    }

    /// Records where the upload goes on. An address at another host is good for this run only.
    pub fn keep(&self, url: &Url) {
        let Some(Record { file, blob, directory, name }) = &self.0 else { return };
        let text = match url.origin() == blob.origin() {
            true => format!("{blob}\n{url}\n"),
            false => String::new(),
        };
        let written = file.set_len(0).and_then(|()| file.write_all_at(text.as_bytes(), 0));
        if let Err(error) = written {
            let path = directory.path(name);
            tracing::debug!(path = %path.display(), %error, "where the upload goes on could not be recorded");
        }
    }

    /// Removes the record: there is nothing to go on with any more.
    pub fn end(&self) {
        if let Some(record) = &self.0 {
            let _ = record.directory.remove(&record.name);
        }
    }
}

/// Removes a record that was never written.
impl Drop for Session {
    fn drop(&mut self) {
        if let Some(record) = &self.0
            && record.file.metadata().is_ok_and(|metadata| metadata.len() == 0)
        {
            let _ = record.directory.remove(&record.name);
        }
    }
}

/// A record's file name. The address itself is in the file.
fn name(blob: &Url) -> String {
    Digest::of(blob.as_str().as_bytes()).hex()
}

/// Tells whether a file may be a record of ours.
fn is_name(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn open(cache: &ContentCache, blob: &Url) -> Option<Record> {
    let (directory, name) = (cache.uploads()?, name(blob));
    directory.remove_older(is_name, EXPIRED);
    // For the owner only: knowing the address can be enough to write there.
    let file = directory.write(&name).ok()?;
    file.try_lock().ok()?;
    Some(Record { directory, name, file, blob: blob.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(repository: &str) -> Url {
        format!("http://r.example/v2/{repository}/blobs/sha256:x").parse().expect("a URL")
    }

    #[test]
    fn an_upload_is_known_again_and_only_to_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = ContentCache::at(directory.path().join("cache"));
        let of = |repository| Session::of(Some(&cache), &blob(repository));
        let there = || std::fs::read_dir(directory.path().join("cache/uploads")).expect("records").count();
        let url: Url = "http://r.example/v2/a/blobs/uploads/1?_state=x".parse().expect("a URL");
        assert_eq!(of("a").url(), None);
        assert_eq!(there(), 0, "nothing to keep");
        let first = of("a");
        first.keep(&"http://r.example/a/longer/one/that/was/there/before/the/next".parse().expect("a URL"));
        first.keep(&url);
        assert_eq!(of("a").url(), None, "taken");
        drop(first);
        let second = of("a");
        assert_eq!(second.url(), Some(url));
        assert_eq!(of("b").url(), None);
        second.end();
        drop(second);
        assert_eq!(there(), 0);
        let killed = of("a");
        killed.keep(&"http://r.example/v2/a/blobs/uploads/2".parse().expect("a URL"));
        Session::forget(&cache, &blob("b"));
        assert_eq!(there(), 1, "another one stays");
        Session::forget(&cache, &blob("a"));
        assert_eq!(there(), 0, "forgotten");
        let none = Session::of(None, &blob("a"));
        none.keep(&"http://r.example/".parse().expect("a URL"));
        assert_eq!(none.url(), None);
    }

    #[test]
    fn an_address_counts_for_its_registry_and_blob_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = ContentCache::at(directory.path().join("cache"));
        let mine = blob("a");
        let path = cache.uploads().expect("a directory").path(&name(&mine));
        let other = blob("b");
        for (text, counts) in [
            (format!("{mine}\nhttp://r.example/v2/a/blobs/uploads/1\n"), true),
            (format!("{mine}\nhttp://evil.example/v2/a/blobs/uploads/1\n"), false),
            (format!("{mine}\nhttps://r.example/v2/a/blobs/uploads/1\n"), false),
            (format!("{mine}\nhttp://r.example:81/v2/a/blobs/uploads/1\n"), false),
            (format!("{other}\nhttp://r.example/v2/a/blobs/uploads/1\n"), false),
            ("http://r.example/v2/a/blobs/uploads/1\n".into(), false),
            (format!("{mine}\nhttp://r.example/v2/a/blobs/uplo"), false),
        ] {
            std::fs::write(&path, &text).expect("written");
            assert_eq!(Session::of(Some(&cache), &mine).url().is_some(), counts, "{text}");
        }
        // Elsewhere is not recorded, and a record of before does not stay.
        let session = Session::of(Some(&cache), &mine);
        session.keep(&"http://elsewhere.example/1".parse().expect("a URL"));
        drop(session);
        assert!(!path.exists());
    }

    #[test]
    fn records_that_are_links_are_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = ContentCache::at(directory.path().join("cache"));
        let path = cache.uploads().expect("a directory").path(&name(&blob("a")));
        let target = directory.path().join("target");
        std::fs::write(&target, "precious").expect("written");
        std::os::unix::fs::symlink(&target, &path).expect("a link");
        let session = Session::of(Some(&cache), &blob("a"));
        session.keep(&"http://r.example/v2/a/blobs/uploads/1".parse().expect("a URL"));
        session.end();
        drop(session);
        assert_eq!(std::fs::read(&target).expect("read"), b"precious");
    }

    #[test]
    fn only_old_records_are_swept() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = ContentCache::at(directory.path().join("cache"));
        let uploads = cache.uploads().expect("a directory");
        let old = std::time::SystemTime::now() - 2 * EXPIRED;
        for name in ["notes.txt", &"a".repeat(64), &"A".repeat(64), &"a".repeat(63)] {
            let file = File::create(uploads.path(name)).expect("a file");
            file.set_modified(old).expect("a time");
        }
        drop(Session::of(Some(&cache), &blob("a")));
        let left = std::fs::read_dir(directory.path().join("cache/uploads")).expect("records").count();
        assert_eq!(left, 3);
    }
}
