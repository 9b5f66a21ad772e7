//! One repository of a registry: what it has, and what it takes (OCI distribution spec 1.1).

use std::ops::Range;

use bytes::Bytes;
use oci_distribution::manifest as media;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};

use super::failure::{Failure, authority};
use super::http::Call;
use super::{ByteStream, CHANGED, Client, Inner, MANIFEST_CAP, transfer, upload};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// Where a registry says what a manifest's digest is.
const CONTENT_DIGEST: &str = "docker-content-digest";
/// What may come where a manifest is asked for.
const MANIFESTS: [&str; 4] = [
    media::OCI_IMAGE_INDEX_MEDIA_TYPE,
    media::OCI_IMAGE_MEDIA_TYPE,
    media::IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    media::IMAGE_MANIFEST_MEDIA_TYPE,
];

/// One repository of a registry.
#[derive(Clone)]
pub struct Repository {
    pub(super) client: Client,
    /// `REGISTRY/REPOSITORY` as it was asked for.
    pub(super) name: String,
    /// Host, with port, that is really asked.
    pub(super) host: String,
    /// The repository's name there.
    pub(super) path: String,
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

/// What a request needs to be allowed.
#[derive(Clone, Copy)]
pub(super) enum Access<'a> {
    Pull,
    Push,
    /// Push, and pull from another repository.
    Mount(&'a str),
}

impl Access<'_> {
    /// Scope of the token (distribution's "Token Scope Documentation").
    pub(super) fn scope(self, path: &str) -> String {
        match self {
            Self::Pull => format!("repository:{path}:pull"),
            Self::Push => format!("repository:{path}:pull,push"),
            Self::Mount(from) => format!("repository:{path}:pull,push repository:{from}:pull"),
        }
    }
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
        let accepted = [StatusCode::CREATED, StatusCode::ACCEPTED, StatusCode::OK];
        let call = Call::new(Method::POST, url);
        let response = self.request(&action, Access::Mount(from_repository), &call, &accepted).await?;
        match response.status() {
            StatusCode::CREATED => Ok(true),
            // The specification does not say what that means here.
            StatusCode::OK => self.has_blob(digest).await,
            _ => Ok(false),
        }
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
    pub async fn forget_upload(&self, digest: &Digest) {
        upload::forget(self, digest).await;
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
        let accepted = [StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED, StatusCode::NOT_FOUND];
        let response = self.request(&action, Access::Push, &call, &accepted).await?;
        if response.status() == StatusCode::NOT_FOUND {
            let hint = "what it names may be gone again: run the same command again; some registries want a project or repository to be \
                        made first";
            return Err(self.refused(response, &action, &call.url).await.hint(hint));
        }
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
    pub(super) async fn url(&self, segments: &[&str]) -> Result<Url> {
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

    /// Makes a request with the authorization it needs; an answer that is not `accepted` is an error. A registry that does
    /// not know HEAD is asked by GET.
    pub(super) async fn request(
        &self,
        action: &str,
        access: Access<'_>,
        call: &Call,
        accepted: &[StatusCode],
    ) -> Result<Response> {
        let response = self.ask(action, access, call).await?;
        let has_no_head = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED];
        let response = match call.method == Method::HEAD && has_no_head.contains(&response.status()) {
            true => self.ask(action, access, &Call { method: Method::GET, ..call.clone() }).await?,
            false => response,
        };
        if accepted.contains(&response.status()) {
            Ok(response)
        } else {
            Err(self.refused(response, action, &call.url).await)
        }
    }

    /// Makes a request with the authorization it needs.
    async fn ask(&self, action: &str, access: Access<'_>, call: &Call) -> Result<Response> {
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
            let answer =
                auth.answer(http, (&call.url, &self.path), &scope, response.headers(), known.as_ref()).await;
            if let Some(header) = answer.map_err(|e| e.within(action))? {
                call.headers.insert(AUTHORIZATION, header);
                response = http.send(&call).await.map_err(failed)?;
            }
        }
        Ok(response)
    }

    pub(super) async fn refused(&self, response: Response, action: &str, url: &Url) -> Error {
        let status = response.status();
        let failure = self.client.0.http.refused(response, url).await;
        let is_proxys = matches!(failure, Failure::Proxy(..));
        let error = self.client.failed(failure, action, url);
        if !is_proxys && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            error.hint(self.client.0.auth.hint(&authority(url), &self.path).await)
        } else {
            error
        }
    }

    pub(super) async fn read(&self, response: Response, action: &str, url: &Url, cap: u64) -> Result<Bytes> {
        let body = self.client.0.http.read(response, cap).await;
        body.map_err(|failure| self.client.failed(failure, action, url))
    }
}

/// The digest in an answer's header, if there is one of ours.
pub(super) fn declared_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(CONTENT_DIGEST)?.to_str().ok()?.trim().trim_matches('"').parse().ok()
}

pub(super) fn mismatch(action: &str, expected: &Digest, found: &Digest) -> Error {
    Error::trust(action, format!("the content is not what was asked for: expected {expected}, got {found}"))
        .hint(CHANGED)
}
