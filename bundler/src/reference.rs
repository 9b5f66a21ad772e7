//! Image references as people and charts spell them, and where each lands at a site.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

mod grammar;

pub(crate) use grammar::{is_component, is_repository, is_tag};

/// A reference to an image: `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]` (distribution spec, "Pulling manifests"), with the
/// registry and Docker Hub's `library/` filled in. It has a tag only where one was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not a reference to an image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not an image reference: {why}")]
pub struct ReferenceError {
    text: String,
    why: String,
}

impl Reference {
    /// Host of the registry, with its port if one was written; lower case.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository, without the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag as written; see [`Self::normalised`] for what none stands for.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest as written.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same image, said in full: without tag and digest, engines take `latest`.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let mut full = self.clone();
        if full.tag.is_none() && full.digest.is_none() {
            full.tag = Some("latest".into());
        }
        full
    }

    /// What to ask the registry for: the digest, else the tag, else `latest`.
    #[must_use]
    pub fn tag_or_digest(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let refuse = |why: String| ReferenceError { text: text.into(), why };
        if !text.is_ascii() {
            return Err(refuse("it has characters outside ASCII".into()));
        }
        let parts = grammar::parts(text).map_err(|why| refuse(why.into()))?;
        let digest = parts.digest.map(str::parse).transpose();
        Ok(Self {
            registry: parts.registry.to_ascii_lowercase(),
            repository: parts.repository,
            tag: parts.tag.map(Into::into),
            digest: digest.map_err(|e: crate::digest::DigestError| refuse(e.to_string()))?,
        })
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// Where things land at a site: `REGISTRY[/PREFIX]`. Push, rewrite and serve all ask it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    registry: String,
    prefix: Option<String>,
    strip_host: bool,
    flat: bool,
}

impl Mapping {
    /// Reads `REGISTRY[/PREFIX]`. With `strip_host` the source's host is left out of the site's repositories.
    ///
    /// # Errors
    /// When the text is not a registry's host, optionally with port and path.
    pub fn new(target: &str, strip_host: bool) -> Result<Self, ReferenceError> {
        let refuse = |why: &str| ReferenceError { text: target.into(), why: why.into() };
        let target = target.trim_end_matches('/');
        let (registry, prefix) = match target.split_once('/') {
            Some((registry, prefix)) => (registry, Some(prefix)),
            None => (target, None),
        };
        if target.contains("://") {
            return Err(refuse("give the registry as HOST[:PORT][/PREFIX], without a scheme"));
        }
        if !registry.starts_with('[') && registry.matches(':').count() > 1 {
            return Err(refuse("an IPv6 address stands in brackets, such as [fd00::1]:5000"));
        }
        if !(registry.contains(['.', ':']) || registry == "localhost") {
            return Err(refuse(
                "the registry needs a dot or a port, or engines take it for a name on Docker Hub",
            ));
        }
        let probe = format!("{registry}/{}", prefix.unwrap_or("probe"));
        let parsed: Reference = probe.parse().map_err(|_| refuse("expected HOST[:PORT][/PREFIX]"))?;
        if parsed.tag.is_some() || parsed.digest.is_some() {
            return Err(refuse("expected HOST[:PORT][/PREFIX], without tag or digest"));
        }
        if parsed.registry == "docker.io" && prefix.is_none() {
            // And engines read `docker.io/NAME` as `docker.io/library/NAME`.
            return Err(refuse("Docker Hub has repositories below accounts only: give docker.io/ACCOUNT"));
        }
        Ok(Self { registry: parsed.registry, prefix: prefix.map(Into::into), strip_host, flat: false })
    }

    /// With `flat`, every repository is directly below `REGISTRY[/PREFIX]`, for registries that allow no deeper paths.
    #[must_use]
    pub fn flat(self, flat: bool) -> Self {
        Self { flat, ..self }
    }

    /// Reports whether repositories are directly below `REGISTRY[/PREFIX]`.
    #[must_use]
    pub fn is_flat(&self) -> bool {
        self.flat
    }

    /// Host of the site's registry, with its port.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository at the site, without the registry, for an image's source.
    #[must_use]
    pub fn repository(&self, source: &Reference) -> String {
        if self.strip_host { self.under(&source.repository) } else { self.under(&source_path(source)) }
    }

    /// Where all repositories of a source's host are at the site, below the registry. Nothing, where neither a prefix nor
    /// the host is in their names: then they are at its root. Of flat names no path leads to all of a host's repositories.
    #[must_use]
    pub fn host(&self, host: &str) -> Option<String> {
        if self.strip_host { self.prefix.clone() } else { Some(self.under(&host_segment(host))) }
    }

    /// What to write where `source` was written: the tag if it had one, and the digest. With both, people see the
    /// version and engines use the digest.
    #[must_use]
    pub fn image(&self, source: &Reference, digest: &Digest) -> String {
        let tag = source.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
        format!("{}/{}{tag}@{digest}", self.registry, self.repository(source))
    }

    /// The repository at the site for something the bundle itself names, such as `charts/hello`.
    #[must_use]
    pub fn under(&self, path: &str) -> String {
        let path = if self.flat { flattened(path) } else { path.into() };
        match &self.prefix {
            Some(prefix) => format!("{prefix}/{path}"),
            None => path,
        }
    }
}

/// The source's host and repository as one path: stable whatever else is in a bundle, and without collisions, because
/// a host never has an underscore.
#[must_use]
pub fn source_path(source: &Reference) -> String {
    format!("{}/{}", host_segment(&source.registry), source.repository)
}

/// A host, with its port, as a path segment.
#[must_use]
pub(crate) fn host_segment(host: &str) -> String {
    let address = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let Some((address, port)) = address else { return host.replace(':', "_") };
    // Each address in one spelling. Names of hosts make no two underscores in a row.
    let groups = address.parse::<std::net::Ipv6Addr>().map(|address| address.segments()).unwrap_or_default();
    let groups: Vec<String> = groups.iter().map(|group| format!("{group:x}")).collect();
    format!("ip6__{}{}", groups.join("-"), port.replace(':', "_"))
}

/// A path as a single component that no other path becomes: `/` is two dashes, and a run of N dashes has 2N-1 of them.
#[must_use]
pub(crate) fn flattened(path: &str) -> String {
    let mut flat = String::new();
    let mut chars = path.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' => flat.push_str("--"),
            '-' if chars.peek() == Some(&'-') => flat.push_str("--"),
            c => flat.push(c),
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str) -> Reference {
        text.parse().expect(text)
    }

    #[test]
    fn spellings_are_completed() {
        for (text, full) in [
            ("redis", "docker.io/library/redis:latest"),
            ("redis:8.2.1", "docker.io/library/redis:8.2.1"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest"),
            ("docker.io/redis", "docker.io/library/redis:latest"),
            ("Docker.IO/redis", "docker.io/library/redis:latest"),
            ("index.docker.io/redis:latest", "docker.io/library/redis:latest"),
            ("latest", "docker.io/library/latest:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("LOCALHOST:5000/a/b:t", "localhost:5000/a/b:t"),
            ("quay.io/a/b.c_d:V1", "quay.io/a/b.c_d:V1"),
            (&format!("redis@{D}"), &format!("docker.io/library/redis@{D}")),
            (&format!("redis:8@{D}"), &format!("docker.io/library/redis:8@{D}")),
        ] {
            let full_again = parse(text).normalised();
            assert_eq!(full_again.to_string(), full, "{text}");
            assert_eq!(parse(&full_again.to_string()), full_again);
        }
    }

    #[test]
    fn a_tag_is_there_only_if_written() {
        assert_eq!(parse("redis").tag(), None);
        assert_eq!(parse("redis:latest").tag(), Some("latest"));
        assert_eq!(parse("latest").tag(), None);
        assert_eq!(parse(&format!("redis@{D}")).tag(), None);
        assert_eq!(parse("redis").tag_or_digest(), "latest");
        assert_eq!(parse(&format!("redis:1@{D}")).tag_or_digest(), D);
    }

    #[test]
    fn other_texts_are_refused() {
        let sha512 = format!("redis@sha512:{}", "a".repeat(128));
        for text in [
            "",
            " ",
            "Redis",
            "Team/app",
            "redis:",
            "redis:a b",
            "redis:ü",
            "http://x/y",
            "redis@sha256:12",
            &sha512,
            "a//b",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn images_keep_their_host_at_the_site() {
        let digest = D.parse().expect("a digest");
        let map = |target: &str, strip, text: &str| {
            Mapping::new(target, strip).expect(target).image(&parse(text), &digest)
        };
        for (target, strip, text, at_site) in [
            ("site:5000", false, "redis:8", "site:5000/docker.io/library/redis:8"),
            ("site:5000/", false, "redis", "site:5000/docker.io/library/redis"),
            ("site.example/mirror/a", false, "quay.io:444/x/y:1", "site.example/mirror/a/quay.io_444/x/y:1"),
            ("site:5000", true, "quay.io/x/y:1", "site:5000/x/y:1"),
            ("localhost", false, &format!("redis@{D}"), "localhost/docker.io/library/redis"),
        ] {
            assert_eq!(map(target, strip, text), format!("{at_site}@{D}"));
        }
    }

    #[test]
    fn a_hosts_repositories_are_in_one_place() {
        for (target, strip, host, place) in [
            ("site:5000", false, "docker.io", Some("docker.io")),
            ("site:5000/a/b", false, "h:5000", Some("a/b/h_5000")),
            ("site:5000/a/b", true, "h:5000", Some("a/b")),
            ("site:5000", true, "h:5000", None),
        ] {
            let mapping = Mapping::new(target, strip).expect(target);
            assert_eq!(mapping.host(host).as_deref(), place);
            let image = mapping.repository(&parse(&format!("{host}/x/y:1")));
            assert_eq!(image, place.map_or_else(|| "x/y".into(), |place| format!("{place}/x/y")));
        }
    }

    #[test]
    fn targets_that_engines_would_misread_are_refused() {
        for target in [
            "",
            "site",
            "http://site:5000",
            "site:5000/Up",
            "site:5000/a:1",
            "site:x",
            "/a",
            "s i.te",
            "docker.io",
        ] {
            assert!(Mapping::new(target, false).is_err(), "{target:?}");
        }
        for address in ["fd00::1", "::1", "fd00::1/a"] {
            let error = Mapping::new(address, false).expect_err(address).to_string();
            assert!(error.contains("stands in brackets"), "{error}");
        }
        for address in
            ["[::1", "[::1]x", "[::g]:5000", "[]", "[::1]:", "[fe80::1%eth0]", "[1.2.3.4]", "[::1]:5:6"]
        {
            assert!(Mapping::new(address, false).is_err(), "{address:?}");
        }
    }

    #[test]
    fn addresses_in_brackets_are_registries() {
        let digest = D.parse().expect("a digest");
        let map = |target: &str, text: &str| {
            Mapping::new(target, false).expect(target).image(&parse(text), &digest)
        };
        let at = |path: &str| format!("[fd00::1]:5000/m/{path}@{D}");
        for (source, path) in [
            ("redis:8", "docker.io/library/redis:8"),
            ("[::1]:6000/a/b:1", "ip6__0-0-0-0-0-0-0-1_6000/a/b:1"),
            ("[0:0:0:0:0:0:0:1]:6000/a/b:1", "ip6__0-0-0-0-0-0-0-1_6000/a/b:1"),
            ("[FD00::A]/a", "ip6__fd00-0-0-0-0-0-0-a/a"),
        ] {
            assert_eq!(map("[fd00::1]:5000/m", source), at(path), "{source}");
            let full = parse(source).normalised();
            assert_eq!(parse(&full.to_string()), full);
        }
        assert_eq!(parse("[::1]:5000/a/b:1").registry(), "[::1]:5000");
        assert_eq!((parse("[::1]/a").repository(), parse("[::1]/a").tag()), ("a", None));
        for text in ["[::1]", "[::1]:5000", "[::1]a/b", "a[::1]/b", "[::1", "[x]/a", "a/[::1]/b"] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn flat_names_are_one_component_and_never_collide() {
        let sources = [
            "redis",
            "docker.io/a/redis",
            "docker.io/a-b/c",
            "docker.io/a/b-c",
            "docker.io/a--b/c",
            "docker.io/a---b/c",
            "docker.io/a/b--c",
            "h:5000/a/b",
            "h.x/5000/a/b",
            "h.x/a_b",
            "h.x/a__b",
            "h.x/a/b",
            "h.x/a.b",
            "[::1]:5/a",
            "localhost/a",
        ];
        let mapping = Mapping::new("docker.io/acme", false).expect("a mapping").flat(true);
        let names: std::collections::BTreeSet<String> =
            sources.iter().map(|s| mapping.repository(&parse(s))).collect();
        assert_eq!(names.len(), sources.len(), "{names:?}");
        for name in &names {
            assert!(is_repository(name) && name.matches('/').count() == 1, "{name}");
        }
        assert_eq!(mapping.repository(&parse("redis")), "acme/docker.io--library--redis");
        assert_eq!(mapping.repository(&parse("q.io/a--b/c-d")), "acme/q.io--a---b--c-d");
        assert_eq!(mapping.under("charts/hello"), "acme/charts--hello");
        let bare = Mapping::new("site:5000", true).expect("a mapping").flat(true);
        assert_eq!(bare.repository(&parse("q.io/a/b")), "a--b");
    }
}
