//! `test_results`: One run of a test tool: a bench, an import, a browser submission.

use sea_orm::entity::prelude::*;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "test_results")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub timestamp: i64,
    pub test_date: String,
    pub status: String,
    pub test_type: String,
    pub model_id: Option<i64>,
    pub hardware_id: Option<i64>,
    pub endpoint_type: Option<String>,
    pub success: bool,
    pub error_message: Option<String>,
    pub execution_time: Option<f64>,
    pub memory_usage: Option<i64>,
    pub details: Option<Json>,
    pub run_id: String,
    pub sequence: i64,
    pub tool: Option<String>,
    pub git_commit: Option<String>,
    pub machine_fingerprint: Option<String>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
