//! The health check: one GET over plain HTTP, for images that hold no shell and no curl.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Longest wait for a connection, and then for each part of the answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks `url` (`http://HOST[:PORT][/PATH]`); anything but status 200 is an error that says why.
pub fn check(url: &str) -> Result<(), String> {
    let (host, port, path) = parts(url).ok_or_else(|| format!("{url}: not http://HOST[:PORT][/PATH]"))?;
    match ask(host, port, path) {
        Ok(200) => Ok(()),
        Ok(status) => Err(format!("{url}: status {status}")),
        Err(e) => Err(format!("{url}: {e}")),
    }
}

/// Host, port and path. No user and no query: nothing that the service's own addresses need.
fn parts(url: &str) -> Option<(&str, u16, &str)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
        // An IPv6 address, in which colons are no port's.
        Some((host, port)) => (host, if port.is_empty() { "80" } else { port.strip_prefix(':')? }),
        None => authority.split_once(':').unwrap_or((authority, "80")),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/:".contains(c);
    let path = if path.is_empty() { "/" } else { path };
    (!host.is_empty() && host.chars().chain(path.chars()).all(plain)).then_some(())?;
    Some((host, port.parse().ok()?, path))
}

fn ask(host: &str, port: u16, path: &str) -> std::io::Result<u16> {
    let unknown = || std::io::Error::other("the name has no address");
    let address = (host, port).to_socket_addrs()?.next().ok_or_else(unknown)?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut start = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut start)?;
    std::str::from_utf8(&start)
        .ok()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| std::io::Error::other("the answer is not HTTP/1.1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, expected) in [
            ("http://127.0.0.1:8000/healthz", Some(("127.0.0.1", 8000, "/healthz"))),
            ("http://hello", Some(("hello", 80, "/"))),
            ("http://hello/readyz", Some(("hello", 80, "/readyz"))),
            ("http://[::1]:8000/healthz", Some(("::1", 8000, "/healthz"))),
            ("http://[::1]", Some(("::1", 80, "/"))),
            ("http://[::1]x", None),
            ("https://hello", None),
            ("http://", None),
            ("http://hello:x/", None),
            ("http://hello:80/a b", None),
            ("http://hello/\r\nX: y", None),
        ] {
            assert_eq!(parts(url), expected, "{url}");
        }
    }
}
