//! The counter in Redis.
//!
//! A command is sent once. When its answer is lost nobody knows whether the `INCR` was carried out, and sending it
//! again could count one hit twice; so the caller is told that there is no count, and the next request goes over a
//! new connection. The redis crate never sends a command again by itself: neither its multiplexed connection nor its
//! `ConnectionManager` does (1.8.1, read in the source). The manager is not used because it keeps some failures for
//! good: a refused password and a full server stay, as does a connection that hangs, until the process is restarted.

use crate::config::Config;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError,
    RedisResult,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

/// No request waits longer for Redis.
const HIT_BUDGET: Duration = Duration::from_secs(2);
/// Shorter than a second, so that readiness follows Redis within it.
const PING_BUDGET: Duration = Duration::from_millis(800);
/// Shorter than both, so that an attempt ends by itself and is not cut off by its caller's budget.
const CONNECT_BUDGET: Duration = Duration::from_millis(700);

/// One multiplexed connection for all requests, made when it is needed and replaced when it fails.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    client: Client,
    link: Mutex<Option<Arc<MultiplexedConnection>>>,
}

impl Store {
    /// Prepares the connection; Redis need not be there.
    pub fn new(c: &Config) -> RedisResult<Self> {
        let mut settings = redis::RedisConnectionInfo::default();
        if let Some(user) = &c.username {
            settings = settings.set_username(user);
        }
        if let Some(password) = &c.password {
            settings = settings.set_password(password);
        }
        let info = (c.redis_host.as_str(), c.redis_port).into_connection_info()?.set_redis_settings(settings);
        Ok(Self(Arc::new(Inner { client: Client::open(info)?, link: Mutex::default() })))
    }

    /// Counts one hit and gives the number of hits so far.
    pub async fn hit(&self) -> RedisResult<u64> {
        self.ask(redis::cmd("INCR").arg("hits"), HIT_BUDGET).await
    }

    /// Whether Redis answers.
    pub async fn ping(&self) -> RedisResult<()> {
        self.ask(&redis::cmd("PING"), PING_BUDGET).await
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd, budget: Duration) -> RedisResult<T> {
        let end = Instant::now() + budget;
        let link = timeout_at(end, self.link()).await.unwrap_or_else(|_| Err(late()))?;
        let answer = timeout_at(end, command.query_async(&mut link.as_ref().clone())).await;
        let answer = answer.unwrap_or_else(|_| Err(late()));
        // With a code it is the server's own refusal (OOM, WRONGTYPE): the connection is as good as before.
        if answer.as_ref().is_err_and(|e: &RedisError| e.code().is_none()) {
            self.forget(&link).await;
        }
        answer
    }

    async fn link(&self) -> RedisResult<Arc<MultiplexedConnection>> {
        let mut slot = self.0.link.lock().await;
        if let Some(link) = &*slot {
            return Ok(link.clone());
        }
        // No response timeout: each command brings its own budget.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_BUDGET))
            .set_response_timeout(None);
        let link = Arc::new(self.0.client.get_multiplexed_async_connection_with_config(&config).await?);
        *slot = Some(link.clone());
        Ok(link)
    }

    /// Drops `failed`, unless another request has replaced it already.
    async fn forget(&self, failed: &Arc<MultiplexedConnection>) {
        let mut slot = self.0.link.lock().await;
        if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, failed)) {
            *slot = None;
        }
    }
}

fn late() -> RedisError {
    (ErrorKind::Io, "no answer in time").into()
}
