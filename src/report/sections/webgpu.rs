//! The WebGPU lab: browsers, workloads, and the two optimisations.

use std::collections::BTreeMap;

use super::{COMPARED, Head, compared, median_of, method};
use crate::db::queries::WebGpuRow;
use crate::report::table::{Cell, Chart, Section, Table};
use crate::stats::{self, Pairing};

pub struct WebGpuData {
    pub rows: Vec<WebGpuRow>,
}

const EMPTY: &str =
    "No lab result in this window. Open the WebGPU page in a browser and run the lab, or run `tidegate gpu bench`.";

pub fn webgpu(data: &WebGpuData) -> Vec<Section> {
    vec![browsers(&data.rows), workloads(&data.rows), precompiled(&data.rows), parallel(&data.rows)]
}

/// What measured, in one text a part: browser, version, whether the adapter is software.
fn device(row: &WebGpuRow) -> (&str, &str, &str, bool) {
    (&row.browser_name, row.browser_version.as_deref().unwrap_or("unknown"), &row.origin, row.is_simulated)
}

/// Compiling gives nothing that could be compared with a reference, nor does a run that found no adapter.
fn has_output(row: &WebGpuRow) -> bool {
    !matches!(row.workload.as_str(), "compile" | "detect")
}

/// Columns and rows of the performance per browser and version: cross-platform tells the same.
pub fn by_browser(id: &'static str, rows: &[WebGpuRow]) -> Table {
    let head: [Head; 13] = [
        ("browser", "browser", ""),
        ("version", "version", ""),
        ("origin", "origin", ""),
        ("simulated", "software adapter", ""),
        ("rows", "results", ""),
        ("checkable", "results with an output", ""),
        ("verified", "verified", ""),
        ("compile_ms", "shader compile, median", "ms"),
        ("pipeline_ms", "pipeline, median", "ms"),
        ("first_ms", "first inference, median", "ms"),
        ("next_ms", "subsequent inference, median", "ms"),
        ("max_error", "greatest error", ""),
        ("last", "last result", ""),
    ];
    let mut groups: BTreeMap<_, Vec<&WebGpuRow>> = BTreeMap::new();
    rows.iter().for_each(|row| groups.entry(device(row)).or_default().push(row));
    let rows = groups.into_iter().map(|((browser, version, origin, simulated), rows)| {
        let errors: Vec<f64> = rows.iter().filter_map(|row| row.max_error).collect();
        vec![
            Cell::text(browser),
            Cell::text(version),
            Cell::text(origin),
            Cell::Bool(simulated),
            Cell::count(rows.len() as u64),
            Cell::count(rows.iter().filter(|row| has_output(row)).count() as u64),
            Cell::count(rows.iter().filter(|row| row.verified).count() as u64),
            Cell::number(median_of(&rows, |row| row.shader_compile_time_ms), 2),
            Cell::number(median_of(&rows, |row| row.pipeline_creation_time_ms), 2),
            Cell::number(median_of(&rows, |row| row.first_inference_time_ms), 2),
            Cell::number(median_of(&rows, |row| row.subsequent_inference_time_ms), 3),
            Cell::number(stats::quantile(&errors, 1.0), 7),
            Cell::Time(rows.iter().map(|row| row.test_timestamp).max().unwrap_or_default()),
        ]
    });
    Table::new(id, "Performance per browser and version", head, EMPTY).with(rows)
}

fn browsers(rows: &[WebGpuRow]) -> Section {
    let simulated = rows.iter().filter(|row| row.is_simulated).count();
    let section = Section::new("browsers", "Browsers", "Medians over all workloads that a browser ran.")
        .table(by_browser("browsers", rows))
        .figure(
            "Shader compile time by browser, median",
            "browsers",
            Chart::Bars { label: vec!["browser", "version", "origin"], value: "compile_ms" },
        );
    if simulated == 0 {
        return section;
    }
    section.note(format!(
        "{simulated} of {} results were measured on a software adapter: they show that it works, not how fast a GPU is.",
        rows.len()
    ))
}

fn workloads(rows: &[WebGpuRow]) -> Section {
    let head: [Head; 11] = [
        ("workload", "workload", ""),
        ("variant", "variant", ""),
        ("workgroup", "workgroup size", ""),
        ("browser", "browser", ""),
        ("version", "version", ""),
        ("simulated", "software adapter", ""),
        ("rows", "results", ""),
        ("next_ms", "subsequent inference, median", "ms"),
        ("p95_ms", "p95, median of runs", "ms"),
        ("gpu_ms", "GPU time, median", "ms"),
        ("score", "optimisation score, median", ""),
    ];
    let mut groups: BTreeMap<_, Vec<&WebGpuRow>> = BTreeMap::new();
    for row in rows {
        let (browser, version, _, simulated) = device(row);
        let variant = (row.workload.as_str(), row.variant.as_deref(), row.workgroup_size.as_deref());
        groups.entry((variant, browser, version, simulated)).or_default().push(row);
    }
    let rows = groups.into_iter().map(|(((workload, variant, workgroup), browser, version, simulated), rows)| {
        vec![
            Cell::text(workload),
            Cell::maybe_text(variant),
            Cell::maybe_text(workgroup),
            Cell::text(browser),
            Cell::text(version),
            Cell::Bool(simulated),
            Cell::count(rows.len() as u64),
            Cell::number(median_of(&rows, |row| row.subsequent_inference_time_ms), 3),
            Cell::number(median_of(&rows, |row| row.p95_ms), 3),
            Cell::number(median_of(&rows, |row| row.gpu_time_ms), 3),
            Cell::number(median_of(&rows, |row| row.optimization_score), 3),
        ]
    });
    Section::new(
        "workloads",
        "Workloads and variants",
        "The score is the fastest variant's time over this one's (1 = the fastest).",
    )
    .table(Table::new("workloads", "Time by workload, variant and workgroup size", head, EMPTY).with(rows))
    .figure(
        "Subsequent inference by variant, median",
        "workloads",
        Chart::Bars { label: vec!["workload", "workgroup", "browser"], value: "next_ms" },
    )
}

/// What is compared instead of standard and optimised.
fn renamed(slow: &'static str, fast: &'static str) -> Vec<Head> {
    let label = |key: &'static str, label: &'static str| match key {
        "standard_ms" => slow,
        "optimized_ms" => fast,
        _ => label,
    };
    COMPARED.iter().map(|(key, text, unit)| (*key, label(key, text), *unit)).collect()
}

fn precompiled(rows: &[WebGpuRow]) -> Section {
    let mut groups: BTreeMap<_, [Vec<f64>; 2]> = BTreeMap::new();
    // The other workloads are measured with their pipelines made before, always.
    for row in rows.iter().filter(|row| row.workload == "start") {
        let (Some(precompiled), Some(first)) = (row.shader_precompilation_enabled, row.first_inference_time_ms) else {
            continue;
        };
        let (browser, version, _, simulated) = device(row);
        let like = (browser, version, simulated, row.workload.as_str());
        groups.entry(like).or_default()[usize::from(precompiled)].push(first);
    }
    let first = [
        ("browser", "browser", ""),
        ("version", "version", ""),
        ("simulated", "software adapter", ""),
        ("workload", "workload", ""),
        ("n_on_demand", "n on demand", ""),
        ("n_precompiled", "n precompiled", ""),
    ];
    let head = [&first[..], &renamed("on demand, median", "precompiled, median")].concat();
    let rows = groups.into_iter().map(|((browser, version, simulated, workload), [demand, ready])| {
        let verdict = stats::compare(&demand, &ready, Pairing::Alike, stats::SEED);
        let mut cells = vec![
            Cell::text(browser),
            Cell::text(version),
            Cell::Bool(simulated),
            Cell::text(workload),
            Cell::count(demand.len() as u64),
            Cell::count(ready.len() as u64),
        ];
        cells.extend(compared(demand.len().min(ready.len()), verdict));
        cells
    });
    Section::new(
        "precompiled",
        "Shaders precompiled against on demand",
        method(
            "First inference of one workload in one browser; \"standard\" is on demand, \"optimised\" is precompiled.",
        ),
    )
    .table(Table::new("precompiled", "First inference time", head, EMPTY).with(rows))
}

fn parallel(rows: &[WebGpuRow]) -> Section {
    let mut groups: BTreeMap<_, [Vec<f64>; 2]> = BTreeMap::new();
    for row in rows {
        let (Some(one), Some(many)) = (row.load_sequential_ms, row.load_parallel_ms) else { continue };
        let (browser, version, _, simulated) = device(row);
        let sides = groups.entry((browser, version, simulated, row.load_streams, row.load_bytes)).or_default();
        sides[0].push(one);
        sides[1].push(many);
    }
    let first = [
        ("browser", "browser", ""),
        ("version", "version", ""),
        ("simulated", "software adapter", ""),
        ("streams", "streams", ""),
        ("bytes", "loaded", "bytes"),
    ];
    let head = [&first[..], &renamed("sequential, median", "parallel, median")].concat();
    let rows = groups.into_iter().map(|((browser, version, simulated, streams, bytes), [one, many])| {
        let mut cells = vec![
            Cell::text(browser),
            Cell::text(version),
            Cell::Bool(simulated),
            streams.map_or(Cell::None, Cell::count),
            bytes.map_or(Cell::None, Cell::count),
        ];
        cells.extend(compared(one.len(), stats::compare(&one, &many, Pairing::Same, stats::SEED)));
        cells
    });
    Section::new(
        "parallel",
        "Loading in parallel against one after the other",
        method("Both loads of one visit are a pair; \"standard\" is sequential, \"optimised\" is parallel."),
    )
    .table(Table::new("parallel", "Time to load a model's shards", head, EMPTY).with(rows))
}
