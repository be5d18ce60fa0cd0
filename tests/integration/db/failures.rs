//! A database that is missing, locked, slow or killed: nothing waits for it, and it comes back without a restart.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use sea_orm::ConnectionTrait;
use tidegate::db::queries::Window;
use tidegate::db::{Config, DbError, DbState};

use super::{Fixture, connect, eventually, number, postgres, record, sqlite_url};

const ROWS: &str = "SELECT COUNT(*) FROM ipfs_acceleration_results";
const CHILD_FOLDER: &str = "TIDEGATE_TEST_KILLED_WRITER";

#[tokio::test]
async fn a_locked_database_holds_nobody_up_and_gets_everything_when_it_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(&Config { sample_above: 0, ..Config::default() }, dir.path()).await;
    let other = connect(&sqlite_url(dir.path())).await;
    other.execute_unprepared("BEGIN EXCLUSIVE").await.unwrap();
    let sink = fixture.db.sink();
    let started = Instant::now();
    (0..1_000).for_each(|_| sink.record(record()));
    assert!(started.elapsed() < Duration::from_secs(4), "record waited for the lock: {:?}", started.elapsed());
    eventually("it shows", async || matches!(fixture.db.state(), DbState::Down { .. })).await;
    assert!(matches!(fixture.db.latest(1).await, Err(DbError::Down { .. })));
    other.execute_unprepared("COMMIT").await.unwrap();
    eventually("it is up again", async || fixture.db.state().is_up()).await;
    eventually("all rows", async || number(&other, ROWS).await == 1_000).await;
    fixture.close().await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_told_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    std::fs::write(&data_dir, "a file in the way").unwrap();
    let fixture = Fixture::open(&Config::default(), &data_dir).await;
    let DbState::Down { reason, .. } = fixture.db.state() else { panic!("up in a file") };
    assert!(reason.contains("data"), "{reason}");
    fixture.db.sink().record(record());
    let window = Window::last(Duration::from_secs(60), SystemTime::now());
    assert!(matches!(fixture.db.overview(window).await, Err(DbError::Down { .. })));
    std::fs::remove_file(&data_dir).unwrap();
    eventually("it is up", async || fixture.db.state().is_up()).await;
    eventually("the row", async || fixture.db.latest(5).await.is_ok_and(|rows| rows.len() == 1)).await;
    fixture.close().await;
}

#[tokio::test]
async fn a_url_that_nothing_answers_or_understands_never_stops_the_start_and_tells_no_password() {
    let dir = tempfile::tempdir().unwrap();
    for url in ["postgres://u:secret@127.0.0.1:9/x", "mysql://u:secret@localhost/x", "secret", "sqlite::memory:"] {
        let fixture = Fixture::open(&Config { url: Some(url.to_owned()), ..Config::default() }, dir.path()).await;
        let DbState::Down { reason, .. } = fixture.db.state() else { panic!("{url} is up") };
        assert!(url == "secret" || !reason.contains("secret"), "{reason}");
        fixture.close().await;
    }
}

#[tokio::test]
async fn a_full_queue_drops_and_counts_and_keeps_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    std::fs::write(&data_dir, "a file in the way").unwrap();
    let fixture = Fixture::open(&Config { queue: 600, sample_above: 0, ..Config::default() }, &data_dir).await;
    (0..1_000).for_each(|_| fixture.db.sink().record(record()));
    let dropped = fixture.metric(r#"tidegate_db_records_dropped_total{reason="overflow"} "#);
    assert!((400.0..1_000.0).contains(&dropped), "{dropped} of 1,000 beyond a queue of 600");
    std::fs::remove_file(&data_dir).unwrap();
    let kept = 1_000.0 - dropped;
    eventually("the kept ones", async || fixture.metric("tidegate_db_records_written_total ") == kept).await;
    // The rows are lost; the counts are not.
    let window = Window::last(Duration::from_secs(600), SystemTime::now());
    assert_eq!(fixture.db.overview(window).await.unwrap().requests, 1_000);
    fixture.close().await;
}

#[tokio::test]
async fn a_stop_writes_what_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(&Config { sample_above: 0, ..Config::default() }, dir.path()).await;
    (0..1_700).for_each(|_| fixture.db.sink().record(record()));
    let sink = fixture.db.sink();
    let metrics = fixture.metrics.clone();
    fixture.close().await;
    let sql = connect(&sqlite_url(dir.path())).await;
    assert_eq!(number(&sql, ROWS).await, 1_700);
    assert_eq!(number(&sql, "SELECT SUM(requests) FROM rollups_minute WHERE dimension = 'all'").await, 1_700);
    sink.record(record());
    assert!(metrics.encode().contains(r#"tidegate_db_records_dropped_total{reason="stopped"} 1"#));
}

#[tokio::test]
async fn a_killed_server_keeps_what_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let test = "db::failures::writes_until_it_is_killed";
    let exe = std::env::current_exe().unwrap();
    let mut child = Command::new(exe).args([test, "--exact"]).env(CHILD_FOLDER, dir.path()).spawn().unwrap();
    let file = dir.path().join("metrics.sqlite");
    eventually("the file", async || file.exists()).await;
    let sql = connect(&sqlite_url(dir.path())).await;
    let rows = async || {
        let table = "SELECT COUNT(*) FROM sqlite_master WHERE name = 'rollups_hour'";
        if number(&sql, table).await == 0 { 0 } else { number(&sql, ROWS).await }
    };
    eventually("rows", async || rows().await > 500).await;
    let committed = rows().await;
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    let fixture = Fixture::open(&Config::default(), dir.path()).await;
    assert!(fixture.db.state().is_up(), "{:?}", fixture.db.state());
    assert!(number(&sql, ROWS).await >= committed);
    assert_eq!(super::texts(&sql, "PRAGMA integrity_check").await, ["ok"]);
    fixture.close().await;
}

/// Not a test of its own: what `a_killed_server_keeps_what_was_committed` runs as another process.
#[tokio::test]
async fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let fixture = Fixture::open(&Config::default(), Path::new(&folder)).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(60) {
        (0..100).for_each(|_| fixture.db.sink().record(record()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody killed the writer");
}

pub async fn a_server_that_stops_and_returns(mut cluster: postgres::Cluster) {
    let dir = tempfile::tempdir().unwrap();
    let url = cluster.database("returns").await;
    let config = Config { url: Some(url.clone()), sample_above: 0, ..Config::default() };
    let fixture = Fixture::open(&config, dir.path()).await;
    fixture.db.sink().record(record());
    eventually("the first row", async || fixture.db.latest(5).await.is_ok_and(|rows| rows.len() == 1)).await;
    cluster.stop();
    (0..100).for_each(|_| fixture.db.sink().record(record()));
    eventually("it shows", async || !fixture.db.state().is_up()).await;
    cluster.run();
    eventually("it is up again", async || fixture.db.state().is_up()).await;
    eventually("all rows", async || fixture.db.latest(200).await.is_ok_and(|rows| rows.len() == 101)).await;
    fixture.close().await;
}
