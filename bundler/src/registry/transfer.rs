//! Blobs on their way in and out: streams that are taken up again where they broke, and uploads that may not stall.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::stream::{self, Stream, StreamExt as _};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::sync::watch;

use super::failure::Failure;
use super::http::{self, Call};
use super::{Access, ByteStream, Client, Inner, Repository, declared_digest, mismatch};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// How often a download may break off without [`PROGRESS`] in between.
const BREAKS: u32 = 3;
/// Bytes after which a connection counts as having worked.
const PROGRESS: u64 = 1 << 20;
const BACK_OFF: Duration = Duration::from_millis(500);
/// How many times longer than in between a registry may be silent once it has all of a blob: it hashes, and may copy
/// to its object storage.
const COMMIT_FACTOR: u32 = 20;

/// What is left of an answer's body.
pub(super) fn rest_of(client: Client, response: Response, url: Url, action: String) -> ByteStream {
    let next = move |(client, mut response): (Client, Response)| {
        let (url, action) = (url.clone(), action.clone());
        async move {
            match client.0.http.chunk(&mut response).await {
                Ok(chunk) => Ok(chunk.map(|bytes| (bytes, (client, response)))),
                Err(failure) => Err(client.failed(failure, &action, &url)),
            }
        }
    };
    stream::try_unfold((client, response), next).boxed()
}

/// A blob being fetched.
struct Pull {
    repository: Repository,
    digest: Digest,
    response: Response,
    /// Bytes of `response` that come before what is wanted.
    skip: u64,
    /// Offset in the blob of the next byte that is handed on.
    at: u64,
    /// Breaks since `progress_from`.
    breaks: u32,
    progress_from: u64,
}

/// See [`Repository::blob`].
pub(super) async fn blob(repository: Repository, digest: Digest, from: u64) -> Result<ByteStream> {
    let (response, skip) = open(&repository, &digest, from).await?;
    let pull = Pull { repository, digest, response, skip, at: from, breaks: 0, progress_from: from };
    let next = |mut pull: Pull| async move { Ok(pull.next().await?.map(|bytes| (bytes, pull))) };
    Ok(stream::try_unfold(pull, next).boxed())
}

fn pulling(repository: &Repository, digest: &Digest) -> String {
    format!("fetching blob {}", repository.named(&digest.to_string()))
}

/// The answer with the blob, and how many of its bytes come before `from`.
async fn open(repository: &Repository, digest: &Digest, from: u64) -> Result<(Response, u64)> {
    let action = pulling(repository, digest);
    let mut call = Call::new(Method::GET, repository.url(&["blobs", &digest.to_string()]).await?);
    let mut accepted = vec![StatusCode::OK];
    if from > 0 {
        call.headers.insert(
            RANGE,
            HeaderValue::from_maybe_shared(format!("bytes={from}-"))
                .map_err(|e| Error::input(action.as_str(), e))?,
        );
        accepted.push(StatusCode::PARTIAL_CONTENT);
    }
    let response = repository.request(&action, Access::Pull, &call, &accepted).await?;
    if response.status() == StatusCode::OK {
        return Ok((response, from));
    }
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    if range.and_then(range_start) == Some(from) {
        return Ok((response, 0));
    }
    let failure = Failure::Protocol(format!("it sent another range than the one from byte {from}"));
    Err(repository.client.failed(failure, &action, &call.url))
}

/// First byte of `bytes FIRST-LAST/SIZE` (RFC 9110, 14.4).
fn range_start(content_range: &str) -> Option<u64> {
    content_range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

impl Pull {
    /// The next bytes; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.repository.client.0.http.chunk(&mut self.response).await {
                Ok(None) => return Ok(None),
                Ok(Some(mut bytes)) => {
                    let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                    bytes.advance(skipped);
                    self.skip -= skipped as u64;
                    self.at += bytes.len() as u64;
                    if !bytes.is_empty() {
                        return Ok(Some(bytes));
                    }
                }
                Err(failure) => self.take_up_again(failure).await?,
            }
        }
    }

    async fn take_up_again(&mut self, failure: Failure) -> Result<()> {
        if self.at - self.progress_from >= PROGRESS {
            (self.breaks, self.progress_from) = (0, self.at);
        }
        self.breaks += 1;
        if self.breaks > BREAKS {
            let action = pulling(&self.repository, &self.digest);
            return Err(self.repository.client.failed(failure, &action, self.response.url()));
        }
        tracing::debug!(digest = %self.digest, at = self.at, %failure, "taking up a download again");
        tokio::time::sleep(BACK_OFF * self.breaks).await;
        (self.response, self.skip) = open(&self.repository, &self.digest, self.at).await?;
        Ok(())
    }
}

/// See [`Repository::upload`]: POST, then PUT of the whole (distribution spec, "POST then PUT").
pub(super) async fn upload(
    repository: &Repository,
    digest: &Digest,
    size: u64,
    body: impl Stream<Item = Result<Bytes>> + Send + 'static,
) -> Result<()> {
    let action = format!("pushing blob {}", repository.named(&digest.to_string()));
    let start = Call::new(Method::POST, repository.url(&["blobs", "uploads", ""]).await?);
    let failed = |failure| repository.client.failed(failure, &action, &start.url);
    let opened = repository.request(&action, Access::Push, &start, &[StatusCode::ACCEPTED]).await?;
    let missing = || Failure::Protocol("it opened an upload without saying where".into());
    let mut url = http::location(&opened).and_then(|url| url.ok_or_else(missing)).map_err(failed)?;
    url.query_pairs_mut().append_pair("digest", &digest.to_string());

    let Inner { http, auth, .. } = &*repository.client.0;
    let (moved, movement) = watch::channel(());
    let source_error = Arc::new(Mutex::new(None));
    let kept = source_error.clone();
    // The sender lives in the stream: its end is the body's end.
    let body = body.map(move |item| {
        moved.send_replace(());
        item.map_err(|error| {
            let text = error.to_string();
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            std::io::Error::other(text)
        })
    });
    let mut request = http
        .request(Method::PUT, url.clone())
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(CONTENT_LENGTH, size)
        .body(Body::wrap_stream(body));
    if url.origin() == start.url.origin()
        && let Some(header) = auth.known(&start.url, &Access::Push.scope(&repository.path))
    {
        request = request.header(AUTHORIZATION, header);
    }
    let outcome = tokio::select! {
        answer = request.send() => answer.map_err(Failure::from),
        () = stalled(movement, http.idle) => Err(Failure::Idle(http.idle)),
    };
    // What broke the body explains the broken request, not the other way round.
    if let Some(error) = source_error.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error.within(action));
    }
    let response = outcome.map_err(failed)?;
    if !matches!(response.status(), StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT) {
        return Err(repository.refused(response, &action, &url).await);
    }
    match declared_digest(response.headers()) {
        Some(stored) if stored != *digest => Err(mismatch(&action, digest, &stored)),
        _ => Ok(()),
    }
}

/// See [`Repository::may_push`].
pub(super) async fn may_push(repository: &Repository) -> Result<()> {
    let action = format!("asking whether we may push to {}", repository.name);
    let start = Call::new(Method::POST, repository.url(&["blobs", "uploads", ""]).await?);
    let opened = repository.request(&action, Access::Push, &start, &[StatusCode::ACCEPTED]).await?;
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

/// Returns when the body has not moved for `idle`, or when the registry is silent for much longer after its end.
async fn stalled(mut movement: watch::Receiver<()>, idle: Duration) {
    loop {
        match tokio::time::timeout(idle, movement.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return tokio::time::sleep(idle * COMMIT_FACTOR).await,
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_where_it_starts() {
        assert_eq!(range_start("bytes 5-9/10"), Some(5));
        assert_eq!(range_start("bytes 5-9/*"), Some(5));
        for other in ["", "bytes */10", "bytes", "5-9/10", "bytes -9/10"] {
            assert_eq!(range_start(other), None, "{other}");
        }
    }
}
