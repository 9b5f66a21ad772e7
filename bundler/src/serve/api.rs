//! The pull side of the OCI distribution spec 1.1 over verified bundles: requests in, responses out.
//!
//! Threat model: requests come from anybody on the network. They can only name things; names are looked up in tables,
//! never in a file system, and nothing is written.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use warp::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use crate::digest::Digest;
use crate::image::{self, OCI_MANIFEST, Parsed};
use crate::reference::source_path;
use crate::verify::VerifiedBundle;

/// Most names or tags in one answer.
const PAGE: usize = 1000;

/// Answers requests out of bundles.
pub struct Api {
    bundles: Vec<Arc<VerifiedBundle>>,
    /// Tags of each repository, by its name at a site.
    repositories: BTreeMap<String, BTreeMap<String, Digest>>,
    /// Media types of all manifests.
    manifests: HashMap<Digest, String>,
    /// Names without the source's host, with all that they may mean.
    short: HashMap<String, Vec<String>>,
}

/// A request, as far as it matters here.
pub struct Request<'a> {
    /// The HTTP method.
    pub method: &'a Method,
    /// Path, as it came.
    pub path: &'a str,
    /// Query, as it came, or empty.
    pub query: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
}

/// The body of a response.
pub enum Body {
    /// In memory.
    Full(Bytes),
    /// A part of a blob.
    Blob {
        /// What has it.
        bundle: Arc<VerifiedBundle>,
        /// The blob.
        digest: Digest,
        /// First byte.
        start: u64,
        /// How many bytes.
        length: u64,
    },
}

/// An error of the distribution spec, "Error Codes".
struct Refusal(StatusCode, &'static str, String);

impl Api {
    /// Makes the tables. Where bundles have the same tag, the one named last counts.
    ///
    /// # Errors
    /// When a manifest of a bundle can't be read.
    pub fn new(bundles: Vec<Arc<VerifiedBundle>>) -> crate::Result<Self> {
        let mut api =
            Self { bundles, repositories: BTreeMap::new(), manifests: HashMap::new(), short: HashMap::new() };
        for bundle in api.bundles.clone() {
            api.add(&bundle)?;
        }
        Ok(api)
    }

    fn add(&mut self, bundle: &VerifiedBundle) -> crate::Result<()> {
        for (image, tag) in bundle.manifest().tagged_images() {
            let name = source_path(&image.reference);
            let names = self.short.entry(image.reference.repository().into()).or_default();
            if !names.contains(&name) {
                names.push(name.clone());
            }
            let tags = self.repositories.entry(name).or_default();
            tags.extend(tag.map(|tag| (tag.into(), image.digest)));
            self.manifests.insert(image.digest, image.media_type.clone());
            if let Parsed::Index(index) = bundle.parse(&image.digest, &image.media_type)? {
                let children = index.manifests.into_iter().map(|child| (child.digest, child.media_type));
                self.manifests.extend(children);
            }
            self.manifests.extend(image.upstream.map(|upstream| (upstream, image::OCI_INDEX.into())));
        }
        let charts = bundle.manifest().charts.iter().map(|c| (&c.repository, &c.tag, c.digest));
        let files = bundle.manifest().files.iter().map(|f| (&f.repository, &f.tag, f.manifest));
        for (repository, tag, digest) in charts.chain(files) {
            self.repositories.entry(repository.clone()).or_default().insert(tag.clone(), digest);
            self.manifests.insert(digest, OCI_MANIFEST.into());
        }
        Ok(())
    }

    /// A bundle that has this content.
    fn holder(&self, digest: &Digest) -> Option<&Arc<VerifiedBundle>> {
        self.bundles.iter().find(|bundle| bundle.size(digest).is_some())
    }

    /// Answers a request.
    ///
    /// # Errors
    /// Never: refusals are responses.
    #[must_use]
    pub fn answer(&self, request: &Request) -> Response<Body> {
        let mut response = self.route(request).unwrap_or_else(|Refusal(status, code, message)| {
            let body = json!({"errors": [{"code": code, "message": message}]});
            full(status, "application/json", body.to_string())
        });
        if let Ok(value) = HeaderValue::from_str("registry/2.0") {
            response.headers_mut().insert("docker-distribution-api-version", value);
        }
        response
    }

    fn route(&self, request: &Request) -> Result<Response<Body>, Refusal> {
        if !matches!(*request.method, Method::GET | Method::HEAD) {
            let why =
                "this registry is a bundle, and read-only; push into another registry with `airlock push`";
            return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", why.into()));
        }
        let not_found =
            || Refusal(StatusCode::NOT_FOUND, "NAME_UNKNOWN", format!("no such path: {}", request.path));
        let path = decoded(request.path);
        let path = path.strip_prefix("/v2").ok_or_else(not_found)?;
        if matches!(path, "" | "/") {
            return Ok(full(StatusCode::OK, "application/json", "{}"));
        }
        if path == "/_catalog" {
            let names = Page::of(self.repositories.keys(), request.query);
            return Ok(names.response(request, &json!({"repositories": names.items})));
        }
        let path = path.strip_prefix('/').ok_or_else(not_found)?;
        if let Some(name) = path.strip_suffix("/tags/list") {
            let (name, tags) = self.repository(name, request.query)?;
            let tags = Page::of(tags.keys(), request.query);
            return Ok(tags.response(request, &json!({"name": name, "tags": tags.items})));
        }
        // A repository may itself have a segment called "blobs": the last one counts.
        if let Some((name, digest)) = path.rsplit_once("/blobs/") {
            self.repository(name, request.query)?;
            return self.blob(digest, request.headers);
        }
        let (name, reference) = path.rsplit_once("/manifests/").ok_or_else(not_found)?;
        let (name, tags) = self.repository(name, request.query)?;
        let digest = tags.get(reference).copied().or_else(|| reference.parse().ok());
        let unknown = || {
            let message = format!("the bundle has no {name} {reference}");
            Refusal(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", message)
        };
        self.manifest(&digest.ok_or_else(unknown)?, unknown)
    }

    /// A repository by its name at a site, or by its source's name: with `?ns=HOST`, as containerd asks the mirrors of
    /// HOST, or alone where that is unambiguous.
    fn repository(&self, name: &str, query: &str) -> Result<(&str, &BTreeMap<String, Digest>), Refusal> {
        let unknown =
            || Refusal(StatusCode::NOT_FOUND, "NAME_UNKNOWN", format!("the bundle has no repository {name}"));
        let exact = || self.repositories.get_key_value(name);
        let found = match parameter(query, "ns") {
            // containerd says it with `override_path`, too, where the host is in the path already. Never another
            // host's repository of this name.
            Some(host) => {
                let host = host.replace(':', "_");
                self.repositories.get_key_value(&format!("{host}/{name}")).or_else(exact)
            }
            None => exact().or_else(|| match self.short.get(name).map(Vec::as_slice) {
                Some([only]) => self.repositories.get_key_value(only),
                _ => None,
            }),
        };
        found.map(|(name, tags)| (name.as_str(), tags)).ok_or_else(unknown)
    }

    fn manifest(&self, digest: &Digest, unknown: impl Fn() -> Refusal) -> Result<Response<Body>, Refusal> {
        let media_type = self.manifests.get(digest).ok_or_else(&unknown)?;
        let bundle = self.holder(digest).ok_or_else(unknown)?;
        let bytes = bundle.small(digest).map_err(|e| {
            tracing::error!("{e}");
            Refusal(StatusCode::INTERNAL_SERVER_ERROR, "MANIFEST_INVALID", e.to_string())
        })?;
        let mut response = full(StatusCode::OK, media_type, bytes);
        describe(&mut response, digest);
        Ok(response)
    }

    fn blob(&self, digest: &str, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
        let invalid =
            |e: crate::digest::DigestError| Refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID", e.to_string());
        let digest: Digest = digest.parse().map_err(invalid)?;
        let held = self.holder(&digest).and_then(|bundle| Some((bundle, bundle.size(&digest)?)));
        let (bundle, size) = held.ok_or_else(|| {
            Refusal(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", format!("the bundle has no blob {digest}"))
        })?;
        let asked = headers.get(header::RANGE).and_then(|v| v.to_str().ok()).and_then(|v| range(v, size));
        let (status, start, length) = match asked {
            None => (StatusCode::OK, 0, size),
            Some(Some((start, length))) => (StatusCode::PARTIAL_CONTENT, start, length),
            Some(None) => {
                let mut response = full(StatusCode::RANGE_NOT_SATISFIABLE, "application/json", "");
                set(&mut response, header::CONTENT_RANGE, &format!("bytes */{size}"));
                return Ok(response);
            }
        };
        let mut response = Response::new(Body::Blob { bundle: Arc::clone(bundle), digest, start, length });
        *response.status_mut() = status;
        set(&mut response, header::CONTENT_TYPE, "application/octet-stream");
        set(&mut response, header::CONTENT_LENGTH, &length.to_string());
        set(&mut response, header::ACCEPT_RANGES, "bytes");
        if status == StatusCode::PARTIAL_CONTENT {
            set(
                &mut response,
                header::CONTENT_RANGE,
                &format!("bytes {start}-{}/{size}", start + length - 1),
            );
        }
        describe(&mut response, &digest);
        Ok(response)
    }
}

/// Content named by a digest never changes.
fn describe(response: &mut Response<Body>, digest: &Digest) {
    let digest = digest.to_string();
    set(response, header::HeaderName::from_static("docker-content-digest"), &digest);
    set(response, header::ETAG, &format!("\"{digest}\""));
}

fn full(status: StatusCode, media_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    let body = body.into();
    let length = body.len().to_string();
    let mut response = Response::new(Body::Full(body));
    *response.status_mut() = status;
    set(&mut response, header::CONTENT_TYPE, media_type);
    set(&mut response, header::CONTENT_LENGTH, &length);
    response
}

/// Values are media types, numbers and digests; one that is no header value (an odd media type) is left out.
fn set(response: &mut Response<Body>, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A part of a list (distribution spec, "Listing Tags"): at most `n`, after `last`.
struct Page<'a> {
    items: Vec<&'a String>,
    more: bool,
}

impl<'a> Page<'a> {
    fn of(names: impl Iterator<Item = &'a String>, query: &str) -> Self {
        let last = parameter(query, "last").unwrap_or_default();
        let n = parameter(query, "n").and_then(|n| n.parse().ok()).unwrap_or(PAGE).min(PAGE);
        let mut items: Vec<_> = names.filter(|name| last.is_empty() || **name > last).take(n + 1).collect();
        let more = n > 0 && items.len() > n;
        items.truncate(n);
        Self { items, more }
    }

    /// Says where the next part is (RFC 8288), if there is one.
    fn response(&self, request: &Request, value: &serde_json::Value) -> Response<Body> {
        let mut response = full(StatusCode::OK, "application/json", value.to_string());
        if let (true, Some(last)) = (self.more, self.items.last()) {
            // Names of repositories and tags have no character that means something in a query. Mirrors' `ns` stays.
            let kept = request.query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("last="));
            let query: Vec<_> = kept.map(str::to_owned).chain([format!("last={last}")]).collect();
            let next = format!("<{}?{}>; rel=\"next\"", request.path, query.join("&"));
            set(&mut response, header::LINK, &next);
        }
        response
    }
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let (_, value) =
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
    Some(decoded(value))
}

/// Undoes percent-encoding (RFC 3986, 2.1). What is none stays as it is: no name has it.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(|digits| hex::decode(digits).ok());
        bytes.push(code.as_ref().map_or(*first, |code| code[0]));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A single byte range (RFC 9110, 14.1.2) as start and length; `None` inside for one that can't be satisfied, `None`
/// outside for what may be ignored: other units, several ranges, nonsense.
fn range(text: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let number = |digits: &str| {
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten()
    };
    if first.is_empty() {
        let suffix = number(last)?.min(size);
        return Some((suffix > 0).then_some((size - suffix, suffix)));
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    Some((first < size).then(|| (first, last.min(size - 1) - first + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_the_rfc() {
        for (text, means) in [
            ("bytes=0-9", Some(Some((0, 10)))),
            ("bytes=5-", Some(Some((5, 95)))),
            ("bytes=-10", Some(Some((90, 10)))),
            ("bytes=-1000", Some(Some((0, 100)))),
            ("bytes=99-200", Some(Some((99, 1)))),
            ("bytes=100-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=9-5", None),
            ("bytes=0-1,5-6", None),
            ("bytes=+1-2", None),
            ("items=0-1", None),
            ("bytes=-", None),
        ] {
            assert_eq!(range(text, 100), means, "{text}");
        }
        assert_eq!(range("bytes=0-", 0), Some(None));
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
            let page = Page::of(names.iter(), query);
            assert_eq!(page.items, expected, "{query}");
            let headers = HeaderMap::new();
            let request = Request { method: &Method::GET, path: "/v2/_catalog", query, headers: &headers };
            let response = page.response(&request, &json!({}));
            assert_eq!(response.headers().get(header::LINK).map(|v| v.to_str().expect("a header")), link);
        }
    }

    #[test]
    fn a_long_list_is_cut_and_goes_on() {
        let names: Vec<String> = (0..=PAGE).map(|n| format!("{n:09}")).collect();
        let first = Page::of(names.iter(), "n=99999999999");
        assert_eq!((first.items.len(), first.more), (PAGE, true));
        let rest = Page::of(names.iter(), &format!("last={}", first.items[PAGE - 1]));
        assert_eq!((rest.items.len(), rest.more), (1, false));
    }

    #[test]
    fn percent_encoding_is_undone() {
        for (text, means) in
            [("a%2Fb%3a5", "a/b:5"), ("%", "%"), ("%2", "%2"), ("%zz%41", "%zzA"), ("%ff", "\u{fffd}")]
        {
            assert_eq!(decoded(text), means);
        }
    }
}
