//! A stream's documents, as helm finds them, and what must not stand in any.

use std::ops::Range;

use memchr::memmem;

const MARK: char = '\u{feff}';

/// The first character that Go's YAML takes for a line break that is none here, or for an error, and where it stands.
pub(super) fn misread(source: &str) -> Option<(usize, char)> {
    /// How much is looked at at once; what can start such a character is rare.
    const CHUNK: usize = 4096;
    let may_start_one =
        |b: &u8| (*b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r')) || matches!(b, 0x7f | 0xc2 | 0xe2);
    let chunks = source.as_bytes().chunks(CHUNK).enumerate();
    // Without a way out of the loop it is done many bytes at a time.
    let looked_at = chunks.filter(|(_, chunk)| chunk.iter().fold(false, |any, b| any | may_start_one(b)));
    looked_at
        .flat_map(|(n, chunk)| (n * CHUNK..).zip(chunk).filter(|(_, b)| may_start_one(b)))
        .filter_map(|(at, _)| Some((at, source.get(at..)?.chars().next()?)))
        .find(|(_, c)| is_misread(*c))
}

fn is_misread(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}') || (c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
}

/// A document of a stream.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// Where it starts: at its separator if it has one.
    pub(super) start: usize,
    /// What is to be parsed, without the separator.
    pub(super) text: Range<usize>,
}

/// Splits into documents as helm does, which takes every line that starts with `---` for a separator: also `---# text`,
/// which is none for YAML and which public charts rely on.
pub(super) fn pieces(source: &str) -> Vec<Piece> {
    let mut pieces = vec![];
    let (mut start, mut text) = (0, 0);
    let separators = memmem::find_iter(source.as_bytes(), "\n---").map(|newline| newline + 1);
    let first = source.starts_with("---").then_some(0);
    for line in first.into_iter().chain(separators) {
        if line > 0 {
            pieces.push(Piece { start, text: text..line });
        }
        let blanks = source[line + 3..].bytes().take_while(|b| matches!(b, b' ' | b'\t')).count();
        (start, text) = (line, line + 3 + blanks);
    }
    pieces.push(Piece { start, text: text..source.len() });
    pieces
}

/// A template saved with a byte-order mark ends up in the middle of a stream, behind helm's comment. Go's YAML skips a mark
/// at the start of any line; here it is taken off in front of a document's content, and an error, with its place, elsewhere.
pub(super) fn without_mark(source: &str, piece: Range<usize>) -> Result<Range<usize>, usize> {
    if !source[piece.clone()].contains(MARK) {
        return Ok(piece);
    }
    let (mut start, mut at, mut begun) = (piece.start, piece.start, false);
    for line in source[piece.clone()].split_inclusive(['\n', '\r']) {
        let rest = match line.strip_prefix(MARK) {
            Some(rest) if begun || rest.starts_with(MARK) => return Err(at),
            Some(rest) => {
                start = at + MARK.len_utf8();
                rest
            }
            None => line,
        };
        let content = rest.trim_matches([' ', '\t', '\n', '\r']);
        begun |= !content.is_empty() && !content.starts_with('#');
        at += line.len();
    }
    Ok(start..piece.end)
}
