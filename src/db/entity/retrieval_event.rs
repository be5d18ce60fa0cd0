//! `retrieval_events`: One step of a sampled retrieval: what its waterfall is drawn from.

use sea_orm::entity::prelude::*;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "retrieval_events")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub result_id: i64,
    pub ordinal: i64,
    pub at_us: i64,
    pub kind: String,
    pub peer_id: Option<String>,
    pub cid: Option<String>,
    pub value: Option<i64>,
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
