//! Block style, read line by line: what manifests nearly all are written in, at ten times the speed of the whole grammar.
//!
//! Reads mappings, sequences, plain and quoted scalars (also over several lines), block scalars, comments, and flow
//! collections that end on their line. Everything else (anchors, aliases, tags, `? key`, tabs for blanks, a document that
//! is one scalar, whatever may be a mistake) is left to the parser: when in doubt, nothing is read. So what is read must be
//! the same, span by span, as the parser's; errors are the parser's too.

use std::mem::replace;
use std::ops::Range;

use granit_parser::{ScalarStyle, StructureStyle};
use memchr::{memchr, memchr2_iter};

use super::events::Builder;

mod blocks;
mod flow;
mod scalars;

/// Deepest nesting read; far from where the parser gives up.
const MAX_DEPTH: usize = 100;
/// Longest key read; the parsers, and Go's, look no further than 1024 characters for its colon.
const MAX_KEY: usize = 512;

/// Reads a document of `source` into `builder`, and says whether it did. If not, `builder` is as it was.
pub(super) fn read<'s>(builder: &mut Builder<'s>, source: &'s str, document: Range<usize>) -> bool {
    let mark = builder.mark();
    let mut lines = Lines {
        source: &source[..document.end],
        at: document.start,
        levels: vec![],
        pending: None,
        is_begun: false,
        builder,
    };
    let is_read = !is_odd(&source.as_bytes()[document]) && lines.document().is_some();
    if !is_read {
        builder.take_back(&mark);
    }
    is_read
}

/// Whether there are breaks without a line feed, byte-order marks, or characters that YAML calls not printable.
fn is_odd(document: &[u8]) -> bool {
    memchr2_iter(b'\r', 0xef, document).any(|at| match document[at] {
        b'\r' => document.get(at + 1) != Some(&b'\n'),
        _ => matches!(document.get(at + 1..at + 3), Some([0xbb, 0xbf] | [0xbf, 0xbe | 0xbf])),
    })
}

/// A reader of one document. Functions that read a part return none where the parser has to look.
struct Lines<'b, 's> {
    /// The stream up to the document's end.
    source: &'s str,
    /// Where the next line starts.
    at: usize,
    /// The block collections that are open, the outermost first.
    levels: Vec<Level>,
    /// A key or dash whose value has not been seen: the place of that value if there is none.
    pending: Option<usize>,
    /// Whether the document's root has been opened.
    is_begun: bool,
    builder: &'b mut Builder<'s>,
}

/// A block collection that is open.
#[derive(Clone, Copy, PartialEq)]
struct Level {
    column: usize,
    is_mapping: bool,
}

/// A line's content, without its break.
#[derive(Clone, Copy)]
struct Line {
    start: usize,
    end: usize,
    /// Where the next one starts.
    next: usize,
}

impl<'s> Lines<'_, 's> {
    fn document(&mut self) -> Option<()> {
        while let Some(line) = self.line(self.at) {
            self.at = line.next;
            let at = self.skip_spaces(line.start, line.end);
            if !self.is_nothing(at, line.end) {
                self.node(line, at)?;
            }
        }
        self.settle(None)
    }

    fn byte(&self, at: usize) -> u8 {
        self.source.as_bytes()[at]
    }

    /// The line that starts there; none at the end.
    fn line(&self, start: usize) -> Option<Line> {
        let rest = &self.source.as_bytes()[start..];
        if rest.is_empty() {
            return None;
        }
        let (length, next) = memchr(b'\n', rest).map_or((rest.len(), rest.len()), |n| (n, n + 1));
        let length = length - usize::from(rest[..length].ends_with(b"\r"));
        Some(Line { start, end: start + length, next: start + next })
    }

    /// Skips spaces, and says where they end. Tabs are none: what they may stand for is not for here.
    fn skip_spaces(&self, start: usize, end: usize) -> usize {
        let bytes = &self.source.as_bytes()[start..end];
        start + bytes.iter().position(|b| *b != b' ').unwrap_or(bytes.len())
    }

    /// Whether a line has nothing more, where blanks have been skipped.
    fn is_nothing(&self, at: usize, end: usize) -> bool {
        at == end || self.byte(at) == b'#'
    }

    /// Whether a blank or the line's end is there.
    fn is_gap(&self, at: usize, end: usize) -> bool {
        at == end || self.byte(at) == b' '
    }

    /// Reads what starts on a line: `- - key: value`.
    fn node(&mut self, line: Line, first: usize) -> Option<()> {
        let Line { start, end, .. } = line;
        let mut at = first;
        if at == start
            && (self.byte(at) == b'%' || ["---", "..."].iter().any(|m| self.source[at..].starts_with(m)))
        {
            return None;
        }
        let is_dash = |lines: &Self, at| lines.byte(at) == b'-' && lines.is_gap(at + 1, end);
        self.settle(Some((at - start, is_dash(self, at))))?;
        while is_dash(self, at) {
            self.enter(Level { column: at - start, is_mapping: false })?;
            at = self.skip_spaces(at + 1, end);
            self.pending = Some(end);
            if self.is_nothing(at, end) {
                return Some(());
            }
        }
        if let Some((key, colon)) = self.key(at, end)? {
            self.enter(Level { column: at - start, is_mapping: true })?;
            self.builder.scalar(key, ScalarStyle::Plain, false, 0, 0..0).ok()?;
            at = self.skip_spaces(colon + 1, end);
            self.pending = Some(colon);
            if self.is_nothing(at, end) {
                return Some(());
            }
            // One that starts on the key's line can't be a block collection.
            if is_dash(self, at) {
                return None;
            }
        }
        self.value(at, end, at > first)
    }

    /// Closes what ends in front of a node in this column, or at the document's end.
    fn settle(&mut self, node: Option<(usize, bool)>) -> Option<()> {
        // A sequence may stand in the column of the key that it is the value of.
        let is_beside = |level: &Level| level.is_mapping && node == Some((level.column, true));
        if let (Some(place), Some(level)) = (self.pending, self.levels.last()) {
            if node.is_some_and(|(column, _)| column > level.column) || is_beside(level) {
                return Some(());
            }
            self.scalar("".into(), ScalarStyle::Plain, place..place)?;
        }
        while let Some(level) = self.levels.last() {
            let stays = node.is_some_and(|(column, is_dash)| {
                column > level.column || (column == level.column && (is_dash || !self.is_beside_key()))
            });
            if stays {
                break;
            }
            self.levels.pop();
            self.builder.end();
        }
        Some(())
    }

    /// Whether the innermost level is a sequence in the column of its key.
    fn is_beside_key(&self) -> bool {
        match self.levels[..] {
            [.., key, level] => key.is_mapping && !level.is_mapping && key.column == level.column,
            _ => false,
        }
    }

    /// Goes on with the innermost level, or opens it as the value that is missing.
    fn enter(&mut self, level: Level) -> Option<()> {
        if self.pending.take().is_none() && replace(&mut self.is_begun, true) {
            return (self.levels.last() == Some(&level)).then_some(());
        }
        if self.levels.len() == MAX_DEPTH {
            return None;
        }
        self.builder.begin(level.is_mapping, StructureStyle::Block, 0).ok()?;
        self.levels.push(level);
        Some(())
    }
}

#[cfg(test)]
mod tests;
