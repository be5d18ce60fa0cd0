//! Measurements of other test tools: rows of `test_results` with what was measured in them. All of a batch, or nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, QueryFilter, QuerySelect,
    SqliteTransactionMode, TransactionOptions, TransactionTrait,
};
use serde::Serialize;

use super::entity::{acceleration_result, hardware_platform, model, test_result, webgpu_metric};
use super::{Database, DbError, DbState, rows};
use crate::ipld::Cid;
use crate::record::{CacheState, Origin, Outcome, Policy, Source};

/// The longest that an import may wait for the writer and write.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How far from its start an imported transfer's key may lie: keys are microseconds of the start and must be free.
const MAX_KEY_SHIFT: i64 = 100_000;

/// One test of a run: a row of `test_results`. `run_id` and `sequence` name it for ever.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub run_id: String,
    pub sequence: i64,
    pub at: SystemTime,
    pub test_type: String,
    pub status: String,
    pub success: bool,
    pub endpoint_type: Option<String>,
    pub error_message: Option<String>,
    /// Seconds.
    pub execution_time: Option<f64>,
    /// Bytes.
    pub memory_usage: Option<i64>,
    pub details: Option<serde_json::Value>,
    pub tool: Option<String>,
    pub git_commit: Option<String>,
    pub machine_fingerprint: Option<String>,
    pub model: Option<ModelFacts>,
    pub hardware: Option<HardwareFacts>,
    pub transfers: Vec<Transfer>,
    pub webgpu: Vec<WebGpu>,
}

/// A row of `models`; known by its name. What is `None` leaves what is stored as it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelFacts {
    pub model_name: String,
    pub model_family: Option<String>,
    pub model_type: Option<String>,
    pub model_size: Option<i64>,
    pub parameters_million: Option<f64>,
    pub cid: Option<String>,
    pub format: Option<String>,
}

/// A row of `hardware_platforms`; known by all that describes it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HardwareFacts {
    pub hardware_type: String,
    pub device_name: Option<String>,
    pub compute_units: Option<i64>,
    pub memory_capacity: Option<i64>,
    pub driver_version: Option<String>,
    pub supported_precisions: Option<String>,
    pub max_batch_size: Option<i64>,
    pub os: Option<String>,
    pub arch: Option<String>,
    pub backend: Option<String>,
    pub is_simulated: bool,
}

/// A row of `ipfs_acceleration_results`.
#[derive(Debug, Clone, PartialEq)]
pub struct Transfer {
    pub cid: Cid,
    pub path: Option<String>,
    pub started_at: SystemTime,
    pub finished_at: SystemTime,
    pub origin: Origin,
    pub policy: Policy,
    pub source: Option<Source>,
    pub scenario: Option<String>,
    /// Why it is no measurement of a real network; `None` when it is one.
    pub simulation_reason: Option<String>,
    pub outcome: Outcome,
    pub error_kind: Option<String>,
    pub cache_state: Option<CacheState>,
    pub transfer_time_ms: Option<f64>,
    pub load_time_ms: f64,
    pub ttfb_ms: Option<f64>,
    pub routing_ms: Option<f64>,
    pub connect_ms: Option<f64>,
    pub network_efficiency: Option<f64>,
    pub optimization_score: Option<f64>,
    pub bytes: i64,
    pub network_bytes: i64,
    pub blocks: i64,
    pub duplicate_bytes: i64,
    pub peer_count: i64,
    pub providers_found: i64,
    pub providers_attempted: i64,
}

/// A row of `webgpu_metrics`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WebGpu {
    pub browser_name: String,
    pub browser_version: Option<String>,
    pub workload: String,
    pub variant: Option<String>,
    pub compute_shaders_enabled: Option<bool>,
    pub shader_precompilation_enabled: Option<bool>,
    pub parallel_loading_enabled: Option<bool>,
    pub shader_compile_time_ms: Option<f64>,
    pub first_inference_time_ms: Option<f64>,
    pub subsequent_inference_time_ms: Option<f64>,
    pub pipeline_creation_time_ms: Option<f64>,
    pub workgroup_size: Option<String>,
    pub optimization_score: Option<f64>,
    pub os: Option<String>,
    pub adapter_vendor: Option<String>,
    pub adapter_architecture: Option<String>,
    pub is_fallback_adapter: Option<bool>,
    pub is_simulated: bool,
    pub samples: Option<i64>,
    pub p95_ms: Option<f64>,
    pub gpu_time_ms: Option<f64>,
    pub timer_resolution_ms: Option<f64>,
    pub max_error: Option<f64>,
    pub verified: bool,
    pub load_sequential_ms: Option<f64>,
    pub load_parallel_ms: Option<f64>,
    pub load_bytes: Option<i64>,
    pub load_streams: Option<i64>,
    pub cid: Option<String>,
}

/// What became of one test of the batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Imported {
    pub run_id: String,
    pub sequence: i64,
    /// The key in `test_results`.
    pub id: i64,
    /// False: it had been there, and was left as it is.
    pub created: bool,
}

impl Database {
    /// Stores a batch in one transaction. A test whose `run_id` and `sequence` are known is left as it is, so that a
    /// batch can be sent again.
    ///
    /// # Errors
    /// When the database is away, busy for 30 s, or refuses a row; then nothing of the batch is stored.
    pub async fn import(&self, batch: &[Measured]) -> Result<Vec<Imported>, DbError> {
        let writer = self.shared.direct.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let writer = writer.ok_or_else(|| match self.state() {
            DbState::Down { reason, since } => DbError::Down { reason, since },
            DbState::Up { since, .. } => DbError::Down { reason: "it is open for reading only".to_owned(), since },
        })?;
        match tokio::time::timeout(TIMEOUT, store(&writer, batch)).await {
            Ok(stored) => Ok(stored?),
            Err(_) => Err(DbError::Timeout(TIMEOUT)),
        }
    }
}

async fn store(db: &DatabaseConnection, batch: &[Measured]) -> Result<Vec<Imported>, DbErr> {
    let sqlite = db.get_database_backend() == DbBackend::Sqlite;
    let options = TransactionOptions {
        sqlite_transaction_mode: sqlite.then_some(SqliteTransactionMode::Immediate),
        ..Default::default()
    };
    let txn = db.begin_with_options(options).await?;
    let mut hardware: BTreeMap<String, i64> = BTreeMap::new();
    let mut models: BTreeMap<&str, i64> = BTreeMap::new();
    let mut imported = Vec::with_capacity(batch.len());
    for test in batch {
        let hardware_id = match &test.hardware {
            Some(facts) => {
                let key = facts.fingerprint();
                match hardware.get(&key) {
                    Some(id) => Some(*id),
                    None => Some(*hardware.entry(key).or_insert(platform(&txn, facts, test.at).await?)),
                }
            }
            None => None,
        };
        let model_id = match &test.model {
            Some(facts) => match models.get(facts.model_name.as_str()) {
                Some(id) => Some(*id),
                None => Some(*models.entry(&facts.model_name).or_insert(known_model(&txn, facts, test.at).await?)),
            },
            None => None,
        };
        let (id, created) = test_row(&txn, test, model_id, hardware_id).await?;
        if created {
            transfers(&txn, test, id, model_id, hardware_id).await?;
            webgpu(&txn, test, id).await?;
        }
        imported.push(Imported { run_id: test.run_id.clone(), sequence: test.sequence, id, created });
    }
    txn.commit().await?;
    Ok(imported)
}

impl HardwareFacts {
    /// The same device described the same way is one row.
    fn fingerprint(&self) -> String {
        let number = |n: Option<i64>| n.map_or("-".to_owned(), |n| n.to_string());
        let text = |t: &Option<String>| t.clone().unwrap_or_else(|| "-".to_owned());
        [
            "imported".to_owned(),
            self.hardware_type.clone(),
            text(&self.device_name),
            number(self.compute_units),
            number(self.memory_capacity),
            text(&self.driver_version),
            text(&self.os),
            text(&self.arch),
            text(&self.backend),
            self.is_simulated.to_string(),
        ]
        .join("|")
    }
}

async fn platform(db: &impl ConnectionTrait, facts: &HardwareFacts, at: SystemTime) -> Result<i64, DbErr> {
    use hardware_platform::Column;
    let fingerprint = facts.fingerprint();
    let row = hardware_platform::ActiveModel {
        hardware_type: Set(facts.hardware_type.clone()),
        device_name: Set(facts.device_name.clone()),
        compute_units: Set(facts.compute_units),
        memory_capacity: Set(facts.memory_capacity),
        driver_version: Set(facts.driver_version.clone()),
        supported_precisions: Set(facts.supported_precisions.clone()),
        max_batch_size: Set(facts.max_batch_size),
        detected_at: Set(rows::micros(at)),
        os: Set(facts.os.clone()),
        arch: Set(facts.arch.clone()),
        backend: Set(facts.backend.clone()),
        is_simulated: Set(facts.is_simulated),
        fingerprint: Set(fingerprint.clone()),
        ..Default::default()
    };
    let known = OnConflict::column(Column::Fingerprint).update_column(Column::DetectedAt).to_owned();
    hardware_platform::Entity::insert(row).on_conflict(known).exec_without_returning(db).await?;
    let id = hardware_platform::Entity::find()
        .select_only()
        .column(Column::HardwareId)
        .filter(Column::Fingerprint.eq(fingerprint))
        .into_tuple()
        .one(db)
        .await?;
    id.ok_or_else(|| DbErr::RecordNotFound("the hardware that was just stored".to_owned()))
}

async fn known_model(db: &impl ConnectionTrait, facts: &ModelFacts, at: SystemTime) -> Result<i64, DbErr> {
    use model::Column;
    let row = model::ActiveModel {
        model_name: Set(facts.model_name.clone()),
        model_family: Set(facts.model_family.clone()),
        model_type: Set(facts.model_type.clone()),
        model_size: Set(facts.model_size),
        parameters_million: Set(facts.parameters_million),
        added_at: Set(rows::micros(at)),
        cid: Set(facts.cid.clone()),
        format: Set(facts.format.clone()),
        ..Default::default()
    };
    let mut known = OnConflict::column(Column::ModelName);
    for latest in ["model_family", "model_type", "model_size", "parameters_million", "cid", "format"] {
        known.value(latest, Expr::cust(format!("COALESCE(excluded.{latest}, models.{latest})")));
    }
    model::Entity::insert(row).on_conflict(known).exec_without_returning(db).await?;
    let id = model::Entity::find()
        .select_only()
        .column(Column::ModelId)
        .filter(Column::ModelName.eq(facts.model_name.as_str()))
        .into_tuple()
        .one(db)
        .await?;
    id.ok_or_else(|| DbErr::RecordNotFound("the model that was just stored".to_owned()))
}

/// The key of the test, and whether it is new.
async fn test_row(
    db: &impl ConnectionTrait,
    test: &Measured,
    model_id: Option<i64>,
    hardware_id: Option<i64>,
) -> Result<(i64, bool), DbErr> {
    use test_result::Column;
    let date = humantime::format_rfc3339_seconds(test.at).to_string();
    let row = test_result::ActiveModel {
        timestamp: Set(rows::micros(test.at)),
        test_date: Set(date.get(..10).unwrap_or(&date).to_owned()),
        status: Set(test.status.clone()),
        test_type: Set(test.test_type.clone()),
        model_id: Set(model_id),
        hardware_id: Set(hardware_id),
        endpoint_type: Set(test.endpoint_type.clone()),
        success: Set(test.success),
        error_message: Set(test.error_message.clone()),
        execution_time: Set(test.execution_time),
        memory_usage: Set(test.memory_usage),
        details: Set(test.details.clone()),
        run_id: Set(test.run_id.clone()),
        sequence: Set(test.sequence),
        tool: Set(test.tool.clone()),
        git_commit: Set(test.git_commit.clone()),
        machine_fingerprint: Set(test.machine_fingerprint.clone()),
        ..Default::default()
    };
    let unique = OnConflict::columns([Column::RunId, Column::Sequence]).do_nothing().to_owned();
    let inserted = test_result::Entity::insert(row).on_conflict(unique).exec_without_returning(db).await?;
    let id = test_result::Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::RunId.eq(test.run_id.as_str()))
        .filter(Column::Sequence.eq(test.sequence))
        .into_tuple()
        .one(db)
        .await?;
    let id = id.ok_or_else(|| DbErr::RecordNotFound("the test that was just stored".to_owned()))?;
    Ok((id, inserted > 0))
}

async fn transfers(
    db: &impl ConnectionTrait,
    test: &Measured,
    test_id: i64,
    model_id: Option<i64>,
    hardware_id: Option<i64>,
) -> Result<(), DbErr> {
    let Some(first) = test.transfers.iter().map(|t| rows::micros(t.started_at)).min() else { return Ok(()) };
    let last = test.transfers.iter().map(|t| rows::micros(t.started_at)).max().unwrap_or(first);
    use acceleration_result::Column;
    let taken: Vec<i64> = acceleration_result::Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::Id.gte(first))
        .filter(Column::Id.lte(last.saturating_add(MAX_KEY_SHIFT)))
        .into_tuple()
        .all(db)
        .await?;
    let mut taken: HashSet<i64> = taken.into_iter().collect();
    let mut found = Vec::with_capacity(test.transfers.len());
    for transfer in &test.transfers {
        let started = rows::micros(transfer.started_at);
        let free = (started..started.saturating_add(MAX_KEY_SHIFT)).find(|id| !taken.contains(id));
        let id = free.ok_or_else(|| DbErr::Custom("too many results of one moment".to_owned()))?;
        taken.insert(id);
        found.push(transfer_row(transfer, id, test_id, model_id, hardware_id));
    }
    for chunk in found.chunks(500) {
        acceleration_result::Entity::insert_many(chunk.to_vec()).exec_without_returning(db).await?;
    }
    Ok(())
}

fn transfer_row(
    t: &Transfer,
    id: i64,
    test_id: i64,
    model_id: Option<i64>,
    hardware_id: Option<i64>,
) -> acceleration_result::ActiveModel {
    let cid = rows::canonical(&t.cid);
    acceleration_result::ActiveModel {
        id: Set(id),
        test_id: Set(Some(test_id)),
        model_id: Set(model_id),
        path: Set(t.path.clone().unwrap_or_else(|| format!("/ipfs/{cid}"))),
        cid: Set(cid),
        source: Set(t.source.map(|source| source.as_str().to_owned())),
        transfer_time_ms: Set(t.transfer_time_ms),
        p2p_optimized: Set(t.policy == Policy::Optimized),
        peer_count: Set(t.peer_count),
        network_efficiency: Set(t.network_efficiency),
        optimization_score: Set(t.optimization_score),
        load_time_ms: Set(t.load_time_ms),
        test_timestamp: Set(rows::micros(t.finished_at)),
        started_at: Set(rows::micros(t.started_at)),
        origin: Set(t.origin.as_str().to_owned()),
        is_simulated: Set(t.simulation_reason.is_some()),
        simulation_reason: Set(t.simulation_reason.clone()),
        sample_weight: Set(1.0),
        policy: Set(t.policy.as_str().to_owned()),
        scenario: Set(t.scenario.clone()),
        bytes: Set(t.bytes),
        network_bytes: Set(t.network_bytes),
        blocks: Set(t.blocks),
        duplicate_bytes: Set(t.duplicate_bytes),
        ttfb_ms: Set(t.ttfb_ms),
        routing_ms: Set(t.routing_ms),
        connect_ms: Set(t.connect_ms),
        providers_found: Set(t.providers_found),
        providers_attempted: Set(t.providers_attempted),
        outcome: Set(t.outcome.as_str().to_owned()),
        error_kind: Set(t.error_kind.clone()),
        phase: Set(None),
        http_status: Set(None),
        cache_state: Set(t.cache_state.map(|state| state.as_str().to_owned())),
        hardware_id: Set(hardware_id),
        events_dropped: Set(0),
    }
}

async fn webgpu(db: &impl ConnectionTrait, test: &Measured, test_id: i64) -> Result<(), DbErr> {
    let rows = test.webgpu.iter().map(|w| webgpu_metric::ActiveModel {
        test_id: Set(Some(test_id)),
        browser_name: Set(w.browser_name.clone()),
        browser_version: Set(w.browser_version.clone()),
        compute_shaders_enabled: Set(w.compute_shaders_enabled),
        shader_precompilation_enabled: Set(w.shader_precompilation_enabled),
        parallel_loading_enabled: Set(w.parallel_loading_enabled),
        shader_compile_time_ms: Set(w.shader_compile_time_ms),
        first_inference_time_ms: Set(w.first_inference_time_ms),
        subsequent_inference_time_ms: Set(w.subsequent_inference_time_ms),
        pipeline_creation_time_ms: Set(w.pipeline_creation_time_ms),
        workgroup_size: Set(w.workgroup_size.clone()),
        optimization_score: Set(w.optimization_score),
        test_timestamp: Set(rows::micros(test.at)),
        workload: Set(w.workload.clone()),
        variant: Set(w.variant.clone()),
        origin: Set(Origin::Imported.as_str().to_owned()),
        os: Set(w.os.clone()),
        adapter_vendor: Set(w.adapter_vendor.clone()),
        adapter_architecture: Set(w.adapter_architecture.clone()),
        is_fallback_adapter: Set(w.is_fallback_adapter),
        is_simulated: Set(w.is_simulated),
        samples: Set(w.samples),
        p95_ms: Set(w.p95_ms),
        gpu_time_ms: Set(w.gpu_time_ms),
        timer_resolution_ms: Set(w.timer_resolution_ms),
        max_error: Set(w.max_error),
        verified: Set(w.verified),
        load_sequential_ms: Set(w.load_sequential_ms),
        load_parallel_ms: Set(w.load_parallel_ms),
        load_bytes: Set(w.load_bytes),
        load_streams: Set(w.load_streams),
        cid: Set(w.cid.clone()),
        ..Default::default()
    });
    let rows: Vec<_> = rows.collect();
    for chunk in rows.chunks(500) {
        webgpu_metric::Entity::insert_many(chunk.to_vec()).exec_without_returning(db).await?;
    }
    Ok(())
}
