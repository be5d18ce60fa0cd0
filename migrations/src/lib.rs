//! The schema of Tidegate's metrics database. One file a migration, `mYYYYMMDD_NNNNNN_<what>.rs`, never edited once released.

mod m20261123_000001_first;
mod m20261124_000002_cold_covering;
mod m20261124_000003_units;

use sea_orm_migration::prelude::*;
pub use sea_orm_migration::{MigratorTrait, sea_orm};

pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261123_000001_first::Migration),
            Box::new(m20261124_000002_cold_covering::Migration),
            Box::new(m20261124_000003_units::Migration),
        ]
    }
}
