//! A bundle on disk: opened, and its structure checked byte for byte. Not yet trusted: see [`crate::verify`].
//!
//! Threat model: the file may come from anybody. Nothing is taken from it but the length of `airlock.json` and what
//! that says; every header, every padding byte and the end must then be exactly what follows from it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::archive::{BLOCK, END, Entry, Layout, Placed};
use crate::error::{Error, Result};
use crate::file;
use crate::format::{MANIFEST, MANIFEST_CAP, Manifest, PARTIAL};
use crate::sign::{self, PublicKey};

/// What to do about a file that isn't what was built.
const COPY_AGAIN: &str = "the file was cut, damaged or changed after it was built: compare its size and copy it again from the connected side";

/// An open bundle of sound structure.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    file: File,
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
    /// The signature entry, and the further ones at the tail.
    signatures: Vec<Vec<u8>>,
    /// Those that lie beside it.
    beside: Vec<Vec<u8>>,
    layout: Layout,
}

/// What a further signature takes, in bytes: its header and its entry.
const FURTHER: u64 = BLOCK + sign::ENTRY_SIZE;
/// Most signatures of a bundle, and of a trust policy.
pub const MAX_SIGNATURES: usize = 16;
/// What is done about a tail that an interrupted `airlock sign` has left.
const SIGN_AGAIN: &str = "if `airlock sign` was interrupted, run it again; else the file was changed after it was built: copy it again from the connected side";

impl Bundle {
    /// Opens the file and checks its structure; reads headers, not content.
    ///
    /// # Errors
    /// When the file can't be read, is no bundle, is of another version, or differs anywhere outside its entries'
    /// content from what `airlock.json` leads to.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, File::options().read(true), false)
    }

    /// With `is_lenient`, what follows behind the last good signature counts as nothing.
    fn open_as(path: &Path, options: &OpenOptions, is_lenient: bool) -> Result<Self> {
        let opening = || format!("opening bundle {}", path.display());
        let file = file::open_as(path, options).map_err(|e| {
            let is_other = e.kind() == std::io::ErrorKind::Other;
            let error = Error::input(opening(), e);
            if is_other { error.hint("name the .tar file itself") } else { error }
        })?;
        let meta = file.metadata().map_err(|e| Error::input(opening(), e))?;
        let size = manifest_size(&file, path)?;
        let mut manifest_bytes = vec![0; size as usize];
        read_at(&file, path, &mut manifest_bytes, BLOCK)?;
        let manifest = Manifest::from_bytes(&manifest_bytes).map_err(|e| Error::trust(opening(), e))?;
        let layout = manifest.layout(size, sign::ENTRY_SIZE).map_err(|e| Error::trust(opening(), e))?;
        let mut signature = vec![0; sign::ENTRY_SIZE as usize];
        read_at(&file, path, &mut signature, layout.entries[1].content_at)?;
        let signatures = vec![signature];
        let beside = Vec::new();
        let mut bundle =
            Self { path: path.into(), file, manifest, manifest_bytes, signatures, beside, layout };
        bundle.check_entries(meta.len())?;
        bundle.read_further(meta.len(), is_lenient)?;
        if !is_lenient {
            bundle.check_end(meta.len())?;
        }
        Ok(bundle)
    }

    /// What is signed in a bundle's file, even if its tail is what an interrupted [`Self::add_signature`] left.
    ///
    /// # Errors
    /// When the file can't be read, or is no sound bundle.
    pub fn message(path: &Path) -> Result<Vec<u8>> {
        Self::open_as(path, File::options().read(true), true).map(|bundle| bundle.manifest_bytes)
    }

    /// Adds a signature to a bundle's file: nothing moves, and a reader at the same time sees the old bundle, the new one, or one
    /// that it refuses. Interrupted, it is done by doing it again.
    ///
    /// # Errors
    /// When the file is no sound bundle, can't be written, has as many as it may, or one of that key.
    pub fn add_signature(path: &Path, entry: &[u8]) -> Result<()> {
        let adding = || format!("adding a signature to bundle {}", path.display());
        let bundle = Self::open_as(path, File::options().read(true).write(true), true)?;
        let id = sign::signer(entry).map_err(|e| e.within(adding()))?;
        let written = |outcome: std::io::Result<()>| outcome.map_err(|e| Error::input(adding(), e));
        // Nobody has signed it, or this was interrupted.
        if sign::signer(&bundle.signatures[0]).is_err() {
            let at = bundle.layout.entries[1].content_at;
            return written(bundle.file.write_all_at(entry, at).and_then(|()| bundle.file.sync_all()));
        }
        if bundle.signers().contains(&id) {
            return Err(Error::input(adding(), format!("it has one of key {id} already")));
        }
        if bundle.signatures.len() == MAX_SIGNATURES {
            return Err(Error::input(
                adding(),
                format!("it has {MAX_SIGNATURES} signatures, and may not have more"),
            ));
        }
        let mut tail = further_header(&id).map_err(|e| e.within(adding()))?;
        tail.extend(entry);
        tail.extend(END);
        // Its first bytes last: until then there is the old end, and something behind it.
        let (first, rest) = tail.split_at(END.len());
        let at = bundle.size() - END.len() as u64;
        let file = &bundle.file;
        written(
            file.set_len(bundle.size())
                .and_then(|()| file.write_all_at(&END, at))
                .and_then(|()| file.write_all_at(rest, at + first.len() as u64))
                .and_then(|()| file.sync_all())
                .and_then(|()| file.write_all_at(first, at))
                .and_then(|()| file.sync_all()),
        )
    }

    /// Lets a signature that is not in the file, by one of `keys`, count as if it were: ECDSA over SHA-256 of `airlock.json`, in
    /// DER or that in Base64.
    ///
    /// # Errors
    /// When it is none, or none of theirs for this bundle.
    pub fn take_signature(&mut self, signature: &[u8], keys: &[PublicKey]) -> Result<()> {
        let mut refusal = Error::trust("taking a signature", "there are no keys");
        for key in keys {
            match sign::entry(key, &self.manifest_bytes, signature) {
                Ok(entry) => {
                    self.beside.push(entry);
                    return Ok(());
                }
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
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

    /// The signature entries, those beside it last; the first is one of spaces if the builder has not signed.
    #[must_use]
    pub fn signatures(&self) -> Vec<&[u8]> {
        self.signatures.iter().chain(&self.beside).map(Vec::as_slice).collect()
    }

    /// Ids of the keys that the entries say they are signed with. Not checked: for people, and for messages.
    #[must_use]
    pub fn signers(&self) -> Vec<String> {
        self.signatures().into_iter().filter_map(sign::signer_hint).collect()
    }

    /// Size of the file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layout.file_size + (self.signatures.len() as u64 - 1) * FURTHER
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

    /// Where the padding behind the last entry ends, and what follows starts.
    fn entries_end(&self) -> u64 {
        self.layout.file_size - END.len() as u64
    }

    /// First what is there, so that a partial bundle is called what it is, and then what isn't.
    fn check_entries(&self, length: u64) -> Result<()> {
        let mut end = 0;
        for placed in &self.layout.entries {
            self.check_between(end, placed, length)?;
            end = placed.content_at + placed.entry.size;
        }
        if length < self.layout.file_size {
            return Err(self.wrong_size(length, self.layout.file_size));
        }
        self.check_zeros(end, self.entries_end())
    }

    /// Further signatures: as many as there is room for, each of a key of its own.
    fn read_further(&mut self, length: u64, is_lenient: bool) -> Result<()> {
        let room = (length - self.layout.file_size) / FURTHER;
        while (self.signatures.len() as u64) <= room && self.signatures.len() < MAX_SIGNATURES {
            let mut end = END;
            let at = self.size() - END.len() as u64;
            self.read_at(&mut end, at)?;
            if end == END {
                break;
            }
            match self.further(at) {
                Ok(entry) => self.signatures.push(entry),
                Err(_) if is_lenient => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The further signature whose header starts at `at`.
    fn further(&self, at: u64) -> Result<Vec<u8>> {
        let mut found = vec![0; FURTHER as usize];
        self.read_at(&mut found, at)?;
        let entry = found.split_off(BLOCK as usize);
        let damaged = |why: String| self.changed(format!("a further signature: {why}")).hint(SIGN_AGAIN);
        let id = sign::signer(&entry).map_err(|e| damaged(e.to_string()))?;
        if found != further_header(&id)? {
            return Err(damaged("its header is not what its key id leads to".into()));
        }
        if self.signers().contains(&id) {
            return Err(damaged(format!("there are two of key {id}")));
        }
        Ok(entry)
    }

    fn check_end(&self, length: u64) -> Result<()> {
        if length != self.size() {
            return Err(self.wrong_size(length, self.size()));
        }
        self.check_zeros(length - END.len() as u64, length)
    }

    fn check_zeros(&self, from: u64, to: u64) -> Result<()> {
        let mut bytes = vec![0; (to - from) as usize];
        self.read_at(&mut bytes, from)?;
        if bytes.iter().all(|b| *b == 0) {
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
        if length < expected {
            return self.changed(format!("it has {length} of {expected} bytes"));
        }
        self.changed(format!("{} bytes follow after its end", length - expected)).hint(SIGN_AGAIN)
    }

    fn changed(&self, what: String) -> Error {
        Error::trust(format!("checking bundle {}", self.path.display()), what).hint(COPY_AGAIN)
    }
}

/// The header of a further signature.
fn further_header(id: &str) -> Result<Vec<u8>> {
    let path = format!("signatures/{id}.sigstore.json");
    let entry = Entry { path, size: sign::ENTRY_SIZE };
    let only = Layout::new([entry]).map_err(|e| Error::trust("reading a further signature", e))?;
    Ok(only.entries[0].header())
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
