//! `airlock lock`: from what is wanted to what it is. Renders the charts with helm, resolves every reference.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::evidence::{self, Evidence};
use super::{Lock, LockedChart, LockedFile, LockedImage, LockedValues, VERSION};
use crate::chart::{self, Chart};
use crate::digest::Digest;
use crate::discover::charts::Subject;
use crate::discover::confirm::{Asking, confirm};
use crate::discover::{Class, Found};
use crate::error::{Error, Result};
use crate::fetch;
use crate::helm::Helm;
use crate::name::{self, NameError};
use crate::origin::Sources;
use crate::reference::Reference;
use crate::resolve::{ImageSource, resolve};
use crate::spec::{ChartSource, ChartSpec, FileSpec, Spec, has_user};

/// Largest `index.yaml` of a chart repository that is read, in bytes.
const INDEX_CAP: u64 = 64 << 20;

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
    fn moves(&self, name: &str) -> bool {
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
    let Survey { charts, mut found } = survey(spec, previous, update, helm, sources).await?;
    let unreadable = found.iter().filter(|f| f.class == Class::Unreadable);
    let unreadable: String = unreadable
        .map(|f| format!("\n  chart {}: {}: {:?}", f.release.as_deref().unwrap_or_default(), f.place, f.text))
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
    for found in taken {
        let place = format!("chart {}: {}", found.release.as_deref().unwrap_or_default(), found.place);
        if let Some(reference) = found.full() {
            wanted.entry(reference).or_default().insert(place);
        }
    }
    possible.retain(|found| found.full().is_none_or(|reference| !wanted.contains_key(&reference)));

    let mut images = Vec::new();
    for (reference, asked_by) in wanted {
        let meanings = spec.charts.iter().flat_map(|chart| &chart.map);
        let meant_by: BTreeSet<String> =
            meanings.filter(|m| m.reference.normalised() == reference).map(|m| m.text.clone()).collect();
        let asked_by = asked_by.into_iter().collect();
        let image = pin_image(spec, previous, update, sources, reference, asked_by).await?;
        images.push(LockedImage { meant_by: meant_by.into_iter().collect(), ..image });
    }
    let mut files = Vec::new();
    for file in &spec.files {
        let old = previous.map_or(&[][..], |lock| &lock.files);
        files.push(pin_file(file, old, sources).await?);
    }
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
    if let Some(previous) = previous.filter(|previous| previous.same_content(&lock)) {
        lock = previous.clone();
    }
    Ok(Pinned { lock, possible })
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
    let is_signed = |old: &LockedImage| {
        let mut keys = required.iter().flatten();
        required.is_none() || keys.any(|key| old.signed_by.contains(&key.key_id()))
    };
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
    let asks = asked_by.first().cloned().unwrap_or_default();
    let within = |e: Error| e.within(format!("pinning an image that {asks} asks for"));
    let resolved = resolve(&source, &name, &ask, &spec.platforms).await.map_err(within)?;
    let evidence = evidence::look(spec, &source, &resolved, required.as_deref()).await;
    let Evidence { attached, signed_by } = evidence.map_err(|e| within(e.within(format!("image {name}"))))?;
    let licenses = resolved.licenses();
    Ok(LockedImage {
        attached,
        signed_by,
        licenses,
        ..LockedImage::new(reference, from, asked_by, &resolved)
    })
}

/// The spec's charts, and every reference in them.
pub struct Survey {
    /// In the spec's order.
    pub charts: Vec<LockedChart>,
    /// In the same order; nobody has been asked.
    pub found: Vec<Found>,
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
    let (mut charts, mut all) = (Vec::new(), Vec::new());
    let helm = if spec.charts.is_empty() { return Ok(Survey { charts, found: all }) } else { helm()? };
    for chart in &spec.charts {
        let old = previous.map_or(&[][..], |lock| &lock.charts);
        let (locked, found) = pin_chart(chart, old, update, &helm, sources).await?;
        charts.push(locked);
        all.extend(found);
    }
    Ok(Survey { charts, found: all })
}

/// The pinned chart, and its references.
async fn pin_chart(
    spec: &ChartSpec,
    old: &[LockedChart],
    update: &Update,
    helm: &Helm,
    sources: &Sources<'_>,
) -> Result<(LockedChart, Vec<Found>)> {
    let source = spec.source().map_err(|e| Error::input("reading bundle.toml", e))?;
    let (from, chart) = match source {
        ChartSource::Path(path) => (path.to_string(), fetch::chart(path, sources).await?),
        ChartSource::Oci { repository, version } => {
            let from = format!("oci://{repository}:{}", chart::tag(version));
            let pinned = old.iter().find(|c| c.from.starts_with(&format!("{from}@")));
            let pinned = pinned.filter(|c| !update.moves(&c.name)).map(|c| c.from.clone());
            let fetched = fetch::chart(pinned.as_deref().unwrap_or(&from), sources).await?;
            let name = repository.rsplit('/').next().unwrap_or_default();
            check_asked(&from, &fetched, name, version)?;
            (format!("{from}@{}", Digest::of(&fetched.manifest)), fetched)
        }
        ChartSource::Repo { url, chart, version } => {
            let from = find_in_repository(url, chart, version, sources).await?;
            let fetched = fetch::chart(&from, sources).await?;
            check_asked(&from, &fetched, chart, version)?;
            let digest = fetched.digest();
            // Whatever address the repository's index gives for it now.
            let is_it = |c: &&LockedChart| c.name == fetched.name && c.version == fetched.version;
            let from_web = |c: &&LockedChart| c.from.starts_with("http://") || c.from.starts_with("https://");
            let mut same = old.iter().filter(is_it).filter(from_web);
            let moved = same.find(|c| c.digest != digest && !update.moves(&c.name));
            if let Some(old) = moved {
                let why = format!("its content is not what images.lock pins ({digest}, not {})", old.digest);
                return Err(Error::trust(format!("fetching chart {from}"), why).hint(format!(
                    "a published version must not change; if you trust it: airlock lock --update {}",
                    old.name
                )));
            }
            (from, fetched)
        }
    };
    let release = spec.release.clone().unwrap_or_else(|| chart.name.clone());
    name::release(&release).map_err(|e| Error::input(format!("choosing a release for chart {from}"), e))?;
    let packed = packed(&chart)?;
    let subject = Subject {
        spec,
        chart: &chart,
        packed: packed.path(),
        title: &from,
        release: &release,
        base: sources.base,
    };
    let found = subject.references(helm).await?;
    let mut locked_values = Vec::new();
    for path in &spec.values {
        let digest = Digest::of(&fetch::values(&sources.base.join(path))?);
        locked_values.push(LockedValues { path: path.clone(), digest });
    }
    Ok((locked_chart(spec, chart, from, release, locked_values), found))
}

/// Whether a chart that came from elsewhere is the one that was asked for.
fn check_asked(from: &str, chart: &Chart, name: &str, version: &str) -> Result<()> {
    // A tag can't have a plus sign.
    if chart.name == name && chart::tag(&chart.version) == chart::tag(version) {
        return Ok(());
    }
    let why = format!("it is {} {}, and {name} {version} was asked for", chart.name, chart.version);
    Err(Error::trust(format!("fetching chart {from}"), why))
}

/// The packed chart in a file, for helm.
fn packed(chart: &Chart) -> Result<tempfile::NamedTempFile> {
    use std::io::Write as _;
    let writing = |e| Error::input(format!("unpacking chart {} to a temporary file", chart.name), e);
    let mut file = tempfile::Builder::new().prefix("airlock-").suffix(".tgz").tempfile().map_err(writing)?;
    file.write_all(&chart.content).map_err(writing)?;
    Ok(file)
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
        values,
    }
}

/// `index.yaml` of a chart repository, as far as it matters here.
#[derive(Deserialize)]
struct RepositoryIndex {
    entries: BTreeMap<String, Vec<RepositoryEntry>>,
}

#[derive(Deserialize)]
struct RepositoryEntry {
    version: String,
    #[serde(default)]
    urls: Vec<String>,
}

/// URL of the packed chart.
async fn find_in_repository(url: &str, chart: &str, version: &str, sources: &Sources<'_>) -> Result<String> {
    let looking = || format!("looking for chart {chart} {version} in {url}");
    let base = url.trim_end_matches('/');
    let index = sources.client.get(&format!("{base}/index.yaml"), INDEX_CAP).await?;
    let text = std::str::from_utf8(&index).map_err(|e| Error::input(looking(), e))?;
    let index: RepositoryIndex = serde_saphyr::from_str(text)
        .map_err(|e| Error::input(looking(), format!("index.yaml is not readable: {e}")))?;
    let versions =
        index.entries.get(chart).ok_or_else(|| Error::input(looking(), "there is no chart of this name"))?;
    let entry = versions.iter().find(|e| e.version == version).ok_or_else(|| {
        let has: Vec<_> = versions.iter().take(5).map(|e| e.version.as_str()).collect();
        Error::input(looking(), "there is no such version").hint(format!(
            "it has {} (and {} in all)",
            has.join(", "),
            versions.len()
        ))
    })?;
    let place =
        entry.urls.first().ok_or_else(|| Error::input(looking(), "index.yaml gives no URL for it"))?;
    if !place.contains("://") {
        return Ok(format!("{base}/{}", place.trim_start_matches('/')));
    }
    if has_user(place) {
        return Err(Error::input(looking(), "index.yaml gives an address with a user in it"));
    }
    if base.starts_with("https:") && !place.starts_with("https:") {
        return Err(Error::input(looking(), format!("index.yaml leads from HTTPS to {place}")));
    }
    Ok(place.clone())
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
