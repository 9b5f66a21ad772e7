//! What an unfinished bundle has of each blob, in a file beside it, so that the next build of the same goes on from there.
//!
//! Text, a line a record: a head that says what it belongs to, then `INDEX BYTES` for what was written of an entry and
//! `INDEX whole` for one whose digest was right. A record is written after what it tells of, so a process that is killed at any
//! moment leaves a true one; a last line that was cut is none. Across a crash of the system nothing is known of the order in
//! which the disk got things: then every record counts as a guess, and what it tells of is hashed again.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::open_beside;
use crate::digest::Digest;
use crate::error::Result;

/// After so many bytes of a blob there is a record, so that this much at most is fetched again.
pub const RECORD: u64 = 1 << 20;

/// What is known of an entry's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// So many of its first bytes were written.
    Written(u64),
    /// All of it, and its digest was right.
    Whole,
}

/// The journal of a build.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Mutex<File>,
    known: Vec<Known>,
    /// About how many bytes it tells of.
    told: AtomicU64,
    sizes: Vec<u64>,
}

/// Differs after each start of the system; empty where it can't be told, and then never the same.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl Journal {
    /// Opens the journal at `path` for a bundle with this manifest, whose entries have these sizes. What another bundle left
    /// there, or has nothing beside it (`is_usable`), is thrown away.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn open(path: PathBuf, manifest: &Digest, sizes: &[u64], is_usable: bool) -> Result<Self> {
        let mut file = open_beside(&path)?;
        let boot = boot_id();
        let failed = |e| super::write_error(&path, e);
        let mut text = String::new();
        // What is no text is no journal.
        let is_read = file.read_to_string(&mut text).is_ok();
        let head = format!("airlock build 1\nmanifest {manifest}\n");
        let told = text.strip_prefix(&head).filter(|_| is_usable && is_read);
        let known = match told.and_then(|rest| rest.strip_prefix("boot ")?.split_once('\n')) {
            Some((same, records)) => parse(records, sizes, !boot.is_empty() && same == boot),
            None => vec![Known::Written(0); sizes.len()],
        };
        // Written anew: a cut line goes, and the boot is this one.
        let mut text = format!("{head}boot {boot}\n");
        for (index, known) in known.iter().enumerate().filter(|(_, known)| **known != Known::Written(0)) {
            text.push_str(&line(index, *known));
        }
        file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        let bytes = |(known, size): (&Known, &u64)| match known {
            Known::Written(bytes) => *bytes,
            Known::Whole => *size,
        };
        let told = known.iter().zip(sizes).map(bytes).sum::<u64>().into();
        Ok(Self { path, file: Mutex::new(file), known, told, sizes: sizes.into() })
    }

    /// What was there when it was opened.
    #[must_use]
    pub fn known(&self) -> &[Known] {
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

    /// Writes down what is there of an entry now.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn record(&self, index: usize, known: Known) -> Result<()> {
        let more = if known == Known::Whole { self.sizes[index] } else { RECORD };
        self.told.fetch_add(more, Ordering::Relaxed);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line(index, known).as_bytes()).map_err(|e| super::write_error(&self.path, e))
    }
}

fn line(index: usize, known: Known) -> String {
    match known {
        Known::Written(bytes) => format!("{index} {bytes}\n"),
        Known::Whole => format!("{index} whole\n"),
    }
}

/// The last record of each entry; with `is_sure` unset, none is whole.
fn parse(records: &str, sizes: &[u64], is_sure: bool) -> Vec<Known> {
    let mut known = vec![Known::Written(0); sizes.len()];
    for record in records.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let Some((index, what)) = record.split_once(' ') else { continue };
        let Some(index) = index.parse::<usize>().ok().filter(|index| *index < sizes.len()) else { continue };
        known[index] = match (what, what.parse()) {
            ("whole", _) if is_sure => Known::Whole,
            ("whole", _) => Known::Written(sizes[index]),
            (_, Ok(bytes)) if bytes <= sizes[index] => Known::Written(bytes),
            _ => continue,
        };
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
        let nothing = vec![Known::Written(0); 4];
        let journal = open(&path, b"a", true);
        assert_eq!(journal.known(), nothing);
        for (index, known) in
            [(1, Known::Written(5)), (0, Known::Whole), (1, Known::Written(7)), (2, Known::Written(30))]
        {
            journal.record(index, known).expect("recorded");
        }
        // A line that was cut.
        journal.file.lock().expect("the file").write_all(b"3 4").expect("written");
        let expected = [Known::Whole, Known::Written(7), Known::Written(30), Known::Written(0)];
        for _ in 0..2 {
            assert_eq!(open(&path, b"a", true).known(), expected);
        }
        // After a crash of the system.
        let text = std::fs::read_to_string(&path).expect("the journal");
        std::fs::write(&path, text.replace(&boot_id(), "another")).expect("written");
        let guess = [Known::Written(10), Known::Written(7), Known::Written(30), Known::Written(0)];
        assert_eq!(open(&path, b"a", true).known(), guess);
        assert_eq!(open(&path, b"a", false).known(), nothing);
        open(&path, b"a", true).record(0, Known::Whole).expect("recorded");
        assert_eq!(open(&path, b"another bundle", true).known(), nothing);
    }

    #[test]
    fn nonsense_is_not_believed() {
        let records = "x y\n4 whole\n-1 2\n0 11\n1 whole x\n2\n\n3 40\n18446744073709551616 1\n";
        let expected = [Known::Written(0), Known::Written(0), Known::Written(0), Known::Written(40)];
        assert_eq!(parse(records, &SIZES, true), expected);
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal");
        std::fs::write(&path, [0xff; 100]).expect("written");
        assert_eq!(open(&path, b"a", true).known(), [Known::Written(0); 4]);
    }
}
