//! Bitswap and HTTP as one [`Exchange`], and provider records taken apart into what each of them can ask.
//!
//! A peer that is reachable over both is two candidates with two names: the libp2p peer under its own, and its HTTP address
//! under [`Endpoint::id`](super::endpoint::Endpoint::id). The scheduler measures both and gives each block to the one that will
//! be done first, as between any two peers.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;

use super::endpoint::Endpoint;
use super::trustless::HttpExchange;
use crate::exchange::address::is_http;
use crate::exchange::{Exchange, ExchangeEvent, SendError, Want};
use crate::ipld::Cid;
use crate::record::Transport;
use crate::routing::{ContentRouter, Provider, RouterKind, RoutingError};

/// The protocol of trustless gateways in provider records.
pub const GATEWAY_PROTOCOL: &str = "transport-ipfs-gateway-http";
/// HTTP addresses of one provider record that become candidates.
const MAX_HTTP: usize = 4;

/// Each peer is asked over what it speaks. HTTP writes into the queue that Bitswap's consumer reads, so its events are in
/// that exchange's stream.
pub struct Merged {
    pub bitswap: Arc<dyn Exchange>,
    pub http: HttpExchange,
}

impl Merged {
    fn of(&self, peer: &PeerId) -> &dyn Exchange {
        if self.http.serves(peer) { &self.http } else { &*self.bitswap }
    }
}

impl Exchange for Merged {
    fn send_wants(&self, peer: PeerId, wants: Vec<Want>) -> Result<(), SendError> {
        self.of(&peer).send_wants(peer, wants)
    }

    fn cancel(&self, peer: PeerId, cids: Vec<Cid>) {
        self.of(&peer).cancel(peer, cids);
    }

    fn connect(&self, peer: PeerId, addrs: Vec<Multiaddr>, trusted: bool) {
        let named =
            |addr: &Multiaddr| is_http(addr) && Endpoint::parse(addr).is_ok_and(|endpoint| endpoint.id() == peer);
        if addrs.iter().any(named) {
            self.http.connect(peer, addrs, trusted);
        } else {
            self.of(&peer).connect(peer, addrs, trusted);
        }
    }

    fn keep_warm(&self, peers: &[PeerId]) {
        self.bitswap.keep_warm(peers);
        self.http.keep_warm(peers);
    }

    fn connected(&self) -> Vec<(PeerId, Transport)> {
        let mut all = self.bitswap.connected();
        all.extend(self.http.connected());
        all
    }

    fn events(&self) -> Option<mpsc::Receiver<ExchangeEvent>> {
        self.bitswap.events()
    }
}

/// A router whose records name HTTP providers too. Not for routers that are exempt from the dial guard: what the local
/// network announces would be asked over plain HTTP.
pub struct WithHttp(pub Arc<dyn ContentRouter>);

impl ContentRouter for WithHttp {
    fn kind(&self) -> RouterKind {
        self.0.kind()
    }

    fn name(&self) -> String {
        self.0.name()
    }

    fn find_providers(&self, cid: &Cid) -> BoxStream<'static, Result<Provider, RoutingError>> {
        let parts = |found: Result<Provider, RoutingError>| match found {
            Ok(provider) => apart(provider).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        self.0.find_providers(cid).flat_map(move |found| stream::iter(parts(found))).boxed()
    }
}

/// The configured HTTP providers: asked for everything, like configured peers.
pub struct ConfiguredHttp(pub Vec<Multiaddr>);

impl ContentRouter for ConfiguredHttp {
    fn kind(&self) -> RouterKind {
        RouterKind::Configured
    }

    fn name(&self) -> String {
        "configured (HTTP)".to_owned()
    }

    fn find_providers(&self, _: &Cid) -> BoxStream<'static, Result<Provider, RoutingError>> {
        let found: Vec<_> = http_providers(&self.0, RouterKind::Configured).into_iter().map(Ok).collect();
        stream::iter(found).boxed()
    }
}

/// What is libp2p's of a record, and a provider of its own for each HTTP origin.
fn apart(provider: Provider) -> Vec<Provider> {
    let (http, node): (Vec<Multiaddr>, Vec<Multiaddr>) = provider.addrs.iter().cloned().partition(is_http);
    if http.is_empty() && !provider.transports.iter().any(|name| name == GATEWAY_PROTOCOL) {
        return vec![provider];
    }
    // A record that names protocols and not this one has an HTTP server for something else.
    let speaks = provider.transports.is_empty() || provider.transports.iter().any(|name| name == GATEWAY_PROTOCOL);
    let others = provider.transports.iter().any(|name| name != GATEWAY_PROTOCOL);
    let mut all = Vec::new();
    if !node.is_empty() || others {
        all.push(Provider { addrs: node, ..provider.clone() });
    }
    if speaks {
        all.extend(http_providers(&http, provider.source));
    }
    all
}

fn http_providers(addrs: &[Multiaddr], source: RouterKind) -> Vec<Provider> {
    let mut by_origin: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
    let mut order = Vec::new();
    for addr in addrs {
        let Ok(endpoint) = Endpoint::parse(addr) else { continue };
        let id = endpoint.id();
        if !by_origin.contains_key(&id) {
            order.push(id);
        }
        by_origin.entry(id).or_default().push(addr.clone());
    }
    if source != RouterKind::Configured {
        order.truncate(MAX_HTTP);
    }
    let provider = |peer| Provider {
        peer,
        addrs: by_origin.get(&peer).cloned().unwrap_or_default(),
        transports: vec![GATEWAY_PROTOCOL.to_owned()],
        source,
    };
    order.into_iter().map(provider).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BITSWAP: &str = "transport-bitswap";

    fn record(addrs: &[&str], transports: &[&str]) -> Provider {
        Provider {
            peer: PeerId::random(),
            addrs: addrs.iter().map(|addr| addr.parse().unwrap()).collect(),
            transports: transports.iter().map(ToString::to_string).collect(),
            source: RouterKind::Delegated,
        }
    }

    #[test]
    fn a_record_with_both_kinds_of_addresses_is_two_candidates() {
        let both = record(
            &["/ip4/192.0.2.1/tcp/4001", "/dns4/a.example/tcp/443/tls/http", "/dns/a.example/tcp/443/https"],
            &[BITSWAP, GATEWAY_PROTOCOL],
        );
        let parts = apart(both.clone());
        assert_eq!(parts.len(), 2);
        assert_eq!((parts[0].peer, parts[0].addrs.len()), (both.peer, 1));
        assert_eq!(parts[1].peer, Endpoint::parse(&both.addrs[1]).unwrap().id());
        assert_eq!(parts[1].addrs.len(), 2, "one origin, one name");
    }

    #[test]
    fn a_gateway_alone_is_no_libp2p_peer_and_a_peer_alone_no_gateway() {
        let gateway = apart(record(&["/dns4/a.example/tcp/443/https"], &[GATEWAY_PROTOCOL]));
        assert_eq!(gateway.len(), 1);
        assert!(is_http(&gateway[0].addrs[0]));
        let unsaid = apart(record(&["/dns4/a.example/tcp/443/https"], &[]));
        assert_eq!(unsaid, gateway);
        let peer = record(&["/ip4/192.0.2.1/tcp/4001"], &[BITSWAP]);
        assert_eq!(apart(peer.clone()), [peer]);
        // An HTTP address that the record's protocols do not explain is not asked.
        let other = apart(record(&["/dns4/a.example/tcp/443/https"], &[BITSWAP]));
        assert!(other.len() == 1 && other[0].addrs.is_empty());
        assert!(apart(record(&[], &[GATEWAY_PROTOCOL])).is_empty());
    }

    #[test]
    fn one_record_gives_few_http_candidates() {
        let addrs: Vec<String> = (0..30).map(|n| format!("/dns4/h{n}.example/tcp/443/https")).collect();
        let addrs: Vec<&str> = addrs.iter().map(String::as_str).collect();
        assert_eq!(apart(record(&addrs, &[GATEWAY_PROTOCOL])).len(), MAX_HTTP);
    }
}
