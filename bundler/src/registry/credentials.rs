//! Logins, from where `docker login`, `podman login` and `helm registry login` leave them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_distribution::secrets::RegistryAuth;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::child;
use crate::error::{Error, Result};
use crate::file;

const CONFIG_CAP: u64 = 1 << 20;
const HELPER_CAP: u64 = 64 << 10;
/// Helpers may ask a person for a passphrase.
const HELPER_TIMEOUT: Duration = Duration::from_secs(120);
/// What Docker Hub goes by in these files.
const HUB: &str = "https://index.docker.io/v1/";

/// Outcome of the search for a login.
#[derive(Clone, Debug)]
pub(super) enum Search {
    Found(Login),
    /// There is none. The files have logins for these other places at the host.
    Missing {
        others: Vec<String>,
    },
    /// The credential helper in charge could not say. Public content needs no login, so only a refusal makes this an error.
    Failed {
        why: String,
        helper: String,
    },
}

impl Search {
    /// The login, if one was found.
    pub fn login(&self) -> Option<&Login> {
        match self {
            Self::Found(login) => Some(login),
            _ => None,
        }
    }
}

/// A login, and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Login {
    /// `Bearer` is an identity token: it is traded for an access token, never sent to the registry itself.
    pub auth: RegistryAuth,
    /// A file, or a credential helper.
    pub source: String,
}

/// A config file of docker's or containers/image's format.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: HashMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// What a credential helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

/// The files that may hold logins, in the order they are asked.
pub(super) fn files(variable: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let dir = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let docker = dir("DOCKER_CONFIG").or_else(|| Some(dir("HOME")?.join(".docker")));
    let containers = dir("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json"));
    docker.map(|dir| dir.join("config.json")).into_iter().chain(containers).collect()
}

/// Looks for the login to a repository `path` of a registry's `host`.
///
/// # Errors
/// When a file is there but can't be read.
pub(super) async fn find(files: &[PathBuf], host: &str, path: &str) -> Result<Search> {
    let (mut failed, mut others) = (None, Vec::new());
    for file in files {
        let Some(config) = read(file)? else { continue };
        if let Some(helper) = config.helper(host, path) {
            match ask(helper, host).await {
                Ok(Some(login)) => return Ok(Search::Found(login)),
                Ok(None) => {}
                Err(error) => failed = Some((error.to_string(), format!("docker-credential-{helper}"))),
            }
        }
        let source = file.display().to_string();
        match config.entry(host, path) {
            Ok(None) => others.extend(config.others(host)),
            Ok(Some(auth)) => return Ok(Search::Found(Login { auth, source })),
            Err(why) => return Err(Error::input(format!("reading the login for {host} in {source}"), why)),
        }
    }
    Ok(match failed {
        Some((why, helper)) => Search::Failed { why, helper },
        None => Search::Missing { others },
    })
}

fn read(path: &Path) -> Result<Option<Config>> {
    let action = || format!("reading logins in {}", path.display());
    let text = match file::read(path, CONFIG_CAP) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::input(action(), e)),
    };
    parse(&text).map(Some).map_err(|why| Error::input(action(), why))
}

/// The parser's own text is not passed on: it quotes values.
fn parse(text: &[u8]) -> Result<Config, String> {
    serde_json::from_slice(text)
        .map_err(|e| format!("not a docker config file: line {}, column {}", e.line(), e.column()))
}

impl Config {
    /// The credential helper in charge of a repository.
    fn helper(&self, host: &str, path: &str) -> Option<&str> {
        let own = best(&self.cred_helpers, host, path);
        own.or(self.creds_store.as_ref()).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Keys for places at a host, where none is for the whole of it.
    fn others(&self, host: &str) -> Vec<String> {
        let mut others: Vec<String> = self
            .auths
            .keys()
            .filter(|key| place(key).is_some_and(|(of, below)| is_host(of, host) && !below.is_empty()))
            .cloned()
            .collect();
        others.sort();
        others
    }

    fn entry(&self, host: &str, path: &str) -> Result<Option<RegistryAuth>, &'static str> {
        let Some(entry) = best(&self.auths, host, path) else { return Ok(None) };
        if !entry.identitytoken.is_empty() {
            return Ok(Some(RegistryAuth::Bearer(entry.identitytoken.clone())));
        }
        if !entry.username.is_empty() {
            return Ok(Some(RegistryAuth::Basic(entry.username.clone(), entry.password.clone())));
        }
        // An empty entry says that a helper has it.
        if entry.auth.is_empty() {
            return Ok(None);
        }
        let decoded = STANDARD.decode(entry.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.ok_or("its auth is not base64")?;
        let (user, password) = decoded.split_once(':').ok_or("its auth is not USER:PASSWORD in base64")?;
        // Old docker versions padded with NULs.
        Ok(Some(RegistryAuth::Basic(user.into(), password.trim_matches('\0').into())))
    }
}

/// The value for a repository: that of the key with the longest path (containers-auth.json(5)), and of two keys for the same
/// place, that of the one which is spelled as the host is.
fn best<'a, T>(map: &'a HashMap<String, T>, host: &str, path: &str) -> Option<&'a T> {
    let fits = map.iter().filter_map(|(key, value)| {
        let (of, below) = place(key)?;
        let is_above = below.is_empty()
            || path.strip_prefix(below).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        (is_host(of, host) && is_above).then_some(((below.len(), of == host, key), value))
    });
    fits.max_by_key(|(rank, _)| *rank).map(|(_, value)| value)
}

/// Host and path of a key. Keys are hosts, places below them (`HOST/PROJECT`), or URLs of a registry's API, as docker writes
/// them.
fn place(key: &str) -> Option<(&str, &str)> {
    let (is_url, bare) = key.split_once("://").map_or((false, key), |(_, rest)| (true, rest));
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = path.trim_end_matches('/');
    let is_api =
        matches!(path, "v1" | "v2") || is_url && (path.starts_with("v1/") || path.starts_with("v2/"));
    (!host.is_empty()).then_some((host, if is_api { "" } else { path }))
}

fn is_host(of: &str, host: &str) -> bool {
    of == host || (is_hub(of) && is_hub(host))
}

fn is_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// Asks `docker-credential-NAME` (protocol of docker-credential-helpers).
async fn ask(name: &str, host: &str) -> Result<Option<Login>> {
    let program = format!("docker-credential-{name}");
    let action = || format!("asking {program} for the login to {host}");
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(Error::input(action(), "that is not a credential helper's name"));
    }
    let talk = async {
        let mut child = tokio::process::Command::from(child::command(&program))
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            let server = if is_hub(host) { HUB } else { host };
            stdin.write_all(server.as_bytes()).await?;
        }
        let mut printed = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(HELPER_CAP).read_to_end(&mut printed).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, printed))
    };
    let (status, printed) = tokio::time::timeout(HELPER_TIMEOUT, talk)
        .await
        .map_err(|_| Error::input(action(), "it does not answer"))?
        .map_err(|e| Error::input(action(), e))?;
    if !status.success() {
        // The protocol's only way to say that there is none.
        if String::from_utf8_lossy(&printed).contains("credentials not found") {
            return Ok(None);
        }
        return Err(Error::input(action(), format!("it ended with {status}"))
            .hint(format!("try: echo {host} | {program} get")));
    }
    let auth = helped(&printed).ok_or_else(|| Error::input(action(), "what it printed is not a login"))?;
    Ok(Some(Login { auth, source: program }))
}

fn helped(printed: &[u8]) -> Option<RegistryAuth> {
    let Helped { username, secret } = serde_json::from_slice(printed).ok()?;
    Some(if username == "<token>" {
        RegistryAuth::Bearer(secret)
    } else {
        RegistryAuth::Basic(username, secret)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, password: &str) -> Option<RegistryAuth> {
        Some(RegistryAuth::Basic(user.into(), password.into()))
    }

    #[test]
    fn logins_are_found_by_host() {
        let text = format!(
            r#"{{"auths": {{
                "https://index.docker.io/v1/": {{"auth": "{hub}"}},
                "r.example:5000": {{"auth": "{colon}"}},
                "https://t.example/v2/": {{"auth": "", "identitytoken": "T"}},
                "p.example": {{"username": "u", "password": "p"}},
                "empty.example": {{}},
                "bad.example": {{"auth": "%%"}},
                "ns.example/team": {{"auth": "{hub}"}}
              }}, "credsStore": "desktop", "credHelpers": {{"gcr.example": "gcloud"}}, "HttpHeaders": {{"a": "b"}}}}"#,
            hub = STANDARD.encode("hub:secret"),
            colon = STANDARD.encode("u:a:b\0\0"),
        );
        let config = parse(text.as_bytes()).expect("a config");
        let entry = |host: &str| config.entry(host, "team/app");
        for host in ["registry-1.docker.io", "docker.io", "index.docker.io"] {
            assert_eq!(entry(host), Ok(basic("hub", "secret")), "{host}");
        }
        assert_eq!(entry("r.example:5000"), Ok(basic("u", "a:b")));
        assert_eq!(entry("t.example"), Ok(Some(RegistryAuth::Bearer("T".into()))));
        assert_eq!(entry("p.example"), Ok(basic("u", "p")));
        assert_eq!(entry("ns.example"), Ok(basic("hub", "secret")));
        assert_eq!(config.entry("ns.example", "other/app"), Ok(None));
        assert_eq!(config.others("ns.example"), ["ns.example/team"]);
        for host in ["r.example", "empty.example", "other.example", ""] {
            assert_eq!(entry(host), Ok(None), "{host}");
        }
        assert!(entry("bad.example").is_err());
        assert_eq!(config.helper("gcr.example", "a"), Some("gcloud"));
        assert_eq!(config.helper("other.example", "a"), Some("desktop"));
    }

    #[test]
    fn the_login_with_the_longest_path_counts() {
        let key = |key: &str| format!("\"{key}\": {{\"username\": \"{key}\", \"password\": \"p\"}}");
        let keys = [
            "r.example",
            "r.example/team",
            "r.example/team/sub/",
            "r.example/v2app",
            "docker.io/acme",
            "https://index.docker.io/v1/",
            "https://u.example/v2/token",
            "only.example/a/b",
        ];
        let text = format!("{{\"auths\": {{{}}}}}", keys.map(key).join(","));
        let config = parse(text.as_bytes()).expect("a config");
        for (host, path, of) in [
            ("r.example", "app", "r.example"),
            ("r.example", "team", "r.example/team"),
            ("r.example", "team/app", "r.example/team"),
            ("r.example", "teams/app", "r.example"),
            ("r.example", "team/sub/app", "r.example/team/sub/"),
            ("r.example", "team/subs", "r.example/team"),
            ("r.example", "v2app", "r.example/v2app"),
            ("registry-1.docker.io", "acme/app", "docker.io/acme"),
            ("registry-1.docker.io", "library/redis", "https://index.docker.io/v1/"),
            ("u.example", "app", "https://u.example/v2/token"),
            ("only.example", "a/b/c", "only.example/a/b"),
        ] {
            assert_eq!(config.entry(host, path), Ok(basic(of, "p")), "{host}/{path}");
        }
        assert_eq!(config.entry("only.example", "a/c"), Ok(None));
    }

    #[tokio::test]
    async fn a_helper_that_is_missing_is_named_and_no_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = directory.path().join("config.json");
        std::fs::write(&config, r#"{"credsStore": "not-installed-here"}"#).expect("written");
        match find(std::slice::from_ref(&config), "r.example", "app").await.expect("no error") {
            Search::Failed { why, helper } => {
                assert!(
                    why.contains("No such file") && helper == "docker-credential-not-installed-here",
                    "{why}"
                );
            }
            other => unreachable!("{other:?}"),
        }
        // A login in the file itself, or in the next one, counts all the same.
        let second = directory.path().join("auth.json");
        let entry = r#"{"auths": {"r.example": {"username": "u", "password": "p"}}}"#;
        std::fs::write(&second, entry).expect("written");
        let found = find(&[config, second], "r.example", "app").await.expect("no error");
        assert!(found.login().is_some(), "{found:?}");
    }

    #[tokio::test]
    async fn a_pipe_in_the_place_of_a_config_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = directory.path().join("config.json");
        rustix::fs::mkfifoat(rustix::fs::CWD, &config, 0o600.into()).expect("a pipe");
        let error = find(&[config], "r.example", "app").await.expect_err("a pipe").to_string();
        assert!(error.contains("a named pipe"), "{error}");
    }

    #[test]
    fn a_broken_config_is_refused_without_quoting_it() {
        let why = parse(br#"{"auths": {"x": "hunter2"}}"#).err().expect("a refusal");
        assert!(why.contains("line 1") && !why.contains("hunter2"), "{why}");
        assert!(parse(b"{}").is_ok());
    }

    #[test]
    fn files_come_from_the_environment_and_none_is_fine() {
        let set = |pairs: &'static [(&str, &str)]| {
            files(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).into()))
        };
        assert_eq!(set(&[]), Vec::<PathBuf>::new());
        assert_eq!(set(&[("HOME", "/h")]), [PathBuf::from("/h/.docker/config.json")]);
        let all = set(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d"), ("XDG_RUNTIME_DIR", "/r")]);
        assert_eq!(all, ["/d/config.json", "/r/containers/auth.json"].map(PathBuf::from));
    }

    #[test]
    fn helpers_give_passwords_or_identity_tokens() {
        assert_eq!(helped(br#"{"ServerURL":"x","Username":"u","Secret":"s"}"#), basic("u", "s"));
        let token = helped(br#"{"Username":"<token>","Secret":"s"}"#);
        assert_eq!(token, Some(RegistryAuth::Bearer("s".into())));
        assert_eq!(helped(b"nothing"), None);
    }
}
