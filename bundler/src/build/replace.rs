//! The file that a build is to replace: what others have added to it, or made of it, is not lost unasked.

use std::path::Path;

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::format::Manifest;
use crate::sign;

/// Finds the signatures of others at `output` that the new bundle is to keep: those of a bundle with the same manifest. `own` is
/// the key that signs the new one.
///
/// # Errors
/// When the file has something that would be lost: it is no sound bundle, or another one with signatures of others, with
/// another name, or that is not older.
pub(super) fn kept(
    output: &Path,
    manifest: &Manifest,
    bytes: &[u8],
    own: Option<&str>,
) -> Result<Vec<Vec<u8>>> {
    if output.symlink_metadata().is_err() {
        return Ok(vec![]);
    }
    let refuse = |why: String| {
        Err(Error::input(
            format!("writing bundle {}", output.display()),
            format!("there is a file already: {why}"),
        )
        .hint("name another file with --output, or replace this one with --force"))
    };
    let there = match Bundle::open(output) {
        Ok(there) => there,
        Err(error) => return refuse(format!("it is no sound bundle ({error})")),
    };
    let signers = there.signers();
    let others: Vec<&str> = signers.iter().map(String::as_str).filter(|id| Some(*id) != own).collect();
    if there.manifest_bytes() == bytes {
        let entries = there.signatures().into_iter();
        let of_others = |entry: &&[u8]| sign::signer(entry).is_ok_and(|id| others.contains(&id.as_str()));
        return Ok(entries.filter(of_others).map(<[u8]>::to_vec).collect());
    }
    let (old, new) = (there.manifest(), manifest);
    if !others.is_empty() {
        return refuse(format!("another bundle, with the signature of key {}", others.join(", ")));
    }
    if old.name != new.name {
        return refuse(format!("bundle {}, and this is {}", old.name, new.name));
    }
    if old.serial >= new.serial {
        return refuse(format!(
            "another bundle {}, with serial {}, and this has {}",
            old.name, old.serial, new.serial
        ));
    }
    Ok(vec![])
}
