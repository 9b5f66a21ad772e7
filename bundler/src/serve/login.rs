//! Who may: users of an htpasswd file, by HTTP's basic authentication (RFC 7617).

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Semaphore;
use warp::http::{Method, Response, StatusCode};

use super::request::Request;
use super::response::{Body, Refusal, set};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::file;

/// Users, and what they need not log in for.
pub struct Logins {
    /// Hashes of passwords, by user.
    users: HashMap<String, String>,
    anonymous_pull: bool,
    /// Digests of what was right before: bcrypt takes a tenth of a second, and clients say it with every request.
    known: Mutex<HashSet<Digest>>,
    /// Whoever guesses passwords takes one core at most.
    turn: Semaphore,
}

impl Logins {
    /// Reads an htpasswd file; with `anonymous_pull`, requests that only read need no login.
    ///
    /// # Errors
    /// When it can't be read, has no user, or a hash that is not bcrypt's.
    pub fn read(path: &Path, anonymous_pull: bool) -> Result<Self> {
        let action = || format!("reading {}", path.display());
        let text = file::read_text(path).map_err(|e| Error::input(action(), e))?;
        let mut users = HashMap::new();
        for (n, line) in text.lines().enumerate().map(|(n, line)| (n + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, hash) =
                line.split_once(':').filter(|(user, _)| !user.is_empty()).ok_or_else(|| {
                    Error::input(action(), format!("line {n} is not USER:HASH"))
                        .hint("make it with `htpasswd -B`")
                })?;
            if hash.parse::<bcrypt::HashParts>().is_err() {
                let why = format!("line {n}: the password of {user} is not hashed with bcrypt");
                return Err(Error::input(action(), why)
                    .hint("other hashes are broken in seconds: make it anew with `htpasswd -B`"));
            }
            users.insert(user.to_owned(), hash.to_owned());
        }
        if users.is_empty() {
            return Err(Error::input(action(), "it has no user").hint("add one with `htpasswd -B`"));
        }
        Ok(Self { users, anonymous_pull, known: Mutex::default(), turn: Semaphore::new(1) })
    }

    /// Nothing, if the request may be answered; else what is said instead.
    pub(super) async fn refuse(&self, request: &Request<'_>) -> Option<Response<Body>> {
        let is_read = matches!(*request.method, Method::GET | Method::HEAD);
        let given = request.header("authorization");
        // Asked for without a login, the API itself says whether there are logins: clients find out there.
        if is_read && self.anonymous_pull && given.is_none() && !matches!(request.path, "/v2" | "/v2/") {
            return None;
        }
        if let Some(given) = given
            && self.is_right(given).await
        {
            return None;
        }
        let why = if given.is_none() { "log in first" } else { "user or password is wrong" };
        let mut response = Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", why).response();
        set(&mut response, "www-authenticate", "Basic realm=\"airlock\"");
        Some(response)
    }

    async fn is_right(&self, given: &str) -> bool {
        let digest = Digest::of(given.as_bytes());
        let is_known = || self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest);
        if is_known() {
            return true;
        }
        let Some((user, password)) = credentials(given) else { return false };
        let Some(hash) = self.users.get(&user).cloned() else { return false };
        let Ok(_turn) = self.turn.acquire().await else { return false };
        if is_known() {
            return true;
        }
        let verify = move || bcrypt::verify(&password, &hash).unwrap_or(false);
        let is_right = tokio::task::spawn_blocking(verify).await.unwrap_or(false);
        if is_right {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
        }
        is_right
    }
}

/// User and password of an `Authorization` header.
fn credentials(header: &str) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(encoded.trim()).ok()?;
    let at = decoded.iter().position(|byte| *byte == b':')?;
    Some((String::from_utf8(decoded[..at].to_vec()).ok()?, decoded[at + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use warp::http::HeaderMap;

    use super::*;

    /// By `htpasswd -nbBC 4 ann secret`.
    const ANN: &str = "ann:$2y$04$Dy2ZB4yTFIP6Ve5eDzHbe.eoMZhCkW9PNRYwHkBHQfFrZ5bPIcKUO";

    fn logins(text: &str, anonymous_pull: bool) -> Result<Logins> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        Logins::read(file.path(), anonymous_pull)
    }

    async fn status(logins: &Logins, method: Method, path: &str, login: Option<&str>) -> u16 {
        let mut headers = HeaderMap::new();
        if let Some(login) = login {
            let value = format!("Basic {}", STANDARD.encode(login));
            headers.insert("authorization", value.parse().expect("a header"));
        }
        let request = Request { method: &method, path, query: "", headers: &headers };
        logins.refuse(&request).await.map_or(200, |response| response.status().as_u16())
    }

    #[tokio::test]
    async fn only_who_has_the_password_is_answered() {
        let hash = bcrypt::hash("secret:with", 4).expect("a hash");
        let all = logins(&format!("# users\n\nann:{hash}\n"), false).expect("logins");
        let pull = logins(&format!("ann:{hash}"), true).expect("logins");
        for login in ["ann:secret:with", "ann:secret:with"] {
            assert_eq!(status(&all, Method::GET, "/v2/a/tags/list", Some(login)).await, 200);
        }
        for login in [None, Some("ann:secret"), Some("ann:"), Some("ann"), Some("bob:secret:with"), Some("")]
        {
            assert_eq!(status(&all, Method::GET, "/v2/a/tags/list", login).await, 401, "{login:?}");
            assert_eq!(status(&pull, Method::PUT, "/v2/a/manifests/1", login).await, 401, "{login:?}");
        }
        assert_eq!(status(&pull, Method::GET, "/v2/a/tags/list", None).await, 200);
        assert_eq!(status(&pull, Method::GET, "/v2/", None).await, 401);
        // Who says who he is, is checked.
        assert_eq!(status(&pull, Method::GET, "/v2/a/tags/list", Some("ann:wrong")).await, 401);
    }

    #[test]
    fn files_without_good_hashes_are_refused() {
        logins(ANN, false).expect("what Apache's htpasswd makes");
        for (text, said) in [
            ("", "no user"),
            ("ann", "USER:HASH"),
            (":x", "USER:HASH"),
            ("ann:secret", "bcrypt"),
            ("ann:$apr1$x$y", "bcrypt"),
            ("ann:{SHA}x", "bcrypt"),
        ] {
            let error = logins(text, false).map(|_| ()).expect_err(text).to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
