//! Which helm is run: the one that is named, else the bundle's own, else the one on PATH.

use std::path::{Path, PathBuf};

use super::unpack::write;
use crate::error::{Error, Result};
use crate::format::{File, HELM_FILE};
use crate::helm::Helm;
use crate::verify::VerifiedBundle;

/// Largest program in an archive of helm's, in bytes.
const HELM_CAP: u64 = 1 << 30;

/// Finds helm: the one at `explicit`, else the one that `bundle` carries for this machine, unpacked to `directory`, else the
/// one on PATH. A bundle's own is not run unless a signature was checked.
///
/// # Errors
/// When there is none, or it does not run. The hint says why the bundle's own was not taken.
pub fn find_helm(explicit: Option<&Path>, bundle: Option<&VerifiedBundle>, directory: &Path) -> Result<Helm> {
    let (None, Some(bundle)) = (explicit, bundle) else { return Helm::find(explicit) };
    let carried: Vec<&File> = bundle.manifest().files.iter().filter(|file| file.name == HELM_FILE).collect();
    let here = platform();
    let fits = |file: &&&File| file.platform.as_ref().is_none_or(|p| p.to_string() == here);
    let otherwise = match carried.iter().find(fits) {
        // A program is not run on the word of nobody.
        Some(_) if bundle.signer().is_none() => {
            "the bundle carries helm, which is not run without a signature that was checked: give --key, install helm 4, or name it with --helm".into()
        }
        Some(file) => return Helm::find(Some(&unpack(bundle, file, directory)?)),
        None if carried.is_empty() => return Helm::find(None),
        None => {
            let platforms = carried.iter().filter_map(|file| file.platform.as_ref()).map(ToString::to_string);
            let platforms = platforms.collect::<Vec<_>>().join(", ");
            format!("the bundle carries helm for {platforms}, and this machine is {here}: install helm 4 here, or name it with --helm")
        }
    };
    Helm::find(None).map_err(|error| error.hint(otherwise))
}

/// This machine's platform, as bundles name it.
fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{architecture}", std::env::consts::OS)
}

/// Unpacks the bundle's helm, and makes it runnable.
fn unpack(bundle: &VerifiedBundle, file: &File, directory: &Path) -> Result<PathBuf> {
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
    Ok(path)
}
