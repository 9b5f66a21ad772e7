//! The project's own commands: `cargo xtask test`.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a developer's tool: its output is its purpose

mod test;
mod tools;

use std::process::ExitCode;

/// What a command ends with: nothing, or a sentence that says what failed and what to do.
type Outcome = Result<(), String>;

const USAGE: &str = "usage: cargo xtask test    set up the real parts and run all tests";

fn main() -> ExitCode {
    let verb = std::env::args().nth(1).unwrap_or_default();
    let outcome = match verb.as_str() {
        "test" => test::run(),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
