//! What a bundle says about itself in others' formats, made from its lock: what is in it (SPDX 2.3) and what it was made of
//! (in-toto Statement v1 with SLSA Provenance v1). Both are entries of the tar, so whoever signs the bundle signs them; the same
//! lock gives the same bytes.

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::lock::{Lock, LockedChart, LockedFile, LockedImage};

/// What stands where nothing is known (SPDX 2.3, 7.7 and others).
const UNKNOWN: &str = "NOASSERTION";
/// Who makes bundles.
const MAKER: &str = env!("CARGO_PKG_REPOSITORY");
/// How a bundle is made of its lock, as `docs/bundle-format.md` has it.
const BUILD_TYPE: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs/bundle-format.md#version-1");

/// Something that is in a bundle.
struct Part<'a> {
    kind: &'static str,
    name: String,
    version: Option<&'a str>,
    /// Where it came from, as a URI.
    uri: String,
    digest: &'a Digest,
    licenses: Option<&'a str>,
    /// A package URL, where there is a type for it.
    purl: Option<String>,
    comment: Option<String>,
}

/// The software bill of materials: `application/spdx+json`.
///
/// # Errors
/// None that can be caused by input; JSON's writer has a result.
pub fn sbom(lock: &Lock, lock_text: &str) -> serde_json::Result<Vec<u8>> {
    let of_lock = Digest::of(lock_text.as_bytes());
    let parts = parts(lock);
    let id = |part: &Part, n: usize| format!("SPDXRef-{}-{}", part.kind, n + 1);
    let mut packages = vec![json!({
        "SPDXID": "SPDXRef-bundle", "name": lock.name, "versionInfo": lock.bundle_version,
        "downloadLocation": UNKNOWN, "filesAnalyzed": false, "licenseConcluded": UNKNOWN, "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN, "primaryPackagePurpose": "ARCHIVE", "supplier": UNKNOWN,
        "comment": format!("serial {}, images.lock {of_lock}", lock.serial),
    })];
    packages.extend(parts.iter().enumerate().map(|(n, part)| package(part, &id(part, n))));
    let relation = |from: &str, kind: &str, to: &str| json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to});
    let mut relationships = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-bundle")];
    let contained =
        parts.iter().enumerate().map(|(n, part)| relation("SPDXRef-bundle", "CONTAINS", &id(part, n)));
    relationships.extend(contained);
    written(&json!({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{}-{}", lock.name, lock.bundle_version),
        "documentNamespace": format!("https://spdx.org/spdxdocs/{}-{}-{}", lock.name, lock.serial, of_lock.hex()),
        "creationInfo": {"created": lock.created, "creators": [format!("Tool: airlock-{}", env!("CARGO_PKG_VERSION"))]},
        "packages": packages, "relationships": relationships,
    }))
}

fn package(part: &Part, id: &str) -> Value {
    let mut package = json!({
        "SPDXID": id, "name": part.name, "downloadLocation": part.uri, "filesAnalyzed": false,
        "checksums": [{"algorithm": "SHA256", "checksumValue": part.digest.hex()}],
        "licenseConcluded": UNKNOWN, "licenseDeclared": part.licenses.filter(|l| is_expression(l)).unwrap_or(UNKNOWN),
        "copyrightText": UNKNOWN, "supplier": UNKNOWN,
        "primaryPackagePurpose": if part.kind == "image" { "CONTAINER" } else { "FILE" },
    });
    let known = [
        ("versionInfo", part.version.map(Into::into)),
        ("licenseComments", part.licenses.filter(|l| !is_expression(l)).map(Into::into)),
        ("comment", part.comment.clone().map(Into::into)),
        (
            "externalRefs",
            part.purl.as_ref().map(|purl| {
                json!([{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}])
            }),
        ),
    ];
    for (key, value) in known {
        if let Some(value) = value {
            package[key] = value;
        }
    }
    package
}

/// Whether a text may be a licence expression (SPDX 2.3, Annex D). Whether its identifiers are on SPDX's list is not looked up.
fn is_expression(text: &str) -> bool {
    let is_word = |word: &str| {
        let bare = word.trim_start_matches('(').trim_end_matches([')', '+']);
        !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
    };
    let words: Vec<_> = text.split(' ').collect();
    let is_operator = |word: &str| matches!(word, "AND" | "OR" | "WITH");
    words.iter().all(|word| is_word(word))
        && words.iter().enumerate().all(|(n, word)| is_operator(word) == (n % 2 == 1))
        && words.len() % 2 == 1
}

/// The provenance: `application/vnd.in-toto+json`. Its subject is the lock, which pins every byte of the bundle; the bundle's own
/// digest can't be within it.
///
/// # Errors
/// None that can be caused by input; JSON's writer has a result.
pub fn provenance(lock: &Lock, lock_text: &str) -> serde_json::Result<Vec<u8>> {
    let dependencies: Vec<_> = parts(lock)
        .iter()
        .map(|part| json!({"name": part.name, "uri": part.uri, "digest": {"sha256": part.digest.hex()}}))
        .collect();
    written(&json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": crate::format::LOCK, "digest": {"sha256": Digest::of(lock_text.as_bytes()).hex()}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "name": lock.name, "version": lock.bundle_version, "serial": lock.serial, "platforms": lock.platforms,
                    "spec": {"sha256": lock.spec.hex()},
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": MAKER, "version": {"airlock": env!("CARGO_PKG_VERSION")}},
                "metadata": {"startedOn": lock.created},
            },
        },
    }))
}

fn written(value: &Value) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn parts(lock: &Lock) -> Vec<Part<'_>> {
    let charts = lock.charts.iter().map(chart);
    charts.chain(lock.images.iter().map(image)).chain(lock.files.iter().map(file)).collect()
}

fn image(image: &LockedImage) -> Part<'_> {
    let reference = &image.reference;
    let repository = format!("{}/{}", reference.registry(), reference.repository());
    let upstream = image.upstream.as_ref().unwrap_or(&image.digest);
    let name = reference.repository().rsplit('/').next().unwrap_or_default();
    let tag = reference.tag().map(|tag| format!("&tag={tag}")).unwrap_or_default();
    let platforms = image.platforms.iter().map(|(platform, digest)| format!("{platform} {digest}"));
    let evidence = image.upstream.iter().map(|upstream| format!("of the index {upstream}"));
    let signed = image.signed_by.iter().map(|key| format!("signed upstream by key {key}"));
    let attached =
        image.attached.iter().map(|attached| format!("with {} {}", attached.kind, attached.digest));
    let comment: Vec<_> = platforms.chain(evidence).chain(signed).chain(attached).collect();
    let hex = upstream.hex();
    Part {
        kind: "image",
        name: reference.to_string(),
        version: reference.tag(),
        uri: match &image.from {
            Some(from) if !from.starts_with("docker://") => UNKNOWN.into(),
            _ => format!("https://{repository}@{upstream}"),
        },
        digest: &image.digest,
        licenses: image.licenses.as_deref(),
        purl: Some(format!("pkg:oci/{name}@sha256%3A{hex}?repository_url={repository}{tag}")),
        comment: Some(comment.join("; ")).filter(|comment| !comment.is_empty()),
    }
}

fn chart(chart: &LockedChart) -> Part<'_> {
    let uri = match chart.from.strip_prefix("oci://") {
        Some(reference) => format!("https://{reference}"),
        None if chart.from.contains("://") => chart.from.clone(),
        None => UNKNOWN.into(),
    };
    Part {
        kind: "chart",
        name: chart.name.clone(),
        version: Some(&chart.version),
        uri,
        digest: &chart.digest,
        licenses: chart.licenses.as_deref(),
        purl: None,
        comment: Some(format!("a Helm chart; the digest is that of its OCI manifest; from {}", chart.from)),
    }
}

fn file(file: &LockedFile) -> Part<'_> {
    Part {
        kind: "file",
        name: file.name.clone(),
        version: None,
        uri: if file.from.contains("://") { file.from.clone() } else { UNKNOWN.into() },
        digest: &file.digest,
        licenses: None,
        purl: Some(format!("pkg:generic/{}?checksum=sha256:{}", file.name, file.digest.hex())),
        comment: file.platform.as_ref().map(ToString::to_string),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_expressions_or_comments() {
        for text in [
            "MIT",
            "Apache-2.0",
            "GPL-2.0-or-later WITH Classpath-exception-2.0",
            "(MIT OR BSD-3-Clause) AND ISC",
            "GPL-2.0+",
        ] {
            assert!(is_expression(text), "{text}");
        }
        for text in
            ["", " ", "MIT,BSD", "see LICENSE", "MIT OR", "OR", "MIT  OR BSD", "MIT\u{a0}", "https://x/y"]
        {
            assert!(!is_expression(text), "{text:?}");
        }
    }
}
