//! What `docker save` writes, made an OCI image: always the same one.
//!
//! Its layers are uncompressed, so a layer's digest is its diff ID in the config, and the config's digest (the image's
//! ID) pins them all. Old engines write `<id>/layer.tar` files and links between them, newer ones an OCI layout with
//! the same `manifest.json` beside it.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{LocalImage, Located, each_entry, inside, open_tar};
use crate::cache::{ContentCache, Finished};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::DOCKER_MANIFEST;
use crate::image::{self, Descriptor, Parsed};
use crate::reference::Reference;

/// Media type of an image's config.
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an uncompressed layer.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Longest chain of links that is followed.
const LINKS_CAP: usize = 32;
/// Most that a compressed layer unpacks to: so many bytes,
const UNPACKED: u64 = 1 << 30;
/// or so many times its size, whichever is more.
const RATIO: u64 = 256;

/// Opens an image of a file that `docker save` wrote; converts it unless `cache` has it.
pub(super) fn open_archive(
    path: &Path,
    wanted: Option<&Reference>,
    cache: &ContentCache,
) -> Result<LocalImage> {
    let action = format!("reading docker archive {}", path.display());
    let failed = |e: std::io::Error| Error::input(&action, e);
    let mut contents = Contents::default();
    let mut archive = tar::Archive::new(open_tar(path)?);
    each_entry(archive.entries_with_seek(), failed, |name, entry| {
        if entry.header().entry_type().is_file() {
            let (offset, size) = (entry.raw_file_position(), entry.size());
            contents.file(&action, name, Located { path: path.into(), offset, size })
        } else {
            contents.link(name, entry);
            Ok(())
        }
    })?;
    let saved = contents.image(&action, wanted)?;
    if let Some(image) = converted(cache, &Digest::of(&saved.config)) {
        return Ok(image);
    }
    saved.store(&action, cache, |located| {
        let mut file = crate::file::open(&located.path).map_err(failed)?;
        file.seek(SeekFrom::Start(located.offset)).map_err(failed)?;
        let mut writer = cache.writer()?;
        writer.copy(&mut file.take(located.size), failed)?;
        Ok(writer.finish())
    })
}

/// Converts an image out of what an engine sends as `docker save` would write it, without a copy of the whole.
/// `origin` says what it is; `failed` words an error in receiving it.
pub(super) fn convert_stream(
    origin: &str,
    stream: impl Read,
    failed: impl Fn(std::io::Error) -> Error,
    cache: &ContentCache,
) -> Result<LocalImage> {
    let action = format!("reading {origin}");
    let mut contents = Contents::default();
    // Which files are layers is said at the end: all are written, and what is not needed goes when this is dropped.
    let mut parts: HashMap<PathBuf, Finished> = HashMap::new();
    let mut archive = tar::Archive::new(stream);
    each_entry(archive.entries(), &failed, |name, entry| {
        if !entry.header().entry_type().is_file() {
            contents.link(name, entry);
            return Ok(());
        }
        let mut writer = cache.writer()?;
        writer.copy(entry, &failed)?;
        let part = writer.finish();
        if part.size() != entry.size() {
            return Err(Error::input(&action, format!("it is cut short in {name}")));
        }
        contents.file(&action, name, Located { path: part.path(), offset: 0, size: part.size() })?;
        parts.insert(part.path(), part);
        Ok(())
    })?;
    contents.image(&action, None)?.store(&action, cache, |located| {
        parts.remove(&located.path).ok_or_else(|| Error::input(&action, "two different layers are one file"))
    })
}

/// What an image's config says of its layers.
#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// What `cache` has of the image whose config has the digest `id`. A record there may be damaged, or somebody else's: the image
/// must be the one that the config pins.
pub(super) fn converted(cache: &ContentCache, id: &Digest) -> Option<LocalImage> {
    let image = LocalImage::from_cache(cache, &cache.converted(id)?)?;
    let Parsed::Manifest(manifest) = image::parse("", &image.manifest(&image.root.digest).ok()?).ok()? else {
        return None;
    };
    let config: Config = serde_json::from_slice(&image.manifest(id).ok()?).ok()?;
    let layers = manifest.layers.iter().map(|layer| layer.digest);
    (manifest.config.digest == *id && layers.eq(config.rootfs.diff_ids)).then_some(image)
}

/// The files and links of an archive, by path.
#[derive(Default)]
struct Contents {
    files: HashMap<String, Located>,
    links: HashMap<String, String>,
}

impl Contents {
    fn file(&mut self, action: &str, path: String, located: Located) -> Result<()> {
        match self.files.insert(path.clone(), located) {
            None => Ok(()),
            Some(_) => Err(Error::input(action, format!("{path} is in it twice"))),
        }
    }

    /// Notes a link; a link that leads out of the archive leads nowhere.
    fn link(&mut self, path: String, entry: &tar::Entry<'_, impl Read>) {
        let kind = entry.header().entry_type();
        let Some(target) = entry.link_name_bytes() else { return };
        let target = String::from_utf8_lossy(&target).into_owned();
        let target = match path.rsplit_once('/') {
            Some((directory, _)) if kind.is_symlink() => format!("{directory}/{target}"),
            _ => target,
        };
        if let Some(target) = inside(&target).filter(|_| kind.is_symlink() || kind.is_hard_link()) {
            self.links.insert(path, target);
        }
    }

    /// The file at `path`, links followed.
    fn find(&self, action: &str, path: &str) -> Result<&Located> {
        let mut at = inside(path);
        for _ in 0..LINKS_CAP {
            let Some(path) = &at else { break };
            if let Some(located) = self.files.get(path) {
                return Ok(located);
            }
            at = self.links.get(path).cloned();
        }
        Err(Error::input(action, format!("it has no file {path}")))
    }

    /// The image that is wanted; without a name, the only one.
    fn image(&self, action: &str, wanted: Option<&Reference>) -> Result<Saved> {
        let manifest = self.find(action, DOCKER_MANIFEST).map_err(|e| {
            e.hint("it must be what docker save writes; for an OCI layout in a tar file, use oci-archive:")
        })?;
        let item = choose(action, &manifest.read()?, wanted)?;
        let config = self.find(action, &item.config)?.read()?;
        let parsed: Config = serde_json::from_slice(&config)
            .map_err(|e| Error::input(action, format!("config {}: {e}", item.config)))?;
        let (layers, diff_ids) = (item.layers.unwrap_or_default(), parsed.rootfs.diff_ids);
        if layers.len() != diff_ids.len() {
            let (has, says) = (layers.len(), diff_ids.len());
            return Err(Error::trust(action, format!("it has {has} layers where its config says {says}")));
        }
        let located = layers.iter().map(|path| self.find(action, path).cloned());
        let layers = located.zip(diff_ids).map(|(l, id)| Ok((l?, id))).collect::<Result<_>>()?;
        Ok(Saved { config, layers })
    }
}

/// An entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl Item {
    fn is(&self, wanted: &Reference) -> bool {
        let names = self.repo_tags.iter().flatten().filter_map(|t| t.parse::<Reference>().ok());
        names.into_iter().any(|name| name.normalised() == *wanted)
    }

    fn name(&self) -> String {
        match self.repo_tags.as_deref() {
            None | Some([]) => self.config.clone(),
            Some(tags) => tags.join(", "),
        }
    }
}

/// The entry of `manifest.json` that is wanted; without a name, the only one.
fn choose(action: &str, manifest: &[u8], wanted: Option<&Reference>) -> Result<Item> {
    let mut items: Vec<Item> = serde_json::from_slice(manifest)
        .map_err(|e| Error::input(action, format!("{DOCKER_MANIFEST}: {e}")))?;
    let has = items.iter().map(Item::name).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = wanted {
        items.retain(|item| item.is(wanted));
    }
    let reason = match (items.len(), items.pop(), wanted) {
        (1, Some(item), _) => return Ok(item),
        (0, _, Some(wanted)) => format!("it has no image {wanted}; it has: {has}"),
        (0, ..) => return Err(Error::input(action, "it has no image")),
        _ => format!("it has several images: {has}"),
    };
    Err(Error::input(action, reason).hint("write which one after the path: docker-archive:FILE:NAME:TAG"))
}

/// An image in an archive: its config, and where each layer is, with the digest that it must have.
struct Saved {
    config: Vec<u8>,
    layers: Vec<(Located, Digest)>,
}

impl Saved {
    /// Puts the image into `cache`; `layer` brings what lies at a place there.
    fn store<'c>(
        &self,
        action: &str,
        cache: &'c ContentCache,
        mut layer: impl FnMut(&Located) -> Result<Finished<'c>>,
    ) -> Result<LocalImage> {
        let mut sizes: BTreeMap<Digest, u64> = BTreeMap::new();
        for (located, diff_id) in &self.layers {
            if !sizes.contains_key(diff_id) {
                let part = uncompressed(action, layer(located)?, diff_id, cache)?;
                sizes.insert(*diff_id, part.size());
                part.keep()?;
            }
        }
        let layers: Vec<Descriptor> = self
            .layers
            .iter()
            .filter_map(|(_, id)| sizes.get(id).map(|size| Descriptor::new(LAYER, *id, *size)))
            .collect();
        let manifest = image::oci_manifest(&Descriptor::of(CONFIG, &self.config), &layers, &BTreeMap::new())
            .map_err(|e| Error::input(action, e))?;
        let config = cache.put(&self.config)?;
        let manifest = cache.put(&manifest)?;
        cache.record_conversion(&config, &manifest)?;
        LocalImage::from_cache(cache, &manifest)
            .ok_or_else(|| Error::input(action, "what was just stored in the cache is gone"))
    }
}

/// A layer as its diff ID says; engines that keep layers as they were pulled save them compressed.
fn uncompressed<'c>(
    action: &str,
    part: Finished<'c>,
    diff_id: &Digest,
    cache: &'c ContentCache,
) -> Result<Finished<'c>> {
    if part.digest() == *diff_id {
        return Ok(part);
    }
    let failed = |e: std::io::Error| Error::input(format!("{action}: layer {diff_id}"), e);
    let mut file = crate::file::open(&part.path()).map_err(failed)?;
    let mut magic = Vec::new();
    file.by_ref().take(2).read_to_end(&mut magic).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let mut found = part.digest();
    if magic == b"\x1f\x8b" {
        let mut writer = cache.writer()?;
        let most = UNPACKED.max(part.size() * RATIO);
        let mut unpacked = flate2::read::MultiGzDecoder::new(file).take(most + 1);
        writer.copy(&mut unpacked, failed)?;
        if unpacked.limit() == 0 {
            let why = format!("layer {diff_id} unpacks to more than {most} bytes, {RATIO} times its size");
            return Err(Error::trust(action, why));
        }
        let plain = writer.finish();
        if plain.digest() == *diff_id {
            return Ok(plain);
        }
        found = plain.digest();
    }
    Err(Error::trust(action, format!("a layer has the digest {found} where the config says {diff_id}")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use crate::source::tests::{Kind, tar_file};

    const LAYERS: [&[u8]; 2] = [b"lower", b"upper"];

    fn config(layers: &[&[u8]]) -> Vec<u8> {
        let diff_ids: Vec<Digest> = layers.iter().map(|l| Digest::of(l)).collect();
        let config =
            serde_json::json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": diff_ids}});
        serde_json::to_vec(&config).expect("JSON")
    }

    fn manifest(items: &[(&str, &[&str], &[&str])]) -> Vec<u8> {
        let items: Vec<_> = items
            .iter()
            .map(|(config, tags, layers)| serde_json::json!({"Config": config, "RepoTags": tags, "Layers": layers}))
            .collect();
        serde_json::to_vec(&items).expect("JSON")
    }

    /// What an old engine writes: a layer that is there already is a link to it.
    fn saved<'a>(config: &'a [u8], manifest: &'a [u8]) -> Vec<(&'a str, Kind<'a>)> {
        vec![
            ("a/layer.tar", Kind::File(LAYERS[0])),
            ("a/VERSION", Kind::File(b"1.0")),
            ("b/layer.tar", Kind::File(LAYERS[1])),
            ("c/layer.tar", Kind::Symlink("../a/layer.tar")),
            ("d/layer.tar", Kind::HardLink("b/layer.tar")),
            ("config.json", Kind::File(config)),
            ("manifest.json", Kind::File(manifest)),
        ]
    }

    fn cache() -> (tempfile::TempDir, ContentCache) {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = ContentCache::at(directory.path());
        (directory, cache)
    }

    fn stored(cache: &ContentCache) -> usize {
        fs::read_dir(cache.root().expect("a root").join("blobs/sha256")).map_or(0, Iterator::count)
    }

    fn stream(file: &tempfile::NamedTempFile, cache: &ContentCache) -> Result<LocalImage> {
        let file = fs::File::open(file.path()).expect("opened");
        convert_stream("the test", file, |e| Error::network("receiving", e), cache)
    }

    /// Opens it as a file and as a stream, which must fail alike and leave nothing in the cache.
    fn refused(entries: &[(&str, Kind)], says: &str) -> Error {
        let (_directory, cache) = cache();
        let file = tar_file(entries);
        let error = open_archive(file.path(), None, &cache).expect_err(says);
        let streamed = stream(&file, &cache).expect_err(says);
        for error in [&error, &streamed] {
            assert!(error.to_string().contains(says), "{says}: {error}");
        }
        assert_eq!(stored(&cache), 0, "{says}");
        error
    }

    #[test]
    fn layers_and_config_become_an_image_always_the_same() {
        let config = config(&[LAYERS[0], LAYERS[1], LAYERS[0], LAYERS[1]]);
        let layers = ["a/layer.tar", "b/layer.tar", "c/layer.tar", "d/layer.tar"];
        let manifest = manifest(&[("config.json", &["hello:1"], &layers)]);
        let file = tar_file(&saved(&config, &manifest));
        let (_one, first) = cache();
        let image = open_archive(file.path(), None, &first).expect("an image");
        let bytes = image.manifest(&image.root.digest).expect("the manifest");
        let Ok(Parsed::Manifest(parsed)) = image::parse("", &bytes) else { unreachable!("a manifest") };
        assert_eq!(parsed.config, Descriptor::of(CONFIG, &config));
        let expected = [0, 1, 0, 1].map(|n| Descriptor::of(LAYER, LAYERS[n]));
        assert_eq!(parsed.layers, expected);
        assert_eq!(image.manifest(&expected[1].digest).expect("a layer"), LAYERS[1]);
        assert_eq!(stored(&first), 4);

        let (_two, second) = cache();
        assert_eq!(stream(&file, &second).expect("an image").root, image.root);
        assert_eq!(stored(&second), 4);

        // What is lost from the cache is converted again, to the same.
        let id = Digest::of(&config);
        assert_eq!(converted(&first, &id).expect("in the cache").root, image.root);
        // A record that leads to another image is none.
        let (_three, forged) = cache();
        let other = tar_file(&[
            (DOCKER_MANIFEST, Kind::File(&self::manifest(&[("other.json", &[], &["x/layer.tar"])]))),
            ("other.json", Kind::File(&self::config(&LAYERS[1..]))),
            ("x/layer.tar", Kind::File(LAYERS[1])),
        ]);
        let other = stream(&other, &forged).expect("another image").root.digest;
        stream(&file, &forged).expect("an image");
        forged.record_conversion(&id, &other).expect("recorded");
        assert!(LocalImage::from_cache(&forged, &other).is_some() && converted(&forged, &id).is_none());

        fs::remove_file(first.path(&expected[0].digest).expect("there")).expect("removed");
        assert!(converted(&first, &id).is_none());
        assert_eq!(open_archive(file.path(), None, &first).expect("an image").root, image.root);
        assert_eq!(stored(&first), 4);
    }

    #[test]
    fn an_image_is_chosen_by_name() {
        let (config, other) = (config(&LAYERS[..1]), config(&LAYERS[1..]));
        let manifest = manifest(&[
            ("config.json", &["hello:1", "hello:2"], &["a/layer.tar"]),
            ("other.json", &[], &["b/layer.tar"]),
        ]);
        let mut entries = saved(&config, &manifest);
        entries.push(("other.json", Kind::File(&other)));
        let file = tar_file(&entries);
        let (_directory, cache) = cache();
        let open = |name: &str| open_archive(file.path(), Some(&name.parse().expect(name)), &cache);
        let image = open("docker.io/library/hello:2").expect("an image");
        assert_eq!(cache.converted(&Digest::of(&config)), Some(image.root.digest));
        let error = open("hello:3").expect_err("no such image");
        assert!(error.to_string().ends_with("hello:3; it has: hello:1, hello:2, other.json"), "{error}");
        assert!(error.hint_text().is_some_and(|h| h.contains("FILE:NAME:TAG")), "{error:?}");
        refused(&entries, "it has several images");
    }

    #[test]
    fn archives_that_lie_are_refused() {
        let (good, short) = (config(&LAYERS), config(&LAYERS[..1]));
        let layers = &["a/layer.tar", "b/layer.tar"][..];
        let of = |layers| manifest(&[("config.json", &[], layers)]);
        let plain = of(layers);
        assert_eq!(
            refused(&saved(&short, &plain), "2 layers where its config says 1").kind(),
            crate::Kind::Trust
        );
        let swapped = of(&["b/layer.tar", "a/layer.tar"]);
        let error = refused(&saved(&good, &swapped), "a layer has the digest");
        assert_eq!(error.kind(), crate::Kind::Trust);
        refused(&saved(&good, &of(&["a/layer.tar", "x/layer.tar"])), "it has no file x/layer.tar");
        refused(&saved(&good, &of(&["a/layer.tar", "../../etc/passwd"])), "it has no file ../../etc");
        refused(&saved(b"{}", &plain), "config config.json: missing field");
        refused(&saved(&good, b"["), "manifest.json: EOF");
        refused(&saved(&good, b"[]"), "it has no image");
        let with = |extra: &[(&'static str, Kind<'static>)]| [&saved(&good, &plain)[..], extra].concat();
        refused(&with(&[("a/layer.tar", Kind::File(b""))]), "a/layer.tar is in it twice");
        refused(&with(&[("../x", Kind::File(b""))]), "\"../x\" leads out of it");

        let linked = of(&["a/layer.tar", "x"]);
        for (name, target) in [("x", Kind::Symlink("x")), ("x", Kind::Symlink("../../a/layer.tar"))] {
            let mut entries = saved(&good, &linked);
            entries.push((name, target));
            refused(&entries, "it has no file x");
        }
        refused(&[("manifest.json", Kind::Symlink("/etc/passwd"))], "it has no file manifest.json");
        refused(&[], "it has no file manifest.json");
        let large = vec![b' '; super::super::MANIFEST_CAP as usize + 1];
        refused(&[("manifest.json", Kind::File(&large))], "bytes where at most");
    }

    #[test]
    fn compressed_layers_are_unpacked() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(LAYERS[0]).expect("compressed");
        let packed = gz.finish().expect("compressed");
        let (good, bad) = (config(&LAYERS[..1]), config(&LAYERS[1..]));
        let manifest = manifest(&[("config.json", &[], &["layer"])]);
        let entries = |config| {
            [
                ("layer", Kind::File(&packed)),
                ("config.json", Kind::File(config)),
                ("manifest.json", Kind::File(&manifest)),
            ]
        };
        let (_directory, cache) = cache();
        let image = open_archive(tar_file(&entries(&good)).path(), None, &cache).expect("an image");
        assert_eq!(image.manifest(&Digest::of(LAYERS[0])).expect("the layer"), LAYERS[0]);
        refused(&entries(&bad), "a layer has the digest");
    }

    #[test]
    fn what_is_cut_short_is_refused_at_any_length() {
        let config = config(&LAYERS);
        let manifest = manifest(&[("config.json", &[], &["a/layer.tar", "b/layer.tar"])]);
        let file = tar_file(&saved(&config, &manifest));
        let whole = fs::read(file.path()).expect("read");
        // The two blocks at the end, and the padding of the last entry, hold nothing.
        let needed = whole.len() - 1024 - 512 + manifest.len();
        for cut in (0..needed).step_by(97) {
            fs::write(file.path(), &whole[..cut]).expect("written");
            let (_directory, cache) = cache();
            for opened in [stream(&file, &cache), open_archive(file.path(), None, &cache)] {
                assert!(opened.is_err(), "{cut}");
            }
            assert_eq!(stored(&cache), 0, "{cut}");
        }
    }
}
