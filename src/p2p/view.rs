//! Keeps the table of connected peers that clients read. What peers say of themselves is cut to size here
//! (RELIABILITY.md §3.4 row 12: 1,800 protocols in one identify).

use std::time::SystemTime;

use libp2p::core::ConnectedPoint;
use libp2p::{PeerId, StreamProtocol};

use super::address::transport_of;
use super::client::{Direction, PeerInfo, View};

/// Characters kept of an agent's name.
const MAX_AGENT: usize = 128;
/// Protocols kept of a peer.
const MAX_PROTOCOLS: usize = 64;

pub fn opened(view: &mut View, peer: PeerId, endpoint: &ConnectedPoint) {
    let address = endpoint.get_remote_address();
    let info = view.peers.entry(peer).or_insert_with(|| PeerInfo {
        peer,
        agent: None,
        protocols: Vec::new(),
        addrs: Vec::new(),
        transport: transport_of(address),
        direction: if endpoint.is_dialer() { Direction::Outbound } else { Direction::Inbound },
        rtt: None,
        connected_since: SystemTime::now(),
        exchange: false,
        bytes_in: 0,
        bytes_out: 0,
    });
    info.addrs.push(address.clone());
}

pub fn closed(view: &mut View, peer: PeerId, endpoint: &ConnectedPoint, remaining: u32) {
    if remaining == 0 {
        view.peers.remove(&peer);
        return;
    }
    if let Some(info) = view.peers.get_mut(&peer) {
        let gone = endpoint.get_remote_address();
        if let Some(at) = info.addrs.iter().position(|addr| addr == gone) {
            info.addrs.remove(at);
        }
        if let Some(first) = info.addrs.first() {
            info.transport = transport_of(first);
        }
    }
}

pub fn identified(view: &mut View, peer: PeerId, agent: &str, protocols: &[StreamProtocol]) {
    if let Some(info) = view.peers.get_mut(&peer) {
        info.agent = Some(agent.chars().filter(|c| !c.is_control()).take(MAX_AGENT).collect());
        info.protocols = protocols.iter().take(MAX_PROTOCOLS).map(ToString::to_string).collect();
    }
}

#[cfg(test)]
mod tests {
    use libp2p::core::Endpoint;
    use libp2p::core::transport::PortUse;

    use super::*;

    #[test]
    fn what_a_peer_says_of_itself_is_cut_to_size() {
        let (mut view, peer) = (View::default(), PeerId::random());
        let endpoint = ConnectedPoint::Dialer {
            address: "/ip4/1.2.3.4/udp/1/quic-v1".parse().unwrap(),
            role_override: Endpoint::Dialer,
            port_use: PortUse::Reuse,
        };
        opened(&mut view, peer, &endpoint);
        let protocols: Vec<StreamProtocol> =
            (0..1800).map(|n| StreamProtocol::try_from_owned(format!("/x/{n}")).unwrap()).collect();
        identified(&mut view, peer, &format!("\u{1b}[2J{}", "a".repeat(10_000)), &protocols);
        let info = &view.peers[&peer];
        assert_eq!(info.protocols.len(), MAX_PROTOCOLS);
        assert_eq!(info.agent.as_ref().unwrap().len(), MAX_AGENT);
        assert!(!info.agent.as_ref().unwrap().contains('\u{1b}'));
        closed(&mut view, peer, &endpoint, 0);
        assert!(view.peers.is_empty());
    }
}
