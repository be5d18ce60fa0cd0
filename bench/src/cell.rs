//! One measured thing: a scenario, a link set, a size, a contender; its samples, its score.

use std::time::Duration;

use serde::Serialize;

use crate::scenario::Scenario;
use crate::stats::Summary;

/// One timed fetch.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    pub scenario: &'static str,
    pub links: String,
    pub bytes: u64,
    /// What goes wrong meanwhile, or in which other way the content is asked for.
    pub fault: Option<&'static str>,
    pub contender: String,
    pub cid: String,
    pub iteration: usize,
    pub total_ms: f64,
    pub ttfb_ms: f64,
    /// Bytes that came down all links meanwhile / bytes of content. Above 1 by headers, handshakes and duplicates.
    pub wire_ratio: Option<f64>,
    /// CPU time of the contender's process, in steps of 10 ms.
    pub cpu_ms: Option<f64>,
    /// Payload that arrived more than once, as the contender counts it.
    pub duplicate_bytes: Option<u64>,
    pub peak_memory: Option<u64>,
    /// Datagrams that came to a full socket in the gateway's namespace and were dropped.
    pub udp_dropped: Option<u64>,
    /// Why it failed; times are none then, and it counts in no summary.
    pub error: Option<String>,
    /// T_k.
    pub bound_ms: Option<f64>,
    /// Blocks that adversaries were asked for, and those of a corrupt peer after its first bad block was there.
    pub adversary_asked: Option<u64>,
    pub asked_after_bad: Option<u64>,
    /// From the connection of a late provider to the use of its link.
    pub joined_ms: Option<f64>,
}

impl Sample {
    /// Nothing is measured yet.
    pub fn new(scenario: Scenario, links: &str, bytes: u64, contender: &str, iteration: usize) -> Self {
        Self {
            scenario: scenario.as_str(),
            links: links.to_owned(),
            bytes,
            fault: None,
            contender: contender.to_owned(),
            cid: String::new(),
            iteration,
            total_ms: 0.0,
            ttfb_ms: 0.0,
            wire_ratio: None,
            cpu_ms: None,
            duplicate_bytes: None,
            peak_memory: None,
            udp_dropped: None,
            error: None,
            bound_ms: None,
            adversary_asked: None,
            asked_after_bad: None,
            joined_ms: None,
        }
    }

    pub fn ms(duration: Duration) -> f64 {
        duration.as_secs_f64() * 1e3
    }
}

/// All samples of one cell.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    pub scenario: &'static str,
    pub links: String,
    pub bytes: u64,
    pub fault: Option<&'static str>,
    pub contender: String,
    pub failed: usize,
    pub total_ms: Option<Summary>,
    pub ttfb_ms: Option<Summary>,
    /// Median.
    pub wire_ratio: Option<f64>,
    /// Mean: the kernel counts in steps of 10 ms.
    pub cpu_ms: Option<f64>,
    /// Mean of duplicate bytes / bytes of content.
    pub duplicate_share: Option<f64>,
    pub peak_memory: Option<u64>,
    /// Mean.
    pub udp_dropped: Option<f64>,
    pub bound_ms: Option<f64>,
    /// bound / median total, 0 to 1; at the slowest twentieth too.
    pub efficiency: Option<f64>,
    pub efficiency_p95: Option<f64>,
    /// Of all samples together.
    pub adversary_asked: Option<u64>,
    pub asked_after_bad: Option<u64>,
    /// The slowest.
    pub joined_ms: Option<f64>,
}

/// Cells in the order in which they were first measured.
pub fn cells(samples: &[Sample], seed: u64) -> Vec<Cell> {
    let mut keys: Vec<(&'static str, &str, u64, Option<&'static str>, &str)> = Vec::new();
    for sample in samples {
        let key = (sample.scenario, sample.links.as_str(), sample.bytes, sample.fault, sample.contender.as_str());
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys.into_iter()
        .map(|(scenario, links, bytes, fault, contender)| {
            let of: Vec<&Sample> = samples
                .iter()
                .filter(|sample| {
                    (sample.scenario, sample.links.as_str(), sample.bytes, sample.fault, sample.contender.as_str())
                        == (scenario, links, bytes, fault, contender)
                })
                .collect();
            let good: Vec<&&Sample> = of.iter().filter(|sample| sample.error.is_none()).collect();
            let values = |value: fn(&Sample) -> Option<f64>| -> Vec<f64> {
                good.iter().filter_map(|sample| value(sample)).collect()
            };
            let total_ms = Summary::of(&values(|sample| Some(sample.total_ms)), seed);
            let bound_ms = of.first().and_then(|sample| sample.bound_ms);
            Cell {
                scenario,
                links: links.to_owned(),
                bytes,
                fault,
                contender: contender.to_owned(),
                failed: of.len() - good.len(),
                total_ms,
                ttfb_ms: Summary::of(&values(|sample| Some(sample.ttfb_ms)), seed),
                wire_ratio: Summary::of(&values(|sample| sample.wire_ratio), seed).map(|summary| summary.p50),
                cpu_ms: mean(&values(|sample| sample.cpu_ms)),
                duplicate_share: mean(&values(|sample| {
                    sample.duplicate_bytes.map(|duplicate| duplicate as f64 / sample.bytes.max(1) as f64)
                })),
                udp_dropped: mean(&values(|sample| sample.udp_dropped.map(|count| count as f64))),
                peak_memory: good.iter().filter_map(|sample| sample.peak_memory).max(),
                bound_ms,
                efficiency: bound_ms.zip(total_ms).map(|(bound, total)| bound / total.p50),
                efficiency_p95: bound_ms.zip(total_ms).map(|(bound, total)| bound / total.p95),
                adversary_asked: of.iter().filter_map(|sample| sample.adversary_asked).reduce(|a, b| a + b),
                asked_after_bad: of.iter().filter_map(|sample| sample.asked_after_bad).reduce(|a, b| a + b),
                joined_ms: of.iter().filter_map(|sample| sample.joined_ms).reduce(f64::max),
            }
        })
        .collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn sample(contender: &str, total_ms: f64, error: Option<&str>) -> Sample {
        Sample {
            total_ms,
            ttfb_ms: total_ms / 2.0,
            wire_ratio: Some(1.05),
            error: error.map(str::to_owned),
            bound_ms: Some(58.0),
            cid: "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku".to_owned(),
            ..Sample::new(Scenario::Small, "A", 100_000, contender, 0)
        }
    }

    #[test]
    fn failures_are_counted_and_kept_out_of_times() {
        let samples = [
            sample("a", 116.0, None),
            sample("b", 58.0, None),
            sample("a", 0.0, Some("gone")),
            sample("a", 116.0, None),
        ];
        let cells = cells(&samples, 1);
        assert_eq!(cells.iter().map(|cell| cell.contender.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((cells[0].failed, cells[0].total_ms.unwrap().n, cells[0].efficiency), (1, 2, Some(0.5)));
        assert_eq!((cells[1].failed, cells[1].efficiency), (0, Some(1.0)));
    }
}
