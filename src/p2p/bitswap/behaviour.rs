//! Which connection of a peer Bitswap uses, and when a peer counts as connected.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure, FromSwarm, ListenFailure};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use super::Shared;
use super::handler::{FromBehaviour, Handler, ToBehaviour};
use crate::ipld::Cid;

/// See the module.
pub struct Behaviour {
    shared: Arc<Shared>,
    /// Bounded by the connection limits.
    peers: HashMap<PeerId, Connections>,
    queue: VecDeque<ToSwarm<Event, FromBehaviour>>,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Connections {
    /// In order of age.
    open: Vec<(ConnectionId, ConnectedPoint)>,
    used: Option<ConnectionId>,
    announced: bool,
    unsupported: bool,
}

/// What the event loop learns.
#[derive(Debug)]
pub enum Event {
    /// The peer speaks Bitswap, over this connection.
    Ready { peer: PeerId, endpoint: ConnectedPoint },
    /// The peer is connected and speaks no Bitswap.
    Unsupported { peer: PeerId },
    /// The last connection of a peer that was ready is gone.
    Gone { peer: PeerId },
    /// The last connection is gone before the peer could say whether it speaks Bitswap.
    Lost { peer: PeerId },
    /// Wants that could not be delivered.
    SendFailed { peer: PeerId, cids: Vec<Cid> },
}

impl Behaviour {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, peers: HashMap::new(), queue: VecDeque::new(), waker: None }
    }

    /// Peers that are ready, and the connections in use.
    pub fn ready(&self) -> impl Iterator<Item = (PeerId, &ConnectedPoint)> {
        self.peers.iter().filter(|(_, peer)| peer.announced).filter_map(|(id, peer)| Some((*id, peer.endpoint()?)))
    }

    /// What is known of a connected peer: `Some(Ok(endpoint))` ready, `Some(Err(true))` unsupported, `Some(Err(false))`
    /// still negotiating, `None` not connected.
    pub fn state(&self, peer: &PeerId) -> Option<Result<&ConnectedPoint, bool>> {
        let peer = self.peers.get(peer)?;
        Some(match peer.endpoint() {
            Some(endpoint) if peer.announced => Ok(endpoint),
            _ => Err(peer.unsupported),
        })
    }

    fn push(&mut self, event: ToSwarm<Event, FromBehaviour>) {
        self.queue.push_back(event);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn handler(&self, peer: PeerId) -> Handler {
        Handler::new(self.shared.open(peer), self.shared.clone())
    }

    /// A connection was refused after its handler was made: nothing must be left of it.
    fn refused(&mut self, peer: Option<PeerId>) {
        if let Some(peer) = peer.filter(|peer| !self.peers.contains_key(peer)) {
            self.shared.close(&peer);
        }
    }

    fn established(&mut self, peer: PeerId, connection: ConnectionId, endpoint: ConnectedPoint) {
        let connections = self.peers.entry(peer).or_default();
        connections.open.push((connection, endpoint));
        if connections.used.is_none() {
            connections.used = Some(connection);
            self.notify(peer, connection);
        }
    }

    fn closed(&mut self, peer: PeerId, connection: ConnectionId, remaining: usize) {
        let Some(connections) = self.peers.get_mut(&peer) else { return };
        connections.open.retain(|(id, _)| *id != connection);
        if remaining == 0 {
            let gone = connections.announced;
            self.peers.remove(&peer);
            self.shared.close(&peer);
            self.push(ToSwarm::GenerateEvent(if gone { Event::Gone { peer } } else { Event::Lost { peer } }));
        } else if connections.used == Some(connection) {
            connections.used = connections.open.first().map(|(id, _)| *id);
            if let Some(next) = connections.used {
                if let Some(peer) = self.shared.peer(&peer) {
                    peer.resend();
                }
                self.notify(peer, next);
            }
        }
    }

    fn notify(&mut self, peer_id: PeerId, connection: ConnectionId) {
        self.push(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::One(connection),
            event: FromBehaviour::Use,
        });
    }
}

impl Connections {
    fn endpoint(&self) -> Option<&ConnectedPoint> {
        let used = self.used?;
        self.open.iter().find(|(id, _)| *id == used).map(|(_, endpoint)| endpoint)
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. }) => {
                self.established(peer_id, connection_id, endpoint.clone());
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, remaining_established, .. }) => {
                self.closed(peer_id, connection_id, remaining_established);
            }
            FromSwarm::DialFailure(DialFailure { peer_id, .. }) => self.refused(peer_id),
            FromSwarm::ListenFailure(ListenFailure { peer_id, .. }) => self.refused(peer_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        let Some(connections) = self.peers.get_mut(&peer) else { return };
        match event {
            ToBehaviour::Ready(_) => {
                connections.announced = true;
                connections.unsupported = false;
                let endpoint =
                    connections.open.iter().find(|(id, _)| *id == connection).map(|(_, point)| point.clone());
                if let Some(endpoint) = endpoint {
                    self.push(ToSwarm::GenerateEvent(Event::Ready { peer, endpoint }));
                }
            }
            ToBehaviour::Unsupported => {
                connections.unsupported = true;
                let cids = self.shared.peer(&peer).map(|peer| peer.forget_wants()).unwrap_or_default();
                if !cids.is_empty() {
                    self.push(ToSwarm::GenerateEvent(Event::SendFailed { peer, cids }));
                }
                self.push(ToSwarm::GenerateEvent(Event::Unsupported { peer }));
            }
            ToBehaviour::Failed => {
                let cids = self.shared.peer(&peer).map(|peer| peer.forget_wants()).unwrap_or_default();
                if !cids.is_empty() {
                    self.push(ToSwarm::GenerateEvent(Event::SendFailed { peer, cids }));
                }
                self.push(ToSwarm::CloseConnection { peer_id: peer, connection: CloseConnection::One(connection) });
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        if let Some(event) = self.queue.pop_front() {
            return Poll::Ready(event);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
