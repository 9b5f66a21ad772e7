//! Who may: users of an htpasswd file, by HTTP's basic authentication (RFC 7617); or, where everybody may pull, by tokens
//! (distribution's "Token Authentication Specification"), since Docker asks for nothing without one once it has seen a login.
//!
//! Threat model: tokens are random, as good as a password, and good until the process ends.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Semaphore;
use warp::http::{Method, Response, StatusCode};

use super::request::Request;
use super::response::{Body, Refusal, full, set};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::file;

/// How many logins may wait to be checked.
const WAITING: usize = 32;

/// Where tokens are given out.
const TOKENS: &str = "/token";
/// How long clients are to use a token, in seconds.
const TOKEN_LIFE: u64 = 60 * 60;

/// Users, and what they need not log in for.
pub struct Logins {
    /// Hashes of passwords, by user.
    users: HashMap<String, String>,
    /// Where everybody may pull: a token for who did not log in, and one for who did.
    tokens: Option<[String; 2]>,
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
    /// There is none.
    Nobody,
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
        let tokens = anonymous_pull.then(|| Ok([token()?, token()?])).transpose();
        let tokens = tokens.map_err(|e: getrandom::Error| Error::input("making a token", e.to_string()))?;
        Ok(Self {
            users,
            tokens,
            known: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
            waiting: Semaphore::new(WAITING),
        })
    }

    /// Nothing, if the request may be answered; else what is said instead. `scheme` is how it came, `http` or `https`.
    pub(super) async fn refuse(&self, request: &Request<'_>, scheme: &str) -> Option<Response<Body>> {
        let is_read = matches!(*request.method, Method::GET | Method::HEAD);
        let given = request.header("authorization");
        let Some([anonymous, of_user]) = &self.tokens else {
            let known = match given {
                None => Known::Nobody,
                Some(given) => self.check(given).await,
            };
            return self.answer(known, request, scheme);
        };
        if request.path == TOKENS {
            return Some(match given {
                // containerd then asks by GET, with its login in a header.
                _ if *request.method != Method::GET => {
                    let why = "tokens are given to GET only";
                    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", why).response()
                }
                None => granted(anonymous),
                // By a password: who has a token gets no better one for it.
                Some(given) => match self.check(given).await {
                    Known::Right => granted(of_user),
                    known => self.answer(known, request, scheme)?,
                },
            });
        }
        let bearer = given.and_then(|given| parameter(given, "bearer"));
        // Compared by their digests: how long that takes tells nothing of a token.
        let is = |token: &str| {
            bearer.is_some_and(|given| Digest::of(given.as_bytes()) == Digest::of(token.as_bytes()))
        };
        // Asked for without a login, the API itself says whether there are logins: clients find out there.
        let is_asking = matches!(request.path, "/v2" | "/v2/");
        let known = match given {
            _ if is(of_user) => Known::Right,
            _ if is(anonymous) && is_read => Known::Right,
            None if is_read && !is_asking => Known::Right,
            None => Known::Nobody,
            Some(_) if bearer.is_some() => Known::Nobody,
            Some(given) => self.check(given).await,
        };
        self.answer(known, request, scheme)
    }

    fn answer(&self, known: Known, request: &Request<'_>, scheme: &str) -> Option<Response<Body>> {
        let why = match known {
            Known::Right => return None,
            Known::Nobody => "log in first",
            Known::Wrong => "user or password is wrong",
            Known::Busy => {
                let why = "too many log in at this moment";
                let mut response =
                    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", why).response();
                set(&mut response, "retry-after", "2");
                return Some(response);
            }
        };
        let mut response = Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", why).response();
        // Who does not say by which name we are reached can't be told where tokens are.
        let host = request.header("host").filter(|_| self.tokens.is_some());
        let host =
            host.filter(|host| host.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-_[]".contains(&b)));
        let challenge = host.map_or_else(
            || "Basic realm=\"airlock\"".to_owned(),
            |host| format!("Bearer realm=\"{scheme}://{host}{TOKENS}\",service=\"airlock\""),
        );
        set(&mut response, "www-authenticate", &challenge);
        Some(response)
    }

    /// The hashes to compare a password of `user` with, and whether each counts. Unknown users cost the same time as known
    /// ones, whatever their own hash costs, so timing does not reveal which names exist: costs double from one to the next,
    /// so a hash of cost 5 and others of 5, 6 and 7 take the time of one of cost 8.
    fn to_compare(&self, user: &str) -> Vec<(String, bool)> {
        let Some(dearest) = self.users.values().max_by_key(|hash| cost(hash)) else { return Vec::new() };
        match self.users.get(user) {
            None => vec![(dearest.clone(), false)],
            Some(own) => {
                let rest = (cost(own)..cost(dearest)).map(|cost| (with_cost(dearest, cost), false));
                std::iter::once((own.clone(), true)).chain(rest).collect()
            }
        }
    }

    async fn check(&self, given: &str) -> Known {
        let digest = Digest::of(given.as_bytes());
        let is_known = || self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest);
        if is_known() {
            return Known::Right;
        }
        let Some((user, password)) = credentials(given) else { return Known::Wrong };
        let hashes = self.to_compare(&user);
        let Ok(_waiting) = self.waiting.try_acquire() else { return Known::Busy };
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else { return Known::Wrong };
        if is_known() {
            return Known::Right;
        }
        let verify = move || {
            let is_right = hashes.into_iter().fold(false, |is_right, (hash, counts)| {
                (bcrypt::verify(&password, &hash).unwrap_or(false) && counts) || is_right
            });
            drop(turn);
            is_right
        };
        if !tokio::task::spawn_blocking(verify).await.unwrap_or(false) {
            return Known::Wrong;
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
        Known::Right
    }
}

/// A hash of the same form, for a cost of its own: nothing is known to lead to it.
fn with_cost(hash: &str, cost: u32) -> String {
    format!("{}{cost:02}{}", &hash[..4], &hash[6..])
}

fn cost(hash: &str) -> u32 {
    hash.parse::<bcrypt::HashParts>().map_or(0, |parts| parts.get_cost())
}

fn token() -> std::result::Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// The answer of a token server.
fn granted(token: &str) -> Response<Body> {
    let value = serde_json::json!({"token": token, "access_token": token, "expires_in": TOKEN_LIFE});
    full(StatusCode::OK, "application/json", value.to_string())
}

/// What follows the scheme of an `Authorization` header, if it is that one.
fn parameter<'a>(header: &'a str, scheme: &str) -> Option<&'a str> {
    let (found, rest) = header.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then_some(rest.trim())
}

/// User and password of an `Authorization` header.
fn credentials(header: &str) -> Option<(String, Vec<u8>)> {
    let decoded = STANDARD.decode(parameter(header, "basic")?).ok()?;
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

    async fn answer(logins: &Logins, method: Method, path: &str, login: Option<String>) -> Response<Body> {
        let mut headers = HeaderMap::new();
        headers.insert("host", "r.example:5000".parse().expect("a header"));
        if let Some(login) = login {
            headers.insert("authorization", login.parse().expect("a header"));
        }
        let request = Request { method: &method, path, query: "", headers: &headers };
        let ok = || full(StatusCode::OK, "text/plain", "");
        logins.refuse(&request, "https").await.unwrap_or_else(ok)
    }

    async fn status(logins: &Logins, method: Method, path: &str, login: Option<&str>) -> u16 {
        let login = login.map(|login| format!("Basic {}", STANDARD.encode(login)));
        answer(logins, method, path, login).await.status().as_u16()
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
    }

    #[tokio::test]
    async fn where_everybody_pulls_there_are_tokens() {
        let hash = bcrypt::hash("secret", 4).expect("a hash");
        let all = logins(&format!("ann:{hash}\n"), false).expect("logins");
        let pull = logins(&format!("ann:{hash}"), true).expect("logins");
        let challenge = |response: &Response<Body>| {
            response.headers()["www-authenticate"].to_str().expect("text").to_owned()
        };
        let asked = answer(&pull, Method::GET, "/v2/", None).await;
        assert_eq!(challenge(&asked), "Bearer realm=\"https://r.example:5000/token\",service=\"airlock\"");
        let asked = answer(&all, Method::GET, "/v2/", None).await;
        assert_eq!(challenge(&asked), "Basic realm=\"airlock\"");
        assert_eq!(answer(&all, Method::GET, TOKENS, None).await.status(), 401);

        let given = async |login: Option<&str>| {
            let login = login.map(|login| format!("Basic {}", STANDARD.encode(login)));
            let Body::Full(bytes) = answer(&pull, Method::GET, TOKENS, login).await.into_body() else {
                panic!("a blob")
            };
            let value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
            value["token"].as_str().map(|token| format!("Bearer {token}"))
        };
        let (anonymous, of_ann) =
            (given(None).await.expect("a token"), given(Some("ann:secret")).await.expect("a token"));
        assert_eq!(given(Some("ann:wrong")).await, None);
        assert_eq!(answer(&pull, Method::POST, TOKENS, None).await.status(), 405);
        for (method, path, token, expected) in [
            (Method::GET, "/v2/", &anonymous, 200),
            (Method::GET, "/v2/a/tags/list", &anonymous, 200),
            (Method::PUT, "/v2/a/manifests/1", &anonymous, 401),
            (Method::GET, "/v2/", &of_ann, 200),
            (Method::PUT, "/v2/a/manifests/1", &of_ann, 200),
            (Method::GET, TOKENS, &anonymous, 401),
            (Method::DELETE, "/v2/a/manifests/1", &"Bearer x".to_owned(), 401),
            (Method::GET, "/v2/", &"Bearer x".to_owned(), 401),
        ] {
            assert_eq!(answer(&pull, method, path, Some(token.clone())).await.status(), expected, "{path}");
        }
        assert_eq!(answer(&all, Method::GET, "/v2/", Some(of_ann)).await.status(), 401);
    }

    #[tokio::test]
    async fn guesses_wait_in_a_line_of_some_length() {
        use futures_util::FutureExt as _;

        let all = logins(ANN, false).expect("logins");
        let turn = all.turn.acquire().await.expect("nobody else's");
        let guesses = futures_util::future::join_all((0..WAITING + 2).map(|n| {
            let login = format!("{}:guess {n}", if n % 2 == 0 { "ann" } else { "bob" });
            let all = &all;
            async move { status(all, Method::GET, "/v2/", Some(&login)).await }
        }));
        // Nobody is told anything while somebody else has the turn, but those who may not even wait.
        let told = std::sync::atomic::AtomicUsize::new(0);
        let guesses = guesses.map(|answers: Vec<u16>| {
            told.store(answers.len(), std::sync::atomic::Ordering::Relaxed);
            answers
        });
        let (answers, ()) = tokio::join!(guesses, async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), 0);
            drop(turn);
        });
        assert_eq!(answers.iter().filter(|status| **status == 429).count(), 2);
        assert_eq!(answers.iter().filter(|status| **status == 401).count(), WAITING);
    }

    #[test]
    fn every_login_takes_the_time_of_the_highest_cost() {
        let text =
            format!("{ANN}\n{}\n{}\n", ANN.replace("ann:$2y$04", "bob:$2b$07"), ANN.replace("ann:", "eve:"));
        let all = logins(&text, false).expect("logins");
        for user in ["ann", "bob", "eve", "nobody"] {
            let hashes = all.to_compare(user);
            let work: u64 = hashes.iter().map(|(hash, _)| 1 << cost(hash)).sum();
            assert_eq!(work, 1 << 7, "{user}");
            assert_eq!(hashes.iter().filter(|(_, counts)| *counts).count(), usize::from(user != "nobody"));
            assert!(hashes.iter().all(|(hash, _)| bcrypt::verify("x", hash).is_ok()), "{hashes:?}");
        }
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
