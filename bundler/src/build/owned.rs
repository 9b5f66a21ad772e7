//! Opening the files that a build writes beside the bundle, and goes on from if they are there.
//!
//! Threat model: the directory may be one that others write to. A file that somebody else owns, or can change meanwhile, is
//! neither written to nor believed; nor is the target of a link.

use std::fs::{File, Metadata};
use std::io::{Error as IoError, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use super::write_error;
use crate::error::{Error, Result};

/// Permission bits by which others than the owner write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Opens a file of this user's alone, or makes it with the permissions `mode`.
///
/// # Errors
/// When it can't be opened, is a link or no regular file, has a second name, belongs to another user, or is writable by others.
pub(super) fn open(path: &Path, mode: u32) -> Result<File> {
    // A pipe without a reader must not be waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let mut options = File::options();
    options.read(true).write(true).mode(mode).custom_flags(flags);
    match options.clone().create_new(true).open(path) {
        Ok(file) => return Ok(file),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(write_error(path, e)),
    }
    // Its owner may have taken it away meanwhile.
    let opened = options.create(true).truncate(false).open(path);
    let file = opened.map_err(|e| match path.is_symlink() {
        true => refusal(path, "it is a symbolic link".into()),
        false => write_error(path, e),
    })?;
    let found = file.metadata().map_err(|e| write_error(path, e))?;
    match objection(&found, rustix::process::geteuid().as_raw()) {
        Some(why) => Err(refusal(path, why)),
        None => Ok(file),
    }
}

/// The reason why a file is not taken over by `user`, if there is one.
fn objection(found: &Metadata, user: u32) -> Option<String> {
    if !found.is_file() {
        return Some("it is not a regular file".into());
    }
    if found.uid() != user {
        return Some(format!("it belongs to another user (uid {}, and this is {user})", found.uid()));
    }
    if found.nlink() > 1 {
        return Some("it has a second name (a hard link)".into());
    }
    let mode = found.mode() & 0o777;
    (mode & WRITABLE_BY_OTHERS != 0).then(|| format!("others may write to it (mode {mode:03o})"))
}

fn refusal(path: &Path, why: String) -> Error {
    Error::input(format!("taking over {} of an unfinished build", path.display()), IoError::other(why))
        .hint("delete it and run the same command again, or choose a directory of your own with --output")
}
