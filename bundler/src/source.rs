//! Images that do not come from a registry: OCI layouts, archives and the Docker engine, all as OCI content with
//! pinned bytes on disk.
//!
//! Threat model: an archive comes from somebody else. Paths in it name nothing outside it, links are resolved inside
//! it only, what is held in memory is capped. [`LocalImage::locate`] says where bytes are, not that they are right:
//! whoever copies them checks the digest.

mod docker;
mod engine;
mod layout;
mod transport;

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::cache::ContentCache;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{self, Descriptor, Parsed};

pub use transport::{EngineImage, LocalSource, Transport, TransportError};

/// Largest manifest, index or config that is read, in bytes.
const MANIFEST_CAP: u64 = 4 << 20;

/// A run of bytes in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The file.
    pub path: PathBuf,
    /// Where the bytes start.
    pub offset: u64,
    /// How many they are.
    pub size: u64,
}

impl Located {
    /// Reads the bytes; there may be up to [`MANIFEST_CAP`] of them.
    fn read(&self) -> Result<Vec<u8>> {
        let failed = |e| Error::input(format!("reading {}", self.path.display()), e);
        if self.size > MANIFEST_CAP {
            let reason = format!("it has {} bytes where at most {MANIFEST_CAP} are read", self.size);
            return Err(Error::input(format!("reading metadata from {}", self.path.display()), reason));
        }
        let mut file = crate::file::open(&self.path).map_err(failed)?;
        file.seek(SeekFrom::Start(self.offset)).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(self.size).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }
}

/// An image, or several in an index, with all its content on disk.
#[derive(Clone, Debug)]
pub struct LocalImage {
    /// The manifest or index.
    pub root: Descriptor,
    blobs: Blobs,
}

#[derive(Clone, Debug)]
enum Blobs {
    /// A layout: a directory with `blobs/sha256/<hex>`.
    Directory(PathBuf),
    /// The content cache.
    Cache(ContentCache),
    /// A tar file, and where in it each blob is: offset and size.
    Archive(PathBuf, HashMap<Digest, (u64, u64)>),
}

impl LocalImage {
    /// What was put into `cache` before: an image that was converted, or a chart. None when any of it is lost.
    #[must_use]
    pub fn from_cache(cache: &ContentCache, manifest: &Digest) -> Option<Self> {
        let blobs = Blobs::Cache(cache.clone());
        let size = blobs.locate(manifest)?.size;
        let image = Self { root: Descriptor::new(image::OCI_MANIFEST, *manifest, size), blobs };
        let Ok(Parsed::Manifest(parsed)) = image::parse("", &image.manifest(manifest).ok()?) else {
            return None;
        };
        let there = |d: &Descriptor| image.locate(&d.digest).is_some_and(|found| found.size == d.size);
        (there(&parsed.config) && parsed.layers.iter().all(there)).then_some(image)
    }

    /// The bytes of a manifest, index or config.
    ///
    /// # Errors
    /// When it is not there, is larger than 4 MiB, or has another digest.
    pub fn manifest(&self, digest: &Digest) -> Result<Vec<u8>> {
        let at = match &self.blobs {
            Blobs::Directory(path) | Blobs::Archive(path, _) => path.display().to_string(),
            Blobs::Cache(_) => "the content cache".into(),
        };
        let action = format!("reading {digest} from {at}");
        let located =
            self.locate(digest).ok_or_else(|| Error::input(&action, "there is no such blob in it"))?;
        let bytes = located.read()?;
        match Digest::of(&bytes) {
            found if found == *digest => Ok(bytes),
            found => Err(Error::trust(action, format!("what is there has the digest {found}"))),
        }
    }

    /// Where the bytes with this digest are said to be. Whoever copies them checks the digest.
    #[must_use]
    pub fn locate(&self, digest: &Digest) -> Option<Located> {
        self.blobs.locate(digest)
    }
}

impl Blobs {
    fn locate(&self, digest: &Digest) -> Option<Located> {
        match self {
            Self::Directory(root) => {
                let path = root.join("blobs/sha256").join(digest.hex());
                // Not of what a link leads to: links are not followed.
                let metadata = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?;
                Some(Located { path, offset: 0, size: metadata.len() })
            }
            Self::Cache(cache) => {
                let path = cache.path(digest)?;
                let size = path.metadata().ok()?.len();
                Some(Located { path, offset: 0, size })
            }
            Self::Archive(path, spans) => {
                let (offset, size) = *spans.get(digest)?;
                Some(Located { path: path.clone(), offset, size })
            }
        }
    }
}

impl LocalSource {
    /// Opens the image; the Docker engine is where `DOCKER_HOST` says. See [`Self::open_with`].
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub async fn open(&self, base: &Path, cache: &ContentCache) -> Result<LocalImage> {
        self.open_with(base, cache, &std::env::var("DOCKER_HOST").unwrap_or_default()).await
    }

    /// Opens the image. What has no pinned bytes is converted into `cache`, unless it is there from before and the
    /// source still has the same image: so the digest of [`LocalImage::root`] changes when the source does.
    /// Relative paths are taken from `base`; an empty `docker_host` stands for the engine's usual socket.
    ///
    /// # Errors
    /// When the source can't be read or reached, has not the image, or several; when an archive contradicts itself;
    /// when the cache can't be written to.
    pub async fn open_with(
        &self,
        base: &Path,
        cache: &ContentCache,
        docker_host: &str,
    ) -> Result<LocalImage> {
        match self {
            Self::Oci { path, tag } => layout::open_directory(&base.join(path), tag.as_deref()),
            Self::OciArchive { path, tag } => {
                let (path, tag) = (base.join(path), tag.clone());
                blocking(cache, move |_| layout::open_archive(&path, tag.as_deref())).await
            }
            Self::DockerArchive { path, reference } => {
                let (path, reference) = (base.join(path), reference.clone());
                blocking(cache, move |cache| docker::open_archive(&path, reference.as_ref(), cache)).await
            }
            Self::DockerDaemon(image) => engine::open(docker_host, image, cache).await,
        }
    }
}

/// Runs what blocks on disks where it holds up nothing else. Where nobody waits for it any more, it ends soon.
async fn blocking<T: Send + 'static>(
    cache: &ContentCache,
    work: impl FnOnce(&ContentCache) -> Result<T> + Send + 'static,
) -> Result<T> {
    let failed = |e| Error::input("reading a local image", e);
    let (cache, _stop) = cache.stoppable();
    tokio::task::spawn_blocking(move || work(&cache)).await.map_err(failed)?
}

/// Opens a tar file; a compressed one is refused, because nothing in it can be found without unpacking all of it.
fn open_tar(path: &Path) -> Result<fs::File> {
    let failed = |e| Error::input(format!("reading archive {}", path.display()), e);
    let mut file = crate::file::open(path).map_err(failed)?;
    let mut magic = Vec::new();
    file.by_ref().take(6).read_to_end(&mut magic).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let known = [
        (&b"\x1f\x8b"[..], "gunzip"),
        (b"BZh", "bunzip2"),
        (b"\xfd7zXZ\0", "unxz"),
        (b"\x28\xb5\x2f\xfd", "unzstd"),
    ];
    match known.iter().find(|(start, _)| magic.starts_with(start)) {
        Some((_, tool)) => {
            Err(Error::input(format!("reading archive {}", path.display()), "it is compressed")
                .hint(format!("unpack it first: {tool} < {0} > {0}.tar", path.display())))
        }
        None => Ok(file),
    }
}

/// A path in an archive without `.` segments; none when it leaves the archive.
fn inside(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Most entries that an archive may have.
const ENTRIES_CAP: usize = 100_000;

/// Calls `found` with each entry of a tar file and its path; `failed` words an error in reading it.
fn each_entry<'a, R: Read + 'a>(
    entries: std::io::Result<tar::Entries<'a, R>>,
    failed: impl Fn(std::io::Error) -> Error,
    mut found: impl FnMut(String, &mut tar::Entry<'a, R>) -> Result<()>,
) -> Result<()> {
    let refuse = |why: String| Err(failed(std::io::Error::other(why)));
    for (count, entry) in entries.map_err(&failed)?.enumerate() {
        let mut entry = entry.map_err(&failed)?;
        if count == ENTRIES_CAP {
            return refuse(format!("it has more than {ENTRIES_CAP} entries"));
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        match inside(&path) {
            Some(path) => found(path, &mut entry)?,
            None => return refuse(format!("the path {path:?} leads out of it")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const IMAGE: &str = image::OCI_MANIFEST;

    /// An entry of a tar file.
    #[derive(Clone, Copy)]
    pub(super) enum Kind<'a> {
        File(&'a [u8]),
        Symlink(&'a str),
        HardLink(&'a str),
    }

    /// A tar file with these entries, their names as they are.
    pub(super) fn tar_file(entries: &[(&str, Kind)]) -> tempfile::NamedTempFile {
        let mut builder = tar::Builder::new(tempfile::NamedTempFile::new().expect("a file"));
        for (name, kind) in entries {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let (kind, target, data) = match *kind {
                Kind::File(data) => (tar::EntryType::Regular, "", data),
                Kind::Symlink(target) => (tar::EntryType::Symlink, target, &b""[..]),
                Kind::HardLink(target) => (tar::EntryType::Link, target, &b""[..]),
            };
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_entry_type(kind);
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data).expect("appended");
        }
        builder.into_inner().expect("a tar file")
    }

    #[test]
    fn paths_stay_inside() {
        for (path, expected) in [
            ("a/b", Some("a/b")),
            ("./a//b/", Some("a/b")),
            ("/a", Some("a")),
            ("a/../b", Some("b")),
            ("../a", None),
            ("a/../../b", None),
        ] {
            assert_eq!(inside(path).as_deref(), expected, "{path}");
        }
    }
}
