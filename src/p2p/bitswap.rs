//! Bitswap of our own: client and server, protocols 1.2.0 down to the unversioned first one.
//!
//! The parts: [`message`] is the wire format; [`peer`] the state that we share with one peer (our wants, its wants,
//! what waits to be written); [`handler`] the streams of one connection; [`behaviour`] which connection of a peer is
//! used; [`server`] answers wants from the blockstore.

pub mod behaviour;
pub mod handler;
pub mod message;
pub mod peer;
pub mod server;
pub mod stream;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use libp2p::PeerId;
use tokio::sync::{Notify, mpsc};

use crate::exchange::ExchangeEvent;
use crate::p2p::metrics::BitswapMetrics;
use peer::Peer;
use server::Server;

/// Events that may wait for the consumer before connections stop reading.
pub const EVENT_QUEUE: usize = 1024;

/// What the connections, the behaviour, the server and the clients share.
pub struct Shared {
    pub metrics: BitswapMetrics,
    pub server: Server,
    pub budget: stream::Budget,
    peers: RwLock<HashMap<PeerId, Arc<Peer>>>,
    events: mpsc::Sender<ExchangeEvent>,
    receiver: Mutex<Option<mpsc::Receiver<ExchangeEvent>>>,
    attached: AtomicBool,
    /// Rung when the consumer arrives: the event loop then tells it who is connected.
    pub announce: Notify,
}

impl Shared {
    pub fn new(metrics: BitswapMetrics, server: Server) -> Arc<Self> {
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        Arc::new(Self {
            budget: stream::Budget::default(),
            metrics,
            server,
            peers: RwLock::default(),
            events,
            receiver: Mutex::new(Some(receiver)),
            attached: AtomicBool::new(false),
            announce: Notify::new(),
        })
    }

    pub fn attach(&self) -> Option<mpsc::Receiver<ExchangeEvent>> {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        self.attached.store(true, Ordering::Release);
        self.announce.notify_one();
        Some(receiver)
    }

    /// Whether anybody reads events.
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire) && !self.events.is_closed()
    }

    /// Hands an event over, and waits while the consumer is behind: the connection that calls stops reading meanwhile.
    pub async fn emit(&self, event: ExchangeEvent) {
        if self.is_attached() {
            let _ = self.events.send(event).await;
        }
    }

    /// For events that may be lost.
    pub fn try_emit(&self, event: ExchangeEvent) -> bool {
        self.is_attached() && self.events.try_send(event).is_ok()
    }

    pub fn sender(&self) -> &mpsc::Sender<ExchangeEvent> {
        &self.events
    }

    pub fn peer(&self, id: &PeerId) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn open(&self, id: PeerId) -> Arc<Peer> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.entry(id).or_insert_with(|| Arc::new(Peer::new(id))).clone()
    }

    /// Forgets a peer, its wants and ours. Returns the state that was dropped.
    fn close(&self, id: &PeerId) -> Option<Arc<Peer>> {
        let peer = self.peers.write().unwrap_or_else(PoisonError::into_inner).remove(id)?;
        let released = peer.close();
        self.server.released(released);
        Some(peer)
    }
}
