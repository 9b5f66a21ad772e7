//! One log entry for each request, when its answer has gone out or broken off.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures_util::Stream;
use serde::Serialize;

use crate::error::Result;

/// A request that was answered. It has no query and no header: those may hold secrets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Access {
    /// Time of the end, RFC 3339.
    pub time: String,
    /// The client's address; a proxy's, if one is in front.
    pub client: Option<SocketAddr>,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The answer's status.
    pub status: u16,
    /// Bytes of the answer's body that were handed to the connection.
    pub bytes: u64,
    /// Seconds from the request's head to the end of the answer's body.
    pub seconds: f64,
    /// True if the answer broke off before its end.
    pub broken: bool,
}

/// Takes the entries.
pub type Log = Arc<dyn Fn(&Access) + Send + Sync>;

/// The client's address, as a request carries it.
#[derive(Clone, Copy)]
pub(super) struct Client(pub SocketAddr);

/// The entry of a request that is not yet over. It is logged when this is dropped.
pub(super) struct Entry {
    log: Log,
    since: Instant,
    access: Access,
    /// Bytes that are still to come.
    left: u64,
}

impl Entry {
    pub fn begin(log: &Log, client: Option<Client>, method: &str, path: &str) -> Self {
        let access = Access {
            time: String::new(),
            client: client.map(|client| client.0),
            method: method.into(),
            path: path.into(),
            status: 0,
            bytes: 0,
            seconds: 0.0,
            broken: false,
        };
        Self { log: Arc::clone(log), since: Instant::now(), access, left: 0 }
    }

    /// The answer's head: its status, and how long its body is.
    pub fn answered(&mut self, status: u16, length: u64) {
        (self.access.status, self.left) = (status, length);
    }

    /// A part of the body is handed on.
    pub fn pass(&mut self, bytes: u64) {
        self.access.bytes += bytes;
        self.left = self.left.saturating_sub(bytes);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.access.time = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        self.access.seconds = (self.since.elapsed().as_secs_f64() * 1e6).round() / 1e6;
        self.access.broken = self.left > 0;
        (self.log)(&self.access);
    }
}

/// A body whose bytes are counted.
pub(super) struct Counted<S> {
    pub chunks: Pin<Box<S>>,
    pub entry: Entry,
}

impl<S: Stream<Item = Result<Bytes>>> Stream for Counted<S> {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let next = self.chunks.as_mut().poll_next(context);
        if let Poll::Ready(Some(Ok(chunk))) = &next {
            self.entry.pass(chunk.len() as u64);
        }
        next
    }
}
