//! Several requests, one after the other, to `serve --store` with an empty store: whatever they are, every tag leads to content that
//! is there, and a new process has what the old one confirmed. Requests are as for `requests`, with `====` between them.
#![no_main]

use std::collections::BTreeSet;

use bundler::digest::Digest;
use bundler::serve::{Registry, service};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

/// Most requests of one input: each makes files.
const REQUESTS: usize = 12;

thread_local! {
    static RUNTIME: Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
}

fuzz_target!(|text: &str| {
    // In memory, where nothing waits for a disk.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let mut location = String::new();
            let mut confirmed = BTreeSet::new();
            for one in text.split("\n====\n").take(REQUESTS) {
                let Some(request) = request(one, &location) else { continue };
                let is_delete = request.method() == Method::DELETE;
                let (status, next, body) = ask(dir.path(), request).await;
                assert!(!status.is_server_error(), "{status}: {body:?}");
                if is_delete && status == StatusCode::ACCEPTED {
                    confirmed.clear();
                }
                confirmed.extend(next.clone().filter(|_| status == StatusCode::CREATED));
                location = next.unwrap_or(location);
            }
            for path in confirmed {
                assert!(get(dir.path(), &path).await.is_some(), "{path} was confirmed");
            }
            whole(dir.path()).await;
        });
    });
});

/// A request; `UPLOAD` in its target is where the last answer said to go on.
fn request(text: &str, location: &str) -> Option<Request<String>> {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let (method, target) = lines.next()?.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(target.replace("UPLOAD", location));
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        request = request.header(name, value);
    }
    request.body(body.to_owned()).ok()
}

/// By a registry that has just been started: what counts is on the disk.
async fn ask(store: &std::path::Path, request: Request<String>) -> (StatusCode, Option<String>, Bytes) {
    let registry = Registry::of_store(store).expect("a store");
    let (parts, body) = service(registry).oneshot(request).await.expect("an answer").into_parts();
    let location = parts.headers.get("location").and_then(|value| value.to_str().ok()).map(str::to_owned);
    (parts.status, location, body.collect().await.expect("a body").to_bytes())
}

async fn get(store: &std::path::Path, path: &str) -> Option<Bytes> {
    let request = Request::builder().uri(path).body(String::new()).expect("a request");
    let (status, _, body) = ask(store, request).await;
    (status == StatusCode::OK).then_some(body)
}

/// Every tag leads to content that is there and is what its digest says.
async fn whole(store: &std::path::Path) {
    let parse = |bytes: Option<Bytes>| serde_json::from_slice::<Value>(&bytes.expect("a list")).expect("JSON");
    let names = parse(get(store, "/v2/_catalog").await);
    for name in texts(&names["repositories"]) {
        let tags = parse(get(store, &format!("/v2/{name}/tags/list")).await);
        let mut manifests: Vec<_> = texts(&tags["tags"]).collect();
        while let Some(reference) = manifests.pop() {
            let bytes = get(store, &format!("/v2/{name}/manifests/{reference}")).await.expect("a manifest");
            if reference.starts_with("sha256:") {
                assert_eq!(Digest::of(&bytes).to_string(), reference);
            }
            let manifest: Value = serde_json::from_slice(&bytes).expect("JSON");
            let digests = |list: &Value| {
                let list = list.as_array().into_iter().flatten();
                let ours = list.filter(|d| !d["mediaType"].as_str().unwrap_or_default().contains("foreign"));
                let ours = ours.filter(|d| !d["mediaType"].as_str().unwrap_or_default().contains("nondistributable"));
                ours.filter_map(|d| d["digest"].as_str().map(str::to_owned)).collect::<Vec<_>>()
            };
            manifests.extend(digests(&manifest["manifests"]));
            for blob in digests(&manifest["layers"]).into_iter().chain(digests(&Value::Array(vec![manifest["config"].clone()]))) {
                let content = get(store, &format!("/v2/{name}/blobs/{blob}")).await.expect("a blob");
                assert_eq!(Digest::of(&content).to_string(), blob);
            }
        }
    }
}

fn texts(list: &Value) -> impl Iterator<Item = String> + '_ {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned))
}
