//! `cargo xtask torture`: the real airlock between real registries, killed, starved of room and lied to at random, and its
//! bundles damaged; and what is left each time looked at. Every choice follows from one seed, so that a round can be had
//! again: but for what the clock decides, such as how far a process had come when it was killed.

mod damage;
mod disk;
mod kill;
mod look;
mod network;
mod proxy;
mod store;
mod world;

use std::time::Instant;

use fastrand::Rng;

use self::world::World;
use crate::{Failure, Outcome};

/// What is done to it.
const PARTS: [(&str, Part); 8] = [
    ("kill-build", kill::build),
    ("kill-push", kill::push),
    ("kill-install", kill::install),
    ("kill-store", store::kill),
    ("full-disk", disk::round),
    ("network", network::round),
    ("flip", damage::flip),
    ("cut", damage::cut),
];
type Part = fn(&mut World, &mut Round) -> Result<(), Broken>;

/// Rounds of each part that kills, unless told otherwise.
const ROUNDS: usize = 200;
/// The same for continuous integration.
const QUICK: usize = 6;
/// Flipped bits for each of those rounds: they are quick.
const FLIPS: usize = 50;

/// One round: its own random choices, and what is counted.
struct Round {
    number: usize,
    rng: Rng,
    /// Faults that hit something that was still running, or that changed something.
    hit: usize,
    /// What is left for a later run, or the system, to remove, as documented.
    left: usize,
}

/// What must not be.
enum Broken {
    /// Something damaged was taken for good.
    Accepted(String),
    /// A tag that points to something incomplete, or a file under its final name that is.
    Half(String),
    /// Something that nobody will remove.
    LeftOver(String),
    /// A run that did not complete, or said something that it must not say.
    Failed(String),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Broken {
    /// In words.
    fn why(self) -> Failure {
        match self {
            Self::Accepted(why) | Self::Half(why) | Self::LeftOver(why) | Self::Failed(why) => why,
        }
    }
}

/// Counts of a part.
#[derive(Default)]
struct Tally {
    rounds: usize,
    hit: usize,
    left: usize,
    accepted: usize,
    half: usize,
    left_over: usize,
    failed: usize,
    seconds: f64,
}

impl Tally {
    fn broken(&self) -> usize {
        self.accepted + self.half + self.left_over + self.failed
    }

    fn note(&mut self, broken: &Broken) {
        *match broken {
            Broken::Accepted(_) => &mut self.accepted,
            Broken::Half(_) => &mut self.half,
            Broken::LeftOver(_) => &mut self.left_over,
            Broken::Failed(_) => &mut self.failed,
        } += 1;
    }
}

struct Options {
    seed: u64,
    rounds: usize,
    /// Parts; all, if none is named.
    only: Vec<String>,
    round: Option<usize>,
}

/// Runs all parts, and prints what came out as a table.
///
/// # Errors
/// When something can't be set up, or anything is not as it must be.
pub fn run(options: &[&str]) -> Outcome {
    let options = read(options)?;
    println!("seed {}", options.seed);
    let mut world = World::set_up()?;
    let mut tallies = Vec::new();
    for (name, part) in PARTS {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            tallies.push((name, rounds(&mut world, name, part, &options)));
        }
    }
    table(&tallies, &world)
}

fn rounds(world: &mut World, name: &str, part: Part, options: &Options) -> Tally {
    let (mut tally, begin) = (Tally::default(), Instant::now());
    let numbers = match options.round {
        Some(number) => number..number + 1,
        None => 0..world.rounds(name, options.rounds),
    };
    for number in numbers {
        let mut round = Round { number, rng: chance(options.seed, name, number), hit: 0, left: 0 };
        let outcome = part(world, &mut round);
        tally.rounds += 1;
        tally.hit += round.hit;
        tally.left += round.left;
        if let Err(broken) = outcome {
            tally.note(&broken);
            eprintln!("BROKEN, {name}: {}", broken.why());
            eprintln!("again: cargo xtask torture --seed {} --only {name} --round {number}", options.seed);
        }
        if tally.rounds.is_multiple_of(if name == "flip" { 1000 } else { 20 }) {
            println!("{name}: {} rounds, {} faults hit, {} broken", tally.rounds, tally.hit, tally.broken());
        }
    }
    tally.seconds = begin.elapsed().as_secs_f64();
    tally
}

/// The random choices of one round, whatever was before it.
fn chance(seed: u64, part: &str, number: usize) -> Rng {
    let mix = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let name = part.bytes().chain((number as u64).to_le_bytes());
    Rng::with_seed(name.fold(seed ^ 0xcbf2_9ce4_8422_2325, mix))
}

fn read(mut options: &[&str]) -> Result<Options, Failure> {
    let mut read = Options { seed: fastrand::u64(..1 << 32), rounds: ROUNDS, only: vec![], round: None };
    loop {
        let number = |name: &str, value: &str| value.parse().map_err(|e| format!("{name} {value}: {e}"));
        match *options {
            [] => return Ok(read),
            ["--quick", ..] => {
                read.rounds = QUICK;
                options = &options[1..];
                continue;
            }
            ["--seed", value, ..] => read.seed = number("--seed", value)?,
            ["--rounds", value, ..] => read.rounds = number("--rounds", value)? as usize,
            ["--round", value, ..] => read.round = Some(number("--round", value)? as usize),
            ["--only", value, ..] if PARTS.iter().any(|(name, _)| **name == *value) => {
                read.only.push((*value).into());
            }
            _ => {
                let names = PARTS.map(|(name, _)| name).join(", ");
                return Err(format!(
                    "unknown: {}\nparts for --only: {names}\n{}",
                    options.join(" "),
                    crate::USAGE
                ));
            }
        }
        options = &options[2..];
    }
}

fn table(tallies: &[(&str, Tally)], world: &World) -> Outcome {
    println!("\n{}\n", world.describe());
    println!(
        "| part | rounds | faults that hit | damaged and accepted | lost or half visible | left over | runs that failed | left for later, as documented | s |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (name, t) in tallies {
        println!(
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {:.0} |",
            t.rounds, t.hit, t.accepted, t.half, t.left_over, t.failed, t.left, t.seconds
        );
    }
    let broken: usize = tallies.iter().map(|(_, tally)| tally.broken()).sum();
    if broken == 0 {
        Ok(())
    } else {
        Err(format!("{broken} rounds ended as none may; each says above how to have it again"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rounds_choices_are_its_own() {
        let of = |seed, part, number| chance(seed, part, number).u64(..);
        assert_eq!(of(1, "flip", 7), of(1, "flip", 7));
        let all = [of(1, "flip", 7), of(2, "flip", 7), of(1, "flip", 8), of(1, "cut", 7)];
        assert!((1..all.len()).all(|n| !all[..n].contains(&all[n])), "{all:?}");
    }

    #[test]
    fn options_are_read_in_any_order() {
        let options = read(&["--only", "flip", "--seed", "5", "--quick", "--round", "3"]).expect("options");
        assert_eq!((options.seed, options.rounds, options.round), (5, QUICK, Some(3)));
        assert_eq!(options.only, ["flip"]);
        for wrong in [&["--seed"][..], &["--only", "x"], &["--rounds", "x"], &["--more"]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
