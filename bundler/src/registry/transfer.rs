//! Blobs on their way here: streams that are taken up again where they broke.

use std::ops::Range;

use bytes::{Buf as _, Bytes};
use futures_util::stream::{self, StreamExt as _};
use reqwest::header::{CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use super::failure::Failure;
use super::http::Call;
use super::repository::{Access, Repository, mismatch};
use super::{ByteStream, CHANGED, Client};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// How often a download may break off without [`PROGRESS`] in between.
const BREAKS: u32 = 5;
/// Bytes after which a connection counts as having worked.
const PROGRESS: u64 = 1 << 20;

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
    /// Offset of the first byte that is not wanted any more, if not all are.
    end: Option<u64>,
    /// Breaks since `progress_from`.
    breaks: u32,
    progress_from: u64,
}

/// See [`Repository::blob`].
pub(super) async fn blob(repository: Repository, digest: Digest, from: u64) -> Result<ByteStream> {
    let (response, skip) = open(&repository, &digest, from, None).await?;
    Ok(Pull { repository, digest, response, skip, at: from, end: None, breaks: 0, progress_from: from }
        .stream())
}

/// See [`Repository::blob_part`].
pub(super) async fn blob_part(
    repository: Repository,
    digest: Digest,
    part: Range<u64>,
) -> Result<Option<ByteStream>> {
    let (at, end) = (part.start, Some(part.end));
    let (response, skip) = open(&repository, &digest, at, end).await?;
    if response.status() == StatusCode::OK {
        return Ok(None);
    }
    let pull = Pull { repository, digest, response, skip, at, end, breaks: 0, progress_from: at };
    Ok(Some(pull.stream()))
}

/// See [`Repository::small_blob`].
pub(super) async fn small_blob(repository: &Repository, digest: &Digest, size: u64) -> Result<Bytes> {
    let action = pulling(repository, digest);
    let call = Call::new(Method::GET, repository.url(&["blobs", &digest.to_string()]).await?);
    let response = repository.request(&action, Access::Pull, &call, &[StatusCode::OK]).await?;
    let bytes = match repository.client.0.http.read(response, size).await {
        // What is larger than what the digest is of is something else.
        Err(failure @ Failure::TooLarge(_)) => return Err(Error::trust(action, failure).hint(CHANGED)),
        outcome => outcome.map_err(|failure| repository.client.failed(failure, &action, &call.url))?,
    };
    let found = Digest::of(&bytes);
    if found == *digest { Ok(bytes) } else { Err(mismatch(&action, digest, &found)) }
}

fn pulling(repository: &Repository, digest: &Digest) -> String {
    format!("fetching blob {}", repository.named(&digest.to_string()))
}

/// The answer with the blob, or with what is before `end` of it, and how many of its bytes come before `from`.
async fn open(
    repository: &Repository,
    digest: &Digest,
    from: u64,
    end: Option<u64>,
) -> Result<(Response, u64)> {
    let action = pulling(repository, digest);
    let mut call = Call::new(Method::GET, repository.url(&["blobs", &digest.to_string()]).await?);
    let mut accepted = vec![StatusCode::OK];
    if from > 0 || end.is_some() {
        let last = end.map(|end| end.saturating_sub(1).to_string()).unwrap_or_default();
        let range = HeaderValue::from_maybe_shared(format!("bytes={from}-{last}"));
        call.headers.insert(RANGE, range.map_err(|e| Error::input(action.as_str(), e))?);
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
    fn stream(self) -> ByteStream {
        let next = |mut pull: Pull| async move { Ok(pull.next().await?.map(|bytes| (bytes, pull))) };
        stream::try_unfold(self, next).boxed()
    }

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
        tokio::time::sleep(self.repository.client.0.http.back_off(self.breaks)).await;
        (self.response, self.skip) = open(&self.repository, &self.digest, self.at, self.end).await?;
        Ok(())
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
