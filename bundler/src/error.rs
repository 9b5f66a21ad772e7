//! What every stage fails with: what was being done, to what, why, and what to do about it.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind};

use serde::{Deserialize, Serialize};

/// A result of a stage.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose matter a failure is; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The user's input, or the state of this machine. Exit code 1.
    Input,
    /// Refused: a signature, a digest or a policy does not hold. Exit code 2.
    Trust,
    /// The network, or a registry. Exit code 3.
    Network,
    /// The cluster, or helm. Exit code 4.
    Cluster,
}

impl Kind {
    /// The process's exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Input => 1,
            Self::Trust => 2,
            Self::Network => 3,
            Self::Cluster => 4,
        }
    }
}

type Reason = Box<dyn StdError + Send + Sync>;

/// A failure, worded for a person at a terminal.
///
/// Its text is one sentence, "ACTION OBJECT: REASON", such as `reading bundle app.tar: No such file or directory`;
/// the hint is apart, for a line of its own.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    action: String,
    reason: Reason,
    hint: Option<String>,
}

impl Error {
    /// `action` names what was being done and to what; `reason` is why it failed (a text, or the error below).
    pub fn new(kind: Kind, action: impl Into<String>, reason: impl Into<Reason>) -> Self {
        Self { kind, action: action.into(), reason: reason.into(), hint: None }
    }

    /// A failure of [`Kind::Input`].
    pub fn input(action: impl Into<String>, reason: impl Into<Reason>) -> Self {
        Self::new(Kind::Input, action, reason)
    }

    /// A failure of [`Kind::Trust`].
    pub fn trust(action: impl Into<String>, reason: impl Into<Reason>) -> Self {
        Self::new(Kind::Trust, action, reason)
    }

    /// A failure of [`Kind::Network`].
    pub fn network(action: impl Into<String>, reason: impl Into<Reason>) -> Self {
        Self::new(Kind::Network, action, reason)
    }

    /// A failure of [`Kind::Cluster`].
    pub fn cluster(action: impl Into<String>, reason: impl Into<Reason>) -> Self {
        Self::new(Kind::Cluster, action, reason)
    }

    /// A file that could not be written; `option` is the one that names another place.
    pub fn unwritable(action: impl Into<String>, error: io::Error, option: &str) -> Self {
        let hint = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                format!("free some space there, or choose another disk with {option}")
            }
            ErrorKind::FileTooLarge => {
                format!("its file system takes no files of this size (FAT32?): choose another with {option}")
            }
            _ => format!("choose a directory that exists and is writable with {option}"),
        };
        Self::input(action, error).hint(hint)
    }

    /// A file of the user's that could not be read, with what the system's reason asks for.
    pub fn unreadable(action: impl Into<String>, error: io::Error) -> Self {
        let hint = match error.kind() {
            ErrorKind::NotFound => Some("check the path: it starts from the current directory"),
            ErrorKind::PermissionDenied => {
                Some("run this as the file's owner, or let this user read the file and enter its directories")
            }
            ErrorKind::Other => Some("name the file itself"),
            _ => None,
        };
        let error = Self::input(action, error);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// The same failure, seen from a step above: `action` goes in front. Kind and hint stay.
    #[must_use]
    pub fn within(mut self, action: impl fmt::Display) -> Self {
        self.action = format!("{action}: {}", self.action);
        self
    }

    /// Several failures as one, each on lines of its own with what to do about it. It is of the gravest kind: trust, then
    /// network, then input. A single failure stays as it is.
    #[must_use]
    pub fn all(action: impl Into<String>, mut failures: Vec<Self>) -> Self {
        if failures.len() == 1
            && let Some(only) = failures.pop()
        {
            return only;
        }
        let gravest = [Kind::Trust, Kind::Network, Kind::Cluster, Kind::Input];
        let kind = gravest.into_iter().find(|kind| failures.iter().any(|failure| failure.kind == *kind));
        let mut text = format!("{} failures", failures.len());
        let hints: Vec<&str> = failures.iter().filter_map(Self::hint_text).collect();
        let is_common = hints.len() == failures.len() && hints.windows(2).all(|pair| pair[0] == pair[1]);
        let common = hints.first().filter(|_| is_common).map(|hint| (*hint).to_owned());
        for failure in &failures {
            text += &format!("\n  {failure}");
            if let Some(hint) = failure.hint_text().filter(|_| common.is_none()) {
                text += &format!("\n    hint: {hint}");
            }
        }
        Self { hint: common, ..Self::new(kind.unwrap_or(Kind::Input), action, text) }
    }

    /// The same failure as a matter of somebody else's.
    #[must_use]
    pub(crate) fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whose matter it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What to do about it, if there is something to say.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    /// The whole chain of causes in one line: an HTTP client's own text, for one, hides why it could not connect.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.action, self.reason)?;
        let mut said = self.reason.to_string();
        let mut cause = self.reason.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_failures_are_one_with_all_hints() {
        let input = || Error::input("reading a", "no");
        let network = || Error::network("asking b", "silence").hint("wait");
        let all = Error::all("pinning", vec![input().hint("look"), network()]);
        assert_eq!(
            all.to_string(),
            "pinning: 2 failures\n  reading a: no\n    hint: look\n  asking b: silence\n    hint: wait"
        );
        assert_eq!((all.kind(), all.hint_text()), (Kind::Network, None));
        let same = Error::all("pinning", vec![network(), network()]);
        assert_eq!(same.to_string(), "pinning: 2 failures\n  asking b: silence\n  asking b: silence");
        assert_eq!(same.hint_text(), Some("wait"));
        assert_eq!(Error::all("pinning", vec![input()]).to_string(), "reading a: no");
        let trust = Error::all("pinning", vec![network(), Error::trust("c", "d"), input()]);
        assert_eq!(trust.kind(), Kind::Trust);
    }

    #[test]
    fn text_is_action_reason_and_causes_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("error sending request")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("connection refused")]
        struct Inner;

        let error =
            Error::network("fetching http://127.0.0.1:1/v2/", Outer(Inner)).hint("start the registry");
        assert_eq!(
            error.to_string(),
            "fetching http://127.0.0.1:1/v2/: error sending request: connection refused"
        );
        assert_eq!(error.hint_text(), Some("start the registry"));
        let above = error.within("pushing app.tar");
        assert!(above.to_string().starts_with("pushing app.tar: fetching http"));
        assert_eq!((above.kind().exit_code(), above.hint_text()), (3, Some("start the registry")));
    }
}
