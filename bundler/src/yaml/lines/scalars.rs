//! Keys and scalars.

use std::borrow::Cow;
use std::ops::Range;

use granit_parser::ScalarStyle;
use memchr::{memchr, memchr2, memchr3};

use super::{Line, Lines, MAX_KEY};

/// Where a plain scalar's part on a line ends.
pub(super) enum End {
    /// With the line, or in front of blanks that do.
    OfLine(usize),
    /// In front of a comment.
    Comment(usize),
    /// In front of a colon that ends a key; the second place is the colon's.
    Colon(usize, usize),
}

impl<'s> Lines<'_, 's> {
    /// Adds a scalar as the value that is missing.
    pub(super) fn scalar(
        &mut self,
        value: Cow<'s, str>,
        style: ScalarStyle,
        span: Range<usize>,
    ) -> Option<()> {
        self.pending.take()?;
        self.builder.scalar(value, style, false, 0, span).ok()
    }

    /// The key that starts there and the place of its colon; the inner none if it is no key.
    pub(super) fn key(&self, at: usize, end: usize) -> Option<Option<(Cow<'s, str>, usize)>> {
        let key = match self.byte(at) {
            b'"' | b'\'' => match self.quoted_on_line(at, end)? {
                Some((key, after)) => {
                    let colon = self.skip_spaces(after, end);
                    (colon < end && self.byte(colon) == b':' && self.is_gap(colon + 1, end))
                        .then_some((key, colon))
                }
                None => None,
            },
            _ if self.starts_plain(at, end) => match self.plain_on_line(at, end)? {
                End::Colon(key, colon) => Some((Cow::Borrowed(&self.source[at..key]), colon)),
                End::OfLine(_) | End::Comment(_) => None,
            },
            _ => None,
        };
        match key {
            Some((_, colon)) if colon - at > MAX_KEY => None,
            key => Some(key),
        }
    }

    /// Reads the value that is missing; `is_inline` when its key or dash is on the same line.
    pub(super) fn value(&mut self, at: usize, end: usize, is_inline: bool) -> Option<()> {
        self.pending?;
        match self.byte(at) {
            b'"' | b'\'' => self.quoted(at, end),
            b'[' | b'{' => self.flow(at, end),
            b'|' | b'>' if is_inline => self.block(at, end),
            _ if self.starts_plain(at, end) => self.plain(at, end),
            _ => None,
        }
    }

    /// Whether a plain scalar can start there (YAML 1.2.2, 7.3.3); `?` is left to the parser.
    fn starts_plain(&self, at: usize, end: usize) -> bool {
        match self.byte(at) {
            b'-' | b':' => !self.is_gap(at + 1, end),
            b'?' | b',' | b'[' | b']' | b'{' | b'}' | b'#' | b'&' | b'*' | b'!' | b'|' | b'>' => false,
            b'\'' | b'"' | b'%' | b'@' | b'`' | b'\t' => false,
            _ => true,
        }
    }

    /// Where a plain scalar, or its part, that starts there ends.
    fn plain_on_line(&self, at: usize, end: usize) -> Option<End> {
        let bytes = &self.source.as_bytes()[..end];
        let trimmed = |to: usize| at + bytes[at..to].trim_ascii_end().len();
        let mut from = at;
        while let Some(n) = memchr3(b':', b'#', b'\t', &bytes[from..]) {
            let i = from + n;
            match bytes[i] {
                b':' if self.is_gap(i + 1, end) => return Some(End::Colon(trimmed(i), i)),
                b'#' if bytes[..i].ends_with(b" ") => return Some(End::Comment(trimmed(i))),
                b'\t' => return None,
                _ => from = i + 1,
            }
        }
        Some(End::OfLine(trimmed(end)))
    }

    fn plain(&mut self, start: usize, line_end: usize) -> Option<()> {
        let (mut end, mut may_go_on) = self.plain_part(start, line_end)?;
        let mut value = Cow::Borrowed(&self.source[start..end]);
        while may_go_on && let Some((breaks, line, at)) = self.continuation()? {
            if self.byte(at) == b'#' {
                break;
            }
            fold(value.to_mut(), breaks);
            (end, may_go_on) = self.plain_part(at, line.end)?;
            value.to_mut().push_str(&self.source[at..end]);
            self.at = line.next;
        }
        self.scalar(value, ScalarStyle::Plain, start..end)
    }

    /// Where a line's part of a plain scalar ends, and whether the scalar may go on behind it.
    fn plain_part(&self, at: usize, end: usize) -> Option<(usize, bool)> {
        match self.plain_on_line(at, end)? {
            End::OfLine(end) => Some((end, true)),
            End::Comment(end) => Some((end, false)),
            End::Colon(..) => None,
        }
    }

    /// The next line that is not empty, if it is indented as part of the value that is missing: how many line breaks
    /// are in front of it, the line, and where its content starts.
    fn continuation(&self) -> Option<Option<(usize, Line, usize)>> {
        let column = self.levels.last()?.column;
        // Nearly always it is not, as its first few bytes show.
        let first = self.skip_spaces(self.at, self.source.len().min(self.at + column + 1));
        let byte = self.source.as_bytes().get(first);
        if first <= self.at + column && byte.is_some_and(|b| !matches!(b, b'\t' | b'\n' | b'\r')) {
            return Some(None);
        }
        let (mut breaks, mut next) = (1, self.at);
        while let Some(line) = self.line(next) {
            let at = self.skip_spaces(line.start, line.end);
            if at == line.end {
                breaks += 1;
                next = line.next;
                continue;
            }
            return match self.byte(at) {
                b'\t' => None,
                _ => Some((at - line.start > column).then_some((breaks, line, at))),
            };
        }
        Some(None)
    }

    fn quoted(&mut self, start: usize, line_end: usize) -> Option<()> {
        let is_single = self.byte(start) == b'\'';
        let mut value = Cow::Borrowed("");
        let (mut at, mut end) = (start + 1, line_end);
        let after = loop {
            if let Some(after) = self.quoted_part(&mut value, at, end, is_single)? {
                break after;
            }
            let (breaks, line, content) = self.continuation()??;
            fold(value.to_mut(), breaks);
            (at, end) = (content, line.end);
            self.at = line.next;
        };
        self.ends_line(after, end)?;
        let style = if is_single { ScalarStyle::SingleQuoted } else { ScalarStyle::DoubleQuoted };
        self.scalar(value, style, start..after)
    }

    /// A quoted scalar that starts there and where it ends; the inner none if that is not on its line.
    pub(super) fn quoted_on_line(&self, start: usize, end: usize) -> Option<Option<(Cow<'s, str>, usize)>> {
        let mut value = Cow::Borrowed("");
        let after = self.quoted_part(&mut value, start + 1, end, self.byte(start) == b'\'')?;
        Some(after.map(|after| (value, after)))
    }

    /// Adds a line's part of a quoted scalar to its value; returns the place behind the closing quote, if it is there.
    fn quoted_part(
        &self,
        value: &mut Cow<'s, str>,
        mut at: usize,
        end: usize,
        is_single: bool,
    ) -> Option<Option<usize>> {
        let bytes = &self.source.as_bytes()[..end];
        if memchr(b'\t', &bytes[at..]).is_some() {
            return None;
        }
        loop {
            let special = match is_single {
                true => memchr(b'\'', &bytes[at..]),
                false => memchr2(b'"', b'\\', &bytes[at..]),
            };
            // Blanks in front of a line break are none of the value.
            let text = special
                .map_or_else(|| self.source[at..end].trim_end_matches(' '), |n| &self.source[at..at + n]);
            append(value, text);
            let Some(special) = special else { return Some(None) };
            at += special;
            match (bytes[at], bytes.get(at + 1)) {
                (b'\\', _) => at = self.escape(value.to_mut(), at + 1, end)?,
                (b'\'', Some(b'\'')) => {
                    value.to_mut().push('\'');
                    at += 2;
                }
                _ => return Some(Some(at + 1)),
            }
        }
    }

    /// Adds what an escape in double quotes says (YAML 1.2.2, 5.7), the usual ones only; returns where it ends.
    fn escape(&self, value: &mut String, at: usize, end: usize) -> Option<usize> {
        let line = &self.source[..end];
        let plain = match line.as_bytes().get(at)? {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'u' => {
                let digits = line.get(at + 1..at + 5).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
                // Halves of surrogate pairs are no characters.
                value.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
                return Some(at + 5);
            }
            _ => return None,
        };
        value.push(plain);
        Some(at + 1)
    }

    /// Whether nothing but blanks and a comment follow on the line.
    pub(super) fn ends_line(&self, at: usize, end: usize) -> Option<()> {
        let rest = self.skip_spaces(at, end);
        (rest == end || (rest > at && self.byte(rest) == b'#')).then_some(())
    }
}

/// What line breaks within a scalar stand for: one is a blank, of several the first is not counted.
fn fold(value: &mut String, breaks: usize) {
    match breaks {
        1 => value.push(' '),
        _ => value.extend(std::iter::repeat_n('\n', breaks - 1)),
    }
}

fn append<'s>(value: &mut Cow<'s, str>, text: &'s str) {
    if value.is_empty() {
        *value = Cow::Borrowed(text);
    } else {
        value.to_mut().push_str(text);
    }
}
