//! Rows of before in the units of the rest: an attempt's rate was in bits a second, a lab run's time in milliseconds.

use sea_orm_migration::prelude::*;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261124_000003_units"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        db.execute_unprepared("UPDATE retrieval_attempts SET max_rate_bps = max_rate_bps / 8").await?;
        db.execute_unprepared(
            "UPDATE test_results SET execution_time = execution_time / 1000 WHERE tool LIKE 'tidegate webgpu lab %'",
        )
        .await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        db.execute_unprepared("UPDATE retrieval_attempts SET max_rate_bps = max_rate_bps * 8").await?;
        db.execute_unprepared(
            "UPDATE test_results SET execution_time = execution_time * 1000 WHERE tool LIKE 'tidegate webgpu lab %'",
        )
        .await?;
        Ok(())
    }
}
