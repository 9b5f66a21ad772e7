//! Rewriting random YAML: references planted in every style at random places become the site's, and nothing else changes.
//!
//! A generator writes each document twice at once, with the references and with what they must become, so that the outcome
//! is compared byte for byte. An independent reading then says that what was expected is right: the events of the parser,
//! one by one, differ in the planted texts only. `AIRLOCK_CASES` says how many streams, `AIRLOCK_SEED` where to start.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use bundler::digest::Digest;
use bundler::reference::{Mapping, Reference};
use bundler::rewrite::{Pins, gate, rewrite};
use bundler::yaml::{Segment, Stream, documents};
use fastrand::Rng;
use granit_parser::{Event, Parser};
use serde_json::Value;

/// The lock: what charts write, and which reference that is. None is part of what one before it becomes.
const PLANTED: &[(&str, &str)] = &[
    ("q.io/a/b:1.2", "q.io/a/b:1.2"),
    ("docker.io/library/redis:8", "docker.io/library/redis:8"),
    ("docker.io/redis:8", "docker.io/library/redis:8"),
    ("h.example:5/nats:2.10.10", "h.example:5/nats:2.10.10"),
    ("registry.example/team/deep/app_x:v1.0-rc.1", "registry.example/team/deep/app_x:v1.0-rc.1"),
];
/// Words of plain text, none of which ends a scalar or starts another.
const WORDS: &[&str] =
    &["x", "run", "--flag", "010", "1.0", "true", "é", "日本", "a#b", "=", "no", "1e3", "[::1]:5", "~"];
/// Plain scalars that other readers may take for numbers, times, nulls or booleans.
const LOOKALIKES: &[&str] =
    &["010", "0x1F", "1_000", "1e3", "true", "no", "~", "null", "2001-01-01", "12:30:45", "=", "-1"];

fn pins() -> Vec<(Reference, Digest)> {
    PLANTED.iter().map(|(_, full)| (full.parse().expect(full), Digest::of(full.as_bytes()))).collect()
}

/// What each of `PLANTED` becomes.
fn at_site() -> Vec<String> {
    pins().iter().map(|(reference, digest)| mapping().image(reference, digest)).collect()
}

fn mapping() -> Mapping {
    Mapping::new("site.example:5000/mirror", false).expect("a mapping")
}

/// Writes a stream and, beside it, what it must become.
struct Writer {
    rng: Rng,
    source: String,
    expected: String,
    line_break: &'static str,
    /// What each of `PLANTED` becomes.
    at_site: Vec<String>,
    planted: usize,
    /// Anchors of the document, each with whether it names a mapping.
    anchors: Vec<(String, bool)>,
    names: usize,
}

impl Writer {
    fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            source: String::new(),
            expected: String::new(),
            line_break: "\n",
            at_site: at_site(),
            planted: 0,
            anchors: vec![],
            names: 0,
        }
    }

    fn odds(&mut self, one_in: usize) -> bool {
        self.rng.usize(0..one_in) == 0
    }

    fn any(&mut self, of: &[&'static str]) -> &'static str {
        of[self.rng.usize(0..of.len())]
    }

    /// The same in both.
    fn put(&mut self, text: &str) {
        self.source.push_str(text);
        self.expected.push_str(text);
    }

    fn spaces(&mut self, columns: usize) {
        self.put(&" ".repeat(columns));
    }

    fn end_line(&mut self) {
        self.put(self.line_break);
    }

    /// The end of a line that may have a comment, and lines that are comments or empty.
    fn end_content(&mut self) {
        if self.odds(8) {
            let comment = self.any(&["  # why", " # q.io/a/b:1.2", " #", "   # 'docker.io/redis:8' é"]);
            self.put(comment);
        } else if self.odds(12) {
            self.put("  ");
        }
        self.end_line();
        while self.odds(10) {
            let line = self.any(&["", "# image: q.io/a/b:1.2", "      # deep", "   "]);
            self.put(line);
            self.end_line();
        }
    }

    fn reference(&mut self) {
        let n = self.rng.usize(0..PLANTED.len());
        self.source.push_str(PLANTED[n].0);
        self.expected.push_str(&self.at_site[n].clone());
        self.planted += 1;
    }

    /// A line of text with or without references.
    fn text(&mut self) {
        match self.rng.usize(0..8) {
            0..3 => self.reference(),
            3 => {
                self.put("--image=");
                self.reference();
            }
            4 => {
                let word = self.any(&["run ", "x ", "é ", "from "]);
                self.put(word);
                self.reference();
                self.put(" now");
            }
            5 => {
                self.put("1.2=");
                self.reference();
            }
            _ => {
                let first = self.any(&["x", "run", "--flag", "é", "日本"]);
                self.put(first);
                for _ in 0..self.rng.usize(0..4) {
                    let word = self.any(WORDS);
                    self.put(" ");
                    self.put(word);
                }
            }
        }
    }

    fn stream(&mut self) {
        let is_marked = self.odds(10);
        self.put(if is_marked { "\u{feff}" } else { "" });
        for number in 0..self.rng.usize(1..4) {
            // Behind a mark `---#` is no separator.
            if number > 0 || (!is_marked && self.rng.bool()) {
                let separator = self.any(&["---", "---# Source: q.io/a/b:1.2", "--- # x", "---  "]);
                self.put(separator);
                self.end_line();
            }
            self.line_break = if self.odds(5) { "\r\n" } else { "\n" };
            self.anchors.clear();
            self.mapping(0, 0);
        }
        if self.odds(10) {
            // Nothing says that the last line has a break.
            for text in [&mut self.source, &mut self.expected] {
                text.truncate(text.trim_end_matches(['\n', '\r', ' ']).len());
            }
        }
    }

    fn key(&mut self) {
        self.names += 1;
        let name = self.names;
        let key = match self.rng.usize(0..8) {
            0 => format!("'k {name}'"),
            1 => format!("\"k\\u00e9{name}\""),
            2 => format!("é.k/{name}"),
            3 => format!("q.io/a/b:{name}"),
            _ => format!("k{name}"),
        };
        self.put(&key);
        let colon = if self.odds(12) { " :" } else { ":" };
        self.put(colon);
    }

    /// Block mapping; the first line has its indentation already.
    fn mapping(&mut self, indent: usize, depth: usize) {
        for n in 0..self.rng.usize(1..5) {
            if n > 0 {
                self.spaces(indent);
            }
            let named: Vec<_> = self.anchors.iter().filter(|(_, is_mapping)| *is_mapping).cloned().collect();
            if n == 0 && !named.is_empty() && self.odds(4) {
                let (name, _) = &named[self.rng.usize(0..named.len())];
                self.put(&format!("<<: *{name}"));
                self.end_content();
                continue;
            }
            self.key();
            self.value(indent, depth, true);
        }
    }

    fn sequence(&mut self, indent: usize, depth: usize) {
        for n in 0..self.rng.usize(1..4) {
            if n > 0 {
                self.spaces(indent);
            }
            self.put("-");
            self.value(indent, depth, false);
        }
    }

    /// A value, from behind the colon or dash to the end of its last line.
    fn value(&mut self, indent: usize, depth: usize, of_key: bool) {
        let is_deep = depth > 4;
        match self.rng.usize(0..if is_deep { 12 } else { 18 }) {
            0 if !self.anchors.is_empty() => {
                let (name, _) = self.anchors[self.rng.usize(0..self.anchors.len())].clone();
                self.put(&format!(" *{name}"));
                self.end_content();
            }
            1 => self.end_content(),
            2..5 => self.block_scalar(indent),
            5..7 => {
                self.put(" ");
                let anchor = self.anchor();
                self.flow(depth);
                self.end_content();
                self.anchors.extend(anchor.map(|name| (name, false)));
            }
            0..12 => {
                let blanks = self.any(&[" ", " ", " ", "   "]);
                self.put(blanks);
                let anchor = self.anchor();
                self.scalar(indent, false);
                self.anchors.extend(anchor.map(|name| (name, false)));
            }
            12..15 => {
                let deeper = indent + self.rng.usize(1..4);
                if !of_key && self.odds(2) {
                    // On the line of its dash.
                    self.spaces(deeper - indent);
                    self.mapping(deeper + 1, depth + 1);
                    return;
                }
                let anchor = self.odds(5).then(|| self.name());
                if let Some(name) = &anchor {
                    self.put(&format!(" &{name}"));
                }
                self.end_content();
                self.spaces(deeper);
                self.mapping(deeper, depth + 1);
                self.anchors.extend(anchor.map(|name| (name, true)));
            }
            _ => {
                let deeper = indent + if of_key { self.rng.usize(0..4) } else { self.rng.usize(1..4) };
                self.end_content();
                self.spaces(deeper);
                self.sequence(deeper, depth + 1);
            }
        }
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }

    /// Perhaps an anchor, which may be used once its node is complete.
    fn anchor(&mut self) -> Option<String> {
        let name = self.odds(10).then(|| self.name())?;
        self.put(&format!("&{name} "));
        Some(name)
    }

    fn scalar(&mut self, indent: usize, in_flow: bool) {
        match self.rng.usize(0..9) {
            0 => {
                let plain = self.any(LOOKALIKES);
                self.put(plain);
            }
            1 => {
                let tagged = self.any(&[
                    "!!str 010",
                    "!!str null",
                    "!!int \"1\"",
                    "''",
                    "\"\"",
                    "'it''s'",
                    "\"\\x41\\\\\"",
                ]);
                self.put(tagged);
            }
            2 if !in_flow => {
                // Over two lines, one of them in quotes.
                let (open, close) = [("'", "'"), ("\"", "\""), ("", "")][self.rng.usize(0..3)];
                self.put(open);
                self.put("goes");
                self.end_line();
                let deeper = indent + self.rng.usize(1..4);
                self.spaces(deeper);
                if open.is_empty() {
                    self.text();
                } else {
                    self.put("on");
                }
                self.put(close);
            }
            3..5 => {
                self.put("'");
                self.text();
                if self.odds(3) {
                    self.put(" it''s");
                }
                self.put("'");
            }
            5..7 => {
                self.put("\"");
                if self.odds(3) {
                    self.put("\\t\\\"\\\\ ");
                }
                self.text();
                if self.odds(3) {
                    self.put("\\n");
                    self.text();
                }
                self.put("\"");
            }
            _ if in_flow => self.reference(),
            _ => self.text(),
        }
        if !in_flow {
            self.end_content();
        }
    }

    /// A flow collection, mostly on one line.
    fn flow(&mut self, depth: usize) {
        let is_mapping = self.rng.bool();
        self.put(if is_mapping { "{" } else { "[" });
        for n in 0..self.rng.usize(0..4) {
            if n > 0 {
                let comma = self.any(&[", ", ",", " , "]);
                self.put(comma);
            }
            if is_mapping {
                self.names += 1;
                let key = format!("\"j{}\":", self.names);
                let key = if self.rng.bool() { key } else { key.replace('"', "") + " " };
                self.put(&key);
            }
            if depth < 7 && self.odds(4) {
                self.flow(depth + 1);
            } else {
                self.scalar(0, true);
            }
        }
        self.put(if is_mapping { "}" } else { "]" });
    }

    fn block_scalar(&mut self, indent: usize) {
        let deeper = 1 + self.rng.usize(0..4);
        self.put(" ");
        let style = self.any(&["|", "|", ">"]);
        let chomping = self.any(&["", "-", "+"]);
        let has_indicator = self.odds(4);
        let indicator = if has_indicator { deeper.to_string() } else { String::new() };
        let (first, second) = if self.rng.bool() { (&*indicator, chomping) } else { (chomping, &*indicator) };
        self.put(&format!("{style}{first}{second}"));
        let comment = if self.odds(8) { " # q.io/a/b:1.2" } else { "" };
        self.put(comment);
        self.end_line();
        for n in 0..self.rng.usize(1..5) {
            if self.odds(6) {
                self.put("");
                self.end_line();
            }
            // The first line says the indentation where the header does not.
            let more = if (n > 0 || has_indicator) && self.odds(4) { 2 } else { 0 };
            self.spaces(indent + deeper + more);
            if self.odds(5) {
                self.put("# not a comment: ");
            }
            self.text();
            self.end_line();
        }
        if self.odds(6) {
            self.end_line();
        }
    }
}

/// What a reader that knows nothing of ours makes of a stream, with the planted texts exchanged if so wanted.
fn events(text: &str, exchange: bool) -> Result<Vec<String>, String> {
    // helm's separators, as YAML has them.
    let text = format!("\n{}", text.trim_start_matches('\u{feff}')).replace("\n---#", "\n--- #");
    let site = at_site();
    let read = |event: Result<(Event<'_>, _), granit_parser::ScanError>| match event {
        Ok((Event::Scalar(value, style, anchor, tag), _)) if exchange => {
            let exchanged = PLANTED
                .iter()
                .zip(&site)
                .fold(value.into_owned(), |text, ((old, _), new)| text.replace(old, new));
            Ok(format!("{:?}", Event::Scalar(exchanged.into(), style, anchor, tag)))
        }
        Ok((event, _)) => Ok(format!("{event:?}")),
        Err(e) => Err(e.to_string()),
    };
    Parser::new_from_str(&text).map(read).collect()
}

/// Checks one stream, and says what is wrong, or how many references were planted.
fn check(seed: u64, pins: &Pins) -> Result<usize, String> {
    let mut writer = Writer::new(seed);
    writer.stream();
    let Writer { source, expected, planted, .. } = writer;
    let told =
        |why: String| format!("AIRLOCK_SEED={seed}: {why}\n--- source\n{source}\n--- expected\n{expected}");
    let before = events(&source, true).map_err(|why| told(format!("the generator wrote no YAML: {why}")))?;
    let outcome = rewrite(&source, pins, &mapping()).map_err(|e| told(e.to_string()))?.text;
    if outcome != expected {
        return Err(told(format!("other bytes\n--- outcome\n{outcome}")));
    }
    let after = events(&outcome, false).map_err(|why| told(format!("the outcome is no YAML: {why}")))?;
    if let Some((before, after)) = before.iter().zip(&after).find(|(before, after)| before != after) {
        return Err(told(format!("{before} became {after}")));
    }
    if before.len() != after.len() {
        return Err(told("other events".into()));
    }
    gate(&outcome, pins, &mapping()).map_err(|e| told(e.to_string()))?;
    Ok(planted)
}

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect(name))
}

#[test]
fn references_planted_anywhere_are_rewritten_and_nothing_else_is() {
    let pins = Pins::new(pins());
    let (first, cases) = (setting("AIRLOCK_SEED").unwrap_or(1), setting("AIRLOCK_CASES").unwrap_or(2_000));
    let mut planted = 0;
    for seed in first..first + cases {
        match check(seed, &pins) {
            Ok(references) => planted += references,
            Err(why) => panic!("{why}"),
        }
    }
    assert!(planted as u64 > cases, "{planted} references in {cases} streams");
}

/// A document as helm's own YAML reads it.
fn as_go_reads(dir: &Path, document: &str) -> Value {
    let chart = dir.join("read");
    fs::create_dir_all(chart.join("templates")).expect("a directory");
    fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: read\nversion: 1.0.0\n").expect("Chart.yaml");
    fs::write(chart.join("templates/v.yaml"), "values: {{ toJson .Values }}").expect("a template");
    fs::write(dir.join("document.yaml"), document).expect("a document");
    let run =
        Command::new("helm").current_dir(dir).args(["template", "r", "read", "-f", "document.yaml"]).output();
    let output = run.expect("helm must be on PATH (helm.sh/docs/intro/install)");
    assert!(output.status.success(), "{document}\n{}", String::from_utf8_lossy(&output.stderr));
    let out = String::from_utf8(output.stdout).expect("UTF-8 from helm");
    let json = out.lines().find_map(|line| line.strip_prefix("values: ")).expect("the values");
    serde_json::from_str(json).expect("JSON from helm")
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn random_documents_are_read_as_helm_reads_them() {
    let temporary = tempfile::tempdir().expect("a directory");
    let mut compared = 0;
    for seed in 1..20 {
        let mut writer = Writer::new(seed);
        writer.stream();
        for document in documents(&writer.source) {
            // The separator is helm's, not YAML's.
            let document = match document.split_once('\n') {
                Some((first, rest)) if first.starts_with("---") => rest,
                _ => document,
            };
            // Of a block scalar that ends with the file, without a break, helm makes one with a break.
            if !document.ends_with('\n') {
                continue;
            }
            let read = as_go_reads(temporary.path(), document);
            let stream = Stream::parse(document).expect(document);
            let walked = stream.walk(|at| {
                let value = at.path.iter().try_fold(&read, |value, step| match step.segment {
                    Segment::Key(key) => value.get(key),
                    Segment::Index(index) => value.get(index),
                });
                // Numbers and the like are values of their own; helm drops nulls.
                match value {
                    Some(Value::String(text)) => {
                        assert_eq!(text, &at.scalar.value, "{at} in\n{document}");
                        compared += 1;
                    }
                    Some(Value::Null) | None => assert!(at.scalar.is_null(), "{at} in\n{document}"),
                    Some(_) => {}
                }
                Ok(())
            });
            walked.expect("a walk");
        }
    }
    assert!(compared > 100, "{compared}");
}
