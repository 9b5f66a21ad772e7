//! Fetching the charts of a spec, and holding them to what is pinned.

use super::{LockedChart, pin::Update};
use crate::chart::{self, Chart};
use crate::chart_repository::{self, Place};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fetch;
use crate::origin::Sources;
use crate::reference::Reference;
use crate::spec::{ChartSource, ChartSpec};

/// Fetches a chart. Returns what the lock calls its source, and the chart.
///
/// # Errors
/// When it can't be had, is another chart or version than the spec asks for, or has changed under the same version.
pub(super) async fn fetch(
    spec: &ChartSpec,
    old: &[LockedChart],
    update: &Update,
    sources: &Sources<'_>,
) -> Result<(String, Chart)> {
    let source = spec.source().map_err(|e| Error::input("reading bundle.toml", e))?;
    let pins = Pins { old, update };
    match source {
        ChartSource::Path(path) => Ok((path.to_string(), fetch::chart(path, sources).await?)),
        ChartSource::Oci { repository, version } => {
            // Anybody can push a chart under another name than its own, and helm takes it.
            let reference = format!("{repository}:{}", chart::tag(version));
            let (from, fetched) = pins.fetch_oci(&reference, sources).await?;
            check_asked(&from, &fetched, None, version)?;
            Ok((from, fetched))
        }
        ChartSource::Repo { url, chart, version } => {
            match chart_repository::find(url, chart, version, sources).await? {
                Place::Oci(reference) => {
                    let (from, fetched) = pins.fetch_oci(&reference, sources).await?;
                    check_asked(&from, &fetched, Some(chart), version)?;
                    pins.check_elsewhere(&from, &fetched)?;
                    Ok((from, fetched))
                }
                Place::Web(from) => {
                    let fetched = fetch::web_chart(&from, Some(url), sources).await?;
                    check_asked(&from, &fetched, Some(chart), version)?;
                    pins.check_elsewhere(&from, &fetched)?;
                    // `build` may run where the repository's login is not, or not be led there by the repository.
                    fetched.store(sources.cache)?;
                    Ok((from, fetched))
                }
            }
        }
    }
}

/// The charts that are pinned, and which of them may move.
struct Pins<'a> {
    old: &'a [LockedChart],
    update: &'a Update,
}

impl<'a> Pins<'a> {
    fn firm(&self) -> impl Iterator<Item = &'a LockedChart> {
        self.old.iter().filter(|chart| !self.update.moves(&chart.name))
    }

    /// Fetches `REGISTRY/REPOSITORY:TAG[@DIGEST]`. The source that is returned has the digest of the chart's manifest.
    async fn fetch_oci(&self, reference: &str, sources: &Sources<'_>) -> Result<(String, Chart)> {
        let (name, said) = match reference.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (reference, None),
        };
        let from = format!("oci://{name}");
        let pinned = self.firm().find(|old| old.from.starts_with(&format!("{from}@")));
        if let Some(pinned) = pinned {
            let now = match said {
                Some(said) => said.parse().ok(),
                None => tag_now(&from, name, sources).await?,
            };
            if let Some(now) = now.filter(|now| *now != pinned.digest) {
                return Err(changed(&from, pinned, &format!("{now}, not {}", pinned.digest)));
            }
            return Ok((pinned.from.clone(), fetch::chart(&pinned.from, sources).await?));
        }
        let fetched = fetch::chart(&format!("oci://{reference}"), sources).await?;
        Ok((format!("{from}@{}", Digest::of(&fetched.manifest)), fetched))
    }

    /// Compares a chart that a repository's index led to with the same version as it was pinned from any other address.
    fn check_elsewhere(&self, from: &str, chart: &Chart) -> Result<()> {
        let same = |old: &&LockedChart| {
            old.name == chart.name && old.version == chart.version && old.from.contains("://")
        };
        let is_oci = from.starts_with("oci://");
        for old in self.firm().filter(same) {
            let digest = match (is_oci, old.from.starts_with("oci://")) {
                // The manifest of a registry is not made from the packed chart alone: compare what we would make.
                (true, false) => Chart::from_bytes(from, chart.content.clone())?.digest(),
                (false, true) => {
                    let why = format!("images.lock pins it from {}, which can't be compared", old.from);
                    return Err(refused(from, old, why));
                }
                _ => chart.digest(),
            };
            if digest != old.digest {
                return Err(changed(from, old, &format!("{digest}, not {}", old.digest)));
            }
        }
        Ok(())
    }
}

/// The digest that a chart's tag points to now. None if the tag is gone.
async fn tag_now(from: &str, name: &str, sources: &Sources<'_>) -> Result<Option<Digest>> {
    let fetching = || format!("fetching chart {from}");
    let reference: Reference = name.parse().map_err(|e| Error::input(fetching(), e))?;
    let repository = sources.client.repository(reference.registry(), reference.repository());
    repository.head_manifest(&reference.tag_or_digest()).await.map_err(|e| e.within(fetching()))
}

fn changed(from: &str, old: &LockedChart, digests: &str) -> Error {
    refused(from, old, format!("its content is not what images.lock pins ({digests})"))
}

fn refused(from: &str, old: &LockedChart, why: String) -> Error {
    Error::trust(format!("fetching chart {from}"), why).hint(format!(
        "a published version must not change; if you trust it: airlock lock --update {}",
        old.name
    ))
}

/// Checks that a chart from elsewhere is the one that was asked for.
fn check_asked(from: &str, chart: &Chart, name: Option<&str>, version: &str) -> Result<()> {
    // A tag can't have a plus sign.
    if name.is_none_or(|name| name == chart.name) && chart::tag(&chart.version) == chart::tag(version) {
        return Ok(());
    }
    let asked = name.unwrap_or(&chart.name);
    let why = format!("it is {} {}, and {asked} {version} was asked for", chart.name, chart.version);
    Err(Error::input(format!("fetching chart {from}"), why)
        .hint("correct bundle.toml, or tell the publisher of the repository"))
}
