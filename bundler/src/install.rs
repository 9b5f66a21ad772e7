//! A verified bundle into a cluster: every chart rendered, rewritten and gated before the first is applied, and each
//! once more in its post-renderer, where what helm really applies goes by.

mod apply;
mod carried;
pub mod diff;
mod namespaces;
pub mod objects;
pub mod preflight;
mod prove;
pub mod role;
mod scope;
mod unpack;
pub mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::file;
use crate::format::{Chart, Manifest};
use crate::helm::{Helm, Place, Release, Templated};
use crate::name;
use crate::postrender::{Job, PostRenderer, Rewriting};
use crate::rewrite::Pin;
use crate::verify::VerifiedBundle;
use scope::Scopes;
use unpack::unpack;

pub use crate::postrender::Target;
pub use apply::{Installed, Observer};
pub use carried::find_helm;
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
    /// Values are not checked against the charts' schemas. Those that need an address are never asked.
    pub skip_schema_validation: bool,
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
    /// Its namespace, where one is named.
    pub namespace: Option<String>,
    /// The chart.
    pub chart: String,
    /// The chart's version.
    pub version: String,
    /// The manifests.
    pub manifests: String,
    /// How many references were rewritten.
    pub rewritten: usize,
    /// Whether hooks are among what was rewritten.
    #[serde(skip)]
    hooks_rewritten: bool,
}

/// An installation being prepared: charts and values unpacked to a directory of its own.
pub struct Install<'a> {
    manifest: &'a Manifest,
    charts: Vec<Unpacked<'a>>,
    helm: Helm,
    rewriting: Rewriting,
    renderer: PostRenderer,
    site: &'a Site,
    /// Holds the charts, and goes with this.
    _directory: tempfile::TempDir,
}

struct Unpacked<'a> {
    chart: &'a Chart,
    title: String,
    path: PathBuf,
    values: Vec<PathBuf>,
    set: Vec<String>,
    namespace: Option<String>,
    skip_schema_validation: bool,
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
        let directory = file::temporary()?;
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
        let helm = find_helm(helm, Some(bundle), directory.path())?;
        let charts = chosen
            .into_iter()
            .enumerate()
            .map(|(n, chart)| unpack(bundle, chart, site, &directory.path().join(n.to_string())))
            .collect::<Result<_>>()?;
        let rewriting = Rewriting { images: manifest.images.iter().map(Pin::from).collect(), target };
        let renderer = PostRenderer::new(directory.path(), &Job::Rewrite(rewriting.clone()))?;
        Ok(Self { manifest, charts, helm, rewriting, renderer, site, _directory: directory })
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
            let Templated { text, rewritten } =
                self.helm.template(&chart.release(), &self.renderer, &circumstances(&release)).await?;
            // Once more, since not all goes through a post-renderer: `crds/`, and the hooks of helm 3.
            let (manifests, more) =
                self.rewriting.run(&text).map_err(|e| e.within(format!("release {release}")))?;
            let hooks_rewritten = !self.helm.renders_hooks() && hooks(&text) != hooks(&manifests);
            all.push(Rendered {
                release,
                namespace: chart.namespace.clone(),
                chart: chart.chart.name.clone(),
                version: chart.chart.version.clone(),
                manifests,
                rewritten: rewritten + more,
                hooks_rewritten,
            });
        }
        Ok(all)
    }

    /// Writes each release's namespace into its objects, as far as they are in one and name none. `namespaced` are kinds
    /// (`KIND.GROUP`) that are, beside Kubernetes' own and those that the charts define. Returns the kinds that nobody knows.
    ///
    /// # Errors
    /// When helm fails, or an object has no place for its namespace.
    pub async fn write_namespaces(
        &self,
        rendered: &mut [Rendered],
        namespaced: &[String],
    ) -> Result<BTreeSet<String>> {
        let mut scopes = Scopes::new(namespaced);
        for (chart, rendered) in self.charts.iter().zip(&*rendered) {
            scopes.define(&objects::objects(&self.helm.definitions(&chart.release()).await?).0);
            scopes.define(&objects::objects(&rendered.manifests).0);
        }
        let mut unknown = BTreeSet::new();
        for rendered in rendered {
            let Some(namespace) = &rendered.namespace else { continue };
            let placed = namespaces::place(&rendered.manifests, namespace, &scopes)
                .map_err(|e| e.within(format!("release {}", rendered.release)))?;
            rendered.manifests = placed.text;
            unknown.extend(placed.unknown);
        }
        Ok(unknown)
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
            skip_schema_validation: self.skip_schema_validation,
        }
    }
}
