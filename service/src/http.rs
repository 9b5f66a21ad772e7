//! Routes, and what is done around each of them: metrics, trace context, log.

use crate::metrics::{Metrics, Route};
use crate::store::Store;
use crate::trace::Context;
use hyper::body::{Body as _, Incoming};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use tokio::sync::watch;
use warp::http::header::{ALLOW, CONNECTION, CONTENT_TYPE};
use warp::http::{HeaderValue, Method, Request, StatusCode};
use warp::reply::Response;
use warp::{Filter, Reply};

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub enum Stage {
    /// It is not in sight.
    Serving,
    /// Each answer is its connection's last, and readiness is over.
    Stopping,
    /// Connections that wait for a request are closed.
    HangingUp,
}

/// Whatever answers requests.
pub trait Routes: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> {}
impl<S> Routes for S where S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
{}

const TEXT: &str = "text/plain; charset=utf-8";
/// 5xx answers that are logged in a second; the rest is counted only.
const COMPLAINTS: u64 = 10;

/// All routes over one store.
pub fn routes(
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    stage: watch::Receiver<Stage>,
) -> impl Routes + Send + Sync + 'static {
    let root = warp::path::end().and(warp::method()).then({
        let store = store.clone();
        move |method| greet(store.clone(), method)
    });
    let live = warp::path!("healthz")
        .and(warp::method())
        .map(|method| get(&method, || reply(StatusCode::OK, TEXT, "ok\n")));
    let ready = warp::path!("readyz").and(warp::method()).map(move |method| {
        get(&method, || match (*stage.borrow(), store.is_up()) {
            (Stage::Serving, true) => reply(StatusCode::OK, TEXT, "ready\n"),
            (Stage::Serving, false) => away(),
            _ => problem(StatusCode::SERVICE_UNAVAILABLE, "The service is stopping"),
        })
    });
    let numbers = warp::path!("metrics").and(warp::method()).map(move |method| {
        get(&method, || reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.text()))
    });
    let other = warp::any().map(|| problem(StatusCode::NOT_FOUND, "There is nothing at this path"));
    let all = root.or(live).unify().or(ready).unify().or(numbers).unify().or(other).unify();
    TowerToHyperService::new(warp::service(all))
}

async fn greet(store: Arc<Store>, method: Method) -> Response {
    if method == Method::HEAD {
        // To look whether it is there must not count as a hit.
        return if store.is_up() { reply(StatusCode::OK, TEXT, "") } else { away() };
    }
    if method != Method::GET {
        return wrong_method();
    }
    match store.hit().await {
        Ok(n) => reply(StatusCode::OK, TEXT, format!("Hello from Redis! I have been seen {n} times.\n")),
        Err(trouble) => {
            tracing::debug!(error = %trouble, "no count");
            away()
        }
    }
}

fn get(method: &Method, answer: impl FnOnce() -> Response) -> Response {
    // What a HEAD must not have of the answer, hyper leaves out.
    if matches!(*method, Method::GET | Method::HEAD) { answer() } else { wrong_method() }
}

fn wrong_method() -> Response {
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD are answered");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn away() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "Redis does not answer")
}

/// An error as RFC 9457 has it. `detail` is one of our own, with nothing in it that JSON would have to escape.
pub fn problem_json(status: StatusCode, detail: &'static str) -> String {
    let title = status.canonical_reason().unwrap_or_default();
    let status = status.as_u16();
    format!(r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}"}}"#)
}

fn problem(status: StatusCode, detail: &'static str) -> Response {
    reply(status, "application/problem+json", problem_json(status, detail))
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<String>) -> Response {
    let mut response = body.into().into_response();
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// What stands before the routes.
pub struct Front<S> {
    /// Answer requests.
    pub routes: S,
    /// Count them.
    pub metrics: Arc<Metrics>,
    /// Whether it is time to say good-bye.
    pub stage: watch::Receiver<Stage>,
    /// The second that complaints were last made in, and how many.
    pub complaints: Limit,
}

impl<S: Routes> Front<S> {
    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>) -> Response {
        let _in_flight = self.metrics.in_flight.enter();
        let started = Instant::now();
        let context = Context::of(request.headers());
        let route = Route::of(request.uri().path());
        // For the log; a clone of either copies a few bytes at most.
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let mut response = if request.body().is_end_stream() {
            let Ok(response) = self.routes.call(request).await;
            response
        } else {
            // It is not read: what follows on this connection would be part of it.
            let mut refused = problem(StatusCode::PAYLOAD_TOO_LARGE, "No request here has a body");
            refused.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            refused
        };
        context.tell(response.headers_mut());
        if *self.stage.borrow() > Stage::Serving {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let (status, time) = (response.status().as_u16(), started.elapsed());
        self.metrics.request(route, status, time);
        let log = |unsaid: u64| Entry {
            context: &context,
            method: &method,
            path: uri.path(),
            status,
            time,
            unsaid,
        };
        if status >= 500 {
            if let Some(unsaid) = self.complaints.one_more() {
                log(unsaid).warn();
            }
        } else if tracing::enabled!(tracing::Level::DEBUG) {
            log(0).debug();
        }
        response
    }
}

/// A line of the log.
struct Entry<'a> {
    context: &'a Context,
    method: &'a Method,
    path: &'a str,
    status: u16,
    time: std::time::Duration,
    unsaid: u64,
}

macro_rules! write_entry {
    ($level:ident, $entry:expr) => {{
        let Entry { context, method, path, status, time, unsaid } = $entry;
        tracing::$level!(
            %method, path, status, unsaid,
            milliseconds = time.as_secs_f64() * 1e3,
            trace_id = format!("{:032x}", context.trace),
            span_id = format!("{:016x}", context.span),
            request_id = context.request_id().to_str().unwrap_or_default(),
            "request"
        )
    }};
}

impl Entry<'_> {
    fn warn(self) {
        write_entry!(warn, self);
    }

    fn debug(self) {
        write_entry!(debug, self);
    }
}

/// Lets a few things a second through: while Redis is away, each request is an error, and logging them all would be
/// most of the work.
#[derive(Default)]
pub struct Limit {
    second: AtomicU64,
    passed: AtomicU64,
    unsaid: AtomicU64,
}

impl Limit {
    /// How many were held back since the last that passed, if this one passes.
    fn one_more(&self) -> Option<u64> {
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        // 0 is "never".
        let second = START.elapsed().as_secs() + 1;
        if self.second.swap(second, Relaxed) != second {
            self.passed.store(0, Relaxed);
        }
        if self.passed.fetch_add(1, Relaxed) < COMPLAINTS {
            Some(self.unsaid.swap(0, Relaxed))
        } else {
            self.unsaid.fetch_add(1, Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_limited_and_the_rest_is_counted() {
        let limit = Limit::default();
        let start = Instant::now();
        let mut passed = 0;
        // Two seconds may have begun by the end, each with its own ten.
        while start.elapsed().as_millis() < 5 {
            passed += u64::from(limit.one_more().is_some());
        }
        assert!((COMPLAINTS..=2 * COMPLAINTS).contains(&passed), "{passed}");
        assert!(limit.unsaid.load(Relaxed) > 0);
    }

    #[test]
    fn problems_are_json() {
        assert_eq!(
            problem_json(StatusCode::NOT_FOUND, "x"),
            r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"x"}"#
        );
    }
}
