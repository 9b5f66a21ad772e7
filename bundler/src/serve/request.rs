//! Requests, read: what a path and a query mean (distribution spec, "Endpoints").

use warp::http::{HeaderMap, Method};

/// A request, but for its body.
pub(super) struct Request<'a> {
    /// The HTTP method.
    pub(super) method: &'a Method,
    /// Path, as it came.
    pub(super) path: &'a str,
    /// Query, as it came, or empty.
    pub(super) query: &'a str,
    /// Headers.
    pub(super) headers: &'a HeaderMap,
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// The API itself.
    Base,
    /// The names of all repositories.
    Catalog,
    /// The tags of a repository.
    Tags(String),
    /// What belongs to a manifest, by the repository and the digest.
    Referrers(String, String),
    /// A blob, by the repository and the digest.
    Blob(String, String),
    /// A manifest, by the repository, and a tag or digest.
    Manifest(String, String),
    /// Where uploads to a repository begin.
    Uploads(String),
    /// An upload, by the repository and its id.
    Upload(String, String),
}

impl Request<'_> {
    /// What is asked for; none if no such path exists.
    pub(super) fn named(&self) -> Option<Named> {
        let path = decoded(self.path);
        let path = path.strip_prefix("/v2")?;
        if matches!(path, "" | "/") {
            return Some(Named::Base);
        }
        if path == "/_catalog" {
            return Some(Named::Catalog);
        }
        // A repository may itself have a segment called "blobs": what is last counts.
        let (rest, last) = path.strip_prefix('/')?.rsplit_once('/')?;
        let below = |segment: &str| rest.strip_suffix(segment).map(str::to_owned);
        if let Some(name) = below("/blobs/uploads") {
            return Some(if last.is_empty() {
                Named::Uploads(name)
            } else {
                Named::Upload(name, last.into())
            });
        }
        if let Some(name) = below("/blobs") {
            return Some(match last {
                "uploads" => Named::Uploads(name),
                _ => Named::Blob(name, last.into()),
            });
        }
        if let Some(name) = below("/manifests") {
            return Some(Named::Manifest(name, last.into()));
        }
        if let Some(name) = below("/referrers") {
            return Some(Named::Referrers(name, last.into()));
        }
        below("/tags").filter(|_| last == "list").map(Named::Tags)
    }

    /// A parameter of the query.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let (_, value) =
            self.query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
        Some(decoded(value))
    }

    /// A header, if it is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
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
pub(super) fn range(text: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?.min(size);
        return Some((suffix > 0).then_some((size - suffix, suffix)));
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    Some((first < size && first <= last).then(|| (first, last.min(size - 1) - first + 1)))
}

/// The part of an upload that a request says it has (distribution spec, "Pushing a blob in chunks"): first byte and length.
pub(super) fn content_range(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    Some((first, last.checked_sub(first)?.checked_add(1)?))
}

fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &str) -> Option<Named> {
        Request { method: &Method::GET, path, query: "", headers: &HeaderMap::new() }.named()
    }

    #[test]
    fn paths_are_read_from_their_end() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let blob = |(name, digest)| Some(Named::Blob(name, digest));
        let manifest = |(name, reference)| Some(Named::Manifest(name, reference));
        assert_eq!(named("/v2"), Some(Named::Base));
        assert_eq!(named("/v2/"), Some(Named::Base));
        assert_eq!(named("/v2/_catalog"), Some(Named::Catalog));
        assert_eq!(named("/v2/a/b/tags/list"), Some(Named::Tags("a/b".into())));
        assert_eq!(named("/v2/a/blobs/sha256:0"), blob(pair("a", "sha256:0")));
        assert_eq!(named("/v2/a/blobs/b/blobs/x"), blob(pair("a/blobs/b", "x")));
        assert_eq!(named("/v2/a/blobs/manifests/1"), manifest(pair("a/blobs", "1")));
        assert_eq!(named("/v2/a%2Fb/manifests/sha256%3a0"), manifest(pair("a/b", "sha256:0")));
        assert_eq!(named("/v2/a/referrers/d"), Some(Named::Referrers("a".into(), "d".into())));
        assert_eq!(named("/v2/a/blobs/uploads/"), Some(Named::Uploads("a".into())));
        assert_eq!(named("/v2/a/blobs/uploads"), Some(Named::Uploads("a".into())));
        assert_eq!(named("/v2/a/blobs/uploads/7"), Some(Named::Upload("a".into(), "7".into())));
        for path in ["/", "", "/v1/", "/v2x", "/v2/a", "/v2/a/tags/all", "/v2/blobs/x", "/v2//"] {
            assert_eq!(named(path), None, "{path}");
        }
    }

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
            ("bytes=9-5", Some(None)),
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
    fn parts_of_uploads_have_a_beginning_and_an_end() {
        for (text, means) in [
            ("0-9", Some((0, 10))),
            ("5-5", Some((5, 1))),
            ("18446744073709551615-18446744073709551615", Some((u64::MAX, 1))),
        ] {
            assert_eq!(content_range(text), means, "{text}");
        }
        for text in ["", "-", "5-4", "0-18446744073709551615", "bytes 0-1/2", "0-", "a-b"] {
            assert_eq!(content_range(text), None, "{text}");
        }
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
