//! The real parts that tests run against, installed where they are missing.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::Outcome;

/// A program that tests start, and the Debian package that has it.
struct Part {
    program: &'static str,
    package: &'static str,
}

const PARTS: &[Part] = &[Part { program: "redis-server", package: "redis-server" }];

/// Installs what is missing, and says what it installs.
///
/// # Errors
/// When something is missing and can't be installed: the message holds the command to run as root.
pub fn ensure() -> Outcome {
    let missing: Vec<&str> = PARTS.iter().filter(|p| !on_path(p.program)).map(|p| p.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get update && apt-get install --no-install-recommends {}", missing.join(" "));
    eprintln!("installing Debian packages: {}", missing.join(" "));
    apt(&["update"]).map_err(|why| format!("{why}\nhint: as root, run: {by_hand}"))?;
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install).map_err(|why| format!("{why}\nhint: as root, run: {by_hand}"))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
        || Path::new("/usr/sbin").join(program).is_file()
}

/// Runs apt-get as root: directly when we are root, else by `sudo -n`, which never asks.
fn apt(args: &[&str]) -> Outcome {
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n");
    let mut command = if root {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "apt-get"]);
        sudo
    };
    let status = command
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|e| format!("installing Debian packages: {command:?} could not be started: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("installing Debian packages: {command:?} ended with {status}"))
    }
}
