//! L2: the metrics database. It records what happened; nothing waits for it (invariant 3).
//!
//! SQLite in the data directory by default, PostgreSQL by URL; the same migrations, entities and queries on both.
//! A database that is missing, locked or full is tried again in the background; meanwhile records queue up to a bound,
//! then are counted and dropped. Counts are exact all the same: they are kept in memory and flushed by the minute.

mod batch;
mod connect;
mod content;
pub mod counters;
pub mod entity;
mod events;
mod hardware;
pub mod histogram;
pub mod inventory;
mod lab;
mod metrics;
pub mod observe;
pub mod queries;
mod retention;
mod rows;
mod sink;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sea_orm::DatabaseConnection;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::record::{RecordSink, RetrievalId};
use crate::supervisor::Supervisor;
use crate::telemetry::Metrics;

pub use lab::{LabReceipt, LabRun};

/// How long [`Database::open`] waits for the first attempt: a healthy SQLite needs milliseconds.
const FIRST_ATTEMPT: Duration = Duration::from_secs(3);
/// The longest that a read may take before a page says so instead.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The metrics database.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// `sqlite://FILE` or `postgres://USER@HOST/DATABASE`. Default: none, which is `metrics.sqlite` in the data
    /// directory. Change it to share one database among several servers.
    pub url: Option<String>,
    /// How long single retrievals, attempts, traces, snapshots and lab runs are kept. Default 7 days; 0 keeps them for ever.
    #[serde(with = "humantime_serde")]
    pub keep_rows: Duration,
    /// How long counts by the minute, peers, links and content are kept. Default 90 days; 0 keeps them for ever.
    #[serde(with = "humantime_serde")]
    pub keep_minutes: Duration,
    /// How long counts by the hour are kept. Default 2 years; 0 keeps them for ever.
    #[serde(with = "humantime_serde")]
    pub keep_hours: Duration,
    /// Retrievals that may wait for the database; further ones are counted and dropped. Default 8,192. More rides out
    /// longer outages for more memory (about 1 KiB each, traces apart); 0 is taken as 1.
    pub queue: usize,
    /// Connections for reading, which pages and the API share. Default 4; 0 is taken as 1.
    pub readers: u32,
    /// Retrievals a second above which cache hits are sampled (rows carry their weight). Default 500; 0 never samples.
    pub sample_above: u32,
}

impl Default for Config {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        Self {
            url: None,
            keep_rows: Duration::from_secs(7 * DAY),
            keep_minutes: Duration::from_secs(90 * DAY),
            keep_hours: Duration::from_secs(730 * DAY),
            queue: 8_192,
            readers: 4,
            sample_above: 500,
        }
    }
}

/// Whether the database can be used now.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum DbState {
    Up { since: SystemTime, backend: &'static str },
    Down { reason: String, since: SystemTime },
}

impl DbState {
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

/// Why a read gave nothing.
#[derive(Debug, Clone, Error)]
pub enum DbError {
    #[error("the metrics database is not available: {reason}")]
    Down { reason: String, since: SystemTime },
    #[error("the metrics database did not answer within {0:?}")]
    Timeout(Duration),
    #[error("the metrics database refused a query: {0}")]
    Query(#[from] sea_orm::DbErr),
}

/// The handle. Cheap to clone; clones share one database.
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
    sink: Arc<sink::Sink>,
    stop: CancellationToken,
    ended: watch::Receiver<bool>,
}

/// What the writer, the sink and the readers have in common.
pub(crate) struct Shared {
    pub config: Config,
    /// Names this run of the process in the minute table, so that two servers never write one row.
    pub process: i64,
    pub state: watch::Sender<DbState>,
    pub readers: Mutex<Option<DatabaseConnection>>,
    /// The writer's own connection, for the few writes that a caller waits for.
    pub direct: Mutex<Option<DatabaseConnection>>,
    pub counters: Mutex<counters::Counters>,
    pub content: Mutex<content::Content>,
    pub metrics: metrics::DbMetrics,
    /// Without a password.
    pub location: String,
    pub seen: Mutex<inventory::Seen>,
}

impl Database {
    /// Starts the writer, which connects and migrates. Never fails; returns when the first attempt has ended either
    /// way, at the latest after 3 s.
    pub async fn open(config: &Config, data_dir: &Path, metrics: &Metrics, supervisor: &Supervisor) -> Self {
        let starting = DbState::Down { reason: "starting".to_owned(), since: SystemTime::now() };
        let (state, mut changed) = watch::channel(starting);
        let shared = Arc::new(Shared {
            config: config.clone(),
            process: RetrievalId::next().0,
            state,
            readers: Mutex::new(None),
            direct: Mutex::new(None),
            counters: Mutex::default(),
            content: Mutex::default(),
            metrics: metrics::DbMetrics::register(metrics),
            location: connect::location(config, data_dir),
            seen: Mutex::default(),
        });
        // A batch that waits for the database is out of the channel: both together keep the bound.
        let capacity = config.queue.saturating_sub(writer::BATCH_RECORDS).max(1);
        let (records, queued) = mpsc::channel(capacity);
        let (notes, noted) = mpsc::channel(observe::QUEUE);
        let sink = Arc::new(sink::Sink::new(shared.clone(), records, notes));
        let stop = supervisor.token().child_token();
        let (end, ended) = watch::channel(false);
        let target = connect::Target::new(config, data_dir);
        let writer = writer::Writer::new(shared.clone(), sink.clone(), target, queued, noted, stop.clone());
        supervisor.spawn("db-writer", async move {
            writer.run().await;
            let _ = end.send(true);
        });
        let _ = tokio::time::timeout(FIRST_ATTEMPT, changed.changed()).await;
        Self { shared, sink, stop, ended }
    }

    pub fn state(&self) -> DbState {
        self.shared.state.borrow().clone()
    }

    /// Where finished retrievals go. `record` returns at once, whatever the database does.
    pub fn sink(&self) -> Arc<dyn RecordSink> {
        self.sink.clone()
    }

    /// Writes what is queued and the counts so far, then closes. Waits at most `grace`; what is left then is dropped
    /// and counted. Records that come later are dropped and counted too. Returns whether the writer ended in time.
    pub async fn close(&self, grace: Duration) -> bool {
        self.stop.cancel();
        let mut ended = self.ended.clone();
        tokio::time::timeout(grace, ended.wait_for(|ended| *ended)).await.is_ok()
    }

    /// A connection for reading, or why there is none.
    pub(crate) fn reader(&self) -> Result<DatabaseConnection, DbError> {
        let reader = self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        reader.ok_or_else(|| match self.state() {
            DbState::Down { reason, since } => DbError::Down { reason, since },
            DbState::Up { since, .. } => DbError::Down { reason: "reconnecting".to_owned(), since },
        })
    }

    /// Runs a write that its caller waits for, within [`READ_TIMEOUT`]; it takes turns with the batch writer. Nothing on
    /// a fetch's path may use it (invariant 3).
    pub(crate) async fn write<T, F>(&self, change: impl FnOnce(DatabaseConnection) -> F) -> Result<T, DbError>
    where
        F: Future<Output = Result<T, sea_orm::DbErr>>,
    {
        let direct = self.shared.direct.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let writer = direct.ok_or_else(|| match self.state() {
            DbState::Down { reason, since } => DbError::Down { reason, since },
            DbState::Up { since, .. } => DbError::Down { reason: "reconnecting".to_owned(), since },
        })?;
        match tokio::time::timeout(READ_TIMEOUT, change(writer)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(DbError::Timeout(READ_TIMEOUT)),
        }
    }

    /// Runs a read within [`READ_TIMEOUT`].
    pub(crate) async fn read<T, F>(&self, query: impl FnOnce(DatabaseConnection) -> F) -> Result<T, DbError>
    where
        F: Future<Output = Result<T, sea_orm::DbErr>>,
    {
        let reader = self.reader()?;
        match tokio::time::timeout(READ_TIMEOUT, query(reader)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(DbError::Timeout(READ_TIMEOUT)),
        }
    }
}
