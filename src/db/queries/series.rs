//! Exact counts over time: rows of the roll-up tables and what is in memory only, never counted twice.

use std::collections::{BTreeMap, HashSet};
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use sea_orm::{
    ColumnTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    Select, Statement,
};

use super::Window;
use crate::db::counters::{ALL, Dimension, HOUR, MINUTE, Tally};
use crate::db::entity::{rollup_hour, rollup_minute};
use crate::db::{Database, DbError};

/// Longer windows are read from the hour table (and the minutes that are not in it yet).
const BY_MINUTE: Duration = Duration::from_secs(48 * 3600);

/// Counts by the start of their bucket, in microseconds.
pub(super) type Series = BTreeMap<i64, Tally>;

impl Database {
    /// What happened in a window: exact, the open minute included. Buckets count whole when they start within.
    pub async fn tally(&self, window: Window) -> Result<Tally, DbError> {
        Ok(self.total(window, ALL).await?.0)
    }

    /// Like [`Database::tally`], for one value of a dimension: `("policy", "standard")`, `("origin", "live")`.
    pub async fn tally_of(&self, window: Window, dimension: Dimension) -> Result<Tally, DbError> {
        Ok(self.total(window, dimension).await?.0)
    }

    /// The buckets of a window with their start in microseconds, oldest first, for all requests: minutes up to 48 h,
    /// hours beyond. A bucket without a request is left out.
    pub async fn buckets(&self, window: Window) -> Result<Vec<(i64, Tally)>, DbError> {
        Ok(self.series(window, ALL).await?.into_iter().collect())
    }

    /// The sum of a window like [`Database::tally`], and the start of its first minute with a request. Whole hours are
    /// read from the hour table: a day is some 24 rows and the minutes at its ends, not 1,440.
    pub(super) async fn total(&self, window: Window, dimension: Dimension) -> Result<(Tally, Option<i64>), DbError> {
        let window = aligned(window);
        if is_long(window) {
            let series = self.series(window, dimension).await?;
            return Ok((sum(&series), series.keys().next().copied()));
        }
        // Memory first, as in `series`.
        let pending = self.pending(window, dimension);
        let process = self.shared.process;
        let (mut total, flushed, first) = self
            .read(|db| async move {
                let mut total = Tally::default();
                for hour in whole_hours(window, dimension).all(&db).await? {
                    total.merge(&Tally::from(&hour));
                }
                let mut flushed = HashSet::new();
                for minute in minutes_beside(window, dimension).all(&db).await? {
                    if minute.process == process {
                        flushed.insert(minute.bucket_start);
                    }
                    total.merge(&Tally::from(&minute));
                }
                let first: Option<(i64,)> = first_minute(window, dimension).into_tuple().one(&db).await?;
                Ok((total, flushed, first.map(|first| first.0)))
            })
            .await?;
        let mut first = first;
        for (start, tally) in pending.into_iter().filter(|(start, _)| !flushed.contains(start)) {
            total.merge(&tally);
            first = Some(first.map_or(start, |first| first.min(start)));
        }
        Ok((total, first))
    }

    /// Counts that are in memory; some of them may be in the database already.
    fn pending(&self, window: Window, dimension: Dimension) -> Vec<(i64, Tally)> {
        let counters = self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let within = |start: i64| (window.since_us..window.until_us).contains(&start);
        let of = |bucket: &crate::db::counters::Bucket| {
            bucket.tallies.get(&dimension).map(|tally| (bucket.start_us, tally.clone()))
        };
        counters.pending().filter(|bucket| within(bucket.start_us)).filter_map(of).collect()
    }

    pub(super) async fn series(&self, window: Window, dimension: Dimension) -> Result<Series, DbError> {
        let window = aligned(window);
        // Memory first: a minute that is flushed between is then seen in both, and left out of one.
        let pending = self.pending(window, dimension);
        let process = self.shared.process;
        let (mut series, flushed) =
            self.read(|db| async move { stored(&db, window, dimension, process).await }).await?;
        for (start, tally) in pending.into_iter().filter(|(start, _)| !flushed.contains(start)) {
            series.entry(start).or_default().merge(&tally);
        }
        Ok(series)
    }
}

pub(super) fn sum(series: &Series) -> Tally {
    let mut sum = Tally::default();
    series.values().for_each(|tally| sum.merge(tally));
    sum
}

/// The stored counts, and which buckets of this process are among them.
async fn stored(
    db: &DatabaseConnection,
    window: Window,
    dimension: Dimension,
    process: i64,
) -> Result<(Series, HashSet<i64>), DbErr> {
    let mut series = Series::new();
    let mut flushed = HashSet::new();
    let minutes = if is_long(window) {
        for hour in hours(window, dimension).all(db).await? {
            series.entry(hour.bucket_start).or_default().merge(&Tally::from(&hour));
        }
        late_minutes(window, dimension).all(db).await?
    } else {
        minutes(window, dimension).all(db).await?
    };
    for minute in minutes {
        if minute.process == process {
            flushed.insert(minute.bucket_start);
        }
        series.entry(minute.bucket_start).or_default().merge(&Tally::from(&minute));
    }
    Ok((series, flushed))
}

fn minutes(window: Window, (dimension, value): Dimension) -> Select<rollup_minute::Entity> {
    use rollup_minute::Column::{BucketStart, Dimension, Value};
    rollup_minute::Entity::find()
        .filter(BucketStart.gte(window.since_us))
        .filter(BucketStart.lt(window.until_us))
        .filter(Dimension.eq(dimension))
        .filter(Value.eq(value))
}

fn late_minutes(window: Window, dimension: Dimension) -> Select<rollup_minute::Entity> {
    minutes(window, dimension).filter(rollup_minute::Column::Rolled.eq(false))
}

fn hours(window: Window, (dimension, value): Dimension) -> Select<rollup_hour::Entity> {
    use rollup_hour::Column::{BucketStart, Dimension, Value};
    rollup_hour::Entity::find()
        .filter(BucketStart.gte(window.since_us))
        .filter(BucketStart.lt(window.until_us))
        .filter(Dimension.eq(dimension))
        .filter(Value.eq(value))
}

/// Where the first whole hour of a window starts.
fn first_hour(window: Window) -> i64 {
    let width = HOUR.as_micros() as i64;
    (window.since_us + width - 1).div_euclid(width) * width
}

/// Where the last whole hour of a window ends; before its start where the window holds none.
fn last_hour(window: Window) -> i64 {
    let width = HOUR.as_micros() as i64;
    window.until_us.div_euclid(width) * width
}

fn whole_hours(window: Window, dimension: Dimension) -> Select<rollup_hour::Entity> {
    hours(Window { since_us: first_hour(window), until_us: last_hour(window) }, dimension)
}

/// The minutes that no row of [`whole_hours`] holds: those before the first whole hour and after the last one, and those
/// not added up yet.
fn minutes_beside(window: Window, dimension: Dimension) -> Select<rollup_minute::Entity> {
    use rollup_minute::Column::{BucketStart, Rolled};
    use sea_orm::sea_query::ExprTrait as _;
    let beside = BucketStart.lt(first_hour(window)).or(BucketStart.gte(last_hour(window))).or(Rolled.eq(false));
    minutes(window, dimension).filter(beside)
}

fn first_minute(window: Window, dimension: Dimension) -> Select<rollup_minute::Entity> {
    use rollup_minute::Column::BucketStart;
    minutes(window, dimension).select_only().column(BucketStart).order_by_asc(BucketStart).limit(1)
}

fn is_long(window: Window) -> bool {
    window.seconds() > BY_MINUTE.as_secs_f64() + MINUTE.as_secs_f64()
}

/// Starts a window where a bucket starts, so that the first is whole.
fn aligned(window: Window) -> Window {
    let width = if is_long(window) { HOUR } else { MINUTE }.as_micros() as i64;
    Window { since_us: window.since_us.div_euclid(width) * width, until_us: window.until_us }
}

pub(super) fn statements(backend: DbBackend) -> Vec<(&'static str, Statement)> {
    let day = Window::last(Duration::from_secs(86_400), SystemTime::now());
    vec![
        ("counts by the minute", minutes(day, ALL).build(backend)),
        ("counts by the hour", hours(day, ALL).build(backend)),
        ("whole hours of a day", whole_hours(day, ALL).build(backend)),
        ("minutes beside whole hours", minutes_beside(day, ALL).build(backend)),
        ("first minute of a window", first_minute(day, ALL).build(backend)),
        ("minutes not in the hour table", late_minutes(day, ALL).build(backend)),
    ]
}
