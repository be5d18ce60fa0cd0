//! `content_items`: A root that was asked for: how often and how recently.

use sea_orm::entity::prelude::*;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "content_items")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub cid: String,
    pub size: Option<i64>,
    pub requests_decayed: f64,
    pub requests_total: i64,
    pub last_request: i64,
    pub providers_known: Option<i64>,
    pub replicas_wanted: Option<i64>,
    pub replicas_held: Option<i64>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
