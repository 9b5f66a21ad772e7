//! Logins to chart repositories, from where `helm repo add` leaves them (`repositories.yaml`).
//!
//! Threat model: an index may lead anywhere. A password or client certificate goes to the repository's own origin only,
//! unless helm was told to pass it to all (`--pass-credentials`).

use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::file;

/// Helm's repositories.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Logins {
    #[serde(default)]
    repositories: Vec<Login>,
}

/// A repository as helm knows it.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Login {
    url: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "caFile")]
    ca_file: Option<PathBuf>,
    #[serde(rename = "certFile")]
    cert_file: Option<PathBuf>,
    #[serde(rename = "keyFile")]
    key_file: Option<PathBuf>,
    insecure_skip_tls_verify: Option<bool>,
    pass_credentials_all: Option<bool>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("url", &self.url).finish_non_exhaustive()
    }
}

/// A CA file, and a certificate with its key.
pub(super) type Certificates = (Option<PathBuf>, Option<(PathBuf, PathBuf)>);

impl Logins {
    /// Reads the file that helm would read. Without one there are no logins.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub(super) fn of_helm() -> Result<Self> {
        match path(|name| std::env::var(name).ok()) {
            Some(path) => Self::read(&path),
            None => Ok(Self::default()),
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let failed = |why: String| Error::input(format!("reading helm's logins in {}", path.display()), why);
        let text = match file::read_text(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(failed(e.to_string())),
        };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        // The parser's text is not passed on: it quotes values.
        serde_saphyr::from_str(&text).map_err(|e| {
            let place = e.location().map(|at| format!(", line {}", at.line())).unwrap_or_default();
            failed(format!("it is not a list of helm's repositories{place}")).hint(
                "`helm repo list` shows what helm makes of it; HELM_REPOSITORY_CONFIG names another file",
            )
        })
    }

    /// The login for a repository.
    pub(super) fn of_repository(&self, url: &Url) -> Option<&Login> {
        let same = |login: &&Login| {
            login.address().is_some_and(|own| {
                let path = |url: &Url| url.path().trim_end_matches('/').to_owned();
                own.origin() == url.origin() && path(&own) == path(url)
            })
        };
        self.repositories.iter().find(same)
    }

    /// The login for a chart whose repository is not known: of the same origin, the one with the longest path above it.
    pub(super) fn of_chart(&self, url: &Url) -> Option<&Login> {
        let shared = |own: &Url| {
            let same = own.path().bytes().zip(url.path().bytes()).take_while(|(a, b)| a == b).count();
            (own.origin() == url.origin()).then_some(same)
        };
        let fitting = self.repositories.iter().filter_map(|login| Some((shared(&login.address()?)?, login)));
        fitting.max_by_key(|(length, _)| *length).map(|(_, login)| login)
    }
}

impl Login {
    fn address(&self) -> Option<Url> {
        Url::parse(self.url.as_deref()?).ok()
    }

    fn may_go_to(&self, url: &Url) -> bool {
        let is_own = self.address().is_some_and(|own| own.origin() == url.origin());
        is_own || self.pass_credentials_all == Some(true)
    }

    /// User and password to send to `url`.
    pub(super) fn credentials(&self, url: &Url) -> Option<(&str, &str)> {
        let user = self.username.as_deref().filter(|user| !user.is_empty())?;
        let password = self.password.as_deref().filter(|password| !password.is_empty())?;
        self.may_go_to(url).then_some((user, password))
    }

    /// The certificates to use with `url`, if there are any.
    pub(super) fn options(&self, url: &Url) -> Option<Certificates> {
        let named = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        let ca = named(&self.ca_file);
        let own = named(&self.cert_file).zip(named(&self.key_file)).filter(|_| self.may_go_to(url));
        (ca.is_some() || own.is_some()).then_some((ca, own))
    }

    /// Reports whether helm skips the check of this repository's certificate.
    pub(super) fn is_unchecked(&self) -> bool {
        self.insecure_skip_tls_verify == Some(true)
    }
}

/// Returns the path of the file in which helm keeps its repositories.
fn path(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(file) = set("HELM_REPOSITORY_CONFIG") {
        return Some(file);
    }
    let home = set("HELM_CONFIG_HOME").or_else(|| Some(set("XDG_CONFIG_HOME")?.join("helm")));
    let home = home.or_else(|| Some(set("HOME")?.join(".config/helm")))?;
    Some(home.join("repositories.yaml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logins() -> Logins {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("repositories.yaml");
        let text = "apiVersion: \"\"\ngenerated: \"0001-01-01T00:00:00Z\"\nrepositories:\n\
            - {name: a, url: 'https://h.example/a/', username: ann, password: pa, caFile: '', certFile: c.pem, keyFile: k.pem}\n\
            - {name: b, url: 'https://h.example/b', username: bob, password: pb, pass_credentials_all: true}\n\
            - {name: c, url: 'https://h.example:8443', username: cay, password: '', insecure_skip_tls_verify: true}\n\
            - {name: d, url: null}\n";
        std::fs::write(&path, text).expect("written");
        Logins::read(&path).expect("logins")
    }

    fn url(text: &str) -> Url {
        Url::parse(text).expect(text)
    }

    #[test]
    fn a_password_goes_to_its_own_host_only() {
        let logins = logins();
        let own = logins.of_repository(&url("https://h.example/a")).expect("a login");
        assert_eq!(own.credentials(&url("https://h.example/other/x.tgz")), Some(("ann", "pa")));
        assert!(own.options(&url("https://h.example/x")).is_some());
        for other in [
            "https://o.example/x.tgz",
            "http://h.example/x.tgz",
            "https://h.example:444/x.tgz",
            "https://h.example.o.example/a",
        ] {
            assert_eq!(own.credentials(&url(other)), None, "{other}");
            assert!(own.options(&url(other)).is_none(), "{other}");
        }
        let all = logins.of_repository(&url("https://h.example/b/")).expect("a login");
        assert_eq!(all.credentials(&url("https://o.example/x.tgz")), Some(("bob", "pb")));
        let unchecked = logins.of_repository(&url("https://h.example:8443/")).expect("a login");
        assert_eq!(
            (unchecked.credentials(&url("https://h.example:8443/x")), unchecked.is_unchecked()),
            (None, true)
        );
        assert!(logins.of_repository(&url("https://h.example/c")).is_none());
        assert!(!format!("{logins:?}").contains("pa\""), "{logins:?}");
    }

    #[test]
    fn a_charts_login_is_that_of_the_nearest_repository() {
        let logins = logins();
        let user = |text: &str| Some(logins.of_chart(&url(text))?.username.clone().expect("a user"));
        assert_eq!(user("https://h.example/a/x.tgz").as_deref(), Some("ann"));
        assert_eq!(user("https://h.example/b/x.tgz").as_deref(), Some("bob"));
        assert_eq!(user("https://h.example:8443/b/x.tgz").as_deref(), Some("cay"));
        assert_eq!(user("https://o.example/b/x.tgz"), None);
    }

    #[test]
    fn the_file_is_where_helm_has_it() {
        let at = |pairs: &'static [(&str, &str)]| {
            path(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()))
        };
        assert_eq!(at(&[]), None);
        for (set, expected) in [
            (&[("HOME", "/h")][..], "/h/.config/helm/repositories.yaml"),
            (&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")], "/x/helm/repositories.yaml"),
            (&[("XDG_CONFIG_HOME", "/x"), ("HELM_CONFIG_HOME", "/c")], "/c/repositories.yaml"),
            (&[("HELM_CONFIG_HOME", "/c"), ("HELM_REPOSITORY_CONFIG", "/r.yaml")], "/r.yaml"),
        ] {
            assert_eq!(at(set), Some(expected.into()));
        }
    }

    #[test]
    fn a_broken_file_is_refused_without_quoting_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("repositories.yaml");
        std::fs::write(&path, "repositories:\n- {password: [hunter2]}\n").expect("written");
        let error = Logins::read(&path).expect_err("a refusal");
        assert!(error.to_string().contains("line 2") && !error.to_string().contains("hunter2"), "{error}");
        std::fs::write(&path, "").expect("written");
        assert!(Logins::read(&path).expect("none").repositories.is_empty());
        assert!(Logins::read(Path::new("/nowhere/x")).expect("none").repositories.is_empty());
    }
}
