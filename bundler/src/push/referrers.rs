//! Lists of what belongs to an image, where a registry doesn't make them itself (distribution spec, "Pushing Manifests with
//! Subject"): an index under a tag made of the image's digest.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::attached::referrers_tag;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{self, OCI_INDEX, OCI_MANIFEST};
use crate::reference::Mapping;
use crate::registry::{Client, Repository};
use crate::verify::VerifiedBundle;

/// Makes the referrers in a bundle found, once they are all there.
///
/// # Errors
/// When the registry refuses, or can't be reached.
pub(super) async fn list(bundle: &VerifiedBundle, client: &Client, mapping: &Mapping) -> Result<()> {
    let mut lists: BTreeMap<(String, Digest), Vec<Digest>> = BTreeMap::new();
    let manifest = bundle.manifest();
    let images = manifest.images.iter().map(|image| (mapping.repository(&image.reference), &image.attached));
    let charts = manifest.charts.iter().map(|chart| (mapping.under(&chart.repository), &chart.attached));
    for (repository, all) in images.chain(charts) {
        for attached in all.iter().filter(|attached| attached.tag.is_none()) {
            lists.entry((repository.clone(), attached.subject)).or_default().push(attached.digest);
        }
    }
    for ((repository, subject), referrers) in lists {
        let repository = client.repository(mapping.registry(), &repository);
        if repository.referrers(&subject).await?.is_none() {
            add(bundle, &repository, &subject, &referrers).await?;
        }
    }
    Ok(())
}

/// Adds to the index what is not in it.
async fn add(
    bundle: &VerifiedBundle,
    repository: &Repository,
    subject: &Digest,
    referrers: &[Digest],
) -> Result<()> {
    let tag = referrers_tag(subject);
    let action = || format!("listing what belongs to {}", repository.named(&subject.to_string()));
    let mut index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []});
    if repository.find_manifest(&tag).await?.is_some() {
        let there = repository.manifest(&tag).await?;
        index = serde_json::from_slice(&there.bytes).map_err(|e| Error::input(action(), e))?;
    }
    let listed = index.get_mut("manifests").and_then(Value::as_array_mut);
    let listed =
        listed.ok_or_else(|| Error::input(action(), format!("what has the tag {tag} is no list")))?;
    let before = listed.len();
    for digest in referrers {
        let is_there = listed.iter().any(|d| d["digest"] == digest.to_string());
        if !is_there {
            let descriptor = image::referrer(OCI_MANIFEST, digest, &bundle.small(digest)?);
            listed.push(descriptor.map_err(|e| Error::input(action(), e))?);
        }
    }
    if listed.len() == before {
        return Ok(());
    }
    repository.put_manifest(&tag, OCI_INDEX, index.to_string().into()).await
}
