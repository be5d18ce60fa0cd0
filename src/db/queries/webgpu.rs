//! Runs of the WebGPU lab and the models that they loaded.

use sea_orm::{
    ColumnTrait, DbBackend, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select,
    Statement,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{MAX_LIMIT, Window};
use crate::db::entity::{model, test_result, webgpu_metric};
use crate::db::{Database, DbError};

/// Rows of `webgpu_metrics` in one answer: some 200 runs.
const MAX_ROWS: u64 = 8_000;

/// A row of `webgpu_metrics`.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult, ToSchema)]
pub struct LabRow {
    pub id: i64,
    pub test_id: Option<i64>,
    pub browser_name: String,
    pub browser_version: Option<String>,
    pub compute_shaders_enabled: Option<bool>,
    pub shader_precompilation_enabled: Option<bool>,
    pub parallel_loading_enabled: Option<bool>,
    pub shader_compile_time_ms: Option<f64>,
    pub first_inference_time_ms: Option<f64>,
    pub subsequent_inference_time_ms: Option<f64>,
    pub pipeline_creation_time_ms: Option<f64>,
    pub workgroup_size: Option<String>,
    pub optimization_score: Option<f64>,
    pub test_timestamp: i64,
    pub workload: String,
    pub variant: Option<String>,
    pub origin: String,
    pub os: Option<String>,
    pub adapter_vendor: Option<String>,
    pub adapter_architecture: Option<String>,
    pub is_fallback_adapter: Option<bool>,
    pub is_simulated: bool,
    pub samples: Option<i64>,
    pub p95_ms: Option<f64>,
    pub gpu_time_ms: Option<f64>,
    pub timer_resolution_ms: Option<f64>,
    pub max_error: Option<f64>,
    pub verified: bool,
    pub load_sequential_ms: Option<f64>,
    pub load_parallel_ms: Option<f64>,
    pub load_bytes: Option<i64>,
    pub load_streams: Option<i64>,
    pub cid: Option<String>,
    pub submission_id: Option<String>,
}

/// A run of the lab: its row of `test_results`.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult, ToSchema)]
pub struct LabRunRow {
    pub id: i64,
    pub timestamp: i64,
    pub status: String,
    pub endpoint_type: Option<String>,
    pub success: bool,
    pub error_message: Option<String>,
    pub execution_time: Option<f64>,
    /// The submission as it came.
    pub details: Option<serde_json::Value>,
    pub run_id: String,
}

/// A row of `models`.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult, ToSchema)]
pub struct ModelRow {
    pub model_id: i64,
    pub model_name: String,
    pub model_family: Option<String>,
    pub model_type: Option<String>,
    pub model_size: Option<i64>,
    pub parameters_million: Option<f64>,
    pub added_at: i64,
    pub cid: Option<String>,
    pub format: Option<String>,
}

impl Database {
    /// Rows of a window, the newest first, at most 8,000.
    pub async fn lab_rows(&self, window: Window) -> Result<Vec<LabRow>, DbError> {
        self.read(|db| async move { rows(window).into_model().all(&db).await }).await
    }

    /// The newest runs first; `limit` is 1 to [`MAX_LIMIT`].
    pub async fn lab_runs(&self, limit: u32) -> Result<Vec<LabRunRow>, DbError> {
        self.read(|db| async move { runs(limit.clamp(1, MAX_LIMIT).into()).into_model().all(&db).await }).await
    }

    /// Models, the last added first; `limit` is 1 to [`MAX_LIMIT`].
    pub async fn models(&self, limit: u32) -> Result<Vec<ModelRow>, DbError> {
        self.read(|db| async move { models(limit.clamp(1, MAX_LIMIT).into()).into_model().all(&db).await }).await
    }
}

fn rows(window: Window) -> Select<webgpu_metric::Entity> {
    use webgpu_metric::Column::{Id, TestTimestamp};
    webgpu_metric::Entity::find()
        .filter(TestTimestamp.gte(window.since_us))
        .filter(TestTimestamp.lt(window.until_us))
        .order_by_desc(TestTimestamp)
        .order_by_asc(Id)
        .limit(MAX_ROWS)
}

fn runs(limit: u64) -> Select<test_result::Entity> {
    use test_result::Column::{TestType, Timestamp};
    test_result::Entity::find().filter(TestType.eq("webgpu")).order_by_desc(Timestamp).limit(limit)
}

/// A table of a few rows, walked by its key.
fn models(limit: u64) -> Select<model::Entity> {
    model::Entity::find().order_by_desc(model::Column::AddedAt).limit(limit)
}

pub(super) fn statements(backend: DbBackend) -> Vec<(&'static str, Statement)> {
    let window = Window { since_us: 1, until_us: 2 };
    vec![("lab rows", rows(window).build(backend)), ("lab runs", runs(50).build(backend))]
}
