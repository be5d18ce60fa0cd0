//! Where an HTTP provider is: from a multiaddr to an origin, and to the name under which it is known.

use std::net::IpAddr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use multihash_codetable::{Code, MultihashDigest};
use thiserror::Error;
use url::Url;

/// What stands before the origin in the hash that names an HTTP provider.
const ID_PREFIX: &str = "tidegate http provider ";
/// The longest host name (RFC 1035).
const MAX_HOST: usize = 253;

/// The address is no HTTP provider's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EndpointError {
    #[error("an HTTP provider is /ip4, /ip6 or /dns, /tcp/PORT, then /http, /https or /tls/http")]
    Form,
    #[error("the address makes no URL")]
    Url,
}

/// One HTTP origin, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host: Host,
    pub port: u16,
    /// The certificate's name, where it is not the host's (`/tls/sni/NAME`).
    sni: Option<String>,
    /// What the origin serves `/ipfs/` under; starts and ends in `/`.
    path: String,
    pub secure: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Ip(IpAddr),
    Name { name: String, family: Family },
}

/// Which addresses of a name count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Any,
    V4,
    V6,
}

impl Endpoint {
    /// `/ip4|ip6|dns|dns4|dns6/…/tcp/PORT` then `/http`, `/https`, `/tls/http` or `/tls/sni/NAME/http`, and perhaps
    /// `/http-path/PATH`.
    pub fn parse(addr: &Multiaddr) -> Result<Self, EndpointError> {
        let name = |name: &str, family| Host::Name { name: name.to_ascii_lowercase(), family };
        let mut parts = addr.iter();
        let host = match parts.next() {
            Some(Protocol::Ip4(ip)) => Host::Ip(ip.into()),
            Some(Protocol::Ip6(ip)) => Host::Ip(ip.into()),
            Some(Protocol::Dns(host)) => name(&host, Family::Any),
            Some(Protocol::Dns4(host)) => name(&host, Family::V4),
            Some(Protocol::Dns6(host)) => name(&host, Family::V6),
            _ => return Err(EndpointError::Form),
        };
        let Some(Protocol::Tcp(port)) = parts.next() else { return Err(EndpointError::Form) };
        let (mut secure, mut sni) = (false, None);
        let mut part = parts.next();
        if part == Some(Protocol::Tls) {
            secure = true;
            part = parts.next();
            if let Some(Protocol::Sni(name)) = &part {
                sni = Some(name.to_ascii_lowercase());
                part = parts.next();
            }
            if part != Some(Protocol::Http) {
                return Err(EndpointError::Form);
            }
        }
        match part {
            Some(Protocol::Http) => {}
            Some(Protocol::Https) => secure = true,
            _ => return Err(EndpointError::Form),
        }
        let mut path = "/".to_owned();
        part = parts.next();
        if let Some(Protocol::HttpPath(under)) = &part {
            let under = percent_encoding::percent_decode_str(under).decode_utf8().map_err(|_| EndpointError::Url)?;
            path = format!("/{}/", under.trim_matches('/')).replace("//", "/");
            part = parts.next();
        }
        if part.is_some() || port == 0 {
            return Err(EndpointError::Form);
        }
        let endpoint = Self { host, port, sni, path, secure };
        endpoint.url().map(|_| endpoint)
    }

    /// What `/ipfs/…` is relative to; ends in `/`.
    pub fn url(&self) -> Result<Url, EndpointError> {
        let scheme = if self.secure { "https" } else { "http" };
        let host = self.url_host();
        if host.len() > MAX_HOST || host.contains(['/', '@', '?', '#', '\\']) {
            return Err(EndpointError::Url);
        }
        let mut url = Url::parse(&format!("{scheme}://{host}:{}/", self.port)).map_err(|_| EndpointError::Url)?;
        url.set_path(&self.path);
        Ok(url)
    }

    /// The host of [`Endpoint::url`] where that is a name: it must be given its addresses.
    pub fn name(&self) -> Option<&str> {
        match (&self.sni, &self.host) {
            (Some(name), _) | (None, Host::Name { name, .. }) => Some(name),
            (None, Host::Ip(_)) => None,
        }
    }

    /// The name of the provider: the SHA-256 of its origin, as a peer ID. It follows from the address alone, so a
    /// provider keeps its figures over restarts, whoever names it. Nobody holds a key to it: an HTTP server proves no
    /// peer ID, and one that a router put beside its address must not be blamed for what the server sends.
    pub fn id(&self) -> PeerId {
        let mut origin = self.url().map(String::from).unwrap_or_default();
        if let (Some(_), Host::Ip(ip)) = (&self.sni, &self.host) {
            origin.push_str(&format!("@{ip}"));
        }
        let hash = Code::Sha2_256.digest(format!("{ID_PREFIX}{origin}").as_bytes());
        // Local invariant: every sha2-256 multihash is a peer ID.
        PeerId::from_bytes(&hash.to_bytes()).expect("sha2-256 names a peer")
    }

    fn url_host(&self) -> String {
        match (self.name(), &self.host) {
            (None, Host::Ip(IpAddr::V6(ip))) => format!("[{ip}]"),
            (None, Host::Ip(ip)) => ip.to_string(),
            (Some(name), _) => name.to_owned(),
            (None, Host::Name { name, .. }) => name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::parse(&text.parse().unwrap())
    }

    fn url(text: &str) -> String {
        parse(text).unwrap().url().unwrap().into()
    }

    #[test]
    fn each_form_of_an_address_gives_its_url() {
        assert_eq!(url("/ip4/192.0.2.1/tcp/8080/http"), "http://192.0.2.1:8080/");
        assert_eq!(url("/ip6/2001:db8::1/tcp/80/http"), "http://[2001:db8::1]/");
        assert_eq!(url("/dns4/Cdn.Example/tcp/443/https"), "https://cdn.example/");
        assert_eq!(url("/dns/cdn.example/tcp/8443/tls/http"), "https://cdn.example:8443/");
        assert_eq!(url("/ip4/192.0.2.1/tcp/443/tls/sni/cdn.example/http"), "https://cdn.example/");
        assert_eq!(url("/ip4/192.0.2.1/tcp/80/http/http-path/a%2Fb"), "http://192.0.2.1/a/b/");
    }

    #[test]
    fn anything_else_is_no_http_provider() {
        for text in [
            "/ip4/192.0.2.1/tcp/4001",
            "/ip4/192.0.2.1/udp/80/http",
            "/ip4/192.0.2.1/tcp/0/http",
            "/ip4/192.0.2.1/tcp/443/tls",
            "/ip4/192.0.2.1/tcp/443/tls/ws",
            "/ip4/192.0.2.1/tcp/80/http/p2p/12D3KooWM8sovaEGU1bmiWGWAzvs47DEcXKZZTuJnpQyVTkRs2Vn",
            "/dns4/a.example@b.example/tcp/80/http",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_name_follows_from_the_origin_alone() {
        let id = |text: &str| parse(text).unwrap().id();
        assert_eq!(id("/dns4/a.example/tcp/443/https"), id("/dns/A.example/tcp/443/tls/http"));
        assert_ne!(id("/dns4/a.example/tcp/443/https"), id("/dns4/a.example/tcp/444/https"));
        assert_ne!(id("/ip4/192.0.2.1/tcp/80/http"), id("/ip4/192.0.2.1/tcp/80/https"));
        // A name that ended up in databases and ledgers must not change.
        assert_eq!(id("/ip4/127.0.0.1/tcp/8080/http").to_string(), "QmNbW2TTnQSjYcuUrV44F8e8DrRdiQQn6Y8B4f1KgkiMHc");
    }

    proptest! {
        #[test]
        fn arbitrary_addresses_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(addr) = Multiaddr::try_from(bytes)
                && let Ok(endpoint) = Endpoint::parse(&addr)
            {
                prop_assert!(endpoint.url().is_ok());
                let _ = endpoint.id();
            }
        }
    }
}
