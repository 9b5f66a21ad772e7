//! Client of registries (OCI distribution spec 1.1), and of plain HTTP(S) servers, on one HTTP client.

mod auth;
mod credentials;
mod exchange;
mod failure;
mod http;
pub(crate) mod names;
mod pace;
pub(crate) mod proxies;
mod referrers;
mod repository;
mod session;
mod tls;
mod transfer;
mod upload;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::OnceCell;

use crate::cache::ContentCache;
use crate::error::{Error, Result};
use auth::Auth;
use failure::{Cause, Failure};
use http::{Call, Http, is_loopback, shown};
pub(crate) use names::addresses;
use pace::Pace;
pub use repository::{Manifest, Presence, Repository};

/// Largest manifest that is read, in bytes (distribution spec, "Pushing Manifests").
pub const MANIFEST_CAP: u64 = 4 << 20;
/// Blobs that are moved at a time, unless told otherwise.
pub const TRANSFERS: usize = 6;
/// Longest silence of a server, in the middle of a transfer or before an answer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// What to do about a registry that lies.
pub(crate) const CHANGED: &str =
    "the registry, or something on the way to it, changes content: do not use it";

/// Bytes that arrive piece by piece.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// PEM files with further CA certificates.
    pub ca_files: Vec<PathBuf>,
    /// PEM files with a certificate chain and its key, not encrypted: shown to registries that ask who we are.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Registries, `HOST[:PORT]`, that are asked by plain HTTP.
    pub plain_http: Vec<String>,
    /// `(HOST, REGISTRY[/PREFIX])`: what is said to be at HOST is asked for at REGISTRY, below PREFIX.
    pub mirrors: Vec<(String, String)>,
    /// Cache that records unfinished uploads, so that a later run goes on with them; none: they are not recorded.
    pub uploads: Option<ContentCache>,
    /// Bytes a second at most, all transfers together, up and down; none: as fast as it goes.
    pub limit_rate: Option<u64>,
    /// Blobs that are moved at a time; none: [`TRANSFERS`].
    pub transfers: Option<NonZeroUsize>,
}

struct Inner {
    http: Http,
    auth: Auth,
    options: Options,
    /// Hosts that were asked whether they speak TLS, with the base URL of their API.
    bases: Mutex<HashMap<String, Arc<OnceCell<Url>>>>,
    /// Hosts that take a blob as a whole only.
    whole_only: Mutex<HashSet<String>>,
}

/// An HTTP client that knows registries' logins. Clones share connections and tokens.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

/// A download on its way.
pub struct Download {
    /// What the server says; its stream may still end earlier or later.
    pub size: Option<u64>,
    /// The content.
    pub stream: ByteStream,
}

impl Client {
    /// Reads CA files; takes proxies and the places of logins from the environment. Connects nowhere.
    ///
    /// # Errors
    /// When a CA file can't be used, or a proxy's URL.
    pub fn new(options: &Options) -> Result<Self> {
        Self::with(options, IDLE_TIMEOUT, |name| std::env::var(name).ok())
    }

    /// As [`Self::new`], with the longest silence that is put up with, which waits between tries are parts of, and another
    /// environment.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(
        options: &Options,
        idle: Duration,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            http: Http::new(tls::config(options)?, idle, Pace::new(options.limit_rate), &variable)?,
            auth: Auth::new(credentials::files(&variable)),
            options: options.clone(),
            bases: Mutex::default(),
            whole_only: Mutex::default(),
        })))
    }

    /// How many blobs are to be moved at a time.
    #[must_use]
    pub fn transfers(&self) -> usize {
        self.0.options.transfers.map_or(TRANSFERS, NonZeroUsize::get)
    }

    /// A repository, at its mirror if there is one.
    #[must_use]
    pub fn repository(&self, registry: &str, repository: &str) -> Repository {
        let (host, path) = endpoint(registry, repository, &self.0.options.mirrors);
        Repository { client: self.clone(), name: format!("{registry}/{repository}"), host, path }
    }

    /// Whether a registry's name leads to an address inside: private, link-local or this machine. Where a mirror or a proxy
    /// stands between, the user has said whom to ask.
    pub async fn leads_inside(&self, registry: &str) -> bool {
        let is_mirrored = self.0.options.mirrors.iter().any(|(host, _)| host == registry);
        let (host, _) = endpoint(registry, "", &[]);
        let Ok(url) = api("https", &host) else { return true };
        if is_mirrored || self.0.http.is_proxied(&url) {
            return false;
        }
        match url.host_str() {
            Some(name) => names::is_inside(name.trim_matches(['[', ']'])).await,
            None => true,
        }
    }

    /// A client that also trusts the CA in a file, and shows another certificate where one is given.
    ///
    /// # Errors
    /// When a file can't be used.
    pub(crate) fn with_certificates(
        &self,
        ca_file: Option<PathBuf>,
        certificate: Option<(PathBuf, PathBuf)>,
    ) -> Result<Self> {
        let mut options = self.0.options.clone();
        options.ca_files.extend(ca_file);
        options.certificate = certificate.or(options.certificate);
        Self::new(&options)
    }

    /// Fetches a small file, such as a chart repository's index, of at most `cap` bytes. A server that refuses it gets the
    /// login that docker's config has for it.
    ///
    /// # Errors
    /// When it can't be had, or is larger.
    pub async fn get(&self, url: &str, cap: u64) -> Result<Bytes> {
        self.get_as(url, cap, None).await
    }

    /// Fetches a small file with a user and password.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn get_as(&self, url: &str, cap: u64, login: Option<(&str, &str)>) -> Result<Bytes> {
        let (url, action, response) = self.open(url, login).await?;
        self.0.http.read(response, cap).await.map_err(|failure| self.failed(failure, &action, &url))
    }

    /// Starts to download a file of any size.
    ///
    /// # Errors
    /// When it can't be had; the stream fails when it breaks off.
    pub async fn download(&self, url: &str) -> Result<Download> {
        let (url, action, response) = self.open(url, None).await?;
        let size = number(response.headers(), CONTENT_LENGTH.as_str());
        Ok(Download { size, stream: transfer::rest_of(self.clone(), response, url, action) })
    }

    async fn open(&self, text: &str, login: Option<(&str, &str)>) -> Result<(Url, String, Response)> {
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| Error::input("fetching a file", "its address is not an HTTP(S) URL"))?;
        let action = format!("fetching {}", shown(&url));
        let mut call = Call::new(Method::GET, url);
        if let Some((user, password)) = login {
            call.headers.insert(AUTHORIZATION, auth::basic(user, password));
        }
        let send = async |call: &Call| {
            let sent = self.0.http.send(call).await;
            sent.map_err(|failure| self.failed(failure, &action, &call.url))
        };
        let is_refused = |response: &Response| {
            matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        };
        let mut response = send(&call).await?;
        // A refusal from where a redirect led is not answered, and no password goes out in the clear unasked.
        let is_own = response.url().origin() == call.url.origin();
        let is_private = call.url.scheme() == "https" || is_loopback(call.url.host_str().unwrap_or_default());
        if is_refused(&response) && login.is_none() && is_own && is_private {
            let header = self.0.auth.password(&call.url).await.map_err(|e| e.within(&action))?;
            if let Some(header) = header {
                call.headers.insert(AUTHORIZATION, header);
                response = send(&call).await?;
            }
        }
        if response.status() != StatusCode::OK {
            let is_refused = is_refused(&response);
            let failure = self.0.http.refused(response, &call.url).await;
            let error = self.failed(failure, &action, &call.url);
            return Err(match is_refused {
                true => error.hint(format!(
                    "if {0} wants a login: `helm repo add NAME URL --username USER --password-stdin` for a chart repository, or \
                     `docker login {0}`",
                    failure::authority(&call.url)
                )),
                false => error,
            });
        }
        Ok((call.url, action, response))
    }

    fn failed(&self, failure: Failure, action: &str, url: &Url) -> Error {
        failure.during(action, url, self.0.http.is_proxied(url))
    }

    /// Base URL of a registry's API. This machine's registries are asked which scheme they speak, once.
    async fn base(&self, host: &str) -> Result<Url> {
        match scheme(host, &self.0.options.plain_http) {
            Scheme::Https => api("https", host),
            Scheme::Http => api("http", host),
            Scheme::Unknown => {
                let cell = {
                    let mut bases = self.0.bases.lock().unwrap_or_else(PoisonError::into_inner);
                    bases.entry(host.into()).or_default().clone()
                };
                cell.get_or_try_init(|| self.probe(host)).await.cloned()
            }
        }
    }

    async fn probe(&self, host: &str) -> Result<Url> {
        let secure = api("https", host)?;
        match self.0.http.send(&Call::new(Method::GET, secure.clone())).await {
            Ok(_) => Ok(secure),
            Err(failure) if failure.cause() == Cause::NotTls => api("http", host),
            Err(failure) => Err(self.failed(failure, &format!("reaching registry {host}"), &secure)),
        }
    }
}

/// How a host is to be spoken to.
#[derive(Debug, PartialEq)]
enum Scheme {
    Https,
    Http,
    /// TLS if it can, else plain: on this machine nobody listens in.
    Unknown,
}

fn scheme(host: &str, plain_http: &[String]) -> Scheme {
    if plain_http.iter().any(|plain| plain == host) {
        Scheme::Http
    } else if is_loopback(host) {
        Scheme::Unknown
    } else {
        Scheme::Https
    }
}

/// Host and repository that are really asked.
fn endpoint(registry: &str, repository: &str, mirrors: &[(String, String)]) -> (String, String) {
    if let Some((_, mirror)) = mirrors.iter().find(|(host, _)| host == registry) {
        return match mirror.trim_end_matches('/').split_once('/') {
            Some((host, prefix)) => (host.into(), format!("{prefix}/{repository}")),
            None => (mirror.trim_end_matches('/').into(), repository.into()),
        };
    }
    // Docker Hub's name is that of a web site; its registry is elsewhere.
    let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    (host.into(), repository.into())
}

fn api(scheme: &str, host: &str) -> Result<Url> {
    let url = Url::parse(&format!("{scheme}://{host}/v2/")).ok();
    let url = url.filter(|url| url.path() == "/v2/" && url.query().is_none() && url.username().is_empty());
    url.ok_or_else(|| Error::input(format!("reaching registry {host}"), "that is not HOST[:PORT]"))
}

/// The number in an answer's header, if there is one.
fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_stand_in_for_hosts() {
        let mirrors = [
            ("docker.io".to_owned(), "localhost:5000/hub/".to_owned()),
            ("quay.io".to_owned(), "m.example".to_owned()),
        ];
        let at = |registry: &str, mirrors: &[_]| endpoint(registry, "a/b", mirrors);
        assert_eq!(at("docker.io", &mirrors), ("localhost:5000".into(), "hub/a/b".into()));
        assert_eq!(at("quay.io", &mirrors), ("m.example".into(), "a/b".into()));
        assert_eq!(at("ghcr.io", &mirrors), ("ghcr.io".into(), "a/b".into()));
        assert_eq!(at("docker.io", &[]), ("registry-1.docker.io".into(), "a/b".into()));
    }

    #[test]
    fn plain_http_is_for_loopback_and_where_it_is_said() {
        let plain = ["r.example:5000".to_owned(), "localhost:1".to_owned()];
        for (host, expected) in [
            ("r.example:5000", Scheme::Http),
            ("r.example", Scheme::Https),
            ("localhost:1", Scheme::Http),
            ("localhost:5000", Scheme::Unknown),
            ("127.0.0.1:5000", Scheme::Unknown),
            ("[::1]:5000", Scheme::Unknown),
            ("10.0.0.1:5000", Scheme::Https),
        ] {
            assert_eq!(scheme(host, &plain), expected, "{host}");
        }
    }

    #[test]
    fn hosts_are_hosts() {
        for host in ["r.example", "localhost:5000", "[::1]:5000"] {
            assert_eq!(api("https", host).expect(host).path(), "/v2/");
        }
        for host in ["", "u:p@r.example", "r.example/x", "r.example?x", "r.example:x", "a b"] {
            assert!(api("https", host).is_err(), "{host}");
        }
    }
}
