//! A bundle on disk: opened, and its structure checked byte for byte. Not yet trusted: see [`crate::verify`].
//!
//! Threat model: the file may come from anybody. Nothing is taken from it but the length of `airlock.json` and what
//! that says; every header, every padding byte and the end must then be exactly what follows from it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::archive::{BLOCK, Entry, Layout, Placed};
use crate::error::{Error, Result};
use crate::format::{MANIFEST, MANIFEST_CAP, Manifest, PARTIAL};
use crate::sign;

/// What to do about a file that isn't what was built.
const COPY_AGAIN: &str = "the file was cut, damaged or changed after it was built: compare its size and copy it again from the connected side";

/// An open bundle of sound structure.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    file: File,
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
    signature: Vec<u8>,
    layout: Layout,
}

impl Bundle {
    /// Opens the file and checks its structure; reads headers, not content.
    ///
    /// # Errors
    /// When the file can't be read, is no bundle, is of another version, or differs anywhere outside its entries'
    /// content from what `airlock.json` leads to.
    pub fn open(path: &Path) -> Result<Self> {
        let opening = || format!("opening bundle {}", path.display());
        let file = File::open(path).map_err(|e| Error::input(opening(), e))?;
        let meta = file.metadata().map_err(|e| Error::input(opening(), e))?;
        if !meta.is_file() {
            return Err(Error::input(opening(), "it is not a regular file").hint("name the .tar file itself"));
        }
        let size = manifest_size(&file, path)?;
        let mut manifest_bytes = vec![0; size as usize];
        read_at(&file, path, &mut manifest_bytes, BLOCK)?;
        let manifest = Manifest::from_bytes(&manifest_bytes).map_err(|e| Error::trust(opening(), e))?;
        let layout = manifest.layout(size, sign::ENTRY_SIZE).map_err(|e| Error::trust(opening(), e))?;
        let mut signature = vec![0; sign::ENTRY_SIZE as usize];
        read_at(&file, path, &mut signature, layout.entries[1].content_at)?;
        let bundle = Self { path: path.into(), file, manifest, manifest_bytes, signature, layout };
        bundle.check_structure(meta.len())?;
        Ok(bundle)
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says it holds.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The bytes that are signed.
    #[must_use]
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.manifest_bytes
    }

    /// The signature entry.
    #[must_use]
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// Every entry with its place.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Says that all of it will be read, from start to end.
    pub fn read_ahead(&self) {
        // Advice: where it is not taken, nothing is lost.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::Sequential);
    }

    /// Fills `buffer` from `offset` of the file.
    ///
    /// # Errors
    /// When the file can't be read, or ends before the buffer is full.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        read_at(&self.file, &self.path, buffer, offset)
    }

    fn check_structure(&self, length: u64) -> Result<()> {
        // First what is there, so that a partial bundle is called what it is, and then what isn't.
        let mut end = 0;
        for placed in &self.layout.entries {
            self.check_between(end, placed, length)?;
            end = placed.content_at + placed.entry.size;
        }
        let expected = self.layout.file_size;
        if length != expected {
            return Err(self.wrong_size(length, expected));
        }
        let mut tail = vec![0; (expected - end) as usize];
        self.read_at(&mut tail, end)?;
        if tail.iter().all(|b| *b == 0) {
            Ok(())
        } else {
            Err(self.changed("the end of the file is not zeros".into()))
        }
    }

    /// Compares the zeros after the entry before and the header of this one with what they must be.
    fn check_between(&self, end: u64, placed: &Placed, length: u64) -> Result<()> {
        let path = &placed.entry.path;
        if placed.content_at > length {
            return Err(self.wrong_size(length, self.layout.file_size));
        }
        let mut expected = vec![0; (placed.header_at - end) as usize];
        expected.extend(placed.header());
        let mut found = vec![0; expected.len()];
        self.read_at(&mut found, end)?;
        if found == expected {
            return Ok(());
        }
        let header = &found[(placed.header_at - end) as usize..];
        if header.starts_with(PARTIAL.as_bytes()) {
            return Err(Error::input(
                format!("opening bundle {}", self.path.display()),
                "it is a partial bundle: blobs that its base has are left out",
            )
            .hint("this version of airlock reads full bundles only; ask for the full one"));
        }
        Err(self.changed(format!("what stands before the content of {path} is not what {MANIFEST} leads to")))
    }

    fn wrong_size(&self, length: u64, expected: u64) -> Error {
        self.changed(if length < expected {
            format!("it has {length} of {expected} bytes")
        } else {
            format!("{} bytes follow after its end", length - expected)
        })
    }

    fn changed(&self, what: String) -> Error {
        Error::trust(format!("checking bundle {}", self.path.display()), what).hint(COPY_AGAIN)
    }
}

/// Size of `airlock.json`, the one number that is read out of a header.
fn manifest_size(file: &File, path: &Path) -> Result<u64> {
    let no_bundle = |why: &str| {
        Error::trust(
            format!("opening bundle {}", path.display()),
            format!("{why}: it is no bundle, or damaged"),
        )
        .hint("a bundle is the .tar file that `airlock build` wrote; don't compress or repack it")
    };
    let mut header = [0; BLOCK as usize];
    file.read_exact_at(&mut header, 0).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => no_bundle("it is shorter than a tar header"),
        _ => Error::input(format!("reading bundle {}", path.display()), e),
    })?;
    let digits =
        std::str::from_utf8(&header[124..135]).ok().and_then(|text| u64::from_str_radix(text, 8).ok());
    let size = digits.ok_or_else(|| no_bundle("its first header has no size"))?;
    if size > MANIFEST_CAP {
        return Err(no_bundle("its first entry is too large"));
    }
    let only = Layout::new([Entry { path: MANIFEST.into(), size }]).map_err(|e| no_bundle(&e.to_string()))?;
    if only.entries[0].header() != header {
        return Err(no_bundle(&format!("its first entry is not {MANIFEST} as airlock writes it")));
    }
    Ok(size)
}

fn read_at(file: &File, path: &Path, buffer: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(buffer, offset).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Error::trust(format!("reading bundle {}", path.display()), "it ends too early").hint(COPY_AGAIN)
        }
        _ => Error::input(format!("reading bundle {} at byte {offset}", path.display()), e),
    })
}
