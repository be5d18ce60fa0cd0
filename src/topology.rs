//! L4a: what the network around this node looks like, and what could be better (DATA.md §3).
//!
//! Everything is computed from measurements over a stated window; where there are too few, the answer is `unknown`
//! or `None`. The formulas are pure functions; [`analytics`] puts them together.

mod advice;
mod cluster;
pub mod export;
mod graph;
pub mod insight;
mod layout;
mod network;
mod rating;
mod watch;

use std::time::SystemTime;

use serde::Serialize;

pub use self::advice::{Facts, Recommendation, Severity};
pub use self::cluster::{MAX_CLUSTERS, RttCluster, rtt_clusters};
pub use self::graph::{Role, Shape, degree_distribution, roles};
pub use self::layout::{Frame, Point, Tie, layout};
pub use self::network::{CONNECTED_WITHIN, Link, Network, Node, Summary, TrendPoint, is_connected, network, trend};
pub use self::rating::{Health, Rating, SpeedRating};
pub use self::watch::{NetworkSource, Observed, current, watch};
use crate::db::counters::{Tally, ratio};
use crate::db::observe::NetworkSnapshot;
use crate::stats;

/// A peer of the window. The node itself is not among them.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerSample {
    /// Base58.
    pub id: String,
    pub connected: bool,
    pub rtt_ms: Option<f64>,
    /// The best delivery rate seen, bytes a second.
    pub rate_bps: Option<f64>,
    /// Bytes it has delivered so far.
    pub bytes_in: u64,
}

/// An edge between two peers: a routing-table or fleet link. Own connections are no edges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    pub a: String,
    pub b: String,
}

/// What was measured over a window.
#[derive(Debug, Clone)]
pub struct Inputs {
    pub at: SystemTime,
    pub window_s: f64,
    pub tally: Tally,
    /// Distinct roots served or provided in the window.
    pub known_content_items: u64,
    pub peers: Vec<PeerSample>,
    pub edges: Vec<Edge>,
    pub facts: Facts,
}

/// `get_p2p_network_analytics`. Field names and meanings as in DATA.md §3.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Analytics {
    /// `ok`, or `no_data` when neither a transfer nor a peer was seen in the window.
    pub status: &'static str,
    /// Microseconds since the epoch.
    pub timestamp: i64,
    pub window_s: f64,
    /// Peers connected now.
    pub peer_count: u64,
    /// Peers seen in the window, the node itself left out.
    pub known_peers: u64,
    pub known_content_items: u64,
    pub transfers_completed: u64,
    pub transfers_failed: u64,
    pub bytes_transferred: u64,
    /// Bytes a second while transferring.
    pub average_transfer_speed: Option<f64>,
    pub speed_rating: SpeedRating,
    /// Transfers completed / attempted ("transfer success" on pages).
    pub network_efficiency: Option<f64>,
    /// Edges / possible edges among known peers; `None` while no edge was observed.
    pub network_density: Option<f64>,
    pub network_health: Health,
    /// Attempts that delivered / attempts that delivered or failed.
    pub attempt_success: Option<f64>,
    /// Edges a known peer has, on average; `None` while no edge was observed.
    pub average_connections: Option<f64>,
    /// Byte-weighted mean of bound / transfer time, 0..1.
    pub optimization_score: Option<f64>,
    pub optimization_rating: Rating,
    pub recommendations: Vec<Recommendation>,
    #[serde(flatten)]
    pub shape: Shape,
    pub median_rtt_ms: Option<f64>,
    pub p95_rtt_ms: Option<f64>,
    pub median_rate_bps: Option<f64>,
    pub cache_hit_ratio: Option<f64>,
}

/// Everything that DATA.md §3 asks for, from measurements over a window.
pub fn analytics(inputs: &Inputs) -> Analytics {
    let Inputs { tally, peers, .. } = inputs;
    let shape = Shape::of(peers, &inputs.edges);
    let attempt_success = ratio(tally.attempts_delivered, tally.attempts_delivered + tally.attempts_failed);
    let optimization_score = rating::optimization_score(tally);
    let of = |value: fn(&PeerSample) -> Option<f64>| -> Vec<f64> { peers.iter().filter_map(value).collect() };
    let (rtts, rates) = (of(|peer| peer.rtt_ms), of(|peer| peer.rate_bps));
    let seen = tally.transfers_completed + tally.transfers_failed > 0 || !peers.is_empty();
    Analytics {
        status: if seen { "ok" } else { "no_data" },
        timestamp: timestamp(inputs.at),
        window_s: inputs.window_s,
        peer_count: peers.iter().filter(|peer| peer.connected).count() as u64,
        known_peers: shape.nodes,
        known_content_items: inputs.known_content_items,
        transfers_completed: tally.transfers_completed,
        transfers_failed: tally.transfers_failed,
        bytes_transferred: tally.bytes_network,
        average_transfer_speed: rating::average_transfer_speed(tally),
        speed_rating: rating::speed(tally),
        network_efficiency: ratio(tally.transfers_completed, tally.transfers_completed + tally.transfers_failed),
        network_density: shape.density(),
        network_health: rating::health(&shape, attempt_success),
        attempt_success,
        average_connections: shape.average_connections(),
        optimization_score,
        optimization_rating: Rating::of(optimization_score),
        recommendations: advice::recommend(inputs, &shape),
        median_rtt_ms: stats::quantile(&rtts, 0.5),
        p95_rtt_ms: stats::quantile(&rtts, 0.95),
        median_rate_bps: stats::quantile(&rates, 0.5),
        cache_hit_ratio: tally.hit_ratio_requests(),
        shape,
    }
}

/// The same as a row of `p2p_network_metrics`.
pub fn snapshot(inputs: &Inputs) -> NetworkSnapshot {
    let analytics = analytics(inputs);
    NetworkSnapshot {
        ipfs_result_id: None,
        at: inputs.at,
        window_s: analytics.window_s,
        peer_count: analytics.peer_count,
        known_content_items: Some(analytics.known_content_items),
        transfers_completed: analytics.transfers_completed,
        transfers_failed: analytics.transfers_failed,
        bytes_transferred: analytics.bytes_transferred,
        average_transfer_speed: analytics.average_transfer_speed,
        network_efficiency: analytics.network_efficiency,
        network_density: analytics.network_density,
        average_connections: analytics.average_connections,
        optimization_score: analytics.optimization_score,
        optimization_rating: analytics.optimization_rating.as_str().to_owned(),
        network_health: analytics.network_health.as_str().to_owned(),
        diameter: analytics.shape.diameter,
        components: analytics.shape.components,
        clustering: analytics.shape.clustering,
        median_rtt_ms: analytics.median_rtt_ms,
        p95_rtt_ms: analytics.p95_rtt_ms,
        median_rate_bps: analytics.median_rate_bps,
        cache_hit_ratio: analytics.cache_hit_ratio,
    }
}

fn timestamp(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str, rtt_ms: Option<f64>) -> PeerSample {
        PeerSample { id: id.to_owned(), connected: rtt_ms.is_some(), rtt_ms, rate_bps: None, bytes_in: 0 }
    }

    fn inputs() -> Inputs {
        Inputs {
            at: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000),
            window_s: 3_600.0,
            tally: Tally::default(),
            known_content_items: 0,
            peers: Vec::new(),
            edges: Vec::new(),
            facts: Facts::default(),
        }
    }

    #[test]
    fn a_network_that_nobody_measured_is_unknown_in_every_respect() {
        let nothing = analytics(&inputs());
        assert_eq!((nothing.status, nothing.network_efficiency, nothing.network_density), ("no_data", None, None));
        assert_eq!((nothing.speed_rating, nothing.network_health), (SpeedRating::Unknown, Health::Unknown));
        assert_eq!((nothing.optimization_score, nothing.optimization_rating), (None, Rating::Unknown));
        assert_eq!((nothing.average_transfer_speed, nothing.median_rtt_ms), (None, None));
    }

    #[test]
    fn worked_example_of_every_figure() {
        let mut inputs = inputs();
        inputs.peers = vec![peer("a", Some(10.0)), peer("b", Some(20.0)), peer("c", None)];
        inputs.edges = vec![Edge { a: "a".into(), b: "b".into() }];
        inputs.known_content_items = 4;
        inputs.tally = Tally {
            requests: 20,
            hits_memory: 10,
            misses: 10,
            transfers_completed: 9,
            transfers_failed: 1,
            bytes_network: 2_000_000,
            transfers_measured: 9,
            transfer_bytes: 1_800_000,
            transfer_time_us: 900_000,
            attempts_delivered: 19,
            attempts_failed: 1,
            scored_transfers: 8,
            scored_time_us: 800_000,
            bound_time_us: 560_000,
            score_bytes: 1_000_000.0,
            score_sum: 850_000.0,
            ..Tally::default()
        };
        let got = analytics(&inputs);
        assert_eq!((got.status, got.peer_count, got.known_peers, got.known_content_items), ("ok", 2, 3, 4));
        assert_eq!((got.transfers_completed, got.transfers_failed, got.bytes_transferred), (9, 1, 2_000_000));
        // 1.8 MB in 0.9 s.
        assert_eq!(got.average_transfer_speed, Some(2_000_000.0));
        // The providers used allowed 0.56 s where 0.8 s was taken: 0.7.
        assert_eq!(got.speed_rating, SpeedRating::Good);
        assert_eq!((got.network_efficiency, got.attempt_success), (Some(0.9), Some(0.95)));
        // One of three possible edges; two ends among three peers.
        assert_eq!((got.network_density, got.average_connections), (Some(1.0 / 3.0), Some(2.0 / 3.0)));
        assert_eq!((got.optimization_score, got.optimization_rating), (Some(0.85), Rating::Excellent));
        // One edge is too few to speak of health.
        assert_eq!(got.network_health, Health::Unknown);
        assert_eq!((got.shape.components, got.shape.diameter), (Some(2), Some(1)));
        assert_eq!((got.median_rtt_ms, got.p95_rtt_ms), (Some(15.0), Some(19.5)));
        assert_eq!(got.cache_hit_ratio, Some(0.5));
        let row = snapshot(&inputs);
        assert_eq!(
            (row.peer_count, row.network_health.as_str(), row.optimization_rating.as_str()),
            (2, "unknown", "excellent")
        );
    }

    #[test]
    fn the_api_has_the_published_field_names() {
        let json = serde_json::to_value(analytics(&inputs())).unwrap();
        for field in [
            "status",
            "timestamp",
            "peer_count",
            "known_content_items",
            "transfers_completed",
            "transfers_failed",
            "bytes_transferred",
            "average_transfer_speed",
            "speed_rating",
            "network_efficiency",
            "network_density",
            "network_health",
            "average_connections",
            "optimization_score",
            "optimization_rating",
            "recommendations",
            "diameter",
            "components",
            "clustering",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
        assert_eq!(json["optimization_rating"], "unknown");
    }
}
