//! A verified bundle -> Kubernetes' own admission policies (CEL in the API server: no webhook, no pod), for pods that no
//! rewritten manifest made: operators' pods, and those that people make by hand.
//!
//! A `MutatingAdmissionPolicy` replaces each image of the bundle, however it is spelled, by the one at the site's registry,
//! digest included; a `ValidatingAdmissionPolicy` refuses, or at first only reports, what is still outside. Both hold in
//! namespaces with a label only, never in kube-system, and never for mirror pods. Only images that the bundle's map names
//! are rewritten, since a prefix put before a foreign name would be a pull that fails later and farther from its cause.

mod api;
mod expression;
mod manifest;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::push;
use crate::reference::{Mapping, Reference};
use crate::verify::VerifiedBundle;

pub use api::Api;

/// Namespace of the map of images: it is always there, few may write to it, and no policy of ours holds in it.
pub const NAMESPACE: &str = "kube-system";
/// Label that selects the namespaces, unless another is named.
pub const SELECTOR: &str = "airlock.dev/site-images=enforced";
/// Most that a ConfigMap holds, in bytes (Kubernetes, "ConfigMaps").
const MAP_CAP: usize = 1 << 20;
/// Longest key of a ConfigMap, in bytes.
const KEY_CAP: usize = 253;
/// Beyond this, the copy of the ConfigMap that `kubectl apply` keeps in an annotation is refused, in bytes; all annotations
/// have room for 256 KiB.
const APPLY_CAP: usize = 260_000;

/// What becomes of a pod with an image from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is made; whoever makes it is warned, and the audit log has it.
    Audit,
    /// It is refused.
    Enforce,
}

/// What the policies are to be.
pub struct Settings {
    /// Where the bundle's images are.
    pub mapping: Mapping,
    /// What the cluster understands.
    pub api: Api,
    /// What becomes of images from outside.
    pub action: Action,
    /// Namespaces with this label.
    pub selector: Label,
}

/// A label, `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    key: String,
    value: String,
}

/// Policies as manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policies {
    /// YAML for `kubectl apply -f -`.
    pub manifests: String,
    /// Images that are rewritten.
    pub images: usize,
    /// What else is to be done or known.
    pub notes: Vec<String>,
}

impl std::str::FromStr for Label {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let name = |text: &str| {
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            text.len() <= 63
                && edge(text.chars().next())
                && edge(text.chars().last())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let prefix = |text: &str| {
            text.len() <= KEY_CAP && text.split('.').all(|part| name(part) && !part.contains('_'))
        };
        let key_is_right = |key: &str| match key.split_once('/') {
            Some((before, after)) => prefix(before) && name(after),
            None => name(key),
        };
        match text.split_once('=') {
            Some((key, value)) if key_is_right(key) && (value.is_empty() || name(value)) => {
                Ok(Self { key: key.into(), value: value.into() })
            }
            _ => Err(Error::input("reading --selector", format!("{text:?} is no label KEY=VALUE"))
                .hint(format!("for example --selector {SELECTOR}"))),
        }
    }
}

/// Writes the policies for the images of a bundle.
///
/// # Errors
/// When the cluster has no such API, two images would be in the same place, or the map of images is too large for one
/// ConfigMap.
pub fn policies(bundle: &VerifiedBundle, settings: &Settings) -> Result<Policies> {
    push::check(bundle, &settings.mapping)?;
    let manifest = bundle.manifest();
    let images = manifest.images.iter().map(|image| (&image.reference, &image.digest));
    let map = match settings.api.mutating {
        Some(_) => image_map(images, &settings.mapping)?,
        None => BTreeMap::new(),
    };
    let mut notes = settings.api.notes();
    // With the quotes and commas that JSON puts around them.
    let size: usize = map.iter().map(|(key, value)| key.len() + value.len() + 6).sum();
    if size > APPLY_CAP {
        notes.push(format!(
            "the map of images has {size} bytes, too many for the copy that kubectl keeps: kubectl apply --server-side -f -"
        ));
    }
    let Label { key, value } = &settings.selector;
    notes.push(format!("they hold in namespaces with the label: kubectl label namespace NAME {key}={value}"));
    notes.push(
        "pods that run already are left as they are; what is refused is refused when it is made or changed"
            .into(),
    );
    let title = format!("{} {}", manifest.name, manifest.version);
    Ok(Policies {
        manifests: manifest::write(&title, &manifest.name, &map, settings),
        images: manifest.images.len(),
        notes,
    })
}

/// Each image by its tag and by its digest, with where it is. Keys are as [`expression::NORMALISED`] makes them of any
/// spelling.
fn image_map<'a>(
    images: impl Iterator<Item = (&'a Reference, &'a Digest)>,
    mapping: &Mapping,
) -> Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for (reference, digest) in images {
        let at_site = mapping.image(reference, digest);
        let name = format!("{}/{}", reference.registry(), reference.repository());
        let by_digest = format!("{name}@{digest}");
        // One that is asked for by digest has its tag as a comment: another image may own it.
        let as_written = match reference.digest() {
            Some(written) => format!("{name}@{written}"),
            None => format!("{name}:{}", reference.tag().unwrap_or("latest")),
        };
        map.insert(key(&as_written)?, at_site.clone());
        map.entry(key(&by_digest)?).or_insert(at_site);
    }
    let size: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > MAP_CAP {
        let why = format!("the map of images has {size} bytes, and a ConfigMap at most {MAP_CAP}");
        return Err(Error::input("writing admission policies", why)
            .hint("use node mirrors, which need no map: airlock mirrors"));
    }
    Ok(map)
}

/// A reference as a ConfigMap's key, which may have `.`, `-` and `_` only. No two references get the same one: in a name
/// these never stand beside each other in such a way, and a tag comes last.
fn key(reference: &str) -> Result<String> {
    let key = reference.replace('/', "..").replace(':', ".-").replace('@', "._");
    if key.len() > KEY_CAP || !key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        let why =
            format!("{reference} can't be a key of a ConfigMap: it is too long, or has other characters");
        return Err(Error::input("writing admission policies", why)
            .hint("use node mirrors, which need no map: airlock mirrors"));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn map(references: &[String]) -> Result<BTreeMap<String, String>> {
        let digest: Digest = D.parse().expect("a digest");
        let references: Vec<Reference> = references.iter().map(|text| text.parse().expect(text)).collect();
        let mapping = Mapping::new("site:5000/a", false).expect("a mapping");
        image_map(references.iter().map(|reference| (reference, &digest)), &mapping)
    }

    #[test]
    fn images_are_found_by_tag_and_by_digest() {
        let other = D.replace("e3b0", "0000");
        let map = map(&["redis:8".into(), "h:5/x".into(), format!("q.io/a/b:1@{other}")]).expect("a map");
        let d = D.replace(':', ".-");
        let expected = [
            ("docker.io..library..redis.-8".into(), format!("site:5000/a/docker.io/library/redis:8@{D}")),
            (format!("docker.io..library..redis._{d}"), format!("site:5000/a/docker.io/library/redis:8@{D}")),
            ("h.-5..x.-latest".into(), format!("site:5000/a/h_5/x@{D}")),
            (format!("h.-5..x._{d}"), format!("site:5000/a/h_5/x@{D}")),
            (format!("q.io..a..b._{}", other.replace(':', ".-")), format!("site:5000/a/q.io/a/b:1@{D}")),
            (format!("q.io..a..b._{d}"), format!("site:5000/a/q.io/a/b:1@{D}")),
        ];
        assert_eq!(map, expected.into());
    }

    #[test]
    fn what_a_config_map_cannot_hold_is_refused() {
        let error = map(&[format!("q.io/{}:1", "a/".repeat(90) + "b")]).expect_err("too long");
        assert!(error.to_string().contains("too long"), "{error}");
        let many: Vec<String> =
            (0..4000).map(|n| format!("registry.example.com/team/service-{n}:1.2.3")).collect();
        let error = map(&many).expect_err("too many");
        assert!(error.to_string().contains("a ConfigMap at most 1048576"), "{error}");
    }

    #[test]
    fn labels_are_labels() {
        for text in ["airlock.dev/site-images=enforced", "a=b", "a=", "a.b-c.d/e_f.G=1"] {
            text.parse::<Label>().expect(text);
        }
        for text in ["", "a", "=b", "a/b/c=d", "a=b c", "a=b\n", "-a=b", "a=b-", "a_b.c/d=e", "a=\"b", "ä=b"]
        {
            assert!(text.parse::<Label>().is_err(), "{text:?}");
        }
    }
}
