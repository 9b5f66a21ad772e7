//! Responses: content, lists in parts, and errors in the distribution spec's form.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use warp::http::{HeaderValue, Method, Response, StatusCode, header};

use super::request::Request;
use crate::digest::{Digest, DigestError};
use crate::verify::VerifiedBundle;

/// Most names or tags in one answer.
const PAGE: usize = 1000;

/// The body of a response.
pub(super) enum Body {
    /// In memory.
    Full(Bytes),
    /// A part of a blob.
    Blob {
        /// What has it.
        holder: Holder,
        /// The blob.
        digest: Digest,
        /// First byte.
        start: u64,
        /// How many bytes.
        length: u64,
    },
}

/// Where a blob is.
pub(super) enum Holder {
    /// In a bundle.
    Bundle(Arc<VerifiedBundle>),
    /// In a file of its own.
    File(PathBuf),
}

/// An error of the distribution spec, "Error Codes".
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(super) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn response(self) -> Response<Body> {
        let body = json!({"errors": [{"code": self.code, "message": self.message}]});
        full(self.status, "application/json", body.to_string())
    }
}

impl From<DigestError> for Refusal {
    fn from(error: DigestError) -> Self {
        Self::bad("DIGEST_INVALID", error.to_string())
    }
}

/// What the disk can't do. Who asked can do nothing about it, but should know.
impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        tracing::error!("the store: {error}");
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "UNKNOWN", "the registry's disk is full")
            }
            _ => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "UNKNOWN",
                format!("the registry's store: {error}"),
            ),
        }
    }
}

/// Content named by a digest never changes.
pub(super) fn describe(response: &mut Response<Body>, digest: &Digest) {
    let digest = digest.to_string();
    set(response, "docker-content-digest", &digest);
    set(response, header::ETAG.as_str(), &format!("\"{digest}\""));
}

pub(super) fn full(status: StatusCode, media_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    let body = body.into();
    let length = body.len().to_string();
    let mut response = Response::new(Body::Full(body));
    *response.status_mut() = status;
    set(&mut response, header::CONTENT_TYPE.as_str(), media_type);
    set(&mut response, header::CONTENT_LENGTH.as_str(), &length);
    response
}

/// Without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Full(Bytes::new()));
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        set(&mut response, header::CONTENT_LENGTH.as_str(), "0");
    }
    response
}

/// Values are media types, numbers, paths and digests; one that is no header value (an odd media type) is left out.
pub(super) fn set(response: &mut Response<Body>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A blob of `size` bytes, or the part of it that is asked for.
pub(super) fn blob(request: &Request, holder: Holder, digest: Digest, size: u64) -> Response<Body> {
    // Only GET has ranges (RFC 9110, 14.2).
    let range = request.header("range").filter(|_| request.method == Method::GET);
    let asked = range.and_then(|range| super::request::range(range, size));
    let (status, start, length) = match asked {
        None => (StatusCode::OK, 0, size),
        Some(Some((start, length))) => (StatusCode::PARTIAL_CONTENT, start, length),
        Some(None) => {
            let mut response = empty(StatusCode::RANGE_NOT_SATISFIABLE);
            set(&mut response, "content-range", &format!("bytes */{size}"));
            return response;
        }
    };
    let mut response = Response::new(Body::Blob { holder, digest, start, length });
    *response.status_mut() = status;
    set(&mut response, "content-type", "application/octet-stream");
    set(&mut response, "content-length", &length.to_string());
    set(&mut response, "accept-ranges", "bytes");
    if status == StatusCode::PARTIAL_CONTENT {
        set(&mut response, "content-range", &format!("bytes {start}-{}/{size}", start + length - 1));
    }
    describe(&mut response, &digest);
    response
}

/// A part of a list (distribution spec, "Listing Tags"): at most `n`, after `last`.
pub(super) struct Page<'a> {
    pub(super) items: Vec<&'a String>,
    more: bool,
}

impl<'a> Page<'a> {
    pub(super) fn of(names: impl Iterator<Item = &'a String>, request: &Request) -> Self {
        let last = request.parameter("last").unwrap_or_default();
        let n = request.parameter("n").and_then(|n| n.parse().ok()).unwrap_or(PAGE).min(PAGE);
        let mut items: Vec<_> = names.filter(|name| last.is_empty() || **name > last).take(n + 1).collect();
        let more = n > 0 && items.len() > n;
        items.truncate(n);
        Self { items, more }
    }

    /// Says where the next part is (RFC 8288), if there is one.
    pub(super) fn response(&self, request: &Request, value: &serde_json::Value) -> Response<Body> {
        let mut response = full(StatusCode::OK, "application/json", value.to_string());
        if let (true, Some(last)) = (self.more, self.items.last()) {
            // Names of repositories and tags have no character that means something in a query. Mirrors' `ns` stays.
            let kept = request.query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("last="));
            let query: Vec<_> = kept.map(str::to_owned).chain([format!("last={last}")]).collect();
            set(&mut response, "link", &format!("<{}?{}>; rel=\"next\"", request.path, query.join("&")));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use warp::http::HeaderMap;

    use super::*;

    fn request<'a>(query: &'a str, headers: &'a HeaderMap) -> Request<'a> {
        Request { method: &Method::GET, path: "/v2/_catalog", query, headers }
    }

    #[test]
    fn pages_go_on_after_the_last() {
        let names = ["a/x", "b/x", "c"].map(String::from);
        for (query, expected, link) in [
            ("n=2", &["a/x", "b/x"][..], Some("</v2/_catalog?n=2&last=b/x>; rel=\"next\"")),
            ("n=1&last=a/x&ns=q.io", &["b/x"], Some("</v2/_catalog?n=1&ns=q.io&last=b/x>; rel=\"next\"")),
            ("n=2&last=b%2Fx", &["c"], None),
            ("n=2&last=b%2fx", &["c"], None),
            ("last=a/x", &["b/x", "c"], None),
            ("last=c", &[], None),
            ("n=0", &[], None),
            ("n=x", &["a/x", "b/x", "c"], None),
            ("n=3", &["a/x", "b/x", "c"], None),
        ] {
            let headers = HeaderMap::new();
            let request = request(query, &headers);
            let page = Page::of(names.iter(), &request);
            assert_eq!(page.items, expected, "{query}");
            let response = page.response(&request, &json!({}));
            assert_eq!(response.headers().get("link").map(|v| v.to_str().expect("a header")), link);
        }
    }

    #[test]
    fn a_long_list_is_cut_and_goes_on() {
        let names: Vec<String> = (0..=PAGE).map(|n| format!("{n:09}")).collect();
        let headers = HeaderMap::new();
        let first = Page::of(names.iter(), &request("n=99999999999", &headers));
        assert_eq!((first.items.len(), first.more), (PAGE, true));
        let last = format!("last={}", first.items[PAGE - 1]);
        let rest = Page::of(names.iter(), &request(&last, &headers));
        assert_eq!((rest.items.len(), rest.more), (1, false));
    }
}
