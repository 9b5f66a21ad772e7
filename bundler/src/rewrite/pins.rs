//! The images of a bundle by all that names them, and a quick look at whether a text can name one at all.

use std::collections::{HashMap, HashSet};

use memchr::memchr3_iter;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::discover::words::{may_have_bare_names, may_have_fields};
use crate::format;
use crate::lock::LockedImage;
use crate::reference::Reference;

/// An image of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// As charts spell it.
    pub reference: Reference,
    /// Of what is in the bundle for it.
    pub digest: Digest,
    /// Texts that mean it without being its reference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub meant_by: Vec<String>,
}

impl From<&format::Image> for Pin {
    fn from(image: &format::Image) -> Self {
        Self { reference: image.reference.clone(), digest: image.digest, meant_by: image.meant_by.clone() }
    }
}

impl From<LockedImage> for Pin {
    fn from(image: LockedImage) -> Self {
        Self { reference: image.reference, digest: image.digest, meant_by: image.meant_by }
    }
}

impl From<(Reference, Digest)> for Pin {
    fn from((reference, digest): (Reference, Digest)) -> Self {
        Self { reference, digest, meant_by: vec![] }
    }
}

/// The images of a bundle: what each reference is pinned to.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    images: Vec<(Reference, Digest)>,
    /// By `REGISTRY/REPOSITORY:TAG` and `REGISTRY/REPOSITORY@DIGEST`.
    digests: HashMap<String, Digest>,
    /// What means an image without being its reference.
    meant: HashMap<String, (Reference, Digest)>,
    /// Last components of the repositories: a cheap first look at a text.
    names: Names,
}

impl Pins {
    /// Takes the references as a lock has them, each with the digest of what is in the bundle for it.
    pub fn new(images: impl IntoIterator<Item = impl Into<Pin>>) -> Self {
        let mut pins = Self::default();
        for image in images {
            let Pin { reference, digest, meant_by } = image.into();
            pins.meant.extend(meant_by.into_iter().map(|text| (text, (reference.clone(), digest))));
            pins.digests.insert(key(&reference), digest);
            // Whoever names the pinned content itself means the same image.
            let repository = format!("{}/{}", reference.registry(), reference.repository());
            pins.digests.entry(format!("{repository}@{digest}")).or_insert(digest);
            pins.names.insert(last_component(reference.repository()));
            pins.images.push((reference, digest));
        }
        pins
    }

    /// Whether a text may name an image of the bundle: whether the last component of a repository stands in it as a whole,
    /// where one can be meant. That is at its end, in front of a tag or digest, behind a path, or anywhere in a text that
    /// speaks of images.
    pub(super) fn may_be_in(&self, text: &str) -> bool {
        let bytes = text.as_bytes();
        let starts_with_name = |at: usize| {
            let end = bytes[at..].iter().position(|b| !is_part(*b)).map_or(bytes.len(), |i| at + i);
            self.names.has(&bytes[at..end])
        };
        let is_named = |at: usize| match (bytes[at], bytes.get(at + 1)) {
            (b'/', _) => starts_with_name(at + 1),
            (_, Some(b)) => is_part(*b) && self.names.has(&bytes[last_word(&bytes[..at])..at]),
            (_, None) => false,
        };
        let last = last_word(bytes);
        let has_bare_names = || {
            (may_have_bare_names(text) || may_have_fields(text))
                && bytes.split(|b| !is_part(*b)).any(|word| self.names.has(word))
        };
        self.names.has(&bytes[last..])
            || (last > 0 && (memchr3_iter(b':', b'@', b'/', bytes).any(is_named) || has_bare_names()))
            || self.meant.keys().any(|meant| text.contains(meant.as_str()))
    }

    /// Every image, as the lock has it.
    pub(super) fn images(&self) -> &[(Reference, Digest)] {
        &self.images
    }

    /// Whether a text as a whole means an image without being its reference.
    pub(super) fn means(&self, text: &str) -> bool {
        self.meant.contains_key(text)
    }

    /// What `text` says and is pinned to, if it names an image of the bundle: by its digest if it has one, else by its
    /// tag, or `latest`.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<(Reference, Digest)> {
        if let Some(meant) = self.meant.get(text) {
            return Some(meant.clone());
        }
        if !self.names.has(last_component(text).as_bytes()) {
            return None;
        }
        let reference: Reference = text.parse().ok()?;
        let digest = *self.digests.get(&key(&reference))?;
        Some((reference, digest))
    }
}

/// Names, and a quick look at whether a word is one.
#[derive(Clone, Debug, Default)]
struct Names {
    words: HashSet<Vec<u8>>,
    /// For each length and first byte a bit for each last byte: nearly every word that is no name is seen by these.
    ends: Vec<u32>,
}

impl Names {
    fn insert(&mut self, word: &str) {
        if let Some((at, last)) = ends(word.as_bytes()) {
            self.ends.resize(ENDS, 0);
            self.ends[at] |= last;
            self.words.insert(word.as_bytes().into());
        }
    }

    /// Whether a word is a name; a full stop behind it may end a sentence.
    fn has(&self, word: &[u8]) -> bool {
        let word = &word[..word.iter().rposition(|b| *b != b'.').map_or(0, |last| last + 1)];
        ends(word).is_some_and(|(at, last)| self.ends.get(at).is_some_and(|ends| ends & last != 0))
            && self.words.contains(word)
    }
}

/// Length of [`Names::ends`].
const ENDS: usize = 64 * 32;

/// Where [`Names::ends`] has a word, and the bit of its last byte.
fn ends(word: &[u8]) -> Option<(usize, u32)> {
    let (first, last) = (word.first()?, word.last()?);
    Some((word.len() % 64 * 32 + usize::from(first % 32), 1 << (last % 32)))
}

/// Whether a byte may stand in a component of a repository (in lower case), or in a tag.
fn is_part(b: u8) -> bool {
    const IS_PART: [bool; 256] = {
        let (mut table, mut b) = ([false; 256], 0);
        while b < table.len() {
            table[b] = matches!(b as u8, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-');
            b += 1;
        }
        table
    };
    IS_PART[usize::from(b)]
}

/// Where the word starts that a text ends with.
fn last_word(text: &[u8]) -> usize {
    text.iter().rposition(|b| !is_part(*b)).map_or(0, |i| i + 1)
}

/// One spelling for each image.
fn key(reference: &Reference) -> String {
    let (registry, repository) = (reference.registry(), reference.repository());
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("{registry}/{repository}@{digest}"),
        (None, tag) => format!("{registry}/{repository}:{}", tag.unwrap_or("latest")),
    }
}

/// `c` of `a/b/c:tag@digest`.
fn last_component(text: &str) -> &str {
    let text = text.split('@').next().unwrap_or(text);
    let last = text.rsplit('/').next().unwrap_or(text);
    last.split(':').next().unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_seen_where_they_can_be_meant_and_nowhere_else() {
        let meant = Pin {
            reference: "q.io/other:1".parse().expect("a reference"),
            digest: Digest::of(b"1"),
            meant_by: vec!["the cache".into()],
        };
        let redis: Reference = "docker.io/library/redis:8".parse().expect("a reference");
        let pins = Pins::new([Pin::from((redis, Digest::of(b"2"))), meant]);
        for text in [
            "redis",
            "--repository=redis",
            "redis:8",
            "é redis:8 é",
            "x,redis@sha256:0",
            "q.io/redis is good",
            "See q.io/redis.",
            "\"image\":\"redis\"",
            "docker pull redis now",
            "registry: q.io\nname: redis\ntag: 8\n",
            "{\"repo\": \"redis\", \"tag\": 8}",
            "why the cache is cold",
        ] {
            assert!(pins.may_be_in(text), "{text}");
        }
        for text in [
            "",
            ".",
            "redis is good",
            "redis: 8",
            "redis:",
            "x-redis:8",
            "redis-x:8",
            "Redis:8",
            "é/é:é",
            "an image of redisx",
        ] {
            assert!(!pins.may_be_in(text), "{text}");
        }
        assert!(!Pins::default().may_be_in("redis:8"));
    }
}
