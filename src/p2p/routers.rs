//! The content routers that the node itself can be: configured peers, the local network, and the DHT.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use futures::stream::{self, BoxStream, StreamExt};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::event_loop::Command;
use crate::ipld::Cid;
use crate::routing::{ContentRouter, MAX_PROVIDERS, Provider, RouterKind, RoutingError};

/// Peers of the local network that are remembered.
pub const MAX_MDNS_PEERS: usize = 256;
/// Providers of one DHT query that may wait for their reader.
const DHT_QUEUE: usize = MAX_PROVIDERS;

/// Peers with their addresses, shared with the event loop.
pub type PeerTable = Arc<RwLock<HashMap<PeerId, Vec<Multiaddr>>>>;

/// Peers that are asked for everything: `--peer`, and those of the local network.
pub struct KnownPeers {
    kind: RouterKind,
    peers: PeerTable,
}

/// The DHT, asked through the event loop.
pub struct Dht {
    commands: mpsc::Sender<Command>,
}

impl KnownPeers {
    pub fn new(kind: RouterKind, peers: PeerTable) -> Self {
        Self { kind, peers }
    }
}

impl ContentRouter for KnownPeers {
    fn kind(&self) -> RouterKind {
        self.kind
    }

    fn find_providers(&self, _: &Cid) -> BoxStream<'static, Result<Provider, RoutingError>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        let found: Vec<_> = peers
            .iter()
            .map(|(peer, addrs)| {
                Ok(Provider { peer: *peer, addrs: addrs.clone(), transports: Vec::new(), source: self.kind })
            })
            .collect();
        stream::iter(found).boxed()
    }
}

impl Dht {
    pub fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands }
    }
}

impl ContentRouter for Dht {
    fn kind(&self) -> RouterKind {
        RouterKind::Dht
    }

    fn find_providers(&self, cid: &Cid) -> BoxStream<'static, Result<Provider, RoutingError>> {
        let (reply, providers) = mpsc::channel(DHT_QUEUE);
        let (commands, cid) = (self.commands.clone(), *cid);
        let ask = async move {
            match commands.send(Command::FindProviders { cid, reply }).await {
                Ok(()) => ReceiverStream::new(providers).boxed(),
                Err(_) => stream::iter([Err(RoutingError::Disabled)]).boxed(),
            }
        };
        stream::once(ask).flatten().boxed()
    }
}
