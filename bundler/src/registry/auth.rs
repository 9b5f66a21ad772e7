//! Authorization: challenges answered with a login or with a token bought for it (distribution's "Token
//! Authentication Specification"), each kept for the origin and scope that asked.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use oci_distribution::secrets::RegistryAuth;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Url};
use serde::Deserialize;

use super::credentials::{self, Login, Search};
use super::failure::{Failure, authority};
use super::http::{Call, Http, shown};
use crate::error::{Error, Result};

const TOKEN_CAP: u64 = 1 << 20;
/// What a token lives when nothing is said, and at least (token specification, `expires_in`).
const SHORTEST_LIFE: u64 = 60;
const LONGEST_LIFE: u64 = 24 * 60 * 60;

/// What a registry wants to see (RFC 9110, 11.6.1; RFC 6750, 3).
#[derive(Debug, PartialEq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// An `Authorization` header, and until when it is worth sending.
#[derive(Clone)]
struct Granted {
    header: HeaderValue,
    until: Option<Instant>,
}

/// Everything that is known about logins, and the headers they bought.
pub(super) struct Auth {
    files: Vec<PathBuf>,
    granted: Mutex<HashMap<(String, String), Granted>>,
    /// By host and repository.
    logins: Mutex<HashMap<(String, String), Search>>,
    /// One login at a time: parallel transfers that are all refused need one new token, not one each.
    turn: tokio::sync::Mutex<()>,
}

impl Auth {
    /// Logins will be looked for in `files`.
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self {
            files,
            granted: Mutex::default(),
            logins: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// The header to send with a request to `url` for `scope`, if one is known and still good.
    pub fn known(&self, url: &Url, scope: &str) -> Option<HeaderValue> {
        let granted = locked(&self.granted).get(&key(url, scope)).cloned()?;
        granted.until.is_none_or(|until| Instant::now() < until).then_some(granted.header)
    }

    /// The header that answers a 401 at `url`, about the repository `path`, whose headers are `refusal`; none if there is
    /// nothing better to send than `sent`.
    ///
    /// # Errors
    /// When logins can't be read, or the token's server fails or is not to be trusted with them.
    pub async fn answer(
        &self,
        http: &Http,
        (url, path): (&Url, &str),
        scope: &str,
        refusal: &HeaderMap,
        sent: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>> {
        let _turn = self.turn.lock().await;
        let known = self.known(url, scope);
        if known.is_some() && known.as_ref() != sent {
            return Ok(known);
        }
        let granted = match choose(refusal) {
            None => None,
            Some(Challenge::Basic) => match self.login(&authority(url), path).await?.login() {
                Some(Login { auth: RegistryAuth::Basic(user, password), .. }) => {
                    Some(Granted { header: basic(user, password), until: None })
                }
                _ => None,
            },
            Some(Challenge::Bearer { realm, service, scope: wanted }) => {
                let wanted = wanted.as_deref().unwrap_or(scope);
                Some(self.token(http, (url, path), &realm, service.as_deref(), wanted).await?)
            }
        };
        let Some(granted) = granted.filter(|granted| Some(&granted.header) != sent) else { return Ok(None) };
        locked(&self.granted).insert(key(url, scope), granted.clone());
        Ok(Some(granted.header))
    }

    /// The header with the user and password for a web server, if a login has them.
    ///
    /// # Errors
    /// When logins can't be read.
    pub async fn password(&self, url: &Url) -> Result<Option<HeaderValue>> {
        let path = url.path().trim_start_matches('/');
        Ok(match self.login(&authority(url), path).await?.login() {
            Some(Login { auth: RegistryAuth::Basic(user, password), .. }) => Some(basic(user, password)),
            _ => None,
        })
    }

    /// Returns advice on a refusal by `host` that is about the repository `path`.
    pub async fn hint(&self, host: &str, path: &str) -> String {
        let how = format!("log in with `docker login {host}` or `helm registry login {host}`");
        match self.login(host, path).await {
            Ok(Search::Found(Login { auth: RegistryAuth::Basic(user, _), source })) => {
                format!(
                    "the login of {user:?} from {source} does not suffice; {how}, or check the spelling of the name"
                )
            }
            Ok(Search::Found(Login { source, .. })) => {
                format!("the login from {source} does not suffice; {how}, or check the spelling of the name")
            }
            Ok(Search::Failed { why, helper }) => {
                format!("the login to {host} could not be had: {why}; install or repair {helper}, or {how}")
            }
            Ok(Search::Missing { others }) if !others.is_empty() => {
                format!(
                    "there are logins for {}, and none for {host}/{path}: {how}, or check the spelling of the name",
                    others.join(", ")
                )
            }
            Ok(Search::Missing { .. }) | Err(_) => {
                let files: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
                let places = if files.is_empty() { "HOME is not set".into() } else { files.join(", ") };
                format!(
                    "no login for {host} was found ({places}): {how}. Some registries answer so when the image \
                     does not exist: check its spelling"
                )
            }
        }
    }

    async fn login(&self, host: &str, path: &str) -> Result<Search> {
        let key = (host.to_owned(), path.to_owned());
        if let Some(search) = locked(&self.logins).get(&key) {
            return Ok(search.clone());
        }
        let search = credentials::find(&self.files, host, path).await?;
        if let Search::Failed { why, .. } = &search {
            tracing::warn!("{why}: {host} is asked without a login");
        }
        locked(&self.logins).insert(key, search.clone());
        Ok(search)
    }

    /// Buys a token for the login to the registry at `registry`; without a login, an anonymous one.
    async fn token(
        &self,
        http: &Http,
        (registry, path): (&Url, &str),
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<Granted> {
        let host = authority(registry);
        let action = format!("getting a token for {host}");
        let realm = trusted_realm(registry, realm).map_err(|why| Error::network(action.as_str(), why))?;
        let action = format!("{action} from {}", shown(&realm));
        let search = self.login(&host, path).await?;
        let call = token_request(&realm, service, scope, search.login().map(|login| &login.auth));
        let failed = |failure: Failure| failure.during(&action, &realm, http.is_proxied(&realm));
        let response = http.send(&call).await.map_err(failed)?;
        if !response.status().is_success() {
            let failure = http.refused(response, &call.url).await;
            let is_proxys = matches!(failure, Failure::Proxy(..));
            let error = failed(failure);
            return Err(if is_proxys { error } else { error.hint(self.hint(&host, path).await) });
        }
        let body = http.read(response, TOKEN_CAP).await.map_err(failed)?;
        parse_token(&body, Instant::now()).map_err(|why| Error::network(action.as_str(), why))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(url: &Url, scope: &str) -> (String, String) {
    (url.origin().ascii_serialization(), scope.into())
}

/// The challenge to answer: a token is worth more than a password sent each time.
fn choose(headers: &HeaderMap) -> Option<Challenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let mut all: Vec<Challenge> = texts.flat_map(challenges).collect();
    let bearer = all.iter().position(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    match bearer {
        Some(at) => Some(all.swap_remove(at)),
        None => all.pop(),
    }
}

/// The challenges of one header that we can answer.
fn challenges(header: &str) -> Vec<Challenge> {
    let parsed = http_auth::parse_challenges(header).unwrap_or_default();
    let known = parsed.into_iter().filter_map(|challenge| {
        let parameter = |name: &str| {
            let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped()).filter(|value| !value.is_empty())
        };
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            Some(Challenge::Basic)
        } else if challenge.scheme.eq_ignore_ascii_case("bearer") {
            let realm = parameter("realm")?;
            Some(Challenge::Bearer { realm, service: parameter("service"), scope: parameter("scope") })
        } else {
            None
        }
    });
    known.collect()
}

/// The token server's URL. A registry that is reached by TLS must not talk us into sending a password in the clear, not
/// even to this machine, where any user may listen.
fn trusted_realm(registry: &Url, realm: &str) -> Result<Url, String> {
    let url = Url::parse(realm).map_err(|_| format!("it names {realm:?} as token server: not a URL"))?;
    let safe = match url.scheme() {
        "https" => true,
        "http" => registry.scheme() == "http",
        _ => false,
    };
    if safe { Ok(url) } else { Err(format!("it names {} as token server: not HTTPS", shown(&url))) }
}

/// The request for a token: with an identity token by OAuth 2's refresh grant, else with the password, if any.
fn token_request(realm: &Url, service: Option<&str>, scope: &str, login: Option<&RegistryAuth>) -> Call {
    let mut url = realm.clone();
    let pairs = service.map(|service| ("service", service)).into_iter();
    if let Some(RegistryAuth::Bearer(identity)) = login {
        // A form is written as a query is; the URL type serves as its writer.
        let mut form = realm.clone();
        form.set_query(None);
        let pairs = pairs.chain([
            ("grant_type", "refresh_token"),
            ("client_id", "airlock"),
            ("scope", scope),
            ("refresh_token", identity),
        ]);
        form.query_pairs_mut().extend_pairs(pairs);
        let mut call = Call::new(Method::POST, url);
        call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        call.body = Bytes::from(form.query().unwrap_or_default().to_owned());
        return call;
    }
    let scopes = scope.split(' ').filter(|scope| !scope.is_empty()).map(|scope| ("scope", scope));
    url.query_pairs_mut().extend_pairs(pairs.chain(scopes));
    let mut call = Call::new(Method::GET, url);
    if let Some(RegistryAuth::Basic(user, password)) = login {
        call.headers.insert(AUTHORIZATION, basic(user, password));
    }
    call
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

fn parse_token(body: &[u8], now: Instant) -> Result<Granted, &'static str> {
    // The parser's text is not passed on: it quotes values.
    let answer: Token = serde_json::from_slice(body).map_err(|_| "its answer is not a token")?;
    let given = |token: Option<String>| token.filter(|token| !token.is_empty());
    let token = given(answer.token).or_else(|| given(answer.access_token));
    let token = token.ok_or("there is no token in its answer")?;
    let header =
        secret(&format!("Bearer {token}")).ok_or("its token has characters that no header may have")?;
    let life = answer.expires_in.unwrap_or_default().clamp(SHORTEST_LIFE, LONGEST_LIFE);
    // Some of its life is kept for the request that it goes with.
    Ok(Granted { header, until: Some(now + Duration::from_secs(life * 3 / 4)) })
}

/// The header with a user and password.
pub(super) fn basic(user: &str, password: &str) -> HeaderValue {
    let header = secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
    header.unwrap_or_else(|| HeaderValue::from_static(""))
}

/// A header value that no debug output shows.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let text = |value: &str| value.to_owned();
        Challenge::Bearer { realm: realm.into(), service: service.map(text), scope: scope.map(text) }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/redis:pull,push""#;
        let expected = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:library/redis:pull,push"),
        );
        assert_eq!(challenges(hub), [expected]);
        assert_eq!(challenges(r#"basic realm="x""#), [Challenge::Basic]);
        assert_eq!(challenges(r#"Digest realm="x", BEARER Realm=r"#), [bearer("r", None, None)]);
        assert_eq!(challenges(r#"Bearer realm="a\"b""#), [bearer("a\"b", None, None)]);
        for unusable in ["", "Bearer", r#"Bearer service="s""#, "\"", "Negotiate", "Bearer realm=\"open"] {
            assert_eq!(challenges(unusable), [], "{unusable:?}");
        }
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let headers = |values: &[&'static str]| {
            values.iter().map(|value| (WWW_AUTHENTICATE, HeaderValue::from_static(value))).collect()
        };
        let both: HeaderMap = headers(&["Basic realm=x", "Bearer realm=\"r\""]);
        assert_eq!(choose(&both), Some(bearer("r", None, None)));
        assert_eq!(choose(&headers(&["Basic realm=x"])), Some(Challenge::Basic));
        assert_eq!(choose(&headers(&[])), None);
    }

    #[test]
    fn a_realm_without_tls_is_not_trusted() {
        let registry = Url::parse("https://r.example/v2/").expect("a URL");
        assert!(trusted_realm(&registry, "https://auth.example/token").is_ok());
        for realm in [
            "http://auth.example/token",
            "http://127.0.0.1:5001/token",
            "http://localhost/token",
            "http://[::1]/token",
            "ftp://auth.example",
            "token",
            "/token",
        ] {
            assert!(trusted_realm(&registry, realm).is_err(), "{realm}");
        }
        let plain = Url::parse("http://r.example/v2/").expect("a URL");
        assert!(trusted_realm(&plain, "http://auth.example/token").is_ok());
    }

    #[test]
    fn a_token_is_asked_for_with_what_the_login_is() {
        let realm = Url::parse("https://auth.example/token?x=1").expect("a URL");
        let scope = "repository:a:pull,push repository:b:pull";
        let anonymous = token_request(&realm, Some("s"), scope, None);
        let query = "x=1&service=s&scope=repository%3Aa%3Apull%2Cpush&scope=repository%3Ab%3Apull";
        assert_eq!((anonymous.method, anonymous.url.query()), (Method::GET, Some(query)));
        assert!(anonymous.headers.is_empty());

        let login = RegistryAuth::Basic("u".into(), "p".into());
        let password = token_request(&realm, None, scope, Some(&login));
        assert_eq!(password.headers[AUTHORIZATION], "Basic dTpw");

        let identity =
            token_request(&realm, None, "repository:a:pull", Some(&RegistryAuth::Bearer("I&".into())));
        assert_eq!((identity.method, identity.url.as_str()), (Method::POST, realm.as_str()));
        let form = String::from_utf8_lossy(&identity.body).into_owned();
        assert!(form.ends_with("scope=repository%3Aa%3Apull&refresh_token=I%26"), "{form}");
        assert!(!identity.headers.contains_key(AUTHORIZATION));
    }

    #[test]
    fn tokens_end_early_and_are_not_shown() {
        let now = Instant::now();
        let life = |body: &str| {
            let granted = parse_token(body.as_bytes(), now).expect("a token");
            assert!(!format!("{:?}", granted.header).contains("TOKEN"));
            granted.until.expect("an end").duration_since(now).as_secs()
        };
        assert_eq!(life(r#"{"token":"TOKEN"}"#), 45);
        assert_eq!(life(r#"{"access_token":"TOKEN","expires_in":300}"#), 225);
        assert_eq!(life(r#"{"token":"","access_token":"TOKEN"}"#), 45);
        assert_eq!(life(r#"{"token":null,"access_token":"TOKEN"}"#), 45);
        assert_eq!(life(r#"{"token":"TOKEN","access_token":""}"#), 45);
        assert_eq!(life(r#"{"token":"TOKEN","expires_in":18446744073709551615}"#), LONGEST_LIFE * 3 / 4);
        for body in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#] {
            assert!(parse_token(body.as_bytes(), now).is_err(), "{body}");
        }
    }
}
