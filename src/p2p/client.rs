//! The node as the rest of the program sees it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::bitswap::Shared;
use super::event_loop::Command;
use super::http;
use super::metrics::NodeMetrics;
use super::routers::Dht;
use crate::exchange::{ConnectError, Exchange, ExchangeEvent, SendError, Want};
use crate::ipld::Cid;
use crate::record::Transport;
use crate::routing::{ContentRouter, NameRouter, PeerRouter};

/// A connected peer, as last seen.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerInfo {
    pub peer: PeerId,
    /// As the peer calls itself (identify): at most 128 characters, otherwise unchecked.
    pub agent: Option<String>,
    /// At most 64.
    pub protocols: Vec<String>,
    /// Of the open connections, the first being the oldest.
    pub addrs: Vec<Multiaddr>,
    /// Of the oldest connection.
    pub transport: Transport,
    pub direction: Direction,
    /// The latest ping.
    pub rtt: Option<Duration>,
    pub connected_since: SystemTime,
    /// Whether it speaks Bitswap.
    pub exchange: bool,
    /// Bytes of Bitswap messages.
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Inbound,
    Outbound,
}

/// What the event loop shows of itself without being asked.
#[derive(Debug, Default)]
pub struct View {
    pub peers: HashMap<PeerId, PeerInfo>,
    pub listen: Vec<Multiaddr>,
    pub external: Vec<Multiaddr>,
    pub routing_peers: usize,
}

/// A handle to the node. Cheap to clone; the node goes on when the last one is dropped, and ends with the supervisor
/// or by [`Client::shutdown`].
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub peer_id: PeerId,
    pub commands: mpsc::Sender<Command>,
    pub shared: Arc<Shared>,
    pub http: Arc<http::Shared>,
    pub view: Arc<RwLock<View>>,
    pub routers: Vec<Arc<dyn ContentRouter>>,
    /// `None`: the DHT is switched off.
    pub dht: Option<Dht>,
    pub warnings: Vec<String>,
    pub metrics: NodeMetrics,
}

impl Client {
    pub fn peer_id(&self) -> PeerId {
        self.inner.peer_id
    }

    /// Every address that the node listens on, with `/p2p/ID`.
    pub fn listen_addrs(&self) -> Vec<Multiaddr> {
        self.view(|view| view.listen.clone())
    }

    /// Addresses that others were able to reach, with `/p2p/ID`.
    pub fn external_addrs(&self) -> Vec<Multiaddr> {
        self.view(|view| view.external.clone())
    }

    /// Connected peers.
    pub fn peers(&self) -> Vec<PeerInfo> {
        let mut peers: Vec<PeerInfo> = self.view(|view| view.peers.values().cloned().collect());
        for info in &mut peers {
            if let Some(peer) = self.inner.shared.peer(&info.peer) {
                info.exchange = peer.ready.load(Ordering::Acquire);
                info.bytes_in = peer.bytes_in.load(Ordering::Relaxed);
                info.bytes_out = peer.bytes_out.load(Ordering::Relaxed);
            }
        }
        peers
    }

    /// Peers in the DHT's routing table.
    pub fn dht_routing_peers(&self) -> usize {
        self.view(|view| view.routing_peers)
    }

    /// Configured peers, the local network when mDNS is on, the DHT when it is on.
    pub fn routers(&self) -> Vec<Arc<dyn ContentRouter>> {
        self.inner.routers.clone()
    }

    /// Where IPNS records are kept: the DHT when it is on.
    pub fn name_routers(&self) -> Vec<Arc<dyn NameRouter>> {
        self.inner.dht.iter().map(|dht| Arc::new(dht.clone()) as Arc<dyn NameRouter>).collect()
    }

    /// Who knows where peers are: the DHT when it is on.
    pub fn peer_routers(&self) -> Vec<Arc<dyn PeerRouter>> {
        self.inner.dht.iter().map(|dht| Arc::new(dht.clone()) as Arc<dyn PeerRouter>).collect()
    }

    /// What an operator should know about this machine, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        self.inner.warnings.clone()
    }

    /// The queue of [`Exchange::events`], for another exchange whose events the same consumer reads.
    pub fn event_queue(&self) -> mpsc::Sender<ExchangeEvent> {
        self.inner.shared.sender().clone()
    }

    /// Closes every connection to the peer. A configured peer is dialled again.
    pub fn disconnect(&self, peer: PeerId) {
        self.send(Command::Disconnect { peer });
    }

    /// Ends the event loop and closes every connection. Returns when it has ended.
    pub async fn shutdown(&self) {
        let _ = self.inner.commands.send(Command::Shutdown).await;
        self.inner.commands.closed().await;
    }

    pub(super) fn view<T>(&self, read: impl FnOnce(&View) -> T) -> T {
        read(&self.inner.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn send(&self, command: Command) -> bool {
        match self.inner.commands.try_send(command) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.inner.metrics.limit_commands.inc();
                false
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

impl Exchange for Client {
    fn send_wants(&self, peer: PeerId, wants: Vec<Want>) -> Result<(), SendError> {
        let peer = self.inner.shared.peer(&peer).ok_or(SendError::NotConnected)?;
        let rest = self.by_car(&peer, wants);
        if rest.is_empty() { Ok(()) } else { peer.want(&rest) }
    }

    fn cancel(&self, peer: PeerId, cids: Vec<Cid>) {
        if let Some(peer) = self.inner.shared.peer(&peer) {
            peer.cars.release(&cids);
            peer.cancel(&cids);
        }
    }

    fn connect(&self, peer: PeerId, addrs: Vec<Multiaddr>, trusted: bool) {
        if !self.send(Command::Connect { peer, addrs, trusted }) {
            let error =
                if self.inner.commands.is_closed() { ConnectError::Offline } else { ConnectError::LimitReached };
            self.inner.shared.try_emit(ExchangeEvent::ConnectFailed { peer, error });
        }
    }

    fn keep_warm(&self, peers: &[PeerId]) {
        for peer in self.inner.shared.peers() {
            peer.warm.store(peers.contains(&peer.id), Ordering::Relaxed);
        }
    }

    fn connected(&self) -> Vec<(PeerId, Transport)> {
        self.view(|view| {
            let ready =
                |peer: &PeerId| self.inner.shared.peer(peer).is_some_and(|peer| peer.ready.load(Ordering::Acquire));
            view.peers.values().filter(|info| ready(&info.peer)).map(|info| (info.peer, info.transport)).collect()
        })
    }

    fn events(&self) -> Option<mpsc::Receiver<ExchangeEvent>> {
        self.inner.shared.attach()
    }
}
