//! Results to stdout, everything else to stderr; progress only at a terminal.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bundler::progress::{Progress, Silent};
use bundler::{Error, Result};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

/// All output goes through it.
pub struct Printer {
    json: bool,
    color: bool,
}

/// Whether a person sees stderr.
pub fn at_terminal() -> bool {
    std::io::stderr().is_terminal()
}

impl Printer {
    /// Starts logging, too.
    pub fn new(json: bool, verbose: u8, color: bool) -> Self {
        let level = ["bundler=warn,airlock=warn", "bundler=info,airlock=info", "bundler=debug,airlock=debug"];
        let filter = level.get(usize::from(verbose)).copied().unwrap_or("debug");
        let format =
            tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(color).with_target(false);
        // A second subscriber can only be there in a test.
        let _ = format.without_time().with_env_filter(EnvFilter::new(filter)).try_init();
        Self { json, color }
    }

    /// A result: `value` as JSON, or `text` for a person.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if self.json {
            let json = serde_json::to_string_pretty(value).map_err(|e| Error::input("writing JSON", e))?;
            self.raw(&format!("{json}\n"))
        } else {
            self.raw(&text())
        }
    }

    /// Text to stdout as it is.
    pub fn raw(&self, text: &str) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            // `airlock inspect | head` is no failure.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|e| Error::input("writing to stdout", e)),
        }
    }

    /// A line about what is going on.
    pub fn note(&self, text: &str) {
        self.stderr(&format!("{text}\n"));
    }

    /// A line that should be noticed.
    pub fn warn(&self, text: &str) {
        self.stderr(&format!("{} {text}\n", self.paint("33", "warning:")));
    }

    /// Why a verb failed, and what to do.
    pub fn error(&self, error: &Error) {
        if self.json {
            let value = serde_json::json!({
                "error": error.to_string(), "exit_code": error.kind().exit_code(), "hint": error.hint_text(),
            });
            return self.stderr(&format!("{value}\n"));
        }
        let mut text = format!("{} {error}\n", self.paint("31;1", "error:"));
        if let Some(hint) = error.hint_text() {
            let _ = writeln!(text, "{} {hint}", self.paint("36", "hint:"));
        }
        self.stderr(&text);
    }

    /// Draws progress at a terminal, and nothing elsewhere.
    pub fn progress(&self) -> Arc<dyn Progress> {
        if at_terminal() && !self.json { Arc::new(Bar::default()) } else { Arc::new(Silent) }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.into() }
    }

    fn stderr(&self, text: &str) {
        // There is nowhere left to say that stderr is closed.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

/// `1.2 MiB`.
pub fn human(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// A bar with bytes done, rate and time left.
#[derive(Default)]
struct Bar(Mutex<Option<ProgressBar>>);

impl Bar {
    fn with(&self, f: impl FnOnce(&mut Option<ProgressBar>)) {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Progress for Bar {
    fn begin(&self, step: &str, bytes: u64) {
        let style =
            ProgressStyle::with_template("{msg:>9} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        let bar = ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(step.to_string());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.with(|slot| *slot = Some(bar));
    }

    fn advance(&self, bytes: u64) {
        self.with(|slot| slot.iter().for_each(|bar| bar.inc(bytes)));
    }

    fn end(&self) {
        self.with(|slot| slot.take().iter().for_each(ProgressBar::finish_and_clear));
    }
}
