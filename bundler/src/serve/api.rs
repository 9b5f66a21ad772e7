//! The OCI distribution spec 1.1 over verified bundles, or over a store: requests in, responses out.
//!
//! Threat model: requests come from anybody on the network. They can only name things; names are looked up in tables,
//! never in a file system. Bundles are only read.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use warp::http::{Method, Response, StatusCode};

use super::bundles::Bundles;
use super::request::{Named, Request};
use super::response::{Body, Holder, Page, Refusal, blob, describe, full, set};
use super::store::Store;
use super::tables::Tables;
use super::write::{self, Incoming};
use crate::digest::Digest;

/// What is served.
pub(super) enum Content {
    /// Bundles, read-only.
    Bundles(Bundles),
    /// What is pushed here.
    Store(Arc<Store>),
}

impl Content {
    fn tables(&self) -> Arc<Tables> {
        match self {
            Self::Bundles(bundles) => bundles.tables(),
            Self::Store(store) => store.tables(),
        }
    }

    fn manifest(&self, digest: &Digest) -> Result<Bytes, Refusal> {
        let read = match self {
            Self::Bundles(bundles) => bundles.manifest(digest).map_err(|e| e.to_string()),
            Self::Store(store) => store.manifest(digest).map(Bytes::from).map_err(|e| e.to_string()),
        };
        read.map_err(|why| {
            tracing::error!("{why}");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "MANIFEST_INVALID", why)
        })
    }

    fn blob(&self, digest: &Digest) -> Option<(Holder, u64)> {
        match self {
            Self::Bundles(bundles) => {
                let (bundle, size) = bundles.holder(digest)?;
                Some((Holder::Bundle(Arc::clone(bundle)), size))
            }
            Self::Store(store) => Some((Holder::File(store.path(digest)), store.size(digest)?)),
        }
    }

    /// Answers a request.
    pub(super) async fn answer(&self, request: &Request<'_>, body: Incoming) -> Response<Body> {
        let mut response = self.route(request, body).await.unwrap_or_else(Refusal::response);
        set(&mut response, "docker-distribution-api-version", "registry/2.0");
        response
    }

    async fn route(&self, request: &Request<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
        let named = request.named();
        let is_read = matches!(*request.method, Method::GET | Method::HEAD);
        let not_found = || Refusal::not_found("NAME_UNKNOWN", format!("no such path: {}", request.path));
        match (self, named) {
            (Self::Bundles(_), _) if !is_read => {
                let why = "this registry is a bundle, and read-only; push into another registry with `airlock push`";
                Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", why))
            }
            (_, None) => Err(not_found()),
            (Self::Store(store), Some(named @ Named::Upload(..))) => {
                write::answer(store, request, named, body).await
            }
            (Self::Store(store), Some(named)) if !is_read => write::answer(store, request, named, body).await,
            (_, Some(named)) => self.read(request, named).ok_or_else(not_found)?,
        }
    }

    /// Answers what changes nothing; none if there is nothing of the kind to read.
    fn read(&self, request: &Request, named: Named) -> Option<Result<Response<Body>, Refusal>> {
        let tables = self.tables();
        Some(match named {
            Named::Base => Ok(full(StatusCode::OK, "application/json", "{}")),
            Named::Catalog => {
                let names = Page::of(tables.repositories.keys(), request);
                Ok(names.response(request, &json!({"repositories": names.items})))
            }
            Named::Tags(name) => repository(&tables, &name, request).map(|(name, repository)| {
                let tags = Page::of(repository.tags.keys(), request);
                tags.response(request, &json!({"name": name, "tags": tags.items}))
            }),
            Named::Referrers(name, digest) => referrers(&tables, &name, &digest, request),
            Named::Blob(name, digest) => self.one_blob(&tables, &name, &digest, request),
            Named::Manifest(name, reference) => self.one_manifest(&tables, &name, &reference, request),
            Named::Uploads(_) | Named::Upload(..) => return None,
        })
    }

    fn one_manifest(
        &self,
        tables: &Tables,
        name: &str,
        reference: &str,
        request: &Request,
    ) -> Result<Response<Body>, Refusal> {
        // A tag has no colon.
        let asked = reference.contains(':').then(|| reference.parse::<Digest>()).transpose()?;
        let (name, repository) = repository(tables, name, request)?;
        let digest = asked.or_else(|| repository.tags.get(reference).copied());
        let found = digest.and_then(|digest| Some((digest, repository.manifests.get(&digest)?)));
        let unknown = || Refusal::not_found("MANIFEST_UNKNOWN", format!("there is no {name} {reference}"));
        let (digest, described) = found.ok_or_else(unknown)?;
        let mut response = full(StatusCode::OK, &described.media_type, self.manifest(&digest)?);
        describe(&mut response, &digest);
        Ok(response)
    }

    fn one_blob(
        &self,
        tables: &Tables,
        name: &str,
        digest: &str,
        request: &Request,
    ) -> Result<Response<Body>, Refusal> {
        if matches!(self, Self::Bundles(_)) {
            repository(tables, name, request)?;
        }
        let digest: Digest = digest.parse()?;
        let unknown = || Refusal::not_found("BLOB_UNKNOWN", format!("there is no blob {digest}"));
        // Whoever asks without wanting it is about to push something that needs it.
        if let (Self::Store(store), &Method::HEAD) = (self, request.method) {
            store.promise(&digest);
        }
        let (holder, size) = self.blob(&digest).ok_or_else(unknown)?;
        Ok(blob(request, holder, digest, size))
    }
}

fn repository<'a>(
    tables: &'a Tables,
    name: &str,
    request: &Request,
) -> Result<(&'a str, &'a super::tables::Repository), Refusal> {
    let unknown = || Refusal::not_found("NAME_UNKNOWN", format!("there is no repository {name}"));
    tables.repository(name, request.parameter("ns").as_deref()).ok_or_else(unknown)
}

/// Also where there is no such repository or manifest, the list is empty: an error would say that nobody can ask here
/// (distribution spec, "Listing Referrers").
fn referrers(
    tables: &Tables,
    name: &str,
    digest: &str,
    request: &Request,
) -> Result<Response<Body>, Refusal> {
    let digest: Digest = digest.parse()?;
    let artifact_type = request.parameter("artifactType");
    let empty = super::tables::Repository::default();
    let found = repository(tables, name, request).map_or(&empty, |(_, repository)| repository);
    let list = found.referrers(&digest, artifact_type.as_deref());
    let mut response = full(StatusCode::OK, crate::image::OCI_INDEX, list.to_string());
    if artifact_type.is_some() {
        set(&mut response, "oci-filters-applied", "artifactType");
    }
    Ok(response)
}
