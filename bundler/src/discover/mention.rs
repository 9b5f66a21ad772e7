//! Where manifests name images: every text that is, or may be, a reference, with the place it stands at.
//!
//! A text is looked at with its name: the key it stands under, the flag before it, the environment variable it is the
//! value of, or what stands before it in a longer text (`image: REF`, `"image":"REF"`, `--image=REF`, `--image REF`).

use std::borrow::Cow;
use std::ops::Range;

use crate::error::Result;
use crate::yaml::{NodeId, Segment, Stream, Use};

/// A text in a manifest that is, or may be, a reference to an image. Not parsed yet.
#[derive(Clone, Debug)]
pub struct Mention<'a> {
    /// The scalar it is in; of separate fields the repository.
    pub at: Use<'a>,
    /// As written; of separate fields put together.
    pub text: Cow<'a, str>,
    /// What has to change for it to name another image.
    pub spelling: Spelling,
    /// Why it is taken for a reference.
    pub role: Role,
}

/// How a reference is spelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// In one piece: these bytes of the scalar's value.
    Piece(Range<usize>),
    /// As sibling fields: `repository` (or `image`) with `tag` or `digest`, and perhaps `registry`.
    Fields {
        /// The field with the registry, if there is one.
        registry: Option<NodeId>,
        /// The field with the repository.
        repository: NodeId,
        /// The field with the digest, empty or not, if there is one.
        digest: Option<NodeId>,
    },
}

/// Why a text is taken for a reference; the earlier, the surer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A pod spec's image, at any depth of any object: the kubelet pulls it.
    PodImage,
    /// It is the value of something, and complete enough for what that is called (the rule is at `role`).
    Named,
    /// It is complete, but stands in running text; or it is the bare value of a key that says image.
    Likely,
    /// It has a tag or digest: `redis:8`, but so do `redis:6379` and `key:value`.
    Word,
    /// A part of something longer that looks like none of the above, such as a URL.
    Doubtful,
}

/// Calls `visit` with every mention in `stream`, in the order of the source. Of pieces of text, only what has a tag or
/// digest is a mention, unless its place or name says that it is an image. Keys are not looked at.
///
/// # Errors
/// When the stream's aliases explode, and what `visit` fails with.
pub fn mentions(stream: &Stream<'_>, mut visit: impl FnMut(Mention<'_>) -> Result<()>) -> Result<()> {
    stream.walk(|at| {
        let value: &str = &at.scalar.value;
        let whole =
            |role| Mention { at, text: value.into(), spelling: Spelling::Piece(0..value.len()), role };
        if value.is_empty() || at.scalar.is_null() {
            return Ok(());
        }
        if is_pod_image(at.path) {
            return visit(whole(Role::PodImage));
        }
        if let Some(fields) = fields(stream, at) {
            return fields.map_or(Ok(()), &mut visit);
        }
        let outer = outer_name(stream, at);
        if !value.contains([':', '@', '/']) {
            let is_image = is_component(value) && outer.is_some_and(ends_with_image);
            return if is_image { visit(whole(Role::Likely)) } else { Ok(()) };
        }
        for (range, certain) in pieces(value) {
            let text = &value[range.clone()];
            let role = match certain {
                true => role(value, &range, outer),
                false => has_version(text).then_some(Role::Doubtful),
            };
            if let Some(role) = role {
                visit(Mention { at, text: text.into(), spelling: Spelling::Piece(range), role })?;
            }
        }
        Ok(())
    })
}

/// Fails closed: a list may be written as a map, and keys in any case, as decoders that are not strict take them.
fn is_pod_image(path: &[crate::yaml::Step<'_>]) -> bool {
    let key = |n: usize, names: &[&str]| match path.len().checked_sub(n).map(|i| path[i].segment) {
        Some(Segment::Key(key)) => names.iter().any(|name| is_same_key(key, name)),
        _ => false,
    };
    let containers = ["containers", "initContainers", "ephemeralContainers"];
    (key(1, &["image"]) && (key(2, &containers) || key(3, &containers)))
        || (key(1, &["reference"]) && key(2, &["image"]) && (key(3, &["volumes"]) || key(4, &["volumes"])))
}

/// As Go's `encoding/json` folds: `K` has the Kelvin sign, `s` the long one.
fn is_same_key(key: &str, name: &str) -> bool {
    key.eq_ignore_ascii_case(name) || (!key.is_ascii() && key.to_uppercase().eq_ignore_ascii_case(name))
}

/// If the scalar is one of the fields that name an image together: Some, and the mention in it at the repository's.
fn fields<'a>(stream: &'a Stream<'_>, at: Use<'a>) -> Option<Option<Mention<'a>>> {
    let step = at.path.last()?;
    let Segment::Key(key @ ("registry" | "repository" | "image" | "tag" | "digest")) = step.segment else {
        return None;
    };
    let field = |key| stream.text(step.parent, key).filter(|text| !text.is_empty());
    let repository_key = if field("repository").is_some() { "repository" } else { "image" };
    let repository = field(repository_key).filter(|text| !has_version(text))?;
    let (registry, tag, digest) = (field("registry"), field("tag"), field("digest"));
    if tag.is_none() && digest.is_none() {
        return None;
    }
    if key != repository_key {
        // Of an `image` beside a `repository`, nothing is known.
        return (key != "image").then_some(None);
    }
    let mut text = String::new();
    registry.iter().for_each(|registry| text.extend([registry, "/"]));
    text.push_str(repository);
    tag.iter().for_each(|tag| text.extend([":", tag]));
    digest.iter().for_each(|digest| text.extend(["@", digest]));
    // `repository` and `tag` alone may be git's.
    let says_image = registry.is_some()
        || at.path.iter().any(|step| matches!(step.segment, Segment::Key(key) if contains_image(key)));
    let role = match (says_image, has_host(&text)) {
        (true, _) => Role::Named,
        (false, true) => Role::Likely,
        (false, false) => Role::Word,
    };
    let spelling = Spelling::Fields {
        registry: registry.and(stream.get(step.parent, "registry")),
        repository: at.id,
        digest: stream.text(step.parent, "digest").and(stream.get(step.parent, "digest")),
    };
    Some(Some(Mention { at, text: text.into(), spelling, role }))
}

/// What a scalar as a whole is called.
fn outer_name<'a>(stream: &'a Stream<'_>, at: Use<'a>) -> Option<&'a str> {
    let step = at.path.last()?;
    match step.segment {
        Segment::Key("value") => stream.text(step.parent, "name").or(Some("value")),
        Segment::Key(key) => Some(key),
        Segment::Index(index) => {
            let before = index.checked_sub(1).and_then(|i| stream.item(step.parent, i));
            before.filter(|text| text.starts_with('-')).or_else(|| {
                at.path.iter().rev().find_map(|step| match step.segment {
                    Segment::Key(key) => Some(key),
                    Segment::Index(_) => None,
                })
            })
        }
    }
}

/// What a piece of a longer text is called, from the text before it: `NAME: `, `NAME=`, `"NAME":"`, `--NAME `.
fn inner_name(before: &str) -> Option<&str> {
    const QUOTES: [char; 5] = [' ', '\t', '"', '\'', '\\'];
    let called = before.trim_end_matches(QUOTES);
    let (name, is_flag) = match called.strip_suffix([':', '=']) {
        Some(name) => (name.trim_end_matches(QUOTES), false),
        None => (called, called.len() < before.len()),
    };
    let start = name.rfind(|c: char| !(c.is_ascii_alphanumeric() || "_.-".contains(c)));
    let name = &name[start.map_or(0, |i| i + name[i..].chars().next().map_or(0, char::len_utf8))..];
    (!name.is_empty() && (called.ends_with([':', '=']) || (is_flag && name.starts_with('-')))).then_some(name)
}

/// The role of a word, which is at `range` in a scalar's `value`; `outer` is what the scalar is called.
///
/// Where the name ends with `image` (`image`, `baseImage`, `--executor-image`, `KAFKA_IMAGES`), a tag, a digest or a
/// registry's host is enough. Under any other name it takes a host and a tag or digest, because `--addr=redis:6379` and
/// `--image-service=localhost:99` exist; and in running text, in a comment or a description, it is only likely.
fn role(value: &str, range: &Range<usize>, outer: Option<&str>) -> Option<Role> {
    let (before, text) = (&value[..range.start], &value[range.clone()]);
    let (versioned, has_host) = (has_version(text), has_host(text));
    let inner = inner_name(before);
    let says_image = inner.or(outer).is_some_and(ends_with_image);
    let has_name = inner.is_some() || text.len() == value.len() || outer.is_some_and(contains_image);
    let line = before.rsplit('\n').next().unwrap_or(before);
    let is_remark = line.trim_start().starts_with('#') || outer == Some("description");
    match (versioned, has_host) {
        (true, true) if has_name && !is_remark => Some(Role::Named),
        (true, true) => Some(Role::Likely),
        (true, false) | (false, true) if says_image && !is_remark => Some(Role::Named),
        _ if says_image => Some(Role::Likely),
        (true, false) => Some(Role::Word),
        (false, _) => None,
    }
}

fn contains_image(name: &str) -> bool {
    name.as_bytes().windows(5).any(|window| window.eq_ignore_ascii_case(b"image"))
}

fn ends_with_image(name: &str) -> bool {
    let name = name.trim_end_matches(['s', 'S']).as_bytes();
    name.len() >= 5 && name[name.len() - 5..].eq_ignore_ascii_case(b"image")
}

/// Whether a tag or a digest is written.
fn has_version(text: &str) -> bool {
    let last = text.rsplit('/').next().unwrap_or(text);
    text.contains("@sha256:")
        || last.split_once(':').is_some_and(|(name, tag)| !name.is_empty() && !tag.is_empty())
}

/// Whether a registry is written, as engines tell it from a name on Docker Hub, and a path after it.
fn has_host(text: &str) -> bool {
    text.split_once('/').is_some_and(|(host, path)| {
        !host.is_empty() && !path.is_empty() && (host.contains(['.', ':']) || host == "localhost")
    })
}

/// Whether it could be a repository of one component: `redis`, but not `true` or `Some text`.
fn is_component(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        && !matches!(text, "true" | "false" | "null")
}

/// The pieces of a text that could be references, and whether nothing around speaks against it.
fn pieces(value: &str) -> Vec<(Range<usize>, bool)> {
    let mut pieces = vec![];
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
    let mut end = 0;
    while let Some(start) = value.as_bytes()[end..].iter().position(|b| is_part(*b)).map(|i| end + i) {
        end = value.as_bytes()[start..].iter().position(|b| !is_part(*b)).map_or(value.len(), |i| start + i);
        let run = &value[start..end];
        if run.contains([':', '@', '/']) {
            // A full stop that ends a sentence.
            let kept = if run == value { run } else { run.trim_end_matches(['.', ':', '/']) };
            // After these a text goes on, from a variable for example: `${REGISTRY}redis:8`.
            let glued = value[..start].ends_with(['}', ')', '$', '%', '~', '*', '+', '?', '&', '#', '!']);
            split_run(kept, start, !glued, &mut pieces);
        }
    }
    pieces
}

fn split_run(run: &str, start: usize, certain: bool, pieces: &mut Vec<(Range<usize>, bool)>) {
    let mut push = |offset: usize, certain| pieces.push((start + offset..start + run.len(), certain));
    match run.split_once("://") {
        Some((scheme, rest)) => push(run.len() - rest.len(), certain && matches!(scheme, "docker" | "oci")),
        None => push(0, certain),
    }
    for (colon, _) in run.match_indices(':').filter(|(colon, _)| !run[colon + 1..].starts_with("//")) {
        push(colon + 1, false);
    }
}
