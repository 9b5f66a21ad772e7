//! The counter in Redis.
use crate::config::Config;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{IntoConnectionInfo, RedisError, RedisResult};
use std::time::Duration;

/// No request waits longer for Redis.
const BUDGET: Duration = Duration::from_secs(2);
const PING_BUDGET: Duration = Duration::from_millis(800);

/// One multiplexed connection, opened when it is first needed.
#[derive(Clone)]
pub struct Store(ConnectionManager);

fn late() -> RedisError {
    RedisError::from((redis::ErrorKind::Io, "no answer in time"))
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
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(1)));
        Ok(Self(ConnectionManager::new_lazy_with_config(redis::Client::open(info)?, config)?))
    }

    /// Counts one hit. Never repeated on error: the `INCR` may have been carried out.
    pub async fn hit(&self) -> RedisResult<u64> {
        let mut link = self.0.clone();
        let cmd = redis::cmd("INCR").arg("hits").to_owned();
        tokio::time::timeout(BUDGET, cmd.query_async(&mut link)).await.map_err(|_| late())?
    }

    /// Whether Redis answers.
    pub async fn ping(&self) -> RedisResult<()> {
        let mut link = self.0.clone();
        let cmd = redis::cmd("PING");
        tokio::time::timeout(PING_BUDGET, cmd.query_async::<String>(&mut link))
            .await
            .map_err(|_| late())?
            .map(|_| ())
    }
}
