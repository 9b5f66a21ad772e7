//! Verified tars as a read-only OCI registry, straight from the file.

mod advertise;
mod api;
pub mod authority;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use warp::Filter;
use warp::http::{HeaderMap, Method, Response};

use crate::error::{Error, Result};
use crate::file;
use crate::verify::VerifiedBundle;
pub use advertise::Advertised;
use api::{Api, Body, Request};

/// How long a client may take to send a request's head, or to finish a TLS handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long connections may finish after a stop is asked for.
const GRACE: Duration = Duration::from_secs(10);

/// A registry that listens.
pub struct Server {
    listener: TcpListener,
    api: Arc<Api>,
    tls: Option<Tls>,
}

/// What TLS is spoken with.
#[derive(Clone)]
struct Tls {
    acceptor: TlsAcceptor,
    certificate: CertificateDer<'static>,
}

impl Server {
    /// Listens on `address`, `HOST:PORT`, for what is in any of `bundles` (of equal tags that of the last); with `tls`, the files of a certificate chain and its key (PEM), over TLS.
    ///
    /// # Errors
    /// When the address can't be listened on, or the files are no certificate and key.
    pub async fn listen(
        bundles: Vec<Arc<VerifiedBundle>>,
        address: &str,
        tls: Option<(&Path, &Path)>,
    ) -> Result<Self> {
        let tls = tls.map(|(cert, key)| acceptor(cert, key)).transpose()?;
        let api = Arc::new(Api::new(bundles)?);
        let listener = TcpListener::bind(address).await.map_err(|e| {
            let hint = match e.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "something listens there already: choose another port with --listen"
                }
                std::io::ErrorKind::PermissionDenied => {
                    "ports below 1024 need root: choose another with --listen"
                }
                _ => "give an address of this machine as HOST:PORT with --listen",
            };
            Error::input(format!("listening on {address}"), e).hint(hint)
        })?;
        Ok(Self { listener, api, tls })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system doesn't say.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|e| Error::input("asking for the address listened on", e))
    }

    /// Checks that `advertised` can be right: that more than this machine can connect, and that the certificate has its
    /// name.
    ///
    /// # Errors
    /// When it can't.
    pub fn check(&self, advertised: &Advertised) -> Result<()> {
        advertised.check_listening(self.address()?.ip())?;
        self.tls.iter().try_for_each(|tls| advertised.check_certificate(&tls.certificate))
    }

    /// Serves until `stop` is ready; then lets connections finish for a while.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let service = warp::service(routes(self.api));
        let graceful = GracefulShutdown::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = &mut stop => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: others must finish first.
                    tracing::warn!("accepting a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let service = TowerToHyperService::new(service.clone());
            // Registries' clients speak HTTP/2 only where TLS offers it, and to find out here would wait without end.
            let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
            builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            let (tls, watcher) = (self.tls.as_ref().map(|tls| tls.acceptor.clone()), graceful.watcher());
            tokio::spawn(async move {
                let served = match tls {
                    None => {
                        watcher
                            .watch(builder.serve_connection(TokioIo::new(stream), service).into_owned())
                            .await
                    }
                    Some(tls) => match handshake(&tls, stream).await {
                        Some(stream) => {
                            watcher
                                .watch(builder.serve_connection(TokioIo::new(stream), service).into_owned())
                                .await
                        }
                        None => Ok(()),
                    },
                };
                if let Err(error) = served {
                    tracing::debug!("a connection ended: {error}");
                }
            });
        }
        drop(self.listener);
        let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    }
}

async fn handshake(
    tls: &TlsAcceptor,
    stream: TcpStream,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!("a TLS handshake failed: {error}");
            None
        }
        Err(_) => None,
    }
}

fn acceptor(cert: &Path, key: &Path) -> Result<Tls> {
    let reading = |path: &Path| format!("reading {}", path.display());
    let read = |path| file::read(path, file::TEXT_CAP).map_err(|e| Error::input(reading(path), e));
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&read(cert)?).collect::<Result<_, _>>().map_err(|e| {
            Error::input(reading(cert), e).hint("--tls-cert takes a PEM file with the certificate chain")
        })?;
    let certificate = chain.first().cloned().ok_or_else(|| {
        Error::input(reading(cert), "there is no certificate in it")
            .hint("--tls-cert takes a PEM file with the certificate chain")
    })?;
    let key_der = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|e| {
        Error::input(reading(key), e).hint("--tls-key takes a PEM file with an unencrypted private key")
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key_der))
        .map_err(|e| Error::input(format!("using {} with {}", cert.display(), key.display()), e))?;
    Ok(Tls { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
}

fn routes(api: Arc<Api>) -> impl Filter<Extract = (impl warp::Reply,), Error = Infallible> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method().and(warp::path::full()).and(query).and(warp::header::headers_cloned()).map(
        move |method: Method, path: warp::path::FullPath, query: String, headers: HeaderMap| {
            let request = Request { method: &method, path: path.as_str(), query: &query, headers: &headers };
            let response = api.answer(&request);
            tracing::debug!("{method} {} {}", path.as_str(), response.status());
            reply(response, method == Method::HEAD)
        },
    )
}

/// Puts a body to a response. A blob that isn't what its digest says breaks the connection before its last bytes: a
/// client must not take it for whole.
fn reply(response: Response<Body>, head: bool) -> warp::reply::Response {
    let (parts, body) = response.into_parts();
    let body = match body {
        _ if head => warp::reply::Response::default().into_body(),
        Body::Full(bytes) => bytes.into(),
        Body::Blob { bundle, digest, start, length } => {
            use futures_util::TryStreamExt as _;
            let chunks = bundle.stream(digest, start, length).inspect_err(|error| tracing::error!("{error}"));
            warp::Reply::into_response(warp::reply::stream(chunks)).into_body()
        }
    };
    Response::from_parts(parts, body)
}
