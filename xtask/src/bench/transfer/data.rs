//! What is transferred: images of real Debian packages, made once, and a registry that has them.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::parts::{self, Place, Registry};
use crate::sh::{command, output, run, text};
use crate::tools::{self, Tools};
use crate::{Failure, Outcome};

/// Which packages the layers are, and the images.
const RECIPE: &str = include_str!("../../../bench/packages.toml");
/// Goes up when the same recipe makes something else.
const VERSION: u32 = 1;
/// The host that the images are pinned by, and the source registry's first part of their names.
pub const UPSTREAM: &str = "bench.example";
/// Layers that are made at the same time.
const AT_ONCE: usize = 2;
/// A layer of the package `$1`: prints the digest of its tar and of the gzip, and the gzip's size.
const LAYER: &str = "
mkfifo $1.fifo
openssl dgst -sha256 -r $1.fifo > $1.diff & hash=$!
dpkg-deb --fsys-tarfile $1_*.deb | tee $1.fifo | $(command -v pigz || echo gzip) -1n > $1.gz
wait $hash
digest=$(openssl dgst -sha256 -r $1.gz)
echo $(cut -c -64 $1.diff) ${digest%% *} $(stat -c %s $1.gz)
mv $1.gz layout/blobs/sha256/${digest%% *}
rm $1.fifo $1.diff $1_*.deb";

#[derive(Deserialize)]
struct Recipe {
    base: BTreeMap<String, Vec<String>>,
    image: BTreeMap<String, Vec<String>>,
}

impl Recipe {
    /// The packages that an image is made of.
    fn packages(&self, image: &str) -> Vec<&str> {
        let names = self.image.get(image).into_iter().flatten();
        names
            .flat_map(|name| self.base.get(name).map_or(std::slice::from_ref(name), Vec::as_slice))
            .map(String::as_str)
            .collect()
    }

    /// The packages of all images: all of them, or the smallest ones up to a size.
    fn wanted(&self, megabytes: Option<u64>) -> Result<BTreeSet<&str>, Failure> {
        let all: BTreeSet<&str> = self.image.keys().flat_map(|image| self.packages(image)).collect();
        let Some(megabytes) = megabytes else { return Ok(all) };
        let mut sizes =
            all.into_iter().map(|name| Ok((size(name)?, name))).collect::<Result<Vec<_>, Failure>>()?;
        sizes.sort_unstable();
        let mut sum = 0;
        let small = sizes.into_iter().take_while(|(size, _)| {
            sum += size;
            sum <= megabytes * 1_000_000
        });
        Ok(small.map(|(_, name)| name).collect())
    }
}

/// How large Debian says that a package is.
fn size(package: &str) -> Result<u64, Failure> {
    let told = output(&mut command("apt-cache", &["show", "--no-all-versions", package]))?;
    let size = told.lines().find_map(|line| line.strip_prefix("Size: ")?.parse().ok());
    size.ok_or_else(|| format!("apt-cache show {package}: no size"))
}

/// A layer, as manifests and configs tell of it.
struct Layer {
    diff_id: String,
    digest: String,
    size: u64,
}

/// The images, in an OCI image layout and in a registry's storage; the blobs are the same files.
pub struct Data {
    dir: PathBuf,
    /// The images' names.
    pub images: Vec<String>,
    /// Unique bytes of all blobs.
    pub bytes: u64,
}

impl Data {
    /// Makes them, unless that was done before.
    ///
    /// # Errors
    /// When a package can't be had, or a tool fails.
    pub fn ensure(tools: &Tools, megabytes: Option<u64>) -> Result<Self, Failure> {
        let recipe: Recipe = toml::from_str(RECIPE).map_err(|e| format!("reading packages.toml: {e}"))?;
        let mut hasher = DefaultHasher::new();
        (RECIPE, VERSION, megabytes).hash(&mut hasher);
        let cache = tools.cache("bench")?;
        let name = format!("transfer-{:016x}", hasher.finish());
        let dir = cache.join(&name);
        if !dir.exists() {
            // In a directory of its own first: a run that is ended half-way leaves nothing that looks complete.
            let draft = cache.join(format!("{name}.draft"));
            parts::remove(&draft);
            Maker { recipe: &recipe, dir: &draft }.make(&recipe.wanted(megabytes)?)?;
            fs::rename(&draft, &dir).map_err(|e| format!("renaming {}: {e}", draft.display()))?;
        }
        let images = recipe.image.keys().cloned().collect();
        let mut data = Self { dir, images, bytes: 0 };
        data.bytes = data.blobs()?.values().sum();
        Ok(data)
    }

    /// The image with the fewest bytes.
    ///
    /// # Errors
    /// When the layout can't be read.
    pub fn smallest(&self) -> Result<String, Failure> {
        let sizes = self.blobs()?;
        let mut images = Vec::new();
        for (digest, image) in manifests(&self.layout())? {
            let manifest = json_of(&blobs(&self.layout()).join(digest_hex(&digest)))?;
            let layers = manifest["layers"].as_array().into_iter().flatten();
            let digests = layers.filter_map(|layer| layer["digest"].as_str());
            images.push((digests.filter_map(|digest| sizes.get(digest_hex(digest))).sum::<u64>(), image));
        }
        images.into_iter().min().map(|(_, image)| image).ok_or_else(|| "there are no images".into())
    }

    /// The OCI image layout.
    pub fn layout(&self) -> PathBuf {
        self.dir.join("layout")
    }

    /// Starts the registry that has them.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn registry(&self) -> Result<Registry, Failure> {
        Registry::start(Place::Here, &self.dir.join("registry"))
    }

    /// The size of each blob, by its hexadecimal digest.
    fn blobs(&self) -> Result<BTreeMap<String, u64>, Failure> {
        let dir = blobs(&self.layout());
        let reading = |e| format!("reading {}: {e}", dir.display());
        let sizes = fs::read_dir(&dir).map_err(reading)?.map(|entry| {
            let entry = entry.map_err(reading)?;
            Ok((entry.file_name().to_string_lossy().into(), entry.metadata().map_err(reading)?.len()))
        });
        sizes.collect()
    }

    /// Where each blob of the images is below a registry's `/v2/`, once, the largest first.
    ///
    /// # Errors
    /// When the layout can't be read.
    pub fn paths(&self) -> Result<Vec<String>, Failure> {
        let mut sizes = self.blobs()?;
        let mut paths = Vec::new();
        for (digest, image) in manifests(&self.layout())? {
            sizes.remove(digest_hex(&digest));
            let file = blobs(&self.layout()).join(digest_hex(&digest));
            let manifest = json_of(&file)?;
            let layers = manifest["layers"].as_array().into_iter().flatten().chain([&manifest["config"]]);
            for digest in layers.filter_map(|blob| blob["digest"].as_str()) {
                if let Some(size) = sizes.remove(digest_hex(digest)) {
                    paths.push((size, format!("{UPSTREAM}/{image}/blobs/{digest}")));
                }
            }
        }
        paths.sort_unstable_by(|a, b| b.cmp(a));
        Ok(paths.into_iter().map(|(_, path)| path).collect())
    }
}

/// Digest and name of each image of a layout.
fn manifests(layout: &Path) -> Result<Vec<(String, String)>, Failure> {
    let index = json_of(&layout.join("index.json"))?;
    let images = index["manifests"].as_array().into_iter().flatten().filter_map(|manifest| {
        let name = manifest["annotations"]["org.opencontainers.image.ref.name"].as_str()?;
        Some((manifest["digest"].as_str()?.into(), name.into()))
    });
    Ok(images.collect())
}

fn json_of(file: &Path) -> Result<Value, Failure> {
    let content = fs::read(file).map_err(|e| format!("reading {}: {e}", file.display()))?;
    serde_json::from_slice(&content).map_err(|e| format!("reading {}: {e}", file.display()))
}

fn blobs(layout: &Path) -> PathBuf {
    layout.join("blobs/sha256")
}

fn digest_hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

struct Maker<'a> {
    recipe: &'a Recipe,
    dir: &'a Path,
}

impl Maker<'_> {
    fn make(&self, packages: &BTreeSet<&str>) -> Outcome {
        tools::packages(&[("dpkg-deb", "dpkg"), ("openssl", "openssl"), ("gzip", "gzip")])?;
        println!("making images of {} Debian packages below {}", packages.len(), self.dir.display());
        let layout = self.dir.join("layout");
        fs::create_dir_all(blobs(&layout)).map_err(|e| format!("making {}: {e}", layout.display()))?;
        let mut download = command("apt-get", &["-o", "APT::Sandbox::User=root", "download"]);
        run(download.args(packages).current_dir(self.dir))?;
        let layers = self.layers(packages)?;
        let mut manifests = Vec::new();
        for image in self.recipe.image.keys() {
            let layers: Vec<_> =
                self.recipe.packages(image).into_iter().filter_map(|name| layers.get(name)).collect();
            manifests.push(self.image(image, &layers)?);
        }
        write(&layout.join("oci-layout"), &json!({"imageLayoutVersion": "1.0.0"}))?;
        write(&layout.join("index.json"), &json!({"schemaVersion": 2, "manifests": manifests}))?;
        self.push(&layout)
    }

    /// Makes all layers, some at the same time.
    fn layers<'p>(&self, packages: &BTreeSet<&'p str>) -> Result<BTreeMap<&'p str, Layer>, Failure> {
        let queue = Mutex::new(packages.iter().copied());
        let next =
            || queue.lock().map_err(|_| "making layers: another one failed".to_owned()).map(|mut q| q.next());
        let work = || -> Result<Vec<(&'p str, Layer)>, Failure> {
            let mut made = Vec::new();
            while let Some(package) = next()? {
                made.push((package, self.layer(package)?));
            }
            Ok(made)
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
            let mut layers = BTreeMap::new();
            for worker in workers {
                layers.extend(worker.join().map_err(|_| "making layers: a thread panicked".to_owned())??);
            }
            Ok(layers)
        })
    }

    fn layer(&self, package: &str) -> Result<Layer, Failure> {
        let args = ["-o", "pipefail", "-ec", LAYER, "layer", package];
        let told = output(command("bash", &args).current_dir(self.dir))?;
        match told.split_whitespace().collect::<Vec<_>>()[..] {
            [diff_id, digest, size] => Ok(Layer {
                diff_id: format!("sha256:{diff_id}"),
                digest: format!("sha256:{digest}"),
                size: size.parse().map_err(|e| format!("the size of {package}'s layer: {e}"))?,
            }),
            _ => Err(format!("making a layer of {package}: {told}")),
        }
    }

    /// Writes config and manifest, and returns what the index says of them.
    fn image(&self, name: &str, layers: &[&Layer]) -> Result<Value, Failure> {
        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
        let config = self.blob(
            "application/vnd.oci.image.config.v1+json",
            &json!({
                "architecture": "amd64", "os": "linux", "config": {"Labels": {"name": name}},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            }),
        )?;
        let layers = layers.iter().map(|layer| {
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer.digest, "size": layer.size})
        });
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers.collect::<Vec<_>>()});
        let mut descriptor = self.blob(kind, &manifest)?;
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        Ok(descriptor)
    }

    /// Writes a blob of JSON, and returns its descriptor.
    fn blob(&self, kind: &str, content: &Value) -> Result<Value, Failure> {
        let draft = self.dir.join("blob");
        write(&draft, content)?;
        let told = output(&mut command("openssl", &["dgst", "-sha256", "-r", text(&draft)?]))?;
        let hex = told.split(' ').next().unwrap_or_default();
        let blob = blobs(&self.dir.join("layout")).join(hex);
        fs::rename(&draft, &blob).map_err(|e| format!("renaming {}: {e}", draft.display()))?;
        Ok(json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": content.to_string().len()}))
    }

    /// Pushes the images into a registry, as users do, and lets the layout have the registry's files instead of its own.
    fn push(&self, layout: &Path) -> Outcome {
        let registry = Registry::start(Place::Here, &self.dir.join("registry"))?;
        for image in self.recipe.image.keys() {
            let from = format!("oci:{}:{image}", layout.display());
            let to = format!("docker://{}/{UPSTREAM}/{image}:1", registry.host);
            run(&mut command(
                "skopeo",
                &["copy", "--quiet", "--all", "--dest-tls-verify=false", &from, &to],
            ))?;
        }
        drop(registry);
        let stored = self.dir.join("registry/data/docker/registry/v2/blobs/sha256");
        for entry in
            fs::read_dir(blobs(layout)).map_err(|e| format!("reading {}: {e}", layout.display()))?.flatten()
        {
            let name = entry.file_name();
            let file = stored.join(&name.to_string_lossy()[..2]).join(&name).join("data");
            let link = self.dir.join("blob");
            fs::hard_link(&file, &link)
                .and_then(|()| fs::rename(&link, entry.path()))
                .map_err(|e| format!("linking {}: {e}", file.display()))?;
        }
        Ok(())
    }
}

fn write(file: &Path, content: &Value) -> Outcome {
    fs::write(file, content.to_string()).map_err(|e| format!("writing {}: {e}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_images_share_their_bases() {
        let recipe: Recipe = toml::from_str(RECIPE).expect("packages.toml");
        assert_eq!(recipe.image.len(), 20);
        assert!(recipe.image.keys().all(|image| recipe.packages(image).starts_with(&["libc6"])));
        assert_eq!(recipe.packages("go").last(), Some(&"golang-1.19-go"));
        let mentioned: usize = recipe.image.keys().map(|image| recipe.packages(image).len()).sum();
        assert!(recipe.wanted(None).expect("all").len() < mentioned / 3);
    }
}
