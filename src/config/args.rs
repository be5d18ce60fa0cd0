//! The flags of `serve`, each with its environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;
use libp2p::Multiaddr;

use super::{ConfigError, Settings};
use crate::p2p::{Bootstrap, Dns};
use crate::record::Policy;
use crate::units::ByteSize;

/// What flags and environment say; `None` or empty where they say nothing.
#[derive(Debug, Clone, Default, Args)]
pub struct Overrides {
    /// Public gateway [default: 127.0.0.1:8080; port 0 takes a free one]
    #[arg(long, env = "TIDEGATE_GATEWAY", value_name = "ADDR")]
    pub gateway: Option<SocketAddr>,
    /// Dashboard, REST API and metrics [default: 127.0.0.1:8090]
    #[arg(long, env = "TIDEGATE_ADMIN", value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// PEM certificate chain for both listeners
    #[arg(long, env = "TIDEGATE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM private key for both listeners
    #[arg(long, env = "TIDEGATE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// libp2p listen address; may be repeated [default: /ip4/0.0.0.0/tcp/4001, .../udp/4001/quic-v1 and their ip6 forms]
    #[arg(long, env = "TIDEGATE_LISTEN", value_name = "MULTIADDR", value_delimiter = ',')]
    pub listen: Vec<Multiaddr>,
    /// A peer that is kept connected and asked for blocks; may be repeated
    #[arg(long, env = "TIDEGATE_PEER", value_name = "MULTIADDR", value_delimiter = ',')]
    pub peer: Vec<Multiaddr>,
    /// A delegated router (Routing V1 over HTTP); may be repeated
    #[arg(long, env = "TIDEGATE_ROUTER", value_name = "URL", value_delimiter = ',')]
    pub router: Vec<String>,
    /// DHT bootstrap peers: default, none, or multiaddrs [default: default]
    #[arg(long, env = "TIDEGATE_BOOTSTRAP", value_name = "MULTIADDR|default|none", value_delimiter = ',')]
    pub bootstrap: Vec<String>,
    /// Do not use the DHT
    #[arg(long, env = "TIDEGATE_NO_DHT")]
    pub no_dht: bool,
    /// Do not look for peers on the local network
    #[arg(long, env = "TIDEGATE_NO_MDNS")]
    pub no_mdns: bool,
    /// No network at all
    #[arg(long, env = "TIDEGATE_OFFLINE")]
    pub offline: bool,
    /// Answer DHT queries of others
    #[arg(long, env = "TIDEGATE_DHT_SERVER")]
    pub dht_server: bool,
    /// Ask the router for a port by UPnP
    #[arg(long, env = "TIDEGATE_UPNP")]
    pub upnp: bool,
    /// Private range that routing results may name; may be repeated
    #[arg(long, env = "TIDEGATE_ALLOW_PRIVATE", value_name = "CIDR", value_delimiter = ',')]
    pub allow_private: Vec<IpNet>,
    /// Resolver for DNSLink and /dnsaddr: system, none, an address, or https://HOST/dns-query [default: system]
    #[arg(long, env = "TIDEGATE_DNS", value_name = "ADDR|URL|system|none")]
    pub dns: Option<Dns>,
    /// sqlite:// or postgres:// URL, or none [default: metrics.sqlite in the data directory]
    #[arg(long, env = "TIDEGATE_DATABASE", value_name = "URL")]
    pub database: Option<String>,
    /// How retrievals choose whom to ask: optimized or standard [default: optimized]
    #[arg(long, env = "TIDEGATE_POLICY", value_name = "POLICY")]
    pub policy: Option<Policy>,
    /// Share of cold retrievals that run the standard policy, 0 to 1 [default: 0]
    #[arg(long, env = "TIDEGATE_COMPARE_SHARE", value_name = "F")]
    pub compare_share: Option<f64>,
    /// A proxy whose X-Forwarded-* headers count; may be repeated [default: 127.0.0.0/8, ::1]
    #[arg(long, env = "TIDEGATE_TRUSTED_PROXY", value_name = "CIDR", value_delimiter = ',')]
    pub trusted_proxy: Vec<IpNet>,
    /// File with a lasting admin token; needed when --admin is not loopback
    #[arg(long, env = "TIDEGATE_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// Further name by which people reach the admin listener (a reverse proxy's); may be repeated
    #[arg(long, env = "TIDEGATE_ADMIN_HOST", value_name = "HOST", value_delimiter = ',')]
    pub admin_host: Vec<String>,
    /// Host that serves each root on an origin of its own, CID.ipfs.HOST; may be repeated [default: localhost]
    #[arg(long, env = "TIDEGATE_SUBDOMAIN_HOST", value_name = "HOST", value_delimiter = ',')]
    pub subdomain_host: Vec<String>,
    /// How long a browser waits for content before it gets a page that shows what happens; 0s: it never does [default: 2s]
    #[arg(long, env = "TIDEGATE_WAITING_PAGE", value_name = "DUR", value_parser = humantime::parse_duration)]
    pub waiting_page: Option<Duration>,
    /// Ask for what a page names (style sheets, scripts, pictures) while the page is still being read
    #[arg(long, env = "TIDEGATE_PREFETCH_LINKS")]
    pub prefetch_links: bool,
    /// Answer /routing/v1 on the gateway: others may ask for providers, peers and names
    #[arg(long, env = "TIDEGATE_ROUTING_V1")]
    pub routing_v1: bool,
    /// Do not serve the trustless gateway to libp2p peers (/http/1.1)
    #[arg(long, env = "TIDEGATE_NO_LIBP2P_GATEWAY")]
    pub no_libp2p_gateway: bool,
    /// Denylist in the compact format, a file or a folder of .deny files; may be repeated
    #[arg(long, env = "TIDEGATE_DENYLIST", value_name = "FILE", value_delimiter = ',')]
    pub denylist: Vec<PathBuf>,
    /// Memory of the cache, a quarter of it for whole answers [default: 128MiB]
    #[arg(long, env = "TIDEGATE_CACHE_MEMORY", value_name = "SIZE")]
    pub cache_memory: Option<ByteSize>,
    /// Disk tier of the cache; 0 switches it off [default: 10GiB]
    #[arg(long, env = "TIDEGATE_CACHE_DISK", value_name = "SIZE")]
    pub cache_disk: Option<ByteSize>,
}

impl Overrides {
    /// Lays what was said over `settings`.
    pub fn apply(&self, settings: &mut Settings) -> Result<(), ConfigError> {
        fn one<T: Clone>(said: &Option<T>, into: &mut T) {
            if let Some(value) = said {
                *into = value.clone();
            }
        }
        fn maybe<T: Clone>(said: &Option<T>, into: &mut Option<T>) {
            if said.is_some() {
                into.clone_from(said);
            }
        }
        fn list<T: Clone>(said: &[T], into: &mut Vec<T>) {
            if !said.is_empty() {
                *into = said.to_vec();
            }
        }
        one(&self.gateway, &mut settings.gateway);
        one(&self.admin, &mut settings.admin);
        maybe(&self.tls_cert, &mut settings.tls_cert);
        maybe(&self.tls_key, &mut settings.tls_key);
        list(&self.listen, &mut settings.listen);
        list(&self.peer, &mut settings.peer);
        list(&self.router, &mut settings.router);
        if !self.bootstrap.is_empty() {
            settings.bootstrap = bootstrap(&self.bootstrap)?;
        }
        settings.no_dht |= self.no_dht;
        settings.no_mdns |= self.no_mdns;
        settings.offline |= self.offline;
        settings.dht_server |= self.dht_server;
        settings.upnp |= self.upnp;
        list(&self.allow_private, &mut settings.allow_private);
        one(&self.dns, &mut settings.dns);
        maybe(&self.database, &mut settings.database);
        one(&self.policy, &mut settings.policy);
        one(&self.compare_share, &mut settings.compare_share);
        list(&self.trusted_proxy, &mut settings.trusted_proxy);
        maybe(&self.admin_token_file, &mut settings.admin_token_file);
        list(&self.admin_host, &mut settings.admin_host);
        list(&self.subdomain_host, &mut settings.subdomain_host);
        one(&self.waiting_page, &mut settings.waiting_page);
        settings.prefetch_links |= self.prefetch_links;
        settings.routing_v1 |= self.routing_v1;
        settings.no_libp2p_gateway |= self.no_libp2p_gateway;
        list(&self.denylist, &mut settings.denylist);
        one(&self.cache_memory, &mut settings.cache_memory);
        one(&self.cache_disk, &mut settings.cache_disk);
        Ok(())
    }
}

/// One word, or multiaddrs.
fn bootstrap(said: &[String]) -> Result<Bootstrap, ConfigError> {
    match said {
        [word] if word == "default" => Ok(Bootstrap::Default),
        [word] if word == "none" => Ok(Bootstrap::None),
        list => {
            let parse = |text: &String| text.parse().map_err(|_| ConfigError::Bootstrap(text.clone()));
            list.iter().map(parse).collect::<Result<_, _>>().map(Bootstrap::List)
        }
    }
}
