//! Brings those who ask for a stream to a connection of the peer, or lets them wait for one that is being dialled.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionEstablished, DialFailure, FromSwarm};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use super::handler::Handler;
use super::{Reply, Shared};
use crate::exchange::ConnectError;

/// Requests that wait for a dial at once.
const MAX_PENDING: usize = 256;

/// See the module.
pub struct Behaviour {
    shared: Arc<Shared>,
    /// At most [`MAX_PENDING`] replies; a dial ends within its timeout, one way or the other.
    pending: HashMap<PeerId, Vec<Reply>>,
    queue: VecDeque<ToSwarm<Infallible, Reply>>,
    waker: Option<Waker>,
}

impl Behaviour {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, pending: HashMap::new(), queue: VecDeque::new(), waker: None }
    }

    /// Opens a stream on a connection of a connected peer.
    pub fn open(&mut self, peer_id: PeerId, reply: Reply) {
        // Where the connection is gone meanwhile the swarm drops the reply, and who waits learns of that.
        self.queue.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event: reply });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Opens one as soon as the peer is connected: the caller dials.
    pub fn open_when_connected(&mut self, peer: PeerId, reply: Reply) {
        if self.pending.values().map(Vec::len).sum::<usize>() >= MAX_PENDING {
            self.shared.metrics.limit_opening.inc();
            let _ = reply.send(Err(ConnectError::LimitReached));
            return;
        }
        self.pending.entry(peer).or_default().push(reply);
    }

    fn failed(&mut self, peer: PeerId, error: &ConnectError) {
        for reply in self.pending.remove(&peer).unwrap_or_default() {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(peer, self.shared.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(peer, self.shared.clone()))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, .. }) => {
                for reply in self.pending.remove(&peer_id).unwrap_or_default() {
                    self.open(peer_id, reply);
                }
            }
            // Another dial is under way, and will tell.
            FromSwarm::DialFailure(DialFailure { error: DialError::DialPeerConditionFalse(_), .. }) => {}
            FromSwarm::DialFailure(DialFailure { peer_id: Some(peer), error, .. }) => {
                let error = match error {
                    DialError::NoAddresses => ConnectError::NoAddress,
                    DialError::Denied { .. } => ConnectError::LimitReached,
                    error => ConnectError::Dial(error.to_string()),
                };
                self.failed(peer, &error);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        if let Some(event) = self.queue.pop_front() {
            return Poll::Ready(event);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
