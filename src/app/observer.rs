//! What the node and the retriever know of peers, as the database's observations.

use async_trait::async_trait;

use crate::db::observe::{LinkKind, LinkObservation, PeerObservation};
use crate::p2p;
use crate::record::Transport;
use crate::retriever::{PeerSnapshot, Retriever};
use crate::topology::{NetworkSource, Observed};

pub struct Observer {
    pub node: p2p::Client,
    pub retriever: Retriever,
}

#[async_trait]
impl NetworkSource for Observer {
    async fn observe(&self) -> Observed {
        let known = self.retriever.peers();
        let own = self.node.peer_id().to_string();
        let connected = self.node.peers();
        let links = connected.iter().map(|peer| LinkObservation {
            a: own.clone(),
            b: peer.peer.to_string(),
            kind: LinkKind::Connected,
            rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            rate_bps: known.iter().find(|known| known.peer == peer.peer).and_then(|known| known.max_rate),
            observed_by: Some(own.clone()),
        });
        let http: Vec<&PeerSnapshot> = known.iter().filter(|peer| peer.transport == Some(Transport::Http)).collect();
        let links = links.chain(http.iter().map(|peer| LinkObservation {
            a: own.clone(),
            b: peer.peer.to_string(),
            kind: LinkKind::Connected,
            rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            rate_bps: peer.max_rate,
            observed_by: Some(own.clone()),
        }));
        let links = links.collect();
        let providers = http.iter().map(|peer| PeerObservation {
            peer_id: peer.peer.to_string(),
            connected: true,
            agent: None,
            protocols: Vec::new(),
            addrs: peer.address.iter().map(ToString::to_string).collect(),
            transport: Some(Transport::Http.to_string()),
            rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            rate_bps: peer.max_rate,
            bytes_out: None,
            strikes: Some(peer.strikes.round() as u64),
            source: None,
        });
        let peers = connected.into_iter().map(|peer| {
            let ledger = known.iter().find(|known| known.peer == peer.peer);
            PeerObservation {
                peer_id: peer.peer.to_string(),
                connected: true,
                agent: peer.agent,
                protocols: peer.protocols,
                addrs: peer.addrs.iter().map(ToString::to_string).collect(),
                transport: Some(peer.transport.to_string()),
                rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
                rate_bps: ledger.and_then(|ledger| ledger.max_rate),
                bytes_out: Some(peer.bytes_out),
                strikes: ledger.map(|ledger| ledger.strikes.round() as u64),
                source: None,
            }
        });
        Observed { peers: peers.chain(providers).collect(), links }
    }
}
