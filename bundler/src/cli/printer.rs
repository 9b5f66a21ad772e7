//! Results to stdout, everything else to stderr. Names out of bundles and words of registries
//! come from strangers: what could steer a terminal or turn its text around is written as its code.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;

use bundler::install::Observer;
use bundler::progress::Progress;
use bundler::serve::{Access, Log};
use bundler::{Error, Result};
use indicatif::HumanBytes;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use super::observer::{Lines, Live, Nothing};
use super::progress::{Show, progress};

/// Amount of output on stderr.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Volume {
    /// Errors, and warnings about trust.
    Quiet,
    /// Notes, warnings and progress too.
    Normal,
    /// A line for each image, blob and request too.
    Verbose,
    /// Headers, retries and decisions too.
    Debug,
}

impl Volume {
    /// That of so many `-v`.
    pub fn of(verbose: u8) -> Self {
        match verbose {
            0 => Self::Normal,
            1 => Self::Verbose,
            _ => Self::Debug,
        }
    }

    fn filter(self) -> &'static str {
        match self {
            Self::Quiet => "bundler=error,airlock=error",
            Self::Normal => "bundler=warn,airlock=warn",
            Self::Verbose => "bundler=info,airlock=info",
            Self::Debug => "bundler=debug,airlock=debug",
        }
    }
}

/// All output goes through it.
#[derive(Clone)]
pub struct Printer {
    json: bool,
    volume: Volume,
    color: bool,
    show: Show,
}

/// Whether a person sees stderr.
pub fn at_terminal() -> bool {
    std::io::stderr().is_terminal()
}

impl Printer {
    /// Starts logging, too.
    pub fn new(json: bool, volume: Volume, color: bool, show: Show) -> Self {
        let format = tracing_subscriber::fmt().with_writer(|| Logged).with_ansi(color).with_target(false);
        // A second subscriber can only be there in a test.
        let _ = format.without_time().with_env_filter(EnvFilter::new(volume.filter())).try_init();
        Self { json, volume, color, show }
    }

    /// A result: `value` as JSON, or `text` for a person.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if self.json { self.json(value) } else { stdout(&harmless(&text())) }
    }

    /// A result for another program, such as manifests, in one or more pieces: left as it is, but for a terminal.
    pub fn document<'a>(
        &self,
        value: &impl Serialize,
        pieces: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        let mut pieces = pieces.into_iter();
        match (self.json, std::io::stdout().is_terminal()) {
            (true, _) => self.json(value),
            (false, true) => pieces.try_for_each(|text| stdout(&harmless(text))),
            (false, false) => pieces.try_for_each(stdout),
        }
    }

    fn json(&self, value: &impl Serialize) -> Result<()> {
        let json = serde_json::to_string_pretty(value).map_err(|e| Error::input("writing JSON", e))?;
        stdout(&harmless(&format!("{json}\n")))
    }

    /// A line about what is going on.
    pub fn note(&self, text: &str) {
        if self.is_quiet() {
            return;
        }
        stderr(&format!("{}\n", harmless(text)));
    }

    /// A line that should be noticed.
    pub fn warn(&self, text: &str) {
        if !self.is_quiet() {
            self.alarm(text);
        }
    }

    /// A warning that `--quiet` does not silence: about trust, or about something that is lost.
    pub fn alarm(&self, text: &str) {
        stderr(&format!("{} {}\n", self.paint("33", "warning:"), harmless(text)));
    }

    /// Why a verb failed, and what to do.
    pub fn error(&self, error: &Error) {
        if self.json {
            let value = serde_json::json!({
                "error": error.to_string(), "exit_code": super::exit_code(error), "hint": error.hint_text(),
            });
            return stderr(&harmless(&format!("{value}\n")));
        }
        let mut text = format!("{} {}\n", self.paint("31;1", "error:"), harmless(&error.to_string()));
        if let Some(hint) = error.hint_text() {
            let _ = writeln!(text, "{} {}", self.paint("36", "hint:"), harmless(hint));
        }
        stderr(&text);
    }

    /// Shows how far a stage is.
    pub fn progress(&self) -> Arc<dyn Progress> {
        let show = if self.is_quiet() { Show::None } else { self.show };
        progress(show, self.json, at_terminal())
    }

    /// Takes the requests of `serve`: a line on stderr for each, as JSON where that is asked for; none with `--quiet`.
    pub fn access_log(&self) -> Log {
        match (self.is_quiet(), self.json) {
            (true, _) => Arc::new(|_| {}),
            (false, true) => Arc::new(|access| {
                let line = serde_json::to_string(access).unwrap_or_default();
                stderr(&harmless(&format!("{line}\n")));
            }),
            (false, false) => Arc::new(|access| stderr(&access_line(access))),
        }
    }

    /// Says how an installation goes: redrawn at a terminal, a line for each change elsewhere.
    pub fn observer(&self) -> Box<dyn Observer> {
        match () {
            () if self.is_quiet() => Box::new(Nothing),
            () if at_terminal() && !self.json => Box::new(Live::default()),
            () => Box::new(Lines::default()),
        }
    }

    /// Reports whether only errors and warnings about trust are printed.
    pub fn is_quiet(&self) -> bool {
        self.volume == Volume::Quiet
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.into() }
    }
}

/// `2026-11-28T17:06:45.123Z 10.0.0.5:41234 GET /v2/a/manifests/1 200 1234 bytes 0.003 s`.
fn access_line(access: &Access) -> String {
    let Access { time, client, method, path, status, bytes, seconds, broken } = access;
    let client = client.map_or_else(|| "-".into(), |client| client.to_string());
    let broken = if *broken { ", broken off" } else { "" };
    harmless(&format!("{time} {client} {method} {path} {status} {bytes} bytes {seconds:.3} s{broken}\n"))
}

fn stdout(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // `airlock inspect | head` is no failure.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Error::input("writing to stdout", e)),
    }
}

pub(super) fn stderr(text: &str) {
    // There is nowhere left to say that stderr is closed.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Where log lines go.
struct Logged;

impl std::io::Write for Logged {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        std::io::stderr().write_all(harmless_but_for_colours(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Escapes in what is logged are made harmless where the line is put together; those that are left are its colours.
fn harmless_but_for_colours(line: &str) -> String {
    line.split('\u{1b}').map(harmless).collect::<Vec<_>>().join("\u{1b}")
}

/// Control characters (of C1, too: some terminals obey them) and those that turn the direction of text (UAX #9) as
/// `\u001b`, which JSON reads as what it was.
pub(super) fn harmless(text: &str) -> String {
    let steers = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if steers(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
        out
    })
}

/// `1.2 MiB`.
pub fn human(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line() {
        let access = Access {
            time: "2026-11-28T17:06:45.123Z".into(),
            client: "[::1]:41234".parse().ok(),
            method: "GET".into(),
            path: "/v2/\u{1b}[2J".into(),
            status: 200,
            bytes: 1234,
            seconds: 0.0032,
            broken: true,
        };
        assert_eq!(
            access_line(&access),
            "2026-11-28T17:06:45.123Z [::1]:41234 GET /v2/\\u001b[2J 200 1234 bytes 0.003 s, broken off\n"
        );
    }

    #[test]
    fn nothing_steers_a_terminal() {
        for (text, shown) in [
            ("a\tb\né ✓", "a\tb\né ✓"),
            ("\u{1b}[2J\r\u{7f}", "\\u001b[2J\\u000d\\u007f"),
            ("\u{9b}31m", "\\u009b31m"),
            ("a\u{202e}b\u{2066}c\u{200b}", "a\\u202eb\\u2066c\\u200b"),
        ] {
            assert_eq!(harmless(text), shown);
            let json = harmless(&serde_json::to_string(text).expect("JSON"));
            assert_eq!(serde_json::from_str::<String>(&json).expect(&json), text);
        }
        let line = "\u{1b}[33m WARN\u{1b}[0m GET /a\u{202e}b 404\n";
        assert_eq!(harmless_but_for_colours(line), "\u{1b}[33m WARN\u{1b}[0m GET /a\\u202eb 404\n");
    }
}
