//! What is old goes, in small batches between writes; minutes are added up to hours first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{Expr, ExprTrait, Order, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbErr, EntityTrait, QueryFilter, QueryOrder, TransactionTrait,
};

use super::Config;
use super::counters::{HOUR, Tally};
use super::entity::{rollup_hour, rollup_minute};
use super::rows;

/// Rows deleted by one statement; a result takes its attempts and events along.
const ROWS_PER_STEP: u64 = 500;
/// How long to rest when nothing is old.
const REST: Duration = Duration::from_secs(300);

/// Deletes and adds up, one small step a call.
pub struct Retention {
    /// (table, key, time column, how long)
    rules: Vec<(&'static str, &'static str, &'static str, Duration)>,
    next: usize,
    rest_until: Option<Instant>,
}

impl Retention {
    pub fn new(config: &Config) -> Self {
        let (rows, minutes, hours) = (config.keep_rows, config.keep_minutes, config.keep_hours);
        let rules = [
            ("ipfs_acceleration_results", "id", "test_timestamp", rows),
            ("p2p_network_metrics", "id", "test_timestamp", rows),
            ("webgpu_metrics", "id", "test_timestamp", rows),
            ("rollups_minute", "id", "bucket_start", minutes),
            ("peers", "id", "last_seen", minutes),
            ("peer_links", "id", "last_seen", minutes),
            ("content_items", "id", "last_request", minutes),
            ("rollups_hour", "id", "bucket_start", hours),
        ];
        let rules = rules.into_iter().filter(|rule| !rule.3.is_zero()).collect();
        Self { rules, next: 0, rest_until: None }
    }

    /// One statement at most. Returns how many rows went.
    pub async fn step(&mut self, db: &DatabaseConnection, now: SystemTime) -> Result<u64, DbErr> {
        if self.rest_until.is_some_and(|until| Instant::now() < until) {
            return Ok(0);
        }
        if add_up_an_hour(db, now).await? {
            return Ok(0);
        }
        let Some((table, key, time, keep)) = self.rules.get(self.next).copied() else {
            self.next = 0;
            self.rest_until = Some(Instant::now() + REST);
            return Ok(0);
        };
        let before = now.checked_sub(keep).unwrap_or(SystemTime::UNIX_EPOCH);
        let deleted = delete_before(db, table, key, time, rows::micros(before)).await?;
        if deleted < ROWS_PER_STEP {
            self.next += 1;
        }
        Ok(deleted)
    }
}

async fn delete_before(
    db: &impl ConnectionTrait,
    table: &'static str,
    key: &'static str,
    time: &'static str,
    before_us: i64,
) -> Result<u64, DbErr> {
    let old = Query::select()
        .column(key)
        .from(table)
        .and_where(Expr::col(time).lt(before_us))
        .order_by(time, Order::Asc)
        .limit(ROWS_PER_STEP)
        .take();
    let delete = Query::delete().from_table(table).and_where(Expr::col(key).in_subquery(old)).take();
    Ok(db.execute(&delete).await?.rows_affected())
}

/// Adds the minutes of the oldest whole hour that is not added up yet. Whether there was one.
async fn add_up_an_hour(db: &DatabaseConnection, now: SystemTime) -> Result<bool, DbErr> {
    use rollup_minute::Column as Minute;
    let width = HOUR.as_micros() as i64;
    let this_hour = rows::micros(now).div_euclid(width) * width;
    let oldest = rollup_minute::Entity::find()
        .filter(Minute::Rolled.eq(false))
        .filter(Minute::BucketStart.lt(this_hour))
        .order_by_asc(Minute::BucketStart)
        .one(db)
        .await?;
    let Some(oldest) = oldest else { return Ok(false) };
    let start = oldest.bucket_start.div_euclid(width) * width;
    let txn = db.begin().await?;
    let minutes = rollup_minute::Entity::find()
        .filter(Minute::Rolled.eq(false))
        .filter(Minute::BucketStart.gte(start))
        .filter(Minute::BucketStart.lt(start + width))
        .all(&txn)
        .await?;
    let mut sums: BTreeMap<(&str, &str), Tally> = BTreeMap::new();
    for minute in &minutes {
        sums.entry((&minute.dimension, &minute.value)).or_default().merge(&Tally::from(minute));
    }
    // Minutes that came late, after an outage, join an hour that is there already.
    let there = rollup_hour::Entity::find().filter(rollup_hour::Column::BucketStart.eq(start)).all(&txn).await?;
    for hour in &there {
        if let Some(sum) = sums.get_mut(&(hour.dimension.as_str(), hour.value.as_str())) {
            sum.merge(&Tally::from(hour));
        }
    }
    let keys: Vec<_> = sums.keys().map(|(d, v)| ((*d).to_owned(), (*v).to_owned())).collect();
    for (dimension, value) in keys {
        use rollup_hour::Column as Hour;
        rollup_hour::Entity::delete_many()
            .filter(Hour::BucketStart.eq(start))
            .filter(Hour::Dimension.eq(dimension))
            .filter(Hour::Value.eq(value))
            .exec(&txn)
            .await?;
    }
    let rows = sums.into_iter().map(|((dimension, value), tally)| rollup_hour::ActiveModel {
        bucket_start: Set(start),
        bucket_width_s: Set(HOUR.as_secs() as i64),
        dimension: Set(dimension.to_owned()),
        value: Set(value.to_owned()),
        ..rollup_hour::ActiveModel::counts(&tally)
    });
    rollup_hour::Entity::insert_many(rows).exec_without_returning(&txn).await?;
    let ids = minutes.iter().map(|minute| minute.id).collect::<Vec<_>>();
    for chunk in ids.chunks(5_000) {
        rollup_minute::Entity::update_many()
            .col_expr(Minute::Rolled, Expr::value(true))
            .filter(Minute::Id.is_in(chunk.iter().copied()))
            .exec(&txn)
            .await?;
    }
    txn.commit().await?;
    Ok(true)
}
