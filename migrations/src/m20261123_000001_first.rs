//! The first schema: every table of DATA.md §2, because SQLite cannot add a foreign key to a table later.
//!
//! Times are integer microseconds since the epoch unless the name says otherwise (`_ms`: fractional milliseconds).
//! A figure that was not measured is NULL.

mod catalog;
mod network;
mod results;
mod rollups;
mod webgpu;

use sea_orm_migration::prelude::*;

/// One table with its indexes.
struct Part {
    name: &'static str,
    table: TableCreateStatement,
    unique: &'static [&'static [&'static str]],
    indexes: &'static [&'static [&'static str]],
}

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261123_000001_first"
    }
}

/// Cold transfers only: the comparison of policies reads these, among millions of cache hits.
const COLD: &str = "CREATE INDEX ix_ipfs_acceleration_results_cold ON ipfs_acceleration_results \
                    (origin, policy, test_timestamp) WHERE transfer_time_ms IS NOT NULL";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for part in parts() {
            manager.create_table(part.table).await?;
            for (columns, unique) in
                part.unique.iter().map(|c| (*c, true)).chain(part.indexes.iter().map(|c| (*c, false)))
            {
                manager.create_index(index(part.name, columns, unique)).await?;
            }
        }
        manager.get_connection().execute_unprepared(COLD).await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for part in parts().into_iter().rev() {
            manager.drop_table(Table::drop().table(part.name).take()).await?;
        }
        Ok(())
    }
}

/// In an order in which every reference is to a table before.
fn parts() -> Vec<Part> {
    [catalog::parts(), results::parts(), network::parts(), webgpu::parts(), rollups::parts()]
        .into_iter()
        .flatten()
        .collect()
}

fn index(table: &'static str, columns: &[&'static str], unique: bool) -> IndexCreateStatement {
    let prefix = if unique { "ux" } else { "ix" };
    let mut index = Index::create().name(format!("{prefix}_{table}_{}", columns.join("_"))).table(table).take();
    for column in columns {
        index.col(*column);
    }
    if unique {
        index.unique();
    }
    index
}

fn reference(
    from: (&'static str, &'static str),
    to: (&'static str, &'static str),
    on_delete: ForeignKeyAction,
) -> ForeignKeyCreateStatement {
    ForeignKey::create().from(from.0, from.1).to(to.0, to.1).on_delete(on_delete).take()
}
