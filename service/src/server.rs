//! The accept loop: how many connections there may be, what each of them may do, and how they end.

use crate::http::{Front, Routes, Stage, problem_json};
use crate::stream::{Limits, Patient, Turns};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{SockFilter, SockRef};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use warp::http::StatusCode;

/// Room for a request's head; hyper answers 431 to longer ones.
const HEAD_LIMIT: usize = 16 * 1024;
/// Headers of a request.
const HEADERS_LIMIT: usize = 64;
/// Connections that are told that they are one too many; what comes while these are told is closed without a word.
pub const REFUSALS: usize = 128;
/// Connections that are half open when it is to stop have so long to be whole.
const HALF_OPEN: Duration = Duration::from_millis(100);
/// Once it is to stop, clients that keep their connections have so long to send a request, and are told with its answer
/// that it was the last, before connections that wait for one are closed.
const FAREWELL: Duration = Duration::from_millis(500);

/// Accepts and answers.
pub struct Server<S> {
    /// Answers requests.
    pub front: Arc<Front<S>>,
    /// What clients are waited for.
    pub limits: Limits,
    /// Connections at a time.
    pub max_connections: usize,
    /// For open requests at the end.
    pub grace: Duration,
    /// Told to connections.
    pub stage: watch::Sender<Stage>,
}

impl<S: Routes + Send + Sync + 'static> Server<S> {
    /// Serves until `stop` is ready, and then for as long as open requests take, at most the grace time. Says whether
    /// all were answered.
    pub async fn run(self, listener: TcpListener, stop: impl Future<Output = ()>) -> io::Result<bool> {
        let open = Arc::new(Semaphore::new(self.max_connections));
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        self.accept(&listener, &open, &refusals, stop).await;
        // The kernel accepts for us, and resets what it still has when the listener is closed: so first it must have
        // nothing more.
        if let Err(e) = ignore_newcomers(&listener) {
            tracing::warn!(error = %e, "connections that come just now may be reset");
        }
        self.stage.send_replace(Stage::Stopping);
        tracing::info!("stopping");
        self.accept(&listener, &open, &refusals, sleep(HALF_OPEN)).await;
        let listener = listener.into_std()?;
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            self.take(TcpStream::from_std(stream)?, &open, &refusals);
        }
        drop(listener);
        let all = u32::try_from(self.max_connections).unwrap_or(u32::MAX);
        let ended = async {
            if timeout(FAREWELL, open.acquire_many(all)).await.is_err() {
                self.stage.send_replace(Stage::HangingUp);
                let _ = open.acquire_many(all).await;
            }
        };
        Ok(timeout(self.grace, ended).await.is_ok())
    }

    async fn accept(
        &self,
        listener: &TcpListener,
        open: &Arc<Semaphore>,
        refusals: &Arc<Semaphore>,
        until: impl Future<Output = ()>,
    ) {
        let mut until = std::pin::pin!(until);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.take(stream, open, refusals),
                    Err(e) => {
                        // Out of file descriptors, most likely: others must finish first.
                        tracing::warn!(error = %e, "cannot accept a connection");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                () = &mut until => return,
            }
        }
    }

    /// Serves a connection in a task of its own, if there is room.
    fn take(&self, stream: TcpStream, open: &Arc<Semaphore>, refusals: &Arc<Semaphore>) {
        let Ok(permit) = Arc::clone(open).try_acquire_owned() else {
            self.front.metrics.refused.fetch_add(1, Relaxed);
            if let Ok(permit) = Arc::clone(refusals).try_acquire_owned() {
                let stream = self.patient(stream, Turns::default());
                tokio::spawn(async move {
                    let _ = refuse(stream).await;
                    drop(permit);
                });
            }
            return;
        };
        let front = Arc::clone(&self.front);
        let mut stage = self.stage.subscribe();
        let turns = Turns::default();
        // Answers are written whole: there is nothing to wait for.
        let _ = stream.set_nodelay(true);
        let stream = self.patient(stream, turns.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let _open = front.metrics.connections.enter();
            let answer = service_fn(|request| {
                turns.fetch_add(1, Relaxed);
                async {
                    let response = front.answer(request).await;
                    turns.fetch_add(1, Relaxed);
                    Ok::<_, Infallible>(response)
                }
            });
            let mut http = http1::Builder::new();
            http.max_buf_size(HEAD_LIMIT).max_headers(HEADERS_LIMIT);
            let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), answer));
            let hanging_up = async {
                let _ = stage.wait_for(|stage| *stage == Stage::HangingUp).await;
            };
            let ended = tokio::select! {
                ended = &mut connection => ended,
                // From now on each poll sees that it is time to go.
                () = hanging_up => connection.await,
            };
            if let Err(e) = ended {
                front.broken(&e);
            }
        });
    }

    fn patient(&self, stream: TcpStream, turns: Turns) -> Patient {
        Patient::new(stream, self.limits, self.stage.subscribe(), turns)
    }
}

impl<S> Front<S> {
    /// Counts what hyper has refused by itself, with these answers.
    fn broken(&self, e: &hyper::Error) {
        tracing::debug!(error = %e, "a connection ended");
        if e.is_parse_too_large() {
            self.metrics.unheard(crate::metrics::Route::Other, 431);
        } else if e.is_parse() {
            self.metrics.unheard(crate::metrics::Route::Other, 400);
        }
    }
}

/// Makes the kernel drop the first packet (SYN) of every new connection. Its sender tries again a second later, and is
/// then told that nobody listens: a refusal, on which clients turn elsewhere, and no reset.
fn ignore_newcomers(listener: &TcpListener) -> io::Result<()> {
    // Classic BPF over the TCP header: the flags are its byte 13.
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

async fn refuse(mut stream: Patient) -> io::Result<()> {
    let body = problem_json(StatusCode::SERVICE_UNAVAILABLE, "There are too many connections");
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
