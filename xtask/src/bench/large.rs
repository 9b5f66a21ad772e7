//! `cargo xtask bench large`: whether `serve` starts as soon with a bundle of 30 GB as with one of 3 GB, and airlock needs
//! no more memory for it. Their layers are zeros, in files that are holes: they take no disk, and are read and hashed all
//! the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::measure::{Used, measure, start_to_first_byte};
use super::{median, memory};
use crate::parts::{Place, Scratch};
use crate::sh::{command, output, run as quietly, text};
use crate::{Failure, Outcome, images, tools};

/// Sizes of the bundles.
const GIGABYTES: [u64; 2] = [3, 30];
/// Layers of the one image in each. A tar header has no room for 8 GiB.
const LAYERS: u64 = 4;
/// From nothing to the first byte so often; the median counts.
const STARTS: usize = 21;
/// Most time for that, in milliseconds.
const START: f64 = 50.0;
/// Most memory, in MiB, and most that it may differ by.
const MEMORY: (f64, f64) = (64.0, 4.0);

/// Where the image is, in the bundle and at a registry.
const REPOSITORY: &str = "bench.example/zeros";
/// The digests of so many zeros, the fewest first, in one pass.
const DIGESTS: &str = "import hashlib, sys
hasher, done, zeros = hashlib.sha256(), 0, bytes(1 << 20)
for size in map(int, sys.argv[1:]):
    while done < size:
        length = min(size - done, len(zeros))
        hasher.update(zeros[:length])
        done += length
    print(hasher.hexdigest())";
/// A bundle of files: GNU tar's headers are those that docs/bundle-format.md asks for. Large files stay holes.
const BUNDLE: &str = r#"for entry; do
    tar --format=ustar --mode=0644 --owner=0 --group=0 --numeric-owner --mtime=@0 -cf - "$entry" | head -c 512
    size=$(stat -c %s "$entry")
    if [ $size -lt 1000000 ]; then cat "$entry"; else truncate -s +$size bundle.tar; fi
    truncate -s %512 bundle.tar
done >> bundle.tar
truncate -s +1024 bundle.tar"#;

/// An entry of a bundle.
#[derive(Clone)]
struct Entry {
    path: String,
    hex: String,
    size: u64,
}

impl Entry {
    /// As image manifests tell of it.
    fn descriptor(&self, kind: &str) -> Value {
        json!({"mediaType": kind, "digest": self.digest(), "size": self.size})
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hex)
    }

    /// As `airlock.json` tells of it.
    fn listed(&self) -> Value {
        json!({"path": self.path, "sha256": self.hex, "size": self.size})
    }
}

/// What was measured of one bundle.
struct Figures {
    /// From the start of `serve` to a blob's first byte, in milliseconds.
    start: f64,
    /// Seconds and memory of the whole and of the quick check.
    verify: Used,
    quick: Used,
    /// Peak memory of `serve` after a layer was pulled, in KiB.
    serve: f64,
}

/// Measures, and prints the table.
///
/// # Errors
/// When a part can't be set up, or a bar is missed.
pub fn run() -> Outcome {
    tools::packages(&[("python3", "python3"), ("openssl", "openssl"), ("curl", "curl")])?;
    let airlock = images::release("bundler", "airlock")?;
    let scratch = Scratch::create()?;
    println!("hashing zeros");
    let sizes: Vec<u64> = GIGABYTES.into_iter().flat_map(sizes).collect();
    let told = output(command("python3", &["-c", DIGESTS]).args(sizes.iter().map(u64::to_string)))?;
    let layers: Vec<_> = sizes.into_iter().zip(told.lines()).map(|(size, hex)| blob(hex, size)).collect();
    let mut figures = Vec::new();
    for (gigabytes, layers) in GIGABYTES.into_iter().zip(layers.chunks(LAYERS as usize)) {
        println!("{gigabytes} GB");
        let dir = scratch.path(&gigabytes.to_string());
        fs::create_dir_all(dir.join("blobs/sha256")).map_err(|e| format!("making {}: {e}", dir.display()))?;
        let bundle = Bundle { dir, airlock: &airlock };
        bundle.make(layers)?;
        figures.push(bundle.measure(layers)?);
    }
    table(&figures)
}

/// The layers' sizes, the smallest first: all different, since equal ones would be one.
fn sizes(gigabytes: u64) -> impl Iterator<Item = u64> {
    let size = gigabytes * 1_000_000_000 / LAYERS;
    (0..LAYERS).map(move |n| size + n)
}

fn blob(hex: &str, size: u64) -> Entry {
    Entry { path: format!("blobs/sha256/{hex}"), hex: hex.into(), size }
}

struct Bundle<'a> {
    dir: PathBuf,
    airlock: &'a Path,
}

impl Bundle<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes one with an image of these layers.
    fn make(&self, layers: &[Entry]) -> Outcome {
        for layer in layers {
            let size = layer.size.to_string();
            quietly(&mut command("truncate", &["-s", &size, text(&self.path(&layer.path))?]))?;
        }
        let diff_ids: Vec<_> = layers.iter().map(Entry::digest).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.blob(&config)?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let descriptors: Vec<_> =
            layers.iter().map(|layer| layer.descriptor("application/vnd.oci.image.layer.v1.tar")).collect();
        let manifest = self.blob(&json!({
            "schemaVersion": 2, "mediaType": kind, "layers": descriptors,
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        }))?;
        let index = json!({"schemaVersion": 2, "manifests": [manifest.descriptor(kind)]});
        let mut entries = vec![
            self.write("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?,
            self.write("index.json", &index)?,
            self.write("manifest.json", &json!([]))?,
            self.write("images.lock", &json!({}))?,
        ];
        entries.extend([config, manifest.clone()].into_iter().chain(layers.iter().cloned()));
        self.write(
            "airlock.json",
            &json!({
                "kind": "dev.airlock.bundle", "format": 1, "name": "zeros", "version": "1", "serial": 1,
                "created": "2026-01-01T00:00:00Z", "charts": [], "files": [],
                "entries": entries.iter().map(Entry::listed).collect::<Vec<_>>(),
                "images": [{
                    "ref": format!("{REPOSITORY}:1"), "repository": REPOSITORY, "mediaType": kind,
                    "digest": manifest.digest(), "platforms": {"linux/amd64": manifest.digest()},
                }],
            }),
        )?;
        let unsigned = " ".repeat(4096);
        fs::write(self.path("airlock.sigstore.json"), unsigned)
            .map_err(|e| format!("writing airlock.sigstore.json: {e}"))?;
        let mut bundle = command("bash", &["-ec", BUNDLE, "bundle", "airlock.json", "airlock.sigstore.json"]);
        bundle.args(entries.iter().map(|entry| &entry.path));
        quietly(bundle.current_dir(&self.dir))
    }

    /// Writes a file of JSON.
    fn write(&self, name: &str, content: &Value) -> Result<Entry, Failure> {
        let (file, content) = (self.path(name), content.to_string());
        fs::write(&file, &content).map_err(|e| format!("writing {}: {e}", file.display()))?;
        let told = output(&mut command("openssl", &["dgst", "-sha256", "-r", text(&file)?]))?;
        let hex = told.split(' ').next().unwrap_or_default();
        Ok(Entry { path: name.into(), hex: hex.into(), size: content.len() as u64 })
    }

    fn blob(&self, content: &Value) -> Result<Entry, Failure> {
        let written = self.write("blob", content)?;
        let blob = blob(&written.hex, written.size);
        let (from, to) = (self.path(&written.path), self.path(&blob.path));
        fs::rename(&from, &to).map_err(|e| format!("renaming {}: {e}", from.display()))?;
        Ok(blob)
    }

    /// A verb on it. Nobody signed it: checking a signature takes as long for any size.
    fn airlock(&self, args: &[&str]) -> Result<Command, Failure> {
        let mut command = command(text(self.airlock)?, args);
        command.args(["bundle.tar", "--insecure-skip-verify"]).current_dir(&self.dir);
        Ok(command)
    }

    fn measure(&self, layers: &[Entry]) -> Result<Figures, Failure> {
        let [.., largest] = layers else { return Err("the bundle has no layers".into()) };
        let path = format!("{REPOSITORY}/blobs/{}", largest.digest());
        let (mut starts, mut serve) = (Vec::new(), 0.0);
        for start in 1..=STARTS {
            let host = format!("127.0.0.1:{}", Place::Here.free_port()?);
            let command = self.airlock(&["serve", "--listen", &host])?;
            let (server, seconds) = start_to_first_byte(&command, &self.path("log"), &host, &path)?;
            starts.push(seconds * 1e3);
            if start == STARTS {
                pull(&format!("http://{host}/v2/{path}"), largest.size)?;
                serve = memory(server.id())? as f64;
            }
        }
        let used = |args: &[&str]| measure(&self.airlock(args)?, &self.path("oci-layout"), &self.path("out"));
        let (quick, verify) = (used(&["verify", "--quick"])?, used(&["verify"])?);
        Ok(Figures { start: median(starts), verify, quick, serve })
    }
}

/// Pulls a blob, whole.
fn pull(url: &str, size: u64) -> Outcome {
    let args = ["--silent", "--fail", "--noproxy", "*", "--output", "/dev/null"];
    let told = output(command("curl", &args).args(["--write-out", "%{size_download}", url]))?;
    if told == size.to_string() { Ok(()) } else { Err(format!("{url}: {told} of {size} bytes came")) }
}

fn table(figures: &[Figures]) -> Outcome {
    let [small, large] = figures else { return Err("a size is missing".into()) };
    let [little, much] = GIGABYTES;
    println!("\nOne image of {LAYERS} layers of zeros; medians of {STARTS} starts\n");
    println!("| | {little} GB | {much} GB | at most | |\n|---|---:|---:|---:|---|");
    let mut missed = 0;
    let mut row = |name: &str, unit: &str, [small, large]: [f64; 2], bar: &str, is_met: bool| {
        let met = if is_met { "met" } else { "MISSED" };
        println!("| {name} | {small:.1} {unit} | {large:.1} {unit} | {bar} | {met} |");
        missed += u32::from(!is_met);
    };
    let both = |figure: fn(&Figures) -> f64| [figure(small), figure(large)];
    let start = both(|figures| figures.start);
    let bar = format!("{START:.1} ms");
    row("serve, start to first byte", "ms", start, &bar, start.iter().all(|start| *start <= START));
    let (most, apart) = MEMORY;
    let bar = format!("{most:.1} MiB, {apart:.1} MiB apart");
    for (name, figure) in [
        ("memory, serve, when a layer was pulled", (|figures| figures.serve) as fn(&Figures) -> f64),
        ("memory, verify", |figures| figures.verify.memory),
        ("memory, verify --quick", |figures| figures.quick.memory),
    ] {
        let [small, large] = both(figure).map(|kib| kib / 1024.0);
        row(name, "MiB", [small, large], &bar, small.max(large) <= most && (large - small).abs() <= apart);
    }
    let quick = both(|figures| figures.quick.seconds * 1e3);
    println!("| verify --quick | {:.1} ms | {:.1} ms | | |", quick[0], quick[1]);
    println!("| verify | {:.2} s | {:.2} s | | |", small.verify.seconds, large.verify.seconds);
    if missed == 0 { Ok(()) } else { Err(format!("{missed} of 4 bars are missed")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_come_by_size_and_fit_into_a_header() {
        let sizes: Vec<u64> = GIGABYTES.into_iter().flat_map(sizes).collect();
        assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");
        assert!(sizes.iter().all(|size| *size < 8 << 30), "{sizes:?}");
    }
}
