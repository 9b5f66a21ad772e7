//! Real helm, run as a program: what it renders, and what it installs, is what it would without us.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use rustix::process::Pid;
use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::error::{Error, Result};
use crate::interrupt::{self, Unbroken};
use crate::postrender::PostRenderer;

/// Variables of a proxy, which Go reads in both cases.
const PROXIES: [&str; 6] =
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// A proxy that leads nowhere: the port is reserved.
const NOWHERE: &str = "http://127.0.0.1:1";

/// Variables that would have helm do something else than what is asked here, or ask another cluster than the one that
/// was looked at before. (`KUBECONFIG` counts for both; `HELM_DRIVER` says where a site keeps its releases.)
const FOREIGN: [&str; 12] = [
    "HELM_DEBUG",
    "HELM_NAMESPACE",
    "HELM_NO_PLUGINS",
    "HELM_PLUGINS",
    "HELM_KUBECONTEXT",
    "HELM_KUBETOKEN",
    "HELM_KUBEASUSER",
    "HELM_KUBEASGROUPS",
    "HELM_KUBEAPISERVER",
    "HELM_KUBECAFILE",
    "HELM_KUBEINSECURE_SKIP_TLS_VERIFY",
    "HELM_KUBETLS_SERVER_NAME",
];

/// A helm that can be run.
#[derive(Clone, Debug)]
pub struct Helm {
    program: PathBuf,
    /// Major and minor version.
    version: (u32, u32),
}

/// What is made besides, how long is waited, and what becomes of a failure.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    /// Wait until everything is ready.
    pub wait: bool,
    /// Longest wait for one thing, as helm writes it: `10m`.
    pub timeout: String,
    /// A failed upgrade is rolled back, and a failed first install removed.
    pub atomic: bool,
    /// The namespace is made. Helm 4 would write to one that is there, and need the right to.
    pub make_namespace: bool,
}

/// Where a release is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The release's name.
    pub name: &'a str,
    /// Its namespace; that of the context where none is given.
    pub namespace: Option<&'a str>,
    /// Context of the kubeconfig.
    pub context: Option<&'a str>,
}

/// A revision of a release.
#[derive(Clone, Debug, Deserialize)]
pub struct Revision {
    /// Its number.
    pub revision: u64,
    /// `deployed`, `superseded`, `failed`, `pending-upgrade` and so on.
    pub status: String,
}

impl Revision {
    /// A helm is at work on it, or was stopped hard in the middle: no other will touch the release.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.status.starts_with("pending-")
    }
}

/// A change of the cluster that ends in its own way when this process is asked to stop: nothing drops it in the middle.
pub struct Stop {
    _unbroken: Unbroken,
    is_told: bool,
}

impl Stop {
    /// Begins such a change.
    #[must_use]
    pub fn listen() -> Self {
        Self { _unbroken: Unbroken::begin(), is_told: false }
    }

    /// Returns the signal's name when this process is asked to stop; once.
    pub async fn asked(&mut self) -> &'static str {
        if self.is_told {
            std::future::pending::<()>().await;
        }
        let signal = interrupt::wait().await;
        self.is_told = true;
        signal.name()
    }
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
    /// Values are not checked against the chart's schemas.
    pub skip_schema_validation: bool,
}

/// Output of helm for a release.
#[derive(Debug)]
pub struct Templated {
    /// The manifests.
    pub text: String,
    /// Number of references that the post-renderer rewrote.
    pub rewritten: usize,
}

/// Ends helm, and what helm runs, when nobody waits for it any more.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    /// Runs a program to its end. Given up, it is ended with all that it runs.
    async fn output(command: &mut Command) -> std::io::Result<Output> {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut group = Self::of(&child);
        let output = child.wait_with_output().await;
        group.0 = None;
        output
    }
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
        let output = crate::child::command(&program)
            .args(["version", "--template", "{{.Version}}"])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| {
                let is_denied = e.kind() == std::io::ErrorKind::PermissionDenied;
                let error = Error::cluster(running(), e);
                if is_denied {
                    return error.hint(
                        "it, or its file system (mounted noexec), does not let it run: a bundle's helm is put where TMPDIR says",
                    );
                }
                error
                    .hint("install helm 4 (https://helm.sh), name it with --helm, or carry it in the bundle as a file called helm")
            })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = parse_version(&text).ok_or_else(|| {
            Error::cluster(running(), format!("it does not say its version: {}", one_line(&output.stderr)))
        })?;
        // The oldest that was tried.
        if version < (3, 21) {
            return Err(Error::cluster(running(), format!("helm {} is too old", text.trim()))
                .hint("use helm 4, or helm 3.21 or newer"));
        }
        Ok(Self { program, version })
    }

    /// Whether hooks go through the post-renderer: no helm 3 does that (`renderResources` in its `action.go`).
    #[must_use]
    pub fn renders_hooks(&self) -> bool {
        self.version.0 >= 4
    }

    /// Renders a chart as an install would, through the post-renderer, hooks and tests included; with more arguments of
    /// helm's. It reaches no network.
    ///
    /// # Errors
    /// The post-renderer's reason if it refuses, else helm's own words.
    pub(crate) async fn template(
        &self,
        release: &Release<'_>,
        renderer: &PostRenderer,
        arguments: &[String],
    ) -> Result<Templated> {
        let doing = format!("rendering release {} of chart {}", release.name, release.title);
        let mut command = self.command("template", release)?;
        command.args(arguments);
        for variable in PROXIES {
            command.env(variable, NOWHERE);
        }
        command.env_remove("NO_PROXY").env_remove("no_proxy");
        renderer.add_to(&mut command, self.version.0);
        let why = |stderr: &[u8]| release.helm_error(stderr);
        let output = self.run(&doing, command, why).await;
        let output = output.map_err(|error| renderer.refusal(&doing).unwrap_or_else(|| rendering(error)))?;
        let text = String::from_utf8(output.stdout).map_err(|e| Error::cluster(doing, e))?;
        Ok(Templated { text, rewritten: renderer.rewritten() })
    }

    /// The custom resource definitions in the chart's `crds/`, and in those of its subcharts.
    ///
    /// # Errors
    /// What helm says, where it fails.
    pub async fn definitions(&self, release: &Release<'_>) -> Result<String> {
        let doing = format!("reading the definitions of chart {}", release.title);
        let mut command = self.bare(&["show", "crds"]);
        command.arg(release.chart);
        let output = self.run(&doing, command, |stderr| release.helm_error(stderr)).await?;
        String::from_utf8(output.stdout).map_err(|e| Error::cluster(doing, e))
    }

    /// Installs or upgrades a release, its manifests going through `renderer`. When we are asked to stop, helm is asked to
    /// and waited for: it then notes the release as failed, instead of leaving it pending.
    ///
    /// # Errors
    /// The post-renderer's reason if it refuses, else helm's own words.
    pub(crate) async fn upgrade(
        &self,
        release: &Release<'_>,
        context: Option<&str>,
        renderer: &PostRenderer,
        patience: &Patience,
        stop: &mut Stop,
    ) -> Result<()> {
        let doing = format!("installing release {}", release.name);
        let mut command = self.command("upgrade", release)?;
        command.arg("--install");
        if patience.make_namespace {
            command.arg("--create-namespace");
        }
        if let Some(context) = context {
            command.args(["--kube-context", context]);
        }
        add_patience(&mut command, patience);
        if patience.wait {
            command.arg("--wait-for-jobs");
        }
        if patience.atomic {
            command.arg(if self.version.0 >= 4 { "--rollback-on-failure" } else { "--atomic" });
        }
        renderer.add_to(&mut command, self.version.0);
        let done = self.change(&doing, command, |stderr| release.helm_error(stderr), stop).await;
        done.map(drop).map_err(|error| renderer.refusal(&doing).unwrap_or(error))
    }

    /// Back to an older revision; the one before, where none is named.
    ///
    /// # Errors
    /// When helm fails: it has then said why.
    pub async fn rollback(
        &self,
        place: Place<'_>,
        revision: Option<u64>,
        patience: &Patience,
        stop: &mut Stop,
    ) -> Result<()> {
        let mut command = self.about("rollback", place);
        command.args(revision.map(|revision| revision.to_string()));
        add_patience(&mut command, patience);
        if patience.wait {
            command.arg("--wait-for-jobs");
        }
        let doing = format!("rolling back release {}", place.name);
        self.change(&doing, command, helm_error, stop).await.map(drop)
    }

    /// Removes a release. What helm says.
    ///
    /// # Errors
    /// When helm fails: it has then said why.
    pub async fn uninstall(&self, place: Place<'_>, patience: &Patience, stop: &mut Stop) -> Result<String> {
        let mut command = self.about("uninstall", place);
        add_patience(&mut command, patience);
        let doing = format!("uninstalling release {}", place.name);
        let output = self.change(&doing, command, helm_error, stop).await?;
        Ok(String::from_utf8_lossy(&output.stdout).into())
    }

    /// The last revision of a release; none if there is no such release.
    ///
    /// # Errors
    /// When helm can't tell.
    pub async fn last(&self, place: Place<'_>) -> Result<Option<Revision>> {
        let last = self.revisions(place, 1).await?.unwrap_or_default().pop();
        // Of one that was uninstalled, a site may have kept the history.
        Ok(last.filter(|last| last.status != "uninstalled"))
    }

    /// The revisions of a release, oldest first; none if there is no such release.
    ///
    /// # Errors
    /// When helm can't tell.
    pub async fn history(&self, place: Place<'_>) -> Result<Option<Vec<Revision>>> {
        self.revisions(place, 256).await
    }

    async fn revisions(&self, place: Place<'_>, most: u32) -> Result<Option<Vec<Revision>>> {
        let mut command = self.about("history", place);
        command.args(["--output", "json", "--max", &most.to_string()]);
        let doing = format!("asking helm about release {}", place.name);
        match self.run(&doing, command, helm_error).await {
            Ok(output) => {
                serde_json::from_slice(&output.stdout).map(Some).map_err(|e| Error::cluster(doing, e))
            }
            // The text of helm's `ErrReleaseNotFound`, of old.
            Err(e) if e.to_string().ends_with("release: not found") => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What `helm get manifest` prints for the last revision.
    ///
    /// # Errors
    /// When helm can't tell.
    pub async fn manifest(&self, place: Place<'_>) -> Result<Vec<u8>> {
        let mut command = self.bare(&["get", "manifest", place.name]);
        add_place(&mut command, place);
        let doing = format!("asking helm for the manifests of release {}", place.name);
        Ok(self.run(&doing, command, helm_error).await?.stdout)
    }

    /// Runs helm to its end.
    async fn run(&self, doing: &str, mut command: Command, why: impl Fn(&[u8]) -> String) -> Result<Output> {
        let output = Group::output(&mut command).await.map_err(|e| Error::cluster(doing, e))?;
        judged(doing, output, why, None)
    }

    /// The same, for work that must not be left in the middle: when we are asked to stop, helm is asked to, and waited for.
    async fn change(
        &self,
        doing: &str,
        mut command: Command,
        why: impl Fn(&[u8]) -> String,
        stop: &mut Stop,
    ) -> Result<Output> {
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Error::cluster(doing, e))?;
        let mut group = Group::of(&child);
        let mut ended = std::pin::pin!(child.wait_with_output());
        let mut stopped = None;
        let output = loop {
            tokio::select! {
                output = &mut ended => break output.map_err(|e| Error::cluster(doing, e))?,
                by = stop.asked() => stopped = Some(by),
            }
            if let Some(pid) = group.0 {
                // It may have ended in this moment.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        };
        group.0 = None;
        // Not of what only asks: manifests have Secrets in them.
        tracing::info!("helm: {}", String::from_utf8_lossy(&output.stdout).trim());
        judged(doing, output, why, stopped)
    }

    fn about(&self, verb: &str, place: Place<'_>) -> Command {
        let mut command = self.bare(&[verb, place.name]);
        add_place(&mut command, place);
        command
    }

    /// A helm with nothing but what it is told here, and the kubeconfig.
    fn bare(&self, arguments: &[&str]) -> Command {
        let mut command = Command::from(crate::child::command(&self.program));
        command.args(arguments).kill_on_drop(true).stdin(Stdio::null());
        // Ctrl-C at a terminal reaches a whole group: it is for us, and we end helm.
        command.process_group(0);
        for variable in FOREIGN {
            command.env_remove(variable);
        }
        command
    }

    fn command(&self, verb: &str, release: &Release<'_>) -> Result<Command> {
        let mut command = self.bare(&[verb, release.name]);
        command.arg(release.chart);
        if let Some(namespace) = release.namespace {
            command.args(["--namespace", namespace]);
        }
        for file in release.values {
            // helm would read a device to its end, and fetch an address.
            crate::file::values(file)?;
            command.arg("--values").arg(file);
        }
        for value in release.set {
            command.args(["--set", value]);
        }
        if release.skip_schema_validation {
            command.arg("--skip-schema-validation");
        }
        Ok(command)
    }
}

/// Tells values that the chart does not take, which are the user's, from a chart that helm can't render.
fn rendering(error: Error) -> Error {
    const VALUES: [&str; 4] = [
        "failed to parse ",
        "failed parsing --set data",
        "cannot unmarshal yaml document",
        "values don't meet the specifications of the schema",
    ];
    const MANIFESTS: [&str; 3] =
        ["error merging manifests", "error while parsing post rendered output", "YAML parse error on"];
    let text = error.to_string();
    if VALUES.iter().any(|words| text.contains(words)) {
        let error = error.of_kind(crate::Kind::Input);
        return error.hint("correct the values: those of bundle.toml, --values or --set");
    }
    if MANIFESTS.iter().any(|words| text.contains(words)) {
        return error.hint(
            "helm reads a chart's manifests as YAML on their way to a cluster: the chart's template must change at that place",
        );
    }
    error
}

fn judged(
    doing: &str,
    output: Output,
    why: impl Fn(&[u8]) -> String,
    stopped: Option<&str>,
) -> Result<Output> {
    if output.status.success() {
        return Ok(output);
    }
    let why = match std::os::unix::process::ExitStatusExt::signal(&output.status) {
        Some(9) => "helm was killed (signal 9)".to_owned(),
        Some(number) => format!("helm was ended by signal {number}"),
        None => why(&output.stderr),
    };
    let unreachable = why.contains("cluster unreachable");
    let why = stopped.map(|by| format!("stopped by {by}: {why}")).unwrap_or(why);
    let error = Error::cluster(doing, why);
    Err(if unreachable {
        error.hint("name the cluster by KUBECONFIG or --kube-context, as for helm and kubectl; what was pushed stays")
    } else {
        error
    })
}

fn add_patience(command: &mut Command, patience: &Patience) {
    if patience.wait {
        command.arg("--wait");
    }
    if !patience.timeout.is_empty() {
        command.args(["--timeout", &patience.timeout]);
    }
}

fn add_place(command: &mut Command, place: Place<'_>) {
    if let Some(namespace) = place.namespace {
        command.args(["--namespace", namespace]);
    }
    if let Some(context) = place.context {
        command.args(["--kube-context", context]);
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
    let error = error.trim_end_matches("Use --debug flag to render out invalid YAML").trim_end();
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
