//! The standard policy against the optimised one, on live traffic: like with like, or nothing.

use sea_orm::{
    ColumnTrait, DbBackend, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select,
    Statement,
};
use serde::Serialize;

use super::Window;
use crate::db::entity::acceleration_result as result;
use crate::db::{Database, DbError};
use crate::record::{CacheState, Origin, Outcome, Policy};

/// Pairs of a size class under which nothing is said.
pub const MIN_PAIRS: usize = 20;
/// The newest cold retrievals that are read of each policy.
const MAX_ROWS: u64 = 5_000;
/// Pairs of one size class that are used, the newest: bounds the work of the intervals.
const MAX_PAIRS: usize = 500;
/// Resamples of the bootstrap.
const RESAMPLES: usize = 400;
/// The interval holds so much of the resampled medians.
const CONFIDENCE: f64 = 0.95;
/// The same rows give the same interval.
const SEED: u64 = 0x7469_6465_6761_7465;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SizeClass {
    /// Under 1 MB of payload from the network.
    Small,
    /// 1 to 10 MB.
    Medium,
    /// Over 10 MB.
    Large,
}

impl SizeClass {
    pub const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    pub fn of(bytes: i64) -> Self {
        match bytes {
            ..1_000_000 => Self::Small,
            1_000_000..=10_000_000 => Self::Medium,
            _ => Self::Large,
        }
    }
}

/// One size class. Cold, complete, live retrievals only.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub class: SizeClass,
    /// Rows of the window, before pairing.
    pub n_standard: usize,
    pub n_optimized: usize,
    /// Pairs of the same size class and number of providers found.
    pub pairs: usize,
    /// `None`: not enough data, under [`MIN_PAIRS`].
    pub verdict: Option<Verdict>,
}

/// Medians of the transfer time over the pairs, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Verdict {
    pub standard: Interval,
    pub optimized: Interval,
    pub standard_p95_ms: f64,
    pub optimized_p95_ms: f64,
    /// 1 - optimised / standard: 0.5 is half the time; negative when the optimised policy is slower.
    pub faster_by: Interval,
}

/// A median with the bounds of its 95 % bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, FromQueryResult)]
struct Cold {
    network_bytes: i64,
    providers_found: i64,
    transfer_time_ms: f64,
}

impl Database {
    /// Standard against optimised by size class, over a window.
    pub async fn comparison(&self, window: Window) -> Result<Vec<Comparison>, DbError> {
        let (standard, optimized) = self
            .read(|db| async move {
                let standard = cold(Policy::Standard, window).into_model::<Cold>().all(&db).await?;
                let optimized = match standard.is_empty() {
                    // Nothing to compare with: how many there are is all that is told.
                    true => cold(Policy::Optimized, window).limit(MIN_PAIRS as u64).into_model().all(&db).await?,
                    false => cold(Policy::Optimized, window).into_model().all(&db).await?,
                };
                Ok((standard, optimized))
            })
            .await?;
        Ok(SizeClass::ALL.map(|class| compare(class, &standard, &optimized)).into())
    }
}

fn cold(policy: Policy, window: Window) -> Select<result::Entity> {
    use result::Column;
    result::Entity::find()
        .select_only()
        .columns([Column::NetworkBytes, Column::ProvidersFound, Column::TransferTimeMs])
        .filter(Column::Origin.eq(Origin::Live.as_str()))
        .filter(Column::Policy.eq(policy.as_str()))
        .filter(Column::TransferTimeMs.is_not_null())
        .filter(Column::TestTimestamp.gte(window.since_us))
        .filter(Column::TestTimestamp.lt(window.until_us))
        .filter(Column::Outcome.eq(Outcome::Complete.as_str()))
        .filter(Column::CacheState.eq(CacheState::Miss.as_str()))
        .order_by_desc(Column::TestTimestamp)
        .limit(MAX_ROWS)
}

fn compare(class: SizeClass, standard: &[Cold], optimized: &[Cold]) -> Comparison {
    let of_class = |rows: &[Cold]| -> Vec<Cold> {
        rows.iter().filter(|row| SizeClass::of(row.network_bytes) == class).copied().collect()
    };
    let (standard, optimized) = (of_class(standard), of_class(optimized));
    let (mut left, mut right) = (Vec::new(), Vec::new());
    // By providers found, not by peers that delivered: how many are used is what the policies differ in.
    for stratum in 0..4 {
        let times = |rows: &[Cold]| -> Vec<f64> {
            let of_stratum = rows.iter().filter(|row| stratum_of(row.providers_found) == stratum);
            of_stratum.map(|row| row.transfer_time_ms).collect()
        };
        let (a, b) = (times(&standard), times(&optimized));
        let n = a.len().min(b.len()).min(MAX_PAIRS - left.len());
        left.extend_from_slice(&a[..n]);
        right.extend_from_slice(&b[..n]);
    }
    let verdict = (left.len() >= MIN_PAIRS).then(|| judge(&left, &right));
    Comparison { class, n_standard: standard.len(), n_optimized: optimized.len(), pairs: left.len(), verdict }
}

/// 1, 2, 3 or 4, and more providers; 0 found means that they were connected already, and is with 1.
fn stratum_of(providers: i64) -> usize {
    match providers {
        ..=1 => 0,
        2 => 1,
        3..=4 => 2,
        _ => 3,
    }
}

/// Percentile bootstrap (Efron 1979), both sides resampled together.
fn judge(standard: &[f64], optimized: &[f64]) -> Verdict {
    let mut random = SplitMix(SEED);
    let mut resampled: [Vec<f64>; 3] = Default::default();
    let n = standard.len();
    let mut scratch = vec![0.0; n];
    for _ in 0..RESAMPLES {
        let mut median_of = |rows: &[f64]| {
            scratch.iter_mut().for_each(|slot| *slot = rows[random.below(n)]);
            quantile(&mut scratch, 0.5)
        };
        let (a, b) = (median_of(standard), median_of(optimized));
        resampled[0].push(a);
        resampled[1].push(b);
        resampled[2].push(1.0 - b / a);
    }
    let [mut a, mut b, mut ratio] = resampled;
    let exact = |rows: &[f64], q| quantile(&mut rows.to_vec(), q);
    let (median_a, median_b) = (exact(standard, 0.5), exact(optimized, 0.5));
    Verdict {
        standard: interval(median_a, &mut a),
        optimized: interval(median_b, &mut b),
        standard_p95_ms: exact(standard, 0.95),
        optimized_p95_ms: exact(optimized, 0.95),
        faster_by: interval(1.0 - median_b / median_a, &mut ratio),
    }
}

fn interval(median: f64, resampled: &mut [f64]) -> Interval {
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Interval { median, low: quantile(resampled, tail), high: quantile(resampled, 1.0 - tail) }
}

/// Linear between the closest ranks. `values` is not empty; it is reordered in place.
fn quantile(values: &mut [f64], q: f64) -> f64 {
    let position = q * (values.len() - 1) as f64;
    let below = position.floor() as usize;
    // A selection, not a sort: the intervals ask for some thousand medians a page.
    let (_, low, rest) = values.select_nth_unstable_by(below, f64::total_cmp);
    let low = *low;
    match rest.iter().copied().min_by(f64::total_cmp) {
        Some(high) => low + (high - low) * position.fract(),
        None => low,
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * n as u128) >> 64) as usize
    }
}

pub(super) fn statements(backend: DbBackend) -> Vec<(&'static str, Statement)> {
    vec![("cold transfers of a policy", cold(Policy::Standard, Window { since_us: 1, until_us: 2 }).build(backend))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, providers_found: i64, from_ms: f64) -> Vec<Cold> {
        let row = |i| Cold { network_bytes: 5_000, providers_found, transfer_time_ms: from_ms + i as f64 };
        (0..n).map(row).collect()
    }

    #[test]
    fn under_twenty_pairs_nothing_is_said() {
        let comparison = compare(SizeClass::Small, &rows(19, 1, 100.0), &rows(500, 1, 50.0));
        assert_eq!((comparison.pairs, comparison.verdict), (19, None));
    }

    #[test]
    fn rows_of_other_provider_counts_are_no_pairs() {
        let comparison = compare(SizeClass::Small, &rows(50, 1, 100.0), &rows(50, 8, 50.0));
        assert_eq!((comparison.n_standard, comparison.n_optimized, comparison.pairs), (50, 50, 0));
    }

    #[test]
    fn medians_lie_within_their_intervals_and_the_same_rows_give_the_same_answer() {
        let judged = compare(SizeClass::Small, &rows(101, 1, 100.0), &rows(101, 1, 25.0)).verdict.unwrap();
        assert_eq!((judged.standard.median, judged.optimized.median), (150.0, 75.0));
        assert_eq!(judged.faster_by.median, 0.5);
        for interval in [judged.standard, judged.optimized, judged.faster_by] {
            assert!(interval.low < interval.median && interval.median < interval.high, "{interval:?}");
        }
        let again = compare(SizeClass::Small, &rows(101, 1, 100.0), &rows(101, 1, 25.0)).verdict;
        assert_eq!(again, Some(judged));
    }

    #[test]
    fn quantiles_are_linear_between_ranks() {
        assert_eq!(quantile(&mut [4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(quantile(&mut [7.0], 0.95), 7.0);
    }
}
