//! Uploads that were begun, in files: a later run goes on with them.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use crate::cache::remove_older;
use crate::digest::Digest;

/// No registry keeps an unfinished upload for longer.
const EXPIRED: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where an upload goes on, if somebody wrote that down. It is taken while it is open: two runs don't send into one upload.
/// Whatever can't be read or written is as if there were none: then a blob is sent from its start.
pub(super) struct Session(Option<(PathBuf, File)>);

impl Session {
    /// That of a blob on its way to a repository, in a directory; without one, nothing is written down.
    pub fn of(directory: Option<&Path>, repository: &str, digest: &Digest) -> Self {
        Self(directory.and_then(|directory| open(directory, repository, digest)))
    }

    /// Forgets one, whoever has it: the blob is there.
    pub fn forget(directory: &Path, repository: &str, digest: &Digest) {
        let _ = std::fs::remove_file(path(directory, repository, digest));
    }

    /// Where the upload goes on.
    pub fn url(&self) -> Option<Url> {
        let (_, file) = self.0.as_ref()?;
        let mut text = String::new();
        // From where the file was opened: its start.
        (&*file).read_to_string(&mut text).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    }

    /// Writes down where it goes on.
    pub fn keep(&self, url: &Url) {
        let Some((path, file)) = &self.0 else { return };
        let written = file.set_len(0).and_then(|()| file.write_all_at(format!("{url}\n").as_bytes(), 0));
        if let Err(error) = written {
            tracing::debug!(path = %path.display(), %error, "where the upload goes on could not be written down");
        }
    }

    /// There is nothing to go on with any more.
    pub fn end(&self) {
        if let Some((path, _)) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Nothing that was never written to stays.
impl Drop for Session {
    fn drop(&mut self) {
        if let Some((path, file)) = &self.0
            && file.metadata().is_ok_and(|metadata| metadata.len() == 0)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn path(directory: &Path, repository: &str, digest: &Digest) -> PathBuf {
    directory.join(Digest::of(format!("{repository}@{digest}").as_bytes()).hex())
}

fn open(directory: &Path, repository: &str, digest: &Digest) -> Option<(PathBuf, File)> {
    std::fs::create_dir_all(directory).ok()?;
    remove_older(directory, "", EXPIRED);
    let path = path(directory, repository, digest);
    let mut options = File::options();
    // Where it goes on may be a secret: whoever knows it can write there.
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).ok()?;
    file.try_lock().ok()?;
    Some((path, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_known_again_and_only_to_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let of = |repository| Session::of(Some(directory.path()), repository, &Digest::of(b"blob"));
        let there = || std::fs::read_dir(directory.path()).expect("the directory").count();
        let url: Url = "http://r.example/v2/a/blobs/uploads/1?_state=x".parse().expect("a URL");
        assert_eq!(of("r.example/a").url(), None);
        assert_eq!(there(), 0, "nothing to keep");
        let first = of("r.example/a");
        first.keep(
            &"http://r.example/a/longer/one/that/was/there/before/the/next/one".parse().expect("a URL"),
        );
        first.keep(&url);
        assert_eq!(of("r.example/a").url(), None, "taken");
        drop(first);
        let second = of("r.example/a");
        assert_eq!(second.url(), Some(url));
        assert_eq!(of("r.example/b").url(), None);
        second.end();
        drop(second);
        assert_eq!(there(), 0);
        let killed = of("r.example/a");
        killed.keep(&"http://r.example/v2/a/blobs/uploads/2".parse().expect("a URL"));
        Session::forget(directory.path(), "r.example/b", &Digest::of(b"blob"));
        assert_eq!(there(), 1, "another one stays");
        Session::forget(directory.path(), "r.example/a", &Digest::of(b"blob"));
        assert_eq!(there(), 0, "forgotten");
        let none = Session::of(None, "r.example/a", &Digest::of(b"blob"));
        none.keep(&"http://r.example/".parse().expect("a URL"));
        assert_eq!(none.url(), None);
    }
}
