//! The drawing of the network: from the graph to coordinates and classes, which the template writes as SVG.
//!
//! Size is bytes delivered (area), colour and shape are the RTT cluster, the width of a link is its best rate, a ring of
//! dashes marks a cut peer. This node stands in the middle; the nearer a peer by RTT, the nearer it is drawn.

use super::chart::px;
use super::filters::{self, cell, ms, percent, rate};
use crate::topology::{Frame, Network, Node, Tie, layout};

const FRAME: Frame = Frame { width: 960.0, height: 600.0 };
/// The same network gives the same picture.
const SEED: u64 = 1;
/// Peers that are drawn; the tables and exports have all of them.
const MAX_DRAWN: usize = 250;
/// Links that are drawn.
const MAX_LINKS: usize = 1_000;
/// Radii in units of the drawing: of a peer that delivered nothing, and of the one that delivered most.
const SMALLEST: f64 = 6.0;
const LARGEST: f64 = 22.0;
/// Widths of a link without a rate, and of the fastest.
const THINNEST: f64 = 1.0;
const WIDEST: f64 = 7.0;
/// Up to so many peers all have a name beside them; of more, the largest ten and cut peers.
const ALL_NAMED: usize = 24;
const NAMED: usize = 10;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Map {
    pub peers: Vec<PeerMark>,
    pub links: Vec<LinkMark>,
    /// What is not drawn; empty when all is.
    pub left_out: String,
    /// There is a link that was not seen within the last minute, one between others, a cut peer, an unmeasured RTT.
    pub has_past: bool,
    pub has_among: bool,
    pub has_cut: bool,
    pub has_unmeasured: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PeerMark {
    pub id: String,
    pub own: bool,
    pub x: f64,
    pub y: f64,
    pub radius: f64,
    pub class: &'static str,
    pub shape: String,
    pub cut: bool,
    pub dim: bool,
    /// Under the mark; empty when it is not named.
    pub label: String,
    pub label_y: f64,
    /// What the pointer and a screen reader get.
    pub title: String,
    /// What a filter looks at.
    pub agent: String,
    pub cluster: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LinkMark {
    /// Positions in `peers`.
    pub a: usize,
    pub b: usize,
    pub x1: f64,
    pub y1: f64,
    pub x2: f64,
    pub y2: f64,
    pub width: f64,
    pub class: &'static str,
    pub dim: bool,
    pub title: String,
}

/// The drawing; peers for whom `shown` is false are faint when the page is `filtered`.
pub fn map(network: &Network, shown: &dyn Fn(&Node) -> bool, filtered: bool) -> Map {
    let own = network.nodes.iter().find(|node| node.own);
    let mut drawn: Vec<&Node> = network.nodes.iter().filter(|node| !node.own).collect();
    // Those connected and those that delivered most, when not all fit.
    drawn.sort_by_key(|node| (!node.connected, std::cmp::Reverse(node.bytes_in)));
    let peers_left = drawn.len().saturating_sub(MAX_DRAWN);
    drawn.truncate(MAX_DRAWN);
    // The nearest first: the layout starts in the middle.
    let distance = |node: &Node| (node.cluster.unwrap_or('Z'), node.rtt_ms.unwrap_or(f64::MAX));
    drawn.sort_by(|a, b| {
        let (a_key, b_key) = (distance(a), distance(b));
        a_key.0.cmp(&b_key.0).then(a_key.1.total_cmp(&b_key.1)).then_with(|| a.id.cmp(&b.id))
    });
    let place: std::collections::HashMap<&str, usize> =
        drawn.iter().enumerate().map(|(at, node)| (node.id.as_str(), at)).collect();
    let ties: Vec<Tie> = network
        .edges
        .iter()
        .filter_map(|edge| Some(Tie { a: *place.get(edge.a.as_str())?, b: *place.get(edge.b.as_str())? }))
        .collect();
    let points = layout(drawn.len(), &ties, FRAME, SEED);
    let most = drawn.iter().map(|node| node.bytes_in).max().unwrap_or_default();
    // Many peers are drawn smaller, so that they stay apart.
    let scale = (60.0 / drawn.len().max(60) as f64).sqrt();
    let mut by_bytes: Vec<u64> = drawn.iter().map(|node| node.bytes_in).collect();
    by_bytes.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
    let named_from = by_bytes.get(NAMED).copied().unwrap_or_default();
    let index = |name: Option<char>| network.rtt_clusters.iter().position(|cluster| Some(cluster.name) == name);
    let mut marks: Vec<PeerMark> = Vec::with_capacity(drawn.len() + 1);
    for (node, point) in drawn.iter().zip(&points) {
        let share = if most > 0 { node.bytes_in as f64 / most as f64 } else { 0.0 };
        let radius = px((SMALLEST + (LARGEST - SMALLEST) * share.sqrt()) * scale);
        let named = drawn.len() <= ALL_NAMED || node.cut || node.bytes_in > named_from;
        let cluster = index(node.cluster);
        marks.push(PeerMark {
            id: node.id.clone(),
            own: false,
            x: px(point.x),
            y: px(point.y),
            radius,
            class: class(cluster),
            shape: shape(cluster, radius),
            cut: node.cut,
            dim: filtered && !shown(node),
            label: if named { label(node) } else { String::new() },
            label_y: px(radius + 15.0),
            title: title(node),
            agent: node.agent.as_deref().map(|agent| filters::tame(agent, 40)).unwrap_or_default(),
            cluster: node.cluster.map_or("none".to_owned(), |name| name.to_string()),
        });
    }
    if let Some(own) = own {
        marks.push(PeerMark {
            id: own.id.clone(),
            own: true,
            x: FRAME.width / 2.0,
            y: FRAME.height / 2.0,
            radius: 13.0,
            class: "own",
            shape: shape(None, 13.0),
            cut: false,
            dim: false,
            label: "this node".to_owned(),
            label_y: 30.0,
            title: format!("this node, {}", own.id),
            agent: String::new(),
            cluster: String::new(),
        });
    }
    let (links, links_left) = links(network, &marks);
    let left_out = match (peers_left, links_left) {
        (0, 0) => String::new(),
        (0, links) => format!("{} more links are in the tables and exports.", filters::count(links as u64)),
        (peers, _) => format!(
            "The {MAX_DRAWN} peers that are connected or delivered most are drawn; {} more are in the tables and exports.",
            filters::count(peers as u64)
        ),
    };
    Map {
        left_out,
        has_past: links.iter().any(|link| link.class.contains("past")),
        has_among: links.iter().any(|link| link.class.contains("among")),
        has_cut: marks.iter().any(|mark| mark.cut),
        has_unmeasured: marks.iter().any(|mark| mark.class == class(None)),
        peers: marks,
        links,
    }
}

fn links(network: &Network, marks: &[PeerMark]) -> (Vec<LinkMark>, usize) {
    let place: std::collections::HashMap<&str, usize> =
        marks.iter().enumerate().map(|(at, mark)| (mark.id.as_str(), at)).collect();
    let fastest = network.edges.iter().filter_map(|edge| edge.rate_bps).fold(0.0, f64::max);
    let all: Vec<LinkMark> = network
        .edges
        .iter()
        .filter_map(|edge| {
            let (a, b) = (*place.get(edge.a.as_str())?, *place.get(edge.b.as_str())?);
            let (from, to) = (&marks[a], &marks[b]);
            let share = edge.rate_bps.filter(|_| fastest > 0.0).map_or(0.0, |rate| rate / fastest);
            let class = match (from.own || to.own, edge.current) {
                (true, true) => "edge",
                (true, false) => "edge past",
                (false, true) => "edge among",
                (false, false) => "edge among past",
            };
            Some(LinkMark {
                a,
                b,
                x1: from.x,
                y1: from.y,
                x2: to.x,
                y2: to.y,
                width: px(THINNEST + (WIDEST - THINNEST) * share.sqrt()),
                class,
                dim: from.dim || to.dim,
                title: format!(
                    "{}: RTT {}, best rate {}{}",
                    edge.kind,
                    cell(ms(edge.rtt_ms)),
                    cell(rate(edge.rate_bps)),
                    if edge.current { "" } else { "; not seen in the last minute" }
                ),
            })
        })
        .collect();
    let left = all.len().saturating_sub(MAX_LINKS);
    (all.into_iter().take(MAX_LINKS).collect(), left)
}

/// The cluster's letter and the end of the id: the start of all ids is alike.
fn label(node: &Node) -> String {
    let tail: String = node.id.chars().skip(node.id.chars().count().saturating_sub(6)).collect();
    match node.cluster {
        Some(name) => format!("{name} …{tail}"),
        None => format!("…{tail}"),
    }
}

fn title(node: &Node) -> String {
    let mut parts = vec![node.id.clone()];
    parts.extend(node.agent.as_deref().map(|agent| filters::tame(agent, 60)));
    parts.push(if node.connected { "connected".to_owned() } else { "not connected now".to_owned() });
    parts.push(match (node.cluster, ms(node.rtt_ms)) {
        (Some(name), Some(rtt)) => format!("RTT {rtt}, cluster {name}"),
        _ => "RTT not measured".to_owned(),
    });
    parts.extend(rate(node.rate_bps).map(|rate| format!("best rate {rate}")));
    parts.push(format!("delivered {}", filters::bytes(node.bytes_in)));
    parts.extend(node.betweenness.filter(|b| *b > 0.0).map(|b| format!("on {} of paths between others", percent(b))));
    if node.cut {
        parts.push("cut peer: the only way to others".to_owned());
    }
    parts.join("; ")
}

/// The class of a cluster, the nearest is 0; `None` was not measured.
pub fn class(cluster: Option<usize>) -> &'static str {
    const CLASSES: [&str; 5] = ["near-0", "near-1", "near-2", "near-3", "near-4"];
    cluster.and_then(|at| CLASSES.get(at).copied()).unwrap_or("near-none")
}

/// A path around (0, 0) of about the area of a circle with the radius: one shape for each cluster.
pub fn shape(cluster: Option<usize>, radius: f64) -> String {
    let corners = |n: usize, turn: f64, grow: f64| {
        let r = radius * grow;
        let points: Vec<String> = (0..n)
            .map(|i| {
                let angle = (turn + i as f64 / n as f64) * std::f64::consts::TAU;
                format!("{},{}", px(r * angle.cos()), px(r * angle.sin()))
            })
            .collect();
        format!("M{}Z", points.join("L"))
    };
    match cluster {
        // A square stands on its side, a diamond on its corner; growth gives each the circle's area.
        Some(1) => corners(4, 0.125, 1.253),
        Some(2) => corners(3, -0.25, 1.555),
        Some(3) => corners(4, 0.0, 1.253),
        Some(4) => corners(6, 0.0, 1.1),
        _ => {
            let r = px(radius);
            format!("M{},0a{r},{r} 0 1 0 {},0a{r},{r} 0 1 0 {},0Z", -r, px(2.0 * r), px(-2.0 * r))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Link, RttCluster, Summary};

    fn node(n: usize) -> Node {
        Node {
            id: format!("12D3KooWpeer{n:04}"),
            own: n == 0,
            connected: true,
            agent: None,
            transport: None,
            rtt_ms: Some(1.0),
            rate_bps: None,
            bytes_in: n as u64,
            bytes_out: None,
            degree: 1,
            betweenness: None,
            cut: n == 1,
            component: 0,
            cluster: Some('A'),
        }
    }

    fn network(peers: usize) -> Network {
        let link = |n: usize| Link {
            a: node(0).id,
            b: node(n).id,
            kind: "connected".to_owned(),
            rtt_ms: None,
            rate_bps: Some(n as f64),
            current: true,
            last_seen: 0,
        };
        Network {
            at_us: 0,
            window_s: 1.0,
            own: Some(node(0).id),
            nodes: (0..=peers).map(node).collect(),
            edges: (1..=peers).map(link).collect(),
            rtt_clusters: vec![RttCluster { name: 'A', peers: 1, min_ms: 1.0, median_ms: 1.0, max_ms: 1.0 }],
            degree_distribution: Default::default(),
            with_own: Summary::default(),
            without_own: Summary::default(),
        }
    }

    #[test]
    fn this_node_stands_in_the_middle_and_the_largest_is_who_delivered_most() {
        let map = map(&network(9), &|_| true, false);
        let own = map.peers.iter().find(|mark| mark.own).unwrap();
        assert_eq!((own.x, own.y), (480.0, 300.0));
        let largest = map.peers.iter().filter(|mark| !mark.own).max_by(|a, b| a.radius.total_cmp(&b.radius)).unwrap();
        assert!(largest.id.ends_with("0009") && largest.radius == LARGEST);
        assert_eq!(map.links.iter().map(|link| link.width).fold(0.0, f64::max), WIDEST);
        assert!(map.has_cut && map.left_out.is_empty() && !map.has_past);
    }

    #[test]
    fn more_peers_than_fit_are_counted_and_a_filter_makes_others_faint() {
        let map = map(&network(400), &|node| node.id.ends_with("0400"), true);
        assert_eq!(map.peers.len(), MAX_DRAWN + 1);
        assert!(map.left_out.contains("150 more"), "{}", map.left_out);
        assert_eq!(map.peers.iter().filter(|mark| !mark.dim && !mark.own).count(), 1);
        assert!(map.links.iter().all(|link| map.peers[link.a].own || map.peers[link.b].own));
    }

    #[test]
    fn every_cluster_has_a_shape_of_its_own() {
        let shapes: std::collections::BTreeSet<String> = (0..5).map(|at| shape(Some(at), 10.0)).collect();
        assert_eq!(shapes.len(), 5);
    }
}
