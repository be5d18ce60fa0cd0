//! Runs of test tools and what they measured: what reports and the read side of the import are made of.

use std::collections::BTreeMap;

use sea_orm::{
    ColumnTrait, DbBackend, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select,
    Statement,
};
use serde::Serialize;

use super::{MAX_LIMIT, Window};
use crate::db::entity::{acceleration_result as result, test_result, webgpu_metric};
use crate::db::{Database, DbError};
use crate::record::Origin;

/// The newest tests that the list of runs is made of.
const MAX_TESTS: u64 = 10_000;
/// The newest transfers that a report is made of.
pub const MAX_TRANSFERS: u64 = 20_000;
/// The newest rows of the lab that a report is made of.
pub const MAX_WEBGPU: u64 = 10_000;

/// A row of `test_results`.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult, utoipa::ToSchema)]
pub struct TestRow {
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
    /// Seconds.
    pub execution_time: Option<f64>,
    /// Bytes.
    pub memory_usage: Option<i64>,
    pub details: Option<serde_json::Value>,
    pub run_id: String,
    pub sequence: i64,
    pub tool: Option<String>,
    pub git_commit: Option<String>,
    pub machine_fingerprint: Option<String>,
}

/// A run of a test tool: its tests taken together.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct RunRow {
    pub run_id: String,
    pub first_us: i64,
    pub last_us: i64,
    pub tests: u64,
    pub failed: u64,
    /// In the order of the alphabet.
    pub test_types: Vec<String>,
    pub tool: Option<String>,
    pub git_commit: Option<String>,
    pub machine_fingerprint: Option<String>,
}

/// What a report needs of a transfer.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult)]
pub struct TransferRow {
    pub id: i64,
    pub test_id: Option<i64>,
    pub cid: String,
    pub origin: String,
    pub policy: String,
    pub scenario: Option<String>,
    pub is_simulated: bool,
    pub simulation_reason: Option<String>,
    pub outcome: String,
    pub cache_state: Option<String>,
    pub bytes: i64,
    pub network_bytes: i64,
    pub duplicate_bytes: i64,
    pub providers_found: i64,
    pub transfer_time_ms: Option<f64>,
    pub load_time_ms: f64,
    pub ttfb_ms: Option<f64>,
    pub network_efficiency: Option<f64>,
    pub optimization_score: Option<f64>,
    pub test_timestamp: i64,
    pub hardware_id: Option<i64>,
}

/// A row of `webgpu_metrics`, its key and hashes left out.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult)]
pub struct WebGpuRow {
    pub test_id: Option<i64>,
    pub browser_name: String,
    pub browser_version: Option<String>,
    pub compute_shaders_enabled: Option<bool>,
    pub shader_precompilation_enabled: Option<bool>,
    pub parallel_loading_enabled: Option<bool>,
    pub shader_compile_time_ms: Option<f64>,
    pub first_inference_time_ms: Option<f64>,
    pub subsequent_inference_time_ms: Option<f64>,
    pub pipeline_creation_time_ms: Option<f64>,
    pub workgroup_size: Option<String>,
    pub optimization_score: Option<f64>,
    pub test_timestamp: i64,
    pub workload: String,
    pub variant: Option<String>,
    pub origin: String,
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
}

/// Which tests to list; `None` is any.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TestFilter {
    pub run_id: Option<String>,
    pub test_type: Option<String>,
}

impl Database {
    /// Tests, the newest key first, from `cursor` (a key) on; `limit` is 1 to [`MAX_LIMIT`].
    pub async fn tests(
        &self,
        filter: &TestFilter,
        cursor: Option<i64>,
        limit: u32,
    ) -> Result<super::Page<TestRow>, DbError> {
        let limit = limit.clamp(1, MAX_LIMIT);
        let query = tests(filter, cursor, u64::from(limit) + 1);
        let mut items = self.read(|db| async move { query.into_model::<TestRow>().all(&db).await }).await?;
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| more).map(|row| row.id);
        Ok(super::Page { items, next })
    }

    /// Tests of a window, the newest first, at most 10,000.
    pub async fn tests_of(&self, window: Window, run: Option<&str>) -> Result<Vec<TestRow>, DbError> {
        let query = tests_of(window, run);
        self.read(|db| async move { query.into_model().all(&db).await }).await
    }

    /// Runs that have a test in the window, the newest first; made of its newest 10,000 tests.
    pub async fn runs(&self, window: Window, limit: usize) -> Result<Vec<RunRow>, DbError> {
        let mut runs = runs_of(&self.tests_of(window, None).await?);
        runs.truncate(limit);
        Ok(runs)
    }

    /// Transfers of an origin, the newest first, at most 20,000. Live rows: cold or not, complete or not.
    pub async fn transfers_of(&self, origin: Origin, window: Window) -> Result<Vec<TransferRow>, DbError> {
        let query = transfers(origin, window);
        self.read(|db| async move { query.into_model().all(&db).await }).await
    }

    /// Rows of the lab in a window, the newest first, at most 10,000.
    pub async fn webgpu_of(&self, window: Window) -> Result<Vec<WebGpuRow>, DbError> {
        let query = webgpu(window);
        self.read(|db| async move { query.into_model().all(&db).await }).await
    }
}

/// Tests taken together by run, the run with the newest test first.
pub fn runs_of(tests: &[TestRow]) -> Vec<RunRow> {
    let mut runs: BTreeMap<&str, RunRow> = BTreeMap::new();
    for test in tests {
        let run = runs.entry(&test.run_id).or_insert_with(|| RunRow {
            run_id: test.run_id.clone(),
            first_us: test.timestamp,
            last_us: test.timestamp,
            tests: 0,
            failed: 0,
            test_types: Vec::new(),
            tool: None,
            git_commit: None,
            machine_fingerprint: None,
        });
        run.first_us = run.first_us.min(test.timestamp);
        run.last_us = run.last_us.max(test.timestamp);
        run.tests += 1;
        run.failed += u64::from(!test.success);
        if let Err(at) = run.test_types.binary_search(&test.test_type) {
            run.test_types.insert(at, test.test_type.clone());
        }
        run.tool = run.tool.take().or_else(|| test.tool.clone());
        run.git_commit = run.git_commit.take().or_else(|| test.git_commit.clone());
        run.machine_fingerprint = run.machine_fingerprint.take().or_else(|| test.machine_fingerprint.clone());
    }
    let mut runs: Vec<RunRow> = runs.into_values().collect();
    runs.sort_by(|a, b| b.last_us.cmp(&a.last_us).then_with(|| a.run_id.cmp(&b.run_id)));
    runs
}

fn tests(filter: &TestFilter, cursor: Option<i64>, limit: u64) -> Select<test_result::Entity> {
    use test_result::Column::{Id, RunId, TestType};
    test_result::Entity::find()
        .filter(Id.lt(cursor.unwrap_or(i64::MAX)))
        .apply_if(filter.run_id.clone(), |query, run| query.filter(RunId.eq(run)))
        .apply_if(filter.test_type.clone(), |query, kind| query.filter(TestType.eq(kind)))
        .order_by_desc(Id)
        .limit(limit)
}

fn tests_of(window: Window, run: Option<&str>) -> Select<test_result::Entity> {
    use test_result::Column::{RunId, Timestamp};
    test_result::Entity::find()
        .filter(Timestamp.gte(window.since_us))
        .filter(Timestamp.lt(window.until_us))
        .apply_if(run, |query, run| query.filter(RunId.eq(run)))
        .order_by_desc(Timestamp)
        .limit(MAX_TESTS)
}

fn transfers(origin: Origin, window: Window) -> Select<result::Entity> {
    use result::Column::{Id, Origin, TestTimestamp};
    // A key is the start in microseconds: what ended within the window began before its end. The newest keys first.
    result::Entity::find()
        .filter(Origin.eq(origin.as_str()))
        .filter(Id.lt(window.until_us))
        .filter(TestTimestamp.gte(window.since_us))
        .filter(TestTimestamp.lt(window.until_us))
        .order_by_desc(Id)
        .limit(MAX_TRANSFERS)
}

fn webgpu(window: Window) -> Select<webgpu_metric::Entity> {
    use webgpu_metric::Column::TestTimestamp;
    webgpu_metric::Entity::find()
        .filter(TestTimestamp.gte(window.since_us))
        .filter(TestTimestamp.lt(window.until_us))
        .order_by_desc(TestTimestamp)
        .limit(MAX_WEBGPU)
}

pub(super) fn statements(backend: DbBackend) -> Vec<(&'static str, Statement)> {
    let window = Window { since_us: 1, until_us: 2 };
    let of = |run_id: Option<&str>, test_type: Option<&str>| {
        let own = |text: Option<&str>| text.map(str::to_owned);
        tests(&TestFilter { run_id: own(run_id), test_type: own(test_type) }, Some(9), 50).build(backend)
    };
    vec![
        ("newest tests", of(None, None)),
        ("tests of a window", tests_of(window, None).build(backend)),
        ("transfers of an origin", transfers(Origin::Bench, window).build(backend)),
        ("rows of the lab", webgpu(window).build(backend)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_taken_together_by_run() {
        let test = |run: &str, timestamp, kind: &str, success| TestRow {
            id: 1,
            timestamp,
            test_date: "2026-11-23".to_owned(),
            status: "done".to_owned(),
            test_type: kind.to_owned(),
            model_id: None,
            hardware_id: None,
            endpoint_type: None,
            success,
            error_message: None,
            execution_time: None,
            memory_usage: None,
            details: None,
            run_id: run.to_owned(),
            sequence: 1,
            tool: None,
            git_commit: None,
            machine_fingerprint: None,
        };
        let runs = runs_of(&[test("b", 9, "x", true), test("a", 8, "y", false), test("b", 2, "w", true)]);
        assert_eq!((runs[0].run_id.as_str(), runs[0].tests, runs[0].first_us, runs[0].last_us), ("b", 2, 2, 9));
        assert_eq!((runs[0].test_types.join(" "), runs[1].failed), ("w x".to_owned(), 1));
    }
}
