//! The images of a bundle by all that names them, and a quick look at whether a text can name one at all.

use std::collections::{HashMap, HashSet};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::format;
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
    names: HashSet<String>,
    /// Finds any of `names`; none while there are none.
    finder: Option<AhoCorasick>,
}

/// Finds texts at once, the longest where several start at one place; none, where there are none or too many.
fn finder<'a>(texts: impl Iterator<Item = &'a String>) -> Option<AhoCorasick> {
    AhoCorasick::builder()
        .kind(Some(AhoCorasickKind::DFA))
        .match_kind(MatchKind::LeftmostLongest)
        .build(texts)
        .ok()
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
            pins.names.insert(last_component(reference.repository()).into());
            pins.images.push((reference, digest));
        }
        pins.finder = finder(pins.names.iter());
        pins
    }

    /// Whether a text may name an image of the bundle: whether the last component of a repository stands anywhere in it, as a
    /// whole. A component has none of the characters that end it, so that the longest match at its start is all of it.
    pub(super) fn may_be_in(&self, text: &str) -> bool {
        if self.meant.keys().any(|meant| text.contains(meant.as_str())) {
            return true;
        }
        let Some(finder) = &self.finder else { return true };
        let is_part = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
        let bytes = text.as_bytes();
        finder.find_iter(text).any(|found| {
            let before = found.start().checked_sub(1).and_then(|at| bytes.get(at));
            let after = bytes.get(found.end());
            // A full stop may end a sentence.
            !before.is_some_and(is_part) && !after.is_some_and(|b| *b != b'.' && (is_part(b) || *b == b'/'))
        })
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
        if !self.names.contains(last_component(text)) {
            return None;
        }
        let reference: Reference = text.parse().ok()?;
        let digest = *self.digests.get(&key(&reference))?;
        Some((reference, digest))
    }
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
