//! The WebGPU page: runs the lab in the visitor's browser and shows what is stored, by browser and version.

use std::time::SystemTime;

use askama::Template;
use axum::extract::{Query, State as Extract};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use super::export::{self, Cell, Links, Table, Wanted};
use super::filters::{self, NONE, cell, ms};
use super::page::Page;
use super::{State, Unread, error, overview};
use crate::db::queries::LabRow;
use crate::ipld::cid;
use crate::webgpu::{self, Loads, Platform, Summary, WorkloadResult};

/// Runs in the list.
const RUNS: usize = 20;
const MAKE_MODEL: &str = "python3 tests/live/make_model.py ./model && tidegate add -r ./model";
const NATIVE: &str = "cargo run --release --features gpu -- gpu bench --submit";

#[derive(Template)]
#[template(path = "dashboard/webgpu.html")]
struct WebgpuPage {
    page: Page,
    view: View,
}

#[derive(Default)]
struct View {
    summary: String,
    problem: Option<String>,
    gateway: String,
    cid: String,
    make_model: &'static str,
    native: &'static str,
    platforms: Vec<PlatformView>,
    any_software: bool,
    runs: Vec<RunView>,
    export: Option<Links>,
}

struct PlatformView {
    anchor: String,
    name: String,
    adapter: String,
    software: bool,
    failure: Option<String>,
    /// There is more to show than the row of the table.
    measured: bool,
    meta: String,
    verdict: String,
    precompiled: String,
    on_demand: String,
    log_mel: String,
    attention: String,
    sequential: String,
    parallel: String,
    runs: usize,
    workloads: Vec<WorkloadView>,
    compile: Vec<CompileView>,
    cid: Option<String>,
    cid_short: String,
    loads: Vec<LoadView>,
}

struct WorkloadView {
    title: String,
    rows: Vec<VariantView>,
}

struct VariantView {
    workgroup: String,
    best: bool,
    median: String,
    p95: String,
    gpu: String,
    first: String,
    pipeline: String,
    error: String,
    width: Option<u32>,
    score: String,
    verified: bool,
}

struct CompileView {
    how: &'static str,
    pipelines: String,
    shader: String,
    pipeline: String,
    first: String,
    samples: String,
}

struct LoadView {
    how: String,
    best: bool,
    streams: i64,
    first: String,
    all: String,
    rate: String,
    gain: String,
    verified: bool,
}

struct RunView {
    id: i64,
    at_iso: String,
    ago: String,
    name: String,
    software: bool,
    took: String,
    status: String,
    tone: &'static str,
    error: String,
}

/// `?cid=` prefills the model; `?fault=` is read by the script.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    cid: String,
}

/// `GET /webgpu`
pub async fn page(Extract(state): Extract<State>, Query(asked): Query<Asked>, wanted: Wanted) -> Response {
    let now = SystemTime::now();
    if wanted.format.is_some() {
        return exported(&state, &wanted, now).await;
    }
    let read = match state.database() {
        Ok(db) => webgpu::load(db, now).await.map_err(Unread::from),
        Err(off) => Err(off),
    };
    let mut view = match &read {
        Ok(summary) => view(summary, now),
        Err(error) => View { problem: Some(overview::down(error, now)), ..View::default() },
    };
    if let Ok(asked) = cid::parse(asked.cid.trim()) {
        view.cid = asked.to_string();
    }
    view.summary = "How fast browsers compile shaders, compute for audio models and load model shards here.".to_owned();
    view.gateway = state.gateway.clone();
    view.export = Some(Links::new("/webgpu", "metrics", "Measurements"));
    (view.make_model, view.native) = (MAKE_MODEL, NATIVE);
    let status = if read.is_err() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let mut response = error::html(status, &WebgpuPage { page: Page::new("WebGPU", "/webgpu"), view });
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Only this page may ask the gateway; isolated, its clock has steps of 5 µs instead of 100.
    if let Ok(policy) = HeaderValue::from_str(&policy(&state.gateway)) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    let embedder = HeaderName::from_static("cross-origin-embedder-policy");
    headers.insert(embedder, HeaderValue::from_static("require-corp"));
    response
}

async fn exported(state: &State, wanted: &Wanted, now: SystemTime) -> Response {
    let read = match state.database() {
        Ok(db) => db.lab_rows(webgpu::window(now)).await.map_err(Unread::from),
        Err(off) => Err(off),
    };
    match read {
        Ok(rows) => export::answer(wanted, "webgpu", &[table(&rows)]),
        Err(unread) => export::unavailable(overview::down(&unread, now)),
    }
}

fn policy(gateway: &str) -> String {
    // A configured address is ours, but a header has no room for surprises.
    let plain = gateway.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b';' | b',' | b'\''));
    let gateway = if plain { gateway } else { "" };
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' {gateway}; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
}

const COLUMNS: &[&str] = &[
    "id",
    "test_id",
    "browser_name",
    "browser_version",
    "compute_shaders_enabled",
    "shader_precompilation_enabled",
    "parallel_loading_enabled",
    "shader_compile_time_ms",
    "first_inference_time_ms",
    "subsequent_inference_time_ms",
    "pipeline_creation_time_ms",
    "workgroup_size",
    "optimization_score",
    "test_timestamp",
    "workload",
    "variant",
    "origin",
    "os",
    "adapter_vendor",
    "adapter_architecture",
    "is_fallback_adapter",
    "is_simulated",
    "samples",
    "p95_ms",
    "gpu_time_ms",
    "timer_resolution_ms",
    "max_error",
    "verified",
    "load_sequential_ms",
    "load_parallel_ms",
    "load_bytes",
    "load_streams",
    "cid",
    "submission_id",
];

/// Every stored row of the window, columns named as in `webgpu_metrics`.
fn table(rows: &[LabRow]) -> Table {
    let cells = rows.iter().map(|row| {
        let value = serde_json::to_value(row).unwrap_or_default();
        COLUMNS.iter().map(|name| value.get(name).map_or(Cell::Null, exact)).collect()
    });
    Table::new("metrics", COLUMNS, cells.collect())
}

fn exact(value: &serde_json::Value) -> Cell {
    match value {
        serde_json::Value::Bool(value) => Cell::Bool(*value),
        serde_json::Value::String(text) => Cell::Text(text.clone()),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(n) => Cell::Int(n.into()),
            None => number.as_f64().map_or(Cell::Null, Cell::Real),
        },
        _ => Cell::Null,
    }
}

fn view(summary: &Summary, now: SystemTime) -> View {
    let platforms: Vec<PlatformView> =
        summary.platforms.iter().enumerate().map(|(at, p)| platform(at, p, now)).collect();
    let runs = summary.runs.iter().take(RUNS).map(|run| {
        let at = filters::from_us(run.timestamp_us);
        RunView {
            id: run.id,
            at_iso: filters::iso(at),
            ago: filters::ago(at, now),
            name: named(&run.browser_name, run.browser_version.as_deref()),
            software: run.is_simulated,
            took: cell(ms(run.duration_ms)),
            status: run.status.replace('-', " "),
            tone: if run.success { "ok" } else { "bad" },
            error: run.error.as_deref().map(|text| filters::tame(text, 400)).unwrap_or_default(),
        }
    });
    View {
        cid: summary.models.iter().find_map(|model| model.cid.clone()).unwrap_or_default(),
        any_software: platforms.iter().any(|platform| platform.software),
        platforms,
        runs: runs.collect(),
        ..View::default()
    }
}

fn named(name: &str, version: Option<&str>) -> String {
    filters::tame(&format!("{name} {}", version.unwrap_or_default()), 80).trim().to_owned()
}

/// Milliseconds with the digits that short GPU work needs.
fn fine(value: Option<f64>) -> String {
    match value.filter(|value| value.is_finite() && *value >= 0.0) {
        Some(0.0) => "0 ms".to_owned(),
        Some(value) if value < 0.1 => format!("{:.1} µs", value * 1e3),
        Some(value) if value < 9.95 => format!("{value:.2} ms"),
        other => cell(ms(other)),
    }
}

fn platform(at: usize, p: &Platform, now: SystemTime) -> PlatformView {
    let first = |row: &Option<LabRow>| row.as_ref().and_then(|row| row.first_inference_time_ms);
    let (precompiled, on_demand) = (first(&p.precompiled), first(&p.on_demand));
    let best = |name: &str| {
        let workload = p.workloads.iter().find(|workload| workload.workload == name)?;
        let shape = workload.best.as_deref()?;
        let median = workload.variants.iter().find(|variant| variant.workgroup == shape)?.median_ms;
        Some(format!("{} ({shape})", fine(median)))
    };
    let loads = p.loads.as_ref().map(load_views).unwrap_or_default();
    let warm = |streams: fn(i64) -> bool| {
        let passes = p.loads.as_ref()?.passes.iter();
        let fitting = passes.filter(|pass| pass.verified && pass.variant.ends_with("warm") && streams(pass.streams));
        fitting.filter_map(|pass| pass.all_ms).reduce(f64::min)
    };
    let told = [p.adapter_vendor.as_deref(), p.adapter_architecture.as_deref()];
    let adapter: Vec<&str> = told.into_iter().flatten().collect();
    let cid = p.loads.as_ref().and_then(|loads| loads.cid.clone());
    let origin = if p.origin == "native" { "without a browser (wgpu)" } else { "in the browser" };
    PlatformView {
        anchor: format!("platform-{at}"),
        name: named(&p.browser_name, p.browser_version.as_deref()),
        adapter: match adapter.is_empty() {
            true if p.compute_shaders_enabled == Some(true) => "not named".to_owned(),
            true => NONE.to_owned(),
            false => filters::tame(&adapter.join(" "), 60),
        },
        software: p.is_simulated,
        failure: p.failure.as_deref().map(|kind| kind.replace('-', " ")),
        measured: !p.workloads.is_empty() || !p.compile.is_empty() || !loads.is_empty(),
        meta: format!(
            "{origin}, {}, {}; clock steps of {}",
            p.os.as_deref().map_or_else(|| "system not told".to_owned(), |os| filters::tame(os, 60)),
            filters::ago(filters::from_us(p.latest_us), now),
            fine(p.timer_resolution_ms),
        ),
        verdict: verdict(p, precompiled, on_demand, warm(|n| n == 1), warm(|n| n > 1)),
        precompiled: fine(precompiled),
        on_demand: fine(on_demand),
        log_mel: best("log-mel").unwrap_or_else(|| NONE.to_owned()),
        attention: best("attention").unwrap_or_else(|| NONE.to_owned()),
        sequential: fine(warm(|n| n == 1)),
        parallel: fine(warm(|n| n > 1)),
        runs: p.runs,
        workloads: p.workloads.iter().map(workload).collect(),
        compile: p.compile.iter().map(compile).collect(),
        cid_short: cid.as_deref().map(filters::short).unwrap_or_default(),
        cid,
        loads,
    }
}

/// What the figures say, in words; only of what was measured.
fn verdict(
    p: &Platform,
    precompiled: Option<f64>,
    on_demand: Option<f64>,
    one: Option<f64>,
    many: Option<f64>,
) -> String {
    let mut parts = Vec::new();
    if let (Some(before), Some(demand)) = (precompiled, on_demand) {
        parts.push(match (before, demand) {
            (a, b) if a < b * 0.95 => format!(
                "Precompiled pipelines make the first inference {:.1} times as fast ({} instead of {}).",
                b / a.max(1e-6),
                fine(Some(a)),
                fine(Some(b))
            ),
            (a, b) => format!(
                "Precompiling does not help the first inference here ({} against {}): this browser seems to compile at the first dispatch.",
                fine(Some(a)),
                fine(Some(b))
            ),
        });
    }
    for workload in &p.workloads {
        let times: Vec<f64> = workload.variants.iter().filter(|v| v.verified).filter_map(|v| v.median_ms).collect();
        let (least, most) = (times.iter().copied().reduce(f64::min), times.iter().copied().reduce(f64::max));
        if let (Some(shape), Some(least), Some(most)) = (&workload.best, least, most) {
            let name = title(&workload.workload);
            parts.push(format!(
                "{name}: {shape} is the best shape, {:.1} times as fast as the worst.",
                most / least.max(1e-9)
            ));
        }
    }
    if let (Some(one), Some(many)) = (one, many) {
        parts.push(if many < one * 0.95 {
            format!("Loading shards in parallel is {:.1} times as fast as one at a time.", one / many.max(1e-6))
        } else {
            "Loading shards in parallel is no faster than one at a time here.".to_owned()
        });
    }
    parts.join(" ")
}

fn title(workload: &str) -> &'static str {
    match workload {
        "log-mel" => "Log-mel front end",
        "attention" => "Attention with softmax",
        _ => "Workload",
    }
}

fn tolerance(workload: &str) -> String {
    let known = webgpu::Workload::ALL.into_iter().find(|known| known.as_str() == workload);
    known.map_or_else(|| NONE.to_owned(), |known| format!("{:.0e}", known.tolerance()))
}

fn workload(result: &WorkloadResult) -> WorkloadView {
    let rows = result.variants.iter().map(|v| VariantView {
        best: result.best.as_deref() == Some(v.workgroup.as_str()),
        workgroup: v.workgroup.clone(),
        median: fine(v.median_ms),
        p95: fine(v.p95_ms),
        gpu: fine(v.gpu_ms),
        first: fine(v.first_ms),
        pipeline: fine(v.pipeline_ms),
        error: v.max_error.map_or_else(|| NONE.to_owned(), |error| format!("{error:.1e}")),
        width: v.score.map(|score| (score.clamp(0.0, 1.0) * 100.0).round() as u32),
        score: v.score.map_or_else(|| NONE.to_owned(), |score| format!("{score:.2}")),
        verified: v.verified,
    });
    WorkloadView {
        title: format!("{}, tolerance {}", title(&result.workload), tolerance(&result.workload)),
        rows: rows.collect(),
    }
}

fn compile(row: &LabRow) -> CompileView {
    let (mode, pipelines) = row.variant.as_deref().and_then(|text| text.rsplit_once('-')).unwrap_or_default();
    CompileView {
        how: match mode {
            "cold" => "new source",
            "cached" => "the same source again",
            "sequential" => "one after the other",
            "parallel" => "all at once",
            _ => "other",
        },
        pipelines: pipelines.to_owned(),
        shader: fine(row.shader_compile_time_ms),
        pipeline: fine(row.pipeline_creation_time_ms),
        first: fine(row.first_inference_time_ms),
        samples: row.samples.map_or_else(|| NONE.to_owned(), |n| n.to_string()),
    }
}

fn load_views(loads: &Loads) -> Vec<LoadView> {
    let usable = |pass: &webgpu::Pass| pass.verified && pass.variant.ends_with("warm");
    let best = loads.passes.iter().filter(|p| usable(p)).filter_map(|p| p.all_ms).reduce(f64::min);
    let views = loads.passes.iter().map(|pass| {
        let seconds = pass.all_ms.map(|ms| ms / 1e3).filter(|seconds| *seconds > 0.0);
        let gain = match (pass.sequential_ms, pass.all_ms) {
            (Some(one), Some(all)) if pass.streams > 1 && all > 0.0 => format!("{:.1} ×", one / all),
            _ => NONE.to_owned(),
        };
        LoadView {
            how: match pass.variant.as_str() {
                "files-first" => "whole files, first time".to_owned(),
                "files-warm" => "whole files".to_owned(),
                "ranges-warm" => "ranges".to_owned(),
                other => filters::tame(other, 40),
            },
            best: usable(pass) && pass.all_ms.is_some() && pass.all_ms == best,
            streams: pass.streams,
            first: fine(pass.first_shard_ms),
            all: fine(pass.all_ms),
            rate: cell(filters::rate(pass.bytes.zip(seconds).map(|(bytes, seconds)| bytes as f64 / seconds))),
            gain,
            verified: pass.verified,
        }
    });
    views.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_gateway_joins_the_policy_and_cannot_widen_it() {
        assert!(policy("http://127.0.0.1:8080").contains("connect-src 'self' http://127.0.0.1:8080;"));
        assert!(!policy("x; script-src *").contains("script-src *"));
    }

    #[test]
    fn short_times_keep_their_digits() {
        assert_eq!(fine(Some(0.0213)), "21.3 µs");
        assert_eq!(fine(Some(1.234)), "1.23 ms");
        assert_eq!(fine(Some(1_500.0)), "1.50 s");
        assert_eq!(fine(None), NONE);
    }
}
