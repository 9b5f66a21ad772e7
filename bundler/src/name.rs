//! Names that become parts of paths, repositories and helm's command line. A spec, a lock and a bundle may each have been
//! written by somebody else, so each is checked where it is read.

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::Digest;
use crate::error::Error;
use crate::reference::is_component;

/// Longest name of a release: helm adds to it, and what comes out must be a label.
const RELEASE_LENGTH: usize = 53;
/// Longest name of a namespace (RFC 1123, 2.1).
const LABEL_LENGTH: usize = 63;

/// Why a text is not a name.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// It can't be part of a repository's path.
    #[error(
        "{0} {1:?} may have lower-case letters, digits, dots, dashes and underscores only, and starts and ends with a letter or digit"
    )]
    Component(&'static str, String),
    /// It can't be the last part of a chart's repository.
    #[error(
        "chart name {0:?} may have lower-case letters and digits with dots, dashes and underscores between them only, at most 64"
    )]
    Chart(String),
    /// It can't be a tag.
    #[error(
        "version {0:?} may have letters, digits, dots, dashes, underscores and plus signs only, at most 100"
    )]
    Version(String),
    /// Helm would not take it, or take it for something else.
    #[error(
        "release {0:?} is not a name that helm takes: lower-case letters, digits, dashes and dots, each part between \
         dots starting and ending with a letter or digit, at most {RELEASE_LENGTH}"
    )]
    Release(String),
    /// Kubernetes would not take it.
    #[error(
        "namespace {0:?} may have lower-case letters, digits and dashes only, starts and ends with a letter or digit, \
         and has at most {LABEL_LENGTH}"
    )]
    Namespace(String),
    /// Not a name of a Secret.
    #[error("{0:?} is not a name of a Secret: lower-case letters, digits, dashes and dots")]
    Secret(String),
    /// It can't be in a kubeconfig that anybody made on purpose.
    #[error("context {0:?} is empty, starts with a dash or has control characters")]
    Context(String),
    /// One release would be installed over the other.
    #[error("release {0:?} is there twice, and not each time with a namespace of its own")]
    Twice(String),
    /// A registry would have one of them.
    #[error("chart {0} is there twice, with different content: give one of them another version")]
    Content(String),
}

/// Most names that a hint lists; further ones are only counted.
const LISTED: usize = 20;

/// Builds the error for a name that nothing has. Its hint says the nearest known name, and all that there are.
pub fn unknown<S: AsRef<str>>(action: impl Into<String>, what: &str, name: &str, known: &[S]) -> Error {
    let error = Error::input(action, format!("there is no {what} {name:?}"));
    let all: BTreeSet<&str> = known.iter().map(AsRef::as_ref).collect();
    let alike = |other: &&str| strsim::normalized_damerau_levenshtein(name, other);
    let nearest = all.iter().max_by(|a, b| alike(a).total_cmp(&alike(b))).filter(|other| alike(other) >= 0.5);
    let list = all.iter().take(LISTED).copied().collect::<Vec<_>>().join(", ");
    let more = all.len().saturating_sub(LISTED);
    error.hint(match (nearest, more) {
        _ if all.is_empty() => format!("there is no {what} at all"),
        (Some(nearest), 0) => format!("did you mean {nearest:?}? there are: {list}"),
        (Some(nearest), _) => format!("did you mean {nearest:?}? there are: {list}, and {more} more"),
        (None, 0) => format!("there are: {list}"),
        (None, _) => format!("there are: {list}, and {more} more"),
    })
}

/// A path component as the distribution spec has it, without its repeated separators.
pub(crate) fn component(what: &'static str, name: &str) -> Result<(), NameError> {
    let word =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if name.len() <= 64 && name.split(['.', '-', '_']).all(word) {
        Ok(())
    } else {
        Err(NameError::Component(what, name.into()))
    }
}

/// A chart's name: a whole path component as the distribution spec has it, with the underscores that helm takes.
pub(crate) fn chart(name: &str) -> Result<(), NameError> {
    if name.len() <= 64 && is_component(name) { Ok(()) } else { Err(NameError::Chart(name.into())) }
}

/// Letters and what a tag may have, and `+`.
pub(crate) fn version(version: &str) -> Result<(), NameError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-+".contains(&b);
    let starts = version.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && version.len() <= 100 && version.bytes().all(plain) {
        Ok(())
    } else {
        Err(NameError::Version(version.into()))
    }
}

/// Helm's own rule: a subdomain of RFC 1123.
///
/// # Errors
/// When it is none.
pub fn release(name: &str) -> Result<(), NameError> {
    if name.len() <= RELEASE_LENGTH && name.split('.').all(is_label) {
        Ok(())
    } else {
        Err(NameError::Release(name.into()))
    }
}

/// A label of RFC 1123.
///
/// # Errors
/// When it is none.
pub fn namespace(name: &str) -> Result<(), NameError> {
    if is_label(name) { Ok(()) } else { Err(NameError::Namespace(name.into())) }
}

/// Kubernetes' rule for names of Secrets: a subdomain of RFC 1123.
pub(crate) fn secret(name: &str) -> Result<(), NameError> {
    let is_subdomain = name.len() <= 253 && name.split('.').all(is_label);
    if is_subdomain { Ok(()) } else { Err(NameError::Secret(name.into())) }
}

/// A kubeconfig's context may be called anything, `arn:aws:eks:…/x` for one, but not what helm takes for a flag.
///
/// # Errors
/// When it is.
pub fn context(name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.starts_with('-') || name.contains(char::is_control) {
        Err(NameError::Context(name.into()))
    } else {
        Ok(())
    }
}

/// Charts by name and version, each with its digest: a registry has one of each.
///
/// # Errors
/// For the first that is there with another digest.
pub(crate) fn charts<'a>(all: impl Iterator<Item = (&'a str, &'a str, Digest)>) -> Result<(), NameError> {
    let mut seen = BTreeMap::new();
    for (chart, version, digest) in all {
        self::chart(chart)?;
        self::version(version)?;
        // A tag has `_` for `+`.
        if *seen.entry((chart, crate::chart::tag(version))).or_insert(digest) != digest {
            return Err(NameError::Content(format!("{chart} {version}")));
        }
    }
    Ok(())
}

fn is_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    name.len() <= LABEL_LENGTH
        && !name.is_empty()
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Releases with their namespaces: helm keeps one of a name in each. Where none is given, the site's kubeconfig decides,
/// and it may be any.
///
/// # Errors
/// For the first that is no name, or could meet another.
pub(crate) fn releases<'a>(all: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Result<(), NameError> {
    let mut seen: BTreeMap<&str, BTreeSet<Option<&str>>> = BTreeMap::new();
    for (name, place) in all {
        release(name)?;
        place.map_or(Ok(()), namespace)?;
        let others = seen.entry(name).or_default();
        if others.contains(&place) || others.contains(&None) || (place.is_none() && !others.is_empty()) {
            return Err(NameError::Twice(name.into()));
        }
        others.insert(place);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_what_helm_takes() {
        for name in ["a", "hello", "a-b.c1", &"x".repeat(53)] {
            release(name).expect(name);
        }
        let long = "x".repeat(54);
        for name in ["", "--debug", "../../x", "a/b", "A", "a_b", "a.", ".a", "a..b", "a-", "a b", "é", &long]
        {
            release(name).expect_err(name);
        }
    }

    #[test]
    fn namespaces_are_labels() {
        for name in ["a", "kube-system", "1", &"x".repeat(63)] {
            namespace(name).expect(name);
        }
        for name in ["", "-a", "a-", "a.b", "A", "../x", "a\n", &"x".repeat(64)] {
            namespace(name).expect_err(name);
        }
    }

    #[test]
    fn contexts_are_no_flags() {
        for name in ["minikube", "admin@site", "arn:aws:eks:eu-west-1:1:cluster/x", "a b"] {
            context(name).expect(name);
        }
        for name in ["", "--kube-token=x", "a\u{1b}[2J", "a\n"] {
            context(name).expect_err(name);
        }
    }

    #[test]
    fn one_chart_of_a_name_and_version() {
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        charts([("a", "1", one), ("a", "1", one), ("a", "2", other), ("b", "1", other)].into_iter())
            .expect("charts");
        charts([("a", "1+x", one), ("a", "1_x", other)].into_iter()).expect_err("one tag");
        for name in ["my_chart", "a__b", "a.b-c", "a--b"] {
            charts([(name, "1", one)].into_iter()).expect(name);
        }
        for name in ["../a", "", "A", "_a", "a_", "a___b", "a/b", "-a", &"x".repeat(65)] {
            charts([(name, "1", one)].into_iter()).expect_err(name);
        }
    }

    #[test]
    fn one_release_of_a_name_in_each_namespace() {
        let check = |list: &[(&str, Option<&str>)]| releases(list.iter().copied());
        check(&[("a", Some("x")), ("a", Some("y")), ("b", None)]).expect("three releases");
        for pair in [[Some("x"), Some("x")], [None, None], [None, Some("x")], [Some("x"), None]] {
            let error = check(&pair.map(|place| ("a", place))).expect_err("twice").to_string();
            assert!(error.contains("release \"a\" is there twice"), "{error}");
        }
    }
}
