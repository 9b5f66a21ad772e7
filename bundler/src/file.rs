//! Small files that somebody names. A device or a pipe may never end, or never begin: only regular files are read, and
//! no more of them than they may have; and what is written is there as it was, or whole.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::error::{Error, Result};

/// Largest values file that is read, in bytes.
const VALUES_CAP: u64 = 4 << 20;
/// Most that a file with settings, keys or certificates has, in bytes.
pub const TEXT_CAP: u64 = 16 << 20;
/// How the names of files begin that [`replace`] writes, and that stay where a process is killed in it.
pub const DRAFT: &str = ".airlock-";
/// Longest time that a pipe may have no writer.
const NO_WRITER: Duration = Duration::from_secs(2);
/// Longest time that the writer of a pipe may take: it may ask a person.
const SLOW_WRITER: Duration = Duration::from_secs(120);
/// Time between two looks at a pipe.
const LOOK: Duration = Duration::from_millis(20);

/// Makes a directory for files of this run. It goes with the value.
///
/// # Errors
/// When there is no place for it.
pub fn temporary() -> Result<tempfile::TempDir> {
    // What is in it may be secret, and programs are run out of it.
    let private = std::fs::Permissions::from_mode(0o700);
    let made = tempfile::Builder::new().prefix("airlock-").permissions(private).tempdir();
    made.map_err(|e| {
        Error::input("making a temporary directory", e).hint("point TMPDIR to a directory that is writable")
    })
}

/// Opens a regular file, or what a link leads to if it is one.
///
/// # Errors
/// When it is none, or can't be opened.
pub fn open(path: &Path) -> io::Result<File> {
    open_as(path, File::options().read(true))
}

/// Opens a regular file, or what a link leads to if it is one, as `options` say.
///
/// # Errors
/// As [`open`].
pub fn open_as(path: &Path, options: &OpenOptions) -> io::Result<File> {
    // A device may do something when it is opened.
    check(&path.metadata()?)?;
    // It may be another file by now: opening a pipe would wait for a writer.
    let no_wait = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options.clone().custom_flags(no_wait.bits() as i32).open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

fn check(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(io::Error::other(format!("it is not a regular file, but {what}")))
}

/// The whole content.
///
/// # Errors
/// As [`open`], and when there are more than `cap` bytes.
pub fn read(path: &Path, cap: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(cap + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > cap {
        true => Err(too_large(cap)),
        false => Ok(bytes),
    }
}

/// The whole content of a file or a pipe, as a shell's `<(…)` is one. A pipe ends when its last writer closes it.
///
/// # Errors
/// As [`read`], but for pipes; and when nothing writes to the pipe, or its writer takes too long.
pub fn read_piped(path: &Path, cap: u64) -> io::Result<Vec<u8>> {
    let kind = path.metadata()?.file_type();
    if !kind.is_fifo() {
        return read(path, cap);
    }
    let mut pipe = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    let (begun, mut bytes, mut buffer) = (Instant::now(), Vec::new(), [0; 4096]);
    loop {
        match pipe.read(&mut buffer) {
            // Also while there is no writer yet.
            Ok(0) if bytes.is_empty() && begun.elapsed() < NO_WRITER => {}
            Ok(0) if bytes.is_empty() => return Err(io::Error::other("it is a pipe that nothing writes to")),
            Ok(0) => return Ok(bytes),
            Ok(read) => {
                bytes.extend_from_slice(&buffer[..read]);
                if bytes.len() as u64 > cap {
                    return Err(too_large(cap));
                }
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if begun.elapsed() > SLOW_WRITER {
                    return Err(io::Error::other("it is a pipe whose writer does not finish"));
                }
            }
            Err(error) => return Err(error),
        }
        std::thread::sleep(LOOK);
    }
}

fn too_large(cap: u64) -> io::Error {
    io::Error::new(ErrorKind::FileTooLarge, format!("it is larger than {cap} bytes"))
}

/// The whole content, which is UTF-8 and at most [`TEXT_CAP`] bytes.
///
/// # Errors
/// As [`read`], and when it is no text.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path, TEXT_CAP)?).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

/// A values file of a chart.
///
/// # Errors
/// When it can't be read, or is too large.
pub fn values(path: &Path) -> Result<Vec<u8>> {
    read(path, VALUES_CAP).map_err(|e| {
        Error::input(format!("reading values file {}", path.display()), e)
            .hint("name a YAML file: a path in bundle.toml starts at its directory, one of --values at the current directory")
    })
}

/// Refuses an output that is one of the files that the same command reads, under whatever name: writing would replace it.
///
/// # Errors
/// When it is one of them.
pub fn not_an_input<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let id = |path: &Path| path.metadata().ok().map(|file| (file.dev(), file.ino()));
    let Some(there) = id(output) else { return Ok(()) };
    let same = inputs.into_iter().find(|input| id(input) == Some(there));
    same.map_or(Ok(()), |input| {
        let why = format!("it is {}, which this command reads", input.display());
        Err(Error::input(format!("writing {}", output.display()), why)
            .hint("name another file with --output"))
    })
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

    #[test]
    fn pipes_and_sockets_are_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let (pipe, link, socket) = (dir.path().join("p"), dir.path().join("l"), dir.path().join("s"));
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).expect("a pipe");
        std::os::unix::fs::symlink(&pipe, &link).expect("a link");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        for (path, what) in [(&pipe, "a named pipe"), (&link, "a named pipe"), (&socket, "a socket")] {
            let error = open(path).expect_err(what).to_string();
            assert!(error.contains(what), "{error}");
            assert!(open_as(path, File::options().read(true).write(true)).is_err());
        }
    }

    #[test]
    fn a_pipe_is_read_to_the_end_of_its_writer() {
        let dir = tempfile::tempdir().expect("a directory");
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).expect("a pipe");
        let error = read_piped(&pipe, 9).expect_err("no writer").to_string();
        assert!(error.contains("nothing writes to"), "{error}");
        let write = |texts: &'static [&'static str]| {
            let pipe = pipe.clone();
            std::thread::spawn(move || {
                let mut writer = File::options().write(true).open(pipe).expect("the pipe");
                for text in texts {
                    std::thread::sleep(3 * LOOK);
                    // The reader may have had enough.
                    let _ = writer.write_all(text.as_bytes());
                }
            })
        };
        let writer = write(&["pass", "word"]);
        assert_eq!(read_piped(&pipe, 9).expect("read"), b"password");
        writer.join().expect("written");
        let writer = write(&["password", "password"]);
        assert!(read_piped(&pipe, 9).is_err(), "too large");
        writer.join().expect("written");
    }
}
