//! The differences between two locks, for people and programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Lock;
use crate::digest::Digest;

/// Differences of a new lock from an old one.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Pinned for the first time.
    pub added: Vec<Change>,
    /// Pinned to something else.
    pub updated: Vec<Change>,
    /// No longer wanted.
    pub removed: Vec<Change>,
    /// As before.
    pub unchanged: Vec<Change>,
}

/// An item of a lock, before and after.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `image`, `chart` or `file`.
    pub kind: &'static str,
    /// An image's reference, a chart's release, a file's name.
    pub name: String,
    /// Before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<Pin>,
    /// Now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<Pin>,
}

/// Digest and version that an item is pinned to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pin {
    /// Of an image what its tag pointed to; of others what is carried.
    pub digest: Digest,
    /// A chart's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Changes {
    /// Compares two locks. Without an old one everything is new.
    #[must_use]
    pub fn between(old: Option<&Lock>, new: &Lock) -> Self {
        let mut before = old.map(pins).unwrap_or_default();
        let mut changes = Self::default();
        for ((kind, name), new) in pins(new) {
            let old = before.remove(&(kind, name.clone()));
            let list = match &old {
                None => &mut changes.added,
                Some(old) if *old != new => &mut changes.updated,
                Some(_) => &mut changes.unchanged,
            };
            list.push(Change { kind, name, old, new: Some(new) });
        }
        let gone = before.into_iter();
        changes.removed.extend(gone.map(|((kind, name), old)| Change {
            kind,
            name,
            old: Some(old),
            new: None,
        }));
        changes
    }

    /// A line for each item, those that changed first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let lists = [
            ("Updated", &self.updated),
            ("Added", &self.added),
            ("Removed", &self.removed),
            ("Unchanged", &self.unchanged),
        ];
        let each = |(word, list): (&str, &Vec<Change>)| {
            list.iter()
                .map(|change| format!("{word:<9} {} {}", change.kind, change.described()))
                .collect::<Vec<_>>()
        };
        lists.into_iter().flat_map(each).collect()
    }

    /// Returns the number of items of each kind of change, in a few words.
    #[must_use]
    pub fn counted(&self) -> String {
        format!(
            "{} updated, {} added, {} removed, {} unchanged",
            self.updated.len(),
            self.added.len(),
            self.removed.len(),
            self.unchanged.len()
        )
    }
}

impl Change {
    /// The name, and what it was and is pinned to.
    fn described(&self) -> String {
        let same_version = match (&self.old, &self.new) {
            (Some(old), Some(new)) => old.version == new.version,
            _ => false,
        };
        let shown = |pin: &Pin| match &pin.version {
            Some(version) if !same_version || self.old == self.new => version.clone(),
            _ => short(&pin.digest),
        };
        match (self.old.as_ref().map(shown), self.new.as_ref().map(shown)) {
            (Some(old), Some(new)) if old != new => format!("{} {old} -> {new}", self.name),
            (Some(pin), _) | (None, Some(pin)) => format!("{} {pin}", self.name),
            (None, None) => self.name.clone(),
        }
    }
}

/// The first characters of a digest, enough to tell it from others.
fn short(digest: &Digest) -> String {
    let text = digest.to_string();
    text.chars().take("sha256:".len() + 12).collect()
}

fn pins(lock: &Lock) -> BTreeMap<(&'static str, String), Pin> {
    let images = lock.images.iter().map(|image| {
        let pin = Pin { digest: image.upstream.unwrap_or(image.digest), version: None };
        (("image", image.reference.to_string()), pin)
    });
    let charts = lock.charts.iter().map(|chart| {
        let place = chart.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let pin = Pin { digest: chart.digest, version: Some(chart.version.clone()) };
        (("chart", format!("{place}{}", chart.release)), pin)
    });
    let files = lock.files.iter().map(|file| {
        let platform = file.platform.as_ref().map(|platform| format!(" {platform}")).unwrap_or_default();
        (("file", format!("{}{platform}", file.name)), Pin { digest: file.digest, version: None })
    });
    images.chain(charts).chain(files).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn every_item_is_listed_once() {
        let old = sample();
        let first = Changes::between(None, &old);
        let empty = short(&Digest::of(b""));
        assert_eq!(
            first.lines(),
            [
                "Added     chart hello 0.1.0".into(),
                format!("Added     image docker.io/library/redis:8 {empty}")
            ]
        );
        let same = Changes::between(Some(&old), &old);
        assert_eq!(same.lines()[0], "Unchanged chart hello 0.1.0");
        assert_eq!(same.counted(), "0 updated, 0 added, 0 removed, 2 unchanged");

        let mut new = old.clone();
        let digest = Digest::of(b"x");
        new.images[0].digest = digest;
        new.charts[0].version = "0.2.0".into();
        let moved = Changes::between(Some(&old), &new);
        let image = format!("Updated   image docker.io/library/redis:8 {empty} -> {}", short(&digest));
        assert_eq!(moved.lines(), ["Updated   chart hello 0.1.0 -> 0.2.0".to_owned(), image]);
        new.charts[0].version = "0.1.0".into();
        new.charts[0].digest = digest;
        new.images[0].reference = "q.io/a:1".parse().expect("a reference");
        assert_eq!(
            Changes::between(Some(&old), &new).lines(),
            [
                format!("Updated   chart hello {empty} -> {}", short(&digest)),
                format!("Added     image q.io/a:1 {}", short(&digest)),
                format!("Removed   image docker.io/library/redis:8 {empty}"),
            ]
        );
    }
}
