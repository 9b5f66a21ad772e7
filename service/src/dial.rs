//! One attempt to connect: who is the master, TCP, TLS, login, and whether it is a master indeed.

use crate::config::{Credentials, Login, Redis};
use crate::link::Trouble;
use crate::metrics::Fault;
use crate::secret::Secret;
use crate::tls;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisResult, Value};
use rustls::ClientConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A Sentinel that does not answer by then is passed over.
const SENTINEL_LIMIT: Duration = Duration::from_millis(300);
/// Commands that may wait to be written; a request beyond them waits, within its budget.
const QUEUE: usize = 1024;
/// How long a connection that was replaced may live on for answers that are still to come.
const RETIREMENT: Duration = Duration::from_secs(60);

/// A connection that answers.
pub struct Connection {
    /// For sending commands.
    pub redis: MultiplexedConnection,
    /// Reads and writes; ends with the connection.
    pub driver: JoinHandle<()>,
    /// What it was made with.
    pub credentials: Credentials,
    /// Where it leads.
    pub server: String,
}

impl Connection {
    /// Gives it up. It ends with its last request, and in any case: what a peer that reads nothing holds is set free.
    pub fn retire(self) {
        let Self { redis, driver, .. } = self;
        drop(redis);
        // It may have ended, and been seen to, already.
        if !driver.is_finished() {
            tokio::spawn(async move {
                let end = driver.abort_handle();
                if timeout(RETIREMENT, driver).await.is_err() {
                    end.abort();
                }
            });
        }
    }
}

/// What the files hold now.
pub async fn credentials(redis: Arc<Redis>) -> Result<Credentials, Trouble> {
    // A file system that hangs must not hold up requests.
    let read = tokio::task::spawn_blocking(move || redis.credentials()).await;
    let errors = |errors: Vec<String>| Trouble::new(Fault::Io, errors.join("; "));
    read.map_err(|e| Trouble::new(Fault::Io, e))?.map_err(errors)
}

/// Connects; of several Sentinels, `turn` says who is asked first.
pub async fn connect(redis: &Redis, credentials: Credentials, turn: usize) -> Result<Connection, Trouble> {
    let pem = credentials.tls.as_ref();
    let tls = pem.map(tls::client).transpose().map_err(|e| Trouble::new(Fault::Tls, e))?;
    let server = match &redis.sentinel {
        None => redis.server.clone(),
        Some(_) => master(redis, &credentials, tls.clone(), turn).await?,
    };
    let (mut connection, driver) =
        open(&server, tls, &redis.login, credentials.password.as_ref(), redis.db).await?;
    let server = format!("{}:{}", server.0, server.1);
    redis::cmd("PING").query_async::<()>(&mut connection).await?;
    match redis::cmd("ROLE").query_async::<Vec<Value>>(&mut connection).await {
        Ok(role) if role.first() == Some(&Value::BulkString(b"slave".to_vec())) => {
            Err(Trouble::new(Fault::Readonly, format!("{server} is a replica, which can't count")))
        }
        Ok(_) => Ok(()),
        // The user need not be allowed to ask.
        Err(e) if e.code() == Some("NOPERM") => Ok(()),
        Err(e) => Err(e.into()),
    }?;
    Ok(Connection { redis: connection, driver, credentials, server })
}

/// Asks one Sentinel after the other for the master's address.
async fn master(
    redis: &Redis,
    credentials: &Credentials,
    tls: Option<Arc<ClientConfig>>,
    turn: usize,
) -> Result<(String, u16), Trouble> {
    let mut trouble = Trouble::new(Fault::Io, "no Sentinel is set");
    let Some(sentinel) = &redis.sentinel else { return Err(trouble) };
    let servers = sentinel.servers.iter().cycle().skip(turn % sentinel.servers.len().max(1));
    for server in servers.take(sentinel.servers.len()) {
        let ask = async {
            let password = credentials.sentinel_password.as_ref();
            let (mut connection, driver) = open(server, tls.clone(), &sentinel.login, password, 0).await?;
            let mut ask = redis::cmd("SENTINEL");
            ask.arg("GET-MASTER-ADDR-BY-NAME").arg(&sentinel.master);
            let answer = ask.query_async::<Option<(String, u16)>>(&mut connection).await;
            driver.abort();
            let unknown = || Trouble::new(Fault::Server, format!("it knows no master {:?}", sentinel.master));
            answer?.ok_or_else(unknown)
        };
        match timeout(SENTINEL_LIMIT, ask).await {
            Ok(Ok(master)) => return Ok(master),
            Ok(Err(e)) => {
                trouble = Trouble::new(e.fault, format!("Sentinel {}:{}: {e}", server.0, server.1));
            }
            Err(_) => {
                let text = format!("Sentinel {}:{}: no answer in time", server.0, server.1);
                trouble = Trouble::new(Fault::Timeout, text);
            }
        }
    }
    Err(trouble)
}

type Opened = (MultiplexedConnection, JoinHandle<()>);

async fn open(
    (host, port): &(String, u16),
    tls: Option<Arc<ClientConfig>>,
    login: &Login,
    password: Option<&Secret>,
    db: i64,
) -> Result<Opened, Trouble> {
    let failed = |fault| move |e: std::io::Error| Trouble::new(fault, format!("{host}:{port}: {e}"));
    let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed(Fault::Io))?;
    stream.set_nodelay(true).map_err(failed(Fault::Io))?;
    let mut info = RedisConnectionInfo::default().set_db(db);
    if let Some(username) = &login.username {
        info = info.set_username(username);
    }
    if let Some(password) = password {
        info = info.set_password(password.reveal());
    }
    let spoken = match tls {
        None => speak(stream, &info).await,
        Some(config) => {
            let stream = tls::connect(config, host, stream).await.map_err(failed(Fault::Tls))?;
            speak(stream, &info).await
        }
    };
    spoken.map_err(|e| {
        let trouble = Trouble::from(e);
        Trouble::new(trouble.fault, format!("{host}:{port}: {trouble}"))
    })
}

async fn speak<S>(stream: S, info: &RedisConnectionInfo) -> RedisResult<Opened>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // No time limit of its own: whoever sends a command brings one.
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(QUEUE);
    let (connection, driver) = MultiplexedConnection::new_with_config(info, stream, config).await?;
    Ok((connection, tokio::spawn(driver)))
}
