//! A bundle's charts, values and helm in files, for helm.

use std::path::{Path, PathBuf};

use super::{Site, Unpacked};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::{self, Chart};
use crate::verify::{VerifiedBundle, chart_content};

/// Name of the file that a bundle carries helm as.
const HELM_FILE: &str = "helm";
/// Largest program in an archive of helm's, in bytes.
const HELM_CAP: u64 = 1 << 30;

/// Unpacks one chart to `directory`, which is made.
pub(super) fn unpack<'a>(
    bundle: &VerifiedBundle,
    chart: &'a Chart,
    site: &'a Site,
    directory: &Path,
) -> Result<Unpacked<'a>> {
    std::fs::create_dir(directory)
        .map_err(|e| Error::input(format!("making directory {}", directory.display()), e))?;
    let content = chart_content(bundle, chart)?;
    let path = directory.join("chart.tgz");
    write(bundle, &content, &path)?;
    let mut values = Vec::new();
    for (n, digest) in chart.values.iter().enumerate() {
        let path = directory.join(format!("values-{n}.yaml"));
        write(bundle, digest, &path)?;
        values.push(path);
    }
    values.extend(site.values.get(&chart.release).into_iter().flatten().cloned());
    let set = chart.set.iter().chain(site.set.get(&chart.release).into_iter().flatten()).cloned().collect();
    let title = format!("{} {}", chart.name, chart.version);
    Ok(Unpacked { chart, title, path, values, set, namespace: site.namespace_of(chart).map(Into::into) })
}

/// Writes a blob to a file, checked.
fn write(bundle: &VerifiedBundle, digest: &Digest, path: &Path) -> Result<()> {
    use std::io::Write as _;
    let writing = |e| Error::input(format!("writing {}", path.display()), e);
    let mut file = std::fs::File::create(path).map_err(writing)?;
    bundle.read(digest, |chunk| file.write_all(chunk).map_err(writing))
}

/// The bundle's helm for this machine, made runnable.
pub(super) fn carried_helm(bundle: &VerifiedBundle, directory: &Path) -> Result<Option<PathBuf>> {
    let here = match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        other => other,
    };
    let fits = |file: &&format::File| {
        file.name == HELM_FILE && file.platform.as_ref().is_none_or(|p| p.to_string() == here)
    };
    let Some(file) = bundle.manifest().files.iter().find(fits) else { return Ok(None) };
    let packed = directory.join("helm.file");
    write(bundle, &file.digest, &packed)?;
    let path = directory.join(HELM_FILE);
    let unpacking = |e: std::io::Error| Error::input("unpacking the bundle's helm", e);
    let mut magic = [0; 2];
    let mut source = std::fs::File::open(&packed).map_err(unpacking)?;
    std::io::Read::read_exact(&mut source, &mut magic).map_err(unpacking)?;
    if magic == [0x1f, 0x8b] {
        // A release of helm: a packed directory with the program in it.
        let source = std::fs::File::open(&packed).map_err(unpacking)?;
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(source));
        let mut found = false;
        for entry in archive.entries().map_err(unpacking)? {
            let mut entry = entry.map_err(unpacking)?;
            if entry.header().entry_type().is_file() && entry.path().is_ok_and(|p| p.ends_with(HELM_FILE)) {
                if entry.size() > HELM_CAP {
                    let why = format!("its program has {} bytes, and may have {HELM_CAP}", entry.size());
                    return Err(Error::input("unpacking the bundle's helm", why));
                }
                let mut target = std::fs::File::create(&path).map_err(unpacking)?;
                std::io::copy(&mut entry, &mut target).map_err(unpacking)?;
                found = true;
                break;
            }
        }
        if !found {
            return Err(Error::input("unpacking the bundle's helm", "there is no program called helm in it"));
        }
    } else {
        std::fs::rename(&packed, &path).map_err(unpacking)?;
    }
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(unpacking)?;
    Ok(Some(path))
}
