//! Settings: read from the environment, all mistakes reported at once.

/// What the service needs to know to run.
#[derive(Clone)]
pub struct Config {
    /// Redis host (`REDIS_HOST`, default `redis`, as in the original application).
    pub redis_host: String,
    /// Redis port (`REDIS_PORT`).
    pub redis_port: u16,
    /// ACL user (`REDIS_USERNAME`).
    pub username: Option<String>,
    /// Password (`REDIS_PASSWORD` or the content of `REDIS_PASSWORD_FILE`).
    pub password: Option<String>,
    /// Port to listen on (`BIND_PORT`).
    pub bind_port: u16,
}

impl Config {
    /// Reads the settings through `get`; every mistake becomes one message.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        let mut errors = Vec::new();
        let get = |name: &str| get(name).filter(|v| !v.is_empty());
        let mut port = |name: &str, default| match get(name).map(|v| v.parse::<u16>()) {
            None => default,
            Some(Ok(port)) if port > 0 => port,
            Some(_) => {
                errors.push(format!("{name} must be a port from 1 to 65535"));
                default
            }
        };
        let (redis_port, bind_port) = (port("REDIS_PORT", 6379), port("BIND_PORT", 8000));
        let mut password = get("REDIS_PASSWORD");
        if let Some(path) = get("REDIS_PASSWORD_FILE") {
            if password.is_some() {
                errors.push("set REDIS_PASSWORD or REDIS_PASSWORD_FILE, not both".into());
            }
            match std::fs::read_to_string(&path) {
                Ok(text) => password = Some(text.trim_end_matches(['\r', '\n']).into()),
                Err(e) => errors.push(format!("REDIS_PASSWORD_FILE: cannot read {path}: {e}")),
            }
        }
        let username = get("REDIS_USERNAME");
        if username.is_some() && password.is_none() {
            errors.push("REDIS_USERNAME needs a password too".into());
        }
        let redis_host = get("REDIS_HOST").unwrap_or_else(|| "redis".into());
        if errors.is_empty() {
            Ok(Self { redis_host, redis_port, username, password, bind_port })
        } else {
            Err(errors)
        }
    }
}
