//! What the operator chooses about the node.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::units::ByteSize;

/// The public Amino bootstrappers, as current Kubo names them.
pub const AMINO_BOOTSTRAPPERS: [&str; 5] = [
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmbLHAnMoJPWSCR5Zhtx6BHJX9KiKNN6tpvbUcqanj75Nb",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmcZf59bWwK5XFi76CZX8cbJ4BhTzzA3gU1ZjYZcYW3dwt",
    "/dnsaddr/va1.bootstrap.libp2p.io/p2p/12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8",
];

const LISTEN: [&str; 4] =
    ["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1", "/ip6/::/tcp/4001", "/ip6/::/udp/4001/quic-v1"];

/// See each field. Bounds hold per process.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Addresses to listen on. Default: TCP and QUIC on port 4001, IPv4 and IPv6. Port 0 takes a free one. An empty
    /// list listens nowhere: the node then only dials.
    pub listen: Vec<Multiaddr>,
    /// Peers kept connected, and asked for every block: multiaddrs ending in `/p2p/ID`. Addresses ending in `/http`,
    /// `/https` or `/tls/http` are HTTP providers and not the node's concern. Default: none.
    pub peers: Vec<Multiaddr>,
    /// Where the DHT starts from: `"default"` (the public Amino bootstrappers), `"none"`, or a list of multiaddrs.
    pub bootstrap: Bootstrap,
    /// Ask the DHT for providers. Default: true.
    pub dht: bool,
    /// Answer other peers' DHT queries: only for nodes with a public address. Default: false.
    pub dht_server: bool,
    /// Look for peers on the local network. Default: true.
    pub mdns: bool,
    /// Ask the home router to forward the ports. Default: false.
    pub upnp: bool,
    /// No network at all: no listener, no dial. Default: false.
    pub offline: bool,
    /// Private and loopback ranges that routing results may name. Configured peers and mDNS are exempt. Default: none.
    pub allow_private: Vec<IpNet>,
    /// Resolver for `/dns` and `/dnsaddr` names: `system`, `none`, an address such as `1.1.1.1:53`, or
    /// the URL of a DNS-over-HTTPS endpoint.
    pub dns: Dns,
    /// Established connections, both ways together. Default: 1,024. 0 means no limit.
    pub max_connections: u32,
    /// Established inbound connections. Default: 512. 0 means no limit.
    pub max_inbound: u32,
    /// Connections to one peer. Default: 4. 0 means no limit.
    pub max_per_peer: u32,
    /// Dials, and inbound handshakes, that may be under way. Default: 256 each. 0 means no limit.
    pub max_pending: u32,
    /// No new connection is taken while the process holds more than this. Default: 0, which means 90 % of the
    /// machine's memory.
    pub max_memory: ByteSize,
    /// A connection without traffic is closed after this long; configured peers' stay. Default: 2 minutes.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long one address may take to be dialled and secured. Default: 10 seconds.
    #[serde(with = "humantime_serde")]
    pub dial_timeout: Duration,
}

/// Where the DHT starts from.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Bootstrap {
    /// [`AMINO_BOOTSTRAPPERS`].
    #[default]
    Default,
    None,
    List(Vec<Multiaddr>),
}

/// Which resolver is asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Dns {
    #[default]
    System,
    None,
    Server(SocketAddr),
    /// DNS over HTTPS (RFC 8484), by the URL of its endpoint. Its own name is looked up once, by the system's resolver.
    Https(Box<Url>),
}

/// The text is no choice of resolver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a resolver: write system, none, an address such as 1.1.1.1:53, or https://HOST/dns-query")]
pub struct DnsError(String);

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: LISTEN.iter().filter_map(|addr| addr.parse().ok()).collect(),
            peers: Vec::new(),
            bootstrap: Bootstrap::Default,
            dht: true,
            dht_server: false,
            mdns: true,
            upnp: false,
            offline: false,
            allow_private: Vec::new(),
            dns: Dns::System,
            max_connections: 1024,
            max_inbound: 512,
            max_per_peer: 4,
            max_pending: 256,
            max_memory: ByteSize(0),
            idle_timeout: Duration::from_secs(120),
            dial_timeout: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// A node of tests and trials: loopback TCP and QUIC on free ports, and no discovery of any kind.
    pub fn loopback() -> Self {
        Self {
            listen: ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]
                .iter()
                .filter_map(|addr| addr.parse().ok())
                .collect(),
            bootstrap: Bootstrap::None,
            dht: false,
            mdns: false,
            dns: Dns::None,
            ..Self::default()
        }
    }
}

impl Bootstrap {
    pub fn addresses(&self) -> Vec<Multiaddr> {
        match self {
            Self::Default => AMINO_BOOTSTRAPPERS.iter().filter_map(|addr| addr.parse().ok()).collect(),
            Self::None => Vec::new(),
            Self::List(list) => list.clone(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum BootstrapForm {
    List(Vec<Multiaddr>),
    Word(String),
}

impl Serialize for Bootstrap {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Default => serializer.serialize_str("default"),
            Self::None => serializer.serialize_str("none"),
            Self::List(list) => list.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Bootstrap {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match BootstrapForm::deserialize(deserializer)? {
            BootstrapForm::Word(word) if word == "default" => Ok(Self::Default),
            BootstrapForm::Word(word) if word == "none" => Ok(Self::None),
            BootstrapForm::Word(word) => {
                word.parse().map(|addr| Self::List(vec![addr])).map_err(serde::de::Error::custom)
            }
            BootstrapForm::List(list) => Ok(Self::List(list)),
        }
    }
}

impl FromStr for Dns {
    type Err = DnsError;

    fn from_str(text: &str) -> Result<Self, DnsError> {
        match text {
            "system" => Ok(Self::System),
            "none" => Ok(Self::None),
            https if https.starts_with("https://") => match Url::parse(https) {
                Ok(url) if url.host_str().is_some_and(|host| !host.is_empty()) => Ok(Self::Https(Box::new(url))),
                _ => Err(DnsError(text.to_owned())),
            },
            address => address
                .parse()
                .or_else(|_| address.parse().map(|ip| SocketAddr::new(ip, 53)))
                .map(Self::Server)
                .map_err(|_| DnsError(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::None => f.write_str("none"),
            Self::Server(address) => address.fmt(f),
            Self::Https(url) => url.fmt(f),
        }
    }
}

impl Serialize for Dns {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Dns {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_survives_a_trip_through_toml() {
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default());
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
        assert!(toml::from_str::<Config>("lisen = []").is_err());
    }

    #[test]
    fn every_built_in_address_parses() {
        assert_eq!(Config::default().listen.len(), LISTEN.len());
        assert_eq!(Bootstrap::Default.addresses().len(), AMINO_BOOTSTRAPPERS.len());
    }

    #[test]
    fn resolvers_are_words_or_addresses() {
        assert_eq!("none".parse(), Ok(Dns::None));
        assert_eq!("9.9.9.9".parse(), Ok(Dns::Server("9.9.9.9:53".parse().unwrap())));
        assert_eq!(
            "https://dns.example/dns-query".parse::<Dns>().unwrap().to_string(),
            "https://dns.example/dns-query"
        );
        assert!("nowhere".parse::<Dns>().is_err() && "https://".parse::<Dns>().is_err());
    }
}
