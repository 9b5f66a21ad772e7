//! Images of a Docker engine, over its API (`GET /images/{name}/json` and `/images/{name}/get`).
//!
//! The image is asked for by its ID, so a tag that moves meanwhile changes nothing; what the engine sends goes
//! straight into the cache, without a copy of the whole.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::transport::EngineImage;
use super::{LocalImage, MANIFEST_CAP, blocking, docker};
use crate::cache::ContentCache;
use crate::digest::Digest;
use crate::error::{Error, Result};

/// Where the engine listens unless `DOCKER_HOST` says otherwise.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// How many pieces of the stream may wait for the disk.
const WAITING: usize = 16;

/// Opens an image of the engine at `host`; converts it unless `cache` has it.
pub(super) async fn open(host: &str, image: &EngineImage, cache: &ContentCache) -> Result<LocalImage> {
    Engine::at(if host.is_empty() { DEFAULT_HOST } else { host })?.open(image, cache).await
}

/// How an engine is reached.
struct Engine {
    host: String,
    base: String,
    client: reqwest::Client,
}

/// `DOCKER_HOST`, read.
#[derive(Debug, PartialEq)]
enum Host {
    Unix(PathBuf),
    Http(String),
}

fn parse_host(host: &str) -> Option<Host> {
    match host.split_once("://")? {
        ("unix", path) if path.starts_with('/') => Some(Host::Unix(path.into())),
        ("tcp" | "http", address) if !address.is_empty() => {
            Some(Host::Http(format!("http://{}", address.trim_end_matches('/'))))
        }
        _ => None,
    }
}

impl Engine {
    fn at(host: &str) -> Result<Self> {
        let action = format!("reaching the Docker engine at {host}");
        let parsed = parse_host(host).ok_or_else(|| {
            Error::input(&action, "this address is not supported")
                .hint("set DOCKER_HOST to unix:///PATH or tcp://HOST:PORT (without TLS)")
        })?;
        // An engine has no certificates to check. Without roots of its own, the client would look for the host's
        // and fail on a host that has none.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::network(&action, e))?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let builder = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy();
        let (builder, base) = match parsed {
            Host::Unix(path) => (builder.unix_socket(path), "http://docker".into()),
            Host::Http(base) => (builder, base),
        };
        let client = builder.build().map_err(|e| Error::network(&action, e))?;
        Ok(Self { host: host.into(), base, client })
    }

    async fn open(&self, image: &EngineImage, cache: &ContentCache) -> Result<LocalImage> {
        let id = self.id(image).await?;
        // Engines that call an image by something else than its config's digest send it each time: nothing here tells that what
        // was made of it before is still that.
        if let Some(image) = docker::converted(cache, &id) {
            return Ok(image);
        }
        let origin = format!("image {image} of the Docker engine at {}", self.host);
        let response = self.get(&format!("/images/{id}/get"), &origin).await?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let conversion = blocking(cache, move |into| {
            let failed = |e| Error::network(format!("receiving {origin}"), e);
            docker::convert_stream(&origin, Received::new(receiver), failed, into)
        });
        let (image, ()) = tokio::join!(conversion, forward(response, sender));
        image
    }

    /// The image's ID; for most engines the digest of its config.
    async fn id(&self, image: &EngineImage) -> Result<Digest> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Inspected {
            id: Digest,
        }
        let origin = format!("image {image} of the Docker engine at {}", self.host);
        let mut response = self.get(&format!("/images/{image}/json"), &origin).await?;
        let failed = |e| Error::network(format!("asking for {origin}"), e);
        let mut json = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(failed)? {
            json.extend_from_slice(&bytes);
            if json.len() as u64 > MANIFEST_CAP {
                return Err(Error::network(format!("asking for {origin}"), "the answer is too long"));
            }
        }
        let inspected: Inspected =
            serde_json::from_slice(&json).map_err(|e| Error::network(format!("asking for {origin}"), e))?;
        Ok(inspected.id)
    }

    async fn get(&self, path: &str, origin: &str) -> Result<reqwest::Response> {
        let action = format!("asking for {origin}");
        let response = self.client.get(format!("{}{path}", self.base)).send().await.map_err(|e| {
            Error::network(&action, e.without_url())
                .hint("start the engine, or set DOCKER_HOST to where it listens; your user may need to be in its group")
        })?;
        match response.status() {
            status if status.is_success() => Ok(response),
            reqwest::StatusCode::NOT_FOUND => {
                Err(Error::input(action, "there is no such image").hint("docker images lists what there is"))
            }
            status => Err(Error::network(action, format!("it answers {status}"))),
        }
    }
}

/// Hands a response's body over; ends early when nobody takes it any more.
async fn forward(mut response: reqwest::Response, sender: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let piece = match response.chunk().await {
            Ok(None) => return,
            Ok(Some(bytes)) => Ok(bytes),
            Err(error) => Err(io::Error::other(error.without_url())),
        };
        let ended = piece.is_err();
        if sender.send(piece).await.is_err() || ended {
            return;
        }
    }
}

/// A body that arrives elsewhere, to be read where blocking is allowed.
struct Received {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Received {
    fn new(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { pieces, current: Bytes::new() }
    }
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_docker_reads_them() {
        assert_eq!(parse_host(DEFAULT_HOST), Some(Host::Unix("/var/run/docker.sock".into())));
        assert_eq!(parse_host("tcp://127.0.0.1:2375/"), Some(Host::Http("http://127.0.0.1:2375".into())));
        for host in ["", "x", "ssh://x", "unix://x", "tcp://", "npipe:////./pipe/docker_engine"] {
            assert_eq!(parse_host(host), None, "{host}");
        }
        let error = Engine::at("ssh://x").err().expect("not supported");
        assert!(error.hint_text().is_some_and(|h| h.contains("DOCKER_HOST")), "{error:?}");
    }

    #[test]
    fn pieces_are_read_as_one_stream_and_errors_come_through() {
        let (sender, receiver) = mpsc::channel(WAITING);
        for piece in [Ok(Bytes::from_static(b"abc")), Ok(Bytes::new()), Ok(Bytes::from_static(b"d"))] {
            sender.blocking_send(piece).expect("sent");
        }
        sender.blocking_send(Err(io::ErrorKind::ConnectionReset.into())).expect("sent");
        drop(sender);
        let mut received = Received::new(receiver);
        let mut text = [0; 4];
        received.read_exact(&mut text).expect("read");
        assert_eq!(&text, b"abcd");
        let error = received.read(&mut text).expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(received.read(&mut text).expect("the end"), 0);
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_named() {
        let cache = ContentCache::at("/nonexistent");
        let image = EngineImage::Id(Digest::of(b""));
        let engine = Engine::at("unix:///nonexistent/docker.sock").expect("a client");
        let error = engine.open(&image, &cache).await.expect_err("no engine");
        assert!(error.to_string().contains("unix:///nonexistent/docker.sock"), "{error}");
        assert!(error.to_string().contains("No such file"), "{error}");
        assert_eq!(error.kind(), crate::Kind::Network);
    }
}
