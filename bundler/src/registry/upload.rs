//! Blobs on their way to a registry (distribution spec, "Pushing blobs"). A large one goes in chunks: what a broken
//! connection takes is a chunk at most where the registry says how much it has, and a later run goes on with the same
//! upload. Where it can't, the blob is sent again from its start; the registry checks the digest in the end either way.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::sync::mpsc;

use super::failure::Failure;
use super::http::{self, Call, Http, TooLong};
use super::repository::{Access, Repository, declared_digest, mismatch};
use super::session::Session;
use super::{ByteStream, Inner, number};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// Size of a chunk, in bytes, unless the registry wants larger ones. A blob that is not larger is sent as a whole.
const CHUNK: u64 = 32 << 20;
/// What the smallest chunk is that a registry takes, in bytes (distribution spec, "Pushing a blob in chunks").
const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";
/// Less than this that a registry has of a blob is not gone on from: `0-0` may also mean nothing.
const WORTH: u64 = 1 << 20;
/// How often an upload may break off without more being there than ever before.
const BREAKS: u32 = 5;
/// How many times longer than in between a registry may be silent once it has all of a blob: it hashes, and may copy
/// to its object storage.
const COMMIT_FACTOR: u32 = 20;

/// Why an upload did not come to its end.
enum Stop {
    /// The content can't be had, or not be sent: nothing is to be tried again.
    Error(Error),
    /// The registry refuses the request, and maybe only its form.
    Refused(Error),
    /// It refuses us, or the size of the request.
    Denied(Error),
    /// It broke off, or the registry is overloaded, and says for how long.
    Broken(Failure, Option<Duration>),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// A blob that is to be sent.
struct Upload<'a, C> {
    repository: &'a Repository,
    digest: &'a Digest,
    size: u64,
    content: C,
    action: String,
    session: Session,
}

/// An upload that the registry has opened.
struct Open {
    url: Url,
    /// What it has, in bytes.
    at: u64,
    /// Size of a chunk; none if all of it goes in one request.
    chunk: Option<u64>,
    /// Whether an earlier connection, or run, began it.
    is_taken_up: bool,
}

/// See [`Repository::upload`].
pub(super) async fn upload(
    repository: &Repository,
    digest: &Digest,
    size: u64,
    content: impl Fn(u64) -> ByteStream,
) -> Result<()> {
    let action = format!("pushing blob {}", repository.named(&digest.to_string()));
    let cache = repository.client.0.options.uploads.as_ref().filter(|_| size > CHUNK);
    let session = Session::of(cache, &repository.url(&["blobs", &digest.to_string()]).await?);
    Upload { repository, digest, size, content, action, session }.run().await
}

/// See [`Repository::forget_upload`].
pub(super) async fn forget(repository: &Repository, digest: &Digest) {
    if let Some(cache) = &repository.client.0.options.uploads
        && let Ok(blob) = repository.url(&["blobs", &digest.to_string()]).await
    {
        Session::forget(cache, &blob);
    }
}

impl<C: Fn(u64) -> ByteStream> Upload<'_, C> {
    async fn run(self) -> Result<()> {
        let mut open = match self.session.url() {
            Some(url) => self.status(url).await,
            None => None,
        };
        let (mut breaks, mut best) = (0, 0);
        loop {
            let mut upload = match open.take() {
                Some(upload) => upload,
                None => self.begin().await?,
            };
            let sent = match self.send(&mut upload).await {
                Ok(()) => self.confirm(&upload.url).await,
                stopped => stopped,
            };
            match sent {
                Ok(()) => {
                    self.session.end();
                    return Ok(());
                }
                Err(Stop::Error(error)) => return Err(error.within(self.action)),
                // It expired, or what was there is not what should be.
                Err(Stop::Refused(error) | Stop::Denied(error)) if upload.is_taken_up => {
                    tracing::debug!(digest = %self.digest, %error, "starting an upload anew");
                }
                Err(Stop::Refused(error)) if upload.chunk.is_some() => {
                    tracing::debug!(digest = %self.digest, %error, "no chunks, then");
                    self.whole_only().insert(self.repository.host.clone());
                }
                Err(Stop::Refused(error) | Stop::Denied(error)) => return Err(error),
                Err(Stop::Broken(failure, wait)) => {
                    if upload.at > best {
                        (best, breaks) = (upload.at, 0);
                    }
                    breaks += 1;
                    // Who refuses a chunk and hangs up at once may never be heard: what is written then fails first.
                    if breaks > BREAKS && upload.chunk.is_some() && best == 0 {
                        tracing::debug!(digest = %self.digest, %failure, "no chunk ever went through: no chunks, then");
                        self.whole_only().insert(self.repository.host.clone());
                        breaks = 0;
                        continue;
                    }
                    if breaks > BREAKS {
                        return Err(self.repository.client.failed(failure, &self.action, &upload.url));
                    }
                    tracing::debug!(digest = %self.digest, at = upload.at, %failure, "an upload broke off");
                    tokio::time::sleep(
                        wait.unwrap_or_else(|| self.repository.client.0.http.back_off(breaks)),
                    )
                    .await;
                    match self.repository.has_blob(self.digest).await {
                        // Nothing but the answer was lost.
                        Ok(true) => {
                            self.session.end();
                            return Ok(());
                        }
                        Ok(false) => {}
                        Err(_) => {
                            return Err(self.repository.client.failed(failure, &self.action, &upload.url));
                        }
                    }
                    open = match upload.chunk {
                        Some(_) => self.status(upload.url).await,
                        None => None,
                    };
                }
            }
        }
    }

    /// Hosts that take a blob as a whole only.
    fn whole_only(&self) -> MutexGuard<'_, HashSet<String>> {
        self.repository.client.0.whole_only.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens an upload.
    async fn begin(&self) -> Result<Open> {
        let (start, opened) = open(self.repository, &self.action).await?;
        let missing = || Failure::Protocol("it opened an upload without saying where".into());
        let url = http::location(&opened)
            .and_then(|url| url.ok_or_else(missing))
            .map_err(|failure| self.repository.client.failed(failure, &self.action, &start.url))?;
        let chunk = chunk(opened.headers());
        let is_whole = self.size <= chunk || self.whole_only().contains(&self.repository.host);
        if !is_whole {
            self.session.keep(&url);
        }
        Ok(Open { url, at: 0, chunk: (!is_whole).then_some(chunk), is_taken_up: false })
    }

    /// An upload that was begun, if the registry says that it has something of it.
    async fn status(&self, url: Url) -> Option<Open> {
        let call = Call::new(Method::GET, url);
        let accepted = [StatusCode::NO_CONTENT, StatusCode::OK, StatusCode::ACCEPTED];
        let asked = self.repository.request(&self.action, Access::Push, &call, &accepted).await;
        let response = asked
            .inspect_err(|error| tracing::debug!(digest = %self.digest, %error, "no upload to go on with"))
            .ok()?;
        let at = stored(response.headers()).filter(|at| (WORTH..=self.size).contains(at))?;
        let url = http::location(&response).ok()?.unwrap_or(call.url);
        let chunk = chunk(response.headers());
        tracing::debug!(digest = %self.digest, at, "taking up an upload");
        Some(Open { url, at, chunk: Some(chunk), is_taken_up: true })
    }

    /// Sends what is missing.
    async fn send(&self, upload: &mut Open) -> Result<(), Stop> {
        let mut pieces = None;
        if let Some(chunk) = upload.chunk {
            while upload.at < self.size {
                let range = upload.at..self.size.min(upload.at + chunk);
                let answer = self.request(Method::PATCH, &upload.url, range.clone(), &mut pieces).await?;
                if stored(answer.headers()).is_some_and(|stored| stored != range.end) {
                    return Err(self.odd("it has another part of the blob than was sent", &upload.url));
                }
                upload.at = range.end;
                if let Ok(Some(next)) = http::location(&answer) {
                    upload.url = next;
                }
                self.session.keep(&upload.url);
            }
        }
        let mut url = upload.url.clone();
        url.query_pairs_mut().append_pair("digest", &self.digest.to_string());
        let answer = self.request(Method::PUT, &url, upload.at..self.size, &mut pieces).await?;
        match declared_digest(answer.headers()) {
            Some(stored) if stored != *self.digest => {
                Err(Stop::Denied(mismatch(&self.action, self.digest, &stored)))
            }
            _ => Ok(()),
        }
    }

    /// Asks the registry for the blob: the answer to its last part may come from another server, or be a lie.
    async fn confirm(&self, url: &Url) -> Result<(), Stop> {
        match self.repository.has_blob(self.digest).await? {
            true => Ok(()),
            false => {
                let why = "it says that it has stored the blob, and then does not have it";
                let failure = Failure::Protocol(why.into());
                Err(Stop::Denied(self.repository.client.failed(failure, &self.action, url)))
            }
        }
    }

    /// A request with a part of the blob, with the authorization it needs.
    async fn request(
        &self,
        method: Method,
        url: &Url,
        range: Range<u64>,
        pieces: &mut Option<Pieces>,
    ) -> Result<Response, Stop> {
        let Inner { http, auth, .. } = &*self.repository.client.0;
        let home = self.repository.url(&["blobs", "uploads", ""]).await?;
        let scope = Access::Push.scope(&self.repository.path);
        let is_home = url.origin() == home.origin();
        let known = auth.known(&home, &scope).filter(|_| is_home);
        let mut response = self.once(&method, url, &range, pieces, known.as_ref()).await?;
        let mut hops = 0;
        while http::is_kept(response.status()) && hops < http::REDIRECTS {
            let next = http::location(&response).map_err(|failure| self.odd(&failure.to_string(), url))?;
            let Some(next) = next else { break };
            hops += 1;
            // What was sent so far went to the wrong place.
            *pieces = None;
            let known = known.as_ref().filter(|_| next.origin() == home.origin());
            response = self.once(&method, &next, &range, pieces, known).await?;
        }
        let is_home = is_home && response.url().origin() == home.origin();
        if response.status() == StatusCode::UNAUTHORIZED && is_home {
            // Tokens may live shorter than a blob takes.
            let answer = auth
                .answer(http, (&home, &self.repository.path), &scope, response.headers(), known.as_ref())
                .await;
            if let Some(header) = answer? {
                *pieces = None;
                response = self.once(&method, url, &range, pieces, Some(&header)).await?;
            }
        }
        let response = self.accepted(response, url).await?;
        if pieces.as_ref().is_some_and(|pieces| pieces.at != range.end) {
            return Err(self.odd("it answered before it had all that was to be sent", url));
        }
        Ok(response)
    }

    /// An answer that breaks the protocol.
    fn odd(&self, why: &str, url: &Url) -> Stop {
        Stop::Refused(self.repository.client.failed(Failure::Protocol(why.into()), &self.action, url))
    }

    async fn accepted(&self, response: Response, url: &Url) -> Result<Response, Stop> {
        let status = response.status();
        if matches!(
            status,
            StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT
        ) {
            return Ok(response);
        }
        let http = &self.repository.client.0.http;
        if http::is_overloaded(status) {
            let wait = http.wait(&response);
            let failure = http.refused(response, url).await;
            return Err(match wait {
                Ok(wait) => Stop::Broken(failure, wait),
                Err(TooLong) => Stop::Denied(self.repository.client.failed(failure, &self.action, url)),
            });
        }
        let error = self.repository.refused(response, &self.action, url).await;
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PAYLOAD_TOO_LARGE => {
                Stop::Denied(error)
            }
            _ => Stop::Refused(error),
        })
    }

    /// One request, up to the head of its answer: the body is fed to it piece by piece, and whoever doesn't take a piece
    /// for too long has stalled.
    async fn once(
        &self,
        method: &Method,
        url: &Url,
        range: &Range<u64>,
        pieces: &mut Option<Pieces>,
        authorization: Option<&reqwest::header::HeaderValue>,
    ) -> Result<Response, Stop> {
        let http = &self.repository.client.0.http;
        http.pace.turn(url).await;
        let length = range.end - range.start;
        let (taker, taken) = mpsc::channel(1);
        let body = stream::unfold(taken, |mut taken| async {
            taken.recv().await.map(|piece| (Ok::<_, std::io::Error>(piece), taken))
        });
        let mut request = http
            .request(method.clone(), url.clone())
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, length);
        if method == Method::PATCH {
            request = request.header(CONTENT_RANGE, format!("{}-{}", range.start, range.end - 1));
        }
        if let Some(header) = authorization {
            request = request.header(AUTHORIZATION, header);
        }
        // Without a body nothing is to be waited for, and some registries want none.
        if length > 0 {
            request = request.body(Body::wrap_stream(body));
        }
        let pieces = pieces.get_or_insert_with(|| Pieces {
            at: range.start,
            rest: Bytes::new(),
            stream: (self.content)(range.start),
        });
        let mut answer = std::pin::pin!(http.exchange(request));
        let patience = http.idle * COMMIT_FACTOR;
        let answer = tokio::select! {
            answer = &mut answer => answer,
            fed = pieces.feed(length, taker, http) => {
                fed?;
                tokio::time::timeout(patience, answer).await.map_err(|_| broken(Failure::Idle(patience)))?
            }
        };
        answer.map_err(broken)
    }
}

/// What may go better another time, and what may not.
fn broken(failure: Failure) -> Stop {
    Stop::Broken(failure, None)
}

/// What is left of a blob.
struct Pieces {
    /// Where the next byte that is handed over stands in the blob.
    at: u64,
    /// Of the last piece, what belongs to the next chunk.
    rest: Bytes,
    stream: ByteStream,
}

impl Pieces {
    /// Hands `length` bytes to a request.
    async fn feed(&mut self, mut length: u64, taker: mpsc::Sender<Bytes>, http: &Http) -> Result<(), Stop> {
        while length > 0 {
            if self.rest.is_empty() {
                self.rest = match self.stream.next().await {
                    Some(piece) => piece?,
                    None => return Err(Error::input("sending a blob", "its content ends too early").into()),
                };
            }
            let piece =
                self.rest.split_to(usize::try_from(length).unwrap_or(usize::MAX).min(self.rest.len()));
            let taken = piece.len() as u64;
            http.pace.pass(piece.len()).await;
            match tokio::time::timeout(http.idle, taker.send(piece)).await {
                Ok(Ok(())) => {
                    self.at += taken;
                    length -= taken;
                }
                // The request has ended: its answer says why.
                Ok(Err(_)) => return Ok(()),
                Err(_) => return Err(broken(Failure::Idle(http.idle))),
            }
        }
        Ok(())
    }
}

/// Opens an upload: the request, and its answer.
async fn open(repository: &Repository, action: &str) -> Result<(Call, Response)> {
    let start = Call::new(Method::POST, repository.url(&["blobs", "uploads", ""]).await?);
    // Some registries say 200 or 201 where the specification has 202.
    let accepted = [StatusCode::ACCEPTED, StatusCode::OK, StatusCode::CREATED, StatusCode::NOT_FOUND];
    let opened = repository.request(action, Access::Push, &start, &accepted).await?;
    if opened.status() == StatusCode::NOT_FOUND {
        let error = repository.refused(opened, action, &start.url).await;
        let why = format!(
            "this registry makes no repositories by itself: create {}, or its project, there first",
            repository.path
        );
        return Err(error.hint(why));
    }
    Ok((start, opened))
}

/// See [`Repository::may_push`].
pub(super) async fn may_push(repository: &Repository) -> Result<()> {
    let action = format!("asking whether we may push to {}", repository.name);
    let (start, opened) = open(repository, &action).await?;
    // An upload that nobody goes on with expires; giving it up is good manners, which not every registry knows.
    if let Ok(Some(url)) = http::location(&opened) {
        let end = Call::new(Method::DELETE, url);
        let gone = [StatusCode::NO_CONTENT, StatusCode::OK, StatusCode::ACCEPTED];
        if end.url.origin() == start.url.origin() {
            let _ = repository.request(&action, Access::Push, &end, &gone).await;
        }
    }
    Ok(())
}

/// Size of a chunk, in bytes, with what an answer says of it.
fn chunk(headers: &HeaderMap) -> u64 {
    CHUNK.max(number(headers, CHUNK_MIN_LENGTH).unwrap_or_default())
}

/// How much an answer says that there is of an upload, in bytes: `Range: 0-LAST`, both inclusive.
fn stored(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(RANGE)?.to_str().ok()?;
    let last = range.trim().trim_start_matches("bytes=").strip_prefix("0-")?;
    last.parse::<u64>().ok()?.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_how_much_is_there() {
        let stored =
            |range: &'static str| stored(&HeaderMap::from_iter([(RANGE, range.parse().expect("a header"))]));
        assert_eq!(stored("0-99"), Some(100));
        assert_eq!(stored("bytes=0-99"), Some(100));
        for other in ["", "5-9", "0-", "0-x", "0--1", "0-18446744073709551615"] {
            assert_eq!(stored(other), None, "{other}");
        }
    }
}
