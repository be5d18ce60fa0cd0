//! The protocols of the node, composed.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{StreamProtocol, autonat, dcutr, identify, kad, mdns, memory_connection_limits, ping, relay, upnp};

use super::config::Config;
use super::{bitswap, http};

/// The public DHT's protocol (Amino).
pub const KAD_PROTOCOL: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");
/// What identify says we are.
pub const AGENT: &str = concat!("tidegate/", env!("CARGO_PKG_VERSION"));

/// Requests of one DHT query under way at once (GATEWAY.md §3.9; the library's default is 3).
const KAD_PARALLELISM: NonZeroUsize = NonZeroUsize::new(10).unwrap();
/// A DHT query is given up after this long.
pub const KAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Provider records that a DHT server keeps, and keys they are kept for.
const KAD_PROVIDED: usize = 65_536;
const KAD_PROVIDERS_PER_KEY: usize = 20;
const KAD_RECORDS: usize = 1024;
const KAD_RECORD_BYTES: usize = 10 * 1024;
/// The share of the machine's memory from which no connection is taken, when the operator names no bound.
const MEMORY_SHARE: f64 = 0.9;

/// Order matters: what refuses connections stands first.
#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub limits: connection_limits::Behaviour,
    pub memory: memory_connection_limits::Behaviour,
    pub bitswap: bitswap::behaviour::Behaviour,
    pub http: http::behaviour::Behaviour,
    pub identify: identify::Behaviour,
    pub ping: ping::Behaviour,
    pub kad: Toggle<kad::Behaviour<MemoryStore>>,
    pub mdns: Toggle<mdns::tokio::Behaviour>,
    pub autonat: Toggle<autonat::v2::client::Behaviour>,
    pub relay: relay::client::Behaviour,
    pub dcutr: Toggle<dcutr::Behaviour>,
    pub upnp: Toggle<upnp::tokio::Behaviour>,
}

impl Behaviour {
    /// mDNS needs a socket: where it cannot have one the node goes on without, and says so.
    pub fn new(
        key: &Keypair,
        config: &Config,
        relay: relay::client::Behaviour,
        shared: Arc<bitswap::Shared>,
        http: Arc<http::Shared>,
        warnings: &mut Vec<String>,
    ) -> Self {
        let me = key.public().to_peer_id();
        let online = !config.offline;
        let mdns = (online && config.mdns).then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), me));
        let mdns = match mdns.transpose() {
            Ok(mdns) => mdns,
            Err(error) => {
                warnings.push(format!("mDNS is off: {error}"));
                None
            }
        };
        let memory = match config.max_memory.as_usize() {
            0 => memory_connection_limits::Behaviour::with_max_percentage(MEMORY_SHARE),
            bytes => memory_connection_limits::Behaviour::with_max_bytes(bytes),
        };
        let identify = identify::Config::new("ipfs/0.1.0".to_owned(), key.public())
            .with_agent_version(AGENT.to_owned())
            .with_push_listen_addr_updates(true)
            .with_cache_size(0);
        Self {
            limits: connection_limits::Behaviour::new(limits(config)),
            memory,
            bitswap: bitswap::behaviour::Behaviour::new(shared),
            http: http::behaviour::Behaviour::new(http),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::default(),
            kad: (online && config.dht).then(|| dht(key, config.dht_server)).into(),
            mdns: mdns.into(),
            autonat: online.then(autonat::v2::client::Behaviour::default).into(),
            relay,
            dcutr: online.then(|| dcutr::Behaviour::new(me)).into(),
            upnp: (online && config.upnp).then(upnp::tokio::Behaviour::default).into(),
        }
    }
}

fn limits(config: &Config) -> ConnectionLimits {
    let limit = |n: u32| (n > 0).then_some(n);
    ConnectionLimits::default()
        .with_max_pending_incoming(limit(config.max_pending))
        .with_max_pending_outgoing(limit(config.max_pending))
        .with_max_established_incoming(limit(config.max_inbound))
        .with_max_established(limit(config.max_connections))
        .with_max_established_per_peer(limit(config.max_per_peer))
}

fn dht(key: &Keypair, server: bool) -> kad::Behaviour<MemoryStore> {
    let me = key.public().to_peer_id();
    let store = MemoryStoreConfig {
        max_records: KAD_RECORDS,
        max_value_bytes: KAD_RECORD_BYTES,
        max_provided_keys: KAD_PROVIDED,
        max_providers_per_key: KAD_PROVIDERS_PER_KEY,
    };
    let mut config = kad::Config::new(KAD_PROTOCOL);
    config
        .set_parallelism(KAD_PARALLELISM)
        .set_query_timeout(KAD_TIMEOUT)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_replication_interval(None)
        .set_caching(kad::Caching::Disabled)
        // The event loop judges what others put here.
        .set_record_filtering(kad::StoreInserts::FilterBoth);
    let mut kad = kad::Behaviour::with_config(me, MemoryStore::with_config(me, store), config);
    kad.set_mode(Some(if server { kad::Mode::Server } else { kad::Mode::Client }));
    kad
}
