//! Which addresses may be dialled, and which are remembered.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

pub use crate::exchange::address::{is_http, is_public};
use crate::record::Transport;

/// Peers in the address book.
pub const MAX_PEERS: usize = 4096;
/// Addresses kept of one peer.
pub const MAX_ADDRESSES: usize = 16;
/// Peers whose private addresses are trusted, beside the configured ones.
const MAX_TRUSTED: usize = 4096;

/// Decides about private addresses. Shared between the event loop and the transport, which asks after names are
/// resolved: a public name that points into the local network is refused too.
#[derive(Debug, Clone)]
pub struct Policy {
    allowed: Arc<Vec<IpNet>>,
    trusted: Arc<RwLock<Trusted>>,
}

#[derive(Debug, Default)]
struct Trusted {
    set: HashSet<PeerId>,
    order: VecDeque<PeerId>,
}

impl Policy {
    pub fn new(allowed: &[IpNet]) -> Self {
        Self { allowed: Arc::new(allowed.to_vec()), trusted: Arc::default() }
    }

    /// The operator or the local network named this peer: its private addresses may be dialled.
    pub fn trust(&self, peer: PeerId) {
        let mut trusted = self.trusted.write().unwrap_or_else(PoisonError::into_inner);
        if !trusted.set.insert(peer) {
            return;
        }
        trusted.order.push_back(peer);
        if trusted.order.len() > MAX_TRUSTED
            && let Some(oldest) = trusted.order.pop_front()
        {
            trusted.set.remove(&oldest);
        }
    }

    pub fn is_trusted(&self, peer: &PeerId) -> bool {
        self.trusted.read().unwrap_or_else(PoisonError::into_inner).set.contains(peer)
    }

    /// Whether an address may be dialled for `peer`. Names pass: they are judged again when they are resolved.
    pub fn permits(&self, addr: &Multiaddr, peer: Option<&PeerId>) -> bool {
        let Some(ip) = ip_of(addr) else { return true };
        is_public(ip)
            || self.allowed.iter().any(|net| net.contains(&ip))
            || peer.is_some_and(|peer| self.is_trusted(peer))
    }
}

/// Addresses by peer, bounded both ways; the peer that was touched longest ago goes first.
#[derive(Debug, Default)]
pub struct AddressBook {
    peers: HashMap<PeerId, (u64, VecDeque<Multiaddr>)>,
    clock: u64,
}

impl AddressBook {
    /// Remembers an address as the peer's newest. Returns true when another peer had to go for it.
    pub fn add(&mut self, peer: PeerId, addr: Multiaddr) -> bool {
        self.clock += 1;
        let mut evicted = false;
        if !self.peers.contains_key(&peer) && self.peers.len() >= MAX_PEERS {
            // Linear in MAX_PEERS, and only when the book is full and a new peer appears.
            let oldest = self.peers.iter().min_by_key(|(_, (touched, _))| *touched).map(|(peer, _)| *peer);
            evicted = oldest.and_then(|oldest| self.peers.remove(&oldest)).is_some();
        }
        let (touched, addrs) = self.peers.entry(peer).or_default();
        *touched = self.clock;
        let addr = without_peer(addr);
        addrs.retain(|known| *known != addr);
        addrs.push_front(addr);
        addrs.truncate(MAX_ADDRESSES);
        evicted
    }

    pub fn get(&self, peer: &PeerId) -> impl Iterator<Item = &Multiaddr> {
        self.peers.get(peer).into_iter().flat_map(|(_, addrs)| addrs)
    }

    pub fn remove(&mut self, peer: &PeerId, addr: &Multiaddr) {
        if let Some((_, addrs)) = self.peers.get_mut(peer) {
            addrs.retain(|known| known != addr);
            if addrs.is_empty() {
                self.peers.remove(peer);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.peers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }
}

/// The address without its last `/p2p`, unless that names the target behind a relay.
pub fn without_peer(mut addr: Multiaddr) -> Multiaddr {
    if matches!(addr.iter().last(), Some(Protocol::P2p(_))) {
        addr.pop();
    }
    addr
}

/// The peer at the end of an address.
pub fn peer_of(addr: &Multiaddr) -> Option<PeerId> {
    match addr.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// The first IP address.
pub fn ip_of(addr: &Multiaddr) -> Option<IpAddr> {
    addr.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    })
}

/// What carries the exchange over this address.
pub fn transport_of(addr: &Multiaddr) -> Transport {
    if addr.iter().any(|part| matches!(part, Protocol::Quic | Protocol::QuicV1)) {
        Transport::BitswapQuic
    } else {
        Transport::BitswapTcp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn private_addresses_need_an_allowed_range_or_a_trusted_peer() {
        let policy = Policy::new(&["10.0.0.0/8".parse().unwrap()]);
        let peer = PeerId::random();
        assert!(policy.permits(&addr("/ip4/10.9.9.9/tcp/1"), Some(&peer)));
        assert!(!policy.permits(&addr("/ip4/127.0.0.1/udp/1/quic-v1"), Some(&peer)));
        assert!(!policy.permits(&addr("/ip4/127.0.0.1/tcp/1"), None));
        policy.trust(peer);
        assert!(policy.permits(&addr("/ip4/127.0.0.1/tcp/1"), Some(&peer)));
        assert!(!policy.permits(&addr("/ip4/127.0.0.1/tcp/1"), Some(&PeerId::random())));
    }

    #[test]
    fn the_address_book_is_bounded_both_ways() {
        let mut book = AddressBook::default();
        let first = PeerId::random();
        for port in 0..100 {
            book.add(first, addr(&format!("/ip4/1.2.3.4/tcp/{port}/p2p/{first}")));
        }
        assert_eq!(book.get(&first).count(), MAX_ADDRESSES);
        assert_eq!(book.get(&first).next(), Some(&addr("/ip4/1.2.3.4/tcp/99")));
        for _ in 0..MAX_PEERS {
            book.add(PeerId::random(), addr("/ip4/1.2.3.4/tcp/1"));
        }
        assert_eq!(book.len(), MAX_PEERS);
        assert_eq!(book.get(&first).count(), 0);
    }

    #[test]
    fn trust_is_bounded() {
        let policy = Policy::new(&[]);
        let first = PeerId::random();
        policy.trust(first);
        (0..MAX_TRUSTED).for_each(|_| policy.trust(PeerId::random()));
        assert!(!policy.is_trusted(&first));
    }
}
