//! The standard policy against the optimised one, on live traffic: like with like, or nothing. The statistics are `stats`'s.

use sea_orm::{
    ColumnTrait, DbBackend, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select,
    Statement,
};
use serde::Serialize;

use super::Window;
use crate::db::entity::acceleration_result as result;
use crate::db::{Database, DbError};
use crate::record::{CacheState, Origin, Outcome, Policy};
use crate::stats::{self, MIN_PAIRS, Pairing, Verdict};

/// The newest cold retrievals that are read of each policy.
const MAX_ROWS: u64 = 5_000;
/// Pairs of one size class that are used, the newest: bounds the work of the intervals.
const MAX_PAIRS: usize = 500;
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

#[derive(Debug, Clone, Copy, PartialEq, FromQueryResult)]
struct Cold {
    network_bytes: i64,
    providers_found: i64,
    transfer_time_ms: f64,
}

/// Labels of the strata, by their number.
const PROVIDERS: [&str; 4] = ["0-1", "2", "3-4", "5+"];

/// One size class with one number of providers found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stratum {
    /// Providers found: `0-1`, `2`, `3-4`, `5+`.
    pub providers: &'static str,
    #[serde(flatten)]
    pub comparison: Comparison,
}

impl Database {
    /// Like [`Database::comparison`], and each number of providers for itself, of the same rows. Strata without a row are
    /// left out.
    pub async fn comparison_and_strata(&self, window: Window) -> Result<(Vec<Comparison>, Vec<Stratum>), DbError> {
        let (standard, optimized) = self
            .read(|db| async move {
                let standard = cold(Policy::Standard, window).into_model::<Cold>().all(&db).await?;
                Ok((standard, cold(Policy::Optimized, window).into_model::<Cold>().all(&db).await?))
            })
            .await?;
        let classes = SizeClass::ALL.map(|class| compare(class, &standard, &optimized)).into();
        Ok((classes, strata(&standard, &optimized)))
    }

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

fn strata(standard: &[Cold], optimized: &[Cold]) -> Vec<Stratum> {
    let cells =
        SizeClass::ALL.into_iter().flat_map(|class| PROVIDERS.iter().enumerate().map(move |cell| (class, cell)));
    cells
        .filter_map(|(class, (stratum, providers))| {
            let of = |rows: &[Cold]| -> Vec<Cold> {
                rows.iter().filter(|row| stratum_of(row.providers_found) == stratum).copied().collect()
            };
            let comparison = compare(class, &of(standard), &of(optimized));
            let seen = comparison.n_standard + comparison.n_optimized > 0;
            seen.then_some(Stratum { providers, comparison })
        })
        .collect()
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
    let verdict = stats::compare(&left, &right, Pairing::Alike, stats::SEED);
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
    fn strata_keep_provider_counts_apart() {
        let both: Vec<Cold> = [rows(30, 1, 100.0), rows(30, 8, 10.0)].concat();
        let found = strata(&both, &rows(30, 1, 50.0));
        let told: Vec<_> =
            found.iter().map(|s| (s.providers, s.comparison.pairs, s.comparison.verdict.is_some())).collect();
        assert_eq!(told, [("0-1", 30, true), ("5+", 0, false)]);
    }

    #[test]
    fn pairs_of_a_class_are_judged() {
        let judged = compare(SizeClass::Small, &rows(101, 1, 100.0), &rows(101, 1, 25.0)).verdict.unwrap();
        assert_eq!((judged.standard.median, judged.optimized.median, judged.faster_by.median), (150.0, 75.0, 0.5));
    }
}
