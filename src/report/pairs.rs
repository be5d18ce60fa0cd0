//! Which measurements are compared with which, and the names of the scenarios.

use std::collections::{BTreeMap, HashMap};

use crate::db::queries::TransferRow;
use crate::record::{Outcome, Policy};
use crate::stats::{self, Pairing, Verdict};

/// One of the six scenarios of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// How rows begin that belong to it, besides its name.
    pub key: &'static str,
    pub name: &'static str,
    pub title: &'static str,
}

/// Seed table of the benchmark, in its order.
pub const SCENARIOS: [Scenario; 6] = [
    Scenario { key: "s1", name: "small", title: "Small files, under 1 MB" },
    Scenario { key: "s2", name: "medium", title: "Medium files, 1 to 10 MB" },
    Scenario { key: "s3", name: "large", title: "Large files, over 10 MB" },
    Scenario { key: "s4", name: "multi", title: "Many small files" },
    Scenario { key: "s5", name: "cold", title: "Cold cache" },
    Scenario { key: "s6", name: "warm", title: "Warm cache" },
];

impl Scenario {
    /// The scenario that a row names: `small`, `S1`, `s1/D/100KB`, `warm cache`.
    pub fn of(text: &str) -> Option<&'static Self> {
        let first = text.split(|c: char| !c.is_ascii_alphanumeric()).find(|part| !part.is_empty())?;
        SCENARIOS
            .iter()
            .find(|scenario| first.eq_ignore_ascii_case(scenario.key) || first.eq_ignore_ascii_case(scenario.name))
    }
}

/// Both sides of a comparison of policies.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sides {
    /// Complete transfers with a time.
    pub n_standard: usize,
    pub n_optimized: usize,
    /// Transfers that did not end complete: they have no time, and are told of beside.
    pub failed_standard: usize,
    pub failed_optimized: usize,
    pub pairs: usize,
    pub verdict: Option<Verdict>,
    /// bound / time of the optimised side: median, and at its slowest twentieth.
    pub eta_p50: Option<f64>,
    pub eta_p95: Option<f64>,
}

impl Sides {
    /// Pairs of the same run, scenario and size, in the order in which they were measured: the runs alternate the
    /// policies, so the i-th of one side and the i-th of the other saw the same moment.
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a TransferRow>, runs: &HashMap<i64, String>) -> Self {
        let mut sides = Self::default();
        let mut cells: BTreeMap<(&str, &str, i64), [Vec<&TransferRow>; 2]> = BTreeMap::new();
        let mut etas = Vec::new();
        for row in rows {
            let optimized = row.policy == Policy::Optimized.as_str();
            if row.outcome != Outcome::Complete.as_str() {
                *(if optimized { &mut sides.failed_optimized } else { &mut sides.failed_standard }) += 1;
                continue;
            }
            *(if optimized { &mut sides.n_optimized } else { &mut sides.n_standard }) += 1;
            etas.extend(row.optimization_score.filter(|_| optimized));
            let run = row.test_id.and_then(|id| runs.get(&id)).map_or("", String::as_str);
            let cell = cells.entry((run, row.scenario.as_deref().unwrap_or_default(), row.bytes)).or_default();
            cell[usize::from(optimized)].push(row);
        }
        let (mut standard, mut optimized) = (Vec::new(), Vec::new());
        for [mut a, mut b] in cells.into_values() {
            a.sort_by_key(|row| row.id);
            b.sort_by_key(|row| row.id);
            for (a, b) in a.into_iter().zip(b) {
                let (time_a, time_b) = times(a, b);
                standard.push(time_a);
                optimized.push(time_b);
            }
        }
        sides.pairs = standard.len();
        sides.verdict = stats::compare(&standard, &optimized, Pairing::Same, stats::SEED);
        sides.eta_p50 = stats::median(&etas);
        sides.eta_p95 = stats::quantile(&etas, 0.05);
        sides
    }
}

/// Transfer times where both asked the network; else (warm cache) the time until the last byte was sent.
fn times(a: &TransferRow, b: &TransferRow) -> (f64, f64) {
    match (a.transfer_time_ms, b.transfer_time_ms) {
        (Some(a), Some(b)) => (a, b),
        _ => (a.load_time_ms, b.load_time_ms),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn row(id: i64, policy: Policy, scenario: &str, bytes: i64, ms: f64) -> TransferRow {
        TransferRow {
            id,
            test_id: Some(1),
            cid: "bafy".to_owned(),
            origin: "bench".to_owned(),
            policy: policy.as_str().to_owned(),
            scenario: Some(scenario.to_owned()),
            is_simulated: true,
            simulation_reason: Some("shaped links".to_owned()),
            outcome: "complete".to_owned(),
            cache_state: Some("miss".to_owned()),
            bytes,
            network_bytes: bytes,
            duplicate_bytes: 0,
            providers_found: 4,
            transfer_time_ms: Some(ms),
            load_time_ms: ms + 5.0,
            ttfb_ms: Some(ms / 2.0),
            network_efficiency: Some(1.0),
            optimization_score: Some(0.9),
            test_timestamp: id,
            hardware_id: None,
        }
    }

    #[test]
    fn scenarios_are_known_by_number_and_by_name() {
        for (text, key) in
            [("S1", "s1"), ("small", "s1"), ("s3/D/20MB", "s3"), ("Warm cache", "s6"), ("multi-small", "s4")]
        {
            assert_eq!(Scenario::of(text).map(|scenario| scenario.key), Some(key), "{text}");
        }
        assert_eq!(Scenario::of("s7"), None);
        assert_eq!(Scenario::of(""), None);
    }

    #[test]
    fn only_the_same_size_of_the_same_run_and_scenario_is_a_pair() {
        let runs = HashMap::from([(1, "run".to_owned())]);
        let mut rows = Vec::new();
        for i in 0..30 {
            rows.push(row(2 * i, Policy::Standard, "s1/A", 100_000, 100.0 + i as f64));
            rows.push(row(2 * i + 1, Policy::Optimized, "s1/A", 100_000, (100.0 + i as f64) * 0.4));
            rows.push(row(1_000 + i, Policy::Optimized, "s1/A", 900_000, 5.0));
        }
        let sides = Sides::of(&rows, &runs);
        assert_eq!((sides.n_standard, sides.n_optimized, sides.pairs), (30, 60, 30));
        let verdict = sides.verdict.unwrap();
        assert!((verdict.faster_by.median - 0.6).abs() < 1e-9 && (verdict.faster_by.high - 0.6).abs() < 1e-9);
        assert_eq!((sides.eta_p50, sides.eta_p95), (Some(0.9), Some(0.9)));
    }

    #[test]
    fn what_failed_is_counted_and_has_no_time() {
        let mut rows: Vec<_> = (0..40)
            .map(|i| row(i, if i % 2 == 0 { Policy::Standard } else { Policy::Optimized }, "s2", 1, 1.0))
            .collect();
        rows[0].outcome = "timeout".to_owned();
        let sides = Sides::of(&rows, &HashMap::new());
        assert_eq!((sides.failed_standard, sides.n_standard, sides.pairs, sides.verdict), (1, 19, 19, None));
    }
}
