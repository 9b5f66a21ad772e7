//! Routes.
use crate::store::Store;
use std::convert::Infallible;
use warp::http::{Response, StatusCode};
use warp::{Filter, Reply};

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<String> {
    let mut r = Response::new(body);
    *r.status_mut() = status;
    r.headers_mut().insert("content-type", warp::http::HeaderValue::from_static(kind));
    r
}

fn away() -> Response<String> {
    let body = r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"Redis does not answer"}"#;
    reply(StatusCode::SERVICE_UNAVAILABLE, "application/problem+json", body.into())
}

/// All routes over one store.
pub fn routes(store: Store) -> impl Filter<Extract = (impl Reply,), Error = warp::Rejection> + Clone {
    const TEXT: &str = "text/plain; charset=utf-8";
    let with = warp::any().map(move || store.clone());
    let root = warp::path::end().and(warp::get()).and(with.clone()).then(|s: Store| async move {
        match s.hit().await {
            Ok(n) => reply(StatusCode::OK, TEXT, format!("Hello from Redis! I have been seen {n} times.\n")),
            Err(e) => {
                tracing::warn!(error = %e, "no count from redis");
                away()
            }
        }
    });
    let live = warp::path!("healthz").and(warp::get()).map(|| reply(StatusCode::OK, TEXT, "ok\n".into()));
    let ready = warp::path!("readyz").and(warp::get()).and(with).and_then(|s: Store| async move {
        Ok::<_, Infallible>(match s.ping().await {
            Ok(()) => reply(StatusCode::OK, TEXT, "ready\n".into()),
            Err(_) => away(),
        })
    });
    root.or(live).unify().or(ready).unify()
}
