//! What the service needs to know to run: made of the settings, with all mistakes reported at once.

use crate::secret::{self, Secret, Source};
use crate::settings::{CONFIG_FILE, Values, host_and_port};
use crate::stream::Limits;
use crate::tls;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// All settings, each of the type that it is used as.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address and port to listen on.
    pub bind: SocketAddr,
    /// How Redis is reached.
    pub redis: Redis,
    /// No request waits longer for Redis.
    pub request_budget: Duration,
    /// How long open requests may take once the service is told to stop.
    pub shutdown_grace: Duration,
    /// What clients are waited for.
    pub limits: Limits,
    /// Connections at a time.
    pub max_connections: usize,
    /// How it logs.
    pub log: Log,
}

/// How it logs.
#[derive(Clone, Debug)]
pub struct Log {
    /// A filter.
    pub filter: String,
    /// Text for people instead of JSON lines.
    pub text: bool,
}

/// How Redis is reached.
#[derive(Clone, Debug)]
pub struct Redis {
    /// Name or address, and port, unless there are Sentinels.
    pub server: (String, u16),
    /// Number of the database.
    pub db: i64,
    /// Key of the counter.
    pub key: String,
    /// ACL user and password.
    pub login: Login,
    /// TLS, with files of its own or without.
    pub tls: Option<TlsFiles>,
    /// Who knows the master.
    pub sentinel: Option<Sentinel>,
}

/// A user, if one is named, and its password.
#[derive(Clone, Debug)]
pub struct Login {
    /// ACL user.
    pub username: Option<String>,
    /// Its password, or that of the default user.
    pub password: Option<Source>,
}

/// Paths of PEM files.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Authorities to trust; none: Mozilla's.
    pub ca: Option<String>,
    /// Certificate chain to show, and its key.
    pub identity: Option<(String, String)>,
}

/// Sentinels, and what they call the master.
#[derive(Clone, Debug)]
pub struct Sentinel {
    /// Name or address, and port, of each.
    pub servers: Vec<(String, u16)>,
    /// The master's name.
    pub master: String,
    /// ACL user and password there.
    pub login: Login,
}

/// What the files and settings hold at the moment: what one connection is made with.
#[derive(Clone, Debug, PartialEq)]
pub struct Credentials {
    /// Password at Redis.
    pub password: Option<Secret>,
    /// Password at the Sentinels.
    pub sentinel_password: Option<Secret>,
    /// Content of the PEM files.
    pub tls: Option<tls::Pem>,
}

impl Config {
    /// Makes it of the file at `path` (or that `CONFIG_FILE` names) and the environment; each mistake is one message.
    pub fn load(
        path: Option<&str>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> (Log, Result<Self, Vec<String>>) {
        let values = values(path, environment);
        let filter = values.text("RUST_LOG").unwrap_or_default();
        let log = Log { filter, text: values.text("LOG_FORMAT").as_deref() == Some("text") };
        (log.clone(), Self::new(values, log))
    }

    fn new(mut values: Values, log: Log) -> Result<Self, Vec<String>> {
        let millis = |name| Duration::from_millis(values.parsed(name).unwrap_or_default());
        let config = Self {
            bind: bind(&values),
            request_budget: millis("REQUEST_BUDGET_MS"),
            shutdown_grace: millis("SHUTDOWN_GRACE_MS"),
            limits: Limits { header: millis("HEADER_TIMEOUT_MS"), idle: millis("IDLE_TIMEOUT_MS") },
            max_connections: values.parsed("MAX_CONNECTIONS").unwrap_or_default(),
            log,
            redis: Redis {
                server: (
                    values.text("REDIS_HOST").unwrap_or_default(),
                    values.parsed("REDIS_PORT").unwrap_or_default(),
                ),
                db: values.parsed("REDIS_DB").unwrap_or_default(),
                key: values.text("REDIS_KEY").unwrap_or_default(),
                login: login(&mut values, "REDIS"),
                tls: tls_files(&mut values),
                sentinel: sentinel(&mut values),
            },
        };
        let mut errors = values.errors;
        if let Err(unusable) = config.redis.credentials() {
            errors.extend(unusable);
        }
        if errors.is_empty() { Ok(config) } else { Err(errors) }
    }
}

/// The address that is listened on: all that a health check needs to know, whatever else may be wrong.
pub fn bind_address(path: Option<&str>, environment: impl Fn(&str) -> Option<String>) -> SocketAddr {
    bind(&values(path, environment))
}

fn bind(values: &Values) -> SocketAddr {
    let address = values.parsed("BIND_ADDRESS").unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    SocketAddr::new(address, values.parsed("BIND_PORT").unwrap_or_default())
}

fn values(path: Option<&str>, environment: impl Fn(&str) -> Option<String>) -> Values {
    let path = path.map(str::to_owned).or_else(|| environment(CONFIG_FILE).filter(|p| !p.is_empty()));
    let text = path.map_or(Ok(String::new()), |path| {
        let bytes = secret::content(&path)?;
        String::from_utf8(bytes).map_err(|_| format!("cannot use {path}: it is not UTF-8"))
    });
    let mut values = Values::read(text.as_deref().unwrap_or_default(), environment);
    if let Err(e) = text {
        values.errors.insert(0, format!("the configuration file: {e}"));
    }
    values
}

/// `PREFIX_USERNAME`, and `PREFIX_PASSWORD` or `PREFIX_PASSWORD_FILE`.
fn login(values: &mut Values, prefix: &str) -> Login {
    let text = |suffix| values.text(&format!("{prefix}_{suffix}"));
    let username = text("USERNAME");
    let (password, file) = (text("PASSWORD"), text("PASSWORD_FILE"));
    if password.is_some() && file.is_some() {
        values.errors.push(format!("set {prefix}_PASSWORD or {prefix}_PASSWORD_FILE, not both"));
    }
    let password = file.map(Source::File).or(password.map(|p| Source::Given(Secret::new(p))));
    if username.is_some() && password.is_none() {
        values
            .errors
            .push(format!("{prefix}_USERNAME needs {prefix}_PASSWORD or {prefix}_PASSWORD_FILE too"));
    }
    Login { username, password }
}

fn tls_files(values: &mut Values) -> Option<TlsFiles> {
    let file = |name| values.text(&format!("REDIS_TLS_{name}_FILE"));
    let (ca, cert, key) = (file("CA"), file("CERT"), file("KEY"));
    if cert.is_some() != key.is_some() {
        values.errors.push("set REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE, or neither".into());
    }
    let on: bool = values.parsed("REDIS_TLS").unwrap_or_default();
    if !on && (ca.is_some() || cert.is_some() || key.is_some()) {
        values.errors.push("files for TLS are set (REDIS_TLS_…_FILE), so set REDIS_TLS to true too".into());
    }
    on.then(|| TlsFiles { ca, identity: cert.zip(key) })
}

fn sentinel(values: &mut Values) -> Option<Sentinel> {
    let servers = values.text("REDIS_SENTINELS");
    let master = values.text("REDIS_SENTINEL_MASTER");
    if servers.is_some() != master.is_some() {
        values.errors.push("set REDIS_SENTINELS and REDIS_SENTINEL_MASTER, or neither".into());
    }
    let login = login(values, "REDIS_SENTINEL");
    let (servers, master) = servers.zip(master)?;
    Some(Sentinel { servers: servers.split(',').filter_map(host_and_port).collect(), master, login })
}

impl Redis {
    /// Reads the files; each that can't be used is one message.
    pub fn credentials(&self) -> Result<Credentials, Vec<String>> {
        let mut errors = Vec::new();
        let mut noted = |name: &str, e: String| errors.push(format!("{name}: {e}"));
        let mut password = |login: &Login, name: &str| {
            let read = login.password.as_ref()?.read();
            read.map_err(|e| noted(name, e)).ok()
        };
        let redis = password(&self.login, "REDIS_PASSWORD_FILE");
        let at_sentinels =
            self.sentinel.as_ref().and_then(|s| password(&s.login, "REDIS_SENTINEL_PASSWORD_FILE"));
        let tls = self.tls.as_ref().map(|files| {
            let mut file = |path: &str, name: &str| {
                secret::content(path).map_err(|e| noted(&format!("REDIS_TLS_{name}_FILE"), e)).ok()
            };
            let ca = files.ca.as_ref().and_then(|path| file(path, "CA"));
            let identity =
                files.identity.as_ref().and_then(|(cert, key)| file(cert, "CERT").zip(file(key, "KEY")));
            tls::Pem { ca, identity }
        });
        if errors.is_empty()
            && let Some(Err(e)) = tls.as_ref().map(tls::client)
        {
            errors.push(e);
        }
        let credentials = Credentials { password: redis, sentinel_password: at_sentinels, tls };
        if errors.is_empty() { Ok(credentials) } else { Err(errors) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(settings: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let get = |name: &str| settings.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Config::load(None, get).1
    }

    #[test]
    fn nothing_set_is_the_original_applications_settings() {
        let config = load(&[("REDIS_PASSWORD", ""), ("BIND_PORT", "")]).expect("defaults");
        assert_eq!(config.redis.server, ("redis".to_owned(), 6379));
        assert_eq!(config.bind.to_string(), "0.0.0.0:8000");
        assert_eq!((config.redis.login.password, config.redis.key.as_str()), (None, "hits"));
        assert_eq!((config.log.filter.as_str(), config.log.text), ("info", false));
        assert_eq!((config.max_connections, config.request_budget.as_millis()), (1024, 2000));
    }

    #[test]
    fn settings_that_need_each_other_are_said_together() {
        let errors = load(&[
            ("REDIS_USERNAME", "x"),
            ("REDIS_TLS_CERT_FILE", "/cert"),
            ("REDIS_SENTINELS", "a:1"),
            ("REDIS_SENTINEL_PASSWORD", "p"),
            ("REDIS_SENTINEL_PASSWORD_FILE", "/p"),
            (CONFIG_FILE, "/nowhere.toml"),
            ("BIND_PORT", "0"),
        ]);
        assert_eq!(
            errors.expect_err("refused").join("\n"),
            "the configuration file: cannot read /nowhere.toml: No such file or directory (os error 2)\n\
             BIND_PORT must be a number from 1 to 65535, not \"0\"\n\
             REDIS_USERNAME needs REDIS_PASSWORD or REDIS_PASSWORD_FILE too\n\
             set REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE, or neither\n\
             files for TLS are set (REDIS_TLS_…_FILE), so set REDIS_TLS to true too\n\
             set REDIS_SENTINELS and REDIS_SENTINEL_MASTER, or neither\n\
             set REDIS_SENTINEL_PASSWORD or REDIS_SENTINEL_PASSWORD_FILE, not both"
        );
    }

    #[test]
    fn files_that_cannot_be_used_are_all_named() {
        let errors = load(&[
            ("REDIS_PASSWORD_FILE", "/no/password"),
            ("REDIS_TLS", "true"),
            ("REDIS_TLS_CA_FILE", "/no/ca"),
            ("REDIS_TLS_CERT_FILE", "/no/cert"),
            ("REDIS_TLS_KEY_FILE", "/no/key"),
        ]);
        let said = errors.expect_err("refused").join("\n");
        for (name, path) in
            [("PASSWORD", "password"), ("TLS_CA", "ca"), ("TLS_CERT", "cert"), ("TLS_KEY", "key")]
        {
            assert!(
                said.contains(&format!("REDIS_{name}_FILE: cannot read /no/{path}: No such file")),
                "{said}"
            );
        }
        let ca = [
            ("REDIS_TLS", "true"),
            ("REDIS_TLS_CA_FILE", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
        ];
        let said = load(&ca).expect_err("refused").join("\n");
        assert_eq!(said, "REDIS_TLS_CA_FILE: it holds no certificate in PEM format");
    }

    #[test]
    fn no_password_is_shown() {
        let config = load(&[
            ("REDIS_PASSWORD", "hunter2"),
            ("REDIS_SENTINELS", "a:1"),
            ("REDIS_SENTINEL_MASTER", "m"),
            ("REDIS_SENTINEL_PASSWORD", "hunter2"),
        ]);
        let config = config.expect("settings");
        let shown = format!("{config:?} {:?}", config.redis.credentials());
        assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
    }
}
