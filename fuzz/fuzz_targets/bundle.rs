//! A bundle's file, from its first header to its last blob. What starts as a tar is taken as the file itself; anything else is
//! a recipe, out of which a file is made whose headers, digests and sizes are right, so that what is wrong lies deeper.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bundler::archive::{END, Entry, Layout};
use bundler::bundle::Bundle;
use bundler::digest::Digest;
use bundler::format::{DOCKER_MANIFEST, INDEX, LOCK, MANIFEST, OCI_LAYOUT, SIGNATURE, blob_path};
use bundler::progress::Silent;
use bundler::sign::{self, PublicKey};
use bundler::verify::Trust;
use libfuzzer_sys::fuzz_target;

/// Kept for ever: the only file that its key has signed and that is at hand.
const SIGNED: &[u8] = include_bytes!("../../bundler/tests/data/v1.tar");
const KEY: &str = include_str!("../../bundler/tests/data/v1.pub");

/// Between the parts of a recipe.
const SEPARATOR: &[u8] = b"\n===\n";

thread_local! {
    static FILE: tempfile::NamedTempFile = tempfile::NamedTempFile::new().expect("a file");
}

fuzz_target!(|bytes: &[u8]| {
    let made = if bytes.starts_with(MANIFEST.as_bytes()) { Some(bytes.to_vec()) } else { cook(bytes) };
    let Some(made) = made else { return };
    FILE.with(|file| {
        let (path, file) = (file.path(), file.as_file());
        file.set_len(0).and_then(|()| file.write_all_at(&made, 0)).expect("written");
        open(path, file, &made);
    });
});

/// Opens and checks it in each way; what is accepted must be, to the last byte, what follows from it.
fn open(path: &Path, file: &File, made: &[u8]) {
    let message = Bundle::message(path);
    let Ok(bundle) = Bundle::open(path) else { return };
    assert_eq!(message.ok().as_deref(), Some(bundle.manifest_bytes()));
    assert_eq!(bundle.size(), made.len() as u64);
    let mut expected = vec![];
    for placed in &bundle.layout().entries {
        expected.resize(placed.header_at as usize, 0);
        expected.extend(placed.header());
        let content = &made[placed.content_at as usize..][..placed.entry.size as usize];
        expected.extend(content);
    }
    expected.resize(expected.len().next_multiple_of(512), 0);
    // Further signatures, if there are any, stand between that and the end.
    let further = made.strip_prefix(&*expected).and_then(|rest| rest.strip_suffix(&END));
    let further = further.expect("what was accepted is what follows from it");
    let each = 512 + sign::ENTRY_SIZE as usize;
    assert_eq!(further.len(), (bundle.signatures().len() - 1) * each);
    let trusted = Trust::Keys { keys: vec![PublicKey::from_pem(KEY).expect("a key")], required: 1 };
    let whole = |trust: &Trust| Bundle::open(path)?.verify(trust)?.check_all(&Silent);
    if whole(&trusted).is_ok() {
        // Further signatures that nobody knows may follow.
        let signed = SIGNED.len() - END.len();
        assert!(made[..signed] == SIGNED[..signed], "accepted as signed, and is not what was signed");
    }
    if whole(&Trust::InsecureSkipVerify).is_err() {
        return;
    }
    let bundle = bundle.verify(&Trust::InsecureSkipVerify).expect("verified a moment ago");
    let places = &bundle.bundle().layout().entries[2..];
    for (entry, placed) in bundle.manifest().entries.iter().zip(places) {
        let digest: Digest =
            format!("sha256:{}", String::from(entry.sha256.clone())).parse().expect("a digest");
        // At its own place: two entries may have the same digest.
        let content = &made[placed.content_at as usize..][..entry.size as usize];
        assert_eq!(Digest::of(content), digest, "{} is not what was listed", entry.path);
        if !entry.is_blob() {
            assert_eq!(bundle.entry(&entry.path).expect("checked").as_deref(), Some(content));
            continue;
        }
        let mut taken = vec![];
        bundle
            .read(&digest, |chunk| {
                taken.extend(chunk);
                Ok(())
            })
            .expect("checked a moment ago");
        assert_eq!((Digest::of(&taken), taken.len() as u64), (digest, entry.size));
    }
    // One byte less is no bundle.
    file.set_len(made.len() as u64 - 1).expect("cut");
    assert!(Bundle::open(path).is_err());
}

/// Parts of a recipe: `airlock.json` without its entries, the four that are always there, and blobs. `@7` in one of them
/// stands for the digest of part 7, which comes later, and `#7` for its size. A part that is `=7` has the content of part 7.
/// A recipe that starts with `!7` is one of a bundle in which part 7 was changed after it was made.
fn cook(recipe: &[u8]) -> Option<Vec<u8>> {
    let (changed, recipe) = match recipe.strip_prefix(b"!") {
        Some([a @ b'0'..=b'9', b'\n', rest @ ..]) => (Some(usize::from(a - b'0')), rest),
        Some([a @ b'0'..=b'9', b @ b'0'..=b'9', b'\n', rest @ ..]) => {
            (Some(usize::from(a - b'0') * 10 + usize::from(b - b'0')), rest)
        }
        _ => (None, recipe),
    };
    let mut parts = split(recipe);
    if parts.len() < 5 || parts.len() > 64 {
        return None;
    }
    for at in (0..parts.len()).rev() {
        parts[at] = filled(&parts[at], at, &parts);
        let named = parts[at].strip_prefix(b"=").and_then(|digits| std::str::from_utf8(digits).ok());
        let same = named.and_then(|digits| digits.parse().ok()).filter(|same: &usize| *same > at);
        if let Some(same) = same.and_then(|same| parts.get(same)) {
            parts[at] = same.clone();
        }
    }
    let names = [OCI_LAYOUT, INDEX, DOCKER_MANIFEST, LOCK].map(str::to_owned);
    let blobs = parts[5..].iter().map(|blob| blob_path(&Digest::of(blob)));
    let names: Vec<String> = names.into_iter().chain(blobs).collect();
    if let Ok(serde_json::Value::Object(mut manifest)) = serde_json::from_slice(&parts[0]) {
        let listed = |(path, content): (&String, &Vec<u8>)| serde_json::json!({"path": path, "sha256": Digest::of(content).hex(), "size": content.len()});
        let entries: Vec<_> = names.iter().zip(&parts[1..]).map(listed).collect();
        manifest.entry("entries").or_insert_with(|| entries.into());
        parts[0] = serde_json::to_vec(&manifest).ok()?;
    }
    parts.insert(1, sign::unsigned());
    let names = [MANIFEST.to_owned(), SIGNATURE.to_owned()].into_iter().chain(names);
    let entries = names.zip(&parts).map(|(path, content)| Entry { path, size: content.len() as u64 });
    let layout = Layout::new(entries).ok()?;
    let mut bytes = vec![0; layout.file_size as usize];
    for (placed, content) in layout.entries.iter().zip(&parts) {
        let mut put = |at: u64, part: &[u8]| bytes[at as usize..][..part.len()].copy_from_slice(part);
        put(placed.header_at, &placed.header());
        put(placed.content_at, content);
    }
    // Behind the first part comes the signature, which is none of the recipe's.
    let changed = changed.filter(|part| *part > 0).and_then(|part| layout.entries.get(part + 1));
    if let Some(placed) = changed.filter(|placed| placed.entry.size > 0) {
        bytes[placed.content_at as usize] ^= 1;
    }
    Some(bytes)
}

fn split(recipe: &[u8]) -> Vec<Vec<u8>> {
    let (mut parts, mut rest) = (vec![], recipe);
    while let Some(at) = rest.windows(SEPARATOR.len()).position(|found| found == SEPARATOR) {
        parts.push(rest[..at].to_vec());
        rest = &rest[at + SEPARATOR.len()..];
    }
    parts.push(rest.to_vec());
    parts
}

/// A part with what it says of later ones.
fn filled(part: &[u8], number: usize, parts: &[Vec<u8>]) -> Vec<u8> {
    let (mut filled, mut rest) = (vec![], part);
    while let [first, after @ ..] = rest {
        let digits = after.iter().take(2).take_while(|b| b.is_ascii_digit()).count();
        let named = std::str::from_utf8(&after[..digits]).ok().and_then(|digits| digits.parse().ok());
        let later = named.filter(|named| *named > number).and_then(|named: usize| parts.get(named));
        match (first, later) {
            (b'@', Some(later)) => filled.extend(Digest::of(later).to_string().bytes()),
            (b'#', Some(later)) => filled.extend(later.len().to_string().bytes()),
            _ => {
                filled.push(*first);
                rest = after;
                continue;
            }
        }
        rest = &after[digits..];
    }
    filled
}
