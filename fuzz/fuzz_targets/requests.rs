//! Requests to `serve`: no answer has other bytes than its digest, range and length say, and none is an error of ours.
//! The first line is `METHOD TARGET`, the others are headers, up to an empty one; the rest is the body.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use bundler::bundle::Bundle;
use bundler::digest::Digest;
use bundler::serve::Registry;
use bundler::sign::PublicKey;
use bundler::verify::{Trust, VerifiedBundle};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../bundler/tests/data");

/// A bundle, and what blobs and manifests it is asked for with.
struct World {
    bundle: Arc<VerifiedBundle>,
    runtime: Runtime,
}

thread_local! {
    static WORLD: World = World {
        bundle: Arc::new(bundle()),
        runtime: tokio::runtime::Builder::new_current_thread().build().expect("a runtime"),
    };
}

fn bundle() -> VerifiedBundle {
    let data = Path::new(DATA);
    let key = std::fs::read_to_string(data.join("v1.pub")).expect("a key");
    let keys = vec![PublicKey::from_pem(&key).expect("a key")];
    let bundle = Bundle::open(&data.join("v1.tar")).expect("a bundle");
    bundle.verify(&Trust::Keys { keys, required: 1 }).expect("a signed bundle")
}

fuzz_target!(|text: &str| {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let Some((method, target)) = lines.next().and_then(|line| line.split_once(' ')) else { return };
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        request = request.header(name, value);
    }
    // What is no HTTP never gets past the connection.
    let Ok(request) = request.body(body.to_owned()) else { return };
    WORLD.with(|world| {
        let (status, headers, body) = world.ask(&request);
        check(&request, status, &headers, &body);
        if request.method() == Method::GET {
            let mut head = request.clone();
            *head.method_mut() = Method::HEAD;
            let (head_status, head_headers, nothing) = world.ask(&head);
            // Only GET has ranges, and they are parts of the whole.
            let mut whole = request.clone();
            let (status, headers) = match whole.headers_mut().remove("range") {
                None => (status, headers),
                Some(_) => {
                    let (of_whole, headers_of_whole, all) = world.ask(&whole);
                    if status == StatusCode::PARTIAL_CONTENT {
                        assert_eq!(all[range(&headers)], body, "another part than it says");
                    }
                    (of_whole, headers_of_whole)
                }
            };
            assert_eq!((head_status, head_headers), (status, headers), "HEAD is GET without a body");
            assert!(nothing.is_empty());
        }
    });
});

impl World {
    fn ask(&self, request: &Request<String>) -> (StatusCode, HeaderMap, Bytes) {
        self.runtime.block_on(async {
            let registry = Registry::of_bundles(vec![self.bundle.clone()]).expect("a registry");
            let response = bundler::serve::service(registry).oneshot(request.clone()).await.expect("an answer");
            let (parts, body) = response.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            (parts.status, parts.headers, body)
        })
    }
}

/// What part of a whole an answer says it is.
fn range(headers: &HeaderMap) -> std::ops::RangeInclusive<usize> {
    let range = headers.get("content-range").and_then(|range| range.to_str().ok());
    let (range, size) = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('/')).expect("a range");
    let (first, last) = range.split_once('-').expect("a range");
    let number = |text: &str| text.parse::<usize>().expect("a number");
    assert!(number(first) <= number(last) && number(last) < number(size), "{range}/{size}");
    number(first)..=number(last)
}

fn check(request: &Request<String>, status: StatusCode, headers: &HeaderMap, body: &Bytes) {
    assert!(!status.is_server_error(), "{status}: {body:?}");
    let header = |name: &str| headers.get(name).map(|value| value.to_str().expect("ASCII"));
    let length = header("content-length").map(|length| length.parse::<usize>().expect("a number"));
    if *request.method() == Method::HEAD {
        assert!(body.is_empty());
        return;
    }
    assert_eq!(length, Some(body.len()));
    match (status, header("docker-content-digest")) {
        (StatusCode::OK, Some(digest)) => {
            assert_eq!(Digest::of(body).to_string(), digest);
            // What was asked for, where it was asked for by its digest.
            let asked = request.uri().path().rsplit('/').next().unwrap_or_default();
            assert!(!asked.starts_with("sha256:") || asked == digest, "{asked}, {digest}");
        }
        (StatusCode::PARTIAL_CONTENT, _) => assert_eq!(range(headers).count(), body.len()),
        _ => {}
    }
    if status.is_client_error() && status != StatusCode::RANGE_NOT_SATISFIABLE {
        let said: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        assert!(said["errors"][0]["code"].is_string(), "{said}");
    }
}
