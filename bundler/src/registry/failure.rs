//! Why an exchange over HTTP failed, in words for a person.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use super::http::retry_after;
use super::tls;
use crate::error::Error;

/// Most that is read of an answer that says what went wrong.
pub(super) const ANSWER_CAP: u64 = 16 << 10;
/// Most characters of a registry's own words that are shown.
const WORDS_CAP: usize = 300;

/// Why an exchange failed. Holds no URL with its query: presigned URLs are secrets.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No connection, or it broke.
    #[error(transparent)]
    Http(reqwest::Error),
    /// Connected, then silence.
    #[error("no data for {} s", .0.as_secs_f32())]
    Idle(Duration),
    /// More than is sensible for what was asked.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(u64),
    /// An answer, but not the one that was asked for.
    #[error("{1}")]
    Status(StatusCode, String),
    /// A refusal by a proxy or firewall in between, not by a registry.
    #[error("{1}, by a proxy or firewall in between")]
    Proxy(StatusCode, String),
    /// An answer that breaks the protocol.
    #[error("{0}")]
    Protocol(String),
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(error.without_url())
    }
}

/// What kind of failure to connect it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The certificate is signed by nobody we know.
    UnknownIssuer,
    /// Another fault of the certificate: its name, its dates.
    Certificate,
    /// The other side wants a certificate of ours, or another one.
    NoCertificate,
    /// The other side does not speak TLS.
    NotTls,
    /// The proxy wants a login.
    ProxyLogin,
    /// The proxy does not connect to the other side.
    ProxyRefuses,
    /// The name has no address.
    Dns,
    /// Any other failure to connect.
    Connect,
    /// Something after the connection stood.
    Other,
}

impl Failure {
    /// What kind of failure to connect it is.
    pub fn cause(&self) -> Cause {
        let Self::Http(error) = self else { return Cause::Other };
        let mut next: Option<&(dyn StdError + 'static)> = Some(error);
        let causes = std::iter::from_fn(|| {
            let error = next?;
            next = error.source();
            Some(error)
        });
        let cause = causes.filter_map(connect_cause).next();
        match cause {
            // With TLS 1.3 the connection stands by then (RFC 8446, 4.4.2.4).
            Some(Cause::NoCertificate) => Cause::NoCertificate,
            _ if !error.is_connect() => Cause::Other,
            cause => cause.unwrap_or(Cause::Connect),
        }
    }

    /// Whether the same request may go better a moment later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Http(error) => {
                !error.is_builder() && matches!(self.cause(), Cause::Connect | Cause::Dns | Cause::Other)
            }
            Self::Idle(_) => true,
            Self::TooLarge(_) | Self::Status(..) | Self::Proxy(..) | Self::Protocol(_) => false,
        }
    }

    /// The failure of `action` at `url`, with what to do about it.
    pub fn during(self, action: &str, url: &Url, proxied: bool) -> Error {
        let host = authority(url);
        let hint = match (&self, self.cause()) {
            (Self::Status(StatusCode::NOT_FOUND, _), _) => {
                Some(format!("{host} does not have it: check the spelling"))
            }
            (Self::Status(StatusCode::TOO_MANY_REQUESTS, _), _) => {
                Some(format!("{host} limits how often it is asked: wait, log in, or use a mirror"))
            }
            (Self::Status(StatusCode::PAYLOAD_TOO_LARGE, _), _) => Some(format!(
                "{host}, or a proxy in front of it, limits the size of a request: let it take 32 MiB at least (nginx: client_max_body_size)"
            )),
            (Self::Proxy(StatusCode::PROXY_AUTHENTICATION_REQUIRED, _), _) | (_, Cause::ProxyLogin) => {
                Some(format!(
                    "the proxy wants a login: write it into HTTPS_PROXY or HTTP_PROXY, as http://USER:PASSWORD@PROXY:PORT; or name {host} \
                     in NO_PROXY, if it is reached without a proxy"
                ))
            }
            (Self::Proxy(..), _) | (_, Cause::ProxyRefuses) => Some(format!(
                "the proxy or firewall must let requests to {host} through (no login to the registry changes that); or name {host} in \
                 NO_PROXY, if it is reached without a proxy"
            )),
            (_, Cause::UnknownIssuer) => {
                Some(format!("if {host} has a CA or certificate of its own, give that with --ca-file"))
            }
            (_, Cause::NoCertificate) => Some(format!(
                "{host} asks for a client certificate of its own authority: give it with --cert-file and --key-file"
            )),
            (_, Cause::NotTls) => Some(format!(
                "if {host} really speaks plain HTTP, say so: --plain-http {host}, or http:// in a URL"
            )),
            (_, Cause::Connect | Cause::Dns) if proxied => Some(format!(
                "the environment sets a proxy; hosts named in NO_PROXY are asked directly ({host})"
            )),
            (_, Cause::Connect) => {
                Some(format!("check the address {host}, and that a registry is running there"))
            }
            (_, Cause::Dns) => Some(format!("check the spelling of {host}, and this machine's name servers")),
            _ => None,
        };
        let error = Error::network(action, self);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

fn connect_cause(error: &(dyn StdError + 'static)) -> Option<Cause> {
    use rustls::CertificateError::UnknownIssuer;
    if let Some(io) = error.downcast_ref::<io::Error>() {
        // TLS's own error sits inside, where `source()` steps over it.
        if let Some(inner) = io.get_ref()
            && let Some(cause) = connect_cause(inner)
        {
            return Some(cause);
        }
        // What servers do to a TLS greeting that they can't read.
        let hung_up = matches!(io.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset);
        return hung_up.then_some(Cause::NotTls);
    }
    match error.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(UnknownIssuer)) => Some(Cause::UnknownIssuer),
        Some(error) if tls::is_ca_as_server(error) => Some(Cause::UnknownIssuer),
        Some(rustls::Error::InvalidCertificate(_)) => Some(Cause::Certificate),
        Some(rustls::Error::AlertReceived(alert)) if is_about_certificate(*alert) => {
            Some(Cause::NoCertificate)
        }
        Some(rustls::Error::InvalidMessage(_)) => Some(Cause::NotTls),
        // The connectors' error types are private; these are the whole of their texts.
        _ => match error.to_string().as_str() {
            "dns error" => Some(Cause::Dns),
            "tunnel error: proxy authorization required" => Some(Cause::ProxyLogin),
            "tunnel error: unsuccessful" => Some(Cause::ProxyRefuses),
            _ => None,
        },
    }
}

/// Whether the other side says that it wants a certificate, or another one (RFC 8446, 6.2).
fn is_about_certificate(alert: rustls::AlertDescription) -> bool {
    use rustls::AlertDescription as Alert;
    matches!(
        alert,
        Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::UnknownCA
            | Alert::AccessDenied
    )
}

/// What a registry answers when it refuses (distribution spec, "Error Codes").
#[derive(Deserialize)]
struct Answer {
    errors: Vec<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: Option<String>,
}

/// The failure that an answer with an unwanted status is. `asked` is where the request went at first.
pub(super) fn status(response: &Response, body: &[u8], asked: &Url) -> Failure {
    let status = response.status();
    let mut text = status.to_string();
    if response.url().origin() != asked.origin() {
        let _ = write!(text, " from {}", response.url().origin().ascii_serialization());
    }
    if let Some(words) = own_words(body) {
        let _ = write!(text, ": {words}");
    }
    if let Some(wait) = retry_after(response.headers(), chrono::Utc::now()) {
        let _ = write!(text, "; it wants to be asked again in {} s", wait.as_secs());
    }
    match is_of_proxy(status, response.headers(), body) {
        true => Failure::Proxy(status, text),
        false => Failure::Status(status, text),
    }
}

/// Reports whether a refusal is one of a proxy, firewall or login page in between: it is a web page or bears a proxy's mark,
/// and has nothing by which a registry is known.
fn is_of_proxy(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> bool {
    if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return true;
    }
    let is_refusal = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let is_registrys = headers.contains_key("docker-distribution-api-version")
        || headers.contains_key(WWW_AUTHENTICATE)
        || own_words(body).is_some();
    let is_page = headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
    let is_marked = headers.keys().map(HeaderName::as_str).any(|name| {
        name == "via"
            || name.starts_with("proxy-")
            || name.starts_with("x-squid-")
            || name.starts_with("x-bluecoat-")
    });
    is_refusal && !is_registrys && (is_page || is_marked)
}

/// The registry's own code and message, safe to print.
fn own_words(body: &[u8]) -> Option<String> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let words: Vec<String> = answer
        .errors
        .iter()
        .map(|error| match &error.message {
            Some(message) if !message.is_empty() => format!("{}: {message}", error.code),
            _ => error.code.clone(),
        })
        .collect();
    Some(printable(&words.join("; "))).filter(|words| !words.is_empty())
}

/// Foreign text for a terminal: without control characters, and short.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORDS_CAP).collect()
}

/// `HOST[:PORT]` of a URL.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.into(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_refusal_is_told_from_a_registrys() {
        let json = br#"{"errors":[{"code":"DENIED"}]}"#;
        for (status, headers, body, expected) in [
            (407, &[][..], &b""[..], true),
            (403, &[("content-type", "text/html; charset=utf-8")], b"<html>blocked", true),
            (403, &[("via", "1.1 squid")], b"", true),
            (403, &[("x-squid-error", "ERR_ACCESS_DENIED 0")], b"", true),
            (401, &[("content-type", "text/html")], b"<html>portal", true),
            (403, &[], b"", false),
            (403, &[("content-type", "text/plain")], b"no", false),
            (403, &[("via", "1.1 cdn")], json, false),
            (
                403,
                &[("content-type", "text/html"), ("docker-distribution-api-version", "registry/2.0")],
                b"",
                false,
            ),
            (401, &[("content-type", "text/html"), ("www-authenticate", "Basic realm=x")], b"<html>", false),
            (404, &[("content-type", "text/html")], b"<html>", false),
        ] {
            let map = HeaderMap::from_iter(
                headers.iter().map(|(name, value)| (name.parse().expect(name), value.parse().expect(value))),
            );
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(is_of_proxy(status, &map, body), expected, "{status} {headers:?}");
        }
    }

    #[test]
    fn a_registrys_words_are_made_safe() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m way\n"},{"code":"X"}]}"#;
        assert_eq!(own_words(body).as_deref(), Some("DENIED: no[31m way; X"));
        assert_eq!(own_words(b"<html>"), None);
        assert_eq!(own_words(br#"{"errors":[]}"#), None);
        let long = format!(r#"{{"errors":[{{"code":"{}"}}]}}"#, "x".repeat(9999));
        assert_eq!(own_words(long.as_bytes()).map(|w| w.len()), Some(WORDS_CAP));
    }
}
