//! What the chart's checks need: the program in `charts/check`, and the README's tables of values.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::sh::{command, output, text};
use crate::{Failure, Outcome};

/// Definitions of the custom resources that the chart makes: module and version, and the file in it.
const DEFINITIONS: &[(&str, &str)] = &[
    ("github.com/cert-manager/cert-manager@v1.21.2", "deploy/crds/cert-manager.io_certificates.yaml"),
    (
        "github.com/external-secrets/external-secrets@v1.3.2",
        "config/crds/bases/external-secrets.io_externalsecrets.yaml",
    ),
    (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
    ("sigs.k8s.io/gateway-api@v1.6.3", "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"),
];

/// The chart, and below which name its README has each file's values.
const CHART: &str = "charts/hello";
const VALUES: &[(&str, &str)] = &[("values.yaml", ""), ("charts/redis/values.yaml", "redis.")];

/// Builds `charts/check` below `home`, with the definitions beside it, unless these sources were built before.
///
/// # Errors
/// When a source can't be read, or Go can't build it.
pub fn check(home: &Path, go: impl FnOnce() -> Result<PathBuf, Failure>) -> Result<PathBuf, Failure> {
    let sources = repository().join("charts/check");
    let mut hasher = DefaultHasher::new();
    DEFINITIONS.hash(&mut hasher);
    for name in ["main.go", "go.mod", "go.sum"] {
        read(&sources.join(name))?.hash(&mut hasher);
    }
    let built = home.join(format!("chart-check-{:016x}", hasher.finish()));
    if built.exists() {
        return Ok(built.join("chart-check"));
    }
    println!(
        "building charts/check with Kubernetes' own validation, below {}; takes some minutes",
        home.display()
    );
    let program = go()?;
    let program = text(&program)?;
    let go = |args: &[&str]| output(command(program, args).current_dir(&sources).env("CGO_ENABLED", "0"));
    // In a directory of its own first: a run that is ended half-way leaves nothing that looks complete.
    let draft = home.join(format!("chart-check.{}", std::process::id()));
    fs::create_dir_all(draft.join("crds")).map_err(|e| format!("making {}: {e}", draft.display()))?;
    go(&["build", "-trimpath", "-ldflags=-s -w", "-o", text(&draft.join("chart-check"))?, "."])?;
    for (module, file) in DEFINITIONS {
        let told = go(&["mod", "download", "-json", module])?;
        let told: serde_json::Value =
            serde_json::from_str(&told).map_err(|e| format!("go mod download {module}: {e}"))?;
        let dir = told["Dir"].as_str().ok_or_else(|| format!("go mod download {module}: no directory"))?;
        let from = Path::new(dir).join(file);
        let to = draft.join("crds").join(from.file_name().unwrap_or_default());
        fs::write(&to, read(&from)?).map_err(|e| format!("writing {}: {e}", to.display()))?;
    }
    fs::rename(&draft, &built)
        .or_else(|e| if built.exists() { Ok(()) } else { Err(e) })
        .map_err(|e| format!("renaming {}: {e}", draft.display()))?;
    Ok(built.join("chart-check"))
}

/// Writes the tables of values into the chart's README.
///
/// # Errors
/// When a file can't be read or written, a value has no comment, or the README no place for a table.
pub fn docs() -> Outcome {
    let readme = repository().join(CHART).join("README.md");
    fs::write(&readme, with_tables()?).map_err(|e| format!("writing {}: {e}", readme.display()))
}

/// The README as it should be.
fn with_tables() -> Result<String, Failure> {
    let chart = repository().join(CHART);
    let mut readme = read(&chart.join("README.md"))?;
    for (file, prefix) in VALUES {
        let table =
            table(&read(&chart.join(file))?, prefix).map_err(|why| format!("{CHART}/{file}: {why}"))?;
        let (begin, end) = (format!("<!-- begin {file} -->\n"), format!("<!-- end {file} -->"));
        let cut =
            readme.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
        let (before, after) = cut.ok_or_else(|| format!("{CHART}/README.md has no {begin}"))?;
        readme = format!("{before}{begin}{table}{end}{after}");
    }
    Ok(readme)
}

/// One row for each key with a comment `# -- …`; a key with a value and without a comment is an error.
fn table(values: &str, prefix: &str) -> Result<String, Failure> {
    let mut table = String::from("| value | default | meaning |\n|---|---|---|\n");
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut meaning = None;
    for line in values.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if let Some(comment) = content.strip_prefix("# -- ") {
            meaning = Some(comment);
            continue;
        }
        let Some((key, default)) = content.split_once(':').filter(|_| !content.starts_with('#')) else {
            continue;
        };
        path.retain(|(above, _)| *above < indent);
        path.push((indent, key));
        let name = path.iter().map(|(_, key)| *key).collect::<Vec<_>>().join(".");
        match (meaning.take(), default.trim()) {
            (Some(meaning), default) => {
                let default =
                    if default.len() > 60 { "see values.yaml".into() } else { format!("`{default}`") };
                table.push_str(&format!("| `{prefix}{name}` | {default} | {meaning} |\n"));
            }
            (None, "") => {}
            (None, _) => return Err(format!("{name} has no comment: write one above it, `# -- …`")),
        }
    }
    Ok(table)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|e| format!("reading {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_values() {
        let readme = read(&repository().join(CHART).join("README.md")).expect("the README");
        assert!(with_tables().expect("tables") == readme, "stale: run `cargo xtask chart-docs`");
    }

    #[test]
    fn a_value_is_named_by_its_path_and_must_be_explained() {
        let values =
            "# heading\na:\n  # -- One\n  b: \"\"\n  c:\n    # -- Two\n    d: [1]\n# -- Three\ne: {}\n";
        let rows = "| `r.a.b` | `\"\"` | One |\n| `r.a.c.d` | `[1]` | Two |\n| `r.e` | `{}` | Three |\n";
        assert!(table(values, "r.").expect("a table").ends_with(&format!("---|\n{rows}")));
        assert!(table("a:\n  b: 1\n", "").expect_err("no comment").starts_with("a.b has no comment"));
    }
}
