//! What stands out over time (DATA.md §3, "advanced"): moments unlike the others, windows that differ, few that are
//! most of it, and the cache that a hit ratio needs. Pure functions over exact counts.

use serde::Serialize;

use crate::db::counters::{Tally, ratio};
use crate::stats;

/// Beyond so many robust standard deviations a moment stands out (Iglewicz and Hoaglin 1993).
const OUTLIER_Z: f64 = 3.5;
/// Moments with a figure under which none is called unusual.
const MIN_MOMENTS: usize = 30;
/// Cases of a moment under which its share or quantile says nothing.
const MIN_CASES: u64 = 20;
/// The most anomalies that are told, the greatest first.
const MAX_ANOMALIES: usize = 20;
/// A difference is told when it would come by chance more seldom than this; five figures are looked at.
const SIGNIFICANT: f64 = 0.01;
/// And when it matters: a share by two points, a time by a tenth.
const MIN_POINTS: f64 = 0.02;
const MIN_CHANGE: f64 = 0.10;

/// A figure that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Watched {
    Requests,
    TtfbP95Ms,
    FailedShare,
    HitShare,
    AttemptFailedShare,
    TransferBytesPerSecond,
}

impl Watched {
    const ALL: [Self; 6] = [
        Self::Requests,
        Self::TtfbP95Ms,
        Self::FailedShare,
        Self::HitShare,
        Self::AttemptFailedShare,
        Self::TransferBytesPerSecond,
    ];

    /// In words, with its unit.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::TtfbP95Ms => "time to first byte p95, ms",
            Self::FailedShare => "failed requests, share",
            Self::HitShare => "cache hits, share",
            Self::AttemptFailedShare => "failed attempts, share",
            Self::TransferBytesPerSecond => "transfer speed, bytes/s",
        }
    }

    fn of(self, tally: &Tally) -> Option<f64> {
        let (hits, asked) = hits(tally);
        let attempts = tally.attempts_delivered + tally.attempts_failed;
        match self {
            Self::Requests => Some(tally.requests as f64),
            Self::TtfbP95Ms => tally.ttfb.quantile_ms(0.95).filter(|_| tally.ttfb.count() >= MIN_CASES),
            Self::FailedShare => ratio(tally.failed(), tally.requests).filter(|_| tally.requests >= MIN_CASES),
            Self::HitShare => ratio(hits, asked).filter(|_| asked >= MIN_CASES),
            Self::AttemptFailedShare => ratio(tally.attempts_failed, attempts).filter(|_| attempts >= MIN_CASES),
            Self::TransferBytesPerSecond => super::rating::average_transfer_speed(tally),
        }
    }
}

/// A moment unlike the others of its window.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Anomaly {
    /// The start of the minute or hour, microseconds since the epoch.
    pub at_us: i64,
    pub figure: Watched,
    pub value: f64,
    /// The median of the other moments.
    pub usual: f64,
    /// Robust standard deviations from it; negative when lower.
    pub z: f64,
}

/// Moments unlike the others, the most unusual first. `None`: too few moments to say.
pub fn anomalies(buckets: &[(i64, Tally)]) -> Option<Vec<Anomaly>> {
    if buckets.len() < MIN_MOMENTS {
        return None;
    }
    let mut found = Vec::new();
    for figure in Watched::ALL {
        let measured: Vec<(i64, f64)> =
            buckets.iter().filter_map(|(at, tally)| Some((*at, figure.of(tally)?))).collect();
        if measured.len() < MIN_MOMENTS {
            continue;
        }
        let values: Vec<f64> = measured.iter().map(|(_, value)| *value).collect();
        let Some(usual) = stats::median(&values) else { continue };
        // The moment itself is among the others: of thirty or more it moves neither median.
        let unusual = measured.iter().filter_map(|(at_us, value)| {
            let z = stats::robust_z(*value, &values).filter(|z| z.abs() > OUTLIER_Z)?;
            Some(Anomaly { at_us: *at_us, figure, value: *value, usual, z })
        });
        found.extend(unusual);
    }
    found.sort_by(|a, b| b.z.abs().total_cmp(&a.z.abs()).then(a.at_us.cmp(&b.at_us)));
    found.truncate(MAX_ANOMALIES);
    Some(found)
}

/// A figure of two windows.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Change {
    pub figure: Watched,
    pub before: f64,
    pub after: f64,
    /// How often chance alone would show such a difference.
    pub p: f64,
    /// It would come by chance in fewer than 1 of 100, and it is large enough to matter.
    pub significant: bool,
    /// Significant, and for the worse.
    pub regression: bool,
}

/// What changed from one window to the next. Shares are compared by their cases, times and speeds by their moments.
/// A figure with too few cases on either side is left out.
pub fn changes(before: &[(i64, Tally)], after: &[(i64, Tally)]) -> Vec<Change> {
    let sum = |buckets: &[(i64, Tally)]| {
        let mut sum = Tally::default();
        buckets.iter().for_each(|(_, tally)| sum.merge(tally));
        sum
    };
    let (a, b) = (sum(before), sum(after));
    let shares = [
        (Watched::FailedShare, (a.failed(), a.requests), (b.failed(), b.requests), true),
        (Watched::HitShare, hits(&a), hits(&b), false),
        (
            Watched::AttemptFailedShare,
            (a.attempts_failed, a.attempts_delivered + a.attempts_failed),
            (b.attempts_failed, b.attempts_delivered + b.attempts_failed),
            true,
        ),
    ];
    let mut found: Vec<Change> = shares
        .into_iter()
        .filter_map(|(figure, before, after, worse_up)| share_change(figure, before, after, worse_up))
        .collect();
    for (figure, worse_up) in [(Watched::TtfbP95Ms, true), (Watched::TransferBytesPerSecond, false)] {
        let of = |buckets: &[(i64, Tally)]| -> Vec<f64> { buckets.iter().filter_map(|(_, t)| figure.of(t)).collect() };
        found.extend(moment_change(figure, &of(before), &of(after), worse_up));
    }
    found
}

fn share_change(figure: Watched, before: (u64, u64), after: (u64, u64), worse_up: bool) -> Option<Change> {
    if before.1 < MIN_CASES || after.1 < MIN_CASES {
        return None;
    }
    let (a, b) = (ratio(before.0, before.1)?, ratio(after.0, after.1)?);
    // All cases alike on both sides: nothing differs.
    let p = stats::shares_differ(before.0, before.1, after.0, after.1).unwrap_or(1.0);
    Some(change(figure, a, b, p, (a - b).abs() >= MIN_POINTS, worse_up))
}

fn moment_change(figure: Watched, before: &[f64], after: &[f64], worse_up: bool) -> Option<Change> {
    let p = stats::ranks_differ(before, after)?;
    let (a, b) = (stats::median(before)?, stats::median(after)?);
    Some(change(figure, a, b, p, (a - b).abs() >= MIN_CHANGE * a.abs(), worse_up))
}

fn change(figure: Watched, before: f64, after: f64, p: f64, matters: bool, worse_up: bool) -> Change {
    let significant = matters && p < SIGNIFICANT;
    Change { figure, before, after, p, significant, regression: significant && (after > before) == worse_up }
}

fn hits(tally: &Tally) -> (u64, u64) {
    let hits = tally.hits_memory + tally.hits_disk + tally.hits_store;
    (hits, hits + tally.partial + tally.misses)
}

/// One of the few that are most of it.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct HeavyHitter {
    pub name: String,
    pub amount: f64,
    pub share: f64,
    /// Of this and all greater ones.
    pub cumulative: f64,
}

/// The greatest, up to `most`, with their shares of all. Nothing of nothing.
pub fn heavy_hitters(items: impl IntoIterator<Item = (String, f64)>, most: usize) -> Vec<HeavyHitter> {
    let mut items: Vec<(String, f64)> =
        items.into_iter().filter(|(_, amount)| amount.is_finite() && *amount > 0.0).collect();
    items.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let total: f64 = items.iter().map(|(_, amount)| amount).sum();
    let mut sum = 0.0;
    let hitters = items.into_iter().take(most).map(|(name, amount)| {
        sum += amount;
        HeavyHitter { name, amount, share: amount / total, cumulative: sum / total }
    });
    hitters.collect()
}

/// The cache that a hit ratio needs, from a curve of (bytes, hit ratio) as a reuse-distance analysis gives it: linear
/// between its points. `None` when the curve never gets there: no size of cache would do.
pub fn cache_size_for(curve: &[(u64, f64)], hit_ratio: f64) -> Option<u64> {
    let mut curve: Vec<(u64, f64)> = curve.iter().copied().filter(|(_, ratio)| ratio.is_finite()).collect();
    curve.sort_by_key(|(bytes, _)| *bytes);
    let at = curve.iter().position(|(_, ratio)| *ratio >= hit_ratio)?;
    let (bytes, ratio) = *curve.get(at)?;
    let Some((less_bytes, less_ratio)) = at.checked_sub(1).and_then(|before| curve.get(before)).copied() else {
        return Some(bytes);
    };
    let share = if ratio > less_ratio { (hit_ratio - less_ratio) / (ratio - less_ratio) } else { 1.0 };
    Some(less_bytes + ((bytes - less_bytes) as f64 * share).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(n: i64, requests: impl Fn(i64) -> u64, failed: u64) -> Vec<(i64, Tally)> {
        let tally = |i| Tally { requests: requests(i), error: failed, ..Tally::default() };
        (0..n).map(|i| (i * 60_000_000, tally(i))).collect()
    }

    #[test]
    fn a_burst_stands_out_and_the_usual_ups_and_downs_do_not() {
        let mut series = minutes(60, |i| 100 + (i as u64 * 7) % 11, 0);
        assert_eq!(anomalies(&series), Some(Vec::new()));
        series[40].1.requests = 900;
        let found = anomalies(&series).unwrap();
        assert_eq!((found.len(), found[0].figure, found[0].at_us), (1, Watched::Requests, 40 * 60_000_000));
        assert!(found[0].z > 100.0 && found[0].value == 900.0 && (100.0..=110.0).contains(&found[0].usual));
    }

    #[test]
    fn under_thirty_moments_none_is_called_unusual() {
        assert_eq!(anomalies(&minutes(29, |_| 1, 0)), None);
    }

    #[test]
    fn more_failures_are_a_regression_fewer_an_improvement_and_chance_is_neither() {
        let (good, bad) = (minutes(10, |_| 100, 1), minutes(10, |_| 100, 8));
        let worse = changes(&good, &bad);
        let failed = worse.iter().find(|change| change.figure == Watched::FailedShare).unwrap();
        assert_eq!((failed.before, failed.after, failed.significant, failed.regression), (0.01, 0.08, true, true));
        let better = changes(&bad, &good);
        assert!(better[0].significant && !better[0].regression);
        let same = changes(&minutes(1, |_| 100, 1), &minutes(1, |_| 100, 4));
        assert!(!same[0].significant, "3 points of 100 come by chance: {same:?}");
        assert_eq!(changes(&minutes(1, |_| 19, 1), &good), []);
    }

    #[test]
    fn slower_minutes_are_a_regression() {
        let with = |ms: u64| -> Vec<(i64, Tally)> {
            (0..12)
                .map(|i| {
                    let mut tally = Tally::default();
                    (0..20).for_each(|j| tally.ttfb.record(std::time::Duration::from_millis(ms + i * 3 + j)));
                    (i as i64, tally)
                })
                .collect()
        };
        let found = changes(&with(100), &with(200));
        assert_eq!((found.len(), found[0].figure, found[0].regression), (1, Watched::TtfbP95Ms, true));
        assert!(changes(&with(100), &with(100)).iter().all(|change| !change.significant));
    }

    #[test]
    fn heavy_hitters_have_their_shares_of_all() {
        let items = [("a", 10.0), ("b", 60.0), ("c", 30.0), ("d", 0.0)].map(|(name, n)| (name.to_owned(), n));
        let top = heavy_hitters(items, 2);
        assert_eq!((top[0].name.as_str(), top[0].share, top[1].cumulative), ("b", 0.6, 0.9));
        assert_eq!(heavy_hitters([], 5), []);
    }

    #[test]
    fn the_cache_for_a_hit_ratio_lies_between_the_points_of_the_curve() {
        let curve = [(0, 0.0), (100, 0.4), (200, 0.6), (400, 0.6)];
        assert_eq!(cache_size_for(&curve, 0.5), Some(150));
        assert_eq!(cache_size_for(&curve, 0.6), Some(200));
        assert_eq!(cache_size_for(&curve, 0.61), None);
        assert_eq!(cache_size_for(&[], 0.1), None);
    }
}
