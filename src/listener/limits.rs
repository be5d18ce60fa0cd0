//! How many connections an address may hold.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

use super::{Config, Reason};

/// Counts open connections. Its map holds at most one entry per open connection.
#[derive(Clone)]
pub(super) struct Limiter {
    inner: Arc<Inner>,
}

struct Inner {
    per_address: u32,
    total: u32,
    exempt: Vec<IpNet>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    total: u32,
    by_address: HashMap<IpAddr, u32>,
}

/// A place taken; given back on drop.
pub(super) struct Place {
    inner: Arc<Inner>,
    counted: Option<IpAddr>,
}

impl Limiter {
    pub(super) fn new(config: &Config, exempt: Vec<IpNet>) -> Self {
        let unbounded = |n: u32| if n == 0 { u32::MAX } else { n };
        Self {
            inner: Arc::new(Inner {
                per_address: unbounded(config.connections_per_ip),
                total: unbounded(config.connections),
                exempt,
                open: Mutex::default(),
            }),
        }
    }

    pub(super) fn admit(&self, address: IpAddr) -> Result<Place, Reason> {
        let address = address.to_canonical();
        let exempt = address.is_loopback() || self.inner.exempt.iter().any(|net| net.contains(&address));
        let counted = (!exempt).then(|| bucket(address));
        let mut open = self.inner.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= self.inner.total {
            return Err(Reason::Full);
        }
        if let Some(key) = counted {
            let held = open.by_address.entry(key).or_insert(0);
            if *held >= self.inner.per_address {
                return Err(Reason::PerIp);
            }
            *held += 1;
        }
        open.total += 1;
        Ok(Place { inner: self.inner.clone(), counted })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.inner.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total -= 1;
        let Some(key) = self.counted else { return };
        if let Some(held) = open.by_address.get_mut(&key) {
            *held -= 1;
            if *held == 0 {
                open.by_address.remove(&key);
            }
        }
    }
}

/// One customer: an IPv4 address, or the /64 that a provider hands to one IPv6 site (RFC 6177).
fn bucket(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(per_ip: u32, total: u32) -> Limiter {
        let config = Config { connections_per_ip: per_ip, connections: total, ..Config::default() };
        Limiter::new(&config, vec!["10.0.0.0/8".parse().unwrap()])
    }

    #[test]
    fn an_address_gets_its_places_back_when_connections_end() {
        let limiter = limiter(2, 0);
        let address = "192.0.2.1".parse().unwrap();
        let first = limiter.admit(address).ok().unwrap();
        let _second = limiter.admit(address).ok().unwrap();
        assert_eq!(limiter.admit(address).err(), Some(Reason::PerIp));
        assert!(limiter.admit("192.0.2.2".parse().unwrap()).is_ok());
        drop(first);
        assert!(limiter.admit(address).is_ok());
    }

    #[test]
    fn an_ipv6_site_counts_as_one_and_mapped_addresses_as_ipv4() {
        let limiter = limiter(1, 0);
        let _held = limiter.admit("2001:db8:1:2::1".parse().unwrap()).ok().unwrap();
        assert_eq!(limiter.admit("2001:db8:1:2:ffff::9".parse().unwrap()).err(), Some(Reason::PerIp));
        assert!(limiter.admit("2001:db8:1:3::1".parse().unwrap()).is_ok());
        let _held = limiter.admit("::ffff:192.0.2.1".parse().unwrap()).ok().unwrap();
        assert_eq!(limiter.admit("192.0.2.1".parse().unwrap()).err(), Some(Reason::PerIp));
    }

    #[test]
    fn loopback_and_trusted_proxies_are_exempt_but_not_from_the_total() {
        let limiter = limiter(1, 3);
        let places: Vec<_> = ["127.0.0.1", "127.0.0.1", "10.1.2.3"]
            .iter()
            .map(|address| limiter.admit(address.parse().unwrap()).ok().unwrap())
            .collect();
        assert_eq!(limiter.admit("10.1.2.3".parse().unwrap()).err(), Some(Reason::Full));
        drop(places);
        assert!(limiter.inner.open.lock().unwrap().by_address.is_empty());
    }
}
