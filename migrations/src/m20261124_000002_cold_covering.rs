//! The comparison of policies is read from an index alone: without it each of up to 10,000 cold transfers is a look-up in
//! a table of millions of rows.

use sea_orm_migration::prelude::*;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261124_000002_cold_covering"
    }
}

const OLD: &str = "ix_ipfs_acceleration_results_cold";
const CREATE_OLD: &str = "CREATE INDEX ix_ipfs_acceleration_results_cold ON ipfs_acceleration_results \
                          (origin, policy, test_timestamp) WHERE transfer_time_ms IS NOT NULL";
const CREATE: &str = "CREATE INDEX ix_ipfs_acceleration_results_cold_covering ON ipfs_acceleration_results \
                      (origin, policy, test_timestamp, outcome, cache_state, network_bytes, providers_found, \
                      transfer_time_ms) WHERE transfer_time_ms IS NOT NULL";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        db.execute_unprepared(CREATE).await?;
        db.execute_unprepared(&format!("DROP INDEX {OLD}")).await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        db.execute_unprepared(CREATE_OLD).await?;
        db.execute_unprepared("DROP INDEX ix_ipfs_acceleration_results_cold_covering").await?;
        Ok(())
    }
}
