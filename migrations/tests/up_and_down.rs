//! The migrations alone, on SQLite; the app's tests compare them with its entities on both engines.

use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use tidegate_migrations::{Migrator, MigratorTrait};

async fn objects(db: &DatabaseConnection) -> Vec<String> {
    let sql = "SELECT type || ' ' || name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' \
               AND tbl_name <> 'seaql_migrations' ORDER BY 1";
    let rows = db.query_all_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

#[tokio::test]
async fn down_leaves_nothing_and_up_again_gives_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", dir.path().join("m.sqlite").display());
    let db = sea_orm::Database::connect(url).await.unwrap();
    Migrator::up(&db, None).await.unwrap();
    let first = objects(&db).await;
    assert_eq!(first.iter().filter(|object| object.starts_with("table ")).count(), 14);
    assert_eq!(Migrator::get_pending_migrations(&db).await.unwrap().len(), 0);
    Migrator::down(&db, None).await.unwrap();
    assert_eq!(objects(&db).await, Vec::<String>::new());
    Migrator::up(&db, None).await.unwrap();
    assert_eq!(objects(&db).await, first);
}

#[tokio::test]
async fn every_foreign_key_has_an_index_on_its_column() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", dir.path().join("m.sqlite").display());
    let db = sea_orm::Database::connect(url).await.unwrap();
    Migrator::up(&db, None).await.unwrap();
    let sql = "SELECT m.name || '.' || f.\"from\" FROM sqlite_master m, pragma_foreign_key_list(m.name) f \
               WHERE m.type = 'table' AND NOT EXISTS (SELECT 1 FROM pragma_index_list(m.name) l, \
               pragma_index_info(l.name) i WHERE i.seqno = 0 AND i.name = f.\"from\")";
    let rows = db.query_all_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap();
    let bare: Vec<String> = rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect();
    assert_eq!(bare, Vec::<String>::new(), "a delete would scan these");
}
