//! What a person sees while releases are installed: which one it is, and what of it is not ready and why.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bundler::install::Observer;
use bundler::install::waiting::Trouble;
use indicatif::{ProgressBar, ProgressStyle};

use super::printer::{harmless, stderr};

/// Most lines that are drawn at a terminal.
const LINES: usize = 12;

/// Lines that are redrawn.
#[derive(Default)]
pub struct Live(Mutex<Option<ProgressBar>>);

impl Live {
    fn with(&self, f: impl FnOnce(&mut Option<ProgressBar>)) {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Observer for Live {
    fn begin(&self, release: &str) {
        let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
        let bar =
            ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_message(format!("installing {release}"));
        bar.enable_steady_tick(Duration::from_millis(200));
        self.with(|slot| *slot = Some(bar));
    }

    fn waiting(&self, release: &str, troubles: &[Trouble]) {
        let mut text = format!("installing {release}");
        for trouble in troubles.iter().take(LINES) {
            text.push_str(&format!("\n    {}", harmless(&trouble.to_string())));
        }
        if troubles.len() > LINES {
            text.push_str(&format!("\n    and {} more", troubles.len() - LINES));
        }
        self.with(|slot| slot.iter().for_each(|bar| bar.set_message(text.clone())));
    }

    fn end(&self, _: &str) {
        self.with(|slot| slot.take().iter().for_each(ProgressBar::finish_and_clear));
    }
}

/// Silence.
pub struct Nothing;

impl Observer for Nothing {
    fn begin(&self, _: &str) {}

    fn waiting(&self, _: &str, _: &[Trouble]) {}

    fn end(&self, _: &str) {}
}

/// A line for what is new.
#[derive(Default)]
pub struct Lines(Mutex<BTreeSet<Trouble>>);

impl Observer for Lines {
    fn begin(&self, release: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
        stderr(&format!("installing {}\n", harmless(release)));
    }

    fn waiting(&self, _: &str, troubles: &[Trouble]) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for trouble in troubles {
            if said.insert(trouble.clone()) {
                stderr(&format!("  {}\n", harmless(&trouble.to_string())));
            }
        }
    }

    fn end(&self, _: &str) {}
}
