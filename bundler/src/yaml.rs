//! YAML streams as trees whose scalars know their place in the source, and edits that touch nothing but scalars.
//!
//! Charts come from strangers: size, node count and nesting are capped, aliases are followed within a budget, and an
//! edited stream is parsed again and compared before anyone sees it. What helm and the cluster read is Go's YAML, a
//! mixture of versions 1.1 and 1.2; where that takes a text for something else than we do, it is refused: line breaks
//! beyond ASCII, tags that change a value (`!!binary`), byte-order marks in the middle.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use granit_parser::{Parser, ScalarStyle};

use crate::error::{Error, Result};

mod anchors;
mod documents;
mod events;
mod lines;
mod splice;

pub(crate) use anchors::with_anchors;
use documents::{Piece, misread, pieces, without_mark};
use events::{Builder, parser_options};

/// Longest stream read, in bytes. Helm stores a whole release in one Secret of at most 1 MiB compressed.
pub const MAX_SOURCE: usize = 64 << 20;
/// Most nodes in a stream, and most nodes visited on a walk, which follows aliases.
const MAX_NODES: usize = 4 << 20;
/// Deepest nesting, and deepest chain of aliases on top of it.
const MAX_DEPTH: usize = 200;

/// The documents of a stream as texts, each with its separator; together they are `source`.
pub fn documents(source: &str) -> impl Iterator<Item = &str> {
    let starts: Vec<usize> = pieces(source).iter().map(|piece| piece.start).chain([source.len()]).collect();
    (1..starts.len()).map(move |n| &source[starts[n - 1]..starts[n]])
}

/// A node of a [`Stream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(usize);

/// What a node is.
#[derive(Clone, Copy, Debug)]
pub enum Node<'a> {
    /// A text, number, boolean or null.
    Scalar(&'a Scalar<'a>),
    /// A list.
    Sequence(&'a [NodeId]),
    /// An object.
    Mapping(&'a [Entry<'a>]),
    /// `*name`: stands for the node that has the anchor.
    Alias(NodeId),
}

/// A key and its value; keys in the order of the source, possibly more than once.
type Entry<'s> = (Cow<'s, str>, NodeId);

/// A node as a [`Stream`] keeps it: children are in lists of the stream's own, so that nodes need no memory of theirs.
#[derive(Debug)]
enum Stored<'s> {
    Scalar(Scalar<'s>),
    /// Where its items are.
    Sequence(Range<usize>),
    /// Where its entries are.
    Mapping(Range<usize>),
    Alias(NodeId),
}

/// A scalar value.
#[derive(Debug)]
pub struct Scalar<'s> {
    /// The text it stands for, with quotes, escapes and folding undone.
    pub value: Cow<'s, str>,
    /// Bytes of the source that hold it: with its quotes; for block scalars the content without the header.
    pub span: Range<usize>,
    style: ScalarStyle,
    in_flow: bool,
    tagged: bool,
}

impl Scalar<'_> {
    /// Whether it says null, rather than a text, as `!!str null` does.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.style == ScalarStyle::Plain
            && !self.tagged
            && matches!(&*self.value, "" | "~" | "null" | "Null" | "NULL")
    }

    /// Reports whether the scalar stands between brackets or braces.
    #[must_use]
    pub(crate) fn is_in_flow(&self) -> bool {
        self.in_flow
    }
}

/// A parsed stream of YAML documents.
#[derive(Debug, Default)]
pub struct Stream<'s> {
    source: &'s str,
    nodes: Vec<Stored<'s>>,
    /// Of all sequences.
    items: Vec<NodeId>,
    /// Of all mappings.
    entries: Vec<Entry<'s>>,
    roots: Vec<NodeId>,
    documents: Vec<Document>,
    /// How many documents are in front of it.
    before: usize,
}

/// A document of a stream, up to the next one.
#[derive(Debug)]
struct Document {
    /// Where it starts in the source, with its separator.
    start: usize,
    /// Which node is its first, if it has any.
    nodes: usize,
}

/// One step from a collection down to a child.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The collection.
    pub parent: NodeId,
    /// Which child of it.
    pub segment: Segment<'a>,
}

/// Names a child of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// A mapping's key.
    Key(&'a str),
    /// A sequence's index, from 0.
    Index(usize),
}

/// Where a scalar is used. One that has an anchor is used at its own place and at each alias.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    /// The root of its document.
    pub root: NodeId,
    /// From the document's root to here.
    pub path: &'a [Step<'a>],
    /// The scalar.
    pub id: NodeId,
    /// The scalar.
    pub scalar: &'a Scalar<'a>,
}

impl fmt::Display for Use<'_> {
    /// `spec.containers[0].image`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.path.iter().enumerate() {
            match step.segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) => {
                    f.write_str(if i == 0 { "" } else { "." })?;
                    // As kubectl's jsonpath spells keys that have dots.
                    f.write_str(&key.replace('.', "\\."))?;
                }
            }
        }
        Ok(())
    }
}

impl<'s> Stream<'s> {
    /// Parses every document of `source`.
    ///
    /// # Errors
    /// When it is not YAML, too large or nested too deep, or has keys that are not scalars (which Kubernetes refuses).
    pub fn parse(source: &'s str) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            return Err(refused(format!("it has more than {MAX_SOURCE} bytes")));
        }
        if let Some((at, c)) = misread(source) {
            let why = format!("there is U+{:04X}, which is a line break or an error to helm", u32::from(c));
            return Err(at_line(source, line_of(&source[..at]), &why));
        }
        let mut builder = Builder::new(source);
        for piece in pieces(source) {
            builder.stream.documents.push(Document { start: piece.start, nodes: builder.stream.nodes.len() });
            document(&mut builder, source, piece)?;
        }
        Ok(builder.stream)
    }

    /// As [`Self::parse`], of a part of a longer stream that has `before` documents in front of it.
    ///
    /// # Errors
    /// As [`Self::parse`]; lines count from the start of the part.
    pub fn parse_after(source: &'s str, before: usize) -> Result<Self> {
        Ok(Self { before, ..Self::parse(source)? })
    }

    /// The number of a root's document, for people: from 1.
    #[must_use]
    pub fn number_of(&self, root: NodeId) -> usize {
        self.before + self.roots.iter().position(|other| *other == root).unwrap_or_default() + 1
    }

    /// The root node of every document, empty documents included.
    #[must_use]
    pub fn roots(&self) -> &[NodeId] {
        &self.roots
    }

    /// The node, with aliases followed.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Node<'_> {
        let mut node = self.stored(id.0);
        // Ends: an alias points to a node that was complete before it.
        while let Node::Alias(target) = node {
            node = self.stored(target.0);
        }
        node
    }

    /// The node with that number, an alias too.
    fn stored(&self, number: usize) -> Node<'_> {
        match &self.nodes[number] {
            Stored::Scalar(scalar) => Node::Scalar(scalar),
            Stored::Sequence(items) => Node::Sequence(&self.items[items.clone()]),
            Stored::Mapping(entries) => Node::Mapping(&self.entries[entries.clone()]),
            Stored::Alias(target) => Node::Alias(*target),
        }
    }

    /// The node that an alias stands for; itself, if it is none.
    #[must_use]
    pub fn target(&self, id: NodeId) -> NodeId {
        match &self.nodes[id.0] {
            Stored::Alias(target) => *target,
            _ => id,
        }
    }

    /// The value of `key` in a mapping, aliases followed. Of several equal keys the last counts, as for Kubernetes.
    #[must_use]
    pub fn get(&self, mapping: NodeId, key: &str) -> Option<NodeId> {
        let Node::Mapping(entries) = self.node(mapping) else { return None };
        let (_, id) = entries.iter().rev().find(|(k, _)| k == key)?;
        Some(self.target(*id))
    }

    /// The scalar text of `key` in a mapping; none for null.
    #[must_use]
    pub fn text(&self, mapping: NodeId, key: &str) -> Option<&str> {
        self.scalar_text(self.get(mapping, key)?)
    }

    /// The scalar text of an item of a sequence; none for null.
    #[must_use]
    pub fn item(&self, sequence: NodeId, index: usize) -> Option<&str> {
        let Node::Sequence(items) = self.node(sequence) else { return None };
        self.scalar_text(*items.get(index)?)
    }

    fn scalar_text(&self, id: NodeId) -> Option<&str> {
        match self.node(id) {
            Node::Scalar(scalar) if !scalar.is_null() => Some(&scalar.value),
            _ => None,
        }
    }

    /// Visits every use of every scalar, in the order of the source. Keys are not visited.
    ///
    /// # Errors
    /// When aliases make a document explode, and what `visit` fails with.
    pub fn walk(&self, visit: impl FnMut(Use<'_>) -> Result<()>) -> Result<()> {
        let mut walk = Walk { stream: self, path: vec![], visited: 0, depth: 0, visit };
        self.roots.iter().try_for_each(|root| walk.node(*root, *root))
    }
}

struct Walk<'a, 's, F> {
    stream: &'a Stream<'s>,
    path: Vec<Step<'a>>,
    visited: usize,
    depth: usize,
    visit: F,
}

impl<'a, F: FnMut(Use<'_>) -> Result<()>> Walk<'a, '_, F> {
    fn node(&mut self, root: NodeId, id: NodeId) -> Result<()> {
        self.visited += 1;
        self.depth += 1;
        if self.visited > MAX_NODES || self.depth > 2 * MAX_DEPTH {
            return Err(refused("its aliases expand to too much".into()));
        }
        match self.stream.stored(id.0) {
            Node::Alias(target) => self.node(root, target)?,
            Node::Scalar(scalar) => (self.visit)(Use { root, path: &self.path, id, scalar })?,
            Node::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.child(root, Step { parent: id, segment: Segment::Index(index) }, *item)?;
                }
            }
            Node::Mapping(entries) => {
                for (key, value) in entries {
                    match self.stream.node(*value) {
                        // Merged entries stand where the merge key stands.
                        Node::Mapping(_) if key == "<<" => self.node(root, *value)?,
                        Node::Sequence(items) if key == "<<" => {
                            items.iter().try_for_each(|item| self.node(root, *item))?;
                        }
                        _ => self.child(root, Step { parent: id, segment: Segment::Key(key) }, *value)?,
                    }
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn child(&mut self, root: NodeId, step: Step<'a>, id: NodeId) -> Result<()> {
        self.path.push(step);
        self.node(root, id)?;
        self.path.pop();
        Ok(())
    }
}

/// Parses a document: line by line where that is enough, else with the whole of YAML's grammar.
fn document<'s>(builder: &mut Builder<'s>, source: &'s str, piece: Piece) -> Result<()> {
    let marked = piece.text.start > 0;
    let text = without_mark(source, piece.text).map_err(|at| {
        at_line(source, line_of(&source[..at]), "there is a byte-order mark within the document")
    })?;
    let Range { start, end } = text;
    let failed = |line: usize, why: &str| at_line(source, line_of(&source[..start]) - 1 + line, why);
    // helm takes blanks off in front of a document, Unicode's too, and a mark that is first then is skipped.
    let content = source[start..end].trim_start_matches([' ', '\t', '\n', '\r']);
    if content.starts_with(|c: char| c.is_whitespace() || c == '\u{feff}') {
        return Err(failed(1, "the document starts with a blank or mark that is none in YAML"));
    }
    let roots = builder.stream.roots.len();
    if !lines::read(builder, source, text.clone()) {
        builder.offset = start;
        for event in Parser::new_from_str_with_options(&source[text], parser_options()) {
            let (event, span) = event.map_err(|e| failed(e.marker().line(), &e.info()))?;
            builder.take(event, &span).map_err(|why| failed(span.start.line(), &why))?;
        }
    }
    // A document with nothing in it counts, for messages; what stands in front of the first separator doesn't.
    if builder.stream.roots.len() == roots && marked {
        let added = builder.scalar("".into(), ScalarStyle::Plain, false, 0, end..end);
        added.map_err(|why| refused(why.into()))?;
    }
    Ok(())
}

fn refused(why: String) -> Error {
    Error::input("reading the manifests as YAML", why)
        .hint("render the chart with `helm template` to see what it makes of these values")
}

/// `line` counts from 1.
fn at_line(source: &str, line: usize, why: &str) -> Error {
    let documents = source.lines().take(line).skip(1).filter(|line| line.starts_with("---")).count() + 1;
    refused(format!("document {documents}, line {line}: {why}"))
}

/// The line that ends a text.
fn line_of(text: &str) -> usize {
    text.matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every use as `path=value`.
    fn uses(source: &str) -> Vec<String> {
        let stream = Stream::parse(source).expect(source);
        let mut uses = vec![];
        let seen = stream.walk(|at| {
            uses.push(format!("{at}={}", at.scalar.value));
            Ok(())
        });
        seen.expect("a walk");
        uses
    }

    #[test]
    fn scalars_are_found_where_they_are_used() {
        for (source, expected) in [
            ("a: {b: [x, 'y']}\n", &["a.b[0]=x", "a.b[1]=y"][..]),
            ("a.b/c: x\n", &["a\\.b/c=x"]),
            ("- |\n  l1\n  l2\n- >-\n  l1\n  l2\n", &["[0]=l1\nl2\n", "[1]=l1 l2"]),
            ("a: &x 1\nb: *x\n", &["a=1", "b=1"]),
            ("a: &x {i: 1}\nb:\n  <<: *x\n  j: 2\nc:\n  <<: [*x]\n", &["a.i=1", "b.i=1", "b.j=2", "c.i=1"]),
            ("a: =\nb:\nc: ~\n", &["a==", "b=", "c=~"]),
            ("---\n# only a comment\n---\na: 1\n...\n---\n\n", &["=", "a=1", "="]),
            ("\u{feff}a: 1\n---\n# Source: x\n\u{feff}b: 2\n", &["a=1", "b=2"]),
            ("a: 1\r\nb: |\r\n  x\r\n  y\r\n", &["a=1", "b=x\ny\n"]),
            ("a: 1\n---# why\nb: 2\n---\nc: 3\n", &["a=1", "b=2", "c=3"]),
            ("a: !!str 010\n", &["a=010"]),
            ("a: 1\n--- # x\n---\nb: 2\n", &["a=1", "=", "b=2"]),
            ("---a: 1\n----: 2\n", &["a=1", "-=2"]),
            ("a: &x {i: 1}\nb:\n  !!merge <<: *x\n", &["a.i=1", "b.i=1"]),
            ("# s\n\u{feff}\"a\": 1\n---\n\u{feff}# s\nb: \u{feff}2\n", &["a=1", "b=\u{feff}2"]),
            ("", &[]),
        ] {
            assert_eq!(uses(source), expected, "{source:?}");
        }
    }

    #[test]
    fn lookups_follow_aliases_and_the_last_of_equal_keys_counts() {
        let stream = Stream::parse("a: &x {k: v}\nb: *x\nc: 1\nc: 2\n").expect("a stream");
        let root = stream.roots()[0];
        assert_eq!(stream.text(root, "c"), Some("2"));
        assert_eq!(stream.get(root, "b").and_then(|b| stream.text(b, "k")), Some("v"));
        assert_eq!(stream.text(root, "a"), None);
    }

    #[test]
    fn a_null_that_is_tagged_as_text_is_text() {
        let stream = Stream::parse("a: !!str null\nb: null\n").expect("a stream");
        let root = stream.roots()[0];
        assert_eq!((stream.text(root, "a"), stream.text(root, "b")), (Some("null"), None));
    }

    #[test]
    fn hostile_streams_are_refused() {
        let deep = "[".repeat(300);
        let deep_block = (0..300).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>();
        let mixed = format!("{}{}{}", "- ".repeat(150), "[".repeat(150), "]".repeat(150));
        for (source, why) in [
            (&*deep, "recursion limit"),
            (&deep_block, "recursion limit"),
            (&mixed, "too deep a nesting"),
            ("a: &x [*x]\n", "an alias to a key, or to what it is part of"),
            ("&k a: *k\n", "an alias to a key"),
            ("? [a]\n: b\n", "a key that is not a scalar"),
            ("---\na: 1\n---#\nb: *x\n", "line 4"),
            ("a: 'b\n", "quote"),
            // What Go's YAML reads otherwise.
            ("a: 1\n---\n# x\u{85}b: 1\n", "document 2, line 3: there is U+0085"),
            ("a: x\u{2028}b: 1\n", "document 1, line 1: there is U+2028"),
            ("a: x\u{2029}b: 1\n", "U+2029"),
            ("a: 1\n\u{0}b: 1\n", "U+0000"),
            ("---\na: 1\n---\nb:\n- !!binary aW1hZ2U=: c\n", "document 2, line 5: the tag !!binary"),
            ("%YAML 1.1\n---\na: 1\n", "expected <document start>"),
            ("%TAG !y! tag:yaml.org,2002:\n---\na: !y!binary eA==\n", "expected <document start>"),
            ("a: !<tag:yaml.org,2002:binary> eA==\n", "binary"),
            ("a: !!set {b, c}\n", "the tag !!set"),
            ("a: !x b\n", "the tag !x"),
            ("a: 1\n---\n \u{a0}{\"b\": 1}\n", "document 2, line 2: the document starts with a blank"),
            ("a: 1\n---\n  \u{feff}b: 1\n", "document 2, line 2: the document starts with a blank"),
            ("a: 1\n\u{feff}b: 1\n", "line 2: there is a byte-order mark"),
            ("\u{feff}\u{feff}a: 1\n", "line 1: there is a byte-order mark"),
            (&" ".repeat(MAX_SOURCE + 1), "bytes"),
        ] {
            let error = Stream::parse(source).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn exploding_aliases_are_refused() {
        let wide = (1..9)
            .map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(",")))
            .collect::<String>();
        let chain = (1..9999).map(|i| format!("a{i}: &a{i} {{<<: *a{}}}\n", i - 1)).collect::<String>();
        for source in [format!("a0: &a0 lol\n{wide}"), format!("a0: &a0 {{}}\n{chain}")] {
            let stream = Stream::parse(&source).expect("a stream");
            let error = stream.walk(|_| Ok(())).expect_err("an explosion").to_string();
            assert!(error.contains("aliases expand"), "{error}");
        }
    }
}
