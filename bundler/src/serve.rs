//! A registry: verified tars read-only, straight from the file; or a store that is pushed to.

mod access;
mod advertise;
mod api;
pub mod authority;
mod bundles;
mod login;
mod request;
mod response;
mod store;
mod tables;
mod tls;
mod write;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt as _;
use warp::http::{HeaderMap, Method, Response};
use warp::{Buf, Filter};

use crate::error::{Error, Result};
use crate::origin;
use crate::verify::VerifiedBundle;
pub use access::{Access, Log};
use access::{Client, Counted, Entry};
pub use advertise::Advertised;
use api::Content;
use bundles::Bundles;
pub use login::Logins;
use request::Request;
use response::{Body, Holder};
use store::Store;
pub use tls::Files as TlsFiles;
use tls::Tls;

/// How long a client may take to send a request's head, or to finish a TLS handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long connections may finish after a stop is asked for.
const GRACE: Duration = Duration::from_secs(10);
/// How long a client may read nothing of what it asked for, or send nothing of what it has to send.
const SILENCE: Duration = Duration::from_secs(60);
/// Most connections at a time; more wait. One whose client reads slowly holds up to a MiB.
const CONNECTIONS: usize = 1024;
/// File descriptors that are kept for other things than connections.
const OTHER_DESCRIPTORS: usize = 64;
/// How often a store is cleared of what nothing names.
const SWEEP: Duration = Duration::from_secs(60 * 60);

/// A client's connection.
type Stream = Pin<Box<TimeoutStream<TcpStream>>>;

/// What is served, and to whom.
pub struct Registry {
    content: Content,
    logins: Option<Logins>,
    /// How it is spoken to, `http` or `https`.
    scheme: &'static str,
}

impl Registry {
    /// What is in any of `bundles`, of equal tags that of the last; read-only.
    ///
    /// # Errors
    /// When a manifest of a bundle can't be read.
    pub fn of_bundles(bundles: Vec<Arc<VerifiedBundle>>) -> Result<Self> {
        Ok(Self { content: Content::Bundles(Bundles::new(bundles)?), logins: None, scheme: "http" })
    }

    /// What is in the directory `store`, an OCI image layout that is made if there is none, and what is pushed to it.
    ///
    /// # Errors
    /// When it can't be written to, is another's, or is used by another process.
    pub fn of_store(store: &Path) -> Result<Self> {
        Ok(Self { content: Content::Store(Arc::new(Store::open(store)?)), logins: None, scheme: "http" })
    }

    /// Answers only who logs in.
    #[must_use]
    pub fn with_logins(self, logins: Option<Logins>) -> Self {
        Self { logins, ..self }
    }

    async fn answer(&self, request: &Request<'_>, body: write::Incoming) -> Response<Body> {
        if let Some(logins) = &self.logins
            && let Some(refused) = logins.refuse(request, self.scheme).await
        {
            return refused;
        }
        self.content.answer(request, body).await
    }
}

/// A place where a registry is asked.
pub struct Server {
    listener: TcpListener,
    tls: Option<Tls>,
}

impl Server {
    /// Listens on `address`, `HOST:PORT`; with `tls`, over TLS.
    ///
    /// # Errors
    /// When the address can't be listened on, or the files are no certificate and key.
    pub async fn listen(address: &str, tls: Option<&TlsFiles>) -> Result<Self> {
        let tls = tls.map(Tls::read).transpose()?;
        let listener = TcpListener::bind(address).await.map_err(|e| {
            let hint = match e.kind() {
                io::ErrorKind::AddrInUse => {
                    "something listens there already: choose another port with --listen"
                }
                io::ErrorKind::PermissionDenied => "ports below 1024 need root: choose another with --listen",
                _ => "give an address of this machine as HOST:PORT with --listen",
            };
            Error::input(format!("listening on {address}"), e).hint(hint)
        })?;
        Ok(Self { listener, tls })
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

    /// Serves `registry` until `stop` is ready; then lets connections finish for a while. `log` gets every request.
    pub async fn run(self, registry: Registry, log: Log, stop: impl Future<Output = ()>) {
        let registry = Registry { scheme: if self.tls.is_some() { "https" } else { "http" }, ..registry };
        if let Content::Store(store) = &registry.content {
            tokio::spawn(sweep(Arc::downgrade(store)));
        }
        let places = Arc::new(Semaphore::new(places()));
        let service = warp::service(routes(Arc::new(registry), log)).map_request(with_path);
        let graceful = GracefulShutdown::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.listener, &places) => accepted,
                () = &mut stop => break,
            };
            let (stream, client, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: others must finish first.
                    tracing::warn!("accepting a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let service = service.clone().map_request(move |mut request: http::Request<_>| {
                request.extensions_mut().insert(client);
                request
            });
            let service = TowerToHyperService::new(service);
            // Registries' clients speak HTTP/2 only where TLS offers it, and to find out here would wait without end.
            let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
            builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            let (tls, watcher) = (self.tls.clone(), graceful.watcher());
            tokio::spawn(async move {
                let served = match tls {
                    None => {
                        watcher
                            .watch(builder.serve_connection(TokioIo::new(stream), service).into_owned())
                            .await
                    }
                    Some(tls) => match tls.accept(stream, PATIENCE).await {
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
                drop(place);
            });
        }
        drop(self.listener);
        let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    }
}

/// A connection that ends when its client reads nothing for long, with one of the places that there are.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(Stream, Client, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, client) = listener.accept().await?;
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(SILENCE));
    Ok((Box::pin(stream), Client(client), place))
}

/// How many connections there may be: each may take two file descriptors, of which as many are asked for as there may be.
fn places() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        limit = raised;
    }
    let descriptors = limit.current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    (descriptors.saturating_sub(OTHER_DESCRIPTORS) / 2).clamp(1, CONNECTIONS)
}

/// As long as the store is there.
async fn sweep(store: std::sync::Weak<Store>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(store) = store.upgrade() else { return };
        let _ = tokio::task::spawn_blocking(move || store.sweep(store::ABANDONED)).await;
    }
}

/// What answers requests, without the connections around it: for fuzzing.
#[doc(hidden)]
pub fn service(
    registry: Registry,
) -> impl tower::Service<http::Request<String>, Response = warp::reply::Response, Error = Infallible> {
    warp::service(routes(Arc::new(registry), Arc::new(|_: &Access| {}))).map_request(with_path)
}

/// A target may have no path (`CONNECT host:1`; RFC 9112, 3.2.3), and warp panics where a filter asks for it.
fn with_path<B>(mut request: http::Request<B>) -> http::Request<B> {
    if request.uri().path_and_query().is_none() {
        *request.uri_mut() = http::Uri::from_static("/");
    }
    request
}

fn routes(
    registry: Arc<Registry>,
    log: Log,
) -> impl Filter<Extract = (impl warp::Reply,), Error = warp::Rejection> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let parts = warp::method().and(warp::path::full()).and(query).and(warp::header::headers_cloned());
    parts.and(warp::ext::optional::<Client>()).and(warp::body::stream()).then(
        move |method: Method, path: warp::path::FullPath, query: String, headers: HeaderMap, client, body| {
            let (registry, body) = (Arc::clone(&registry), incoming(body));
            let entry = Entry::begin(&log, client, method.as_str(), path.as_str());
            async move {
                let request =
                    Request { method: &method, path: path.as_str(), query: &query, headers: &headers };
                let response = registry.answer(&request, body).await;
                reply(response, method == Method::HEAD, entry)
            }
        },
    )
}

/// A request's body. Whatever is wrong with it is found when it is read.
fn incoming(
    body: impl futures_util::Stream<Item = Result<impl Buf, warp::Error>> + Send + 'static,
) -> write::Incoming {
    Box::pin(body.map_ok(|mut part| part.copy_to_bytes(part.remaining())))
}

/// Puts a body to a response. A bundle's blob that isn't what its digest says breaks the connection before its last bytes: a
/// client must not take it for whole.
fn reply(response: Response<Body>, head: bool, mut entry: Entry) -> warp::reply::Response {
    fn stream<S>(chunks: S, entry: Entry) -> warp::reply::Response
    where
        S: futures_util::Stream<Item = Result<bytes::Bytes>> + Send + Sync + 'static,
    {
        let chunks = Box::pin(chunks.inspect_err(|error| tracing::error!("{error}")));
        warp::Reply::into_response(warp::reply::stream(Counted { chunks, entry }))
    }
    let (parts, body) = response.into_parts();
    let length = match &body {
        _ if head => 0,
        Body::Full(bytes) => bytes.len() as u64,
        Body::Blob { length, .. } => *length,
    };
    entry.answered(parts.status.as_u16(), length);
    let body = match body {
        _ if head => warp::reply::Response::default().into_body(),
        Body::Full(bytes) => {
            entry.pass(length);
            bytes.into()
        }
        Body::Blob { holder: Holder::Bundle(bundle), digest, start, length } => {
            stream(bundle.stream(digest, start, length), entry).into_body()
        }
        Body::Blob { holder: Holder::File(path), start, length, .. } => {
            stream(origin::file_chunks(path, start, length), entry).into_body()
        }
    };
    Response::from_parts(parts, body)
}
