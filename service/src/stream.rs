//! A client's connection that ends by itself when the client takes too long: to send a request's head, to ask again, or
//! to read an answer. hyper knows a limit for the head alone.

use crate::http::Stage;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

/// After the last answer, what the client still sends is read for so long, and so much of it: closing at once would
/// reset the connection, and the client might lose the answer.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 256 * 1024);

/// What a client is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A request's head, and the reading of each part of an answer.
    pub header: Duration,
    /// The next request.
    pub idle: Duration,
}

/// Counts the beginnings and ends of answers: while it is odd, one is being made.
pub type Turns = Arc<AtomicU32>;

/// The connection.
pub struct Patient {
    stream: TcpStream,
    limits: Limits,
    stage: watch::Receiver<Stage>,
    turns: Turns,
    /// Turns as of the last look: when they differ, a new wait begins.
    seen: u32,
    /// Since when there is a wait for a request, and whether a part of it has come.
    waiting: (Instant, bool),
    /// Since when the client reads nothing.
    blocked: Option<Instant>,
    lingering: Option<(Instant, usize)>,
    /// Fires at the earliest of the moments that were of interest lately, or before: it is then set anew. So a request
    /// that is quick does not touch it.
    timer: Pin<Box<Sleep>>,
}

impl Patient {
    /// Gives `stream` limits; `turns` is kept by whoever answers.
    pub fn new(stream: TcpStream, limits: Limits, stage: watch::Receiver<Stage>, turns: Turns) -> Self {
        let now = Instant::now();
        Self {
            stream,
            limits,
            stage,
            turns,
            seen: 0,
            waiting: (now, false),
            blocked: None,
            lingering: None,
            timer: Box::pin(sleep_until(now + limits.header)),
        }
    }

    /// Whether `end` has come; if not, the task is woken then.
    fn over(&mut self, end: Instant, cx: &mut Context<'_>) -> bool {
        loop {
            if Instant::now() >= end {
                return true;
            }
            if self.timer.is_elapsed() || self.timer.deadline() > end {
                self.timer.as_mut().reset(end);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return false;
            }
        }
    }

    /// The end of the wait for a request; `None` while one is being answered.
    fn patience(&mut self) -> Option<Instant> {
        let turns = self.turns.load(Relaxed);
        if turns % 2 == 1 {
            return None;
        }
        if turns != self.seen {
            self.seen = turns;
            self.waiting = (Instant::now(), false);
        }
        let (since, begun) = self.waiting;
        Some(match (begun, *self.stage.borrow()) {
            (false, Stage::HangingUp) => since,
            // The first request is not far behind its connection.
            (false, _) if self.seen > 0 => since + self.limits.idle,
            _ => since + self.limits.header,
        })
    }

    fn written<T>(&mut self, result: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.blocked = None;
            return result;
        }
        let since = *self.blocked.get_or_insert_with(Instant::now);
        if self.over(since + self.limits.header, cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let Some(end) = this.patience() else { return read };
        if read.is_ready() {
            if !this.waiting.1 {
                this.waiting = (Instant::now(), true);
            }
            return read;
        }
        // Nothing read is the end of the stream.
        if this.over(end, cx) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        // The wait for the next request begins with the end of an answer, and hyper does not try to read then if it
        // has tried before.
        if result.is_ready()
            && let Some(end) = self.patience()
        {
            self.over(end, cx);
        }
        self.written(result, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let (end, mut room) = match this.lingering {
            Some(lingering) => lingering,
            None => {
                ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                (Instant::now() + LINGER.0, LINGER.1)
            }
        };
        let mut space = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut space);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buffer) {
                Poll::Pending if this.over(end, cx) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    this.lingering = Some((end, room));
                    return Poll::Pending;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => match buffer.filled().len() {
                    0 => return Poll::Ready(Ok(())),
                    n if n >= room => return Poll::Ready(Ok(())),
                    n => room -= n,
                },
            }
        }
    }
}
