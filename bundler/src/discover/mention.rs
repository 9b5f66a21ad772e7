//! Where manifests name images: every text that is, or may be, a reference, with the place it stands at; and how it is
//! exchanged. Discovery, rewriting and the gate all go through [`walk`], so that they can't see different things.
//!
//! Payloads are entered: a Secret's `data` and a ConfigMap's `binaryData` are decoded, and a text that is YAML or JSON
//! is read as such, at most [`MAX_NESTING`] levels deep; what of it is no scalar there (comments, keys) is then looked at
//! as text. Text that is neither, such as a Go template, is looked at as text only.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr2;

use super::fields::{Told, fields};
use super::place::Spot;
use super::words::{self, ends_with_image, is_component, pieces};
use crate::error::Result;
use crate::yaml::{Node, NodeId, Segment, Step, Stream, Use};

pub use super::fields::{Fields, Slot};
pub use super::words::Role;

/// Most levels of documents within documents.
pub const MAX_NESTING: usize = 4;

/// A text in a manifest that is, or may be, a reference to an image. Not parsed yet.
#[derive(Debug)]
pub struct Mention<'a> {
    /// The scalar it is in; of separate fields the repository.
    pub spot: &'a Spot<'a>,
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
    /// In one piece: these bytes of a text.
    Piece(Range<usize>),
    /// As sibling fields.
    Fields(Fields),
}

/// What a mention becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// Another text in its place.
    Text(String),
    /// Other values of its fields.
    Fields(Vec<(NodeId, String)>),
    /// Nothing: it is what it should be, and so is all that it consists of.
    Keep,
}

/// What is done with mentions.
pub trait Visitor {
    /// A cheap look at a text: whether anything in it can be of interest. Pod specs' images are shown all the same.
    fn cares(&self, _text: &str) -> bool {
        true
    }

    /// Whether a text as a whole means an image, whatever it looks like.
    fn means(&self, _text: &str) -> bool {
        false
    }

    /// Sees a mention, in the order of the source, and says what becomes of it.
    ///
    /// # Errors
    /// Whatever is to end the walk.
    fn visit(&mut self, mention: &Mention<'_>) -> Result<Option<Exchange>>;
}

/// Shows every mention in `stream` to `visitor`, and returns the stream with what that exchanged, if anything. Of pieces
/// of text, only what has a tag or digest is a mention, unless its place or name says that it is an image. Keys of the
/// stream itself are not looked at.
///
/// # Errors
/// When the stream's aliases explode, when a new text can't be written where the old one stood, and what `visitor`
/// fails with.
pub fn walk(stream: &Stream<'_>, visitor: &mut dyn Visitor) -> Result<Option<String>> {
    walk_and_prove(stream, visitor, &mut |_| Ok(()))
}

/// As [`walk`]; `prove` sees each document that was changed, as it is now, or the whole stream.
///
/// # Errors
/// Those of [`walk`], and what `prove` fails with.
pub fn walk_and_prove(
    stream: &Stream<'_>,
    visitor: &mut dyn Visitor,
    prove: &mut dyn FnMut(&Stream<'_>) -> Result<()>,
) -> Result<Option<String>> {
    let edits = level(stream, None, visitor)?;
    if edits.is_empty() { Ok(None) } else { stream.splice(&edits, prove).map(Some) }
}

type Edits = BTreeMap<NodeId, String>;

fn level(stream: &Stream<'_>, within: Option<&Spot<'_>>, visitor: &mut dyn Visitor) -> Result<Edits> {
    let mut edits = Edits::new();
    stream.walk(|at| scalar(&Spot { stream, at, within }, visitor, &mut edits))?;
    Ok(edits)
}

fn scalar(spot: &Spot<'_>, visitor: &mut dyn Visitor, edits: &mut Edits) -> Result<()> {
    let value: &str = &spot.at.scalar.value;
    if value.is_empty() || spot.at.scalar.is_null() {
        return Ok(());
    }
    let mut whole = |role| {
        let spelling = Spelling::Piece(0..value.len());
        visitor.visit(&Mention { spot, text: value.into(), spelling, role })
    };
    if is_pod_image(spot.at.path) {
        // What somebody will make a pod of is not a pod yet.
        let role = if spot.within.is_none() { Role::PodImage } else { Role::Named };
        return whole(role).map(|exchange| edit(spot.at.id, exchange, edits));
    }
    // A repository whose last component stands in a field of its own has a path, or a host.
    let is_encoded = is_encoded(spot);
    let cares = !is_encoded && visitor.cares(value);
    if !is_encoded && !cares && memchr2(b'/', b'.', value.as_bytes()).is_none() {
        return Ok(());
    }
    match fields(spot.stream, spot.at) {
        Told::Elsewhere => return Ok(()),
        Told::Here(ways) => {
            for (text, role, fields) in ways {
                let mention = Mention { spot, text: text.into(), spelling: Spelling::Fields(fields), role };
                if let Some(exchange) = visitor.visit(&mention)? {
                    edit(spot.at.id, Some(exchange), edits);
                    break;
                }
            }
            return Ok(());
        }
        Told::Alone => {}
    }
    let new = match (is_encoded, cares) {
        (true, _) => encoded(spot, value, visitor)?,
        (false, true) => text(spot, value, visitor)?,
        (false, false) => None,
    };
    edit(spot.at.id, new.map(Exchange::Text), edits);
    Ok(())
}

/// A scalar that is used in several places is seen several times; where its uses disagree, the first counts, and the gate
/// sees what is left.
fn edit(id: NodeId, exchange: Option<Exchange>, edits: &mut Edits) {
    match exchange {
        None | Some(Exchange::Keep) => {}
        Some(Exchange::Text(new)) => {
            edits.entry(id).or_insert(new);
        }
        Some(Exchange::Fields(all)) => {
            for (id, new) in all {
                edits.entry(id).or_insert(new);
            }
        }
    }
}

/// Base64, as a Secret's `data` has it. What does not decode to text is no text with references.
fn encoded(spot: &Spot<'_>, value: &str, visitor: &mut dyn Visitor) -> Result<Option<String>> {
    let packed: String = value.split_ascii_whitespace().collect();
    let Some(plain) = STANDARD.decode(packed).ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
        return Ok(None);
    };
    let new = if visitor.cares(&plain) { text(spot, &plain, visitor)? } else { None };
    Ok(new.map(|new| STANDARD.encode(new)))
}

/// Looks at a text that `visitor` cares for: as a document if it is one, then piece by piece.
fn text(spot: &Spot<'_>, value: &str, visitor: &mut dyn Visitor) -> Result<Option<String>> {
    let outer = outer_name(spot.stream, spot.at);
    if !value.contains([':', '@', '/', ' ', '\n', '=']) || visitor.means(value) {
        let is_image = is_component(value) && outer.is_some_and(ends_with_image) || visitor.means(value);
        let whole = Mention {
            spot,
            text: value.into(),
            spelling: Spelling::Piece(0..value.len()),
            role: Role::Likely,
        };
        let exchange = if is_image { visitor.visit(&whole)? } else { None };
        return Ok(exchange.and_then(Exchange::text));
    }
    let mut seen = Seen { visitor, texts: HashSet::new() };
    let nested = if spot.depth() < MAX_NESTING { document(value) } else { None };
    let mut as_document = None;
    if let Some(nested) = nested {
        let edits = level(&nested, Some(spot), &mut seen)?;
        if !edits.is_empty() {
            as_document = Some(nested.splice(&edits, &mut |_| Ok(()))?);
        }
    }
    let Seen { visitor, texts } = seen;
    let current = as_document.as_deref().unwrap_or(value);
    let (mut new, mut copied, mut settled) = (String::new(), 0, 0);
    for piece in pieces(current) {
        let part = &current[piece.range.clone()];
        // Within a piece that was exchanged, or kept, there is nothing left; what the document has was seen.
        if piece.range.start < settled || !visitor.cares(part) || texts.contains(part) {
            continue;
        }
        let Some(role) = words::role(current, &piece, outer) else { continue };
        let spelling = Spelling::Piece(piece.range.clone());
        let mention = Mention { spot, text: part.into(), spelling, role };
        let exchange = visitor.visit(&mention)?;
        if exchange.is_some() {
            settled = piece.range.end;
        }
        if let Some(Exchange::Text(to)) = exchange {
            new.push_str(&current[copied..piece.range.start]);
            new.push_str(&to);
            copied = piece.range.end;
        }
    }
    if copied == 0 {
        return Ok(as_document);
    }
    new.push_str(&current[copied..]);
    Ok(Some(new))
}

impl Exchange {
    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Fields(_) | Self::Keep => None,
        }
    }
}

/// Notes what was seen in a document and stayed, or came into it, so that it is not seen again in its text.
struct Seen<'v> {
    visitor: &'v mut dyn Visitor,
    texts: HashSet<String>,
}

impl Visitor for Seen<'_> {
    fn cares(&self, text: &str) -> bool {
        self.visitor.cares(text)
    }

    fn means(&self, text: &str) -> bool {
        self.visitor.means(text)
    }

    fn visit(&mut self, mention: &Mention<'_>) -> Result<Option<Exchange>> {
        let exchange = self.visitor.visit(mention)?;
        if matches!(mention.spelling, Spelling::Fields(_)) {
            self.texts.insert(mention.spot.at.scalar.value.clone().into_owned());
        }
        match &exchange {
            // What stood there may stand in a comment, too, and is to be exchanged there.
            Some(Exchange::Text(to)) => drop(self.texts.insert(to.clone())),
            None | Some(Exchange::Keep) => drop(self.texts.insert(mention.text.clone().into_owned())),
            Some(Exchange::Fields(all)) => {
                self.texts.insert(mention.text.clone().into_owned());
                self.texts.extend(all.iter().map(|(_, to)| to.clone()));
            }
        }
        Ok(exchange)
    }
}

/// A text that is a document with objects or lists, and that may have something which only its structure tells.
fn document(text: &str) -> Option<Stream<'_>> {
    if !words::may_have_fields(text) {
        return None;
    }
    let stream = Stream::parse(text).ok()?;
    let is_collection = |id: &NodeId| !matches!(stream.node(*id), Node::Scalar(_));
    // A document that explodes is none.
    (stream.roots().iter().any(is_collection) && stream.walk(|_| Ok(())).is_ok()).then_some(stream)
}

/// Whether Kubernetes wants a scalar in base64.
fn is_encoded(spot: &Spot<'_>) -> bool {
    let [.., Step { parent, segment: Segment::Key(map) }, Step { segment: Segment::Key(_), .. }] =
        spot.at.path
    else {
        return false;
    };
    let kind = || spot.stream.text(*parent, "kind");
    match *map {
        "data" => kind() == Some("Secret"),
        "binaryData" => kind() == Some("ConfigMap"),
        _ => false,
    }
}

/// Fails closed: a list may be written as a map, and keys in any case, as decoders that are not strict take them.
fn is_pod_image(path: &[Step<'_>]) -> bool {
    // Most keys are not, as their first byte shows.
    let Some(Step { segment: Segment::Key(last), .. }) = path.last() else { return false };
    if !last.starts_with(|c: char| matches!(c, 'i' | 'I' | 'r' | 'R') || !c.is_ascii()) {
        return false;
    }
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

/// What a scalar as a whole is called: its key, the `name` beside a `value`, or the flag before it in a list.
fn outer_name<'a>(stream: &'a Stream<'_>, at: Use<'a>) -> Option<&'a str> {
    let step = at.path.last()?;
    match step.segment {
        Segment::Key("value") => stream.text(step.parent, "name").or(Some("value")),
        Segment::Key(key) => Some(key),
        Segment::Index(index) => {
            let before = (0..index).rev().take(MAX_ARGUMENTS).find_map(|i| {
                stream.item(step.parent, i).filter(|text| text.starts_with('-') && !text.contains('='))
            });
            before.or_else(|| {
                at.path.iter().rev().find_map(|step| match step.segment {
                    Segment::Key(key) => Some(key),
                    Segment::Index(_) => None,
                })
            })
        }
    }
}

/// How many items after a flag are still its arguments.
const MAX_ARGUMENTS: usize = 64;
