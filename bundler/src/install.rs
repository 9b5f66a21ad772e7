//! A verified bundle into a cluster: every chart rendered, rewritten and gated before the first is applied, and each
//! once more in its post-renderer, where what helm really applies goes by.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::format::{self, Chart, Manifest};
use crate::helm::{Helm, PostRenderer, Release};
use crate::name;
use crate::reference::Mapping;
use crate::rewrite::{self, Pin, Pins};
use crate::verify::{VerifiedBundle, chart_content};

/// Name of the file that a bundle carries helm as.
const HELM_FILE: &str = "helm";

/// What a site adds to a bundle.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Only this chart or release.
    pub chart: Option<String>,
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
                .hint("leave out --namespace, or choose one of them with --chart")
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
}

/// What the post-renderer needs to know; a file of the run hands it over.
#[derive(Debug, Serialize, Deserialize)]
pub struct RenderJob {
    images: Vec<Pin>,
    registry: String,
    strip_host: bool,
}

impl RenderJob {
    fn new(manifest: &Manifest, registry: &str, strip_host: bool) -> Self {
        let images = manifest.images.iter().map(Pin::from).collect();
        Self { images, registry: registry.into(), strip_host }
    }

    /// Rewrites a stream of manifests, and refuses it if anything in it points elsewhere.
    ///
    /// # Errors
    /// What the rewriting and the gate say.
    pub fn run(&self, manifests: &str) -> Result<(String, usize)> {
        let mapping = Mapping::new(&self.registry, self.strip_host)
            .map_err(|e| Error::input("reading --registry", e))?;
        let pins = Pins::new(self.images.iter().cloned());
        let (text, changes) = rewrite::checked(manifests, &pins, &mapping)?;
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
    namespace: Option<&'a str>,
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
        registry: &str,
        strip_host: bool,
        helm: Option<&Path>,
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("airlock-").tempdir().map_err(|e| {
            Error::input("making a temporary directory", e)
                .hint("point TMPDIR to a directory that is writable")
        })?;
        let manifest = bundle.manifest();
        let chosen: Vec<&Chart> = manifest
            .charts
            .iter()
            .filter(|c| site.chart.as_ref().is_none_or(|name| *name == c.name || *name == c.release))
            .collect();
        let names = || manifest.charts.iter().map(|c| c.release.as_str()).collect::<Vec<_>>().join(", ");
        if manifest.charts.is_empty() {
            return Err(Error::input("choosing what to install", "the bundle carries no chart")
                .hint("`airlock push` or `airlock serve` give its images to a cluster"));
        }
        if chosen.is_empty() {
            return Err(Error::input("choosing what to install", "the bundle has no such chart")
                .hint(format!("it has these releases: {}", names())));
        }
        let stray = site
            .values
            .keys()
            .chain(site.set.keys())
            .find(|name| !chosen.iter().any(|c| c.release == **name));
        if let Some(stray) = stray {
            return Err(Error::input("reading --values and --set", format!("there is no release {stray:?}"))
                .hint(format!("the bundle has these releases: {}", names())));
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
        Ok(Self { charts, helm, job: RenderJob::new(manifest, registry, strip_host), site, directory })
    }

    /// Renders, rewrites and gates every chart; applies nothing.
    ///
    /// # Errors
    /// When helm fails, or the gate refuses.
    pub async fn render(&self) -> Result<Vec<Rendered>> {
        let mut all = Vec::new();
        for chart in &self.charts {
            let manifests = self.helm.template(&chart.release()).await?;
            let release = chart.chart.release.clone();
            let (manifests, rewritten) =
                self.job.run(&manifests).map_err(|e| e.within(format!("release {release}")))?;
            all.push(Rendered { release, manifests, rewritten });
        }
        Ok(all)
    }

    /// Installs every chart, in the bundle's order. `airlock` is our own program, which helm runs.
    ///
    /// # Errors
    /// When the post-renderer refuses, or helm fails; charts before are installed then.
    pub async fn apply(&self, airlock: &Path) -> Result<()> {
        let job = self.directory.path().join("render.json");
        let writing = || format!("writing {}", job.display());
        let text = serde_json::to_vec(&self.job).map_err(|e| Error::input(writing(), e))?;
        std::fs::write(&job, text).map_err(|e| Error::input(writing(), e))?;
        let renderer = PostRenderer {
            program: airlock.into(),
            arguments: vec!["post-render".into(), job.as_path().into()],
            directory: self.directory.path().into(),
        };
        for chart in &self.charts {
            let release = chart.release();
            let upgraded = self.helm.upgrade(&release, self.site.kube_context.as_deref(), &renderer).await;
            upgraded.map_err(|e| {
                Refusal::read(&job, format!("installing release {}", release.name)).unwrap_or(e)
            })?;
        }
        Ok(())
    }
}

impl Unpacked<'_> {
    fn release(&self) -> Release<'_> {
        Release {
            name: &self.chart.release,
            title: &self.title,
            namespace: self.namespace,
            chart: &self.path,
            values: &self.values,
            set: &self.set,
        }
    }
}

fn unpack<'a>(
    bundle: &VerifiedBundle,
    chart: &'a Chart,
    site: &'a Site,
    directory: &Path,
) -> Result<Unpacked<'a>> {
    std::fs::create_dir(directory)
        .map_err(|e| Error::input(format!("making directory {}", directory.display()), e))?;
    let content = chart_content(bundle, chart)?;
    let path = directory.join("chart.tgz");
    write(bundle, &content, &path)?;
    let mut values = Vec::new();
    for (n, digest) in chart.values.iter().enumerate() {
        let path = directory.join(format!("values-{n}.yaml"));
        write(bundle, digest, &path)?;
        values.push(path);
    }
    values.extend(site.values.get(&chart.release).into_iter().flatten().cloned());
    let set = chart.set.iter().chain(site.set.get(&chart.release).into_iter().flatten()).cloned().collect();
    let title = format!("{} {}", chart.name, chart.version);
    Ok(Unpacked { chart, title, path, values, set, namespace: site.namespace_of(chart) })
}

/// Writes a blob to a file, checked.
fn write(bundle: &VerifiedBundle, digest: &Digest, path: &Path) -> Result<()> {
    use std::io::Write as _;
    let writing = |e| Error::input(format!("writing {}", path.display()), e);
    let mut file = std::fs::File::create(path).map_err(writing)?;
    bundle.read(digest, |chunk| file.write_all(chunk).map_err(writing))
}

/// The bundle's helm for this machine, made runnable.
fn carried_helm(bundle: &VerifiedBundle, directory: &Path) -> Result<Option<PathBuf>> {
    let here = match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        other => other,
    };
    let fits = |file: &&format::File| {
        file.name == HELM_FILE && file.platform.as_ref().is_none_or(|p| p.to_string() == here)
    };
    let Some(file) = bundle.manifest().files.iter().find(fits) else { return Ok(None) };
    let packed = directory.join("helm.file");
    write(bundle, &file.digest, &packed)?;
    let path = directory.join(HELM_FILE);
    let unpacking = |e: std::io::Error| Error::input("unpacking the bundle's helm", e);
    let mut magic = [0; 2];
    let mut source = std::fs::File::open(&packed).map_err(unpacking)?;
    std::io::Read::read_exact(&mut source, &mut magic).map_err(unpacking)?;
    if magic == [0x1f, 0x8b] {
        // A release of helm: a packed directory with the program in it.
        let source = std::fs::File::open(&packed).map_err(unpacking)?;
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(source));
        let mut found = false;
        for entry in archive.entries().map_err(unpacking)? {
            let mut entry = entry.map_err(unpacking)?;
            if entry.header().entry_type().is_file() && entry.path().is_ok_and(|p| p.ends_with(HELM_FILE)) {
                let mut target = std::fs::File::create(&path).map_err(unpacking)?;
                std::io::copy(&mut entry, &mut target).map_err(unpacking)?;
                found = true;
                break;
            }
        }
        if !found {
            return Err(Error::input("unpacking the bundle's helm", "there is no program called helm in it"));
        }
    } else {
        std::fs::rename(&packed, &path).map_err(unpacking)?;
    }
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(unpacking)?;
    Ok(Some(path))
}
