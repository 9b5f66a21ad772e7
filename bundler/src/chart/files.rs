//! A chart's files: read from a directory or a packed chart, arranged and packed as helm does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::ignore::Rules;
use super::metadata::Metadata;
use super::{ChartError, Part, schema};

/// Largest file that helm loads, in bytes.
const FILE_CAP: u64 = 5 << 20;
/// Most bytes in all files of a chart that helm loads.
const TOTAL_CAP: u64 = 100 << 20;
/// How deep charts and directories may nest.
const DEPTH_CAP: usize = 32;

/// Files by their path from the chart's directory.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// How many bytes may still be read into memory for a chart, its subcharts included.
pub(super) struct Budget(u64);

impl Default for Budget {
    fn default() -> Self {
        Self(TOTAL_CAP)
    }
}

impl Budget {
    /// Reads a whole file called `path`, without the byte order mark that helm takes off.
    fn read(&mut self, path: &str, from: impl Read) -> Result<Vec<u8>, ChartError> {
        let mut bytes = Vec::new();
        from.take(FILE_CAP + 1).read_to_end(&mut bytes).map_err(|e| ChartError::Read(path.into(), e))?;
        let size = bytes.len() as u64;
        if size > FILE_CAP {
            return Err(ChartError::FileTooLarge(path.into(), FILE_CAP));
        }
        self.0 = self.0.checked_sub(size).ok_or(ChartError::TooLarge(TOTAL_CAP))?;
        if bytes.starts_with("\u{feff}".as_bytes()) {
            bytes.drain(..3);
        }
        Ok(bytes)
    }
}

/// A chart with its subcharts.
pub(super) struct Tree {
    pub(super) metadata: Metadata,
    /// Everything but what is in `charts/`.
    files: Files,
    subcharts: Vec<Tree>,
    /// Name and bytes of the file in `charts/` that it is packed in, if it is.
    packed: Option<(String, Vec<u8>)>,
}

impl Tree {
    /// Arranges the files of a chart; subcharts that are packed are unpacked.
    pub(super) fn new(files: Files, budget: &mut Budget) -> Result<Self, ChartError> {
        Self::nested(files, budget, 0)
    }

    fn nested(mut files: Files, budget: &mut Budget, depth: usize) -> Result<Self, ChartError> {
        if depth > DEPTH_CAP {
            return Err(ChartError::Depth(DEPTH_CAP));
        }
        let chart = files.get("Chart.yaml").ok_or(ChartError::NoMetadata)?;
        let metadata = Metadata::parse(chart, files.get("requirements.yaml").map(Vec::as_slice))?;
        if metadata.is_version_1() {
            // Such charts have requirements.lock; helm leaves the other one out.
            files.remove("Chart.lock");
        }
        let mut below: BTreeMap<String, Files> = BTreeMap::new();
        for (path, bytes) in files.extract_if(.., |path, _| is_in_subchart(path)) {
            let path = path.trim_start_matches("charts/");
            let (name, rest) = path.split_once('/').unwrap_or((path, ""));
            below.entry(name.into()).or_default().insert(rest.into(), bytes);
        }
        let mut subcharts = Vec::new();
        for (name, mut files) in below {
            if name.starts_with(['_', '.']) {
                continue;
            }
            let read = |budget: &mut Budget| {
                let is_packed = name.ends_with(".tgz");
                let Some(bytes) = files.remove("").filter(|_| is_packed) else {
                    return Self::nested(files, budget, depth + 1);
                };
                let tree = Self::nested(unpack(&bytes, budget)?, budget, depth + 1)?;
                Ok(Self { packed: Some((name.clone(), bytes)), ..tree })
            };
            subcharts.push(read(budget).map_err(|e| match e {
                deep @ ChartError::Depth(_) => deep,
                error => ChartError::Subchart(name.clone(), Box::new(error)),
            })?);
        }
        Ok(Self { metadata, files, subcharts, packed: None })
    }

    /// Lists the chart and its subcharts, the outermost first.
    pub(super) fn parts(&self, above: &str, into: &mut Vec<Part>) -> Result<(), ChartError> {
        let path = format!("{above}{}", self.metadata.name()?);
        let schema = self.files.get("values.schema.json");
        into.push(Part {
            path: path.clone(),
            annotations: self.metadata.annotations(),
            schema_needs: schema.map(|schema| schema::needs(schema)).unwrap_or_default(),
        });
        self.subcharts.iter().try_for_each(|chart| chart.parts(&format!("{path}/"), into))
    }

    /// Checks that every dependency which the chart declares is in `charts/`.
    pub(super) fn check_dependencies(&self) -> Result<(), ChartError> {
        let there: BTreeSet<&str> = self.subcharts.iter().filter_map(|c| c.metadata.name().ok()).collect();
        let missing = self.metadata.dependencies().filter(|(name, _)| !there.contains(name));
        let missing: Vec<String> = missing
            .map(|(name, from)| if from.is_empty() { name.into() } else { format!("{name} ({from})") })
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(ChartError::MissingDependencies(missing.join(", "))) }
    }

    /// Collects all files by their path in the packed chart: each chart below a directory of its own name.
    fn collect<'a>(&'a self, prefix: &str, into: &mut BTreeMap<String, &'a [u8]>) -> Result<(), ChartError> {
        let name = self.metadata.name()?;
        if name.contains(['/', '\\']) || matches!(name, "." | "..") {
            return Err(ChartError::Path(name.into(), "it is the name of a chart"));
        }
        let directory = format!("{prefix}{name}/");
        for (path, bytes) in &self.files {
            let path = format!("{directory}{path}");
            if let Some(path) = into.insert(path.clone(), bytes).map(|_| path) {
                return Err(ChartError::Twice(path));
            }
        }
        for chart in &self.subcharts {
            let is_same = |other: &&Self| other.metadata.name().ok() == chart.metadata.name().ok();
            match &chart.packed {
                // Unpacked they would be in one directory.
                Some((file, bytes)) if self.subcharts.iter().filter(is_same).count() > 1 => {
                    into.insert(format!("{directory}charts/{file}"), bytes);
                }
                _ => chart.collect(&format!("{directory}charts/"), into)?,
            }
        }
        Ok(())
    }
}

fn is_in_subchart(path: &str) -> bool {
    // Provenance files of packed subcharts are files of the chart itself.
    path.starts_with("charts/") && !path.ends_with(".prov")
}

/// Reads a chart's directory. What `.helmignore` names is left out. Links are followed as helm follows them, but not out of
/// the directory: a chart from elsewhere must not carry files of this machine into a bundle.
pub(super) fn read(root: &Path) -> Result<Files, ChartError> {
    let ignore = match crate::file::open(&root.join(".helmignore")) {
        Ok(file) => Budget::default().read(".helmignore", file)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(ChartError::Read(".helmignore".into(), error)),
    };
    let rules = std::str::from_utf8(&ignore).map_err(|_| ChartError::NotText(".helmignore".into()))?;
    let real = fs::canonicalize(root).map_err(|e| ChartError::Read("it".into(), e))?;
    let rules = Rules::parse(rules)?;
    let mut walk = Walk { root: real, rules, budget: Budget::default(), files: Files::new() };
    walk.directory(root, "", &mut Vec::new())?;
    Ok(walk.files)
}

struct Walk {
    /// Real path of the chart's directory.
    root: PathBuf,
    rules: Rules,
    budget: Budget,
    files: Files,
}

impl Walk {
    /// `above`: the real paths of the directories that this one is in.
    fn directory(&mut self, at: &Path, path: &str, above: &mut Vec<PathBuf>) -> Result<(), ChartError> {
        let failed = |e| ChartError::Read(if path.is_empty() { "it" } else { path }.into(), e);
        let real = fs::canonicalize(at).map_err(failed)?;
        if above.contains(&real) {
            return Err(ChartError::Loop(path.into()));
        }
        if above.len() > DEPTH_CAP {
            return Err(ChartError::Depth(DEPTH_CAP));
        }
        above.push(real);
        for entry in fs::read_dir(at).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name =
                name.to_str().ok_or_else(|| ChartError::Path(format!("{name:?}"), "it is not UTF-8"))?;
            let path = if path.is_empty() { name.into() } else { format!("{path}/{name}") };
            self.entry(&at.join(name), path, above)?;
        }
        above.pop();
        Ok(())
    }

    fn entry(&mut self, at: &Path, path: String, above: &mut Vec<PathBuf>) -> Result<(), ChartError> {
        let failed = |e| ChartError::Read(path.clone(), e);
        // Not of the link: helm follows links too.
        let kind = fs::metadata(at).map_err(failed)?.file_type();
        if self.rules.ignore(&path, kind.is_dir()) {
            return Ok(());
        }
        if fs::symlink_metadata(at).map_err(failed)?.is_symlink() {
            let target = fs::canonicalize(at).map_err(failed)?;
            if !target.starts_with(&self.root) {
                return Err(ChartError::Outside(path, target.display().to_string()));
            }
        }
        if kind.is_dir() {
            return self.directory(at, &path, above);
        }
        if !kind.is_file() {
            return Err(ChartError::Irregular(path));
        }
        if path.contains('\\') {
            return Err(ChartError::Path(path, "helm takes a backslash for a directory"));
        }
        let bytes = self.budget.read(&path, crate::file::open(at).map_err(failed)?)?;
        self.files.insert(path, bytes);
        Ok(())
    }
}

/// Reads a packed chart: a gzipped tar with everything below one directory.
pub(super) fn unpack(tgz: &[u8], budget: &mut Budget) -> Result<Files, ChartError> {
    let mut files = Files::new();
    // Padding and headers are not counted by the budget; cap them too.
    let tar = flate2::read::MultiGzDecoder::new(tgz).take(2 * TOTAL_CAP);
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().map_err(ChartError::Archive)? {
        let entry = entry.map_err(ChartError::Archive)?;
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if !kind.is_file() {
            return Err(ChartError::Irregular(name));
        }
        let path = below_top(&name)?;
        let bytes = budget.read(path, entry)?;
        if files.insert(path.into(), bytes).is_some() {
            return Err(ChartError::Twice(path.into()));
        }
    }
    if files.is_empty() {
        return Err(ChartError::Archive(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(files)
}

/// The path without the directory that everything in a packed chart is in.
fn below_top(name: &str) -> Result<&str, ChartError> {
    let refuse = |why| Err(ChartError::Path(name.into(), why));
    let Some((_, path)) = name.split_once('/') else {
        return refuse("it is not in the chart's directory");
    };
    if path.contains('\\') {
        return refuse("it has a backslash");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refuse("it has an empty, \".\" or \"..\" segment");
    }
    Ok(path)
}

/// Packs a chart: files in the order of their names, everything else in the headers fixed.
pub(super) fn pack(tree: &Tree) -> Result<Vec<u8>, ChartError> {
    let mut files = BTreeMap::new();
    tree.collect("", &mut files)?;
    // 255: no operating system; the default of the crate could change.
    let gz = flate2::GzBuilder::new().mtime(0).operating_system(255);
    let mut builder = tar::Builder::new(gz.write(Vec::new(), flate2::Compression::best()));
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, bytes)?;
    }
    Ok(builder.into_inner()?.finish()?)
}
