//! `airlock lock`: from what is wanted to what it is. Renders the charts with helm, resolves every reference.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::evidence::{self, Evidence};
use super::{Lock, LockedChart, LockedFile, LockedImage, LockedValues, VERSION};
use super::{charts, unused};
use crate::chart::Chart;
use crate::digest::Digest;
use crate::discover::charts::{Subject, Told};
use crate::discover::confirm::{Asking, confirm};
use crate::discover::{Class, Found};
use crate::error::{Error, Result};
use crate::fetch;
use crate::file;
use crate::helm::Helm;
use crate::name::{self, NameError};
use crate::origin::Sources;
use crate::postrender::{Job, PostRenderer, Rewriting, Target};
use crate::reference::Reference;
use crate::resolve::{ImageSource, resolve};
use crate::rewrite::Pin;
use crate::spec::{ChartSpec, FileSpec, Spec};
use crate::yaml;

/// Images that are pinned at a time.
const PARALLEL: usize = 6;

/// Name of the file with a packed chart.
const PACKED: &str = "chart.tgz";

/// Which existing pins may move.
#[derive(Clone, Debug)]
pub enum Update {
    /// None: what is pinned stays.
    Nothing,
    /// All.
    Everything,
    /// Images by reference, charts and files by name.
    Only(BTreeSet<String>),
}

impl Update {
    pub(super) fn moves(&self, name: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Only(names) => names.contains(name),
        }
    }
}

/// What pinning came to.
pub struct Pinned {
    /// The lock; with the serial and time of the one before if nothing changed.
    pub lock: Lock,
    /// What looks like a reference in the charts but was not taken for an image.
    pub possible: Vec<Found>,
    /// Warnings about problems that would otherwise appear only at the site.
    pub warnings: Vec<String>,
}

/// Pins everything that `spec` wants. `previous` keeps what it pins, unless `update` says otherwise; what is on this
/// machine (a chart's directory, an engine's image) is always read anew. `now` is for a lock that has changed.
///
/// # Errors
/// When something can't be found, fetched or rendered, or has changed where it must not.
pub async fn pin(
    spec: &Spec,
    previous: Option<&Lock>,
    update: &Update,
    helm: &dyn Fn() -> Result<Helm>,
    sources: &Sources<'_>,
    now: &str,
) -> Result<Pinned> {
    let mut wanted: BTreeMap<Reference, BTreeSet<String>> = BTreeMap::new();
    for image in &spec.images {
        wanted.entry(image.reference.normalised()).or_default().insert("bundle.toml".into());
    }
    let Survey { mut charts, mut found, unused, rendered, warnings } =
        survey(spec, previous, update, helm, sources).await?;
    if !unused.is_empty() {
        return Err(Error::all("reading bundle.toml", unused));
    }
    for chart in &mut charts {
        add_evidence(spec, previous, update, sources, chart).await?;
    }
    let unreadable = found.iter().filter(|f| f.class == Class::Unreadable);
    let unreadable: String = unreadable
        .map(|f| {
            format!(
                "\n  chart {}: {}: {:?}",
                f.release.as_deref().unwrap_or_default(),
                f.place_named(),
                f.text
            )
        })
        .collect();
    if !unreadable.is_empty() {
        let why = format!("images of pods that are no references:{unreadable}");
        return Err(Error::input("looking for the charts' images", why)
            .hint("set them by the charts' values in bundle.toml"));
    }
    let asking = Asking {
        listed: spec.registries.iter().cloned().collect(),
        known: previous
            .iter()
            .flat_map(|lock| lock.images.iter())
            .map(|image| image.reference.clone())
            .filter(|reference| !update.moves(&reference.to_string()))
            .collect(),
        forgiving: false,
    };
    confirm(&mut found, &asking, sources.client).await?;
    let (taken, mut possible): (Vec<_>, Vec<_>) = found.into_iter().partition(Found::is_wanted);
    let mut variables = BTreeMap::new();
    for found in taken {
        let place = format!("chart {}: {}", found.release.as_deref().unwrap_or_default(), found.place);
        if let Some(reference) = found.full() {
            variables.extend(found.variable.clone().map(|variable| (place.clone(), variable)));
            wanted.entry(reference).or_default().insert(place);
        }
    }
    possible.retain(|found| found.full().is_none_or(|reference| !wanted.contains_key(&reference)));

    unused::check_signed(spec, wanted.keys())?;
    let (images, mut files) = pin_all(spec, previous, update, sources, wanted, &variables).await?;
    files.sort_by(|a, b| (&a.name, &a.platform).cmp(&(&b.name, &b.platform)));

    let mut lock = Lock {
        version: VERSION,
        name: spec.name.clone(),
        bundle_version: spec.version.clone(),
        serial: previous.map_or(0, |lock| lock.serial) + 1,
        created: now.into(),
        spec: spec.digest(),
        platforms: spec.platforms.clone(),
        charts,
        images,
        files,
    };
    lock.check_names().map_err(|e| {
        let hint = matches!(e, NameError::Twice(_))
            .then_some("give each chart a `release` or a `namespace` of its own in bundle.toml");
        let error = Error::input("pinning the charts", e);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })?;
    try_rewriting(&rendered, &lock.images)?;
    if let Some(previous) = previous.filter(|previous| previous.same_content(&lock)) {
        lock = previous.clone();
    }
    Ok(Pinned { lock, possible, warnings })
}

/// Pins images and files. What can't be pinned is told all at once. `variables` names environment variables by their places.
async fn pin_all(
    spec: &Spec,
    previous: Option<&Lock>,
    update: &Update,
    sources: &Sources<'_>,
    wanted: BTreeMap<Reference, BTreeSet<String>>,
    variables: &BTreeMap<String, String>,
) -> Result<(Vec<LockedImage>, Vec<LockedFile>)> {
    let jobs = wanted.into_iter().map(|(reference, asked_by)| async move {
        let meanings = spec.charts.iter().flat_map(|chart| &chart.map);
        let meant_by: BTreeSet<String> =
            meanings.filter(|m| m.reference.normalised() == reference).map(|m| m.text.clone()).collect();
        let asks = asked_by.first().map(|place| match variables.get(place) {
            Some(variable) => format!("{place} (env {variable})"),
            None => place.clone(),
        });
        let asked_by = asked_by.into_iter().collect();
        let since = Instant::now();
        let image = pin_image(spec, previous, update, sources, reference, asked_by).await;
        let image = image
            .map_err(|e| e.within(format!("pinning an image that {} asks for", asks.unwrap_or_default())))?;
        let seconds = since.elapsed().as_secs_f64();
        tracing::info!("image {}: {}, {} bytes, {seconds:.3} s", image.reference, image.digest, image.size);
        Ok(LockedImage { meant_by: meant_by.into_iter().collect(), ..image })
    });
    let pinned: Vec<Result<LockedImage>> = stream::iter(jobs).buffered(PARALLEL).collect().await;
    let (mut images, mut files, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for image in pinned {
        match image {
            Ok(image) => images.push(image),
            Err(failure) => failures.push(failure),
        }
    }
    for file in &spec.files {
        let old = previous.map_or(&[][..], |lock| &lock.files);
        match pin_file(file, old, sources).await {
            Ok(file) => files.push(file),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() {
        Ok((images, files))
    } else {
        Err(Error::all("pinning what is wanted", failures))
    }
}

async fn pin_image(
    spec: &Spec,
    previous: Option<&Lock>,
    update: &Update,
    sources: &Sources<'_>,
    reference: Reference,
    asked_by: Vec<String>,
) -> Result<LockedImage> {
    let name = reference.to_string();
    let from =
        spec.images.iter().find(|i| i.reference.normalised() == reference).and_then(|i| i.from.clone());
    let old =
        previous.and_then(|lock| lock.images.iter().find(|i| i.reference == reference && i.from == from));
    let old = old.filter(|_| !update.moves(&name));
    let remote = from.as_ref().is_none_or(|from| from.starts_with("docker://"));
    let required = evidence::required(spec, &reference, sources)?;
    // What was checked for other keys is checked again.
    let is_signed = |old: &LockedImage| evidence::is_enough(required.as_deref(), &old.signed_by);
    if let (Some(old), true) = (old, remote && previous.is_some_and(|lock| lock.platforms == spec.platforms))
        && is_signed(old)
    {
        let attached = if spec.attached { old.attached.clone() } else { vec![] };
        return Ok(LockedImage { asked_by, attached, ..old.clone() });
    }
    let source = fetch::image_source(&reference, from.as_deref(), sources).await?;
    // With other platforms the same index is chosen from again; the tag may have moved, the pin has not.
    let ask = match (&source, old) {
        (ImageSource::Registry(_), Some(old)) => old.upstream.unwrap_or(old.digest).to_string(),
        (ImageSource::Registry(_), None) => fetch::tag_or_digest(&reference, from.as_deref())?,
        (ImageSource::Local(image), _) => image.root.digest.to_string(),
    };
    let resolved = resolve(&source, &name, &ask, &spec.platforms).await?;
    let evidence = evidence::look(spec, &source, &resolved, required.as_deref()).await;
    let Evidence { attached, signed_by } = evidence.map_err(|e| e.within(format!("image {name}")))?;
    let licenses = resolved.licenses();
    Ok(LockedImage {
        attached,
        signed_by,
        licenses,
        ..LockedImage::new(reference, from, asked_by, &resolved)
    })
}

/// Adds to a chart from a registry what belongs to it there, and checks its signature where the spec asks for one.
async fn add_evidence(
    spec: &Spec,
    previous: Option<&Lock>,
    update: &Update,
    sources: &Sources<'_>,
    chart: &mut LockedChart,
) -> Result<()> {
    let Some(name) = chart.from.strip_prefix("oci://") else { return Ok(()) };
    let within = |e: Error| e.within(format!("chart {}", chart.from));
    let reference: Reference = name.parse().map_err(|e| within(Error::input("reading its reference", e)))?;
    let required = evidence::required(spec, &reference, sources)?;
    let is_same = |old: &&LockedChart| old.from == chart.from && old.digest == chart.digest;
    let old = previous.and_then(|lock| lock.charts.iter().find(is_same));
    let old = old.filter(|old| !update.moves(&old.name));
    let Evidence { attached, signed_by } = match old {
        // What was checked for other keys is checked again.
        Some(old) if evidence::is_enough(required.as_deref(), &old.signed_by) => Evidence {
            attached: if spec.attached { old.attached.clone() } else { vec![] },
            signed_by: old.signed_by.clone(),
        },
        _ => {
            let repository = sources.client.repository(reference.registry(), reference.repository());
            let evidence = evidence::of_chart(spec, &repository, &chart.digest, required.as_deref()).await;
            evidence.map_err(within)?
        }
    };
    chart.attached = attached;
    chart.signed_by = signed_by;
    Ok(())
}

/// The spec's charts, and every reference in them.
#[derive(Default)]
pub struct Survey {
    /// In the spec's order.
    pub charts: Vec<LockedChart>,
    /// In the same order; nobody has been asked.
    pub found: Vec<Found>,
    /// Errors for texts of the spec that match nothing in the charts: texts to be ignored, or that mean an image.
    pub unused: Vec<Error>,
    /// Releases, each with its distinct renderings.
    rendered: Vec<(String, BTreeSet<String>)>,
    /// Warnings about problems that would otherwise appear only at the site.
    pub warnings: Vec<String>,
}

/// Fetches the spec's charts, renders them and looks for references. `previous` and `update` as for [`pin`].
///
/// # Errors
/// When a chart can't be had or rendered.
pub async fn survey(
    spec: &Spec,
    previous: Option<&Lock>,
    update: &Update,
    helm: &dyn Fn() -> Result<Helm>,
    sources: &Sources<'_>,
) -> Result<Survey> {
    let mut survey = Survey::default();
    if spec.charts.is_empty() {
        return Ok(survey);
    }
    let helm = helm()?;
    let mut failures = Vec::new();
    for chart in &spec.charts {
        let old = previous.map_or(&[][..], |lock| &lock.charts);
        match pin_chart(chart, old, update, &helm, sources).await {
            Ok((locked, told, warning)) => {
                let of = |what: &str| format!("chart {}: {what}", locked.release);
                let said = [
                    (of("`ignore` has texts that were not found:"), &told.unused_ignore),
                    (of("`map` has texts that stand nowhere:"), &told.unused_map),
                ];
                for (what, texts) in said {
                    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                    survey.unused.extend(unused::refuse(&what, &texts, &told.known).err());
                }
                survey.rendered.push((locked.release.clone(), told.rendered));
                survey.warnings.extend(warning);
                survey.charts.push(locked);
                survey.found.extend(told.found);
            }
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() { Ok(survey) } else { Err(Error::all("pinning the charts", failures)) }
}

/// Pins a chart. Returns it with its references, and with what its site should know.
async fn pin_chart(
    spec: &ChartSpec,
    old: &[LockedChart],
    update: &Update,
    helm: &Helm,
    sources: &Sources<'_>,
) -> Result<(LockedChart, Told, Option<String>)> {
    let (from, chart) = charts::fetch(spec, old, update, sources).await?;
    let release = spec.release.clone().unwrap_or_else(|| chart.name.clone());
    name::release(&release).map_err(|e| {
        Error::input(format!("choosing a release for chart {from}"), e)
            .hint("give the chart a `release` in bundle.toml that helm takes")
    })?;
    let warning = schema_warning(&chart, &release);
    let directory = packed(&chart)?;
    let renderer = PostRenderer::new(directory.path(), &Job::Read)?;
    let subject = Subject {
        spec,
        chart: &chart,
        packed: &directory.path().join(PACKED),
        renderer: &renderer,
        title: &from,
        release: &release,
        base: sources.base,
    };
    let told = subject.references(helm).await?;
    let mut locked_values = Vec::new();
    for path in &spec.values {
        let digest = Digest::of(&file::values(&fetch::local(sources.base, path)?)?);
        locked_values.push(LockedValues { path: path.clone(), digest });
    }
    Ok((locked_chart(spec, chart, from, release, locked_values), told, warning))
}

/// Rewrites every rendering as `install` will, for a registry that does not exist: what the site could not do about is
/// refused here. `crds/` are left out, which helm applies as they are.
fn try_rewriting(rendered: &[(String, BTreeSet<String>)], images: &[LockedImage]) -> Result<()> {
    let target = Target {
        registry: "registry.invalid:5000".into(),
        strip_host: false,
        flat: false,
        pull_secret: None,
    };
    let rewriting = Rewriting { images: images.iter().cloned().map(Pin::from).collect(), target };
    let is_definition = |document: &&str| {
        document.lines().any(|line| line.starts_with("# Source: ") && line.contains("/crds/"))
    };
    for (release, renderings) in rendered {
        for manifests in renderings {
            let manifests: String = yaml::documents(manifests).filter(|d| !is_definition(d)).collect();
            rewriting.run(&manifests).map_err(|e| {
                e.within(format!("trying how release {release} will be rewritten at the site"))
            })?;
        }
    }
    Ok(())
}

/// Says what the schemas of a chart would need.
fn schema_warning(chart: &Chart, release: &str) -> Option<String> {
    let needs = chart.schema_needs();
    let warning = format!(
        "release {release}: values.schema.json needs what is not in the chart: {}. Nothing is fetched, here or at the site: \
         the release's values are not checked against a schema",
        needs.join(", ")
    );
    (!needs.is_empty()).then_some(warning)
}

/// The packed chart in a directory, for helm.
fn packed(chart: &Chart) -> Result<tempfile::TempDir> {
    let writing = |e| Error::input(format!("unpacking chart {} to a temporary directory", chart.name), e);
    let directory = file::temporary()?;
    std::fs::write(directory.path().join(PACKED), &chart.content).map_err(writing)?;
    Ok(directory)
}

fn locked_chart(
    spec: &ChartSpec,
    chart: Chart,
    from: String,
    release: String,
    values: Vec<LockedValues>,
) -> LockedChart {
    LockedChart {
        licenses: chart.annotations().remove("artifacthub.io/license"),
        digest: chart.digest(),
        size: chart.content.len() as u64,
        name: chart.name,
        version: chart.version,
        from,
        release,
        namespace: spec.namespace.clone(),
        set: spec.set.clone(),
        signed_by: vec![],
        values,
        attached: vec![],
    }
}

async fn pin_file(spec: &FileSpec, old: &[LockedFile], sources: &Sources<'_>) -> Result<LockedFile> {
    let digest = spec.digest().map_err(|e| Error::input("reading bundle.toml", e))?;
    let from = spec.url.clone().or_else(|| spec.path.clone()).unwrap_or_default();
    let old = old.iter().find(|f| f.digest == digest && f.from == from && f.name == spec.name);
    let size = match old {
        Some(old) => old.size,
        None => fetch::file(&from, &digest, sources).await?,
    };
    Ok(LockedFile { name: spec.name.clone(), platform: spec.platform.clone(), from, digest, size })
}
