//! Directories that only this user can write to. Files in them decide which bytes are believed, overwritten or removed, so
//! a directory that others may have prepared is not used.
//!
//! A directory counts if it belongs to this process's user and neither its group nor others can write to it. It is opened
//! step by step, and everything in it is reached through its descriptor: no link in it is followed, and no later rename of
//! a directory above it leads elsewhere.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

/// Permissions of the directories that are made.
const DIRECTORY: Mode = Mode::RWXU;
/// Permissions of the files that are made.
const FILE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Permissions of others than the owner that let them change a directory's content.
const OTHERS_WRITE: u32 = 0o022;

/// An open directory that only this user can write to.
#[derive(Clone, Debug)]
pub(crate) struct PrivateDir {
    directory: Arc<OwnedFd>,
    path: PathBuf,
}

impl PrivateDir {
    /// Opens the directory `root`, and in it the directories `below`, one in the other. Those that are missing are made.
    pub fn make(root: &Path, below: &[&str]) -> io::Result<Self> {
        if let Some(parent) = root.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        Self::open(root, below, true)
    }

    /// Opens the directory `root`, and in it the directories `below`, one in the other.
    pub fn find(root: &Path, below: &[&str]) -> io::Result<Self> {
        Self::open(root, below, false)
    }

    fn open(root: &Path, below: &[&str], makes: bool) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else {
            return Err(io::Error::other(format!("{} is not a directory's name", root.display())));
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        // Links above the root are the user's own layout.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = rustix::fs::open(parent, flags, Mode::empty())?;
        let mut at = Self::step(&above, name.as_ref(), root.into(), makes)?;
        for name in below {
            at = Self::step(&at.directory, name.as_ref(), at.path.join(name), makes)?;
        }
        Ok(at)
    }

    fn step(above: &OwnedFd, name: &Path, path: PathBuf, makes: bool) -> io::Result<Self> {
        if makes {
            match rustix::fs::mkdirat(above, name, DIRECTORY) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory =
            rustix::fs::openat(above, name, flags, Mode::empty()).map_err(|error| match error {
                rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP => {
                    refused(&path, "is a link or a file, not a directory")
                }
                error => error.into(),
            })?;
        let metadata = rustix::fs::fstat(&directory)?;
        if metadata.st_uid != rustix::process::geteuid().as_raw() {
            return Err(refused(&path, &format!("belongs to another user (uid {})", metadata.st_uid)));
        }
        if metadata.st_mode & OTHERS_WRITE != 0 {
            let mode = metadata.st_mode & 0o7777;
            return Err(refused(&path, &format!("can be written to by others (mode {mode:04o})")));
        }
        Ok(Self { directory: Arc::new(directory), path })
    }

    /// The path of a file in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Tells whether there is a regular file with this name.
    pub fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&*self.directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|metadata| FileType::from_raw_mode(metadata.st_mode) == FileType::RegularFile)
    }

    /// Opens a regular file of this user for reading.
    pub fn read(&self, name: &str) -> io::Result<File> {
        self.file(name, OFlags::RDONLY)
    }

    /// Opens a regular file of this user for reading and writing; it is made if it is missing.
    pub fn write(&self, name: &str) -> io::Result<File> {
        self.file(name, OFlags::RDWR | OFlags::CREATE)
    }

    fn file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        // A pipe must not be waited for.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&*self.directory, name, flags, FILE)?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(refused(&self.path(name), "is not a regular file"));
        }
        // A second name may be that of a file which is needed elsewhere.
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.nlink() > 1 {
            return Err(refused(&self.path(name), "belongs to another user, or is a hard link"));
        }
        Ok(file)
    }

    /// Makes an empty file that goes when it is dropped, unless it is kept.
    pub fn draft(&self, prefix: &str) -> io::Result<Draft> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("{prefix}{}", hex::encode(random));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&*self.directory, &name, flags, FILE)?;
        Ok(Draft { directory: self.clone(), name, file: file.into(), is_kept: false })
    }

    /// Gives a file another name, in the place of what has that name.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&*self.directory, from, &*self.directory, to)?)
    }

    /// Removes a file or a link, not what the link leads to.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&*self.directory, name, AtFlags::empty())?)
    }

    /// Removes regular files that were last written longer ago than `age`, and whose names are `ours`. One that can't be
    /// removed does no harm.
    pub fn remove_older(&self, ours: impl Fn(&str) -> bool, age: Duration) {
        let Ok(entries) = rustix::fs::Dir::read_from(&*self.directory) else { return };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            if ours(name) && self.has(name) && self.age(name).is_some_and(|found| found > age) {
                let _ = self.remove(name);
            }
        }
    }

    fn age(&self, name: &str) -> Option<Duration> {
        let metadata = rustix::fs::statat(&*self.directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let written = std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.st_mtime).ok()?);
        written.elapsed().ok()
    }
}

fn refused(path: &Path, why: &str) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, format!("{} {why}", path.display()))
}

/// A file that is being written; gone if dropped.
#[derive(Debug)]
pub(crate) struct Draft {
    directory: PrivateDir,
    name: String,
    file: File,
    is_kept: bool,
}

impl Draft {
    /// Gives the file its name, in the place of another one.
    pub fn keep(mut self, name: &str) -> io::Result<()> {
        self.directory.rename(&self.name, name)?;
        self.is_kept = true;
        Ok(())
    }

    /// Closes the file. It stays under the name that this returns.
    pub fn close(mut self) -> String {
        self.is_kept = true;
        std::mem::take(&mut self.name)
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = self.directory.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A directory, with `root/below` in it.
    fn prepared() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("root");
        PrivateDir::make(&root, &["below"]).expect("made");
        (directory, root)
    }

    #[test]
    fn directories_are_made_for_their_owner_only() {
        let (_directory, root) = prepared();
        for path in [root.clone(), root.join("below")] {
            assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o700);
        }
        let error = PrivateDir::find(&root, &["other"]).expect_err("missing");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(!root.join("other").exists());
    }

    #[test]
    fn links_and_dirs_writable_by_others_are_refused() {
        let (directory, root) = prepared();
        let refused = |why: &str| {
            for error in [PrivateDir::find(&root, &["below"]), PrivateDir::make(&root, &["below"])] {
                let error = error.expect_err(why).to_string();
                assert!(error.contains(why), "{error}");
            }
        };
        for path in [&root, &root.join("below")] {
            for mode in [0o777, 0o770, 0o702, 0o1777] {
                std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a mode");
                refused("can be written to by others");
            }
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("a mode");
        }
        PrivateDir::find(&root, &["below"]).expect("others may read");
        // A link at each place, to a directory that would do.
        let elsewhere = directory.path().join("elsewhere");
        PrivateDir::make(&elsewhere, &["below"]).expect("made");
        std::fs::remove_dir(root.join("below")).expect("removed");
        symlink(elsewhere.join("below"), root.join("below")).expect("a link");
        refused("is a link or a file");
        std::fs::remove_file(root.join("below")).expect("removed");
        std::fs::remove_dir(&root).expect("removed");
        symlink(&elsewhere, &root).expect("a link");
        refused("is a link or a file");
        std::fs::remove_file(&root).expect("removed");
        std::fs::write(&root, "x").expect("a file");
        refused("is a link or a file");
    }

    #[test]
    fn only_regular_files_of_the_user_are_opened() {
        let (_directory, root) = prepared();
        let dir = PrivateDir::find(&root, &["below"]).expect("there");
        let target = root.join("target");
        std::fs::write(&target, "precious").expect("written");
        symlink(&target, dir.path("link")).expect("a link");
        std::fs::hard_link(&target, dir.path("hard")).expect("a link");
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path("pipe"), FILE).expect("a pipe");
        std::fs::create_dir(dir.path("directory")).expect("made");
        for name in ["link", "hard", "pipe", "directory"] {
            assert!(dir.read(name).is_err(), "{name}");
            assert!(dir.write(name).is_err(), "{name}");
        }
        assert!(!dir.has("link") && !dir.has("pipe") && !dir.has("directory"));
        // A name is given in the place of a link, whose target stays.
        let mut draft = dir.draft("x-").expect("a draft");
        draft.write_all(b"new").expect("written");
        draft.keep("link").expect("kept");
        assert_eq!(std::fs::read(&target).expect("read"), b"precious");
        assert!(dir.has("link"));
    }

    #[test]
    fn directory_stays_the_same_after_its_path_changes() {
        let (directory, root) = prepared();
        let dir = PrivateDir::find(&root, &["below"]).expect("there");
        let moved = directory.path().join("moved");
        std::fs::rename(&root, &moved).expect("moved");
        let other = directory.path().join("other");
        std::fs::create_dir_all(other.join("below")).expect("made");
        std::fs::write(other.join("below/a"), "precious").expect("written");
        symlink(&other, &root).expect("a link");
        assert!(dir.remove("a").is_err());
        dir.remove_older(|_| true, Duration::ZERO);
        dir.draft("x-").and_then(|draft| draft.keep("a")).expect("kept");
        assert_eq!(std::fs::read(other.join("below/a")).expect("read"), b"precious");
        assert!(moved.join("below/a").exists());
    }

    #[test]
    fn only_old_files_with_our_names_are_removed() {
        let (_directory, root) = prepared();
        let dir = PrivateDir::find(&root, &["below"]).expect("there");
        let day = Duration::from_secs(24 * 3600);
        for (name, days) in [("ours-old", 2), ("ours-new", 0), ("other-old", 2)] {
            let file = File::create(dir.path(name)).expect("a file");
            file.set_modified(std::time::SystemTime::now() - days * day).expect("a time");
        }
        symlink(dir.path("other-old"), dir.path("ours-link")).expect("a link");
        dir.remove_older(|name| name.starts_with("ours-"), day);
        let mut left: Vec<_> = std::fs::read_dir(root.join("below"))
            .expect("the directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["other-old", "ours-link", "ours-new"]);
    }
}
