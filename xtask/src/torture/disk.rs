//! A small file system of random size, on which something happens to be too large; and afterwards there is room.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::kill::{all_there, left_over, printed, same};
use super::world::{World, complete, digest, files, finish};
use super::{Broken, Round, look};
use crate::parts::{self, Place, Registry};
use crate::sh::{as_root, run, text};
use crate::{Failure, Outcome};

/// Room enough for everything.
const ENOUGH: u64 = 2 << 30;
/// Exit codes of a disk that is full here, and of a registry that has no room.
const FULL: i32 = 1;
const NETWORK: i32 = 3;

/// A file system in memory; unmounted at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(dir: PathBuf, size: u64) -> Result<Self, Failure> {
        fs::create_dir_all(&dir).map_err(|e| format!("making {}: {e}", dir.display()))?;
        let options = format!("size={size},mode=0777");
        run(&mut as_root("mount", &["-t", "tmpfs", "-o", &options, "airlock-torture", text(&dir)?]))?;
        Ok(Self(dir))
    }

    fn resize(&self, size: u64) -> Outcome {
        run(&mut as_root("mount", &["-o", &format!("remount,size={size}"), text(&self.0)?]))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        parts::remove(&self.0);
    }
}

pub fn round(world: &mut World, round: &mut Round) -> Result<(), Broken> {
    match round.number % 3 {
        0 => build(world, round),
        1 => push(world, round),
        _ => install(world, round),
    }
}

fn build(world: &World, round: &mut Round) -> Result<(), Broken> {
    let whole =
        fs::metadata(world.file("whole.tar")).map_err(|e| format!("measuring the bundle: {e}"))?.len();
    world.round_dir()?;
    // Bundle and cache together, or hardly the bundle alone, or neither.
    let disk = Tmpfs::mount(world.file("round/disk"), round.rng.u64(64 << 10..whole * 5 / 2))?;
    let (dir, source) = (disk.0.clone(), world.source.host.clone());
    let out = dir.join("out.tar");
    let fills = round.rng.bool();
    let after = world.build_time.mul_f64(round.rng.f64());
    let first = std::thread::scope(|scope| {
        // Somebody else needs the rest, at some moment.
        scope.spawn(|| {
            if fills {
                fill(&dir, after)
            }
        });
        finish(world.build(&dir, &source, &["--keep-blobs"])?)
    })?;
    match first {
        // There was room after all.
        (0, _) => world.check_bundle(&out)?,
        (FULL, _) if out.exists() => {
            return Err(Broken::Half("out.tar is there, and the disk was full".into()));
        }
        (FULL, done) if says_so(&done.stderr) => round.hit = 1,
        (code, done) => return Err(other(code, &done.stderr)),
    }
    let _ = fs::remove_file(dir.join("filler"));
    disk.resize(ENOUGH)?;
    complete(world.build(&dir, &source, &["--keep-blobs"])?)?;
    world.check_bundle(&out)?;
    left_over(&dir, round)
}

fn push(world: &World, round: &mut Round) -> Result<(), Broken> {
    let whole =
        fs::metadata(world.file("whole.tar")).map_err(|e| format!("measuring the bundle: {e}"))?.len();
    let dir = world.round_dir()?;
    let disk = Tmpfs::mount(dir.join("disk"), round.rng.u64(1 << 20..whole * 3 / 2))?;
    let registry = Registry::start(Place::Here, &disk.0.join("registry"))?;
    let site = format!("{}/full", registry.host);
    match finish(world.push(&dir, &site))? {
        (0, _) => kept(world, &registry.host, &disk.0, round.number)?,
        // Of its disk the registry says nothing.
        (NETWORK, _) => round.hit = 1,
        (code, done) => return Err(other(code, &done.stderr)),
    }
    disk.resize(ENOUGH)?;
    look::readable(&registry.host, "full")?;
    complete(world.push(&dir, &site))?;
    kept(world, &registry.host, &disk.0, round.number)?;
    drop((registry, disk));
    left_over(&dir, round)
}

/// Whether a registry has what it has confirmed.
fn kept(world: &World, host: &str, storage: &Path, number: usize) -> Result<(), Broken> {
    match all_there(world, host, "full") {
        // That is nothing that a push could see or mend.
        Err(Broken::Failed(why)) if why.contains(" 500 ") && has_lost(storage)? => {
            println!("full-disk, round {number}: the registry has confirmed a manifest that it has not kept");
            Ok(())
        }
        outcome => outcome,
    }
}

/// Whether the storage of CNCF distribution has a blob that is not what its name says.
fn has_lost(storage: &Path) -> Result<bool, Failure> {
    for name in
        files(storage)?.iter().filter(|name| name.contains("/blobs/sha256/") && name.ends_with("/data"))
    {
        let said = name.trim_end_matches("/data").rsplit('/').next().unwrap_or_default();
        if digest(&storage.join(name))? != said {
            return Ok(true);
        }
    }
    Ok(false)
}

fn install(world: &World, round: &mut Round) -> Result<(), Broken> {
    let dir = world.round_dir()?;
    let disk = Tmpfs::mount(dir.join("tmp"), round.rng.u64(4 << 10..64 << 10))?;
    match finish(world.install(&dir))? {
        (0, done) => same(world, &done.stdout)?,
        (FULL, done) if says_so(&done.stderr) => round.hit = 1,
        (code, done) => return Err(other(code, &done.stderr)),
    }
    disk.resize(ENOUGH)?;
    printed(world, world.install(&dir))?;
    left_over(&dir, round)
}

fn says_so(stderr: &[u8]) -> bool {
    String::from_utf8_lossy(stderr).contains("No space left on device")
}

fn other(code: i32, stderr: &[u8]) -> Broken {
    Broken::Failed(format!("a full disk: exit code {code}\n{}", String::from_utf8_lossy(stderr)))
}

/// Writes until there is no room.
fn fill(dir: &Path, after: Duration) {
    std::thread::sleep(after);
    if let Ok(mut file) = fs::File::create(dir.join("filler")) {
        while file.write_all(&[1; 64 << 10]).is_ok() {}
    }
}
