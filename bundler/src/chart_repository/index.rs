//! `index.yaml` of a chart repository: the versions of one chart, and nothing else is kept.
//!
//! Public indexes have up to 50 MB and entries that break helm's own rules. Helm skips such entries, and so does this reader.
//! Threat model: the index comes from somebody else. Its size is capped by the caller, and what aliases repeat by the parser.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::DuplicateKeyPolicy;

/// One version of a chart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) version: String,
    /// At least one; absolute, or relative to the repository.
    pub(super) urls: Vec<String>,
}

/// The versions of `chart` that have a version and an address. None if the index does not have the chart.
///
/// # Errors
/// When the index is neither YAML nor JSON, or no mapping.
pub(super) fn entries(index: &[u8], chart: &str) -> Result<Option<Vec<Entry>>, String> {
    let text = std::str::from_utf8(index).map_err(|e| e.to_string())?;
    let seed = || Field { name: "entries", then: Field { name: chart, then: Versions } };
    // Helm reads an index as JSON where it is JSON.
    if text.trim_start().starts_with('{')
        && let Ok(found) = seed().deserialize(&mut serde_json::Deserializer::from_str(text))
    {
        return Ok(found.flatten().flatten());
    }
    // A node takes at least a byte, so the size of the text bounds both. Limits on aliases stay as they are.
    let most = text.len().saturating_mul(2).max(1 << 10);
    let budget = serde_saphyr::budget! { max_events: most, max_nodes: most, max_total_scalar_bytes: most };
    let options = serde_saphyr::options! {
        budget: budget,
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        with_snippet: false,
    };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| seed().deserialize(yaml))
        .map(|found| found.flatten().flatten())
        .map_err(|e| e.to_string())
}

/// Reads one field of a mapping and skips the others. Anything but a mapping has no fields.
#[derive(Clone, Copy)]
struct Field<'a, S> {
    name: &'a str,
    then: S,
}

impl<'de, S: DeserializeSeed<'de> + Copy> DeserializeSeed<'de> for Field<'_, S> {
    type Value = Option<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, S: DeserializeSeed<'de> + Copy> Visitor<'de> for Field<'_, S> {
    type Value = Option<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a mapping with {:?}", self.name)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Loose(key, _)) = map.next_key::<Loose>()? {
            if key.as_deref() == Some(self.name) {
                found = Some(map.next_value_seed(self.then)?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// The list of a chart's versions.
#[derive(Clone, Copy)]
struct Versions;

impl<'de> DeserializeSeed<'de> for Versions {
    type Value = Option<Vec<Entry>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let Loose(_, items) = Loose::<RawEntry>::deserialize(deserializer)?;
        let mut kept = Vec::new();
        for entry in items {
            match entry {
                RawEntry { version: Some(version), urls } if !urls.is_empty() => {
                    kept.push(Entry { version, urls });
                }
                broken => tracing::debug!(?broken, "skipping an entry without a version or an address"),
            }
        }
        Ok(Some(kept))
    }
}

/// An entry as it is written.
#[derive(Debug, Default)]
struct RawEntry {
    version: Option<String>,
    urls: Vec<String>,
}

impl<'de> Deserialize<'de> for RawEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyEntry)
    }
}

struct AnyEntry;

/// Makes a visitor take what it has no use for, and give the default for it.
macro_rules! ignore {
    ($($visit:ident: $kind:ty),*) => {
        $(fn $visit<E>(self, _: $kind) -> Result<Self::Value, E> { Ok(Self::Value::default()) })*
    };
}

impl<'de> Visitor<'de> for AnyEntry {
    type Value = RawEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a version of a chart")
    }

    ignore! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str }

    fn visit_unit<E>(self) -> Result<RawEntry, E> {
        Ok(RawEntry::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<RawEntry, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(RawEntry::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawEntry, A::Error> {
        let mut entry = RawEntry::default();
        while let Some(Loose(key, _)) = map.next_key::<Loose>()? {
            match key.as_deref() {
                Some("version") => Loose(entry.version, _) = map.next_value::<Loose>()?,
                Some("urls") => {
                    let Loose(_, urls) = map.next_value::<Loose<Loose>>()?;
                    entry.urls = urls.into_iter().filter_map(|Loose(url, _)| url).collect();
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        entry.version = entry.version.filter(|version| !version.is_empty());
        entry.urls.retain(|url| !url.is_empty());
        Ok(entry)
    }
}

/// Any value: the text of a scalar, or the items of a list.
struct Loose<T = Never>(Option<String>, Vec<T>);

/// The item of a list that is not read.
#[derive(Debug)]
struct Never;

impl<'de> Deserialize<'de> for Never {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Loose<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue(std::marker::PhantomData))
    }
}

struct AnyValue<T>(std::marker::PhantomData<T>);

/// Makes a visitor keep a scalar as text.
macro_rules! keep {
    ($($visit:ident: $kind:ty),*) => {
        $(fn $visit<E>(self, value: $kind) -> Result<Self::Value, E> {
            Ok(Loose(Some(value.to_string()), vec![]))
        })*
    };
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for AnyValue<T> {
    type Value = Loose<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    keep! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str }

    fn visit_unit<E>(self) -> Result<Loose<T>, E> {
        Ok(Loose(None, vec![]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Loose<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Loose(None, items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose<T>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose(None, vec![]))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::time::{Duration, Instant};

    use super::*;

    fn found(index: &str, chart: &str) -> Option<Vec<(String, Vec<String>)>> {
        let entries = entries(index.as_bytes(), chart).expect(index)?;
        Some(entries.into_iter().map(|entry| (entry.version, entry.urls)).collect())
    }

    fn one(version: &str, url: &str) -> (String, Vec<String>) {
        (version.into(), vec![url.into()])
    }

    #[test]
    fn broken_entries_are_skipped_as_by_helm() {
        let index = "apiVersion: v1\nentries:\n  other:\n  - {name: other, urls: [o.tgz]}\n  text: none\n  \
            map: {a: 1}\n  empty:\n  plain:\n  - {version: 1.0.0, urls: [a.tgz, b.tgz]}\n  -\n  - text\n  - [1, 2]\n  \
            - {urls: [c.tgz]}\n  - {version: null, urls: [d.tgz]}\n  - {version: 2.0.0}\n  - {version: 2.1.0, urls: }\n  \
            - {version: 2.2.0, urls: []}\n  - {version: 2.3.0, urls: [{a: b}, null]}\n  - {version: [3], urls: [e.tgz]}\n  \
            - {version: '', urls: [e.tgz]}\n  - {version: 4, urls: [f.tgz], created: 2020-01-01T00:00:00Z}\n  \
            - {version: nonsense, urls: [g.tgz]}\ngenerated: x\n";
        let expected = [
            ("1.0.0".to_owned(), vec!["a.tgz".to_owned(), "b.tgz".to_owned()]),
            one("4", "f.tgz"),
            one("nonsense", "g.tgz"),
        ];
        assert_eq!(found(index, "plain"), Some(expected.into()));
        for chart in ["other", "text", "map", "empty"] {
            assert_eq!(found(index, chart), Some(vec![]), "{chart}");
        }
        assert_eq!(found(index, "absent"), None);
    }

    #[test]
    fn an_index_may_be_json_or_have_no_entries() {
        let json = r#"{"entries": {"a": [{"version": "1.0.0", "urls": ["x\/y.tgz"]}, null, 3]}}"#;
        assert_eq!(found(json, "a"), Some(vec![one("1.0.0", "x/y.tgz")]));
        assert_eq!(
            found("{entries: {a: [{version: 1.0.0, urls: [x]}]}}", "a"),
            Some(vec![one("1.0.0", "x")])
        );
        for empty in ["", "entries:", "entries: {}", "apiVersion: v1\n"] {
            assert_eq!(found(empty, "a"), None, "{empty:?}");
        }
        for other in ["a: [", "- a\n", "text"] {
            assert!(entries(other.as_bytes(), "a").is_err(), "{other:?}");
        }
        assert!(entries(b"entries: \xff", "a").is_err());
    }

    #[test]
    fn anchors_are_followed_and_bombs_are_not() {
        let anchored = "entries:\n  a:\n  - version: &v 1.0.0\n    urls: &u [a.tgz]\n  - {appVersion: *v, version: 2.0.0, urls: *u}\n";
        assert_eq!(found(anchored, "a"), Some(vec![one("1.0.0", "a.tgz"), one("2.0.0", "a.tgz")]));
        let mut bomb = "x0: &x0 [z, z, z, z, z, z, z, z, z]\n".to_owned();
        for n in 1..12 {
            let items = vec![format!("*x{}", n - 1); 9].join(", ");
            let _ = writeln!(bomb, "x{n}: &x{n} [{items}]");
        }
        bomb.push_str("entries: {a: *x11}\n");
        let start = Instant::now();
        let outcome = entries(bomb.as_bytes(), "a");
        assert!(outcome.is_err(), "{:?}", outcome.map(|found| found.map(|found| found.len())));
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }

    #[test]
    fn a_large_index_is_read() {
        let mut index = "apiVersion: v1\nentries:\n".to_owned();
        for chart in 0..60 {
            let _ = writeln!(index, "  chart-{chart}:");
            for version in 0..300 {
                let _ = writeln!(
                    index,
                    "  - annotations:\n      category: Database\n    apiVersion: v2\n    appVersion: 1.{version}\n    \
                     description: {}\n    keywords:\n    - a\n    - b\n    maintainers:\n    - email: x@y.example\n      name: x\n    \
                     name: chart-{chart}\n    urls:\n    - charts/chart-{chart}-1.{version}.0.tgz\n    version: 1.{version}.0",
                    "words ".repeat(8)
                );
            }
        }
        assert!(index.len() > 5 << 20, "{}", index.len());
        let found = found(&index, "chart-31").expect("the chart");
        assert_eq!((found.len(), &found[7]), (300, &one("1.7.0", "charts/chart-31-1.7.0.tgz")));
    }
}
