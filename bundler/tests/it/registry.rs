//! The registry client against CNCF distribution's registry.

use std::fs;
use std::time::Duration;

use bundler::Kind;
use bundler::digest::{Digest, Hasher};
use bundler::registry::{Client, Options, Repository};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::parts::{Certificate, LOGIN, Registry, Settings};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A client without logins or proxies.
fn client(options: &Options) -> Client {
    Client::with(options, Duration::from_secs(30), |_| None).expect("a client")
}

/// `count` MiB whose bytes differ from piece to piece, and their digest.
fn pieces(count: u8) -> (Vec<Bytes>, Digest) {
    let pieces: Vec<Bytes> = (0..count).map(|n| Bytes::from(vec![n; 1 << 20])).collect();
    let mut hasher = Hasher::default();
    pieces.iter().for_each(|piece| hasher.update(piece));
    (pieces, hasher.finish())
}

/// Pushes one layer and the empty config, and tags them.
async fn push(repository: &Repository, tag: &str) -> (Bytes, Digest) {
    let (pieces, layer) = pieces(8);
    let config = Bytes::from_static(b"{}");
    let one = |_| stream::iter([Ok(config.clone())]).boxed();
    repository.upload(&Digest::of(&config), config.len() as u64, one).await.expect("the config");
    let all = |_| stream::iter(pieces.clone()).map(Ok).boxed();
    repository.upload(&layer, 8 << 20, all).await.expect("the layer");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}",
            "config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},
            "layers":[{{"mediaType":"application/octet-stream","digest":"{layer}","size":{}}}]}}"#,
        Digest::of(&config),
        8 << 20
    );
    let manifest = Bytes::from(manifest);
    repository.put_manifest(tag, OCI_MANIFEST, manifest.clone()).await.expect("the manifest");
    (manifest, layer)
}

#[tokio::test]
#[ignore = "needs real parts: cargo xtask test"]
async fn what_is_pushed_is_pulled_and_mounted() {
    let registry = Registry::start();
    let client = client(&Options::default());
    let repository = client.repository(&registry.host(), "team/app");
    assert_eq!(repository.head_manifest("1").await.expect("an answer"), None);
    let (manifest, layer) = push(&repository, "1").await;

    let digest = Digest::of(&manifest);
    assert_eq!(repository.head_manifest("1").await.expect("an answer"), Some(digest));
    for reference in ["1", &digest.to_string()] {
        let pulled = repository.manifest(reference).await.expect("the manifest");
        assert_eq!((&pulled.bytes, pulled.digest), (&manifest, digest));
        assert_eq!(pulled.media_type, OCI_MANIFEST);
    }
    assert!(repository.has_blob(&layer).await.expect("an answer"));
    assert!(!repository.has_blob(&Digest::of(b"other")).await.expect("an answer"));

    let hash = |mut hasher: Hasher, piece: Bytes| async move {
        hasher.update(&piece);
        Ok(hasher)
    };
    let whole = repository.blob(&layer, 0).await.expect("the layer");
    let whole = whole.try_fold(Hasher::default(), hash).await.expect("all of it");
    assert_eq!((whole.length(), whole.finish()), (8 << 20, layer));
    let end = repository.blob(&layer, (8 << 20) - 3).await.expect("its end");
    let end: Vec<Bytes> = end.try_collect().await.expect("all of it");
    assert_eq!(end.concat(), [7, 7, 7]);

    let other = client.repository(&registry.host(), "team/other");
    assert!(other.mount(&layer, "team/app").await.expect("an answer"));
    assert!(other.has_blob(&layer).await.expect("an answer"));
    assert!(!other.mount(&Digest::of(b"other"), "team/app").await.expect("an answer"));
}

#[tokio::test]
#[ignore = "needs real parts: cargo xtask test"]
async fn an_upload_that_goes_wrong_says_why() {
    let registry = Registry::start();
    let repository = client(&Options::default()).repository(&registry.host(), "app");
    let digest = Digest::of(b"abc");
    let wrong = |_| stream::iter([Ok(Bytes::from_static(b"abd"))]).boxed();
    let error = repository.upload(&digest, 3, wrong).await.expect_err("a wrong digest");
    assert!(error.to_string().contains("DIGEST_INVALID"), "{error}");
    let broken = |_| {
        let failure = bundler::Error::trust("reading app.tar", "it was changed");
        stream::iter([Ok(Bytes::from_static(b"a")), Err(failure)]).boxed()
    };
    let error = repository.upload(&digest, 3, broken).await.expect_err("a broken source");
    assert_eq!(error.kind(), Kind::Trust);
    assert!(error.to_string().ends_with("reading app.tar: it was changed"), "{error}");
    assert!(!repository.has_blob(&digest).await.expect("an answer"));
}

#[tokio::test]
#[ignore = "needs real parts: cargo xtask test"]
async fn a_missing_image_is_named_with_its_registry() {
    let registry = Registry::start();
    let mirrors = vec![("docker.io".to_owned(), format!("{}/hub", registry.host()))];
    let client = client(&Options { mirrors, ..Options::default() });
    let repository = client.repository("docker.io", "library/x");
    let error = repository.manifest("1").await.expect_err("no image");
    let expected = format!(
        "fetching manifest docker.io/library/x:1 at {}: 404 Not Found: MANIFEST_UNKNOWN: manifest unknown",
        registry.host()
    );
    assert_eq!((error.kind(), error.to_string()), (Kind::Network, expected));
    assert!(error.hint_text().is_some_and(|hint| hint.contains("spelling")));
    push(&client.repository(&registry.host(), "hub/library/x"), "1").await;
    repository.manifest("1").await.expect("the image at the mirror");
}

#[tokio::test]
#[ignore = "needs real parts: cargo xtask test"]
async fn a_login_is_used_where_it_is_asked_for() {
    let registry = Registry::with(&Settings { login: true, ..Settings::default() });
    let home = tempfile::tempdir().expect("a directory");
    let directory = home.path().display().to_string();
    let with_config = |config: &str| {
        fs::write(home.path().join("config.json"), config).expect("written");
        let variable = |name: &str| (name == "DOCKER_CONFIG").then(|| directory.clone());
        let client = Client::with(&Options::default(), Duration::from_secs(30), variable).expect("a client");
        client.repository(&registry.host(), "app")
    };
    let entry = |password: &str| {
        let host = registry.host();
        format!(r#"{{"auths":{{"{host}":{{"username":"{}","password":"{password}"}}}}}}"#, LOGIN.0)
    };
    push(&with_config(&entry(LOGIN.1)), "1").await;

    let error = with_config("{}").manifest("1").await.expect_err("no login");
    assert!(error.to_string().contains("401 Unauthorized: UNAUTHORIZED"), "{error}");
    let hint = error.hint_text().expect("a hint");
    assert!(hint.contains("no login") && hint.contains(&directory), "{hint}");

    let error = with_config(&entry("hunter2")).manifest("1").await.expect_err("a wrong login");
    let hint = error.hint_text().expect("a hint");
    assert!(hint.contains(LOGIN.0) && !format!("{error}{hint}{error:?}").contains("hunter2"), "{hint}");
}

#[tokio::test]
#[ignore = "needs real parts: cargo xtask test"]
async fn a_ca_file_makes_a_registry_trusted() {
    for make in [Certificate::signed, Certificate::self_signed] {
        let directory = tempfile::tempdir().expect("a directory");
        let certificate = make(directory.path());
        let registry = Registry::with(&Settings { certificate: Some(&certificate), ..Settings::default() });
        let with_ca = Options { ca_files: vec![certificate.ca.clone()], ..Options::default() };
        let localhost = registry.host().replace("127.0.0.1", "localhost");
        for host in [registry.host(), localhost] {
            push(&client(&with_ca).repository(&host, "app"), "1").await;
        }
        let untrusted = client(&Options::default()).repository(&registry.host(), "app");
        let error = untrusted.manifest("1").await.expect_err("an unknown CA");
        assert!(error.to_string().contains("certificate"), "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--ca-file")), "{:?}", error.hint_text());
    }
}
