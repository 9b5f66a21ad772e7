//! Log lines of requests: one for each, with address, status, bytes and time; and the headers, where more is asked for.
//!
//! No secret is in them: no user, no query (presigned URLs are secrets), and only headers of a list that has none.

use std::fmt::Write as _;
use std::time::Instant;

use reqwest::header::{CONTENT_LENGTH, HeaderMap, LOCATION};
use reqwest::{Method, Request, Response, Url};

use super::failure::Failure;
use super::http::shown;

/// Headers that are logged.
const HEADERS: [&str; 18] = [
    "accept",
    "accept-ranges",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "docker-content-digest",
    "docker-distribution-api-version",
    "docker-upload-uuid",
    "etag",
    "oci-chunk-min-length",
    "oci-filters-applied",
    "oci-subject",
    "range",
    "retry-after",
    "server",
    "user-agent",
    "via",
];

/// A request that is on its way.
pub(super) struct Exchange {
    method: Method,
    url: String,
    /// Bytes of its body, if it has one.
    sent: Option<u64>,
    since: Instant,
    has_ended: bool,
}

impl Exchange {
    pub fn begin(request: &Request) -> Self {
        let (method, url) = (request.method().clone(), shown(request.url()));
        tracing::debug!("{method} {url}: sent with {}", headers(request.headers(), request.url()));
        let sent = length(request.headers()).or_else(|| Some(request.body()?.as_bytes()?.len() as u64));
        Self { method, url, sent: sent.filter(|sent| *sent > 0), since: Instant::now(), has_ended: false }
    }

    pub fn end(mut self, outcome: &Result<Response, Failure>) {
        self.has_ended = true;
        let Self { method, url, sent, since, .. } = &self;
        let seconds = since.elapsed().as_secs_f64();
        match outcome {
            Ok(response) => {
                let bytes = sent.or_else(|| length(response.headers()));
                let bytes = bytes.map_or_else(|| "length unknown".into(), |bytes| format!("{bytes} bytes"));
                tracing::info!("{method} {url}: {}, {bytes}, {seconds:.3} s", response.status());
                let headers = headers(response.headers(), response.url());
                tracing::debug!("{method} {url}: answered with {headers}");
            }
            Err(failure) => tracing::info!("{method} {url}: no answer, {seconds:.3} s: {failure}"),
        }
    }
}

/// Logs a request whose answer is no longer waited for.
impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.has_ended {
            let seconds = self.since.elapsed().as_secs_f64();
            tracing::info!("{} {}: given up after {seconds:.3} s", self.method, self.url);
        }
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The headers that have no secret, in one line. Of `Location` the query is left out.
fn headers(headers: &HeaderMap, url: &Url) -> String {
    let mut text = String::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let value = match url.join(&value) {
            Ok(target) if name == LOCATION => shown(&target).into(),
            _ if HEADERS.contains(&name.as_str()) => value,
            _ => continue,
        };
        let _ = write!(text, "{}{name}: {value}", if text.is_empty() { "" } else { "; " });
    }
    if text.is_empty() { "no headers to show".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_shown_without_secrets() {
        let url = Url::parse("https://u:p@h.example/v2/?token=s").expect("a URL");
        let all = [
            ("authorization", "Basic dTpw"),
            ("cookie", "c"),
            ("set-cookie", "c"),
            ("www-authenticate", "Bearer realm=\"https://t/?x=s\""),
            ("x-amz-security-token", "t"),
            ("location", "/blob?X-Amz-Signature=s"),
            ("content-length", "5"),
        ];
        let map = HeaderMap::from_iter(
            all.map(|(name, value)| (name.parse().expect(name), value.parse().expect(value))),
        );
        let mut parts: Vec<_> = headers(&map, &url).split("; ").map(str::to_owned).collect();
        parts.sort();
        assert_eq!(parts, ["content-length: 5", "location: https://h.example/blob"]);
    }
}
