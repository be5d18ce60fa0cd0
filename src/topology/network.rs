//! The network as a graph to draw, list and export: who is there, who is linked, and what each is to the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::Serialize;

use super::graph::{self, Shape};
use super::{RttCluster, rtt_clusters};
use crate::db::observe::LinkKind;
use crate::db::queries::{LinkRow, MAX_LIMIT, NetworkRow, PeerOrder, PeerRow, Window};
use crate::db::{Database, DbError};

/// The node tells every 10 s whom it is connected to; an older mark is of a server that was killed.
pub const CONNECTED_WITHIN: Duration = Duration::from_secs(60);

/// The network over a window, as this node saw it.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Network {
    /// Microseconds since the epoch.
    pub at_us: i64,
    pub window_s: f64,
    /// This node; `None` when it is offline.
    pub own: Option<String>,
    /// This node first, then those that delivered most.
    pub nodes: Vec<Node>,
    pub edges: Vec<Link>,
    /// Peers alike in RTT, the nearest first.
    pub rtt_clusters: Vec<RttCluster>,
    /// How many peers have each number of edges, as drawn.
    pub degree_distribution: BTreeMap<u64, u64>,
    /// The graph as drawn: this node and its connections are part of it.
    pub with_own: Summary,
    /// The others among themselves: own connections are no edges (DATA.md §3).
    pub without_own: Summary,
}

/// A peer, or this node.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Node {
    pub id: String,
    pub own: bool,
    /// To this node, now.
    pub connected: bool,
    pub agent: Option<String>,
    pub transport: Option<String>,
    pub rtt_ms: Option<f64>,
    /// The best delivery rate seen, bytes a second.
    pub rate_bps: Option<f64>,
    pub bytes_in: u64,
    pub bytes_out: Option<u64>,
    pub degree: u64,
    /// Share of the shortest paths between others that lead through it, 0..1.
    pub betweenness: Option<f64>,
    /// Without it others lose each other. This node is never marked: all of its connections end with it.
    pub cut: bool,
    /// 0 is the largest.
    pub component: u64,
    /// Name of its RTT cluster.
    pub cluster: Option<char>,
}

/// An edge; several observations of one pair are one, the latest.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Link {
    pub a: String,
    pub b: String,
    /// `connected`, `routing` or `fleet`.
    pub kind: String,
    pub rtt_ms: Option<f64>,
    pub rate_bps: Option<f64>,
    /// Seen within the last minute.
    pub current: bool,
    /// Microseconds since the epoch.
    pub last_seen: i64,
}

/// The shape of a graph in figures; `None` where there is nothing to measure.
#[derive(Debug, Clone, PartialEq, Default, Serialize, utoipa::ToSchema)]
pub struct Summary {
    pub peers: u64,
    pub edges: u64,
    pub components: Option<u64>,
    pub diameter: Option<u64>,
    pub density: Option<f64>,
    pub clustering: Option<f64>,
    pub average_connections: Option<f64>,
    /// Share of peers in the largest component.
    pub reach: Option<f64>,
    pub cut_peers: u64,
    /// The largest share of peers that one loss cuts off, and whose loss.
    pub worst_cut: f64,
    pub worst_cut_peer: Option<String>,
}

/// What the snapshots of a span of time say on average.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct TrendPoint {
    /// Microseconds since the epoch: the start of the span.
    pub at_us: i64,
    pub snapshots: u64,
    pub peers: Option<f64>,
    pub median_rtt_ms: Option<f64>,
    pub median_rate_bps: Option<f64>,
    pub components: Option<f64>,
    pub diameter: Option<f64>,
    pub density: Option<f64>,
    pub clustering: Option<f64>,
    /// Transfers completed / attempted.
    pub network_efficiency: Option<f64>,
}

/// The network of the window's peers and links, at most 1,000 peers and 20,000 links.
pub async fn network(db: &Database, own: Option<&str>, window: Window) -> Result<Network, DbError> {
    let peers = db.peers(PeerOrder::LastSeen, MAX_LIMIT).await?;
    let links = db.links(window).await?;
    Ok(Network::of(own, &peers, &links, window))
}

/// Marked as connected, and told so lately.
pub fn is_connected(peer: &PeerRow, at_us: i64) -> bool {
    peer.connected && at_us - peer.last_seen < CONNECTED_WITHIN.as_micros() as i64
}

impl Network {
    /// From rows. Peers of the window are those seen in it or connected now, and the ends of its links.
    pub fn of(own: Option<&str>, peers: &[PeerRow], links: &[LinkRow], window: Window) -> Self {
        let at_us = window.until_us;
        let edges = edges(links, at_us);
        let rows: HashMap<&str, &PeerRow> = peers.iter().map(|row| (row.peer_id.as_str(), row)).collect();
        let seen = peers.iter().filter(|row| is_connected(row, at_us) || row.last_seen >= window.since_us);
        let ids: BTreeSet<&str> = seen
            .map(|row| row.peer_id.as_str())
            .chain(edges.iter().flat_map(|edge| [edge.a.as_str(), edge.b.as_str()]))
            .chain(own)
            .collect();
        let mut nodes: Vec<Node> =
            ids.into_iter().map(|id| Node::new(id, own == Some(id), rows.get(id).copied(), at_us)).collect();
        nodes.sort_by(|a, b| b.own.cmp(&a.own).then(b.bytes_in.cmp(&a.bytes_in)).then(a.id.cmp(&b.id)));
        let rtt_clusters = name_clusters(&mut nodes);
        let positions: HashMap<&str, usize> = nodes.iter().enumerate().map(|(at, n)| (n.id.as_str(), at)).collect();
        let pairs: Vec<(usize, usize)> =
            edges.iter().filter_map(|e| Some((*positions.get(e.a.as_str())?, *positions.get(e.b.as_str())?))).collect();
        let names: Vec<&str> = nodes.iter().map(|node| node.id.as_str()).collect();
        let roles = graph::roles(&names, &pairs);
        let degree_distribution = graph::degree_distribution(&roles);
        let others = |id: &str| own != Some(id);
        let with_own = Summary::of(
            names.iter().copied(),
            edges.iter().map(|edge| (edge.a.as_str(), edge.b.as_str())),
            nodes.iter().zip(&roles).filter(|(node, role)| role.cut && !node.own).count(),
        );
        let kept: Vec<&str> = names.iter().copied().filter(|id| others(id)).collect();
        let shift = names.len() - kept.len();
        // This node, if any, is the first.
        let among: Vec<(usize, usize)> =
            pairs.iter().filter_map(|(a, b)| Some((a.checked_sub(shift)?, b.checked_sub(shift)?))).collect();
        let cuts = graph::roles(&kept, &among).iter().filter(|role| role.cut).count();
        let without_own = Summary::of(kept.iter().copied(), among.iter().map(|(a, b)| (kept[*a], kept[*b])), cuts);
        for (node, role) in nodes.iter_mut().zip(&roles) {
            node.degree = role.degree;
            node.betweenness = role.betweenness;
            node.cut = role.cut && !node.own;
            node.component = role.component;
        }
        Self {
            at_us,
            window_s: window.seconds(),
            own: own.map(str::to_owned),
            nodes,
            edges,
            rtt_clusters,
            degree_distribution,
            with_own,
            without_own,
        }
    }
}

impl Node {
    fn new(id: &str, own: bool, row: Option<&PeerRow>, at_us: i64) -> Self {
        let bytes = |value: i64| u64::try_from(value).unwrap_or_default();
        Self {
            id: id.to_owned(),
            own,
            connected: row.is_some_and(|row| is_connected(row, at_us)),
            agent: row.and_then(|row| row.agent.clone()),
            transport: row.and_then(|row| row.transport.clone()),
            rtt_ms: row.and_then(|row| row.rtt_ms),
            rate_bps: row.and_then(|row| row.rate_bps),
            bytes_in: row.map_or(0, |row| bytes(row.bytes_in)),
            bytes_out: row.and_then(|row| row.bytes_out).map(bytes),
            degree: 0,
            betweenness: None,
            cut: false,
            component: 0,
            cluster: None,
        }
    }
}

impl Summary {
    fn of<'a>(
        ids: impl Iterator<Item = &'a str>,
        edges: impl Iterator<Item = (&'a str, &'a str)>,
        cut_peers: usize,
    ) -> Self {
        let shape = Shape::of_ids(ids, edges);
        Self {
            peers: shape.nodes,
            edges: shape.edges,
            components: shape.components,
            diameter: shape.diameter,
            density: shape.density(),
            clustering: shape.clustering,
            average_connections: shape.average_connections(),
            reach: shape.reach,
            cut_peers: cut_peers as u64,
            worst_cut: shape.worst_cut,
            worst_cut_peer: shape.worst_cut_peer,
        }
    }
}

/// One edge for each pair, of the observation that says most: a connection, then the latest.
fn edges(links: &[LinkRow], at_us: i64) -> Vec<Link> {
    let recent = CONNECTED_WITHIN.as_micros() as i64;
    let mut best: BTreeMap<(&str, &str), &LinkRow> = BTreeMap::new();
    let rank = |link: &LinkRow| (link.kind == LinkKind::Connected.as_str(), link.last_seen);
    for link in links.iter().filter(|link| link.a != link.b) {
        let pair = if link.a < link.b { (&*link.a, &*link.b) } else { (&*link.b, &*link.a) };
        let kept = best.entry(pair).or_insert(link);
        if rank(link) > rank(kept) {
            *kept = link;
        }
    }
    best.into_iter()
        .map(|((a, b), link)| Link {
            a: a.to_owned(),
            b: b.to_owned(),
            kind: link.kind.clone(),
            rtt_ms: link.rtt_ms,
            rate_bps: link.rate_bps,
            current: at_us - link.last_seen < recent,
            last_seen: link.last_seen,
        })
        .collect()
}

fn name_clusters(nodes: &mut [Node]) -> Vec<RttCluster> {
    let rtts: Vec<Option<f64>> = nodes.iter().map(|node| node.rtt_ms.filter(|_| !node.own)).collect();
    let (of, clusters) = rtt_clusters(&rtts);
    for (node, cluster) in nodes.iter_mut().zip(of) {
        node.cluster = cluster.and_then(|at| clusters.get(at)).map(|cluster| cluster.name);
    }
    clusters
}

/// Snapshots averaged over `buckets` equal spans of a window; spans without a snapshot are left out.
pub fn trend(rows: &[NetworkRow], window: Window, buckets: usize) -> Vec<TrendPoint> {
    let width = ((window.until_us - window.since_us) / buckets.max(1) as i64).max(1);
    let mut spans: BTreeMap<i64, Vec<&NetworkRow>> = BTreeMap::new();
    for row in rows.iter().filter(|row| (window.since_us..window.until_us).contains(&row.test_timestamp)) {
        spans.entry((row.test_timestamp - window.since_us) / width).or_default().push(row);
    }
    let mean = |rows: &[&NetworkRow], value: &dyn Fn(&NetworkRow) -> Option<f64>| {
        let values: Vec<f64> = rows.iter().filter_map(|row| value(row)).filter(|value| value.is_finite()).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    spans
        .into_iter()
        .map(|(span, rows)| TrendPoint {
            at_us: window.since_us + span * width,
            snapshots: rows.len() as u64,
            peers: mean(&rows, &|row| Some(row.peer_count as f64)),
            median_rtt_ms: mean(&rows, &|row| row.median_rtt_ms),
            median_rate_bps: mean(&rows, &|row| row.median_rate_bps),
            components: mean(&rows, &|row| row.components.map(|n| n as f64)),
            diameter: mean(&rows, &|row| row.diameter.map(|n| n as f64)),
            density: mean(&rows, &|row| row.network_density),
            clustering: mean(&rows, &|row| row.clustering),
            network_efficiency: mean(&rows, &|row| row.network_efficiency),
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000_000;

    pub fn peer(id: &str, rtt_ms: Option<f64>) -> PeerRow {
        PeerRow {
            peer_id: id.to_owned(),
            agent: Some("kubo/0.43.0".to_owned()),
            protocols: None,
            addrs: None,
            first_seen: NOW - 60_000_000,
            last_seen: NOW - 5_000_000,
            connected: true,
            transport: Some("quic".to_owned()),
            rtt_ms,
            rate_bps: Some(1e6),
            bytes_in: 1_000,
            bytes_out: None,
            blocks_in: 1,
            attempts: 1,
            delivered: 1,
            failures: 0,
            strikes: 0,
            source: None,
            region_cluster: None,
        }
    }

    pub fn link(a: &str, b: &str, kind: &str) -> LinkRow {
        LinkRow {
            a: a.to_owned(),
            b: b.to_owned(),
            kind: kind.to_owned(),
            rtt_ms: Some(1.0),
            rate_bps: None,
            observed_by: None,
            first_seen: NOW - 60_000_000,
            last_seen: NOW - 1_000_000,
        }
    }

    pub fn seen(own: Option<&str>, peers: &[PeerRow], links: &[LinkRow]) -> Network {
        Network::of(own, peers, links, Window { since_us: NOW - 3_600_000_000, until_us: NOW })
    }

    #[test]
    fn worked_example_of_a_network_with_a_peer_behind_a_peer() {
        // own - a, own - b, b - c: c is reached through b alone.
        let peers = [peer("a", Some(1.0)), peer("b", Some(100.0))];
        let links = [link("a", "own", "connected"), link("b", "own", "connected"), link("b", "c", "routing")];
        let network = seen(Some("own"), &peers, &links);
        let names: Vec<_> = network.nodes.iter().map(|node| (node.id.as_str(), node.cut, node.degree)).collect();
        assert_eq!(names, [("own", false, 2), ("a", false, 1), ("b", true, 2), ("c", false, 1)]);
        let clusters: Vec<_> = network.nodes.iter().map(|node| node.cluster).collect();
        assert_eq!(clusters, [None, Some('A'), Some('B'), None]);
        // As drawn: three edges of six, a path of four; without own: a alone, b - c.
        let drawn = &network.with_own;
        assert_eq!((drawn.peers, drawn.edges, drawn.components, drawn.diameter), (4, 3, Some(1), Some(3)));
        assert_eq!((drawn.density, drawn.cut_peers), (Some(0.5), 1));
        let others = &network.without_own;
        assert_eq!((others.peers, others.edges, others.components, others.cut_peers), (3, 1, Some(2), 0));
        assert_eq!(others.reach, Some(2.0 / 3.0));
        assert_eq!(network.degree_distribution, BTreeMap::from([(1, 2), (2, 2)]));
        // Pairs of others through b: own-c and a-c of three.
        assert_eq!(network.nodes[2].betweenness, Some(2.0 / 3.0));
    }

    #[test]
    fn a_mark_of_a_killed_server_does_not_count_as_connected_and_old_peers_are_left_out() {
        let mut stale = peer("a", None);
        stale.last_seen = NOW - 600_000_000;
        let mut gone = peer("b", None);
        (gone.last_seen, gone.connected) = (NOW - 7_200_000_000, false);
        let network = seen(None, &[stale, gone], &[]);
        assert_eq!(network.nodes.len(), 1);
        assert!(!network.nodes[0].connected);
    }

    #[test]
    fn several_observations_of_a_pair_are_one_edge_and_a_connection_says_most() {
        let mut routing = link("b", "a", "routing");
        routing.last_seen = NOW;
        let network = seen(None, &[], &[routing, link("a", "b", "connected"), link("a", "a", "routing")]);
        let kinds: Vec<_> = network.edges.iter().map(|edge| (edge.a.as_str(), edge.kind.as_str())).collect();
        assert_eq!(kinds, [("a", "connected")]);
    }

    #[test]
    fn an_empty_network_has_no_figures() {
        let nothing = seen(None, &[], &[]);
        assert_eq!((nothing.with_own.components, nothing.with_own.density), (None, None));
        assert_eq!(nothing.with_own.diameter, None);
        assert!(nothing.nodes.is_empty() && nothing.rtt_clusters.is_empty());
    }

    #[test]
    fn a_trend_is_the_mean_of_each_span_and_gaps_are_left_out() {
        let row = |at: i64, peers: i64, rtt: Option<f64>| NetworkRow {
            id: at,
            test_timestamp: at,
            window_s: 60.0,
            peer_count: peers,
            known_content_items: None,
            transfers_completed: 0,
            transfers_failed: 0,
            bytes_transferred: 0,
            average_transfer_speed: None,
            network_efficiency: None,
            network_density: None,
            average_connections: None,
            optimization_score: None,
            optimization_rating: "unknown".to_owned(),
            network_health: "unknown".to_owned(),
            diameter: None,
            components: None,
            clustering: None,
            median_rtt_ms: rtt,
            p95_rtt_ms: None,
            median_rate_bps: None,
            cache_hit_ratio: None,
        };
        let rows = [row(0, 2, None), row(10, 4, Some(8.0)), row(90, 6, None), row(100, 9, None)];
        let points = trend(&rows, Window { since_us: 0, until_us: 100 }, 4);
        let said: Vec<_> = points.iter().map(|p| (p.at_us, p.snapshots, p.peers, p.median_rtt_ms)).collect();
        assert_eq!(said, [(0, 2, Some(3.0), Some(8.0)), (75, 1, Some(6.0), None)]);
    }
}
