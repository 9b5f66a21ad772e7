//! Who may: users of an htpasswd file, by HTTP's basic authentication (RFC 7617).

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Semaphore;
use warp::http::{Method, Response, StatusCode};

use super::request::Request;
use super::response::{Body, Refusal, set};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::file;

/// How many logins may wait to be checked.
const WAITING: usize = 32;

/// Users, and what they need not log in for.
pub struct Logins {
    /// Hashes of passwords, by user.
    users: HashMap<String, String>,
    anonymous_pull: bool,
    /// Digests of what was right before: bcrypt takes a tenth of a second, and clients say it with every request.
    known: Mutex<HashSet<Digest>>,
    /// Whoever guesses passwords takes one core at most, also when he hangs up.
    turn: Arc<Semaphore>,
    /// How many more may wait for it.
    waiting: Semaphore,
}

/// What is known of a login.
#[derive(PartialEq)]
enum Known {
    Right,
    Wrong,
    /// Too many wait to be told.
    Busy,
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
        Ok(Self {
            users,
            anonymous_pull,
            known: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
            waiting: Semaphore::new(WAITING),
        })
    }

    /// Nothing, if the request may be answered; else what is said instead.
    pub(super) async fn refuse(&self, request: &Request<'_>) -> Option<Response<Body>> {
        let is_read = matches!(*request.method, Method::GET | Method::HEAD);
        // podman and CRI-O log in with nothing where they have no login.
        let is_nobody = |given: &&str| {
            credentials(given).is_some_and(|(user, password)| user.is_empty() && password.is_empty())
        };
        let given = request.header("authorization").filter(|given| !is_nobody(given));
        // Asked for without a login, the API itself says whether there are logins: clients find out there.
        let is_asking = matches!(request.path, "/v2" | "/v2/") && request.header("authorization").is_none();
        if is_read && self.anonymous_pull && given.is_none() && !is_asking {
            return None;
        }
        let why = match given {
            None => "log in first",
            Some(given) => match self.check(given).await {
                Known::Right => return None,
                Known::Wrong => "user or password is wrong",
                Known::Busy => {
                    let why = "too many log in at this moment";
                    let mut response =
                        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", why).response();
                    set(&mut response, "retry-after", "2");
                    return Some(response);
                }
            },
        };
        let mut response = Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", why).response();
        set(&mut response, "www-authenticate", "Basic realm=\"airlock\"");
        Some(response)
    }

    async fn check(&self, given: &str) -> Known {
        let digest = Digest::of(given.as_bytes());
        let is_known = || self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest);
        if is_known() {
            return Known::Right;
        }
        let Some((user, password)) = credentials(given) else { return Known::Wrong };
        // Who is no user takes as long as who is one: nobody learns their names so.
        let user = self.users.get(&user);
        let (is_user, Some(hash)) = (user.is_some(), user.or_else(|| self.users.values().next()).cloned())
        else {
            return Known::Wrong;
        };
        let Ok(_waiting) = self.waiting.try_acquire() else { return Known::Busy };
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else { return Known::Wrong };
        if is_known() {
            return Known::Right;
        }
        let verify = move || {
            let is_right = bcrypt::verify(&password, &hash).unwrap_or(false);
            drop(turn);
            is_right && is_user
        };
        if !tokio::task::spawn_blocking(verify).await.unwrap_or(false) {
            return Known::Wrong;
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
        Known::Right
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
        // Who logs in with nothing is nobody.
        for path in ["/v2/", "/v2/a/tags/list"] {
            assert_eq!(status(&pull, Method::GET, path, Some(":")).await, 200);
            assert_eq!(status(&all, Method::GET, path, Some(":")).await, 401);
        }
        assert_eq!(status(&pull, Method::PUT, "/v2/a/manifests/1", Some(":")).await, 401);
        // Who says who he is, is checked.
        assert_eq!(status(&pull, Method::GET, "/v2/a/tags/list", Some("ann:wrong")).await, 401);
    }

    #[tokio::test]
    async fn guesses_wait_in_a_line_of_some_length() {
        let all = logins(ANN, false).expect("logins");
        let turn = all.turn.acquire().await.expect("nobody else's");
        let guesses = futures_util::future::join_all((0..WAITING + 2).map(|n| {
            let login = format!("{}:guess {n}", if n % 2 == 0 { "ann" } else { "bob" });
            let all = &all;
            async move { status(all, Method::GET, "/v2/", Some(&login)).await }
        }));
        let (answers, ()) = tokio::join!(guesses, async {
            tokio::task::yield_now().await;
            drop(turn);
        });
        assert_eq!(answers.iter().filter(|status| **status == 429).count(), 2);
        assert_eq!(answers.iter().filter(|status| **status == 401).count(), WAITING);
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
