//! The figures beside each other, and beside their bars.

use super::super::measure::Used;
use super::super::median;
use super::Samples;
use crate::{Failure, Outcome};

/// What was transferred.
pub struct What {
    /// How many images.
    pub images: usize,
    /// Unique bytes of their blobs.
    pub bytes: u64,
    /// Size of the bundle in bytes.
    pub bundle: u64,
    /// How often.
    pub rounds: usize,
}

/// Most resident memory, in MiB.
const MEMORY: f64 = 64.0;
/// What passes for no disk at all, in MiB: pages written twice where blobs meet, a journal, a log.
const NO_DISK: f64 = 1.0;
/// Most time for an image that is there already, in seconds.
const UNCHANGED: f64 = 0.01;
/// Most of a job's time for the rest of it.
const RESUMED: f64 = 0.12;

const MIB: f64 = (1 << 20) as f64;

/// A line of the table.
struct Row {
    job: &'static str,
    ours: f64,
    /// Digits after the point, and the unit.
    unit: (usize, &'static str),
    /// What it is beside, and its figure.
    beside: Option<(&'static str, f64)>,
    /// The most that the ratio may be, or the figure itself where it is beside nothing.
    bar: Option<f64>,
}

impl Row {
    fn missed(&self) -> bool {
        let value = self.beside.map_or(self.ours, |(_, theirs)| self.ours / theirs);
        self.bar.is_some_and(|bar| value > bar)
    }

    fn line(&self) -> String {
        let (digits, unit) = self.unit;
        let figure = |value: f64| format!("{value:.digits$}{unit}");
        let (name, theirs, ratio) = self.beside.map_or_else(Default::default, |(name, theirs)| {
            (name, figure(theirs), format!("{:.2}", self.ours / theirs))
        });
        let bar = match (self.bar, self.beside) {
            (None, _) => String::new(),
            (Some(bar), Some(_)) => bar.to_string(),
            (Some(bar), None) => figure(bar),
        };
        let met = match self.bar {
            None => "",
            Some(_) if self.missed() => "MISSED",
            Some(_) => "met",
        };
        format!("| {} | {} | {name} | {theirs} | {ratio} | {bar} | {met} |", self.job, figure(self.ours))
    }
}

/// Prints the table.
///
/// # Errors
/// When a bar is missed, or a figure is missing.
pub fn print(samples: &Samples, what: &What) -> Outcome {
    let rows = rows(samples, what)?;
    println!(
        "\nMedians of {} rounds: {} images, {:.2} GB of unique blobs, a bundle of {} bytes\n",
        what.rounds,
        what.images,
        what.bytes as f64 / 1e9,
        what.bundle
    );
    println!("| job | airlock | beside | | ratio | at most | |\n|---|---:|---|---:|---:|---:|---|");
    rows.iter().for_each(|row| println!("{}", row.line()));
    match rows.iter().filter(|row| row.missed()).count() {
        0 => Ok(()),
        missed => Err(format!(
            "{missed} of {} bars are missed",
            rows.iter().filter(|row| row.bar.is_some()).count()
        )),
    }
}

fn rows(samples: &Samples, what: &What) -> Result<Vec<Row>, Failure> {
    let of = |job: &str, figure: fn(&Used) -> f64| {
        let used = samples.jobs.get(job).ok_or_else(|| format!("{job} was not measured"))?;
        Ok::<_, Failure>(median(used.iter().map(figure).collect()))
    };
    let seconds = |job: &str| of(job, |used| used.seconds);
    let beside = |job, ours: &str, name, theirs: &str, bar| {
        Ok::<_, Failure>(Row {
            job,
            ours: seconds(ours)?,
            unit: (2, " s"),
            beside: Some((name, seconds(theirs)?)),
            bar,
        })
    };
    // Not on every machine: a row where it is.
    let crane = |job, name, theirs: &str| {
        let is_there = samples.jobs.contains_key(theirs);
        is_there.then(|| beside(job, job, name, theirs, None)).transpose()
    };
    let alone = |job, ours, unit, bar| Row { job, ours, unit, beside: None, bar: Some(bar) };
    let memory = |title, job: &str| {
        Ok::<_, Failure>(alone(title, of(job, |used| used.memory)? / 1024.0, (1, " MiB"), MEMORY))
    };
    let disk = |title, job: &str, output: u64| {
        let more = of(job, |used| used.written)? - output as f64;
        Ok::<_, Failure>(alone(title, more.max(0.0) / MIB, (2, " MiB"), NO_DISK))
    };
    let unchanged = UNCHANGED * what.images as f64;
    let mut rows = vec![
        beside("build", "build", "skopeo to an OCI layout, and tar", "build, skopeo", Some(0.5))?,
        beside("build", "build", "oras to an OCI layout, and tar", "build, oras", None)?,
        beside("build", "build", "cp and openssl dgst", "build, floor", Some(1.5))?,
        beside("build", "build", "cp, sync and openssl dgst", "build, synced", None)?,
        beside(
            "build, one image, 25 MB/s a connection",
            "build, slow",
            "skopeo to an OCI layout",
            "build, slow, skopeo",
            None,
        )?,
        beside("verify", "verify", "openssl dgst", "verify, floor", Some(0.7))?,
        alone("serve, start to first byte", seconds("serve")? * 1e3, (1, " ms"), 50.0),
        beside(
            "serve, 8 pulls at once, the first",
            "pulls, first",
            "distribution",
            "pulls, registry",
            Some(0.8),
        )?,
        beside(
            "serve, 8 pulls at once, later",
            "pulls, later",
            "distribution",
            "pulls, registry",
            Some(0.8),
        )?,
        beside("push", "push", "skopeo", "push, skopeo", Some(0.5))?,
        beside("push", "push", "oras", "push, oras", None)?,
        beside("push", "push", "curl, 6 at once, which only sends", "push, floor", None)?,
        alone("push, nothing changed", seconds("push, again")?, (2, " s"), unchanged),
        alone("push, nothing changed: requests an image", median(samples.requests.clone()), (2, ""), 1.0),
        memory("memory, build", "build")?,
        memory("memory, verify", "verify")?,
        memory("memory, serve", "serve")?,
        memory("memory, push", "push")?,
        disk("disk besides the bundle, build", "build", what.bundle)?,
        disk("disk, verify", "verify", 0)?,
        disk("disk, serve", "serve", 0)?,
        disk("disk, push", "push", 0)?,
        beside(
            "build, killed at 90 % and run again",
            "build, resumed",
            "the whole of it",
            "build",
            Some(RESUMED),
        )?,
        beside(
            "push, killed at 90 % and run again",
            "push, resumed",
            "the whole of it",
            "push",
            Some(RESUMED),
        )?,
    ];
    rows.extend(crane("build", "crane to an OCI layout, and tar", "build, crane")?);
    rows.extend(crane("push", "crane, as one index", "push, crane")?);
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_for_the_ratio_or_for_the_figure() {
        let mut row = Row { job: "a", ours: 2.0, unit: (1, " s"), beside: Some(("b", 4.0)), bar: Some(0.5) };
        assert_eq!(
            (row.missed(), row.line()),
            (false, "| a | 2.0 s | b | 4.0 s | 0.50 | 0.5 | met |".into())
        );
        row.beside = None;
        assert_eq!((row.missed(), row.line()), (true, "| a | 2.0 s |  |  |  | 0.5 s | MISSED |".into()));
        row.bar = None;
        assert_eq!((row.missed(), row.line()), (false, "| a | 2.0 s |  |  |  |  |  |".into()));
    }
}
