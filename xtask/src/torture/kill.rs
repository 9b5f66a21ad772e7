//! SIGKILL at a random moment, up to three times in a row, and then the same command again.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::world::{World, complete, files};
use super::{Broken, Round, look};
use crate::sh::shown;

/// Starts a command, and kills it somewhere in the time that it takes, or a little after.
fn kill(mut command: Command, time: Duration, round: &mut Round) -> Result<(), Broken> {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| format!("{}: {e}", shown(&command)))?;
    std::thread::sleep(time.mul_f64(round.rng.f64() * 1.1));
    let failed = |e| format!("killing {}: {e}", shown(&command));
    let still_ran = child.try_wait().map_err(failed)?.is_none();
    child.kill().and_then(|()| child.wait()).map_err(failed)?;
    round.hit += usize::from(still_ran);
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
    let done = complete(command)?;
    match String::from_utf8_lossy(&done.stdout).trim_end() == world.manifests {
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
    for name in files(dir) {
        let name = name.as_str();
        let is_kept = name == "out.tar" || name.starts_with("cache/airlock/blobs/sha256/");
        let is_helms = name.starts_with("home/") || name.starts_with("cache/helm/");
        if name.contains("/.partial-") || name.starts_with("tmp/airlock-") {
            round.left += 1;
        } else if !is_kept && !is_helms {
            return Err(Broken::LeftOver(format!("{name} is still there when all is done")));
        }
    }
    Ok(())
}
