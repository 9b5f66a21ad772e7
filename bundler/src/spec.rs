//! `bundle.toml`: what is wanted in a bundle. The first stage; written by people.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::format::HELM_FILE;
use crate::image::{ImageError, Platform};
use crate::name::{self, NameError};
use crate::reference::Reference;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The bundle's name: lower-case letters, digits and dashes.
    pub name: String,
    /// The bundle's version, for people.
    pub version: String,
    /// Platforms of every image.
    pub platforms: Platforms,
    /// Charts, in the order they are to be installed.
    #[serde(rename = "chart", default)]
    pub charts: Vec<ChartSpec>,
    /// Images that no chart asks for, and where to take an image from that has another source than its registry.
    #[serde(rename = "image", default)]
    pub images: Vec<ImageSpec>,
    /// Files, such as helm itself.
    #[serde(rename = "file", default)]
    pub files: Vec<FileSpec>,
    /// Registries that are asked whether they have what looks like an image of theirs, beside those that pod specs name;
    /// also the only way to have one asked that is at an address inside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registries: Vec<String>,
    /// Whether signatures, attestations and SBOMs that registries have for an image are carried with it.
    #[serde(default = "carried", skip_serializing_if = "Clone::clone")]
    pub attached: bool,
    /// Images, and charts in registries, that somebody must have signed where they come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed: Vec<SignedSpec>,
    /// The site has a helm of its own: a bundle with charts and without helm is meant so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_helm: bool,
}

fn carried() -> bool {
    true
}

/// Keys by which images and charts must be signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedSpec {
    /// Which images and charts: `REGISTRY/REPOSITORY` in full, `*` for any text.
    pub images: Vec<String>,
    /// Public keys (PEM), from the directory of `bundle.toml`; one of them must have signed.
    pub keys: Vec<String>,
}

impl SignedSpec {
    /// Whether it is about this image.
    #[must_use]
    pub fn is_about(&self, image: &Reference) -> bool {
        let name = format!("{}/{}", image.registry(), image.repository());
        self.images.iter().any(|pattern| fits(pattern, &name))
    }
}

/// Tells whether `text` fits `pattern`, where `*` stands for any text. Each part between two stars is taken at its first
/// place, which leaves the most for the parts behind it.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|start| text.strip_prefix(start)) else { return false };
    let Some(end) = parts.next_back() else { return rest.is_empty() };
    let Some(between) = rest.strip_suffix(end) else { return false };
    parts.try_fold(between, |rest, part| rest.split_once(part).map(|(_, rest)| rest)).is_some()
}

/// Which platforms of an image are carried; `["all"]`, or a list of platforms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub enum Platforms {
    /// Whatever the image has, its index unchanged.
    All,
    /// These, at least one.
    Some(Vec<Platform>),
}

impl TryFrom<Vec<String>> for Platforms {
    type Error = ImageError;

    fn try_from(texts: Vec<String>) -> Result<Self, ImageError> {
        if texts == ["all"] {
            return Ok(Self::All);
        }
        if texts.is_empty() {
            return Err(ImageError::PlatformText(String::new()));
        }
        let unique: BTreeSet<Platform> = texts.iter().map(|t| t.parse()).collect::<Result<_, _>>()?;
        Ok(Self::Some(unique.into_iter().collect()))
    }
}

impl From<Platforms> for Vec<String> {
    fn from(platforms: Platforms) -> Self {
        match platforms {
            Platforms::All => vec!["all".into()],
            Platforms::Some(list) => list.iter().map(ToString::to_string).collect(),
        }
    }
}

/// A chart: `path`, or `oci` with `version`, or `repo` with `chart` and `version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChartSpec {
    /// A chart directory, or a packed chart (`.tgz`), from the directory of `bundle.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A chart in an OCI registry: `oci://REGISTRY/REPOSITORY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci: Option<String>,
    /// URL of an HTTP chart repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// The chart's name in `repo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chart: Option<String>,
    /// The chart's exact version, for `oci` and `repo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Helm release name; the chart's name where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Namespace to install into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Values files, from the directory of `bundle.toml`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// Single values, as for `helm --set`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
    /// Kubernetes version that it is rendered for when its images are looked for; helm's own where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kube_version: Option<String>,
    /// APIs that the cluster has beside helm's list (`monitoring.coreos.com/v1`), as for `helm template --api-versions`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_versions: Vec<String>,
    /// Other ways in which it will be installed somewhere: their images are carried as well.
    #[serde(rename = "variant", default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
    /// Images that no manifest shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<Reference>,
    /// What looks like a reference and is none, or is not needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<Ignore>,
    /// What means an image without being its reference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub map: Vec<Meaning>,
}

/// Another way to render a chart, on top of the chart's own values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Values files, from the directory of `bundle.toml`, after the chart's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// Single values, after the chart's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
    /// Instead of the chart's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kube_version: Option<String>,
    /// Beside the chart's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_versions: Vec<String>,
}

/// A text that is not to be taken for an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ignore {
    /// As it stands in the manifests.
    pub text: String,
    /// Why, for who reads the spec after you.
    pub reason: String,
}

/// A text that means an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meaning {
    /// As it stands in the manifests, by itself; at the site the image's reference there is written in its place.
    pub text: String,
    /// The image.
    #[serde(rename = "ref")]
    pub reference: Reference,
}

/// Where a chart comes from, read out of a [`ChartSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChartSource<'a> {
    /// A directory or `.tgz`.
    Path(&'a str),
    /// A repository in an OCI registry.
    Oci {
        /// `REGISTRY/REPOSITORY`, without the scheme.
        repository: &'a str,
        /// Exact version.
        version: &'a str,
    },
    /// An HTTP chart repository.
    Repo {
        /// URL of the repository, without `index.yaml`.
        url: &'a str,
        /// Name of the chart there.
        chart: &'a str,
        /// Exact version.
        version: &'a str,
    },
}

impl ChartSpec {
    /// Where it comes from.
    ///
    /// # Errors
    /// When none or several of the three forms are given.
    pub fn source(&self) -> Result<ChartSource<'_>, SpecError> {
        let fields = (&self.path, &self.oci, &self.repo, &self.chart, &self.version);
        match fields {
            (Some(path), None, None, None, None) => Ok(ChartSource::Path(path)),
            (None, Some(oci), None, None, Some(version)) => {
                let repository = oci.strip_prefix("oci://").unwrap_or(oci);
                Ok(ChartSource::Oci { repository, version })
            }
            (None, None, Some(url), Some(chart), Some(version)) => {
                Ok(ChartSource::Repo { url, chart, version })
            }
            _ => Err(SpecError::ChartSource(self.label())),
        }
    }

    fn check(&self) -> Result<(), SpecError> {
        let versions = self.kube_version.iter().chain(&self.api_versions);
        let variants = self.variants.iter().flat_map(|v| v.kube_version.iter().chain(&v.api_versions));
        let is_version = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/+".contains(&b))
        };
        if let Some(other) = versions.chain(variants).find(|text| !is_version(text)) {
            return Err(SpecError::Version(self.label(), other.clone()));
        }
        if self.ignore.iter().any(|ignore| ignore.text.is_empty()) {
            return Err(SpecError::NoText(self.label(), "ignore"));
        }
        if self.map.iter().any(|map| map.text.is_empty()) {
            return Err(SpecError::NoText(self.label(), "map"));
        }
        match self.ignore.iter().find(|ignore| ignore.reason.trim().is_empty()) {
            Some(ignore) => Err(SpecError::NoReason(self.label(), ignore.text.clone())),
            None => Ok(()),
        }
    }

    /// What to call it in messages.
    fn label(&self) -> String {
        [&self.path, &self.oci, &self.chart, &self.repo]
            .into_iter()
            .flatten()
            .next()
            .cloned()
            .unwrap_or_default()
    }
}

/// An image by reference, and where its bytes come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// The reference as charts spell it.
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// Another source than the reference's registry, by skopeo's transport names: `docker-daemon:…`, `oci:…`,
    /// `oci-archive:…`, `docker-archive:…`, `docker://…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// A file by `url` or `path`, with its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// Its name: lower-case letters, digits, dots and dashes. `helm` is what `install` runs.
    pub name: String,
    /// Where to fetch it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where to read it, from the directory of `bundle.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// SHA-256 of its content, 64 hexadecimal digits.
    pub sha256: String,
    /// Platform that it is for, if it is for one only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl FileSpec {
    /// The digest that the content must have.
    ///
    /// # Errors
    /// When `sha256` is not one.
    pub fn digest(&self) -> Result<Digest, SpecError> {
        let bare = self.sha256.strip_prefix("sha256:").unwrap_or(&self.sha256);
        format!("sha256:{bare}")
            .parse()
            .map_err(|_| SpecError::FileSum(self.name.clone(), self.sha256.clone()))
    }
}

/// Why a text is not a spec.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Not TOML, or fields that are not known or have other types.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A name that must not get any further.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A chart without a source, or with several.
    #[error("chart {0:?} needs exactly one of: path; oci and version; repo, chart and version")]
    ChartSource(String),
    /// It would stand in the lock and in the bundle, for everybody to read.
    #[error(
        "{0:?}: a user and password in an address would be in the lock and in the bundle; leave them out"
    )]
    Credentials(String),
    /// A file without a source, or with two.
    #[error("file {0:?} needs exactly one of url and path")]
    FileSource(String),
    /// A text that would ignore or mean everything or nothing.
    #[error("chart {0:?}: {1} needs a text")]
    NoText(String, &'static str),
    /// One text for two images: at the site it could become only one of them.
    #[error("map: {0:?} means two different images")]
    Meanings(String),
    /// An ignored text without a reason.
    #[error("chart {0:?}: ignoring {1:?} needs a reason")]
    NoReason(String, String),
    /// What would reach helm's command line as something else.
    #[error("chart {0:?}: {1:?} is not a version of Kubernetes or of an API")]
    Version(String, String),
    /// A rule that holds for nothing, or asks for nobody.
    #[error("signed: it needs images and keys")]
    Signed,
    /// Not a registry.
    #[error("registries: {0:?} is not HOST[:PORT]")]
    Registry(String),
    /// Not a checksum.
    #[error("file {0:?}: sha256 {1:?} is not 64 lower-case hexadecimal digits")]
    FileSum(String, String),
    /// The same thing twice.
    #[error("{0} {1:?} is given twice")]
    Twice(&'static str, String),
    /// Nothing to carry.
    #[error("it asks for no chart, no image and no file")]
    Empty,
}

impl Spec {
    /// Reads `bundle.toml`.
    ///
    /// # Errors
    /// For a text that is not a spec, or a spec that contradicts itself.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let spec: Self = toml::from_str(text)?;
        spec.check()?;
        Ok(spec)
    }

    /// Changes when anything that is wanted changes, and not with comments or layout.
    #[must_use]
    pub fn digest(&self) -> Digest {
        // Strings and lists of strings: JSON's writer has no reason to fail.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Says which platforms have no helm in a bundle with charts, unless that is meant so.
    #[must_use]
    pub fn helm_warning(&self) -> Option<String> {
        let helms: Vec<_> = self.files.iter().filter(|file| file.name == HELM_FILE).collect();
        let has =
            |platform: &Platform| helms.iter().any(|f| f.platform.as_ref().is_none_or(|p| p == platform));
        let lacking = match &self.platforms {
            Platforms::All if helms.is_empty() => "any platform".to_owned(),
            Platforms::All => return None,
            Platforms::Some(platforms) => {
                let lacking = platforms.iter().filter(|platform| !has(platform)).map(ToString::to_string);
                lacking.collect::<Vec<_>>().join(", ")
            }
        };
        if self.charts.is_empty() || self.without_helm || lacking.is_empty() {
            return None;
        }
        Some(format!(
            "the bundle has charts and no helm for {lacking}: a site without helm can't install them. Carry it as a [[file]] \
             with name = \"helm\" and its platform, or say without_helm = true in bundle.toml"
        ))
    }

    fn check(&self) -> Result<(), SpecError> {
        name::component("name", &self.name)?;
        name::version(&self.version)?;
        if self.charts.is_empty() && self.images.is_empty() && self.files.is_empty() {
            return Err(SpecError::Empty);
        }
        for chart in &self.charts {
            chart.source()?;
            chart.check()?;
        }
        let addresses = self.charts.iter().flat_map(|chart| chart.repo.iter().chain(&chart.oci));
        if let Some(url) =
            addresses.chain(self.files.iter().filter_map(|file| file.url.as_ref())).find(|url| has_user(url))
        {
            // Not what it is.
            return Err(SpecError::Credentials(url.rsplit('@').next().unwrap_or_default().into()));
        }
        let mut meanings = std::collections::BTreeMap::new();
        for meaning in self.charts.iter().flat_map(|chart| &chart.map) {
            let other = meanings.insert(&meaning.text, &meaning.reference);
            if other.is_some_and(|other| *other != meaning.reference) {
                return Err(SpecError::Meanings(meaning.text.clone()));
            }
        }
        let is_host = |host: &&String| {
            format!("{host}/x").parse::<Reference>().is_ok_and(|r| r.registry() == host.as_str())
        };
        if self.signed.iter().any(|rule| rule.images.is_empty() || rule.keys.is_empty()) {
            return Err(SpecError::Signed);
        }
        if let Some(other) = self.registries.iter().find(|host| !is_host(host)) {
            return Err(SpecError::Registry(other.clone()));
        }
        // Without a name of its own a release has the chart's, which is known once the chart is.
        let named = self.charts.iter().filter_map(|c| Some((c.release.as_deref()?, c.namespace.as_deref())));
        name::releases(named)?;
        self.charts.iter().filter_map(|c| c.namespace.as_deref()).try_for_each(name::namespace)?;
        let mut references = BTreeSet::new();
        for image in &self.images {
            if !references.insert(image.reference.normalised()) {
                return Err(SpecError::Twice("image", image.reference.to_string()));
            }
        }
        let mut files = BTreeSet::new();
        for file in &self.files {
            name::component("file name", &file.name)?;
            if file.url.is_some() == file.path.is_some() {
                return Err(SpecError::FileSource(file.name.clone()));
            }
            file.digest()?;
            if !files.insert((&file.name, &file.platform)) {
                return Err(SpecError::Twice("file", file.name.clone()));
            }
        }
        Ok(())
    }
}

/// Whether a URL has a user in it, before its host.
pub fn has_user(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "name = \"hello\"\nversion = \"0.1.0\"\nplatforms = [\"linux/amd64\"]\n";
    const SUM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(rest: &str) -> Result<Spec, SpecError> {
        Spec::parse(&format!("{HEAD}{rest}"))
    }

    #[test]
    fn all_forms_are_read() {
        let spec = parse(&format!(
            r#"
            [[chart]]
            path = "charts/hello"
            release = "hello"
            values = ["a.yaml"]
            [[chart]]
            oci = "oci://ghcr.io/x/podinfo"
            version = "6.5.0"
            [[chart]]
            repo = "https://charts.example.org"
            chart = "web"
            version = "1.2.3"
            [[image]]
            ref = "redis:8"
            from = "docker-daemon:redis:8"
            [[file]]
            name = "helm"
            url = "https://get.helm.sh/helm.tar.gz"
            sha256 = "{SUM}"
            platform = "linux/amd64"
            "#
        ))
        .expect("a spec");
        let sources: Vec<_> = spec.charts.iter().map(|c| c.source().expect("a source")).collect();
        assert_eq!(
            sources,
            [
                ChartSource::Path("charts/hello"),
                ChartSource::Oci { repository: "ghcr.io/x/podinfo", version: "6.5.0" },
                ChartSource::Repo { url: "https://charts.example.org", chart: "web", version: "1.2.3" },
            ]
        );
        assert_eq!(spec.images[0].reference.to_string(), "docker.io/library/redis:8");
        assert_eq!(spec.files[0].digest().expect("a digest"), Digest::of(b""));
    }

    #[test]
    fn rules_are_about_repositories_in_full() {
        let rule = |pattern: &str| SignedSpec { images: vec![pattern.into()], keys: vec![] };
        let image: Reference = "quay.io/acme/app:1".parse().expect("a reference");
        for (pattern, is_about) in [
            ("quay.io/acme/app", true),
            ("quay.io/acme/*", true),
            ("quay.io/*/app", true),
            ("*", true),
            ("*/app*", true),
            ("**", true),
            ("quay.io/acme", false),
            ("acme/*", false),
            ("quay.io/acme/app:1", false),
            ("quay.io/acme/app*x", false),
            ("quay.io/acme/a*pp", true),
            ("quay.io/acme/app*app", false),
            ("*acme*app*", true),
            ("*a*a*a*a*", false),
            ("*app*acme*", false),
            ("", false),
        ] {
            assert_eq!(rule(pattern).is_about(&image), is_about, "{pattern}");
        }
    }

    #[test]
    fn patterns_of_many_stars_are_quick() {
        let text = format!("{}b", "a".repeat(200));
        assert!(!fits(&format!("{}c", "*a".repeat(100)), &text));
        assert!(fits(&format!("{}*b", "*a".repeat(100)), &text));
    }

    #[test]
    fn the_digest_is_of_the_content() {
        let one = parse("[[image]]\nref = \"redis:8\"\n").expect("a spec");
        let same = parse("# why\n[[image]]\nref =    \"docker.io/library/redis:8\"\n").expect("a spec");
        let other = parse("[[image]]\nref = \"redis:9\"\n").expect("a spec");
        assert_eq!(one.digest(), same.digest());
        assert_ne!(one.digest(), other.digest());
    }

    #[test]
    fn contradictions_are_refused() {
        for (rest, says) in [
            ("", "no chart"),
            (
                "[[image]]\nref = \"redis\"\n[[signed]]\nimages = []\nkeys = [\"a.pub\"]",
                "needs images and keys",
            ),
            ("[[image]]\nref = \"redis\"\n[[signed]]\nimages = [\"*\"]\nkeys = []", "needs images and keys"),
            ("[[image]]\nref = \"Redis\"", "not an image reference"),
            ("[[image]]\nref = \"redis\"\n[[image]]\nref = \"docker.io/redis:latest\"", "twice"),
            ("[[image]]\nref = \"redis\"\nform = \"x\"", "unknown field `form`"),
            ("[[chart]]\nrelease = \"x\"", "exactly one of"),
            ("[[chart]]\npath = \"a\"\nversion = \"1\"", "exactly one of"),
            ("[[chart]]\noci = \"ghcr.io/a\"", "exactly one of"),
            ("[[chart]]\npath = \"a\"\nrelease = \"../../x\"", "\"../../x\" is not a name that helm takes"),
            ("[[chart]]\npath = \"a\"\nrelease = \"--debug\"", "\"--debug\" is not a name that helm takes"),
            ("[[chart]]\npath = \"a\"\nnamespace = \"--debug\"", "namespace \"--debug\""),
            (
                "[[chart]]\npath = \"a\"\nrelease = \"x\"\n[[chart]]\npath = \"b\"\nrelease = \"x\"",
                "release \"x\" is there twice",
            ),
            ("registries = [\"https://q.io\"]\n[[image]]\nref = \"redis\"", "is not HOST"),
            ("[[chart]]\npath = \"a\"\nkube_version = \"--x\"", "is not a version"),
            ("[[chart]]\npath = \"a\"\n[[chart.variant]]\napi_versions = [\"a b\"]", "is not a version"),
            ("[[chart]]\npath = \"a\"\n[[chart.ignore]]\ntext = \"x:1\"\nreason = \" \"", "needs a reason"),
            (
                "[[chart]]\npath = \"a\"\nmap = [{text = \"x\", ref = \"a\"}, {text = \"x\", ref = \"b\"}]",
                "\"x\" means two",
            ),
            ("[[chart]]\npath = \"a\"\n[[chart.map]]\ntext = \"\"\nref = \"a\"", "map needs a text"),
            ("[[file]]\nname = \"f\"\nsha256 = \"12\"\npath = \"x\"", "hexadecimal"),
            ("[[file]]\nname = \"../f\"\nsha256 = \"12\"\npath = \"x\"", "file name"),
            ("[[file]]\nname = \"f\"\nsha256 = \"12\"", "url and path"),
        ] {
            let error = parse(rest).expect_err(rest).to_string();
            assert!(error.contains(says), "{rest}: {error}");
        }
        for head in [
            "name = \"Hello\"\nversion = \"1\"\nplatforms = [\"all\"]",
            "name = \"h\"\nversion = \"a/b\"\nplatforms = [\"all\"]",
        ] {
            assert!(Spec::parse(&format!("{head}\n[[image]]\nref = \"redis\"")).is_err(), "{head}");
        }
        let none = "name = \"h\"\nversion = \"1\"\nplatforms = []\n[[image]]\nref = \"redis\"";
        assert!(Spec::parse(none).is_err());
    }
}
