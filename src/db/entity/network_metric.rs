//! `p2p_network_metrics`: A snapshot of the network as this node sees it, every 60 s.

use sea_orm::entity::prelude::*;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "p2p_network_metrics")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub ipfs_result_id: Option<i64>,
    pub peer_count: i64,
    pub known_content_items: Option<i64>,
    pub transfers_completed: i64,
    pub transfers_failed: i64,
    pub bytes_transferred: i64,
    pub average_transfer_speed: Option<f64>,
    pub network_efficiency: Option<f64>,
    pub network_density: Option<f64>,
    pub average_connections: Option<f64>,
    pub optimization_score: Option<f64>,
    pub optimization_rating: String,
    pub network_health: String,
    pub test_timestamp: i64,
    pub window_s: f64,
    pub diameter: Option<i64>,
    pub components: Option<i64>,
    pub clustering: Option<f64>,
    pub median_rtt_ms: Option<f64>,
    pub p95_rtt_ms: Option<f64>,
    pub median_rate_bps: Option<f64>,
    pub cache_hit_ratio: Option<f64>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
