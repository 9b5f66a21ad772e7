//! The charts of the survey: a list with pinned commits, checkouts of what it names, and what helm makes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::sh::{command, output, run, text};
use crate::{Failure, Outcome};

/// Name and namespace of every release.
const RELEASE: [&str; 3] = ["rel", "--namespace", "ns"];

/// A list of charts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    chart: Vec<Chart>,
}

/// A chart in a public repository.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Chart {
    /// What the table calls it; unique.
    pub name: String,
    /// The repository's URL.
    git: String,
    /// The commit, in full.
    commit: String,
    /// The chart's directory in it.
    path: String,
    /// Directories beside it that the chart depends on (`file://`).
    #[serde(default)]
    with: Vec<String>,
    /// As helm's `--set`.
    #[serde(default)]
    set: Vec<String>,
    /// As helm's `--kube-version`.
    kube_version: Option<String>,
    /// As helm's `--api-versions`.
    #[serde(default)]
    api_versions: Vec<String>,
}

/// Reads a list.
///
/// # Errors
/// When it is not one, or has a name twice.
pub fn read(path: &str) -> Result<Vec<Chart>, Failure> {
    let toml = fs::read_to_string(path).map_err(|e| format!("reading {path}: {e}"))?;
    parse(&toml).map_err(|why| format!("reading {path}: {why}"))
}

fn parse(toml: &str) -> Result<Vec<Chart>, String> {
    let List { chart: charts } = toml::from_str(toml).map_err(|e| e.to_string())?;
    let mut names = BTreeSet::new();
    for chart in &charts {
        if !names.insert(&chart.name) {
            return Err(format!("there are two charts {}", chart.name));
        }
        let is_full = chart.commit.len() == 40 && chart.commit.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_full {
            return Err(format!("chart {}: {:?} is not a commit in full", chart.name, chart.commit));
        }
        let inside =
            |path: &String| !path.starts_with(['/', '-']) && path.split('/').all(|part| part != "..");
        if !chart.with.iter().chain([&chart.path]).all(inside) {
            return Err(format!("chart {}: a path leads outside of its repository", chart.name));
        }
    }
    Ok(charts)
}

impl Chart {
    /// The chart's own version.
    ///
    /// # Errors
    /// When helm can't read it.
    pub fn version(&self, checkout: &Path) -> Result<String, Failure> {
        let file = checkout.join(&self.path).join("Chart.yaml");
        let yaml = fs::read_to_string(&file).map_err(|e| format!("reading {}: {e}", file.display()))?;
        let version = yaml.lines().find_map(|line| line.strip_prefix("version:")).unwrap_or_default();
        let version = version.split(" #").next().unwrap_or_default();
        Ok(version.trim().trim_matches(['"', '\'']).to_owned())
    }

    /// Everything that the chart renders to: hooks, tests and CRDs included. Helm's own files are kept in `home`.
    ///
    /// # Errors
    /// When helm fails.
    pub fn render(&self, helm: &Path, checkout: &Path, home: PathBuf) -> Result<String, Failure> {
        let directory = checkout.join(&self.path);
        let helm = |arguments: &[&str]| -> Result<String, Failure> {
            let mut helm = command(text(helm)?, arguments);
            helm.env("HELM_CACHE_HOME", home.join("cache")).env("HELM_CONFIG_HOME", home.join("config"));
            output(helm.env("HELM_DATA_HOME", home.join("data")))
        };
        if !self.with.is_empty() {
            helm(&["dependency", "build", text(&directory)?])?;
        }
        let mut arguments = vec!["template", RELEASE[0], text(&directory)?, RELEASE[1], RELEASE[2]];
        arguments.push("--include-crds");
        arguments.extend(self.set.iter().flat_map(|value| ["--set", value]));
        arguments.extend(self.kube_version.iter().flat_map(|version| ["--kube-version", version]));
        arguments.extend(self.api_versions.iter().flat_map(|version| ["--api-versions", version]));
        helm(&arguments).map(|manifests| manifests + "\n")
    }
}

/// Checkouts of the repositories, each with the charts' directories alone; kept from run to run.
pub struct Checkouts {
    home: PathBuf,
}

impl Checkouts {
    /// Fetches what is missing, by plain git.
    ///
    /// # Errors
    /// When git fails.
    pub fn of(charts: &[Chart], home: &Path) -> Result<Self, Failure> {
        let all = Self { home: home.into() };
        let mut wanted: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
        for chart in charts {
            let paths = wanted.entry((&chart.git, &chart.commit)).or_default();
            paths.extend(chart.with.iter().chain([&chart.path]).map(String::as_str));
        }
        for ((git, commit), paths) in wanted {
            all.check_out(git, commit, &paths)?;
        }
        Ok(all)
    }

    /// The checkout that has a chart.
    pub fn directory(&self, chart: &Chart) -> PathBuf {
        self.at(&chart.git, &chart.commit)
    }

    fn at(&self, git: &str, commit: &str) -> PathBuf {
        let name = git.trim_end_matches(".git").rsplit('/').take(2).collect::<Vec<_>>();
        let name = name.into_iter().rev().collect::<Vec<_>>().join("+");
        self.home.join(format!("{name}@{}", &commit[..12]))
    }

    fn check_out(&self, git: &str, commit: &str, paths: &BTreeSet<&str>) -> Outcome {
        let directory = self.at(git, commit);
        let marker = directory.join(".git/complete");
        let listed = paths.iter().map(|path| format!("{path}\n")).collect::<String>();
        if fs::read_to_string(&marker).is_ok_and(|complete| complete == listed) {
            return Ok(());
        }
        println!("fetching {git}, {} charts at {}", paths.len(), &commit[..12]);
        let _ = fs::remove_dir_all(&directory);
        let place = text(&directory)?;
        let repository = |arguments: &[&str]| run(&mut command("git", &[&["-C", place], arguments].concat()));
        run(&mut command("git", &["init", "--quiet", place]))?;
        repository(&["remote", "add", "origin", git])?;
        // Only the commit, and of its files only those that are checked out.
        repository(&["fetch", "--quiet", "--depth=1", "--filter=blob:none", "origin", commit])?;
        let paths: Vec<&str> = paths.iter().copied().collect();
        if !paths.contains(&".") {
            repository(&[&["sparse-checkout", "set", "--"], paths.as_slice()].concat())?;
        }
        repository(&["checkout", "--quiet", "FETCH_HEAD"])?;
        fs::write(&marker, listed).map_err(|e| format!("writing {}: {e}", marker.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "af0a9310bacbaa4636018dfe22c801a6d33a5c43";

    #[test]
    fn lists_are_read() {
        let chart = format!("[[chart]]\nname = 'a'\ngit = 'https://x.io/o/r.git'\ncommit = '{COMMIT}'\n");
        let charts = parse(&format!("{chart}path = 'charts/a'\nset = ['b=c']\n")).expect("a list");
        assert_eq!((charts[0].name.as_str(), charts[0].set.len()), ("a", 1));
        let checkouts = Checkouts { home: "/h".into() };
        assert_eq!(checkouts.directory(&charts[0]), Path::new("/h/o+r@af0a9310bacb"));
        for wrong in [
            format!("{chart}path = '../a'\n"),
            format!("{chart}path = '-a'\n"),
            format!("{chart}path = 'a'\n{chart}path = 'b'\n"),
            format!("{chart}path = 'a'\nunknown = 1\n"),
            format!("{chart}path = 'a'\n").replace(COMMIT, "main"),
        ] {
            assert!(parse(&wrong).is_err(), "{wrong}");
        }
    }
}
