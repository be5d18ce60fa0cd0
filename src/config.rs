//! Settings: flag, environment, file, default, in this order (DESIGN.md §8).
//!
//! [`Settings`] is the file's shape and the sum of all sources; [`Overrides`] are the flags of `serve` with their
//! environment variables. Unknown keys are errors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::p2p::{self, Bootstrap, Dns};
use crate::record::Policy;
use crate::units::ByteSize;

mod args;

pub use args::Overrides;

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{path}: {error}; give --config a file that can be read")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path}: {error}")]
    Parse { path: PathBuf, error: Box<toml::de::Error> },
    #[error("--admin {admin} is not loopback: give --admin-token-file, or listen on 127.0.0.1")]
    AdminNeedsToken { admin: SocketAddr },
    #[error("--tls-cert and --tls-key go together")]
    HalfTls,
    #[error("no data directory: give --data-dir (there is no home directory to put one in)")]
    NoDataDir,
    #[error("--bootstrap {0:?} is neither default, none nor a multiaddr")]
    Bootstrap(String),
    #[error("compare-share is {0}; it is a share between 0 and 1")]
    Share(f64),
}

/// Everything that can be set. Each field's comment stands in `config.example.toml` too, which a test compares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Where blocks, identity, pins, metrics and the lock live. Default: the platform's data directory + /tidegate.
    pub data_dir: Option<PathBuf>,
    /// Address of the public gateway. Port 0 takes a free one.
    pub gateway: SocketAddr,
    /// Address of the dashboard, REST API and metrics. Not loopback: needs `admin-token-file`.
    pub admin: SocketAddr,
    /// PEM certificate chain and key, for both listeners. Default: none, plain HTTP.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// libp2p addresses to listen on.
    pub listen: Vec<Multiaddr>,
    /// Peers that are kept connected and asked for blocks; HTTP providers end in `/http`, `/https` or `/tls/http`.
    pub peer: Vec<Multiaddr>,
    /// Delegated routers (Routing V1 over HTTP), by URL.
    pub router: Vec<String>,
    /// `"default"`: the public Amino bootstrappers; `"none"`; or a list of multiaddrs with /p2p.
    pub bootstrap: Bootstrap,
    /// Do not use the DHT.
    pub no_dht: bool,
    /// Do not look for peers on the local network.
    pub no_mdns: bool,
    /// No network at all: what is not local is not found.
    pub offline: bool,
    /// Be a DHT server, and ask the router for a port by UPnP. Both off: a gateway needs neither.
    pub dht_server: bool,
    pub upnp: bool,
    /// Private and loopback ranges that routing results may name. Configured peers, routers and mDNS are exempt.
    pub allow_private: Vec<IpNet>,
    /// Resolver for DNSLink and /dnsaddr: `system`, `none`, an address, or the URL of a DNS-over-HTTPS endpoint.
    pub dns: Dns,
    /// Database URL: `sqlite://...` or `postgres://...`. Default: metrics.sqlite in the data directory. `none` keeps no records.
    pub database: Option<String>,
    /// How a retrieval chooses whom to ask: `optimized` or `standard`.
    pub policy: Policy,
    /// Share of cold retrievals that run the standard policy, 0 to 1, so that live traffic shows the difference.
    pub compare_share: f64,
    /// Proxies whose X-Forwarded-* headers count.
    pub trusted_proxy: Vec<IpNet>,
    /// File with a lasting admin token. Default: a token made anew at each start, in DATA_DIR/api.
    pub admin_token_file: Option<PathBuf>,
    /// Further names, without a port, by which people reach the admin listener (a reverse proxy's). Others are refused
    /// against DNS rebinding; addresses and localhost are known.
    pub admin_host: Vec<String>,
    /// Hosts that serve each root on an origin of its own, CID.ipfs.HOST; with or without a port, or `*.HOST`.
    pub subdomain_host: Vec<String>,
    /// A browser that waits longer for a page than this gets one that shows what happens and turns into the content. Programs
    /// never get it. 0s: nobody does.
    #[serde(with = "humantime_serde")]
    pub waiting_page: Duration,
    /// Ask for the style sheets, scripts and pictures that a page of the same content names while the page is still being read.
    pub prefetch_links: bool,
    /// Answer `/routing/v1` on the gateway (Delegated Routing V1): others may ask for providers, peers and names.
    pub routing_v1: bool,
    /// Do not answer `/http/1.1` streams of libp2p peers (trustless gateway over libp2p): blocks, CARs and IPNS records that are
    /// here. Nothing is fetched for them, and Bitswap gives them the same blocks.
    pub no_libp2p_gateway: bool,
    /// Denylists in the compact format (IPIP-383), files or folders of `.deny` files, read again when they change. Those in
    /// /etc/ipfs/denylists and ~/.config/ipfs/denylists are read too.
    pub denylist: Vec<PathBuf>,
    /// Budget of the cache's memory: three quarters for blocks, one for whole answers.
    pub cache_memory: ByteSize,
    /// Budget of the cache's disk tier. 0 switches it off.
    pub cache_disk: ByteSize,
    pub limits: Limits,
}

/// The limits of DESIGN.md §8, one place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// Longest wait for the first byte of content, and between bytes: 504, or a reset after the header.
    #[serde(with = "humantime_serde")]
    pub retrieval_timeout: Duration,
    /// Longest life of one request.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Requests at once; more are answered 429 with Retry-After.
    pub concurrent_requests: usize,
    /// Connections from one IPv4 address or one IPv6 /64; loopback and trusted proxies are exempt.
    pub connections_per_ip: usize,
    /// Requests of libp2p peers that are answered at once, all peers together; more are refused. Of one connection: 16.
    pub libp2p_requests: usize,
    /// Time for a request header to arrive, and its largest size.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    pub header_size: ByteSize,
    /// Time for the first byte of a new connection to arrive.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Duration,
    /// Time that a connection may be idle between requests.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Time that a client may leave response bytes unread.
    #[serde(with = "humantime_serde")]
    pub write_stall_timeout: Duration,
    /// Time for requests in flight to end at a stop.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Bytes fetched ahead of readers, over all requests.
    pub reorder_budget: ByteSize,
    /// The largest file of which a part may be asked for; of larger ones 501. 0: no limit.
    pub range_file_size: ByteSize,
    /// The largest file or archive that is served as such; larger ones get 410 and can be had as blocks or CARs. 0: no limit.
    pub deserialized_size: ByteSize,
    /// The largest graph that is served in any form but block by block; larger ones get 410. 0: no limit.
    pub dag_size: ByteSize,
    /// Requests a second to the admin listener, sustained, of one client (IPv6: a /64) and of one token; a burst is four
    /// seconds' worth; more are answered 429 with Retry-After. 0: no limit. Reads, changes, and those that walk the store,
    /// the database or the network (gc, scrub, reports, analytics, topology, explain, placement) count apart.
    pub api_reads_per_second: u32,
    pub api_changes_per_second: u32,
    pub api_expensive_per_second: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            data_dir: None,
            gateway: loopback(8080),
            admin: loopback(8090),
            tls_cert: None,
            tls_key: None,
            listen: p2p::Config::default().listen,
            peer: Vec::new(),
            router: Vec::new(),
            bootstrap: Bootstrap::Default,
            no_dht: false,
            no_mdns: false,
            offline: false,
            dht_server: false,
            upnp: false,
            allow_private: Vec::new(),
            dns: Dns::System,
            database: None,
            policy: Policy::Optimized,
            compare_share: 0.0,
            trusted_proxy: default_trusted(),
            admin_token_file: None,
            admin_host: Vec::new(),
            subdomain_host: vec!["localhost".to_owned()],
            waiting_page: Duration::from_secs(2),
            prefetch_links: false,
            routing_v1: false,
            no_libp2p_gateway: false,
            denylist: Vec::new(),
            cache_memory: ByteSize::mib(128),
            cache_disk: ByteSize::gib(10),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            retrieval_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(3600),
            concurrent_requests: 4096,
            connections_per_ip: 256,
            libp2p_requests: 256,
            header_timeout: Duration::from_secs(15),
            header_size: ByteSize(32 * 1024),
            first_byte_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(75),
            write_stall_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            reorder_budget: ByteSize::mib(64),
            range_file_size: ByteSize(0),
            deserialized_size: ByteSize(0),
            dag_size: ByteSize(0),
            api_reads_per_second: 500,
            api_changes_per_second: 500,
            api_expensive_per_second: 20,
        }
    }
}

fn default_trusted() -> Vec<IpNet> {
    // Local invariant: prefix lengths 8 and 128 are valid for these families.
    [IpNet::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8), IpNet::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 128)]
        .into_iter()
        .flatten()
        .collect()
}

impl Settings {
    /// Reads the file when there is one, lays the flags and the environment over it, and checks the whole.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut settings = match file {
            Some(path) => Self::read(path)?,
            None => Self::default(),
        };
        overrides.apply(&mut settings)?;
        settings.check()?;
        Ok(settings)
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        toml::from_str(&text).map_err(|error| ConfigError::Parse { path: path.to_owned(), error: Box::new(error) })
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !self.admin.ip().is_loopback() && self.admin_token_file.is_none() && !token_in_environment() {
            return Err(ConfigError::AdminNeedsToken { admin: self.admin });
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(ConfigError::HalfTls);
        }
        if !(0.0..=1.0).contains(&self.compare_share) {
            return Err(ConfigError::Share(self.compare_share));
        }
        Ok(())
    }

    /// The data directory in force.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        data_dir(self.data_dir.as_deref())
    }

    /// For people and the API: credentials in the database URL are hidden.
    pub fn redacted(&self) -> serde_json::Value {
        let mut shown = self.clone();
        if let Some(database) = &mut shown.database {
            *database = redact_url(database);
        }
        serde_json::to_value(shown).unwrap_or_default()
    }
}

/// The given directory, or the platform's data directory + /tidegate.
pub fn data_dir(given: Option<&Path>) -> Result<PathBuf, ConfigError> {
    if let Some(dir) = given {
        return Ok(dir.to_owned());
    }
    let base = directories::BaseDirs::new().ok_or(ConfigError::NoDataDir)?;
    Ok(base.data_dir().join("tidegate"))
}

/// `TIDEGATE_ADMIN_TOKEN` sets a lasting token as `--admin-token-file` does.
pub const TOKEN_VARIABLE: &str = "TIDEGATE_ADMIN_TOKEN";

fn token_in_environment() -> bool {
    std::env::var_os(TOKEN_VARIABLE).is_some_and(|token| !token.is_empty())
}

fn redact_url(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else { return text.to_owned() };
    if url.password().is_some() {
        // Local invariant: a URL that has a password can have another one.
        let _ = url.set_password(Some("redacted"));
    }
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_equals_the_defaults() {
        let text = include_str!("../config.example.toml");
        let from_file: Settings = toml::from_str(text).unwrap();
        assert_eq!(from_file, Settings::default());
        // Commented-out keys are those without a default value; each key of the defaults stands there uncommented.
        let table: toml::Table = text.parse().unwrap();
        let defaults: toml::Table = toml::Table::try_from(Settings::default()).unwrap();
        assert_eq!(table.keys().collect::<Vec<_>>(), defaults.keys().collect::<Vec<_>>());
        let limits = |table: &toml::Table| table["limits"].as_table().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(limits(&table), limits(&defaults));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "gatway = \"127.0.0.1:1\"\n").unwrap();
        let error = Settings::load(Some(&file), &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("gatway"), "{error}");
    }

    #[test]
    fn a_flag_beats_the_file_and_a_repeated_flag_replaces_its_list() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "gateway = \"127.0.0.1:1\"\nrouter = [\"http://a.example\"]\ncache-memory = \"1MiB\"\n")
            .unwrap();
        let overrides = Overrides {
            gateway: Some("127.0.0.1:2".parse().unwrap()),
            router: vec!["http://b.example".into(), "http://c.example".into()],
            ..Overrides::default()
        };
        let settings = Settings::load(Some(&file), &overrides).unwrap();
        assert_eq!(settings.gateway.port(), 2);
        assert_eq!(settings.router, ["http://b.example", "http://c.example"]);
        assert_eq!(settings.cache_memory, ByteSize::mib(1));
    }

    #[test]
    fn an_open_admin_listener_without_a_token_is_refused() {
        let overrides = Overrides { admin: Some("0.0.0.0:8090".parse().unwrap()), ..Overrides::default() };
        if !token_in_environment() {
            assert!(matches!(Settings::load(None, &overrides), Err(ConfigError::AdminNeedsToken { .. })));
        }
        let with_token = Overrides { admin_token_file: Some("/dev/null".into()), ..overrides };
        assert!(Settings::load(None, &with_token).is_ok());
    }

    #[test]
    fn a_password_in_the_database_url_is_not_shown() {
        let settings = Settings { database: Some("postgres://me:secret@127.0.0.1/db".into()), ..Settings::default() };
        let shown = settings.redacted().to_string();
        assert!(!shown.contains("secret") && shown.contains("redacted"), "{shown}");
    }
}
