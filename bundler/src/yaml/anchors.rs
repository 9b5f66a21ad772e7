//! Aliases that lost their anchors. helm 4 takes a `kind: List` apart for its post-renderer, one document for each item; an
//! alias in one item to an anchor in another is left behind, and no parser takes that. Here the alias becomes its value.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Options, Parser, ScalarStyle, Tag};

use super::documents::{Piece, pieces};
use super::events::parser_options;
use super::splice::{double_quoted, is_plain_part};
use super::{MAX_SOURCE, at_line, line_of, refused};
use crate::error::Result;

/// helm's note of the template that a document comes from, for the way through a post-renderer.
const ORIGIN: &str = "postrenderer.helm.sh/postrender-filename:";
/// The namespace of YAML's own tags.
const CORE: &str = "tag:yaml.org,2002:";

/// The stream with each lost alias written out, in flow style; every other byte stays.
///
/// # Errors
/// When the anchor is in no document of the same template: helm has dropped it.
pub(crate) fn with_anchors(source: &str) -> Result<Cow<'_, str>> {
    let pieces = pieces(source);
    let has_lost = |piece: &Piece| {
        let text = &source[piece.text.clone()];
        may_have_alias(text) && read(text).is_some_and(|document| !document.lost.is_empty())
    };
    if !pieces.iter().any(has_lost) {
        return Ok(source.into());
    }
    let (mut out, mut copied) = (String::with_capacity(source.len()), 0);
    let (mut known, mut template) = (HashMap::new(), "");
    for piece in pieces {
        let text = &source[piece.text.clone()];
        let origin = origin(text);
        if origin != template {
            (known, template) = (HashMap::new(), origin);
        }
        // What can't be read is said by the whole stream's parser.
        let Some(mut document) = read(text) else { continue };
        document.write(text, &known).map_err(|why| refused(why.into()))?;
        for (span, name) in document.lost {
            let at = piece.text.start + span.start;
            let value = known.get(&name).ok_or_else(|| {
                let why = format!(
                    "the alias *{name} has no anchor: helm drops what is outside of a List's items when it takes it apart"
                );
                at_line(source, line_of(&source[..at]), &why)
                    .hint("have the chart write the value out, or put the anchor into an item of the List")
            })?;
            out.push_str(&source[copied..at]);
            out.push_str(value);
            copied = piece.text.start + span.end;
        }
        if out.len() > MAX_SOURCE {
            return Err(refused("its aliases expand to too much".into()));
        }
        known.extend(document.anchors);
    }
    out.push_str(&source[copied..]);
    Ok(out.into())
}

/// Reports whether something in a document looks like an alias.
fn may_have_alias(text: &str) -> bool {
    let bytes = text.as_bytes();
    memchr::memchr_iter(b'*', bytes).any(|at| {
        let before = at.checked_sub(1).map_or(b' ', |at| bytes[at]);
        let after = bytes.get(at + 1).copied().unwrap_or(b' ');
        (before.is_ascii_whitespace() || b"[{,:".contains(&before)) && !after.is_ascii_whitespace()
    })
}

/// The template that a document comes from, as helm notes it.
fn origin(text: &str) -> &str {
    let Some((_, rest)) = text.split_once(ORIGIN) else { return "" };
    rest.split(['\n', '}', ',']).next().unwrap_or_default().trim()
}

/// A document's anchors and lost aliases.
#[derive(Default)]
struct Found {
    /// Places and names of aliases without an anchor, in order.
    lost: Vec<(Range<usize>, String)>,
    /// Values of anchors in flow style, by name; the last of a name counts.
    anchors: HashMap<String, String>,
}

fn options() -> Options {
    let mut options = parser_options();
    options.emit_unresolved_aliases = true;
    options.emit_anchor_events = true;
    options
}

/// Finds lost aliases; none where the document is not YAML.
fn read(text: &str) -> Option<Found> {
    let mut found = Found::default();
    for event in Parser::new_from_str_with_options(text, options()) {
        let (event, span) = event.ok()?;
        if let Event::UnresolvedAlias(name) = event {
            found.lost.push((span.byte_range()?, name.into_owned()));
        }
    }
    Some(found)
}

impl Found {
    /// Writes the document in flow style, and keeps the parts that have an anchor.
    fn write(&mut self, text: &str, known: &HashMap<String, String>) -> Result<(), &'static str> {
        let mut writer = Writer::default();
        let mut names = vec![];
        for event in Parser::new_from_str_with_options(text, options()) {
            let Ok((event, span)) = event else { return Ok(()) };
            match event {
                Event::SequenceStart(_, anchor, _) => writer.begin('[', anchor),
                Event::MappingStart(_, anchor, _) => writer.begin('{', anchor),
                Event::SequenceEnd => writer.end(']'),
                Event::MappingEnd => writer.end('}'),
                Event::Scalar(value, style, anchor, tag) => {
                    let value = if span.is_empty() { "null".into() } else { value };
                    writer.value(&scalar(&value, style, tag.as_deref())?, anchor);
                }
                Event::Alias(anchor) => {
                    let value = writer.values.get(&anchor).cloned();
                    writer.value(&value.ok_or("an alias stands in what it names")?, 0);
                }
                Event::UnresolvedAlias(name) => {
                    writer.value(known.get(&*name).map_or("null", String::as_str), 0);
                }
                Event::Anchor(anchor, name) => names.push((anchor, name.into_owned())),
                _ => {}
            }
            if writer.out.len() > MAX_SOURCE {
                return Err("its aliases expand to too much");
            }
        }
        for (anchor, name) in names {
            self.anchors.extend(writer.values.get(&anchor).map(|value| (name, value.clone())));
        }
        Ok(())
    }
}

/// Writes nodes in flow style.
#[derive(Default)]
struct Writer {
    out: String,
    open: Vec<Open>,
    /// Texts that stand for anchors, by the parser's numbers.
    values: HashMap<usize, String>,
}

/// A collection that has not ended.
struct Open {
    start: usize,
    anchor: usize,
    is_mapping: bool,
    children: usize,
}

impl Writer {
    fn separate(&mut self) {
        let Some(open) = self.open.last_mut() else { return };
        self.out.push_str(match (open.children, open.is_mapping) {
            (0, _) => "",
            (n, true) if n % 2 == 1 => ": ",
            _ => ", ",
        });
        open.children += 1;
    }

    fn begin(&mut self, bracket: char, anchor: usize) {
        self.separate();
        let is_mapping = bracket == '{';
        self.open.push(Open { start: self.out.len(), anchor, is_mapping, children: 0 });
        self.out.push(bracket);
    }

    fn end(&mut self, bracket: char) {
        self.out.push(bracket);
        if let Some(open) = self.open.pop() {
            self.name(open.anchor, open.start);
        }
    }

    fn value(&mut self, text: &str, anchor: usize) {
        self.separate();
        let start = self.out.len();
        self.out.push_str(text);
        self.name(anchor, start);
    }

    fn name(&mut self, anchor: usize, start: usize) {
        if anchor > 0 {
            self.values.insert(anchor, self.out[start..].into());
        }
    }
}

/// A scalar in flow style that says the same: a plain one may be a number, one with blanks or brackets is a text.
fn scalar(value: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<String, &'static str> {
    let text = match style {
        ScalarStyle::Plain if is_plain_part(value, true) => value.into(),
        _ => double_quoted(value),
    };
    match tag {
        None => Ok(text),
        Some(tag) => {
            let name = tag.suffix_in_namespace(CORE).ok_or("a tag makes another value of what is written")?;
            Ok(format!("!!{name} {text}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Documents as helm hands them over, each from `template`.
    fn stream(template: &str, documents: &[&str]) -> String {
        let note = |text: &&str| format!("# {ORIGIN} '{template}'\n{text}");
        documents.iter().map(note).collect::<Vec<_>>().join("---\n")
    }

    #[test]
    fn a_lost_alias_becomes_its_value() {
        for (first, second, expected) in [
            ("a: &x\n  b: 010\n  c: |\n    1\n    2\n", "d: *x\n", "d: {b: 010, c: \"1\\n2\\n\"}\n"),
            ("a: &x 'it''s'\n", "d: [*x, *x] # *x\n", "d: [\"it's\", \"it's\"] # *x\n"),
            ("a: &x {b: 1}\n", "d:\n  <<: *x\n  e: 1\n", "d:\n  <<: {b: 1}\n  e: 1\n"),
            ("a: &x [1]\nb: &y {c: *x}\n", "d: *y\n", "d: {c: [1]}\n"),
            ("a: &x 1\nb: &x 2\n", "d: *x\ne: &x 3\nf: *x\n", "d: 2\ne: &x 3\nf: *x\n"),
            ("a: &x !!str 010\n", "d: *x\n", "d: !!str 010\n"),
            ("a: &x\nb: &y a,b\n", "d: *x\ne: *y\n", "d: null\ne: \"a,b\"\n"),
            ("a: &x\n  - b: c\n    d:\n    - \"\"\n", "d: *x\n", "d: [{b: c, d: [\"\"]}]\n"),
        ] {
            let before = stream("t", &[first, second]);
            let after = with_anchors(&before).expect(&before);
            assert_eq!(after, stream("t", &[first, expected]));
            super::super::Stream::parse(&after).expect(&after);
        }
    }

    #[test]
    fn streams_without_lost_aliases_stay() {
        for text in ["a: '*.log'\nb: x *.log\n", "a: &x 1\nb: *x\n", "a: *\n", "a: [", ""] {
            assert!(matches!(with_anchors(text), Ok(Cow::Borrowed(_))), "{text}");
        }
    }

    #[test]
    fn an_anchor_that_helm_dropped_is_named() {
        let lost = stream("t", &["a: 1\n", "b: *x\n"]);
        let error = with_anchors(&lost).expect_err("no anchor");
        assert!(error.to_string().contains("the alias *x has no anchor"), "{error}");
        // An anchor of another template is another one.
        let other = format!("{}---\n{}", stream("s", &["a: &x 1\n"]), stream("t", &["b: *x\n"]));
        with_anchors(&other).expect_err("an anchor of another template");
    }

    #[test]
    fn exploding_anchors_are_refused() {
        let wide = (1..12).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(",")));
        let first = format!("a0: &a0 lol\n{}", wide.collect::<String>());
        let error = with_anchors(&stream("t", &[&first, "b: *a1\n"])).expect_err("an explosion").to_string();
        assert!(error.contains("expand to too much"), "{error}");
    }
}
