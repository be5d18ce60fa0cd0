//! How much the database holds: counted by the writer between its work, so that no page waits for a count.

use std::time::{Duration, Instant, SystemTime};

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement};
use serde::Serialize;

use super::{Database, DbState};

/// The least time between two counts.
const EVERY: Duration = Duration::from_secs(60);
/// A count may take this share of the writer's time at most: one that takes 1 s comes again after 200 s.
const SHARE: u32 = 200;
/// The tables that grow.
const TABLES: [&str; 9] = [
    "ipfs_acceleration_results",
    "retrieval_attempts",
    "retrieval_events",
    "p2p_network_metrics",
    "peers",
    "peer_links",
    "content_items",
    "webgpu_metrics",
    "rollups_minute",
];

/// What the database held at some moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inventory {
    pub at: SystemTime,
    /// Of the whole database, free pages included.
    pub bytes: Option<u64>,
    pub tables: Vec<TableRows>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableRows {
    pub table: &'static str,
    pub rows: u64,
    /// PostgreSQL's own estimate instead of a count.
    pub estimated: bool,
}

/// What the System page shows of the database.
#[derive(Debug, Clone, PartialEq)]
pub struct DbStatus {
    pub state: DbState,
    /// Where it is, without a password.
    pub location: String,
    pub inventory: Option<Inventory>,
    /// Retrievals that wait to be written, and how many may.
    pub queued: usize,
    pub queue_limit: usize,
    /// Since the start.
    pub written: u64,
    pub dropped: u64,
    pub sampled_out: u64,
    pub failures: u64,
    /// The latest failure to connect or to write, also when it is over.
    pub last_failure: Option<(SystemTime, String)>,
}

impl Database {
    /// From memory: answers at once, whatever the database does.
    pub fn status(&self) -> DbStatus {
        use super::metrics::{OVERFLOW, REFUSED, STOPPED};
        let metrics = &self.shared.metrics;
        let lock = |status: &std::sync::Mutex<_>| -> Seen {
            let seen: std::sync::MutexGuard<'_, Seen> =
                status.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            seen.clone()
        };
        let seen = lock(&self.shared.seen);
        DbStatus {
            state: self.state(),
            location: self.shared.location.clone(),
            inventory: seen.inventory,
            queued: self.sink.queued(),
            queue_limit: self.shared.config.queue.max(1),
            written: metrics.written.get(),
            dropped: [OVERFLOW, REFUSED, STOPPED].iter().map(|why| metrics.dropped.get_or_create(why).get()).sum(),
            sampled_out: metrics.sampled_out.get(),
            failures: metrics.failures.get(),
            last_failure: seen.last_failure,
        }
    }
}

/// What the writer leaves for pages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub inventory: Option<Inventory>,
    pub last_failure: Option<(SystemTime, String)>,
}

/// When to count again.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    next: Option<Instant>,
}

impl Turn {
    /// Counts when it is time. A failure is no failure of the writer: pages then show the count before.
    pub async fn take(&mut self, db: &DatabaseConnection) -> Option<Inventory> {
        let started = Instant::now();
        if self.next.is_some_and(|next| started < next) {
            return None;
        }
        let counted = count(db).await;
        self.next = Some(Instant::now() + EVERY.max(started.elapsed() * SHARE));
        counted.ok()
    }
}

async fn count(db: &DatabaseConnection) -> Result<Inventory, DbErr> {
    let backend = db.get_database_backend();
    let estimated = backend == DbBackend::Postgres;
    let mut tables = Vec::new();
    for table in TABLES {
        let sql = match backend {
            // Counting reads a whole table there, which the statistics of autovacuum save.
            DbBackend::Postgres => {
                format!("SELECT CAST(GREATEST(reltuples, 0) AS BIGINT) FROM pg_class WHERE oid = '{table}'::regclass")
            }
            _ => format!("SELECT COUNT(*) FROM {table}"),
        };
        let rows = number(db, sql).await?.unwrap_or_default();
        tables.push(TableRows { table, rows, estimated });
    }
    let bytes = match backend {
        DbBackend::Postgres => number(db, "SELECT pg_database_size(current_database())".to_owned()).await?,
        _ => {
            let sql = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
            number(db, sql.to_owned()).await?
        }
    };
    Ok(Inventory { at: SystemTime::now(), bytes, tables })
}

async fn number(db: &DatabaseConnection, sql: String) -> Result<Option<u64>, DbErr> {
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await?;
    let Some(row) = row else { return Ok(None) };
    Ok(u64::try_from(row.try_get_by_index::<i64>(0)?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Config;
    use crate::db::connect::Target;

    #[tokio::test]
    async fn rows_are_counted_and_not_again_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let db = Target::new(&Config::default(), dir.path()).connect().await.unwrap().writer;
        db.execute_unprepared(
            "INSERT INTO content_items (cid, requests_decayed, requests_total, last_request) VALUES ('x', 1, 1, 1)",
        )
        .await
        .unwrap();
        let mut turn = Turn::default();
        let inventory = turn.take(&db).await.unwrap();
        let rows = |table: &str| inventory.tables.iter().find(|t| t.table == table).unwrap().rows;
        assert_eq!((rows("content_items"), rows("peers")), (1, 0));
        assert!(inventory.bytes.unwrap() > 4_096);
        assert_eq!(turn.take(&db).await, None);
    }
}
