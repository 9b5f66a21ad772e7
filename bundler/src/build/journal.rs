//! What an unfinished bundle has of each blob, in a file beside it, so that the next build of the same goes on from there.
//!
//! Text, a line a record: a head that says what it belongs to, then `INDEX BYTES` for what was written of an entry. A record
//! is written after what it tells of, and a last line that was cut is none. It says how far to read, and nothing more: across a
//! crash of the system nothing is known of the order in which the disk got things, and anybody who can write to the file can add
//! a record. So what it tells of is hashed again before it counts.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::owned;
use crate::digest::Digest;
use crate::error::Result;

/// After so many bytes of a blob there is a record, so that this much at most is fetched again.
pub const RECORD: u64 = 1 << 20;

/// Most that is read of a journal, in bytes: records of some terabytes.
const CAP: u64 = 64 << 20;

/// The journal of a build.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Mutex<File>,
    known: Vec<u64>,
    /// About how many bytes it tells of.
    told: AtomicU64,
}

impl Journal {
    /// Opens the journal at `path` for a bundle with this manifest, whose entries have these sizes. What another bundle left
    /// there, or has nothing beside it (`is_usable`), is thrown away.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn open(path: PathBuf, manifest: &Digest, sizes: &[u64], is_usable: bool) -> Result<Self> {
        let mut file = owned::open(&path, 0o600)?;
        let mut text = String::new();
        // What is no text is no journal.
        let is_read = (&file).take(CAP).read_to_string(&mut text).is_ok();
        let head = format!("airlock build 2\nmanifest {manifest}\n");
        let told = text.strip_prefix(&head).filter(|_| is_usable && is_read);
        let known = parse(told.unwrap_or_default(), sizes);
        // Written anew: a cut line goes.
        let mut text = head;
        for (index, bytes) in known.iter().enumerate().filter(|(_, bytes)| **bytes > 0) {
            text.push_str(&line(index, *bytes));
        }
        let written = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
        written.and_then(|_| file.write_all(text.as_bytes())).map_err(|e| {
            // One that could not be written tells of nothing.
            let _ = std::fs::remove_file(&path);
            super::write_error(&path, e)
        })?;
        let told = known.iter().sum::<u64>().into();
        Ok(Self { path, file: Mutex::new(file), known, told })
    }

    /// Returns how many bytes of each entry were there when the journal was opened, by its own records.
    #[must_use]
    pub fn known(&self) -> &[u64] {
        &self.known
    }

    /// Whether so much is there that the next build should not fetch it again.
    #[must_use]
    pub fn is_worth_keeping(&self) -> bool {
        self.told.load(Ordering::Relaxed) >= RECORD
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes down how many bytes there are of an entry now.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn record(&self, index: usize, bytes: u64) -> Result<()> {
        // What came before was told of by records of its own.
        self.told.fetch_add(bytes.min(RECORD), Ordering::Relaxed);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line(index, bytes).as_bytes()).map_err(|e| super::write_error(&self.path, e))
    }
}

fn line(index: usize, bytes: u64) -> String {
    format!("{index} {bytes}\n")
}

/// The last record of each entry.
fn parse(records: &str, sizes: &[u64]) -> Vec<u64> {
    let mut known = vec![0; sizes.len()];
    for record in records.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let Some((index, bytes)) = record.split_once(' ') else { continue };
        let (Ok(index), Ok(bytes)) = (index.parse::<usize>(), bytes.parse()) else { continue };
        if sizes.get(index).is_some_and(|size| bytes <= *size) {
            known[index] = bytes;
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [u64; 4] = [10, 20, 30, 40];

    fn open(path: &Path, manifest: &[u8], is_usable: bool) -> Journal {
        Journal::open(path.into(), &Digest::of(manifest), &SIZES, is_usable).expect("a journal")
    }

    #[test]
    fn what_was_recorded_is_known_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal");
        let journal = open(&path, b"a", true);
        assert_eq!(journal.known(), [0; 4]);
        for (index, bytes) in [(1, 5), (0, 10), (1, 7), (2, 30)] {
            journal.record(index, bytes).expect("recorded");
        }
        // A line that was cut.
        journal.file.lock().expect("the file").write_all(b"3 4").expect("written");
        for _ in 0..2 {
            assert_eq!(open(&path, b"a", true).known(), [10, 7, 30, 0]);
        }
        assert_eq!(open(&path, b"a", false).known(), [0; 4]);
        open(&path, b"a", true).record(0, 10).expect("recorded");
        assert_eq!(open(&path, b"another bundle", true).known(), [0; 4]);
    }

    #[test]
    fn nonsense_is_not_believed() {
        let records = "x y\n4 1\n-1 2\n0 11\n1 whole\n2\n\n3 40\n18446744073709551616 1\n";
        assert_eq!(parse(records, &SIZES), [0, 0, 0, 40]);
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal");
        std::fs::write(&path, [0xff; 100]).expect("written");
        assert_eq!(open(&path, b"a", true).known(), [0; 4]);
    }
}
