//! The address by which others reach the registry, which is seldom the one that it listens on.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use tokio::net::TcpStream;

use crate::error::{Error, Result};
use crate::registry::addresses;

/// How long a connection to ourselves may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// `HOST[:PORT]`: a name or an address, IPv6 in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// The name or address, without brackets.
    pub host: String,
    /// The port; none is the one that is listened on.
    pub port: Option<u16>,
}

impl std::str::FromStr for Advertised {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::input("reading --advertise", format!("{text:?} is no HOST[:PORT]"))
                .hint("give the name or address by which nodes reach this machine, such as 10.0.0.5:5000")
        };
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => match rest {
                "" => (host, None),
                _ => (host, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
            },
            // An IPv6 address without brackets has no port.
            None if text.parse::<IpAddr>().is_ok() => (text, None),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map(|port| port.parse::<u16>().map_err(|_| wrong())).transpose()?;
        match ServerName::try_from(host) {
            Ok(_) if port != Some(0) => Ok(Self { host: host.to_ascii_lowercase(), port }),
            _ => Err(wrong()),
        }
    }
}

impl Advertised {
    /// As it stands in a reference or a URL.
    #[must_use]
    pub fn with_port(&self, listening: u16) -> String {
        let port = self.port.unwrap_or(listening);
        match self.host.contains(':') {
            true => format!("[{}]:{port}", self.host),
            false => format!("{}:{port}", self.host),
        }
    }

    /// Checks that others can reach it where `listening` is all that is listened on.
    ///
    /// # Errors
    /// When that is loopback, and this is not.
    pub fn check_listening(&self, listening: IpAddr) -> Result<()> {
        let own: Option<IpAddr> = self.host.parse().ok();
        let within = self.host == "localhost" || own.is_some_and(|address| address.is_loopback());
        if listening.is_loopback() && !within {
            let why = format!("only {listening} is listened on, which is this machine's own");
            return Err(Error::input(format!("advertising {}", self.host), why)
                .hint("add --listen 0.0.0.0:5000, or the address that nodes reach"));
        }
        Ok(())
    }

    /// Checks that a certificate has the name.
    ///
    /// # Errors
    /// When it has not: whoever connects would refuse it.
    pub fn check_certificate(&self, certificate: &CertificateDer) -> Result<()> {
        let failed = |e: rustls::Error| {
            Error::input(format!("advertising {} with the certificate", self.host), e).hint(
                "nodes would refuse it: advertise a name that it has, or make one that has this name \
                       (--tls-self-signed does)",
            )
        };
        let name = ServerName::try_from(self.host.as_str())
            .map_err(|e| Error::input(format!("advertising {}", self.host), e))?;
        ParsedCertificate::try_from(certificate)
            .and_then(|parsed| verify_server_name(&parsed, &name))
            .map_err(failed)
    }

    /// Why this machine itself can't connect there, if it can't.
    pub async fn unreachable(&self, listening: u16) -> Option<String> {
        let port = self.port.unwrap_or(listening);
        let found = addresses(&self.host).await;
        if found.is_empty() {
            return Some(format!("no address is known for {}", self.host));
        }
        let mut why = String::new();
        for address in found {
            let connect = TcpStream::connect(SocketAddr::from((address, port)));
            match tokio::time::timeout(PATIENCE, connect).await {
                Ok(Ok(_)) => return None,
                Ok(Err(e)) => why = format!("{address} port {port}: {e}"),
                Err(_) => why = format!("{address} port {port}: no answer"),
            }
        }
        Some(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_names_or_numbers_with_or_without_a_port() {
        for (text, host, port, shown) in [
            ("site.example", "site.example", None, "site.example:5000"),
            ("Site:80", "site", Some(80), "site:80"),
            ("10.0.0.1:443", "10.0.0.1", Some(443), "10.0.0.1:443"),
            ("::1", "::1", None, "[::1]:5000"),
            ("[fd00::1]:80", "fd00::1", Some(80), "[fd00::1]:80"),
            ("[fd00::1]", "fd00::1", None, "[fd00::1]:5000"),
        ] {
            let advertised: Advertised = text.parse().expect(text);
            assert_eq!((advertised.host.as_str(), advertised.port), (host, port), "{text}");
            assert_eq!(advertised.with_port(5000), shown);
        }
        for text in
            ["", ":80", "a:", "a:0", "a:65536", "a b", "http://a", "a/b", "[::1", "[::1]80", "ü", "a:1:2"]
        {
            assert!(text.parse::<Advertised>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn loopback_is_not_advertised_to_others() {
        let check = |host: &str, listening: &str| {
            let advertised: Advertised = host.parse().expect(host);
            advertised.check_listening(listening.parse().expect(listening)).is_ok()
        };
        assert!(check("127.0.0.1", "127.0.0.1") && check("localhost", "::1") && check("site", "0.0.0.0"));
        assert!(!check("site", "127.0.0.1") && !check("10.0.0.1", "::1"));
    }
}
