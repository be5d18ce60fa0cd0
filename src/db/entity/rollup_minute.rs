//! `rollups_minute`: Exact counts of one minute of one process, by dimension: flushed from memory, never derived from rows.

use sea_orm::entity::prelude::*;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "rollups_minute")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub bucket_start: i64,
    pub bucket_width_s: i64,
    pub process: i64,
    pub dimension: String,
    pub value: String,
    pub rolled: bool,
    pub requests: i64,
    pub complete: i64,
    pub truncated: i64,
    pub client_aborted: i64,
    pub not_found: i64,
    pub timeout: i64,
    pub denied: i64,
    pub error: i64,
    pub hits_memory: i64,
    pub hits_disk: i64,
    pub hits_store: i64,
    pub partial: i64,
    pub misses: i64,
    pub bytes_served: i64,
    pub bytes_memory: i64,
    pub bytes_disk: i64,
    pub bytes_store: i64,
    pub bytes_partial: i64,
    pub bytes_miss: i64,
    pub bytes_network: i64,
    pub duplicate_bytes: i64,
    pub transfers_completed: i64,
    pub transfers_failed: i64,
    pub transfers_measured: i64,
    pub transfer_bytes: i64,
    pub transfer_time_us: i64,
    pub attempts_delivered: i64,
    pub attempts_failed: i64,
    pub attempts_neutral: i64,
    pub routed: i64,
    pub routed_slowly: i64,
    pub scored_transfers: i64,
    pub scored_time_us: i64,
    pub bound_time_us: i64,
    pub score_bytes: f64,
    pub score_sum: f64,
    pub ttfb_histogram: String,
    pub load_histogram: String,
    pub transfer_histogram: String,
    pub routing_histogram: String,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
