//! `cargo xtask test`: sets up the real parts, runs every test, adds up the results.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::{Outcome, tools};

/// Results of one or several test binaries.
#[derive(Default, Debug, PartialEq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`; other lines add nothing.
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        for part in counts.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// Runs all tests; the last line printed is `N passed, N failed, N skipped`.
///
/// # Errors
/// When a part can't be installed, a test fails, or no test ran.
pub fn run() -> Outcome {
    tools::ensure()?;
    let mut cargo = Command::new("cargo")
        .args(["test", "--workspace", "--no-fail-fast", "--", "--include-ignored"])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("starting cargo test: {e}"))?;
    let mut tally = Tally::default();
    if let Some(stdout) = cargo.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.map_err(|e| format!("reading what cargo test prints: {e}"))?;
            tally.add(&line);
            println!("{line}");
        }
    }
    let status = cargo.wait().map_err(|e| format!("waiting for cargo test: {e}"))?;
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    match (status.success(), tally.passed) {
        (true, 1..) => Ok(()),
        (true, 0) => Err("no test ran".into()),
        (false, _) => Err(format!("tests failed ({status}): see above")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_add_up_and_others_do_not() {
        let mut tally = Tally::default();
        tally.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        tally.add("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.add("test says: 7 passed");
        assert_eq!(tally, Tally { passed: 5, failed: 4, skipped: 1 });
    }
}
