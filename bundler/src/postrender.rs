//! airlock as helm's post-renderer: the one way by which manifests come from helm. `lock` takes it to look for images, `render`
//! and `install` to rewrite them, so what is checked on the connected side is what helm applies at the site.
//!
//! helm 4 takes documents apart and writes them anew around its post-renderer. A chart that this breaks is found out by `lock`.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::error::{Error, Kind, Result};
use crate::interrupt;
use crate::reference::Mapping;
use crate::rewrite::{self, Checked, Pin, Pins};
use crate::yaml::{self, Stream};

/// Most that helm may hand over, in bytes.
const MANIFESTS_CAP: u64 = 256 << 20;
/// Stands for no manifests: helm takes empty output for a failure.
const NOTHING: &str = "# no manifests\n";
/// Name of the environment variable that hands our path to the plugin: its command is split at spaces, and variables
/// are put in after that.
const PROGRAM_VARIABLE: &str = "AIRLOCK_POST_RENDERER";

/// The work of the post-renderer; a file of the run hands it over.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Reads the manifests and passes them on.
    Read,
    /// Rewrites them.
    Rewrite(Rewriting),
}

/// Place at the site that manifests are to point to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// `REGISTRY[/PREFIX]`.
    pub registry: String,
    /// True if the source's host is left out of repositories' names.
    pub strip_host: bool,
    /// True if every repository is directly below `registry`.
    pub flat: bool,
    /// A Secret with the registry's login, to be in every pod spec.
    pub pull_secret: Option<String>,
}

/// Images, and where they are at the site.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Rewriting {
    pub(crate) images: Vec<Pin>,
    pub(crate) target: Target,
}

impl Rewriting {
    /// Rewrites a stream of manifests, and refuses it if anything in it points elsewhere. Returns how many references
    /// were rewritten, too.
    ///
    /// # Errors
    /// Errors of the rewriting and of the gate.
    pub(crate) fn run(&self, manifests: &str) -> Result<(String, usize)> {
        let Target { registry, strip_host, flat, pull_secret } = &self.target;
        let mapping = Mapping::new(registry, *strip_host)
            .map_err(|e| Error::input("reading --registry", e))?
            .flat(*flat);
        let pins = Pins::new(self.images.iter().cloned());
        let Checked { pieces, changes } = rewrite::checked(manifests, &pins, &mapping)?;
        let mut text = pieces.concat();
        if let Some(secret) = pull_secret {
            text = rewrite::with_pull_secret(&text, secret)?;
        }
        Ok((text, changes.len()))
    }
}

/// Result of the post-renderer, in a file beside its job: helm 4 throws away what its plugins say.
#[derive(Serialize, Deserialize)]
enum Outcome {
    Done { rewritten: usize },
    Refused { kind: Kind, text: String, hint: Option<String> },
}

impl Outcome {
    fn path(job: &Path) -> PathBuf {
        job.with_extension("outcome")
    }

    /// Writes the outcome beside the job. If that fails, helm's own message is all there is.
    fn leave(&self, job: &Path) {
        if let Ok(text) = serde_json::to_vec(self) {
            let _ = std::fs::write(Self::path(job), text);
        }
    }

    fn read(job: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(job)).ok()?).ok()
    }
}

/// airlock, to be run by helm for one job.
#[derive(Debug)]
pub(crate) struct PostRenderer {
    program: PathBuf,
    job: PathBuf,
    /// A directory of this run's own, for the plugin that helm 4 wants.
    directory: PathBuf,
}

impl PostRenderer {
    /// Writes what helm needs to run it below `directory`.
    ///
    /// # Errors
    /// When that can't be written.
    pub(crate) fn new(directory: &Path, job: &Job) -> Result<Self> {
        let program =
            std::env::current_exe().map_err(|e| Error::input("finding airlock's own program", e))?;
        let path = directory.join("render.json");
        let writing = |path: &Path| format!("writing {}", path.display());
        let text = serde_json::to_vec(job).map_err(|e| Error::input(writing(&path), e))?;
        std::fs::write(&path, text).map_err(|e| Error::input(writing(&path), e))?;
        let plugin = directory.join("plugins").join("airlock");
        let text = format!(
            "apiVersion: v1\ntype: postrenderer/v1\nname: airlock\nversion: {}\nruntime: subprocess\n\
             runtimeConfig:\n  platformCommand:\n  - command: ${{{PROGRAM_VARIABLE}}}\n",
            env!("CARGO_PKG_VERSION")
        );
        std::fs::create_dir_all(&plugin)
            .and_then(|()| std::fs::write(plugin.join("plugin.yaml"), text))
            .map_err(|e| Error::input(writing(&plugin), e))?;
        Ok(Self { program, job: path, directory: directory.into() })
    }

    /// Adds it to the command line of a helm of this major version.
    pub(crate) fn add_to(&self, command: &mut Command, helm: u32) {
        // That of a run before says nothing of this one.
        let _ = std::fs::remove_file(Outcome::path(&self.job));
        // helm 4 keeps something for its plugins there; without HOME that is the directory where one stands.
        command.env("HELM_CACHE_HOME", self.directory.join("cache"));
        if helm >= 4 {
            command.env("HELM_PLUGINS", self.directory.join("plugins"));
            command.env(PROGRAM_VARIABLE, &self.program);
            command.args(["--post-renderer", "airlock"]);
        } else {
            command.arg("--post-renderer").arg(&self.program);
        }
        let arguments: [OsString; 2] = ["post-render".into(), self.job.as_path().into()];
        for argument in arguments {
            command.arg("--post-renderer-args").arg(argument);
        }
    }

    /// Returns the reason for the post-renderer's refusal, if it refused.
    pub(crate) fn refusal(&self, action: &str) -> Option<Error> {
        let Some(Outcome::Refused { kind, text, hint }) = Outcome::read(&self.job) else { return None };
        let error = Error::new(kind, action, text);
        Some(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        })
    }

    /// Returns the number of references that the post-renderer rewrote; 0 if it did not run.
    pub(crate) fn rewritten(&self) -> usize {
        match Outcome::read(&self.job) {
            Some(Outcome::Done { rewritten }) => rewritten,
            _ => 0,
        }
    }
}

/// Does the job in file `job` between stdin and stdout; a refusal stops helm before it applies anything.
///
/// # Errors
/// The reason for refusing the manifests. [`PostRenderer::refusal`] says it in the process that ran helm.
pub fn run(job: &Path) -> Result<()> {
    let done = work(job).inspect_err(|error| {
        let hint = error.hint_text().map(Into::into);
        Outcome::Refused { kind: error.kind(), text: error.to_string(), hint }.leave(job);
    });
    let (text, rewritten) = done?;
    Outcome::Done { rewritten }.leave(job);
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|e| Error::cluster("handing manifests back to helm", e))
}

fn work(path: &Path) -> Result<(String, usize)> {
    let reading = || format!("reading {}", path.display());
    let job = std::fs::read(path).map_err(|e| Error::input(reading(), e))?;
    let job: Job = serde_json::from_slice(&job).map_err(|e| Error::input(reading(), e))?;
    let mut manifests = String::new();
    let read = interrupt::idle(|| std::io::stdin().take(MANIFESTS_CAP).read_to_string(&mut manifests));
    read.map_err(|e| Error::input("reading manifests from stdin", e))?;
    if manifests.len() as u64 == MANIFESTS_CAP {
        return Err(Error::input(
            "reading manifests from stdin",
            format!("there are more than {MANIFESTS_CAP} bytes"),
        ));
    }
    let (text, rewritten) = pass(&job, &manifests)?;
    Ok(if text.trim().is_empty() { (NOTHING.into(), rewritten) } else { (text.into(), rewritten) })
}

fn pass<'m>(job: &Job, manifests: &'m str) -> Result<(Cow<'m, str>, usize)> {
    let manifests = yaml::with_anchors(manifests)?;
    match job {
        Job::Read => {
            Stream::parse(&manifests)?;
            Ok((manifests, 0))
        }
        Job::Rewrite(rewriting) => {
            let (text, rewritten) = rewriting.run(&manifests)?;
            Ok((text.into(), rewritten))
        }
    }
}
