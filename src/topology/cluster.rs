//! Peers grouped by round-trip time.
//!
//! Optimal one-dimensional clustering (Fisher 1958; Wang, Song 2011 "Ckmeans.1d.dp") of the logarithms of RTTs: near,
//! far and further peers differ by factors, not by differences.

use serde::Serialize;

/// The most clusters: as many as a drawing can tell apart.
pub const MAX_CLUSTERS: usize = 5;
/// Share of the variance that clusters have to explain; the least number of them that does is taken.
const EXPLAINED: f64 = 0.9;
/// RTTs within this factor of each other are one cluster: less is jitter.
const ONE_CLUSTER_FACTOR: f64 = 2.0;
/// Shorter RTTs count as this, in milliseconds: below, it is the machine that is measured.
const LEAST_MS: f64 = 0.5;

/// Peers whose RTT is alike.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct RttCluster {
    /// `A` is the nearest.
    pub name: char,
    pub peers: u64,
    /// In milliseconds, as measured.
    pub min_ms: f64,
    pub median_ms: f64,
    pub max_ms: f64,
}

/// The cluster of each RTT (`None` where none was measured), and the clusters, the nearest first.
pub fn rtt_clusters(rtts_ms: &[Option<f64>]) -> (Vec<Option<usize>>, Vec<RttCluster>) {
    let mut known: Vec<(f64, usize)> = rtts_ms
        .iter()
        .enumerate()
        .filter_map(|(at, rtt)| Some((rtt.filter(|rtt| rtt.is_finite() && *rtt >= 0.0)?, at)))
        .collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut of = vec![None; rtts_ms.len()];
    let logs: Vec<f64> = known.iter().map(|(rtt, _)| rtt.max(LEAST_MS).ln()).collect();
    let mut clusters = Vec::new();
    for (cluster, (from, to)) in breaks(&logs).into_iter().enumerate() {
        let members = &known[from..to];
        members.iter().for_each(|(_, at)| of[*at] = Some(cluster));
        let values: Vec<f64> = members.iter().map(|(rtt, _)| *rtt).collect();
        if let (Some(min), Some(median), Some(max)) =
            (values.first(), crate::stats::quantile(&values, 0.5), values.last())
        {
            let name = char::from(b'A' + cluster as u8);
            clusters.push(RttCluster {
                name,
                peers: values.len() as u64,
                min_ms: *min,
                median_ms: median,
                max_ms: *max,
            });
        }
    }
    (of, clusters)
}

/// Ranges of sorted values, each a cluster: the fewest that explain [`EXPLAINED`] of the variance.
fn breaks(sorted: &[f64]) -> Vec<(usize, usize)> {
    let n = sorted.len();
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return Vec::new() };
    if last - first < ONE_CLUSTER_FACTOR.ln() {
        return vec![(0, n)];
    }
    // Sums of values and of squares, so that the cost of a range is a subtraction. Shifted: less is lost to rounding.
    let mut sums = vec![(0.0, 0.0); n + 1];
    for (i, value) in sorted.iter().enumerate() {
        let value = value - first;
        sums[i + 1] = (sums[i].0 + value, sums[i].1 + value * value);
    }
    let cost = |from: usize, to: usize| {
        let (sum, squares): (f64, f64) = (sums[to].0 - sums[from].0, sums[to].1 - sums[from].1);
        (squares - sum * sum / (to - from) as f64).max(0.0)
    };
    let total = cost(0, n);
    // best[k][to]: the least cost of `to` values in k + 1 clusters, and where the last of them starts.
    let mut best: Vec<Vec<(f64, usize)>> =
        vec![(0..=n).map(|to| (if to > 0 { cost(0, to) } else { 0.0 }, 0)).collect()];
    for k in 1..MAX_CLUSTERS.min(n) {
        let before = &best[k - 1];
        let row = (0..=n)
            .map(|to| {
                (k..to)
                    .map(|from| (before[from].0 + cost(from, to), from))
                    .min_by(|a, b| a.0.total_cmp(&b.0))
                    .unwrap_or((f64::INFINITY, 0))
            })
            .collect();
        best.push(row);
    }
    let enough = best.iter().position(|row| row[n].0 <= total * (1.0 - EXPLAINED)).unwrap_or(best.len() - 1);
    let (mut ranges, mut to) = (Vec::new(), n);
    for k in (0..=enough).rev() {
        let from = best[k][to].1;
        ranges.push((from, to));
        to = from;
    }
    ranges.reverse();
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_example_lan_country_and_ocean() {
        let rtts = [Some(150.0), Some(0.4), None, Some(21.0), Some(0.6), Some(19.0), Some(160.0), Some(f64::NAN)];
        let (of, clusters) = rtt_clusters(&rtts);
        assert_eq!(of, [Some(2), Some(0), None, Some(1), Some(0), Some(1), Some(2), None]);
        let said: Vec<_> = clusters.iter().map(|c| (c.name, c.peers, c.min_ms, c.median_ms, c.max_ms)).collect();
        assert_eq!(said, [('A', 2, 0.4, 0.5, 0.6), ('B', 2, 19.0, 20.0, 21.0), ('C', 2, 150.0, 155.0, 160.0)]);
    }

    #[test]
    fn jitter_is_one_cluster_and_nothing_is_none() {
        assert_eq!(rtt_clusters(&[Some(10.0), Some(14.0), Some(19.0)]).1.len(), 1);
        // On one machine 0.05 and 0.45 ms are the same.
        assert_eq!(rtt_clusters(&[Some(0.05), Some(0.45), Some(0.3)]).1.len(), 1);
        assert_eq!(rtt_clusters(&[None, None]), (vec![None, None], Vec::new()));
    }

    #[test]
    fn an_even_spread_has_at_most_five_clusters_that_cover_everybody_in_order() {
        let rtts: Vec<_> = (0..200).map(|n| Some(1.05_f64.powi(n))).collect();
        let (of, clusters) = rtt_clusters(&rtts);
        assert!((2..=MAX_CLUSTERS).contains(&clusters.len()), "{clusters:?}");
        assert_eq!(clusters.iter().map(|c| c.peers).sum::<u64>(), 200);
        assert!(of.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn two_far_apart_values_are_two_clusters() {
        assert_eq!(rtt_clusters(&[Some(100.0), Some(1.0)]).0, [Some(1), Some(0)]);
    }
}
