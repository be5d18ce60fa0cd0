//! Requests and bytes by cache tier over time: exact counts, summed by the database.

use std::sync::PoisonError;
use std::time::Duration;

use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, DbBackend, EntityTrait, FromQueryResult, QueryFilter, QuerySelect, QueryTrait, Select, Statement,
};
use serde::Serialize;

use super::{ByTier, CacheHits, Window};
use crate::db::counters::{ALL, HOUR, MINUTE, Tally};
use crate::db::entity::{rollup_hour, rollup_minute};
use crate::db::{Database, DbError};

/// Windows longer than this are read from the hour table, and the minutes that are not in it yet.
const BY_MINUTE: Duration = Duration::from_secs(48 * 3600);
/// The columns of [`Sums`], as both roll-up tables name them.
const COUNTS: [&str; 12] = [
    "hits_memory",
    "hits_disk",
    "hits_store",
    "partial",
    "misses",
    "bytes_memory",
    "bytes_disk",
    "bytes_store",
    "bytes_partial",
    "bytes_miss",
    "requests",
    "bytes_network",
];

/// One bucket; those without a request are there too, so that a chart has its gaps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CachePoint {
    pub start_us: i64,
    /// All requests, those that needed no block too.
    pub requests: u64,
    pub bytes_fetched: u64,
    #[serde(flatten)]
    pub hits: CacheHits,
}

#[derive(Debug, Clone, Copy, Default, FromQueryResult)]
struct Sums {
    bucket: i64,
    hits_memory: i64,
    hits_disk: i64,
    hits_store: i64,
    partial: i64,
    misses: i64,
    bytes_memory: i64,
    bytes_disk: i64,
    bytes_store: i64,
    bytes_partial: i64,
    bytes_miss: i64,
    requests: i64,
    bytes_network: i64,
}

impl Database {
    /// Cache hits of a window in buckets of `step`, the oldest first, the open minute included. `step` is whole minutes;
    /// for windows over 48 hours whole hours.
    pub async fn cache_series(&self, window: Window, step: Duration) -> Result<Vec<CachePoint>, DbError> {
        let base = if is_long(window) { HOUR } else { MINUTE }.as_micros() as i64;
        let step = (step.as_micros() as i64).max(base) / base * base;
        let window = Window { since_us: window.since_us.div_euclid(step) * step, until_us: window.until_us };
        // Memory first; rows of the same minutes are then left out, so that a minute flushed between counts once.
        let pending: Vec<(i64, Tally)> = {
            let counters = self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner);
            let within = |start: i64| (window.since_us..window.until_us).contains(&start);
            let of = |bucket: &crate::db::counters::Bucket| {
                bucket.tallies.get(&ALL).map(|tally| (bucket.start_us, tally.clone()))
            };
            counters.pending().filter(|bucket| within(bucket.start_us)).filter_map(of).collect()
        };
        let own: Vec<i64> = pending.iter().map(|(start, _)| *start).collect();
        let process = self.shared.process;
        let rows = self
            .read(|db| async move {
                let mut rows = minutes(window, step, process, own).into_model::<Sums>().all(&db).await?;
                if is_long(window) {
                    rows.extend(hours(window, step).into_model::<Sums>().all(&db).await?);
                }
                Ok(rows)
            })
            .await?;
        let first = window.since_us / step;
        let last = (window.until_us - 1).max(window.since_us) / step;
        let mut sums: Vec<Tally> = (first..=last).map(|_| Tally::default()).collect();
        let mut add = |bucket: i64, tally: &Tally| {
            if let Some(sum) = usize::try_from(bucket - first).ok().and_then(|at| sums.get_mut(at)) {
                sum.merge(tally);
            }
        };
        rows.iter().for_each(|row| add(row.bucket, &row.tally()));
        pending.iter().for_each(|(start, tally)| add(start / step, tally));
        let point = |(bucket, tally): (i64, &Tally)| CachePoint {
            start_us: bucket * step,
            requests: tally.requests,
            bytes_fetched: tally.bytes_network,
            hits: CacheHits::of(tally),
        };
        Ok((first..=last).zip(&sums).map(point).collect())
    }
}

impl CacheHits {
    /// The sum over buckets.
    pub fn total<'a>(points: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sum = Tally::default();
        for point in points {
            let (n, b) = (point.requests, point.bytes);
            sum.hits_memory += n.memory;
            sum.hits_disk += n.disk;
            sum.hits_store += n.store;
            sum.partial += n.partial;
            sum.misses += n.miss;
            sum.bytes_memory += b.memory;
            sum.bytes_disk += b.disk;
            sum.bytes_store += b.store;
            sum.bytes_partial += b.partial;
            sum.bytes_miss += b.miss;
        }
        Self::of(&sum)
    }
}

impl ByTier {
    pub fn total(&self) -> u64 {
        self.memory + self.disk + self.store + self.partial + self.miss
    }
}

impl Sums {
    fn tally(&self) -> Tally {
        let n = |value: i64| u64::try_from(value).unwrap_or_default();
        Tally {
            requests: n(self.requests),
            hits_memory: n(self.hits_memory),
            hits_disk: n(self.hits_disk),
            hits_store: n(self.hits_store),
            partial: n(self.partial),
            misses: n(self.misses),
            bytes_memory: n(self.bytes_memory),
            bytes_disk: n(self.bytes_disk),
            bytes_store: n(self.bytes_store),
            bytes_partial: n(self.bytes_partial),
            bytes_miss: n(self.bytes_miss),
            bytes_network: n(self.bytes_network),
            ..Tally::default()
        }
    }
}

/// Adds the sums by bucket to a query over one of the roll-up tables.
fn summed<E: EntityTrait>(query: Select<E>, step: i64) -> Select<E> {
    // Both engines divide integers to an integer; the constant is ours. SUM of BIGINT is NUMERIC on PostgreSQL.
    let bucket = || Expr::cust(format!("bucket_start / {step}"));
    let mut query = query.select_only().column_as(bucket(), "bucket").group_by(bucket());
    for name in COUNTS {
        query = query.column_as(Expr::cust(format!("CAST(SUM({name}) AS BIGINT)")), name);
    }
    query
}

fn minutes(window: Window, step: i64, process: i64, own: Vec<i64>) -> Select<rollup_minute::Entity> {
    use rollup_minute::Column::{BucketStart, Dimension, Process, Rolled, Value};
    use sea_orm::sea_query::ExprTrait as _;
    let query = rollup_minute::Entity::find()
        .filter(BucketStart.gte(window.since_us))
        .filter(BucketStart.lt(window.until_us))
        .filter(Dimension.eq(ALL.0))
        .filter(Value.eq(ALL.1));
    let query = if is_long(window) { query.filter(Rolled.eq(false)) } else { query };
    let query = if own.is_empty() { query } else { query.filter(Process.ne(process).or(BucketStart.is_not_in(own))) };
    summed(query, step)
}

fn hours(window: Window, step: i64) -> Select<rollup_hour::Entity> {
    use rollup_hour::Column::{BucketStart, Dimension, Value};
    let query = rollup_hour::Entity::find()
        .filter(BucketStart.gte(window.since_us))
        .filter(BucketStart.lt(window.until_us))
        .filter(Dimension.eq(ALL.0))
        .filter(Value.eq(ALL.1));
    summed(query, step)
}

fn is_long(window: Window) -> bool {
    window.seconds() > BY_MINUTE.as_secs_f64() + HOUR.as_secs_f64()
}

pub(super) fn statements(backend: DbBackend) -> Vec<(&'static str, Statement)> {
    let day = Window { since_us: 1, until_us: 86_400_000_000 };
    let month = Window { since_us: 1, until_us: 30 * 86_400_000_000 };
    vec![
        ("cache hits by the minute", minutes(day, 900_000_000, 7, vec![1, 2]).build(backend)),
        ("cache hits not in the hour table", minutes(month, 7_200_000_000, 7, vec![]).build(backend)),
        ("cache hits by the hour", hours(month, 7_200_000_000).build(backend)),
    ]
}
