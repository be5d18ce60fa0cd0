//! From the operator's choice of a resolver to one that can be asked.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use url::{Host, Url};

use super::config::Dns;

/// Addresses of a DNS-over-HTTPS server that are used.
const MAX_SERVERS: usize = 4;

/// Servers and options; `None` for [`Dns::None`]. Looks up the name of a DNS-over-HTTPS server, so it may take a moment:
/// it is called while the program starts.
pub fn config(dns: &Dns) -> io::Result<Option<(ResolverConfig, ResolverOpts)>> {
    let servers = match dns {
        Dns::None => return Ok(None),
        Dns::System => return hickory_resolver::system_conf::read_system_conf().map(Some).map_err(io::Error::other),
        Dns::Server(address) => vec![with_port(NameServerConfig::udp_and_tcp(address.ip()), address.port())],
        Dns::Https(url) => https(url)?,
    };
    Ok(Some((ResolverConfig::from_name_servers(servers), ResolverOpts::default())))
}

fn https(url: &Url) -> io::Result<Vec<NameServerConfig>> {
    let unusable = || io::Error::new(io::ErrorKind::InvalidInput, format!("{url} names no server"));
    let port = url.port_or_known_default().ok_or_else(unusable)?;
    let (name, addresses): (String, Vec<SocketAddr>) = match url.host().ok_or_else(unusable)? {
        Host::Ipv4(ip) => (ip.to_string(), vec![(ip, port).into()]),
        Host::Ipv6(ip) => (ip.to_string(), vec![(ip, port).into()]),
        Host::Domain(name) => (name.to_owned(), (name, port).to_socket_addrs()?.take(MAX_SERVERS).collect()),
    };
    if addresses.is_empty() {
        return Err(unusable());
    }
    let (name, path): (Arc<str>, Arc<str>) = (name.into(), url.path().into());
    let server = |address: &SocketAddr| NameServerConfig::https(address.ip(), name.clone(), Some(path.clone()));
    Ok(addresses.iter().map(|address| with_port(server(address), port)).collect())
}

fn with_port(mut server: NameServerConfig, port: u16) -> NameServerConfig {
    server.connections.iter_mut().for_each(|connection| connection.port = port);
    server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_gives_its_servers() {
        let servers = |text: &str| {
            let (config, _) = config(&text.parse().unwrap()).unwrap().unwrap();
            let server = config.name_servers()[0].clone();
            (server.ip.to_string(), server.connections[0].port, server.connections.len())
        };
        assert!(config(&Dns::None).unwrap().is_none());
        assert_eq!(servers("127.0.0.1:5353"), ("127.0.0.1".into(), 5353, 2));
        assert_eq!(servers("https://192.0.2.1/dns-query"), ("192.0.2.1".into(), 443, 1));
        assert_eq!(servers("https://[2001:db8::1]:8443/q"), ("2001:db8::1".into(), 8443, 1));
    }
}
