//! The network around this node.

use super::Head;
use crate::db::counters::Tally;
use crate::db::queries::{NetworkRow, PeerRow};
use crate::report::table::{Cell, Chart, Section, Table};
use crate::stats;
use crate::topology::Analytics;
use crate::topology::insight::{self, Watched};

pub struct P2pData {
    pub analytics: Analytics,
    /// Snapshots, the oldest first.
    pub history: Vec<NetworkRow>,
    pub peers: Vec<PeerRow>,
    /// Exact counts of the window and of the one before it, as long.
    pub buckets: Vec<(i64, Tally)>,
    pub before: Vec<(i64, Tally)>,
}

/// Points of the history.
const MAX_POINTS: usize = 96;
/// Peers that are listed.
const MAX_PEERS: usize = 20;

pub fn p2p(data: &P2pData) -> Vec<Section> {
    vec![figures(&data.analytics), history(&data.history), hitters(&data.peers), anomalies(data), changes(data)]
}

fn figures(a: &Analytics) -> Section {
    let head = [("figure", "figure", ""), ("value", "value", ""), ("unit", "unit", ""), ("meaning", "meaning", "")];
    let row = |name: &str, value: Cell, unit: &str, meaning: &str| {
        vec![Cell::text(name), value, Cell::text(unit), Cell::text(meaning)]
    };
    let count = |n: Option<u64>| n.map_or(Cell::None, Cell::count);
    let rows = [
        row("peer_count", Cell::count(a.peer_count), "", "peers connected now"),
        row("known_peers", Cell::count(a.known_peers), "", "peers seen in the window"),
        row("known_content_items", Cell::count(a.known_content_items), "", "distinct roots served in the window"),
        row(
            "transfers_completed",
            Cell::count(a.transfers_completed),
            "",
            "retrievals that asked the network and completed",
        ),
        row("transfers_failed", Cell::count(a.transfers_failed), "", "retrievals that asked the network and did not"),
        row("bytes_transferred", Cell::count(a.bytes_transferred), "bytes", "payload of blocks from the network"),
        row("average_transfer_speed", Cell::number(a.average_transfer_speed, 0), "bytes/s", "while transferring"),
        row("speed_rating", Cell::text(a.speed_rating.as_str()), "", "against what the providers used allow"),
        row("network_efficiency", Cell::number(a.network_efficiency, 3), "", "transfer success: completed / attempted"),
        row("attempt_success", Cell::number(a.attempt_success, 3), "", "attempts that delivered / delivered or failed"),
        row("network_density", Cell::number(a.network_density, 4), "", "observed links / possible links"),
        row("average_connections", Cell::number(a.average_connections, 2), "", "links of a known peer"),
        row("network_health", Cell::text(a.network_health.as_str()), "", "by reach, cuts and attempt success"),
        row(
            "optimization_score",
            Cell::number(a.optimization_score, 3),
            "",
            "what the providers found allow / time taken, by bytes",
        ),
        row("optimization_rating", Cell::text(a.optimization_rating.as_str()), "", "of the score"),
        row("components", count(a.shape.components), "", "parts of the observed graph"),
        row("diameter", count(a.shape.diameter), "links", "longest shortest path"),
        row("clustering", Cell::number(a.shape.clustering, 3), "", "triangles among neighbours"),
        row("median_rtt", Cell::number(a.median_rtt_ms, 1), "ms", "of known peers"),
        row("p95_rtt", Cell::number(a.p95_rtt_ms, 1), "ms", "of known peers"),
        row("median_rate", Cell::number(a.median_rate_bps, 0), "bytes/s", "best rate of known peers"),
        row("cache_hit_ratio", Cell::number(a.cache_hit_ratio, 3), "", "requests that needed no network"),
    ];
    let empty = "Neither a transfer nor a peer in this window. Connect one with --peer, then fetch something.";
    let table = Table::new("figures", "Network analytics", head, empty);
    let table = if a.status == "ok" { table.with(rows) } else { table };
    let section = Section::new(
        "figures",
        "Figures",
        "get_p2p_network_analytics over the window. Exact counts, the node itself left out of the graph.",
    )
    .table(table);
    if a.status == "ok" { section.notes(a.recommendations.iter().map(|advice| format!("{advice}."))) } else { section }
}

fn history(rows: &[NetworkRow]) -> Section {
    let head: [Head; 8] = [
        ("until", "until", ""),
        ("peers", "peers", ""),
        ("completed", "transfers completed", ""),
        ("failed", "transfers failed", ""),
        ("speed", "transfer speed, median", "bytes/s"),
        ("score", "optimisation score, median", ""),
        ("rtt_ms", "RTT, median", "ms"),
        ("hit_pct", "cache hits, median", "%"),
    ];
    let each = rows.len().div_ceil(MAX_POINTS).max(1);
    let points = rows.chunks(each).map(|part| {
        let median =
            |value: fn(&NetworkRow) -> Option<f64>| stats::median(&part.iter().filter_map(value).collect::<Vec<_>>());
        vec![
            Cell::Time(part.last().map_or(0, |row| row.test_timestamp)),
            Cell::number(median(|row| Some(row.peer_count as f64)), 1),
            Cell::count(part.iter().map(|row| row.transfers_completed).sum::<i64>()),
            Cell::count(part.iter().map(|row| row.transfers_failed).sum::<i64>()),
            Cell::number(median(|row| row.average_transfer_speed), 0),
            Cell::number(median(|row| row.optimization_score), 3),
            Cell::number(median(|row| row.median_rtt_ms), 1),
            Cell::percent(median(|row| row.cache_hit_ratio)),
        ]
    });
    let empty = "No snapshot in this window. A running server takes one every minute.";
    Section::new("history", "Over time", format!("Snapshots of a minute, {each} taken together a row."))
        .table(Table::new("history", "Snapshots", head, empty).with(points))
        .figure("Peers over time", "history", Chart::Lines { time: "until", values: vec!["peers"] })
        .figure("Transfers over time", "history", Chart::Lines { time: "until", values: vec!["completed", "failed"] })
}

fn hitters(peers: &[PeerRow]) -> Section {
    let head: [Head; 7] = [
        ("peer", "peer", ""),
        ("bytes", "delivered", "bytes"),
        ("share_pct", "share", "%"),
        ("cumulative_pct", "with the greater ones", "%"),
        ("success_pct", "success", "%"),
        ("rtt_ms", "RTT", "ms"),
        ("rate", "best rate", "bytes/s"),
    ];
    let amounts = peers.iter().map(|peer| (peer.peer_id.clone(), peer.bytes_in as f64));
    let rows = insight::heavy_hitters(amounts, MAX_PEERS).into_iter().map(|hitter| {
        let peer = peers.iter().find(|peer| peer.peer_id == hitter.name);
        vec![
            Cell::text(hitter.name.clone()),
            Cell::number(hitter.amount, 0),
            Cell::percent(hitter.share),
            Cell::percent(hitter.cumulative),
            Cell::percent(peer.and_then(PeerRow::success)),
            Cell::number(peer.and_then(|peer| peer.rtt_ms), 1),
            Cell::number(peer.and_then(|peer| peer.rate_bps), 0),
        ]
    });
    let empty = "No peer has delivered anything yet.";
    Section::new("peers", "Heavy hitters", "Peers by the bytes that they have delivered since they were first seen.")
        .table(Table::new("peers", "Peers by bytes", head, empty).with(rows))
        .figure("Share of all delivered bytes", "peers", Chart::Bars { label: vec!["peer"], value: "share_pct" })
}

fn watched(figure: Watched, value: f64) -> Cell {
    Cell::number(value, if matches!(figure, Watched::Requests | Watched::TransferBytesPerSecond) { 0 } else { 3 })
}

fn anomalies(data: &P2pData) -> Section {
    let head = [
        ("at", "at", ""),
        ("figure", "figure", ""),
        ("value", "value", ""),
        ("usual", "usual (median)", ""),
        ("z", "robust z", ""),
    ];
    let found = insight::anomalies(&data.buckets);
    let empty = match &found {
        None => "Not enough data: fewer than 30 minutes (or hours, of a long window) with a request.",
        Some(_) => "No moment stands out.",
    };
    let rows = found.unwrap_or_default().into_iter().map(|anomaly| {
        vec![
            Cell::Time(anomaly.at_us),
            Cell::text(anomaly.figure.words()),
            watched(anomaly.figure, anomaly.value),
            watched(anomaly.figure, anomaly.usual),
            Cell::number(anomaly.z, 1),
        ]
    });
    Section::new(
        "anomalies",
        "Moments that stand out",
        "Minutes (hours in windows over 48 h) beyond 3.5 robust standard deviations of the window's median.",
    )
    .table(Table::new("anomalies", "Anomalies", head, empty).with(rows))
}

fn changes(data: &P2pData) -> Section {
    let head = [
        ("figure", "figure", ""),
        ("before", "window before", ""),
        ("after", "this window", ""),
        ("p", "p", ""),
        ("verdict", "verdict", ""),
    ];
    let rows = insight::changes(&data.before, &data.buckets).into_iter().map(|change| {
        let verdict = match (change.regression, change.significant) {
            (true, _) => "worse",
            (false, true) => "better",
            (false, false) => "no significant change",
        };
        vec![
            Cell::text(change.figure.words()),
            watched(change.figure, change.before),
            watched(change.figure, change.after),
            Cell::number(change.p, 4),
            Cell::text(verdict),
        ]
    });
    let empty = "Not enough data: both this window and the one before it need 20 cases (8 moments for times).";
    Section::new(
        "changes",
        "Against the window before",
        "Shares by a two-proportion z test, times and speeds by the rank-sum test of their moments; told when p < 0.01 and the change is at least 2 points or a tenth.",
    )
    .table(Table::new("changes", "Changes", head, empty).with(rows))
}
