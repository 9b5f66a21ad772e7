//! The whole of YAML: the parser's events, turned into nodes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Options, ScalarStyle, Span, StructureStyle, options};

use super::{Entry, MAX_DEPTH, MAX_NODES, NodeId, Scalar, Stored, Stream};

/// As Go's YAML reads it, which is what helm and the cluster use.
pub(super) fn parser_options() -> Options {
    options! {
        emit_comments: false,
        block_scalar_eof_without_line_feed: true,
        bom_inside_document_as_content: true,
        block_nesting_limit: MAX_DEPTH,
        flow_nesting_limit: MAX_DEPTH,
    }
}

/// Only tags that leave a value what it says: JSON's types, and what Go's YAML itself writes before `<<`.
fn check_tag(event: &Event<'_>) -> Result<(), String> {
    let (Event::Scalar(_, _, _, tag) | Event::SequenceStart(_, _, tag) | Event::MappingStart(_, _, tag)) =
        event
    else {
        return Ok(());
    };
    let Some(tag) = tag else { return Ok(()) };
    let is_merge = || tag.suffix_in_namespace("tag:yaml.org,2002:").is_some_and(|name| name == "merge");
    if tag.is_yaml_core_schema() || is_merge() {
        return Ok(());
    }
    Err(format!("the tag {}{} makes another value of what is written", tag.original_handle(), tag.suffix()))
}

/// Turns events into nodes.
#[derive(Default)]
pub(super) struct Builder<'s> {
    pub(super) stream: Stream<'s>,
    open: Vec<Open<'s>>,
    /// Children so far of the sequences that are open.
    items: Vec<NodeId>,
    /// Children so far of the mappings that are open.
    entries: Vec<Entry<'s>>,
    anchors: HashMap<usize, NodeId>,
    /// Where the piece that is parsed starts in the source.
    pub(super) offset: usize,
}

/// A collection that has not ended.
struct Open<'s> {
    id: NodeId,
    anchor: usize,
    is_mapping: bool,
    /// Where its children start among those of all that are open.
    children: usize,
    in_flow: bool,
    key: Option<Cow<'s, str>>,
}

impl<'s> Builder<'s> {
    pub(super) fn new(source: &'s str) -> Self {
        // About what manifests have.
        let nodes = Vec::with_capacity(source.len() / 32);
        Self { stream: Stream { source, nodes, ..Stream::default() }, ..Self::default() }
    }

    /// Takes the parser's next event.
    pub(super) fn take(&mut self, event: Event<'s>, span: &Span) -> Result<(), Cow<'static, str>> {
        check_tag(&event)?;
        match event {
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::SequenceStart(style, anchor, _) => self.begin(false, style, anchor)?,
            Event::MappingStart(style, anchor, _) => self.begin(true, style, anchor)?,
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let target =
                    self.anchors.get(&anchor).ok_or("an alias to a key, or to what it is part of,")?;
                self.add(Stored::Alias(*target))?;
            }
            Event::Scalar(value, style, anchor, tag) => {
                let span = span.byte_range().ok_or("a scalar without a place")?;
                let span = span.start + self.offset..span.end + self.offset;
                self.scalar(value, style, tag.is_some(), anchor, span)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds a scalar, or makes it the key of what comes next.
    pub(super) fn scalar(
        &mut self,
        value: Cow<'s, str>,
        style: ScalarStyle,
        tagged: bool,
        anchor: usize,
        span: Range<usize>,
    ) -> Result<(), &'static str> {
        if let Some(open) = self.open.last_mut()
            && open.is_mapping
            && open.key.is_none()
        {
            open.key = Some(value);
            return Ok(());
        }
        // The parser says `~` where nothing is written.
        let value = if span.is_empty() { "".into() } else { value };
        let in_flow = self.open.last().is_some_and(|open| open.in_flow);
        let id = self.add(Stored::Scalar(Scalar { value, span, style, in_flow, tagged }))?;
        self.name(anchor, id);
        Ok(())
    }

    /// Adds a mapping or sequence, and opens it.
    pub(super) fn begin(
        &mut self,
        is_mapping: bool,
        style: StructureStyle,
        anchor: usize,
    ) -> Result<(), &'static str> {
        let in_flow = style == StructureStyle::Flow || self.open.last().is_some_and(|open| open.in_flow);
        if self.open.len() == MAX_DEPTH {
            return Err("too deep a nesting");
        }
        let id = self.add(if is_mapping { Stored::Mapping(0..0) } else { Stored::Sequence(0..0) })?;
        let children = if is_mapping { self.entries.len() } else { self.items.len() };
        self.open.push(Open { id, anchor, is_mapping, children, in_flow, key: None });
        Ok(())
    }

    /// Ends the collection that is open.
    pub(super) fn end(&mut self) {
        let Some(ended) = self.open.pop() else { return };
        let stream = &mut self.stream;
        stream.nodes[ended.id.0] = if ended.is_mapping {
            let start = stream.entries.len();
            stream.entries.extend(self.entries.drain(ended.children..));
            Stored::Mapping(start..stream.entries.len())
        } else {
            let start = stream.items.len();
            stream.items.extend(self.items.drain(ended.children..));
            Stored::Sequence(start..stream.items.len())
        };
        // Only now may aliases point to it: an alias inside it would be endless.
        self.name(ended.anchor, ended.id);
    }

    /// Lets aliases point to a node. The parser counts anchors from 1.
    fn name(&mut self, anchor: usize, id: NodeId) {
        if anchor > 0 {
            self.anchors.insert(anchor, id);
        }
    }

    /// What there is now, between documents.
    pub(super) fn mark(&self) -> Mark {
        let Stream { nodes, items, entries, roots, .. } = &self.stream;
        Mark { nodes: nodes.len(), items: items.len(), entries: entries.len(), roots: roots.len() }
    }

    /// Takes back everything since then.
    pub(super) fn take_back(&mut self, mark: &Mark) {
        self.stream.nodes.truncate(mark.nodes);
        self.stream.items.truncate(mark.items);
        self.stream.entries.truncate(mark.entries);
        self.stream.roots.truncate(mark.roots);
        self.open.clear();
        self.items.clear();
        self.entries.clear();
    }

    /// Adds a node to the collection that is open.
    fn add(&mut self, node: Stored<'s>) -> Result<NodeId, &'static str> {
        let id = NodeId(self.stream.nodes.len());
        if id.0 == MAX_NODES {
            return Err("too many nodes");
        }
        match self.open.last_mut() {
            None => self.stream.roots.push(id),
            Some(Open { is_mapping: false, .. }) => self.items.push(id),
            Some(open) => self.entries.push((open.key.take().ok_or("a key that is not a scalar")?, id)),
        }
        self.stream.nodes.push(node);
        Ok(id)
    }
}

/// How much there was of everything in a stream.
pub(super) struct Mark {
    nodes: usize,
    items: usize,
    entries: usize,
    roots: usize,
}
