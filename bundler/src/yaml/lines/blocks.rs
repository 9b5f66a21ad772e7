//! Block scalars.

use granit_parser::ScalarStyle;

use super::{Line, Lines};

/// What becomes of the line breaks at the end.
#[derive(Clone, Copy, PartialEq)]
enum Chomping {
    Strip,
    Clip,
    Keep,
}

/// `|-2` and the like.
struct Header {
    is_folded: bool,
    chomping: Chomping,
    /// Columns beyond those of the collection that it is in; none when the first line says it.
    indent: Option<usize>,
}

impl Lines<'_, '_> {
    /// Reads a block scalar whose header is there. One without content is left to the parser.
    pub(super) fn block(&mut self, at: usize, end: usize) -> Option<()> {
        let header = self.header(at, end)?;
        let (first, indent, mut breaks) = self.first_line(&header)?;
        let start = first.start + indent;
        let mut value = String::new();
        let (mut line, mut is_first, mut was_blank) = (first, true, false);
        let end = loop {
            let content = &self.source[line.start + indent..line.end];
            let is_blank = content.starts_with([' ', '\t']);
            match (header.is_folded && !is_first && !was_blank && !is_blank, breaks) {
                (true, 0) => value.push(' '),
                (true, _) => {}
                (false, _) if !is_first => value.push('\n'),
                _ => {}
            }
            value.extend(std::iter::repeat_n('\n', breaks));
            value.push_str(content);
            (is_first, was_blank, breaks) = (false, is_blank, 0);
            self.at = line.next;
            if line.next == line.end {
                break line.end;
            }
            match self.next_line(indent, &mut breaks) {
                Ok(next) => line = next,
                Err(end) => {
                    if header.chomping != Chomping::Strip {
                        value.push('\n');
                    }
                    break end;
                }
            }
        };
        if header.chomping == Chomping::Keep {
            value.extend(std::iter::repeat_n('\n', breaks));
        }
        let style = if header.is_folded { ScalarStyle::Folded } else { ScalarStyle::Literal };
        self.scalar(value.into(), style, start..end)
    }

    /// YAML 1.2.2, section 8.1.1.
    fn header(&self, at: usize, end: usize) -> Option<Header> {
        let mut header = Header { is_folded: self.byte(at) == b'>', chomping: Chomping::Clip, indent: None };
        let mut at = at + 1;
        while at < end {
            match self.byte(at) {
                b'-' if header.chomping == Chomping::Clip => header.chomping = Chomping::Strip,
                b'+' if header.chomping == Chomping::Clip => header.chomping = Chomping::Keep,
                digit @ b'1'..=b'9' if header.indent.is_none() => {
                    header.indent = Some(usize::from(digit - b'0'))
                }
                _ => break,
            }
            at += 1;
        }
        self.ends_line(at, end)?;
        Some(header)
    }

    /// The first line with content, the columns in front of it, and how many empty lines came before.
    fn first_line(&mut self, header: &Header) -> Option<(Line, usize, usize)> {
        let parent = self.levels.last()?.column;
        let given = header.indent.map(|columns| parent + columns);
        let (mut breaks, mut widest) = (0, parent + 1);
        loop {
            let line = self.line(self.at)?;
            let spaces = self.spaces(line, given.unwrap_or(usize::MAX));
            if line.start + spaces < line.end {
                let indent = given.unwrap_or(widest.max(spaces));
                return (spaces == indent).then_some((line, indent, breaks));
            }
            widest = widest.max(spaces);
            breaks += 1;
            self.at = line.next;
        }
    }

    /// The next line with content, and empty lines in front of it; when there is none, where the scalar ends.
    fn next_line(&mut self, indent: usize, breaks: &mut usize) -> Result<Line, usize> {
        while let Some(line) = self.line(self.at) {
            let spaces = self.spaces(line, indent);
            // What has no break at its end is no empty line.
            if line.start + spaces < line.end || line.next == line.end {
                return if spaces == indent && line.start + spaces < line.end {
                    Ok(line)
                } else {
                    Err(line.start + spaces)
                };
            }
            *breaks += 1;
            self.at = line.next;
        }
        Err(self.at)
    }

    /// How many spaces a line starts with, up to `most`.
    fn spaces(&self, line: Line, most: usize) -> usize {
        let end = line.end.min(line.start.saturating_add(most));
        self.skip_spaces(line.start, end) - line.start
    }
}
