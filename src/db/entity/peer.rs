//! `peers`: What is known of a peer: the ledger's copy for pages.

use sea_orm::entity::prelude::*;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "peers")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub peer_id: String,
    pub agent: Option<String>,
    pub protocols: Option<String>,
    pub addrs: Option<String>,
    pub first_seen: i64,
    pub last_seen: i64,
    pub connected: bool,
    pub transport: Option<String>,
    pub rtt_ms: Option<f64>,
    pub rate_bps: Option<f64>,
    pub bytes_in: i64,
    pub bytes_out: Option<i64>,
    pub blocks_in: i64,
    pub attempts: i64,
    pub delivered: i64,
    pub failures: i64,
    pub strikes: i64,
    pub coordinates: Option<String>,
    pub source: Option<String>,
    pub region_cluster: Option<String>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
