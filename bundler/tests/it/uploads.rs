//! Large blobs on their way to a registry that stalls, forgets, or takes no chunks: no real one can be made to at a
//! given byte, and CNCF distribution, which the other tests push to, says nothing of an upload that broke off.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};

use bundler::digest::Digest;
use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::task::JoinHandle;
use warp::Filter as _;
use warp::http::{HeaderMap, Method};
use warp::reply::Response;

use crate::faults::{stop, wait_until};
use crate::liar::{answer, client, login};
use crate::limits::big_image;
use crate::world::{World, names};

const MIB: usize = 1 << 20;
const CHUNK: usize = 32 * MIB;
/// Two chunks and a bit.
pub const SIZE: usize = 70 * MIB;
/// In the middle of the second chunk, and of a piece.
const STALL: usize = 40 * MIB + 1000;

/// What a site's registry has, and how it behaves.
#[derive(Default)]
struct State {
    uploads: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashSet<String>,
    /// Requests about uploads: method, and the bytes that it was about.
    asked: Vec<(Method, String)>,
    /// Once so much of an upload is there, nothing happens any more, once.
    stalls_at: Option<usize>,
    /// Says nothing of uploads that are not finished.
    forgets: bool,
    /// Takes one part of a blob only.
    is_whole_only: bool,
    /// From the second part of a blob on, it wants a login.
    wants_login: bool,
    /// It makes no repositories, and has none.
    has_no_repositories: bool,
    /// Has another manifest under each tag, and keeps it.
    is_immutable: bool,
    /// Says that it has stored a blob, and has not.
    lies: bool,
}

struct Site {
    host: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Site {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("its address").to_string();
        let state: Arc<Mutex<State>> = Arc::default();
        let kept = Arc::clone(&state);
        let query = warp::query::raw().or(warp::any().map(String::new)).unify();
        let request = warp::method().and(warp::path::full()).and(query).and(warp::header::headers_cloned());
        let routes = request.and(warp::body::stream()).then(
            move |method, path: warp::path::FullPath, query: String, headers, body| {
                let state = Arc::clone(&kept);
                async move { answered(&state, method, path.as_str(), &query, &headers, body).await }
            },
        );
        let task = tokio::spawn(warp::serve(routes).incoming(listener).run());
        Self { host, state, task }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a lock")
    }

    /// Bytes of the largest upload that is not finished.
    fn begun(&self) -> usize {
        self.state().uploads.values().map(Vec::len).max().unwrap_or_default()
    }

    /// What was asked about parts of blobs.
    fn parts(&self) -> Vec<String> {
        let state = self.state();
        let parts = state.asked.iter().filter(|(method, _)| method == Method::PATCH);
        parts.map(|(_, range)| range.clone()).collect()
    }
}

async fn answered(
    state: &Mutex<State>,
    method: Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Response {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().expect("text").to_owned());
    let Some((_, id)) = path.split_once("/blobs/uploads/") else {
        return kept(state, &method, path);
    };
    let range = header("content-range").unwrap_or_default();
    let has_login = header("authorization").is_some();
    let mut body = std::pin::pin!(body);
    {
        let mut state = state.lock().expect("a lock");
        state.asked.push((method.clone(), range.clone()));
        if method == Method::POST {
            if state.has_no_repositories {
                return answer(404, &[], r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#);
            }
            let id = state.asked.len().to_string();
            let location = format!("{path}{id}");
            state.uploads.insert(id, Vec::new());
            return answer(202, &[("location", &location)], "");
        }
        let is_first = range.is_empty() || range.starts_with("0-");
        let refused = state.is_whole_only && !is_first;
        let Some(there) = state.uploads.get(id).filter(|_| !refused) else { return answer(404, &[], "") };
        if state.wants_login && !is_first && !has_login {
            return answer(401, &[("www-authenticate", "Basic realm=x")], "");
        }
        if method == Method::GET {
            let range = format!("0-{}", there.len().saturating_sub(1));
            return if state.forgets { answer(404, &[], "") } else { answer(204, &[("range", &range)], "") };
        }
        if method == Method::PATCH && !range.starts_with(&format!("{}-", there.len())) {
            return answer(416, &[], "");
        }
    }
    while let Some(piece) = body.next().await {
        let Ok(mut piece) = piece else { return answer(400, &[], "") };
        let stalls = {
            let mut state = state.lock().expect("a lock");
            let upload = state.uploads.get_mut(id).expect("the upload");
            upload.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
            let length = upload.len();
            state.stalls_at.take_if(|at| *at <= length).is_some()
        };
        if stalls {
            return std::future::pending().await;
        }
    }
    let mut state = state.lock().expect("a lock");
    if method == Method::PATCH {
        let range = format!("0-{}", state.uploads[id].len() - 1);
        return answer(202, &[("range", &range), ("location", path)], "");
    }
    let content = state.uploads.remove(id).expect("the upload");
    let digest = query.trim_start_matches("digest=").replace("%3A", ":");
    if Digest::of(&content).to_string() != digest {
        return answer(400, &[], r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
    }
    if !state.lies {
        state.blobs.insert(digest, content);
    }
    answer(201, &[], "")
}

/// Blobs and manifests.
fn kept(state: &Mutex<State>, method: &Method, path: &str) -> Response {
    let mut state = state.lock().expect("a lock");
    let name = path.rsplit('/').next().expect("a name");
    if state.is_immutable && path.contains("/manifests/") {
        let other = Digest::of(b"another manifest").to_string();
        return match *method {
            Method::PUT => answer(412, &[], r#"{"errors":[{"code":"PRECONDITION"}]}"#),
            _ => answer(200, &[("docker-content-digest", &other)], ""),
        };
    }
    let is_there = match path {
        "/v2/" => true,
        _ if method == Method::PUT => !state.manifests.insert(path.into()) || path.contains("/manifests/"),
        _ => state.blobs.contains_key(name) || state.manifests.contains(path),
    };
    answer(if is_there { if method == Method::PUT { 201 } else { 200 } } else { 404 }, &[], "")
}

/// Pieces of one size, which don't fit into chunks.
fn content() -> (Bytes, Digest) {
    let bytes: Bytes = (0..SIZE / 8).flat_map(|n| (n as u64).to_le_bytes()).collect::<Vec<_>>().into();
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

/// Sends [`content`] to a repository of the site.
async fn upload(site: &Site, client: &bundler::registry::Client) -> bundler::Result<()> {
    let (bytes, digest) = content();
    let content = |from: u64| {
        let mut rest = bytes.slice(from as usize..);
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            pieces.push(Ok(rest.split_to((3 * MIB / 2).min(rest.len()))));
        }
        stream::iter(pieces).boxed()
    };
    let sent = client.repository(&site.host, "app").upload(&digest, SIZE as u64, content).await;
    if sent.is_ok() {
        assert!(site.state().blobs.get(&digest.to_string()).is_some_and(|stored| *stored == bytes));
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_goes_in_chunks_and_what_is_there_is_not_sent_again() {
    let site = Site::start().await;
    let range = |from: usize, to: usize| format!("{from}-{}", to - 1);
    upload(&site, &client(None)).await.expect("the upload");
    let chunks = [range(0, CHUNK), range(CHUNK, 2 * CHUNK), range(2 * CHUNK, SIZE)];
    assert_eq!(site.parts(), chunks);

    site.state().asked.clear();
    site.state().blobs.clear();
    site.state().stalls_at = Some(STALL);
    upload(&site, &client(None)).await.expect("the upload, in two tries");
    let parts = site.parts();
    assert_eq!(parts[..2], chunks[..2]);
    let from: usize = parts[2].split_once('-').expect("a range").0.parse().expect("a number");
    assert!((STALL..2 * CHUNK).contains(&from), "{parts:?}");
    assert_eq!(parts[2..], [range(from, SIZE)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_forgets_uploads_gets_all_of_it_again() {
    let site = Site::start().await;
    site.state().forgets = true;
    site.state().stalls_at = Some(STALL);
    upload(&site, &client(None)).await.expect("the upload, in two tries");
    let starts = site.parts().iter().filter(|range| range.starts_with("0-")).count();
    assert_eq!(starts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_takes_no_chunks_gets_the_whole_from_then_on() {
    let site = Site::start().await;
    site.state().is_whole_only = true;
    let client = client(None);
    upload(&site, &client).await.expect("the upload, as a whole");
    // A refusal in the middle of a part may look like a broken connection, for some tries.
    let tried = site.parts().len();
    assert!(tried >= 2);
    upload(&site, &client).await.expect("the upload, as a whole");
    assert_eq!(site.parts().len(), tried, "it is not tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_expired_between_chunks_is_replaced() {
    let site = Site::start().await;
    site.state().wants_login = true;
    let error = upload(&site, &client(None)).await.expect_err("no login");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("docker login")), "{error}");
    let directory = login(&site.host);
    upload(&site, &client(Some(&directory))).await.expect("the upload, with a login");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_counts_when_the_registry_has_it() {
    let site = Site::start().await;
    site.state().lies = true;
    let error = upload(&site, &client(None)).await.expect_err("a lie").to_string();
    assert!(error.contains("says that it has stored the blob, and then does not have it"), "{error}");
    let world = World::with_bundle();
    let args = ["push", "app.tar", &site.host, "--key", "airlock.pub"];
    world.run(&args).exits(3).says("does not have it");
    assert!(site.state().manifests.is_empty());
}

/// Pushes until the registry stalls, and is killed; the path of the record that it left.
fn killed_push(world: &World, site: &Site) -> std::path::PathBuf {
    site.state().stalls_at = Some(STALL);
    let args = ["push", "big.tar", &site.host, "--insecure-skip-verify"];
    let child = world.command(&args).stderr(Stdio::piped()).spawn().expect("airlock");
    wait_until("the registry stalls", || site.state().stalls_at.is_none());
    stop(child, "KILL");
    let records = world.path("cache/airlock/uploads");
    let name = names(&records).pop().expect("a record");
    records.join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_names_another_host_is_ignored() {
    let world = bundle();
    let thief = Site::start().await;
    for is_all in [false, true] {
        let site = Site::start().await;
        let record = killed_push(&world, &site);
        let text = fs::read_to_string(&record).expect("the record");
        let forged = match text.trim_end().rsplit_once('\n') {
            Some((head, url)) if !is_all => format!("{head}\n{}\n", url.replace(&site.host, &thief.host)),
            _ => text.replace(&site.host, &thief.host),
        };
        fs::write(&record, forged).expect("forged");
        // Whatever the thief is asked for, it has.
        for id in 0..9 {
            thief.state().uploads.insert(id.to_string(), vec![0; STALL]);
        }
        world.run(&["push", "big.tar", &site.host, "--insecure-skip-verify"]).exits(0);
        assert!(thief.state().asked.is_empty(), "{:?}", thief.state().asked);
        assert_eq!(site.state().blobs.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_kept_in_a_private_place_only() {
    let world = bundle();
    let site = Site::start().await;
    let record = killed_push(&world, &site);
    // A link in the place of the record, and then of the whole directory.
    let url = fs::read_to_string(&record).expect("the record");
    fs::remove_file(&record).expect("removed");
    world.write("precious", url.as_bytes());
    std::os::unix::fs::symlink(world.path("precious"), &record).expect("a link");
    let push = || {
        site.state().blobs.clear();
        site.state().manifests.clear();
        site.state().asked.clear();
        world.run(&["push", "big.tar", &site.host, "--insecure-skip-verify"]).exits(0);
        assert!(site.parts()[0].starts_with("0-"), "{:?}", site.parts());
    };
    push();
    assert_eq!(fs::read_to_string(world.path("precious")).expect("read"), url);
    let records = world.path("cache/airlock/uploads");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(30 * 24 * 3600);
    for name in ["elsewhere/notes.txt".to_owned(), format!("elsewhere/{}", "a".repeat(64))] {
        world.write(&name, b"mine");
        fs::File::options()
            .write(true)
            .open(world.path(&name))
            .and_then(|f| f.set_modified(old))
            .expect("aged");
    }
    fs::remove_dir_all(&records).expect("removed");
    std::os::unix::fs::symlink(world.path("elsewhere"), &records).expect("a link");
    push();
    assert_eq!(names(&world.path("elsewhere")).len(), 2);
    // Others can write to it.
    fs::remove_file(&records).expect("removed");
    fs::create_dir(&records).expect("made");
    fs::set_permissions(&records, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("a mode");
    push();
    assert_eq!(names(&records), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn current_directory_is_left_alone_without_a_home() {
    let world = bundle();
    let site = Site::start().await;
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(30 * 24 * 3600);
    world.write("elsewhere/notes.txt", b"mine");
    let notes = fs::File::options().write(true).open(world.path("elsewhere/notes.txt")).expect("opened");
    notes.set_modified(old).expect("aged");
    fs::create_dir(world.path(".airlock-cache")).expect("made");
    std::os::unix::fs::symlink("../elsewhere", world.path(".airlock-cache/uploads")).expect("a link");
    let before = names(&world.path(""));
    let mut push = world.command(&["push", "big.tar", &site.host, "--insecure-skip-verify"]);
    push.env_remove("XDG_CACHE_HOME").env_remove("HOME");
    crate::world::Run::from(push.output().expect("airlock")).exits(0);
    assert_eq!(names(&world.path("elsewhere")), ["notes.txt"]);
    assert_eq!(names(&world.path("")), before);
    // And where the cache is needed, that is said.
    fs::remove_dir_all(world.path(".airlock-cache")).expect("removed");
    world.spec(
        "[[file]]\nname = \"x\"\nurl = \"http://127.0.0.1:1/x\"\nsha256 = \"{}\"\n"
            .replace("{}", &"0".repeat(64))
            .as_str(),
    );
    let mut lock = world.command(&["lock", "--lock-file", "new.lock"]);
    lock.env_remove("XDG_CACHE_HOME").env_remove("HOME");
    crate::world::Run::from(lock.output().expect("airlock")).exits(1).says("set XDG_CACHE_HOME");
    assert!(!world.path(".airlock-cache").exists());
}

/// A world with a bundle whose image has one layer of [`SIZE`] bytes.
pub fn bundle() -> World {
    let world = World::new();
    big_image(&world.path("big"), 1, SIZE as u64);
    world.spec("[[image]]\nref = \"big:1\"\nfrom = \"oci:big\"\n");
    world.run(&["lock"]).exits(0);
    world.run(&["build", "--unsigned", "--output", "big.tar"]).exits(0);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_was_killed_goes_on_with_the_upload() {
    let world = bundle();
    for is_damaged in [false, true] {
        let site = Site::start().await;
        let args = ["push", "big.tar", "--registry", &site.host, "--insecure-skip-verify", "--json"];
        site.state().stalls_at = Some(STALL);
        let child = world.command(&args).stderr(Stdio::piped()).spawn().expect("airlock");
        wait_until("the registry stalls", || site.state().stalls_at.is_none());
        stop(child, "KILL");
        assert!(site.state().manifests.is_empty(), "no tag before its blobs");
        let begun = site.begun();
        if is_damaged {
            for upload in site.state().uploads.values_mut().filter(|upload| upload.len() == begun) {
                upload[0] ^= 1;
            }
        }
        site.state().asked.clear();
        let pushed = world.run(&args).exits(0).json();
        let parts = site.parts();
        assert!(parts[0].starts_with(&format!("{begun}-")), "{parts:?}, not from {begun}");
        let starts = parts.iter().filter(|range| range.starts_with("0-")).count();
        assert_eq!(starts, usize::from(is_damaged), "{parts:?}");
        let sent = pushed["bytes_sent"].as_u64().expect("a number");
        assert_eq!(sent < (SIZE - STALL / 2) as u64, !is_damaged, "{sent}");
        let blobs: Vec<_> = site.state().blobs.iter().map(|(d, b)| (d.clone(), Digest::of(b))).collect();
        assert!(blobs.len() == 2 && blobs.iter().all(|(digest, of)| *digest == of.to_string()), "{blobs:?}");
        let left = world.path("cache/airlock/uploads");
        assert!(fs::exists(&left).expect("the cache"), "{:?}", names(&world.path("")));
        assert_eq!(names(&left), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_needs_something_done_first_is_explained() {
    let world = World::with_bundle();
    let site = Site::start().await;
    let push = || world.run(&["push", "app.tar", "--registry", &site.host, "--key", "airlock.pub"]).exits(3);
    site.state().has_no_repositories = true;
    push().says("NAME_UNKNOWN").says("makes no repositories by itself: create ");
    site.state().has_no_repositories = false;
    site.state().is_immutable = true;
    let other = Digest::of(b"another manifest").to_string();
    push().says("412 Precondition Failed").says(&format!("the tag is there already, with {other}"));
    assert!(site.state().manifests.is_empty());
    site.state().is_immutable = false;
    world.run(&["push", "app.tar", "--registry", &site.host, "--key", "airlock.pub"]).exits(0);
}
