//! One measured thing: a scenario, a link set, a size, a contender; its samples, its score.

use std::time::Duration;

use serde::Serialize;

use crate::stats::Summary;

/// One timed fetch.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    pub scenario: &'static str,
    pub links: String,
    pub bytes: u64,
    pub fault: Option<&'static str>,
    pub contender: String,
    pub iteration: usize,
    pub total_ms: f64,
    pub ttfb_ms: f64,
    /// Bytes that came down all links meanwhile / bytes of content. Above 1 by headers, handshakes and duplicates.
    pub wire_ratio: Option<f64>,
    /// CPU time of the contender's process.
    pub cpu_ms: Option<f64>,
    pub peak_memory: Option<u64>,
    /// Why it failed; times are none then, and it counts in no summary.
    pub error: Option<String>,
    /// T_k.
    pub bound_ms: Option<f64>,
}

impl Sample {
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
    pub wire_ratio: Option<f64>,
    pub cpu_ms: Option<f64>,
    pub peak_memory: Option<u64>,
    pub bound_ms: Option<f64>,
    /// bound / median total, 0 to 1.
    pub efficiency: Option<f64>,
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
                cpu_ms: Summary::of(&values(|sample| sample.cpu_ms), seed).map(|summary| summary.p50),
                peak_memory: good.iter().filter_map(|sample| sample.peak_memory).max(),
                bound_ms,
                efficiency: bound_ms.zip(total_ms).map(|(bound, total)| bound / total.p50),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(contender: &str, total_ms: f64, error: Option<&str>) -> Sample {
        Sample {
            scenario: "small",
            links: "A".to_owned(),
            bytes: 100_000,
            fault: None,
            contender: contender.to_owned(),
            iteration: 0,
            total_ms,
            ttfb_ms: total_ms / 2.0,
            wire_ratio: Some(1.05),
            cpu_ms: None,
            peak_memory: None,
            error: error.map(str::to_owned),
            bound_ms: Some(58.0),
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
