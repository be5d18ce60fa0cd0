//! The network around this node: a graph, what it says, and the same as tables.

use std::time::{Duration, SystemTime};

use askama::Template;
use axum::extract::{Query, State as Extract};
use axum::http::StatusCode;
use axum::response::Response;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::chart::{self, Sparkline};
use super::export::{self, Links, Table, Wanted, row};
use super::filters::{self, NO_DATA, NONE, cell, count, ms, percent, rate};
use super::network_map::{self, Map};
use super::page::Page;
use super::{State, Unread, error, overview};
use crate::db::queries::Window;
use crate::topology::{self, Link, Network, Node, Summary, TrendPoint};

/// What can be asked for: name in URLs, in words, seconds.
const WINDOWS: [(&str, &str, u64); 4] = [
    ("10m", "last 10 minutes", 600),
    ("1h", "last hour", 3_600),
    ("24h", "last 24 hours", 86_400),
    ("7d", "last 7 days", 7 * 86_400),
];
const DEFAULT_WINDOW: usize = 1;
/// The trend's span, and its points.
const TREND: Duration = Duration::from_secs(86_400);
const TREND_POINTS: usize = 96;
/// Rows of each table on the page; exports have all of them.
const LISTED: usize = 100;
/// Peers named by how much leads through them.
const BETWEEN: usize = 8;

#[derive(Template)]
#[template(path = "dashboard/topology.html")]
struct TopologyPage {
    page: Page,
    view: View,
}

#[derive(Default)]
struct View {
    summary: String,
    windows: Vec<Choice>,
    clusters_asked: Vec<Choice>,
    q: String,
    filtered: bool,
    problem: Option<String>,
    verdict: String,
    map: Option<Map>,
    figures: Vec<FigureRow>,
    clusters: Vec<ClusterRow>,
    between: Vec<BetweenRow>,
    between_empty: &'static str,
    degrees: Vec<DegreeRow>,
    trends: Vec<Trend>,
    trend_rows: Vec<TrendRow>,
    nodes: Vec<NodeRow>,
    nodes_meta: String,
    edges: Vec<EdgeRow>,
    edges_meta: String,
    exports: Option<Exports>,
    json: String,
    command: String,
    address: Option<String>,
    offline: bool,
}

struct Exports {
    nodes: Links,
    edges: Links,
    figures: Links,
    clusters: Links,
    degrees: Links,
    trend: Links,
}

struct Choice {
    value: String,
    label: String,
    selected: bool,
}

struct FigureRow {
    name: &'static str,
    help: &'static str,
    drawn: String,
    others: String,
}

struct ClusterRow {
    name: char,
    class: &'static str,
    shape: String,
    range: String,
    median: String,
    peers: String,
}

struct BetweenRow {
    id: String,
    short: String,
    share: String,
    bar: f64,
    cut: bool,
    own: bool,
}

struct DegreeRow {
    degree: u64,
    peers: String,
    bar: f64,
}

struct Trend {
    name: &'static str,
    now: String,
    spark: Option<Sparkline>,
}

struct TrendRow {
    at: String,
    peers: String,
    rtt: String,
    rate: String,
    success: String,
    density: String,
    diameter: String,
}

struct NodeRow {
    id: String,
    short: String,
    own: bool,
    connected: bool,
    agent: String,
    cluster: String,
    rtt: String,
    rate: String,
    bytes: String,
    degree: u64,
    between: String,
    cut: bool,
    component: u64,
}

/// One end of a link.
struct End {
    id: String,
    short: String,
    own: bool,
}

struct EdgeRow {
    a: End,
    b: End,
    kind: String,
    rtt: String,
    rate: String,
    current: bool,
    ago: String,
    at_iso: String,
}

/// The query of the page.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    window: String,
    q: String,
    cluster: String,
}

/// `GET /topology`
pub async fn page(Extract(state): Extract<State>, Query(asked): Query<Asked>, wanted: Wanted) -> Response {
    let now = SystemTime::now();
    let node = (state.node)();
    let chosen = WINDOWS.iter().position(|(name, ..)| *name == asked.window).unwrap_or(DEFAULT_WINDOW);
    let (_, words, seconds) = WINDOWS[chosen];
    let window = Window::last(Duration::from_secs(seconds), now);
    let trend_window = Window::last(TREND, now);
    let frame = View {
        windows: WINDOWS
            .iter()
            .enumerate()
            .map(|(at, (value, label, _))| Choice {
                value: (*value).to_owned(),
                label: (*label).to_owned(),
                selected: at == chosen,
            })
            .collect(),
        q: asked.q.trim().to_owned(),
        filtered: !(asked.q.trim().is_empty() && asked.cluster.is_empty()),
        json: format!("/api/v1/p2p/topology?window_s={seconds}"),
        command: "tidegate serve --peer /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW…".to_owned(),
        address: node.addresses.first().cloned(),
        offline: node.offline,
        ..View::default()
    };
    let page = Page::new("Topology", "/topology");
    match read(&state, node.peer_id.as_deref(), window, trend_window).await {
        Ok((network, trend)) if wanted.format.is_some() => {
            export::answer(&wanted, "topology", &tables(&network, &trend))
        }
        Ok((network, trend)) => {
            let view = view(frame, &network, &trend, trend_window, &asked, words, now);
            error::html(StatusCode::OK, &TopologyPage { page, view })
        }
        Err(problem) => {
            let reason = overview::down(&problem, now);
            if wanted.format.is_some() {
                return export::unavailable(reason);
            }
            let view = View { summary: "The network as this node sees it.".into(), problem: Some(reason), ..frame };
            error::html(StatusCode::SERVICE_UNAVAILABLE, &TopologyPage { page, view })
        }
    }
}

async fn read(
    state: &State,
    own: Option<&str>,
    window: Window,
    trend: Window,
) -> Result<(Network, Vec<TrendPoint>), Unread> {
    let db = state.database()?;
    let network = topology::network(db, own, window).await?;
    let snapshots = db.network_history(trend).await?;
    Ok((network, topology::trend(&snapshots, trend, TREND_POINTS)))
}

fn view(
    frame: View,
    network: &Network,
    trend: &[TrendPoint],
    trend_window: Window,
    asked: &Asked,
    words: &str,
    now: SystemTime,
) -> View {
    let others = network.nodes.iter().filter(|node| !node.own).count();
    let base = link(asked);
    let shown = |node: &Node| matches(node, asked);
    let listed: Vec<&Node> = network.nodes.iter().filter(|node| shown(node)).collect();
    let kept: std::collections::HashSet<&str> = listed.iter().map(|node| node.id.as_str()).collect();
    let edges: Vec<&Link> = network
        .edges
        .iter()
        .filter(|edge| !frame.filtered || (kept.contains(edge.a.as_str()) && kept.contains(edge.b.as_str())))
        .collect();
    let part = |shown: usize, all: usize| match all {
        n if n > shown => format!("{} of {}; the export has all", count(shown as u64), count(n as u64)),
        n => count(n as u64),
    };
    let measured = !network.rtt_clusters.is_empty();
    let clusters_asked = network
        .rtt_clusters
        .iter()
        .map(|cluster| {
            (cluster.name.to_string(), format!("{} · {}", cluster.name, range(cluster.min_ms, cluster.max_ms)))
        })
        .chain(measured.then(|| ("none".to_owned(), "not measured".to_owned())))
        .map(|(value, label)| Choice { selected: value == asked.cluster, value, label })
        .collect();
    View {
        summary: match (others, network.edges.len()) {
            (0, _) => format!("The network as this node saw it in the {words}: nobody yet."),
            (peers, links) => format!(
                "The network as this node saw it in the {words}: {} {}, {} {}.",
                count(peers as u64),
                if peers == 1 { "peer" } else { "peers" },
                count(links as u64),
                if links == 1 { "link" } else { "links" },
            ),
        },
        clusters_asked,
        verdict: verdict(network),
        map: (others > 0).then(|| network_map::map(network, &shown, frame.filtered)),
        figures: figures(&network.with_own, &network.without_own),
        clusters: network
            .rtt_clusters
            .iter()
            .enumerate()
            .map(|(at, cluster)| ClusterRow {
                name: cluster.name,
                class: network_map::class(Some(at)),
                shape: network_map::shape(Some(at), 5.5),
                range: range(cluster.min_ms, cluster.max_ms),
                median: cell(ms(Some(cluster.median_ms))),
                peers: count(cluster.peers),
            })
            .collect(),
        between: between(network),
        between_empty: match network.nodes.len() {
            0..=2 => "It takes three peers for one to stand between others.",
            _ => "No peer stands between others.",
        },
        degrees: degrees(network),
        trends: trends(trend, trend_window),
        trend_rows: trend.iter().rev().map(trend_row).collect(),
        nodes: listed.iter().take(LISTED).map(|node| node_row(node)).collect(),
        nodes_meta: part(listed.len().min(LISTED), listed.len()),
        edges: edges.iter().take(LISTED).map(|edge| edge_row(edge, network.own.as_deref(), now)).collect(),
        edges_meta: part(edges.len().min(LISTED), edges.len()),
        exports: Some(Exports {
            nodes: Links::new(&base, "nodes", "Peers"),
            edges: Links::new(&base, "edges", "Links"),
            figures: Links::new(&base, "figures", "Figures of the graph"),
            clusters: Links::new(&base, "rtt-clusters", "RTT clusters"),
            degrees: Links::new(&base, "degrees", "Degree distribution"),
            trend: Links::new(&base, "trend", "Trend"),
        }),
        ..frame
    }
}

/// The window is all that an export depends on; a filter only picks what is looked at.
fn link(asked: &Asked) -> String {
    match asked.window.as_str() {
        "" => "/topology".to_owned(),
        window => format!("/topology?window={}", utf8_percent_encode(window, NON_ALPHANUMERIC)),
    }
}

fn matches(node: &Node, asked: &Asked) -> bool {
    let wanted = asked.q.trim().to_lowercase();
    let has = |text: &str| text.to_lowercase().contains(&wanted);
    let named = wanted.is_empty() || has(&node.id) || node.agent.as_deref().is_some_and(has);
    let cluster = match asked.cluster.as_str() {
        "" => true,
        "none" => node.cluster.is_none(),
        name => node.cluster.is_some_and(|cluster| name == cluster.to_string()),
    };
    named && cluster
}

fn range(min_ms: f64, max_ms: f64) -> String {
    let (min, max) = (cell(ms(Some(min_ms))), cell(ms(Some(max_ms))));
    if min == max { min } else { format!("{min} to {max}") }
}

fn verdict(network: &Network) -> String {
    let connected = network.nodes.iter().filter(|node| node.connected).count();
    let peers = |n: u64| if n == 1 { "1 peer".to_owned() } else { format!("{} peers", count(n)) };
    let mut said = match &network.own {
        Some(_) => format!("Connected to {} now", peers(connected as u64)),
        None => "This node is offline".to_owned(),
    };
    said.push_str(&match network.rtt_clusters.as_slice() {
        [] => "; no round trip was measured yet".to_owned(),
        [one] => format!(", all of one RTT cluster ({})", range(one.min_ms, one.max_ms)),
        [near, .., far] => format!(
            ", in {} RTT clusters from {} to {}",
            network.rtt_clusters.len(),
            cell(ms(Some(near.median_ms))),
            cell(ms(Some(far.median_ms)))
        ),
    });
    let among = network.without_own.edges;
    said.push_str(&match among {
        0 => ". No link among the others was observed.".to_owned(),
        1 => ". 1 link among the others was observed.".to_owned(),
        n => format!(". {} links among the others were observed.", count(n)),
    });
    match network.with_own.cut_peers {
        0 => {}
        1 => said.push_str(" One peer is the only way to others: it is marked."),
        n => said.push_str(&format!(" {} peers are the only way to others: they are marked.", count(n))),
    }
    said
}

fn figures(drawn: &Summary, others: &Summary) -> Vec<FigureRow> {
    let whole = |value: Option<u64>| value.map_or(NO_DATA.to_owned(), count);
    let share = |value: Option<f64>| value.map_or(NO_DATA.to_owned(), |value| percent(value).to_string());
    let number = |value: Option<f64>| value.map_or(NO_DATA.to_owned(), |value| format!("{value:.2}"));
    let row = |name, help, text: &dyn Fn(&Summary) -> String| FigureRow {
        name,
        help,
        drawn: text(drawn),
        others: text(others),
    };
    vec![
        row("Peers", "", &|s| count(s.peers)),
        row("Links", "", &|s| count(s.edges)),
        row("Components", "parts without a link between them", &|s| whole(s.components)),
        row("Largest component", "share of peers in it", &|s| share(s.reach)),
        row("Diameter", "hops across the largest component", &|s| whole(s.diameter)),
        row("Density", "links / possible links", &|s| share(s.density)),
        row("Clustering", "mean share of a peer's neighbours that are linked to each other", &|s| number(s.clustering)),
        row("Links a peer", "mean degree", &|s| number(s.average_connections)),
        row("Cut peers", "whose loss parts others", &|s| count(s.cut_peers)),
        row("Worst cut", "peers that one loss cuts off", &|s| share((s.edges > 0).then_some(s.worst_cut))),
    ]
}

fn between(network: &Network) -> Vec<BetweenRow> {
    let mut nodes: Vec<(&Node, f64)> = network
        .nodes
        .iter()
        .filter_map(|node| Some((node, node.betweenness?)))
        .filter(|(node, value)| *value > 0.0 || node.cut)
        .collect();
    nodes.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.id.cmp(&b.0.id)));
    nodes
        .into_iter()
        .take(BETWEEN)
        .map(|(node, value)| BetweenRow {
            short: filters::short(&node.id),
            id: node.id.clone(),
            share: percent(value).to_string(),
            bar: chart::px(value * 100.0),
            cut: node.cut,
            own: node.own,
        })
        .collect()
}

/// At most twelve rows: the rare high degrees are one row only in the export.
fn degrees(network: &Network) -> Vec<DegreeRow> {
    let most = network.degree_distribution.values().copied().max().unwrap_or(1) as f64;
    let row = |(degree, peers): (&u64, &u64)| DegreeRow {
        degree: *degree,
        peers: count(*peers),
        bar: chart::px(*peers as f64 / most * 100.0),
    };
    network.degree_distribution.iter().take(12).map(row).collect()
}

fn trends(points: &[TrendPoint], window: Window) -> Vec<Trend> {
    let width = ((window.until_us - window.since_us) / TREND_POINTS as i64).max(1);
    let trend = |name: &'static str, value: fn(&TrendPoint) -> Option<f64>, text: &dyn Fn(f64) -> String| {
        let mut values = vec![None; TREND_POINTS];
        for point in points {
            if let Some(place) = values.get_mut(((point.at_us - window.since_us) / width) as usize) {
                *place = value(point);
            }
        }
        let label = format!("{name} over the last 24 hours; the table below holds the numbers");
        Trend {
            name,
            now: points.last().and_then(value).map_or(NO_DATA.to_owned(), text),
            spark: chart::sparkline(label, &values),
        }
    };
    vec![
        trend("Peers connected", |p| p.peers, &|v| format!("{v:.0}")),
        trend("Median RTT", |p| p.median_rtt_ms, &|v| cell(ms(Some(v)))),
        trend("Median best rate", |p| p.median_rate_bps, &|v| cell(rate(Some(v)))),
        trend("Transfer success", |p| p.network_efficiency, &|v| percent(v).to_string()),
    ]
}

fn trend_row(point: &TrendPoint) -> TrendRow {
    TrendRow {
        at: filters::utc(filters::from_us(point.at_us)),
        peers: point.peers.map_or(NONE.to_owned(), |value| format!("{value:.1}")),
        rtt: cell(ms(point.median_rtt_ms)),
        rate: cell(rate(point.median_rate_bps)),
        success: cell(point.network_efficiency.map(percent)),
        density: cell(point.density.map(percent)),
        diameter: point.diameter.map_or(NONE.to_owned(), |value| format!("{value:.1}")),
    }
}

fn node_row(node: &Node) -> NodeRow {
    NodeRow {
        short: filters::short(&node.id),
        id: node.id.clone(),
        own: node.own,
        connected: node.connected,
        agent: match (&node.agent, node.own) {
            (Some(agent), _) => filters::tame(agent, 40),
            (None, true) => "this node".to_owned(),
            (None, false) => NONE.to_owned(),
        },
        cluster: node.cluster.map_or(NONE.to_owned(), |name| name.to_string()),
        rtt: cell(ms(node.rtt_ms)),
        rate: cell(rate(node.rate_bps)),
        bytes: if node.own { NONE.to_owned() } else { filters::bytes(node.bytes_in).to_string() },
        degree: node.degree,
        between: cell(node.betweenness.map(percent)),
        cut: node.cut,
        component: node.component + 1,
    }
}

fn edge_row(edge: &Link, own: Option<&str>, now: SystemTime) -> EdgeRow {
    let seen = filters::from_us(edge.last_seen);
    let end = |id: &String| End { short: filters::short(id), id: id.clone(), own: own == Some(id.as_str()) };
    // This node is the first end of its links, whatever the order of ids.
    let (a, b) = if own == Some(edge.b.as_str()) { (&edge.b, &edge.a) } else { (&edge.a, &edge.b) };
    EdgeRow {
        a: end(a),
        b: end(b),
        kind: filters::tame(&edge.kind, 20),
        rtt: cell(ms(edge.rtt_ms)),
        rate: cell(rate(edge.rate_bps)),
        current: edge.current,
        ago: filters::ago(seen, now),
        at_iso: filters::iso(seen),
    }
}

fn tables(network: &Network, trend: &[TrendPoint]) -> Vec<Table> {
    const NODES: &[&str] = &[
        "peer_id",
        "own",
        "connected",
        "agent",
        "transport",
        "rtt_ms",
        "rate_bps",
        "bytes_in",
        "bytes_out",
        "degree",
        "betweenness",
        "cut",
        "component",
        "rtt_cluster",
    ];
    const EDGES: &[&str] = &["a", "b", "kind", "rtt_ms", "rate_bps", "current", "last_seen_us"];
    const FIGURES: &[&str] = &[
        "graph",
        "peers",
        "edges",
        "components",
        "reach",
        "diameter",
        "density",
        "clustering",
        "average_connections",
        "cut_peers",
        "worst_cut",
        "worst_cut_peer",
    ];
    const CLUSTERS: &[&str] = &["rtt_cluster", "peers", "min_ms", "median_ms", "max_ms"];
    const TRENDS: &[&str] = &[
        "from_us",
        "snapshots",
        "peers",
        "median_rtt_ms",
        "median_rate_bps",
        "components",
        "diameter",
        "density",
        "clustering",
        "transfer_success",
    ];
    let letter = |name: Option<char>| name.map(|name| name.to_string());
    let nodes = network.nodes.iter().map(|n| {
        row![
            &n.id,
            n.own,
            n.connected,
            n.agent.as_ref(),
            n.transport.as_ref(),
            n.rtt_ms,
            n.rate_bps,
            n.bytes_in,
            n.bytes_out,
            n.degree,
            n.betweenness,
            n.cut,
            n.component,
            letter(n.cluster),
        ]
    });
    let edges = network.edges.iter().map(|e| row![&e.a, &e.b, &e.kind, e.rtt_ms, e.rate_bps, e.current, e.last_seen]);
    let figures = [("as_drawn", &network.with_own), ("others_only", &network.without_own)].map(|(name, s)| {
        row![
            name,
            s.peers,
            s.edges,
            s.components,
            s.reach,
            s.diameter,
            s.density,
            s.clustering,
            s.average_connections,
            s.cut_peers,
            (s.edges > 0).then_some(s.worst_cut),
            s.worst_cut_peer.as_ref(),
        ]
    });
    let clusters =
        network.rtt_clusters.iter().map(|c| row![c.name.to_string(), c.peers, c.min_ms, c.median_ms, c.max_ms]);
    let degrees = network.degree_distribution.iter().map(|(degree, peers)| row![*degree, *peers]);
    let trend = trend.iter().map(|p| {
        row![
            p.at_us,
            p.snapshots,
            p.peers,
            p.median_rtt_ms,
            p.median_rate_bps,
            p.components,
            p.diameter,
            p.density,
            p.clustering,
            p.network_efficiency,
        ]
    });
    vec![
        Table::new("nodes", NODES, nodes.collect()),
        Table::new("edges", EDGES, edges.collect()),
        Table::new("figures", FIGURES, figures.into()),
        Table::new("rtt-clusters", CLUSTERS, clusters.collect()),
        Table::new("degrees", &["degree", "peers"], degrees.collect()),
        Table::new("trend", TRENDS, trend.collect()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, cluster: Option<char>) -> Node {
        Node {
            id: id.to_owned(),
            own: false,
            connected: true,
            agent: Some("kubo/0.43".to_owned()),
            transport: None,
            rtt_ms: None,
            rate_bps: None,
            bytes_in: 0,
            bytes_out: None,
            degree: 0,
            betweenness: None,
            cut: false,
            component: 0,
            cluster,
        }
    }

    #[test]
    fn the_filter_finds_by_id_agent_and_cluster() {
        let asked = |q: &str, cluster: &str| Asked { q: q.into(), cluster: cluster.into(), ..Asked::default() };
        assert!(matches(&node("12D3abc", Some('A')), &asked(" KUBO", "A")));
        assert!(!matches(&node("12D3abc", Some('B')), &asked("kubo", "A")));
        assert!(matches(&node("12D3abc", None), &asked("D3AB", "none")));
        assert!(!matches(&node("12D3abc", None), &asked("helia", "")));
    }

    #[test]
    fn figures_of_nothing_read_no_data() {
        let rows = figures(&Summary::default(), &Summary::default());
        let said = |name: &str| rows.iter().find(|row| row.name == name).unwrap().drawn.clone();
        assert_eq!(
            (said("Density"), said("Diameter"), said("Worst cut")),
            (NO_DATA.into(), NO_DATA.into(), NO_DATA.into())
        );
        assert_eq!(said("Peers"), "0");
    }
}
