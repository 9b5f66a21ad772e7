//! References to images within text: which pieces of a text could be one, and what speaks for it.
//!
//! A piece is judged by what it is called: the key it stands under, the flag before it, the environment variable it is
//! the value of, or what stands before it in a longer text (`image: REF`, `"image":"REF"`, `--image=REF`, `pull REF`).

use std::ops::Range;

use memchr::{memchr, memchr2_iter};

/// Why a text is taken for a reference; the earlier, the surer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A pod spec's image, at any depth of any object: the kubelet pulls it.
    PodImage,
    /// It is the value of something, and complete enough for what that is called (the rule is at [`role`]).
    Named,
    /// It is complete, but stands in running text; or it is the bare value of a key that says image.
    Likely,
    /// It has a tag or digest: `redis:8`, but so do `redis:6379` and `key:value`.
    Word,
    /// Somebody's remark: a comment, a description.
    Remark,
    /// A part of something longer that looks like none of the above, such as a URL.
    Doubtful,
}

/// A piece of a text that could be a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where in the text, in bytes.
    pub range: Range<usize>,
    /// Whether nothing around it speaks against it.
    certain: bool,
    /// Whether a scheme in front of it says that it is an image or artifact (`oci://`).
    scheme: bool,
}

/// The role of a piece of `value`; `outer` is what the whole is called. None for what is not worth a word.
///
/// Where the name ends with `image` (`image`, `baseImage`, `--executor-image`, `KAFKA_IMAGES`), a tag, a digest or a
/// registry's host is enough. Under any other name it takes a host and a tag or digest, because `--addr=redis:6379` and
/// `--image-service=localhost:99` exist; and in running text it is only likely.
pub(super) fn role(value: &str, piece: &Piece, outer: Option<&str>) -> Option<Role> {
    let (before, text) = (&value[..piece.range.start], &value[piece.range.clone()]);
    let (versioned, has_host) = (has_version(text), has_host(text));
    if !piece.certain {
        return versioned.then_some(Role::Doubtful);
    }
    let inner = inner_name(before);
    let says_image = inner.or(outer).is_some_and(ends_with_image)
        || is_pulled(before)
        || list_name(before).is_some_and(ends_with_image);
    let has_name = inner.is_some() || text.len() == value.len() || outer.is_some_and(contains_image);
    let role = match (versioned, has_host) {
        (true, true) if has_name || piece.scheme => Role::Named,
        (true, true) => Role::Likely,
        (true, false) | (false, true) if says_image => Role::Named,
        (false, true) if piece.scheme || inner.or(outer).is_some_and(says_repository) => Role::Likely,
        _ if says_image => Role::Likely,
        (true, false) => Role::Word,
        (false, _) => return None,
    };
    let is_remark = outer.is_some_and(is_prose) || is_comment(before);
    Some(if is_remark { Role::Remark } else { role })
}

/// The pieces of a text that could be references, in order; one may lie within another.
pub(super) fn pieces(value: &str) -> Vec<Piece> {
    let mut pieces = vec![];
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
    // A bare word is one only where it is called an image.
    let bare = may_have_bare_names(value);
    let mut end = 0;
    while let Some(start) = value.as_bytes()[end..].iter().position(|b| is_part(*b)).map(|i| end + i) {
        end = value.as_bytes()[start..].iter().position(|b| !is_part(*b)).map_or(value.len(), |i| start + i);
        let run = &value[start..end];
        if run.contains([':', '@', '/']) {
            // A full stop that ends a sentence.
            let kept = if run == value { run } else { run.trim_end_matches(['.', ':', '/']) };
            // After these a text goes on, from a variable for example: `${REGISTRY}redis:8`.
            let before = &value[..start];
            let glued = before.ends_with(['}', ')', '$', '%', '~', '*', '+', '?', '&', '#', '!', '\\']);
            if kept.contains([':', '@', '/']) {
                split_run(kept, start, !glued, &mut pieces);
            }
        } else if bare && is_component(run) && is_bare_image(&value[..start], &value[end..]) {
            pieces.push(Piece { range: start..end, certain: true, scheme: false });
        }
    }
    pieces
}

fn split_run(run: &str, start: usize, certain: bool, pieces: &mut Vec<Piece>) {
    let mut push = |offset: usize, certain, scheme| {
        pieces.push(Piece { range: start + offset..start + run.len(), certain, scheme });
    };
    match run.split_once("://") {
        Some((scheme, rest)) => {
            let is_image = SCHEMES.contains(&scheme);
            push(run.len() - rest.len(), certain && is_image, is_image);
        }
        None => push(0, certain, false),
    }
    // `${REGISTRY}/redis:8`: what the variable has may be the registry of this.
    if !certain && run.starts_with('/') {
        push(1, false, false);
    }
    for (colon, _) in run.match_indices(':').filter(|(colon, _)| !run[colon + 1..].starts_with("//")) {
        // `image:redis:8`, as properties and hand-written YAML have it.
        let name = &run[..colon];
        push(colon + 1, certain && !name.contains('/') && ends_with_image(name), false);
    }
}

/// URL schemes of images and OCI artifacts: skopeo's transports, the engine's status, helm's, BuildKit's.
const SCHEMES: [&str; 5] = ["docker", "oci", "docker-pullable", "docker-image", "containers-storage"];

/// What stands around a bare word that is meant as an image: `--image=busybox`, `--image busybox`, `pull busybox`. Not
/// `image: busybox`, which is read as YAML, or is prose.
fn is_bare_image(before: &str, after: &str) -> bool {
    let ends = after.is_empty() || after.starts_with([' ', '\n', '\r', '"', '\'', ',', ';', '}', ']', '\\']);
    let is_argument = || !before.trim_end_matches(['"', '\'', ' ']).ends_with(':');
    ends && (is_pulled(before) || (inner_name(before).is_some_and(ends_with_image) && is_argument()))
}

/// `docker pull`, `crictl pull`, `ctr images pull`; not `git pull`, and not "to pull up".
fn is_pulled(before: &str) -> bool {
    const PROGRAMS: [&str; 8] =
        ["docker", "podman", "nerdctl", "crictl", "images", "image", "buildah", "crane"];
    let mut words =
        before.split(|c: char| c.is_whitespace() || "\"',[".contains(c)).rev().filter(|w| !w.is_empty());
    before.ends_with([' ', '"', '\''])
        && words.next() == Some("pull")
        && words.next().is_some_and(|program| PROGRAMS.iter().any(|known| program.ends_with(known)))
}

/// What a piece of a longer text is called, from the text before it: `NAME: `, `NAME=`, `"NAME":"`, `--NAME `.
fn inner_name(before: &str) -> Option<&str> {
    const QUOTES: [char; 7] = [' ', '\t', '"', '\'', '\\', '*', '['];
    let called = before.trim_end_matches(QUOTES);
    let (name, is_flag) = match called.strip_suffix([':', '=']) {
        Some(name) => (name.trim_end_matches(QUOTES), false),
        None => (called, called.len() < before.len()),
    };
    let start = name.rfind(|c: char| !(c.is_ascii_alphanumeric() || "_.-".contains(c)));
    let name = &name[start.map_or(0, |i| i + name[i..].chars().next().map_or(0, char::len_utf8))..];
    (!name.is_empty() && (called.ends_with([':', '=']) || (is_flag && name.starts_with('-')))).then_some(name)
}

/// What a list is called that a piece is in, in one line: `IMAGES="a:1,b:2` and `--images a:1 b:2` before `c:3`, and
/// `--image-map=x=` before `a:1`. All in between must look like items.
fn list_name(before: &str) -> Option<&str> {
    let line = line_before(before);
    let is_separator = |c: char| " ,;|\"'[](){}\t".contains(c);
    let (mut end, mut items) = (line.len(), 0);
    while items < MAX_ITEMS {
        let text = line[..end].trim_end_matches(is_separator);
        let start = text.rfind(is_separator).map_or(0, |at| at + 1);
        let word = &text[start..];
        let name = word.split_once('=').map(|(name, _)| name).or_else(|| word.strip_suffix([':', '=']));
        if name.is_some() || word.starts_with('-') {
            return Some(name.unwrap_or(word).trim_end_matches(['"', '\'', '\\']));
        }
        // `images = [`: the name stands apart from its mark.
        if word == "=" || word == ":" {
            let text = text[..start].trim_end_matches(is_separator);
            return Some(text.rsplit(is_separator).next().unwrap_or(text));
        }
        if word.is_empty() || !(has_version(word) || word.contains('/')) {
            return None;
        }
        (end, items) = (start, items + 1);
    }
    None
}

/// How many items before one are looked through for their list's name.
const MAX_ITEMS: usize = 32;

/// The line so far; of a long one its end, since a text has many pieces.
fn line_before(before: &str) -> &str {
    const FAR: usize = 1024;
    let start = before.len().saturating_sub(FAR);
    let start = (start..=before.len()).find(|at| before.is_char_boundary(*at)).unwrap_or(before.len());
    before[start..].rsplit('\n').next().unwrap_or_default()
}

fn is_comment(before: &str) -> bool {
    let line = line_before(before).trim_start();
    line.starts_with('#') || line.starts_with("//")
}

/// Keys whose text is for people.
pub(super) fn is_prose(name: &str) -> bool {
    ["description", "help", "summary", "notes", "comment", "title"]
        .iter()
        .any(|key| name.eq_ignore_ascii_case(key))
}

/// Whether `image` is in a text, in upper or lower case.
pub(super) fn contains_image(text: &str) -> bool {
    let bytes = text.as_bytes();
    let around = |at: usize| bytes.get(at.checked_sub(3)?..at + 2);
    memchr2_iter(b'g', b'G', bytes)
        .any(|at| around(at).is_some_and(|word| word.eq_ignore_ascii_case(b"image")))
}

/// Whether a text is written as a document is, and may have fields or arguments that name an image.
pub(crate) fn may_have_fields(text: &str) -> bool {
    let is_likely = text.starts_with(['{', '[']) || memchr(b'\n', text.as_bytes()).is_some();
    is_likely && (contains_image(text) || text.contains("registry") || text.contains("repo"))
}

/// Whether a text may have bare words that are meant as images: `--image=busybox`, `docker pull busybox`.
pub(crate) fn may_have_bare_names(text: &str) -> bool {
    contains_image(text) || text.contains("pull ")
}

/// `image`, `baseImages`, `X_IMAGE_NAME`, `imageRef`, `image-url`.
pub(super) fn ends_with_image(name: &str) -> bool {
    let ends = |name: &str, end: &str| {
        let at = name.len().checked_sub(end.len()).filter(|at| name.is_char_boundary(*at))?;
        name[at..].eq_ignore_ascii_case(end).then_some(at)
    };
    let is_image = |name: &str| ends(name.trim_end_matches(['s', 'S']), "image").is_some();
    let without =
        |end| ends(name, end).is_some_and(|at| is_image(name[..at].trim_end_matches(['-', '_', '.'])));
    is_image(name)
        || ["name", "ref", "reference", "url", "uri", "repository", "repo", "spec"].into_iter().any(without)
}

/// A name whose value may be a repository without a tag: the program knows that.
fn says_repository(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["image", "repo", "registry"].iter().any(|part| name.contains(part))
}

/// Whether a tag or a digest is written.
pub(super) fn has_version(text: &str) -> bool {
    let last = text.rsplit('/').next().unwrap_or(text);
    text.contains("@sha256:")
        || last
            .split_once(':')
            .is_some_and(|(name, tag)| !name.is_empty() && !tag.is_empty() && !tag.contains(':'))
}

/// Whether a registry is written, as engines tell it from a name on Docker Hub, and a path after it.
pub(super) fn has_host(text: &str) -> bool {
    text.split_once('/').is_some_and(|(host, path)| {
        !host.is_empty() && !path.is_empty() && (host.contains(['.', ':']) || host == "localhost")
    })
}

/// Whether it could be a repository of one component: `redis`, but not `true` or `Some text`.
pub(super) fn is_component(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        && !text.contains('.')
        && !matches!(text, "true" | "false" | "null" | "none" | "string")
}

/// Whether a word without a registry or path, under a name that says nothing of images, may still be one: whether its end
/// looks like a tag rather than a port, a role or a rule. `postgres:16`, `nginx:stable-alpine`, `ubuntu:20240101`, but not
/// `redis:6379`, `system:auth-delegator`, `16:9`.
pub(super) fn has_plausible_tag(text: &str) -> bool {
    const TAGS: [&str; 16] = [
        "latest", "stable", "edge", "main", "master", "dev", "nightly", "canary", "lts", "alpine", "slim",
        "bookworm", "bullseye", "trixie", "noble", "jammy",
    ];
    let Some((name, tag)) = text.rsplit_once(':') else { return false };
    if name.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return false;
    }
    if let Ok(number) = tag.parse::<u64>() {
        return number < 80 || tag.len() >= 6;
    }
    let digits = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let is_version = digits(tag) || tag.strip_prefix('v').is_some_and(digits);
    (is_version && tag.contains(['.', '-', 'v']))
        || tag.split(['-', '_', '.']).any(|part| TAGS.contains(&part))
}
