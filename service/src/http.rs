//! Routes.

use crate::metrics::Metrics;
use crate::store::Store;
use std::convert::Infallible;
use std::sync::Arc;
use warp::http::{HeaderValue, Response, StatusCode};
use warp::{Filter, Reply};

const TEXT: &str = "text/plain; charset=utf-8";

/// All routes over one store, each answer counted in `metrics`.
pub fn routes(
    store: Store,
    metrics: Arc<Metrics>,
) -> impl Filter<Extract = (impl Reply,), Error = warp::Rejection> + Clone {
    let counted = metrics.clone();
    let root = warp::path::end().and(warp::get()).and(with((store.clone(), metrics.clone()))).then(greet);
    let live = warp::path!("healthz").and(warp::get()).map(|| reply(StatusCode::OK, TEXT, "ok\n".into()));
    let ready = warp::path!("readyz").and(warp::get()).and(with((store, metrics.clone()))).then(ready);
    let numbers = warp::path!("metrics").and(warp::get()).and(with(metrics));
    let numbers = numbers.map(|m: Arc<Metrics>| reply(StatusCode::OK, "text/plain; version=0.0.4", m.text()));
    let all = root.or(live).unify().or(ready).unify().or(numbers).unify();
    all.with(warp::log::custom(move |info| counted.request(info.path(), info.status().as_u16())))
}

fn with<T: Clone + Send>(shared: T) -> impl Filter<Extract = (T,), Error = Infallible> + Clone {
    warp::any().map(move || shared.clone())
}

async fn greet((store, metrics): (Store, Arc<Metrics>)) -> Response<String> {
    match store.hit().await {
        Ok(n) => reply(StatusCode::OK, TEXT, format!("Hello from Redis! I have been seen {n} times.\n")),
        Err(e) => {
            tracing::warn!(error = %e, "no count from redis");
            metrics.redis_error("INCR");
            away()
        }
    }
}

async fn ready((store, metrics): (Store, Arc<Metrics>)) -> Response<String> {
    match store.ping().await {
        Ok(()) => reply(StatusCode::OK, TEXT, "ready\n".into()),
        Err(e) => {
            tracing::debug!(error = %e, "not ready");
            metrics.redis_error("PING");
            away()
        }
    }
}

fn away() -> Response<String> {
    let body = r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"Redis does not answer"}"#;
    reply(StatusCode::SERVICE_UNAVAILABLE, "application/problem+json", body.into())
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<String> {
    let mut r = Response::new(body);
    *r.status_mut() = status;
    r.headers_mut().insert("content-type", HeaderValue::from_static(kind));
    r
}
