//! How a connection is made: pragmas, migrations, this machine's row.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, DatabaseConnection, DbBackend, DbErr};
use thiserror::Error;
use tidegate_migrations::{Migrator, MigratorTrait};

use super::{Config, hardware, rows};

/// The file in the data directory when no URL is configured.
const FILE: &str = "metrics.sqlite";
/// How long SQLite waits for another's lock. Within it a short lock goes unnoticed.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take to make or to get from a pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the whole of connecting and migrating may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// Rows that SQLite's thread hands over at a time: with sqlx's 50, a page that reads thousands of rows spends a quarter of
/// its time in switches between two threads.
const ROW_BUFFER: usize = 1_000;
/// The longest that PostgreSQL may work on one page's query.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the database is.
pub struct Target {
    url: Option<String>,
    file: PathBuf,
    readers: u32,
}

/// A database that can be used.
pub struct Connected {
    /// One connection on SQLite: there is one writer at a time anyway.
    pub writer: DatabaseConnection,
    pub readers: DatabaseConnection,
    pub hardware_id: Option<i64>,
}

#[derive(Debug, Error)]
pub enum ConnectError {
    #[error("folder {path} cannot be made: {error}")]
    Folder { path: PathBuf, error: std::io::Error },
    #[error("{0}")]
    Database(#[from] DbErr),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("{0} is neither sqlite nor postgres, or lives in memory only")]
    Scheme(String),
}

impl Target {
    pub fn new(config: &Config, data_dir: &Path) -> Self {
        Self { url: config.url.clone(), file: data_dir.join(FILE), readers: config.readers.max(1) }
    }

    pub async fn connect(&self) -> Result<Connected, ConnectError> {
        let connecting = async {
            let (writer, readers) = self.pools().await?;
            Migrator::up(&writer, None).await?;
            let hardware_id = hardware::register(&writer, rows::micros(SystemTime::now())).await?;
            Ok(Connected { writer, readers, hardware_id })
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or(Err(ConnectError::Timeout(CONNECT_TIMEOUT)))
    }

    /// For reading only: makes and migrates nothing. Where no file is, an empty database in memory stands for it.
    pub async fn connect_read_only(&self) -> Result<DatabaseConnection, ConnectError> {
        let connecting = async {
            match self.url.as_deref() {
                Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                    let mut options = pool(url, self.readers);
                    options.set_application_name("tidegate-report").statement_timeout(STATEMENT_TIMEOUT);
                    options
                        .map_sqlx_postgres_opts(|options| options.options([("default_transaction_read_only", "on")]));
                    Ok(sea_orm::Database::connect(options).await?)
                }
                Some(url) if url.starts_with("sqlite:") && !url.contains("memory") => {
                    let path = url.trim_start_matches("sqlite:").trim_start_matches("//");
                    let path = Path::new(path.split('?').next().unwrap_or_default());
                    if path.exists() { read_file(path).await } else { empty().await }
                }
                Some(url) => Err(ConnectError::Scheme(url.split(':').next().unwrap_or_default().to_owned())),
                None if self.file.exists() => read_file(&self.file).await,
                None => empty().await,
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or(Err(ConnectError::Timeout(CONNECT_TIMEOUT)))
    }

    async fn pools(&self) -> Result<(DatabaseConnection, DatabaseConnection), ConnectError> {
        match self.url.as_deref() {
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                let mut options = pool(url, 1);
                options.set_application_name("tidegate");
                let writer = sea_orm::Database::connect(options.clone()).await?;
                options.max_connections(self.readers).statement_timeout(STATEMENT_TIMEOUT);
                Ok((writer, sea_orm::Database::connect(options).await?))
            }
            Some(url) if url.starts_with("sqlite:") && !url.contains("memory") => sqlite(url, None, self.readers).await,
            // The scheme only: the rest may hold a password.
            Some(url) => Err(ConnectError::Scheme(url.split(':').next().unwrap_or_default().to_owned())),
            None => {
                if let Some(folder) = self.file.parent() {
                    let made = tokio::fs::create_dir_all(folder).await;
                    made.map_err(|error| ConnectError::Folder { path: folder.to_owned(), error })?;
                }
                // The path is given apart, so that no character of it has to be escaped.
                sqlite("sqlite:metrics", Some(self.file.clone()), self.readers).await
            }
        }
    }
}

/// Where the database is, for people: passwords are taken out.
pub fn location(config: &Config, data_dir: &Path) -> String {
    match config.url.as_deref() {
        None => data_dir.join(FILE).display().to_string(),
        Some(text) => match url::Url::parse(text) {
            Ok(mut url) => {
                if url.password().is_some() {
                    // A URL that has a password can have another; should it not, it is not shown.
                    if url.set_password(Some("redacted")).is_err() {
                        return url.scheme().to_owned();
                    }
                }
                url.to_string()
            }
            Err(_) => text.split(':').next().unwrap_or_default().to_owned(),
        },
    }
}

async fn sqlite(
    url: &str,
    file: Option<PathBuf>,
    readers: u32,
) -> Result<(DatabaseConnection, DatabaseConnection), ConnectError> {
    let mut writer = pool(url, 1);
    let path = file.clone();
    writer.map_sqlx_sqlite_opts(move |options| pragmas(options, path.as_deref()));
    let writer = sea_orm::Database::connect(writer).await?;
    let mut reader = pool(url, readers);
    reader.map_sqlx_sqlite_opts(move |options| pragmas(options, file.as_deref()).pragma("query_only", "ON"));
    Ok((writer, sea_orm::Database::connect(reader).await?))
}

async fn read_file(file: &Path) -> Result<DatabaseConnection, ConnectError> {
    let file = file.to_owned();
    let mut options = pool("sqlite:metrics", 1);
    options.map_sqlx_sqlite_opts(move |options| {
        options.filename(&file).read_only(true).create_if_missing(false).busy_timeout(BUSY_TIMEOUT)
    });
    let db = sea_orm::Database::connect(options).await?;
    // A file is opened when it is first read: what is no database shows here.
    use sea_orm::ConnectionTrait;
    db.execute_unprepared("SELECT count(*) FROM sqlite_master").await?;
    Ok(db)
}

/// The schema without a row. One connection that lives as long as the pool: each would have a memory of its own.
async fn empty() -> Result<DatabaseConnection, ConnectError> {
    let mut options = pool("sqlite::memory:", 1);
    options.idle_timeout(None).max_lifetime(None);
    let db = sea_orm::Database::connect(options).await?;
    Migrator::up(&db, None).await?;
    Ok(db)
}

/// Pragmas as options, so that every connection of a pool gets them, and `busy_timeout` before WAL.
fn pragmas(options: SqliteConnectOptions, file: Option<&Path>) -> SqliteConnectOptions {
    let options = match file {
        Some(file) => options.filename(file),
        None => options,
    };
    options
        .create_if_missing(true)
        .busy_timeout(BUSY_TIMEOUT)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .foreign_keys(true)
        .row_buffer_size(ROW_BUFFER)
}

fn pool(url: &str, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .min_connections(1)
        .connect_timeout(ACQUIRE_TIMEOUT)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .sqlx_logging(false)
        .record_stmt_in_spans(false);
    options
}

pub fn backend_name(db: &DatabaseConnection) -> &'static str {
    match db.get_database_backend() {
        DbBackend::Postgres => "postgres",
        _ => "sqlite",
    }
}

/// Whether the database refused the data itself, so that another try of the same cannot help.
pub fn is_refusal(error: &DbErr) -> bool {
    use sea_orm::RuntimeErr::SqlxError;
    match error {
        DbErr::Exec(SqlxError(error)) | DbErr::Query(SqlxError(error)) => match error.as_ref() {
            sea_orm::sqlx::Error::Database(error) => {
                let code = error.code().unwrap_or_default();
                // SQLSTATE class 22 is data that cannot be represented; 18 and 20 are SQLite's TOOBIG and MISMATCH.
                error.kind() != sea_orm::sqlx::error::ErrorKind::Other
                    || (code.len() == 5 && code.starts_with("22"))
                    || code == "18"
                    || code == "20"
            }
            sea_orm::sqlx::Error::Encode(_) => true,
            _ => false,
        },
        DbErr::Type(_) | DbErr::Json(_) | DbErr::TryIntoErr { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::ConnectionTrait;

    use super::*;

    #[tokio::test]
    async fn a_full_database_is_tried_again_and_a_broken_rule_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let db = Target::new(&Config::default(), dir.path()).connect().await.unwrap().writer;
        // SQLite takes the present size for a limit under it.
        db.execute_unprepared("PRAGMA max_page_count = 1").await.unwrap();
        let model = |name: &str| format!("INSERT INTO models (model_name, added_at) VALUES ('{name}', 0)");
        let full = loop {
            let name = format!("{:?}{}", std::time::Instant::now(), "x".repeat(4_000));
            if let Err(error) = db.execute_unprepared(&model(&name)).await {
                break error;
            }
        };
        assert!(full.to_string().contains("full"), "{full}");
        assert!(!is_refusal(&full));
        db.execute_unprepared("PRAGMA max_page_count = 1000000").await.unwrap();
        db.execute_unprepared(&model("a")).await.unwrap();
        let twice = db.execute_unprepared(&model("a")).await.unwrap_err();
        let null = db.execute_unprepared("INSERT INTO models (added_at) VALUES (0)").await.unwrap_err();
        let orphan = "INSERT INTO retrieval_events (result_id, ordinal, at_us, kind) VALUES (1, 1, 1, 'x')";
        let orphan = db.execute_unprepared(orphan).await.unwrap_err();
        assert!([twice, null, orphan].iter().all(is_refusal));
    }
}
