//! Names to addresses, in Rust: a static binary can't load the C library's modules for it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;

/// `/etc/hosts` and the name servers of this machine. Where it has none, nobody is asked: the HTTP client's own
/// resolver would then ask public servers, and tell them the names inside an air gap.
#[derive(Clone, Default)]
pub(super) struct Names {
    /// Made when first used: that needs the runtime.
    resolver: Arc<OnceCell<TokioResolver>>,
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            // Known without asking anybody (RFC 6761, 6.3); there may be no /etc/hosts.
            if name.as_str() == "localhost" {
                let both: [SocketAddr; 2] =
                    [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
                return Ok(Box::new(both.into_iter()) as Addrs);
            }
            let resolver = names.resolver.get_or_try_init(async || of_this_machine()).await?;
            let found = resolver.lookup_ip(name.as_str()).await?;
            let addresses: Vec<SocketAddr> = found.iter().map(|ip| (ip, 0).into()).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
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
