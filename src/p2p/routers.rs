//! The content routers that the node itself can be: configured peers, the local network, and the DHT.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::event_loop::{Command, RecordCommand};
use crate::ipld::Cid;
use crate::ipld::ipns::IpnsName;
use crate::routing::{ContentRouter, FoundRecord, MAX_PROVIDERS, Provider, RouterKind, RoutingError};
use crate::routing::{NameRouter, PeerRouter};

/// Peers of the local network that are remembered.
pub const MAX_MDNS_PEERS: usize = 256;
/// Providers of one DHT query that may wait for their reader.
const DHT_QUEUE: usize = MAX_PROVIDERS;
/// Records of one DHT query that may wait for their reader: more than the quorum.
const RECORD_QUEUE: usize = 32;

/// Peers with their addresses, shared with the event loop.
pub type PeerTable = Arc<RwLock<HashMap<PeerId, Vec<Multiaddr>>>>;

/// Peers that are asked for everything: `--peer`, and those of the local network.
pub struct KnownPeers {
    kind: RouterKind,
    peers: PeerTable,
}

/// The DHT, asked through the event loop.
#[derive(Clone)]
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

impl NameRouter for Dht {
    fn kind(&self) -> RouterKind {
        RouterKind::Dht
    }

    fn records(&self, name: &IpnsName) -> BoxStream<'static, Result<FoundRecord, RoutingError>> {
        let (reply, records) = mpsc::channel(RECORD_QUEUE);
        let command = Command::Records(RecordCommand::Get { key: name.routing_key(), reply });
        let commands = self.commands.clone();
        let ask = async move {
            match commands.send(command).await {
                Ok(()) => ReceiverStream::new(records).boxed(),
                Err(_) => stream::iter([Err(RoutingError::Disabled)]).boxed(),
            }
        };
        stream::once(ask).flatten().boxed()
    }

    fn announce(&self, name: &IpnsName, value: Bytes) -> BoxFuture<'static, Result<(), RoutingError>> {
        let (reply, answer) = oneshot::channel();
        self.ask(RecordCommand::Put { key: name.routing_key(), value, reply }, answer)
    }

    fn correct(&self, name: &IpnsName, value: Bytes, peers: Vec<PeerId>) {
        // A queue that is full has better things to carry.
        let _ = self.commands.try_send(Command::Records(RecordCommand::Correct { key: name.routing_key(), value, peers }));
    }
}

impl PeerRouter for Dht {
    fn kind(&self) -> RouterKind {
        RouterKind::Dht
    }

    fn find_peer(&self, peer: PeerId) -> BoxFuture<'static, Result<Vec<Provider>, RoutingError>> {
        let closest = self.closest(peer.to_bytes());
        let found = move |peers: Vec<Provider>| peers.into_iter().filter(|found| found.peer == peer).take(1).collect();
        closest.map(move |peers| peers.map(found)).boxed()
    }

    fn closest_peers(&self, key: &Cid) -> BoxFuture<'static, Result<Vec<Provider>, RoutingError>> {
        self.closest(key.hash().to_bytes())
    }
}

impl Dht {
    fn closest(&self, key: Vec<u8>) -> BoxFuture<'static, Result<Vec<Provider>, RoutingError>> {
        let (reply, answer) = oneshot::channel();
        self.ask(RecordCommand::Closest { key, reply }, answer)
    }

    fn ask<T: Send + 'static>(
        &self,
        command: RecordCommand,
        answer: oneshot::Receiver<Result<T, RoutingError>>,
    ) -> BoxFuture<'static, Result<T, RoutingError>> {
        let commands = self.commands.clone();
        async move {
            commands.send(Command::Records(command)).await.map_err(|_| RoutingError::Disabled)?;
            answer.await.unwrap_or(Err(RoutingError::Disabled))
        }
        .boxed()
    }
}
