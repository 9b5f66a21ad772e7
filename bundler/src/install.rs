//! A verified bundle into a cluster: every chart rendered, rewritten and gated before the first is applied, and each
//! once more in its post-renderer, where what helm really applies goes by.

mod apply;
pub mod diff;
pub mod objects;
pub mod preflight;
mod prove;
pub mod role;
mod unpack;
pub mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::format::{Chart, Manifest};
use crate::helm::{Helm, Place, Release};
use crate::name;
use crate::reference::Mapping;
use crate::rewrite::{self, Checked, Pin, Pins};
use crate::verify::VerifiedBundle;
use unpack::{carried_helm, unpack};

pub use apply::{Installed, Observer};
pub use prove::Proof;

/// What a site adds to a bundle.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Only these releases; all if there are none.
    pub releases: Vec<String>,
    /// Values files of a release.
    pub values: BTreeMap<String, Vec<PathBuf>>,
    /// Single values of a release.
    pub set: BTreeMap<String, Vec<String>>,
    /// Instead of the namespaces that the bundle names.
    pub namespace: Option<String>,
    /// Of the kubeconfig.
    pub kube_context: Option<String>,
}

impl Site {
    fn namespace_of<'a>(&'a self, chart: &'a Chart) -> Option<&'a str> {
        self.namespace.as_deref().or(chart.namespace.as_deref())
    }

    /// Names that would reach helm's command line, and releases that a namespace for all would make one.
    fn check(&self, chosen: &[&Chart]) -> Result<()> {
        self.namespace
            .as_deref()
            .map_or(Ok(()), name::namespace)
            .map_err(|e| Error::input("reading --namespace", e))?;
        self.kube_context
            .as_deref()
            .map_or(Ok(()), name::context)
            .map_err(|e| Error::input("reading --kube-context", e))?;
        let places = chosen.iter().map(|chart| (&*chart.release, self.namespace_of(chart)));
        name::releases(places).map_err(|e| {
            Error::input("putting all releases into the namespace of --namespace", e)
                .hint("leave out --namespace, or choose one of them with --release")
        })
    }
}

/// A chart's manifests, rewritten and gated.
#[derive(Debug, Serialize)]
pub struct Rendered {
    /// The release's name.
    pub release: String,
    /// The manifests.
    pub manifests: String,
    /// How many references were rewritten.
    pub rewritten: usize,
    /// Whether hooks are among what was rewritten.
    #[serde(skip)]
    hooks_rewritten: bool,
}

/// Where manifests are to point.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// `REGISTRY[/PREFIX]`.
    pub registry: String,
    /// Whether the source's host is left out of repositories' names.
    pub strip_host: bool,
    /// Whether every repository is directly below `registry`.
    #[serde(default)]
    pub flat: bool,
    /// A Secret with the registry's login, to be in every pod spec.
    pub pull_secret: Option<String>,
}

/// What the post-renderer needs to know; a file of the run hands it over.
#[derive(Debug, Serialize, Deserialize)]
pub struct RenderJob {
    images: Vec<Pin>,
    target: Target,
}

impl RenderJob {
    fn new(manifest: &Manifest, target: Target) -> Self {
        Self { images: manifest.images.iter().map(Pin::from).collect(), target }
    }

    /// Rewrites a stream of manifests, and refuses it if anything in it points elsewhere.
    ///
    /// # Errors
    /// What the rewriting and the gate say.
    pub fn run(&self, manifests: &str) -> Result<(String, usize)> {
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

/// Why the post-renderer failed, in a file beside its job: helm 4 throws away what its plugins say.
#[derive(Serialize, Deserialize)]
struct Refusal {
    kind: Kind,
    text: String,
    hint: Option<String>,
}

impl Refusal {
    fn path(job: &Path) -> PathBuf {
        job.with_extension("refused")
    }

    /// The failure that was left, if one was.
    fn read(job: &Path, action: String) -> Option<Error> {
        let text = std::fs::read(Self::path(job)).ok()?;
        let Self { kind, text, hint } = serde_json::from_slice(&text).ok()?;
        let error = Error::new(kind, action, text);
        Some(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        })
    }
}

/// Leaves why the post-renderer failed for [`Install::apply`], which says it. Where that can't be written, helm's own
/// message is all there is.
pub fn leave_refusal(job: &Path, error: &Error) {
    let hint = error.hint_text().map(Into::into);
    let refusal = Refusal { kind: error.kind(), text: error.to_string(), hint };
    if let Ok(text) = serde_json::to_vec(&refusal) {
        let _ = std::fs::write(Refusal::path(job), text);
    }
}

/// An installation being prepared: charts and values unpacked to a directory of its own.
pub struct Install<'a> {
    manifest: &'a Manifest,
    charts: Vec<Unpacked<'a>>,
    helm: Helm,
    job: RenderJob,
    site: &'a Site,
    directory: tempfile::TempDir,
}

struct Unpacked<'a> {
    chart: &'a Chart,
    title: String,
    path: PathBuf,
    values: Vec<PathBuf>,
    set: Vec<String>,
    namespace: Option<String>,
}

impl<'a> Install<'a> {
    /// Unpacks what is to be installed, and finds helm: `helm`, else the bundle's own if its signature was checked, else
    /// the one on PATH.
    ///
    /// # Errors
    /// When a chart that the site names isn't there, or nothing can be written.
    pub fn prepare(
        bundle: &'a VerifiedBundle,
        site: &'a Site,
        target: Target,
        helm: Option<&Path>,
    ) -> Result<Self> {
        // Values may be secret, and helm is run out of it.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let mut builder = tempfile::Builder::new();
        let directory = builder.prefix("airlock-").permissions(private).tempdir().map_err(|e| {
            Error::input("making a temporary directory", e)
                .hint("point TMPDIR to a directory that is writable")
        })?;
        let manifest = bundle.manifest();
        let chosen: Vec<&Chart> = manifest
            .charts
            .iter()
            .filter(|c| site.releases.is_empty() || site.releases.contains(&c.release))
            .collect();
        if manifest.charts.is_empty() {
            return Err(Error::input("choosing what to install", "the bundle carries no chart")
                .hint("`airlock push` or `airlock serve` give its images to a cluster"));
        }
        let names = |charts: &[&Chart]| charts.iter().map(|c| c.release.clone()).collect::<Vec<_>>();
        let all = names(&manifest.charts.iter().collect::<Vec<_>>());
        if let Some(stray) = site.releases.iter().find(|name| !all.contains(name)) {
            return Err(name::unknown("reading --release", "release", stray, &all));
        }
        let chosen_names = names(&chosen);
        if let Some(stray) = site.values.keys().chain(site.set.keys()).find(|n| !chosen_names.contains(n)) {
            return Err(match all.contains(stray) {
                true => Error::input(
                    format!("reading --values and --set for release {stray}"),
                    "--release leaves that release out",
                )
                .hint(format!("name it too: --release {stray}")),
                false => name::unknown("reading --values and --set", "release", stray, &all),
            });
        }
        site.check(&chosen)?;
        let helm = match helm {
            Some(path) => Helm::find(Some(path))?,
            // A program is not run on the word of nobody.
            None if bundle.signer().is_none() => Helm::find(None)?,
            None => match carried_helm(bundle, directory.path())? {
                Some(path) => Helm::find(Some(&path))?,
                None => Helm::find(None)?,
            },
        };
        let charts = chosen
            .into_iter()
            .enumerate()
            .map(|(n, chart)| unpack(bundle, chart, site, &directory.path().join(n.to_string())))
            .collect::<Result<_>>()?;
        Ok(Self { manifest, charts, helm, job: RenderJob::new(manifest, target), site, directory })
    }

    /// Renders, rewrites and gates every chart; applies nothing. `circumstances` are further arguments of `helm template`
    /// for each release: what the cluster is, where one is asked.
    ///
    /// # Errors
    /// When helm fails, or the gate refuses.
    pub async fn render(&self, circumstances: impl Fn(&str) -> Vec<String>) -> Result<Vec<Rendered>> {
        let mut all = Vec::new();
        for chart in &self.charts {
            let release = chart.chart.release.clone();
            let plain = self.helm.template_with(&chart.release(), &circumstances(&release)).await?;
            let (manifests, rewritten) =
                self.job.run(&plain).map_err(|e| e.within(format!("release {release}")))?;
            let hooks_rewritten = !self.helm.renders_hooks() && hooks(&plain) != hooks(&manifests);
            all.push(Rendered { release, manifests, rewritten, hooks_rewritten });
        }
        Ok(all)
    }

    /// Refuses hooks that would keep the chart's own images: helm 3 hands no hook to a post-renderer.
    ///
    /// # Errors
    /// With the releases that have such hooks.
    pub fn check_hooks(&self, rendered: &[Rendered]) -> Result<()> {
        if self.helm.renders_hooks() {
            return Ok(());
        }
        let with: Vec<&str> =
            rendered.iter().filter(|r| r.hooks_rewritten).map(|r| r.release.as_str()).collect();
        if with.is_empty() {
            return Ok(());
        }
        let why = format!(
            "helm 3 leaves hooks as they are, and these releases have hooks with images: {}",
            with.join(", ")
        );
        Err(Error::cluster("choosing helm", why)
            .hint("use helm 4: name it with --helm, or carry it in the bundle as a file called helm"))
    }

    /// Names the namespace of releases that have none of their own: what helm would choose by itself at one time, and the
    /// chart be rendered without at another.
    pub fn settle(&mut self, namespace: &str) {
        for chart in &mut self.charts {
            chart.namespace.get_or_insert_with(|| namespace.to_owned());
        }
    }

    /// The namespaces of its releases, as far as they are settled.
    #[must_use]
    pub fn namespaces(&self) -> BTreeSet<&str> {
        self.charts.iter().filter_map(|chart| chart.namespace.as_deref()).collect()
    }

    fn place<'p>(&'p self, chart: &'p Unpacked<'_>) -> Place<'p> {
        Place {
            name: &chart.chart.release,
            namespace: chart.namespace.as_deref(),
            context: self.site.kube_context.as_deref(),
        }
    }
}

fn hooks(manifests: &str) -> Vec<serde_json::Value> {
    let all = objects::objects(manifests).0.into_iter();
    all.filter(|object| object.hook.is_some()).map(|object| object.value).collect()
}

impl Unpacked<'_> {
    fn release(&self) -> Release<'_> {
        Release {
            name: &self.chart.release,
            title: &self.title,
            namespace: self.namespace.as_deref(),
            chart: &self.path,
            values: &self.values,
            set: &self.set,
        }
    }
}
