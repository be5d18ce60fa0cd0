//! Streams for HTTP requests to peers.

use libp2p::{Multiaddr, PeerId};

use super::EventLoop;
use crate::exchange::ConnectError;
use crate::p2p::http::Reply;

impl EventLoop {
    /// Gives `reply` a stream of a connection that stands, or of one that is dialled now.
    pub(super) fn open_http(&mut self, peer: PeerId, addrs: Vec<Multiaddr>, trusted: bool, reply: Reply) {
        if self.swarm.is_connected(&peer) {
            return self.swarm.behaviour_mut().http.open(peer, reply);
        }
        let refused = if self.offline {
            Err(ConnectError::Offline)
        } else if peer == *self.swarm.local_peer_id() {
            Err(ConnectError::NoAddress)
        } else {
            self.learn(peer, addrs, trusted)
        };
        if let Err(error) = refused {
            let _ = reply.send(Err(error));
            return;
        }
        self.swarm.behaviour_mut().http.open_when_connected(peer, reply);
        self.dial(peer);
    }
}
