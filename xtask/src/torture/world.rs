//! What is tortured: images of real packages in a registry, a chart that asks for them, a lock, a key; and the bundle, the
//! manifests and the tags that come out when nothing goes wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::look::{self, Tags};
use super::{Broken, FLIPS};
use crate::bench::transfer::data::{Data, UPSTREAM};
use crate::parts::{self, Place, Registry, Scratch};
use crate::sh::{command, output, run as quietly, shown, text};
use crate::tools::{self, Tools};
use crate::{Failure, Outcome, images};

/// Most that the images' layers have together, so that a round takes moments.
const MEGABYTES: u64 = 30;
/// A file that is pushed in several chunks.
const FILE: usize = 40 << 20;
/// Into one site so many rounds push: uploads that were killed stay there,
/// and a list of repositories has at most 1000 of them.
const ROUNDS_A_SITE: usize = 20;

pub struct World {
    airlock: PathBuf,
    path: String,
    pub source: Registry,
    site: Option<(Registry, usize)>,
    data: Data,
    /// SHA-256 of the whole bundle.
    pub digest: String,
    /// What `install --dry-run` prints.
    pub manifests: String,
    /// What a site's registry has, below the prefix.
    pub tags: Tags,
    /// How long it takes when nothing goes wrong.
    pub build_time: Duration,
    pub push_time: Duration,
    pub store_time: Duration,
    pub install_time: Duration,
    /// Where the small bundle may be cut.
    pub cuts: Vec<u64>,
    scratch: Scratch,
}

impl World {
    pub fn set_up() -> Result<Self, Failure> {
        let tools = Tools::ensure()?;
        tools::packages(&[("docker-registry", "docker-registry"), ("skopeo", "skopeo"), ("mount", "mount")])?;
        let airlock = images::release("bundler", "airlock")?;
        let data = Data::ensure(&tools, Some(MEGABYTES))?;
        let (scratch, source) = (Scratch::create()?, data.registry()?);
        let path = tools.path()?.to_string_lossy().into_owned();
        let mut world = Self {
            airlock,
            path,
            source,
            site: None,
            data,
            digest: String::new(),
            manifests: String::new(),
            tags: BTreeMap::new(),
            build_time: Duration::ZERO,
            push_time: Duration::ZERO,
            store_time: Duration::ZERO,
            install_time: Duration::ZERO,
            cuts: vec![],
            scratch,
        };
        world.write_inputs()?;
        world.run_once()?;
        Ok(world)
    }

    pub fn describe(&self) -> String {
        let size = fs::metadata(self.file("whole.tar")).map_or(0, |meta| meta.len());
        let small = fs::metadata(self.file("small.tar")).map_or(0, |meta| meta.len());
        format!(
            "{} images, a chart and a file: a bundle of {:.1} MiB; undisturbed, build takes {:.2} s, push {:.2} s ({:.2} s into a \
             store), install --dry-run {:.2} s. The bundle that is damaged has {small} bytes.",
            self.data.images.len(),
            size as f64 / f64::from(1 << 20),
            self.build_time.as_secs_f64(),
            self.push_time.as_secs_f64(),
            self.store_time.as_secs_f64(),
            self.install_time.as_secs_f64(),
        )
    }

    /// How many rounds a part has.
    pub fn rounds(&self, part: &str, rounds: usize) -> usize {
        match part {
            "flip" => rounds * FLIPS,
            "cut" => self.cuts.len(),
            // What takes long.
            "full-disk" => rounds.div_ceil(2),
            "network" => rounds.div_ceil(4),
            _ => rounds,
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    /// Airlock in a directory of a round's own, where all is that it may write; `source` is where images come from.
    pub fn airlock(&self, dir: &Path, source: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.airlock);
        let _ = fs::create_dir_all(dir.join("tmp"));
        command.args(args).current_dir(self.file(""));
        command.env_clear().env("PATH", &self.path).env("HOME", dir.join("home"));
        command.env("XDG_CACHE_HOME", dir.join("cache")).env("TMPDIR", dir.join("tmp"));
        command.env("AIRLOCK_PASSWORD", "for these bundles only");
        command.env("AIRLOCK_MIRRORS", format!("{UPSTREAM}={source}/{UPSTREAM}"));
        command.stdin(std::process::Stdio::null());
        command
    }

    pub fn build(&self, dir: &Path, source: &str, more: &[&str]) -> Result<Command, Failure> {
        let out = dir.join("out.tar");
        let args = ["build", "--key", "airlock.key", "--output", text(&out)?];
        Ok(self.airlock(dir, source, &[&args, more].concat()))
    }

    pub fn push(&self, dir: &Path, site: &str) -> Command {
        self.airlock(dir, "127.0.0.1:9", &["push", "whole.tar", "--key", "airlock.pub", "--registry", site])
    }

    pub fn install(&self, dir: &Path) -> Command {
        let args =
            ["install", "whole.tar", "--key", "airlock.pub", "--registry", "site.example:5000", "--dry-run"];
        self.airlock(dir, "127.0.0.1:9", &args)
    }

    /// An empty directory for a round.
    pub fn round_dir(&self) -> Result<PathBuf, Failure> {
        let dir = self.file("round");
        parts::remove(&dir);
        fs::create_dir_all(&dir).map_err(|e| format!("making {}: {e}", dir.display()))?;
        Ok(dir)
    }

    /// A registry to push into, and a prefix in it that nobody has used.
    pub fn site(&mut self) -> Result<(String, String), Failure> {
        if self.site.as_ref().is_none_or(|(_, rounds)| *rounds == ROUNDS_A_SITE) {
            self.site = None;
            let dir = self.file("site");
            parts::remove(&dir);
            self.site = Some((Registry::start(Place::Here, &dir)?, 0));
        }
        let Some((registry, rounds)) = &mut self.site else { return Err("no registry".into()) };
        *rounds += 1;
        Ok((registry.host.clone(), format!("round{rounds}")))
    }

    /// Whether a bundle is the one that comes out when nothing goes wrong.
    pub fn check_bundle(&self, file: &Path) -> Result<(), Broken> {
        match digest(file)? {
            same if same == self.digest => Ok(()),
            other => Err(Broken::Half(format!("{} is not the bundle, but {other}", file.display()))),
        }
    }

    fn write_inputs(&self) -> Outcome {
        let write = |name: &str, content: &[u8]| {
            let file = self.file(name);
            let dir = file.parent().unwrap_or(&file);
            fs::create_dir_all(dir)
                .and_then(|()| fs::write(&file, content))
                .map_err(|e| format!("writing {}: {e}", file.display()))
        };
        let mut rng = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> =
            std::iter::repeat_with(|| rng.u64(..).to_le_bytes()).take(FILE / 8).flatten().collect();
        let head = "version = \"1\"\nplatforms = [\"linux/amd64\"]\n";
        let chart = "[[chart]]\npath = \"CHART\"\nrelease = \"all\"\nvalues = [\"values.yaml\"]\n";
        let file = |name: &str, content: &[u8]| {
            let sum = hex::encode(Sha256::digest(content));
            format!("[[file]]\nname = \"{name}\"\npath = \"{name}\"\nsha256 = \"{sum}\"\n")
        };
        let all = format!("name = \"all\"\n{head}{}{}", chart.replace("CHART", "all"), file("noise", &noise));
        let small = &noise[..100_000];
        let little =
            format!("name = \"little\"\n{head}{}{}", chart.replace("CHART", "little"), file("small", small));
        write("bundle.toml", all.as_bytes())?;
        write("small.toml", little.as_bytes())?;
        write("noise", &noise)?;
        write("small", small)?;
        write("values.yaml", b"who: everybody\n")?;
        let smallest = self.data.smallest()?;
        let pod = |image: &str| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {image}, labels: {{for: \"{{{{ .Values.who }}}}\"}}}}\n\
                 spec:\n  containers:\n  - name: {image}\n    image: {UPSTREAM}/{image}:1\n"
            )
        };
        for (chart, images) in [("all", &self.data.images[..]), ("little", &[smallest])] {
            let meta = format!("apiVersion: v2\nname: {chart}\nversion: 1.0.0\n");
            write(&format!("{chart}/Chart.yaml"), meta.as_bytes())?;
            let pods: String = images.iter().map(|image| pod(image)).collect();
            write(&format!("{chart}/templates/pods.yaml"), pods.as_bytes())?;
        }
        Ok(())
    }

    /// Everything once, undisturbed.
    fn run_once(&mut self) -> Outcome {
        let dir = self.round_dir()?;
        let source = self.source.host.clone();
        let airlock = |args: &[&str]| quietly(&mut self.airlock(&dir, &source, args));
        airlock(&["keys", "generate"])?;
        airlock(&["lock"])?;
        airlock(&["lock", "--file", "small.toml", "--lock-file", "small.lock"])?;
        let small = ["--file", "small.toml", "--lock-file", "small.lock", "--output", "small.tar"];
        airlock(&[&["build", "--key", "airlock.key"], &small[..]].concat())?;
        let timed = |command: &mut Command| {
            let begin = Instant::now();
            output(command).map(|said| (said, begin.elapsed()))
        };
        // What is damaged later is good.
        airlock(&["verify", "small.tar", "--key", "airlock.pub"])?;
        let build_time = timed(&mut self.build(&dir, &source, &[])?)?.1;
        let whole = self.file("whole.tar");
        fs::rename(dir.join("out.tar"), &whole).map_err(|e| format!("renaming the bundle: {e}"))?;
        let (manifests, install_time) = timed(&mut self.install(&dir))?;
        let (host, prefix) = self.site()?;
        let push_time = timed(&mut self.push(&dir, &format!("{host}/{prefix}")))?.1;
        let tags = look::whole(&host, &prefix).map_err(Broken::why)?;
        if tags.len() < self.data.images.len() + 2 {
            return Err(format!("an undisturbed push leaves only these tags: {tags:?}"));
        }
        self.digest = digest(&whole)?;
        (self.manifests, self.tags) = (manifests, tags);
        (self.build_time, self.push_time, self.install_time) = (build_time, push_time, install_time);
        self.store_time = super::store::time(self)?;
        self.cuts = super::damage::cuts(&self.file("small.tar"))?;
        Ok(())
    }
}

/// SHA-256 of a file.
pub fn digest(file: &Path) -> Result<String, Failure> {
    let failed = |e| format!("reading {}: {e}", file.display());
    let mut hasher = Sha256::new();
    let mut file = fs::File::open(file).map_err(failed)?;
    let mut piece = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut piece).map_err(failed)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            length => hasher.update(&piece[..length]),
        }
    }
}

/// Runs to the end; the output, whatever the exit code is, and that code. A panic or a signal has none.
pub fn finish(mut command: Command) -> Result<(i32, Output), Broken> {
    let done = command.output().map_err(|e| format!("{}: {e}", shown(&command)))?;
    let said = String::from_utf8_lossy(&done.stderr);
    match done.status.code() {
        Some(code @ 0..=4) if !said.contains("panicked at") => Ok((code, done)),
        _ => Err(Broken::Failed(format!("{}: {}\n{said}", shown(&command), done.status))),
    }
}

/// What came of a process that was killed at some moment: if it had ended before, by itself, it ended as documented.
pub fn killed(mut child: Child, what: &str) -> Result<bool, Broken> {
    let failed = |e| format!("killing {what}: {e}");
    let still_ran = child.try_wait().map_err(failed)?.is_none();
    child.kill().map_err(failed)?;
    let done = child.wait_with_output().map_err(failed)?;
    let said = String::from_utf8_lossy(&done.stderr);
    let is_well = still_ran || matches!(done.status.code(), Some(0..=4));
    match is_well && !said.contains("panicked at") {
        true => Ok(still_ran),
        false => Err(Broken::Failed(format!("{what}: {}\n{said}", done.status))),
    }
}

/// As [`finish`], where it must be done.
pub fn complete(command: Command) -> Result<Output, Broken> {
    let what = shown(&command);
    match finish(command)? {
        (0, done) => Ok(done),
        (code, done) => {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            Err(Broken::Failed(format!("{what}: afterwards, exit code {code}\n{said}")))
        }
    }
}

/// Names of what is in a directory and below it, files only.
pub fn files(dir: &Path) -> Result<Vec<String>, Failure> {
    let listed = output(&mut command("find", &[text(dir)?, "-type", "f"]))?;
    let base = format!("{}/", dir.display());
    Ok(listed.lines().map(|line| line.trim_start_matches(&base).to_owned()).collect())
}
