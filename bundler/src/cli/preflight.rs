//! What `install` found before it changed anything, for a person.

use std::fmt::Write as _;

use bundler::install::diff::What;
use bundler::install::preflight::{Level, Planned, Preflight};

use super::Printer;

/// All of it.
pub fn text(found: &Preflight, with_diff: bool) -> String {
    let mut text = format!("cluster {}\n", found.version);
    for finding in &found.findings {
        let level = match finding.level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        let _ = writeln!(text, "{level}: {}", finding.what);
    }
    for release in &found.releases {
        planned(release, with_diff, &mut text);
    }
    text
}

/// The same on stderr, while an install goes on; errors are said at its end.
pub fn say(printer: &Printer, found: &Preflight, with_diff: bool) {
    for finding in &found.findings {
        match finding.level {
            Level::Error => {}
            Level::Warning => printer.warn(&finding.what),
            Level::Note => printer.note(&finding.what),
        }
    }
    let mut text = String::new();
    found.releases.iter().for_each(|release| planned(release, with_diff, &mut text));
    printer.note(text.trim_end());
}

fn planned(release: &Planned, with_diff: bool, text: &mut String) {
    let Planned { release: name, namespace, revision, changes, hooks } = release;
    let count = |what: What| changes.iter().filter(|change| change.what == what).count();
    let now = revision.map_or("not installed yet".into(), |revision| format!("revision {revision} now"));
    let _ = writeln!(
        text,
        "release {name} in {namespace} ({now}): {} objects added, {} changed, {} removed, {} hooks",
        count(What::Added),
        count(What::Changed),
        count(What::Removed),
        hooks.len()
    );
    for change in changes {
        if with_diff {
            text.push_str(&change.diff);
        } else if revision.is_some() {
            let sign = match change.what {
                What::Added => '+',
                What::Changed => '~',
                What::Removed => '-',
            };
            let _ = writeln!(text, "  {sign} {}", change.object);
        }
    }
}
