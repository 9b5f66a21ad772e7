//! SIGKILL at a random moment, up to three times in a row, and then the same command again.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::world::{World, complete, digest, files, killed};
use super::{Broken, Round, look};
use crate::sh::shown;

/// Starts a command, and kills it somewhere in the time that it takes, or a little after.
fn kill(mut command: Command, time: Duration, round: &mut Round) -> Result<(), Broken> {
    // What it says fits into the pipe.
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|e| format!("{}: {e}", shown(&command)))?;
    std::thread::sleep(time.mul_f64(round.rng.f64() * 1.1));
    round.hit += usize::from(killed(child, &shown(&command))?);
    Ok(())
}

pub fn build(world: &mut World, round: &mut Round) -> Result<(), Broken> {
    let (dir, source) = (world.round_dir()?, world.source.host.clone());
    let more: &[&str] = if round.rng.bool() { &["--keep-blobs"] } else { &[] };
    let out = dir.join("out.tar");
    for _ in 0..round.rng.usize(1..=3) {
        kill(world.build(&dir, &source, more)?, world.build_time, round)?;
        if out.exists() {
            world.check_bundle(&out)?;
        }
    }
    complete(world.build(&dir, &source, more)?)?;
    world.check_bundle(&out)?;
    left_over(&dir, round)
}

pub fn push(world: &mut World, round: &mut Round) -> Result<(), Broken> {
    let dir = world.round_dir()?;
    let (host, prefix) = world.site()?;
    let site = format!("{host}/{prefix}");
    for _ in 0..round.rng.usize(1..=3) {
        kill(world.push(&dir, &site), world.push_time, round)?;
        // Nobody may see what is not whole, at any time.
        look::whole(&host, &prefix)?;
    }
    complete(world.push(&dir, &site))?;
    all_there(world, &host, &prefix)?;
    left_over(&dir, round)
}

pub fn install(world: &mut World, round: &mut Round) -> Result<(), Broken> {
    let dir = world.round_dir()?;
    for _ in 0..round.rng.usize(1..=3) {
        kill(world.install(&dir), world.install_time, round)?;
    }
    printed(world, world.install(&dir))?;
    left_over(&dir, round)
}

/// Runs `install --dry-run` to its end: it prints what it always does.
pub fn printed(world: &World, command: Command) -> Result<(), Broken> {
    same(world, &complete(command)?.stdout)
}

/// Whether these are the manifests that it always prints.
pub fn same(world: &World, stdout: &[u8]) -> Result<(), Broken> {
    match String::from_utf8_lossy(stdout).trim_end() == world.manifests {
        true => Ok(()),
        false => Err(Broken::Half("install --dry-run prints something else".into())),
    }
}

/// Whether a registry has all that a push puts there, and nothing else.
pub fn all_there(world: &World, host: &str, prefix: &str) -> Result<(), Broken> {
    let tags = look::whole(host, prefix)?;
    if tags == world.tags {
        return Ok(());
    }
    let other: Vec<_> = tags.iter().filter(|(name, digest)| world.tags.get(*name) != Some(digest)).collect();
    let lost: Vec<_> = world.tags.keys().filter(|name| !tags.contains_key(*name)).collect();
    Err(Broken::Half(format!("a push is done; lost: {lost:?}, other: {other:?}")))
}

/// What is in a round's directory when all is done: the bundle, and the cache. Unfinished files in the cache go a day later,
/// and what was unpacked for helm is the system's to remove; they are counted.
pub fn left_over(dir: &Path, round: &mut Round) -> Result<(), Broken> {
    for name in files(dir)? {
        let name = name.as_str();
        let is_kept = name == "out.tar" || name.starts_with("cache/airlock/blobs/sha256/");
        let is_helms = name.starts_with("home/") || name.starts_with("cache/helm/");
        // What is kept under a digest is that.
        if let Some(hex) = name.strip_prefix("cache/airlock/blobs/sha256/").filter(|hex| hex.len() == 64)
            && digest(&dir.join(name))? != hex
        {
            return Err(Broken::Half(format!("the cache has another content under {hex}")));
        }
        if name.contains("/.partial-") || name.starts_with("tmp/airlock-") {
            round.left += 1;
        } else if !is_kept && !is_helms {
            return Err(Broken::LeftOver(format!("{name} is still there when all is done")));
        }
    }
    Ok(())
}
