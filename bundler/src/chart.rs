//! Helm charts as OCI artifacts: from a directory, packed as `helm package` would but always to the same bytes, or
//! from a packed chart, whose bytes are kept.
//!
//! Threat model: a chart comes from somebody else. Sizes are capped as helm caps them, names that would leave the
//! chart are refused. Links in a directory are followed as helm follows them; links in a packed chart are refused.

mod files;
mod ignore;
mod metadata;
mod schema;

use std::collections::BTreeMap;
use std::path::Path;

use crate::cache::ContentCache;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::METADATA_CAP;
use crate::image::{self, Descriptor};
use crate::name::{self, NameError};
use files::{Budget, Tree};

/// Media type of a chart's config: its metadata as JSON.
const CONFIG: &str = "application/vnd.cncf.helm.config.v1+json";
/// Media type of a packed chart.
pub const CONTENT: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
/// Media type of a packed chart as helm before 3.7 pushed it.
const OLD_CONTENT: &str = "application/tar+gzip";

/// A chart as an OCI artifact: what `helm push` would make of it, without the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chart {
    /// Its name, which can be a path component in a registry.
    pub name: String,
    /// Its version, as in `Chart.yaml`; [`tag`] makes a tag of it.
    pub version: String,
    /// The OCI manifest that names `config` and `content`.
    pub manifest: Vec<u8>,
    /// The chart's metadata as JSON.
    pub config: Vec<u8>,
    /// The packed chart, a gzipped tar.
    pub content: Vec<u8>,
    /// The chart itself and every subchart below it.
    pub(crate) parts: Vec<Part>,
}

/// A chart or subchart, as far as others ask about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// `parent` or `parent/child`.
    pub(crate) path: String,
    /// Annotations of its `Chart.yaml`.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Addresses that its `values.schema.json` needs.
    pub(crate) schema_needs: Vec<String>,
}

/// Why something is not a chart that can be carried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChartError {
    #[error("it has no Chart.yaml")]
    NoMetadata,
    #[error("{0} can't be read: {1}")]
    Yaml(String, String),
    #[error("{0} has more nodes, deeper nesting or more aliases than is read of a chart's metadata")]
    TooComplex(String),
    #[error("{0} is not UTF-8 text")]
    NotText(String),
    #[error("{0} has no {1}")]
    MissingField(String, &'static str),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("Chart.yaml declares dependencies that are not in charts/: {0}")]
    MissingDependencies(String),
    #[error("subchart {0}: {1}")]
    Subchart(String, Box<ChartError>),
    #[error("charts are nested more than {0} deep")]
    Depth(usize),
    #[error("file {0} is there twice")]
    Twice(String),
    #[error("file name {0:?} is not allowed: {1}")]
    Path(String, &'static str),
    #[error("{0} is neither a file nor a directory")]
    Irregular(String),
    #[error("link {0} leads out of the chart, to {1}")]
    Outside(String, String),
    #[error("link {0} leads to a directory that it is in")]
    Loop(String),
    #[error("file {0} is larger than {1} bytes, the most that helm loads")]
    FileTooLarge(String, u64),
    #[error("its files are larger than {0} bytes, the most that helm loads")]
    TooLarge(u64),
    #[error("packed, it is larger than {0} bytes")]
    PackedTooLarge(u64),
    #[error(".helmignore: pattern {0:?} {1}")]
    Ignore(String, &'static str),
    #[error("{0}: {1}")]
    Read(String, std::io::Error),
    #[error("it is not a gzipped tar: {0}")]
    Archive(std::io::Error),
    #[error("writing: {0}")]
    Write(#[from] std::io::Error),
    #[error("writing JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Chart {
    /// Packs the chart in directory `path`: the files that `helm package` takes, in the order of their names, with
    /// fixed times, owners and modes. `Chart.yaml` stays as it is written; subcharts are unpacked, as by helm, but for
    /// packed ones of which there are several versions.
    ///
    /// # Errors
    /// When it is not a chart that helm would pack, or a declared dependency is not in `charts/`.
    pub fn from_dir(path: &Path) -> Result<Self> {
        let packed = || {
            let tree = Tree::new(files::read(path)?, &mut Budget::default())?;
            tree.check_dependencies()?;
            let content = files::pack(&tree)?;
            Self::new(&tree, content)
        };
        packed().map_err(|e| refusal("packing", path, e))
    }

    /// Reads the packed chart in file `path`, whose bytes are kept.
    ///
    /// # Errors
    /// When the file can't be read, or is not a chart that helm would load.
    pub fn from_file(path: &Path) -> Result<Self> {
        let failed = |e| Error::input(format!("reading chart {}", path.display()), e);
        let bytes = crate::file::read(path, METADATA_CAP).map_err(failed)?;
        Self::from_tgz(bytes).map_err(|e| refusal("reading", path, e))
    }

    /// Reads a packed chart that was fetched from `origin`; its bytes are kept.
    ///
    /// # Errors
    /// When it is not a chart that helm would load.
    pub fn from_bytes(origin: &str, bytes: Vec<u8>) -> Result<Self> {
        Self::from_tgz(bytes).map_err(|e| refusal("reading", Path::new(origin), e))
    }

    /// Annotations of `Chart.yaml`, without those of subcharts.
    #[must_use]
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.parts.first().map(|part| part.annotations.clone()).unwrap_or_default()
    }

    /// Addresses that schemas of the chart and its subcharts need, each with the chart in front. Nobody follows them: where
    /// there are some, helm checks no values of the chart.
    pub(crate) fn schema_needs(&self) -> Vec<String> {
        let named = |part: &Part| {
            let needs = part.schema_needs.iter().map(|address| format!("{} ({address})", part.path));
            needs.collect::<Vec<_>>()
        };
        self.parts.iter().flat_map(named).collect()
    }

    /// Digest of the manifest: it pins the chart.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Puts manifest, config and content into `cache`.
    ///
    /// # Errors
    /// When the cache can't be written to.
    pub fn store(&self, cache: &ContentCache) -> Result<Digest> {
        cache.put(&self.content)?;
        cache.put(&self.config)?;
        cache.put(&self.manifest)
    }

    fn from_tgz(bytes: Vec<u8>) -> Result<Self, ChartError> {
        let mut budget = Budget::default();
        let tree = Tree::new(files::unpack(&bytes, &mut budget)?, &mut budget)?;
        tree.check_dependencies()?;
        Self::new(&tree, bytes)
    }

    fn new(tree: &Tree, content: Vec<u8>) -> Result<Self, ChartError> {
        if content.len() as u64 > METADATA_CAP {
            return Err(ChartError::PackedTooLarge(METADATA_CAP));
        }
        let (name, version) = (tree.metadata.name()?, tree.metadata.version()?);
        name::chart(name)?;
        name::version(version)?;
        let config = tree.metadata.to_json()?;
        let annotations = BTreeMap::from([
            ("org.opencontainers.image.title", name),
            ("org.opencontainers.image.version", version),
        ]);
        let manifest = image::oci_manifest(
            &Descriptor::of(CONFIG, &config),
            &[Descriptor::of(CONTENT, &content)],
            &annotations,
        )?;
        let mut parts = vec![];
        tree.parts("", &mut parts)?;
        Ok(Self { name: name.into(), version: version.into(), manifest, config, content, parts })
    }
}

/// Reports whether a layer of this media type is a packed chart.
pub(crate) fn is_content(media_type: &str) -> bool {
    matches!(media_type, CONTENT | OLD_CONTENT)
}

/// The tag of a chart's version. Tags have no `+`; helm writes and expects `_` for it.
#[must_use]
pub fn tag(version: &str) -> String {
    version.replace('+', "_")
}

fn refusal(action: &str, path: &Path, error: ChartError) -> Error {
    let hint = match &error {
        ChartError::MissingDependencies(_) => Some(format!("run: helm dependency build {}", path.display())),
        ChartError::Outside(link, _) => Some(format!(
            "copy what it leads to into the chart in the place of {link}; or leave it out by .helmignore"
        )),
        ChartError::NoMetadata => Some("name the directory that Chart.yaml is in".into()),
        _ => None,
    };
    let error = Error::input(format!("{action} chart {}", path.display()), error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::image::Parsed;

    const METADATA: &str = "apiVersion: v2\nname: hello\nversion: 1.2.3+x\n";

    /// A chart directory with these files.
    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        directory
    }

    fn from(files: &[(&str, &str)]) -> Result<Chart> {
        Chart::from_dir(directory(files).path())
    }

    fn names(chart: &Chart) -> Vec<String> {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&chart.content[..]));
        let entries = archive.entries().expect("entries");
        entries.map(|e| e.expect("an entry").path().expect("a path").to_string_lossy().into_owned()).collect()
    }

    /// A gzipped tar with these entries, names unchecked.
    fn tgz(files: &[(&str, &[u8], tar::EntryType)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), Default::default()));
        for (path, data, kind) in files {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, *data).expect("appended");
        }
        builder.into_inner().and_then(|gz| gz.finish()).expect("finished")
    }

    #[test]
    fn the_same_files_give_the_same_bytes_and_what_is_ignored_is_left_out() {
        let files = [
            ("templates/a.yaml", "a: 1"),
            ("templates/.hidden", ""),
            ("Chart.yaml", METADATA),
            ("values.yaml", "b: 2"),
            ("notes.bak", ""),
            ("secrets/key", ""),
            (".helmignore", "*.bak\nsecrets/\n"),
        ];
        let (one, mut two) = (from(&files).expect("a chart"), files);
        two.reverse();
        assert_eq!(from(&two).expect("a chart"), one);
        assert_eq!(
            names(&one),
            ["hello/.helmignore", "hello/Chart.yaml", "hello/templates/a.yaml", "hello/values.yaml"]
        );
        assert_eq!((one.name.as_str(), tag(&one.version).as_str()), ("hello", "1.2.3_x"));
        let Ok(Parsed::Manifest(manifest)) = image::parse("", &one.manifest) else {
            unreachable!("an image manifest")
        };
        assert_eq!(manifest.config, Descriptor::of(CONFIG, &one.config));
        assert_eq!(manifest.layers, [Descriptor::of(CONTENT, &one.content)]);
        let again = Chart::from_bytes("memory", one.content.clone()).expect("a packed chart");
        assert_eq!(again, one);
    }

    #[test]
    fn subcharts_are_unpacked_and_must_be_there() {
        let wants = format!("{METADATA}dependencies:\n- name: sub\n  version: 1.x\n  repository: ''\n");
        let missing = from(&[("Chart.yaml", &wants)]).expect_err("no subchart");
        assert!(missing.to_string().ends_with("not in charts/: sub"), "{missing}");
        assert!(missing.hint_text().is_some_and(|h| h.contains("helm dependency build")), "{missing:?}");

        let sub = "apiVersion: v2\nname: sub\nversion: 1.0.0\n";
        let packed =
            Chart::from_dir(directory(&[("Chart.yaml", sub), ("values.yaml", "")]).path()).expect("a chart");
        let parent = directory(&[("Chart.yaml", &wants), ("charts/_draft/x", ""), ("charts/.x", "")]);
        std::fs::write(parent.path().join("charts/sub-1.0.0.tgz"), &packed.content).expect("written");
        let chart = Chart::from_dir(parent.path()).expect("a chart");
        assert_eq!(
            names(&chart),
            ["hello/Chart.yaml", "hello/charts/sub/Chart.yaml", "hello/charts/sub/values.yaml"]
        );
        // Two versions of one subchart, for two aliases.
        let other = Chart::from_dir(directory(&[("Chart.yaml", &sub.replace("1.0.0", "2.0.0"))]).path());
        let other = other.expect("a chart");
        std::fs::write(parent.path().join("charts/sub-2.0.0.tgz"), &other.content).expect("written");
        let chart = Chart::from_dir(parent.path()).expect("a chart");
        assert_eq!(
            names(&chart),
            ["hello/Chart.yaml", "hello/charts/sub-1.0.0.tgz", "hello/charts/sub-2.0.0.tgz"]
        );
        assert_eq!(Chart::from_bytes("again", chart.content.clone()).expect("a chart").parts, chart.parts);

        let twice =
            from(&[("Chart.yaml", &wants), ("charts/a/Chart.yaml", sub), ("charts/b/Chart.yaml", sub)]);
        assert!(twice.expect_err("twice").to_string().contains("charts/sub/Chart.yaml is there twice"));
    }

    #[test]
    fn what_helm_would_not_take_is_refused() {
        let from_there = format!("{METADATA}dependencies: [{{name: sub, repository: 'file://../sub'}}]\n");
        let many = format!("{METADATA}x: [{}]\n", "1,".repeat(300_000));
        let large = "x".repeat((5 << 20) + 1);
        for (files, says) in [
            (vec![("Chart.yaml", from_there.as_str())], "not in charts/: sub (file://../sub)"),
            (vec![("Chart.yaml", many.as_str())], "than is read of a chart's metadata"),
            (vec![("values.yaml", "")], "no Chart.yaml"),
            (vec![("Chart.yaml", "name: [")], "Chart.yaml can't be read"),
            (vec![("Chart.yaml", "apiVersion: v2\nname: hello\n")], "Chart.yaml has no version"),
            (vec![("Chart.yaml", "apiVersion: v2\nversion: 1.0.0\n")], "Chart.yaml has no name"),
            (vec![("Chart.yaml", "apiVersion: v2\nname: ../x\nversion: 1.0.0\n")], "\"../x\" is not allowed"),
            (vec![("Chart.yaml", "apiVersion: v2\nname: Hello\nversion: 1.0.0\n")], "chart name \"Hello\""),
            (vec![("Chart.yaml", "apiVersion: v2\nname: x\nversion: a/b\n")], "version \"a/b\""),
            (vec![("Chart.yaml", METADATA), ("charts/README.md", "")], "subchart README.md: it has no"),
            (vec![("Chart.yaml", METADATA), ("charts/a.tgz", "x")], "subchart a.tgz: it is not a gzipped"),
            (vec![("Chart.yaml", METADATA), (".helmignore", "a/**")], "\"a/**\""),
            (vec![("Chart.yaml", METADATA), ("a\\b", "")], "\"a\\\\b\" is not allowed"),
            (vec![("Chart.yaml", METADATA), ("large", &large)], "file large is larger"),
        ] {
            let error = from(&files).expect_err(says).to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn links_are_followed_and_loops_are_not() {
        use std::os::unix::fs::symlink;
        let chart = directory(&[("Chart.yaml", METADATA), ("shared/a.yaml", "shared")]);
        symlink("shared", chart.path().join("files")).expect("a link");
        symlink("files/a.yaml", chart.path().join("a.yaml")).expect("a link");
        let packed = Chart::from_dir(chart.path()).expect("a chart");
        let expected = ["hello/Chart.yaml", "hello/a.yaml", "hello/files/a.yaml", "hello/shared/a.yaml"];
        assert_eq!(names(&packed), expected);
        symlink("..", chart.path().join("shared/back")).expect("a link");
        let error = Chart::from_dir(chart.path()).expect_err("a loop").to_string();
        assert!(error.contains("/back leads to a directory that it is in"), "{error}");
    }

    #[test]
    fn links_out_of_the_chart_are_refused() {
        use std::os::unix::fs::symlink;
        let above = tempfile::tempdir().expect("a directory");
        let outside = above.path().join("chart-secrets");
        std::fs::create_dir(&outside).expect("made");
        std::fs::write(outside.join("key"), "secret").expect("written");
        let key = outside.join("key");
        let chart = |links: &[(&str, &Path)]| {
            let path = above.path().join("chart");
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(path.join("templates")).expect("made");
            std::fs::write(path.join("Chart.yaml"), METADATA).expect("written");
            std::fs::write(path.join(".helmignore"), "ignored\n").expect("written");
            for (name, target) in links {
                symlink(target, path.join(name)).expect("a link");
            }
            // The chart's directory itself may be reached by a link.
            let link = above.path().join("link");
            let _ = std::fs::remove_file(&link);
            symlink("chart", &link).expect("a link");
            Chart::from_dir(&link)
        };
        chart(&[("ignored", &key)]).expect("not in the chart");
        let cases: [(&[(&str, &Path)], &str); 6] = [
            (&[("a.txt", &key)], "link a.txt leads out"),
            (&[("a.txt", Path::new("../chart-secrets/key"))], "link a.txt leads out"),
            (&[("templates/a.txt", Path::new("../../chart-secrets/key"))], "link templates/a.txt leads out"),
            (&[("files", &outside)], "link files leads out"),
            (&[("files", Path::new(".."))], "link files leads out"),
            (&[("z", &key), ("a", Path::new("b")), ("b", Path::new("z"))], "leads out of the chart, to "),
        ];
        for (links, says) in cases {
            let error = chart(links).expect_err(says);
            assert!(error.to_string().contains(says), "{says}: {error}");
            assert!(error.hint_text().is_some_and(|hint| hint.contains("copy")), "{error:?}");
        }
    }

    #[test]
    fn hostile_packed_charts_are_refused() {
        use tar::EntryType::{Regular, Symlink};
        let metadata = ("hello/Chart.yaml", METADATA.as_bytes(), Regular);
        let zeros = vec![0; 5 << 20];
        let mut bomb = vec![metadata];
        let bomb_names: Vec<_> = (0..21).map(|n| format!("hello/{n}")).collect();
        bomb.extend(bomb_names.iter().map(|name| (name.as_str(), &zeros[..], Regular)));
        for (files, says) in [
            (vec![metadata, ("hello/../../x", b"".as_slice(), Regular)], "not allowed"),
            (vec![metadata, ("hello//etc/x", b"", Regular)], "not allowed"),
            (vec![metadata, ("hello", b"", Regular)], "not allowed"),
            (vec![metadata, ("hello/link", b"", Symlink)], "neither a file nor"),
            (vec![metadata, metadata], "Chart.yaml is there twice"),
            (bomb, "its files are larger"),
        ] {
            let error = Chart::from_bytes("test.tgz", tgz(&files)).expect_err(says).to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
        for bytes in [&b""[..], b"not gzip", &tgz(&[metadata])[..40]] {
            let error = Chart::from_bytes("test.tgz", bytes.into()).expect_err("not a chart").to_string();
            assert!(error.contains("not a gzipped tar"), "{error}");
        }
        let mut nested = tgz(&[metadata]);
        for _ in 0..40 {
            nested = tgz(&[metadata, ("hello/charts/a.tgz", &nested, Regular)]);
        }
        let error = Chart::from_bytes("test.tgz", nested).expect_err("too deep").to_string();
        assert!(error.contains("nested more than"), "{error}");
        let noise: Vec<u8> = {
            let mut bytes = vec![0; METADATA_CAP as usize + 1];
            getrandom::fill(&mut bytes).expect("random bytes");
            bytes
        };
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(&tgz(&[metadata])).expect("written");
        file.write_all(&noise).expect("written");
        let error = Chart::from_file(file.path()).expect_err("too large").to_string();
        assert!(error.contains("it is larger than"), "{error}");
    }
}
