//! What belongs to an image without being part of it: signatures, attestations, SBOMs. It is found where it was put, either as
//! a referrer (distribution spec, "Listing Referrers") or under a tag made of the image's digest, as cosign did it first.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{self, ImageManifest, OCI_MANIFEST, Parsed};
use crate::registry::{Manifest, Repository};

/// Most that is carried of one image.
pub const CAP: usize = 100;
/// The ends of cosign's tags, and what is there.
const TAGS: [(&str, &str); 3] =
    [("sig", "cosign signature"), ("att", "cosign attestation"), ("sbom", "cosign SBOM")];
/// Says in an artifact what an attestation in it is about (sigstore's bundles in OCI registries).
const PREDICATE: &str = "dev.sigstore.bundle.predicateType";

/// Something that belongs to an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attached {
    /// Of its manifest, which is in the image's repository.
    pub digest: Digest,
    /// What it is: an artifact type, what is attested, or `cosign signature` and the like. For people.
    pub kind: String,
    /// Of the manifest or index that it belongs to.
    pub subject: Digest,
    /// The tag that it has; none for a referrer, which its own manifest makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Something that was found, with its manifest.
pub struct Found {
    /// What it is.
    pub attached: Attached,
    /// Its manifest as it came.
    pub manifest: Manifest,
    /// Its manifest, read.
    pub parsed: ImageManifest,
}

/// The tag that something of this kind has, for its subject.
fn tag(subject: &Digest, end: &str) -> String {
    format!("sha256-{}.{end}", subject.hex())
}

/// The tag of an index of referrers, where a registry doesn't list them itself (distribution spec, "Referrers Tag Schema").
#[must_use]
pub fn referrers_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// Looks for all that belongs to `subjects`, in their order.
///
/// # Errors
/// When the registry can't be reached, or has more than [`CAP`]. That it lists no referrers is none.
pub async fn find(repository: &Repository, subjects: &BTreeSet<Digest>) -> Result<Vec<Found>> {
    let mut found = BTreeMap::new();
    let mut add = |subject: &Digest, tag: Option<String>, kind: &str, manifest: Manifest| {
        // What is no image manifest (an index of several) can be read by nobody who looks for signatures.
        let parsed = match image::parse(&manifest.media_type, &manifest.bytes) {
            Ok(Parsed::Manifest(parsed)) => parsed,
            Ok(Parsed::Index(_)) => return,
            Err(error) => {
                tracing::warn!("{} belongs to {subject}, and is left out: {error}", manifest.digest);
                return;
            }
        };
        let kind = Some(kind.to_owned()).filter(|kind| !kind.is_empty()).unwrap_or_else(|| of(&manifest));
        let attached = Attached { digest: manifest.digest, kind, subject: *subject, tag };
        found.insert(attached.clone(), Found { attached, manifest, parsed });
    };
    let too_many = |count: usize| {
        let why = format!("{count} things or more belong to it, and {CAP} are carried at most");
        Error::input(format!("looking for signatures of {}", repository.named("")), why)
            .hint("leave them there with `attached = false` in bundle.toml")
    };
    let mut listed = 0;
    for subject in subjects {
        let referrers = referrers(repository, subject).await?;
        // Before they are fetched.
        listed += referrers.len();
        if listed > CAP {
            return Err(too_many(listed));
        }
        for digest in referrers {
            let manifest = repository.manifest(&digest.to_string()).await?;
            if is_referrer(&manifest.bytes, subject) {
                add(subject, None, "", manifest);
            }
        }
        for (end, kind) in TAGS {
            let tag = tag(subject, end);
            // A registry that has an image under whatever tag it is asked for has no signature.
            let there = repository.find_manifest(&tag).await?.filter(|digest| !subjects.contains(digest));
            if let Some(digest) = there {
                add(subject, Some(tag), kind, repository.manifest(&digest.to_string()).await?);
            }
        }
    }
    if found.len() > CAP {
        return Err(too_many(found.len()));
    }
    Ok(found.into_values().collect())
}

/// Digests of what refers to `subject`: by the registry's own list, or by the index that stands in for it.
async fn referrers(repository: &Repository, subject: &Digest) -> Result<Vec<Digest>> {
    let index = match repository.referrers(subject).await? {
        Some(index) => index,
        None => match repository.find_manifest(&referrers_tag(subject)).await? {
            Some(digest) => repository.manifest(&digest.to_string()).await?,
            None => return Ok(Vec::new()),
        },
    };
    match image::read(image::OCI_INDEX, &index.bytes) {
        Ok(Parsed::Index(index)) => {
            let manifests = index.manifests.iter().filter(|d| d.media_type == OCI_MANIFEST);
            Ok(manifests.map(|d| d.digest).take(CAP + 1).collect())
        }
        // Somebody's image under such a tag, or an answer that is no list.
        _ => Ok(Vec::new()),
    }
}

/// Whether a manifest says that it belongs to `subject`.
fn is_referrer(manifest: &[u8], subject: &Digest) -> bool {
    let relation = image::relation(manifest);
    relation.is_ok_and(|relation| relation.subject.is_some_and(|of| of.digest == *subject))
}

/// What a referrer is, by its own words.
fn of(manifest: &Manifest) -> String {
    let Ok(relation) = image::relation(&manifest.bytes) else { return String::new() };
    let predicate = relation.annotations().and_then(|annotations| annotations.get(PREDICATE));
    predicate.map_or_else(|| relation.artifact_type().to_owned(), Clone::clone)
}

impl Attached {
    /// Whether `manifest`, its own, makes it belong to its subject in the way that it says.
    #[must_use]
    pub fn holds(&self, manifest: &[u8]) -> bool {
        match &self.tag {
            Some(own) => TAGS.iter().any(|(end, _)| tag(&self.subject, end) == *own),
            None => is_referrer(manifest, &self.subject),
        }
    }
}
