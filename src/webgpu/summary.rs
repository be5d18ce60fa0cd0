//! What the rows say, by browser, version and adapter: the newest run of each that measured something.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use utoipa::ToSchema;

use crate::db::queries::{LabRow, LabRunRow, ModelRow, Window};
use crate::db::{Database, DbError};

/// Rows older than this are not shown; retention may remove them earlier.
const WINDOW: Duration = Duration::from_secs(90 * 24 * 3600);
/// Runs that are listed one by one.
const RUNS: u32 = 50;

/// The answer of `GET /api/v1/webgpu/summary`, and what the page shows.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = LabSummary)]
pub struct Summary {
    /// One for each browser, version, origin, system and adapter; the newest first.
    pub platforms: Vec<Platform>,
    /// The newest runs, failed ones too.
    pub runs: Vec<Run>,
    /// Models that the lab loaded, the newest first.
    pub models: Vec<ModelRow>,
}

/// One run as a line.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = LabSummaryRun)]
pub struct Run {
    pub id: i64,
    pub submission_id: String,
    pub timestamp_us: i64,
    pub browser_name: String,
    pub browser_version: Option<String>,
    pub origin: String,
    pub is_simulated: bool,
    /// `complete`, or the kind of failure.
    pub status: String,
    pub success: bool,
    pub error: Option<String>,
    pub duration_ms: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = LabSummaryPlatform)]
pub struct Platform {
    pub browser_name: String,
    pub browser_version: Option<String>,
    pub origin: String,
    pub os: Option<String>,
    pub adapter_vendor: Option<String>,
    pub adapter_architecture: Option<String>,
    pub is_fallback_adapter: Option<bool>,
    /// A software adapter: its times say nothing about a GPU.
    pub is_simulated: bool,
    /// Runs in the window.
    pub runs: usize,
    pub latest_us: i64,
    /// How the newest run failed; `None` when it did not.
    pub failure: Option<String>,
    pub compute_shaders_enabled: Option<bool>,
    pub timer_resolution_ms: Option<f64>,
    pub workloads: Vec<WorkloadResult>,
    pub compile: Vec<LabRow>,
    /// First inference with pipelines made before, and made at first use.
    pub precompiled: Option<LabRow>,
    pub on_demand: Option<LabRow>,
    pub loads: Option<Loads>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = LabSummaryWorkloadResult)]
pub struct WorkloadResult {
    pub workload: String,
    /// The fastest verified shape.
    pub best: Option<String>,
    pub variants: Vec<Variant>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = LabSummaryVariant)]
pub struct Variant {
    pub workgroup: String,
    pub median_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub gpu_ms: Option<f64>,
    pub first_ms: Option<f64>,
    pub pipeline_ms: Option<f64>,
    pub samples: Option<i64>,
    pub max_error: Option<f64>,
    pub verified: bool,
    pub score: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = LabSummaryLoads)]
pub struct Loads {
    pub cid: Option<String>,
    pub passes: Vec<Pass>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = LabSummaryPass)]
pub struct Pass {
    /// `files` or `ranges`, and `first` or `warm`.
    pub variant: String,
    pub streams: i64,
    pub bytes: Option<i64>,
    /// Until all shards were on the GPU.
    pub all_ms: Option<f64>,
    /// Until the first was.
    pub first_shard_ms: Option<f64>,
    /// The same with one stream.
    pub sequential_ms: Option<f64>,
    pub verified: bool,
}

/// The window that is shown.
pub fn window(now: SystemTime) -> Window {
    Window::last(WINDOW, now)
}

/// Reads it.
pub async fn load(db: &Database, now: SystemTime) -> Result<Summary, DbError> {
    let (rows, runs) = (db.lab_rows(window(now)).await?, db.lab_runs(RUNS).await?);
    Ok(summarise(&rows, &runs, db.models(20).await?))
}

/// Pure. `rows` and `runs` are the newest first; rows of one run stand in the order they were measured in.
pub fn summarise(rows: &[LabRow], runs: &[LabRunRow], models: Vec<ModelRow>) -> Summary {
    let mut order: Vec<String> = Vec::new();
    let mut by_platform: HashMap<String, Vec<&LabRow>> = HashMap::new();
    for row in rows {
        let key = key(row);
        by_platform
            .entry(key.clone())
            .or_insert_with(|| {
                order.push(key);
                Vec::new()
            })
            .push(row);
    }
    let platforms = order.iter().filter_map(|key| platform(by_platform.get(key)?, runs)).collect();
    let heads: HashMap<Option<&str>, &LabRow> =
        rows.iter().rev().map(|row| (row.submission_id.as_deref(), row)).collect();
    let runs = runs.iter().map(|run| line(run, heads.get(&Some(run.run_id.as_str())).copied())).collect();
    Summary { platforms, runs, models }
}

fn key(row: &LabRow) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    [
        row.browser_name.clone(),
        text(&row.browser_version),
        row.origin.clone(),
        text(&row.os),
        text(&row.adapter_vendor),
        text(&row.adapter_architecture),
        row.is_simulated.to_string(),
    ]
    .join("\n")
}

/// Rows of the run itself may be gone already: then the submission tells who it was.
fn line(run: &LabRunRow, row: Option<&LabRow>) -> Run {
    let said = |pointer: &str| run.details.as_ref()?.pointer(pointer)?.as_str().map(str::to_owned);
    Run {
        id: run.id,
        submission_id: run.run_id.clone(),
        timestamp_us: run.timestamp,
        browser_name: said("/browser/name").or_else(|| Some(row?.browser_name.clone())).unwrap_or_default(),
        browser_version: said("/browser/version"),
        origin: run.endpoint_type.clone().unwrap_or_default(),
        is_simulated: row.is_some_and(|row| row.is_simulated),
        status: run.status.clone(),
        success: run.success,
        error: run.error_message.clone(),
        duration_ms: run.execution_time.map(|seconds| seconds * 1e3),
    }
}

fn platform(rows: &[&LabRow], runs: &[LabRunRow]) -> Option<Platform> {
    let newest = rows.first()?;
    let mut submissions: Vec<Option<&str>> = Vec::new();
    for row in rows {
        if !submissions.contains(&row.submission_id.as_deref()) {
            submissions.push(row.submission_id.as_deref());
        }
    }
    let of = |id: Option<&str>| -> Vec<&LabRow> {
        rows.iter().copied().filter(|row| row.submission_id.as_deref() == id).collect()
    };
    // A whole run before one that broke off; that before none.
    let good = |id: &Option<&str>| of(*id).iter().any(|row| row.verified);
    let whole = |id: &Option<&str>| good(id) && of(*id).iter().all(|row| row.workload != "detect");
    let measured = submissions.iter().find(|id| whole(id)).or_else(|| submissions.iter().find(|id| good(id))).copied();
    let shown = of(measured.unwrap_or(newest.submission_id.as_deref()));
    let head = shown.first()?;
    let failure = of(newest.submission_id.as_deref()).into_iter().find(|row| row.workload == "detect");
    let details = runs.iter().find(|run| Some(run.run_id.as_str()) == head.submission_id.as_deref());
    let start = |precompiled: bool| {
        let row = shown.iter().find(|r| r.workload == "start" && r.shader_precompilation_enabled == Some(precompiled));
        row.map(|row| (*row).clone())
    };
    Some(Platform {
        browser_name: head.browser_name.clone(),
        browser_version: head.browser_version.clone(),
        origin: head.origin.clone(),
        os: head.os.clone(),
        adapter_vendor: head.adapter_vendor.clone(),
        adapter_architecture: head.adapter_architecture.clone(),
        is_fallback_adapter: head.is_fallback_adapter,
        is_simulated: head.is_simulated,
        runs: submissions.len(),
        latest_us: newest.test_timestamp,
        failure: failure.and_then(|row| row.variant.clone()),
        compute_shaders_enabled: head.compute_shaders_enabled,
        timer_resolution_ms: head.timer_resolution_ms,
        workloads: super::Workload::ALL.iter().filter_map(|w| workload(w.as_str(), &shown)).collect(),
        compile: shown.iter().filter(|row| row.workload == "compile").map(|row| (*row).clone()).collect(),
        precompiled: start(true),
        on_demand: start(false),
        loads: loads(&shown, details),
    })
}

fn workload(name: &str, rows: &[&LabRow]) -> Option<WorkloadResult> {
    let rows: Vec<&&LabRow> = rows.iter().filter(|row| row.workload == name).collect();
    let measured =
        |row: &&LabRow| Some((row.verified.then_some(row.subsequent_inference_time_ms)??, row.variant.clone()?));
    let best = rows.iter().filter_map(|row| measured(row)).min_by(|a, b| a.0.total_cmp(&b.0)).map(|best| best.1);
    let variants = rows.iter().map(|row| Variant {
        workgroup: row.workgroup_size.clone().unwrap_or_default(),
        median_ms: row.subsequent_inference_time_ms,
        p95_ms: row.p95_ms,
        gpu_ms: row.gpu_time_ms,
        first_ms: row.first_inference_time_ms,
        pipeline_ms: row.pipeline_creation_time_ms,
        samples: row.samples,
        max_error: row.max_error,
        verified: row.verified,
        score: row.optimization_score,
    });
    (!rows.is_empty()).then(|| WorkloadResult { workload: name.to_owned(), best, variants: variants.collect() })
}

fn loads(rows: &[&LabRow], run: Option<&LabRunRow>) -> Option<Loads> {
    let rows: Vec<&&LabRow> = rows.iter().filter(|row| row.workload == "load").collect();
    let cid = rows.first()?.cid.clone();
    // The time of the first shard has no column; the submission keeps it, in the order of the rows.
    let said = run.and_then(|run| run.details.as_ref()?.pointer("/load/passes")?.as_array());
    let passes = rows.iter().enumerate().map(|(at, row)| Pass {
        variant: row.variant.clone().unwrap_or_default(),
        streams: row.load_streams.unwrap_or(1),
        bytes: row.load_bytes,
        all_ms: row.load_parallel_ms.or(row.load_sequential_ms),
        first_shard_ms: said.and_then(|passes| passes.get(at)?.get("first_on_gpu_ms")?.as_f64()),
        sequential_ms: row.load_sequential_ms,
        verified: row.verified,
    });
    Some(Loads { cid, passes: passes.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, submission: &str, workload: &str, variant: &str, median: Option<f64>) -> LabRow {
        LabRow {
            id,
            test_id: None,
            browser_name: "Firefox".into(),
            browser_version: Some("153".into()),
            compute_shaders_enabled: Some(true),
            shader_precompilation_enabled: Some(true),
            parallel_loading_enabled: None,
            shader_compile_time_ms: None,
            first_inference_time_ms: None,
            subsequent_inference_time_ms: median,
            pipeline_creation_time_ms: None,
            workgroup_size: Some(variant.into()),
            optimization_score: None,
            test_timestamp: id,
            workload: workload.into(),
            variant: Some(variant.into()),
            origin: "browser".into(),
            os: None,
            adapter_vendor: None,
            adapter_architecture: None,
            is_fallback_adapter: Some(true),
            is_simulated: true,
            samples: Some(10),
            p95_ms: median,
            gpu_time_ms: None,
            timer_resolution_ms: None,
            max_error: Some(1e-3),
            verified: median.is_some(),
            load_sequential_ms: None,
            load_parallel_ms: None,
            load_bytes: None,
            load_streams: None,
            cid: None,
            submission_id: Some(submission.into()),
        }
    }

    #[test]
    fn the_best_shape_is_the_fastest_verified_one() {
        let mut rows = vec![
            row(1, "a", "log-mel", "64x1x1", Some(60.0)),
            row(2, "a", "log-mel", "128x1x1", Some(40.0)),
            row(3, "a", "log-mel", "256x1x1", Some(20.0)),
        ];
        rows[2].verified = false;
        let summary = summarise(&rows, &[], Vec::new());
        assert_eq!(summary.platforms.len(), 1);
        assert_eq!(summary.platforms[0].workloads[0].best.as_deref(), Some("128x1x1"));
        assert!(summary.platforms[0].is_simulated);
    }

    #[test]
    fn a_failed_newest_run_is_told_and_the_last_good_one_still_shown() {
        let rows = vec![row(9, "new", "detect", "device-lost", None), row(1, "old", "log-mel", "64x1x1", Some(60.0))];
        let summary = summarise(&rows, &[], Vec::new());
        let platform = &summary.platforms[0];
        assert_eq!(platform.failure.as_deref(), Some("device-lost"));
        assert_eq!(platform.runs, 2);
        assert_eq!(platform.workloads[0].variants[0].median_ms, Some(60.0));
    }

    #[test]
    fn a_run_that_broke_off_does_not_hide_a_whole_one() {
        let rows = vec![
            row(9, "new", "detect", "device-lost", None),
            row(8, "new", "start", "precompiled", Some(5.0)),
            row(1, "old", "log-mel", "64x1x1", Some(60.0)),
        ];
        let summary = summarise(&rows, &[], Vec::new());
        assert_eq!(summary.platforms[0].workloads.len(), 1);
    }

    #[test]
    fn no_rows_make_an_empty_summary() {
        let summary = summarise(&[], &[], Vec::new());
        assert!(summary.platforms.is_empty() && summary.runs.is_empty());
    }
}
