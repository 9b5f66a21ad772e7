//! Other programs, run so that what went wrong can be read.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::{Failure, Outcome};

/// A program with arguments, ready to run.
pub fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// The same as root: as it is when we are root, else by `sudo -n`, which never asks.
pub fn as_root(program: &str, args: &[&str]) -> Command {
    if is_root() { command(program, args) } else { command("sudo", &[&["-n", program], args].concat()) }
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| command("id", &["-u"]).output().is_ok_and(|o| o.stdout == b"0\n"))
}

/// Whether commands can be run as root.
pub fn can_be_root() -> bool {
    is_root() || command("sudo", &["-n", "true"]).output().is_ok_and(|o| o.status.success())
}

/// What a program prints on stdout, without the last newline.
///
/// # Errors
/// When it can't be started, or fails: with the command, and what it said.
pub fn output(command: &mut Command) -> Result<String, Failure> {
    let output = command.output().map_err(|e| format!("{}: could not be started: {e}", shown(command)))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let tail: Vec<&str> = said.trim_end().lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        return Err(format!("{}: {}\n{}", shown(command), output.status, tail.join("\n")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().into())
}

/// Runs a program whose output matters only when it fails.
///
/// # Errors
/// As [`output`].
pub fn run(command: &mut Command) -> Outcome {
    output(command).map(drop)
}

/// A command as a person would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A path as a command's argument.
///
/// # Errors
/// When it is not UTF-8.
pub fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| format!("{}: the path is not UTF-8", path.display()))
}
