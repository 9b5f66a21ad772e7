//! Platforms: how they are written, and which of an index's fits one that was asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ImageError;
use crate::digest::Digest;

/// An operating system and architecture, written `linux/amd64` or `linux/arm/v7`; a version of Windows as containerd
/// writes it, `windows(10.0.20348)/amd64`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
    os_version: Option<String>,
}

/// Degree to which a manifest's platform fits the one that was asked for; the least is the best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// The same text.
    Exact,
    /// Another spelling of the same.
    Same,
    /// An older variant, by so many steps: it runs there.
    Older(u32),
    /// Another variant where none was asked for: it runs on some machines only.
    Any,
}

impl Platform {
    /// Judges how well `other` fits this platform, which a person asked for; none if it does not fit. The rules are containerd's,
    /// except that without a variant asked for a single one of any variant will do.
    pub(super) fn fit(&self, other: &Self) -> Option<Fit> {
        let version_fits = match (&self.os_version, &other.os_version) {
            (None, _) => true,
            (Some(wanted), Some(has)) => {
                has == wanted || has.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.starts_with('.'))
            }
            (Some(_), None) => false,
        };
        let (own, their) = (self.canonical(), other.canonical());
        if self.os != other.os || own.0 != their.0 || !version_fits {
            return None;
        }
        if self.architecture == other.architecture && self.variant == other.variant {
            return Some(Fit::Exact);
        }
        // What is written without a variant for arm leaves open which one.
        let is_open = self.variant.is_none() && self.architecture == "arm";
        match (own.1, their.1) {
            (own, their) if own == their && !is_open => Some(Fit::Same),
            (Some(own), Some(their)) if their < own && !is_open => Some(Fit::Older(own - their)),
            _ if self.variant.is_none() => Some(Fit::Any),
            _ => None,
        }
    }

    /// The architecture in Go's spelling and the number of the variant, with the one that is meant where none is written.
    pub(super) fn canonical(&self) -> (&str, Option<u32>) {
        let (architecture, usual) = match self.architecture.as_str() {
            "amd64" => ("amd64", Some(1)),
            "arm64" | "aarch64" => ("arm64", Some(8)),
            "arm" | "armhf" => ("arm", Some(7)),
            "armel" => ("arm", Some(6)),
            "386" | "i386" => ("386", None),
            other => (other, None),
        };
        let variant = match &self.variant {
            None => usual,
            // 0 is what no known variant has.
            Some(text) => Some(text.trim_start_matches('v').parse().unwrap_or(0)),
        };
        (architecture, variant)
    }

    /// The parts of the operating system's version, for comparison.
    pub(super) fn version(&self) -> Vec<u64> {
        let text = self.os_version.as_deref().unwrap_or_default();
        text.split('.').map(|part| part.parse().unwrap_or_default()).collect()
    }

    /// The same without a version of the operating system.
    fn unversioned(&self) -> Self {
        Self { os_version: None, ..self.clone() }
    }

    /// Reports whether an image for this platform may run on a node that says `OS/ARCHITECTURE` of itself.
    pub(crate) fn runs_on(&self, node: &str) -> bool {
        format!("{}/{}", self.os, self.architecture) == node
    }
}

/// Platforms with their manifests. Versions of an operating system are named only where there are several.
pub(crate) fn by_platform(found: Vec<(Platform, Digest)>) -> BTreeMap<Platform, Digest> {
    let mut named = BTreeMap::new();
    let all = found.clone();
    for (platform, digest) in found {
        let plain = platform.unversioned();
        let is_alone =
            all.iter().filter(|(other, _)| other.unversioned() == plain).all(|(o, _)| *o == platform);
        // Of two that are called the same, runtimes take the first.
        named.entry(if is_alone { plain } else { platform }).or_insert(digest);
    }
    named
}

impl FromStr for Platform {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let plain = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
        let mut parts: Vec<&str> = text.split('/').collect();
        let version = parts[0].strip_suffix(')').and_then(|os| os.split_once('('));
        if let Some((os, _)) = version {
            parts[0] = os;
        }
        let version = version.map(|(_, version)| version);
        let [os, architecture, variant @ ..] = parts.as_slice() else {
            return Err(ImageError::PlatformText(text.into()));
        };
        if variant.len() > 1 || !parts.iter().all(plain) || !version.is_none_or(is_os_version) {
            return Err(ImageError::PlatformText(text.into()));
        }
        Ok(Self {
            os: (*os).into(),
            architecture: (*architecture).into(),
            variant: variant.first().map(|v| (*v).into()),
            os_version: version.map(Into::into),
        })
    }
}

/// Reports whether a text is a version of an operating system: numbers with dots between them.
fn is_os_version(text: &str) -> bool {
    let is_number = |part: &str| (1..=10).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    text.len() <= 50 && text.split('.').all(is_number)
}

impl TryFrom<String> for Platform {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self, ImageError> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.os)?;
        self.os_version.iter().try_for_each(|version| write!(f, "({version})"))?;
        write!(f, "/{}", self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// `platform` in a descriptor, and the same fields in an image's config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RawPlatform {
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    os_version: Option<String>,
}

impl RawPlatform {
    /// BuildKit marks attestations as `unknown/unknown`.
    pub(super) fn known(&self) -> Option<Platform> {
        if self.os.is_empty() || self.os == "unknown" || self.architecture == "unknown" {
            return None;
        }
        let version = self.os_version.as_deref().filter(|version| is_os_version(version));
        let version = version.map(|version| format!("({version})")).unwrap_or_default();
        let variant =
            self.variant.as_deref().filter(|v| !v.is_empty()).map(|v| format!("/{v}")).unwrap_or_default();
        format!("{}{version}/{}{variant}", self.os, self.architecture).parse().ok()
    }
}

impl From<&Platform> for RawPlatform {
    fn from(platform: &Platform) -> Self {
        let Platform { os, architecture, variant, os_version } = platform.clone();
        Self { os, architecture, variant, os_version }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Descriptor, ImageIndex, OCI_MANIFEST};
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().expect(text)
    }

    #[test]
    fn the_best_fit_wins_as_in_a_runtime() {
        let chosen = |has: &[&str], wanted: &[&str]| {
            let children: Vec<_> = has
                .iter()
                .enumerate()
                .map(|(n, text)| {
                    let digest = Digest::of(&[n as u8]);
                    Descriptor {
                        platform: Some((&platform(text)).into()),
                        ..Descriptor::new(OCI_MANIFEST, digest, 7)
                    }
                })
                .collect();
            let index = ImageIndex { manifests: children };
            let wanted: Vec<_> = wanted.iter().map(|w| platform(w)).collect();
            let chosen = index.choose(&wanted).map_err(|e| e.to_string())?;
            let place = |d: &Descriptor| index.manifests.iter().position(|m| m == d).expect("a child");
            Ok::<_, String>(chosen.iter().map(|(_, d)| place(d)).collect::<Vec<_>>())
        };
        for (has, wanted, expected) in [
            (&["linux/amd64/v2", "linux/amd64"][..], &["linux/amd64"][..], &[1][..]),
            (&["linux/amd64", "linux/amd64/v2"], &["linux/amd64"], &[0]),
            (&["linux/amd64", "linux/amd64/v2"], &["linux/amd64/v2"], &[1]),
            (&["linux/amd64", "linux/amd64/v2"], &["linux/amd64/v3"], &[1]),
            (&["linux/amd64/v2", "linux/amd64/v1"], &["linux/amd64"], &[1]),
            (&["linux/amd64/v2"], &["linux/amd64"], &[0]),
            (&["linux/arm64"], &["linux/aarch64"], &[0]),
            (&["linux/arm64"], &["linux/arm64/v8"], &[0]),
            (&["linux/arm64/v8"], &["linux/arm64"], &[0]),
            (&["linux/arm64/v8", "linux/arm64"], &["linux/arm64"], &[1]),
            (&["linux/arm64/v9", "linux/arm64/v8"], &["linux/arm64"], &[1]),
            (&["linux/arm/v5", "linux/arm/v6"], &["linux/arm/v7"], &[1]),
            (&["linux/arm/v5", "linux/arm"], &["linux/arm/v7"], &[1]),
            (&["linux/arm/v6", "linux/arm"], &["linux/arm"], &[1]),
            (&["linux/amd64", "linux/amd64"], &["linux/amd64"], &[0]),
            (
                &[
                    "windows(10.0.17763.1)/amd64",
                    "windows(10.0.20348.9)/amd64",
                    "windows(10.0.20348.10)/amd64",
                ],
                &["windows/amd64"],
                &[2],
            ),
            (&["windows/amd64", "windows(10.0.1)/amd64"], &["windows/amd64"], &[1]),
            (
                &[
                    "windows(10.0.17763.1)/amd64",
                    "windows(10.0.20348.9)/amd64",
                    "windows(10.0.20348.10)/amd64",
                ],
                &["windows(10.0.17763)/amd64", "windows(10.0.20348.9)/amd64"],
                &[0, 1],
            ),
        ] {
            assert_eq!(chosen(has, wanted), Ok(expected.to_vec()), "{has:?} {wanted:?}");
        }
        for (has, wanted, says) in [
            (&["linux/amd64/v3", "linux/amd64/v2"][..], "linux/amd64", "name the variant"),
            (&["linux/amd64/v3"], "linux/amd64/v2", "no manifest"),
            (&["linux/arm64/v9"], "linux/arm64/v8", "no manifest"),
            (&["linux/arm64"], "linux/arm/v8", "no manifest"),
            (&["windows(10.0.2034)/amd64", "windows/amd64"], "windows(10.0.203)/amd64", "no manifest"),
        ] {
            let why = chosen(has, &[wanted]).expect_err(wanted);
            assert!(why.contains(says), "{has:?} {wanted}: {why}");
        }
    }

    #[test]
    fn windows_versions_are_named_if_there_are_several() {
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let named = |found: &[(&str, Digest)]| {
            let found = found.iter().map(|(text, digest)| (platform(text), *digest)).collect();
            by_platform(found).into_iter().map(|(p, d)| (p.to_string(), d)).collect::<Vec<_>>()
        };
        assert_eq!(named(&[("windows(10.0.1)/amd64", one)]), [("windows/amd64".into(), one)]);
        assert_eq!(
            named(&[("windows(10.0.1)/amd64", one), ("windows(10.0.2)/amd64", other)]),
            [("windows(10.0.1)/amd64".into(), one), ("windows(10.0.2)/amd64".into(), other)]
        );
        assert_eq!(named(&[("linux/amd64", one), ("linux/amd64", other)]), [("linux/amd64".into(), one)]);
        assert!(platform("windows(10.0.1)/amd64").runs_on("windows/amd64"));
        assert!(
            platform("linux/arm/v7").runs_on("linux/arm") && !platform("linux/arm64").runs_on("linux/arm")
        );
        for text in [
            "windows()/amd64",
            "windows(a)/amd64",
            "windows(10.0/amd64",
            "windows10.0)/amd64",
            "(1)/amd64",
            "windows(1..2)/amd64",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }
}
