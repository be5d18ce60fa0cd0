//! What the node sees besides retrievals: snapshots of the network, peers and links. Bounded, and never waited for.

use std::time::SystemTime;

use serde::Serialize;

use super::Database;

/// Notes that may wait for the database.
pub const QUEUE: usize = 64;
/// The most peers or links of one note; further ones are left out.
pub const MAX_PER_NOTE: usize = 4_096;

/// A row of `p2p_network_metrics`: the network as this node saw it over a window. `topology` computes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NetworkSnapshot {
    /// The bench iteration or retrieval that it belongs to.
    pub ipfs_result_id: Option<i64>,
    pub at: SystemTime,
    pub window_s: f64,
    pub peer_count: u64,
    pub known_content_items: Option<u64>,
    pub transfers_completed: u64,
    pub transfers_failed: u64,
    pub bytes_transferred: u64,
    /// Bytes a second while transferring.
    pub average_transfer_speed: Option<f64>,
    /// Transfers completed / attempted.
    pub network_efficiency: Option<f64>,
    pub network_density: Option<f64>,
    pub average_connections: Option<f64>,
    pub optimization_score: Option<f64>,
    pub optimization_rating: String,
    pub network_health: String,
    pub diameter: Option<u64>,
    pub components: Option<u64>,
    pub clustering: Option<f64>,
    pub median_rtt_ms: Option<f64>,
    pub p95_rtt_ms: Option<f64>,
    pub median_rate_bps: Option<f64>,
    pub cache_hit_ratio: Option<f64>,
}

/// A peer as the node knows it now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PeerObservation {
    /// Base58.
    pub peer_id: String,
    pub connected: bool,
    pub agent: Option<String>,
    pub protocols: Vec<String>,
    pub addrs: Vec<String>,
    /// `quic` or `tcp`, of the connection in use.
    pub transport: Option<String>,
    pub rtt_ms: Option<f64>,
    pub rate_bps: Option<f64>,
    pub bytes_out: Option<u64>,
    pub strikes: Option<u64>,
    /// Who named the peer: a router, mDNS, the configuration, or the peer itself (`inbound`).
    pub source: Option<String>,
}

/// An edge between two peers.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkObservation {
    pub a: String,
    pub b: String,
    pub kind: LinkKind,
    pub rtt_ms: Option<f64>,
    pub rate_bps: Option<f64>,
    pub observed_by: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    Connected,
    Routing,
    Fleet,
}

impl LinkKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Routing => "routing",
            Self::Fleet => "fleet",
        }
    }
}

pub(crate) enum Note {
    Network(Box<NetworkSnapshot>),
    /// The whole of what is known now: peers that are not in it are not connected.
    Peers(Vec<PeerObservation>),
    Links(Vec<LinkObservation>),
}

impl Database {
    /// Hands over a row of `p2p_network_metrics`; call it every 60 s.
    pub fn write_network_snapshot(&self, snapshot: NetworkSnapshot) {
        self.sink.note(Note::Network(Box::new(snapshot)));
    }

    /// Hands over the peers that the node knows now; those that are not among them count as not connected.
    pub fn observe_peers(&self, mut peers: Vec<PeerObservation>) {
        peers.truncate(MAX_PER_NOTE);
        self.sink.note(Note::Peers(peers));
    }

    /// Hands over observed links.
    pub fn observe_links(&self, mut links: Vec<LinkObservation>) {
        links.truncate(MAX_PER_NOTE);
        self.sink.note(Note::Links(links));
    }
}
