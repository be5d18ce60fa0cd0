//! The libp2p node: connections, discovery, the DHT, and Bitswap. Implements [`crate::exchange::Exchange`].
//!
//! [`event_loop`] owns the Swarm and is the only one to touch it. Everyone else holds a [`Client`]. What is hot does
//! not pass through the loop at all: wants go from the client into the peer's state and are written by its
//! connection's task, and that task hands blocks to the consumer of events (see [`bitswap`]).

pub mod address;
pub mod behaviour;
pub mod bitswap;
pub mod bulk;
pub mod cars;
pub mod client;
pub mod config;
mod configured;
pub mod event_loop;
pub mod http;
pub mod identity;
pub mod metrics;
pub mod resolver;
pub mod routers;
pub mod transport;
mod udp;
mod view;

use std::io;
use std::path::Path;
use std::sync::{Arc, RwLock};

use libp2p::{Multiaddr, Swarm, swarm};
use thiserror::Error;
use tokio::sync::mpsc;

pub use client::{Client, Direction, PeerInfo};
pub use config::{Bootstrap, Config, Dns};

use crate::blockstore::Blockstore;
use crate::routing::{ContentRouter, RouterKind};
use crate::supervisor::Supervisor;
use crate::telemetry::Metrics;

/// Commands that may wait for the event loop.
const COMMAND_QUEUE: usize = 4096;
/// Below this default receive buffer QUIC from a distance is slow (DEPENDENCIES.md §0.4), in bytes.
const GOOD_RECEIVE_BUFFER: u64 = 4 * 1024 * 1024;

/// Why the node does not start.
#[derive(Debug, Error)]
pub enum NodeError {
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    #[error("transport: {0}")]
    Transport(#[from] transport::BuildError),
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: Multiaddr, reason: String },
    #[error("{address} names no peer: end it in /p2p/ID")]
    PeerWithoutId { address: Multiaddr },
    #[error("{address} was not bound in time")]
    ListenTimeout { address: Multiaddr },
}

/// Starts the node. There is no other value of this type: the running node is its [`Client`].
#[derive(Debug)]
pub enum Node {}

impl Node {
    /// Reads or makes the identity, binds every listener, and starts the event loop and the Bitswap server under the
    /// supervisor. `serve` is what peers may have.
    pub async fn start(
        config: &Config,
        data_dir: &Path,
        serve: Arc<dyn Blockstore>,
        telemetry: &Metrics,
        supervisor: &Supervisor,
    ) -> Result<Client, NodeError> {
        let key = identity::load_or_create(data_dir)?;
        let peer_id = key.public().to_peer_id();
        let mut warnings = receive_buffer_warning(config).into_iter().collect::<Vec<_>>();
        let policy = address::Policy::new(&config.allow_private);
        let node_metrics = metrics::NodeMetrics::register(telemetry);
        let bitswap_metrics = metrics::BitswapMetrics::register(telemetry);
        let shared = bitswap::Shared::new(bitswap_metrics, bitswap::server::Server::new(serve));
        let http = http::Shared::new(http::HttpMetrics::register(telemetry), supervisor);

        let (transport, relay) = transport::build(&key, config, &policy, telemetry)?;
        let behaviour = behaviour::Behaviour::new(&key, config, relay, shared.clone(), http.clone(), &mut warnings);
        let swarm_config =
            swarm::Config::with_tokio_executor().with_idle_connection_timeout(config.idle_timeout).with_smart_dial();
        let swarm = Swarm::new(transport, behaviour, peer_id, swarm_config);

        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let view = Arc::new(RwLock::new(client::View::default()));
        let configured = configured_peers(config)?;
        let mdns = routers::PeerTable::default();
        let mut routers: Vec<Arc<dyn ContentRouter>> = Vec::new();
        if !configured.is_empty() {
            let peers = routers::PeerTable::new(RwLock::new(configured.iter().cloned().collect()));
            routers.push(Arc::new(routers::KnownPeers::new(RouterKind::Configured, peers)));
        }
        if config.mdns && !config.offline {
            routers.push(Arc::new(routers::KnownPeers::new(RouterKind::Mdns, mdns.clone())));
        }
        let dht = (config.dht && !config.offline).then(|| routers::Dht::new(commands.clone()));
        if let Some(dht) = &dht {
            routers.push(Arc::new(dht.clone()));
        }

        let mut event_loop = event_loop::EventLoop::new(event_loop::Parts {
            swarm,
            commands: receiver,
            shared: shared.clone(),
            view: view.clone(),
            policy,
            configured,
            mdns,
            metrics: node_metrics.clone(),
            libp2p_metrics: telemetry.with(libp2p_metrics),
            offline: config.offline,
            dial_timeout: config.dial_timeout,
        });
        if !config.offline {
            event_loop.listen(&config.listen).await?;
            event_loop.bootstrap(&config.bootstrap.addresses());
        }
        bitswap::server::Server::start(&shared, supervisor);
        let token = supervisor.token();
        supervisor.spawn("p2p", event_loop.run(token));
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let inner =
            client::Inner { peer_id, commands, shared, http, view, routers, dht, warnings, metrics: node_metrics };
        Ok(Client { inner: Arc::new(inner) })
    }
}

fn libp2p_metrics(registry: &mut prometheus_client::registry::Registry) -> libp2p::metrics::Metrics {
    libp2p::metrics::Metrics::new(registry)
}

/// The configured libp2p peers with their addresses, in order. HTTP providers are somebody else's.
fn configured_peers(config: &Config) -> Result<Vec<(libp2p::PeerId, Vec<Multiaddr>)>, NodeError> {
    let mut peers: Vec<(libp2p::PeerId, Vec<Multiaddr>)> = Vec::new();
    for addr in config.peers.iter().filter(|addr| !address::is_http(addr)) {
        let peer = address::peer_of(addr).ok_or_else(|| NodeError::PeerWithoutId { address: addr.clone() })?;
        let bare = address::without_peer(addr.clone());
        match peers.iter_mut().find(|(known, _)| *known == peer) {
            Some((_, addrs)) => addrs.push(bare),
            None => peers.push((peer, vec![bare])),
        }
    }
    Ok(peers)
}

/// Neither quinn nor libp2p enlarges the socket's buffer, so the kernel's default binds QUIC.
fn receive_buffer_warning(config: &Config) -> Option<String> {
    if config.offline {
        return None;
    }
    let read = |path: &str| -> io::Result<u64> {
        std::fs::read_to_string(path)?.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
    };
    let default = read("/proc/sys/net/core/rmem_default").ok()?;
    (default < GOOD_RECEIVE_BUFFER).then(|| {
        format!(
            "net.core.rmem_default is {default} bytes, which slows QUIC from distant peers: \
             set it to {GOOD_RECEIVE_BUFFER} (sysctl -w net.core.rmem_default={GOOD_RECEIVE_BUFFER})"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_peers_are_merged_and_must_name_their_peer() {
        let id = libp2p::PeerId::random();
        let peers = vec![
            format!("/ip4/10.0.0.1/tcp/4001/p2p/{id}").parse().unwrap(),
            format!("/ip4/10.0.0.1/udp/4001/quic-v1/p2p/{id}").parse().unwrap(),
            "/dns4/example.net/tcp/443/https".parse().unwrap(),
        ];
        let config = Config { peers, ..Config::loopback() };
        let merged = configured_peers(&config).unwrap();
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].1.len(), 2);

        let config = Config { peers: vec!["/ip4/10.0.0.1/tcp/4001".parse().unwrap()], ..Config::loopback() };
        assert!(matches!(configured_peers(&config), Err(NodeError::PeerWithoutId { .. })));
    }
}
