//! HTTP chart repositories, as helm reads them: the index, the addresses in it, and helm's logins.

mod index;
mod logins;

use bytes::Bytes;
use reqwest::Url;

use crate::chart;
use crate::error::{Error, Result};
use crate::format::METADATA_CAP;
use crate::origin::Sources;
use crate::spec::has_user;
use logins::{Login, Logins};

/// Largest `index.yaml` that is read, in bytes.
const INDEX_CAP: u64 = 64 << 20;

/// Place that a repository's index gives for one version of a chart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// URL of the packed chart.
    Web(String),
    /// `REGISTRY/REPOSITORY:TAG`, with a digest where the index has one.
    Oci(String),
}

/// Looks up the exact version of a chart in the repository at `url`.
///
/// # Errors
/// When the index can't be fetched or read, or does not have the chart; when it leads where a chart must not come from.
pub(crate) async fn find(url: &str, chart: &str, version: &str, sources: &Sources<'_>) -> Result<Place> {
    let looking = || format!("looking for chart {chart} {version} in {url}");
    let refuse = |why: String| Error::input(looking(), why);
    let repository = Url::parse(url).map_err(|e| refuse(format!("{url:?} is not a URL: {e}")))?;
    let at = resolve(&repository, "index.yaml").map_err(refuse)?;
    let logins = Logins::of_helm()?;
    let bytes = get(logins.of_repository(&repository), &at, INDEX_CAP, sources).await?;
    let name = chart.to_owned();
    let parsed = tokio::task::spawn_blocking(move || index::entries(&bytes, &name));
    let versions = parsed
        .await
        .map_err(|e| Error::input(looking(), e))?
        .map_err(|e| refuse(format!("index.yaml is not readable: {e}")))?
        .ok_or_else(|| refuse("there is no chart of this name".into()))?;
    let entry = versions.iter().find(|entry| entry.version == version).ok_or_else(|| {
        let has: Vec<_> = versions.iter().take(5).map(|entry| entry.version.as_str()).collect();
        let has = if has.is_empty() { "no usable version".into() } else { has.join(", ") };
        refuse("there is no such version".into())
            .hint(format!("it has {has} (and {} in all)", versions.len()))
    })?;
    let Some(place) = entry.urls.first() else { return Err(refuse("index.yaml gives no URL for it".into())) };
    if let Some(reference) = place.strip_prefix("oci://") {
        return Ok(Place::Oci(with_tag(reference, version)));
    }
    let place = resolve(&repository, place).map_err(|e| refuse(format!("its URL {place:?}: {e}")))?;
    if has_user(place.as_str()) {
        return Err(refuse("index.yaml gives an address with a user in it".into()));
    }
    match (repository.scheme(), place.scheme()) {
        ("https", "http") => Err(refuse(format!("index.yaml leads from HTTPS to {place}"))),
        (_, "http" | "https") => Ok(Place::Web(place.into())),
        (_, other) => Err(refuse(format!("index.yaml gives an address of an unknown kind, {other:?}"))
            .hint("charts are fetched from http://, https:// and oci:// addresses")),
    }
}

/// Fetches the packed chart at `url`. `repository` is whose index leads there; without it, helm's login for the same host counts.
///
/// # Errors
/// When it can't be fetched, or is too large.
pub(crate) async fn packed(url: &str, repository: Option<&str>, sources: &Sources<'_>) -> Result<Bytes> {
    let parse = |url: &str| {
        Url::parse(url).map_err(|e| Error::input("fetching a chart", format!("{url:?} is not a URL: {e}")))
    };
    let url = parse(url)?;
    let logins = Logins::of_helm()?;
    let login = match repository {
        Some(repository) => logins.of_repository(&parse(repository)?),
        None => logins.of_chart(&url),
    };
    get(login, &url, METADATA_CAP, sources).await
}

async fn get(login: Option<&Login>, url: &Url, cap: u64, sources: &Sources<'_>) -> Result<Bytes> {
    let Some(login) = login else { return sources.client.get(url.as_str(), cap).await };
    let credentials = login.credentials(url);
    let got = match login.options(url) {
        Some((ca, certificate)) => {
            let client = sources.client.with_certificates(ca, certificate)?;
            client.get_as(url.as_str(), cap, credentials).await
        }
        None => sources.client.get_as(url.as_str(), cap, credentials).await,
    };
    got.map_err(|e| match login.is_unchecked() && e.to_string().contains("certificate") {
        true => e.hint(
            "helm is set to skip the check of this repository's certificate, and airlock never does: give its CA with \
             --ca-file, or as caFile in helm's repositories.yaml",
        ),
        false => e,
    })
}

/// Resolves an address of the index as helm does: the repository is a directory, and its query goes along (RFC 3986, 5.2).
fn resolve(repository: &Url, reference: &str) -> Result<Url, String> {
    let mut base = repository.clone();
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    let mut resolved = base.join(reference).map_err(|e| e.to_string())?;
    let is_absolute = Url::parse(reference).is_ok();
    if !is_absolute && resolved.origin() == base.origin() && repository.query().is_some() {
        resolved.set_query(repository.query());
    }
    resolved.set_fragment(None);
    Ok(resolved)
}

/// A chart's reference with the tag that its version has in a registry, unless it names one.
fn with_tag(reference: &str, version: &str) -> String {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, format!("@{digest}")),
        None => (reference, String::new()),
    };
    let is_tagged = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let tag = if is_tagged { String::new() } else { format!(":{}", chart::tag(version)) };
    format!("{}{tag}{digest}", name.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_resolved_as_by_helm() {
        for (repository, reference, expected) in [
            ("https://h.example/charts", "a.tgz", "https://h.example/charts/a.tgz"),
            ("https://h.example/charts/", "sub/a.tgz", "https://h.example/charts/sub/a.tgz"),
            ("https://h.example/charts", "/a.tgz", "https://h.example/a.tgz"),
            ("https://h.example/charts", "../a.tgz", "https://h.example/a.tgz"),
            ("https://h.example/charts", "./a.tgz", "https://h.example/charts/a.tgz"),
            ("https://h.example/charts", "//o.example/a.tgz", "https://o.example/a.tgz"),
            ("https://h.example/charts", "https://o.example/a.tgz?x=1", "https://o.example/a.tgz?x=1"),
            ("https://h.example/c?token=t", "a.tgz", "https://h.example/c/a.tgz?token=t"),
            ("https://h.example/c?token=t", "/a.tgz", "https://h.example/a.tgz?token=t"),
            ("https://h.example/c?token=t", "//o.example/a.tgz", "https://o.example/a.tgz"),
            ("https://h.example/c?token=t", "https://o.example/a.tgz", "https://o.example/a.tgz"),
            ("https://h.example/c", "a.tgz?sig=1", "https://h.example/c/a.tgz?sig=1"),
            ("https://h.example/c", "a%2Bb.tgz", "https://h.example/c/a%2Bb.tgz"),
            ("http://[::1]:5000", "index.yaml", "http://[::1]:5000/index.yaml"),
        ] {
            let repository = Url::parse(repository).expect(repository);
            assert_eq!(resolve(&repository, reference).expect(reference).as_str(), expected, "{reference}");
        }
    }

    #[test]
    fn an_oci_address_gets_the_versions_tag() {
        for (reference, expected) in [
            ("h:5000/a/b", "h:5000/a/b:1.0.0_x"),
            ("h/a/b:1", "h/a/b:1"),
            ("h/a/b@sha256:12", "h/a/b:1.0.0_x@sha256:12"),
            ("h/a/b:1@sha256:12", "h/a/b:1@sha256:12"),
        ] {
            assert_eq!(with_tag(reference, "1.0.0+x"), expected);
        }
    }
}
