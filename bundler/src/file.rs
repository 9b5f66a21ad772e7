//! Small files that somebody names. A device or a pipe may never end, or never begin: only regular files are read, and
//! no more of them than they may have; and what is written is there as it was, or whole.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Most that a file with settings, keys or certificates has, in bytes.
pub const TEXT_CAP: u64 = 16 << 20;
/// How the names of files begin that [`replace`] writes, and that stay where a process is killed in it.
pub const DRAFT: &str = ".airlock-";

/// Opens a regular file, or what a link leads to if it is one.
///
/// # Errors
/// When it is none, or can't be opened.
pub fn open(path: &Path) -> io::Result<File> {
    // Looked at first: opening a pipe waits for somebody who writes.
    match path.metadata()?.is_file() {
        true => File::open(path),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// The whole content.
///
/// # Errors
/// As [`open`], and when there are more than `cap` bytes.
pub fn read(path: &Path, cap: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(cap + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > cap {
        true => Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is larger than {cap} bytes"))),
        false => Ok(bytes),
    }
}

/// The whole content, which is UTF-8 and at most [`TEXT_CAP`] bytes.
///
/// # Errors
/// As [`read`], and when it is no text.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path, TEXT_CAP)?).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

/// The file with this name and `suffix` behind it.
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes a file, with the permissions `mode`, so that there is the old one, or all of the new: for its owner only until it is.
///
/// # Errors
/// When it can't be written.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut draft = tempfile::Builder::new().prefix(DRAFT).tempfile_in(directory)?;
    draft.write_all(bytes)?;
    draft.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
    draft.as_file().sync_all()?;
    draft.persist(path)?;
    sync_directory(directory)
}

/// Makes names that were just given or taken in a directory last beyond a crash of the system.
///
/// # Errors
/// When the system can't.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_their_size_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, b"12345\xff").expect("written");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        assert_eq!(read(&link, 6).expect("read"), b"12345\xff");
        assert!(read(&file, 5).expect_err("too large").to_string().contains("larger than 5"));
        assert!(read_text(&file).expect_err("no text").to_string().contains("UTF-8"));
        for path in [dir.path(), Path::new("/dev/zero"), Path::new("/dev/null")] {
            assert!(read(path, 5).expect_err("no file").to_string().contains("not a regular file"));
        }
    }
}
