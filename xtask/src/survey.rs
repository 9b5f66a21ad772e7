//! `cargo xtask survey`: public charts through helm, `airlock discover` and `airlock rewrite`, as a table in docs/charts.md.
//!
//! Every reference that is found in a chart is pinned, to a digest that is made up, and the chart is rewritten with these
//! pins: what is found in the result must be at the site, all of it. No registry is asked, so the table is the same
//! on a host without a network, and nothing outside of pod specs is certain in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::images;
use crate::parts::Scratch;
use crate::sh::{command, output, text};
use crate::tools::Tools;
use crate::{Failure, Outcome};

mod charts;

use charts::{Chart, Checkouts};

/// The list that is read where none is named.
const LIST: &str = "xtask/survey/charts.toml";
/// The references of each chart of that list, gathered by other means and looked over by hand.
const TRUTH: &str = "xtask/survey/truth.json";
/// What is written.
const TABLE: &str = "docs/charts.md";
/// Where the rewritten charts point to: with a port and a path, as real sites have.
const SITE: &str = "registry.site.example:5000";
/// Kinds of place, as `airlock discover` calls them and in the order of the table.
const KINDS: [&str; 9] =
    ["pod", "pod-hook", "args", "env", "cr", "configmap", "secret", "annotation", "field"];

/// What was measured of a chart.
#[derive(Default)]
struct Row {
    name: String,
    version: String,
    bytes: usize,
    documents: usize,
    images: usize,
    possible: usize,
    places: BTreeMap<String, usize>,
    /// References of the truth that were not found.
    missed: Vec<String>,
    /// References that still point outside after rewriting, with their places.
    left: Vec<String>,
    took: Duration,
}

/// Looks into the charts of `list`, or of the project's own list, and writes the table of the latter.
///
/// # Errors
/// When a chart can't be had, rendered, read or rewritten, a reference was missed, or one is left: with all that failed.
pub fn run(list: Option<&str>) -> Outcome {
    let charts = charts::read(list.unwrap_or(LIST))?;
    let truth = if list.is_none() { read_truth()? } else { BTreeMap::new() };
    let tools = Tools::only_helm()?;
    let checkouts = Checkouts::of(&charts, &tools.cache("survey")?)?;
    let airlock = images::release("bundler", "airlock")?;
    let survey = Survey { airlock, helm: tools.helm_binary(), checkouts, scratch: Scratch::create()? };
    let (mut rows, mut failed) = (vec![], vec![]);
    for chart in &charts {
        match survey.chart(chart, truth.get(&chart.name)) {
            Ok(row) => {
                failed.extend(row.missed.iter().map(|missed| format!("{}: missed: {missed}", chart.name)));
                failed.extend(row.left.iter().map(|left| format!("{}: left: {left}", chart.name)));
                rows.push(row);
            }
            Err(why) => failed.push(format!("{}: {why}", chart.name)),
        }
    }
    let table = table(&rows);
    if list.is_none() {
        fs::write(TABLE, document(&rows, &table)).map_err(|e| format!("writing {TABLE}: {e}"))?;
    }
    println!("{table}\n{}", summary(&rows));
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(format!("{} failures\n{}", failed.len(), failed.join("\n"))),
    }
}

/// By chart, the references that its output can cause to be pulled.
fn read_truth() -> Result<BTreeMap<String, BTreeSet<String>>, Failure> {
    let json = fs::read_to_string(TRUTH).map_err(|e| format!("reading {TRUTH}: {e}"))?;
    serde_json::from_str(&json).map_err(|e| format!("reading {TRUTH}: {e}"))
}

struct Survey {
    airlock: PathBuf,
    helm: PathBuf,
    checkouts: Checkouts,
    scratch: Scratch,
}

impl Survey {
    fn chart(&self, chart: &Chart, truth: Option<&BTreeSet<String>>) -> Result<Row, Failure> {
        let directory = self.checkouts.directory(chart);
        let manifests = chart.render(&self.helm, &directory, self.scratch.path("helm"))?;
        let file = self.scratch.path("manifests.yaml");
        write(&file, &manifests)?;
        let start = Instant::now();
        let found = self.discover(&file)?;
        let lock = self.scratch.path("images.lock");
        write(&lock, &pinned(&found))?;
        let rewritten = self.scratch.path("rewritten.yaml");
        let site = format!("{SITE}/mirror");
        let arguments = ["rewrite", "--registry", &site, "--lock-file", text(&lock)?, text(&file)?];
        write(&rewritten, &output(&mut command(text(&self.airlock)?, &arguments))?)?;
        let took = start.elapsed();
        let left = self.discover(&rewritten)?;
        let texts: BTreeSet<&str> =
            found.iter().flat_map(places).filter_map(|place| place["text"].as_str()).collect();
        let count = |class: &str| found.iter().filter(|reference| reference["class"] == class).count();
        let mut row = Row {
            name: chart.name.clone(),
            version: chart.version(&directory)?,
            bytes: manifests.len(),
            documents: manifests.lines().filter(|line| line.starts_with("---")).count(),
            images: count("image"),
            possible: count("possible"),
            missed: truth
                .into_iter()
                .flatten()
                .filter(|text| !texts.contains(text.as_str()))
                .cloned()
                .collect(),
            left: left.iter().filter(|reference| !is_at_site(reference)).map(shown).collect(),
            took,
            ..Row::default()
        };
        for place in found.iter().flat_map(places) {
            *row.places.entry(place["kind"].as_str().unwrap_or_default().into()).or_default() += 1;
        }
        Ok(row)
    }

    /// What `airlock discover` lists: references with their class and places.
    fn discover(&self, file: &Path) -> Result<Vec<Value>, Failure> {
        let arguments = ["--json", "discover", "--offline", text(file)?];
        let json = output(&mut command(text(&self.airlock)?, &arguments))?;
        let mut report: Value =
            serde_json::from_str(&json).map_err(|e| format!("reading what airlock discover says: {e}"))?;
        serde_json::from_value(report["references"].take())
            .map_err(|e| format!("reading what airlock discover says: {e}"))
    }
}

fn write(path: &Path, content: &str) -> Outcome {
    fs::write(path, content).map_err(|e| format!("writing {}: {e}", path.display()))
}

fn places(reference: &Value) -> impl Iterator<Item = &Value> {
    reference["places"].as_array().into_iter().flatten()
}

fn is_at_site(reference: &Value) -> bool {
    reference["reference"]
        .as_str()
        .is_some_and(|text| text.strip_prefix(SITE).is_some_and(|rest| rest.starts_with('/')))
}

/// A reference with its first place.
fn shown(reference: &Value) -> String {
    let place = places(reference).next().and_then(|place| place["place"].as_str()).unwrap_or_default();
    format!("{} at {place}", reference["reference"].as_str().unwrap_or_default())
}

/// An images.lock that pins every reference, each to a digest of its own that nothing has.
fn pinned(found: &[Value]) -> String {
    let mut lock = format!(
        "version = 1\nname = \"survey\"\nbundle_version = \"1\"\nserial = 1\ncreated = \"2026-01-01T00:00:00Z\"\n\
         spec = \"sha256:{:064x}\"\nplatforms = [\"linux/amd64\"]\n",
        0
    );
    // A placeholder where a pod's image belongs can't be pinned; the gate speaks of it.
    let references = found.iter().filter(|reference| reference["class"] != "unreadable");
    for (number, reference) in references.enumerate() {
        let _ = write!(
            lock,
            "\n[[image]]\nref = {}\ndigest = \"sha256:{:064x}\"\n\
             media_type = \"application/vnd.oci.image.manifest.v1+json\"\nsize = 1\nasked_by = []\n\
             platforms = {{ \"linux/amd64\" = \"sha256:{:064x}\" }}\n",
            reference["reference"],
            number + 1,
            number + 1,
        );
    }
    lock
}

fn table(rows: &[Row]) -> String {
    let mut table = format!(
        "| chart | version | KiB | documents | image | possible | {} | missed | left | ms |\n|---|---|{}\n",
        KINDS.join(" | "),
        "--:|".repeat(KINDS.len() + 7),
    );
    for row in rows {
        let _ = write!(
            table,
            "| {} | {} | {} | {} | {} | {} |",
            row.name,
            row.version,
            row.bytes.div_ceil(1024),
            row.documents,
            row.images,
            row.possible
        );
        for kind in KINDS {
            let _ = write!(table, " {} |", row.places.get(kind).map(usize::to_string).unwrap_or_default());
        }
        let _ = writeln!(table, " {} | {} | {} |", row.missed.len(), row.left.len(), row.took.as_millis());
    }
    table
}

fn summary(rows: &[Row]) -> String {
    let sum = |number: fn(&Row) -> usize| rows.iter().map(number).sum::<usize>();
    format!(
        "{} charts, {} MiB in {} documents: {} references in pod specs, {} more that are possible, at {} places; \
         {} missed, {} left after rewriting.",
        rows.len(),
        sum(|row| row.bytes) / (1024 * 1024),
        sum(|row| row.documents),
        sum(|row| row.images),
        sum(|row| row.possible),
        sum(|row| row.places.values().sum()),
        sum(|row| row.missed.len()),
        sum(|row| row.left.len()),
    )
}

fn document(rows: &[Row], table: &str) -> String {
    format!("{}\n\n{}\n\n{}", include_str!("survey/charts.md").trim_end(), summary(rows), table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(class: &str, text: &str) -> Value {
        serde_json::json!({"class": class, "reference": text, "places": [{"place": "Pod/a spec", "kind": "pod"}]})
    }

    #[test]
    fn everything_that_can_be_is_pinned() {
        let found =
            [reference("image", "q.io/a:1"), reference("unreadable", ":"), reference("possible", "q.io/b:2")];
        let lock = pinned(&found);
        assert_eq!(lock.matches("[[image]]").count(), 2, "{lock}");
        assert!(lock.contains("ref = \"q.io/b:2\"\ndigest = \"sha256:0"), "{lock}");
    }

    #[test]
    fn what_is_not_at_the_site_is_outside() {
        assert!(is_at_site(&reference("image", "registry.site.example:5000/mirror/q.io/a:1")));
        for text in ["q.io/registry.site.example:5000/a", "registry.site.example:50001/a", ":"] {
            let outside = reference("image", text);
            assert!(!is_at_site(&outside), "{text}");
            assert_eq!(shown(&outside), format!("{text} at Pod/a spec"));
        }
    }

    #[test]
    fn the_table_has_a_row_a_chart_and_a_column_a_kind() {
        let places = BTreeMap::from([("pod".to_owned(), 3)]);
        let row = Row { name: "a/b".into(), bytes: 1025, images: 2, places, ..Row::default() };
        let table = table(&[row]);
        let widths: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
        assert_eq!(widths.len(), 3);
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
        assert!(
            table.ends_with("| a/b |  | 2 | 0 | 2 | 0 | 3 |  |  |  |  |  |  |  |  | 0 | 0 | 0 |\n"),
            "{table}"
        );
    }
}
