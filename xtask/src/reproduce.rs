//! `cargo xtask reproduce`: the program built twice from the last commit, in two directories; both must be the same bytes.
//!
//! Paths are what would differ: they are in messages of panics. So this machine's are written as others, which are the same
//! everywhere, and whoever builds the same commit with the same compiler in this way gets the same program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::parts::{self, Scratch};
use crate::sh::{command, run as quietly, text};
use crate::{Failure, Outcome};

/// Their names and depths differ.
const PLACES: [&str; 2] = ["one", "another/place/of/it"];

/// Builds, compares, and puts the program to `output`, if that is wanted.
///
/// # Errors
/// When it does not build, the two differ, or one has a path of this machine in it.
pub fn run(output: Option<&str>) -> Outcome {
    let scratch = Scratch::create()?;
    let mut programs = Vec::new();
    for place in PLACES {
        println!("building in {place}");
        programs.push(build(&scratch.path(place))?);
    }
    let [one, other] = programs.as_slice() else { return Err("a build is missing".into()) };
    if let Some(at) = (0..one.len().max(other.len())).find(|at| one.get(*at) != other.get(*at)) {
        return Err(format!("the same commit, built in two places, differs from byte {at} on"));
    }
    for path in [cargo_home()?, scratch.path("")].iter().chain(std::env::home_dir().iter()) {
        let path = text(path)?.trim_end_matches('/');
        if path.len() > 1 && one.windows(path.len()).any(|bytes| bytes == path.as_bytes()) {
            return Err(format!("the program has {path} in it, which is of this machine"));
        }
    }
    if let Some(output) = output {
        write_program(Path::new(output), one)?;
    }
    println!("the same {} bytes twice: sha256:{}", one.len(), hex::encode(Sha256::digest(one)));
    Ok(())
}

/// The program of the last commit, built in an empty directory, which goes again.
fn build(dir: &Path) -> Result<Vec<u8>, Failure> {
    fs::create_dir_all(dir).map_err(|e| format!("making {}: {e}", dir.display()))?;
    let (archive, target) = (dir.join("commit.tar"), dir.join("target"));
    // A checkout may be somebody else's, as in a container.
    let whose = ["-c", "safe.directory=*"];
    quietly(command("git", &whose).args(["archive", "--output", text(&archive)?, "HEAD"]))?;
    quietly(&mut command("tar", &["-xf", text(&archive)?, "-C", text(dir)?]))?;
    // By a wrapper: cargo makes names of symbols of the flags that it knows of, and a place is not to be in them.
    let wrapper = dir.join("rustc.sh");
    let remap =
        |from: &Path, to: &str| Ok::<_, Failure>(format!("'--remap-path-prefix={}={to}'", text(from)?));
    // Of several that fit, the last counts.
    let flags = [remap(&cargo_home()?, "/cargo")?, remap(dir, "/airlock")?].join(" ");
    write_program(&wrapper, format!("#!/bin/sh\nexec \"$@\" {flags}\n").as_bytes())?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--package", "bundler"]).env("RUSTC_WRAPPER", &wrapper);
    cargo.arg("--target-dir").arg(&target).current_dir(dir);
    for inherited in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_MANIFEST_DIR"] {
        cargo.env_remove(inherited);
    }
    let status = cargo.status().map_err(|e| format!("starting cargo: {e}"))?;
    if !status.success() {
        return Err(format!("building in {}: {status}", dir.display()));
    }
    let program = program(&target)?;
    let bytes = fs::read(&program).map_err(|e| format!("reading {}: {e}", program.display()))?;
    parts::remove(dir);
    Ok(bytes)
}

/// `target/TRIPLE/release/airlock`.
fn program(target: &Path) -> Result<PathBuf, Failure> {
    let entries = fs::read_dir(target).map_err(|e| format!("reading {}: {e}", target.display()))?;
    let mut programs = entries.flatten().map(|entry| entry.path().join("release/airlock"));
    programs
        .find(|path| path.is_file())
        .ok_or_else(|| format!("cargo built no airlock in {}", target.display()))
}

fn cargo_home() -> Result<PathBuf, Failure> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).ok_or_else(|| "cargo has no home".into())
}

fn write_program(path: &Path, bytes: &[u8]) -> Outcome {
    use std::os::unix::fs::PermissionsExt as _;
    let written =
        fs::write(path, bytes).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
    written.map_err(|e| format!("writing {}: {e}", path.display()))
}
