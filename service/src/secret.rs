//! Secrets, and the files that hold them and the certificates: read anew for each connection, so that what is changed
//! on disk is used without a restart.

use std::fmt;
use std::fs::File;
use std::io::Read;

/// No file is longer; a wrong path (a log, a device) must not fill the memory.
const LIMIT: u64 = 1024 * 1024;

/// Text that no log and no error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one who is to be convinced by it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// It was given itself.
    Given(Secret),
    /// It is what the file at this path holds.
    File(String),
}

impl Source {
    /// The secret as it is now.
    pub fn read(&self) -> Result<Secret, String> {
        match self {
            Self::Given(secret) => Ok(secret.clone()),
            Self::File(path) => password_in(path),
        }
    }
}

/// The text of a password file without the line end that editors add.
fn password_in(path: &str) -> Result<Secret, String> {
    let text =
        String::from_utf8(content(path)?).map_err(|_| format!("cannot use {path}: it is not UTF-8"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("cannot use {path}: it is empty")),
        password => Ok(Secret::new(password)),
    }
}

/// All that a file holds.
pub fn content(path: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|f| f.take(LIMIT + 1).read_to_end(&mut bytes)) {
        Err(e) => Err(format!("cannot read {path}: {e}")),
        Ok(read) if read as u64 > LIMIT => Err(format!("cannot use {path}: it is longer than {LIMIT} bytes")),
        Ok(_) => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_loses_its_line_end_only() {
        let file = std::env::temp_dir().join(format!("service-password-{}", std::process::id()));
        let source = Source::File(file.to_str().expect("a path").into());
        let holding = |bytes: &[u8]| {
            std::fs::write(&file, bytes).expect("written");
            source.read().map(|secret| secret.reveal().to_owned())
        };
        assert_eq!(holding(b" secret \r\n"), Ok(" secret ".into()));
        assert!(holding(b"\n").is_err_and(|e| e.ends_with("it is empty")));
        assert!(holding(b"\xff").is_err_and(|e| e.ends_with("it is not UTF-8")));
        std::fs::remove_file(&file).expect("removed");
        assert!(source.read().is_err_and(|e| e.contains("No such file")));
        assert!(Source::File("/dev/zero".into()).read().is_err_and(|e| e.contains("longer than")));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let shown =
            format!("{:?} {:#?}", Source::Given(Secret::new("hunter2")), Some(Secret::new("hunter2")));
        assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
    }
}
