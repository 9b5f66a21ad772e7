//! Build and push through a line on which anything can happen, and then through an honest one.

use super::kill::{all_there, left_over};
use super::proxy::Proxy;
use super::world::{World, complete, finish};
use super::{Broken, Round, look};

/// Exit codes that a bad line may lead to: other bytes than the digest says, and the network.
const MAY_BE: [i32; 3] = [0, 2, 3];
/// In so many rounds there is one with a silence that is longer than airlock waits.
const LONG_SILENCE: usize = 20;

pub fn round(world: &mut World, round: &mut Round) -> Result<(), Broken> {
    if round.number.is_multiple_of(2) { build(world, round) } else { push(world, round) }
}

/// A line to `to`, on which so many of a thousand requests go wrong.
fn line(to: &str, round: &mut Round) -> Result<Proxy, Broken> {
    let often = [10, 40, 150][round.rng.usize(..3)];
    let seed = round.rng.u64(..);
    Ok(Proxy::start(to, often, round.number % LONG_SILENCE >= LONG_SILENCE - 2, seed)?)
}

fn build(world: &World, round: &mut Round) -> Result<(), Broken> {
    let (dir, source) = (world.round_dir()?, world.source.host.clone());
    let proxy = line(&source, round)?;
    let out = dir.join("out.tar");
    for _ in 0..round.rng.usize(1..=3) {
        match finish(world.build(&dir, &proxy.host, &[])?)? {
            (0, _) => world.check_bundle(&out).map_err(accepted)?,
            (code, done) => may_be(code, &done.stderr)?,
        }
    }
    round.hit = proxy.hits();
    if out.exists() {
        world.check_bundle(&out)?;
    }
    complete(world.build(&dir, &source, &[])?)?;
    world.check_bundle(&out)?;
    left_over(&dir, round)
}

fn push(world: &mut World, round: &mut Round) -> Result<(), Broken> {
    let dir = world.round_dir()?;
    let (host, prefix) = world.site()?;
    let proxy = line(&host, round)?;
    let (bad, good) = (format!("{}/{prefix}", proxy.host), format!("{host}/{prefix}"));
    for _ in 0..round.rng.usize(1..=3) {
        match finish(world.push(&dir, &bad))? {
            (0, _) => all_there(world, &host, &prefix).map_err(accepted)?,
            (code, done) => may_be(code, &done.stderr)?,
        }
        look::whole(&host, &prefix)?;
    }
    round.hit = proxy.hits();
    complete(world.push(&dir, &good))?;
    all_there(world, &host, &prefix)?;
    // Where an upload through the bad line would have gone on is kept, for a run through that line; a week.
    let uploads = dir.join("cache/airlock/uploads");
    round.left += std::fs::read_dir(&uploads).map_or(0, Iterator::count);
    crate::parts::remove(&uploads);
    left_over(&dir, round)
}

fn accepted(broken: Broken) -> Broken {
    match broken {
        Broken::Half(why) => Broken::Accepted(format!("exit code 0, and {why}")),
        other => other,
    }
}

fn may_be(code: i32, stderr: &[u8]) -> Result<(), Broken> {
    if MAY_BE.contains(&code) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(stderr);
    Err(Broken::Failed(format!("a bad line: exit code {code}\n{said}")))
}
