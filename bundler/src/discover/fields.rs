//! References spelled as sibling fields: `registry`, `repository`, `tag`, `digest`, in the spellings that values and
//! custom resources have (`image` + `tag`, `imageRepository` + `imageTag`, `sidecarImage` + `sidecarVersion`).

use std::borrow::Cow;

use super::words::{Role, contains_image, ends_with_image, has_host, has_version};
use crate::yaml::{Node, NodeId, Segment, Step, Stream, Use};

/// Most fields of an object in which siblings are looked for.
const MAX_FIELDS: usize = 256;

/// What a field says of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Registry,
    Repository,
    /// Also a repository, where there is none of the above: its rank among these.
    Name,
    Tag,
    /// A tag, where the object has none.
    Version,
    Digest,
}

/// The fields that name an image together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// The field with the registry, if there is one.
    pub registry: Option<NodeId>,
    /// The field with the repository.
    pub repository: NodeId,
    /// The field with the digest, empty or not, if there is one.
    pub digest: Option<NodeId>,
    /// Whether the digest is written without its algorithm.
    pub bare_digest: bool,
}

/// What a scalar is, as a field.
pub(super) enum Told {
    /// Nothing that has to do with siblings.
    Alone,
    /// A part of a reference that is told with its repository.
    Elsewhere,
    /// The repository, with all that its siblings add.
    Here { text: String, role: Role, fields: Fields },
}

/// Reads a scalar together with its siblings.
pub(super) fn fields(stream: &Stream<'_>, at: Use<'_>) -> Told {
    let Some(Step { parent, segment: Segment::Key(key) }) = at.path.last().copied() else {
        return Told::Alone;
    };
    let Some((own, prefix)) = part(key) else { return Told::Alone };
    let parent_says = at.path.iter().rev().skip(1).find_map(|step| match step.segment {
        Segment::Key(key) => Some(ends_with_image(key)),
        Segment::Index(_) => None,
    });
    let parent_says = parent_says.unwrap_or_default();
    // Everything has a name, and most things a version.
    if own == Part::Name && !contains_image(key) && !parent_says {
        return Told::Alone;
    }
    let Node::Mapping(entries) = stream.node(parent) else { return Told::Alone };
    if entries.len() > MAX_FIELDS {
        return Told::Alone;
    }
    let siblings = Siblings::of(stream, parent, entries, prefix, parent_says);
    let Some((repository_key, repository, value)) = siblings.repository else { return Told::Alone };
    let says_image = siblings.registry.is_some()
        || contains_image(repository_key)
        || at.path.iter().any(|step| matches!(step.segment, Segment::Key(key) if contains_image(key)));
    let version =
        siblings.version.filter(|_| contains_image(repository_key) || parent_says || has_host(value));
    let Some(tag) = siblings.tag.or(version).map(Some).or(siblings.digest.map(|_| None)) else {
        return Told::Alone;
    };
    if has_version(value) {
        return Told::Alone;
    }
    match own {
        Part::Version if siblings.tag.is_some() || version.is_none() => return Told::Alone,
        Part::Repository | Part::Name if key != repository_key => return Told::Alone,
        Part::Repository | Part::Name => {}
        _ => return Told::Elsewhere,
    }
    let mut text = String::new();
    if let Some((_, registry)) = siblings.registry {
        text.extend([registry.trim_end_matches('/'), "/"]);
    }
    text.push_str(value);
    if let Some(tag) = tag {
        text.extend([if tag.starts_with("sha256:") { "@" } else { ":" }, tag]);
    }
    let bare_digest = siblings.digest.is_some_and(|digest| !digest.starts_with("sha256:"));
    if let Some(digest) = siblings.digest {
        text.extend(["@", if bare_digest { "sha256:" } else { "" }, digest]);
    }
    let role = match (says_image, has_host(&text)) {
        (true, _) => Role::Named,
        // `repository` and `tag` alone may be git's.
        (false, true) => Role::Likely,
        (false, false) => Role::Word,
    };
    let registry = siblings.registry.map(|(id, _)| id);
    Told::Here {
        text,
        role,
        fields: Fields { registry, repository, digest: siblings.digest_field, bare_digest },
    }
}

/// What fields of one prefix say; empty ones say nothing.
#[derive(Default)]
struct Siblings<'a> {
    registry: Option<(NodeId, &'a str)>,
    repository: Option<(&'a str, NodeId, &'a str)>,
    tag: Option<&'a str>,
    version: Option<&'a str>,
    digest: Option<&'a str>,
    digest_field: Option<NodeId>,
}

impl<'a> Siblings<'a> {
    fn of(
        stream: &'a Stream<'_>,
        parent: NodeId,
        entries: &'a [(Cow<'_, str>, NodeId)],
        prefix: &str,
        parent_says: bool,
    ) -> Self {
        let mut all = Self::default();
        let mut rank = 0;
        for (key, _) in entries {
            let Some((part, _)) = part(key).filter(|(_, other)| other.eq_ignore_ascii_case(prefix)) else {
                continue;
            };
            // Of equal keys the last; null says nothing, and can't be written over.
            let (Some(id), Some(value)) = (stream.get(parent, key), stream.text(parent, key)) else {
                continue;
            };
            if part == Part::Digest {
                all.digest_field = Some(id);
            }
            if value.is_empty() {
                continue;
            }
            match part {
                Part::Registry => all.registry = Some((id, value)),
                Part::Repository | Part::Name => {
                    let own = match part {
                        Part::Name if !contains_image(key) && !parent_says => 0,
                        Part::Name => 1,
                        _ if key.to_ascii_lowercase().ends_with("image") => 2,
                        _ => 3,
                    };
                    if own >= rank && own > 0 {
                        (rank, all.repository) = (own, Some((&**key, id, value)));
                    }
                }
                Part::Tag => all.tag = Some(value),
                Part::Version => all.version = Some(value),
                Part::Digest => all.digest = Some(value),
            }
        }
        all
    }
}

/// What a key says, and which of several images it says it of: the key without that, and without `image`.
fn part(key: &str) -> Option<(Part, &str)> {
    const PARTS: [(&str, Part); 9] = [
        ("registry", Part::Registry),
        ("repository", Part::Repository),
        ("repo", Part::Repository),
        ("name", Part::Name),
        ("tag", Part::Tag),
        ("version", Part::Version),
        ("digest", Part::Digest),
        ("sha256", Part::Digest),
        ("sha", Part::Digest),
    ];
    let without = |key: &'_ str, end: &str| {
        let at = key.len().checked_sub(end.len()).filter(|at| key.is_char_boundary(*at))?;
        key[at..].eq_ignore_ascii_case(end).then_some(at)
    };
    let trimmed = |at: usize| key[..at].trim_end_matches(['-', '_', '.']);
    if let Some(at) = without(key, "image") {
        return Some((Part::Repository, trimmed(at)));
    }
    let (at, part) = PARTS.iter().find_map(|(end, part)| Some((without(key, end)?, *part)))?;
    let prefix = trimmed(at);
    let prefix = without(prefix, "image").map_or(prefix, |at| prefix[..at].trim_end_matches(['-', '_', '.']));
    Some((part, prefix))
}
