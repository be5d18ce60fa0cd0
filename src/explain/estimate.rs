//! What a fetch would cost now, by the bound T_k of RETRIEVAL.md §2.0: k round trips before data flows, then every link
//! full at the rate that was measured of it.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::local::Found;
use super::{is_available, ms};
use crate::retriever::ledger;
use crate::retriever::probe::ProbedPeer;

/// Up to here it is one block, which is not split over Bitswap peers.
const ONE_BLOCK: u64 = 256 << 10;

/// What a fetch would cost now, at best: null where nothing was measured
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Estimate {
    /// To come from the network; null: not known without fetching.
    pub bytes: Option<u64>,
    /// k, at least: levels of missing blocks below each other.
    pub round_trips: u32,
    /// Providers that count: reached, have the block, with a round trip and a rate that were measured.
    pub providers: u32,
    /// Reached and have it, but nothing was ever measured of their rate: they could only make it faster.
    pub providers_unmeasured: u32,
    /// Of the nearest of those that have it: a first byte cannot come sooner.
    pub first_byte_ms: Option<f64>,
    /// Of those that count, together.
    pub bytes_per_second: Option<f64>,
    /// The bound for all that is missing; 0 when nothing is.
    pub total_ms: Option<f64>,
}

impl Estimate {
    pub(super) fn of(found: &Found, providers: &[ProbedPeer]) -> Self {
        let available: Vec<&ProbedPeer> = providers.iter().filter(|peer| is_available(peer)).collect();
        let links: Vec<(Duration, f64)> = available.iter().filter_map(|peer| Some((peer.rtt?, peer.rate?))).collect();
        let all_here = found.is_all_here();
        let bytes = if all_here { Some(0) } else { found.missing_bytes };
        let nearest = available.iter().filter_map(|peer| peer.rtt).min();
        let bound = bytes.and_then(|bytes| bound(bytes, found.missing_levels.max(1), &links));
        let rate: f64 = links.iter().map(|(_, rate)| rate).sum();
        Self {
            bytes,
            round_trips: found.missing_levels,
            providers: links.len() as u32,
            providers_unmeasured: (available.len() - links.len()) as u32,
            first_byte_ms: nearest.filter(|_| !all_here).map(ms),
            bytes_per_second: (!links.is_empty()).then_some(rate),
            total_ms: if all_here { Some(0.0) } else { bound.map(ms) },
        }
    }
}

/// T_k; the round trips before the last are at the nearest peer's.
fn bound(bytes: u64, round_trips: u32, links: &[(Duration, f64)]) -> Option<Duration> {
    let nearest = links.iter().map(|(rtt, _)| *rtt).min()?;
    let last = if bytes <= ONE_BLOCK {
        links.iter().filter_map(|link| ledger::bound(bytes, [*link])).min()
    } else {
        ledger::bound(bytes, links.iter().copied())
    };
    last.map(|last| last + nearest * (round_trips - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mbit(m: f64) -> f64 {
        m * 1e6 / 8.0 * 0.9653
    }

    const D: [(u64, f64); 4] = [(20, 100.0), (60, 50.0), (100, 20.0), (150, 5.0)];

    fn links(links: &[(u64, f64)]) -> Vec<(Duration, f64)> {
        links.iter().map(|(rtt, m)| (Duration::from_millis(*rtt), mbit(*m))).collect()
    }

    /// RETRIEVAL.md §2.0: links A and D.
    #[test]
    fn the_bounds_are_those_of_the_requirement() {
        for (of, bytes, k, wanted) in [
            (&[(50, 100.0)][..], 100_000, 1, 58),
            (&[(50, 100.0)][..], 900_000, 2, 175),
            (&[(50, 100.0)][..], 20_000_000, 2, 1758),
            (&D[..], 100_000, 1, 28),
            (&D[..], 20_000_000, 2, 1011),
        ] {
            let bound = bound(bytes, k, &links(of)).unwrap().as_secs_f64() * 1000.0;
            assert!((bound - f64::from(wanted)).abs() < 1.5, "{bytes} over {of:?}: {bound}");
        }
    }

    #[test]
    fn nothing_is_said_of_what_was_not_measured() {
        let missing = Found { missing: 1, missing_levels: 1, whole: true, ..Found::default() };
        let nothing = Estimate::of(&missing, &[]);
        assert_eq!((nothing.bytes, nothing.total_ms, nothing.bytes_per_second), (None, None, None));
        let here = Found { here: 3, missing_bytes: Some(0), whole: true, ..Found::default() };
        assert_eq!(Estimate::of(&here, &[]).total_ms, Some(0.0));
    }
}
