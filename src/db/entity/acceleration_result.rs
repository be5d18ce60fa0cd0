//! `ipfs_acceleration_results`: One finished retrieval: a user request's fetch, or one bench iteration.

use sea_orm::entity::prelude::*;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "ipfs_acceleration_results")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    pub test_id: Option<i64>,
    pub model_id: Option<i64>,
    pub cid: String,
    pub source: Option<String>,
    pub transfer_time_ms: Option<f64>,
    pub p2p_optimized: bool,
    pub peer_count: i64,
    pub network_efficiency: Option<f64>,
    pub optimization_score: Option<f64>,
    pub load_time_ms: f64,
    pub test_timestamp: i64,
    pub started_at: i64,
    pub path: String,
    pub origin: String,
    pub is_simulated: bool,
    pub simulation_reason: Option<String>,
    pub sample_weight: f64,
    pub policy: String,
    pub scenario: Option<String>,
    pub bytes: i64,
    pub network_bytes: i64,
    pub blocks: i64,
    pub duplicate_bytes: i64,
    pub ttfb_ms: Option<f64>,
    pub routing_ms: Option<f64>,
    pub connect_ms: Option<f64>,
    pub providers_found: i64,
    pub providers_attempted: i64,
    pub outcome: String,
    pub error_kind: Option<String>,
    pub phase: Option<String>,
    pub http_status: Option<i64>,
    pub cache_state: Option<String>,
    pub hardware_id: Option<i64>,
    pub events_dropped: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
