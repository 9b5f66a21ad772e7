//! Programs that airlock runs: helm, credential helpers, signers. They get its environment without its secrets.

use std::ffi::OsStr;
use std::process::Command;

/// Environment variables with a key's password. The first is ours, the second cosign's.
pub(crate) const PASSWORDS: [&str; 2] = ["AIRLOCK_PASSWORD", "COSIGN_PASSWORD"];

/// Makes a command whose environment has no password of a key: a helm may have come in a bundle, and a plugin from anywhere.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for variable in PASSWORDS {
        command.env_remove(variable);
    }
    command
}
