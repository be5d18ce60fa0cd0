//! `models`: A checkpoint whose retrieval or use was measured.

use sea_orm::entity::prelude::*;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "models")]
pub struct Model {
    #[sea_orm(primary_key)]
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

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
