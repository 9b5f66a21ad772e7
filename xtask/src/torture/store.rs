//! SIGKILL for both ends of a push: `serve --store` and who pushes to it, at a random moment, up to three times in a row; after
//! each what the store shows is looked at by a new process, and then the push is done.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::kill::{all_there, left_over};
use super::look::Tags;
use super::world::{World, complete, digest, files, killed};
use super::{Broken, Round, look};
use crate::Failure;
use crate::parts::Place;
use crate::sh::{output, shown, text};

/// How soon a store must listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A store that is served; it is killed when this is dropped.
struct Served(Option<Child>);

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Served {
    /// Kills it. It ran until now, said nothing of a panic, and nothing of damage.
    fn end(mut self) -> Result<(), Broken> {
        let Some(mut child) = self.0.take() else { return Ok(()) };
        let failed = |e| format!("killing a store: {e}");
        let ended = child.try_wait().map_err(failed)?;
        child.kill().map_err(failed)?;
        let said = child.wait_with_output().map_err(failed)?.stderr;
        let said = String::from_utf8_lossy(&said);
        let is_bad = ended.is_some() || ["panicked at", "damaged"].iter().any(|word| said.contains(word));
        if is_bad { Err(Broken::Failed(format!("a store: {ended:?}\n{said}"))) } else { Ok(()) }
    }

    fn start(world: &World, dir: &Path, host: &str) -> Result<Self, Failure> {
        let store = dir.join("store");
        let mut command = world.airlock(
            dir,
            "127.0.0.1:9",
            &["--quiet", "serve", "--store", text(&store)?, "--listen", host],
        );
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|e| format!("{}: {e}", shown(&command)))?;
        let mut served = Self(Some(child));
        let begin = Instant::now();
        while TcpStream::connect(host).is_err() {
            let ended = served
                .0
                .as_mut()
                .map_or(Ok(None), Child::try_wait)
                .map_err(|e| format!("{}: {e}", shown(&command)))?;
            if ended.is_some() || begin.elapsed() > PATIENCE {
                return Err(format!("{}: it does not listen ({ended:?})", shown(&command)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(served)
    }
}

/// How long a push to a store takes when nothing goes wrong.
pub fn time(world: &World) -> Result<Duration, Failure> {
    let dir = world.round_dir()?;
    let host = format!("127.0.0.1:{}", Place::Here.free_port()?);
    let _server = Served::start(world, &dir, &host)?;
    let begin = Instant::now();
    output(&mut world.push(&dir, &format!("{host}/site")))?;
    Ok(begin.elapsed())
}

pub fn kill(world: &mut World, round: &mut Round) -> Result<(), Broken> {
    let dir = world.round_dir()?;
    let world = &*world;
    let host = format!("127.0.0.1:{}", Place::Here.free_port()?);
    let (site, start) = (format!("{host}/site"), || Served::start(world, &dir, &host));
    let mut seen = Tags::new();
    for _ in 0..round.rng.usize(1..=3) {
        let server = start()?;
        // What the last one showed is seen by the next.
        keeps(&mut seen, &host)?;
        let mut push = world.push(&dir, &site);
        push.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut push = push.spawn().map_err(|e| format!("starting a push: {e}"))?;
        std::thread::sleep(world.store_time.mul_f64(round.rng.f64() * 1.1));
        let failed = |e| format!("killing a push: {e}");
        round.hit += usize::from(push.try_wait().map_err(failed)?.is_none());
        // Whatever has a tag now has it after the kill.
        if round.rng.bool() {
            keeps(&mut seen, &host)?;
        }
        server.end()?;
        // It may have noticed that the other end is gone, or not yet.
        std::thread::sleep(Duration::from_millis(round.rng.u64(..20)));
        killed(push, "a push")?;
        named_by_content(&dir)?;
    }
    let server = start()?;
    keeps(&mut seen, &host)?;
    complete(world.push(&dir, &site))?;
    all_there(world, &host, "site")?;
    server.end()?;
    let server = start()?;
    all_there(world, &host, "site")?;
    server.end()?;
    named_by_content(&dir)?;
    // Uploads of runs that were killed go a day later.
    round.left += files(&dir.join("store/uploads"))?.len();
    let _ = fs::remove_dir_all(dir.join("store"));
    left_over(&dir, round)
}

/// Whether all that was seen before is there, and whole; and what more there is.
fn keeps(seen: &mut Tags, host: &str) -> Result<(), Broken> {
    let now = look::whole(host, "site")?;
    match seen.iter().find(|(name, digest)| now.get(*name) != Some(*digest)) {
        Some((name, _)) => Err(Broken::Half(format!("{name} was there, and is not any more"))),
        None => {
            *seen = now;
            Ok(())
        }
    }
}

/// Whether each blob in the store is what its name says.
fn named_by_content(dir: &Path) -> Result<(), Broken> {
    let blobs = dir.join("store/blobs/sha256");
    for name in files(&blobs)? {
        // What was on its way to a name when the machine stopped has none yet.
        if name.len() == 64 && digest(&blobs.join(&name))? != name {
            return Err(Broken::Half(format!("the store has another content under {name}")));
        }
    }
    Ok(())
}
