//! The one HTTP client: proxies, redirects, retries, and a limit on silence instead of on time.
//!
//! Threat model: the other side may send anything, for ever, or nothing. Every body is capped or handed on piece by
//! piece, every wait ends, and credentials stay with the origin that they were meant for.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};

use super::exchange::Exchange;
use super::failure::{self, Failure};
use super::names::Names;
use super::pace::Pace;
use super::proxies::Proxies;

use crate::error::{Error, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of a request that may be repeated.
const TRIES: u32 = 3;
/// Tries when the server says that there is too much to do just now.
const PATIENT_TRIES: u32 = 5;
/// A first wait between tries is this part of the longest silence that is put up with: 250 ms of 30 s.
const FIRST_BACK_OFF: u32 = 120;
/// Longest wait that a server may ask for (RFC 9110, `Retry-After`); who wants to wait longer does not want to wait here.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(60);

/// A request that can be made more than once.
#[derive(Clone)]
pub(super) struct Call {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Call {
    /// A request without body and headers.
    pub fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Bytes::new() }
    }
}

/// The client with its limits.
pub(super) struct Http {
    client: reqwest::Client,
    /// Longest silence of the other side.
    pub idle: Duration,
    pub pace: Pace,
    proxies: Proxies,
}

impl Http {
    /// Reads the proxies of an environment; connects nowhere.
    pub fn new(
        tls: rustls::ClientConfig,
        idle: Duration,
        pace: Pace,
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let proxies = Proxies::read(variable);
        // HTTP/1.1 (no ALPN): parallel transfers then each have a connection of their own, with its back pressure.
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .user_agent(concat!("airlock/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .dns_resolver(Names::default())
            .no_proxy();
        for proxy in proxies.build()? {
            builder = builder.proxy(proxy);
        }
        let client = builder.build().map_err(|e| Error::input("setting up the HTTP client", e))?;
        Ok(Self { client, idle, pace, proxies })
    }

    /// Tells whether requests to `url` go through a proxy.
    pub fn is_proxied(&self, url: &Url) -> bool {
        self.proxies.of(url).is_some()
    }

    /// Makes a request that may be repeated, following redirects, up to the head of the last answer.
    pub async fn send(&self, call: &Call) -> Result<Response, Failure> {
        let mut tries = 0;
        loop {
            self.pace.turn(&call.url).await;
            tries += 1;
            let wait = match self.follow(call).await {
                Ok(response) if tries < tries_after(response.status()) => match self.wait(&response) {
                    Ok(wait) => wait,
                    Err(TooLong) => return Ok(response),
                },
                Err(failure) if failure.is_transient() && tries < TRIES => {
                    tracing::debug!(url = %shown(&call.url), %failure, "retrying");
                    None
                }
                outcome => return outcome,
            };
            tokio::time::sleep(wait.unwrap_or_else(|| self.back_off(tries))).await;
        }
    }

    /// How long to wait after so many tries: each time twice as long.
    pub fn back_off(&self, tries: u32) -> Duration {
        self.idle / FIRST_BACK_OFF * 2_u32.saturating_pow(tries.saturating_sub(1))
    }

    /// How long an overloaded server asks to be left alone, if it says so: everybody does.
    pub fn wait(&self, response: &Response) -> Result<Option<Duration>, TooLong> {
        let Some(wait) = retry_after(response.headers(), Utc::now()) else { return Ok(None) };
        if wait > RETRY_AFTER_CAP {
            return Err(TooLong);
        }
        self.pace.close(response.url(), wait);
        Ok(Some(wait))
    }

    /// Follows redirects: any of GET and HEAD, and those of other requests that keep method and body (307, 308). Another
    /// origin gets no credentials and no body, and nothing leads from TLS out of it.
    async fn follow(&self, call: &Call) -> Result<Response, Failure> {
        let mut url = call.url.clone();
        let mut headers = call.headers.clone();
        for _ in 0..=REDIRECTS {
            let request = self.client.request(call.method.clone(), url.clone()).headers(headers.clone());
            let response = self.once(request.body(call.body.clone())).await?;
            let safe = matches!(call.method, Method::GET | Method::HEAD);
            let status = response.status();
            if !(is_kept(status) || (safe && status.is_redirection())) {
                return Ok(response);
            }
            let Some(next) = location(&response)? else { return Ok(response) };
            if next.origin() != url.origin() {
                headers.remove(AUTHORIZATION);
                if !call.body.is_empty() {
                    let target = next.origin().ascii_serialization();
                    return Err(Failure::Protocol(format!("it sends us to another host, {target}")));
                }
            }
            url = next;
        }
        Err(Failure::Protocol(format!("more than {REDIRECTS} redirects")))
    }

    /// A request that is made once, by the caller, and watched by it: a body on its way is no silence.
    pub fn request(&self, method: Method, url: Url) -> reqwest::RequestBuilder {
        self.client.request(method, url)
    }

    /// One request, up to the head of its answer.
    async fn once(&self, request: reqwest::RequestBuilder) -> Result<Response, Failure> {
        match tokio::time::timeout(self.idle, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Idle(self.idle)),
        }
    }

    /// One request, up to the head of its answer, with its line in the log.
    pub async fn exchange(&self, request: reqwest::RequestBuilder) -> Result<Response, Failure> {
        let request = request.build()?;
        let exchange = Exchange::begin(&request);
        let outcome = self.client.execute(request).await.map_err(Failure::from);
        exchange.end(&outcome);
        outcome
    }

    /// The next piece of a body.
    pub async fn chunk(&self, response: &mut Response) -> Result<Option<Bytes>, Failure> {
        let chunk = match tokio::time::timeout(self.idle, response.chunk()).await {
            Ok(chunk) => chunk?,
            Err(_) => return Err(Failure::Idle(self.idle)),
        };
        self.pace.pass(chunk.as_ref().map_or(0, Bytes::len)).await;
        Ok(chunk)
    }

    /// A whole body of at most `cap` bytes.
    pub async fn read(&self, mut response: Response, cap: u64) -> Result<Bytes, Failure> {
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk(&mut response).await? {
            if (body.len() + chunk.len()) as u64 > cap {
                return Err(Failure::TooLarge(cap));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// The failure that an unwanted answer is, with what its body says.
    pub async fn refused(&self, mut response: Response, asked: &Url) -> Failure {
        let mut body = BytesMut::new();
        while let Ok(Some(chunk)) = self.chunk(&mut response).await {
            body.extend_from_slice(&chunk);
            if body.len() as u64 > failure::ANSWER_CAP {
                break;
            }
        }
        failure::status(&response, &body, asked)
    }
}

/// Largest number of redirects that are followed.
pub(super) const REDIRECTS: usize = 5;

/// Reports whether a redirect keeps the method and the body (RFC 9110, 15.4.8 and 15.4.9).
pub(super) fn is_kept(status: StatusCode) -> bool {
    matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT)
}

/// Where an answer's `Location` leads; none if it has none.
pub(super) fn location(response: &Response) -> Result<Option<Url>, Failure> {
    let Some(value) = response.headers().get(LOCATION) else { return Ok(None) };
    let next = value.to_str().ok().and_then(|text| response.url().join(text).ok());
    let Some(next) = next.filter(|url| matches!(url.scheme(), "http" | "https")) else {
        return Err(Failure::Protocol("its Location is not a URL".into()));
    };
    if response.url().scheme() == "https" && next.scheme() == "http" {
        let target = next.origin().ascii_serialization();
        return Err(Failure::Protocol(format!("it sends us from TLS to plain HTTP, {target}")));
    }
    Ok(Some(next))
}

/// A URL without what may be secret: user, password, query.
pub(super) fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// Whether a host, with or without port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

pub(super) fn is_overloaded(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

/// How often a request is made that is answered so.
fn tries_after(status: StatusCode) -> u32 {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => PATIENT_TRIES,
        status if is_overloaded(status) => TRIES,
        _ => 0,
    }
}

/// A server wants to be left alone for longer than anybody waits here.
pub(super) struct TooLong;

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(text).ok()?;
    Some((date.to_utc() - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for host in ["localhost", "localhost:5000", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:5000", "::1"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["localhost.example", "128.0.0.1:5000", "[::2]:5000", "example:5000", "127.0.0.1.example", ""]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_server_says_how_long_to_wait_in_two_ways() {
        let now = DateTime::parse_from_rfc3339("2026-10-21T07:27:30Z").expect("a date").to_utc();
        let wait = |value: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().expect("a header"))]);
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("2"), Some(2));
        assert_eq!(wait("99999"), Some(99999));
        assert_eq!(wait("Wed, 21 Oct 2026 07:28:00 GMT"), Some(30));
        assert_eq!(wait("Wed, 21 Oct 2026 07:00:00 GMT"), Some(0), "that was before");
        for nonsense in ["", "-1", "soon", "99999999999999999999"] {
            assert_eq!(wait(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn urls_are_shown_without_secrets() {
        let url = Url::parse("https://u:p@h.example:8443/a/b?X-Amz-Signature=s#f").expect("a URL");
        assert_eq!(shown(&url), "https://h.example:8443/a/b");
    }
}
