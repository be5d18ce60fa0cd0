//! The graph of known peers: components, diameter, clustering, and what the loss of one peer would cut off.

use std::collections::{BTreeMap, HashMap, VecDeque};

use petgraph::graph::{NodeIndex, UnGraph};
use rustworkx_core::centrality::betweenness_centrality;
use rustworkx_core::connectivity::{articulation_points, connected_components};
use serde::Serialize;

use super::{Edge, PeerSample};

/// The most peers of one component whose diameter is computed: a breadth-first search from each of them.
const MAX_DIAMETER_NODES: usize = 2_000;
/// The most peers x edges for which betweenness is computed: some tenths of a second on one core.
const MAX_BETWEENNESS_WORK: usize = 20_000_000;

/// The shape of the graph of known peers. Isolated peers count.
#[derive(Debug, Clone, PartialEq, Default, Serialize, utoipa::ToSchema)]
pub struct Shape {
    #[serde(skip)]
    pub nodes: u64,
    /// Distinct edges.
    pub edges: u64,
    /// `None` without a peer.
    pub components: Option<u64>,
    /// Hops across the largest component; `None` without an edge or beyond 2,000 peers.
    pub diameter: Option<u64>,
    /// Mean local clustering coefficient (Watts, Strogatz 1998) over peers with two edges or more.
    pub clustering: Option<f64>,
    /// Share of known peers in the largest component.
    pub reach: Option<f64>,
    /// The largest share of known peers that the loss of one peer would cut off from the largest component's rest.
    pub worst_cut: f64,
    /// Whose loss that would be.
    pub worst_cut_peer: Option<String>,
}

impl Shape {
    pub fn of(peers: &[PeerSample], edges: &[Edge]) -> Self {
        let ids = peers.iter().map(|peer| peer.id.as_str());
        Self::of_ids(ids, edges.iter().map(|edge| (edge.a.as_str(), edge.b.as_str())))
    }

    /// The same, of ids and pairs of them. Ends that are not among the ids count as peers.
    pub fn of_ids<'a>(ids: impl Iterator<Item = &'a str>, edges: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let graph = build(ids, edges);
        let nodes = graph.node_count();
        if nodes == 0 {
            return Self::default();
        }
        let (components, largest) = components(&graph);
        let (cut, cut_peer) = worst_cut(&graph, &largest);
        Self {
            nodes: nodes as u64,
            edges: graph.edge_count() as u64,
            components: (graph.edge_count() > 0).then_some(components),
            diameter: diameter(&graph, &largest),
            clustering: clustering(&graph),
            reach: (graph.edge_count() > 0).then(|| largest.len() as f64 / nodes as f64),
            worst_cut: cut as f64 / nodes as f64,
            worst_cut_peer: cut_peer.filter(|_| cut > 0).map(|node| graph[node].to_owned()),
        }
    }

    /// Edges / possible edges.
    pub fn density(&self) -> Option<f64> {
        let possible = self.nodes * self.nodes.saturating_sub(1) / 2;
        (self.edges > 0 && possible > 0).then(|| self.edges as f64 / possible as f64)
    }

    /// The mean degree.
    pub fn average_connections(&self) -> Option<f64> {
        (self.edges > 0).then(|| 2.0 * self.edges as f64 / self.nodes as f64)
    }
}

type Graph<'a> = UnGraph<&'a str, ()>;

fn build<'a>(ids: impl Iterator<Item = &'a str>, edges: impl Iterator<Item = (&'a str, &'a str)>) -> Graph<'a> {
    let mut graph = Graph::default();
    let mut nodes: HashMap<&str, NodeIndex> = HashMap::new();
    let mut node = |graph: &mut Graph<'a>, id: &'a str| *nodes.entry(id).or_insert_with(|| graph.add_node(id));
    for id in ids {
        node(&mut graph, id);
    }
    for (a, b) in edges.filter(|(a, b)| a != b) {
        let (a, b) = (node(&mut graph, a), node(&mut graph, b));
        graph.update_edge(a, b, ());
    }
    graph
}

/// What a peer is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Role {
    /// Distinct edges.
    pub degree: u64,
    /// Share of the shortest paths between other peers that lead through this one (Freeman 1977, normalised to 0..1).
    /// `None` under three peers, or where the graph is too large to compute it.
    pub betweenness: Option<f64>,
    /// Without it, others of its component lose each other (articulation point; Hopcroft, Tarjan 1973).
    pub cut: bool,
    /// Which component, the largest first from 0.
    pub component: u64,
}

/// The role of each of `ids`, which are distinct; edges name their ends by position.
pub fn roles(ids: &[&str], edges: &[(usize, usize)]) -> Vec<Role> {
    let pairs = edges.iter().filter_map(|(a, b)| Some((*ids.get(*a)?, *ids.get(*b)?)));
    let graph = build(ids.iter().copied(), pairs);
    let mut roles = vec![Role::default(); ids.len()];
    let small = graph.node_count() > 2 && graph.node_count() * graph.edge_count() <= MAX_BETWEENNESS_WORK;
    // The threshold keeps it on this thread: a page takes one core, not all of them.
    let between = if small { betweenness_centrality(&graph, false, true, usize::MAX) } else { Vec::new() };
    let cuts = articulation_points(&graph, None);
    for node in graph.node_indices() {
        if let Some(role) = roles.get_mut(node.index()) {
            role.degree = graph.neighbors(node).count() as u64;
            role.betweenness = between.get(node.index()).copied().flatten();
            role.cut = cuts.contains(&node);
        }
    }
    for (rank, component) in by_size(&graph).iter().enumerate() {
        for node in component {
            if let Some(role) = roles.get_mut(node.index()) {
                role.component = rank as u64;
            }
        }
    }
    roles
}

/// How many of `ids` are cut peers ([`Role::cut`]); cheaper than all of the roles.
pub fn cut_peers(ids: &[&str], edges: &[(usize, usize)]) -> usize {
    let pairs = edges.iter().filter_map(|(a, b)| Some((*ids.get(*a)?, *ids.get(*b)?)));
    articulation_points(&build(ids.iter().copied(), pairs), None).len()
}

/// How many peers have each number of edges.
pub fn degree_distribution(roles: &[Role]) -> BTreeMap<u64, u64> {
    let mut peers = BTreeMap::new();
    roles.iter().for_each(|role| *peers.entry(role.degree).or_default() += 1);
    peers
}

/// The components, the largest first, each in the order of its nodes.
fn by_size(graph: &Graph<'_>) -> Vec<Vec<NodeIndex>> {
    let mut all: Vec<Vec<NodeIndex>> =
        connected_components(graph).into_iter().map(|component| component.into_iter().collect()).collect();
    all.iter_mut().for_each(|component: &mut Vec<NodeIndex>| component.sort_unstable());
    all.sort_by_key(|component| (std::cmp::Reverse(component.len()), component.first().copied()));
    all
}

/// How many, and the nodes of the largest.
fn components(graph: &Graph<'_>) -> (u64, Vec<NodeIndex>) {
    let all = by_size(graph);
    (all.len() as u64, all.into_iter().next().unwrap_or_default())
}

/// Exact, by the iFUB algorithm (Crescenzi, Grossi, Habib, Lanzi, Marino 2013): from a hub outwards, the levels of a
/// breadth-first search bound what the peers nearer to the hub can still add, so that few searches are needed.
fn diameter(graph: &Graph<'_>, component: &[NodeIndex]) -> Option<u64> {
    if component.len() < 2 || component.len() > MAX_DIAMETER_NODES {
        return None;
    }
    let hub = component.iter().copied().max_by_key(|node| graph.neighbors(*node).count())?;
    let mut search = Search { distance: vec![u64::MAX; graph.node_count()], queue: VecDeque::new() };
    let mut least = search.eccentricity(graph, hub);
    let mut outwards: Vec<(u64, NodeIndex)> =
        component.iter().map(|node| (search.distance[node.index()], *node)).collect();
    outwards.sort_unstable_by_key(|(level, node)| (std::cmp::Reverse(*level), *node));
    for (level, node) in outwards {
        // Two peers at this level or nearer are at most twice the level apart.
        if least >= 2 * level {
            break;
        }
        least = least.max(search.eccentricity(graph, node));
    }
    Some(least)
}

/// Breadth-first searches over one graph, with their memory.
struct Search {
    distance: Vec<u64>,
    queue: VecDeque<NodeIndex>,
}

impl Search {
    fn eccentricity(&mut self, graph: &Graph<'_>, start: NodeIndex) -> u64 {
        self.distance.fill(u64::MAX);
        self.distance[start.index()] = 0;
        self.queue.push_back(start);
        let mut furthest = 0;
        while let Some(node) = self.queue.pop_front() {
            furthest = self.distance[node.index()];
            for neighbour in graph.neighbors(node) {
                if self.distance[neighbour.index()] == u64::MAX {
                    self.distance[neighbour.index()] = furthest + 1;
                    self.queue.push_back(neighbour);
                }
            }
        }
        furthest
    }
}

fn clustering(graph: &Graph<'_>) -> Option<f64> {
    let coefficients: Vec<f64> = graph
        .node_indices()
        .filter_map(|node| {
            let neighbours: Vec<_> = graph.neighbors(node).collect();
            let pairs = neighbours.len() * neighbours.len().checked_sub(1)? / 2;
            let joined = neighbours
                .iter()
                .enumerate()
                .map(|(i, a)| neighbours[i + 1..].iter().filter(|b| graph.find_edge(*a, **b).is_some()).count());
            (pairs > 0).then(|| joined.sum::<usize>() as f64 / pairs as f64)
        })
        .collect();
    (!coefficients.is_empty()).then(|| coefficients.iter().sum::<f64>() / coefficients.len() as f64)
}

/// How many peers of a component the loss of one of them cuts off from the largest remaining part, and whose loss.
///
/// One depth-first walk (Hopcroft, Tarjan 1973): below a cut peer, each child's subtree that has no way around is a part.
fn worst_cut(graph: &Graph<'_>, component: &[NodeIndex]) -> (usize, Option<NodeIndex>) {
    let Some(root) = component.first().copied() else { return (0, None) };
    let n = graph.node_count();
    let (mut order, mut low, mut size) = (vec![0usize; n], vec![0usize; n], vec![1usize; n]);
    // For each peer: nodes in parts that its loss separates, and the largest of them.
    let (mut parts, mut largest) = (vec![0usize; n], vec![0usize; n]);
    let mut clock = 1;
    order[root.index()] = clock;
    low[root.index()] = clock;
    let mut stack = vec![(root, None::<NodeIndex>, graph.neighbors(root).detach())];
    while let Some((node, parent, walk)) = stack.last_mut() {
        let (node, parent) = (*node, *parent);
        if let Some(neighbour) = walk.next_node(graph) {
            if order[neighbour.index()] == 0 {
                clock += 1;
                order[neighbour.index()] = clock;
                low[neighbour.index()] = clock;
                stack.push((neighbour, Some(node), graph.neighbors(neighbour).detach()));
            } else if Some(neighbour) != parent {
                low[node.index()] = low[node.index()].min(order[neighbour.index()]);
            }
            continue;
        }
        stack.pop();
        let Some(parent) = parent else { continue };
        let (child, parent) = (node.index(), parent.index());
        size[parent] += size[child];
        low[parent] = low[parent].min(low[child]);
        if low[child] >= order[parent] {
            parts[parent] += size[child];
            largest[parent] = largest[parent].max(size[child]);
        }
    }
    let others = component.len() - 1;
    let cut = |node: NodeIndex| {
        let above = others - parts[node.index()];
        others - largest[node.index()].max(above)
    };
    component.iter().map(|node| (cut(*node), Some(*node))).max_by_key(|(cut, _)| *cut).unwrap_or((0, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(peers: usize, edges: &[(usize, usize)]) -> Shape {
        let sample =
            |n: usize| PeerSample { id: n.to_string(), connected: false, rtt_ms: None, rate_bps: None, bytes_in: 0 };
        let peers: Vec<_> = (0..peers).map(sample).collect();
        let edges: Vec<_> = edges.iter().map(|(a, b)| Edge { a: a.to_string(), b: b.to_string() }).collect();
        Shape::of(&peers, &edges)
    }

    #[test]
    fn a_ring_has_no_cut_peer_and_half_its_size_as_diameter() {
        let ring: Vec<_> = (0..10).map(|n| (n, (n + 1) % 10)).collect();
        let shape = shape(10, &ring);
        assert_eq!((shape.components, shape.diameter, shape.worst_cut), (Some(1), Some(5), 0.0));
        assert_eq!((shape.reach, shape.clustering, shape.worst_cut_peer), (Some(1.0), Some(0.0), None));
    }

    #[test]
    fn the_middle_of_a_star_cuts_off_all_but_one() {
        let star: Vec<_> = (1..10).map(|n| (0, n)).collect();
        let shape = shape(10, &star);
        // Nine others; one of them is the largest rest.
        assert_eq!((shape.worst_cut, shape.worst_cut_peer.as_deref()), (0.8, Some("0")));
        assert_eq!((shape.diameter, shape.average_connections()), (Some(2), Some(1.8)));
    }

    #[test]
    fn a_bridge_between_two_triangles_is_found() {
        let edges = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (2, 3)];
        let shape = shape(6, &edges);
        // Without 2 (or 3): two peers here, three there; two are cut off of six.
        assert_eq!(shape.worst_cut, 2.0 / 6.0);
        assert_eq!(shape.diameter, Some(3));
        // Four corners with 1, two bridge ends with 1 of 3 pairs.
        assert!((shape.clustering.unwrap() - (4.0 + 2.0 / 3.0) / 6.0).abs() < 1e-12);
    }

    #[test]
    fn parallel_and_self_edges_count_once_and_never() {
        let shape = shape(3, &[(0, 1), (1, 0), (2, 2)]);
        assert_eq!((shape.edges, shape.components, shape.reach), (1, Some(2), Some(2.0 / 3.0)));
        assert_eq!(shape.density(), Some(1.0 / 3.0));
    }

    #[test]
    fn cuts_equal_those_found_by_removing_each_peer() {
        // A fixed graph with several cut peers: a path of cliques with a tail.
        let edges =
            [(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (4, 5), (5, 3), (5, 6), (6, 7), (7, 8), (8, 6), (8, 9), (9, 10)];
        let whole = shape(11, &edges);
        let by_removal = (0..11)
            .map(|gone| {
                let left: Vec<_> = edges.iter().filter(|(a, b)| *a != gone && *b != gone).copied().collect();
                // The gone peer stays as an isolated one.
                let reach = shape(11, &left).reach.unwrap() * 11.0;
                10 - reach.round() as usize
            })
            .max();
        assert_eq!((whole.worst_cut * 11.0).round() as usize, by_removal.unwrap());
    }

    #[test]
    fn worked_example_of_roles() {
        // 0-1-2-3 and 4 alone. Of the six pairs of others, two lead through 1 (0-2, 0-3) and two through 2.
        let roles = roles(&["a", "b", "c", "d", "e"], &[(0, 1), (1, 2), (2, 3), (1, 0)]);
        let degrees: Vec<u64> = roles.iter().map(|role| role.degree).collect();
        assert_eq!(degrees, [1, 2, 2, 1, 0]);
        let cuts: Vec<bool> = roles.iter().map(|role| role.cut).collect();
        assert_eq!(cuts, [false, true, true, false, false]);
        assert_eq!(cut_peers(&["a", "b", "c", "d", "e"], &[(0, 1), (1, 2), (2, 3), (1, 0)]), 2);
        let between: Vec<f64> = roles.iter().map(|role| role.betweenness.unwrap()).collect();
        assert_eq!(between, [0.0, 2.0 / 6.0, 2.0 / 6.0, 0.0, 0.0]);
        let components: Vec<u64> = roles.iter().map(|role| role.component).collect();
        assert_eq!(components, [0, 0, 0, 0, 1]);
        assert_eq!(degree_distribution(&roles), BTreeMap::from([(0, 1), (1, 2), (2, 2)]));
    }

    #[test]
    fn the_middle_of_a_star_is_on_every_path_and_two_peers_have_none() {
        let star = roles(&["m", "a", "b", "c"], &[(0, 1), (0, 2), (0, 3)]);
        assert_eq!((star[0].betweenness, star[0].cut, star[1].betweenness), (Some(1.0), true, Some(0.0)));
        assert_eq!(roles(&["a", "b"], &[(0, 1)])[0].betweenness, None);
        assert_eq!(roles(&[], &[]), []);
    }

    #[test]
    fn the_diameter_equals_that_of_a_search_from_every_peer() {
        let mut state = 7_u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for peers in [2, 3, 9, 40, 90] {
            for links in [peers / 2, peers, 2 * peers] {
                let edges: Vec<_> = (0..links).map(|_| (random(peers), random(peers))).collect();
                let ids: Vec<String> = (0..peers).map(|n| n.to_string()).collect();
                let pairs = edges.iter().map(|(a, b)| (ids[*a].as_str(), ids[*b].as_str()));
                let graph = build(ids.iter().map(String::as_str), pairs);
                let (_, largest) = components(&graph);
                let mut search = Search { distance: vec![0; peers], queue: VecDeque::new() };
                let all = largest.iter().map(|node| search.eccentricity(&graph, *node)).max();
                assert_eq!(diameter(&graph, &largest), all.filter(|_| largest.len() > 1), "{peers} {edges:?}");
            }
        }
    }
}
