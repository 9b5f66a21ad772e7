//! Client of registries (OCI distribution spec 1.1), and of plain HTTP(S) servers, on one HTTP client.

mod auth;
mod credentials;
mod failure;
mod http;
pub(crate) mod names;
mod pace;
mod referrers;
mod session;
mod tls;
mod transfer;
mod upload;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use oci_distribution::manifest as media;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::OnceCell;

use crate::digest::Digest;
use crate::error::{Error, Result};
use auth::Auth;
use failure::{Cause, Failure, authority};
use http::{Call, Http, is_loopback, shown};
pub(crate) use names::addresses;
use pace::Pace;

/// Largest manifest that is read, in bytes (distribution spec, "Pushing Manifests").
pub const MANIFEST_CAP: u64 = 4 << 20;
/// Blobs that are moved at a time, unless told otherwise.
pub const TRANSFERS: usize = 6;
/// Longest silence of a server, in the middle of a transfer or before an answer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Where a registry says what a manifest's digest is.
const CONTENT_DIGEST: &str = "docker-content-digest";
/// What to do about a registry that lies.
pub(crate) const CHANGED: &str =
    "the registry, or something on the way to it, changes content: do not use it";
/// What may come where a manifest is asked for.
const MANIFESTS: [&str; 4] = [
    media::OCI_IMAGE_INDEX_MEDIA_TYPE,
    media::OCI_IMAGE_MEDIA_TYPE,
    media::IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    media::IMAGE_MANIFEST_MEDIA_TYPE,
];

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
    /// Directory where unfinished uploads are written down, so that a later run goes on with them; none: they are not.
    pub uploads: Option<PathBuf>,
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

/// One repository of a registry.
#[derive(Clone)]
pub struct Repository {
    client: Client,
    /// `REGISTRY/REPOSITORY` as it was asked for.
    name: String,
    /// Host, with port, that is really asked.
    host: String,
    /// The repository's name there.
    path: String,
}

/// What a registry says when it is asked whether it has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It has it.
    There,
    /// It has not.
    Absent,
    /// It does not say, at least not to us: the HTTP status. Docker Hub answers so for what it doesn't have.
    Refused(u16),
}

/// A manifest as it came.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The raw bytes.
    pub bytes: Bytes,
    /// What the registry says they are; empty if it says nothing.
    pub media_type: String,
    /// Of `bytes`.
    pub digest: Digest,
}

/// A download on its way.
pub struct Download {
    /// What the server says; its stream may still end earlier or later.
    pub size: Option<u64>,
    /// The content.
    pub stream: ByteStream,
}

/// What a request needs to be allowed.
#[derive(Clone, Copy)]
enum Access<'a> {
    Pull,
    Push,
    /// Push, and pull from another repository.
    Mount(&'a str),
}

impl Access<'_> {
    /// Scope of the token (distribution's "Token Scope Documentation").
    fn scope(self, path: &str) -> String {
        match self {
            Self::Pull => format!("repository:{path}:pull"),
            Self::Push => format!("repository:{path}:pull,push"),
            Self::Mount(from) => format!("repository:{path}:pull,push repository:{from}:pull"),
        }
    }
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

    /// Fetches a small file, such as a chart repository's index, of at most `cap` bytes.
    ///
    /// # Errors
    /// When it can't be had, or is larger.
    pub async fn get(&self, url: &str, cap: u64) -> Result<Bytes> {
        let (url, action, response) = self.open(url).await?;
        self.0.http.read(response, cap).await.map_err(|failure| self.failed(failure, &action, &url))
    }

    /// Starts to download a file of any size.
    ///
    /// # Errors
    /// When it can't be had; the stream fails when it breaks off.
    pub async fn download(&self, url: &str) -> Result<Download> {
        let (url, action, response) = self.open(url).await?;
        let size = number(response.headers(), CONTENT_LENGTH.as_str());
        Ok(Download { size, stream: transfer::rest_of(self.clone(), response, url, action) })
    }

    async fn open(&self, text: &str) -> Result<(Url, String, Response)> {
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| Error::input("fetching a file", "its address is not an HTTP(S) URL"))?;
        let action = format!("fetching {}", shown(&url));
        let call = Call::new(Method::GET, url);
        let sent = self.0.http.send(&call).await;
        let response = sent.map_err(|failure| self.failed(failure, &action, &call.url))?;
        if response.status() != StatusCode::OK {
            let failure = self.0.http.refused(response, &call.url).await;
            return Err(self.failed(failure, &action, &call.url));
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

/// The digest in an answer's header, if there is one of ours.
fn declared_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

impl Repository {
    /// Fetches a manifest or index of at most [`MANIFEST_CAP`] bytes.
    ///
    /// # Errors
    /// When it can't be had; of [`crate::Kind::Trust`] when the bytes are not those of the digest that was asked for,
    /// or that the registry itself names.
    pub async fn manifest(&self, tag_or_digest: &str) -> Result<Manifest> {
        let action = format!("fetching manifest {}", self.named(tag_or_digest));
        let call = self.manifest_call(Method::GET, tag_or_digest).await?;
        let response = self.request(&action, Access::Pull, &call, &[StatusCode::OK]).await?;
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().into();
        let declared = declared_digest(response.headers());
        let bytes = self.read(response, &action, &call.url, MANIFEST_CAP).await?;
        let digest = Digest::of(&bytes);
        let asked: Option<Digest> = tag_or_digest.parse().ok();
        match asked.or(declared) {
            Some(expected) if expected != digest => Err(mismatch(&action, &expected, &digest)),
            _ => Ok(Manifest { bytes, media_type, digest }),
        }
    }

    /// The digest that a tag points to now; none if there is no such tag.
    ///
    /// # Errors
    /// When the registry can't be asked.
    pub async fn head_manifest(&self, tag_or_digest: &str) -> Result<Option<Digest>> {
        let action = format!("looking up manifest {}", self.named(tag_or_digest));
        let call = self.manifest_call(Method::HEAD, tag_or_digest).await?;
        let accepted = [StatusCode::OK, StatusCode::NOT_FOUND];
        let response = self.request(&action, Access::Pull, &call, &accepted).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        match declared_digest(response.headers()) {
            Some(digest) => Ok(Some(digest)),
            // The header is optional.
            None => Ok(Some(self.manifest(tag_or_digest).await?.digest)),
        }
    }

    /// Asks whether a manifest is there.
    ///
    /// # Errors
    /// When the registry can't be reached.
    pub async fn presence(&self, tag_or_digest: &str) -> Result<Presence> {
        let action = format!("looking up manifest {}", self.named(tag_or_digest));
        let call = self.manifest_call(Method::HEAD, tag_or_digest).await?;
        let accepted = [
            StatusCode::OK,
            StatusCode::NOT_FOUND,
            StatusCode::BAD_REQUEST,
            StatusCode::UNAUTHORIZED,
            StatusCode::FORBIDDEN,
        ];
        let response = self.request(&action, Access::Pull, &call, &accepted).await?;
        Ok(match response.status() {
            StatusCode::OK => Presence::There,
            StatusCode::NOT_FOUND => Presence::Absent,
            other => Presence::Refused(other.as_u16()),
        })
    }

    /// Streams a blob from the byte `from` on. A transfer that breaks off is taken up again where it broke; the bytes
    /// are not checked, and may be more or fewer than expected: the caller knows size and digest.
    ///
    /// # Errors
    /// When it can't be had; the stream fails when it breaks off too often.
    pub async fn blob(&self, digest: &Digest, from: u64) -> Result<ByteStream> {
        transfer::blob(self.clone(), *digest, from).await
    }

    /// As [`Self::blob`], a part of it; none if the registry only sends all of it.
    ///
    /// # Errors
    /// As [`Self::blob`].
    pub async fn blob_part(&self, digest: &Digest, part: Range<u64>) -> Result<Option<ByteStream>> {
        transfer::blob_part(self.clone(), *digest, part).await
    }

    /// A small blob, such as an image's config, of `size` bytes, checked.
    ///
    /// # Errors
    /// When it can't be had; of [`crate::Kind::Trust`] when it is larger, or its digest wrong.
    pub async fn small_blob(&self, digest: &Digest, size: u64) -> Result<Bytes> {
        transfer::small_blob(self, digest, size).await
    }

    /// Whether the repository has a blob.
    ///
    /// # Errors
    /// When the registry can't be asked.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let action = format!("looking up blob {}", self.named(&digest.to_string()));
        let call = Call::new(Method::HEAD, self.url(&["blobs", &digest.to_string()]).await?);
        // 500, again and again: CNCF distribution has only a part of it, since its disk was full. Sending it mends that.
        let accepted = [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::INTERNAL_SERVER_ERROR];
        let response = self.request(&action, Access::Pull, &call, &accepted).await?;
        Ok(response.status() == StatusCode::OK)
    }

    /// Asks the registry to take a blob over from another of its repositories; `false` if it would not.
    ///
    /// # Errors
    /// When the registry can't be asked, or refuses.
    pub async fn mount(&self, digest: &Digest, from_repository: &str) -> Result<bool> {
        let action = format!("mounting blob {} from {from_repository}", self.named(&digest.to_string()));
        let mut url = self.url(&["blobs", "uploads", ""]).await?;
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from_repository);
        // 202: it has opened an upload instead, which expires by itself.
        let accepted = [StatusCode::CREATED, StatusCode::ACCEPTED];
        let call = Call::new(Method::POST, url);
        let response = self.request(&action, Access::Mount(from_repository), &call, &accepted).await?;
        Ok(response.status() == StatusCode::CREATED)
    }

    /// Asks whether we may push: an upload is begun, and given up again.
    ///
    /// # Errors
    /// When the registry refuses, or can't be reached.
    pub async fn may_push(&self) -> Result<()> {
        upload::may_push(self).await
    }

    /// Uploads a blob of `size` bytes, in chunks if it is large. `content` gives everything from a byte on, and is asked again
    /// when the upload breaks off, or goes on where another one stopped. Its errors come back as they are.
    ///
    /// # Errors
    /// When the registry refuses it or the transfer breaks off too often; the registry checks the digest.
    pub async fn upload(
        &self,
        digest: &Digest,
        size: u64,
        content: impl Fn(u64) -> ByteStream,
    ) -> Result<()> {
        upload::upload(self, digest, size, content).await
    }

    /// Forgets where an upload of a blob would go on: a run that was killed when the blob was complete has left that.
    pub fn forget_upload(&self, digest: &Digest) {
        upload::forget(self, digest);
    }

    /// Puts a manifest under a tag or its digest.
    ///
    /// # Errors
    /// When the registry refuses it; of [`crate::Kind::Trust`] when it then names another digest.
    pub async fn put_manifest(&self, reference: &str, media_type: &str, bytes: Bytes) -> Result<()> {
        let action = format!("pushing manifest {}", self.named(reference));
        let digest = Digest::of(&bytes);
        let mut call = Call::new(Method::PUT, self.url(&["manifests", reference]).await?);
        let media_type = HeaderValue::from_str(media_type);
        call.headers.insert(CONTENT_TYPE, media_type.map_err(|e| Error::input(action.as_str(), e))?);
        call.body = bytes;
        let accepted = [StatusCode::CREATED, StatusCode::OK];
        let response = self.request(&action, Access::Push, &call, &accepted).await?;
        match declared_digest(response.headers()) {
            Some(stored) if stored != digest => Err(mismatch(&action, &digest, &stored)),
            _ => Ok(()),
        }
    }

    async fn manifest_call(&self, method: Method, reference: &str) -> Result<Call> {
        let mut call = Call::new(method, self.url(&["manifests", reference]).await?);
        for media_type in MANIFESTS {
            call.headers.append(ACCEPT, HeaderValue::from_static(media_type));
        }
        Ok(call)
    }

    /// URL of something in this repository; the last segments are given.
    async fn url(&self, segments: &[&str]) -> Result<Url> {
        let mut url = self.client.base(&self.host).await?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(self.path.split('/')).extend(segments);
        }
        Ok(url)
    }

    /// The image's name for messages, with the host that is really asked where it is another.
    pub(crate) fn named(&self, reference: &str) -> String {
        let joint = if reference.contains(':') { '@' } else { ':' };
        let at = if self.name == format!("{}/{}", self.host, self.path) {
            String::new()
        } else {
            format!(" at {}", self.host)
        };
        format!("{}{joint}{reference}{at}", self.name)
    }

    /// Makes a request with the authorization it needs; an answer that is not `accepted` is an error.
    async fn request(
        &self,
        action: &str,
        access: Access<'_>,
        call: &Call,
        accepted: &[StatusCode],
    ) -> Result<Response> {
        let Inner { http, auth, .. } = &*self.client.0;
        let failed = |failure| self.client.failed(failure, action, &call.url);
        let scope = access.scope(&self.path);
        let mut call = call.clone();
        let known = auth.known(&call.url, &scope);
        if let Some(header) = &known {
            call.headers.insert(AUTHORIZATION, header.clone());
        }
        let mut response = http.send(&call).await.map_err(failed)?;
        // A challenge from where a redirect led is not the registry's.
        let own = response.url().origin() == call.url.origin();
        if response.status() == StatusCode::UNAUTHORIZED && own {
            let answer = auth.answer(http, &call.url, &scope, response.headers(), known.as_ref()).await;
            if let Some(header) = answer.map_err(|e| e.within(action))? {
                call.headers.insert(AUTHORIZATION, header);
                response = http.send(&call).await.map_err(failed)?;
            }
        }
        if accepted.contains(&response.status()) {
            Ok(response)
        } else {
            Err(self.refused(response, action, &call.url).await)
        }
    }

    async fn refused(&self, response: Response, action: &str, url: &Url) -> Error {
        let status = response.status();
        let error = self.client.failed(self.client.0.http.refused(response, url).await, action, url);
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            error.hint(self.client.0.auth.hint(&authority(url)).await)
        } else {
            error
        }
    }

    async fn read(&self, response: Response, action: &str, url: &Url, cap: u64) -> Result<Bytes> {
        let body = self.client.0.http.read(response, cap).await;
        body.map_err(|failure| self.client.failed(failure, action, url))
    }
}

fn mismatch(action: &str, expected: &Digest, found: &Digest) -> Error {
    Error::trust(action, format!("the content is not what was asked for: expected {expected}, got {found}"))
        .hint(CHANGED)
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
