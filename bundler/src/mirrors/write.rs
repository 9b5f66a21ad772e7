//! A node's files into a directory: each whole or not at all, and never over what others wrote.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;

use super::{MARK, NodeFile};
use crate::error::{Error, Result};
use crate::file;

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was not there.
    Created,
    /// It had other content.
    Replaced,
    /// It was as it is to be.
    Unchanged,
}

/// Writes the files below `root`, which may be `/`. Before the first is written, all are looked at.
///
/// # Errors
/// When a file of others would be lost (not with `force`), or one can't be written; the message says which are written then.
pub fn write(root: &Path, files: &[NodeFile], force: bool) -> Result<Vec<State>> {
    let mut states = vec![];
    let mut foreign = vec![];
    for file in files {
        let path = root.join(&file.path);
        let state = match file::read(&path, file::TEXT_CAP) {
            Ok(found) if found == file.content.as_bytes() => State::Unchanged,
            Ok(found) => {
                if !found.starts_with(MARK.as_bytes()) {
                    foreign.push(format!("\n  {}", path.display()));
                }
                State::Replaced
            }
            Err(e) if e.kind() == ErrorKind::NotFound => State::Created,
            Err(e) => return Err(Error::input(format!("reading {}", path.display()), e)),
        };
        states.push(state);
    }
    if !foreign.is_empty() && !force {
        let why = format!("these are not airlock's, and would be lost:{}", foreign.concat());
        return Err(Error::input(format!("writing below {}", root.display()), why)
            .hint("merge by hand what is printed without --output-dir, or write over them with --force"));
    }
    for (n, (file, state)) in files.iter().zip(&states).enumerate() {
        if *state != State::Unchanged {
            let path = root.join(&file.path);
            put(&path, &file.content).map_err(|e| {
                let action = format!("writing {} ({n} of {} files are written)", path.display(), files.len());
                Error::unwritable(action, e, "--output-dir")
            })?;
        }
    }
    Ok(states)
}

fn put(path: &Path, content: &str) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir)?;
    // Nothing in them is secret, and programs that are not root's read them.
    file::replace(path, content.as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_of_others_stay_and_ours_are_replaced() {
        let root = tempfile::tempdir().expect("a directory");
        let file = |path: &str, content: &str| NodeFile { path: path.into(), content: content.into() };
        let ours = |content: &str| [file("a/b", &format!("{MARK}{content}")), file("c", "{}")];
        let write = |content: &str, force| write(root.path(), &ours(content), force);
        assert_eq!(write("1", false).expect("written"), [State::Created, State::Created]);
        assert_eq!(write("1", false).expect("written"), [State::Unchanged, State::Unchanged]);
        assert_eq!(write("2", false).expect("written"), [State::Replaced, State::Unchanged]);
        fs::write(root.path().join("c"), "theirs").expect("written");
        let error = write("3", false).expect_err("a file of others");
        assert!(error.to_string().contains("\n  ") && error.to_string().ends_with("/c"), "{error}");
        assert!(fs::read_to_string(root.path().join("a/b")).expect("a/b").ends_with('2'), "half-way");
        assert_eq!(write("3", true).expect("written"), [State::Replaced, State::Replaced]);
        let mode = fs::metadata(root.path().join("c")).expect("c").permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(fs::read_dir(root.path()).expect("a directory").count(), 2, "left-overs");
    }
}
