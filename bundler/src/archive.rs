//! The tar a bundle is: where every entry lies, and the exact bytes around its content.
//!
//! Threat model: the file may come from anybody. So nothing here parses a tar header. From a list of paths and sizes
//! (which a signature covers) follow all offsets and all bytes that aren't content; a reader compares them with what
//! the file holds, and whatever differs (a link, an odd name, a changed mode, trailing bytes) is refused.
//!
//! Format: POSIX ustar (IEEE Std 1003.1, "pax"); an extended header with `size` where 8 GiB don't fit ustar's octal
//! field. mtime 0, uid and gid 0, mode 0644, no user or group name.

/// Unit of a tar file, in bytes.
pub const BLOCK: u64 = 512;

/// The end of a tar file: two blocks of zeros.
pub const END: [u8; 1024] = [0; 1024];

/// Largest size that ustar's 11 octal digits hold.
const USTAR_MAX: u64 = 0o77_777_777_777;

/// What to put into a tar: a path and how many bytes of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path inside the tar, at most 100 bytes.
    pub path: String,
    /// Size of the content in bytes.
    pub size: u64,
}

/// An entry with its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The entry.
    pub entry: Entry,
    /// Where its header starts, in bytes from the start of the file.
    pub header_at: u64,
    /// Where its content starts.
    pub content_at: u64,
}

impl Placed {
    /// The bytes between `header_at` and `content_at`.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        header(&self.entry)
    }

    /// How many zeros follow the content.
    #[must_use]
    pub fn padding(&self) -> u64 {
        padding(self.entry.size)
    }

    /// Where the next entry, or the end, starts.
    #[must_use]
    pub fn next_at(&self) -> u64 {
        self.content_at + self.entry.size + self.padding()
    }
}

/// Why a list of entries can't be laid out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    /// A path that could leave the directory it is unpacked in, or that tools read in different ways.
    #[error("entry path {0:?} is not allowed: {1}")]
    Path(String, &'static str),
    /// The same path twice.
    #[error("entry {0:?} is listed twice")]
    Duplicate(String),
    /// The sizes add up to more than a file can have.
    #[error("entry {0:?} is too large: the file would end beyond 2^63 bytes")]
    TooLarge(String),
}

/// Every entry with its place, and the size of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// In the order of the file.
    pub entries: Vec<Placed>,
    /// Size of the whole file in bytes, the two blocks at its end included.
    pub file_size: u64,
}

impl Layout {
    /// Lays out `entries` in the order given.
    ///
    /// # Errors
    /// For a path that isn't safe, a path that occurs twice, sizes that overflow.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Result<Self, LayoutError> {
        let mut seen = std::collections::HashSet::new();
        let mut placed = Vec::new();
        let mut at = 0;
        for entry in entries {
            check_path(&entry.path)?;
            if !seen.insert(entry.path.clone()) {
                return Err(LayoutError::Duplicate(entry.path));
            }
            // A file's size is an i64 to the operating system; two headers and padding are far below the margin.
            if at + (1 << 20) > i64::MAX as u64 - entry.size.min(i64::MAX as u64) {
                return Err(LayoutError::TooLarge(entry.path));
            }
            let content_at = at + header_len(entry.size);
            let next = Placed { entry, header_at: at, content_at };
            at = next.next_at();
            placed.push(next);
        }
        Ok(Self { entries: placed, file_size: at + END.len() as u64 })
    }
}

/// A path may have lower-case letters, digits, `.`, `-`, `_` and single slashes: nothing that a file system or a tool
/// could fold, normalise or take for a root.
fn check_path(path: &str) -> Result<(), LayoutError> {
    let refuse = |why| Err(LayoutError::Path(path.into(), why));
    if path.len() > 100 {
        return refuse("it is longer than 100 bytes");
    }
    if !path.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b)) {
        return refuse("it has a character other than a-z, 0-9, dot, dash, underscore and slash");
    }
    if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return refuse("it is empty, absolute, or has an empty, \".\" or \"..\" segment");
    }
    Ok(())
}

fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

fn header_len(size: u64) -> u64 {
    if size > USTAR_MAX { 3 * BLOCK } else { BLOCK }
}

fn header(entry: &Entry) -> Vec<u8> {
    if entry.size <= USTAR_MAX {
        return ustar(&entry.path, entry.size, b'0').to_vec();
    }
    let record = pax_record("size", &entry.size.to_string());
    let mut bytes = ustar("pax-header", record.len() as u64, b'x').to_vec();
    bytes.extend(record.as_bytes());
    bytes.resize(2 * BLOCK as usize, 0);
    // Readers take the size from the record; the field that can't hold it is zero.
    bytes.extend(ustar(&entry.path, 0, b'0'));
    bytes
}

/// One ustar header block.
fn ustar(path: &str, size: u64, kind: u8) -> [u8; BLOCK as usize] {
    let mut block = [0; BLOCK as usize];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, path.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(329, b"0000000\0");
    put(337, b"0000000\0");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn pax_record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length.to_string().len() + rest.len() != length {
        length = length.to_string().len() + rest.len();
    }
    format!("{length}{rest}")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};

    use super::*;

    fn entry(path: &str, size: u64) -> Entry {
        Entry { path: path.into(), size }
    }

    /// Writes headers and the end; content stays zero (sparse).
    fn skeleton(layout: &Layout) -> std::fs::File {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.set_len(layout.file_size).expect("its size");
        for placed in &layout.entries {
            file.seek(SeekFrom::Start(placed.header_at)).expect("seek");
            file.write_all(&placed.header()).expect("write");
        }
        file.rewind().expect("rewind");
        file
    }

    #[test]
    fn a_tar_library_reads_what_is_laid_out() {
        let entries = vec![entry("airlock.json", 5), entry("blobs/sha256/aa", 512), entry("empty", 0)];
        let layout = Layout::new(entries.clone()).expect("a layout");
        let mut archive = tar::Archive::new(skeleton(&layout));
        let mut read = Vec::new();
        for item in archive.entries().expect("entries") {
            let mut item = item.expect("an entry");
            let header = item.header();
            assert_eq!(
                (header.mtime().ok(), header.uid().ok(), header.mode().ok()),
                (Some(0), Some(0), Some(0o644))
            );
            let placed = &layout.entries[read.len()];
            assert_eq!(item.raw_file_position(), placed.content_at);
            let mut content = Vec::new();
            item.read_to_end(&mut content).expect("content");
            read.push(entry(&item.path().expect("path").to_string_lossy(), content.len() as u64));
        }
        assert_eq!(read, entries);
    }

    #[test]
    fn sizes_past_8_gib_are_read_back() {
        for size in [USTAR_MAX, USTAR_MAX + 1, 30 << 30] {
            let layout = Layout::new([entry("big", size), entry("after", 1)]).expect("a layout");
            let mut archive = tar::Archive::new(skeleton(&layout));
            let found: Vec<_> = archive
                .entries_with_seek()
                .expect("entries")
                .map(|e| e.map(|e| (e.size(), e.raw_file_position())).expect("an entry"))
                .collect();
            let expected: Vec<_> = layout.entries.iter().map(|p| (p.entry.size, p.content_at)).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn unsafe_paths_are_refused() {
        let long = "a".repeat(101);
        for path in
            ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\\b", "A", "a b", "a\0b", "ü", &long]
        {
            let refused = Layout::new([entry(path, 1)]);
            assert!(
                matches!(refused, Err(LayoutError::Path(ref p, _)) if p == path),
                "{path:?}: {refused:?}"
            );
        }
    }

    #[test]
    fn duplicates_and_overflow_are_refused() {
        let twice = Layout::new([entry("a", 1), entry("b", 1), entry("a", 2)]);
        assert_eq!(twice, Err(LayoutError::Duplicate("a".into())));
        for size in [u64::MAX, i64::MAX as u64] {
            assert_eq!(Layout::new([entry("a", size)]), Err(LayoutError::TooLarge("a".into())));
        }
        let half = i64::MAX as u64 / 2;
        let sum = Layout::new([entry("a", half), entry("b", half), entry("c", 1)]);
        assert!(matches!(sum, Err(LayoutError::TooLarge(_))), "{sum:?}");
    }
}
