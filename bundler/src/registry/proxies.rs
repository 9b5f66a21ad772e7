//! Proxies, as the environment names them, and hosts that are reached without one.

use std::net::IpAddr;
use std::sync::Arc;

use reqwest::{Proxy, Url};

use crate::error::{Error, Result};

/// Hosts that no proxy can reach for us.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// The proxies of an environment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Proxies {
    http: Option<String>,
    https: Option<String>,
    exceptions: Vec<Exception>,
}

/// An entry of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq)]
struct Exception {
    host: Hosts,
    /// Port that the entry is for; none means every port.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq)]
enum Hosts {
    All,
    /// A name, and every name below it.
    Domain(String),
    /// Every name below it.
    Below(String),
    /// Addresses whose first bits are these.
    Network(IpAddr, u8),
}

impl Proxies {
    /// Reads the variables that curl and Go's programs read.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| names.iter().filter_map(|n| variable(n)).find(|value| !value.is_empty());
        let listed = first(&["NO_PROXY", "no_proxy"]).unwrap_or_default();
        let entries = listed.split([',', ' ', '\t']).chain(LOOPBACK.split(','));
        Self {
            http: first(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
            https: first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
            exceptions: entries.filter_map(Exception::parse).collect(),
        }
    }

    /// The proxy for a URL.
    pub fn of(&self, url: &Url) -> Option<&str> {
        let proxy = if url.scheme() == "http" { self.http.as_deref() } else { self.https.as_deref() }?;
        let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let host = host.trim_end_matches('.');
        let port = url.port_or_known_default();
        let is_excepted = self.exceptions.iter().any(|exception| exception.covers(host, port));
        (!is_excepted).then_some(proxy)
    }

    /// The proxies for the HTTP client.
    ///
    /// # Errors
    /// When a variable is not the URL of a proxy.
    pub fn build(&self) -> Result<Vec<Proxy>> {
        // The value is not shown: it may hold a password.
        let refuse = |e: reqwest::Error| {
            Error::input("reading the proxy from the environment", e.without_url())
                .hint("HTTPS_PROXY and HTTP_PROXY are URLs, such as http://proxy.example:3128")
        };
        let proxies = Arc::new(self.clone());
        let mut built = Vec::new();
        for named in [&self.http, &self.https].into_iter().flatten() {
            // As the client reads it: a name without a scheme is an HTTP proxy.
            Proxy::all(named.as_str()).map_err(refuse)?;
        }
        for (scheme, named) in [("http", &self.http), ("https", &self.https)] {
            let Some(named) = named else { continue };
            let (proxies, address) = (Arc::clone(&proxies), named.clone());
            built.push(Proxy::custom(move |url| {
                (url.scheme() == scheme && proxies.of(url).is_some()).then(|| address.clone())
            }));
        }
        Ok(built)
    }
}

impl Exception {
    /// Reads an entry; one that can't be read excepts nothing.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if let Some((address, bits)) = text.split_once('/') {
            let (address, bits) = (address.parse().ok()?, bits.parse().ok()?);
            return Some(Self { host: Hosts::Network(address, bits), port: None });
        }
        let address = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let one = |address: IpAddr| Hosts::Network(address, if address.is_ipv4() { 32 } else { 128 });
        if let Some(address) = address(&text) {
            return Some(Self { host: one(address), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text.as_str(), None),
        };
        let host = match address(host) {
            Some(address) => one(address),
            None if host == "*" => Hosts::All,
            None => match host.strip_prefix("*.") {
                Some(domain) => Hosts::Below(domain.trim_end_matches('.').into()),
                None => Hosts::Domain(host.trim_matches('.').into()),
            },
        };
        let is_empty = matches!(&host, Hosts::Domain(name) | Hosts::Below(name) if name.is_empty());
        (!is_empty).then_some(Self { host, port })
    }

    fn covers(&self, host: &str, port: Option<u16>) -> bool {
        let is_below = |domain: &str| host.strip_suffix(domain).is_some_and(|name| name.ends_with('.'));
        let is_host = match &self.host {
            Hosts::All => true,
            Hosts::Domain(domain) => host == domain || is_below(domain),
            Hosts::Below(domain) => is_below(domain),
            Hosts::Network(network, bits) => host.parse().is_ok_and(|ip| is_in(ip, *network, *bits)),
        };
        is_host && (self.port.is_none() || self.port == port)
    }
}

fn is_in(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    // As 128 bits, whose last 32 an IPv4 address is.
    let (address, network, other) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            (address.to_bits().into(), network.to_bits().into(), 96)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits(), network.to_bits(), 0),
        _ => return false,
    };
    let free = 128_u32.saturating_sub(other + u32::from(bits));
    u128::checked_shr(address ^ network, free).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(no_proxy: &str) -> Proxies {
        Proxies::read(|name| match name {
            "HTTPS_PROXY" | "HTTP_PROXY" => Some("http://proxy.example:3128".into()),
            "NO_PROXY" => Some(no_proxy.into()),
            _ => None,
        })
    }

    #[test]
    fn exceptions_are_read_as_curl_and_go_write_them() {
        for (no_proxy, host, is_direct) in [
            ("", "r.example", false),
            ("", "localhost", true),
            ("", "127.9.9.9:5000", true),
            ("", "[::1]:5000", true),
            ("r.example", "r.example", true),
            ("r.example", "a.r.example:5000", true),
            ("r.example", "xr.example", false),
            ("r.example.", "r.example", true),
            ("R.Example", "r.example", true),
            (".r.example", "a.r.example", true),
            (".r.example", "r.example", true),
            ("*.r.example", "a.r.example", true),
            ("*.r.example", "b.a.r.example:5000", true),
            ("*.r.example", "r.example", false),
            ("*.r.example", "xr.example", false),
            ("r.example:5000", "r.example:5000", true),
            ("r.example:5000", "r.example", false),
            ("r.example:443", "r.example", true),
            ("*.r.example:5000", "a.r.example:5000", true),
            ("*.r.example:5000", "a.r.example:5001", false),
            ("a.example, *.r.example c.example", "x.r.example", true),
            ("a.example c.example", "c.example", true),
            ("*", "r.example", true),
            ("10.0.0.0/8", "10.1.2.3:5000", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3:5000", "10.1.2.3:5000", true),
            ("10.1.2.3:5000", "10.1.2.3:5001", false),
            ("0.0.0.0/0", "10.1.2.3", true),
            ("fd00::/8", "[fd00::1]:5000", true),
            ("fd00::/8", "[fe00::1]", false),
            ("[fd00::1]:5000", "[fd00::1]:5000", true),
            ("fd00::1", "[fd00::1]:5000", true),
            ("10.0.0.0/8", "ten.example", false),
            ("*., :5000, ., /8, x/y", "r.example", false),
        ] {
            let url = Url::parse(&format!("https://{host}/v2/")).expect("a URL");
            assert_eq!(read(no_proxy).of(&url).is_none(), is_direct, "{no_proxy:?} {host}");
        }
    }

    #[test]
    fn proxies_come_from_the_environment() {
        let set = |pairs: &'static [(&str, &str)]| {
            Proxies::read(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).into()))
        };
        let url = |text: &str| Url::parse(text).expect("a URL");
        let none = set(&[("HTTPS_PROXY", "")]);
        assert_eq!((none.of(&url("https://x")), none.build().expect("none").len()), (None, 0));
        let some =
            set(&[("https_proxy", "http://p:1"), ("ALL_PROXY", "http://q:2"), ("no_proxy", "x.example")]);
        assert_eq!(some.of(&url("http://y.example")), Some("http://q:2"));
        assert_eq!(some.of(&url("https://y.example")), Some("http://p:1"));
        assert_eq!(some.of(&url("https://x.example")), None);
        assert_eq!(some.build().expect("proxies").len(), 2);
        assert!(set(&[("HTTPS_PROXY", "http://u:hunter2@[")]).build().is_err());
    }
}
