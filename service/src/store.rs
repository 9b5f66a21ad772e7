//! The counter in Redis.
//!
//! A command is sent once. When its answer is lost nobody knows whether the `INCR` was carried out, and sending it
//! again could count one hit twice; so the caller is told that there is no count. The redis crate never sends a command
//! again by itself: neither its multiplexed connection nor its `ConnectionManager` does (1.8.1, read in the source).
//! The manager is not used because it keeps some failures for good: a refused password and a full server stay, as does
//! a connection that hangs, until the process is restarted.

use crate::link::{Link, Trouble};
use crate::metrics::{Command, Fault, Metrics};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Counts over one link.
pub struct Store {
    link: Link,
    incr: redis::Cmd,
    budget: Duration,
    metrics: Arc<Metrics>,
}

impl Store {
    /// Counts in `key`; no hit takes longer than `budget`.
    pub fn new(link: Link, key: &str, budget: Duration, metrics: Arc<Metrics>) -> Self {
        let mut incr = redis::cmd("INCR");
        incr.arg(key);
        Self { link, incr, budget, metrics }
    }

    /// Counts one hit and gives the number of hits so far.
    pub async fn hit(&self) -> Result<u64, Trouble> {
        let late = |_| Err(Trouble::new(Fault::Timeout, "Redis did not answer an INCR in time"));
        let outcome = timeout(self.budget, self.sent_once()).await.unwrap_or_else(late);
        if let Err(trouble) = &outcome {
            self.metrics.redis_error(Command::Incr, trouble.fault);
        }
        outcome
    }

    async fn sent_once(&self) -> Result<u64, Trouble> {
        let (mut connection, number) = self.link.connection().await?;
        let sent = Instant::now();
        let answer = self.incr.query_async(&mut connection).await;
        if answer.is_ok() {
            self.metrics.round_trip(Command::Incr, sent.elapsed());
        }
        answer.map_err(|e: redis::RedisError| {
            // Other refusals (OOM, WRONGTYPE, NOPERM) would be the same on a new connection.
            if matches!(e.code(), Some("READONLY" | "NOAUTH")) {
                self.link.distrust(number);
            }
            e.into()
        })
    }

    /// Whether Redis answers.
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }
}
