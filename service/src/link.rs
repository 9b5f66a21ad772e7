//! The one connection to Redis, kept up by a task of its own: made, tried with `PING` four times a second, and replaced
//! when it fails, when Redis turns out to be a replica, or when a password or certificate file changes. Requests and
//! readiness look at what the task says and never wait for a connection that is known to be away.

use crate::config::{Credentials, Redis};
use crate::dial::{self, Connection};
use crate::metrics::{Command, Fault, Metrics};
use crate::trace;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep, timeout};

/// Pause between two `PING`s.
const PING_EVERY: Duration = Duration::from_millis(250);
/// Longest wait for the answer. With the pause, less than a second: so long may readiness be behind.
const PING_LIMIT: Duration = Duration::from_millis(500);
/// How long one attempt to connect may take. The next is begun much earlier, see [`HEDGE`].
const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);
/// An attempt that has not ended by then is joined by another, so that one that hangs for good does not hide that
/// Redis is back.
const HEDGE: Duration = Duration::from_millis(400);
/// Pauses between failed attempts grow from the first to the second, and are shortened by up to half by chance.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(25), HEDGE);
/// A connection that lived so long was a good one: its successor is not held back.
const LIVED: Duration = Duration::from_secs(1);
/// How often the files of passwords and certificates are read.
const FILES_EVERY: Duration = Duration::from_secs(1);

/// Why Redis gave no answer that is of use.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    /// For the metrics.
    pub fault: Fault,
    /// For a person.
    pub text: String,
}

impl Trouble {
    /// Names what is the matter.
    pub fn new(fault: Fault, text: impl fmt::Display) -> Self {
        Self { fault, text: text.to_string() }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<redis::RedisError> for Trouble {
    fn from(e: redis::RedisError) -> Self {
        let fault = match e.code() {
            // The crate's own word for a refused AUTH; Redis' is left out of it.
            _ if e.kind() == redis::ErrorKind::AuthenticationFailed => {
                return Self::new(Fault::Auth, "user or password are not accepted");
            }
            Some("NOAUTH" | "NOPERM") => Fault::Auth,
            Some("READONLY") => Fault::Readonly,
            Some(_) => Fault::Server,
            None => Fault::Io,
        };
        Self::new(fault, e)
    }
}

/// How things stand.
#[derive(Clone)]
enum State {
    /// At the start, and when a good connection was lost: this is decided in a moment.
    Trying,
    /// There is one; the number tells it from those before.
    Up(MultiplexedConnection, u64),
    /// There is none.
    Down,
}

/// What requests see of the connection.
#[derive(Clone)]
pub struct Link {
    state: watch::Receiver<State>,
    distrusted: Arc<watch::Sender<u64>>,
}

impl Link {
    /// Starts the task that keeps it up for as long as the process lives.
    pub fn start(redis: Arc<Redis>, metrics: Arc<Metrics>) -> Self {
        let (sender, state) = watch::channel(State::Trying);
        let (distrusted, doubts) = watch::channel(0);
        let keeper = Keeper { redis, metrics, state: sender, doubts, made: 0, pause: BACK_OFF.0, said: None };
        tokio::spawn(keeper.keep());
        Self { state, distrusted: Arc::new(distrusted) }
    }

    /// Whether Redis answers, as of less than a second ago.
    pub fn is_up(&self) -> bool {
        matches!(&*self.state.borrow(), State::Up(..))
    }

    /// The connection and its number; waits only while one is being made for the first time after it was needed.
    pub async fn connection(&self) -> Result<(MultiplexedConnection, u64), Trouble> {
        if let State::Up(connection, number) = &*self.state.borrow() {
            return Ok((connection.clone(), *number));
        }
        let mut state = self.state.clone();
        match state.wait_for(|state| !matches!(state, State::Trying)).await.as_deref() {
            Ok(State::Up(connection, number)) => Ok((connection.clone(), *number)),
            _ => Err(Trouble::new(Fault::Down, "there is no connection to Redis")),
        }
    }

    /// Says that connection `number` leads to a server that can't be used, although it answers.
    pub fn distrust(&self, number: u64) {
        self.distrusted.send_if_modified(|highest| {
            let newer = number > *highest;
            *highest = number.max(*highest);
            newer
        });
    }
}

struct Keeper {
    redis: Arc<Redis>,
    metrics: Arc<Metrics>,
    state: watch::Sender<State>,
    doubts: watch::Receiver<u64>,
    made: u64,
    pause: Duration,
    /// What was last said to be the matter: said once, not at every attempt.
    said: Option<String>,
}

impl Keeper {
    async fn keep(mut self) {
        loop {
            let mut current = self.connect().await;
            let since = Instant::now();
            let trouble = loop {
                self.announce(&current);
                tokio::select! {
                    _ = &mut current.driver => {
                        break Trouble::new(Fault::Io, "Redis has closed the connection");
                    }
                    trouble = self.ping(current.redis.clone()) => break trouble,
                    trouble = doubted(self.doubts.clone(), self.made) => break trouble,
                    renewed = self.renewed(current.credentials.clone()) => {
                        tracing::info!("password or certificates have changed: connected anew");
                        // The old one lives on for as long as requests wait for its answers.
                        current.retire();
                        current = renewed;
                    }
                }
            };
            self.metrics.redis_up.store(0, Relaxed);
            self.state.send_replace(State::Trying);
            current.retire();
            self.complain(&trouble);
            if since.elapsed() < LIVED {
                self.rest().await;
            } else {
                self.pause = BACK_OFF.0;
            }
        }
    }

    fn announce(&mut self, connection: &Connection) {
        self.made += 1;
        self.said = None;
        self.metrics.redis_connects.fetch_add(1, Relaxed);
        self.metrics.redis_up.store(1, Relaxed);
        self.state.send_replace(State::Up(connection.redis.clone(), self.made));
        tracing::info!(server = connection.server, "connected to redis");
    }

    /// A connection, however long it takes.
    async fn connect(&mut self) -> Connection {
        let mut attempts = FuturesUnordered::new();
        let mut turn = 0;
        loop {
            turn += 1;
            attempts.push(attempt(self.redis.clone(), turn));
            let ended = timeout(HEDGE, attempts.next()).await;
            let trouble = match ended {
                Ok(Some(Ok(connection))) => return connection,
                Ok(Some(Err(trouble))) => Some(trouble),
                Ok(None) | Err(_) => None,
            };
            // Requests wait for the first attempt only.
            self.state.send_replace(State::Down);
            match trouble {
                Some(trouble) => {
                    self.metrics.redis_error(Command::Connect, trouble.fault);
                    self.complain(&trouble);
                    self.rest().await;
                }
                None => self.complain(&Trouble::new(Fault::Timeout, "connecting to Redis takes long")),
            }
        }
    }

    /// Ends when Redis does not answer as it should.
    async fn ping(&self, mut connection: MultiplexedConnection) -> Trouble {
        let ping = redis::cmd("PING");
        loop {
            sleep(PING_EVERY).await;
            let sent = Instant::now();
            let trouble = match timeout(PING_LIMIT, ping.query_async::<()>(&mut connection)).await {
                Ok(Ok(())) => {
                    self.metrics.round_trip(Command::Ping, sent.elapsed());
                    continue;
                }
                Ok(Err(e)) => e.into(),
                Err(_) => Trouble::new(Fault::Timeout, "Redis did not answer a PING in time"),
            };
            self.metrics.redis_error(Command::Ping, trouble.fault);
            return trouble;
        }
    }

    /// Ends with another connection when the files have changed and what they hold is accepted. Until then the
    /// present one, which Redis still takes, is kept.
    async fn renewed(&self, present: Credentials) -> Connection {
        let (mut said, mut turn) = (None, 0);
        loop {
            turn += 1;
            sleep(FILES_EVERY).await;
            let trouble = match dial::credentials(self.redis.clone()).await {
                Ok(same) if same == present => continue,
                Ok(changed) => match limited(dial::connect(&self.redis, changed, turn)).await {
                    Ok(connection) => return connection,
                    Err(trouble) => trouble,
                },
                Err(trouble) => trouble,
            };
            self.metrics.redis_error(Command::Connect, trouble.fault);
            if said.as_ref() != Some(&trouble) {
                tracing::warn!(error = %trouble, "changed password or certificates can't be used (yet)");
                said = Some(trouble);
            }
        }
    }

    fn complain(&mut self, trouble: &Trouble) {
        if self.said.as_ref() != Some(&trouble.text) {
            tracing::warn!(error = %trouble, "redis can't be used");
            self.said = Some(trouble.text.clone());
        }
    }

    async fn rest(&mut self) {
        let percent = 50 + u32::try_from(trace::random() % 51).unwrap_or_default();
        sleep(self.pause * percent / 100).await;
        self.pause = (self.pause * 2).min(BACK_OFF.1);
    }
}

async fn attempt(redis: Arc<Redis>, turn: usize) -> Result<Connection, Trouble> {
    let credentials = dial::credentials(redis.clone()).await?;
    limited(dial::connect(&redis, credentials, turn)).await
}

async fn limited(
    connecting: impl Future<Output = Result<Connection, Trouble>>,
) -> Result<Connection, Trouble> {
    let late = || Trouble::new(Fault::Timeout, "connecting to Redis took too long");
    timeout(ATTEMPT_LIMIT, connecting).await.unwrap_or_else(|_| Err(late()))
}

/// Ends when a request says that connection `number` is of no use.
async fn doubted(mut doubts: watch::Receiver<u64>, number: u64) -> Trouble {
    if doubts.wait_for(|doubted| *doubted >= number).await.is_err() {
        // Nobody is left who could.
        std::future::pending::<()>().await;
    }
    Trouble::new(Fault::Readonly, "Redis refuses to count: it is a replica, or wants another login")
}
