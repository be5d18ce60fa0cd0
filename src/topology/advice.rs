//! Recommendations: a cause, a figure, an action. They disappear when the cause does.

use serde::Serialize;

use super::{Inputs, Shape, rating};
use crate::db::counters::ratio;

/// Cases under which a share is not spoken of.
const MIN_CASES: u64 = 20;
/// Share of requests that waited too long for providers.
const SLOW_ROUTING: f64 = 0.25;
/// Share of attempts that failed.
const FAILED_ATTEMPTS: f64 = 0.20;
/// Share of requests that found nobody.
const NOT_FOUND: f64 = 0.20;
/// Share of bytes received twice.
const DUPLICATES: f64 = 0.10;
/// Share of all bytes from one peer.
const ONE_PEER: f64 = 0.60;
/// Bytes under which shares of peers are not spoken of.
const MIN_BYTES: u64 = 10 << 20;
/// Share of known peers that one loss cuts off.
const CUT: f64 = 0.10;

/// What the advice has to know of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    pub delegated_routers: usize,
    pub dht: bool,
    /// No network is wanted: then nothing is amiss without it.
    pub offline: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Notice,
    Warning,
    Serious,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Recommendation {
    pub severity: Severity,
    /// With its figure: "38 % of requests waited > 500 ms for providers".
    pub cause: String,
    /// "enable a delegated router".
    pub action: String,
}

impl std::fmt::Display for Recommendation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.cause, self.action)
    }
}

pub fn recommend(inputs: &Inputs, shape: &Shape) -> Vec<Recommendation> {
    if inputs.facts.offline {
        return Vec::new();
    }
    let mut all: Vec<_> = [
        no_peers(inputs),
        slow_routing(inputs),
        not_found(inputs),
        failed_attempts(inputs),
        duplicates(inputs),
        one_peer(inputs),
        cut_peer(shape),
    ]
    .into_iter()
    .flatten()
    .collect();
    all.sort_by_key(|recommendation| std::cmp::Reverse(recommendation.severity));
    all
}

fn no_peers(inputs: &Inputs) -> Option<Recommendation> {
    let connected = inputs.peers.iter().any(|peer| peer.connected);
    (!connected).then(|| Recommendation {
        severity: Severity::Serious,
        cause: "no peer is connected".to_owned(),
        action: "name a peer that has content with --peer, or let --bootstrap find some".to_owned(),
    })
}

fn slow_routing(inputs: &Inputs) -> Option<Recommendation> {
    let share = share(inputs.tally.routed_slowly, inputs.tally.routed).filter(|share| *share > SLOW_ROUTING)?;
    let action = match inputs.facts.delegated_routers {
        0 => "enable a delegated router (--router URL)",
        _ => "add another delegated router, or keep the peers that have the content connected (--peer)",
    };
    Some(Recommendation {
        severity: Severity::Serious,
        cause: format!("{} of requests that looked for providers waited > 500 ms for them", percent(share)),
        action: action.to_owned(),
    })
}

fn not_found(inputs: &Inputs) -> Option<Recommendation> {
    let share = share(inputs.tally.not_found, inputs.tally.requests).filter(|share| *share > NOT_FOUND)?;
    let action = match (inputs.facts.dht, inputs.facts.delegated_routers) {
        (false, 0) => "switch the DHT on (leave out --no-dht) or enable a delegated router (--router URL)",
        (true, 0) => "enable a delegated router beside the DHT (--router URL)",
        _ => "check that the content is provided: `tidegate explain CID` names who was asked",
    };
    Some(Recommendation {
        severity: Severity::Warning,
        cause: format!("{} of requests found no provider", percent(share)),
        action: action.to_owned(),
    })
}

fn failed_attempts(inputs: &Inputs) -> Option<Recommendation> {
    let (good, bad) = (inputs.tally.attempts_delivered, inputs.tally.attempts_failed);
    let share = share(bad, good + bad).filter(|share| *share > FAILED_ATTEMPTS)?;
    Some(Recommendation {
        severity: Severity::Warning,
        cause: format!("{} of attempts stalled, broke or could not connect", percent(share)),
        action: "see the peers with the lowest success, and remove those that are named by --peer".to_owned(),
    })
}

fn duplicates(inputs: &Inputs) -> Option<Recommendation> {
    let (useful, twice) = (inputs.tally.bytes_network, inputs.tally.duplicate_bytes);
    let share = ratio(twice, useful + twice).filter(|share| *share > DUPLICATES && useful >= MIN_BYTES)?;
    Some(Recommendation {
        severity: Severity::Notice,
        cause: format!("{} of received bytes had been received before", percent(share)),
        action: "see with --compare-share 0.02 whether asking several peers pays here".to_owned(),
    })
}

fn one_peer(inputs: &Inputs) -> Option<Recommendation> {
    let total: u64 = inputs.peers.iter().map(|peer| peer.bytes_in).sum();
    let most = inputs.peers.iter().max_by_key(|peer| peer.bytes_in)?;
    let others = inputs.peers.iter().any(|peer| peer.bytes_in > 0 && peer.id != most.id);
    let share = ratio(most.bytes_in, total).filter(|share| *share > ONE_PEER && total >= MIN_BYTES && others)?;
    Some(Recommendation {
        severity: Severity::Notice,
        cause: format!("peer {} delivered {} of all bytes", short(&most.id), percent(share)),
        action: "keep another peer with the same content connected (--peer)".to_owned(),
    })
}

fn cut_peer(shape: &Shape) -> Option<Recommendation> {
    let peer = shape.worst_cut_peer.as_deref()?;
    (shape.worst_cut > CUT && shape.edges >= rating::MIN_EDGES).then(|| Recommendation {
        severity: Severity::Warning,
        cause: format!("losing peer {} would cut off {} of known peers", short(peer), percent(shape.worst_cut)),
        action: "keep peers beyond it connected (--peer)".to_owned(),
    })
}

fn share(part: u64, whole: u64) -> Option<f64> {
    ratio(part, whole).filter(|_| whole >= MIN_CASES)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// The start and the end of a peer id: all of them start alike.
fn short(id: &str) -> String {
    let tail: String = id.chars().rev().take(6).collect::<Vec<_>>().into_iter().rev().collect();
    if id.len() <= 16 { id.to_owned() } else { format!("{}…{tail}", id.chars().take(8).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::counters::Tally;
    use crate::topology::PeerSample;

    fn inputs(tally: Tally) -> Inputs {
        let peer = |id: &str, bytes_in| PeerSample {
            id: id.to_owned(),
            connected: true,
            rtt_ms: None,
            rate_bps: None,
            bytes_in,
        };
        Inputs {
            at: std::time::SystemTime::UNIX_EPOCH,
            window_s: 60.0,
            tally,
            known_content_items: 0,
            peers: vec![peer("a", 1), peer("b", 1)],
            edges: Vec::new(),
            facts: Facts { dht: true, ..Facts::default() },
        }
    }

    #[test]
    fn slow_routing_is_named_with_its_figure_and_goes_with_its_cause() {
        let mut inputs = inputs(Tally { routed: 100, routed_slowly: 38, ..Tally::default() });
        let said = recommend(&inputs, &Shape::default());
        assert_eq!(said.len(), 1);
        assert!(said[0].to_string().starts_with("38 % of requests"), "{}", said[0]);
        assert!(said[0].action.contains("--router"));
        inputs.tally.routed_slowly = 25;
        assert_eq!(recommend(&inputs, &Shape::default()), []);
    }

    #[test]
    fn few_cases_are_not_spoken_of() {
        let few = Tally { routed: 19, routed_slowly: 19, requests: 19, not_found: 19, ..Tally::default() };
        assert_eq!(recommend(&inputs(few), &Shape::default()), []);
    }

    #[test]
    fn each_cause_is_found_and_the_serious_come_first() {
        let mut inputs = inputs(Tally {
            requests: 100,
            not_found: 30,
            routed: 100,
            routed_slowly: 90,
            attempts_delivered: 50,
            attempts_failed: 50,
            bytes_network: 100 << 20,
            duplicate_bytes: 50 << 20,
            ..Tally::default()
        });
        inputs.peers[0].bytes_in = 90 << 20;
        let shape =
            Shape { worst_cut: 0.2, worst_cut_peer: Some("a".to_owned()), edges: 10, nodes: 10, ..Shape::default() };
        let said = recommend(&inputs, &shape);
        assert_eq!(said.len(), 6);
        assert_eq!(said[0].severity, Severity::Serious);
        inputs.facts.offline = true;
        assert_eq!(recommend(&inputs, &shape), []);
    }

    #[test]
    fn a_node_alone_is_told_how_to_find_peers() {
        let mut alone = inputs(Tally::default());
        alone.peers.clear();
        assert!(recommend(&alone, &Shape::default())[0].action.contains("--peer"));
    }
}
