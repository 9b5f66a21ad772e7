//! What runs against what was signed: every container's image ID must be in the closure of an image of the bundle.
//!
//! The *closure* of an image is everything that a runtime may call it by: the digest that was pushed, its platforms'
//! manifests, their configs (Docker, and containerd at times, name an image by its config), and the upstream index that
//! travels as evidence, since a node's mirror may be asked for that. All of these are under the bundle's signature.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cluster::{Cluster, Container, ContainerStatus, Pod};
use crate::digest::Digest;
use crate::error::Result;
use crate::format::Image;
use crate::image::Parsed;
use crate::reference::{Mapping, Reference};
use crate::verify::{Member, VerifiedBundle};

/// The digests that are of a bundle, each with the references of the images that it is part of.
#[derive(Clone, Debug, Default)]
pub struct Closure {
    digests: BTreeMap<Digest, Vec<Reference>>,
    images: Vec<(Reference, Digest)>,
}

/// How a container, or a volume that is an image, stands to the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It runs what was signed.
    Signed,
    /// It runs something else.
    Foreign,
    /// It can't be told yet: nothing was pulled.
    Unknown,
}

/// A container that was looked at.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Looked {
    /// Namespace of the pod.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container; `volume NAME` for a volume that is an image.
    pub container: String,
    /// What the pod asks for.
    pub image: String,
    /// What the runtime says it is.
    #[serde(rename = "imageID")]
    pub image_id: String,
    /// How it stands.
    pub verdict: Verdict,
    /// Why it is foreign or unknown, or what should be known of a signed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Audit {
    /// Every container, by namespace, pod and name.
    pub containers: Vec<Looked>,
}

impl Audit {
    /// Those with a verdict.
    pub fn with(&self, verdict: Verdict) -> impl Iterator<Item = &Looked> {
        self.containers.iter().filter(move |looked| looked.verdict == verdict)
    }
}

impl Closure {
    /// Of every image of a bundle.
    ///
    /// # Errors
    /// When a manifest can't be read.
    pub fn of(bundle: &VerifiedBundle) -> Result<Self> {
        let mut closure = Self::default();
        for image in &bundle.manifest().images {
            closure.add(image, bundle.members(&image.digest, &image.media_type)?);
        }
        Ok(closure)
    }

    fn add(&mut self, image: &Image, members: Vec<Member>) {
        let mut digests = vec![image.digest];
        digests.extend(image.upstream);
        digests.extend(image.platforms.values());
        for Member { digest, parsed, .. } in members {
            digests.push(digest);
            if let Parsed::Manifest(manifest) = parsed {
                digests.push(manifest.config.digest);
            }
        }
        for digest in digests {
            let of = self.digests.entry(digest).or_default();
            if !of.contains(&image.reference) {
                of.push(image.reference.clone());
            }
        }
        self.images.push((image.reference.clone(), image.digest));
    }

    /// Judges what a container asks for and what runs. With the site's mapping, names that lead elsewhere are noted.
    fn judge(&self, image: &str, image_id: &str, mapping: Option<&Mapping>) -> (Verdict, Option<String>) {
        if image_id.is_empty() {
            return (Verdict::Unknown, Some("nothing says yet what was pulled".into()));
        }
        let Some(digest) = digest_of(image_id) else {
            return (Verdict::Foreign, Some("the runtime names no digest".into()));
        };
        let Some(of) = self.digests.get(&digest) else {
            let why = match self.named(image, mapping, false) {
                Some(expected) => format!("it has the name of {expected}, and other content"),
                None => "it is not in the bundle".into(),
            };
            return (Verdict::Foreign, Some(why));
        };
        // Several references may be the same content; one name of another image of the bundle is a mix-up.
        match self.named(image, mapping, true) {
            Some(expected) if !of.contains(expected) => {
                let is = of.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                (Verdict::Foreign, Some(format!("it has the name of {expected}, and the content of {is}")))
            }
            Some(_)
                if mapping.is_some_and(|mapping| !image.starts_with(&format!("{}/", mapping.registry()))) =>
            {
                (Verdict::Signed, Some("its name is not at the site's registry: a mirror leads there".into()))
            }
            _ => (Verdict::Signed, None),
        }
    }

    /// The image of the bundle that a name means: at the site, or at its source. Where it need not be `exact`, the tag
    /// says which one it was meant to be, or else the repository.
    fn named(&self, image: &str, mapping: Option<&Mapping>, exact: bool) -> Option<&Reference> {
        let asked: Reference = image.parse().ok()?;
        let means = |(reference, digest): &&(Reference, Digest)| {
            let source = (reference.registry(), reference.repository());
            let site = mapping.is_some_and(|mapping| {
                asked.registry() == mapping.registry() && asked.repository() == mapping.repository(reference)
            });
            let same_place = site || (asked.registry(), asked.repository()) == source;
            let same_tag = match (asked.digest(), asked.tag()) {
                (Some(_), None) if !exact => true,
                (Some(wanted), _) if exact => wanted == digest || reference.digest() == Some(wanted),
                (_, tag) => reference.tag().unwrap_or("latest") == tag.unwrap_or("latest"),
            };
            same_place && same_tag
        };
        self.images.iter().find(means).map(|(reference, _)| reference)
    }
}

/// Looks at the pods of `namespaces`.
///
/// # Errors
/// When they can't be listed.
pub async fn audit(
    cluster: &Cluster,
    closure: &Closure,
    namespaces: &[String],
    mapping: Option<&Mapping>,
) -> Result<Audit> {
    let mut audit = Audit::default();
    for namespace in namespaces {
        for pod in cluster.pods(namespace).await? {
            look(closure, &pod, mapping, &mut audit.containers);
        }
    }
    audit
        .containers
        .sort_by(|a, b| (&a.namespace, &a.pod, &a.container).cmp(&(&b.namespace, &b.pod, &b.container)));
    Ok(audit)
}

fn look(closure: &Closure, pod: &Pod, mapping: Option<&Mapping>, found: &mut Vec<Looked>) {
    // What has ended and is only kept for its log runs no more.
    let ended = matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
    let mut add = |container: String, image: &str, image_id: &str| {
        let (verdict, why) = closure.judge(image, image_id, mapping);
        let why = if ended && verdict == Verdict::Unknown { Some("it has ended".into()) } else { why };
        found.push(Looked {
            namespace: pod.metadata.namespace.clone(),
            pod: pod.metadata.name.clone(),
            container,
            image: image.into(),
            image_id: image_id.into(),
            verdict,
            why,
        });
    };
    let (spec, status) = (&pod.spec, &pod.status);
    let groups: [(&[Container], &[ContainerStatus]); 3] = [
        (&spec.init_containers, &status.init_container_statuses),
        (&spec.containers, &status.container_statuses),
        (&spec.ephemeral_containers, &status.ephemeral_container_statuses),
    ];
    for (wanted, are) in groups {
        for container in wanted {
            let status = are.iter().find(|status| status.name == container.name);
            let image_id = status.map_or("", |status| &status.image_id);
            add(container.name.clone(), &container.image, image_id);
        }
    }
    let mounts = || groups.into_iter().flat_map(|(_, are)| are).flat_map(|status| &status.volume_mounts);
    for volume in &spec.volumes {
        let Some(image) = &volume.image else { continue };
        let reported = mounts().filter(|mount| mount.name == volume.name);
        let image_id = reported.filter_map(|mount| mount.volume_status.image.as_ref()).next();
        // Older kubelets don't say what they mounted; a digest in the reference says what they had to.
        let pinned = if digest_of(&image.reference).is_some() { image.reference.as_str() } else { "" };
        let image_id = image_id.map_or(pinned, |image| &image.image_ref);
        add(format!("volume {}", volume.name), &image.reference, image_id);
    }
}

/// The digest in `docker-pullable://REPOSITORY@sha256:…`, `REPOSITORY@sha256:…` or `sha256:…`.
fn digest_of(image_id: &str) -> Option<Digest> {
    image_id[image_id.rfind("sha256:")?..].parse().ok()
}

#[cfg(test)]
mod tests;
