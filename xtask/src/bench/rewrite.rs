//! `cargo xtask bench rewrite`: what `airlock rewrite` costs on manifests that are larger than anybody's.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::measure::{Used, measure};
use super::median;
use crate::images;
use crate::parts::Scratch;
use crate::sh::{command, text};
use crate::{Failure, Outcome, tools};

/// Sizes of the manifests. airlock reads no more than 64 MiB.
const MEGABYTES: [usize; 2] = [10, 60];
/// References in the lock.
const REFERENCES: usize = 500;
/// Each size is measured so often; the medians count.
const ROUNDS: usize = 9;
/// Most CPU time for the first size, in seconds, and most of that time's multiple for the second, by size.
const BARS: (f64, f64) = (0.1, 1.2);
/// Charts rendered by helm, beside the repository.
const CORPUS: &str = "../shared/corpus";

/// Measures, and prints the table.
///
/// # Errors
/// When `airlock rewrite` can't be built or fails, or a bar is missed.
pub fn run() -> Outcome {
    tools::packages(&[("python3", "python3")])?;
    let binary = images::release("bundler", "airlock")?;
    let scratch = Scratch::create()?;
    let (manifests, references, what) = match corpus()? {
        Some((manifests, references)) => (manifests, references, "rendered charts"),
        None => {
            println!("{CORPUS} is not there: made manifests instead");
            let references: Vec<_> = (0..REFERENCES).map(made).collect();
            (deployments(&references), references, "made manifests")
        }
    };
    write(&scratch.path("images.lock"), &lock(&references))?;
    let mut figures = vec![];
    for megabytes in MEGABYTES {
        let times = (megabytes * 1_000_000).div_ceil(manifests.len());
        let (input, out) = (scratch.path("in.yaml"), scratch.path("out.yaml"));
        write(&input, &manifests.repeat(times))?;
        let size = (manifests.len() * times) as f64 / 1e6;
        let rounds = (0..ROUNDS).map(|_| rewrite(&binary, &scratch.path("images.lock"), &input, &out));
        let rounds: Vec<_> = rounds.collect::<Result<_, _>>()?;
        let seconds = median(rounds.iter().map(|used| used.cpu).collect());
        let memory = median(rounds.iter().map(|used| used.memory).collect());
        figures.push((size, seconds, memory));
    }
    println!(
        "\nMedians of {ROUNDS} runs of `airlock rewrite`, {what}, {REFERENCES} references in the lock\n"
    );
    println!("| manifests, MB | CPU, ms | MB/s | peak memory, MiB |\n|---:|---:|---:|---:|");
    for (size, seconds, memory) in &figures {
        println!("| {size:.1} | {:.0} | {:.0} | {:.0} |", seconds * 1e3, size / seconds, memory / 1024.0);
    }
    let [(small, first, _), (large, second, _)] = figures[..] else { return Err("a size is missing".into()) };
    let growth = (second / first) / (large / small);
    println!("\n{growth:.2} times the CPU time for each megabyte at {large:.0} MB");
    if first / small * 10.0 > BARS.0 || growth > BARS.1 {
        return Err(format!("the bars are {} s for 10 MB, and {} times that by size", BARS.0, BARS.1));
    }
    Ok(())
}

/// One run of `airlock rewrite`.
fn rewrite(binary: &Path, lock: &Path, input: &Path, out: &Path) -> Result<Used, Failure> {
    let args = ["rewrite", "--registry", "site.example:5000/mirror", "--lock-file", text(lock)?];
    measure(&command(text(binary)?, &args), input, out)
}

/// All manifests of the corpus, and the references in them, filled up to [`REFERENCES`].
fn corpus() -> Result<Option<(String, Vec<String>)>, Failure> {
    let dir = PathBuf::from(std::env::var_os("AIRLOCK_CORPUS").unwrap_or_else(|| CORPUS.into()));
    let Ok(truth) = fs::read_to_string(dir.join("truth.json")) else { return Ok(None) };
    let truth: Value = serde_json::from_str(&truth).map_err(|e| format!("reading truth.json: {e}"))?;
    let (mut manifests, mut references) = (String::new(), BTreeSet::new());
    for (chart, named) in truth.as_object().into_iter().flatten() {
        let path = dir.join(format!("{chart}.yaml"));
        let text = fs::read_to_string(&path).map_err(|e| format!("reading {}: {e}", path.display()))?;
        manifests.push_str("---\n");
        manifests.push_str(text.trim_end());
        manifests.push('\n');
        references
            .extend(named["refs"].as_object().into_iter().flatten().map(|(reference, _)| reference.clone()));
    }
    let more = (references.len()..REFERENCES).map(made);
    let references = references.clone().into_iter().chain(more).collect();
    Ok(Some((manifests, references)))
}

fn made(n: usize) -> String {
    format!("registry.example.com/team{}/app{n}:1.{n}", n % 7)
}

/// A Deployment for each reference, in the style of helm's own template.
fn deployments(references: &[String]) -> String {
    let deployment = |(n, reference): (usize, &String)| {
        format!(
            "---
# Source: web/templates/deployment.yaml
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web{n}
  labels:
    app.kubernetes.io/name: \"web{n}\"
spec:
  template:
    spec:
      containers:
        - name: web
          image: \"{reference}\"
          args: [--port=8080, --verbose]
          env:
            - name: MESSAGE
              value: |
                Nothing of this is a reference,
                and it is read all the same.
          resources: {{limits: {{cpu: 100m, memory: 128Mi}}}}
"
        )
    };
    references.iter().enumerate().map(deployment).collect()
}

/// A lock as `airlock lock` writes it; of its digests only the form matters here.
fn lock(references: &[String]) -> String {
    let digest = |n: usize| format!("sha256:{n:064x}");
    let mut lock = format!(
        "version = 1\nname = \"bench\"\nbundle_version = \"1\"\nserial = 1\ncreated = \"2026-01-01T00:00:00Z\"\nspec = \"{}\"\nplatforms = [\"linux/amd64\"]\n",
        digest(0)
    );
    for (n, reference) in references.iter().enumerate() {
        let digest = digest(n + 1);
        let _ = write!(
            lock,
            "\n[[image]]\nref = \"{reference}\"\ndigest = \"{digest}\"\nmedia_type = \"application/vnd.oci.image.manifest.v1+json\"\nsize = 1\nasked_by = [\"bundle.toml\"]\n[image.platforms]\n\"linux/amd64\" = \"{digest}\"\n"
        );
    }
    lock
}

fn write(path: &Path, content: &str) -> Outcome {
    fs::write(path, content).map_err(|e| format!("writing {}: {e}", path.display()))
}
