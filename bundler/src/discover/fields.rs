//! References spelled as sibling fields: `registry`, `repository`, `tag`, `digest`, in the spellings that values and
//! custom resources have (`image` + `tag`, `imageRepository` + `imageTag`, `sidecarImage` + `sidecarVersion`), as pairs of
//! environment variables (`X_IMAGE`, `X_IMAGE_TAG`) and of flags (`--x-image-repository`, `--x-image-tag`).

use super::words::{Role, contains_image, ends_with_image, has_host, has_version, is_component};
use crate::yaml::{Node, NodeId, Segment, Step, Stream, Use};

/// Most fields of an object in which siblings are looked for.
const MAX_FIELDS: usize = 256;

/// What a field says of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Registry,
    Repository,
    /// `image`, which may be the repository or its last component.
    Image,
    /// A repository or its last component, where something says that an image is meant.
    Name,
    Tag,
    /// A tag, where the object has none.
    Version,
    Digest,
}

/// Where a field's value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The scalar.
    pub id: NodeId,
    /// What stands before it in the same scalar: `--image-tag=`.
    pub lead: String,
}

/// The fields that name an image together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// The field with the registry, if there is one.
    pub registry: Option<Slot>,
    /// The field with the repository.
    pub repository: Slot,
    /// The repository's last component, if that is a field of its own.
    pub below: Option<String>,
    /// The field with the digest, empty or not, if there is one.
    pub digest: Option<Slot>,
    /// Whether the digest is written without its algorithm.
    pub bare_digest: bool,
}

/// What a scalar is, as a field.
pub(super) enum Told {
    /// Nothing that has to do with siblings.
    Alone,
    /// A part of a reference that is told with its repository.
    Elsewhere,
    /// The repository, with all that its siblings add: in one way, or in two where it can be read so.
    Here(Vec<(String, Role, Fields)>),
}

/// A field of an object, a list of environment variables, or a command line.
#[derive(Clone, Copy)]
struct Field<'a> {
    key: &'a str,
    id: NodeId,
    lead: &'a str,
    value: &'a str,
}

impl Field<'_> {
    fn slot(&self) -> Slot {
        Slot { id: self.id, lead: self.lead.into() }
    }
}

/// Reads a scalar together with its siblings.
pub(super) fn fields(stream: &Stream<'_>, at: Use<'_>) -> Told {
    let Some(key) = own_key(stream, at) else { return Told::Alone };
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
    let all = siblings(stream, at);
    let group = Group::of(&all, prefix, parent_says);
    let Some(repository) = group.repository.or(group.image).or(group.name) else { return Told::Alone };
    if repository.value.contains("://") || has_version(repository.value) {
        return Told::Alone;
    }
    let meant = contains_image(repository.key) || parent_says;
    let version = group.version.filter(|_| meant || has_host(repository.value));
    let lone = || lone_version(&all).filter(|_| group.digest.is_none());
    let tag = group.tag.or(version).or_else(lone);
    if tag.is_none() && group.digest.is_none() {
        return Told::Alone;
    }
    let below = group.image.or(group.name).filter(|below| {
        below.id != repository.id && is_component(below.value) && repository.value.contains(['/', '.'])
    });
    let is_told = [group.registry, tag, group.digest, below].iter().flatten().any(|f| f.id == at.id);
    if is_told || group.digest_field.is_some_and(|field| field.id == at.id) {
        return Told::Elsewhere;
    }
    if repository.id != at.id {
        return Told::Alone;
    }
    let says_image = meant
        || group.registry.is_some()
        || below.is_some()
        || at.path.iter().any(|step| matches!(step.segment, Segment::Key(key) if contains_image(key)));
    let mut ways = vec![];
    for below in [below.map(Some), Some(None)].into_iter().flatten() {
        let (text, fields) = group.reference(repository, below, tag);
        let role = match (says_image, has_host(&text)) {
            (true, _) => Role::Named,
            // `repository` and `tag` alone may be git's.
            (false, true) => Role::Likely,
            (false, false) => Role::Word,
        };
        ways.push((text, role, fields));
    }
    Told::Here(ways)
}

/// The name of a scalar as a field: its key, the name of the environment variable, or the flag.
fn own_key<'a>(stream: &'a Stream<'_>, at: Use<'a>) -> Option<&'a str> {
    match *at.path.last()? {
        Step { parent, segment: Segment::Key("value") } => stream.text(parent, "name"),
        Step { segment: Segment::Key(key), .. } => Some(key),
        Step { parent, segment: Segment::Index(index) } => match flag(&at.scalar.value) {
            Some((key, lead)) => (!lead.is_empty()).then_some(key),
            None => flag(stream.item(parent, index.checked_sub(1)?)?).filter(|f| f.1.is_empty()).map(|f| f.0),
        },
    }
}

/// A flag's name, and all up to its value if that stands in the same word.
fn flag(word: &str) -> Option<(&str, &str)> {
    let name = word.strip_prefix('-')?.trim_start_matches('-');
    match name.split_once('=') {
        Some((name, value)) => Some((name, &word[..word.len() - value.len()])),
        None => Some((name, "")),
    }
}

/// All fields beside a scalar, its own included; at most [`MAX_FIELDS`].
fn siblings<'a>(stream: &'a Stream<'_>, at: Use<'a>) -> Vec<Field<'a>> {
    let scalar = |id: NodeId| match stream.node(id) {
        Node::Scalar(scalar) if !scalar.is_null() => Some(&*scalar.value),
        _ => None,
    };
    let field = |object, key: &'a str, name: &str| {
        // Of equal keys the last; null says nothing, and can't be written over.
        let id = stream.get(object, name)?;
        Some(Field { key, id, lead: "", value: scalar(id)? })
    };
    let list = |id| match stream.node(id) {
        Node::Sequence(items) if items.len() <= MAX_FIELDS => items,
        _ => &[],
    };
    match at.path {
        [
            ..,
            Step { parent: items, segment: Segment::Index(_) },
            Step { segment: Segment::Key("value"), .. },
        ] => {
            let variable = |item: &NodeId| field(*item, stream.text(*item, "name")?, "value");
            list(*items).iter().filter_map(variable).collect()
        }
        [.., Step { parent, segment: Segment::Key(_) }] => match stream.node(*parent) {
            Node::Mapping(entries) if entries.len() <= MAX_FIELDS => {
                let fields = entries.iter().filter(|(key, _)| part(key).is_some());
                fields.filter_map(|(key, _)| field(*parent, key, key)).collect()
            }
            _ => vec![],
        },
        [.., Step { parent, segment: Segment::Index(_) }] => {
            let words: Vec<_> =
                list(*parent).iter().map(|id| (stream.target(*id), scalar(*id).unwrap_or(""))).collect();
            let argument = |(i, (id, word)): (usize, &(NodeId, &'a str))| match flag(word)? {
                (key, "") => {
                    let (id, value) = *words.get(i + 1).filter(|(_, next)| !next.starts_with('-'))?;
                    Some(Field { key, id, lead: "", value })
                }
                (key, lead) => Some(Field { key, id: *id, lead, value: &word[lead.len()..] }),
            };
            words.iter().enumerate().filter_map(argument).collect()
        }
        [] => vec![],
    }
}

/// A version that says of itself that it is an image's, if it is the only one: `defaultImageVersion`.
fn lone_version<'a>(all: &[Field<'a>]) -> Option<Field<'a>> {
    let is_version = |f: &&Field<'_>| {
        !f.value.is_empty()
            && contains_image(f.key)
            && matches!(part(f.key), Some((Part::Tag | Part::Version, _)))
    };
    let is_repository = |f: &&Field<'_>| matches!(part(f.key), Some((Part::Repository | Part::Image, _)));
    let mut versions = all.iter().filter(is_version);
    match (versions.next(), versions.next(), all.iter().filter(is_repository).count()) {
        (Some(only), None, 1) => Some(*only),
        _ => None,
    }
}

/// What fields of one prefix say; empty ones say nothing.
#[derive(Default)]
struct Group<'a> {
    registry: Option<Field<'a>>,
    repository: Option<Field<'a>>,
    image: Option<Field<'a>>,
    name: Option<Field<'a>>,
    tag: Option<Field<'a>>,
    version: Option<Field<'a>>,
    digest: Option<Field<'a>>,
    digest_field: Option<Field<'a>>,
}

impl<'a> Group<'a> {
    fn of(all: &[Field<'a>], prefix: &str, parent_says: bool) -> Self {
        let mut group = Self::default();
        for field in all {
            let Some((part, _)) = part(field.key).filter(|(_, other)| same_prefix(other, prefix)) else {
                continue;
            };
            if part == Part::Digest {
                group.digest_field = Some(*field);
            }
            if field.value.is_empty() {
                continue;
            }
            let slot = match part {
                Part::Registry => &mut group.registry,
                Part::Repository => &mut group.repository,
                Part::Image => &mut group.image,
                Part::Name if !contains_image(field.key) && !parent_says => continue,
                Part::Name => &mut group.name,
                Part::Tag => &mut group.tag,
                Part::Version => &mut group.version,
                Part::Digest => &mut group.digest,
            };
            *slot = Some(*field);
        }
        group
    }

    fn reference(
        &self,
        repository: Field<'a>,
        below: Option<Field<'a>>,
        tag: Option<Field<'a>>,
    ) -> (String, Fields) {
        let mut text = String::new();
        if let Some(registry) = self.registry {
            text.extend([registry.value.trim_end_matches('/'), "/"]);
        }
        text.push_str(repository.value.trim_end_matches('/'));
        below.iter().for_each(|below| text.extend(["/", below.value]));
        if let Some(tag) = tag {
            text.extend([if tag.value.starts_with("sha256:") { "@" } else { ":" }, tag.value]);
        }
        let bare_digest = self.digest.is_some_and(|digest| !digest.value.starts_with("sha256:"));
        if let Some(digest) = self.digest {
            text.extend(["@", if bare_digest { "sha256:" } else { "" }, digest.value]);
        }
        let fields = Fields {
            registry: self.registry.map(|field| field.slot()),
            repository: repository.slot(),
            below: below.map(|below| below.value.into()),
            digest: self.digest_field.map(|field| field.slot()),
            bare_digest,
        };
        (text, fields)
    }
}

/// `side_car` is `sideCar`.
fn same_prefix(one: &str, other: &str) -> bool {
    fn plain(text: &str) -> impl Iterator<Item = u8> {
        text.bytes().filter(u8::is_ascii_alphanumeric).map(|b| b.to_ascii_lowercase())
    }
    plain(one).eq(plain(other))
}

/// What a key says, and which of several images it says it of: the key without that, and without `image`.
fn part(key: &str) -> Option<(Part, &str)> {
    // Nearly every key is none of these, as its last letter shows.
    let candidates: &[(&str, Part)] = match key.as_bytes().last()?.to_ascii_lowercase() {
        b'e' => &[("image", Part::Image), ("name", Part::Name)],
        b'y' => &[("registry", Part::Registry), ("repository", Part::Repository)],
        b'b' => &[("hub", Part::Registry)],
        b'o' => &[("repo", Part::Repository)],
        b'g' => &[("tag", Part::Tag)],
        b'n' => &[("version", Part::Version)],
        b't' => &[("digest", Part::Digest)],
        b'6' => &[("sha256", Part::Digest)],
        b'a' => &[("sha", Part::Digest)],
        _ => return None,
    };
    let (prefix, part) = candidates.iter().find_map(|(end, part)| Some((without(key, end)?, *part)))?;
    match part {
        Part::Image => Some((part, prefix)),
        _ => Some((part, without(prefix, "image").unwrap_or(prefix))),
    }
}

/// `side` of `side_image` without `image`.
fn without<'a>(key: &'a str, end: &str) -> Option<&'a str> {
    let at = key.len().checked_sub(end.len())?;
    let is_end = key.as_bytes()[at..].eq_ignore_ascii_case(end.as_bytes());
    // What is in front of an ASCII letter is whole.
    is_end.then(|| key[..at].trim_end_matches(['-', '_', '.']))
}
