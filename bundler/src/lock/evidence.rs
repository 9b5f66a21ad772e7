//! Evidence from upstream about an image or a chart: all that belongs to it, and whose signature it has.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::attached::{self, Attached, Found};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::Descriptor;
use crate::origin::Sources;
use crate::reference::Reference;
use crate::registry::Repository;
use crate::resolve::{ImageSource, Resolved};
use crate::sign::{PublicKey, image as signatures};
use crate::spec::{SignedSpec, Spec};

/// Largest signature that is read, in bytes.
const SIGNATURE_CAP: u64 = 1 << 20;

/// Evidence about an image or a chart.
#[derive(Default)]
pub(super) struct Evidence {
    /// What is carried with it.
    pub(super) attached: Vec<Attached>,
    /// Ids of the keys that the spec names for it, and that signed it.
    pub(super) signed_by: Vec<String>,
}

/// A layer of a signature's manifest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    #[serde(flatten)]
    descriptor: Descriptor,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Layers {
    layers: Vec<Layer>,
}

/// The keys that must have signed an image or a chart, if the spec says so.
pub(super) fn required(
    spec: &Spec,
    reference: &Reference,
    sources: &Sources<'_>,
) -> Result<Option<Vec<PublicKey>>> {
    let rules: Vec<_> = spec.signed.iter().filter(|rule| rule.is_about(reference)).collect();
    let read = |path: &String| PublicKey::read(&sources.base.join(path));
    let keys = rules.iter().flat_map(|rule: &&SignedSpec| &rule.keys).map(read).collect::<Result<_>>()?;
    Ok((!rules.is_empty()).then_some(keys))
}

/// Looks for what belongs to an image, and checks that one of `required` signed what its tag points to.
pub(super) async fn look(
    spec: &Spec,
    source: &ImageSource,
    resolved: &Resolved,
    required: Option<&[PublicKey]>,
) -> Result<Evidence> {
    let Some(repository) = registry(source, required)? else { return Ok(Evidence::default()) };
    if !spec.attached && required.is_none() {
        return Ok(Evidence::default());
    }
    let pinned = resolved.upstream.as_ref().unwrap_or(&resolved.root).digest;
    let mut subjects: BTreeSet<Digest> = resolved.children.iter().map(|child| child.digest).collect();
    subjects.extend([pinned, resolved.root.digest]);
    gather(spec, repository, &pinned, &subjects, required).await
}

/// As [`look`], of a chart in a registry.
pub(super) async fn of_chart(
    spec: &Spec,
    repository: &Repository,
    chart: &Digest,
    required: Option<&[PublicKey]>,
) -> Result<Evidence> {
    if !spec.attached && required.is_none() {
        return Ok(Evidence::default());
    }
    gather(spec, repository, chart, &BTreeSet::from([*chart]), required).await
}

/// Tells whether one of the keys that must have signed is among those that were found to have.
pub(super) fn is_enough(required: Option<&[PublicKey]>, signed_by: &[String]) -> bool {
    required.is_none_or(|keys| keys.iter().any(|key| signed_by.contains(&key.key_id())))
}

/// Looks for what belongs to `subjects`, and checks that one of `required` signed `pinned`, which is one of them.
async fn gather(
    spec: &Spec,
    repository: &Repository,
    pinned: &Digest,
    subjects: &BTreeSet<Digest>,
    required: Option<&[PublicKey]>,
) -> Result<Evidence> {
    let found = attached::find(repository, subjects).await?;
    let signed_by = match required {
        Some(keys) => signers(repository, &found, pinned, keys).await?,
        None => Vec::new(),
    };
    if required.is_some() && signed_by.is_empty() {
        let has = found.iter().filter(|found| found.attached.subject == *pinned).count();
        let why =
            format!("no key that bundle.toml names for it has signed {pinned} ({has} things belong to it)");
        return Err(Error::trust("checking upstream's signature", why).hint(
            "`[[signed]]` in bundle.toml says whose signature it must have: cosign's, by a P-256 key",
        ));
    }
    let attached =
        if spec.attached { found.into_iter().map(|found| found.attached).collect() } else { vec![] };
    Ok(Evidence { attached, signed_by })
}

/// The repository that an image comes from, if it comes from one.
fn registry<'a>(source: &'a ImageSource, required: Option<&[PublicKey]>) -> Result<Option<&'a Repository>> {
    match source {
        ImageSource::Registry(repository) => Ok(Some(repository)),
        ImageSource::Local(_) if required.is_some() => {
            let why = "it comes from this machine, where no signature is with it";
            Err(Error::trust("checking upstream's signature", why)
                .hint("take it from a registry, or leave it out of `[[signed]]` in bundle.toml"))
        }
        ImageSource::Local(_) => Ok(None),
    }
}

/// Ids of the keys that signed `image`.
async fn signers(
    repository: &Repository,
    found: &[Found],
    image: &Digest,
    keys: &[PublicKey],
) -> Result<Vec<String>> {
    let mut ids = BTreeSet::new();
    for found in found.iter().filter(|found| found.attached.subject == *image) {
        let Ok(Layers { layers }) = serde_json::from_slice(&found.manifest.bytes) else { continue };
        for Layer { descriptor, annotations } in layers {
            let kind = descriptor.media_type.as_str();
            let is_signature = matches!(kind, signatures::SIMPLE_SIGNING | signatures::SIGSTORE_BUNDLE);
            if !is_signature || descriptor.size > SIGNATURE_CAP {
                continue;
            }
            let content = repository.small_blob(&descriptor.digest, descriptor.size).await?;
            let key = match annotations.get(signatures::SIGNATURE) {
                Some(signature) if kind == signatures::SIMPLE_SIGNING => {
                    signatures::of_claim(&content, signature, image, keys)
                }
                _ => signatures::of_bundle(&content, image, keys),
            };
            ids.extend(key.map(PublicKey::key_id));
        }
    }
    Ok(ids.into_iter().collect())
}
