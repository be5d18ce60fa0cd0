//! `peer_links`: An observed edge between two peers; `a` sorts before `b`.

use sea_orm::entity::prelude::*;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "peer_links")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub a: String,
    pub b: String,
    pub kind: String,
    pub rtt_ms: Option<f64>,
    pub rate_bps: Option<f64>,
    pub observed_by: Option<String>,
    pub first_seen: i64,
    pub last_seen: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
