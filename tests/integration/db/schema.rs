//! The migrated schema: up, down, up; equal to the entities; every page's statement by an index.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::sea_query::ColumnType;
use sea_orm::{ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, EntityTrait, Iterable, Statement};
use tidegate::db::{entity, queries};
use tidegate_migrations::{Migrator, MigratorTrait};

use super::texts;

/// column -> (kind of type, nullable)
type Columns = BTreeMap<String, (&'static str, bool)>;

pub async fn migrates_and_equals_the_entities(url: &str) {
    let db = super::connect(url).await;
    Migrator::up(&db, None).await.unwrap();
    compare(&db).await;
    Migrator::down(&db, None).await.unwrap();
    assert_eq!(tables(&db).await, BTreeSet::new(), "down leaves nothing");
    Migrator::up(&db, None).await.unwrap();
    compare(&db).await;
}

async fn compare(db: &DatabaseConnection) {
    let entities = entities();
    assert_eq!(tables(db).await, entities.keys().cloned().collect(), "tables and entities");
    for (table, columns) in entities {
        assert_eq!(migrated(db, &table).await, columns, "{table}");
    }
}

fn entities() -> BTreeMap<String, Columns> {
    fn of<E: EntityTrait>(entity: E) -> (String, Columns) {
        let columns = E::Column::iter().map(|column| {
            let definition = column.def();
            let kind = match definition.get_column_type() {
                ColumnType::BigInteger | ColumnType::Integer => "integer",
                ColumnType::Double => "double",
                ColumnType::String(_) | ColumnType::Text => "text",
                ColumnType::Boolean => "boolean",
                ColumnType::Json | ColumnType::JsonBinary => "json",
                other => panic!("{other:?} is used by no migration"),
            };
            (sea_orm::IdenStatic::as_str(&column).to_owned(), (kind, definition.is_null()))
        });
        (entity.table_name().to_owned(), columns.collect())
    }
    [
        of(entity::hardware_platform::Entity),
        of(entity::model::Entity),
        of(entity::test_result::Entity),
        of(entity::acceleration_result::Entity),
        of(entity::retrieval_attempt::Entity),
        of(entity::retrieval_event::Entity),
        of(entity::network_metric::Entity),
        of(entity::peer::Entity),
        of(entity::peer_link::Entity),
        of(entity::content_item::Entity),
        of(entity::placement::Entity),
        of(entity::webgpu_metric::Entity),
        of(entity::rollup_minute::Entity),
        of(entity::rollup_hour::Entity),
    ]
    .into()
}

async fn tables(db: &DatabaseConnection) -> BTreeSet<String> {
    let sql = match db.get_database_backend() {
        DbBackend::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
        _ => "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'",
    };
    texts(db, sql).await.into_iter().filter(|name| name != "seaql_migrations").collect()
}

async fn migrated(db: &DatabaseConnection, table: &str) -> Columns {
    let sqlite = format!("SELECT name, lower(type), \"notnull\" = 0 AND pk = 0 FROM pragma_table_info('{table}')");
    let postgres = format!(
        "SELECT column_name::text, data_type::text, is_nullable = 'YES' FROM information_schema.columns \
         WHERE table_name = '{table}'"
    );
    let backend = db.get_database_backend();
    let sql = if backend == DbBackend::Sqlite { sqlite } else { postgres };
    let rows = db.query_all_raw(Statement::from_string(backend, sql)).await.unwrap();
    rows.iter()
        .map(|row| {
            let kind = match row.try_get_by_index::<String>(1).unwrap().as_str() {
                "integer" | "bigint" => "integer",
                "double" | "double precision" => "double",
                "varchar" | "character varying" | "text" => "text",
                "boolean" => "boolean",
                "json" | "jsonb" | "json_text" => "json",
                other => panic!("{table}: {other}"),
            };
            (row.try_get_by_index(0).unwrap(), (kind, row.try_get_by_index::<bool>(2).unwrap()))
        })
        .collect()
}

pub async fn every_page_reads_by_an_index(db: &DatabaseConnection) {
    let backend = db.get_database_backend();
    if backend == DbBackend::Postgres {
        // A small table is scanned because that is cheaper; this asks whether it has to be.
        db.execute_unprepared("SET enable_seqscan = off").await.unwrap();
    }
    // The check itself is checked: no index holds this.
    let control =
        Statement::from_string(backend, "SELECT id FROM ipfs_acceleration_results WHERE bytes > 1 ORDER BY bytes");
    assert!(scans(&plan(db, control).await));
    let statements = queries::statements(backend);
    assert!(statements.len() > 20);
    for (page, statement) in statements {
        let plan = plan(db, statement).await;
        assert!(!plan.is_empty() && !scans(&plan), "{page}: {plan:#?}");
        // A list in time order must not sort a whole table first. PostgreSQL may sort what an index has picked out.
        let sorts = plan.iter().any(|step| step.contains("USE TEMP B-TREE FOR ORDER BY"));
        assert!(!sorts || page == "by peer", "{page} sorts: {plan:#?}");
    }
}

async fn plan(db: &DatabaseConnection, statement: Statement) -> Vec<String> {
    let (explain, column) = match statement.db_backend {
        DbBackend::Sqlite => ("EXPLAIN QUERY PLAN ", 3),
        _ => ("EXPLAIN ", 0),
    };
    let explained = Statement { sql: format!("{explain}{}", statement.sql), ..statement };
    let rows = db.query_all_raw(explained).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(column).unwrap()).collect()
}

fn scans(plan: &[String]) -> bool {
    plan.iter().any(|step| step.starts_with("SCAN ") || step.contains("Seq Scan on "))
}
