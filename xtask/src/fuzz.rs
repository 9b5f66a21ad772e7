//! `cargo xtask fuzz`: the readers of foreign bytes under libFuzzer, one after the other, from the kept seeds.
//!
//! The flags are those that cargo-fuzz passes without a sanitizer, and the pinned compiler has all of them. No sanitizer,
//! since the workspace forbids unsafe code: what counts is panics, wrong sums, broken assertions, time and memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::sh::text;
use crate::tools::packages;
use crate::{Failure, Outcome};

/// Each is a file in `fuzz/fuzz_targets`.
const TARGETS: [&str; 8] =
    ["bundle", "manifest", "lock", "spec", "reference", "rewrite", "requests", "store"];
/// How long each runs, unless told otherwise, in seconds.
const SECONDS: u64 = 60;
/// Largest sum of a target's seeds, in bytes.
const SEEDS: u64 = 200 << 10;

/// Counts which branches an input takes and what it compares, so that new ones are told from old ones.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "--cfg=fuzzing",
];

/// Most that one input may take: seconds, and MiB of memory.
const LIMITS: [&str; 2] = ["-timeout=25", "-rss_limit_mb=2048"];

/// What is done with the targets.
enum Task<'a> {
    /// New inputs are tried for so long.
    Search(u64),
    /// One input is tried.
    Replay(&'a str),
    /// What took new branches becomes seeds.
    Keep,
}

/// Builds the targets and runs one, or all.
///
/// # Errors
/// When they don't build, or one has a finding: with how to try it again.
pub fn run(options: &[&str]) -> Outcome {
    let (only, task) = read(options)?;
    let targets: Vec<&str> =
        TARGETS.into_iter().filter(|target| only.is_none_or(|only| only == *target)).collect();
    for (target, program) in build(&targets)? {
        println!("== {target}");
        let begin = std::time::Instant::now();
        match task {
            Task::Search(seconds) => search(&target, &program, seconds)?,
            Task::Replay(input) => succeed(Command::new(&program).args(LIMITS).arg(input), &target, input)?,
            Task::Keep => keep(&target, &program)?,
        }
        println!("== {target}: no finding, {} s", begin.elapsed().as_secs());
    }
    Ok(())
}

fn read<'a>(options: &[&'a str]) -> Result<(Option<&'a str>, Task<'a>), Failure> {
    let (only, rest) = match options {
        [target, rest @ ..] if TARGETS.contains(target) => (Some(*target), rest),
        all => (None, all),
    };
    match (only, rest) {
        (_, []) => Ok((only, Task::Search(SECONDS))),
        (_, ["--seconds", seconds]) => {
            let seconds = seconds.parse().map_err(|e| format!("--seconds {seconds}: {e}"))?;
            Ok((only, Task::Search(seconds)))
        }
        (_, ["--keep"]) => Ok((only, Task::Keep)),
        (Some(_), [input]) if Path::new(input).is_file() => Ok((only, Task::Replay(input))),
        _ => Err(format!("no target, file or option: {}\ntargets: {}", rest.join(" "), TARGETS.join(", "))),
    }
}

/// Each target's program.
fn build(targets: &[&str]) -> Result<Vec<(String, PathBuf)>, Failure> {
    packages(&[("g++", "g++")])?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--manifest-path", "fuzz/Cargo.toml"]);
    cargo.args(["--target-dir", "target/fuzz", "--message-format", "json-render-diagnostics"]);
    cargo.args(targets.iter().flat_map(|target| ["--bin", target]));
    // These take the place of the workspace's, whose static C library libFuzzer does without.
    cargo.env("RUSTFLAGS", FLAGS.join(" ")).env_remove("CARGO_ENCODED_RUSTFLAGS");
    let done = cargo.stderr(std::process::Stdio::inherit()).output();
    let done = done.map_err(|e| format!("starting cargo: {e}"))?;
    if !done.status.success() {
        return Err(format!("building the fuzz targets: {}", done.status));
    }
    let messages = String::from_utf8_lossy(&done.stdout);
    let built: Vec<Value> = messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let program = |target: &&str| {
        let has =
            |message: &&Value| message["target"]["name"] == **target && message["executable"].is_string();
        let path = built.iter().find(has).and_then(|message| message["executable"].as_str());
        path.map(|path| ((*target).into(), path.into())).ok_or_else(|| format!("cargo built no {target}"))
    };
    targets.iter().map(program).collect()
}

fn seeds(target: &str) -> PathBuf {
    Path::new("fuzz/seeds").join(target)
}

/// A directory of this target's, made if need be; not in git.
fn directory(kind: &str, target: &str) -> Result<PathBuf, Failure> {
    let dir = Path::new("fuzz").join(kind).join(target);
    fs::create_dir_all(&dir).map_err(|e| format!("making {}: {e}", dir.display()))?;
    Ok(dir)
}

fn search(target: &str, program: &Path, seconds: u64) -> Outcome {
    let (corpus, findings) = (directory("corpus", target)?, directory("artifacts", target)?);
    let mut fuzzer = Command::new(program);
    fuzzer.arg(corpus).arg(seeds(target)).args(LIMITS);
    fuzzer.arg(format!("-artifact_prefix={}/", findings.display()));
    fuzzer.arg(format!("-max_total_time={seconds}")).args(["-print_final_stats=1", "-verbosity=0"]);
    succeed(&mut fuzzer, target, &format!("the file named above, in {}", findings.display()))
}

/// Adds to the seeds what covers all that corpus and seeds cover, the smallest first, as far as there is room.
fn keep(target: &str, program: &Path) -> Outcome {
    let (corpus, kept) = (directory("corpus", target)?, directory("kept", target)?);
    let mut fuzzer = Command::new(program);
    fuzzer.args(["-set_cover_merge=1"]).arg(&kept).arg(seeds(target)).arg(corpus).args(LIMITS);
    succeed(&mut fuzzer, target, "one of its corpus")?;
    let there: BTreeSet<_> = contents(&seeds(target))?.into_iter().map(|(content, _)| content).collect();
    let mut sum = there.iter().map(|content| content.len() as u64).sum::<u64>();
    let (mut added, mut left_out) = (0, 0);
    for (content, path) in contents(&kept)?.iter().filter(|(content, _)| !there.contains(content)) {
        if sum + content.len() as u64 > SEEDS {
            left_out += 1;
            continue;
        }
        sum += content.len() as u64;
        added += 1;
        fs::copy(path, seeds(target).join(path.file_name().unwrap_or_default()))
            .map_err(|e| format!("keeping {}: {e}", path.display()))?;
    }
    fs::remove_dir_all(&kept).map_err(|e| format!("removing {}: {e}", kept.display()))?;
    println!("{added} inputs added, {sum} bytes now; {left_out} had no room");
    Ok(())
}

/// What is in the files of a directory, the smallest first.
fn contents(dir: &Path) -> Result<Vec<(Vec<u8>, PathBuf)>, Failure> {
    let failed = |e: std::io::Error| format!("reading {}: {e}", dir.display());
    let mut files = vec![];
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        files.push((fs::read(&path).map_err(failed)?, path));
    }
    files.sort_by_key(|(content, _)| content.len());
    Ok(files)
}

/// Runs a target; a failure of it is a finding.
fn succeed(fuzzer: &mut Command, target: &str, input: &str) -> Outcome {
    let status = fuzzer.env("RUST_BACKTRACE", "1").status();
    let status = status.map_err(|e| format!("starting {target}: {e}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!(
        "a FINDING in fuzz target {target} ({status}): {input}\n\
         to try it again: cargo xtask fuzz {target} FILE\n\
         when it is mended, put the file into {} and add a test beside the code",
        text(&seeds(target))?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_built_and_has_seeds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).expect("the manifest");
        for target in TARGETS {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
            let seeds: Vec<_> = fs::read_dir(root.join(seeds(target))).expect(target).flatten().collect();
            let sizes = seeds.iter().map(|seed| seed.metadata().expect("its size").len());
            assert!((1..=SEEDS).contains(&sizes.sum()), "{target}");
        }
    }
}
