//! Edits of single scalars in a stream, byte for byte the same elsewhere.

use std::collections::BTreeMap;
use std::ops::Range;

use granit_parser::ScalarStyle;

use super::{MAX_SOURCE, Node, NodeId, Scalar, Stream, refused};
use crate::error::{Error, Result};

impl Stream<'_> {
    /// The source with the scalars in `edits` standing for other texts, each in its old style where that can hold the
    /// new text, and every other byte as it was. The outcome is parsed again and compared; `prove` sees each document that
    /// changed, or the whole stream where only that can be compared.
    ///
    /// # Errors
    /// When a new text can't be written where the old one stood, and what `prove` fails with.
    pub fn splice(
        &self,
        edits: &BTreeMap<NodeId, String>,
        prove: &mut dyn FnMut(&Stream<'_>) -> Result<()>,
    ) -> Result<String> {
        let mut spliced = String::with_capacity(self.source.len() + edits.len() * 128);
        let mut copied = 0;
        let mut is_proved = true;
        // Ids and spans grow together; what is not edited is the same bytes, so the same nodes.
        let mut edits_left = edits.iter().peekable();
        for (number, document) in self.documents.iter().enumerate() {
            let next = self.documents.get(number + 1);
            let end = next.map_or(self.source.len(), |next| next.start);
            let nodes = document.nodes..next.map_or(self.nodes.len(), |next| next.nodes);
            if edits_left.peek().is_none_or(|(id, _)| !nodes.contains(&id.0)) {
                continue;
            }
            spliced.push_str(&self.source[copied..document.start]);
            let start = spliced.len();
            copied = document.start;
            while let Some((id, new)) = edits_left.next_if(|(id, _)| nodes.contains(&id.0)) {
                let Node::Scalar(scalar) = self.stored(id.0) else {
                    return Err(refused(format!("{new:?} would replace something that is not a scalar")));
                };
                let raw = &self.source[scalar.span.clone()];
                spliced.push_str(&self.source[copied..scalar.span.start]);
                spliced.push_str(&scalar.spell(raw, new).ok_or_else(|| cannot_write(&scalar.value, new))?);
                copied = scalar.span.end;
            }
            spliced.push_str(&self.source[copied..end]);
            copied = end;
            match Stream::parse(&spliced[start..]) {
                Ok(new) if self.compare(nodes, &new, edits).is_ok() => prove(&new)?,
                _ => is_proved = false,
            }
        }
        spliced.push_str(&self.source[copied..]);
        if !is_proved || spliced.len() > MAX_SOURCE {
            // The stream as a whole decides, and its error has the right place.
            let new = Stream::parse(&spliced)?;
            self.compare(0..self.nodes.len(), &new, edits)?;
            prove(&new)?;
        }
        Ok(spliced)
    }

    /// Whether `other` is `nodes` of this stream but for `edits`.
    fn compare(
        &self,
        nodes: Range<usize>,
        other: &Stream<'_>,
        edits: &BTreeMap<NodeId, String>,
    ) -> Result<()> {
        let moved = |new: &NodeId| NodeId(new.0 + nodes.start);
        let same = |old: usize, new: usize| match (self.stored(old), other.stored(new)) {
            (Node::Scalar(scalar), Node::Scalar(new)) => match edits.get(&NodeId(old)) {
                Some(wanted) => new.value == *wanted,
                None => scalar.value == new.value && scalar.style == new.style,
            },
            (Node::Sequence(old), Node::Sequence(new)) => old.iter().copied().eq(new.iter().map(moved)),
            (Node::Mapping(old), Node::Mapping(new)) => {
                old.iter().map(|(key, id)| (key, *id)).eq(new.iter().map(|(key, id)| (key, moved(id))))
            }
            (Node::Alias(old), Node::Alias(new)) => old == moved(&new),
            _ => false,
        };
        let roots = self.roots.iter().copied().filter(|root| nodes.contains(&root.0));
        if nodes.len() != other.nodes.len() || !roots.eq(other.roots.iter().map(moved)) {
            return Err(refused("editing it would change its structure".into()));
        }
        match nodes.clone().zip(0..).find(|(old, new)| !same(*old, *new)) {
            None => Ok(()),
            Some((id, _)) => Err(match (self.stored(id), edits.get(&NodeId(id))) {
                (Node::Scalar(old), Some(new)) => cannot_write(&old.value, new),
                _ => refused("editing it would change other values".into()),
            }),
        }
    }
}

impl Scalar<'_> {
    /// `new` as YAML, in place of `raw`. None when the style can't hold it.
    fn spell(&self, raw: &str, new: &str) -> Option<String> {
        let printable =
            !new.contains(|c: char| c.is_control() || ('\u{7f}'..'\u{a0}').contains(&c) || is_break(c));
        match self.style {
            ScalarStyle::Literal | ScalarStyle::Folded => exchange_words(raw, &self.value, new),
            // Nothing is written there, and the parser's place for it can be in front of the colon.
            ScalarStyle::Plain if raw.is_empty() => None,
            ScalarStyle::Plain
                if raw.contains('\n') && new.lines().all(|line| is_plain_part(line, self.in_flow)) =>
            {
                exchange_words(raw, &self.value, new)
            }
            ScalarStyle::Plain if is_plain(new, self.in_flow) => Some(new.into()),
            ScalarStyle::SingleQuoted if printable => Some(format!("'{}'", new.replace('\'', "''"))),
            ScalarStyle::Plain | ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => {
                Some(double_quoted(new))
            }
        }
    }
}

/// In block and plain scalars the source has the value's words, apart from how lines are broken and indented: so where
/// only words change, the lines can stay as they are.
fn exchange_words(raw: &str, old: &str, new: &str) -> Option<String> {
    let mut out = String::with_capacity(raw.len() + new.len().saturating_sub(old.len()));
    let (mut old, mut new) = (old.split_whitespace(), new.split_whitespace());
    for piece in raw.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end();
        if word.is_empty() {
            out.push_str(piece);
            continue;
        }
        if old.next() != Some(word) {
            return None;
        }
        out.push_str(new.next()?);
        out.push_str(&piece[word.len()..]);
    }
    (old.next().is_none() && new.next().is_none()).then_some(out)
}

/// Whether a plain scalar says `text`, and says a string: numbers, booleans and timestamps have no slash.
fn is_plain(text: &str, in_flow: bool) -> bool {
    text.contains('/') && is_plain_part(text, in_flow)
}

/// Whether `text` can stand in a plain scalar, at its start too.
pub(super) fn is_plain_part(text: &str, in_flow: bool) -> bool {
    // Indicators (YAML 1.2.2, section 5.3); of these, dash, question mark and colon may start a word.
    let starts_otherwise = text.starts_with(|c| " ,[]{}#&*!|>'\"%@`".contains(c))
        || ["- ", "? ", ": ", "--- ", "... "].iter().any(|bad| text.starts_with(bad));
    let ends_early = text.ends_with([' ', ':'])
        || [": ", " #", "  "].iter().any(|bad| text.contains(bad))
        || (in_flow && text.contains([',', '[', ']', '{', '}']));
    let is_printable = text.chars().all(|c| c.is_ascii_graphic() || c.is_alphanumeric() || c == ' ');
    is_printable && !starts_otherwise && !ends_early
}

pub(super) fn double_quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || is_break(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Line breaks of YAML 1.1 beyond ASCII, and the byte-order mark.
fn is_break(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

fn cannot_write(old: &str, new: &str) -> Error {
    Error::input(format!("writing {new:?} in place of {old:?}"), "the YAML there can't hold it")
        .hint("quote the value in the chart's template or values")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replaces `old` by `new` in the value of every scalar that has it.
    fn replace(source: &str, old: &str, new: &str) -> Result<String> {
        let stream = Stream::parse(source)?;
        let mut edits = BTreeMap::new();
        stream.walk(|at| {
            if at.scalar.value.contains(old) {
                edits.insert(at.id, at.scalar.value.replace(old, new));
            }
            Ok(())
        })?;
        stream.splice(&edits, &mut |_| Ok(()))
    }

    #[test]
    fn each_style_is_kept_and_nothing_else_changes() {
        // `OLD` is what changes; around it everything must stay to the byte.
        for template in [
            "a: OLD\n",
            "a: OLD",
            "a:   OLD   # OLD? no\n",
            "a: 'OLD'\nb: \"OLD\"\n",
            "a: 'it''s OLD'\n",
            "a: \"é OLD\"\nü: [x, OLD, 'y']\n",
            "{\"a\":\"OLD\",\"b\":[\"OLD\"]}",
            "{a: OLD, OLD: b}\n",
            "a: &anchor OLD\nb: *anchor\nc: !!str OLD\n",
            "a: 1\r\nb: OLD\r\nc: |\r\n  x OLD\r\n  y\r\n",
            "a: |\n  4.2=OLD\n  4.3=OLD\nb: 010\n",
            "a: |- # why\n    one\n\n      OLD\n\n\n# end\nb: x\n",
            "a: |2\n   OLD\n  x\n",
            "a: |+\n  OLD\n\n\nb: 1\n",
            "a: >\n  run\n  --image OLD\n    indented\n\n  x\nb: y\n",
            "- |\n OLD\n- >-\n OLD\n",
            "a: |\n\n\n  OLD",
            "a: run\n  OLD\n\n  more\n",
            "---\n# only OLD\n---\n---\na: OLD\n...\n---\nb: =\nc: OLD\n",
            "a: OLD\n---# é\nb: 'OLD'\n",
            "\u{feff}a: OLD\n---\n# s\n\u{feff}b: OLD\n",
        ] {
            let (source, expected) =
                (template.replace("OLD", "q.io/a:1"), template.replace("OLD", "s:5/q.io/a:1@d:2"));
            // Keys and comments stay as they are.
            let expected = expected.replace("# OLD? no", "# q.io/a:1? no");
            let expected = ["# s:5/q.io/a:1@d:2? no", "# only s:5/q.io/a:1@d:2", " s:5/q.io/a:1@d:2: b"]
                .iter()
                .fold(expected, |text, kept| {
                    text.replace(kept, &kept.replace("s:5/q.io/a:1@d:2", "q.io/a:1"))
                });
            assert_eq!(
                replace(&source, "q.io/a:1", "s:5/q.io/a:1@d:2").expect(template),
                expected,
                "{template}"
            );
        }
    }

    #[test]
    fn quotes_come_where_they_are_needed() {
        for (source, new, expected) in [
            ("a: OLD\n", "10", "a: \"10\"\n"),
            ("a: OLD\n", "true", "a: \"true\"\n"),
            ("a: OLD\n", "", "a: \"\"\n"),
            ("a: OLD\n", "x/y: z", "a: \"x/y: z\"\n"),
            ("a: OLD\n", "x/y #z", "a: \"x/y #z\"\n"),
            ("- OLD\n", "--x=a/b", "- --x=a/b\n"),
            ("- OLD\n", "- a/b", "- \"- a/b\"\n"),
            ("- OLD\n", "*a/b", "- \"*a/b\"\n"),
            ("OLD\n", "--- a/b", "\"--- a/b\"\n"),
            ("a: OLD\n", "x/y,z", "a: x/y,z\n"),
            ("a: é OLD\n", "x/y", "a: é x/y\n"),
            ("a: OLD\n", "\u{a0}x/y", "a: \"\u{a0}x/y\"\n"),
            ("[OLD]\n", "x/y,z", "[\"x/y,z\"]\n"),
            ("a: OLD\n", "[::1]:5/x", "a: \"[::1]:5/x\"\n"),
            ("a: 'OLD'\n", "it's", "a: 'it''s'\n"),
            ("a: 'OLD'\n", "x\ny", "a: \"x\\ny\"\n"),
            ("a: \"OLD\"\n", "\\ \" \u{7} \u{2028} é", "a: \"\\\\ \\\" \\u0007 \\u2028 é\"\n"),
            ("a: 'x\n  OLD'\n", "y", "a: 'x y'\n"),
        ] {
            assert_eq!(replace(source, "OLD", new).expect(source), expected, "{source}");
        }
    }

    #[test]
    fn what_can_not_be_written_is_an_error() {
        let stream = Stream::parse("a:\nb: 1\n").expect("a stream");
        let id = stream.get(stream.roots()[0], "a").expect("a");
        assert!(stream.splice(&BTreeMap::from([(id, "x".into())]), &mut |_| Ok(())).is_err());
        for (source, new) in
            [("a: |\n  OLD\n", "two words"), ("a: |\n  OLD\n", "x\ny"), ("a: |\n  OLD\n", "\u{0}")]
        {
            let error = replace(source, "OLD", new).expect_err(new).to_string();
            assert!(error.contains("in place of") || error.contains("reading"), "{error}");
        }
    }

    #[test]
    fn a_changed_structure_is_caught() {
        let before = Stream::parse("a: x\nb: y\n").expect("a stream");
        for after in [
            "a: x\n",
            "a: x\nb: z\n",
            "a: x\nc: y\n",
            "a: x\nb: 'y'\n",
            "a: x\nb: [y]\n",
            "a: x\nb: y\n---\n",
        ] {
            let after = Stream::parse(after).expect("a stream");
            assert!(before.compare(0..before.nodes.len(), &after, &BTreeMap::new()).is_err());
        }
    }
}
