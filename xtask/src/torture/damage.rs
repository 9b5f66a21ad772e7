//! A bundle with one flipped bit, and bundles that were cut.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use super::world::{World, complete, finish};
use super::{Broken, Round};
use crate::Failure;
use crate::sh::text;

/// So many bytes around each boundary it is cut.
const AROUND: u64 = 8;
const BLOCK: u64 = 512;

/// Exit code of what is refused for trust.
const REFUSED: i32 = 2;

/// One bit at a random place; on the way the bundle is put right again.
pub fn flip(world: &mut World, round: &mut Round) -> Result<(), Broken> {
    let path = copy(world)?;
    let failed = |e| format!("flipping a bit: {e}");
    let file = File::options().read(true).write(true).open(&path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    // Nearly all bytes are in layers: every other time, one near a boundary.
    let at = match round.number % 2 {
        0 => round.rng.u64(..size),
        _ => (round.rng.choice(&world.cuts).copied().unwrap_or(0) + round.rng.u64(..BLOCK)).min(size - 1),
    };
    let bit = 1 << round.rng.u8(..8);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)
        .and_then(|()| file.write_all_at(&[byte[0] ^ bit], at))
        .map_err(failed)?;
    round.hit = 1;
    let outcome = refused(world, &path, &format!("bit {bit:#x} of byte {at} flipped"));
    file.write_all_at(&byte, at).map_err(failed)?;
    // That it was refused for the bit, and for nothing else.
    if round.number.is_multiple_of(100) {
        complete(verify(world, &path)?)?;
    }
    outcome
}

/// One of the lengths around the boundaries of entries, the longest first, so that one copy is enough for all.
pub fn cut(world: &mut World, round: &mut Round) -> Result<(), Broken> {
    let Some(length) = world.cuts.get(round.number).copied() else { return Ok(()) };
    let path = copy(world)?;
    let file = File::options().write(true).open(&path).map_err(|e| format!("cutting a bundle: {e}"))?;
    let is_shorter = fs::metadata(&path).is_ok_and(|meta| meta.len() > length);
    if is_shorter {
        file.set_len(length).map_err(|e| format!("cutting a bundle: {e}"))?;
    }
    round.hit = 1;
    let outcome = refused(world, &path, &format!("cut to {length} bytes"));
    let last = round.number + 1 == world.cuts.len();
    if last {
        let _ = fs::remove_file(&path);
    }
    outcome
}

/// The small bundle, to be damaged.
fn copy(world: &World) -> Result<std::path::PathBuf, Failure> {
    let path = world.file("damaged.tar");
    if !path.exists() {
        fs::copy(world.file("small.tar"), &path).map_err(|e| format!("copying a bundle: {e}"))?;
    }
    Ok(path)
}

fn refused(world: &World, path: &Path, how: &str) -> Result<(), Broken> {
    match finish(verify(world, path)?)? {
        (REFUSED, _) => Ok(()),
        (0, _) => Err(Broken::Accepted(format!("a bundle is accepted with {how}"))),
        (code, _) => Err(Broken::Failed(format!("exit code {code}, and not {REFUSED}, with {how}"))),
    }
}

fn verify(world: &World, path: &Path) -> Result<Command, Failure> {
    Ok(world.airlock(&world.file("damage"), "127.0.0.1:9", &["verify", text(path)?, "--key", "airlock.pub"]))
}

/// Every length around where a header, content or padding ends, the longest first.
///
/// # Errors
/// When the bundle can't be read.
pub fn cuts(bundle: &Path) -> Result<Vec<u64>, Failure> {
    let bytes = fs::read(bundle).map_err(|e| format!("reading {}: {e}", bundle.display()))?;
    let size = bytes.len() as u64;
    let mut lengths = std::collections::BTreeSet::new();
    for boundary in boundaries(&bytes) {
        lengths.extend(boundary.saturating_sub(AROUND)..=boundary + AROUND);
    }
    Ok(lengths.into_iter().filter(|length| *length < size).rev().collect())
}

/// Ends of headers, of contents, of paddings, and of the file. No entry is larger than a header has room to say.
fn boundaries(bytes: &[u8]) -> Vec<u64> {
    let (mut found, mut at) = (vec![0], 0);
    while let Some(header) = bytes.get(at as usize..(at + BLOCK) as usize).filter(|header| header[0] != 0) {
        let digits = std::str::from_utf8(&header[124..135]).unwrap_or_default();
        let size = u64::from_str_radix(digits, 8).unwrap_or(0);
        let content = at + BLOCK;
        at = (content + size).next_multiple_of(BLOCK);
        found.extend([content, content + size, at]);
    }
    found.extend([at + BLOCK, bytes.len() as u64]);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_those_of_a_tar() {
        let mut bytes = vec![0; 4 * 512 + 1024];
        bytes[0] = b'a';
        bytes[124..135].copy_from_slice(b"00000000005");
        bytes[1024] = b'b';
        bytes[1024 + 124..1024 + 135].copy_from_slice(b"00000001000");
        assert_eq!(boundaries(&bytes), [0, 512, 517, 1024, 1536, 2048, 2048, 2560, 3072]);
    }
}
