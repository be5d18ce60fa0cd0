//! `webgpu_metrics`: One workload of one browser (or native) run of the WebGPU lab.

use sea_orm::entity::prelude::*;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "webgpu_metrics")]
pub struct Model {
    #[sea_orm(primary_key)]
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
    pub user_agent_hash: Option<String>,
    pub submission_id: Option<String>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
