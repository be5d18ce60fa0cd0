//! Which machine an HTTP provider's address leads to, and whether it may be asked (RELIABILITY.md §3.7).
//!
//! Names are resolved here and nowhere else: what is connected to is the address that was judged.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};
use ipnet::IpNet;

use super::endpoint::{Endpoint, Family, Host};
use crate::exchange::ConnectError;
use crate::exchange::address::is_public;

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// How long a name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module.
pub struct Guard {
    allowed: Vec<IpNet>,
    /// `None`: names are not resolved (`--dns none`).
    resolver: Option<TokioResolver>,
}

impl Guard {
    pub fn new(allowed: Vec<IpNet>, dns: Option<(ResolverConfig, ResolverOpts)>) -> Result<Self, NetError> {
        let resolver = match dns {
            Some((config, options)) => {
                let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
                Some(builder.with_options(options).build()?)
            }
            None => None,
        };
        Ok(Self { allowed, resolver })
    }

    /// The addresses that may be connected to. `trusted`: the operator named the provider, so its address may be private
    /// and its HTTP plain; of others, plain HTTP is taken inside --allow-private only.
    pub async fn addresses(&self, endpoint: &Endpoint, trusted: bool) -> Result<Vec<SocketAddr>, ConnectError> {
        let all = match &endpoint.host {
            Host::Ip(ip) => vec![*ip],
            Host::Name { name, family } => self.resolve(name, *family).await?,
        };
        let permitted = |ip: &IpAddr| trusted || self.permits(*ip, endpoint.secure);
        let kept: Vec<SocketAddr> =
            all.iter().filter(|ip| permitted(ip)).take(MAX_ADDRESSES).map(|ip| (*ip, endpoint.port).into()).collect();
        match (kept.is_empty(), all.is_empty()) {
            (false, _) => Ok(kept),
            (true, true) => Err(ConnectError::NoAddress),
            (true, false) => Err(ConnectError::PrivateAddress),
        }
    }

    fn permits(&self, ip: IpAddr, secure: bool) -> bool {
        let named = |ip: &IpAddr| self.allowed.iter().any(|net| net.contains(ip));
        // 127.0.0.1 is the same machine when it is written as an IPv6 address.
        named(&ip) || named(&ip.to_canonical()) || (secure && is_public(ip))
    }

    async fn resolve(&self, name: &str, family: Family) -> Result<Vec<IpAddr>, ConnectError> {
        let resolver = self.resolver.as_ref().ok_or(ConnectError::NoAddress)?;
        let found = tokio::time::timeout(RESOLVE_TIMEOUT, resolver.lookup_ip(name))
            .await
            .map_err(|_| ConnectError::Timeout(RESOLVE_TIMEOUT))?
            .map_err(|error| ConnectError::Dial(format!("name not resolved: {error}")))?;
        let wanted = |ip: &IpAddr| match family {
            Family::Any => true,
            Family::V4 => ip.is_ipv4(),
            Family::V6 => ip.is_ipv6(),
        };
        Ok(found.iter().filter(wanted).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(guard: &Guard, addr: &str, trusted: bool) -> Result<Vec<SocketAddr>, ConnectError> {
        guard.addresses(&Endpoint::parse(&addr.parse().unwrap()).unwrap(), trusted).await
    }

    #[tokio::test]
    async fn what_leads_inside_is_refused_unless_the_operator_named_it_or_its_range() {
        let guard = Guard::new(vec!["10.1.0.0/16".parse().unwrap()], None).unwrap();
        for inside in [
            "/ip4/127.0.0.1/tcp/443/https",
            "/ip4/10.2.0.1/tcp/443/https",
            "/ip4/169.254.169.254/tcp/443/https",
            "/ip4/100.64.0.1/tcp/443/https",
            "/ip6/::1/tcp/443/https",
            "/ip6/fe80::1/tcp/443/https",
            "/ip6/::ffff:127.0.0.1/tcp/443/https",
        ] {
            assert_eq!(ask(&guard, inside, false).await, Err(ConnectError::PrivateAddress), "{inside}");
            assert!(ask(&guard, inside, true).await.is_ok(), "{inside}");
        }
        assert!(ask(&guard, "/ip4/10.1.2.3/tcp/80/http", false).await.is_ok());
        assert!(ask(&guard, "/ip6/::ffff:10.1.2.3/tcp/80/http", false).await.is_ok());
    }

    #[tokio::test]
    async fn plain_http_from_a_router_is_refused_outside_the_allowed_ranges() {
        let guard = Guard::new(vec![], None).unwrap();
        assert!(ask(&guard, "/ip4/1.1.1.1/tcp/443/https", false).await.is_ok());
        assert_eq!(ask(&guard, "/ip4/1.1.1.1/tcp/80/http", false).await, Err(ConnectError::PrivateAddress));
        assert!(ask(&guard, "/ip4/1.1.1.1/tcp/80/http", true).await.is_ok());
    }

    #[tokio::test]
    async fn without_a_resolver_a_name_leads_nowhere() {
        let guard = Guard::new(vec![], None).unwrap();
        assert_eq!(ask(&guard, "/dns4/a.example/tcp/443/https", true).await, Err(ConnectError::NoAddress));
    }
}
