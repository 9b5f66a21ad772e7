//! Real helm, run as a program: what it renders, and what it installs, is what it would without us.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::error::{Error, Result};

/// A helm that can be run.
#[derive(Clone, Debug)]
pub struct Helm {
    program: PathBuf,
    /// Major and minor version.
    version: (u32, u32),
}

/// A chart with how it is rendered.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// The release's name.
    pub name: &'a str,
    /// Its namespace; helm's default where none is given.
    pub namespace: Option<&'a str>,
    /// What to call the chart in messages: it lies in a temporary file that nobody knows.
    pub title: &'a str,
    /// A packed chart, or a chart's directory.
    pub chart: &'a Path,
    /// Values files, in order.
    pub values: &'a [PathBuf],
    /// Single values.
    pub set: &'a [String],
}

impl Release<'_> {
    /// Helm's own words, about the chart rather than its file.
    fn helm_error(&self, stderr: &[u8]) -> String {
        helm_error(stderr).replace(&*self.chart.to_string_lossy(), &format!("chart {}", self.title))
    }
}

impl Helm {
    /// The helm at `explicit`, else the one on PATH.
    ///
    /// # Errors
    /// When there is none, it doesn't run, or it is too old.
    pub fn find(explicit: Option<&Path>) -> Result<Self> {
        let program = explicit.map_or_else(|| PathBuf::from("helm"), Into::into);
        let running = || format!("running {}", program.display());
        let output = std::process::Command::new(&program)
            .args(["version", "--template", "{{.Version}}"])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| {
                Error::cluster(running(), e)
                    .hint("install helm 4 (https://helm.sh), name it with --helm, or carry it in the bundle as a file called helm")
            })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = parse_version(&text).ok_or_else(|| {
            Error::cluster(running(), format!("it does not say its version: {}", one_line(&output.stderr)))
        })?;
        // Before 3.21 hooks are not post-rendered: their images would not be rewritten.
        if version < (3, 21) {
            return Err(Error::cluster(running(), format!("helm {} is too old", text.trim()))
                .hint("use helm 4, or helm 3.21 or newer"));
        }
        Ok(Self { program, version })
    }

    /// What a chart renders to, hooks and tests included.
    ///
    /// # Errors
    /// What helm says, where it fails.
    pub async fn template(&self, release: &Release<'_>) -> Result<String> {
        self.template_with(release, &[]).await
    }

    /// As [`Self::template`], with more arguments of helm's.
    ///
    /// # Errors
    /// What helm says, where it fails.
    pub async fn template_with(&self, release: &Release<'_>, arguments: &[String]) -> Result<String> {
        let doing = format!("rendering release {} of chart {}", release.name, release.title);
        let output = self
            .command("template", release)?
            .args(arguments)
            .output()
            .await
            .map_err(|e| Error::cluster(doing.as_str(), e))?;
        if !output.status.success() {
            return Err(Error::cluster(doing, release.helm_error(&output.stderr)));
        }
        String::from_utf8(output.stdout).map_err(|e| Error::cluster(doing, e))
    }

    /// Installs or upgrades a release, its manifests going through `renderer`. What helm prints goes to stderr.
    ///
    /// # Errors
    /// When helm fails: it has then said why.
    pub async fn upgrade(
        &self,
        release: &Release<'_>,
        context: Option<&str>,
        renderer: &PostRenderer,
    ) -> Result<()> {
        let doing = format!("installing release {}", release.name);
        let mut command = self.command("upgrade", release)?;
        command.args(["--install", "--create-namespace"]);
        if let Some(context) = context {
            command.args(["--kube-context", context]);
        }
        renderer.add_to(&mut command, self.version.0)?;
        let output =
            command.stdin(Stdio::null()).output().await.map_err(|e| Error::cluster(doing.as_str(), e))?;
        tracing::info!("helm: {}", String::from_utf8_lossy(&output.stdout).trim());
        if output.status.success() {
            return Ok(());
        }
        let why = release.helm_error(&output.stderr);
        let unreachable = why.contains("cluster unreachable");
        let error = Error::cluster(doing, why);
        Err(if unreachable {
            error.hint("name the cluster by KUBECONFIG or --kube-context, as for helm and kubectl; what was pushed stays")
        } else {
            error
        })
    }

    fn command(&self, verb: &str, release: &Release<'_>) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command.arg(verb).arg(release.name).arg(release.chart).kill_on_drop(true).stdin(Stdio::null());
        if let Some(namespace) = release.namespace {
            command.args(["--namespace", namespace]);
        }
        for file in release.values {
            command.arg("--values").arg(file);
        }
        for value in release.set {
            command.args(["--set", value]);
        }
        Ok(command)
    }
}

/// airlock as helm's post-renderer.
pub struct PostRenderer {
    /// Of the airlock that helm is to run.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// A directory of this run's own, for the plugin that helm 4 wants.
    pub directory: PathBuf,
}

/// Name of the environment variable that hands our path to the plugin: its command is split at spaces, and variables
/// are put in after that.
const PROGRAM_VARIABLE: &str = "AIRLOCK_POST_RENDERER";

impl PostRenderer {
    fn add_to(&self, command: &mut Command, helm: u32) -> Result<()> {
        if helm >= 4 {
            let plugin = self.directory.join("plugins").join("airlock");
            let writing = |e| Error::input(format!("writing helm plugin {}", plugin.display()), e);
            std::fs::create_dir_all(&plugin).map_err(writing)?;
            let text = format!(
                "apiVersion: v1\ntype: postrenderer/v1\nname: airlock\nversion: {}\nruntime: subprocess\n\
                 runtimeConfig:\n  platformCommand:\n  - command: ${{{PROGRAM_VARIABLE}}}\n",
                env!("CARGO_PKG_VERSION")
            );
            std::fs::write(plugin.join("plugin.yaml"), text).map_err(writing)?;
            command.env("HELM_PLUGINS", self.directory.join("plugins"));
            command.env(PROGRAM_VARIABLE, &self.program);
            command.args(["--post-renderer", "airlock"]);
        } else {
            command.arg("--post-renderer").arg(&self.program);
        }
        for argument in &self.arguments {
            command.arg("--post-renderer-args").arg(argument);
        }
        Ok(())
    }
}

/// `v4.2.4` or `v4.2.4+g123` to `(4, 2)`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix('v')?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Helm's own words, without its prefix.
fn helm_error(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let error = text.find("Error: ").map_or(&*text, |at| &text[at + 7..]).trim();
    if error.is_empty() { "helm failed and did not say why".into() } else { error.into() }
}

fn one_line(stderr: &[u8]) -> String {
    String::from_utf8_lossy(stderr).lines().next().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("v4.2.4\n"), Some((4, 2)));
        assert_eq!(parse_version("v3.21.0+g1234"), Some((3, 21)));
        for text in ["", "4.2", "vx.y", "v4"] {
            assert_eq!(parse_version(text), None, "{text}");
        }
    }

    #[test]
    fn an_error_is_helms_own_words() {
        assert_eq!(helm_error(b"level=WARN msg=x\nError: chart not found\n"), "chart not found");
        assert_eq!(helm_error(b""), "helm failed and did not say why");
    }

    #[test]
    fn a_helm_that_is_not_there_gives_a_hint() {
        let error = Helm::find(Some(Path::new("/nonexistent/helm"))).expect_err("no helm");
        assert_eq!(error.kind(), crate::Kind::Cluster);
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--helm")), "{error}");
    }
}
