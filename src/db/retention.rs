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

/// Rows of a run (a bench, an import, a submission) are its results, not traffic: they stay as long as the run does.
fn of_no_run(table: &str) -> Option<sea_orm::sea_query::SimpleExpr> {
    matches!(table, "ipfs_acceleration_results" | "webgpu_metrics").then(|| Expr::col("test_id").is_null())
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
        .and_where_option(of_no_run(table))
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

#[cfg(test)]
mod tests {
    use sea_orm::PaginatorTrait;

    use super::*;
    use crate::db::batch::Batch;
    use crate::db::connect::Target;
    use crate::db::content::Content;
    use crate::db::counters::Counters;
    use crate::db::entity::{acceleration_result, retrieval_event};
    use crate::db::rows::tests::record;
    use crate::db::sink::Queued;
    use crate::record::{EventKind, RetrievalEvent, RetrievalRecord};

    /// 03:20 into some hour-aligned time.
    const START: u64 = 1_700_006_400 + 3 * 3_600 + 20 * 60;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(START + seconds)
    }

    fn finished(id: i64, seconds: u64) -> RetrievalRecord {
        let mut record = record(id);
        record.finished_at = at(seconds);
        let event =
            |kind| RetrievalEvent { at: Duration::ZERO, kind, peer: None, cid: None, value: None, detail: None };
        record.session.events = vec![event(EventKind::Started), event(EventKind::Finished)];
        record
    }

    async fn write(db: &DatabaseConnection, records: &[RetrievalRecord], process: i64) {
        let mut counters = Counters::default();
        records.iter().for_each(|record| counters.add(record.finished_at, record));
        counters.close();
        let buckets: Vec<_> = counters.closed().cloned().collect();
        let queued: Vec<_> =
            records.iter().map(|record| Queued { record: record.clone(), weight: 1, parts: 0 }).collect();
        let content = Content::default();
        let batch =
            Batch { records: &queued, notes: &[], buckets: &buckets, content: &content, hardware_id: None, process };
        batch.write(db).await.unwrap();
        // A commit whose answer was lost is tried again, and changes nothing.
        batch.write(db).await.unwrap();
    }

    async fn run(db: &DatabaseConnection, config: &Config, now: SystemTime) -> u64 {
        let mut retention = Retention::new(config);
        let mut deleted = 0;
        while retention.rest_until.is_none() {
            deleted += retention.step(db, now).await.unwrap();
        }
        deleted
    }

    #[tokio::test]
    async fn minutes_add_up_to_hours_late_ones_too_and_old_rows_go_with_their_parts() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::default();
        let db = Target::new(&config, dir.path()).connect().await.unwrap().writer;
        // Three in the first hour in two minutes, one in the next.
        let records = [finished(1, 0), finished(2, 30), finished(3, 600), finished(4, 3_600)];
        write(&db, &records, 1).await;
        assert_eq!(run(&db, &config, at(3_700)).await, 0);
        let hours = rollup_hour::Entity::find()
            .filter(rollup_hour::Column::Dimension.eq("all"))
            .order_by_asc(rollup_hour::Column::BucketStart);
        let sums = |rows: Vec<rollup_hour::Model>| rows.iter().map(|row| row.requests).collect::<Vec<_>>();
        assert_eq!(sums(hours.clone().all(&db).await.unwrap()), [3], "the hour that is not over is not added up");

        // Another server's minute of the first hour comes late.
        write(&db, &[finished(5, 60)], 2).await;
        run(&db, &config, at(8_000)).await;
        let rows = hours.all(&db).await.unwrap();
        let first = Tally::from(&rows[0]);
        assert_eq!((first.requests, first.bytes_served, first.load.count()), (4, 4_000, 4));
        assert_eq!(sums(rows), [4, 1]);

        // Seven days after the first three: they go, the later stay.
        let week = config.keep_rows.as_secs();
        assert_eq!(run(&db, &config, at(week + 700)).await, 4);
        assert_eq!(acceleration_result::Entity::find().count(&db).await.unwrap(), 1);
        assert_eq!(retrieval_event::Entity::find().count(&db).await.unwrap(), 2);
        // Kept for ever.
        let ever =
            Config { keep_rows: Duration::ZERO, keep_minutes: Duration::ZERO, keep_hours: Duration::ZERO, ..config };
        assert_eq!(run(&db, &ever, at(100 * week)).await, 0);
    }
}
