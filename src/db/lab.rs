//! Runs of the WebGPU lab: one transaction each, that the caller waits for.

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QuerySelect, TransactionTrait};
use serde::Serialize;

use super::entity::{hardware_platform, model, test_result, webgpu_metric};
use super::{Database, DbError};

/// The rows of one run; ids between them are filled in here.
#[derive(Debug, Clone)]
pub struct LabRun {
    pub run: test_result::ActiveModel,
    pub metrics: Vec<webgpu_metric::ActiveModel>,
    pub hardware: Option<hardware_platform::ActiveModel>,
    pub model: Option<model::ActiveModel>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct LabReceipt {
    pub test_id: i64,
    pub rows: usize,
    pub hardware_id: Option<i64>,
    pub model_id: Option<i64>,
}

impl Database {
    /// Writes a run, all of it or nothing. Not on any fetch's path: it waits for the database and may fail.
    pub async fn write_lab_run(&self, run: LabRun) -> Result<LabReceipt, DbError> {
        self.write(|db| async move {
            let txn = db.begin().await?;
            let hardware_id = match run.hardware {
                Some(row) => hardware(&txn, row).await?,
                None => None,
            };
            let model_id = match run.model {
                Some(row) => model(&txn, row).await?,
                None => None,
            };
            let mut result = run.run;
            result.hardware_id = Set(hardware_id);
            result.model_id = Set(model_id);
            let test_id = test_result::Entity::insert(result).exec(&txn).await?.last_insert_id;
            let rows = run.metrics.len();
            let metrics = run.metrics.into_iter().map(|mut row| {
                row.test_id = Set(Some(test_id));
                row
            });
            // One at a time: a statement for many would need the same columns in each.
            for row in metrics {
                webgpu_metric::Entity::insert(row).exec_without_returning(&txn).await?;
            }
            txn.commit().await?;
            Ok(LabReceipt { test_id, rows, hardware_id, model_id })
        })
        .await
    }
}

async fn hardware(db: &impl ConnectionTrait, row: hardware_platform::ActiveModel) -> Result<Option<i64>, DbErr> {
    use hardware_platform::Column;
    let fingerprint = row.fingerprint.clone();
    let known = OnConflict::column(Column::Fingerprint)
        .update_columns([Column::DetectedAt, Column::DriverVersion, Column::SupportedPrecisions])
        .to_owned();
    hardware_platform::Entity::insert(row).on_conflict(known).exec_without_returning(db).await?;
    let Some(fingerprint) = fingerprint.into_value() else { return Ok(None) };
    let found = hardware_platform::Entity::find().select_only().column(Column::HardwareId);
    found.filter(Column::Fingerprint.eq(fingerprint)).into_tuple().one(db).await
}

async fn model(db: &impl ConnectionTrait, row: model::ActiveModel) -> Result<Option<i64>, DbErr> {
    use model::Column;
    let name = row.model_name.clone();
    let known = OnConflict::column(Column::ModelName)
        .update_columns([Column::Cid, Column::AddedAt, Column::ModelSize, Column::ParametersMillion, Column::Format])
        .to_owned();
    model::Entity::insert(row).on_conflict(known).exec_without_returning(db).await?;
    let Some(name) = name.into_value() else { return Ok(None) };
    model::Entity::find()
        .select_only()
        .column(Column::ModelId)
        .filter(Column::ModelName.eq(name))
        .into_tuple()
        .one(db)
        .await
}
