//! The metrics database, on SQLite always and on PostgreSQL where Debian's is installed.

mod checks;
mod failures;
mod postgres;
mod schema;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};
use tidegate::db::{Config, Database};
use tidegate::record::{Origin, Outcome, Phase, Policy, RetrievalId, RetrievalRecord, SessionReport};
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;

/// A database under test with what it needs.
struct Fixture {
    db: Database,
    metrics: Metrics,
    supervisor: Supervisor,
}

impl Fixture {
    async fn open(config: &Config, data_dir: &Path) -> Self {
        let (metrics, supervisor) = (Metrics::new(), Supervisor::new());
        let db = Database::open(config, data_dir, &metrics, &supervisor).await;
        Self { db, metrics, supervisor }
    }

    /// The value of a counter or gauge as `/metrics` would tell it; 0 before the first.
    fn metric(&self, line_start: &str) -> f64 {
        let text = self.metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(line_start)?.trim().parse().ok());
        line.unwrap_or(0.0)
    }

    /// Writes what is queued, and ends.
    async fn close(self) {
        assert!(self.db.close(Duration::from_secs(30)).await, "the writer did not end");
        assert_eq!(self.supervisor.stop(Duration::from_secs(5)).await, Vec::<&str>::new());
    }
}

/// A complete cold retrieval of 10,000 bytes from the network in 80 ms.
fn record() -> RetrievalRecord {
    let finished_at = SystemTime::now();
    let digest = tidegate::ipld::Multihash::wrap(0x12, &[9; 32]).unwrap();
    RetrievalRecord {
        id: RetrievalId::next(),
        cid: tidegate::ipld::Cid::new_v1(0x55, digest),
        path: "/ipfs/x".to_owned(),
        origin: Origin::Live,
        started_at: finished_at - Duration::from_millis(100),
        finished_at,
        load_time: Duration::from_millis(100),
        ttfb: Some(Duration::from_millis(40)),
        bytes: 10_000,
        outcome: Outcome::Complete,
        error_kind: None,
        http_status: Some(200),
        session: SessionReport {
            policy: Policy::Optimized,
            transfer_time: Some(Duration::from_millis(80)),
            routing: Some(Duration::from_millis(10)),
            connect: Some(Duration::from_millis(5)),
            first_block: Some(Duration::from_millis(30)),
            providers_found: 2,
            providers_attempted: 2,
            blocks_memory: 0,
            blocks_store: 0,
            blocks_disk: 0,
            blocks_network: 3,
            network_bytes: 10_000,
            duplicate_bytes: 0,
            received_bytes: 10_100,
            optimization_score: Some(0.5),
            attempts: Vec::new(),
            events: Vec::new(),
            events_dropped: 0,
            phase: Phase::Serve,
        },
    }
}

/// Polls for up to 30 s; a generous bound of liveness, not a measurement.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A connection of the test's own.
async fn connect(url: &str) -> DatabaseConnection {
    let mut options = sea_orm::ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    sea_orm::Database::connect(options).await.unwrap()
}

fn sqlite_url(data_dir: &Path) -> String {
    format!("sqlite://{}?mode=rwc", data_dir.join("metrics.sqlite").display())
}

/// The one number that a statement answers.
async fn number(db: &DatabaseConnection, sql: &str) -> i64 {
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap().unwrap();
    row.try_get_by_index::<Option<i64>>(0).unwrap().unwrap_or_default()
}

async fn texts(db: &DatabaseConnection, sql: &str) -> Vec<String> {
    let rows = db.query_all_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index::<String>(0).unwrap()).collect()
}

#[tokio::test]
async fn sqlite_migrates_up_and_down_and_up_and_equals_the_entities() {
    let dir = tempfile::tempdir().unwrap();
    schema::migrates_and_equals_the_entities(&sqlite_url(dir.path())).await;
}

#[tokio::test]
async fn sqlite_gives_back_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    checks::two_thousand_records(&Config { sample_above: 0, ..Config::default() }, dir.path(), &sqlite_url(dir.path()))
        .await;
}

#[tokio::test]
async fn sqlite_keeps_what_was_not_measured_null() {
    let dir = tempfile::tempdir().unwrap();
    checks::what_was_not_measured_is_null(&Config::default(), dir.path(), &sqlite_url(dir.path())).await;
}

#[tokio::test]
async fn sqlite_knows_peers_links_and_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    checks::peers_links_and_snapshots(&Config::default(), dir.path()).await;
}

#[tokio::test]
async fn sqlite_feeds_the_network_analytics() {
    let dir = tempfile::tempdir().unwrap();
    checks::analytics_of_live_traffic(&Config::default(), dir.path()).await;
}

#[tokio::test]
async fn sqlite_drops_a_refused_record_and_keeps_its_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    checks::a_refused_record(&Config::default(), dir.path(), &sqlite_url(dir.path())).await;
}

#[tokio::test]
async fn sqlite_answers_every_page_by_an_index() {
    let dir = tempfile::tempdir().unwrap();
    Fixture::open(&Config::default(), dir.path()).await.close().await;
    let db = connect(&sqlite_url(dir.path())).await;
    schema::every_page_reads_by_an_index(&db).await;
}

#[tokio::test]
async fn postgres_passes_the_same_checks() {
    let Some(cluster) = postgres::Cluster::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    schema::migrates_and_equals_the_entities(&cluster.database("schema").await).await;
    for name in ["records", "nulls", "peers", "analytics", "refused"] {
        let url = cluster.database(name).await;
        let config = Config { url: Some(url.clone()), sample_above: 0, ..Config::default() };
        match name {
            "records" => {
                checks::two_thousand_records(&config, dir.path(), &url).await;
                let db = connect(&url).await;
                assert_eq!(db.get_database_backend(), DbBackend::Postgres);
                schema::every_page_reads_by_an_index(&db).await;
            }
            "nulls" => checks::what_was_not_measured_is_null(&config, dir.path(), &url).await,
            "analytics" => checks::analytics_of_live_traffic(&config, dir.path()).await,
            "peers" => checks::peers_links_and_snapshots(&config, dir.path()).await,
            _ => checks::a_refused_record(&config, dir.path(), &url).await,
        }
    }
    failures::a_server_that_stops_and_returns(cluster).await;
}
