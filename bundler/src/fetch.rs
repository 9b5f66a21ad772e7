//! Opening what a spec or a lock names: an image's source, a chart, a values file. Shared by `lock` and `plan`.

use std::path::{Component, Path, PathBuf};

use futures_util::TryStreamExt as _;

use crate::chart::{self, Chart};
use crate::chart_repository;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::file;
use crate::format::METADATA_CAP;
use crate::image::{self, Descriptor, Parsed};
use crate::origin::{Origin, Sources, file_chunks};
use crate::reference::Reference;
use crate::resolve::ImageSource;
use crate::source::{Transport, TransportError};

/// Largest file that is fetched, in bytes.
const FILE_CAP: u64 = 64 << 30;

/// The source of an image: its registry, or what `from` says.
///
/// # Errors
/// When `from` is not a transport, or what it names can't be opened.
pub async fn image_source(
    reference: &Reference,
    from: Option<&str>,
    sources: &Sources<'_>,
) -> Result<ImageSource> {
    let registry =
        |r: &Reference| ImageSource::Registry(sources.client.repository(r.registry(), r.repository()));
    let Some(from) = from else { return Ok(registry(reference)) };
    let opening = || format!("opening {from} for image {reference}");
    match from.parse().map_err(|e: TransportError| Error::input(opening(), e))? {
        Transport::Registry(other) => Ok(registry(&other)),
        Transport::Local(local) => {
            let image = local.open(sources.base, sources.cache).await.map_err(|e| e.within(opening()))?;
            Ok(ImageSource::Local(image))
        }
    }
}

/// What to ask an image's registry for when nothing is pinned: what `docker://` in `from` names, else the reference.
///
/// # Errors
/// When `from` is not a transport.
pub fn tag_or_digest(reference: &Reference, from: Option<&str>) -> Result<String> {
    let Some(from) = from else { return Ok(reference.tag_or_digest()) };
    let reading = |e: TransportError| Error::input(format!("reading {from} for image {reference}"), e);
    match from.parse().map_err(reading)? {
        Transport::Registry(other) => Ok(other.tag_or_digest()),
        _ => Ok(reference.tag_or_digest()),
    }
}

/// A chart by what a lock calls it: a path, `oci://REPOSITORY:TAG`, or the URL of a packed chart.
///
/// # Errors
/// When it can't be fetched, or isn't a chart.
pub async fn chart(from: &str, sources: &Sources<'_>) -> Result<Chart> {
    if let Some(reference) = from.strip_prefix("oci://") {
        return oci_chart(from, reference, sources)
            .await
            .map_err(|e| e.within(format!("fetching chart {from}")));
    }
    if from.contains("://") {
        return web_chart(from, None, sources).await;
    }
    let path = local(sources.base, from)?;
    if path.is_dir() { Chart::from_dir(&path) } else { Chart::from_file(&path) }
}

/// A chart that is pinned: as [`chart`], or from the cache where `lock` has put one that came from a web server.
///
/// # Errors
/// As [`chart`].
pub(crate) async fn pinned_chart(from: &str, digest: &Digest, sources: &Sources<'_>) -> Result<Chart> {
    let is_web = from.starts_with("http://") || from.starts_with("https://");
    match is_web.then(|| cached_chart(from, digest, sources)).flatten() {
        Some(chart) => Ok(chart),
        None => chart(from, sources).await,
    }
}

fn cached_chart(from: &str, digest: &Digest, sources: &Sources<'_>) -> Option<Chart> {
    let read = |digest: &Digest| file::read(&sources.cache.path(digest)?, METADATA_CAP).ok();
    let Ok(Parsed::Manifest(parts)) = image::parse("", &read(digest)?) else { return None };
    let packed = read(&parts.layers.first()?.digest)?;
    // Everything is made anew from what was packed, so the digest covers all of it.
    Chart::from_bytes(from, packed).ok().filter(|chart| chart.digest() == *digest)
}

/// A packed chart by its URL, to which the index of `repository` has led if that is known.
///
/// # Errors
/// As [`chart`].
pub(crate) async fn web_chart(url: &str, repository: Option<&str>, sources: &Sources<'_>) -> Result<Chart> {
    let packed = chart_repository::packed(url, repository, sources).await?;
    Chart::from_bytes(url, packed.into())
}

/// The path of a chart or a values file that `bundle.toml` names. A link below its directory that leads out of it is refused:
/// in a checkout of somebody else's it would carry any file of this machine into the bundle, which only a path that is written
/// in `bundle.toml` may.
///
/// # Errors
/// When the path is such a link.
pub fn local(base: &Path, named: &str) -> Result<PathBuf> {
    let path = base.join(named);
    let leads_out = |part: Component<'_>| matches!(part, Component::ParentDir | Component::RootDir);
    if Path::new(named).components().any(leads_out) {
        return Ok(path);
    }
    let above = if base.as_os_str().is_empty() { Path::new(".") } else { base };
    // Where one is missing, reading it says so.
    if let (Ok(above), Ok(real)) = (above.canonicalize(), path.canonicalize())
        && !real.starts_with(&above)
    {
        let (real, above) = (real.display(), above.display());
        return Err(Error::input(
            format!("reading {}", path.display()),
            format!("it is a link to {real}, out of {above}"),
        )
        .hint(format!("name {real} itself in bundle.toml, if it is to be in the bundle")));
    }
    Ok(path)
}

/// A chart in a registry keeps the manifest and config that it has there.
async fn oci_chart(from: &str, reference: &str, sources: &Sources<'_>) -> Result<Chart> {
    let reference: Reference = reference.parse().map_err(|e| Error::input("reading its reference", e))?;
    let repository = sources.client.repository(reference.registry(), reference.repository());
    let manifest = repository.manifest(&reference.tag_or_digest()).await?;
    let refuse = |why: String| Error::input("reading its manifest", why);
    let parsed = image::parse(&manifest.media_type, &manifest.bytes).map_err(|e| refuse(e.to_string()))?;
    let Parsed::Manifest(parts) = parsed else { return Err(refuse("it is an index, not a chart".into())) };
    let mut packed = parts.layers.iter().filter(|layer| chart::is_content(&layer.media_type));
    let (content, other) = (packed.next(), packed.next());
    let content = content.ok_or_else(|| refuse("it has no layer with a packed chart".into()))?;
    if other.is_some() {
        return Err(refuse("it has several layers with a packed chart".into()));
    }
    let source = ImageSource::Registry(repository);
    let packed = source.layer(content)?.read(&content.digest, content.size).await?;
    let config = source.config(&parts.config).await?;
    let chart = Chart::from_bytes(from, packed.into())?;
    Ok(Chart { manifest: manifest.bytes.into(), config: config.into(), ..chart })
}

/// All layers of a chart that comes from a registry, and where their bytes are. The layer of another one is its content.
///
/// # Errors
/// When `manifest` is not that of a chart.
pub fn chart_layers(from: &str, manifest: &[u8], sources: &Sources<'_>) -> Result<Vec<(Descriptor, Origin)>> {
    let Some(reference) = from.strip_prefix("oci://") else { return Ok(Vec::new()) };
    let refuse = |why: String| Error::input(format!("reading the manifest of chart {from}"), why);
    let reference: Reference =
        reference.parse().map_err(|e| Error::input(format!("reading the reference of chart {from}"), e))?;
    let source =
        ImageSource::Registry(sources.client.repository(reference.registry(), reference.repository()));
    let parsed = image::parse(image::OCI_MANIFEST, manifest).map_err(|e| refuse(e.to_string()))?;
    let Parsed::Manifest(parts) = parsed else { return Err(refuse("it is an index, not a chart".into())) };
    parts.layers.into_iter().map(|layer| source.layer(&layer).map(|origin| (layer, origin))).collect()
}

/// A file by URL or path, hashed; its size in bytes. What comes from a URL is kept in the cache for `build`, if it is right.
///
/// # Errors
/// When it can't be read, or isn't what its digest says.
pub async fn file(from: &str, digest: &Digest, sources: &Sources<'_>) -> Result<u64> {
    let doing = || format!("fetching file {from}");
    let check = |found: Digest| {
        let why = format!("its content is {found}, and bundle.toml says {digest}");
        let hint =
            "compare with the checksum that the file's author publishes, and correct sha256 in bundle.toml";
        if found == *digest { Ok(()) } else { Err(Error::trust(doing(), why).hint(hint)) }
    };
    if !from.contains("://") {
        let (size, found) = hash_file(&sources.base.join(from)).await?;
        return check(found).map(|()| size);
    }
    if let Some(path) = sources.cache.path(digest) {
        let (size, found) = hash_file(&path).await?;
        if found == *digest {
            return Ok(size);
        }
        // What is damaged there is replaced.
    }
    let mut writer = sources.cache.writer()?;
    let mut chunks = sources.client.download(from).await?.stream;
    let mut size = 0;
    while let Some(chunk) = chunks.try_next().await? {
        size += chunk.len() as u64;
        if size > FILE_CAP {
            return Err(Error::trust(doing(), format!("there are more than {FILE_CAP} bytes")));
        }
        writer.write(&chunk)?;
    }
    let finished = writer.finish();
    check(finished.digest())?;
    finished.keep().map(|_| size)
}

/// In steps, so that it can be stopped.
async fn hash_file(path: &Path) -> Result<(u64, Digest)> {
    let failed = |e| Error::input(format!("reading {}", path.display()), e);
    let size = file::open(path).and_then(|file| file.metadata()).map_err(failed)?.len();
    let mut chunks = std::pin::pin!(file_chunks(path.into(), 0, size));
    let mut hasher = Hasher::default();
    while let Some(chunk) = chunks.try_next().await? {
        hasher.update(&chunk);
    }
    Ok((hasher.length(), hasher.finish()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_out_of_the_directory_are_refused() {
        let above = tempfile::tempdir().expect("a directory");
        let base = above.path().join("base");
        std::fs::create_dir(&base).expect("made");
        for file in [above.path().join("secret"), base.join("plain")] {
            std::fs::write(file, "x").expect("written");
        }
        symlink("../secret", base.join("out")).expect("a link");
        symlink("..", base.join("up")).expect("a link");
        symlink("plain", base.join("in")).expect("a link");
        symlink(&base, above.path().join("link")).expect("a link");
        for base in [base.clone(), above.path().join("link")] {
            for named in ["out", "up/secret", "./out"] {
                let error = local(&base, named).expect_err(named);
                assert!(error.to_string().contains("secret, out of"), "{error}");
                assert!(error.hint_text().is_some_and(|hint| hint.contains("bundle.toml")), "{error:?}");
            }
            let absolute = above.path().join("secret").display().to_string();
            for named in ["plain", "in", "../secret", "missing", &absolute] {
                assert_eq!(local(&base, named).expect(named), base.join(named));
            }
        }
    }
}
