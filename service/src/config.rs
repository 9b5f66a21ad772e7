//! Settings: read from the environment, all mistakes reported at once.

use std::fs::File;
use std::io::Read;
use tracing_subscriber::EnvFilter;

/// The port to listen on when `BIND_PORT` is not set.
const BIND_PORT: u16 = 8000;
/// No password is longer; a wrong path (a log, a device) must not fill the memory.
const PASSWORD_LIMIT: u64 = 64 * 1024;

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
    /// What is logged (`RUST_LOG`, default `info`), checked to be a filter.
    pub log: String,
}

impl Config {
    /// Reads the settings through `get`; every mistake becomes one message.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        let get = |name: &str| get(name).filter(|v| !v.is_empty());
        let mut errors = Vec::new();
        let mut noted = |result: Result<u16, String>| result.map_err(|e| errors.push(e)).unwrap_or_default();
        let redis_port = noted(port(get, "REDIS_PORT", 6379));
        let bind_port = noted(bind_port(get));
        let log = get("RUST_LOG").unwrap_or_else(|| "info".into());
        if let Err(e) = EnvFilter::try_new(&log) {
            errors.push(format!("RUST_LOG must be a filter such as `info` or `service=debug`: {e}"));
        }
        let mut password = get("REDIS_PASSWORD");
        if let Some(path) = get("REDIS_PASSWORD_FILE") {
            if password.is_some() {
                errors.push("set REDIS_PASSWORD or REDIS_PASSWORD_FILE, not both".into());
            }
            match password_in(&path) {
                Ok(text) => password = Some(text),
                Err(e) => errors.push(format!("REDIS_PASSWORD_FILE: cannot use {path}: {e}")),
            }
        }
        let username = get("REDIS_USERNAME");
        if username.is_some() && password.is_none() {
            errors.push("REDIS_USERNAME needs a password too".into());
        }
        let redis_host = get("REDIS_HOST").unwrap_or_else(|| "redis".into());
        if errors.is_empty() {
            Ok(Self { redis_host, redis_port, username, password, bind_port, log })
        } else {
            Err(errors)
        }
    }
}

/// The port to listen on: all that a health check needs to know.
pub fn bind_port(get: impl Fn(&str) -> Option<String>) -> Result<u16, String> {
    port(get, "BIND_PORT", BIND_PORT)
}

fn port(get: impl Fn(&str) -> Option<String>, name: &str, default: u16) -> Result<u16, String> {
    match get(name).filter(|v| !v.is_empty()).map(|v| v.parse::<u16>()) {
        None => Ok(default),
        Some(Ok(port)) if port > 0 => Ok(port),
        Some(_) => Err(format!("{name} must be a port from 1 to 65535")),
    }
}

/// The text of a password file without the line end that editors add.
fn password_in(path: &str) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|f| f.take(PASSWORD_LIMIT + 1).read_to_string(&mut text));
    let read = read.map_err(|e| e.to_string())?;
    if read as u64 > PASSWORD_LIMIT {
        return Err(format!("it is longer than {PASSWORD_LIMIT} bytes"));
    }
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err("it is empty".into()),
        password => Ok(password.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        Config::read(|name| settings.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    fn errors(settings: &[(&str, &str)]) -> String {
        read(settings).err().expect("refused").join("; ")
    }

    #[test]
    fn nothing_set_is_the_original_applications_settings() {
        let config = read(&[("REDIS_PASSWORD", ""), ("BIND_PORT", "")]).expect("defaults");
        assert_eq!((config.redis_host.as_str(), config.redis_port, config.bind_port), ("redis", 6379, 8000));
        assert_eq!((config.username, config.password, config.log.as_str()), (None, None, "info"));
    }

    #[test]
    fn a_password_file_loses_its_line_end_only() {
        let file = std::env::temp_dir().join(format!("service-password-{}", std::process::id()));
        std::fs::write(&file, " secret \r\n").expect("written");
        let path = file.to_str().expect("a path");
        let config = read(&[("REDIS_PASSWORD_FILE", path)]).expect("settings");
        assert_eq!(config.password.as_deref(), Some(" secret "));
        assert!(errors(&[("REDIS_PASSWORD_FILE", path), ("REDIS_PASSWORD", "x")]).contains("not both"));
        std::fs::write(&file, "\n").expect("written");
        assert!(errors(&[("REDIS_PASSWORD_FILE", path)]).contains("it is empty"));
        std::fs::remove_file(&file).expect("removed");
        assert!(errors(&[("REDIS_PASSWORD_FILE", path)]).contains("No such file"));
        assert!(errors(&[("REDIS_PASSWORD_FILE", "/dev/zero")]).contains("longer than"));
    }

    #[test]
    fn every_mistake_is_named() {
        let said = errors(&[
            ("BIND_PORT", "0"),
            ("REDIS_PORT", "65536"),
            ("RUST_LOG", "service=loud"),
            ("REDIS_USERNAME", "x"),
        ]);
        for name in ["BIND_PORT", "REDIS_PORT", "RUST_LOG", "REDIS_USERNAME"] {
            assert!(said.contains(name), "{name} in {said}");
        }
    }
}
