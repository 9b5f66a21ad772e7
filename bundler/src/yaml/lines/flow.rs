//! Flow collections that end on the line that they start on: `[a, "b"]`, `{"a": 1}`.

use std::borrow::Cow;

use granit_parser::{ScalarStyle, StructureStyle};

use super::{Lines, MAX_DEPTH};

impl<'s> Lines<'_, 's> {
    /// Reads a flow collection as the value that is missing.
    pub(super) fn flow(&mut self, at: usize, end: usize) -> Option<()> {
        self.pending.take()?;
        let after = self.collection(at, end, self.levels.len())?;
        self.ends_line(after, end)
    }

    /// Reads the collection that starts there, and returns where it ends.
    fn collection(&mut self, start: usize, end: usize, depth: usize) -> Option<usize> {
        if depth >= MAX_DEPTH {
            return None;
        }
        let is_mapping = self.byte(start) == b'{';
        let close = if is_mapping { b'}' } else { b']' };
        self.builder.begin(is_mapping, StructureStyle::Flow, 0).ok()?;
        let mut at = self.next(start + 1, end)?;
        if self.byte(at) != close {
            loop {
                if is_mapping {
                    at = self.flow_key(at, end)?;
                }
                at = self.item(at, end, depth)?;
                at = self.next(at, end)?;
                match self.byte(at) {
                    b',' => at = self.next(at + 1, end)?,
                    b if b == close => break,
                    _ => return None,
                }
            }
        }
        self.builder.end();
        Some(at + 1)
    }

    /// Where the next thing on the line is.
    fn next(&self, at: usize, end: usize) -> Option<usize> {
        let at = self.skip_spaces(at, end);
        (at < end).then_some(at)
    }

    /// Reads a key and its colon; returns where its value starts.
    fn flow_key(&mut self, at: usize, end: usize) -> Option<usize> {
        let is_quoted = matches!(self.byte(at), b'"' | b'\'');
        let (key, after) = self.flow_scalar(at, end)?;
        let colon = self.next(after, end)?;
        let value = self.next(colon + 1, end)?;
        // As in JSON: behind a quote the colon needs no blank.
        let is_key = self.byte(colon) == b':' && (value > colon + 1 || (is_quoted && colon == after));
        if !is_key {
            return None;
        }
        self.builder.scalar(key, ScalarStyle::Plain, false, 0, 0..0).ok()?;
        Some(value)
    }

    /// Reads an item of a sequence or a key's value; returns where it ends.
    fn item(&mut self, at: usize, end: usize, depth: usize) -> Option<usize> {
        let style = match self.byte(at) {
            b'[' | b'{' => return self.collection(at, end, depth + 1),
            b'"' => ScalarStyle::DoubleQuoted,
            b'\'' => ScalarStyle::SingleQuoted,
            _ => ScalarStyle::Plain,
        };
        let (value, after) = self.flow_scalar(at, end)?;
        self.builder.scalar(value, style, false, 0, at..after).ok()?;
        Some(after)
    }

    /// A scalar and where it ends. Of plain ones only those without anything that could be something else.
    fn flow_scalar(&self, at: usize, end: usize) -> Option<(Cow<'s, str>, usize)> {
        if matches!(self.byte(at), b'"' | b'\'') {
            return self.quoted_on_line(at, end)?;
        }
        let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"_./-+@=~$%^()<>;\\ ".contains(b) || *b >= 0x80;
        let bytes = &self.source.as_bytes()[at..end];
        // A colon that is followed by text is text.
        let is_text = |i: usize| {
            is_plain(&bytes[i])
                || (bytes[i] == b':' && bytes.get(i + 1).is_some_and(|b| *b != b' ' && is_plain(b)))
        };
        let length = (0..bytes.len()).find(|i| !is_text(*i)).unwrap_or(bytes.len());
        let text = self.source[at..at + length].trim_end_matches(' ');
        let starts_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || "_./~$".contains(c));
        starts_plain.then_some((Cow::Borrowed(text), at + text.len()))
    }
}
