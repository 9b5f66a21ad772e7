//! `cargo xtask bench transfer`: build, verify, serve and push of some gigabytes, each beside what does the same without
//! airlock, in turn.

pub mod data;
mod table;
mod throttle;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use data::{Data, UPSTREAM};
use throttle::throttled;

use super::measure::{PATIENCE, Used, measure, start_to_first_byte, written};
use super::memory;
use crate::parts::{self, Place, Registry, Running, Scratch};
use crate::sh::{command, run as quietly, text};
use crate::tools::{self, Tools};
use crate::{Failure, Outcome, images};

/// Each job is measured so often, unless told otherwise; the medians count.
const ROUNDS: usize = 5;
/// How much of a job's bytes is on disk when it is killed, to be resumed.
const KILLED_AT: f64 = 0.9;

const BUILD: &str = "airlock build --key airlock.key --output bundle.tar";
const BUILD_SKOPEO: &str = "for image in $IMAGES; do
    skopeo copy --quiet --all --src-tls-verify=false docker://$SOURCE/$image:1 oci:skopeo:$image
done
tar -cf skopeo.tar skopeo";
const BUILD_ORAS: &str = "for image in $IMAGES; do
    oras cp --recursive --no-tty --from-plain-http --to-oci-layout $SOURCE/$image:1 oras:$image
done
tar -cf oras.tar oras";
const BUILD_CRANE: &str = "for image in $IMAGES; do
    crane pull --insecure --format=oci $SOURCE/$image:1 crane
done
tar -cf crane.tar crane";
/// One image, from where each connection is slow.
const BUILD_SLOW: &str =
    "airlock build --unsigned --file slow/bundle.toml --lock-file slow/images.lock --output slow.tar";
const BUILD_SLOW_SKOPEO: &str =
    "skopeo copy --quiet --all --src-tls-verify=false docker://$SLOW/$LARGEST:1 oci:slow.skopeo:largest";
const BUILD_FLOOR: &str = "cp bundle.tar copy.tar; openssl dgst -sha256 copy.tar";
/// As a build ends: what it wrote is on the disk, and not only in memory.
const BUILD_SYNCED: &str = "cp bundle.tar copy.tar; sync copy.tar; openssl dgst -sha256 copy.tar";
const VERIFY: &str = "airlock verify bundle.tar --key airlock.pub";
const VERIFY_FLOOR: &str = "openssl dgst -sha256 bundle.tar";
const PULL: &str = "seq 0 7 | xargs -P 8 -I {} sh -c 'sed s,^,http://$FROM/v2/, pull.{} |
    xargs curl --silent --fail --noproxy \"*\" > /dev/null'";
const PUSH: &str = "airlock push bundle.tar --key airlock.pub --registry $SITE";
const PUSH_SKOPEO: &str = "for image in $IMAGES; do
    skopeo copy --quiet --all --dest-tls-verify=false oci:$LAYOUT:$image docker://$SITE/$image:1
done";
const PUSH_ORAS: &str = "for image in $IMAGES; do
    oras cp --recursive --no-tty --from-oci-layout --to-plain-http $LAYOUT:$image $SITE/$image:1
done";

/// All images as one index in one repository: crane pushes nothing else out of a layout with several.
const PUSH_CRANE: &str = "crane push --insecure --index $LAYOUT $SITE/images:1";
/// Every blob once, into one repository, and nothing is asked or checked.
const PUSH_FLOOR: &str = "ls $LAYOUT/blobs/sha256 | xargs -P 6 -I {} sh -ec '
    send() { curl --silent --show-error --fail --noproxy \"*\" --output /dev/null \"$@\"; }
    at=$(send --request POST --write-out %header{location} http://$SITE/v2/images/blobs/uploads/)
    send --header Expect: --upload-file $LAYOUT/blobs/sha256/{} \"$at&digest=sha256:{}\"'";

/// What was measured of each job, round by round.
#[derive(Default)]
struct Samples {
    jobs: BTreeMap<&'static str, Vec<Used>>,
    /// Requests an image of a push that has nothing to do.
    requests: Vec<f64>,
}

/// Measures, and prints the table.
///
/// # Errors
/// When a part can't be set up, a job fails, or a bar is missed.
pub fn run(options: &[&str]) -> Outcome {
    let (rounds, megabytes) = read(options)?;
    let tools = Tools::ensure()?;
    tools::packages(&[("python3", "python3"), ("xargs", "findutils"), ("skopeo", "skopeo")])?;
    let airlock = images::release("bundler", "airlock")?;
    let data = Data::ensure(&tools, megabytes)?;
    let scratch = Scratch::create()?;
    let source = data.registry()?;
    let mut bench = Bench::set_up(&tools, &airlock, &data, &scratch, &source)?;
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        bench.round()?;
    }
    let size =
        fs::metadata(bench.path("bundle.tar")).map_err(|e| format!("measuring the bundle: {e}"))?.len();
    let what = table::What { images: data.images.len(), bytes: data.bytes, bundle: size, rounds };
    table::print(&bench.samples, &what)
}

/// Rounds and size out of the arguments.
fn read(mut options: &[&str]) -> Result<(usize, Option<u64>), Failure> {
    let (mut rounds, mut megabytes) = (ROUNDS, None);
    while let [name, value, rest @ ..] = options {
        let number: u64 = value.parse().map_err(|e| format!("{name} {value}: {e}"))?;
        match *name {
            "--rounds" if number > 0 => {
                rounds = usize::try_from(number).map_err(|e| format!("{name} {value}: {e}"))?
            }
            "--megabytes" => megabytes = Some(number),
            _ => break,
        }
        options = rest;
    }
    if options.is_empty() { Ok((rounds, megabytes)) } else { Err(crate::USAGE.into()) }
}

struct Bench<'a> {
    airlock: &'a Path,
    data: &'a Data,
    /// Where the jobs run.
    scratch: &'a Scratch,
    env: Vec<(&'static str, String)>,
    /// The largest blob's path below `/v2/`.
    largest: String,
    source: &'a Registry,
    samples: Samples,
}

impl<'a> Bench<'a> {
    /// Key, spec and lock, and what the jobs' environment says.
    fn set_up(
        tools: &Tools,
        airlock: &'a Path,
        data: &'a Data,
        scratch: &'a Scratch,
        source: &'a Registry,
    ) -> Result<Self, Failure> {
        let dir = airlock.parent().unwrap_or(airlock);
        let place = |name: &str| scratch.path(name).display().to_string();
        let paths = data.paths()?;
        let largest = paths.first().ok_or("the images have no blobs")?.clone();
        let (image, _) = largest.split_once("/blobs/").ok_or("a blob's path has no image")?;
        let slow = throttled(&source.host)?;
        let env = vec![
            ("PATH", format!("{}:{}", dir.display(), tools.path()?.to_string_lossy())),
            ("HOME", place("home")),
            ("XDG_CACHE_HOME", place("cache")),
            ("AIRLOCK_PASSWORD", "a password for the bench's key only".into()),
            ("AIRLOCK_MIRRORS", format!("{UPSTREAM}={}/{UPSTREAM}", source.host)),
            ("IMAGES", data.images.join(" ")),
            ("LAYOUT", text(&data.layout())?.into()),
            ("SOURCE", format!("{}/{UPSTREAM}", source.host)),
            ("SLOW", slow.clone()),
            ("LARGEST", image.into()),
        ];
        let spec = |images: &mut dyn Iterator<Item = String>| {
            let head = "name = \"bench\"\nversion = \"1\"\nplatforms = [\"linux/amd64\"]\n";
            images.fold(head.to_owned(), |spec, image| format!("{spec}\n[[image]]\nref = \"{image}:1\"\n"))
        };
        let all = spec(&mut data.images.iter().map(|image| format!("{UPSTREAM}/{image}")));
        let one = spec(&mut [image.to_owned()].into_iter());
        let pulls = lists(&paths).into_iter().enumerate().map(|(n, list)| (format!("pull.{n}"), list));
        let files =
            [("bundle.toml".into(), all), ("slow/bundle.toml".into(), one), ("none".into(), String::new())];
        fs::create_dir(scratch.path("slow")).map_err(|e| format!("making slow: {e}"))?;
        for (name, content) in pulls.chain(files) {
            fs::write(scratch.path(&name), content).map_err(|e| format!("writing {name}: {e}"))?;
        }
        let bench = Self { airlock, data, scratch, env, largest, source, samples: Samples::default() };
        bench.used("airlock keys generate; airlock lock; cd slow; airlock lock", &[])?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    fn remove(&self, names: &[&str]) {
        names.iter().for_each(|name| parts::remove(&self.path(name)));
    }

    fn command(&self, program: &str, args: &[&str], env: &[(&str, &str)]) -> Command {
        let mut command = command(program, args);
        command.current_dir(self.path("")).envs(self.env.iter().cloned()).envs(env.iter().copied());
        command
    }

    /// Runs a script, with nothing left to be written to disk from before.
    fn used(&self, script: &str, env: &[(&str, &str)]) -> Result<Used, Failure> {
        quietly(&mut command("sync", &[]))?;
        measure(&self.command("bash", &["-ec", script], env), &self.path("none"), &self.path("out"))
    }

    fn job(&mut self, name: &'static str, script: &str, env: &[(&str, &str)]) -> Outcome {
        let used = self.used(script, env)?;
        println!("    {name}: {:.2} s, {:.2} s of CPU time", used.seconds, used.cpu);
        self.note(name, used);
        Ok(())
    }

    fn note(&mut self, name: &'static str, used: Used) {
        self.samples.jobs.entry(name).or_default().push(used);
    }

    /// Nothing installs crane here: it is measured where it is on PATH.
    fn has_crane(&self) -> bool {
        self.command("sh", &["-c", "command -v crane"], &[]).output().is_ok_and(|done| done.status.success())
    }

    fn round(&mut self) -> Outcome {
        self.remove(&["bundle.tar"]);
        self.job("build, skopeo", BUILD_SKOPEO, &[])?;
        self.remove(&["skopeo", "skopeo.tar"]);
        self.job("build, oras", BUILD_ORAS, &[])?;
        self.remove(&["oras", "oras.tar"]);
        if self.has_crane() {
            self.job("build, crane", BUILD_CRANE, &[])?;
            self.remove(&["crane", "crane.tar"]);
        }
        self.build()?;
        self.slow_build()?;
        self.job("build, floor", BUILD_FLOOR, &[])?;
        self.remove(&["copy.tar"]);
        self.job("build, synced", BUILD_SYNCED, &[])?;
        self.remove(&["copy.tar"]);
        self.job("verify", VERIFY, &[])?;
        self.job("verify, floor", VERIFY_FLOOR, &[])?;
        self.serve()?;
        self.push("push, skopeo", PUSH_SKOPEO)?;
        self.push("push, oras", PUSH_ORAS)?;
        if self.has_crane() {
            self.push("push, crane", PUSH_CRANE)?;
        }
        self.push("push, floor", PUSH_FLOOR)?;
        self.push("push", PUSH)?;
        self.resume_push()
    }

    /// Resumed first, so that what is left is the bundle of a whole build.
    fn build(&mut self) -> Outcome {
        self.remove(&["cache"]);
        self.kill(BUILD, &[], None)?;
        self.job("build, resumed", BUILD, &[])?;
        self.remove(&["cache", "bundle.tar"]);
        self.job("build", BUILD, &[])
    }

    fn slow_build(&mut self) -> Outcome {
        let mirror = self.env.iter().find(|(name, _)| *name == "SLOW").map_or("", |(_, host)| host);
        let mirror = format!("{UPSTREAM}={mirror}/{UPSTREAM}");
        self.job("build, slow", BUILD_SLOW, &[("AIRLOCK_MIRRORS", &mirror)])?;
        self.job("build, slow, skopeo", BUILD_SLOW_SKOPEO, &[])?;
        self.remove(&["slow.tar", "slow.skopeo"]);
        Ok(())
    }

    /// Starts a job, and kills it when a process (itself, or another one) has written most of the images.
    fn kill(&self, script: &str, env: &[(&str, &str)], writer: Option<u32>) -> Outcome {
        quietly(&mut command("sync", &[]))?;
        let script = format!("exec {script}");
        let mut killed =
            Running::start(&self.command("bash", &["-ec", &script], env), &self.path("killed.log"))?;
        let writer = writer.unwrap_or(killed.id());
        let (before, begin) = (written(writer)?, Instant::now());
        while written(writer)? - before < self.data.bytes as f64 * KILLED_AT {
            killed.still_runs()?;
            if begin.elapsed() > PATIENCE {
                return Err(format!("not in time: {script} has written {KILLED_AT} of its bytes"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        quietly(&mut command("kill", &["-KILL", &killed.id().to_string()]))
    }

    fn serve(&mut self) -> Outcome {
        let site = format!("127.0.0.1:{}", Place::Here.free_port()?);
        let args = ["serve", "bundle.tar", "--key", "airlock.pub", "--listen", &site];
        let serve = self.command(text(self.airlock)?, &args, &[]);
        let (server, seconds) = start_to_first_byte(&serve, &self.path("serve.log"), &site, &self.largest)?;
        let source = self.source.host.clone();
        self.job("pulls, first", PULL, &[("FROM", &site)])?;
        self.job("pulls, registry", PULL, &[("FROM", &source)])?;
        self.job("pulls, later", PULL, &[("FROM", &site)])?;
        let memory = memory(server.id())? as f64;
        self.note("serve", Used { seconds, memory, written: written(server.id())?, cpu: 0.0 });
        Ok(())
    }

    /// An empty registry.
    fn site(&self) -> Result<Registry, Failure> {
        self.remove(&["site"]);
        Registry::start(Place::Here, &self.path("site"))
    }

    /// Pushes into an empty registry; by airlock also again, when nothing has changed.
    fn push(&mut self, name: &'static str, script: &str) -> Outcome {
        let site = self.site()?;
        let env = [("SITE", site.host.as_str())];
        self.job(name, script, &env)?;
        if script == PUSH {
            let before = site.requests()?;
            self.job("push, again", script, &env)?;
            let requests = site.requests()?.saturating_sub(before);
            self.samples.requests.push(requests as f64 / self.data.images.len() as f64);
        }
        Ok(())
    }

    fn resume_push(&mut self) -> Outcome {
        let site = self.site()?;
        let env = [("SITE", site.host.as_str())];
        self.kill(PUSH, &env, Some(site.id()))?;
        self.job("push, resumed", PUSH, &env)?;
        drop(site);
        self.remove(&["site"]);
        Ok(())
    }
}

/// A list for each of 8 pulls, of about the same size, if these come in the order of theirs.
fn lists(paths: &[String]) -> [String; 8] {
    let mut lists = [const { String::new() }; 8];
    for (n, path) in paths.iter().enumerate() {
        let turn = if n / 8 % 2 == 0 { n % 8 } else { 7 - n % 8 };
        lists[turn] += &format!("{path}\n");
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_share_a_list_with_the_smallest() {
        let paths: Vec<String> = (0..17).map(|n| n.to_string()).collect();
        let [first, .., last] = lists(&paths);
        assert_eq!((first.as_str(), last.as_str()), ("0\n15\n16\n", "7\n8\n"));
    }

    #[test]
    fn options_are_read_in_any_order() {
        assert_eq!(read(&[]), Ok((ROUNDS, None)));
        assert_eq!(read(&["--megabytes", "300", "--rounds", "2"]), Ok((2, Some(300))));
        for wrong in [&["--rounds"][..], &["--rounds", "0"], &["--rounds", "x"], &["--more", "1"]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
