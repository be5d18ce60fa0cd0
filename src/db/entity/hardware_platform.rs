//! `hardware_platforms`: A device that measured something: this machine, a GPU, a browser's adapter.

use sea_orm::entity::prelude::*;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "hardware_platforms")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub hardware_id: i64,
    pub hardware_type: String,
    pub device_name: Option<String>,
    pub compute_units: Option<i64>,
    pub memory_capacity: Option<i64>,
    pub driver_version: Option<String>,
    pub supported_precisions: Option<String>,
    pub max_batch_size: Option<i64>,
    pub detected_at: i64,
    pub os: Option<String>,
    pub arch: Option<String>,
    pub backend: Option<String>,
    pub is_simulated: bool,
    pub fingerprint: String,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
