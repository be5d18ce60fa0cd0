//! What every way out of this machine must agree on: which addresses are public, and which name an HTTP provider.

use std::net::IpAddr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// Whether the address names an HTTP provider, which is asked over HTTP and not dialled by the node.
pub fn is_http(addr: &Multiaddr) -> bool {
    let last = addr.iter().filter(|part| !matches!(part, Protocol::HttpPath(_))).last();
    matches!(last, Some(Protocol::Http | Protocol::Https))
}

/// Not loopback, private, link-local, shared, documentation, benchmarking, multicast or reserved (RFC 6890 and its
/// registry; addresses mapped into IPv6 are judged as what they are).
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_broadcast()
                || ip.is_documentation()
                || ip.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (b == 18 || b == 19))
                || (a == 192 && b == 0 && c == 0))
        }
        IpAddr::V6(ip) => {
            if let Some(ip) = ip.to_ipv4_mapped() {
                return is_public(IpAddr::V4(ip));
            }
            let [first, second, ..] = ip.segments();
            if first == 0x0064 && second == 0xff9b {
                // NAT64: the last 32 bits are what is reached.
                let [.., a, b] = ip.segments();
                return is_public(IpAddr::V4((u32::from(a) << 16 | u32::from(b)).into()));
            }
            // Global unicast is 2000::/3; documentation lies inside it.
            first & 0xe000 == 0x2000 && !(first == 0x2001 && second == 0x0db8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_lead_inside_are_private() {
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.1.1",
            "172.16.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2001:db8::1",
            "ff02::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["1.1.1.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:8.8.8.8"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn an_http_provider_is_known_by_the_end_of_its_address() {
        let is = |text: &str| is_http(&text.parse().unwrap());
        for http in ["/ip4/1.2.3.4/tcp/80/http", "/dns4/a.example/tcp/443/https", "/dns/a.example/tcp/443/tls/http"] {
            assert!(is(http), "{http}");
        }
        assert!(is("/ip4/1.2.3.4/tcp/80/http/http-path/ipfs%2Fhere"));
        assert!(!is("/ip4/1.2.3.4/tcp/4001") && !is("/ip4/1.2.3.4/udp/4001/quic-v1"));
    }
}
