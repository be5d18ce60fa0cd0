//! `retrieval_attempts`: One provider's part in a retrieval.

use sea_orm::entity::prelude::*;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "retrieval_attempts")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub result_id: i64,
    pub ordinal: i64,
    pub peer_id: String,
    pub transport: Option<String>,
    pub router: String,
    pub connect_ms: Option<f64>,
    pub first_byte_ms: Option<f64>,
    pub bytes: i64,
    pub blocks: i64,
    pub duplicate_bytes: i64,
    pub hedges: i64,
    pub min_rtt_ms: Option<f64>,
    pub max_rate_bps: Option<f64>,
    pub outcome: String,
    pub error_kind: Option<String>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
