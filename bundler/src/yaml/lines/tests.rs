//! What is read line by line is what the parser reads, to the last span.

use std::env;
use std::fs;
use std::path::PathBuf;

use fastrand::Rng;
use granit_parser::Parser;

use super::super::events::{Builder, parser_options};
use super::super::{Stream, pieces, without_mark};
use super::read;

/// The documents of `source`, each with whether it was read line by line. It is an error, told with the document, when
/// that comes to anything else than what the parser makes of it.
fn read_both_ways(source: &str) -> Result<Vec<(String, bool)>, String> {
    let mut documents = vec![];
    for piece in pieces(source) {
        let Ok(text) = without_mark(source, piece.text) else { continue };
        let document = &source[text.clone()];
        let mut fast = Builder::new(source);
        let is_read = read(&mut fast, source, text.clone());
        documents.push((document.to_owned(), is_read));
        if !is_read {
            if !fast.stream.nodes.is_empty() {
                return Err(format!("not read, and nodes are left: {document:?}"));
            }
            continue;
        }
        let mut whole = Builder::new(source);
        whole.offset = text.start;
        for event in Parser::new_from_str_with_options(document, parser_options()) {
            let (event, span) = event.map_err(|e| format!("read, but {}: {document:?}", e.info()))?;
            whole.take(event, &span).map_err(|e| format!("read, but {e}: {document:?}"))?;
        }
        let nodes = |stream: &Stream<'_>| {
            (0..stream.nodes.len()).map(|n| format!("{:?}", stream.stored(n))).collect::<Vec<_>>()
        };
        let (fast, whole) = (fast.stream, whole.stream);
        if fast.roots != whole.roots || nodes(&fast) != nodes(&whole) {
            return Err(format!(
                "{document:?}\nline by line: {:#?}\nparsed: {:#?}",
                nodes(&fast),
                nodes(&whole)
            ));
        }
    }
    Ok(documents)
}

#[test]
fn plain_documents_are_read_line_by_line() {
    for source in [
        "a: 1\nb:\n  c: x y # why\n  d: 'it''s'\n  e: \"a\\n\\u00e9\"\n",
        "a:\n- x\n- - y\n  - z: 1\n    w:\n- {}\nb: []\n",
        "- a: [x, 'y', \"z\", {\"k\":1, l: http://x:80/y}]\n-\n- #\n- -x\n- :8080\n",
        "a: |\n  x\n\n    y\n  z\n\n\nb: >-\n  x\n  y\n\n    z\n  w\nc: |+\n  x\n\n",
        "a: |2-\n   x\n  y\nb: >+1\n  x\n y\nc: 1",
        "a: |\n  no break at the end",
        "a: x\n  goes\n\n  on\nb: 'x\n  goes\n\n\n  on '\nc: \"x\n  y\\\" \n  z\"\n",
        "a: 1\r\nb: |\r\n  x\r\n\r\n  y\r\nc: x\r\n  y\r\n",
        "'a b' : 1\n\"c\": 2\nd e: 3\né: ü\n",
        "a:\n  # why\n  x\nb:\n  'y'\nc:\n  [z]\n",
        "# nothing\n\n  # but comments\n",
    ] {
        let read = read_both_ways(source).expect(source);
        assert_eq!(read, [(source.to_owned(), true)]);
    }
}

#[test]
fn what_may_be_something_else_is_left_to_the_parser() {
    for source in [
        "a: &x 1\nb: *x\n",
        "a: !!str 1\n",
        "? a\n: b\n",
        "a:\tb\n",
        "a: b\tc\n",
        "\ta: b\n",
        "a: b: c\n",
        "a: b:\n",
        "a: - b\n",
        "a: b\n c\n  d: e\n",
        "a: b # c\n  d\n",
        " a: b\nc: d\n",
        "a:\n  - b\n c: d\n",
        "- a\nb: c\n",
        "text\n",
        "|\n text\n",
        "a: |\n",
        "a: |\n\n",
        "a: |\n    \n  x\n",
        "a: |x\n  y\n",
        "a: 'x\n",
        "a: 'x' y\n",
        "a: 'x'#y\n",
        "a: \"\\x41\"\n",
        "a: \"\\ud800\"\n",
        "a: \"x\\\n  y\"\n",
        "a: [x\n  ]\n",
        "a: [x, ]\n",
        "a: [x: y]\n",
        "a: {x, y}\n",
        "a: {x: }\n",
        "a: {x:y}\n",
        "a: [x]: y\n",
        "a: @x\n",
        "a: %x\n",
        "%YAML 1.1\n",
        "a: 1\n...\n",
        "a: x\rb: y\n",
        "a: \u{feff}\n",
        "a: \u{fffe}\n",
        &format!("{}: x\n", "k".repeat(2000)),
        &format!("{}x\n", "- ".repeat(150)),
        &format!("a: {}{}\n", "[".repeat(150), "]".repeat(150)),
    ] {
        let read = read_both_ways(source).expect(source);
        assert!(read.iter().all(|(_, is_read)| !is_read), "{source:?}");
    }
}

/// Starts of lines, and what may come then; one line has several. Most of it makes no sense.
const STARTS: &[&str] =
    &["- ", "- - ", "a: ", "b: ", "'k': ", "\"k\" : ", "a b: ", "c:", "-", "", "? ", ": ", "-\t"];
const VALUES: &[&str] = &[
    "",
    "x",
    "x y",
    "1",
    "~",
    "'it''s'",
    "\"q\"",
    "\"\\n\\u00e9\\\"\"",
    "|",
    "|-",
    "|+",
    "|2",
    ">",
    ">-",
    ">+1",
    "> # c",
    "[]",
    "{}",
    "[a, 'b']",
    "{\"a\":1, b: c}",
    "[a, [b]]",
    "# c",
    "x # c",
    "x#c",
    " # c",
    "x:y",
    "x: y",
    "http://x:1/y",
    ":x",
    "-x",
    "--- x",
    "---",
    "...",
    "%x",
    "@x",
    "é",
    "'open",
    "shut'",
    "\"open",
    "shut\"",
    "\\",
    "\t",
    "x\ty",
    "&a x",
    "*a",
    "!!str x",
    "[",
    "]",
    "{a",
    ", b}",
    "<<",
    "=",
    "  ",
    "x  ",
    "\"a\\",
    "''",
    "'",
    "\"",
    "x:",
    "[x]:",
    "a, b",
    "\u{a0}",
];
const BREAKS: &[&str] = &["\n", "\n", "\n", "\n", "\n", "\r\n", "  \n", "\n\n", " \r\n", "\r", ""];

fn senseless(rng: &mut Rng) -> String {
    let mut text = String::new();
    let mut indent: usize = 0;
    for _ in 0..rng.usize(1..9) {
        indent = match rng.usize(0..6) {
            0 => 0,
            1 => indent + 1,
            2 => indent + 2,
            3 => indent.saturating_sub(2),
            4 => rng.usize(0..7),
            _ => indent,
        };
        text.push_str(&" ".repeat(indent));
        for (pieces, odds) in [(STARTS, 5), (STARTS, 1), (VALUES, 5), (VALUES, 1)] {
            if rng.usize(0..6) < odds {
                // The first ones are likelier, so that some of it does make sense.
                let most = if rng.bool() { pieces.len() } else { pieces.len() / 2 };
                text.push_str(pieces[rng.usize(0..most)]);
            }
        }
        text.push_str(BREAKS[rng.usize(0..BREAKS.len())]);
    }
    text
}

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect(name))
}

/// `AIRLOCK_CASES` says how many, `AIRLOCK_SEED` where to start: a failure names the seed that replays it.
#[test]
fn senseless_documents_are_read_as_the_parser_reads_them() {
    let (first, cases) = (setting("AIRLOCK_SEED").unwrap_or(1), setting("AIRLOCK_CASES"));
    let mut read = 0;
    for seed in first..first + cases.unwrap_or(20_000) {
        let text = senseless(&mut Rng::with_seed(seed));
        match read_both_ways(&text) {
            Ok(documents) => {
                read += documents.iter().filter(|(text, is_read)| *is_read && text.contains(':')).count();
            }
            Err(why) => panic!("AIRLOCK_SEED={seed}: {text:?}\n{why}"),
        }
    }
    assert!(cases.is_some() || read > 1000, "too little of it makes sense: {read}");
}

#[test]
#[ignore = "needs the corpus of rendered charts: cargo xtask test"]
fn charts_of_the_corpus_are_read_line_by_line_as_the_parser_reads_them() {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let dir = env::var_os("AIRLOCK_CORPUS").map_or_else(beside, PathBuf::from);
    let (mut documents, mut read) = (0, 0);
    for file in fs::read_dir(dir).expect("the corpus: set AIRLOCK_CORPUS") {
        let file = file.expect("a file").path();
        if file.extension().is_some_and(|extension| extension == "yaml") {
            let both = read_both_ways(&fs::read_to_string(&file).expect("manifests")).expect("the same");
            documents += both.len();
            read += both.iter().filter(|(_, is_read)| *is_read).count();
        }
    }
    assert!(documents > 0 && read * 100 >= documents * 99, "{read} of {documents} documents");
}
