//! The registry client against servers that do what real ones won't: lie, stall, break off, never end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bundler::Kind;
use bundler::digest::Digest;
use bundler::registry::{ByteStream, Client, Options, Repository};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::task::JoinHandle;
use warp::http::{HeaderMap, Method, StatusCode};
use warp::reply::Response;
use warp::{Filter as _, Reply as _};

/// A request as it arrived.
#[derive(Clone)]
pub struct Asked {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// How many came before it.
    pub nth: usize,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }
}

/// A server on loopback with a behaviour; it ends with the test.
pub struct Liar {
    pub host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Liar {
    /// `answer` says what comes back; with `None`, nothing ever does, and the request's body is not even read.
    pub async fn start(answer: impl Fn(&Asked) -> Option<Response> + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("its address").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (asked.clone(), Arc::new(answer));
        let query =
            warp::query::raw().map(|query| format!("?{query}")).or(warp::any().map(String::new)).unify();
        let request = warp::method().and(warp::path::full()).and(query).and(warp::header::headers_cloned());
        let routes = request.and(warp::body::stream()).then(
            move |method, path: warp::path::FullPath, query: String, headers, body| {
                let (kept, answer) = (kept.clone(), answer.clone());
                let target = format!("{}{query}", path.as_str());
                async move {
                    let nth = kept.lock().expect("a lock").len();
                    let mut asked = Asked { method, target, headers, body: Bytes::new(), nth };
                    let response = answer(&asked);
                    if response.is_some() {
                        asked.body = whole(body).await;
                    }
                    kept.lock().expect("a lock").push(asked);
                    match response {
                        Some(response) => response,
                        None => std::future::pending().await,
                    }
                }
            },
        );
        let task = tokio::spawn(warp::serve(routes).incoming(listener).run());
        Self { host, asked, task }
    }

    /// Forgets what was asked so far.
    pub fn forget(&self) {
        self.asked.lock().expect("a lock").clear();
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("a lock").clone()
    }

    fn repository(&self) -> Repository {
        client(None).repository(&self.host, "app")
    }
}

async fn whole(body: impl Stream<Item = Result<impl bytes::Buf, warp::Error>>) -> Bytes {
    let pieces = body.map_ok(|mut piece| piece.copy_to_bytes(piece.remaining()));
    pieces.try_collect::<Vec<_>>().await.map(|pieces| pieces.concat().into()).unwrap_or_default()
}

/// A client that is patient for a moment only; `config` is the directory of a docker config file.
pub fn client(config: Option<&tempfile::TempDir>) -> Client {
    let variable = |name: &str| match name {
        "DOCKER_CONFIG" => config.map(|directory| directory.path().display().to_string()),
        // Nobody listens there: what is on loopback must not be asked of a proxy.
        "HTTP_PROXY" | "HTTPS_PROXY" => Some("http://127.0.0.1:1".into()),
        _ => None,
    };
    Client::with(&Options::default(), Duration::from_millis(500), variable).expect("a client")
}

pub fn login(host: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let config = format!(r#"{{"auths":{{"{host}":{{"username":"ali","password":"sesame"}}}}}}"#);
    std::fs::write(directory.path().join("config.json"), config).expect("written");
    directory
}

pub fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response {
    streamed(status, headers, stream::iter([Ok(body.into())]))
}

pub fn streamed(
    status: u16,
    headers: &[(&str, &str)],
    body: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + Sync + 'static,
) -> Response {
    let mut response = warp::reply::stream(body).into_response();
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    for (name, value) in headers {
        let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
        response.headers_mut().insert(name, value.parse().expect("a value"));
    }
    response
}

fn endless() -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + Sync {
    stream::repeat_with(|| Ok(Bytes::from_static(&[b' '; 65536])))
}

pub fn broken_off(start: &[u8]) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + Sync + use<> {
    let start = Bytes::copy_from_slice(start);
    let break_off = async {
        // Or the server takes back what it has not sent yet.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(std::io::Error::other("broken off"))
    };
    stream::iter([Ok(start)]).chain(stream::once(break_off))
}

async fn collected(blob: ByteStream) -> bundler::Result<Vec<u8>> {
    Ok(blob.try_collect::<Vec<_>>().await?.concat())
}

fn assert_network(error: &bundler::Error, text: &str) {
    assert_eq!(error.kind(), Kind::Network, "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

/// Found by torture: CNCF distribution whose disk was full answers so for what it has only a part of.
#[tokio::test]
async fn a_blob_that_a_registry_can_not_read_is_one_that_it_has_not() {
    let liar = Liar::start(|_| Some(answer(500, &[], ""))).await;
    let there = liar.repository().has_blob(&Digest::of(b"x")).await;
    assert!(!there.expect("an answer"), "it would never be sent again");
}

#[tokio::test]
async fn other_bytes_than_the_digest_says_are_refused_by_both_names() {
    let liar = Liar::start(|_| Some(answer(200, &[], "lies"))).await;
    let (asked, got) = (Digest::of(b"truth"), Digest::of(b"lies"));
    let by_digest = liar.repository().manifest(&asked.to_string()).await.expect_err("a wrong manifest");
    let blob = liar.repository().small_blob(&asked, 100).await.expect_err("a wrong blob");
    for error in [by_digest, blob] {
        assert_eq!(error.kind(), Kind::Trust);
        let text = error.to_string();
        assert!(text.contains(&asked.to_string()) && text.contains(&got.to_string()), "{text}");
    }
}

#[tokio::test]
async fn a_registry_that_contradicts_itself_is_refused() {
    let declared = Digest::of(b"truth").to_string();
    let liar = Liar::start(move |asked| {
        let status = if asked.method == Method::PUT { 201 } else { 200 };
        Some(answer(status, &[("docker-content-digest", &declared)], "lies"))
    })
    .await;
    let error = liar.repository().manifest("1").await.expect_err("another digest");
    assert_eq!(error.kind(), Kind::Trust, "{error}");
    let stored = liar.repository().put_manifest("1", "a/b", Bytes::from_static(b"{}")).await;
    assert_eq!(stored.expect_err("another digest").kind(), Kind::Trust);
}

#[tokio::test]
async fn endless_answers_are_cut() {
    let liar = Liar::start(|asked| {
        let status = if asked.target.contains("missing") { 404 } else { 200 };
        Some(streamed(status, &[], endless()))
    })
    .await;
    assert_network(&liar.repository().manifest("1").await.expect_err("no end"), "larger than");
    let blob = liar.repository().small_blob(&Digest::of(b""), 1000).await;
    let error = blob.expect_err("no end");
    assert_eq!(error.kind(), Kind::Trust);
    assert!(error.to_string().contains("larger than 1000 bytes"), "{error}");
    assert_network(&liar.repository().manifest("missing").await.expect_err("none"), "404 Not Found");
    let file = client(None).get(&format!("http://{}/index.yaml", liar.host), 1000).await;
    assert_network(&file.expect_err("no end"), "larger than 1000 bytes");
}

#[tokio::test]
async fn silence_ends() {
    let liar = Liar::start(|asked| match asked.target.as_str() {
        "/v2/app/manifests/body" => {
            let start = stream::iter([Ok(Bytes::from_static(b"{"))]);
            Some(streamed(200, &[], start.chain(stream::pending())))
        }
        "/v2/app/blobs/uploads/" => Some(answer(202, &[("location", "/upload")], "")),
        _ => None,
    })
    .await;
    let repository = liar.repository();
    assert_network(&repository.manifest("head").await.expect_err("silence"), "no data for 0.5 s");
    assert_network(&repository.manifest("body").await.expect_err("silence"), "no data for 0.5 s");
    // More than the sockets' buffers hold.
    let piece = Bytes::from(vec![0; 1 << 20]);
    let body = |_| stream::iter(vec![piece.clone(); 32]).map(Ok).boxed();
    let upload = repository.upload(&Digest::of(b""), 32 << 20, body).await;
    assert_network(&upload.expect_err("silence"), "no data for 0.5 s");
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_broke() {
    let liar = Liar::start(|asked| {
        Some(match asked.header("range") {
            None => streamed(200, &[("content-length", "10")], broken_off(b"0123")),
            Some("bytes=4-") => streamed(206, &[("content-range", "bytes 4-9/10")], broken_off(b"45")),
            // A server that knows no ranges.
            Some(_) => answer(200, &[("content-length", "10")], "0123456789"),
        })
    })
    .await;
    let digest = Digest::of(b"0123456789");
    let blob = liar.repository().blob(&digest, 0).await.expect("a start");
    assert_eq!(collected(blob).await.expect("all of it"), b"0123456789");
    let ranges: Vec<_> = liar.asked().iter().map(|asked| asked.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=4-".into()), Some("bytes=6-".into())]);
    let end = liar.repository().blob(&digest, 8).await.expect("a start");
    assert_eq!(collected(end).await.expect("its end"), b"89");
}

#[tokio::test]
async fn a_download_that_breaks_off_again_and_again_fails() {
    let liar = Liar::start(|asked| {
        let from =
            asked.header("range").map_or("0", |range| range.trim_matches(|c: char| !c.is_ascii_digit()));
        let range = format!("bytes {from}-99/100");
        let status = if from == "0" { 200 } else { 206 };
        Some(streamed(status, &[("content-range", &range), ("content-length", "50")], broken_off(b"x")))
    })
    .await;
    let blob = liar.repository().blob(&Digest::of(b""), 0).await.expect("a start");
    assert_network(&collected(blob).await.expect_err("a break"), "fetching blob");
    let other = Liar::start(|_| Some(answer(206, &[("content-range", "bytes 0-9/10")], "0123456789"))).await;
    let blob = other.repository().blob(&Digest::of(b""), 5).await;
    assert_network(&blob.err().expect("another range"), "another range");
}

#[tokio::test]
async fn an_overloaded_registry_is_asked_again_when_it_says_and_not_for_ever() {
    let liar = Liar::start(|asked| {
        Some(match (asked.target.as_str(), asked.nth) {
            ("/v2/app/manifests/never", _) => answer(503, &[("retry-after", "0")], ""),
            ("/v2/app/manifests/later", _) => answer(429, &[("retry-after", "21600")], ""),
            (_, 0) => answer(429, &[("retry-after", "0")], ""),
            _ => answer(200, &[], "{}"),
        })
    })
    .await;
    liar.repository().manifest("1").await.expect("a second try");
    assert_eq!(liar.asked().len(), 2);
    assert_network(&liar.repository().manifest("never").await.expect_err("overload"), "503");
    assert_eq!(liar.asked().len(), 7);
    let error = liar.repository().manifest("later").await.expect_err("a long wait");
    assert_network(&error, "429 Too Many Requests; it wants to be asked again in 21600 s");
    assert_eq!(liar.asked().len(), 8, "nobody waits for so long");
}

/// A registry that wants the token `good`, and its token server, which counts: the token is `1`, then `2`, …
async fn with_tokens(good: impl Fn(&str) -> bool + Send + Sync + 'static) -> (Liar, Liar) {
    let server = Liar::start(|asked| {
        let body = format!(r#"{{"token":"{}","expires_in":300}}"#, asked.nth + 1);
        Some(answer(200, &[], body))
    })
    .await;
    let challenge =
        format!(r#"Bearer realm="http://{}/token",service="r",scope="repository:app:pull""#, server.host);
    let registry = Liar::start(move |asked| {
        let sent = asked.header("authorization").and_then(|header| header.strip_prefix("Bearer "));
        Some(match sent {
            Some(token) if good(token) => answer(200, &[], "{}"),
            _ => answer(401, &[("www-authenticate", &challenge)], r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#),
        })
    })
    .await;
    (registry, server)
}

#[tokio::test]
async fn a_token_is_bought_once_with_the_login() {
    let (registry, server) = with_tokens(|token| token == "1").await;
    let directory = login(&registry.host);
    let repository = client(Some(&directory)).repository(&registry.host, "app");
    let parallel = (0..4).map(|n| {
        let repository = repository.clone();
        async move { repository.manifest(&n.to_string()).await }
    });
    for manifest in futures_util::future::join_all(parallel).await {
        manifest.expect("the manifest");
    }
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].target, "/token?service=r&scope=repository%3Aapp%3Apull");
    assert_eq!(asked[0].header("authorization"), Some("Basic YWxpOnNlc2FtZQ=="));
    assert!(
        registry.asked().iter().all(|asked| asked.header("authorization") != Some("Basic YWxpOnNlc2FtZQ=="))
    );
}

#[tokio::test]
async fn a_revoked_token_is_replaced_and_a_refusal_is_final() {
    let revoked = Arc::new(Mutex::new(false));
    let seen = revoked.clone();
    let (registry, server) =
        with_tokens(move |token| token == if *seen.lock().expect("a lock") { "2" } else { "1" }).await;
    let repository = registry.repository();
    repository.manifest("1").await.expect("the manifest");
    *revoked.lock().expect("a lock") = true;
    repository.manifest("1").await.expect("the manifest, with a new token");
    assert_eq!(server.asked().len(), 2);
    assert!(server.asked().iter().all(|asked| asked.header("authorization").is_none()), "anonymous");

    let (registry, server) = with_tokens(|_| false).await;
    let error = registry.repository().manifest("1").await.expect_err("a refusal");
    assert_network(&error, "401 Unauthorized: UNAUTHORIZED");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("no login")), "{:?}", error.hint_text());
    assert_eq!((registry.asked().len(), server.asked().len()), (2, 1));
}

#[tokio::test]
async fn a_redirect_takes_no_credentials_elsewhere() {
    let storage = Liar::start(|asked| {
        let challenge = [("www-authenticate", "Basic realm=x")];
        Some(if asked.target.contains("expired") {
            answer(401, &challenge, "")
        } else {
            answer(200, &[], "blob")
        })
    })
    .await;
    let at = format!("http://{}", storage.host);
    let registry = Liar::start(move |asked| {
        Some(if asked.header("authorization").is_none() {
            answer(401, &[("www-authenticate", "Basic realm=x")], "")
        } else if asked.target.contains("manifests") {
            answer(307, &[("location", &format!("{at}/expired?secret"))], "")
        } else {
            answer(307, &[("location", &format!("{at}/blob?signature=secret"))], "")
        })
    })
    .await;
    let directory = login(&registry.host);
    let repository = client(Some(&directory)).repository(&registry.host, "app");
    let blob = repository.blob(&Digest::of(b"blob"), 0).await.expect("the blob");
    assert_eq!(collected(blob).await.expect("all of it"), b"blob");
    let error = repository.manifest("1").await.expect_err("a refusal elsewhere");
    assert_network(&error, &format!("401 Unauthorized from http://{}", storage.host));
    assert!(!error.to_string().contains("secret"), "{error}");
    let asked = storage.asked();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()));
    assert_eq!(registry.asked().iter().filter(|asked| asked.header("authorization").is_some()).count(), 2);
}

#[tokio::test]
async fn redirects_end_and_stay_with_http() {
    let liar = Liar::start(|asked| {
        let to = if asked.target == "/file" { "file:///etc/passwd" } else { "/again" };
        Some(answer(302, &[("location", to)], ""))
    })
    .await;
    let get = async |path: &str| {
        let url = format!("http://{}/{path}", liar.host);
        client(None).get(&url, 100).await.expect_err("a redirect")
    };
    assert_network(&get("again").await, "more than 5 redirects");
    assert_network(&get("file").await, "Location");
    let hint = client(None).get(&format!("https://{}/", liar.host), 100).await.expect_err("no TLS");
    assert!(
        hint.hint_text().is_some_and(|hint| hint.contains("--plain-http")),
        "{hint} {:?}",
        hint.hint_text()
    );
}

#[tokio::test]
async fn an_upload_goes_where_the_registry_says_and_only_home_with_credentials() {
    let storage = Liar::start(|_| Some(answer(201, &[], ""))).await;
    let elsewhere = format!("http://{}/put?id=1", storage.host);
    let registry = Liar::start(move |asked| {
        Some(match (asked.header("authorization"), asked.target.as_str()) {
            (None, _) => answer(401, &[("www-authenticate", "Basic realm=x")], ""),
            (_, "/v2/far/blobs/uploads/") => answer(202, &[("location", &elsewhere)], ""),
            (_, "/v2/lost/blobs/uploads/") => answer(202, &[], ""),
            (_, "/v2/app/blobs/uploads/") => answer(202, &[("location", "uuid?_state=a%3D%3D")], ""),
            _ if asked.method == Method::HEAD => answer(200, &[], ""),
            _ => answer(201, &[], ""),
        })
    })
    .await;
    let directory = login(&registry.host);
    let client = client(Some(&directory));
    let digest = Digest::of(b"abc");
    let upload = async |name: &str| {
        let body = |_| stream::iter([Ok(Bytes::from_static(b"ab")), Ok(Bytes::from_static(b"c"))]).boxed();
        client.repository(&registry.host, name).upload(&digest, 3, body).await
    };
    upload("app").await.expect("the upload");
    let mut asked = registry.asked();
    let confirmed = asked.pop().expect("the last request");
    assert_eq!((confirmed.method, confirmed.target), (Method::HEAD, format!("/v2/app/blobs/{digest}")));
    let put = asked.into_iter().rfind(|asked| asked.method == Method::PUT).expect("the upload");
    let target = format!("/v2/app/blobs/uploads/uuid?_state=a%3D%3D&digest=sha256%3A{}", digest.hex());
    assert_eq!(
        (put.method, put.target.as_str(), put.body.as_ref()),
        (Method::PUT, target.as_str(), &b"abc"[..])
    );
    assert_eq!(put.headers["content-length"], "3");
    assert_eq!(put.headers["authorization"], "Basic YWxpOnNlc2FtZQ==");

    upload("far").await.expect("the upload elsewhere");
    let asked = storage.asked();
    assert_eq!((asked.len(), asked[0].body.as_ref()), (1, &b"abc"[..]));
    assert_eq!(asked[0].header("authorization"), None);
    assert_network(&upload("lost").await.expect_err("no place"), "without saying where");
}

#[tokio::test]
async fn a_file_is_downloaded_with_its_size() {
    let liar = Liar::start(|_| Some(answer(200, &[("content-length", "4")], "file"))).await;
    let url = format!("http://localhost:{}/helm?x=1", liar.host.rsplit(':').next().expect("a port"));
    let download = client(None).download(&url).await.expect("a start");
    assert_eq!(download.size, Some(4));
    assert_eq!(collected(download.stream).await.expect("all of it"), b"file");
    assert_eq!(client(None).get(&url, 4).await.expect("the file"), "file");
    let secret = client(None).get("ftp://u:hunter2@h.example/", 4).await.expect_err("not HTTP");
    assert!(!secret.to_string().contains("hunter2"), "{secret}");
}
