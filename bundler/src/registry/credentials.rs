//! Logins, from where `docker login`, `podman login` and `helm registry login` leave them.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_distribution::secrets::RegistryAuth;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::{Error, Result};

const CONFIG_CAP: u64 = 1 << 20;
const HELPER_CAP: u64 = 64 << 10;
/// Helpers may ask a person for a passphrase.
const HELPER_TIMEOUT: Duration = Duration::from_secs(120);
/// What Docker Hub goes by in these files.
const HUB: &str = "https://index.docker.io/v1/";

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

/// The login for a registry's host; none is no error.
///
/// # Errors
/// When a file is there but can't be read, or a credential helper fails.
pub(super) async fn find(files: &[PathBuf], host: &str) -> Result<Option<Login>> {
    for file in files {
        let Some(config) = read(file)? else { continue };
        if let Some(helper) = config.helper(host)
            && let Some(login) = ask(helper, host).await?
        {
            return Ok(Some(login));
        }
        let source = file.display().to_string();
        match config.entry(host) {
            Ok(None) => {}
            Ok(Some(auth)) => return Ok(Some(Login { auth, source })),
            Err(why) => return Err(Error::input(format!("reading the login for {host} in {source}"), why)),
        }
    }
    Ok(None)
}

fn read(file: &Path) -> Result<Option<Config>> {
    let action = || format!("reading logins in {}", file.display());
    let open = match std::fs::File::open(file) {
        Ok(open) => open,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::input(action(), e)),
    };
    let mut text = Vec::new();
    open.take(CONFIG_CAP).read_to_end(&mut text).map_err(|e| Error::input(action(), e))?;
    parse(&text).map(Some).map_err(|why| Error::input(action(), why))
}

/// The parser's own text is not passed on: it quotes values.
fn parse(text: &[u8]) -> Result<Config, String> {
    serde_json::from_slice(text)
        .map_err(|e| format!("not a docker config file: line {}, column {}", e.line(), e.column()))
}

impl Config {
    /// The credential helper in charge of a host.
    fn helper(&self, host: &str) -> Option<&str> {
        let own = self.cred_helpers.iter().find(|(key, _)| is_for(key, host)).map(|(_, helper)| helper);
        own.or(self.creds_store.as_ref()).map(String::as_str).filter(|name| !name.is_empty())
    }

    fn entry(&self, host: &str) -> Result<Option<RegistryAuth>, &'static str> {
        let exact = self.auths.get(host);
        let Some(entry) =
            exact.or_else(|| self.auths.iter().find(|(key, _)| is_for(key, host)).map(|(_, e)| e))
        else {
            return Ok(None);
        };
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

/// Whether a key of a config file means a host: keys are hosts, or URLs of a registry's API.
fn is_for(key: &str, host: &str) -> bool {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest).trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare);
    bare == host || (is_hub(bare) && is_hub(host))
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
        let mut child = tokio::process::Command::new(&program)
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
        for host in ["registry-1.docker.io", "docker.io", "index.docker.io"] {
            assert_eq!(config.entry(host), Ok(basic("hub", "secret")), "{host}");
        }
        assert_eq!(config.entry("r.example:5000"), Ok(basic("u", "a:b")));
        assert_eq!(config.entry("t.example"), Ok(Some(RegistryAuth::Bearer("T".into()))));
        assert_eq!(config.entry("p.example"), Ok(basic("u", "p")));
        for host in ["r.example", "empty.example", "ns.example", "other.example", ""] {
            assert_eq!(config.entry(host), Ok(None), "{host}");
        }
        assert!(config.entry("bad.example").is_err());
        assert_eq!(config.helper("gcr.example"), Some("gcloud"));
        assert_eq!(config.helper("other.example"), Some("desktop"));
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
