//! A database that is only read: for a report without a server. Nothing in the data directory is made or changed.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Config, Database, DbState, Shared, connect, metrics, sink};
use crate::record::RetrievalId;
use crate::telemetry::Metrics;

/// Why a database could not be opened for reading.
#[derive(Debug, Error)]
#[error("the metrics database cannot be read: {0}")]
pub struct OpenError(#[from] connect::ConnectError);

impl Database {
    /// Opens for reading what a server has written. Where there is no database yet, it is as if it were empty.
    ///
    /// # Errors
    /// When there is one that cannot be opened: not a database, no permission, a server that does not answer.
    pub async fn open_read_only(config: &Config, data_dir: &Path) -> Result<Self, OpenError> {
        let readers = connect::Target::new(config, data_dir).connect_read_only().await?;
        let backend = connect::backend_name(&readers);
        let (state, _) = watch::channel(DbState::Up { since: SystemTime::now(), backend });
        let shared = Arc::new(Shared {
            config: config.clone(),
            location: connect::location(config, data_dir),
            seen: Mutex::default(),
            process: RetrievalId::next().0,
            state,
            readers: Mutex::new(Some(readers)),
            direct: Mutex::new(None),
            counters: Mutex::default(),
            content: Mutex::default(),
            metrics: metrics::DbMetrics::register(&Metrics::new()),
        });
        // Nobody takes from these: a record handed over is counted and dropped.
        let (records, _) = mpsc::channel(1);
        let (notes, _) = mpsc::channel(1);
        let sink = Arc::new(sink::Sink::new(shared.clone(), records, notes));
        let (_, ended) = watch::channel(true);
        Ok(Self { shared, sink, stop: CancellationToken::new(), ended })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::db::queries::Window;

    #[tokio::test]
    async fn no_database_reads_as_an_empty_one_and_none_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open_read_only(&Config::default(), dir.path()).await.unwrap();
        let tally = db.tally(Window::last(Duration::from_secs(60), SystemTime::now())).await.unwrap();
        assert_eq!(tally.requests, 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_no_database_is_an_error_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("metrics.sqlite"),
            "not a database, but long enough to have a header".repeat(40),
        )
        .unwrap();
        let error = Database::open_read_only(&Config::default(), dir.path()).await.err().unwrap();
        assert!(error.to_string().contains("not a database"), "{error}");
    }
}
