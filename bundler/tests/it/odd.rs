//! Registries whose answers are odd but legal, or nearly so: the client gets along with them.

use std::sync::atomic::{AtomicUsize, Ordering};

use bundler::digest::Digest;
use bundler::registry::{Presence, Repository};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use warp::http::Method;

use crate::liar::{Liar, answer, client, login};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

async fn upload(repository: &Repository, content: &'static [u8]) -> bundler::Result<()> {
    let body = |_| stream::iter([Ok(Bytes::from_static(content))]).boxed();
    repository.upload(&Digest::of(content), content.len() as u64, body).await
}

#[tokio::test]
async fn redirected_uploads_send_credentials_home_only() {
    let other = Liar::start(|asked| {
        Some(match asked.method {
            Method::POST => answer(202, &[("location", "/up?at=other")], ""),
            _ => answer(201, &[], ""),
        })
    })
    .await;
    let elsewhere = format!("http://{}/moved/", other.host);
    let home = Liar::start(move |asked| {
        let path = asked.target.split('?').next().expect("a path");
        Some(match (asked.header("authorization"), path) {
            (None, _) => answer(401, &[("www-authenticate", "Basic realm=x")], ""),
            // What was uploaded is asked for.
            _ if asked.method == Method::HEAD => answer(200, &[], ""),
            (_, "/v2/temporary/blobs/uploads/") => answer(307, &[("location", "/new/uploads/")], ""),
            (_, "/v2/permanent/blobs/uploads/") => {
                answer(308, &[("location", "../../../../new/uploads/")], "")
            }
            (_, "/v2/far/blobs/uploads/") => answer(307, &[("location", &elsewhere)], ""),
            (_, "/v2/loop/blobs/uploads/") => answer(307, &[("location", "/v2/loop/blobs/uploads/")], ""),
            (_, "/new/uploads/") => answer(202, &[("location", "/old/1?s=x")], ""),
            // And what is sent then is redirected as well.
            (_, "/old/1") => answer(308, &[("location", "/new/1?s=y")], ""),
            (_, "/v2/temporary/manifests/1") => answer(307, &[("location", "/new/manifest")], ""),
            (_, "/v2/far/manifests/1") => answer(307, &[("location", &elsewhere)], ""),
            _ => answer(201, &[], ""),
        })
    })
    .await;
    let directory = login(&home.host);
    let client = client(Some(&directory));
    for name in ["temporary", "permanent"] {
        home.forget();
        upload(&client.repository(&home.host, name), b"abc").await.expect(name);
        let put = home.asked().into_iter().rfind(|asked| asked.method == Method::PUT).expect("a request");
        assert_eq!(
            (put.method.as_str(), put.target.as_str(), &*put.body),
            ("PUT", "/new/1?s=y", &b"abc"[..])
        );
        assert!(put.header("authorization").is_some(), "{name}");
    }
    upload(&client.repository(&home.host, "far"), b"abc").await.expect("the upload elsewhere");
    let asked = other.asked();
    assert_eq!(asked.iter().map(|a| a.method.as_str()).collect::<Vec<_>>(), ["POST", "PUT"]);
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()));
    let endless = upload(&client.repository(&home.host, "loop"), b"abc").await.expect_err("a loop");
    assert!(endless.to_string().contains("redirects"), "{endless}");

    let put = async |name: &str| {
        client.repository(&home.host, name).put_manifest("1", MANIFEST, Bytes::from_static(b"{}")).await
    };
    put("temporary").await.expect("the manifest");
    let last = home.asked().pop().expect("a request");
    assert_eq!((last.target.as_str(), &*last.body), ("/new/manifest", &b"{}"[..]));
    assert_eq!(last.header("content-type"), Some(MANIFEST));
    let refused = put("far").await.expect_err("another host");
    assert!(refused.to_string().contains("another host"), "{refused}");
    assert_eq!(other.asked().len(), 2, "the manifest went elsewhere");
}

#[tokio::test]
async fn a_registry_without_head_is_asked_by_get() {
    for status in [405, 501] {
        let liar = Liar::start(move |asked| {
            Some(match (asked.method.as_str(), asked.target.as_str()) {
                ("HEAD", _) => answer(status, &[], ""),
                ("GET", "/v2/app/manifests/1") => answer(200, &[("content-type", MANIFEST)], "{}"),
                (
                    "GET",
                    "/v2/app/blobs/sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                ) => answer(200, &[], "abc"),
                _ => answer(404, &[], ""),
            })
        })
        .await;
        let repository = client(None).repository(&liar.host, "app");
        assert_eq!(repository.head_manifest("1").await.expect("asked"), Some(Digest::of(b"{}")));
        assert_eq!(repository.head_manifest("2").await.expect("asked"), None);
        assert_eq!(repository.presence("1").await.expect("asked"), Presence::There);
        assert_eq!(repository.presence("2").await.expect("asked"), Presence::Absent);
        assert!(repository.has_blob(&Digest::of(b"abc")).await.expect("asked"));
        assert!(!repository.has_blob(&Digest::of(b"x")).await.expect("asked"));
    }
}

#[tokio::test]
async fn other_good_statuses_and_headers_are_taken() {
    let posts = AtomicUsize::new(0);
    let statuses = [200, 201, 202];
    let liar = Liar::start(move |asked| {
        let digest = format!(" \"{}\" ", Digest::of(b"{}"));
        Some(match asked.method.as_str() {
            "POST" if asked.target.contains("mount=") => answer(200, &[], ""),
            // No digest, no range, an upload's address that is relative, and any of the good statuses.
            "POST" => {
                let status = statuses[posts.fetch_add(1, Ordering::Relaxed) % statuses.len()];
                answer(status, &[("LOCATION", "1")], "")
            }
            "PUT" if asked.target.contains("/manifests/") => {
                answer(202, &[("DOCKER-Content-Digest", &digest)], "")
            }
            "PUT" => answer(200, &[], ""),
            "HEAD" => answer(200, &[], ""),
            _ => answer(404, &[], ""),
        })
    })
    .await;
    let repository = client(None).repository(&liar.host, "app");
    for _ in statuses {
        upload(&repository, b"abc").await.expect("the upload");
        let put = liar.asked().into_iter().rfind(|asked| asked.method == Method::PUT).expect("a request");
        assert!(put.target.starts_with("/v2/app/blobs/uploads/1?digest="), "{}", put.target);
    }
    repository.put_manifest("1", MANIFEST, Bytes::from_static(b"{}")).await.expect("the manifest");
    let wrong =
        repository.put_manifest("1", MANIFEST, Bytes::from_static(b"{ }")).await.expect_err("a digest");
    assert_eq!(wrong.kind(), bundler::Kind::Trust);
    assert!(repository.mount(&Digest::of(b"abc"), "other").await.expect("asked"));
}
