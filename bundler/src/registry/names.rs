//! Names to addresses, in Rust: a static binary can't load the C library's modules for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hyper_util::client::legacy::connect::dns;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;

/// `/etc/hosts` and the name servers of this machine. Where it has none, nobody is asked: the HTTP client's own
/// resolver would then ask public servers, and tell them the names inside an air gap.
#[derive(Clone, Default)]
pub(crate) struct Names {
    /// Made when first used: that needs the runtime.
    resolver: Arc<OnceCell<TokioResolver>>,
}

impl Names {
    async fn addresses(&self, name: &str) -> Result<Vec<SocketAddr>, NetError> {
        // Known without asking anybody (RFC 6761, 6.3); there may be no /etc/hosts.
        if name == "localhost" {
            return Ok(vec![(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()]);
        }
        let resolver = self.resolver.get_or_try_init(async || of_this_machine()).await?;
        Ok(resolver.lookup_ip(name).await?.iter().map(|ip| (ip, 0).into()).collect())
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move { Ok(Box::new(names.addresses(name.as_str()).await?.into_iter()) as Addrs) })
    }
}

/// The same for the connector to a cluster.
impl tower::Service<dns::Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = NetError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NetError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: dns::Name) -> Self::Future {
        let names = self.clone();
        Box::pin(async move { Ok(names.addresses(name.as_str()).await?.into_iter()) })
    }
}

/// Addresses of a host's name or literal address; none where nobody knows any.
pub(crate) async fn addresses(host: &str) -> Vec<IpAddr> {
    if host == "localhost" {
        return vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    if let Ok(address) = host.parse() {
        return vec![address];
    }
    let Ok(resolver) = of_this_machine() else { return vec![] };
    resolver.lookup_ip(host).await.map(|found| found.iter().collect()).unwrap_or_default()
}

/// Whether a host's name, or literal address, leads to an address that is not public. A name without an address leads nowhere.
pub(super) async fn is_inside(host: &str) -> bool {
    if host == "localhost" {
        return true;
    }
    if let Ok(address) = host.parse() {
        return !is_public(address);
    }
    let Ok(resolver) = of_this_machine() else { return false };
    resolver.lookup_ip(host).await.is_ok_and(|found| found.iter().any(|address| !is_public(address)))
}

/// Not of the special-purpose registries (RFC 6890) that can be reached from here.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let is_shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || is_shared)
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public(v4.into()),
            None => {
                !(v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_unique_local()
                    || v6.is_unicast_link_local())
            }
        },
    }
}

fn of_this_machine() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
        tracing::debug!(%error, "no name servers");
        let nobody = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        TokioResolver::builder_with_config(nobody, TokioRuntimeProvider::default())
    });
    // Both kinds of addresses, so that the connector can try the other when one leads nowhere.
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_are_told_from_public_ones() {
        for inside in [
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_public(inside.parse().expect(inside)), "{inside}");
        }
        for public in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(is_public(public.parse().expect(public)), "{public}");
        }
    }
}
