//! Checks for entries of a spec that match nothing: a misspelt name must not pass for a rule that holds.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::spec::{ChartSource, Spec, fits};

/// Least similarity of a text that is proposed; 1 is the same.
const SIMILAR: f64 = 0.6;

/// Checks that each pattern of `[[signed]]` means an image of the lock, or a chart that comes from a registry.
///
/// # Errors
/// For the patterns that mean none, with what is similar.
pub(super) fn check_signed<'a>(spec: &Spec, images: impl Iterator<Item = &'a Reference>) -> Result<()> {
    let names = images.map(|image| format!("{}/{}", image.registry(), image.repository()));
    let charts = spec.charts.iter().filter_map(|chart| match chart.source() {
        Ok(ChartSource::Oci { repository, .. }) => Some(repository.to_owned()),
        _ => None,
    });
    let known: BTreeSet<String> = names.chain(charts).collect();
    let patterns = spec.signed.iter().flat_map(|rule| &rule.images);
    let unused: Vec<&str> = patterns
        .map(String::as_str)
        .filter(|pattern| !known.iter().any(|name| fits(pattern, name)))
        .collect();
    refuse("[[signed]]: no image of the bundle is called", &unused, &known)
}

/// The error for texts that mean nothing, if there are any.
///
/// # Errors
/// As said.
pub(super) fn refuse(what: &str, unused: &[&str], known: &BTreeSet<String>) -> Result<()> {
    let Some(first) = unused.first() else { return Ok(()) };
    let texts = unused.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ");
    let error = Error::input("reading bundle.toml", format!("{what} {texts}"));
    Err(error.hint(match similar(first, known) {
        Some(similar) => format!("did you mean {similar:?}? Otherwise take the entry out of bundle.toml"),
        None => {
            "correct it, or take the entry out of bundle.toml; `airlock discover` lists what there is".into()
        }
    }))
}

/// The known text that is most like `text`.
fn similar<'a>(text: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    // Of a pattern, what stands before the first star has to be like the start of a name.
    let (bare, is_start) = text.split_once('*').map_or((text, false), |(start, _)| (start, true));
    let scored = known.iter().map(|name| {
        let start: String =
            if is_start { name.chars().take(bare.chars().count()).collect() } else { name.clone() };
        (strsim::normalized_damerau_levenshtein(bare, &start), name)
    });
    let (score, name) = scored.filter(|_| !bare.is_empty()).max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    // A part of a name is far from it by letters, and near to a reader.
    let has_part = || known.iter().find(|name| !bare.is_empty() && name.contains(bare.trim_matches('/')));
    if score >= SIMILAR { Some(name) } else { has_part().map(String::as_str) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_similar_is_proposed() {
        let known: BTreeSet<String> =
            ["docker.io/library/redis", "quay.io/acme/web", "ghcr.io/acme/api"].map(Into::into).into();
        for (text, expected) in [
            ("docker.io/library/reids", Some("docker.io/library/redis")),
            ("docker.io/libary/*", Some("docker.io/library/redis")),
            ("redis", Some("docker.io/library/redis")),
            ("quay.io/acmee/web", Some("quay.io/acme/web")),
            ("registry.example/x", None),
            ("*", None),
        ] {
            assert_eq!(similar(text, &known), expected, "{text}");
        }
        let error = refuse("nothing is called", &["a", "b"], &known).expect_err("unused");
        assert!(error.to_string().ends_with("nothing is called \"a\", \"b\""), "{error}");
        refuse("x", &[], &known).expect("nothing unused");
    }
}
