//! Requests that change a store (distribution spec, "Push" and "Content Management").

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::OwnedMutexGuard;
use warp::http::{Method, Response, StatusCode};

use super::SILENCE;
use super::request::{Named, Request, content_range};
use super::response::{Body, Refusal, describe, empty, set};
use super::store::{Id, MANIFEST_CAP, Store, Target, Upload};
use crate::digest::Digest;
use crate::reference::{is_repository, is_tag};

/// What a request brings.
pub(super) type Incoming = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send>>;

/// How much is written at a time, in bytes.
const BATCH: usize = 1 << 20;

/// Answers a request that changes something.
pub(super) async fn answer(
    store: &Arc<Store>,
    request: &Request<'_>,
    named: Named,
    body: Incoming,
) -> Result<Response<Body>, Refusal> {
    match (request.method, named) {
        (&Method::POST, Named::Uploads(name)) => {
            is_name(&name)?;
            begin(store, request, &name, body).await
        }
        (&Method::GET | &Method::HEAD, Named::Upload(name, id)) => {
            let (id, upload) = find(store, &id).await?;
            Ok(progress(StatusCode::NO_CONTENT, &name, &id, &upload))
        }
        (&Method::PATCH, Named::Upload(name, id)) => {
            let (id, upload) = find(store, &id).await?;
            match fits(request, &upload) {
                true => {
                    let upload = receive(upload, body, ranged(request)).await?;
                    Ok(progress(StatusCode::ACCEPTED, &name, &id, &upload))
                }
                false => Ok(progress(StatusCode::RANGE_NOT_SATISFIABLE, &name, &id, &upload)),
            }
        }
        (&Method::PUT, Named::Upload(name, id)) => {
            let wanted =
                digest(request)?.ok_or_else(|| Refusal::bad("DIGEST_INVALID", "?digest= is missing"))?;
            let (id, upload) = find(store, &id).await?;
            match fits(request, &upload) {
                true => {
                    let upload = receive(upload, body, ranged(request)).await?;
                    finish(store, &name, id, upload, wanted).await
                }
                false => Ok(progress(StatusCode::RANGE_NOT_SATISFIABLE, &name, &id, &upload)),
            }
        }
        (&Method::DELETE, Named::Upload(_, id)) => {
            let (id, _upload) = find(store, &id).await?;
            store.cancel(&id);
            Ok(empty(StatusCode::NO_CONTENT))
        }
        (&Method::PUT, Named::Manifest(name, reference)) => {
            is_name(&name)?;
            put_manifest(store, request, name, reference, body).await
        }
        (&Method::DELETE, Named::Manifest(name, reference)) => {
            blocking(store, move |store| store.delete_manifest(&name, &target(&reference)?)).await?;
            Ok(empty(StatusCode::ACCEPTED))
        }
        (&Method::DELETE, Named::Blob(_, text)) => {
            let digest: Digest = text.parse()?;
            blocking(store, move |store| store.delete_blob(&digest)).await?;
            Ok(empty(StatusCode::ACCEPTED))
        }
        _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this can't be asked for here")),
    }
}

/// Runs what waits for the disk where it holds up nobody else.
async fn blocking<T: Send + 'static>(
    store: &Arc<Store>,
    work: impl FnOnce(&Store) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let store = Arc::clone(store);
    let done = tokio::task::spawn_blocking(move || work(&store)).await;
    done.unwrap_or_else(|e| Err(std::io::Error::other(e).into()))
}

fn is_name(name: &str) -> Result<(), Refusal> {
    let why = || {
        "a repository's name has lower-case letters and digits, with dots, dashes and underscores between them, in parts with \
         slashes between them, at most 255 characters"
    };
    is_repository(name).then_some(()).ok_or_else(|| Refusal::bad("NAME_INVALID", why()))
}

/// The digest in a query.
fn digest(request: &Request) -> Result<Option<Digest>, Refusal> {
    Ok(request.parameter("digest").map(|text| text.parse()).transpose()?)
}

/// What a manifest's address names.
fn target(reference: &str) -> Result<Target<'_>, Refusal> {
    if reference.contains(':') {
        return Ok(Target::Digest(reference.parse()?));
    }
    let why = || {
        format!(
            "{reference:?} is no tag: letters, digits, dots, dashes and underscores, no dot or dash first, at most 128"
        )
    };
    is_tag(reference).then_some(Target::Tag(reference)).ok_or_else(|| Refusal::bad("TAG_INVALID", why()))
}

/// Opens an upload; or takes the blob that comes with the request, or that is here already.
async fn begin(
    store: &Arc<Store>,
    request: &Request<'_>,
    name: &str,
    body: Incoming,
) -> Result<Response<Body>, Refusal> {
    if let Some(algorithm) = request.parameter("digest-algorithm").filter(|algorithm| algorithm != "sha256") {
        return Err(crate::digest::DigestError::Algorithm(algorithm).into());
    }
    let mounted = request.parameter("mount").map(|text| text.parse()).transpose()?;
    // Blobs are kept once: it is here, or it is not, whatever repository it is said to be in.
    if let Some(digest) = mounted.filter(|digest| store.promise(digest).is_some()) {
        return Ok(created(name, "blobs", &digest));
    }
    let wanted = digest(request)?;
    let (id, upload) = blocking(store, |store| store.begin()).await?;
    let upload = upload.lock_owned().await;
    match wanted {
        Some(wanted) => {
            let upload = receive(upload, body, None).await?;
            finish(store, name, id, upload, wanted).await
        }
        None => Ok(progress(StatusCode::ACCEPTED, name, &id, &upload)),
    }
}

/// An upload, when nobody else is about it.
async fn find(store: &Arc<Store>, text: &str) -> Result<(Id, OwnedMutexGuard<Upload>), Refusal> {
    let unknown = || Refusal::not_found("BLOB_UPLOAD_UNKNOWN", "there is no such upload: begin it again");
    let id: Id = text.parse().map_err(|_| unknown())?;
    let upload = blocking(store, move |store| Ok(store.upload(&id))).await?.ok_or_else(unknown)?;
    // A connection that broke may not have been noticed yet.
    Ok((id, upload.lock_owned().await))
}

/// Whether what comes follows what is there.
fn fits(request: &Request, upload: &Upload) -> bool {
    let Some(text) = request.header("content-range") else { return true };
    let length = request.header("content-length").and_then(|text| text.parse::<u64>().ok());
    content_range(text)
        .is_some_and(|(first, size)| first == upload.length() && length.is_none_or(|length| length == size))
}

/// How many bytes a request says it brings.
fn ranged(request: &Request) -> Option<u64> {
    request.header("content-range").and_then(content_range).map(|(_, size)| size)
}

/// Takes what a request brings, which is no more than it said. What came before it broke off stays.
async fn receive(
    mut upload: OwnedMutexGuard<Upload>,
    mut body: Incoming,
    said: Option<u64>,
) -> Result<OwnedMutexGuard<Upload>, Refusal> {
    let most = said.map_or(u64::MAX, |said| upload.length() + said);
    loop {
        let (mut batch, mut size, mut end) = (Vec::new(), 0, None);
        while size < BATCH {
            match next(&mut body).await {
                Ok(Some(bytes)) => {
                    size += bytes.len();
                    batch.push(bytes);
                }
                Ok(None) => end = Some(Ok(())),
                Err(error) => end = Some(Err(error)),
            }
            if end.is_some() {
                break;
            }
        }
        if upload.length() + size as u64 > most {
            return Err(Refusal::bad("SIZE_INVALID", "there is more than its Content-Range says"));
        }
        if !batch.is_empty() {
            let write = move || {
                let written = upload.append(&batch);
                (upload, written)
            };
            let (given_back, written) =
                tokio::task::spawn_blocking(write).await.map_err(std::io::Error::other)?;
            written?;
            upload = given_back;
        }
        if let Some(end) = end {
            return end.map(|()| upload);
        }
    }
}

/// What comes next of a request; nothing at its end.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
    match tokio::time::timeout(SILENCE, body.next()).await {
        Ok(next) => next.transpose().map_err(|e| broken(&e.to_string())),
        Err(_) => Err(broken("nothing came any more")),
    }
}

fn broken(why: &str) -> Refusal {
    Refusal::bad("BLOB_UPLOAD_INVALID", format!("the request broke off: {why}"))
}

async fn finish(
    store: &Arc<Store>,
    name: &str,
    id: Id,
    mut upload: OwnedMutexGuard<Upload>,
    digest: Digest,
) -> Result<Response<Body>, Refusal> {
    blocking(store, move |store| store.finish(&id, &mut upload, &digest)).await?;
    Ok(created(name, "blobs", &digest))
}

async fn put_manifest(
    store: &Arc<Store>,
    request: &Request<'_>,
    name: String,
    reference: String,
    mut body: Incoming,
) -> Result<Response<Body>, Refusal> {
    target(&reference)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = next(&mut body).await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > MANIFEST_CAP {
            let why = format!("a manifest has at most {MANIFEST_CAP} bytes here");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", why));
        }
    }
    // `application/…; charset=utf-8` is the same type.
    let media_type = request.header("content-type").unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
    let repository = name.clone();
    let put = move |store: &Store| store.put_manifest(&repository, &target(&reference)?, &media_type, &bytes);
    let (digest, subject) = blocking(store, put).await?;
    let mut response = created(&name, "manifests", &digest);
    if let Some(subject) = subject {
        set(&mut response, "oci-subject", &subject.to_string());
    }
    Ok(response)
}

fn created(name: &str, kind: &str, digest: &Digest) -> Response<Body> {
    let mut response = empty(StatusCode::CREATED);
    set(&mut response, "location", &format!("/v2/{name}/{kind}/{digest}"));
    describe(&mut response, digest);
    response
}

/// How far an upload is. Nothing and one byte look alike, as at other registries: there is no other way to say nothing.
fn progress(status: StatusCode, name: &str, id: &Id, upload: &Upload) -> Response<Body> {
    let mut response = empty(status);
    set(&mut response, "location", &format!("/v2/{name}/blobs/uploads/{id}"));
    set(&mut response, "range", &format!("0-{}", upload.length().saturating_sub(1)));
    set(&mut response, "docker-upload-uuid", &id.to_string());
    response
}
