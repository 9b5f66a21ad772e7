//! What a registry has, by name: the tables that requests are looked up in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::image::{self, Descriptor, ImageError, OCI_INDEX, Parsed};
use crate::reference::host_segment;

/// All repositories.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    /// By name at a site.
    pub(super) repositories: BTreeMap<String, Repository>,
    /// Names without the source's host, with all that they may mean.
    pub(super) short: HashMap<String, Vec<String>>,
}

/// One repository.
#[derive(Clone, Debug, Default)]
pub(super) struct Repository {
    pub(super) tags: BTreeMap<String, Digest>,
    pub(super) manifests: HashMap<Digest, Arc<Described>>,
}

/// A manifest or index, as far as requests and rules need it.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) media_type: String,
    /// In bytes.
    pub(super) size: u64,
    /// Blobs that it needs, with their sizes in bytes.
    pub(super) blobs: Vec<(Digest, u64)>,
    /// Its config, if it is no index.
    pub(super) config: Option<Descriptor>,
    /// Layers that may not be passed on, and so may be missing.
    foreign: Vec<Digest>,
    /// Manifests that it lists, with their sizes in bytes.
    pub(super) children: Vec<(Digest, u64)>,
    /// What it belongs to.
    pub(super) subject: Option<Digest>,
    /// How it stands in a list of what belongs to that, if it belongs to something.
    descriptor: Option<Value>,
}

impl Described {
    /// Reads it. `media_type` is what it was called on its way here, and counts where it says nothing itself.
    pub(super) fn read(media_type: &str, bytes: &[u8]) -> Result<Self, ImageError> {
        let relation = image::relation(bytes)?;
        let (mut blobs, mut foreign, mut children) = (Vec::new(), Vec::new(), Vec::new());
        let mut config = None;
        match image::read(media_type, bytes)? {
            Parsed::Manifest(manifest) => {
                config = Some(manifest.config.clone());
                blobs.push((manifest.config.digest, manifest.config.size));
                for layer in &manifest.layers {
                    if layer.is_distributable() {
                        blobs.push((layer.digest, layer.size));
                    } else {
                        foreign.push(layer.digest);
                    }
                }
            }
            Parsed::Index(index) => {
                children.extend(index.manifests.iter().map(|child| (child.digest, child.size)));
            }
        }
        let media_type = relation.media_type().unwrap_or(media_type);
        let referrer = || image::referrer(media_type, &Digest::of(bytes), bytes);
        Ok(Self {
            media_type: media_type.into(),
            size: bytes.len() as u64,
            blobs,
            config,
            foreign,
            children,
            subject: relation.subject.as_ref().map(|subject| subject.digest),
            descriptor: relation.subject.as_ref().map(|_| referrer()).transpose()?,
        })
    }
}

impl Described {
    /// What it takes in a list of referrers, in bytes.
    pub(super) fn listed(&self) -> u64 {
        self.descriptor.as_ref().map_or(0, |descriptor| descriptor.to_string().len() as u64)
    }
}

impl Tables {
    /// A repository by its name at a site, or by its source's name: with `ns`, as containerd asks the mirrors of that host, or
    /// alone where that is unambiguous.
    pub(super) fn repository(&self, name: &str, ns: Option<&str>) -> Option<(&str, &Repository)> {
        let exact = || self.repositories.get_key_value(name);
        let found = match ns {
            // containerd says it with `override_path`, too, where the host is in the path already. Never another
            // host's repository of this name.
            Some(host) => {
                let host = host_segment(host);
                self.repositories.get_key_value(&format!("{host}/{name}")).or_else(exact)
            }
            None => exact().or_else(|| match self.short.get(name).map(Vec::as_slice) {
                Some([only]) => self.repositories.get_key_value(only),
                _ => None,
            }),
        };
        found.map(|(name, repository)| (name.as_str(), repository))
    }

    /// All digests that some manifest stands under, or needs.
    pub(super) fn used<'a>(&'a self) -> HashSet<Digest> {
        let manifests = self.repositories.values().flat_map(|repository| &repository.manifests);
        let needed = |it: &'a Described| it.blobs.iter().map(|(digest, _)| digest).chain(&it.foreign);
        manifests.flat_map(|(digest, it)| needed(it).chain([digest]).copied()).collect()
    }
}

impl Repository {
    /// The index of all that belongs to `subject` (distribution spec, "Listing Referrers"); of one kind of artifact if that
    /// is named.
    pub(super) fn referrers(&self, subject: &Digest, artifact_type: Option<&str>) -> Value {
        let belongs = self.manifests.iter().filter(|(_, it)| it.subject.as_ref() == Some(subject));
        let mut found: Vec<_> =
            belongs.filter_map(|(digest, it)| Some((digest, it.descriptor.as_ref()?))).collect();
        found.retain(|(_, it)| artifact_type.is_none_or(|wanted| it["artifactType"] == wanted));
        found.sort_by_key(|(digest, _)| **digest);
        let found: Vec<_> = found.into_iter().map(|(_, descriptor)| descriptor).collect();
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found})
    }

    /// Takes out indexes of which a child is not here, or has another size, and tags of nothing; what they are called, `:TAG` or `@DIGEST`.
    pub(super) fn drop_incomplete(&mut self) -> Vec<String> {
        let mut dropped = Vec::new();
        loop {
            let is_there = |(child, size): &(Digest, u64)| {
                self.manifests.get(child).is_some_and(|child| child.size == *size)
            };
            let lacks = |it: &Described| !it.children.iter().all(is_there);
            let found = self.manifests.iter().find(|(_, it)| lacks(it)).map(|(digest, _)| *digest);
            let Some(digest) = found else { break };
            self.manifests.remove(&digest);
            dropped.push(format!("@{digest}"));
        }
        let gone = self.tags.iter().filter(|(_, digest)| !self.manifests.contains_key(*digest));
        dropped.extend(gone.map(|(tag, _)| format!(":{tag}")));
        self.tags.retain(|_, digest| self.manifests.contains_key(digest));
        dropped
    }

    /// What the list of all that belongs to `subject` takes, in bytes, but for one of them.
    pub(super) fn listed(&self, subject: &Digest, but: &Digest) -> u64 {
        let belong = self
            .manifests
            .iter()
            .filter(|(digest, it)| it.subject.as_ref() == Some(subject) && *digest != but);
        belong.map(|(_, it)| it.listed()).sum()
    }

    /// The index that lists a manifest here, if one does.
    pub(super) fn parent(&self, child: &Digest) -> Option<Digest> {
        let parent =
            self.manifests.iter().find(|(_, it)| it.children.iter().any(|(digest, _)| digest == child));
        parent.map(|(digest, _)| *digest)
    }
}
